"""Figures of what people think of reward models' picks."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from paradox_utils.analysis.people import named
from paradox_utils.figures.style import COLORS, FAINT, INK, Drawing, dot, line, panel, style, ticks

MARKERS = "osD^vPX"
LINES = ("random", "longest", "place", "best")  # of the baselines, those of a figure


@style()
def picks(shares: pd.DataFrame, baselines: pd.DataFrame) -> Drawing:
    """Accuracy on held-out pairs against the share of questions whose pick people call good: a panel a data set and task, a
    point a recipe with its 95 % interval (rows of :func:`paradox_utils.analysis.people.shares`), joined within a route in the
    order of accuracy. Lines: what picks that read nothing reach, and the best possible (rows of ``people.baselines``)."""
    arms, groups = list(dict.fromkeys(shares["arm"])), shares.groupby(["policy", "task"], sort=False)
    looks = {arm: {"color": COLORS[i], "marker": MARKERS[i % len(MARKERS)]} for i, arm in enumerate(arms)}
    axes = [panel(2 if len(groups) in (2, 4) else min(3, len(groups)), 3.0) for _ in groups]
    for axis, ((name, task), own) in zip(axes, groups, strict=True):
        _recipes(axis, own, looks)
        _lines(axis, baselines.loc[name])
        axis.set(title=named(name, task), xlabel="RM accuracy (share)", ylabel="good picks (share)")
    rule = line("without a reward model", linestyle=":", color=FAINT)
    return Drawing(axes, [*(dot(arm, markersize=5, **look) for arm, look in looks.items()), rule])


def _recipes(axis: Axes, shares: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    for arm, own in shares.sort_values("accuracy").groupby("arm", sort=False):
        errors = [(own["share"] - own["low"]).clip(lower=0), (own["high"] - own["share"]).clip(lower=0)]
        axis.errorbar(own["accuracy"], own["share"], yerr=errors, markersize=4, elinewidth=0.6, linewidth=0.8, **looks[arm])
    ticks(axis.xaxis, 5)


def _lines(axis: Axes, baselines: pd.Series) -> None:
    """Each baseline, its name right of the panel; of names that would overlap the later moves up."""
    low, high = axis.get_ylim()
    values = baselines[[*LINES]].astype(float).sort_values()
    span, last = max(high, values.max()) - min(low, values.min()), -1.0
    for name, value in values.items():
        axis.axhline(value, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
        last = max(value, last + 0.075 * span)
        axis.annotate(name, (1.01, last), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)
    axis.set_ylim(min(low, values.min() - 0.03 * span), max(high, last + 0.03 * span))
