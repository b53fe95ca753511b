"""Rewards on segments: who judges them, and on which policy token each reward lands.

A judge maps questions, responses and their segments to one value a segment: in [−1, 1] for relevance and factuality (its
sign is the label), the raw score for completeness (one segment, the whole answer).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from paradox_utils import config, data
from paradox_utils.data.oracle import oracle_judge
from paradox_utils.data.records import DataError, Feedback, Judge, Offsets, Question
from paradox_utils.data.segments import segment
from paradox_utils.data.tasks import ERROR_LABEL, LABELS
from paradox_utils.policies.prompts import Responses, decode
from paradox_utils.rewards.examples import reward_context, training_examples
from paradox_utils.rewards.measures import ROUNDING, pair_metrics, segment_metrics
from paradox_utils.rewards.model import NonFiniteScoresError, RewardScorer

RewardFunction = Callable[[Responses], Tensor]
REWARD_SIZE = {"relevance": 0.3, "factuality": 0.5, "completeness": 0.3}  # Chen et al.'s released configs


@dataclass(frozen=True)
class Centre:
    """Mean and standard deviation of a completeness judge's scores on training responses."""

    mean: float = 0.0
    std: float = 1.0


# --- judges -------------------------------------------------------------------------------------------------------------------


def model_judge(scorer: RewardScorer, p: config.PPO) -> Judge:
    """A reward model: arg-max label as ±1, or P(good) − P(error), over the task's two classes. A segment that the model could
    not read (over its input limit) gets 0."""

    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        contexts = [reward_context(p, question, p.task) for question in questions]
        if p.task == "completeness":
            return [[score] for score in scorer.scores(contexts, texts).tolist()]
        pieces = [[text[a:b] for a, b in spans] for text, spans in zip(texts, offsets, strict=True)]
        good, bad = LABELS.index("O"), LABELS.index(ERROR_LABEL[p.task])
        values = []
        for logits in scorer.segment_logits(contexts, pieces):
            margin = logits[:, good] - logits[:, bad] if len(logits) else logits.flatten()
            # P(good) − P(error) of two classes is tanh of half their logit difference
            value = torch.where(margin > 0, 1.0, -1.0) if p.reward_form == "arg-max" else torch.tanh(margin / 2)
            values.append(torch.where(margin.isnan(), 0.0, value).tolist())
        return values

    return judge


def dial_judge(p: config.PPO, noise: float) -> Judge:
    """A judge whose accuracy is set, not learned: exact labels, flipped by a keyed hash with probability 1 − accuracy; for
    completeness the exact score plus keyed Gaussian noise of standard deviation ``noise``."""
    exact = oracle_judge(p.task)

    def uniform(question: Question, text: str) -> float:
        key = f"{p.dial_seed}\0{text}" + (f"\0{question.prompt}" if p.dial_kind == "noise" else "")
        return (int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") + 0.5) / 2**64

    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        values = []
        for question, text, spans, truth in zip(questions, texts, offsets, exact(questions, texts, offsets), strict=True):
            if p.task == "completeness":
                values.append([truth[0] + noise * float(ndtri(uniform(question, text)))])
            else:
                keep = [uniform(question, text[a:b]) < p.dial_accuracy for a, b in spans]
                values.append([value if kept else -value for value, kept in zip(truth, keep, strict=True)])
        return values

    return judge


def dial_noise(accuracy: float, differences: np.ndarray) -> float:
    """Standard deviation of the noise that orders pairs with these true score ``differences`` right with probability
    ``accuracy``: with independent noise on both, P(right) = Φ(|Δ| / (σ√2)), averaged over the pairs."""
    gaps = np.abs(differences[differences != 0])
    if accuracy >= 1:
        return 0.0
    if accuracy <= 0.5 or not len(gaps):
        raise DataError(f"dial_accuracy = {accuracy} for completeness: needs more than 0.5, and pairs whose scores differ")

    def miss(log_sigma: float) -> float:
        return float(ndtr(gaps / (np.exp(log_sigma) * np.sqrt(2))).mean()) - accuracy

    return float(np.exp(brentq(miss, -15.0, 15.0)))


def dial_of(p: config.PPO, feedback: dict[str, list[Feedback]]) -> tuple[Judge, Centre]:
    """The dial that ``p`` asks for, and how its completeness scores are centred (from training feedback)."""
    if p.task != "completeness":
        return dial_judge(p, 0.0), Centre()
    scores = np.array([record.clean_scores for record in feedback["train"]])
    upper = np.triu_indices(scores.shape[1], 1)
    noise = dial_noise(p.dial_accuracy, (scores[:, upper[0]] - scores[:, upper[1]]).ravel())
    spread = float(scores.std()) if p.scale_matched else float(np.hypot(scores.std(), noise))
    return dial_judge(p, noise), Centre(float(scores.mean()), spread)


def control_of(p: config.PPO, feedback: dict[str, list[Feedback]]) -> tuple[RewardFunction, dict]:
    """A reward that knows nothing of the truth, on the last token, and its metrics: the same for every response, or its number
    of words, centred and scaled on training responses. A control that neither labels segments nor orders pairs has no metrics.
    """
    words = [len(text.split()) for record in feedback["train"] for text in record.responses]
    centre, size = Centre(float(np.mean(words)), float(np.std(words))), p.reward_size or REWARD_SIZE[p.task]
    if p.reward == "length" and not centre.std:
        raise DataError(f"length: every training response has {words[0]} words, so there is no scale; use reward=constant")

    def rewards(responses: Responses) -> Tensor:
        values = [1.0 if p.reward == "constant" else (len(t.split()) - centre.mean) / centre.std for t in responses.texts]
        grid = torch.zeros(responses.ids.shape)
        grid[torch.arange(len(values)), responses.mask.sum(1).cpu() - 1] = size * torch.tensor(values)
        return grid.to(responses.ids.device)

    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        if p.task == "completeness":
            return [[1.0 if p.reward == "constant" else float(len(text.split()))] for text in texts]
        return [[1.0] * len(spans) for spans in offsets]

    labels = p.reward == "constant" or p.task == "completeness"
    return rewards, measure_judge(judge, p, feedback["heldout"]) if labels else {}


def spread_of(judge: Judge, p: config.PPO, records: Sequence[Feedback], most: int = 100) -> float:
    """Standard deviation of the summed (or mean) segment values of whole responses, over the feedback of some questions."""
    texts = [text for record in records[:most] for text in record.responses]
    questions = [record.question for record in records[:most] for _ in record.responses]
    totals = [
        sum(v) / (max(1, len(v)) if p.reward_pooling == "mean" else 1) for v in judge(questions, texts, _offsets(texts, p))
    ]
    if (spread := float(np.std(totals))) <= ROUNDING * float(np.abs(totals).max()):
        raise DataError("normalise_reward: the reward model values all responses alike; leave it unset, or name another model")
    return spread


def exact_centre(task: config.TaskName, feedback: dict[str, list[Feedback]]) -> Centre:
    """How the oracle's completeness scores are centred."""
    if task != "completeness":
        return Centre()
    scores = np.array([record.clean_scores for record in feedback["train"]])
    return Centre(float(scores.mean()), float(scores.std()))


def measure_judge(judge: Judge, p: config.PPO, records: Sequence[Feedback]) -> dict:
    """The metrics a reward model's checkpoint carries, for any judge, on held-out feedback."""
    if p.task == "completeness":
        questions = [record.question for record in records]
        count = len(records[0].responses)
        scores = [judge(questions, texts := [r.responses[i] for r in records], _offsets(texts, p)) for i in range(count)]
        margins, clean = [], []
        for index, record in enumerate(records):
            pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
            for (i, j), choice in zip(pairs, record.preference, strict=True):
                if choice:
                    first, second = (i, j) if choice == 1 else (j, i)
                    margins.append(scores[first][index][0] - scores[second][index][0])
                    gap = record.clean_scores[first] - record.clean_scores[second]
                    clean.append(None if gap == 0 else gap > 0)
        if not margins:
            raise DataError("completeness: no two held-out responses differ; give more feedback, or of a better policy")
        return pair_metrics(np.array(margins), clean)
    # a response without a segment to measure on gives no example
    measured = [(record, example) for record in records for example in training_examples(p, [record], p.task)]
    examples, texts = [example for _, example in measured], [record.responses[0] for record, _ in measured]
    values = np.concatenate(judge([record.question for record, _ in measured], texts, _offsets(texts, p)))
    good, bad = LABELS.index("O"), LABELS.index(ERROR_LABEL[p.task])
    predicted = np.eye(len(LABELS))[np.where(values > 0, good, bad)]
    noisy = [label for example in examples for label in example.labels]
    return segment_metrics(predicted, noisy, [label for example in examples for label in example.clean], bad)


def _offsets(texts: Sequence[str], p: config.PPO) -> list[Offsets]:
    return [segment(text, p.task, data.splitter_of(p)) for text in texts]


# --- rewards ------------------------------------------------------------------------------------------------------------------


def reward_function(tokenizer: PreTrainedTokenizerFast, judge: Judge, centre: Centre, p: config.PPO) -> RewardFunction:
    """Responses to rewards [B, T]: each segment's reward on its last text token, completeness on the last token.

    All are divided by the deviation of ``centre``. ``reward_pooling = "mean"`` divides by the number of segments; a
    scale-matched dial divides by 2 accuracy − 1. All rewards are NaN where the judge's scores are not finite: PPO ends at that.
    """
    size = p.reward_size or REWARD_SIZE[p.task]
    places_of = functools.lru_cache(maxsize=4096)(functools.partial(last_tokens, tokenizer))  # responses come back
    shrinkage = 2 * p.dial_accuracy - 1 if p.reward == "dial" and p.scale_matched and p.task != "completeness" else 1.0

    def rewards(responses: Responses) -> Tensor:
        offsets = _offsets(responses.texts, p)
        try:
            values = judge(responses.questions, responses.texts, offsets)
        except NonFiniteScoresError:
            return torch.full(responses.ids.shape, torch.nan, device=responses.ids.device)
        grid = torch.zeros(responses.ids.shape)
        for row, (ids, text) in enumerate(zip(responses.tokens(), responses.texts, strict=True)):
            if p.task == "completeness":
                raw = values[row][0]
                grid[row, len(ids) - 1] = size * (raw - centre.mean) / centre.std
                continue
            places = places_of(tuple(ids), text, tuple(end for _, end in offsets[row]))
            share = len(places) if p.reward_pooling == "mean" else 1
            for place, value in zip(places, values[row], strict=True):
                grid[row, place] += size * value / (share * shrinkage * centre.std)
        return grid.to(responses.ids.device)

    return rewards


def last_tokens(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], text: str, ends: Sequence[int]) -> list[int]:
    """The token that completes each segment: the first after which the decoded prefix reaches the segment's end (exclusive
    character offset into ``text``, which is what ``ids`` decode to).

    Prefixes are decoded rather than the text tokenised again: a sampled response need not be spelt the way the tokenizer would
    spell it. A character whose bytes are spread over several tokens counts from the last of them. A longer prefix may decode to
    less of the text (a byte-fallback decoder drops a whole run of bytes until its last character is complete), so the furthest
    reach so far counts.
    """

    def reach(prefix: str) -> int:
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prefix, text, strict=False))
        return len(prefix) if text.startswith(prefix) else sum(1 for _ in same)

    prefixes = decode(tokenizer, [ids[:count] for count in range(1, len(ids) + 1)])
    reached = list(itertools.accumulate(map(reach, prefixes), max))
    return [min(bisect_left(reached, end), len(ids) - 1) for end in ends]
