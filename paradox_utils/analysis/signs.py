"""What along a run tells that it is being hacked, how early, and what stopping on it would save. Imports no torch.

A *sign* is a column of a run's curve that needs no truth, so that anyone can watch it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from paradox_utils.analysis import statistics
from paradox_utils.analysis.comparison import UNKNOWN
from paradox_utils.analysis.overoptimisation import WINDOW
from paradox_utils.analysis.statistics import Array
from paradox_utils.data.tasks import TASKS

SIGNS = {
    "length": "length",
    "entropy": "entropy",
    "kl": "KL from the reference policy",
    "repetition": "repeated bigrams",
    "sampled_unfinished": "unfinished responses",
    "reward_mean": "reward paid (part of what hacked means)",
    "reward_per_segment": "reward paid per segment (part of it)",
    "reward_variance": "variance of the reward within prompts",
    "disagreement": "disagreement of a second reward model",
}
# What hacked itself is measured by, and what only runs with a second reward model have: not compared with the others.
APART = ("reward_mean", "reward_per_segment", "disagreement")
BEFORE = {
    "stress_error_share": "errors called too many",
    "stress_confidence": "confidence",
    "stress_confidence_wrong": "confidence where it is wrong",
    "stress_length_correlation": "correlation with length",
    **{f"stress_{form}_excess": f"overpayment of {form} text" for form in ("repeated", "long", "unfinished")},
    **{f"stress_{form}_calibration": f"calibration on {form} text" for form in ("plain", "repeated", "long", "unfinished")},
    "rm_error_share": "share of segments called errors",
}
ALIKE = 0.01  # by which a sign's AUC may be nearer to 0.5 than the best one's to tell as well
THRESHOLDS = 20  # tried in each direction, at quantiles of what was seen


def changes(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves with every sign as its change since the first rollout, averaged over the last :data:`WINDOW` updates so far,
    and ``true``, the mean true return averaged alike; without signs that no run has."""
    table = curves.sort_values(["id", "update"]).copy()
    if "segments" in table:
        table["reward_per_segment"] = table["reward_mean"] / table["segments"]
    known = [sign for sign in SIGNS if sign in table and table[sign].notna().any()]
    by_run = table.groupby("id")
    moved = table[known] - by_run[known].transform("first")
    moved["true"] = table["true_reward_mean"]
    means = moved.groupby(table["id"]).rolling(WINDOW, min_periods=1).mean().droplevel(0)
    return pd.concat([table[["id", "update"]], means.reindex(table.index)], axis=1)


def auc(values: Array, positive: Array) -> float:
    """Share of (positive, other) pairs in which the positive one's value is higher, equals half (Mann & Whitney 1947); NaN
    without one of either."""
    if positive.all() or not positive.any():
        return float("nan")
    pairs = int(positive.sum()) * int((~positive).sum())
    return float(mannwhitneyu(values[positive], values[~positive], method="asymptotic").statistic / pairs)


def early(runs: pd.DataFrame, moved: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """AUC of each sign by update, (update × sign): pairs of a hacked run and another one of its ``cell`` that both have the
    sign, all cells together, as far as every cell with such a pair goes. ``runs``: with ``id`` and ``hacked``; ``moved``: of
    :func:`changes`."""
    table = moved.merge(runs.dropna(subset=["hacked"])[["id", "hacked", *cell]], on="id")
    known = [sign for sign in SIGNS if sign in moved]
    paired = table.groupby(cell).filter(lambda own: own["hacked"].nunique() > 1)
    if len(paired):
        paired = paired[paired["update"] <= paired.groupby(cell)["update"].max().min()]
    rows = {update: {sign: _within(now, sign, cell) for sign in known} for update, now in paired.groupby("update")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=known).rename_axis("update")


class Telling(NamedTuple):
    """Which signs tell hacked runs: those ``alike`` best at the last update, the best first with its AUC there (``at_end``),
    and the one that tells most a quarter of the way (``first``), at the update ``quarter``, with its AUC there (``early``)."""

    alike: list[str]
    at_end: float
    first: str
    early: float
    quarter: int


def telling(early: pd.DataFrame) -> Telling | None:
    """What tells hacked runs, of the signs of :func:`early` but those :data:`APART`; None where none is known."""
    own = early.drop(columns=[*APART], errors="ignore")
    last = own.tail(1).dropna(axis=1)
    if last.empty:
        return None
    clear = (last.iloc[0] - 0.5).abs().sort_values(ascending=False, kind="stable")
    alike = [str(sign) for sign in clear.index[clear >= clear.iloc[0] - ALIKE]]
    then = own.loc[: own.index[0] + (own.index[-1] - own.index[0]) / 4, last.columns].iloc[-1]
    first = str((then - 0.5).abs().idxmax())
    return Telling(alike, float(last[alike[0]].iloc[0]), first, float(then[first]), int(then.name))


def _within(table: pd.DataFrame, sign: str, cell: list[str]) -> float:
    """The mean AUC over cells, by their numbers of pairs; NaN without a pair."""
    parts = [(own[sign].to_numpy(float), own["hacked"].to_numpy(bool)) for _, own in table.dropna(subset=[sign]).groupby(cell)]
    pairs = [int(hacked.sum()) * int((~hacked).sum()) for _, hacked in parts]
    if not any(pairs):
        return float("nan")
    return float(np.average([auc(*part) for part, n in zip(parts, pairs, strict=True) if n], weights=[n for n in pairs if n]))


def before(runs: pd.DataFrame) -> pd.DataFrame:
    """How well each measure of a reward model before PPO tells the hacked of one cell's ``runs``: its AUC in the ``first`` half
    of trainings, by which rows are ordered (the farthest from 0.5 first), and in the ``second`` half, with the p of Mann &
    Whitney's test there, one-sided in the direction of the first. Only the first row's p is a test: the others were not chosen
    beforehand. A run without a measure does not count for it; measures that cannot be told in the first half have no row."""
    known = runs.dropna(subset=["hacked"])
    order = known["rm_seed"].rank(method="dense")
    halves = [known[order <= order.max() / 2], known[order > order.max() / 2]]
    rows = {}
    for name in [name for name in BEFORE if name in known]:
        parts = [(own[name].to_numpy(float), own["hacked"].to_numpy(bool)) for own in (h.dropna(subset=[name]) for h in halves)]
        first, second = (auc(*part) for part in parts)
        if np.isfinite(first):
            values, hacked = parts[1]
            way: Literal["greater", "less"] = "greater" if first > 0.5 else "less"
            p = mannwhitneyu(values[hacked], values[~hacked], alternative=way).pvalue if np.isfinite(second) else np.nan
            rows[name] = {"first": first, "second": second, "p": float(p)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["first", "second", "p"]).rename_axis("measure")
    return table.loc[(table["first"] - 0.5).abs().sort_values(ascending=False, kind="stable").index]


def stopped(paths: Array, true: Array, threshold: float) -> Array:
    """The true return of each run at the first update where its path exceeds the threshold, else at its last one; (runs,) of
    (runs, updates) each."""
    over = paths > threshold
    at = np.where(over.any(axis=1), over.argmax(axis=1), true.shape[1] - 1)
    return true[np.arange(len(true)), at]


def best_threshold(paths: Array, true: Array) -> float:
    """Of :data:`THRESHOLDS` quantiles of each run's largest value, and never (infinity), the one by which stopping is best on
    average; of equals the highest, which stops the fewest."""
    tried = [np.inf, *np.quantile(paths.max(axis=1), np.linspace(1, 0, THRESHOLDS))]
    return float(max(tried, key=lambda one: (round(float(stopped(paths, true, one).mean()), 12), one)))


def saved(runs: pd.DataFrame, moved: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """What a stop rule on each sign saves, a row a sign, in what one good segment is paid: ``gain`` in true return a run (mean
    over trainings with Student's interval), the means over hacked and over other runs (``on hacked``, ``on other``), and the
    shares of ``hacked`` and of ``other`` runs that it stops before the end.

    Only cells with a hacked run and another one count: of the rest nothing can be learnt. The direction in which a sign tells
    (that of its AUC at the end) and the threshold are the best on the other half of each cell's trainings (the first and the
    second, as in :func:`before`), the threshold in the same cell.
    """
    late = runs.groupby(cell)["rm_seed"].rank(method="dense", pct=True) > 0.5
    known = runs.assign(late=late).dropna(subset=["hacked"])
    known = known.groupby(cell).filter(lambda own: own["hacked"].nunique() > 1)
    rows = {}
    for sign in [name for name in SIGNS if name in moved]:
        parts = [_empty()]
        for late in (False, True):
            paid, chosen = (known[known["late"] == half] for half in (late, not late))
            told = early(chosen, moved[[*("id", "update", "true"), sign]], cell)
            way = -1.0 if len(told) and told[sign].iloc[-1] < 0.5 else 1.0
            parts += [_paid(own, chosen, moved, sign, way, cell) for _, own in paid.groupby(cell)]
        found = pd.concat(parts)
        gain = statistics.mean_interval(found.groupby(["task", "rm_seed"])["gain"].mean()) if len(found) else UNKNOWN
        row = {"gain": gain.estimate, "low": gain.low, "high": gain.high}
        hacked = found["hacked"].astype(bool)
        for name, own in (("hacked", found[hacked]), ("other", found[~hacked])):
            row |= {f"on {name}": own["gain"].mean(), name: own["stopped"].mean()}
        rows[sign] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("sign")


def _paid(own: pd.DataFrame, chosen: pd.DataFrame, moved: pd.DataFrame, sign: str, way: float, cell: list[str]) -> pd.DataFrame:
    """Of one cell's runs, what stopping on the sign gains, by the threshold best for those of ``chosen`` in that cell; empty
    without one."""
    same = chosen[(chosen[cell] == own[cell].iloc[0]).all(axis=1)]
    (runs, paths, true), (_, before, earned) = (_paths(part, moved, sign, way) for part in (own, same))
    if not len(before):
        return _empty()
    bar = best_threshold(before, earned)
    gain, ended = stopped(paths, true, bar) - true[:, -1], (paths > bar)[:, :-1].any(axis=1)
    return runs[["task", "rm_seed", "hacked"]].assign(gain=gain / TASKS[own["task"].iloc[0]].reward_size, stopped=ended)


def _paths(runs: pd.DataFrame, moved: pd.DataFrame, sign: str, way: float) -> tuple[pd.DataFrame, Array, Array]:
    """Of the runs that have the sign at every update: they, its paths times ``way``, and true returns, (runs, updates)."""
    own = moved[moved["id"].isin(runs["id"])]  # other cells may have more updates
    wide = {name: own.pivot(index="id", columns="update", values=name).reindex(runs["id"]) for name in (sign, "true")}
    known = (wide[sign].notna() & wide["true"].notna()).all(axis=1).to_numpy()
    return runs[known], way * wide[sign][known].to_numpy(), wide["true"][known].to_numpy()


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=float) for name in ("task", "rm_seed", "hacked", "gain", "stopped")})
