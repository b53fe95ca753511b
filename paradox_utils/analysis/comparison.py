"""Families of reward models compared: what accuracy did to LM performance in each, and in several together.

Each measure is one of :mod:`paradox_utils.analysis.statistics` and :mod:`paradox_utils.analysis.inverted_u`; imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paradox_utils.analysis import inverted_u, statistics
from paradox_utils.analysis.tables import (
    READINGS,
    SELECTING,
    STARTS,
    VALIDATION,
    Reading,
    accuracy_kind,
    contrasts,
    reward_models,
    unended,
    usable,
)
from paradox_utils.data.tasks import TASKS

ACCURACY_RESOLUTION = 0.01  # accuracies are distinct if they differ after rounding to this
ALL = "all tasks"
Family = tuple[tuple[str, str, str], pd.DataFrame]  # task, policy and arm, and their runs


@dataclass(frozen=True)
class Comparison:
    """One family of reward models: of a task, policy and arm, or (``task`` :data:`ALL`) of an arm over tasks and policies.

    ``*_top``: the most accurate reward model; ``*_best``: the one with the best policy, after the fact; both averaged over
    trajectories. ``regret``, ``low``, ``high``: cross-fitted over complete trajectories, one common rank selected by the
    others; ``within*``: the same with a rank of its own for each task (pooled only); ``without*``: the same without the
    trajectory ``odd``, whose absence changes the regret most (of at least 4). ``chosen*``: selected by the trajectory's own
    validation questions; NaN where that is not ``separate``: selected on validation questions and paid on test questions.
    ``best_rank``: the best on average, 1 being the most accurate. Shapes (:mod:`paradox_utils.analysis.inverted_u`) need 3
    trajectories; NaN where too little is known.
    """

    task: str
    policy: str
    arm: str
    planned: int  # reward models of the study; pooled, each counts for every policy it trains
    reward_models: int  # of them with an accuracy and a finished PPO run
    unfinished: int  # runs that have not started or not ended, or were killed
    accuracies: int  # distinct ones, in the trajectory with the fewest
    rm_seeds: int  # complete trajectories
    lost: int  # incomplete ones, of a task and policy
    uneven: bool  # tasks or policies with different numbers of ranks, which cannot be pooled
    ppo_seeds: int  # different ones, in all
    accuracy_kind: str  # rm_accuracy, or rm_accuracy_noisy where no clean labels exist
    majority: float
    start: float  # outcome of the initial policy
    spearman: float
    spearman_low: float
    spearman_high: float
    accuracy_top: float
    performance_top: float
    step_top: str
    accuracy_best: float
    performance_best: float
    step_best: str
    regret_after_the_fact: float
    regret: float
    low: float
    high: float
    p_above: float
    p_below: float
    best_rank: int
    within: float
    within_low: float
    within_high: float
    odd: str
    without: float
    without_low: float
    without_high: float
    separate: bool
    chosen: float
    chosen_low: float
    chosen_high: float
    breakpoint: float
    first_slope: float
    second_slope: float
    p_two_lines: float
    turning_point: float
    turning_low: float
    turning_high: float
    turns_inside: bool
    p_quadratic: float


def families(summary: pd.DataFrame) -> list[Family]:
    """The runs of each task, policy and arm in which accuracies differ within a trajectory, in the order of :data:`TASKS`."""
    groups = summary[summary["rm_seed"].notna()].groupby(["arm", "policy", "task"], sort=False)
    found = [((task, policy, arm), runs) for (arm, policy, task), runs in groups if _levels(runs) > 1]
    arms = list(dict.fromkeys(arm for (_, _, arm), _ in found))
    return sorted(found, key=lambda family: (arms.index(family[0][2]), list(TASKS).index(family[0][0])))


def _levels(runs: pd.DataFrame) -> int:
    models = runs.assign(rm_step=runs["rm_step"].fillna(-1)).groupby("rm_seed")[["setting", "rm_step"]]
    return int(models.apply(lambda own: len(own.drop_duplicates())).max())


def compare(
    families: Sequence[Family],
    reading: Reading = "as measured",
    *,
    smallest: float,
    margin: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The comparison of one family, or of several pooled: trajectories of all of them together, each a unit of inference.

    Pooled, trajectories of different tasks are different ones, and one of a task is averaged over the policies it trained (left
    out unless all of them have it). Spearman's correlation is of ranks within families; for shapes accuracies are put on the
    range of their family (0 the least, 1 the most accurate of it).
    """
    parts = [_part(key, runs, reading) for key, runs in families]
    (task, policy, arm), one = families[0][0], len(families) == 1
    tasks = Counter(key[0] for key, _ in families)
    joined, selecting = _joined(parts, tasks)
    known = pd.concat([part.known for part in parts])
    runs = pd.concat([runs for _, runs in families])
    kind = accuracy_kind(runs)
    counted = known[known["cluster"].isin(joined.index)] if len(joined) else known
    rounded = (counted["accuracy"] / ACCURACY_RESOLUTION).round()
    distinct = rounded.groupby([counted["family"], counted["cluster"]]).nunique()
    ranks = known if one else known.groupby("family")[["accuracy", "performance"]].rank(pct=True)
    correlation = statistics.spearman(ranks["accuracy"], ranks["performance"], known["cluster"], resamples=resamples, seed=seed)
    if not one:
        known = known.assign(accuracy=known.groupby("family")["accuracy"].transform(_on_range))
    groups = [group.sort_values(["accuracy", "rm_step"], ascending=False) for _, group in known.groupby(["family", "cluster"])]
    top = pd.DataFrame([group.iloc[0] for group in groups], columns=known.columns)
    best = pd.DataFrame([group.iloc[int(group["performance"].argmax())] for group in groups], columns=known.columns)
    afterwards = [statistics.regret(group["accuracy"], group["performance"]) for group in groups]
    start = STARTS.get(reading, "lm_performance_start")
    return Comparison(
        task=task if one else ALL,
        policy=policy if one else ", ".join(dict.fromkeys(key[1] for key, _ in families)),
        arm=arm,
        planned=sum(part.planned for part in parts),
        reward_models=len(known),
        unfinished=int(unended(runs).sum()),
        accuracies=int(distinct.min()) if len(distinct) else 0,
        rm_seeds=len(joined),
        lost=sum(part.lost for part in parts),
        uneven=_uneven(parts),
        ppo_seeds=int(runs.loc[usable(runs, reading), "ppo_seed"].nunique()),
        accuracy_kind=kind,
        majority=float(runs["rm_majority"].mean()) if one else float("nan"),
        start=float(runs[start].astype(float).mean()) if start in runs else float("nan"),
        spearman=correlation.estimate,
        spearman_low=correlation.low,
        spearman_high=correlation.high,
        accuracy_top=float(top["accuracy"].mean()),
        performance_top=float(top["performance"].mean()),
        step_top=_steps(top["rm_step"]),
        accuracy_best=float(best["accuracy"].mean()),
        performance_best=float(best["performance"].mean()),
        step_best=_steps(best["rm_step"]),
        regret_after_the_fact=float(np.mean(afterwards or [np.nan])),
        **_regrets(joined, selecting, smallest, margin, separate=all(part.separate for part in parts)),
        **_within(parts, tasks),
        **_shapes(known, one),
    )


def unit_contrasts(families: Sequence[Family], reading: Reading = "as measured") -> pd.DataFrame:
    """The units of :func:`compare`, a row each (``TASK RM_SEED``): every rank's outcome minus that of the most accurate (0)."""
    return _joined([_part(key, runs, reading) for key, runs in families], Counter(key[0] for key, _ in families))[0]


@dataclass(frozen=True)
class _Part:
    task: str
    difference: pd.DataFrame
    selecting: pd.DataFrame
    known: pd.DataFrame
    planned: int
    lost: int
    separate: bool


def _part(key: tuple[str, str, str], runs: pd.DataFrame, reading: Reading) -> _Part:
    """Contrasts and reward models of one family, its trajectories labelled by task and seed."""
    models = reward_models(runs, reading)
    difference = contrasts(runs, reading)
    column = SELECTING.get(reading, VALIDATION)
    validated = contrasts(runs, reading, column if column in runs else READINGS[reading])
    # the readings `as published` and `best of n` are on validation questions themselves: nothing separate to select by
    separate = reading not in ("as published", "best of n") and column in runs and len(difference) > 0
    separate = separate and validated.index.equals(difference.index) and validated.shape == difference.shape
    selecting = validated if separate else difference
    label = {seed: f"{key[0]} {seed:g}" for seed in models["rm_seed"].unique()}
    known = models.dropna(subset=["accuracy", "performance"]).assign(family=" ".join(key))
    known = known.assign(cluster=known["rm_seed"].map(label))
    lost = models["rm_seed"].nunique() - len(difference)
    return _Part(key[0], difference.rename(index=label), selecting.rename(index=label), known, len(models), lost, separate)


def _uneven(parts: Sequence[_Part]) -> bool:
    return len({part.difference.shape[1] for part in parts if len(part.difference)}) > 1


def _joined(parts: Sequence[_Part], tasks: Mapping[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contrasts and selecting contrasts of the units: trajectories of a task that all policies of that task have, averaged."""
    if _uneven(parts) or not any(len(part.difference) for part in parts):
        return pd.DataFrame(), pd.DataFrame()
    stacked = [pd.concat([getattr(part, name) for part in parts]) for name in ("difference", "selecting")]
    sizes = stacked[0].groupby(level=0).size()
    whole = sizes.index[[size == tasks[name.rpartition(" ")[0]] for name, size in sizes.items()]]
    joined, selecting = (table.groupby(level=0).mean().loc[whole] for table in stacked)
    return joined, selecting


def _within(parts: Sequence[_Part], tasks: Mapping[str, int]) -> dict[str, float]:
    """The pooled regret with a rank of its own for each task."""
    by_task = {}
    for task in tasks:
        joined, selecting = _joined([part for part in parts if part.task == task], tasks)
        if len(joined) > 1:
            by_task[task] = statistics.payments(joined, selecting)
    if not by_task:
        return dict.fromkeys(("within", "within_low", "within_high"), float("nan"))
    found = statistics.mean_interval(np.concatenate(list(by_task.values())))
    return {"within": found.estimate, "within_low": found.low, "within_high": found.high}


def _on_range(values: pd.Series) -> pd.Series:
    return (values - values.min()) / (values.max() - values.min()) if np.ptp(values) else values * 0.0


def _regrets(
    joined: pd.DataFrame, selecting: pd.DataFrame, smallest: float, margin: float, separate: bool
) -> dict[str, float | int | bool | str]:
    names = ("regret", "low", "high", "p_above", "p_below", "chosen", "chosen_low", "chosen_high")
    if len(joined) < 2:
        return dict.fromkeys(names, float("nan")) | {"best_rank": 0, "separate": separate} | NONE_ODD
    fitted = statistics.cross_fitted_regret(joined, margin=smallest, selecting=selecting)
    below = statistics.cross_fitted_regret(joined, margin=margin, selecting=selecting).p_below
    own = joined.to_numpy()[np.arange(len(joined)), selecting.to_numpy().argmax(axis=1)]
    chosen = statistics.mean_interval(own if separate else [np.nan])  # else the largest of noisy values
    values = (fitted.interval.estimate, fitted.interval.low, fitted.interval.high, fitted.p_above, below)
    rank = int(joined.mean().to_numpy().argmax()) + 1
    told = dict(zip(names, (*values, chosen.estimate, chosen.low, chosen.high), strict=True))
    return told | {"best_rank": rank, "separate": separate} | _without(joined, selecting, fitted.interval)


NONE_ODD: dict[str, float | str] = {"odd": ""} | dict.fromkeys(("without", "without_low", "without_high"), float("nan"))


def _without(joined: pd.DataFrame, selecting: pd.DataFrame, regret: statistics.Interval) -> dict[str, float | str]:
    """The regret without the trajectory whose absence changes it most, the ends of its interval included."""
    if len(joined) < 4:
        return NONE_ODD
    left = {
        name: statistics.cross_fitted_regret(joined.drop(name), margin=0.0, selecting=selecting.drop(name)).interval
        for name in joined.index
    }

    def change(name: Hashable) -> float:
        own = left[name]
        return abs(own.estimate - regret.estimate) + abs(own.low - regret.low) + abs(own.high - regret.high)

    odd = max(left, key=change)
    return {"odd": odd, "without": left[odd].estimate, "without_low": left[odd].low, "without_high": left[odd].high}


def _shapes(known: pd.DataFrame, one: bool) -> dict[str, float | bool]:
    names = ("breakpoint", "first_slope", "second_slope", "p_two_lines", "turning_point", "turning_low", "turning_high")
    nothing = dict.fromkeys((*names, "p_quadratic"), float("nan")) | {"turns_inside": False}
    if known["cluster"].nunique() < 3 or known["accuracy"].nunique() < 5:
        return nothing
    strata: Sequence[Hashable] | None = None if one else list(known["family"])
    lines = inverted_u.two_lines(known["accuracy"], known["performance"], known["cluster"], strata=strata)
    curve = inverted_u.quadratic(known["accuracy"], known["performance"], known["cluster"], strata=strata)
    values = (lines.breakpoint, lines.first.estimate, lines.second.estimate, lines.p_supported)
    values += (curve.turning_point, curve.turning_low, curve.turning_high)
    return dict(zip(names, values, strict=True)) | {"p_quadratic": curve.p_supported, "turns_inside": bool(curve.turns_inside)}


def _steps(steps: pd.Series) -> str:
    return ", ".join(f"{step:.0f}" for step in sorted(set(steps.dropna())))
