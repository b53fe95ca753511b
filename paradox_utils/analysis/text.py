"""What PPO does to answers, segment by segment: what is good before and after, and what the reward model pays as if it were."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis import outcomes
from paradox_utils.data.tasks import TASKS

ENDS = ("least accurate", "most accurate")
COLUMNS = ("task", "model", "accuracy", "good start", "good final", "paid start", "paid final")


def taught(responses: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What the least and the most accurate reward model of each training teach (route ``steps``), of tasks whose segments have
    labels: a row a task and one of :data:`ENDS`, the columns of :data:`COLUMNS`.

    ``accuracy``: mean over runs; ``good``, ``paid``: shares of segments that are good, and that have a reward above 0,
    pooled over answers (one without a segment counts as one that is neither). Of runs with answers after PPO, and of
    trainings with at least two reward models.
    """
    runs, training, rows = outcomes.steps(summary), ["policy", "rm_seed", "ppo_seed"], []
    final = responses.loc[responses["when"] == "final", "id"]
    runs = runs[outcomes.measured(runs) & runs["id"].isin(final)].drop_duplicates("id")
    kind = outcomes.accuracy_kind(runs)
    for task in (name for name, task in TASKS.items() if not task.pairwise):
        own = runs[runs["task"] == task].sort_values([kind, "rm_step"])
        trainings = own[own.groupby(training)["id"].transform("size") > 1].groupby(training)
        for model, chosen in zip(ENDS, (trainings.head(1), trainings.tail(1)), strict=True):
            row = {"task": task, "model": model, "accuracy": chosen[kind].mean()}
            segments = responses[responses["id"].isin(chosen["id"])].explode(["paid", "judged"])
            for when, said in segments.groupby("when"):
                row |= {f"good {when}": (said["judged"] > 0).mean(), f"paid {when}": (said["paid"] > 0).mean()}
            rows += [row] if len(chosen) else []
    return pd.DataFrame(rows, columns=[*COLUMNS])
