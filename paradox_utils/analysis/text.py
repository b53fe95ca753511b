"""What PPO does to answers, segment by segment: what is good before and after, and what the reward model pays as if it were."""

from __future__ import annotations

import itertools

import pandas as pd

from paradox_utils.analysis import hacking, outcomes
from paradox_utils.analysis.phrases import count
from paradox_utils.data.tasks import TASKS

ENDS = ("less accurate", "most accurate")
COLUMNS = ("task", "model", "accuracy", "majority", "good start", "good final", "paid start", "paid final", "trainings")
TRAINING = ["policy", "rm_seed", "ppo_seed"]  # what a run of a task is one of
CLEAR = 0.05  # shares that differ by less say the same: of so few answers, and of a reward model and one that knows nothing


def taught(responses: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What the least accurate (*less*) and the most accurate reward model of each training teach (route ``steps``), of tasks
    whose segments have labels: a row a task and one of :data:`ENDS`, the columns of :data:`COLUMNS`.

    Means over the runs, one a training: ``accuracy``; ``majority`` (that of calling every segment the same); ``good``,
    ``paid``: shares of segments that are good, and that have a reward above 0, of all answers of a run (one without a segment
    counts as one that is neither). Of runs with answers after PPO, and of trainings with at least two reward models.
    """
    runs, rows = outcomes.steps(summary), []
    final = responses.loc[responses["when"] == "final", "id"]
    runs = runs[outcomes.measured(runs) & runs["id"].isin(final)].drop_duplicates("id")
    kind = outcomes.accuracy_kind(runs)
    for task in (name for name, task in TASKS.items() if not task.pairwise):
        own = runs[runs["task"] == task].sort_values([kind, "rm_step"])
        trainings = own[own.groupby(TRAINING)["id"].transform("size") > 1].groupby(TRAINING)
        for model, chosen in zip(ENDS, (trainings.head(1), trainings.tail(1)), strict=True):
            row = {"task": task, "model": model, "accuracy": chosen[kind].mean(), "majority": chosen["rm_majority"].mean()}
            row["trainings"] = len(chosen)
            segments = responses[responses["id"].isin(chosen["id"])].explode(["paid", "judged"])
            for name, column in (("good", "judged"), ("paid", "paid")):
                by_run = (segments[column] > 0).groupby([segments["when"], segments["id"]]).mean()
                row |= {f"{name} {when}": share for when, share in by_run.groupby("when").mean().items()}
            rows += [row] if len(chosen) else []
    return pd.DataFrame(rows, columns=[*COLUMNS])


def segments(answer: pd.Series) -> pd.DataFrame:
    """The segments of a row of responses, in order: their ``text``, what each was ``paid``, and what it is worth
    (``judged``)."""
    cuts = [0, *map(int, answer["ends"])]
    texts = [answer["text"][start:end].strip() for start, end in itertools.pairwise(cuts)]
    return pd.DataFrame({"text": texts, "paid": list(answer["paid"]), "judged": list(answer["judged"])})


def repeated(responses: pd.DataFrame) -> float:
    """Of the segments that are paid for (a reward above 0) and are not good, the share that says word for word what a segment
    before it in the same answer says; NaN without any."""
    found = []
    for _, answer in responses.iterrows():
        own = segments(answer)
        found += own["text"].duplicated()[(own["paid"] > 0) & (own["judged"] <= 0)].tolist()
    return sum(found) / len(found) if found else float("nan")


def most_accurate(responses: pd.DataFrame, summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The runs of the most accurate reward model of each training (route ``steps``) that have answers, whether each is
    ``hacked`` (an unknown end counts as not), by how far their true return fell (``fall``), the least first."""
    runs = outcomes.steps(summary).drop_duplicates("id")
    runs = runs[outcomes.measured(runs)].sort_values([outcomes.accuracy_kind(runs), "rm_step"])
    ended = hacking.ends(runs.groupby(["task", *TRAINING]).tail(1), curves)
    ended = ended[ended["id"].isin(responses["id"])].sort_values(["fall", "id"])
    return ended.assign(hacked=ended["hacked"].fillna(False).astype(bool))


def failure(run: pd.Series, share: float, runs: int, of: int, setting: str) -> str:
    """What the answer of one of so many hacked ``runs``, ``of`` so many of the most accurate reward models of a ``setting`` (in
    words), shows: ``run`` is its row of the summary, ``share`` what they have said before of all that they are wrongly paid for
    (:func:`repeated`)."""
    before, after = run["lm_performance_start"], run["lm_performance_final"]
    return (
        f"The setting: {setting}. There {runs} of {of} policies of a training's most accurate reward model are hacked; this is "
        f"the one in the middle, by how far its true return fell, and the first question. Its reward model is right about "
        f"{run['rm_accuracy']:.1%} of held-out segments, and its LM performance went from {before:.2f} to {after:.2f}. Of what "
        f"they all are wrongly paid for, {share:.0%} says word for word what the answer has said before."
    )


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
                f"In {task} the less accurate one ends better, with {least:.0%} of its segments good against {most:.0%}, in "
                f"the answers of {count(ends['trainings'].iloc[0], 'training')} to these few questions."
            )
    return said


def _told(row: pd.Series) -> str:
    return (
        f"In {row['task']}, with the {row['model']} reward model of each training, {row['good start']:.0%} of the segments "
        f"were good before PPO and {row['good final']:.0%} are after it, when {row['paid final']:.0%} are paid for."
    )
