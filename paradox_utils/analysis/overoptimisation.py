"""How far optimisation against a reward model goes before the true score falls: the fits of Gao, Schulman & Hilton 2023.

"Scaling laws for reward model overoptimization" (arXiv 2210.10760): with d = √KL(policy ‖ initial policy), KL in nats, the gain
of the true score over the initial policy is R(d) = d (α − β log d) for reinforcement learning and d (α − β d) for best-of-n.
Both are linear in (α, β), and R(0) = 0, so there is no intercept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from paradox_utils.analysis import statistics
from paradox_utils.analysis.inverted_u import fieller
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.tables import BEST_OF_N, accuracy_kind, count, usable

Array = NDArray[np.float64]
Form = Literal["rl", "best-of-n"]

WINDOW = 5  # updates that a point of a path averages
SINGULAR = 1e-12  # a resample whose normal equations have a smaller determinant, scaled to 1, does not tell α from β


@dataclass(frozen=True)
class Fit:
    """R(d) of one ``form``; ``alpha``, ``beta`` and ``height`` in units of the gain (α and β per √nat).

    ``peak`` is the d of the maximum and ``height`` the fitted gain there: NaN where the curve has no maximum at d > 0 (β ≤ 0;
    for best-of-n also α ≤ 0). ``inside``: the peak lies within the fitted distances, else it is extrapolated.
    """

    form: Form
    alpha: float
    beta: float
    peak: float
    height: float
    inside: bool


@dataclass(frozen=True)
class FitIntervals:
    """A fit with its intervals over clusters, from :func:`fit_intervals`; ``p_beta`` tests β ≤ 0 (small: there is a peak)."""

    fit: Fit
    beta: Interval
    peak: Interval
    p_beta: float


def gain(distance: ArrayLike, alpha: float, beta: float, form: Form = "rl") -> Array:
    """R(d), the shape of ``distance`` (√KL, not negative); R(0) = 0."""
    d = np.asarray(distance, dtype=float)
    return alpha * d - beta * _bend(d, form)


def fit(distance: ArrayLike, gains: ArrayLike, form: Form = "rl") -> Fit:
    """Least squares for (α, β), without intercept, from arrays of shape (N,): d = √KL and the gain over the initial policy.

    The peak is where R′(d) = 0: d* = exp(α/β − 1) with R(d*) = β d* for RL; d* = α / 2β with R(d*) = α² / 4β for best-of-n.
    Raises ValueError for values that are not finite, a negative d, or fewer than two distinct d > 0.
    """
    d, y = _data(distance, gains)
    design = np.column_stack([d, -_bend(d, form)])
    alpha, beta = (float(value) for value in np.linalg.lstsq(design, y, rcond=None)[0])
    peak, height = peak_of(alpha, beta, form)
    return Fit(form, alpha, beta, peak, height, bool(d.min() <= peak <= d.max()))


def peak_of(alpha: float, beta: float, form: Form = "rl") -> tuple[float, float]:
    """(d*, R(d*)) of the maximum; NaN where there is none at d > 0. d* overflows to inf where β is next to nothing."""
    if beta <= 0 or (form == "best-of-n" and alpha <= 0):
        return float("nan"), float("nan")
    if form == "best-of-n":
        return alpha / (2 * beta), alpha**2 / (4 * beta)
    peak = _exp(alpha / beta - 1)
    return peak, beta * peak


def fit_intervals(
    distance: ArrayLike,
    gains: ArrayLike,
    clusters: ArrayLike,
    form: Form = "rl",
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> FitIntervals:
    """:func:`fit` with intervals of β and d* from resampling whole ``clusters`` (labels (N,), at least 2), the trajectories.

    Points of one trajectory share a reward model, and often a run, so only trajectories are independent. The bootstrap gives
    the covariance of (α, β), enlarged by n/(n−1) for n clusters; β has the interval β ± t(n−1) SE. d* is a function of α/β
    alone, and increasing: its interval is Fieller's for that ratio, carried over. It is (0, inf) where β is not significantly
    different from 0, as a straight line peaks nowhere; percentiles of the resampled peaks would hide that, since those
    without a peak drop out. NaN where the fit has no peak.

    Measured in 400 simulated studies each (3, 5 and 10 trajectories of 12 points, α and β varying between them, peaks at 2.5
    and 2.7 within the data and 55 far beyond): nominal 95 % intervals covered β in 92 to 99 % and d*, where there was one, in
    92 to 99 %. On a straight line (β = 0) half of the fits have a peak by chance; at most 2 % of the intervals were finite.
    """
    d, y = _data(distance, gains)
    labels = np.asarray(clusters)
    if labels.shape != d.shape or np.unique(labels).size < 2:
        raise ValueError(f"clusters of shape {labels.shape}: need one label a point ({d.shape}) and at least 2 different ones")
    found = fit(d, y, form)
    covariance, n = _covariance(np.column_stack([d, -_bend(d, form)]), y, labels, resamples, seed)
    quantile, error = float(stats.t.ppf((1 + confidence) / 2, n - 1)), float(np.sqrt(covariance[1, 1]))
    beta = Interval(found.beta, found.beta - quantile * error, found.beta + quantile * error, n)
    p_beta = float(stats.t.sf(found.beta / error, n - 1)) if error > 0 else float(found.beta <= 0)
    if not np.isfinite(found.peak):
        return FitIntervals(found, beta, Interval(found.peak, float("nan"), float("nan"), n), p_beta)
    ratios = fieller(found.alpha, found.beta, covariance, quantile)
    low, high = (_exp(r - 1) if form == "rl" else max(r / 2, 0.0) for r in ratios)
    return FitIntervals(found, beta, Interval(found.peak, low, high, n), p_beta)


def _bend(d: Array, form: Form) -> Array:
    """What β multiplies: d log d (0 at 0) or d²."""
    if form not in ("rl", "best-of-n"):
        raise ValueError(f"form {form!r}: there are 'rl' and 'best-of-n'")
    return special.xlogy(d, d) if form == "rl" else d**2


def _exp(value: float) -> float:
    """exp without a warning where it overflows to inf."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def _data(distance: ArrayLike, gains: ArrayLike) -> tuple[Array, Array]:
    d, y = np.asarray(distance, dtype=float), np.asarray(gains, dtype=float)
    if d.ndim != 1 or d.shape != y.shape or not (np.isfinite(d).all() and np.isfinite(y).all()):
        raise ValueError(f"distance of shape {d.shape} and gains of shape {y.shape}: need one finite value of each a point")
    if (d < 0).any() or np.unique(d[d > 0]).size < 2:
        raise ValueError("distance is √KL: no value may be negative, and at least two different ones must be above 0")
    return d, y


def _covariance(design: Array, y: Array, labels: Array, resamples: int, seed: int) -> tuple[Array, int]:
    """Cluster-bootstrap covariance (2, 2) of the coefficients, times n/(n−1), and the number n of clusters.

    A resample is a weighted sum of the clusters' normal equations, so all of them are solved at once.
    """
    names = np.unique(labels)
    inside, n = (labels == names[:, None]).astype(float), names.size
    scale = np.sqrt((design**2).sum(axis=0))  # columns of one size, so that the determinant says something
    x = design / scale
    squares, products = np.einsum("gi,ij,ik->gjk", inside, x, x), inside @ (x * y[:, None])
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    systems = np.einsum("bg,gjk->bjk", times, squares)
    solvable = np.linalg.det(systems) > SINGULAR
    drawn = np.linalg.solve(systems[solvable], (times @ products)[solvable][..., None])[..., 0] / scale
    if len(drawn) < 2:
        raise ValueError("resampling needs clusters that tell α from β: at least two different distances above 0 in each")
    return np.cov(drawn.T) * n / (n - 1), n


# --- a study's runs
# ------------------------------------------------------------------------------------------------------------


def thirds(runs: pd.DataFrame) -> pd.Series:
    """The third of its trajectory's accuracies that each run's reward model is in (0: the least accurate; NaN: unmeasured)."""
    rank = runs.groupby(["task", "policy", "rm_seed"])[accuracy_kind(runs)].rank(method="dense", pct=True)
    return np.ceil(rank * 3) - 1


def paths(summary: pd.DataFrame, curves: pd.DataFrame, arm: str = "steps") -> pd.DataFrame:
    """Every update of an arm's runs: ``distance`` √KL, ``proxy`` and ``true`` reward gained since the start (in deviations of
    the true one's gain within task and policy), and the ``third`` of accuracies its reward model is in (0: the least accurate).

    All are means over :data:`WINDOW` updates: in a single rollout odd responses have a low reward *and* a high KL, which would
    bend a curve of one against the other downwards by noise alone.
    """
    runs = summary[(summary["arm"] == arm) & usable(summary)].drop_duplicates("id")
    runs = runs.assign(third=thirds(runs), cluster=runs["task"] + " " + runs["rm_seed"].astype(str))
    keep = ["id", "task", "policy", "third", "cluster"]
    rows = curves.merge(runs[keep], on="id")
    if "true_reward_mean" not in rows:
        return pd.DataFrame(columns=[*keep, "update", "distance", "proxy", "true"])
    start = rows.groupby("id")[["reward_mean", "true_reward_mean"]].transform("first")
    measured = ["kl", "reward_mean", "true_reward_mean"]
    smooth = rows.groupby("id")[measured].rolling(WINDOW, center=True, min_periods=1).mean().droplevel(0)
    rows = rows.assign(**smooth.loc[rows.index]).where(rows["update"] > 0, rows)  # at the start all is known exactly
    rows = rows.assign(
        distance=np.sqrt(rows["kl"].clip(lower=0.0)),
        proxy=rows["reward_mean"] - start["reward_mean"],
        true=rows["true_reward_mean"] - start["true_reward_mean"],
    )
    scale = rows.groupby(["task", "policy"])["true"].transform("std")
    rows = rows.assign(proxy=rows["proxy"] / scale, true=rows["true"] / scale)
    return rows[[*keep, "update", "distance", "proxy", "true"]].dropna()


def fits_by_third(
    table: pd.DataFrame,
    form: Form = "rl",
    measure: str = "true",
    *,
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Gao et al.'s (2023) curve fitted to the ``true`` reward (or the ``proxy``) by task, policy and third of accuracies.

    ``form`` rl: R = d (α − β log d) along :func:`paths`; best-of-n: R = d (α − β d) along :func:`best_of_n_paths`. The point of
    over-optimisation is the ``peak`` (√KL). A curve that only levels off is fitted with a peak as well, so beside it stand, of
    the mean run: the ``highest`` reward and that at its ``end``, the ``nearest`` distance after the start, the ``farthest`` and
    that at the end (a run that comes back is no function of √KL). ``fall``: what a trajectory loses to the end from where the
    others are highest, with the lower end of its 95 % interval (see
    :func:`paradox_utils.analysis.statistics.cross_fitted_regret`).

    A peak is ``located`` where β and the fall are clearly above zero and its interval is ``inside`` the mean run's distances.
    """
    rows: list[dict[str, object]] = []
    for (task, policy, third), own in table.dropna(subset=[measure]).groupby(["task", "policy", "third"]):
        away = own[own["distance"] > 0]
        if away["distance"].nunique() < 2:
            continue
        whole = fit(away["distance"], away[measure], form)
        values = {"alpha": whole.alpha, "beta": whole.beta, "peak": whole.peak, "beta low": np.nan, "peak high": np.nan}
        if own["cluster"].nunique() > 1 and away.groupby("cluster")["distance"].nunique().min() > 1:
            found = fit_intervals(
                away["distance"], away[measure], away["cluster"].to_numpy(), form, resamples=resamples, seed=seed
            )
            values |= {"beta low": found.beta.low, "beta high": found.beta.high}
            values |= {"peak low": found.peak.low, "peak high": found.peak.high}
        mean = own.groupby("update" if form == "rl" else "n")[["distance", measure]].mean()
        values |= {"highest": mean[measure].max(), "end": mean[measure].iloc[-1]}
        values |= {"nearest": mean.loc[mean["distance"] > 0, "distance"].min(), "farthest": mean["distance"].max()}
        values["end distance"] = mean["distance"].iloc[-1]
        fall = _fall(own.pivot_table(index="cluster", columns=mean.index.name, values=measure))
        values |= {"fall": fall.estimate, "fall low": fall.low}
        inside = values["nearest"] <= values.get("peak low", np.nan) and values["peak high"] <= values["farthest"]
        located = inside and values["beta low"] > 0 and fall.low > 0
        values |= {"inside": bool(inside), "located": bool(located)}
        rows.append({"task": task, "policy": policy, "third": int(third) + 1, **values})
    names = ["task", "policy", "third", "alpha", "beta", "beta low", "beta high", "peak", "peak low", "peak high", "inside"]
    names += ["highest", "end", "fall", "fall low", "nearest", "farthest", "end distance", "located"]
    return pd.DataFrame(rows, columns=names).astype({"inside": bool, "located": bool})


def _fall(path: pd.DataFrame) -> statistics.Interval:
    """Of trajectories (rows) along the way (columns): what is lost from the others' highest to the end."""
    path = path.dropna(axis=1)  # where all of them are
    if len(path) < 2 or path.shape[1] < 2:
        return statistics.Interval(np.nan, np.nan, np.nan, len(path))
    return statistics.mean_interval(statistics.payments(path.sub(path.iloc[:, -1], axis=0).iloc[:, ::-1]))


def best_of_n_paths(summary: pd.DataFrame, table: pd.DataFrame, arm: str = "steps") -> pd.DataFrame:
    """Best-of-n of an arm's runs: one row a run and number of responses, with ``distance`` √KL, LM performance, and what is
    gained over a single response by the reward model's reward (``proxy``) and the true one (``true``), in rewards' own units;
    ``third`` and ``cluster`` as in :func:`paths`."""
    runs = summary[(summary["arm"] == arm) & usable(summary)].drop_duplicates("id")
    runs = runs.assign(third=thirds(runs), cluster=runs["task"] + " " + runs["rm_seed"].astype(str))
    rows = table.merge(runs[["id", "task", "policy", "rm_seed", "third", "cluster"]], on="id")
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *BEST_OF_N])))  # that of a study without probes has ids alone
    one = rows.sort_values("n").groupby("id")[["reward", "true_return"]].first()
    for gained, name in (("proxy", "reward"), ("true", "true_return")):
        rows[gained] = rows[name].astype(float) - rows["id"].map(one[name]).astype(float)
    return rows.assign(distance=np.sqrt(rows["kl"].astype(float)))


def turned(fits: pd.DataFrame, what: str = "the true reward", unit: str = "deviations") -> str:
    """Rows of :func:`fits` in words: where a peak is located, and what speaks against it elsewhere."""
    if fits.empty:
        return f"Nothing is known of {what} along the way, or too little for a fit."
    peaks = [
        f"{r['task']}, {r['policy']}, third {r['third']} (√KL {r['peak']:.2f}, {r['peak low']:.2f} to {r['peak high']:.2f})"
        for _, r in fits[fits["located"]].iterrows()
    ]
    clear, fell = [int((fits[name] > 0).sum()) for name in ("beta low", "fall low")], fits["highest"] - fits["end"]
    text = f"A peak of {what} is located in {len(peaks)} of {count(len(fits), 'group')} (task, policy and third of accuracies)"
    text += f": {'; '.join(peaks)}." if peaks else "."
    text += f" β is clearly above zero in {clear[0]}, the peak's interval lies within the mean curve's distances in "
    text += f"{fits['inside'].sum()}, and {what} clearly falls after its highest in {clear[1]}. The mean curve ends "
    return text + f"{fell.mean():.2f} {unit} below its highest (chosen after the fact), at most {fell.max():.2f}."
