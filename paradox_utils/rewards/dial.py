"""Judges that are set, not learned: the oracle with errors of a known number, kind and side, and how rewards are centred.

The dial takes the exact label of each segment and flips it by a keyed hash; for pairwise tasks it adds keyed noise to the exact
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from paradox_utils import config, data
from paradox_utils.data.records import DataError, Feedback, Judge, Offsets, Question, unit_interval
from paradox_utils.data.tasks import GOOD, TASKS
from paradox_utils.rewards.examples import training_examples

QUANTILES = 4000  # of skewed noise, by which its differences are averaged


@dataclass(frozen=True)
class Centre:
    """What a judge's values are measured by: a pairwise score loses the mean, and all are divided by the deviation."""

    mean: float = 0.0
    std: float = 1.0


def exact_centre(task: config.TaskName, feedback: dict[str, list[Feedback]]) -> Centre:
    """How the oracle's values are centred."""
    if not TASKS[task].pairwise:
        return Centre()
    scores = np.array([record.clean_scores for record in feedback["train"]])
    return Centre(float(scores.mean()), float(scores.std()))


def dial_of(p: config.PPO, feedback: dict[str, list[Feedback]]) -> tuple[Judge, Centre]:
    """The dial that ``p`` asks for, and how its values are centred (from training feedback). ``scale_matched`` undoes what its
    errors do to the reward's scale: flips with probabilities f and g of the two labels shrink the difference between them by
    1 − f − g, which is 2 accuracy − 1 without bias; noise widens it.

    With ``dial_bias`` b the errors are as many, but not evenly spread. 1: only good segments are called errors; −1: only errors
    are called good; 0: either with the same probability; in between a part of the way. Noise on a score then has a longer tail
    on one side: below for b > 0.
    """
    if not TASKS[p.task].pairwise:
        good, bad = _more_flips(p, feedback)
        slope = 2 * p.dial_accuracy - 1 - (1 - p.dial_accuracy) * (good + bad)
        return dial_judge(p, 0.0, good, bad), Centre(0.0, slope if p.scale_matched else 1.0)
    scores, exact = np.array([record.clean_scores for record in feedback["train"]]), exact_centre(p.task, feedback)
    upper = np.triu_indices(scores.shape[1], 1)
    noise = dial_noise(p.dial_accuracy, (scores[:, upper[0]] - scores[:, upper[1]]).ravel(), p.dial_bias)
    mean, std = (noise * part for part in _moments(p.dial_bias))
    return dial_judge(p, noise), Centre(exact.mean + mean, exact.std if p.scale_matched else float(np.hypot(exact.std, std)))


def _more_flips(p: config.PPO, feedback: dict[str, list[Feedback]]) -> tuple[float, float]:
    """How much likelier than 1 − accuracy good and bad segments are flipped, relative to it (0 without bias).

    Of a share π of good segments, flips of the two with probabilities f and g make π f + (1 − π) g = 1 − accuracy errors.
    """
    b, name = p.dial_bias, p.task
    if b == 0:
        return 0.0, 0.0
    examples = training_examples(p, feedback["train"], name)
    share = float(np.mean([label == GOOD for example in examples for label in example.clean if label is not None]))
    good, bad = (b * (1 - share) / share, -b) if b > 0 else (b, -b * share / (1 - share))
    if (most := (1 - p.dial_accuracy) * (1 + max(good, bad))) > 1:
        raise DataError(
            f"dial_bias = {b}: with dial_accuracy = {p.dial_accuracy} more segments of {name} would be wrong than there are of "
            f"one kind ({most:.0%} of them); raise the accuracy, or choose a bias nearer 0"
        )
    return good, bad


def dial_judge(p: config.PPO, noise: float, more_good: float = 0.0, more_bad: float = 0.0) -> Judge:
    """A judge whose accuracy is set, not learned: exact labels, flipped by a keyed hash with probability 1 − accuracy, times
    1 + ``more_good`` or ``more_bad`` by the label; for pairwise tasks the exact score plus keyed noise of scale ``noise``."""
    exact = data.oracle_of(p, p.task)

    def uniform(question: Question, text: str) -> float:
        key = f"{p.dial_seed}\0{text}" + (f"\0{question.prompt}" if p.dial_kind == "noise" else "")
        return unit_interval(key) + 2**-65  # never 0, whose quantile is −∞

    def kept(value: float) -> float:
        return p.dial_accuracy - (1 - p.dial_accuracy) * (more_good if value > 0 else more_bad)

    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        values = []
        for question, text, spans, truth in zip(questions, texts, offsets, exact(questions, texts, offsets), strict=True):
            if TASKS[p.task].pairwise:
                values.append([truth[0] + noise * float(_skewed(ndtri(uniform(question, text)), p.dial_bias))])
            else:
                pairs = zip(truth, spans, strict=True)
                values.append([v if uniform(question, text[a:b]) < kept(v) else -v for v, (a, b) in pairs])
        return values

    return judge


def _skewed(z: np.ndarray | float, bias: float) -> np.ndarray:
    """A normal deviate whose negative part is 1 + ``bias`` times as large and whose positive one 1 − ``bias`` times."""
    return np.where(np.asarray(z) < 0, 1 + bias, 1 - bias) * z


def _moments(bias: float) -> tuple[float, float]:
    """Mean and standard deviation of :func:`_skewed`: −b √(2/π), and of E[x²] = 1 + b²."""
    mean = -bias * np.sqrt(2 / np.pi)
    return float(mean), float(np.sqrt(1 + bias**2 - mean**2))


def dial_noise(accuracy: float, differences: np.ndarray, bias: float = 0.0) -> float:
    """Scale of the noise that orders pairs with these true score ``differences`` right with probability ``accuracy``, averaged
    over the pairs, with independent noise on both: Φ(|Δ| / (σ√2)) where it is normal, for skewed noise its quantiles' mean."""
    gaps = np.abs(differences[differences != 0])
    if accuracy >= 1:
        return 0.0
    if accuracy <= 0.5 or not len(gaps):
        raise DataError(f"dial_accuracy = {accuracy} for completeness: needs more than 0.5, and pairs whose scores differ")
    tails = np.sort(_skewed(ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES), bias))

    def right(scale: float) -> float:
        if bias == 0:
            return float(ndtr(gaps / (scale * np.sqrt(2))).mean())
        sizes, counts = np.unique(gaps, return_counts=True)
        smaller = [np.searchsorted(tails, tails + size / scale).mean() for size in sizes]
        return float(np.average(smaller, weights=counts)) / QUANTILES

    if (least := right(np.exp(15.0))) >= accuracy:  # half of noise with one tail is 0, which orders some pairs right
        raise DataError(f"dial_accuracy = {accuracy} for completeness: with dial_bias = {bias} needs more than {least:.3f}")
    return float(np.exp(brentq(lambda log_scale: right(np.exp(log_scale)) - accuracy, -15.0, 15.0)))
