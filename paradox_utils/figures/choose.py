"""Figure of a choice among reward models: what each would make of the policy, along the KL."""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paradox_utils.figures.style import COLORS, FAINT, INK, Drawing, dot, line, panel, style

DASHES = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1, 1.5)))  # equal curves show both


@style()
def curves(paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> Drawing:
    """Judged score against KL: a curve a candidate (rows of ``paths``), a mark where the recipe goes (``table``, with its 95 %
    interval), dots for the best of n = 1, 2, 4, … (``best_of``); ``start``: the policy's own score."""
    axis = panel(1, 3.0)
    return Drawing([axis], _curves(axis, paths, best_of, table, start))


@style()
def in_brief(paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> Figure:
    """:func:`curves` with their legend, in one picture for those who have no page."""
    figure = Figure(figsize=(7.5, 3.9), layout="constrained", facecolor="white")
    figure.legend(handles=_curves(figure.subplots(), paths, best_of, table, start), loc="outside lower center", ncols=3)
    return figure


def _curves(axis: Axes, paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> list[Artist]:
    """Draw on the axes; returns the marks of the legend."""
    names = [name for name in table["candidate"] if name in set(paths["candidate"])]
    rows, handles = table.set_index("candidate"), []
    axis.axhline(start, color=FAINT, linewidth=0.8, linestyle=":")
    axis.annotate(
        "the policy", (0.995, start), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=INK, fontsize=8
    )
    for place, name in enumerate(names):
        own, chosen, row = paths[paths["candidate"] == name], best_of[best_of["candidate"] == name], rows.loc[name]
        look = {"color": COLORS[place % len(COLORS)], "linestyle": DASHES[place % len(DASHES)]}
        axis.plot(own["kl"], own["score"], **look)
        axis.plot(chosen["kl"], chosen["score"], linestyle="none", marker=".", color=look["color"], alpha=0.5)
        error = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        mark = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "capsize": 2}
        axis.errorbar(row["kl"], row["score"], error, color=look["color"], **mark)
        handles.append(line(name, **look))
    axis.set(xlabel="KL from the policy (nats)", ylabel="judged score", xlim=(0, None))
    return [*handles, dot("where the recipe goes"), dot("best of n", marker=".", alpha=0.5)]
