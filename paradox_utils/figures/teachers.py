"""Figures of why: what predicts a good teacher, and where the true reward leaves the proxy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from paradox_utils.analysis import overoptimisation
from paradox_utils.analysis.overoptimisation import THIRDS
from paradox_utils.analysis.teachers import BEFORE
from paradox_utils.data.tasks import MARKED, among
from paradox_utils.figures.style import (
    FAINT,
    INK,
    LM_PERFORMANCE,
    PALETTE,
    SHADES,
    Drawing,
    dot,
    grid,
    line,
    panel,
    style,
    ticks,
)

MARKERS = "osD^"  # a policy


@style()
def predictors(table: pd.DataFrame, words: Mapping[str, str]) -> Drawing:
    """Correlation of each measure with the gain (rows of :func:`paradox_utils.analysis.teachers.correlations`): all tasks
    together as diamonds with 95 % intervals, single tasks as dots. A line parts what is known before PPO from what is measured
    along it."""
    pooled = table[table["task"] == "all"].set_index("measure")
    names, tasks = [name for name in words if name in pooled.index], among(table["task"])
    axis = panel(1, 0.9 + 0.34 * max(1, len(names)))
    axis.axvline(0, color=FAINT, linewidth=0.8)
    for place, name in enumerate(reversed(names)):
        row = pooled.loc[name]
        axis.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=1.4)
        axis.scatter([row["correlation"]], [place], color=INK, marker="D", s=26, zorder=3)
        for index, task in enumerate(tasks):
            own = table[(table["task"] == task) & (table["measure"] == name)]
            axis.scatter(own["correlation"], [place + 0.12 * (1 - index)] * len(own), color=PALETTE[task], s=16, zorder=2)
    later = sum(name not in BEFORE for name in names)
    if 0 < later < len(names):
        axis.axhline(later - 0.5, color=FAINT, linewidth=0.8)
    labels = [textwrap.fill(words[name], 32) for name in reversed(names)]
    axis.set(yticks=range(len(names)), yticklabels=labels, xlim=(-1.02, 1.02))
    axis.set_xlabel("correlation with the gain")
    axis.grid(visible=False, axis="y")
    handles = [dot("all tasks", marker="D", markersize=5, linestyle="-")]
    handles += [dot(task, color=PALETTE[task], markersize=4) for task in tasks]
    return Drawing([axis], handles)


@style()
def variance_and_gain(teachers: pd.DataFrame) -> Drawing:
    """Gain in LM performance against accuracy on-policy (first) and reward variance within prompts, a panel a task, a marker a
    policy."""
    measures = {"probe_accuracy": "accuracy on-policy", "probe_variance": "reward variance within prompts"}
    markers = dict(zip(dict.fromkeys(teachers["policy"]), MARKERS, strict=False))
    axes = grid(_tasks(teachers), list(measures), 2.4)
    for (task, name), axis in axes.items():
        for policy, marker in markers.items():
            own = teachers[(teachers["task"] == task) & (teachers["policy"] == policy)]
            axis.scatter(own[name], own["gain"], s=14, color=PALETTE[task], alpha=0.7, linewidth=0, marker=marker)
        axis.axhline(0, color=FAINT, linewidth=0.8)
        axis.set(title=task.capitalize(), xlabel=measures[name], ylabel="gain in LM performance")
        ticks(axis.xaxis, 4)
    handles = [dot(policy, marker=marker, markersize=4) for policy, marker in markers.items()]
    return Drawing(list(axes.values()), handles if len(markers) > 1 else ())


@style()
def overoptimised(table: pd.DataFrame) -> Drawing:
    """Reward gained by update, a panel a task and policy, a colour a third of accuracies: the reward model's own (dashed) and
    the true one (solid), means over runs."""
    axes = _grid(table)
    for (task, policy), axis in axes.items():
        for third, own in _thirds(table, task, policy):
            means = own.groupby("update")[["proxy", "true"]].mean()
            _gained(axis, means.index, means, third)
        axis.set(xlabel="PPO update", ylabel="reward gained (SD)")
    return Drawing(list(axes.values()), _thirds_and_rewards())


@style()
def gained_by_distance(table: pd.DataFrame, fits: pd.DataFrame) -> Drawing:
    """The same along √KL, with the fitted R = d (α − β log d) (thin)."""
    axes = _grid(table)
    for (task, policy), axis in axes.items():
        for third, own in _thirds(table, task, policy):
            means = own.groupby("update")[["distance", "proxy", "true"]].mean()
            _gained(axis, means["distance"], means, third)
            _curve(axis, float(means["distance"].max()), _of(fits, task, policy, third + 1), third, "rl")
        axis.set(xlabel="√KL from the reference policy", ylabel="reward gained (SD)")
    return Drawing(list(axes.values()), _thirds_and_rewards())


@style()
def hacked(table: pd.DataFrame, turned: pd.DataFrame) -> Drawing:
    """Runs one by one, by update (rows of :func:`overoptimisation.paths`), a panel a task and policy: the true reward gained by
    each (faint), and of the hacked ones (``turned``: rows of :func:`paradox_utils.analysis.hacking.turns`) the true (solid) and
    the reward model's own (dashed), a colour a third of accuracies."""
    told = set(turned.loc[turned["hacked"].fillna(False), "id"])
    axes = _grid(table)
    for (task, policy), axis in axes.items():
        for run, own in table[(table["task"] == task) & (table["policy"] == policy)].groupby("id"):
            if run not in told:
                axis.plot(own["update"], own["true"], color=FAINT, linewidth=0.5)
                continue
            third = own["third"].iloc[0]
            color = SHADES[int(third)] if np.isfinite(third) else INK
            axis.plot(own["update"], own["true"], color=color, linewidth=1.4, zorder=3)
            axis.plot(own["update"], own["proxy"], color=color, linewidth=1.0, linestyle="--", zorder=3)
        axis.set(xlabel="PPO update", ylabel="reward gained (SD)")
    handles = [line(f"hacked, {label}", color=SHADES[i]) for i, label in enumerate(THIRDS)]
    handles += [line("true reward of the others", color=FAINT), line("true reward"), line("the reward model's", linestyle="--")]
    return Drawing(list(axes.values()), handles)


@style()
def best_of_n(paths: pd.DataFrame) -> Drawing:
    """LM performance of the response with the highest reward among n, along √KL, a panel a task and policy."""
    axes = _grid(paths)
    for (task, policy), axis in axes.items():
        for third, own in _thirds(paths, task, policy):
            means = own.groupby("n")[["distance", "lm_performance"]].mean()
            axis.plot(means["distance"], means["lm_performance"], color=SHADES[third], marker="o", markersize=3)
        axis.set(xlabel="√KL of best-of-n", ylabel=LM_PERFORMANCE[task])
    return Drawing(list(axes.values()), [line(label, color=SHADES[i]) for i, label in enumerate(THIRDS)])


@style()
def best_of_n_rewards(paths: pd.DataFrame, fits: pd.DataFrame) -> Drawing:
    """The reward gained over a single response, along √KL: the reward model's own (dashed) and the true one (solid), with the
    fitted R = d (α − β d) (thin)."""
    axes = _grid(paths)
    for (task, policy), axis in axes.items():
        for third, own in _thirds(paths, task, policy):
            means = own.groupby("n")[["distance", "proxy", "true"]].mean()
            _gained(axis, means["distance"], means, third)
            _curve(axis, float(means["distance"].max()), _of(fits, task, policy, third + 1), third, "best-of-n")
        axis.set(xlabel="√KL of best-of-n", ylabel="reward gained")
    return Drawing(list(axes.values()), _thirds_and_rewards())


def _tasks(table: pd.DataFrame) -> Sequence[str]:
    """The tasks of a table; of an empty one those that have panels anywhere, so that a page without runs has some too."""
    return among(table["task"]) or MARKED


def _grid(table: pd.DataFrame) -> dict[tuple[str, str], Axes]:
    return grid(_tasks(table), list(dict.fromkeys(table["policy"])) or [""])


def _thirds(table: pd.DataFrame, task: str, policy: str) -> list[tuple[int, pd.DataFrame]]:
    return [(third, own) for third in range(3) if len(own := _of(table, task, policy, third))]


def _of(table: pd.DataFrame, task: str, policy: str, third: int) -> pd.DataFrame:
    if table.empty:
        return table
    return table[(table["task"] == task) & (table["policy"] == policy) & (table["third"] == third)]


def _gained(axis: Axes, x: pd.Series | pd.Index, means: pd.DataFrame, third: int) -> None:
    axis.plot(x, means["proxy"], color=SHADES[third], linestyle="--", linewidth=1.0)
    axis.plot(x, means["true"], color=SHADES[third], linewidth=1.6)
    axis.scatter(x[-1:], means["true"].iloc[-1:], color=SHADES[third], s=16, zorder=3)


def _curve(axis: Axes, far: float, found: pd.DataFrame, third: int, form: overoptimisation.Form) -> None:
    if len(found):
        d = np.linspace(1e-3, far, 80)
        alpha, beta = float(found["alpha"].iloc[0]), float(found["beta"].iloc[0])
        axis.plot(d, overoptimisation.gain(d, alpha, beta, form), color=SHADES[third], linewidth=0.6)


def _thirds_and_rewards() -> list[Line2D]:
    handles = [line(label, color=SHADES[i]) for i, label in enumerate(THIRDS)]
    return [*handles, line("true reward (dot: end)", linewidth=1.6), line("the reward model's", linestyle="--")]
