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
class Components:
    """Variances of one run's performance, from :func:`variance_components`; unbiased, so one may come out below 0.

    ``rm``: between RM seeds; ``ppo``: between PPO seeds, whatever the RM; ``residual``: all else, of which ``prompts`` is what
    the finite number of prompts adds (NaN without scores a question).
    """

    rm: float
    ppo: float
    residual: float
    prompts: float


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
    return _student_bootstrap(estimate, replicates, n, confidence, bounds)


def two_way_bootstrap(
    scores: ArrayLike,
    clusters: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    columns: Sequence[ArrayLike] = (),
    *,
    weights: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of ``statistic(means, *columns)`` for new trajectories *and* new questions, both resampled.

    ``scores`` (N runs, Q questions): one score a question, the same questions for every run, finite; ``means`` (N,) are the
    runs' means over questions. With ``weights`` (N, Q), not negative, they are weighted: sub-sentences a question, for a pooled
    share. ``columns`` (each (N,)), such as accuracies, and ``clusters`` (N,), the trajectories, belong to runs.

    Clusters and questions are drawn independently, with replacement, and crossed: the "pigeonhole" bootstrap (Owen 2007,
    *Annals of Applied Statistics* 1:386–411; Owen & Eckles 2012, ibid. 6:895–927). No bootstrap of a crossed layout is exact;
    this one errs on the safe side, as noise particular to a run and question counts up to three times. The interval ends as in
    :func:`cluster_bootstrap`, with t(clusters − 1), which is too wide where questions, not trajectories, make the noise.

    Nominal 95 % intervals covered in 99.2 to 100 % of 600 simulated studies (5 trajectories × 6 runs × 200 questions), of the
    mean and of a difference between ranks, whichever noise prevailed. Resampling trajectories alone covered the mean in only
    34 to 95 %, but the difference in 94 to 97 %: it loses the questions' difficulty, which all runs share, so there
    :func:`cluster_bootstrap` is the sharper choice.
    """
    s, labels, data = np.asarray(scores, dtype=float), np.asarray(clusters), [np.asarray(column) for column in columns]
    w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=float)
    if s.ndim != 2 or s.size == 0 or w.shape != s.shape or any(column.shape != s.shape[:1] for column in (labels, *data)):
        raise ValueError(f"scores of shape {s.shape}: need runs × questions, weights alike, clusters and columns one a run")
    if not (np.isfinite(s).all() and np.isfinite(w).all() and (w >= 0).all() and w.any(axis=1).all()):
        raise ValueError("scores and weights must be finite, and weights not negative, with one above 0 in each run")
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    n, estimate = len(members), float(statistic((w * s).sum(axis=1) / w.sum(axis=1), *data))
    if n < 2 or not np.isfinite(estimate):
        return Interval(estimate, float("nan"), float("nan"), n)
    random, questions = np.random.default_rng(seed), s.shape[1]
    times = random.multinomial(questions, np.full(questions, 1 / questions), size=resamples)  # how often each is drawn
    with np.errstate(invalid="ignore"):  # a run all of whose drawn questions weigh nothing has no mean
        means = (times @ (w * s).T) / (times @ w.T)  # (resamples, N)
    rows = [np.concatenate([members[i] for i in draw]) for draw in random.integers(n, size=(resamples, n))]
    replicates = [statistic(mean[index], *(column[index] for column in data)) for mean, index in zip(means, rows, strict=True)]
    return _student_bootstrap(estimate, np.array(replicates, dtype=float), n, confidence, bounds)


def _student_bootstrap(estimate: float, replicates: Array, n: int, confidence: float, bounds: tuple[float, float]) -> Interval:
    """estimate ± t(n−1) · √(n/(n−1)) · SD of the defined ``replicates``, cut at ``bounds``; NaN with fewer than 2 of them."""
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


def multiple_correlation(predictors: ArrayLike, y: ArrayLike) -> float:
    """Multiple correlation R of y (N,) with ``predictors`` (N, P): the correlation of y with its least-squares fit.

    Predictors are standardised, which changes no R but keeps differently scaled ones apart from rounding. R grows with P
    alone: on pure noise, R² is P / (N − 1) on average. NaN for fewer than P + 2 rows and where y is constant; a constant
    predictor explains nothing. ValueError for values that are not finite or do not match.
    """
    X, b = np.asarray(predictors, dtype=float), np.asarray(y, dtype=float)
    if X.ndim != 2 or b.shape != X.shape[:1] or not (np.isfinite(X).all() and np.isfinite(b).all()):
        raise ValueError(f"predictors of shape {X.shape} and y of shape {b.shape}: need finite (N, P) and (N,)")
    if len(b) < X.shape[1] + 2 or np.ptp(b) == 0:
        return float("nan")
    spread = X.std(axis=0)
    z = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    centred = b - b.mean()
    fitted = z @ np.linalg.lstsq(z, centred, rcond=None)[0]
    return float(np.sqrt(min(fitted @ fitted / (centred @ centred), 1.0)))


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


def cross_fitted_regret(
    contrasts: ArrayLike, *, margin: float, selecting: ArrayLike | None = None, confidence: float = 0.95
) -> Regret:
    """Regret ρ = max over k of δ_k from ``contrasts`` (n trajectories, K ranks), n ≥ 2.

    ``contrasts[r, k]`` is the LM performance with trajectory r's (k+1)-th most accurate reward model minus that with its most
    accurate one (so column 0 is zero); δ_k is its mean over all trajectories there could be. ρ ≥ 0 because δ_0 = 0.

    *Estimate and lower end*: for each trajectory, the best rank by the mean of all **other** trajectories is paid on this one
    (selection and payment on different data); Student's interval of the n payments. ``selecting`` (the same shape): contrasts
    on other questions, to select by; None: the same. Selecting costs, so what is paid falls
    short of ρ on average and its lower end is a lower bound of ρ. ``p_above`` belongs to it. The payments share
    selection data, so its one-sided error is not exactly the nominal 2.5 %: 20,000 simulated studies of 6 ranks gave 2.3 to
    2.7 % where one rank is best, and, where all are equally good, 3.8 % for n = 3, 4.4 % for 5 and 5.4 % for 10.

    *Upper end*: ρ is one of the δ_k, so the largest upper end of all δ_k covers it without a correction for their number
    (intersection–union principle: Berger & Hsu 1996, *Statistical Science* 11:283–319). ``p_below`` is their largest p-value.
    """
    payments, d = _payments(contrasts, selecting)
    paid = mean_interval(payments, confidence)
    ends = [mean_interval(column, confidence).high for column in d.T]
    p_below = max(p_greater(-column, -margin) for column in d.T)
    interval = Interval(paid.estimate, paid.low, max(*ends, paid.estimate), len(d))
    return Regret(interval, p_greater(payments, margin), p_below)


def payments(contrasts: ArrayLike, selecting: ArrayLike | None = None) -> Array:
    """What each trajectory pays for the rank that the others select: arguments and selection as in
    :func:`cross_fitted_regret`; (n,)."""
    return _payments(contrasts, selecting)[0]


def _payments(contrasts: ArrayLike, selecting: ArrayLike | None) -> tuple[Array, Array]:
    d = np.asarray(contrasts, dtype=float)
    if d.ndim != 2 or d.shape[0] < 2 or not np.isfinite(d).all() or d[:, 0].any():
        raise ValueError(f"contrasts of shape {d.shape}: need at least 2 rows, finite values, and zeros in column 0")
    s = d if selecting is None else np.asarray(selecting, dtype=float)
    if s.shape != d.shape or not np.isfinite(s).all():
        raise ValueError(f"selecting of shape {s.shape}: need finite values in the shape of the contrasts, {d.shape}")
    n = len(d)
    others = (s.sum(axis=0) - s) / (n - 1)
    return d[np.arange(n), others.argmax(axis=1)], d


def verdict_rates(
    truth: ArrayLike,
    deviation: float,
    trajectories: int,
    margin: float,
    *,
    alpha: float = 0.025,
    studies: int = 4000,
    seed: int = 0,
) -> dict[str, float]:
    """How often :func:`cross_fitted_regret` calls a regret larger or smaller than ``margin``, one-sided at ``alpha``: in
    simulated studies, shares ``supported`` and ``not supported``.

    ``truth`` (K,), or (trajectories, K): LM performance by rank, the most accurate first. Every run adds independent normal
    noise of standard ``deviation`` (of reward-model seed, PPO seed and the rest together; what ranks of a trajectory share
    would only help).
    """
    means = np.asarray(truth, dtype=float)
    noise = np.random.default_rng(seed).normal(0, deviation, (studies, trajectories, means.shape[-1]))
    d = means + noise
    d = d - d[..., :1]
    others = d.sum(axis=1, keepdims=True) - d
    payments = np.take_along_axis(d, others.argmax(axis=2)[..., None], axis=2)[..., 0]
    quantile = float(stats.t.ppf(1 - alpha, trajectories - 1))

    def bound(values: Array, sign: int) -> Array:
        spread = values.std(axis=1, ddof=1) / np.sqrt(trajectories)
        return values.mean(axis=1) + sign * quantile * spread

    above = bound(payments, -1) > margin
    below = (bound(d, +1) < margin).all(axis=1)
    return {"supported": float(above.mean()), "not supported": float((below & ~above).mean())}


def two_sided(p_above: float, p_below: float) -> float:
    """The two-sided p of a test from those of its two sides."""
    return min(1.0, 2 * min(p_above, p_below))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down procedure (Holm 1979); an empty list stays empty."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def variance_components(performance: ArrayLike, scores: ArrayLike | None = None) -> Components:
    """Variance components of a crossed pilot: ``performance`` (S RM seeds, P PPO seeds), each seed at least twice, finite.

    Mean squares of the two-way random-effects layout with one run a cell (Searle, Casella & McCulloch 1992, *Variance
    Components*, chapter 4): E[MS_rm] = residual + P · rm, E[MS_ppo] = residual + S · ppo, E[MS_rest] = residual. One run a cell
    cannot tell an interaction of the seeds from the noise of a run. ``rm`` and ``ppo`` hold their own share of prompt noise.

    ``scores`` (S, P, Q), the same Q prompts in every run, tell what more prompts would save: the prompts' share of the residual
    is the mean square of what is left of the scores after all two-way means, divided by Q.
    """
    y = np.asarray(performance, dtype=float)
    if y.ndim != 2 or min(y.shape) < 2 or not np.isfinite(y).all():
        raise ValueError(f"performance of shape {y.shape}: need at least 2 RM seeds × 2 PPO seeds, every value finite")
    S, P = y.shape
    residual = float((_doubly_centred(y) ** 2).sum() / ((S - 1) * (P - 1)))
    rm = float(y.mean(axis=1).var(ddof=1) - residual / P)
    ppo = float(y.mean(axis=0).var(ddof=1) - residual / S)
    if scores is None:
        return Components(rm, ppo, residual, float("nan"))
    s = np.asarray(scores, dtype=float)
    if s.ndim != 3 or s.shape[:2] != y.shape or s.shape[2] < 2 or not np.isfinite(s).all():
        raise ValueError(
            f"scores of shape {s.shape}: need {S} RM seeds × {P} PPO seeds × at least 2 prompts, every value finite"
        )
    left = _doubly_centred(s - s.mean(axis=2, keepdims=True))
    Q = s.shape[2]
    return Components(rm, ppo, residual, float((left**2).sum() / ((S - 1) * (P - 1) * (Q - 1)) / Q))


def _doubly_centred(values: Array) -> Array:
    """Values (S, P, …) minus row and column means over the first two axes, plus the grand mean."""
    return values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean(axis=(0, 1))


def design_variance(components: Components, rm_seeds: int, ppo_seeds: int, nested: bool) -> float:
    """Variance of the mean over ``rm_seeds`` · ``ppo_seeds`` runs; components below 0 count as 0.

    Crossed (every RM seed with the same PPO seeds): rm / S + ppo / P + residual / (S P). Nested (every RM seed with
    ``ppo_seeds`` PPO seeds of its own): rm / S + (ppo + residual) / (S P), never more. Noise that all runs share, such as that
    of the prompts themselves, adds the same to both and is not counted. For the mean of a difference between two reward
    models, take the components of that difference.
    """
    if rm_seeds < 1 or ppo_seeds < 1:
        raise ValueError(f"{rm_seeds} RM seeds and {ppo_seeds} PPO seeds: a design needs at least one of each")
    rm, ppo, residual = (max(value, 0.0) for value in (components.rm, components.ppo, components.residual))
    runs = rm_seeds * ppo_seeds
    return rm / rm_seeds + ppo / (runs if nested else ppo_seeds) + residual / runs
