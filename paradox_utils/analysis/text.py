"""What PPO does to answers, segment by segment: what is good before and after, and what the reward model pays as if it were."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis import outcomes
from paradox_utils.analysis.phrases import count
from paradox_utils.data.tasks import TASKS

ENDS = ("least accurate", "most accurate")
COLUMNS = ("task", "model", "accuracy", "majority", "good start", "good final", "paid start", "paid final", "trainings")
CLEAR = 0.05  # shares that differ by less say the same: of so few answers, and of a reward model and one that knows nothing


def taught(responses: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What the least and the most accurate reward model of each training teach (route ``steps``), of tasks whose segments have
    labels: a row a task and one of :data:`ENDS`, the columns of :data:`COLUMNS`.

    ``accuracy``, ``majority`` (that of calling every segment the same): means over the runs, one a training; ``good``,
    ``paid``: shares of segments that are good, and that have a reward above 0, pooled over answers (one without a segment
    counts as one that is neither). Of runs with answers after PPO, and of trainings with at least two reward models.
    """
    runs, training, rows = outcomes.steps(summary), ["policy", "rm_seed", "ppo_seed"], []
    final = responses.loc[responses["when"] == "final", "id"]
    runs = runs[outcomes.measured(runs) & runs["id"].isin(final)].drop_duplicates("id")
    kind = outcomes.accuracy_kind(runs)
    for task in (name for name, task in TASKS.items() if not task.pairwise):
        own = runs[runs["task"] == task].sort_values([kind, "rm_step"])
        trainings = own[own.groupby(training)["id"].transform("size") > 1].groupby(training)
        for model, chosen in zip(ENDS, (trainings.head(1), trainings.tail(1)), strict=True):
            row = {"task": task, "model": model, "accuracy": chosen[kind].mean(), "majority": chosen["rm_majority"].mean()}
            row["trainings"] = len(chosen)
            segments = responses[responses["id"].isin(chosen["id"])].explode(["paid", "judged"])
            for when, said in segments.groupby("when"):
                row |= {f"good {when}": (said["judged"] > 0).mean(), f"paid {when}": (said["paid"] > 0).mean()}
            rows += [row] if len(chosen) else []
    return pd.DataFrame(rows, columns=[*COLUMNS])


def lessons(table: pd.DataFrame) -> list[str]:
    """What the rows of :func:`taught` say, the most telling first: of reward models that are :data:`CLEAR` of one that knows
    nothing; then of those that are not; then where the least accurate one ends better."""
    clear, said = table["accuracy"] - table["majority"] >= CLEAR, []
    gaps = (table["paid final"] - table["good final"])[clear]
    gains = (table["good final"] - table["good start"])[clear]
    if gaps.max() >= CLEAR:
        said.append(f"**An error can be paid for like the truth.** {_told(table.loc[gaps.idxmax()])}")
    elif gains.max() >= CLEAR:
        said.append(f"**What a reward model can tell apart, it teaches.** {_told(table.loc[gains.idxmax()])}")
    said += [
        f"The {row['model']} one in {row['task']} knows next to nothing: its accuracy is {row['accuracy']:.3f}, that of "
        f"calling every segment the same {row['majority']:.3f}. It cannot teach what is good, and the share of good segments "
        f"goes from {row['good start']:.0%} to {row['good final']:.0%}."
        for row in table[~clear].to_dict("records")
    ]
    for task, ends in table.groupby("task", sort=False):
        least, most = ends["good final"]
        if least > most:
            said.append(
                f"In {task} the less accurate one ends better, with {least:.0%} of its segments good against {most:.0%}; over "
                f"{count(ends['trainings'].iloc[0], 'training')} and so few answers that decides nothing."
            )
    return said


def _told(row: pd.Series) -> str:
    return (
        f"In {row['task']}, with the {row['model']} reward model of each training, {row['good start']:.0%} of the segments "
        f"were good before PPO and {row['good final']:.0%} are after it, when {row['paid final']:.0%} are paid for."
    )
