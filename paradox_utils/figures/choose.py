"""Figures of a choice among reward models: what each would make of the policy, along the KL; and how right that was."""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paradox_utils.data.tasks import among
from paradox_utils.figures.style import COLORS, FAINT, PALETTE, Drawing, dot, line, panel, style, ticks

ROOM = 84  # letters in a row of the picture's legend, marks aside
MARKERS = "osD^"  # a policy
DASHES = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1, 1.5)))  # equal curves show both


@style()
def curves(paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> Drawing:
    """Judged score against KL: a curve a candidate (``paths``, of trainings or of the best of n), from the policy to where the
    recipe goes (``table``, with its 95 % interval), dots for the best of n = 1, 2, 4, … (``best_of``); ``start``: the policy's
    own score."""
    axis = panel(1, 3.0)
    return Drawing([axis], _curves(axis, paths, best_of, table, start))


@style()
def in_brief(paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> Figure:
    """:func:`curves` with their legend, in one picture for those who have no page."""
    figure = Figure(figsize=(7.5, 3.9), layout="constrained", facecolor="white")
    handles = _curves(figure.subplots(), paths, best_of, table, start)
    longest = max(len(str(mark.get_label())) for mark in handles)
    columns = max(1, min(3, ROOM // longest))  # more would reach over the picture's edges
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


@style()
def backtest(predictions: pd.DataFrame) -> Drawing:
    """Gain that PPO reached against the gain that was predicted, a dot a recorded run, a panel a task; on the line both are
    equal."""
    panels, policies = [], list(dict.fromkeys(predictions["policy"]))
    for task in among(predictions["task"]):
        own, axis = predictions[predictions["task"] == task], panel(3, 2.8)
        ends = [own[["gain", "reached_sampled"]].min().min(), own[["gain", "reached_sampled"]].max().max()]
        axis.plot(ends, ends, color=FAINT, linewidth=0.8)
        for policy, marker in zip(policies, MARKERS, strict=False):
            some = own[own["policy"] == policy]
            look = {"color": PALETTE[task], "alpha": 0.6, "linewidth": 0, "s": 14}
            axis.scatter(some["gain"], some["reached_sampled"], marker=marker, **look)
        axis.set(title=task.capitalize(), xlabel="predicted gain", ylabel="" if panels else "gain reached by PPO")
        ticks(axis.xaxis, 4)
        panels.append(axis)
    handles = [dot(policy, marker=marker, markersize=4) for policy, marker in zip(policies, MARKERS, strict=False)]
    return Drawing(panels, handles if len(policies) > 1 else ())


def _curves(axis: Axes, paths: pd.DataFrame, best_of: pd.DataFrame, table: pd.DataFrame, start: float) -> list[Artist]:
    """Draw on the axes; returns the marks of the legend."""
    names = [name for name in table["candidate"] if name in set(paths["candidate"])]
    rows, handles = table.set_index("candidate"), []
    axis.axhline(start, color=FAINT, linewidth=0.8, linestyle=":")  # named in the legend, where no curve runs through it
    for place, name in enumerate(names):
        own, chosen, row = paths[paths["candidate"] == name], best_of[best_of["candidate"] == name], rows.loc[name]
        look = {"color": COLORS[place % len(COLORS)], "linestyle": DASHES[place % len(DASHES)]}
        own = own[own["kl"] < row["kl"]]  # of two candidates with one order, the larger reward goes on
        axis.plot([*own["kl"], row["kl"]], [*own["score"], row["score"]], **look)
        axis.plot(chosen["kl"], chosen["score"], linestyle="none", marker=".", color=look["color"], alpha=0.5)
        error = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        mark = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "capsize": 2}
        axis.errorbar(row["kl"], row["score"], error, color=look["color"], **mark)
        handles.append(line(name, **look))
    axis.set(xlabel="KL from the policy (nats)", ylabel="judged score", xlim=(0, None))
    shown = best_of["n"].astype(int)
    return [
        *handles,
        line("the policy", color=FAINT, linewidth=0.8, linestyle=":"),
        dot("where the recipe goes"),
        dot(f"best of {shown.min()} to {shown.max()} responses", marker=".", alpha=0.5),
    ]
