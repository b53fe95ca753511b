"""Figures of what people think of reward models' picks."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paradox_utils.figures.style import COLORS, FAINT, INK, dot, legend, panels, style, ticks

MARKERS = "osD^vPX"
# Baselines, and what they are called in a figure.
LINES = {"random": "random", "longest": "longest", "place": "best place", "best": "best possible"}


@style()
def picks(shares: pd.DataFrame, baselines: pd.DataFrame) -> Figure:
    """Accuracy on held-out pairs against the share of questions whose pick people call good: a panel a data set and task, a
    point a recipe with its 95 % interval (rows of :func:`paradox_utils.analysis.people.shares`), joined within a route in the
    order of accuracy. Lines: what picks that read nothing reach, and the best possible (rows of ``people.baselines``)."""
    shown = list(dict.fromkeys(shares[["policy", "task"]].itertuples(index=False, name=None)))
    arms = list(dict.fromkeys(shares["arm"]))
    looks = {arm: {"color": COLORS[i], "marker": MARKERS[i % len(MARKERS)]} for i, arm in enumerate(arms)}
    columns = 2 if len(shown) in (2, 4) else min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = panels(rows, columns, 3.0 * rows + 0.4)
    for axis, (name, task) in zip(axes.ravel(), shown, strict=False):
        own = shares[(shares["policy"] == name) & (shares["task"] == task)]
        _panel(axis, own, looks)
        _lines(axis, baselines.loc[name])
        axis.set_title(name if (shares["policy"] == name).sum() == len(own) else f"{name}\n{task}")
    for axis in axes.ravel()[len(shown) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("good picks (share of questions)")
    for axis in axes[-1]:
        axis.set_xlabel("RM accuracy (share)")
    legend(figure, [dot(arm, markersize=5, **look) for arm, look in looks.items()], 4)
    return figure


def _panel(axis: Axes, shares: pd.DataFrame, looks: dict[str, dict]) -> None:
    for arm, own in shares.sort_values("accuracy").groupby("arm", sort=False):
        errors = [(own["share"] - own["low"]).clip(lower=0), (own["high"] - own["share"]).clip(lower=0)]
        axis.errorbar(own["accuracy"], own["share"], yerr=errors, markersize=4, elinewidth=0.6, linewidth=0.8, **looks[arm])
    ticks(axis.xaxis, 5)


def _lines(axis: Axes, baselines: pd.Series) -> None:
    """Each baseline, its name at the right end; of names that would overlap the later moves up."""
    low, high = axis.get_ylim()
    span, last = max(high, baselines["best"]) - min(low, baselines["random"]), -1.0
    for name, value in baselines[list(LINES)].sort_values().items():
        axis.axhline(value, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
        last = max(value, last + 0.055 * span)
        axis.annotate(
            LINES[name], (1.0, last), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color=INK
        )
    axis.set_ylim(min(low, baselines["random"] - 0.03 * span), max(high, last + 0.07 * span))
