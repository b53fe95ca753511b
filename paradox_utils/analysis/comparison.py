"""Families of reward models compared: what accuracy did to LM performance in each, and in several together.

Each measure is one of :mod:`paradox_utils.analysis.statistics` and :mod:`paradox_utils.analysis.inverted_u`; imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paradox_utils.analysis import inverted_u, statistics
from paradox_utils.analysis.outcomes import READINGS, SELECTING, VALIDATION, Reading, contrasts, reward_models, usable
from paradox_utils.analysis.statistics import Interval, Regret
from paradox_utils.data.tasks import TASKS

ACCURACY_RESOLUTION = 0.01  # accuracies are distinct if they differ after rounding to this
ALL = "all tasks"
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"), 0)
Family = tuple[tuple[str, str, str], pd.DataFrame]  # task, policy and arm, and their runs


@dataclass(frozen=True)
class Counts:
    """What a comparison rests on; pooled, a reward model counts for every policy it trains."""

    planned: int  # reward models of the study
    reward_models: int  # of them with an accuracy and a finished PPO run
    unfinished: int  # runs that have not started or not ended, or were killed
    accuracies: int  # distinct ones, in the trajectory with the fewest
    rm_seeds: int  # complete trajectories
    lost: int  # incomplete ones, of a task and policy
    ppo_seeds: int  # different ones, in all
    uneven: bool  # tasks or policies with different numbers of ranks, which cannot be pooled


@dataclass(frozen=True)
class Further:
    """What is shown beside a regret and decides nothing.

    ``within``: with a rank of its own for each task (:func:`statistics.stratified_regret`). ``without``: without the trajectory
    ``odd``, whose absence changes the regret most (of at least 4). ``chosen``: the gain on the most accurate reward model
    of the one that a trajectory's own validation questions prefer; unknown where there are none beside those it is paid on.
    """

    within: Interval
    without: Interval
    odd: str
    chosen: Interval


@dataclass(frozen=True)
class Comparison:
    """One family of reward models: of a task, policy and arm, or (``task`` :data:`ALL`) of an arm over tasks and policies.

    ``regret``: cross-fitted over complete trajectories, one common rank selected by the others, with the p-values that it is
    not larger (``p_above``) and not smaller (``p_below``) than the margin; ``best_rank``: the best on average, 1 being the
    most accurate. NaN where too little is known; for the shapes with fewer than 3 trajectories.
    """

    task: str
    policy: str
    arm: str
    counts: Counts
    regret: Interval
    p_above: float
    p_below: float
    best_rank: int
    further: Further
    spearman: Interval
    p_two_lines: float
    quadratic: inverted_u.Quadratic


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
    margin: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The comparison of one family, or of several pooled: trajectories of all of them together, each a unit of inference.

    Pooled, a trajectory of a task is averaged over the policies it trained (left out unless all of them have it); Spearman's
    correlation is of ranks within families, and shapes are of accuracies put on the range of their family (0 to 1).
    """
    parts = [_part(key, runs, reading) for key, runs in families]
    (task, policy, arm), one = families[0][0], len(families) == 1
    tasks = Counter(key[0] for key, _ in families)
    joined, selecting = _joined(parts, tasks)
    known = pd.concat([part.known for part in parts])
    ranks = known if one else known.groupby("family")[["accuracy", "performance"]].rank(pct=True)
    regret, best = _regret(joined, selecting, margin)
    p_two_lines, curve = _shape(known, one)
    return Comparison(
        task=task if one else ALL,
        policy=policy if one else ", ".join(dict.fromkeys(key[1] for key, _ in families)),
        arm=arm,
        counts=_counts(parts, known, joined, pd.concat([runs for _, runs in families]), reading),
        regret=regret.interval,
        p_above=regret.p_above,
        p_below=regret.p_below,
        best_rank=best,
        further=Further(
            _within(parts, tasks),
            *_without(joined, selecting, regret.interval),
            _chosen(joined, selecting) if all(part.separate for part in parts) else UNKNOWN,
        ),
        spearman=statistics.spearman(ranks["accuracy"], ranks["performance"], known["cluster"], resamples=resamples, seed=seed),
        p_two_lines=p_two_lines,
        quadratic=curve,
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


def _counts(parts: Sequence[_Part], known: pd.DataFrame, joined: pd.DataFrame, runs: pd.DataFrame, reading: Reading) -> Counts:
    counted = known[known["cluster"].isin(joined.index)] if len(joined) else known
    rounded = (counted["accuracy"] / ACCURACY_RESOLUTION).round()
    distinct = rounded.groupby([counted["family"], counted["cluster"]]).nunique()
    return Counts(
        planned=sum(part.planned for part in parts),
        reward_models=len(known),
        unfinished=int((~runs["ended"]).sum()),
        accuracies=int(distinct.min()) if len(distinct) else 0,
        rm_seeds=len(joined),
        lost=sum(part.lost for part in parts),
        ppo_seeds=int(runs.loc[usable(runs, reading), "ppo_seed"].nunique()),
        uneven=_uneven(parts),
    )


def _regret(joined: pd.DataFrame, selecting: pd.DataFrame, margin: float) -> tuple[Regret, int]:
    """Regret with its p-values against ``margin``, and the rank that is best on average."""
    if len(joined) < 2:
        return Regret(UNKNOWN, float("nan"), float("nan")), 0
    fitted = statistics.cross_fitted_regret(joined, margin=margin, selecting=selecting)
    return fitted, int(joined.mean().to_numpy().argmax()) + 1


def _within(parts: Sequence[_Part], tasks: Mapping[str, int]) -> Interval:
    by_task = [_joined([part for part in parts if part.task == task], tasks) for task in tasks]
    known = [(joined, selecting) for joined, selecting in by_task if len(joined) > 1]
    return statistics.stratified_regret(known) if known else UNKNOWN


def _without(joined: pd.DataFrame, selecting: pd.DataFrame, regret: Interval) -> tuple[Interval, str]:
    if len(joined) < 4:
        return UNKNOWN, ""
    left = {name: _regret(joined.drop(name), selecting.drop(name), margin=0.0)[0].interval for name in joined.index}
    ends = ("estimate", "low", "high")
    odd = max(left, key=lambda name: sum(abs(getattr(left[name], end) - getattr(regret, end)) for end in ends))
    return left[odd], odd


def _chosen(joined: pd.DataFrame, selecting: pd.DataFrame) -> Interval:
    if len(joined) < 2:
        return UNKNOWN
    return statistics.mean_interval(joined.to_numpy()[np.arange(len(joined)), selecting.to_numpy().argmax(axis=1)])


def _shape(known: pd.DataFrame, one: bool) -> tuple[float, inverted_u.Quadratic]:
    """The p-value of the two-lines test, and the quadratic."""
    if not one:
        known = known.assign(accuracy=known.groupby("family")["accuracy"].transform(_on_range))
    if known["cluster"].nunique() < 3 or known["accuracy"].nunique() < 5:
        return np.nan, inverted_u.Quadratic(np.nan, np.nan, np.nan, np.nan, turns_inside=False)
    rows = (known["accuracy"], known["performance"], known["cluster"])
    strata = None if one else list(known["family"])
    return inverted_u.two_lines(*rows, strata=strata).p_supported, inverted_u.quadratic(*rows, strata=strata)


def _on_range(values: pd.Series) -> pd.Series:
    return (values - values.min()) / (values.max() - values.min()) if np.ptp(values) else values * 0.0
