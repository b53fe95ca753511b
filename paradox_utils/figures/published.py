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
from paradox_utils.data.tasks import TASKS
from paradox_utils.figures.style import FAINT, INK, PALETTE, panels, style

ROLES = {"most_accurate": ("most accurate RM", INK), "best_performing": ("“best-performing” RM", "#d55e00")}
METRICS = {"raw_reward": "raw reward", "kl": "KL estimate (nats)"}
WORLDS = {"irrelevant": ("accuracy irrelevant", FAINT), "as measured": ("matters as measured", "#0173b2")}
GREYS = LinearSegmentedColormap.from_list("greys", ["#e4e4e4", "#303030"])  # white is left for where there is no surface
PARTS = {"trend": ("trend (straight line)", INK), "slow": ("slow change", "#949494"), "noise": ("batch to batch", "#dddddd")}


def _grid(height: float, across: str, up: str, **options: Any) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of policies (rows) and tasks (columns), titled, with the names of their axes."""
    figure, axes = panels(len(published.POLICIES), len(TASKS), height, **options)
    grid = {(policy, task): axes[i, j] for i, policy in enumerate(published.POLICIES) for j, task in enumerate(TASKS)}
    for (policy, task), axis in grid.items():
        axis.set_title(task.capitalize(), fontsize=9)
        axis.set_xlabel(across if policy == published.POLICIES[-1] else "")
        axis.set_ylabel(f"{policy}\n{up}" if task == next(iter(TASKS)) else "")
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    return figure, grid


def points(markers: pd.DataFrame) -> Figure:
    """LM performance against accuracy, a panel a pair: the most accurate RM is ringed, the best policy is filled dark."""
    with style():
        figure, panels = _grid(7.2, "RM accuracy (share)", "LM performance", sharex="col")
        for policy, task, models in published.pairs(markers):
            axis, row = panels[policy, task], published.standing(models).iloc[0]
            axis.scatter(models["rm_accuracy"], models["lm_performance"], s=20, color=PALETTE[task], alpha=0.75, linewidth=0)
            axis.scatter(row["best_accuracy"], row["best_performance"], s=34, marker="D", color=INK, linewidth=0, zorder=3)
            ring = {"facecolor": "none", "edgecolor": INK, "linewidth": 1.3, "zorder": 4}
            axis.scatter(row["top_accuracy"], row["top_performance"], s=95, **ring)
            rho = f"ρ = {row['spearman']:+.2f}".replace("-", "−")
            axis.set_title(rho, loc="right", fontsize=8, color=INK)
            axis.margins(0.08)
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        dots = {"linestyle": "none", "color": INK}
        handles = [
            Line2D(
                [], [], marker="o", markersize=5, label="RM, one PPO run", alpha=0.75, **dots | {"color": PALETTE["relevance"]}
            ),
            Line2D([], [], marker="o", markersize=9, markerfacecolor="none", label="most accurate RM", **dots),
            Line2D([], [], marker="D", markersize=5, label="highest LM performance", **dots),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.align_ylabels()
    return figure


def clusters(markers: pd.DataFrame) -> Figure:
    """RMs by accuracy, in bins of :data:`published.RESOLUTION`: a panel a task, the middle half of the range shaded."""
    table = published.clusters(markers)
    with style():
        figure, axes = panels(1, len(table), 2.6, sharey=True)
        for axis, row in zip(axes[0], table.itertuples(), strict=True):
            accuracy = markers[markers["task"] == row.task].drop_duplicates("rm_step")["rm_accuracy"]
            bins = np.arange(np.floor(row.low * 100), np.floor(row.high * 100) + 2) * published.RESOLUTION
            span = row.high - row.low
            axis.axvspan(row.low + span / 4, row.high - span / 4, color="#f2f2f2", zorder=0)
            axis.hist(accuracy, bins=bins, color=PALETTE[row.task], edgecolor="white", linewidth=0.6, zorder=2)
            axis.set(title=row.task.capitalize(), xlabel="RM accuracy (share)")
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.grid(visible=False, axis="x")
        axes[0, 0].set_ylabel("reward models")
        figure.legend(
            handles=[Patch(color="#f2f2f2", label="middle half of the range of accuracies")], loc="outside lower center"
        )
    return figure


def surfaces(markers: pd.DataFrame) -> Figure:
    """The drawn surfaces from above, with the RMs; colours end at the highest marker, and what rises above it is orange."""
    with style():
        figure, panels = _grid(7.4, "training step of the RM", "RM accuracy (share)", sharex="col", sharey="col")
        for policy, task, models in published.pairs(markers):
            axis, drawn, y = panels[policy, task], published.surface(models), models["lm_performance"]
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
            axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axis.use_sticky_edges = False  # contours would keep the frame on the outermost RMs
            axis.margins(0.04)
        handles = [
            Line2D([], [], linestyle="none", marker="o", markersize=4, markerfacecolor="white", color=INK, label="RM"),
            Line2D([], [], linestyle="none", marker="X", markersize=7, color=INK, label="peak of the surface"),
            Patch(color="#de8f05", alpha=0.75, label="surface above every RM"),
            Patch(color="#bbbbbb", label="surface below (darker: higher)"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.align_ylabels()
    return figure


def ranks(found: published.Chance) -> Figure:
    """Rank and regret of the most accurate RM, observed, and mean with the middle 95 % in each null world: a row a pair."""
    table = found.pairs
    names = list(dict.fromkeys(zip(table["policy"], table["task"], strict=True)))
    with style():
        figure, axes = panels(1, 2, 4.4, sharey=True)
        for axis, (name, label) in zip(
            axes[0],
            {"rank": "rank (1: best policy)", "regret_sd": "regret (standard deviations of the pair)"}.items(),
            strict=True,
        ):
            for shift, (null, (_, color)) in zip((-0.17, 0.17), WORLDS.items(), strict=True):
                rows = table[table["null"] == null]
                y = np.arange(len(names)) + shift
                axis.hlines(y, rows[f"{name}_low"], rows[f"{name}_high"], color=color, linewidth=2.2, alpha=0.6)
                axis.scatter(rows[f"{name}_mean"], y, s=18, color=color, zorder=3)
            seen = table[table["null"] == published.NULLS[0]][f"{name}_observed"]
            colors = [PALETTE[task] for _, task in names]
            axis.scatter(seen, range(len(names)), s=46, marker="D", color=colors, edgecolor="white", linewidth=0.8, zorder=4)
            axis.set(xlabel=label)
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(range(len(names)), [f"{policy}, {task}" for policy, task in names])
        axes[0, 0].invert_yaxis()
        handles = [Line2D([], [], linestyle="none", marker="D", markersize=6, color=INK, label="observed")]
        handles += [Line2D([], [], marker="o", markersize=4, color=color, label=label) for label, color in WORLDS.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def misses(found: published.Chance, standing: pd.DataFrame, draws: int, seed: int) -> Figure:
    """Probability that the most accurate RM is not first, by Spearman's ρ, for numbers of RMs; dots: the pairs."""
    rho, nulls = np.linspace(-0.4, 1, 36), found.pairs.set_index(["null", "policy", "task"])["not_first"]
    with style():
        figure, axes = panels(1, 1, 3.5)
        axis = axes[0, 0]
        for models, line in {20: "-", 6: "--", 3: ":"}.items():
            missed = published.misses(rho, models, draws, seed)
            axis.plot(rho, missed, color=INK, linestyle=line, linewidth=1.2, label=f"{models} RMs")
        for task in TASKS:
            rows = standing[standing["task"] == task]
            missed = [nulls["as measured", row.policy, row.task] for row in rows.itertuples()]
            axis.scatter(
                rows["spearman"], missed, s=42, color=PALETTE[task], edgecolor="white", zorder=3, label=f"pairs of {task}"
            )
        axis.set(
            xlabel="Spearman's ρ of accuracy and LM performance", ylabel="P(most accurate RM is not first)", ylim=(0, 1.03)
        )
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.legend(loc="lower left", ncols=2)
    return figure


def curves(table: pd.DataFrame, metric: str = "raw_reward") -> Figure:
    """The training curves of one ``metric``, a panel a pair: points are batches, lines their slow course."""
    with style():
        figure, panels = _grid(6.6, "PPO update", METRICS[metric])
        for policy, task, both in published.pairs(table[table["metric"] == metric]):
            axis = panels[policy, task]
            for role, (_, color) in ROLES.items():
                curve = both[both["rm_role"] == role].sort_values("step", kind="stable")
                axis.scatter(curve["step"], curve["value"], s=4, color=color, alpha=0.22, linewidth=0)
                axis.plot(curve["step"], published.smooth(curve["step"], curve["value"]), color=color, linewidth=1.7)
            axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        handles = [Line2D([], [], color=color, linewidth=2, label=label) for label, color in ROLES.values()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.align_ylabels()
    return figure


def variance_parts(table: pd.DataFrame) -> Figure:
    """Shares of each curve's variance that are trend, slow change and difference between batches: a bar a curve."""
    with style():
        figure, axes = panels(1, 2, 4.8, sharey=True)
        for axis, (metric, title) in zip(axes[0], {"raw_reward": "Raw reward", "kl": "KL estimate"}.items(), strict=True):
            rows = table[table["metric"] == metric].set_index(["policy", "task", "rm_role"])
            pairs = list(dict.fromkeys((policy, task) for policy, task, _ in rows.index))
            for shift, role in zip((-0.2, 0.2), ROLES, strict=True):
                bars, left = rows.loc[[(*pair, role) for pair in pairs]], np.zeros(len(pairs))
                for part, (_, color) in PARTS.items():
                    axis.barh(np.arange(len(pairs)) + shift, bars[part], left=left, height=0.36, color=color, linewidth=0)
                    left = left + bars[part].to_numpy()
            axis.set(title=title, xlim=(0, 1), xlabel="share of the variance over training")
            axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(range(len(pairs)), [f"{policy}, {task}" for policy, task in pairs])
        axes[0, 0].invert_yaxis()
        handles = [Patch(color=color, label=label) for label, color in PARTS.values()]
        upper, lower = (label for label, _ in ROLES.values())
        title = f"upper bar: {upper}, lower bar: {lower}"
        figure.legend(handles=handles, loc="outside lower center", ncols=3, title=title, title_fontsize=8)
    return figure
