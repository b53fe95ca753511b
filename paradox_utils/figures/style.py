"""The one style of all figures: panels that a page sets side by side or one above the other, a colour a task, a light grid.

Data colours are Okabe and Ito's in hue, and as dark as both a white and a near-black page allow (contrast 3 with either).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from paradox_utils.data.tasks import TASKS

# The colours that a page's theme replaces (`book/static/book.css`); all others stand out from white and from near-black paper.
INK, FAINT, GRID, BAND, PAPER = "#222222", "#8a8a8a", "#e6e6e6", "#eeeeee", "#ffffff"
THEME = {INK: "ink", FAINT: "faint", GRID: "grid", BAND: "band", PAPER: "paper"}
COLORS = ("#0173b2", "#c27c00", "#029e73", "#d55e00", "#b866a6", "#a8744c", "#8a63c9", "#3a86a8")
PALETTE = dict(zip(TASKS, COLORS, strict=False))
SHADES = (COLORS[0], COLORS[4], COLORS[3])  # thirds of accuracies, the least accurate first
LM_PERFORMANCE = {name: task.performance for name, task in TASKS.items()}
WIDTHS = {1: 4.2, 2: 3.9, 3: 3.0}  # inches of a panel, by how many stand in a row


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure, as ``@style()``; nothing of it stays behind."""
    settings: dict[str, Any] = {
        "figure.dpi": 110,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.titlelocation": "left",
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.4,
    }
    with sns.axes_style("whitegrid"), plt.rc_context(settings):
        yield


@dataclass(frozen=True)
class Drawing:
    """Panels, each the axes of a figure of its own, that a page sets beside or below each other; and the legend they share."""

    panels: Sequence[Axes]
    legend: Sequence[Artist] = ()


def panel(columns: int, height: float) -> Axes:
    """A panel for a page that has up to ``columns`` (1 to 3) in a row, unknown to pyplot; ``height`` in inches."""
    return Figure(figsize=(WIDTHS[columns], height), layout="constrained").subplots()


def grid(tasks: Sequence[str], policies: Sequence[str], height: float = 2.6) -> dict[tuple[str, str], Axes]:
    """A panel a task and policy, by policy, with its title."""
    axes = {(task, policy): panel(min(len(tasks), 3), height) for policy in policies for task in tasks}
    for (task, policy), axis in axes.items():
        axis.set_title(titled(task, policy, policies))
    return axes


def titled(task: str, policy: str, policies: Sequence[str]) -> str:
    """What a panel of a task and policy is called; on two lines, as a panel is narrow."""
    return task.capitalize() + (f"\n{policy}" if len(policies) > 1 else "")


def same_range(axes: Collection[Axes]) -> None:
    """Panels to compare have one vertical range."""
    lows, highs = zip(*(axis.get_ylim() for axis in axes), strict=True)
    for axis in axes:
        axis.set_ylim(min(lows), max(highs))


def ticks(x: Axis, most: int, **options: Any) -> None:
    """Round numbers along an axis, at most about so many."""
    x.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], **options))


def specks(axis: Axes, x: ArrayLike, y: ArrayLike, *, size: float, **look: Any) -> None:
    """Thousands of small dots (``size`` in points) as one shape, which takes a page a fifth of what markers do."""
    ends = np.repeat(np.column_stack([x, y]), 2, axis=0)
    path = Path(ends, [Path.MOVETO, Path.LINETO] * (len(ends) // 2))
    path.should_simplify = False  # it would drop lines of no length
    axis.add_patch(PathPatch(path, fill=False, linewidth=size, capstyle="round", **look))
    axis.update_datalim(ends)
    axis.autoscale_view()


def dot(label: str, **look: Any) -> Line2D:
    """A legend's marker, dark and round unless told otherwise."""
    return Line2D([], [], label=label, **{"linestyle": "none", "marker": "o", "color": INK} | look)


def line(label: str, **look: Any) -> Line2D:
    """A legend's line."""
    return Line2D([], [], label=label, **{"color": INK} | look)
