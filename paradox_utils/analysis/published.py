"""What the paper's figures say as numbers: the most accurate RM, drawn surfaces, chance, and what training curves mix.

Reads the tables of ``book/published`` (see its README); imports no torch. A *pair* is a policy and a task; its reward models
(RMs) are the markers of one figure. The policies of a task were trained against the same RMs, so pairs are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.interpolate import griddata

from paradox_utils.analysis import statistics, tables
from paradox_utils.analysis.statistics import Array

PAIR = ["policy", "task"]
RESOLUTION = 0.01  # accuracies closer than this count as one
GRID = 100  # points a side of the drawn surfaces
NULLS = ("irrelevant", "as measured")
FAILURE = ["not_first", "regret_sd", "thirds_sd"]  # what grows as the most accurate RM fails, or moderate accuracy leads
ASSOCIATION = ["spearman", "spearman_upper"]
LARGE = 0.05  # a p at most this, corrected, is called hard to reconcile with its world


@dataclass(frozen=True)
class Tables:
    """The four tables: a row a marker, a pair, a bar, and a point of a training curve; pairs in the paper's order."""

    markers: pd.DataFrame
    headline: pd.DataFrame
    training: pd.DataFrame
    curves: pd.DataFrame


@dataclass(frozen=True)
class Surface:
    """A drawn surface: LM performance ``values[i, j]`` at ``accuracies[i]`` and ``steps[j]``; NaN outside the data's hull."""

    steps: Array
    accuracies: Array
    values: Array

    @property
    def peak(self) -> tuple[float, float, float]:
        """Step, accuracy and height of the highest grid point."""
        i, j = np.unravel_index(int(np.nanargmax(self.values)), self.values.shape)
        return float(self.steps[j]), float(self.accuracies[i]), float(self.values[i, j])


@dataclass(frozen=True)
class Chance:
    """What two null worlds would show: ``pairs`` by null, policy and task, and ``joint`` by null and statistic."""

    pairs: pd.DataFrame
    joint: pd.DataFrame


def load_published(folder: Path | str) -> Tables:
    """The tables of ``folder``, as its README describes them; raises as :func:`tables.read_table`, and for one without rows."""
    curve = ("rm_role", "metric")
    needed = {
        "lm_performance.csv": ("rm_step", "rm_accuracy", "lm_performance"),
        "lm_headline.csv": ("surface_max",),
        "training_summary.csv": (*curve, "mean_bar", "variance_bar"),
        "training_curves.csv.gz": (*curve, "step", "value"),
    }
    found = []
    for name, columns in needed.items():
        path, way_out = Path(folder) / f"published_{name}", "restore book/published from the repository"
        found.append(tables.read_table(path, (*PAIR, *columns), (*PAIR, *curve), way_out=way_out))
        if found[-1].empty:
            raise tables.AnalysisError(f"{path}: has no rows; {way_out}")
    return Tables(*found)


# --- the most accurate RM among its peers -------------------------------------------------------------------------------


def standing(markers: pd.DataFrame) -> pd.DataFrame:
    """The most accurate RM (``top_*``) and the one with the best policy (``best_*``) among their peers, a row a pair.

    Ranks count from 1, equal values share the best rank. ``regret`` is the best LM performance minus the most accurate RM's.
    ``*_third``: mean LM performance of the thirds by accuracy, which no look at LM performance has chosen;
    ``thirds_apart``: mean accuracy of the top third minus that of the middle third.
    """
    rows = []
    for (policy, task), models in markers.groupby(PAIR, sort=False):
        a, y = models["rm_accuracy"].to_numpy(), models["lm_performance"].to_numpy()
        top, best, (low, middle, most) = int(a.argmax()), int(y.argmax()), thirds(a)
        row = {"policy": policy, "task": task, "models": a.size, "spearman": statistics.rank_correlation(a, y)}
        row |= {"top_accuracy": a[top], "top_performance": y[top], "top_rank": 1 + (y > y[top]).sum()}
        row |= {"best_accuracy": a[best], "best_performance": y[best], "best_accuracy_rank": 1 + (a > a[best]).sum()}
        row |= {"regret": y[best] - y[top], "thirds_apart": a[most].mean() - a[middle].mean()}
        row |= {"low_third": y[low].mean(), "middle_third": y[middle].mean(), "top_third": y[most].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def typical_gap(markers: pd.DataFrame, *, every: bool = False) -> float:
    """The median, after the fact, of the most accurate RM's regrets over pairs whose LM performance is a share (completeness
    is a reward model's score), or over ``every`` pair."""
    found = standing(markers)
    return float(found.loc[every | (found["task"] != "completeness"), "regret"].median())


def thirds(accuracy: Array) -> list[Array]:
    """Indices of the least, the middling and the most accurate third; a remainder goes to the lower ones."""
    return np.array_split(np.argsort(accuracy, kind="stable"), 3)


# --- the drawn surfaces -------------------------------------------------------------------------------------------------


def surface(models: pd.DataFrame, rescale: bool = False) -> Surface:
    """The surface through a pair's markers as the released plotting script draws it.

    Clough–Tocher on a Delaunay triangulation, of LM performance over step and accuracy, on a grid of :data:`GRID` points a side
    that spans the data; ``rescale`` brings both axes to length 1 first.
    """
    at, y = models[["rm_step", "rm_accuracy"]].to_numpy(float), models["lm_performance"].to_numpy()
    steps, accuracies = np.linspace(at.min(axis=0), at.max(axis=0), GRID).T
    return Surface(steps, accuracies, griddata(at, y, tuple(np.meshgrid(steps, accuracies)), method="cubic", rescale=rescale))


def left_out_errors(models: pd.DataFrame) -> tuple[float, float]:
    """Root mean squared errors of the surface through all other markers, and of their mean, at a marker inside their hull."""
    at, y = models[["rm_step", "rm_accuracy"]].to_numpy(float), models["lm_performance"].to_numpy()
    errors = []
    for i in range(y.size):
        others = np.arange(y.size) != i
        drawn = griddata(at[others], y[others], at[i : i + 1], method="cubic")[0]
        if np.isfinite(drawn):
            errors.append((drawn - y[i], y[others].mean() - y[i]))
    of_surface, of_mean = np.sqrt(np.mean(np.square(errors), axis=0))
    return float(of_surface), float(of_mean)


def peaks(markers: pd.DataFrame) -> pd.DataFrame:
    """Where each drawn surface peaks, against its markers, a row a pair.

    ``above``: share of the drawn grid that is higher than every marker. ``near``: RMs whose accuracy is within
    :data:`RESOLUTION` of the peak's. ``nearest_*``: the RM nearest to the peak with both axes scaled to unit length.
    ``rescaled``: the maximum if the axes are scaled before triangulation. ``error_*``: :func:`left_out_errors`.
    """
    rows = []
    for (policy, task), models in markers.groupby(PAIR, sort=False):
        drawn, y = surface(models), models["lm_performance"].to_numpy()
        step, accuracy, height = drawn.peak
        at = models[["rm_step", "rm_accuracy"]].to_numpy(float)
        nearest = int(np.hypot(*((at - (step, accuracy)) / np.ptp(at, axis=0)).T).argmin())
        row = {"policy": policy, "task": task, "peak": height, "highest_marker": y.max()}
        row |= {"peak_step": step, "peak_accuracy": accuracy, "near": (np.abs(at[:, 1] - accuracy) <= RESOLUTION).sum()}
        row |= {"nearest_step": int(at[nearest, 0]), "nearest_accuracy": at[nearest, 1], "nearest_performance": y[nearest]}
        row |= {"above": (drawn.values > y.max()).sum() / np.isfinite(drawn.values).sum()}
        row |= {"rescaled": surface(models, rescale=True).peak[2]}
        row |= dict(zip(("error_surface", "error_mean"), left_out_errors(models), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


# --- what chance would show ---------------------------------------------------------------------------------------------


def permuted(performance: Array, draws: int, random: np.random.Generator) -> Array:
    """LM performances (K RMs, P policies) dealt to the RMs anew, in one order for all policies, shape (draws, K, P)."""
    order = random.permuted(np.tile(np.arange(len(performance)), (draws, 1)), axis=1)
    return performance[order]


def copula(accuracy: Array, performance: Array, draws: int, random: np.random.Generator) -> Array:
    """LM performances (K RMs, P policies) dealt anew so that they depend on accuracy as much as measured, (draws, K, P).

    A Gaussian copula: accuracies become normal scores Φ⁻¹((rank − ½) / K), and the latent performances of the policies are
    normal given them, with Pearson's r = 2 sin(π ρ / 6) for each measured Spearman ρ, also between policies (Kruskal 1958,
    *JASA* 53:814–861). The RM of the k-th latent performance gets the k-th measured one.
    """
    models, policies = performance.shape
    ranks = np.corrcoef(stats.rankdata(np.column_stack([accuracy, performance]), axis=0), rowvar=False)
    values, vectors = np.linalg.eigh(2 * np.sin(np.pi * ranks / 6))
    r = (vectors * np.maximum(values, 1e-9)) @ vectors.T  # the nearest matrix that is a covariance
    r /= np.sqrt(np.outer(np.diag(r), np.diag(r)))
    scores = stats.norm.ppf((stats.rankdata(accuracy) - 0.5) / models)
    rest = np.linalg.cholesky(r[1:, 1:] - np.outer(r[0, 1:], r[0, 1:]) + 1e-9 * np.eye(policies))
    latent = scores[:, None] * r[0, 1:] + random.standard_normal((draws, models, policies)) @ rest.T
    return np.take_along_axis(np.sort(performance, axis=0)[None], latent.argsort(axis=1).argsort(axis=1), axis=1)


def misses(spearman: Array, models: int, draws: int, seed: int) -> Array:
    """Probability that the most accurate of ``models`` RMs does not have the best policy, for each true Spearman ρ.

    The Gaussian copula of :func:`copula` for one policy, without ties; (models − 1) / models for ρ = 0.
    """
    scores = stats.norm.ppf((np.arange(models) + 0.5) / models)
    noise = np.random.default_rng(seed).standard_normal((draws, models))
    r = 2 * np.sin(np.pi * np.asarray(spearman, dtype=float) / 6)
    return np.array([float(((c * scores + np.sqrt(max(1 - c * c, 0)) * noise).argmax(axis=1) != models - 1).mean()) for c in r])


def chance(markers: pd.DataFrame, draws: int, seed: int) -> Chance:
    """What is seen of the most accurate RM, against worlds in which accuracy is irrelevant, or matters as much as measured.

    ``pairs``: ``not_first`` is the probability that the most accurate RM is not first; ``rank_*`` and ``regret_sd_*`` are
    observed value, mean, and middle 95 % in that world. ``joint``: the same of statistics over all pairs, sums for
    ``not_first`` and means for the others (see :func:`outcomes`); ``p``, ``p_low``: probability of a value at least, at most as
    large as observed, (1 + #) / (1 + draws) (Davison & Hinkley 1997, section 4.2); ``corrected``: see :func:`corrected`.
    """
    random, names, parts = np.random.default_rng(seed), [], {null: [] for null in NULLS}
    for task, models in markers.groupby("task", sort=False):
        accuracy, y, policies = _by_policy(models)
        names += [(policy, task) for policy in policies]
        worlds = (permuted(y, draws, random), copula(accuracy, y, draws, random))
        for null, world in zip(NULLS, worlds, strict=True):
            parts[null].append(outcomes(accuracy, np.concatenate([y[None], world])))  # what is seen comes first
    alone, joint = {}, {}
    for null in NULLS:
        found = {name: np.hstack([part[name] for part in parts[null]]) for name in parts[null][0]}  # (1 + draws, pairs)
        for pair, rank, lost in zip(names, found.pop("rank").T, found["regret_sd"].T, strict=True):
            row = {"not_first": (rank[1:] > 1).mean()}
            for name, values in (("rank", rank), ("regret_sd", lost)):
                row |= {f"{name}_{key}": value for key, value in _spread(values).items()}
            alone[null, *pair] = row
        for name, values in found.items():
            values = values.sum(axis=1) if name == "not_first" else values.mean(axis=1)
            joint[null, name] = _spread(values) | _tails(values)
    order = [(null, *pair) for null in NULLS for pair in markers[PAIR].drop_duplicates().itertuples(index=False)]
    table = pd.DataFrame.from_dict(joint, orient="index").rename_axis(["null", "statistic"])
    pairs = pd.DataFrame.from_dict(alone, orient="index").rename_axis(["null", *PAIR]).loc[order]
    return Chance(pairs, table.assign(corrected=corrected(table)))


def bands(markers: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Where the mean LM performance of each third by accuracy would lie if accuracy did not matter, a row a pair and third.

    ``models``, ``from``, ``to``: how many RMs and which accuracies a third has; ``mean``: as seen; ``low``, ``high``: in 95
    % of cases all means lie inside their bands at once. A band is m ± c · s √((1 − n/K) / n): m and s are mean and standard
    deviation of the pair's K values, and the rest is the standard error of a mean of n drawn without replacement (Cochran
    1977, *Sampling Techniques*, section 2.6). c is the 95 % quantile of the largest deviation over all pairs and thirds in
    these units, with values dealt as by :func:`permuted` (single-step max-T: Westfall & Young 1993, *Resampling-Based
    Multiple Testing*).
    """
    random, largest, rows = np.random.default_rng(seed), np.zeros(draws), []
    for task, models in markers.groupby("task", sort=False):
        accuracy, y, policies = _by_policy(models)
        dealt, mean, deviation = permuted(y, draws, random), y.mean(axis=0), y.std(axis=0, ddof=1)
        for third in thirds(accuracy):
            error = deviation * np.sqrt((1 - third.size / accuracy.size) / third.size)
            away = np.abs(dealt[:, third].mean(axis=1) - mean) / error
            largest = np.maximum(largest, away.max(axis=1))
            row = {"task": task, "models": third.size, "from": accuracy[third].min(), "to": accuracy[third].max()}
            seen = zip(policies, y[third].mean(axis=0), mean, error, strict=True)
            rows += [row | {"policy": p, "mean": own, "centre": m, "error": e} for p, own, m, e in seen]
    table, c = pd.DataFrame(rows), float(np.quantile(largest, 0.95))
    return table.assign(low=table["centre"] - c * table["error"], high=table["centre"] + c * table["error"])


def _by_policy(models: pd.DataFrame) -> tuple[Array, Array, list[str]]:
    """Of a task's markers: accuracies (K,), LM performances (K, P), and the P policies."""
    wide = models.pivot(index=["rm_step", "rm_accuracy"], columns="policy", values="lm_performance")
    return wide.index.get_level_values("rm_accuracy").to_numpy(), wide.to_numpy(), list(wide.columns)


def carried(markers: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Which tasks carry the correlation of accuracy and LM performance: a row a task, the mean ρ of its pairs (``alone``) and
    of all others (``without``), each with a two-sided p of the world in which accuracy does not matter, corrected for the
    number of tasks (Holm)."""
    random, correlations = np.random.default_rng(seed), {}
    for task, models in markers.groupby("task", sort=False):
        accuracy, y, _ = _by_policy(models)
        correlations[task] = _rank_correlations(accuracy, np.concatenate([y[None], permuted(y, draws, random)]))
    table = pd.DataFrame(index=pd.Index(correlations, name="task"))
    for name in ("alone", "without"):
        found = []
        for task in correlations:
            own = [rho for other, rho in correlations.items() if (other == task) == (name == "alone")]
            means = np.hstack(own).mean(axis=1)
            found.append((means[0], statistics.two_sided(*_tails(means).values())))
        table[name] = [rho for rho, _ in found]
        table[f"p {name}"] = statistics.holm([p for _, p in found])
    return table


def carrier(table: pd.DataFrame) -> str:
    """What :func:`carried` says in a sentence, where a corrected p ≤ :data:`LARGE` counts."""
    only = table[(table["p alone"] <= LARGE) & (table["p without"] > LARGE)]
    if len(only) != 1:
        return "No single task carries what association there is."
    task, row = only.index[0], only.iloc[0]
    return (
        f"What association there is, {task} alone carries: its mean ρ is {row['alone']:+.2f} (p = {row['p alone']:.2g}), that "
        f"of the other tasks together {row['without']:+.2f} (p = {row['p without']:.2g})."
    )


def outcomes(accuracy: Array, performance: Array) -> dict[str, Array]:
    """Of the most accurate of K RMs, for LM performances (draws, K, P); each of shape (draws, P).

    ``rank``; ``not_first``; ``place`` (0 first, 1 last); ``regret_sd``: regret in standard deviations of the pair's K values;
    ``thirds_sd``: mean of the middle third by accuracy minus that of the top third, in the same unit. Of all K,
    ``spearman``: ρ of accuracy and LM performance; ``spearman_upper``: without the least accurate third.
    """
    top, (_, middle, most), y = int(accuracy.argmax()), thirds(accuracy), performance
    rank, spread = 1 + (y > y[:, top : top + 1]).sum(axis=1), y.std(axis=1, ddof=1)
    upper = np.concatenate([middle, most])
    return {
        "rank": rank,
        "not_first": rank > 1,
        "place": (rank - 1) / (len(accuracy) - 1),
        "regret_sd": (y.max(axis=1) - y[:, top]) / spread,
        "thirds_sd": (y[:, middle].mean(axis=1) - y[:, most].mean(axis=1)) / spread,
        "spearman": _rank_correlations(accuracy, y),
        "spearman_upper": _rank_correlations(accuracy[upper], y[:, upper]),
    }


def _rank_correlations(accuracy: Array, performance: Array) -> Array:
    """Spearman's ρ of ``accuracy`` (K,) with each column of ``performance`` (draws, K, P), (draws, P); 0 without spread."""
    a, y = stats.rankdata(accuracy), stats.rankdata(performance, axis=1)
    a, y = a - a.mean(), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((a @ a) * (y**2).sum(axis=1))
    together = np.einsum("k,dkp->dp", a, y)
    return np.divide(together, scale, out=np.zeros_like(together), where=scale > 0)


def _spread(values: Array) -> dict[str, float]:
    """The observed value, which stands first, and mean and middle 95 % of the others."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"observed": float(values[0]), "mean": float(values[1:].mean()), "low": float(low), "high": float(high)}


def _tails(values: Array) -> dict[str, float]:
    observed, drawn, small = values[0], values[1:], 1e-12  # sums of the same numbers in another order are equal
    beyond = {"p": drawn >= observed - small, "p_low": drawn <= observed + small}
    return {name: (1 + int(found.sum())) / (1 + drawn.size) for name, found in beyond.items()}


def corrected(joint: pd.DataFrame) -> pd.Series:
    """p of two families of tests after Holm's correction for their number; NaN for a statistic that is not tested.

    One-sided, six: whether the statistics of :data:`FAILURE` are larger than each world shows. Two-sided, two: whether the mean
    correlations of :data:`ASSOCIATION` are further from 0 than where accuracy is irrelevant.
    """
    failure, association = [(null, name) for null in NULLS for name in FAILURE], [(NULLS[0], name) for name in ASSOCIATION]
    tails = joint.loc[association, ["p", "p_low"]].to_numpy()
    p = pd.Series(np.nan, joint.index)
    p[failure] = statistics.holm(joint.loc[failure, "p"].tolist())
    p[association] = statistics.holm([statistics.two_sided(above, below) for above, below in tails])
    return p


def conclusion(joint: pd.DataFrame) -> str:
    """What ``joint`` of :func:`chance` says, where a corrected p ≤ :data:`LARGE` counts: whether the most accurate RM fails, or
    moderate accuracy leads, beyond a world; whether accuracy and LM performance go together; and what follows of the two."""
    clear = joint["corrected"] <= LARGE
    beyond = [null for null in NULLS if clear[null][FAILURE].any()]
    whole, upper = (np.sign(joint["observed"]) * clear)[NULLS[0]][ASSOCIATION]
    stands = "is within what one run for each RM shows anyway"
    if "irrelevant" in beyond:
        stands = "is more than noise of single runs explains"
    elif "as measured" in beyond:
        stands = "is more than an effect as strong as measured explains, unless it levels off"
    tends = {sign: f"{who} accurate RMs tend to have better policies" for sign, who in ((1, "more"), (-1, "less"))}
    tends[0] = "no association with accuracy is clear"
    if "irrelevant" in beyond or min(whole, upper) < 0:
        follows = "evidence that less accuracy can be better" + (", and evidence against it" if max(whole, upper) > 0 else "")
    elif upper > 0:
        follows = "no evidence that less accuracy is better, and evidence against it"
    elif whole > 0:
        follows = (
            "no evidence that less accuracy is better. They are some evidence that low accuracy is worse, and little evidence, "
            "either way, on moderate against high accuracy"
        )
    else:
        follows = "no evidence that less accuracy is better, and little evidence against it"
    return (
        f"How far the most accurate RM falls short, or the middle third leads the top third, {stands}. Over the whole range of "
        f"accuracy {tends[whole]}; without the least accurate third {tends[upper]}. So the points are {follows}."
    )


# --- the training curves ------------------------------------------------------------------------------------------------


def variance_parts(step: Array, value: Array) -> dict[str, float]:
    """Variance of a curve's points (shape (n,), ordered by ``step``), and its shares of trend, slow change and noise.

    ``noise``: ½ · mean of squared successive differences (von Neumann et al. 1941, *Ann. Math. Statist.* 12:153–162);
    ``trend``: variance of the least-squares line in ``step``; ``slow``: what is left. Shares sum to 1.
    """
    total, trend = float(value.var()), float(np.corrcoef(step, value)[0, 1] ** 2)
    noise = min(float((np.diff(value) ** 2).mean()) / 2 / total, 1 - trend)
    return {"mean": float(value.mean()), "variance": total, "trend": trend, "slow": 1 - trend - noise, "noise": noise}


def smooth(step: Array, value: Array) -> Array:
    """A curve's slow course at its points: means weighted by a Gaussian of standard deviation 0.04 × range of ``step``."""
    weights = np.exp(-0.5 * ((step[:, None] - step) / (0.04 * np.ptp(step))) ** 2)
    return weights @ value / weights.sum(axis=1)


def curve_variances(curves: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """:func:`variance_parts` of each curve (a row), with ``mean_bar`` and ``variance_bar``, what the paper's bars say."""
    key = [*PAIR, "metric", "rm_role"]
    rows = [
        dict(zip(key, names, strict=True)) | variance_parts(curve["step"].to_numpy(), curve["value"].to_numpy())
        for names, curve in curves.sort_values("step", kind="stable").groupby(key, sort=False)
    ]
    return training[[*key, "mean_bar", "variance_bar"]].merge(pd.DataFrame(rows), on=key)
