"""The stage ``feedback``: what notebook 01 calls.

Where a source has an oracle, responses sampled from the supervised policy are judged by an annotator who errs at a stated rate.
"""

from __future__ import annotations

import random
from pathlib import Path

from paradox_utils import config, data
from paradox_utils.data.records import Feedback, write_feedback
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import device_of, load_policy
from paradox_utils.policies.prompts import encode_prompts, prompt_room

BATCH = 64  # prompts a generation pass


def collect_feedback(p: config.FeedbackParameters, folder: Path) -> dict[str, list[Feedback]]:
    """Stage ``feedback``: judged responses by use; where people judged none they are sampled, and left in
    ``folder/feedback.jsonl``."""
    if data.SOURCES[p.source].annotate:
        write_feedback(folder / "feedback.jsonl", collect(p))
    return data.load_feedback(p, folder / "feedback.jsonl")


def collect(p: config.FeedbackParameters) -> list[Feedback]:
    """``p.prompts`` records: four sampled responses a question, spans on the first, preferences among all.

    Questions are drawn apart from those of training, validation and test.
    """
    model, tokenizer = load_policy(p.policy)
    model.to(device_of(p.device))
    rng = random.Random(f"annotator {p.seed}")
    origin, asked = data.SOURCES[p.source], data.load_splits(p)
    questions = origin.more(p, "feedback", p.prompts, (*asked.train, *asked.validation, *asked.test))
    records = []
    for start in range(0, len(questions), BATCH):
        prompts = encode_prompts(model, tokenizer, questions[start : start + BATCH], prompt_room(model, tokenizer, p))
        sampled = generate(
            model, tokenizer, prompts, p.response_limit, p.responses_per_prompt, p.temperature, seed=f"feedback {p.seed}"
        )
        for index, question in enumerate(prompts.questions):
            texts = tuple(sampled.texts[index * p.responses_per_prompt :][: p.responses_per_prompt])
            records.append(origin.annotate(question, texts, p.annotator_noise, rng))
    return records
