"""Intervals and tests for few, clustered runs: each formula with its source.

The unit of inference is the reward-model trajectory (``rm_seed``): its checkpoints share data, initialization and batches, and
the PPO runs against one of them share the reward model, so runs of one trajectory are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval; ``low`` and ``high`` are NaN where ``units`` (independent units) are too few."""

    estimate: float
    low: float
    high: float
    units: int


@dataclass(frozen=True)
class Regret:
    """Regret of choosing the most accurate reward model, from :func:`cross_fitted_regret`.

    ``p_above`` tests regret ≤ margin (small: it is larger), ``p_below`` tests regret ≥ margin (small: it is smaller).
    """

    interval: Interval
    p_above: float
    p_below: float


def standard_error(values: ArrayLike) -> float:
    """Standard error s / √n of the mean of n independent ``values``; NaN for n < 2."""
    x = np.asarray(values, dtype=float)
    return float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan")


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval x̄ ± t(n−1) s / √n of the mean of n cluster means.

    This is where :func:`cluster_bootstrap` of a mean ends for endless resamples, so nothing is resampled. Student's quantile,
    not the bootstrap's percentiles, because clusters are few: the percentiles of 3 values cannot leave their range, which
    covers the mean in 1 − 2 · (1/2)³ = 75 % of cases (symmetric errors).
    """
    x = np.asarray(values, dtype=float)
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1)) * standard_error(x) if x.size > 1 else float("nan")
    mean = float(x.mean())
    return Interval(mean, mean - half, mean + half, x.size)


def p_greater(values: ArrayLike, bound: float) -> float:
    """One-sided p-value of Student's test that the mean of ``values`` is at most ``bound``; 1 for fewer than two values.

    Values without spread decide for certain (p 0 or 1), and p is 1 where they equal the bound.
    """
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return 1.0
    distance, error = float(x.mean()) - bound, standard_error(x)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, x.size - 1))


def cluster_bootstrap(
    columns: Sequence[ArrayLike],
    clusters: ArrayLike,
    statistic: Callable[..., float],
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of ``statistic(*columns)``, columns of shape (N,), by resampling whole clusters (labels of shape (N,)).

    What lies below a cluster travels with it: resampling that again would count its noise twice (Davison & Hinkley 1997,
    *Bootstrap Methods and their Application*, section 3.8). With n clusters the bootstrap's standard error is too small by
    √((n−1)/n) and the normal quantile too short, so the interval is estimate ± t(n−1) · √(n/(n−1)) · SE (Hesterberg 2015,
    *The American Statistician* 69:371–386), cut at ``bounds``. Resamples in which the statistic is undefined are left out.
    """
    data = [np.asarray(column, dtype=float) for column in columns]
    labels = np.asarray(clusters)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    n, estimate = len(members), float(statistic(*data))
    if n < 2 or not np.isfinite(estimate):
        return Interval(estimate, float("nan"), float("nan"), n)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    rows = (np.concatenate([members[i] for i in draw]) for draw in drawn)
    replicates = np.array([statistic(*(column[index] for column in data)) for index in rows])
    replicates = replicates[np.isfinite(replicates)]
    if replicates.size < 2:
        return Interval(estimate, float("nan"), float("nan"), n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(n / (n - 1)) * replicates.std(ddof=1))
    return Interval(estimate, max(estimate - half, bounds[0]), min(estimate + half, bounds[1]), n)


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's ρ: Pearson's correlation of average ranks; NaN for fewer than 3 pairs or where one side is constant."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Spearman's ρ of pairs with a cluster-bootstrap interval; without ``clusters`` each pair is its own."""
    labels = np.arange(np.size(x)) if clusters is None else clusters
    return cluster_bootstrap([x, y], labels, rank_correlation, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))


def regret(accuracy: ArrayLike, performance: ArrayLike) -> float:
    """max performance − performance at the highest accuracy, over reward models (shape (K,)); of equal accuracies, the first.

    Never negative, and a maximum of noisy values: positive on average even where all reward models are equally good. It
    describes; :func:`cross_fitted_regret` tests.
    """
    y = np.asarray(performance, dtype=float)
    return float(y.max() - y[int(np.argmax(accuracy))])


def cross_fitted_regret(contrasts: ArrayLike, *, margin: float, confidence: float = 0.95) -> Regret:
    """Regret ρ = max over k of δ_k from ``contrasts`` (n trajectories, K ranks), n ≥ 2.

    ``contrasts[r, k]`` is the LM performance with trajectory r's (k+1)-th most accurate reward model minus that with its most
    accurate one (so column 0 is zero); δ_k is its mean over all trajectories there could be. ρ ≥ 0 because δ_0 = 0.

    *Estimate and lower end*: for each trajectory, the best rank by the mean of all **other** trajectories is paid on this one
    (selection and payment on different data); Student's interval of the n payments. Selecting costs, so what is paid falls
    short of ρ on average and its lower end is a lower bound of ρ. ``p_above`` belongs to it. The payments share
    selection data, so its one-sided error is not exactly the nominal 2.5 %: 20,000 simulated studies of 6 ranks gave 2.3 to
    2.7 % where one rank is best, and, where all are equally good, 3.8 % for n = 3, 4.4 % for 5 and 5.4 % for 10.

    *Upper end*: ρ is one of the δ_k, so the largest upper end of all δ_k covers it without a correction for their number
    (intersection–union principle: Berger & Hsu 1996, *Statistical Science* 11:283–319). ``p_below`` is their largest p-value.
    """
    d = np.asarray(contrasts, dtype=float)
    if d.ndim != 2 or d.shape[0] < 2 or not np.isfinite(d).all() or d[:, 0].any():
        raise ValueError(f"contrasts of shape {d.shape}: need at least 2 rows, finite values, and zeros in column 0")
    n = len(d)
    others = (d.sum(axis=0) - d) / (n - 1)
    payments = d[np.arange(n), others.argmax(axis=1)]
    paid = mean_interval(payments, confidence)
    ends = [mean_interval(column, confidence).high for column in d.T]
    p_below = max(p_greater(-column, -margin) for column in d.T)
    return Regret(Interval(paid.estimate, paid.low, max(*ends, paid.estimate), n), p_greater(payments, margin), p_below)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down procedure (Holm 1979); an empty list stays empty."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]
