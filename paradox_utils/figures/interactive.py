"""Figures that a reader can touch: what the scripts in ``book/static`` draw, prepared here.

Each function returns an :class:`Interactive`, which a notebook shows as a sentence with its data beside it; on a page of the
book the script of its kind takes the sentence's place. Without rows to draw, the sentence says so and nothing moves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from paradox_utils.analysis import outcomes, statistics
from paradox_utils.analysis.overoptimisation import WINDOW
from paradox_utils.analysis.text import CLEAR
from paradox_utils.data.tasks import TASKS
from paradox_utils.figures import svg
from paradox_utils.figures.style import COLORS, FAINT, INK, LM_PERFORMANCE, panel, style

PAIR = ["task", "policy"]
SETTING = re.compile(r"(\w+)=(\[[^\]]*\]|[^,]*)")  # as `study.plan` writes what an arm varies
LISTS = ("checkpoint_steps",)  # the step itself stands beside
KINDS = {"rm_accuracy": "accuracy (share)", "rm_accuracy_noisy": "accuracy on annotators' labels (share)"}


@dataclass(frozen=True)
class Interactive:
    """What one script draws: its ``kind`` (the script's name), what the figure is (``label``), and JSON values (none: nothing
    to draw); ``words`` stand where no script runs, below a picture that stands ``still`` if there is one."""

    kind: str
    label: str
    words: str
    data: Mapping[str, Any] = field(default_factory=dict)
    still: str = ""

    def html(self, still: str = "") -> str:
        """The sentence, below the ``still`` picture of a figure or its own, and the data for the script to find."""
        words = f"{still or self.still}<p>{escape(self.words)}</p>"
        if not self.data:
            return words
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
        figure = f'<div class="interactive" data-kind="{self.kind}" role="group" aria-label="{escape(self.label)}">'
        return f'{figure}{words}<script type="application/json">{data}</script></div>'

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.words, "text/html": self.html()}


def slider(summary: pd.DataFrame, curves: pd.DataFrame) -> Interactive:
    """Every finished run of the route ``steps`` by the accuracy of its reward model: LM performance before and after PPO, and
    along training the reward of a response that was paid and the true one (means over :data:`WINDOW` updates). The first task
    and policy stand still where no script runs."""
    by_run, groups = dict(list(curves.groupby("id"))), []
    for (task, policy), runs in _pairs(_finished(summary).dropna(subset=["lm_performance_start"])):
        rows = []
        for run in runs.itertuples():
            curve = by_run.get(run.id, curves.iloc[:0])
            row = {"accuracy": _rounded(run.accuracy), "name": run.called, "seed": f"{run.arm} {run.rm_seed:g}", "top": run.top}
            row |= {"end": _rounded(run.lm_performance_final)}
            rows.append(row | {"paid": _course(curve, "reward_mean"), "true": _course(curve, "true_reward_mean")})
        start = curves[curves["id"].isin(runs["id"]) & (curves["update"] == 0)].mean(numeric_only=True)
        worth = start.get("true_reward_mean", np.nan)
        group = {"task": task, "policy": policy, "performance": LM_PERFORMANCE[task], "runs": rows}
        group |= {"before": _rounded(runs["lm_performance_start"].mean())}
        groups.append(group | {"worth": _or_none(worth)})
    if not groups:
        return Interactive("slider", "", "No finished run of the route steps has a measured accuracy, so there is no slider.")
    first, kind = groups[0], outcomes.accuracy_kind(summary)
    words = (
        f"{first['task'].capitalize()}, {first['policy']}: each run by the accuracy of its reward model, ringed where it is "
        "the most accurate of its training; the dashed line is the policy before PPO. Where scripts run, a slider shows every "
        "run here, with what was paid in training and what was true."
    )
    data = {"accuracy": KINDS[kind], "groups": groups}
    still = _still(_finished(summary).query("task == @first['task'] and policy == @first['policy']"))
    return Interactive("slider", "Slider over the accuracy of the reward model", words, data, still)


def regrets(rows: pd.DataFrame, margin: float) -> Interactive:
    """The comparisons of :func:`paradox_utils.analysis.regrets.forest`, to be chosen by route, task and policy."""
    words = "In the book, a route, a task and a policy choose among all comparisons here."
    numbers = {name: rows[name].map(_rounded) for name in ("regret", "low", "high")}
    data = {"margin": margin, "rows": rows.assign(**numbers).to_dict("records")}
    return Interactive("regrets", "Regrets by route, task and policy", words, data)


def points(markers: pd.DataFrame, bands: pd.DataFrame) -> Interactive:
    """The paper's points: by task its reward models from the least to the most accurate, and of each policy their LM
    performances, with the ``bands`` of :func:`published.bands`."""
    groups = []
    for task, models in markers.groupby("task", sort=False):
        wide = models.pivot(index=["rm_accuracy", "rm_step"], columns="policy", values="lm_performance").sort_index()
        panels = []
        for policy in models["policy"].unique():
            own = bands[(bands["task"] == task) & (bands["policy"] == policy)]
            rows = own[["models", "from", "to", "mean", "low", "high"]].to_dict("records")
            thirds = [{key: _rounded(value) for key, value in row.items()} for row in rows]
            panels.append({"policy": policy, "values": [_rounded(value) for value in wide[policy]], "thirds": thirds})
        index = [{"accuracy": accuracy, "step": step} for accuracy, step in wide.index]
        groups.append({"task": task, "performance": LM_PERFORMANCE[task], "models": index, "panels": panels})
    words = "In the book, the points can be picked here one by one, with their ranks and with what chance would show."
    return Interactive("points", "The published points, one by one", words, {"groups": groups})


def predictors(teachers: pd.DataFrame, measures: Mapping[str, str]) -> Interactive:
    """Reward models of :func:`paradox_utils.analysis.teachers.teacher_table` with an accuracy, from the least accurate: what
    was known of them (``measures``: columns and their words), the gain of their policies, and Spearman's ρ of the two."""
    groups = []
    for (task, policy), models in _pairs(teachers.dropna(subset=["rm_accuracy"]).sort_values(["rm_accuracy", "rm_step"])):
        rows = []
        for model in models.to_dict("records"):
            name = f"{model['arm']}, training {model['rm_seed']:g}" + (f", {model['setting']}" if model["setting"] else "")
            name += f", step {model['rm_step']:g}" if np.isfinite(model["rm_step"]) else ""
            row = {"accuracy": _rounded(model["rm_accuracy"]), "name": name, "gain": _rounded(model["gain"])}
            rows.append(row | {"known": [_or_none(model[column]) for column in measures]})
        pairs = [models[[column, "gain"]].dropna() for column in measures]
        rho = [_or_none(statistics.rank_correlation(pair.iloc[:, 0], pair["gain"])) for pair in pairs]
        groups.append({"task": task, "policy": policy, "models": rows, "correlations": rho})
    words = "In the book, one picks here what is known of reward models, and sees it beside the gain of their policies."
    if not groups:
        return Interactive("predictors", "", "No trained reward model of this study has a measured accuracy and a gain.")
    data = {"measures": list(measures.values()), "groups": groups}
    return Interactive("predictors", "What is known of reward models, and the gain of their policies", words, data)


def explorer(responses: pd.DataFrame, summary: pd.DataFrame) -> Interactive:
    """Answers to the same few questions before and after PPO, by the accuracy of the reward model; a segment has what it was
    paid and what the evaluator says of it. Runs without answers after PPO are left out.

    A run whose reward model is hardly better than one that knows nothing has that one's accuracy (``nothing``); a task and
    policy ``start`` at the least accurate of the others.
    """
    texts: dict[tuple[Any, ...], int] = {}  # each answer once, with its judgement: before PPO all runs of a pair give the same
    questions = {question: place for place, question in enumerate(responses["question"].unique())}
    by_run = dict(list(responses.groupby("id")))
    groups = []
    runs = _finished(summary, ("steps", "dial"))
    for (task, policy), own in _pairs(runs[runs["id"].isin(responses.loc[responses["when"] == "final", "id"])]):
        rows = []
        for run in own.itertuples():
            said: dict[str, dict[int, Any]] = {"start": {}, "final": {}}
            for answer in by_run[run.id].itertuples():
                text = texts.setdefault((answer.text, answer.ends, answer.judged), len(texts))
                said[answer.when][questions[answer.question]] = [text, _all(answer.paid)]
            row = {"accuracy": _rounded(run.accuracy), "name": run.called, "top": run.top}
            row |= {"nothing": _or_none(run.rm_majority) if run.accuracy - run.rm_majority < CLEAR else None}
            rows.append(row | {"before": said["start"], "after": said["final"]})
        size, whole = TASKS[task].reward_size, TASKS[task].pairwise
        start = next((place for place, row in enumerate(rows) if row["nothing"] is None), 0)
        groups.append({"task": task, "policy": policy, "size": size, "whole": whole, "start": start, "runs": rows})
    words = "In the book, answers before and after PPO can be read here side by side, with what each segment was paid."
    if not groups:
        return Interactive("explorer", "", "No finished run of this study has recorded answers, so there is nothing to read.")
    answers = [{"text": text, "ends": _all(ends), "judged": _all(judged)} for text, ends, judged in texts]
    data = {"questions": list(questions), "texts": answers, "groups": groups}
    return Interactive("explorer", "Answers before and after PPO", words, data)


@style()
def _still(runs: pd.DataFrame) -> str:
    """LM performance after PPO by accuracy, of the runs of one task and policy (rows of :func:`_finished`)."""
    axis, before = panel(1, 2.8), runs["lm_performance_start"].mean()
    axis.axhline(before, color=FAINT, linestyle="--", linewidth=1.2)
    axis.plot(runs["accuracy"], runs["lm_performance_final"], linestyle="none", marker="o", color=COLORS[0], markersize=4)
    top = runs[runs["top"].astype(bool)]
    ring = {"markersize": 9, "markerfacecolor": "none", "color": INK}
    axis.plot(top["accuracy"], top["lm_performance_final"], linestyle="none", marker="o", **ring)
    task = runs["task"].iloc[0]
    axis.set(xlabel="RM accuracy (share)", ylabel=LM_PERFORMANCE[task], title=task.capitalize())
    alt = f"LM performance by accuracy of {len(runs)} runs; before PPO it is {before:.2f}."
    return f'<div class="panels" role="img" aria-label="{escape(alt)}">{svg.inline(axis.figure, "slider-still")}</div>'


def _finished(summary: pd.DataFrame, routes: Iterable[str] = ("steps",)) -> pd.DataFrame:
    """Finished runs of these routes with an ``accuracy``, the least accurate first; ``called``: by which reward model and seed;
    ``top``: whether its reward model is the most accurate of its training."""
    shown = outcomes.primary(summary)
    runs = shown[outcomes.measured(shown) & shown["route"].isin(tuple(routes))].drop_duplicates("id")
    runs = runs.assign(accuracy=runs[outcomes.accuracy_kind(summary)]).sort_values(
        ["accuracy", "rm_step", "rm_seed", "ppo_seed"]
    )
    trained = runs[runs["route"] == "steps"]
    last = trained.groupby([*PAIR, "rm_seed"])[["accuracy", "rm_step"]].transform("last")
    top = (trained[["accuracy", "rm_step"]] == last).all(axis=1)
    called = pd.concat([_called(own) for _, own in runs.groupby(PAIR)]) if len(runs) else pd.Series(dtype=str)
    return runs.assign(top=top.reindex(runs.index, fill_value=False), called=called)


def _called(runs: pd.DataFrame) -> pd.Series:
    """What runs of one task and policy are told apart by: their reward model, and of their setting what not all share."""
    settings = [dict(SETTING.findall(setting)) for setting in runs["setting"].fillna("")]
    shared = [part for part in settings[0].items() if all(part in own.items() for own in settings)]
    names = []
    for run, setting in zip(runs.itertuples(), settings, strict=True):
        own = [f"{name} {value}" for name, value in setting.items() if (name, value) not in shared and name not in LISTS]
        broken = ["diverged"] if run.status == "diverged" else []
        trained = [f"training {run.rm_seed:g}", f"step {run.rm_step:g}", *own, *broken]
        names.append(", ".join(trained) if run.route == "steps" else "its accuracy set, not learned")
    return pd.Series(names, index=runs.index)


def _pairs(runs: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """Runs by task and policy, tasks in their order."""
    place = runs["task"].map(list(TASKS).index)
    return runs.iloc[np.argsort(place, kind="stable")].groupby(PAIR, sort=False)


def _course(curve: pd.DataFrame, column: str) -> list[float]:
    """Running means of a column over so many updates, as far as it was measured; empty where a study has not measured it."""
    if column not in curve:
        return []
    smooth = curve[column].astype(float).rolling(WINDOW, center=True, min_periods=1).mean()
    return [_rounded(value, 2) for value in smooth[smooth.isna().cumsum() == 0]]


def _all(values: Iterable[float]) -> list[float]:
    return [_rounded(value) for value in values]


def _or_none(value: float) -> float | None:
    return _rounded(value) if np.isfinite(value) else None


def _rounded(value: float, decimals: int = 6) -> float:
    """A number as short as JSON can have it; with more decimals than a script shows, as rounding twice can round wrongly."""
    value = round(float(value), decimals)
    return int(value) if value.is_integer() else value
