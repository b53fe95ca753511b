"""Results on people's judgements beside published ones, computed the same way: SemEval-2016 and the paper's reward models."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.people import MADE_UP, OFFICIAL, People
from paradox_utils.analysis.phrases import listed
from paradox_utils.data.tasks import among

# Of SemEval-2016 Task 3, subtask A, on its test set: Nakov et al. 2016, Table 3.
PUBLISHED_MAP = {"best system (KeLP)": 0.7919, "order of the thread": 0.5953, "random order": 0.5280}
# Of all 500 development questions, on which the paper measures accuracy, labelled as the released code does; of pairs half.
MAJORITY = {"relevance": 0.50, "factuality": 0.65, "completeness": 0.50}


def official(people: People) -> pd.DataFrame:
    """Mean average precision on SemEval-2016's official test set, a row a recipe of the arm :data:`OFFICIAL`, with Student's
    interval over trainings; beside the published ones. Empty without that arm, or with one of made-up threads alone."""
    own = people.models[(people.models["arm"] == OFFICIAL) & (people.models["study"] != MADE_UP)]
    if own.empty:
        return pd.DataFrame(columns=["MAP", "low", "high"])
    rows = {}
    for (setting, step), trainings in own.groupby(["setting", "rm_step"], sort=False):
        found = statistics.mean_interval(trainings["average_precision"])
        other = setting.replace("official_split=True", "").strip(", ")
        name = f"reward model, {step:g} steps" + (f", {other}" if other else "")
        rows[name] = {"MAP": found.estimate, "low": found.low, "high": found.high}
    known = {f"published: {name}": {"MAP": value} for name, value in PUBLISHED_MAP.items()}
    return pd.DataFrame.from_dict(rows | known, "index").rename_axis("what ranks")


def beside_published(found: pd.DataFrame) -> str:
    """The best recipe beside the best published system (rows of :func:`official`), in words."""
    if found.empty:
        return "No ranking of the official test threads of SemEval is recorded yet."
    ours, theirs = found["MAP"].iloc[: -len(PUBLISHED_MAP)].max(), max(PUBLISHED_MAP.values())
    return (
        f"On the official test threads of SemEval our best mean average precision (MAP) is {ours:.3f}; the best system of the "
        f"competition had {theirs:.3f}."
    )


def marked(checkpoints: pd.DataFrame, markers: pd.DataFrame) -> pd.DataFrame:
    """Reward models of the paper's tasks beside the published ones, a row a task and study: the ``best`` accuracy by people's
    labels and at which ``step`` (over all trainings; evaluators are left out), the ``majority`` class, how far the best lies
    above it in standard errors of so many ``labels`` (``errors``); of the paper its majority class, and its ``least`` and
    ``most`` accurate one.

    ``checkpoints``: of one or several studies; ``markers``: of :func:`published.load_published`.
    """
    own = checkpoints[checkpoints["setting"].fillna("") != "evaluator"]
    columns = ["accuracy_noisy", "majority", "segments"]
    rows = []
    for (study, task), models in own.groupby(["study", "task"], sort=False):
        models = models[models["route"] == "steps"].dropna(subset=["accuracy_noisy"])
        if task not in MAJORITY or models.empty:
            continue
        by_step = models.groupby("step")
        step = by_step["accuracy_noisy"].mean().idxmax()
        best = models.loc[models["step"] == step, columns]
        labels = best["segments"].sum()
        accuracy, majority = ((best[name] * best["segments"]).sum() / labels for name in columns[:2])
        error = (accuracy * (1 - accuracy) / labels) ** 0.5
        theirs = markers.loc[markers["task"] == task, "rm_accuracy"]
        row = {"task": task, "study": study, "step": step, "best": accuracy, "majority": majority, "labels": labels}
        row |= {"errors": (accuracy - majority) / error if error else float("inf")}
        rows.append(row | {"paper's majority": MAJORITY[task], "least": theirs.min(), "most": theirs.max()})
    names = ["task", "study", "step", "best", "majority", "labels", "errors", "paper's majority", "least", "most"]
    found = pd.DataFrame(rows, columns=names)
    order = among(found["task"])
    return found.sort_values("task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True)


def beside_paper(found: pd.DataFrame) -> str:
    """What :func:`marked` comes to, in words."""
    if found.empty:
        return "No reward model of the paper's tasks on people's feedback is recorded yet."
    clear, reach = found[found["errors"] > 2], found[found["best"] >= found["most"]]
    return (
        "Our reward models of the paper's tasks are clearly more accurate than always naming the commonest label in "
        f"{_names(clear)}, and as accurate as the paper's best in {_names(reach)}."
    )


def _names(rows: pd.DataFrame) -> str:
    return listed(among(rows["task"])) if len(rows) else "none"
