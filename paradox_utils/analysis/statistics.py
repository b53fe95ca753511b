"""Intervals and tests for few, clustered runs: each formula with its source.

The unit of inference is the reward-model trajectory (``rm_seed``): its checkpoints share data, initialization and batches, and
the PPO runs against one of them share the reward model, so runs of one trajectory are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

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


def student(estimate: float, error: float, units: int, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Student's 95 % interval, estimate ± t(units − 1) · error, cut at ``bounds``; NaN for a single unit."""
    half = float(stats.t.ppf(0.975, units - 1)) * error if units > 1 else float("nan")
    return Interval(float(estimate), float(max(estimate - half, bounds[0])), float(min(estimate + half, bounds[1])), units)


def p_positive(estimate: float, error: float, units: int) -> float:
    """One-sided p-value of Student's test of estimate ≤ 0, with t(units − 1); 1 where estimate or error is unknown (NaN).

    An estimate without error decides for certain (p 0 or 1), and p is 1 where it is 0.
    """
    if not np.isfinite([estimate, error]).all():
        return 1.0
    return float(stats.t.sf(estimate / error, units - 1)) if error > 0 else float(estimate <= 0)


def mean_interval(values: ArrayLike) -> Interval:
    """Student's interval x̄ ± t(n−1) s / √n of the mean of n cluster means: :func:`cluster_bootstrap` with endless resamples."""
    return student(*_mean(values))


def p_greater(values: ArrayLike, bound: float) -> float:
    """One-sided p-value of Student's test that the mean of ``values`` is at most ``bound``, see :func:`p_positive`."""
    mean, error, n = _mean(values)
    return p_positive(mean - bound, error, n)


def _mean(values: ArrayLike) -> tuple[float, float, int]:
    """Mean of independent values, its standard error s / √n (NaN for n < 2), and n."""
    x = np.asarray(values, dtype=float)
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan"), x.size


def jackknife(estimate: Callable[[NDArray[np.bool_]], Array], clusters: ArrayLike) -> tuple[Array, Array]:
    """``estimate(kept)`` (P,) of all rows, and its covariance (P, P) from leaving out a cluster at a time; ``kept`` is (N,).

    (n − 1)/n · Σ (β without cluster g − β)², "CV3" in MacKinnon, Nielsen & Webb 2023 (*Journal of Econometrics* 232:272–299).
    The usual cluster-robust errors (CV1, those of statsmodels) are too small for few clusters.
    """
    labels = np.asarray(clusters)
    names, found = np.unique(labels), estimate(np.ones(labels.shape, dtype=bool))
    spread = np.array([estimate(labels != name) for name in names]) - found
    return found, spread.T @ spread * (names.size - 1) / names.size


def cluster_bootstrap(
    columns: Sequence[ArrayLike],
    clusters: ArrayLike,
    statistic: Callable[..., Array],
    *,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of a statistic of ``columns`` of shape (N,), by resampling whole clusters (labels of shape (N,)).

    ``statistic(counts, *columns)`` (B,) is of B samples at once; ``counts`` (B, N) says how often each has each row.

    What lies below a cluster travels with it (Davison & Hinkley 1997, *Bootstrap Methods and their Application*, section 3.8).
    For n clusters the interval is estimate ± t(n−1) · √(n/(n−1)) · SE (Hesterberg 2015, *The American Statistician*
    69:371–386), cut at ``bounds``. Resamples in which the statistic is undefined are left out.
    """
    data, labels = [np.asarray(column, dtype=float) for column in columns], np.asarray(clusters)
    (estimate,) = statistic(np.ones((1, labels.size)), *data)
    names, places = np.unique(labels, return_inverse=True)
    replicates = statistic(_drawn(names.size, resamples, np.random.default_rng(seed))[:, places], *data)
    return _student_bootstrap(float(estimate), replicates, names.size, bounds)


def two_way_bootstrap(
    scores: ArrayLike, clusters: ArrayLike, *, weights: ArrayLike, resamples: int, seed: int, bounds: tuple[float, float]
) -> Interval:
    """Interval of the mean over runs for new trajectories *and* new questions, both resampled.

    ``scores`` (N runs, Q questions): one score a question, the same questions for every run; a run's mean weighs them by
    ``weights`` (N, Q): sub-sentences a question, for a pooled share. ``clusters`` (N,) are the trajectories. ValueError for
    values that are not finite or do not match, and for weights below 0 or all 0 in a run.

    Clusters and questions are drawn independently, with replacement, and crossed: the "pigeonhole" bootstrap (Owen 2007,
    *Annals of Applied Statistics* 1:386–411), which errs on the safe side: noise particular to a run and question counts up to
    three times. The interval ends as in :func:`cluster_bootstrap`, with t(clusters − 1).
    """
    s, w, labels = np.asarray(scores, dtype=float), np.asarray(weights, dtype=float), np.asarray(clusters)
    if s.ndim != 2 or s.size == 0 or w.shape != s.shape or labels.shape != s.shape[:1]:
        raise ValueError(f"scores of shape {s.shape}: need runs × questions, weights alike, and a cluster a run")
    if not (np.isfinite(s).all() and np.isfinite(w).all() and (w >= 0).all() and w.any(axis=1).all()):
        raise ValueError("scores and weights must be finite, and weights not negative, with one above 0 in each run")
    random, questions = np.random.default_rng(seed), s.shape[1]
    times = random.multinomial(questions, np.full(questions, 1 / questions), size=resamples)  # how often each is drawn
    names, places = np.unique(labels, return_inverse=True)
    runs = _drawn(names.size, resamples, random)[:, places]
    with np.errstate(invalid="ignore"):  # a run all of whose drawn questions weigh nothing has no mean
        means = (times @ (w * s).T) / (times @ w.T)  # (resamples, N)
        replicates = np.where(runs > 0, runs * means, 0.0).sum(axis=1) / runs.sum(axis=1)
    estimate = float(((w * s).sum(axis=1) / w.sum(axis=1)).mean())
    return _student_bootstrap(estimate, replicates, names.size, bounds)


def _drawn(n: int, resamples: int, random: np.random.Generator) -> Array:
    """How often each of n clusters (resamples, n) is among n drawn with replacement."""
    draws = random.integers(n, size=(resamples, n))
    cells = draws + n * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _student_bootstrap(estimate: float, replicates: Array, n: int, bounds: tuple[float, float]) -> Interval:
    """estimate ± t(n−1) · √(n/(n−1)) · SD of the defined ``replicates``, cut at ``bounds``; NaN for one cluster, where the
    estimate is undefined, and with fewer than 2 replicates."""
    values = replicates[np.isfinite(replicates)] if n > 1 and np.isfinite(estimate) else np.empty(0)
    error = np.sqrt(n / (n - 1)) * values.std(ddof=1) if values.size > 1 else float("nan")
    return student(estimate, error, n, bounds)


def pearson(counts: Array, x: Array, y: Array) -> Array:
    """Pearson's correlation (B,) of B samples that have each pair so often (``counts``, (B, N)); ``x``, ``y``: (N,), or a row a
    sample. NaN for fewer than 3 pairs or where one side is constant."""
    n = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (value - (counts * value).sum(axis=1, keepdims=True) / n for value in (x, y))
        found = (counts * a * b).sum(axis=1) / np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    vary = _varies(counts, x) & _varies(counts, y)
    return np.where((n[:, 0] >= 3) & vary, np.clip(found, -1.0, 1.0), np.nan)


def _varies(counts: Array, value: Array) -> NDArray[np.bool_]:
    """Of each sample, whether it has two different values."""
    high, low = np.where(counts > 0, value, -np.inf), np.where(counts > 0, value, np.inf)
    return high.max(axis=1, initial=-np.inf) > low.min(axis=1, initial=np.inf)


def ranked(counts: Array, x: Array, y: Array) -> Array:
    """Spearman's ρ (B,) of such samples: :func:`pearson` of average ranks."""
    ranks = (counts @ ((value[:, None] < value) + 0.5 * (value[:, None] == value)) for value in (x, y))
    return pearson(counts, *ranks)


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of pairs (N,)."""
    return _whole(pearson, x, y)


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's ρ of pairs (N,)."""
    return _whole(ranked, x, y)


def _whole(statistic: Callable[..., Array], x: ArrayLike, y: ArrayLike) -> float:
    return float(statistic(np.ones((1, np.size(x))), np.asarray(x, dtype=float), np.asarray(y, dtype=float))[0])


def spearman(x: ArrayLike, y: ArrayLike, clusters: ArrayLike, *, resamples: int, seed: int) -> Interval:
    """Spearman's ρ of pairs with a cluster-bootstrap interval."""
    return cluster_bootstrap([x, y], clusters, ranked, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))


def p_rank_correlation(x: ArrayLike, y: ArrayLike, clusters: ArrayLike) -> float:
    """Exact one-sided p of Spearman's ρ of pairs (N,): of all ways to permute ``x`` within clusters, as if nothing tied it to
    ``y`` there, the share whose ρ is at least as large. For few a cluster: n of them have n! ways."""
    # permuting leaves means and spreads, so ρ grows with Σ rank(x) rank(y), a sum of one independent part a cluster;
    # doubled, ranks are whole numbers
    a, b = (np.rint(2 * stats.rankdata(values)).astype(int) for values in (x, y))
    labels, sums, chances = np.asarray(clusters), np.zeros(1, dtype=int), np.ones(1)
    for label in np.unique(labels):
        own = labels == label
        parts, ways = np.unique(np.array(list(permutations(a[own]))) @ b[own], return_counts=True)
        sums, places = np.unique(np.add.outer(sums, parts), return_inverse=True)
        chances = np.bincount(places.ravel(), np.multiply.outer(chances, ways / ways.sum()).ravel())
    return float(min(1.0, chances[sums >= a @ b].sum()))


def cross_fitted_regret(contrasts: ArrayLike, *, margin: float, selecting: ArrayLike | None = None) -> Regret:
    """Regret ρ = max over k of δ_k from ``contrasts`` (n trajectories, K ranks), n ≥ 2.

    ``contrasts[r, k]`` is the LM performance with trajectory r's (k+1)-th most accurate reward model minus that with its most
    accurate one (so column 0 is zero); δ_k is its mean over all trajectories there could be. ρ ≥ 0 because δ_0 = 0.

    *Estimate and lower end*: for each trajectory, the best rank by the mean of all **other** trajectories is paid on this one
    (selection and payment on different data); Student's interval of the n payments. ``selecting`` (the same shape): contrasts
    on other questions, to select by; None: the same. Selecting costs, so what is paid falls short of ρ on average and its lower
    end is a lower bound of ρ. ``p_above`` belongs to it. Payments share selection data, so its one-sided error is near the
    nominal 2.5 %, not at it: up to 5.4 % in simulated studies of 10 trajectories where all ranks are equally good.

    *Upper end*: ρ is one of the δ_k, so the largest upper end of all δ_k covers it without a correction for their number
    (intersection–union principle: Berger & Hsu 1996, *Statistical Science* 11:283–319). ``p_below`` is their largest p-value.
    """
    paid, columns = payments(contrasts, selecting), np.asarray(contrasts, dtype=float).T
    interval = mean_interval(paid)
    high = max(interval.estimate, *(mean_interval(column).high for column in columns))
    p_below = max(p_greater(-column, -margin) for column in columns)
    return Regret(replace(interval, high=high), p_greater(paid, margin), p_below)


def stratified_regret(groups: Sequence[tuple[ArrayLike, ArrayLike]]) -> Interval:
    """Regret with a rank of its own for each group (task): ``groups`` are contrasts and selecting contrasts, as arguments of
    :func:`cross_fitted_regret`, of each; its value and lower end are those of all payments, its upper end is the largest upper
    end of the mean difference over all combinations of ranks, one a group (union principle, as there).

    Groups keep their sizes in new studies, so a mean's variance is that within groups, with Welch–Satterthwaite's degrees of
    freedom (Welch 1947, *Biometrika* 34:28–35); for a single group all is as in :func:`cross_fitted_regret`.
    """
    paid = _stratified([payments(contrasts, selecting) for contrasts, selecting in groups])
    ranks = product(*(np.asarray(contrasts, dtype=float).T for contrasts, _ in groups))
    return replace(paid, high=max(paid.estimate, *(_stratified(chosen).high for chosen in ranks)))


def _stratified(groups: Sequence[Array]) -> Interval:
    """Student's interval of the mean over the units of all groups, each of which is at least two of one kind."""
    n = sum(group.size for group in groups)
    variances = np.array([group.size * group.var(ddof=1) for group in groups]) / n**2
    total, left = variances.sum(), np.array([group.size - 1 for group in groups])
    freedom = float(total**2 / (variances**2 / left).sum()) if total > 0 else float(left.sum())
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(total))
    mean = float(np.concatenate(groups).mean())
    return Interval(mean, mean - half, mean + half, n)


def payments(contrasts: ArrayLike, selecting: ArrayLike | None = None) -> Array:
    """What each trajectory pays for the rank that the others select: arguments and selection as in
    :func:`cross_fitted_regret`; (n,). ValueError where they do not match."""
    d = np.asarray(contrasts, dtype=float)
    if d.ndim != 2 or d.shape[0] < 2 or not np.isfinite(d).all() or d[:, 0].any():
        raise ValueError(f"contrasts of shape {d.shape}: need at least 2 rows, finite values, and zeros in column 0")
    s = d if selecting is None else np.asarray(selecting, dtype=float)
    if s.shape != d.shape or not np.isfinite(s).all():
        raise ValueError(f"selecting of shape {s.shape}: need finite values in the shape of the contrasts, {d.shape}")
    n = len(d)
    others = (s.sum(axis=0) - s) / (n - 1)
    return d[np.arange(n), others.argmax(axis=1)]


def two_sided(p_above: float, p_below: float) -> float:
    """The two-sided p of a test from those of its two sides."""
    return min(1.0, 2 * min(p_above, p_below))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down procedure (Holm 1979); an empty list stays empty."""
    # statsmodels' multipletests gives the same numbers and collects garbage at each call: a third of a verdict's time
    values = np.asarray(p_values, float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
