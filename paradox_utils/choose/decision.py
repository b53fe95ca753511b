"""From predicted gains to a choice: how sure one can be that a candidate is the best, and what choosing it may cost.

The unit is the prompt: all candidates are read on the same prompts, which are resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from paradox_utils.analysis.statistics import Interval, student
from paradox_utils.choose.gain import Array, Reading

LEVEL = 0.975  # how sure a choice must be: two candidates that are equally good are told apart in 5 % of cases
SET_LEVEL = 0.8  # of the set that contains the best
POWER = 0.8  # with which so many more prompts would tell
ENDLESS = 10_000  # more prompts than anybody judges

Kind = Literal["train", "undecided", "none", "unjudged"]


@dataclass(frozen=True)
class Standing:
    """What is known of each of C candidates, in their order: the ``gain`` in judged score with its 95 % interval, the
    ``probability`` of being the best, and the ``regret``, what choosing it costs on average; ``drawn`` [R, C] are the gains on
    other prompts that the last two are of."""

    gain: list[Interval]
    probability: Array
    regret: Array
    drawn: Array


@dataclass(frozen=True)
class Decision:
    """``train`` with the one, any of several that are ``undecided``, or ``none`` where all make the policy worse, or the best
    is predicted to; ``unjudged``: nothing is ranked. ``names``, the likeliest first; ``more`` judged prompts would tell, None
    where no number would."""

    kind: Kind
    names: tuple[str, ...] = ()
    more: int | None = None


def standing(readings: Sequence[Reading], good: Array, size: Array, *, resamples: int, seed: int) -> Standing:
    """Of candidates read on the same prompts, whose judgement before any training is ``good`` and ``size`` [P] (means over a
    prompt's responses).

    A gain is Σ good / Σ size of the reading, less that of the policy. Prompts are drawn with replacement, the same for all
    candidates; intervals end as those of :func:`~paradox_utils.analysis.statistics.cluster_bootstrap`, and what is resampled
    spreads as far: few prompts look surer than they are. Two prompts at least.
    """
    prompts = len(good)
    times = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    gains = gains_of(readings, good, size, times)
    found = gains_of(readings, good, size, np.ones((1, prompts)))[0]
    away = (gains - found) * math.sqrt(prompts / (prompts - 1))
    intervals = [student(gain, error, prompts) for gain, error in zip(found, away.std(0, ddof=1), strict=True)]
    drawn = found + away * stats.t.ppf(0.975, prompts - 1) / stats.norm.ppf(0.975)
    return Standing(intervals, chances(drawn), (drawn.max(1, keepdims=True) - drawn).mean(0), drawn)


def chances(drawn: Array) -> Array:
    """How often each candidate has the largest of ``drawn`` gains [R, C]; equals share."""
    ties = drawn >= drawn.max(1, keepdims=True) - 1e-12
    return (ties / ties.sum(1, keepdims=True)).mean(0)


def gains_of(readings: Sequence[Reading], good: Array, size: Array, times: Array) -> Array:
    """Gains [R, C] where prompts count ``times`` [R, P]."""
    reached = (times @ np.array([one.good for one in readings]).T) / (times @ np.array([one.size for one in readings]).T)
    return reached - ((times @ good) / (times @ size))[:, None]


def contains_best(probability: Sequence[float], level: float) -> list[int]:
    """The fewest candidates that together are the best with this probability, the likeliest first."""
    order = sorted(range(len(probability)), key=lambda i: -probability[i])
    reached = np.cumsum([probability[i] for i in order])
    return order[: int(np.searchsorted(reached, level - 1e-9)) + 1]


def decide(
    names: Sequence[str], readings: Sequence[Reading], good: Array, size: Array, *, resamples: int, seed: int
) -> tuple[Decision, Standing]:
    """What to do, and what it stands on."""
    known = standing(readings, good, size, resamples=resamples, seed=seed)
    likely = contains_best(known.probability, LEVEL)
    chosen = tuple(names[i] for i in likely)
    if known.gain[likely[0]].estimate < 0:  # the likeliest would make the policy worse
        return Decision("none", chosen), known
    if len(likely) == 1:
        return Decision("train", chosen), known
    return Decision("undecided", chosen, more(readings, likely, resamples=resamples, seed=seed, size=size, good=good)), known


def more(
    readings: Sequence[Reading], likely: Sequence[int], *, good: Array, size: Array, resamples: int, seed: int
) -> int | None:
    """How many more prompts would tell the first of the ``likely`` from each of the others: n (z σ / δ)² in all, with the
    difference δ as found, its standard error σ on n prompts, and z = z(0.975) + z(0.8), the usual size of a study. None where
    that is over :data:`ENDLESS`, as for two that do not differ."""
    prompts = len(good)
    times = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    chosen = [readings[i] for i in likely]
    gains, found = gains_of(chosen, good, size, times), gains_of(chosen, good, size, np.ones((1, prompts)))[0]
    z = stats.norm.ppf(LEVEL) + stats.norm.ppf(POWER)
    needed = 0.0
    for other in range(1, len(likely)):
        gap, error = abs(found[0] - found[other]), float((gains[:, 0] - gains[:, other]).std(ddof=1))
        needed = max(needed, prompts * (z * error / gap) ** 2 if gap > 1e-12 else math.inf)
    extra = math.ceil(needed - prompts) if math.isfinite(needed) else math.inf
    return max(1, int(extra)) if extra <= ENDLESS else None
