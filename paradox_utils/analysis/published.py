"""What the paper's figures say as numbers: clusters of accuracy, drawn surfaces, chance, and what training curves mix.

Reads the tables of ``book/published`` (see its README); imports no torch. A *pair* is a policy and a task; its reward models
(RMs) are the markers of one figure. The policies of a task were trained against the same RMs, so pairs are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.interpolate import griddata

from paradox_utils.analysis.statistics import Array, rank_correlation, regret
from paradox_utils.data.tasks import TASKS

POLICIES = ("T5-small", "T5-base", "T5-large")
SHARES = ("relevance", "factuality")  # LM performance is a share, at most 1; completeness is a mean score
RESOLUTION = 0.01  # accuracies closer than this count as one
GRID = 100  # points a side of the drawn surfaces
FEWEST = 4  # RMs of a pair: a surface through all but one needs three

TABLES = {  # file: the columns that are read
    "published_lm_performance.csv": ("policy", "task", "rm_step", "rm_accuracy", "lm_performance"),
    "published_lm_headline.csv": ("policy", "task", "surface_max", "fig2d_best_step"),
    "published_training_summary.csv": ("policy", "task", "rm_role", "metric", "mean_bar", "variance_bar"),
    "published_training_curves.csv.gz": ("policy", "task", "rm_role", "metric", "step", "value"),
}
LABELS = ("policy", "task", "rm_role", "metric")  # every other column is a number
NULLS = ("irrelevant", "as measured")
JOINT = ("not_first", "place", "regret_sd", "thirds_sd", "spearman", "spearman_upper")  # taken over all pairs


class PublishedError(ValueError):
    """A published table that is missing or malformed; the message says which, and what to do."""


@dataclass(frozen=True)
class Tables:
    """The four tables: a row a marker, a pair, a bar, and a point of a training curve."""

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
    """What two null worlds would show: a row a pair and null (``pairs``), and a row a statistic and null (``joint``)."""

    pairs: pd.DataFrame
    joint: pd.DataFrame


def load_published(folder: Path | str) -> Tables:
    """The tables of ``folder``; raises :class:`PublishedError` for a missing file or column, or a value that is no number."""
    tables = Tables(*(_table(Path(folder) / name, columns) for name, columns in TABLES.items()))
    for task, rows in tables.markers.groupby("task"):
        models = {
            tuple(map(tuple, pair[["rm_step", "rm_accuracy"]].sort_values("rm_step").to_numpy()))
            for _, pair in rows.groupby("policy")
        }
        if len(models) > 1 or rows.duplicated(["policy", "rm_step"]).any():
            raise PublishedError(f"{folder}: the markers of {task} name other RMs for one policy than for another")
    for policy, task, rows in pairs(tables.markers):
        if len(rows) < FEWEST or (rows[["rm_accuracy", "lm_performance"]].nunique() < 2).any():
            needs = f"at least {FEWEST} RMs, of different accuracy and LM performance"
            raise PublishedError(f"{folder}: {policy}, {task}: {len(rows)} RMs; what is said of them needs {needs}")
    return tables


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise PublishedError(
            f"{path}: cannot be read ({error.strerror or error}); it belongs to the folder of tables"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path}: is no table ({' '.join(str(error).split())}); restore it from the repository") from error
    if absent := [column for column in columns if column not in table]:
        raise PublishedError(f"{path}: lacks the column {', '.join(absent)}; restore it from the repository")
    for column in (column for column in columns if column not in LABELS):
        numbers = pd.to_numeric(table[column], errors="coerce")
        if len(bad := table.index[~np.isfinite(numbers)]):
            raise PublishedError(f"{path}: line {bad[0] + 2}: {column} = {table.loc[bad[0], column]!r} is no number")
        table[column] = numbers
    return table


def pairs(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Policy, task and rows of each pair that ``table`` has, in the paper's order."""
    for policy in POLICIES:
        for task in TASKS:
            rows = table[(table["policy"] == policy) & (table["task"] == task)]
            if len(rows):
                yield policy, task, rows


# --- accuracies and ranks -----------------------------------------------------------------------------------------------


def clusters(markers: pd.DataFrame) -> pd.DataFrame:
    """How the accuracies of a task's RMs lie, a row a task (the policies share them).

    ``distinct``: values left after rounding to :data:`RESOLUTION`; ``top_quarter``, ``middle_half``: share of the RMs in the
    top quarter and the middle half of the range ``low`` to ``high``; ``top_low``: the least accuracy in that quarter;
    ``gap_low`` to ``gap_high``: the widest empty stretch.
    """
    rows = []
    for task in (task for task in TASKS if (markers["task"] == task).any()):
        accuracy = np.sort(markers[markers["task"] == task].drop_duplicates("rm_step")["rm_accuracy"].to_numpy(float))
        low, high = accuracy[0], accuracy[-1]
        place = (accuracy - low) / (high - low)
        widest = int(np.argmax(np.diff(accuracy)))
        rows.append(
            {
                "task": task,
                "models": accuracy.size,
                "low": low,
                "high": high,
                "distinct": np.unique(np.round(accuracy / RESOLUTION)).size,
                "top_quarter": float((place >= 0.75).mean()),
                "top_low": accuracy[place >= 0.75][0],
                "middle_half": float(((place > 0.25) & (place < 0.75)).mean()),
                "gap_low": accuracy[widest],
                "gap_high": accuracy[widest + 1],
            }
        )
    return pd.DataFrame(rows)


def standing(markers: pd.DataFrame) -> pd.DataFrame:
    """The most accurate RM (``top_*``) and the one with the best policy (``best_*``) among their peers, a row a pair.

    Ranks count from 1, equal values share the best rank. ``regret`` is the best LM performance minus the most accurate RM's.
    ``*_third``: mean LM performance of the thirds by accuracy, which no look at LM performance has chosen; ``*_third_accuracy``
    their mean accuracies.
    """
    rows = []
    for policy, task, models in pairs(markers):
        a, y, step = (models[name].to_numpy(float) for name in ("rm_accuracy", "lm_performance", "rm_step"))
        top, best = int(a.argmax()), int(y.argmax())
        row = {"policy": policy, "task": task, "models": a.size, "spearman": rank_correlation(a, y), "regret": regret(a, y)}
        for name, i in (("top", top), ("best", best)):
            row |= {f"{name}_step": int(step[i]), f"{name}_accuracy": a[i], f"{name}_performance": y[i]}
        row |= {"top_rank": 1 + int((y > y[top]).sum()), "best_accuracy_rank": 1 + int((a > a[best]).sum())}
        for name, members in zip(("low", "middle", "top"), thirds(a), strict=True):
            row |= {f"{name}_third": y[members].mean(), f"{name}_third_accuracy": a[members].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def thirds(accuracy: Array) -> list[Array]:
    """Indices of the least, the middling and the most accurate third; a remainder goes to the lower ones."""
    return np.array_split(np.argsort(accuracy, kind="stable"), 3)


# --- the drawn surfaces -------------------------------------------------------------------------------------------------


def surface(models: pd.DataFrame, points: int = GRID, rescale: bool = False) -> Surface:
    """The surface through a pair's markers as the released plotting script draws it.

    ``scipy.interpolate.griddata`` with ``method="cubic"`` (Clough–Tocher on a Delaunay triangulation) of LM performance over
    step and accuracy, on a grid of ``points`` a side that spans the data; ``rescale`` brings both axes to length 1 first.
    """
    at, y = models[["rm_step", "rm_accuracy"]].to_numpy(float), models["lm_performance"].to_numpy(float)
    steps, accuracies = (np.linspace(low, high, points) for low, high in zip(at.min(axis=0), at.max(axis=0), strict=True))
    return Surface(steps, accuracies, griddata(at, y, tuple(np.meshgrid(steps, accuracies)), method="cubic", rescale=rescale))


def left_out_errors(models: pd.DataFrame) -> tuple[float, float, int]:
    """How well a surface foretells a marker that it was not drawn through.

    Root mean squared error of the surface through all other markers and of their mean, and the number of markers it is taken
    over: those inside the hull of the others (NaN where there are none).
    """
    at, y = models[["rm_step", "rm_accuracy"]].to_numpy(float), models["lm_performance"].to_numpy(float)
    errors = []
    for i in range(y.size):
        others = np.arange(y.size) != i
        drawn = griddata(at[others], y[others], at[i : i + 1], method="cubic")[0]
        errors.append((drawn - y[i], y[others].mean() - y[i]))
    kept = np.array([pair for pair in errors if np.isfinite(pair[0])])
    if not kept.size:
        return float("nan"), float("nan"), 0
    return *(float(e) for e in np.sqrt((kept**2).mean(axis=0))), len(kept)


def peaks(markers: pd.DataFrame, headline: pd.DataFrame) -> pd.DataFrame:
    """Where each drawn surface peaks, against its markers and against the recorded maximum (a row a pair).

    ``difference``: redrawn minus recorded maximum. ``overshoot``: peak minus highest marker. ``above``: share of the drawn grid
    that is higher than every marker. ``near``: RMs whose accuracy is within :data:`RESOLUTION` of the peak's. ``nearest_*``:
    the RM nearest to the peak with both axes scaled to unit length. ``rescaled``: the maximum if the axes are scaled before
    triangulation. ``impossible``: above 1 where a share is drawn. ``error_*``: :func:`left_out_errors`.
    """
    recorded = headline.set_index(["policy", "task"])["surface_max"]
    rows = []
    for policy, task, models in pairs(markers):
        drawn, y = surface(models), models["lm_performance"].to_numpy(float)
        step, accuracy, height = drawn.peak
        at = models[["rm_step", "rm_accuracy"]].to_numpy(float)
        nearest = int(np.hypot(*((at - (step, accuracy)) / np.ptp(at, axis=0)).T).argmin())
        error_surface, error_mean, foretold = left_out_errors(models)
        rows.append(
            {
                "policy": policy,
                "task": task,
                "peak": height,
                "difference": height - float(recorded.get((policy, task), np.nan)),
                "peak_step": step,
                "peak_accuracy": accuracy,
                "highest_marker": y.max(),
                "overshoot": height - y.max(),
                "above": float((drawn.values > y.max()).sum() / np.isfinite(drawn.values).sum()),
                "near": int((np.abs(at[:, 1] - accuracy) <= RESOLUTION).sum()),
                "nearest_step": int(at[nearest, 0]),
                "nearest_accuracy": at[nearest, 1],
                "nearest_performance": y[nearest],
                "rescaled": surface(models, rescale=True).peak[2],
                "impossible": task in SHARES and height > 1,
                "error_surface": error_surface,
                "error_mean": error_mean,
                "foretold": foretold,
            }
        )
    return pd.DataFrame(rows)


# --- what chance would show ---------------------------------------------------------------------------------------------


def permuted(performance: Array, draws: int, random: np.random.Generator) -> Array:
    """LM performances (K RMs, P policies) dealt to the RMs anew, shape (draws, K, P).

    One permutation for all policies: what they share through the RMs stays (a permutation test of blocks).
    """
    order = random.permuted(np.tile(np.arange(len(performance)), (draws, 1)), axis=1)
    return performance[order]


def copula(accuracy: Array, performance: Array, draws: int, random: np.random.Generator) -> Array:
    """LM performances (K RMs, P policies) dealt anew so that they depend on accuracy as much as measured, (draws, K, P).

    A Gaussian copula: accuracies become normal scores Φ⁻¹((rank − ½) / K), and the latent performances of the policies are
    normal given them, with Pearson's r = 2 sin(π ρ / 6) for each measured Spearman ρ, also between policies (Kruskal 1958,
    *JASA* 53:814–861). The RM of the k-th latent performance gets the k-th measured one, so the values stay as they are. What
    accuracy does not determine is noise here: seeds, taking a maximum, and real differences of RMs that accuracy does not see.
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


def misses(spearman: Array, models: int, draws: int, seed: int = 0) -> Array:
    """Probability that the most accurate of ``models`` RMs does not have the best policy, for each true Spearman ρ.

    The Gaussian copula of :func:`copula` for one policy, without ties; (models − 1) / models for ρ = 0.
    """
    scores = stats.norm.ppf((np.arange(models) + 0.5) / models)
    noise = np.random.default_rng(seed).standard_normal((draws, models))
    r = 2 * np.sin(np.pi * np.asarray(spearman, dtype=float) / 6)
    return np.array([float(((c * scores + np.sqrt(max(1 - c * c, 0)) * noise).argmax(axis=1) != models - 1).mean()) for c in r])


def chance(markers: pd.DataFrame, draws: int, seed: int) -> Chance:
    """What is seen of the most accurate RM, against worlds in which accuracy is irrelevant, or matters as much as measured.

    ``pairs``: ``not_first`` is the probability that the most accurate RM is not first; ``rank_*`` and ``regret_*`` are observed
    value, mean, and middle 95 % in that world; ``p`` the probability of a regret (so of a rank) as large as observed.
    ``joint``: the same of statistics over all pairs, sums for ``not_first`` and means for the others (see :func:`outcomes`).
    All pairs of a task are drawn together, so what they share through the RMs stays. ``p``, ``p_low``: probability of a value
    at least, at most as large as observed, (1 + #) / (1 + draws) (Davison & Hinkley 1997, section 4.2).
    """
    random, rows, parts = np.random.default_rng(seed), {}, {null: [] for null in NULLS}
    for task in (task for task in TASKS if (markers["task"] == task).any()):
        wide = markers[markers["task"] == task].pivot(
            index=["rm_step", "rm_accuracy"], columns="policy", values="lm_performance"
        )
        accuracy, y = wide.index.get_level_values("rm_accuracy").to_numpy(float), wide.to_numpy(float)
        worlds = (permuted(y, draws, random), copula(accuracy, y, draws, random))
        for null, world in zip(NULLS, worlds, strict=True):
            seen, drawn = outcomes(accuracy, y[None]), outcomes(accuracy, world)
            parts[null].append((seen, drawn))
            for j, policy in enumerate(wide.columns):
                row = {"policy": policy, "task": task, "null": null, "not_first": float(drawn["not_first"][:, j].mean())}
                for name in ("rank", "regret", "regret_sd"):
                    found = _compare(seen[name][:, j], drawn[name][:, j])
                    row |= {f"{name}_{key}": found[key] for key in ("observed", "mean", "low", "high")} | {"p": found["p"]}
                rows[policy, task, null] = row
    joint = []
    for null in NULLS:
        for name in JOINT:
            combine = np.sum if name == "not_first" else np.mean
            seen, drawn = (combine(np.hstack([part[i][name] for part in parts[null]]), axis=1) for i in (0, 1))
            joint.append({"null": null, "statistic": name} | _compare(seen, drawn))
    order = [(policy, task, null) for policy, task, _ in pairs(markers) for null in NULLS]
    return Chance(pd.DataFrame([rows[key] for key in order]), pd.DataFrame(joint))


def outcomes(accuracy: Array, performance: Array) -> dict[str, Array]:
    """Of the most accurate of K RMs, for LM performances (draws, K, P); each of shape (draws, P).

    ``not_first``; ``rank``; ``place`` (0 first, 1 last); ``regret``, and ``regret_sd`` in standard deviations of the pair's K
    values; ``thirds_sd``: mean of the middle third by accuracy minus that of the top third, in the same unit. Of all K,
    ``spearman``: ρ of accuracy and LM performance; ``spearman_upper``: without the least accurate third.
    """
    top, (_, middle, most), y = int(accuracy.argmax()), thirds(accuracy), performance
    rank, lost, spread = 1 + (y > y[:, top : top + 1]).sum(axis=1), y.max(axis=1) - y[:, top], y.std(axis=1, ddof=1)
    contrast = (y[:, middle].mean(axis=1) - y[:, most].mean(axis=1)) / spread
    place = (rank - 1) / (len(accuracy) - 1)
    upper = np.concatenate([middle, most])
    return {
        "not_first": rank > 1,
        "rank": rank,
        "place": place,
        "regret": lost,
        "regret_sd": lost / spread,
        "thirds_sd": contrast,
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


def _compare(observed: Array, simulated: Array) -> dict[str, float]:
    value, n, small = float(observed[0]), simulated.size, 1e-12  # sums of the same numbers in another order are equal
    low, high = np.quantile(simulated, (0.025, 0.975))
    p, p_low = ((1 + int(beyond.sum())) / (1 + n) for beyond in (simulated >= value - small, simulated <= value + small))
    return {"observed": value, "mean": float(simulated.mean()), "low": float(low), "high": float(high), "p": p, "p_low": p_low}


# --- the training curves ------------------------------------------------------------------------------------------------


def variance_parts(step: Array, value: Array) -> dict[str, float]:
    """Variance of a curve's points (shape (n,), ordered by ``step``), and its shares of trend, slow change and noise.

    ``noise``: ½ · mean of squared successive differences, which a level that moves slowly leaves alone (von Neumann et al.
    1941, *Ann. Math. Statist.* 12:153–162); ``trend``: variance of the least-squares line in ``step``; ``slow``: what is left.
    Shares sum to 1. A quick move of the level counts as noise; a line fits noise too, by about 1/n of it. Raises ``ValueError``
    for fewer than 3 points, or where steps or values do not differ.
    """
    x, y = np.asarray(step, dtype=float), np.asarray(value, dtype=float)
    if y.size < 3 or np.ptp(x) == 0 or (np.diff(x) < 0).any() or np.ptp(y) == 0:
        raise ValueError(f"a curve of {y.size} points: need at least 3 in order of their steps, and values that differ")
    total = float(y.var())
    trend = float(np.corrcoef(x, y)[0, 1] ** 2)
    noise = min(float((np.diff(y) ** 2).mean()) / 2 / total, 1 - trend)
    return {"mean": float(y.mean()), "variance": total, "trend": trend, "slow": 1 - trend - noise, "noise": noise}


def smooth(step: Array, value: Array, width: float = 0.04) -> Array:
    """A curve's slow course at its points: means weighted by a Gaussian of standard deviation ``width`` × range of ``step``."""
    x, y = np.asarray(step, dtype=float), np.asarray(value, dtype=float)
    weights = np.exp(-0.5 * ((x[:, None] - x) / (width * np.ptp(x))) ** 2)
    return weights @ y / weights.sum(axis=1)


def curve_variances(curves: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """:func:`variance_parts` of each curve (a row), with ``mean_bar`` and ``variance_bar``, what the paper's bars say."""
    bars = training.set_index(list(LABELS))[["mean_bar", "variance_bar"]]
    rows = []
    for policy, task, both in pairs(curves):
        for (metric, role), curve in both.groupby(["metric", "rm_role"], sort=False):
            curve = curve.sort_values("step", kind="stable")
            key = {"policy": policy, "task": task, "rm_role": role, "metric": metric, "points": len(curve)}
            parts = variance_parts(curve["step"].to_numpy(float), curve["value"].to_numpy(float))
            drawn = bars.reindex([(policy, task, role, metric)]).iloc[0]
            rows.append(key | parts | drawn.astype(float).to_dict())
    return pd.DataFrame(rows)
