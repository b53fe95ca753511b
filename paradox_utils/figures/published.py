"""Figures of the paper's published points, redrawn: each takes a table of :mod:`paradox_utils.analysis.published`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.analysis import published
from paradox_utils.analysis.phrases import digits
from paradox_utils.figures.style import (
    BAND,
    COLORS,
    FAINT,
    GRID,
    INK,
    PALETTE,
    PAPER,
    Drawing,
    dot,
    grid,
    line,
    panel,
    same_range,
    specks,
    style,
    ticks,
)

ROLES = {"most_accurate": ("most accurate RM", INK), "best_performing": ("“best-performing” RM", COLORS[3])}
METRICS = {"raw_reward": "raw reward", "kl": "KL estimate (nats)"}
WORLDS = {"irrelevant": ("accuracy irrelevant", FAINT), "as measured": ("matters as measured", COLORS[0])}
BLUE = to_rgb(COLORS[0])
BLUES = LinearSegmentedColormap.from_list("blues", [(*BLUE, 0.16), (*BLUE, 1.0)])  # pale on white paper, and on black
PARTS = {"trend": ("trend (straight line)", INK), "slow": ("slow change", FAINT), "noise": ("batch to batch", GRID)}


def _grid(table: pd.DataFrame, across: str, up: str) -> dict[tuple[str, str], Axes]:
    """Panels of the pairs of ``table``, titled, with the names of their axes; by policy and task, as :data:`published.PAIR`."""
    axes = grid(list(table["task"].unique()), list(table["policy"].unique()), 2.5)
    for axis in axes.values():
        axis.set(xlabel=across, ylabel=up)
        ticks(axis.xaxis, 4)
        ticks(axis.yaxis, 4)
    return {(policy, task): axis for (task, policy), axis in axes.items()}


@style()
def points(markers: pd.DataFrame) -> Drawing:
    """LM performance against accuracy, a panel a pair: the most accurate RM is ringed, the best policy is filled dark."""
    axes = _grid(markers, "RM accuracy (share)", "LM performance")
    for pair, models in markers.groupby(published.PAIR, sort=False):
        axis, row = axes[pair], published.standing(models).iloc[0]
        axis.scatter(models["rm_accuracy"], models["lm_performance"], s=20, color=PALETTE[row.task], alpha=0.75, linewidth=0)
        axis.scatter(row.best_accuracy, row.best_performance, s=34, marker="D", color=INK, linewidth=0, zorder=3)
        ring = {"facecolor": "none", "edgecolor": INK, "linewidth": 1.3, "zorder": 4}
        axis.scatter(row.top_accuracy, row.top_performance, s=95, **ring)
        axis.set_title(f"ρ = {digits(row.spearman, '+.2f')}", loc="right", fontsize=9, color=INK)
        axis.margins(0.08)
    handles = [
        dot("RM, one PPO run", markersize=5, alpha=0.75, color=PALETTE["relevance"]),
        dot("most accurate RM", markersize=9, markerfacecolor="none"),
        dot("highest LM performance", markersize=5, marker="D"),
    ]
    return Drawing(list(axes.values()), handles)


@style()
def clusters(markers: pd.DataFrame) -> Drawing:
    """RMs by accuracy, in bins of :data:`published.RESOLUTION`: a panel a task, the middle half of the range shaded."""
    models = markers.drop_duplicates(["task", "rm_step"])
    axes = grid(list(models["task"].unique()), [""], 2.5)
    for (task, _), axis in axes.items():
        accuracy = models.loc[models["task"] == task, "rm_accuracy"]
        low, high = accuracy.min(), accuracy.max()
        bins = np.arange(np.floor(low * 100), np.floor(high * 100) + 2) * published.RESOLUTION
        axis.axvspan(low + (high - low) / 4, high - (high - low) / 4, color=BAND, zorder=0)
        axis.hist(accuracy, bins=bins, color=PALETTE[task], edgecolor=PAPER, linewidth=0.6, zorder=2)
        axis.set(xlabel="RM accuracy (share)", ylabel="reward models")
        ticks(axis.xaxis, 4)
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(visible=False, axis="x")
    same_range(axes.values())
    return Drawing(list(axes.values()), [Patch(color=BAND, label="middle half of the range of accuracies")])


@style()
def surfaces(markers: pd.DataFrame) -> Drawing:
    """The drawn surfaces from above, with the RMs; colours end at the highest marker, and what rises above it is orange."""
    axes = _grid(markers, "training step of the RM", "RM accuracy (share)")
    for pair, models in markers.groupby(published.PAIR, sort=False):
        axis, drawn, y = axes[pair], published.surface(models), models["lm_performance"]
        look = {"levels": np.linspace(y.min(), y.max(), 7), "cmap": BLUES, "extend": "min"}
        seen = drawn.steps[::4], drawn.accuracies[::4], drawn.values[::4, ::4]  # as fine as a page shows
        axis.contourf(*seen, **look)
        if np.nanmax(drawn.values) > y.max():
            above = [y.max(), np.nanmax(drawn.values) + 1e-9]
            axis.contourf(*seen, levels=above, colors=[COLORS[1]], alpha=0.75)
        axis.scatter(models["rm_step"], models["rm_accuracy"], s=13, color=PAPER, edgecolor=INK, linewidth=0.8, zorder=3)
        step, accuracy, height = drawn.peak
        axis.scatter(step, accuracy, s=48, marker="X", color=INK, edgecolor=PAPER, linewidth=0.8, zorder=4)
        axis.set_title(f"{height:.3f} > {y.max():.3f}" if height > y.max() else "", loc="right", fontsize=9)
        axis.grid(visible=False)
        ticks(axis.xaxis, 3)
        axis.use_sticky_edges = False  # contours would keep the frame on the outermost RMs
        axis.margins(0.04)
    handles = [
        dot("RM", markersize=4, markerfacecolor=PAPER),
        dot("peak of the surface", markersize=7, marker="X"),
        Patch(color=COLORS[1], alpha=0.75, label="surface above every RM"),
        Patch(color=BLUES(0.5), label="surface below (fuller: higher)"),
    ]
    return Drawing(list(axes.values()), handles)


@style()
def ranks(pairs: pd.DataFrame) -> Drawing:
    """Rank and regret of the most accurate RM, observed, and mean with the middle 95 % in each null world: a row a pair."""
    labels = {"rank": "rank (1: best policy)", "regret_sd": "regret (standard deviations)"}
    axes = [panel(2, 3.8) for _ in labels]
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for shift, (null, (_, color)) in zip((-0.17, 0.17), WORLDS.items(), strict=True):
            rows = pairs.loc[null]
            y = np.arange(len(rows))
            axis.hlines(y + shift, rows[f"{name}_low"], rows[f"{name}_high"], color=color, linewidth=2.2, alpha=0.6)
            axis.scatter(rows[f"{name}_mean"], y + shift, s=18, color=color, zorder=3)
        colors = [PALETTE[task] for _, task in rows.index]
        axis.scatter(rows[f"{name}_observed"], y, s=46, marker="D", color=colors, edgecolor=PAPER, linewidth=0.8, zorder=4)
        axis.set(xlabel=label)
        axis.set_yticks(y, [f"{policy}, {task}" for policy, task in rows.index])
        axis.grid(visible=False, axis="y")
        axis.invert_yaxis()
    handles = [dot("observed", marker="D", markersize=6)]
    handles += [dot(label, linestyle="-", markersize=4, color=color) for label, color in WORLDS.values()]
    return Drawing(axes, handles)


@style()
def misses(pairs: pd.DataFrame, standing: pd.DataFrame, draws: int, seed: int) -> Drawing:
    """Probability that the most accurate RM is not first, by Spearman's ρ, for numbers of RMs; dots: the pairs."""
    table = standing.merge(pairs.loc["as measured"], on=published.PAIR)
    axis, rho = panel(1, 3.3), np.linspace(-0.4, 1, 36)
    for models, dashes in {20: "-", 6: "--", 3: ":"}.items():
        missed = published.misses(rho, models, draws, seed)
        axis.plot(rho, missed, color=INK, linestyle=dashes, linewidth=1.2, label=f"{models} RMs")
    for task, rows in table.groupby("task", sort=False):
        look = {"s": 42, "color": PALETTE[task], "edgecolor": "white", "zorder": 3, "label": f"pairs of {task}"}
        axis.scatter(rows["spearman"], rows["not_first"], **look)
    axis.set(xlabel="Spearman's ρ of accuracy and LM performance", ylabel="P(most accurate RM is not first)", ylim=(0, 1.03))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return Drawing([axis], axis.get_legend_handles_labels()[0])


@style()
def curves(table: pd.DataFrame, metric: str) -> Drawing:
    """The training curves of one ``metric``, a panel a pair: points are batches, lines their slow course."""
    axes = _grid(table, "PPO update", METRICS[metric])
    for pair, both in table[table["metric"] == metric].groupby(published.PAIR, sort=False):
        axis = axes[pair]
        for role, (_, color) in ROLES.items():
            step, value = both[both["rm_role"] == role].sort_values("step", kind="stable")[["step", "value"]].to_numpy().T
            specks(axis, step, value, size=1.8, edgecolor=color, alpha=0.22)
            axis.plot(step, published.smooth(step, value), color=color, linewidth=1.7)
        ticks(axis.xaxis, 3)
    return Drawing(list(axes.values()), [line(label, color=color, linewidth=2) for label, color in ROLES.values()])


@style()
def variance_parts(table: pd.DataFrame) -> Drawing:
    """Shares of each curve's variance that are trend, slow change and difference between batches: a bar a curve, the upper one
    of a pair that of the most accurate reward model."""
    names = [f"{policy}, {task}" for policy, task in table[published.PAIR].drop_duplicates().itertuples(index=False)]
    y = np.arange(len(names))
    titles = {"raw_reward": "Raw reward", "kl": "KL estimate"}
    axes = [panel(2, 4.2) for _ in titles]
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for shift, role in zip((-0.2, 0.2), ROLES, strict=True):
            bars, left = table[(table["metric"] == metric) & (table["rm_role"] == role)], np.zeros(len(names))
            for part, (_, color) in PARTS.items():
                axis.barh(y + shift, bars[part], left=left, height=0.36, color=color, linewidth=0)
                left += bars[part].to_numpy()
        axis.set(title=title, xlim=(0, 1), xlabel="share of the variance over training")
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(visible=False, axis="y")
        axis.set_yticks(y, names)
        axis.invert_yaxis()
    return Drawing(axes, [Patch(color=color, label=label) for label, color in PARTS.values()])
