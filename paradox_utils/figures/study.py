"""Figures of a whole study: accuracy and performance, design, routes, ablations, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from paradox_utils.analysis import tables
from paradox_utils.analysis.ablations import BASE, OUTCOME, Ablation
from paradox_utils.analysis.comparison import ALL, families
from paradox_utils.analysis.tables import READINGS, accuracy_kind, measured, primary, reward_models, usable
from paradox_utils.analysis.verdict import Finding, verdict
from paradox_utils.data.tasks import MARKED, TASKS
from paradox_utils.figures.style import FAINT, INK, LM_PERFORMANCE, PALETTE, dot, legend, panels, style, ticks, title

STATUS_COLORS = {"supported": "#b2452f", "not supported": "#2f6db2", "undecided": FAINT}
MARKERS = "osD^vPX*"
MEASURED = READINGS["as measured"]


@style()
def accuracy_and_performance(summary: pd.DataFrame) -> Figure:
    """LM performance against reward-model accuracy, route ``steps``: one panel a task, one row of panels a policy.

    Small dots are runs (PPO seeds), larger ones reward-model checkpoints (means), joined within a trajectory in the order of
    training. Controls (route ``dial``) are open diamonds. Raises ``ValueError`` where no run has an accuracy and a performance.
    """
    kind = accuracy_kind(summary)
    shown = summary[measured(summary) & summary["route"].isin(("steps", "dial"))]
    tasks, policies = [task for task in TASKS if (shown["task"] == task).any()], list(shown["policy"].unique())
    if not tasks:
        raise ValueError("no run of the routes steps and dial has both an accuracy and a performance")
    figure, axes = panels(len(policies), len(tasks), 2.9 * len(policies) + 0.5)
    for row, policy in zip(axes, policies, strict=True):
        for axis, task in zip(row, tasks, strict=True):
            runs = shown[(shown["task"] == task) & (shown["policy"] == policy)]
            _accuracy_panel(axis, runs, kind, PALETTE[task])
            axis.set(title=title(task, policy, policies), ylabel=LM_PERFORMANCE[task])
    words = "RM accuracy (share)" if kind == "rm_accuracy" else "RM accuracy on noisy labels (share)"
    for axis in axes[-1]:
        axis.set_xlabel(words)
    legend(figure, _accuracy_legend(shown), 3)
    return figure


def _accuracy_panel(axis: Axes, runs: pd.DataFrame, kind: str, color: Any) -> None:
    steps, dial = runs[runs["route"] == "steps"], runs[runs["route"] == "dial"]
    axis.axvline(runs["rm_majority"].mean(), color=FAINT, linestyle=":", linewidth=1.2, zorder=1)
    axis.axhline(runs["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
    for _, own in steps.groupby(["arm", "rm_seed"]):
        models = reward_models(own).sort_values("rm_step")
        axis.plot(models["accuracy"], models["performance"], color=color, linewidth=1.0, alpha=0.5, zorder=2)
        axis.scatter(models["accuracy"], models["performance"], s=34, color=color, edgecolor="white", linewidth=0.6, zorder=4)
        top = models.sort_values(["accuracy", "rm_step"]).iloc[-1]
        axis.scatter(top["accuracy"], top["performance"], s=110, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=5)
    if steps["ppo_seed"].nunique() > 1:
        axis.scatter(steps[kind], steps[MEASURED], s=7, color=color, alpha=0.45, linewidth=0, zorder=3)
    axis.scatter(dial[kind], dial[MEASURED], s=38, marker="D", facecolor="white", edgecolor=color, linewidth=1.3, zorder=4)
    axis.margins(0.1)
    ticks(axis.xaxis, 5)
    ticks(axis.yaxis, 6)


def _accuracy_legend(shown: pd.DataFrame) -> list[Line2D]:
    several = shown.loc[shown["route"] == "steps", "ppo_seed"].nunique() > 1
    handles = [dot("checkpoint, mean of its runs" if several else "reward-model checkpoint", markersize=6)]
    if several:
        handles.append(dot("one run", markersize=3, alpha=0.5))
    handles.append(dot("most accurate of its trajectory", markersize=9, markerfacecolor="none"))
    if (shown["route"] == "dial").any():
        handles.append(dot("control: dial", marker="D", markersize=6, markerfacecolor="white"))
    handles.append(Line2D([], [], linestyle="--", color=FAINT, label="initial policy"))
    handles.append(Line2D([], [], linestyle=":", color=FAINT, label="accuracy of the majority class"))
    return handles


@style()
def pilot(summary: pd.DataFrame, power: pd.DataFrame) -> Figure:
    """Left: every run of a crossed pilot, a column a reward-model seed, a marker a PPO seed; right: how often the rule gives
    the right verdict, by number of units, a line a world (:func:`paradox_utils.analysis.power.simulated_power`)."""
    figure, axes = panels(1, 2, 3.2, width_ratios=[1.15, 1])
    _pilot_runs(axes[0, 0], summary[usable(summary)])
    right = axes[0, 1]
    for index, ((world, regret), rows) in enumerate(power.groupby(["world", "regret"], sort=False)):
        label = f"inverted U, regret {regret:.2f}" if world == "inverted U" else world
        look = {"color": STATUS_COLORS["supported" if regret else "not supported"], "marker": MARKERS[index % len(MARKERS)]}
        right.plot(rows["units"], rows["right"], markersize=4, label=label, **look)
    right.set(title="Power of the rule", xlabel="Units (trajectories of a task)", ylabel="right verdicts", ylim=(0, 1.02))
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, fontsize=7)
    return figure


def _pilot_runs(axis: Axes, runs: pd.DataFrame) -> None:
    names: dict[int, str] = {}  # of the columns, by their place
    for task in [task for task in TASKS if (runs["task"] == task).any()]:
        own, first = runs[runs["task"] == task], max(names, default=-2) + 2
        column, marker = (pd.factorize(own[seed], sort=True)[0] for seed in ("rm_seed", "ppo_seed"))
        look = {"s": 26, "color": PALETTE[task], "alpha": 0.85, "linewidth": 0}
        for index in range(marker.max() + 1):
            here = marker == index
            axis.scatter(first + column[here] + (index - 1) * 0.18, own.loc[here, MEASURED], marker=MARKERS[index], **look)
        names |= {first + number: f"{number + 1}" for number in range(column.max() + 1)}
        axis.text(first + column.max() / 2, 1.02, task, color=PALETTE[task], ha="center", fontsize=8)
    axis.set(title="The pilot's runs", ylabel="LM performance (share)", xlabel="Reward-model seed (marker: PPO seed)")
    axis.set(xticks=list(names), xticklabels=list(names.values()), ylim=(None, 1.08))
    axis.grid(visible=False, axis="x")


def levels(runs: pd.DataFrame, asked: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """One row a rank of accuracy of one family of reward models: mean accuracy, LM performance with a 95 % interval over
    trajectories and test questions (NaN without ``asked``, see :mod:`paradox_utils.analysis.tables`), runs."""
    models = reward_models(runs)
    order = models.sort_values(["accuracy", "rm_step"]).groupby("rm_seed").cumcount()
    models = models.assign(rank=order).dropna(subset=["performance"])
    done = runs[usable(runs)].merge(models[["rm_seed", "setting", "rm_step", "rank"]], on=["rm_seed", "setting", "rm_step"])
    rows = []
    for rank, own in done.groupby("rank"):
        row = {"rank": rank, "accuracy": own[accuracy_kind(own)].mean(), "performance": own[MEASURED].mean(), "runs": len(own)}
        if own["id"].isin(asked.index).all():
            found = tables.question_interval(asked, list(own["id"]), list(own["rm_seed"]), resamples=resamples, seed=seed)
            row |= {"low": found.low, "high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=["rank", "accuracy", "performance", "low", "high", "runs"])


@style()
def routes(summary: pd.DataFrame, asked: pd.DataFrame, *, resamples: int = 500, seed: int = 0) -> Figure:
    """LM performance against accuracy by route: a panel a task (and policy), a line an arm, a point a rank of accuracy averaged
    over trajectories, with 95 % intervals, faint ones single runs; the dashed line is the policy before PPO, the dotted one the
    exact reward."""
    arms = list(dict.fromkeys(arm for (_, _, arm), _ in families(summary)))
    rows = summary[summary["arm"].isin(arms) & summary["rm_seed"].notna()]
    policies = list(rows.loc[usable(rows), "policy"].unique()) or list(rows["policy"].unique())
    if not policies:
        raise ValueError("no family of reward models whose accuracy varies has runs")
    looks = {
        arm: {"color": color, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
        for index, (arm, color) in enumerate(zip(arms, sns.color_palette("colorblind", len(arms)), strict=True))
    }
    figure, axes = panels(len(policies), len(MARKED), 2.8 * len(policies) + 0.6)
    for row, policy in zip(axes, policies, strict=True):
        for axis, task in zip(row, MARKED, strict=True):
            here = summary[(summary["task"] == task) & (summary["policy"] == policy)]
            for arm, look in looks.items():
                own = here[(here["arm"] == arm) & here["rm_seed"].notna()]
                _route(axis, own, levels(own, asked, resamples=resamples, seed=seed), look)
            axis.axhline(here["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
            exact = here.loc[(here["arm"] == "exact") & here["rm_seed"].notna(), MEASURED].mean()
            if np.isfinite(exact):
                axis.axhline(exact, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
            axis.set(title=title(task, policy, policies), ylabel=LM_PERFORMANCE[task])
            ticks(axis.xaxis, 5)
    for axis in axes[-1]:
        axis.set_xlabel("RM accuracy (share)")
    handles = [Line2D([], [], label=arm, **look) for arm, look in looks.items()]
    legend(figure, handles, 4)
    return figure


def _route(axis: Axes, runs: pd.DataFrame, table: pd.DataFrame, look: dict[str, Any]) -> None:
    if table.empty:
        return
    done = runs[usable(runs)]
    axis.scatter(done[accuracy_kind(runs)], done[MEASURED], color=look["color"], s=5, alpha=0.35, linewidth=0)
    bars = np.array([table["performance"] - table["low"], table["high"] - table["performance"]], dtype=float).clip(min=0)
    axis.errorbar(table["accuracy"], table["performance"], yerr=bars, elinewidth=0.6, linewidth=1.1, **look)


@style()
def forest(found: Sequence[Finding], margin: float) -> Figure:
    """Regret of every comparison with its 95 % interval, coloured by status; the band is what does not matter. Comparisons that
    lack what the rule needs are left out."""
    shown = [f for f in found if np.isfinite(f.of.regret.low) and not f.missing]
    if not shown:
        raise ValueError("no comparison has the reward models and seeds that the rule needs")
    figure, axes = panels(1, 1, 0.9 + 0.24 * max(1, len(shown)))
    axis = axes[0, 0]
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color=FAINT, linewidth=0.8)
    for place, finding in enumerate(reversed(shown)):
        of, color = finding.of.regret, STATUS_COLORS[finding.status]
        size, marker = (36, "D") if finding.of.task == ALL else (20, "o")
        axis.plot([of.low, of.high], [place, place], color=color, linewidth=1.6)
        axis.scatter([of.estimate], [place], color=color, s=size, marker=marker, zorder=3)
    names = [f"{f.of.arm} · {f.of.task} · {f.of.policy}" for f in reversed(shown)]
    axis.set(yticks=range(len(shown)), yticklabels=names, xlabel="Regret of the most accurate reward model (LM performance)")
    axis.set_ylim(-0.7, len(shown) - 0.3)
    handles = [Line2D([], [], color=color, linewidth=2, label=status) for status, color in STATUS_COLORS.items()]
    legend(figure, handles, 3)
    axis.grid(visible=False, axis="y")
    return figure


@style()
def in_brief(summary: pd.DataFrame) -> Figure:
    """The primary comparison and what the rule makes of it, in one picture for those who have not opened the book."""
    runs = primary(summary)
    decision, figure = verdict(runs, resamples=200), accuracy_and_performance(runs)
    words = decision.headline
    if decision.primary and np.isfinite(decision.primary.of.regret.low):
        regret = decision.primary.of.regret
        words += f" Regret {regret.estimate:.3f} (95 % interval {regret.low:.3f} to {regret.high:.3f})."
    figure.suptitle(textwrap.fill(words, 100), x=0.01, ha="left", fontsize=9)
    return figure


@style()
def ablation(table: pd.DataFrame, of: Ablation) -> Figure:
    """LM performance against accuracy (rows of :func:`paradox_utils.analysis.ablations.pairs`): dots are runs, lines means by
    rank of accuracy; the base is grey."""
    looks = {BASE: (FAINT, of.base)} | {
        arm: (color, words) for (arm, words), color in zip(of.arms.items(), sns.color_palette("colorblind"), strict=False)
    }
    figure, axes = panels(1, 1, 2.6)
    axis = axes[0, 0]
    for arm, (color, words) in looks.items():
        own = table[table["arm"] == arm]
        rank = own.groupby("rm_seed")["accuracy"].rank()
        means = own.groupby(rank)[["accuracy", OUTCOME]].mean()
        axis.scatter(own["accuracy"], own[OUTCOME], color=color, s=12, alpha=0.6, linewidth=0)
        axis.plot(means["accuracy"], means[OUTCOME], color=color, marker="o", markersize=4, label=words)
    axis.set(title=of.title, xlabel="RM accuracy (share)", ylabel="LM performance (share)")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
