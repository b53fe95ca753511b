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
from numpy.typing import ArrayLike
from scipy import special, stats

from paradox_utils.analysis import statistics
from paradox_utils.analysis.inverted_u import fieller
from paradox_utils.analysis.outcomes import accuracy_kind, steps, usable
from paradox_utils.analysis.statistics import Array, Interval
from paradox_utils.analysis.tables import BEST_OF_N

Form = Literal["rl", "best-of-n"]

THIRDS = ("least accurate third", "middle third", "most accurate third")
WINDOW = 5  # updates that a point of a path averages
SINGULAR = 1e-12  # a resample whose normal equations have a smaller determinant, scaled to 1, does not tell α from β
PATH = ("id", "task", "policy", "third", "cluster")
FITTED = (
    *("task", "policy", "third", "alpha", "beta", "beta low", "beta high", "peak", "peak low", "peak high", "inside"),
    *("highest", "end", "fall", "fall low", "nearest", "farthest", "end distance", "located"),
)


@dataclass(frozen=True)
class Fit:
    """R(d), its ``alpha`` and ``beta`` in units of the gain a √nat; ``peak`` is the d of the maximum, NaN where the curve has
    none at d > 0 (see :func:`peak_of`)."""

    alpha: float
    beta: Interval
    peak: Interval


def gain(distance: ArrayLike, alpha: float, beta: float, form: Form = "rl") -> Array:
    """R(d), the shape of ``distance`` (√KL, not negative); R(0) = 0."""
    d = np.asarray(distance, dtype=float)
    return alpha * d - beta * _bend(d, form)


def peak_of(alpha: float, beta: float, form: Form = "rl") -> float:
    """Where R′(d) = 0: d* = exp(α/β − 1) for RL, α / 2β for best-of-n; NaN where there is no maximum at d > 0."""
    if beta <= 0 or (form == "best-of-n" and alpha <= 0):
        return float("nan")
    return _turn(alpha / beta, form)


def fit(distance: ArrayLike, gains: ArrayLike, clusters: ArrayLike, form: Form = "rl", *, resamples: int, seed: int = 0) -> Fit:
    """Least squares for (α, β), from d = √KL and the gain over the initial policy, (N,) with at least two distinct d > 0; with
    95 % intervals of β and d* from resampling whole ``clusters`` (labels (N,)), the trajectories.

    The bootstrap gives the covariance of (α, β), enlarged by n/(n−1) for n clusters; β has the interval β ± t(n−1) SE. d* is an
    increasing function of α/β alone: its interval is Fieller's for that ratio, carried over. It is (0, inf) where β is not
    significantly different from 0, as a straight line peaks nowhere, and NaN where the fit has no peak. Both are NaN for a
    single cluster, and where a cluster alone cannot tell α from β. On straight lines half of the fits have a peak by chance.
    """
    d, y, labels = np.asarray(distance, dtype=float), np.asarray(gains, dtype=float), np.asarray(clusters)
    design, names = np.column_stack([d, -_bend(d, form)]), np.unique(labels)
    alpha, beta = (float(value) for value in np.linalg.lstsq(design, y, rcond=None)[0])
    peak, n = peak_of(alpha, beta, form), names.size
    unknown = Fit(alpha, Interval(beta, np.nan, np.nan, n), Interval(peak, np.nan, np.nan, n))
    if n < 2 or min(np.unique(d[(labels == name) & (d > 0)]).size for name in names) < 2:
        return unknown
    covariance = _covariance(design, y, labels, resamples, seed)
    bounded = statistics.student(beta, float(np.sqrt(covariance[1, 1])), n)
    if np.isnan(peak):
        return Fit(alpha, bounded, unknown.peak)
    low, high = fieller(alpha, beta, covariance, float(stats.t.ppf(0.975, n - 1)))
    return Fit(alpha, bounded, Interval(peak, max(_turn(low, form), 0.0), _turn(high, form), n))


def _bend(d: Array, form: Form) -> Array:
    """What β multiplies: d log d (0 at 0) or d²."""
    return special.xlogy(d, d) if form == "rl" else d**2


def _turn(ratio: float, form: Form) -> float:
    """d* of α/β."""
    with np.errstate(over="ignore"):
        return float(np.exp(ratio - 1)) if form == "rl" else ratio / 2


def _covariance(design: Array, y: Array, labels: Array, resamples: int, seed: int) -> Array:
    """Cluster-bootstrap covariance (2, 2) of the coefficients, times n/(n−1) for n clusters.

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
    return np.cov(drawn.T) * n / (n - 1)


# --- a study's runs -----------------------------------------------------------------------------------------------------------


def _runs(summary: pd.DataFrame) -> pd.DataFrame:
    """Finished runs of :func:`.outcomes.steps` with their trajectory (``cluster``) and the ``third`` of its accuracies that the
    reward model is in (0: the least accurate; NaN: unmeasured); the columns of :data:`PATH`."""
    return by_third(steps(summary))[[*PATH]]


def by_third(runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs, once each, with the columns of :data:`PATH`."""
    runs = runs[usable(runs)].drop_duplicates("id")
    rank = runs.groupby(["arm", "task", "policy", "rm_seed"])[accuracy_kind(runs)].rank(method="dense", pct=True)
    return runs.assign(third=np.ceil(rank * 3) - 1, cluster=runs["task"] + " " + runs["rm_seed"].astype(str))


def paths(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Every update of the route's runs: ``distance`` √KL, ``proxy`` and ``true`` reward gained since the start (in deviations
    of the true one's gain within task and policy), and the ``third`` of accuracies its reward model is in (0: the least).

    All are means over :data:`WINDOW` updates: odd responses have a low reward *and* a high KL, which would bend the curve.
    """
    rows = curves.merge(_runs(summary), on="id")
    if not {"reward_mean", "true_reward_mean"} <= set(rows):
        return pd.DataFrame(columns=[*PATH, "update", "distance", "proxy", "true"])
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
    return rows[[*PATH, "update", "distance", "proxy", "true"]].dropna()


def best_of_n_paths(summary: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Best-of-n of the route's runs: one row a run and number of responses, with ``distance`` √KL, LM performance, and what is
    gained over a single response by the reward model's reward (``proxy``) and the true one (``true``), in rewards' own units;
    ``third`` and ``cluster`` as in :func:`paths`."""
    rows = table.merge(_runs(summary), on="id")
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *BEST_OF_N])))  # that of a study without probes has ids alone
    one = rows.sort_values("n").groupby("id")[["reward", "true_return"]].first()
    for gained, name in (("proxy", "reward"), ("true", "true_return")):
        rows[gained] = rows[name].astype(float) - rows["id"].map(one[name]).astype(float)
    return rows.assign(distance=np.sqrt(rows["kl"].astype(float)))


def fits_by_third(
    table: pd.DataFrame, form: Form = "rl", measure: str = "true", *, resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Gao et al.'s (2023) curve fitted to the ``true`` reward (or the ``proxy``) by task, policy and third of accuracies.

    ``form`` rl: along :func:`paths`; best-of-n: along :func:`best_of_n_paths`. A curve that only levels off is fitted with a
    ``peak`` (√KL) as well, so beside it stand, of the mean run: the ``highest`` reward and that at its ``end``, the ``nearest``
    distance after the start, the ``farthest`` and that at the end. ``fall``: what a trajectory loses to the end from where the
    others are highest, with the lower end of its 95 % interval (see :func:`statistics.cross_fitted_regret`).

    A peak is ``located`` where β and the fall are clearly above zero and its interval is ``inside`` the mean run's distances.
    """
    rows = []
    for (task, policy, third), own in table.dropna(subset=[measure]).groupby(["task", "policy", "third"]):
        away = own[own["distance"] > 0]
        if away["distance"].nunique() < 2:
            continue
        found = fit(away["distance"], away[measure], away["cluster"], form, resamples=resamples, seed=seed)
        mean = own.groupby("update" if form == "rl" else "n")[["distance", measure]].mean()
        fall = _fall(own.pivot_table(index="cluster", columns=mean.index.name, values=measure))
        row = {"task": task, "policy": policy, "third": int(third) + 1, "alpha": found.alpha}
        for name, interval in (("beta", found.beta), ("peak", found.peak)):
            row |= {name: interval.estimate, f"{name} low": interval.low, f"{name} high": interval.high}
        row |= {"highest": mean[measure].max(), "end": mean[measure].iloc[-1], "fall": fall.estimate, "fall low": fall.low}
        row |= {"nearest": mean.loc[mean["distance"] > 0, "distance"].min(), "farthest": mean["distance"].max()}
        row |= {"end distance": mean["distance"].iloc[-1]}
        inside = bool(row["nearest"] <= found.peak.low and found.peak.high <= row["farthest"])
        rows.append(row | {"inside": inside, "located": inside and found.beta.low > 0 and fall.low > 0})
    return pd.DataFrame(rows, columns=[*FITTED]).astype({"inside": bool, "located": bool})


def turned(fits: pd.DataFrame) -> dict[str, float]:
    """In how many groups of :func:`fits_by_third` there is what a peak needs, and how far their mean runs end below it."""
    below = fits["highest"] - fits["end"]
    return {
        "groups": len(fits),
        "peak located": int(fits["located"].sum()),
        "β above zero": int((fits["beta low"] > 0).sum()),
        "peak inside": int(fits["inside"].sum()),
        "clear fall": int((fits["fall low"] > 0).sum()),
        "end below highest, mean": below.mean(),
        "end below highest, at most": below.max(),
        "end ÷ farthest √KL": (fits["end distance"] / fits["farthest"]).mean(),
    }


def _fall(path: pd.DataFrame) -> Interval:
    """Of trajectories (rows) along the way (columns): what is lost from the others' highest to the end."""
    path = path.dropna(axis=1)  # where all of them are
    if len(path) < 2 or path.shape[1] < 2:
        return Interval(np.nan, np.nan, np.nan, len(path))
    return statistics.mean_interval(statistics.payments(path.sub(path.iloc[:, -1], axis=0).iloc[:, ::-1]))
