"""Figures of a whole study: accuracy and performance, design, routes, ablations, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from paradox_utils.analysis import tables
from paradox_utils.analysis.ablations import BASE, OUTCOME, QUESTIONS, Ablation
from paradox_utils.analysis.answer import answer
from paradox_utils.analysis.comparison import ALL, families
from paradox_utils.analysis.outcomes import READINGS, accuracy_kind, measured, primary, reward_models, usable
from paradox_utils.analysis.verdict import PRIMARY, Finding, verdict
from paradox_utils.data.tasks import among
from paradox_utils.figures.style import (
    BAND,
    COLORS,
    FAINT,
    INK,
    LM_PERFORMANCE,
    PALETTE,
    PAPER,
    Drawing,
    dot,
    grid,
    line,
    panel,
    style,
    ticks,
    titled,
)

STATUS_COLORS = {"supported": "#b2452f", "not supported": "#2f6db2", "undecided": FAINT}
MARKERS = "osD^vPX*"
MEASURED = READINGS["as measured"]
TRAJECTORY = ["arm", "rm_seed"]
MANY = 10  # trajectories in a panel, from which on single ones can no longer be followed


@style()
def accuracy_and_performance(summary: pd.DataFrame) -> Drawing:
    """LM performance against reward-model accuracy, route ``steps``: a panel a task and policy.

    Small dots are runs (where a checkpoint has several), larger ones checkpoints (means), joined within a trajectory
    in the order of training; of more than :data:`MANY` trajectories the means of each rank of accuracy are joined instead.
    Controls (route ``dial``) are open diamonds. Raises ``ValueError`` where no run has an accuracy and a performance.
    """
    shown, tasks, policies = _accuracies(summary)
    axes = grid(tasks, policies)
    for (task, policy), axis in axes.items():
        _accuracy_panel(axis, shown[(shown["task"] == task) & (shown["policy"] == policy)], task)
    return Drawing(list(axes.values()), _accuracy_legend(shown))


def _accuracies(summary: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The runs with an accuracy and a performance, their tasks and policies."""
    shown = summary[measured(summary) & summary["route"].isin(("steps", "dial"))]
    if shown.empty:
        raise ValueError("no run of the routes steps and dial has both an accuracy and a performance")
    return shown, among(shown["task"]), list(shown["policy"].unique())


def _accuracy_panel(axis: Axes, runs: pd.DataFrame, task: str) -> None:
    kind, color = accuracy_kind(runs), PALETTE[task]
    steps, dial = runs[runs["route"] == "steps"], runs[runs["route"] == "dial"]
    axis.axvline(runs["rm_majority"].mean(), color=FAINT, linestyle=":", linewidth=1.2, zorder=1)
    axis.axhline(runs["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
    trajectories = [reward_models(own).sort_values("rm_step") for _, own in steps.groupby(TRAJECTORY)]
    many = len(trajectories) > MANY
    for models in trajectories:
        place = (models["accuracy"], models["performance"])
        axis.scatter(*place, s=18 if many else 34, color=color, edgecolor=PAPER, linewidth=0.6, zorder=4)
        if not many:
            axis.plot(*place, color=color, linewidth=1.0, alpha=0.5, zorder=2)
        top = models.sort_values(["accuracy", "rm_step"]).iloc[-1]
        ring = {"facecolor": "none", "edgecolor": INK, "linewidth": 0.8 if many else 1.3}
        axis.scatter(top["accuracy"], top["performance"], s=60 if many else 110, zorder=5, **ring)
    if many:
        ranks = pd.concat([models.sort_values(["accuracy", "rm_step"]).reset_index(drop=True) for models in trajectories])
        means = ranks.groupby(level=0)[["accuracy", "performance"]].mean()
        axis.plot(means["accuracy"], means["performance"], color=INK, marker="s", markersize=5, linewidth=1.6, zorder=6)
    if _repeated(steps):
        axis.scatter(steps[kind], steps[MEASURED], s=7, color=color, alpha=0.45, linewidth=0, zorder=3)
    axis.scatter(dial[kind], dial[MEASURED], s=38, marker="D", facecolor=PAPER, edgecolor=color, linewidth=1.3, zorder=4)
    axis.margins(0.1)
    words = "RM accuracy (share)" if kind == "rm_accuracy" else "RM accuracy on noisy labels (share)"
    axis.set(xlabel=words, ylabel=LM_PERFORMANCE[task])
    ticks(axis.xaxis, 4)
    ticks(axis.yaxis, 5)


def _repeated(steps: pd.DataFrame) -> bool:
    """Whether a checkpoint has runs with several PPO seeds."""
    return bool(steps.duplicated(["task", "policy", *TRAJECTORY, "rm_step"]).any())


def _accuracy_legend(shown: pd.DataFrame) -> list[Line2D]:
    steps = shown[shown["route"] == "steps"]
    several = _repeated(steps)
    handles = [dot("checkpoint, mean of its runs" if several else "reward-model checkpoint", markersize=6)]
    if several:
        handles.append(dot("one run", markersize=3, alpha=0.5))
    handles.append(dot("most accurate of its trajectory", markersize=9, markerfacecolor="none"))
    if (steps.groupby(["task", "policy"])[TRAJECTORY].apply(lambda own: len(own.drop_duplicates())) > MANY).any():
        handles.append(line("mean of each rank of accuracy", color=INK, marker="s", markersize=5))
    if (shown["route"] == "dial").any():
        handles.append(dot("control: dial", marker="D", markersize=6, markerfacecolor=PAPER))
    handles.append(line("policy before PPO", linestyle="--", color=FAINT))
    handles.append(line("accuracy of the majority class", linestyle=":", color=FAINT))
    return handles


@style()
def pilot(summary: pd.DataFrame) -> Drawing:
    """Every run of a crossed pilot: a column a reward-model seed, a marker a PPO seed."""
    axis = panel(1, 2.8)
    _pilot_runs(axis, summary[usable(summary)])
    return Drawing([axis])


@style()
def power_curves(power: pd.DataFrame) -> Drawing:
    """How often the rule gives the right verdict, by number of units, a line a world (rows of
    :func:`paradox_utils.analysis.power.simulated_power`)."""
    axis = panel(1, 3.2)
    for index, ((world, regret), rows) in enumerate(power.groupby(["world", "regret"], sort=False)):
        label = f"inverted U, regret {regret:.2f}" if world == "inverted U" else world
        look = {"color": STATUS_COLORS["supported" if regret else "not supported"], "marker": MARKERS[index % len(MARKERS)]}
        axis.plot(rows["units"], rows["right"], markersize=4, label=label, **look)
    axis.set(xlabel="Units (trajectories of a task)", ylabel="right verdicts", ylim=(0, 1.02))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return Drawing([axis], axis.lines)


@style()
def power_by_effect(power: pd.DataFrame, marks: Mapping[str, float]) -> Drawing:
    """What the rule says of studies of one size in which some less accurate reward model is better by a regret (rows of
    :func:`paradox_utils.analysis.power.simulated_power`): shares *supported* and *not supported*; the rest is undecided.
    ``marks``: regrets to name, as dotted lines."""
    axis = panel(1, 3.2)
    own = power[power["world"] == "inverted U"].sort_values("regret")
    for name, status, edge in (("right", "supported", -1), ("wrong", "not supported", 0)):
        color, words = STATUS_COLORS[status], _of_paper(status)
        axis.plot(own["regret"], own[name], color=color, marker="o", markersize=3, label=words)
        end = own.iloc[edge]  # where the line is highest
        side = {"ha": "left" if edge == 0 else "right", "va": "bottom", "xytext": (0, 5), "textcoords": "offset points"}
        axis.annotate(status.replace(" ", "\n"), (end["regret"], end[name]), color=color, fontsize=8.5, **side)
    for label, regret in marks.items():
        side = -1 if regret < max(marks.values()) else 1  # two marks that are close have their names on either side
        axis.axvline(regret, color=INK, linewidth=0.9, linestyle=":")
        place = {"x": regret + side * 0.002, "y": 0.9, "ha": "left" if side > 0 else "right"}
        axis.text(s=f"{label}\n{regret:.3f}", color=INK, fontsize=8.5, **place)
    axis.set(xlabel="true regret (LM performance)", ylabel="simulated studies", ylim=(0, 1.02), xlim=(0, None))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return Drawing([axis], axis.lines[:2])


def _pilot_runs(axis: Axes, runs: pd.DataFrame) -> None:
    names: dict[int, str] = {}  # of the columns, by their place
    for task in among(runs["task"]):
        own, first = runs[runs["task"] == task], max(names, default=-2) + 2
        column, marker = (pd.factorize(own[seed], sort=True)[0] for seed in ("rm_seed", "ppo_seed"))
        look = {"s": 26, "color": PALETTE[task], "alpha": 0.85, "linewidth": 0}
        for index in range(marker.max() + 1):
            here = marker == index
            axis.scatter(first + column[here] + (index - 1) * 0.18, own.loc[here, MEASURED], marker=MARKERS[index], **look)
        names |= {first + number: f"{number + 1}" for number in range(column.max() + 1)}
        axis.text(first + column.max() / 2, 1.02, task, color=PALETTE[task], ha="center")
    axis.set(ylabel="LM performance (share)", xlabel="Reward-model seed (marker: PPO seed)")
    axis.set(xticks=list(names), xticklabels=list(names.values()), ylim=(None, 1.08))
    axis.grid(visible=False, axis="x")


def levels(runs: pd.DataFrame, asked: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """One row a rank of accuracy of one family of reward models: mean accuracy, LM performance with a 95 % interval over
    trajectories and test questions (NaN without ``asked``, see :mod:`paradox_utils.analysis.tables`), runs."""
    models = reward_models(runs)
    order = models.sort_values(["accuracy", "rm_step"]).groupby("rm_seed").cumcount()
    models = models.assign(rank=order).dropna(subset=["performance"])
    done = runs[usable(runs)].merge(models[["rm_seed", "setting", "rm_step", "rank"]], on=["rm_seed", "setting", "rm_step"])
    rows = []
    for rank, own in done.groupby("rank"):
        row = {"rank": rank, "accuracy": own[accuracy_kind(own)].mean(), "performance": own[MEASURED].mean(), "runs": len(own)}
        if own["id"].isin(asked.index).all():
            found = tables.question_interval(asked, list(own["id"]), list(own["rm_seed"]), resamples=resamples, seed=seed)
            row |= {"low": found.low, "high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=["rank", "accuracy", "performance", "low", "high", "runs"])


def varied(summary: pd.DataFrame) -> list[str]:
    """The arms whose reward models vary in accuracy, the deciding one first."""
    arms = dict.fromkeys(arm for (_, _, arm), _ in families(summary))
    return sorted(arms, key=lambda arm: arm != PRIMARY)


@style()
def routes(
    summary: pd.DataFrame, asked: pd.DataFrame, arms: Sequence[str] = (), *, resamples: int = 500, seed: int = 0
) -> Drawing:
    """LM performance against accuracy by route: a panel a task (and policy), a line an arm (of ``arms``, else all), a point a
    rank of accuracy averaged over trajectories, with 95 % intervals, faint ones single runs; the dashed line is the policy
    before PPO, the dotted one the exact reward."""
    arms = [arm for arm in varied(summary) if not arms or arm in arms]
    rows = summary[summary["arm"].isin(arms) & summary["rm_seed"].notna()]
    policies = list(rows.loc[usable(rows), "policy"].unique()) or list(rows["policy"].unique())
    if not policies:
        raise ValueError("no family of reward models whose accuracy varies has runs")
    looks = {
        arm: {"color": color, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
        for index, (arm, color) in enumerate(zip(arms, cycle(COLORS), strict=False))
    }
    axes = grid(among(summary["task"]), policies, 2.8)
    for (task, policy), axis in axes.items():
        here = summary[(summary["task"] == task) & (summary["policy"] == policy)]
        for arm, look in looks.items():
            own = here[(here["arm"] == arm) & here["rm_seed"].notna()]
            _route(axis, own, levels(own, asked, resamples=resamples, seed=seed), look)
        axis.axhline(here["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
        exact = here.loc[(here["arm"] == "exact") & here["rm_seed"].notna(), MEASURED].mean()
        if np.isfinite(exact):
            axis.axhline(exact, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
        axis.set(xlabel="RM accuracy (share)", ylabel=LM_PERFORMANCE[task])
        ticks(axis.xaxis, 4)
    rules = [line("policy before PPO", linestyle="--", color=FAINT), line("exact reward", linestyle=":", color=FAINT)]
    return Drawing(list(axes.values()), [*(line(arm, **look) for arm, look in looks.items()), *rules])


def _route(axis: Axes, runs: pd.DataFrame, table: pd.DataFrame, look: dict[str, Any]) -> None:
    if table.empty:
        return
    done = runs[usable(runs)]
    axis.scatter(done[accuracy_kind(runs)], done[MEASURED], color=look["color"], s=5, alpha=0.35, linewidth=0)
    bars = np.array([table["performance"] - table["low"], table["high"] - table["performance"]], dtype=float).clip(min=0)
    axis.errorbar(table["accuracy"], table["performance"], yerr=bars, elinewidth=0.6, linewidth=1.1, **look)


def forest(found: Sequence[Finding], margin: float) -> Drawing:
    """:func:`regrets` of every comparison. Those that lack what the rule needs are left out."""
    shown = [f for f in found if np.isfinite(f.of.regret.low) and not f.missing]
    if not shown:
        raise ValueError("no comparison has the reward models and seeds that the rule needs")
    rows = {
        "name": [f"{f.of.arm} · {f.of.task} · {f.of.policy}" for f in shown],
        "regret": [f.of.regret.estimate for f in shown],
        "low": [f.of.regret.low for f in shown],
        "high": [f.of.regret.high for f in shown],
        "status": [f.status for f in shown],
        "pooled": [f.of.task == ALL for f in shown],
    }
    return regrets(pd.DataFrame(rows), margin)


@style()
def regrets(rows: pd.DataFrame, margin: float, unit: str = "LM performance") -> Drawing:
    """Regret with its 95 % interval (``regret``, ``low``, ``high``), a row a ``name``, coloured by ``status``, diamonds where
    ``pooled``; the band is what does not matter."""
    axis = panel(1, 0.9 + 0.24 * len(rows))
    axis.axvspan(-margin, margin, color=BAND, zorder=0)
    axis.axvline(0, color=FAINT, linewidth=0.8)
    upwards = rows.iloc[::-1]
    for place, row in enumerate(upwards.itertuples()):
        color, (size, marker) = STATUS_COLORS[row.status], (36, "D") if row.pooled else (20, "o")
        axis.plot([row.low, row.high], [place, place], color=color, linewidth=1.6)
        axis.scatter([row.regret], [place], color=color, s=size, marker=marker, zorder=3)
    axis.set(yticks=range(len(rows)), yticklabels=list(upwards["name"]), xlabel=f"regret ({unit})")
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.grid(visible=False, axis="y")
    return Drawing([axis], [line(_of_paper(status), color=color, linewidth=2) for status, color in STATUS_COLORS.items()])


def _of_paper(status: str) -> str:
    return status if status == "undecided" else f"the paper {status}"


@style()
def in_brief(summary: pd.DataFrame) -> Figure:
    """The primary comparison and the answer that follows, in one picture for those who have not opened the book."""
    runs = primary(summary)
    decision, (shown, tasks, policies) = verdict(runs, resamples=200), _accuracies(runs)
    figure = Figure(figsize=(7.5, 2.9 * len(policies) + 0.5), layout="constrained", facecolor="white")
    axes = figure.subplots(len(policies), len(tasks), squeeze=False).flat
    for axis, (policy, task) in zip(axes, product(policies, tasks), strict=True):
        _accuracy_panel(axis, shown[(shown["task"] == task) & (shown["policy"] == policy)], task)
        axis.set_title(titled(task, policy, policies))
    figure.legend(handles=_accuracy_legend(shown), loc="outside lower center", ncols=3)
    words = answer(decision, runs.loc[(runs["arm"] == PRIMARY) & usable(runs), "id"].nunique())
    figure.suptitle(textwrap.fill(words, 100), x=0.01, ha="left", fontsize=9)
    return figure


@style()
def ablation(table: pd.DataFrame, of: Ablation) -> Drawing:
    """LM performance against accuracy (rows of :func:`paradox_utils.analysis.ablations.pairs`): dots are runs, lines means by
    rank of accuracy; the base is grey."""
    arms = zip(of.arms.items(), COLORS, strict=False)
    looks = {BASE: (FAINT, of.base)} | {arm: (color, words) for (arm, words), color in arms}
    axis = panel(2, 2.8)
    for arm, (color, words) in looks.items():
        own = table[table["arm"] == arm]
        rank = own.groupby("rm_seed")["accuracy"].rank()
        means = own.groupby(rank)[["accuracy", OUTCOME]].mean()
        axis.scatter(own["accuracy"], own[OUTCOME], color=color, s=12, alpha=0.6, linewidth=0)
        axis.plot(means["accuracy"], means[OUTCOME], color=color, marker="o", markersize=4, label=words)
    axis.set(xlabel="RM accuracy (share)", ylabel="LM performance (share)")
    return Drawing([axis], axis.lines)


@style()
def changes(effects: pd.DataFrame, words: Mapping[str, str], margin: float) -> Drawing:
    """What each choice changes (rows of :func:`paradox_utils.analysis.ablations.effects`), a row a choice (``words``: arm → its
    name), a panel a measure on its own scale, with 95 % intervals; the band is what does not matter."""
    arms = [arm for arm in reversed(words) if arm in effects.index.get_level_values("arm")]
    labels = [textwrap.fill(words[arm], 30) for arm in arms]
    row = 0.12 + 0.17 * max((label.count("\n") + 1 for label in labels), default=1)  # inches, so that labels keep apart
    axes = [panel(1, 0.9 + row * max(1, len(arms))) for _ in QUESTIONS]
    for axis, measure, color in zip(axes, QUESTIONS, COLORS, strict=False):
        axis.axvspan(-margin, margin, color=BAND, zorder=0)
        axis.axvline(0, color=FAINT, linewidth=0.8)
        rows = effects[effects.index.get_level_values("measure") == measure].droplevel("measure")
        for place, arm in enumerate(arms):
            if arm in rows.index:
                found = rows.loc[arm]
                axis.plot([found["low"], found["high"]], [place, place], color=color, linewidth=1.4)
                axis.scatter([found["change"]], [place], color=color, s=20, zorder=3)
        axis.set(yticks=range(len(arms)), yticklabels=labels)
        axis.set(title=measure[:1].upper() + measure[1:], xlabel="change (LM performance)")
        axis.grid(visible=False, axis="y")
    return Drawing(axes)
