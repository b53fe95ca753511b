"""Figures of what people think of reward models' picks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from paradox_utils.analysis.people import named
from paradox_utils.figures.style import COLORS, FAINT, INK, Drawing, dot, line, panel, style, ticks

MARKERS = "osD^vPX"
LINES = ("random", "longest", "place", "best")  # of the baselines, those of a figure


@style()
def picks(shares: pd.DataFrame, baselines: pd.DataFrame, markers: pd.DataFrame) -> Drawing:
    """Accuracy on held-out pairs against the share of questions whose pick people call good: a panel a data set and task, a
    point a recipe with its 95 % interval (rows of :func:`paradox_utils.analysis.people.shares`), joined within a route in the
    order of accuracy. Lines: what picks that read nothing reach, and the best possible (rows of ``people.baselines``). Then,
    for tasks that the paper has, its points: a panel a task, a colour a policy (``markers``, of
    ``published.load_published``)."""
    arms, groups = list(dict.fromkeys(shares["arm"])), shares.groupby(["policy", "task"], sort=False)
    looks = {arm: {"color": COLORS[i], "marker": MARKERS[i % len(MARKERS)]} for i, arm in enumerate(arms)}
    paper = markers[markers["task"].isin(shares["task"])]
    theirs = {policy: {"color": COLORS[-1 - i], "marker": "+x1"[i % 3]} for i, policy in enumerate(paper["policy"].unique())}
    number = len(groups) + paper["task"].nunique()
    axes = [panel(2 if number in (2, 4) else min(3, number), 3.0) for _ in range(number)]
    for axis, ((name, task), own) in zip(axes, groups, strict=False):
        _recipes(axis, own, looks)
        named_lines(axis, baselines.loc[name, [*LINES]])
        axis.set(title=named(name, task), xlabel="RM accuracy (share)", ylabel="good picks (share)")
    for axis, (task, own) in zip(axes[len(groups) :], paper.groupby("task", sort=False), strict=True):
        for policy, points in own.groupby("policy", sort=False):
            axis.plot(points["rm_accuracy"], points["lm_performance"], linestyle="none", markersize=5, **theirs[policy])
        axis.set(title=f"The paper's {task}", xlabel="RM accuracy (share)", ylabel="LM performance")
        ticks(axis.xaxis, 5)
    legend = [dot(arm, markersize=5, **look) for arm, look in looks.items()]
    legend.append(line("without a reward model", linestyle=":", color=FAINT))
    return Drawing(axes, [*legend, *(dot(f"the paper's {policy}", markersize=5, **look) for policy, look in theirs.items())])


def _recipes(axis: Axes, shares: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    for arm, own in shares.sort_values("accuracy").groupby("arm", sort=False):
        errors = [(own["share"] - own["low"]).clip(lower=0), (own["high"] - own["share"]).clip(lower=0)]
        axis.errorbar(own["accuracy"], own["share"], yerr=errors, markersize=4, elinewidth=0.6, linewidth=0.8, **looks[arm])
    ticks(axis.xaxis, 5)


def named_lines(axis: Axes, values: Mapping[str, float] | pd.Series) -> None:
    """Levels as dotted lines, each with its name right of the panel; of names that would overlap the later moves up."""
    low, high = axis.get_ylim()
    levels = pd.Series(values, dtype=float).sort_values()
    low, high = min(low, levels.min()), max(high, levels.max())
    last = -np.inf
    for name, value in levels.items():
        axis.axhline(value, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
        last = max(value, last + 0.075 * (high - low))
        axis.annotate(str(name), (1.01, last), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)
    axis.set_ylim(low - 0.03 * (high - low), max(high, last) + 0.03 * (high - low))
