"""Figures of the paper's published points, redrawn: each takes a table of :mod:`paradox_utils.analysis.published`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.analysis import published
from paradox_utils.figures.style import FAINT, INK, PALETTE, dot, legend, panels, style, ticks

ROLES = {"most_accurate": ("most accurate RM", INK), "best_performing": ("“best-performing” RM", "#d55e00")}
METRICS = {"raw_reward": "raw reward", "kl": "KL estimate (nats)"}
WORLDS = {"irrelevant": ("accuracy irrelevant", FAINT), "as measured": ("matters as measured", "#0173b2")}
GREYS = LinearSegmentedColormap.from_list("greys", ["#e4e4e4", "#303030"])  # white is left for where there is no surface
PARTS = {"trend": ("trend (straight line)", INK), "slow": ("slow change", "#949494"), "noise": ("batch to batch", "#dddddd")}


def _grid(table: pd.DataFrame, height: float, across: str, up: str, **options: Any) -> tuple[Figure, dict[Any, Axes]]:
    """Panels of the policies (rows) and tasks (columns) of ``table``, titled, with the names of their axes."""
    policies, tasks = table["policy"].unique(), table["task"].unique()
    figure, axes = panels(len(policies), len(tasks), height, **options)
    grid = {(policy, task): axes[i, j] for i, policy in enumerate(policies) for j, task in enumerate(tasks)}
    for (policy, task), axis in grid.items():
        axis.set_title(task.capitalize(), fontsize=9)
        axis.set_xlabel(across if policy == policies[-1] else "")
        axis.set_ylabel(f"{policy}\n{up}" if task == tasks[0] else "")
        ticks(axis.yaxis, 4)
    return figure, grid


@style()
def points(markers: pd.DataFrame) -> Figure:
    """LM performance against accuracy, a panel a pair: the most accurate RM is ringed, the best policy is filled dark."""
    figure, grid = _grid(markers, 7.2, "RM accuracy (share)", "LM performance", sharex="col")
    for pair, models in markers.groupby(published.PAIR, sort=False):
        axis, row = grid[pair], published.standing(models).iloc[0]
        axis.scatter(models["rm_accuracy"], models["lm_performance"], s=20, color=PALETTE[row.task], alpha=0.75, linewidth=0)
        axis.scatter(row.best_accuracy, row.best_performance, s=34, marker="D", color=INK, linewidth=0, zorder=3)
        ring = {"facecolor": "none", "edgecolor": INK, "linewidth": 1.3, "zorder": 4}
        axis.scatter(row.top_accuracy, row.top_performance, s=95, **ring)
        axis.set_title(f"ρ = {row.spearman:+.2f}".replace("-", "−"), loc="right", fontsize=8, color=INK)
        axis.margins(0.08)
        ticks(axis.xaxis, 4)
    handles = [
        dot("RM, one PPO run", markersize=5, alpha=0.75, color=PALETTE["relevance"]),
        dot("most accurate RM", markersize=9, markerfacecolor="none"),
        dot("highest LM performance", markersize=5, marker="D"),
    ]
    legend(figure, handles, 3)
    figure.align_ylabels()
    return figure


@style()
def clusters(markers: pd.DataFrame) -> Figure:
    """RMs by accuracy, in bins of :data:`published.RESOLUTION`: a panel a task, the middle half of the range shaded."""
    models = markers.drop_duplicates(["task", "rm_step"])
    figure, axes = panels(1, models["task"].nunique(), 2.6, sharey=True)
    for axis, (task, accuracy) in zip(axes[0], models.groupby("task", sort=False)["rm_accuracy"], strict=True):
        low, high = accuracy.min(), accuracy.max()
        bins = np.arange(np.floor(low * 100), np.floor(high * 100) + 2) * published.RESOLUTION
        axis.axvspan(low + (high - low) / 4, high - (high - low) / 4, color="#f2f2f2", zorder=0)
        axis.hist(accuracy, bins=bins, color=PALETTE[task], edgecolor="white", linewidth=0.6, zorder=2)
        axis.set(title=task.capitalize(), xlabel="RM accuracy (share)")
        ticks(axis.xaxis, 5)
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("reward models")
    shade = Patch(color="#f2f2f2", label="middle half of the range of accuracies")
    legend(figure, [shade], 1)
    return figure


@style()
def surfaces(markers: pd.DataFrame) -> Figure:
    """The drawn surfaces from above, with the RMs; colours end at the highest marker, and what rises above it is orange."""
    figure, grid = _grid(markers, 7.4, "training step of the RM", "RM accuracy (share)", sharex="col", sharey="col")
    for pair, models in markers.groupby(published.PAIR, sort=False):
        axis, drawn, y = grid[pair], published.surface(models), models["lm_performance"]
        look = {"levels": np.linspace(y.min(), y.max(), 12), "cmap": GREYS, "extend": "min"}
        axis.contourf(drawn.steps, drawn.accuracies, drawn.values, **look)
        if np.nanmax(drawn.values) > y.max():
            above = [y.max(), np.nanmax(drawn.values) + 1e-9]
            axis.contourf(drawn.steps, drawn.accuracies, drawn.values, levels=above, colors=["#de8f05"], alpha=0.75)
        axis.scatter(models["rm_step"], models["rm_accuracy"], s=13, color="white", edgecolor=INK, linewidth=0.8, zorder=3)
        step, accuracy, height = drawn.peak
        axis.scatter(step, accuracy, s=48, marker="X", color=INK, edgecolor="white", linewidth=0.8, zorder=4)
        axis.set_title(f"{height:.3f} > {y.max():.3f}" if height > y.max() else "", loc="right", fontsize=8)
        axis.grid(visible=False)
        ticks(axis.xaxis, 3)
        axis.use_sticky_edges = False  # contours would keep the frame on the outermost RMs
        axis.margins(0.04)
    handles = [
        dot("RM", markersize=4, markerfacecolor="white"),
        dot("peak of the surface", markersize=7, marker="X"),
        Patch(color="#de8f05", alpha=0.75, label="surface above every RM"),
        Patch(color="#bbbbbb", label="surface below (darker: higher)"),
    ]
    legend(figure, handles, 4)
    figure.align_ylabels()
    return figure


@style()
def ranks(pairs: pd.DataFrame) -> Figure:
    """Rank and regret of the most accurate RM, observed, and mean with the middle 95 % in each null world: a row a pair."""
    labels = {"rank": "rank (1: best policy)", "regret_sd": "regret (standard deviations of the pair)"}
    figure, axes = panels(1, 2, 4.4, sharey=True)
    for axis, (name, label) in zip(axes[0], labels.items(), strict=True):
        for shift, (null, (_, color)) in zip((-0.17, 0.17), WORLDS.items(), strict=True):
            rows = pairs.loc[null]
            y = np.arange(len(rows))
            axis.hlines(y + shift, rows[f"{name}_low"], rows[f"{name}_high"], color=color, linewidth=2.2, alpha=0.6)
            axis.scatter(rows[f"{name}_mean"], y + shift, s=18, color=color, zorder=3)
        colors = [PALETTE[task] for _, task in rows.index]
        seen = rows[f"{name}_observed"]
        axis.scatter(seen, y, s=46, marker="D", color=colors, edgecolor="white", linewidth=0.8, zorder=4)
        axis.set(xlabel=label)
        axis.grid(visible=False, axis="y")
    axes[0, 0].set_yticks(y, [f"{policy}, {task}" for policy, task in rows.index])
    axes[0, 0].invert_yaxis()
    handles = [dot("observed", marker="D", markersize=6)]
    handles += [dot(label, linestyle="-", markersize=4, color=color) for label, color in WORLDS.values()]
    legend(figure, handles, 3)
    return figure


@style()
def misses(pairs: pd.DataFrame, standing: pd.DataFrame, draws: int, seed: int) -> Figure:
    """Probability that the most accurate RM is not first, by Spearman's ρ, for numbers of RMs; dots: the pairs."""
    table = standing.merge(pairs.loc["as measured"], on=published.PAIR)
    figure, axes = panels(1, 1, 3.5)
    axis, rho = axes[0, 0], np.linspace(-0.4, 1, 36)
    for models, line in {20: "-", 6: "--", 3: ":"}.items():
        missed = published.misses(rho, models, draws, seed)
        axis.plot(rho, missed, color=INK, linestyle=line, linewidth=1.2, label=f"{models} RMs")
    for task, rows in table.groupby("task", sort=False):
        look = {"s": 42, "color": PALETTE[task], "edgecolor": "white", "zorder": 3, "label": f"pairs of {task}"}
        axis.scatter(rows["spearman"], rows["not_first"], **look)
    axis.set(xlabel="Spearman's ρ of accuracy and LM performance", ylabel="P(most accurate RM is not first)", ylim=(0, 1.03))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend(loc="lower left", ncols=2)
    return figure


@style()
def curves(table: pd.DataFrame, metric: str) -> Figure:
    """The training curves of one ``metric``, a panel a pair: points are batches, lines their slow course."""
    figure, grid = _grid(table, 6.6, "PPO update", METRICS[metric])
    for pair, both in table[table["metric"] == metric].groupby(published.PAIR, sort=False):
        axis = grid[pair]
        for role, (_, color) in ROLES.items():
            step, value = both[both["rm_role"] == role].sort_values("step", kind="stable")[["step", "value"]].to_numpy().T
            axis.scatter(step, value, s=4, color=color, alpha=0.22, linewidth=0)
            axis.plot(step, published.smooth(step, value), color=color, linewidth=1.7)
        ticks(axis.xaxis, 3)
    handles = [Line2D([], [], color=color, linewidth=2, label=label) for label, color in ROLES.values()]
    legend(figure, handles, 2)
    figure.align_ylabels()
    return figure


@style()
def variance_parts(table: pd.DataFrame) -> Figure:
    """Shares of each curve's variance that are trend, slow change and difference between batches: a bar a curve."""
    names = [f"{policy}, {task}" for policy, task in table[published.PAIR].drop_duplicates().itertuples(index=False)]
    y = np.arange(len(names))
    figure, axes = panels(1, 2, 4.8, sharey=True)
    for axis, (metric, title) in zip(axes[0], {"raw_reward": "Raw reward", "kl": "KL estimate"}.items(), strict=True):
        for shift, role in zip((-0.2, 0.2), ROLES, strict=True):
            bars, left = table[(table["metric"] == metric) & (table["rm_role"] == role)], np.zeros(len(names))
            for part, (_, color) in PARTS.items():
                axis.barh(y + shift, bars[part], left=left, height=0.36, color=color, linewidth=0)
                left += bars[part].to_numpy()
        axis.set(title=title, xlim=(0, 1), xlabel="share of the variance over training")
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(visible=False, axis="y")
    axes[0, 0].set_yticks(y, names)
    axes[0, 0].invert_yaxis()
    handles = [Patch(color=color, label=label) for label, color in PARTS.values()]
    upper, lower = (label for label, _ in ROLES.values())
    title = f"upper bar: {upper}, lower bar: {lower}"
    legend(figure, handles, 3, title=title, title_fontsize=8)
    return figure
