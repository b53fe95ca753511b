"""Figures of why: what predicts a good teacher, and where the true reward leaves the proxy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paradox_utils import overoptimisation
from paradox_utils.data.records import TASKS
from paradox_utils.plots import FAINT, LM_PERFORMANCE, PALETTE, _panels, style

THIRDS = ("least accurate third", "middle third", "most accurate third")
SHADES = sns.color_palette("viridis", 3)


def predictors(table: pd.DataFrame, words: Mapping[str, str]) -> Figure:
    """Correlation of each measure with the gain (rows of :func:`paradox_utils.why.correlations`): all tasks together as
    diamonds with 95 % intervals, single tasks as dots."""
    pooled = table[table["task"] == "all"].set_index("measure")
    names = [name for name in words if name in pooled.index]
    with style():
        figure, axes = _panels(1, 1, 0.9 + 0.3 * max(1, len(names)))
        axis = axes[0, 0]
        axis.axvline(0, color=FAINT, linewidth=0.8)
        for place, name in enumerate(reversed(names)):
            row = pooled.loc[name]
            axis.plot([row["low"], row["high"]], [place, place], color="#222222", linewidth=1.4)
            axis.scatter([row["correlation"]], [place], color="#222222", marker="D", s=26, zorder=3)
            for index, task in enumerate(TASKS):
                own = table[(table["task"] == task) & (table["measure"] == name)]
                axis.scatter(own["correlation"], [place + 0.12 * (1 - index)] * len(own), color=PALETTE[task], s=16, zorder=2)
        axis.set(yticks=range(len(names)), yticklabels=[words[name] for name in reversed(names)], xlim=(-1.02, 1.02))
        axis.set_xlabel("Correlation with the gain in LM performance")
        axis.grid(visible=False, axis="y")
        handles = [Line2D([], [], color="#222222", marker="D", markersize=5, label="all tasks")]
        handles += [
            Line2D([], [], color=PALETTE[task], marker="o", linestyle="none", markersize=4, label=task) for task in TASKS
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def variance_and_gain(teachers: pd.DataFrame) -> Figure:
    """Gain in LM performance against accuracy on-policy (top) and reward variance within prompts (bottom), a panel a task."""
    rows = {"probe_accuracy": "accuracy on-policy", "probe_variance": "reward variance within prompts"}
    with style():
        figure, axes = _panels(len(rows), len(TASKS), 4.6)
        for line, (name, words) in zip(axes, rows.items(), strict=True):
            for axis, task in zip(line, TASKS, strict=True):
                own = teachers[teachers["task"] == task]
                axis.scatter(own[name], own["gain"], s=14, color=PALETTE[task], alpha=0.7, linewidth=0)
                axis.axhline(0, color=FAINT, linewidth=0.8)
                axis.set(title=task.capitalize() if name == "probe_accuracy" else "", xlabel=words)
            line[0].set_ylabel("gain in LM performance")
    return figure


def overoptimised(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Reward gained, by update (top) and along √KL (bottom), a panel a task, a colour a third of accuracies: the reward model's
    own (dashed) and the true one (solid), means over runs, and along √KL the fitted R = d (α − β log d) (thin)."""
    with style():
        figure, axes = _panels(2, len(TASKS), 5.2)
        for column, task in enumerate(TASKS):
            top, bottom = axes[:, column]
            for third in range(3):
                own = table[(table["task"] == task) & (table["third"] == third)]
                if not len(own):
                    continue
                means = own.groupby("update")[["distance", "proxy", "true"]].mean()
                for axis, x in ((top, means.index), (bottom, means["distance"])):
                    axis.plot(x, means["proxy"], color=SHADES[third], linestyle="--", linewidth=1.0)
                    axis.plot(x, means["true"], color=SHADES[third], linewidth=1.6)
                bottom.scatter(means["distance"].iloc[-1:], means["true"].iloc[-1:], color=SHADES[third], s=22, zorder=3)
                found = fits[(fits["task"] == task) & (fits["third"] == third + 1)]
                if len(found):
                    d = np.linspace(1e-3, float(means["distance"].max()), 80)
                    curve = overoptimisation.gain(d, float(found["alpha"].iloc[0]), float(found["beta"].iloc[0]), "rl")
                    bottom.plot(d, curve, color=SHADES[third], linewidth=0.6)
            top.set(title=task.capitalize(), xlabel="PPO update")
            bottom.set(xlabel="√KL from the reference policy")
        figure.supylabel("reward gained (deviations of the true one)", fontsize=9)
        handles = [Line2D([], [], color=SHADES[i], label=label) for i, label in enumerate(THIRDS)]
        handles += [Line2D([], [], color="#222222", linewidth=1.6, label="true reward (dot: end)")]
        handles += [Line2D([], [], color="#222222", linestyle="--", label="the reward model's")]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def best_of_n(paths: pd.DataFrame) -> Figure:
    """LM performance of the response with the highest reward among n, along √KL: a panel a task, a colour a third."""
    with style():
        figure, axes = _panels(1, len(TASKS), 2.9)
        for axis, task in zip(axes[0], TASKS, strict=True):
            for third in range(3):
                own = paths[(paths["task"] == task) & (paths["third"] == third)]
                means = own.groupby("n")[["distance", "lm_performance"]].mean()
                axis.plot(means["distance"], means["lm_performance"], color=SHADES[third], marker="o", markersize=3)
            axis.set(title=task.capitalize(), xlabel="√KL of best-of-n", ylabel=LM_PERFORMANCE[task])
        handles = [Line2D([], [], color=SHADES[i], label=label) for i, label in enumerate(THIRDS)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
