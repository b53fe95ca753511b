"""The one style of all figures: a colour a task from seaborn's colour-blind-safe palette, 7.5 inches wide, light grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from paradox_utils.data.tasks import TASKS

WIDTH = 7.5  # inches: the text column of the book
COLORS = sns.color_palette("colorblind")
PALETTE = dict(zip(TASKS, COLORS, strict=False))
LM_PERFORMANCE = {name: task.performance for name, task in TASKS.items()}
INK, FAINT = "#222222", "#8a8a8a"


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure, as ``@style()``; nothing of it stays behind."""
    settings: dict[str, Any] = {
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.titlelocation": "left",
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.4,
        "svg.hashsalt": "paradox",
    }
    with sns.axes_style("whitegrid"), plt.rc_context(settings):
        yield


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of book width with ``rows × columns`` axes, unknown to pyplot, so that a notebook shows it once."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **options)
    plt.close(figure)
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    return figure, axes


def ticks(x: Axis, most: int, **options: Any) -> None:
    """Round numbers along an axis, at most about so many."""
    x.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], **options))


def dot(label: str, **look: Any) -> Line2D:
    """A legend's marker, dark and round unless told otherwise."""
    return Line2D([], [], label=label, **{"linestyle": "none", "marker": "o", "color": INK} | look)


def legend(figure: Figure, handles: Sequence[Artist], columns: int, **options: Any) -> None:
    """A legend below all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **options)


def title(task: str, policy: str, policies: Sequence[str]) -> str:
    """What a panel of a task and policy is called; on two lines, as a panel is narrow."""
    return task.capitalize() + (f"\n{policy}" if len(policies) > 1 else "")
