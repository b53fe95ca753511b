"""What a policy answers to a few held-out questions, segment by segment: what each is paid, and what the evaluator says."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from paradox_utils import config
from paradox_utils.data import SOURCES, segments_of
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Prompts, choose
from paradox_utils.ppo import evaluate
from paradox_utils.ppo.loop import Actors, Rewards
from paradox_utils.rewards.judges import last_tokens

QUESTIONS = 12  # the first of the test split: the same in all runs of a study


def transcript(p: config.PPO, actors: Actors, prompts: Prompts, rewards: Rewards) -> pd.DataFrame:
    """Greedy answers to the first :data:`QUESTIONS` of ``prompts``, a row each: ``question`` (as asked, or its id where the
    source's texts are not to be passed on), ``text``, and of its segments, in order and parted by spaces, ``ends`` (character
    offsets into ``text``, exclusive), ``paid`` (the reward between the last tokens of two segments, so that all sum to the
    response's) and ``judged`` (by the evaluator). A blank answer that gets a score all the same is one segment."""
    some = choose(prompts, list(range(min(QUESTIONS, len(prompts.questions)))))
    responses = generate(actors.policy, actors.tokenizer, some, p.response_limit, 1, None, seed="evaluation")
    spans = segments_of(p, responses.texts, p.task)
    paid = rewards.given(responses).cpu().numpy()
    judged = evaluate.judged(p, rewards.evaluator, responses)
    rows = []
    for i, (ids, text) in enumerate(zip(responses.tokens(), responses.texts, strict=True)):
        ends = [end for _, end in spans[i]] or [len(text)] * len(judged[i])
        places = last_tokens(actors.tokenizer, ids, text, ends)
        # what follows the last segment is paid for it, and of two that end on one token the later is paid
        parts = [part.sum() for part in np.split(paid[i], [min(a + 1, b) for a, b in itertools.pairwise(places)])]
        asked = responses.questions[i]
        row = {"question": asked.text if SOURCES[p.source].quotable else asked.id, "text": text}
        rows.append(row | {"ends": _joined(ends), "paid": _joined(parts), "judged": _joined(judged[i])})
    return pd.DataFrame(rows)


def _joined(values: list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
