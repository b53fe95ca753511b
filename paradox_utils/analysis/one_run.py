"""One run among those of its study: which one, and from which training its reward model comes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from paradox_utils.analysis.outcomes import accuracy_kind, measured, steps, usable
from paradox_utils.analysis.tables import AnalysisError
from paradox_utils.data.tasks import TASKS


def chosen(summary: pd.DataFrame, point: str = "") -> pd.Series:
    """The row of the run with the id ``point``; without one, of the most accurate reward model of the first training (first
    task, policy, and seeds) of the route ``steps``.

    Raises :class:`AnalysisError` for an id that no row has or whose run has no outcome, and where no run has both an accuracy
    and an outcome.
    """
    if point:
        rows = summary[summary["id"] == point]
        if rows.empty:
            raise AnalysisError(f"point = {point!r}: summary.csv has no such run; copy an id from it, or leave point empty")
        if not usable(rows).any():
            raise AnalysisError(f"point = {point!r}: this run has no outcome ({rows['status'].iloc[0]}); name another")
        return rows.iloc[0]
    runs = steps(summary)
    runs = runs[measured(runs)]
    if runs.empty:
        raise AnalysisError("no finished run of the route steps has a measured accuracy; give the id of a run as point")
    order = ["place", "policy", "rm_seed", "ppo_seed"]
    runs = runs.assign(place=runs["task"].map(list(TASKS).index)).sort_values(order, kind="stable")
    first = runs[(runs[order] == runs[order].iloc[0]).all(axis=1)]
    return first.sort_values([accuracy_kind(summary), "rm_step"]).iloc[-1]


def training(run: pd.Series, checkpoints: pd.DataFrame, parameters: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints of the training that the run's reward model comes from, by step; none for a reward that was not learned.

    ``checkpoints``: a study's ``reward_models.csv``; ``parameters``: of its runs, by id. The run's own is ``rm_step``.
    """
    known = parameters["reward_model"].get(run["id"]) if pd.notna(run["rm_step"]) and "reward_model" in parameters else None
    trained = Path(known).parts[-2:-1] if isinstance(known, str) else ()
    return checkpoints[checkpoints["id"].isin(trained)].sort_values("step")
