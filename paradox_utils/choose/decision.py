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
# Deviation of its own that each training is allowed, in parts of the judgement's scale: what sets of 80 % needed to hold in the
# back-test, 0.040 to 0.053 (`spread` in results/recorded/choose-backtest/judged.csv).
SPREAD = 0.05
ROUNDING = 1e-12  # gains that differ by no more are equal

Kind = Literal["train", "undecided", "no gain", "none", "unjudged"]


@dataclass(frozen=True)
class Standing:
    """What is known of each of C candidates, in their order: the ``gain`` in judged score with its 95 % interval for other
    prompts, which are ``drawn`` [R, C]; the ``probability`` of being the best, and the ``regret``, what choosing it costs on
    average, when a training ends a deviation away from them."""

    gain: list[Interval]
    probability: Array
    regret: Array
    drawn: Array


@dataclass(frozen=True)
class Decision:
    """``train`` with the one, or any of several that are ``undecided``; ``no gain`` where the largest predicted gain is not
    above zero, and ``none`` where its interval is below; ``unjudged``: nothing is ranked. ``names``, the likeliest first, or
    the one of the largest gain where that is none. So many ``more`` judged prompts would tell, None where no number would;
    ``by_training`` alone: prompts would but for the training's own deviation."""

    kind: Kind
    names: tuple[str, ...] = ()
    more: int | None = None
    by_training: bool = False


def standing(
    readings: Sequence[Reading], good: Array, size: Array, *, resamples: int, seed: int, spread: float = 0.0
) -> Standing:
    """Of candidates read on the same prompts, whose judgement before any training is ``good`` and ``size`` [P] (means over a
    prompt's responses). ``spread``: the deviation, of each on its own, of what training reaches from what is predicted.

    A gain is Σ good / Σ size of the reading, less that of the policy. Prompts are drawn with replacement, the same for all
    candidates; intervals end as those of :func:`~paradox_utils.analysis.statistics.cluster_bootstrap`, and what is resampled
    spreads as far: few prompts look surer than they are. Two prompts at least.
    """
    prompts = len(good)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    gains = gains_of(readings, good, size, times)
    found = gains_of(readings, good, size, np.ones((1, prompts)))[0]
    away = (gains - found) * math.sqrt(prompts / (prompts - 1))
    intervals = [student(gain, error, prompts) for gain, error in zip(found, away.std(0, ddof=1), strict=True)]
    drawn = found + away * stats.t.ppf(0.975, prompts - 1) / stats.norm.ppf(0.975)
    reached = drawn + spread * rng.standard_normal(drawn.shape)
    return Standing(intervals, chances(reached), (reached.max(1, keepdims=True) - reached).mean(0), drawn)


def chances(drawn: Array) -> Array:
    """How often each candidate has the largest of ``drawn`` gains [R, C]; equals share."""
    ties = drawn >= drawn.max(1, keepdims=True) - ROUNDING
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
    names: Sequence[str], readings: Sequence[Reading], good: Array, size: Array, *, resamples: int, seed: int, spread: float
) -> tuple[Decision, Standing]:
    """What to do, and what it stands on; arguments as of :func:`standing`."""
    known = standing(readings, good, size, resamples=resamples, seed=seed, spread=spread)
    best = max(range(len(names)), key=lambda i: known.gain[i].estimate)
    if known.gain[best].estimate <= ROUNDING:
        return Decision("none" if known.gain[best].high < 0 else "no gain", (names[best],)), known
    likely = contains_best(known.probability, LEVEL)
    chosen = tuple(names[i] for i in likely)
    if len(likely) == 1:
        return Decision("train", chosen), known
    wanted, without = (
        more(readings, likely, resamples=resamples, seed=seed, size=size, good=good, spread=own) for own in (spread, 0.0)
    )
    return Decision("undecided", chosen, wanted, by_training=wanted is None and without is not None), known


def more(
    readings: Sequence[Reading],
    likely: Sequence[int],
    *,
    good: Array,
    size: Array,
    resamples: int,
    seed: int,
    spread: float = 0.0,
) -> int | None:
    """How many more prompts would tell the first of the ``likely`` from each of the others, with the difference δ as found and
    its standard error σ on n prompts: n (σ / s)² in all, for the error s of :func:`least_error`. None where that is over
    :data:`ENDLESS`, as for two that do not differ, or differ less than training itself deviates."""
    prompts = len(good)
    times = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    chosen = [readings[i] for i in likely]
    gains, found = gains_of(chosen, good, size, times), gains_of(chosen, good, size, np.ones((1, prompts)))[0]
    needed = 0.0
    for other in range(1, len(likely)):
        gap, error = abs(found[0] - found[other]), float((gains[:, 0] - gains[:, other]).std(ddof=1))
        least = least_error(gap, spread)
        needed = max(needed, prompts * (error / least) ** 2 if least > 1e-12 else math.inf)
    extra = math.ceil(needed - prompts) if math.isfinite(needed) else math.inf
    return max(1, int(extra)) if extra <= ENDLESS else None


def least_error(gap: float, spread: float) -> float:
    """The standard error s that tells two whose predicted gains differ by ``gap``, with the usual power of a study: the level's
    z₁ deviations √(s² + 2 spread²) are below the gap less z₂ s in 80 % of sets of prompts. Without a spread it is
    gap / (z₁ + z₂); 0 where the spread alone hides the gap."""
    level, power = stats.norm.ppf(LEVEL), stats.norm.ppf(POWER)
    beyond = gap**2 - 2 * (level * spread) ** 2
    if beyond <= 0:
        return 0.0
    wide = level**2 - power**2  # of wide s² + 2 power gap s − beyond = 0 the solution above zero
    return float((math.sqrt((power * gap) ** 2 + wide * beyond) - power * gap) / wide)
