"""Figures of why: what predicts a good teacher, and where the true reward leaves the proxy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paradox_utils.analysis import overoptimisation
from paradox_utils.analysis.overoptimisation import THIRDS
from paradox_utils.analysis.teachers import BEFORE
from paradox_utils.data.tasks import MARKED
from paradox_utils.figures.style import FAINT, INK, LM_PERFORMANCE, PALETTE, dot, legend, panels, style, title

SHADES = sns.color_palette("viridis", 3)
MARKERS = "osD^"  # a policy


@style()
def predictors(table: pd.DataFrame, words: Mapping[str, str]) -> Figure:
    """Correlation of each measure with the gain (rows of :func:`paradox_utils.analysis.teachers.correlations`): all tasks
    together as diamonds with 95 % intervals (Spearman's as hollow ones), single tasks as dots. A line parts what is known
    before PPO from what is measured along it."""
    pooled = table[table["task"] == "all"].set_index("measure")
    names = [name for name in words if name in pooled.index]
    figure, axes = panels(1, 1, 0.9 + 0.3 * max(1, len(names)))
    axis = axes[0, 0]
    axis.axvline(0, color=FAINT, linewidth=0.8)
    for place, name in enumerate(reversed(names)):
        row = pooled.loc[name]
        axis.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=1.4)
        axis.scatter([row["correlation"]], [place], color=INK, marker="D", s=26, zorder=3)
        axis.scatter([row["spearman"]], [place], facecolors="none", edgecolors=INK, marker="D", s=26, zorder=3)
        for index, task in enumerate(MARKED):
            own = table[(table["task"] == task) & (table["measure"] == name)]
            axis.scatter(own["correlation"], [place + 0.12 * (1 - index)] * len(own), color=PALETTE[task], s=16, zorder=2)
    later = sum(name not in BEFORE for name in names)
    if 0 < later < len(names):
        axis.axhline(later - 0.5, color=FAINT, linewidth=0.8)
    axis.set(yticks=range(len(names)), yticklabels=[words[name] for name in reversed(names)], xlim=(-1.02, 1.02))
    axis.set_xlabel("Correlation with the gain in LM performance")
    axis.grid(visible=False, axis="y")
    handles = [dot("all tasks", marker="D", markersize=5, linestyle="-")]
    handles += [dot("Spearman's", marker="D", markersize=5, markerfacecolor="none")]
    handles += [dot(task, color=PALETTE[task], markersize=4) for task in MARKED]
    legend(figure, handles, 5)
    return figure


@style()
def variance_and_gain(teachers: pd.DataFrame) -> Figure:
    """Gain in LM performance against accuracy on-policy (top) and reward variance within prompts (bottom), a panel a task, a
    marker a policy."""
    rows = {"probe_accuracy": "accuracy on-policy", "probe_variance": "reward variance within prompts"}
    markers = dict(zip(dict.fromkeys(teachers["policy"]), MARKERS, strict=False))
    figure, axes = panels(len(rows), len(MARKED), 4.6)
    for line, (name, words) in zip(axes, rows.items(), strict=True):
        for axis, task in zip(line, MARKED, strict=True):
            for policy, marker in markers.items():
                own = teachers[(teachers["task"] == task) & (teachers["policy"] == policy)]
                axis.scatter(own[name], own["gain"], s=14, color=PALETTE[task], alpha=0.7, linewidth=0, marker=marker)
            axis.axhline(0, color=FAINT, linewidth=0.8)
            axis.set(title=task.capitalize() if name == "probe_accuracy" else "", xlabel=words)
        line[0].set_ylabel("gain in LM performance")
    if len(markers) > 1:
        handles = [dot(policy, marker=marker, markersize=4) for policy, marker in markers.items()]
        legend(figure, handles, len(handles))
    return figure


@style()
def overoptimised(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Reward gained, by update (top) and along √KL (bottom), a panel a task and policy, a colour a third of accuracies: the
    reward model's own (dashed) and the true one (solid), means over runs, and along √KL the fitted R = d (α − β log d) (thin).
    """
    figure, panels = _pairs(table)
    for task, policy, top, bottom in panels:
        for third, own in _thirds(table, task, policy):
            means = own.groupby("update")[["distance", "proxy", "true"]].mean()
            _gained(top, means.index, means, third)
            _gained(bottom, means["distance"], means, third)
            _curve(bottom, float(means["distance"].max()), _of(fits, task, policy, third + 1), third, "rl")
        top.set(xlabel="PPO update")
        bottom.set(xlabel="√KL from the reference policy")
    figure.supylabel("reward gained (deviations of the true one)", fontsize=9)
    legend(figure, _thirds_and_rewards(), 3)
    return figure


@style()
def hacked(table: pd.DataFrame, turned: pd.DataFrame) -> Figure:
    """Runs one by one, by update (rows of :func:`overoptimisation.paths`), a panel a task and policy: the true reward gained by
    each (faint), and of the hacked ones (``turned``: rows of :func:`paradox_utils.analysis.hacking.turns`) the true (solid) and
    the reward model's own (dashed), a colour a third of accuracies."""
    policies, told = list(dict.fromkeys(table["policy"])) or [""], set(turned.loc[turned["hacked"].fillna(False), "id"])
    figure, axes = panels(len(policies), len(MARKED), 2.6 * len(policies))
    for line, policy in zip(axes, policies, strict=True):
        for axis, task in zip(line, MARKED, strict=True):
            for run, own in table[(table["task"] == task) & (table["policy"] == policy)].groupby("id"):
                if run not in told:
                    axis.plot(own["update"], own["true"], color=FAINT, linewidth=0.5)
                    continue
                third = own["third"].iloc[0]
                color = SHADES[int(third)] if np.isfinite(third) else INK
                axis.plot(own["update"], own["true"], color=color, linewidth=1.4, zorder=3)
                axis.plot(own["update"], own["proxy"], color=color, linewidth=1.0, linestyle="--", zorder=3)
            axis.set(title=title(task, policy, policies), xlabel="PPO update")
    figure.supylabel("reward gained (deviations of the true one)", fontsize=9)
    handles = [Line2D([], [], color=SHADES[i], label=f"hacked, {label}") for i, label in enumerate(THIRDS)]
    handles += [Line2D([], [], color=FAINT, label="true reward of the others")]
    handles += [
        Line2D([], [], color=INK, label="true reward"),
        Line2D([], [], color=INK, linestyle="--", label="the reward model's"),
    ]
    legend(figure, handles, 3)
    return figure


@style()
def best_of_n(paths: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """The response with the highest reward among n, along √KL, a panel a task and policy, a colour a third: its LM performance
    (top), and the reward gained over a single response (bottom): the reward model's own (dashed) and the true one (solid), with
    the fitted R = d (α − β d) (thin)."""
    figure, panels = _pairs(paths)
    for task, policy, top, bottom in panels:
        for third, own in _thirds(paths, task, policy):
            means = own.groupby("n")[["distance", "lm_performance", "proxy", "true"]].mean()
            top.plot(means["distance"], means["lm_performance"], color=SHADES[third], marker="o", markersize=3)
            _gained(bottom, means["distance"], means, third)
            _curve(bottom, float(means["distance"].max()), _of(fits, task, policy, third + 1), third, "best-of-n")
        top.set(ylabel=LM_PERFORMANCE[task])
        bottom.set(xlabel="√KL of best-of-n", ylabel="reward gained" if task == next(iter(MARKED)) else "")
    legend(figure, _thirds_and_rewards(), 3)
    return figure


def _pairs(table: pd.DataFrame) -> tuple[Figure, list[tuple[str, str, Axes, Axes]]]:
    """A figure with two panels, one above the other, for each task and policy: task, policy, and the two."""
    policies = list(dict.fromkeys(table["policy"])) or [""]
    figure, axes = panels(2 * len(policies), len(MARKED), 5.2 * len(policies))
    pairs = []
    for line, policy in enumerate(policies):
        for task, top, bottom in zip(MARKED, *axes[2 * line : 2 * line + 2], strict=True):
            top.set(title=title(task, policy, policies))
            pairs.append((task, policy, top, bottom))
    return figure, pairs


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
    handles = [Line2D([], [], color=SHADES[i], label=label) for i, label in enumerate(THIRDS)]
    handles += [Line2D([], [], color=INK, linewidth=1.6, label="true reward (dot: end)")]
    return [*handles, Line2D([], [], color=INK, linestyle="--", label="the reward model's")]
