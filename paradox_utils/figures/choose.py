"""Figure of a choice among reward models: what each would make of the policy, along the KL."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paradox_utils.figures.style import COLORS, FAINT, INK, dot, legend, panels, style

DASHES = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1, 1.5)))  # equal curves show both


@style()
def curves(paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> Figure:
    """Judged score against KL: a curve a candidate (rows of ``paths``), a mark where the recipe goes (``table``, with its 95 %
    interval), dots for the best of n = 1, 2, 4, … (``best_of``); ``start``: the policy's own score."""
    figure, axes = panels(1, 1, 3.6)
    axis, handles = axes[0, 0], []
    names = [name for name in table["candidate"] if name in set(paths["candidate"])]
    colours = {name: COLORS[place % len(COLORS)] for place, name in enumerate(names)}
    axis.axhline(start, color=FAINT, linewidth=0.8, linestyle=":")
    axis.annotate(
        "the policy", (0.995, start), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=FAINT, fontsize=8
    )
    for place, (name, colour) in enumerate(colours.items()):
        own, chosen = paths[paths["candidate"] == name], best_of[best_of["candidate"] == name]
        axis.plot(own["kl"], own["score"], color=colour, linestyle=DASHES[place % len(DASHES)])
        axis.plot(chosen["kl"], chosen["score"], linestyle="none", marker=".", color=colour, alpha=0.5)
        row = table.set_index("candidate").loc[name]
        error = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        axis.errorbar(
            row["kl"], row["score"], error, color=colour, marker="o", markersize=6, markeredgecolor="white", capsize=2
        )
        handles.append(Line2D([], [], color=colour, linestyle=DASHES[place % len(DASHES)], label=name))
    axis.set(xlabel="KL from the policy (nats)", ylabel="judged score", xlim=(0, None))
    marks = [dot("where the recipe goes, 95 % interval"), dot("best of n", marker=".", alpha=0.5, color=INK)]
    legend(figure, [*handles, *marks], 3)
    return figure
