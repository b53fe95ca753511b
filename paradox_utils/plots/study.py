"""Figures of a whole study: its design, its routes to accuracy, and what the rule makes of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.analysis import tables
from paradox_utils.analysis.comparison import ALL
from paradox_utils.analysis.tables import READINGS, accuracy_kind, primary, reward_models, usable
from paradox_utils.analysis.verdict import Finding, verdict
from paradox_utils.data.tasks import TASKS
from paradox_utils.plots import FAINT, LM_PERFORMANCE, PALETTE, _panels, _title, accuracy_and_performance, style

STATUS_COLORS = {"supported": "#b2452f", "not supported": "#2f6db2", "undecided": FAINT}
MARKERS = "osD^vPX*"


def pilot(summary: pd.DataFrame, power: pd.DataFrame) -> Figure:
    """Left: every run of a crossed pilot, a column a reward-model seed, a marker a PPO seed; right: how often the rule gives
    the right verdict, by number of units, a line a world (:func:`paradox_utils.analysis.power.simulated_power`)."""
    with style():
        figure, axes = _panels(1, 2, 3.2, width_ratios=[1.15, 1])
        runs, axis = summary[usable(summary)], axes[0, 0]
        tasks = [task for task in TASKS if (runs["task"] == task).any()]
        places, names = [], []
        for number, task in enumerate(tasks):
            own = runs[runs["task"] == task]
            seeds, ppo = sorted(own["rm_seed"].unique()), sorted(own["ppo_seed"].unique())
            for column, seed in enumerate(seeds):
                place = number * (len(seeds) + 1) + column
                places.append(place)
                names.append(f"{column + 1}")
                for index, ppo_seed in enumerate(ppo):
                    row = own[(own["rm_seed"] == seed) & (own["ppo_seed"] == ppo_seed)]
                    look = {"marker": MARKERS[index], "s": 26, "color": PALETTE[task], "alpha": 0.85, "linewidth": 0}
                    axis.scatter([place + (index - 1) * 0.18] * len(row), row[READINGS["as measured"]], **look)
            axis.text(
                number * (len(seeds) + 1) + (len(seeds) - 1) / 2, 1.02, task, color=PALETTE[task], ha="center", fontsize=8
            )
        axis.set(title="The pilot's runs", ylabel="LM performance (share)", xlabel="Reward-model seed (marker: PPO seed)")
        axis.set(xticks=places, xticklabels=names, ylim=(None, 1.08))
        axis.grid(visible=False, axis="x")
        right = axes[0, 1]
        for index, ((world, regret), rows) in enumerate(power.groupby(["world", "regret"], sort=False)):
            label = f"inverted U, regret {regret:.2f}" if world == "inverted U" else world
            look = {"color": STATUS_COLORS["supported" if regret else "not supported"], "marker": MARKERS[index % len(MARKERS)]}
            right.plot(rows["units"], rows["right"], markersize=4, label=label, **look)
        right.set(title="Power of the rule", xlabel="Units (trajectories of a task)", ylabel="right verdicts", ylim=(0, 1.02))
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, fontsize=7)
    return figure


def levels(runs: pd.DataFrame, asked: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """One row a rank of accuracy of one family of reward models: mean accuracy, LM performance with a 95 % interval over
    trajectories and test questions (NaN without ``asked``, see :mod:`paradox_utils.analysis.tables`), runs."""
    models = reward_models(runs)
    order = models.sort_values(["accuracy", "rm_step"]).groupby("rm_seed").cumcount()
    models = models.assign(rank=order).dropna(subset=["performance"])
    done = runs[usable(runs)].merge(models[["rm_seed", "setting", "rm_step", "rank"]], on=["rm_seed", "setting", "rm_step"])
    rows = []
    for rank, own in done.groupby("rank"):
        known = own[own["id"].isin(asked.index)]
        found = (
            tables.question_interval(asked, list(known["id"]), list(known["rm_seed"]), resamples=resamples, seed=seed)
            if len(known) == len(own)
            else None
        )
        mean = float(own[READINGS["as measured"]].mean())
        ends = (found.low, found.high) if found else (np.nan, np.nan)
        accuracy = float(own[accuracy_kind(own)].mean())
        rows.append(
            {"rank": rank, "accuracy": accuracy, "performance": mean, "low": ends[0], "high": ends[1], "runs": len(own)}
        )
    return pd.DataFrame(rows)


def routes(summary: pd.DataFrame, asked: pd.DataFrame, *, resamples: int = 500, seed: int = 0) -> Figure:
    """LM performance against accuracy by route: a panel a task (and policy), a line an arm, a point a rank of accuracy averaged
    over trajectories, with 95 % intervals, faint ones single runs; the dashed line is the policy before PPO, the dotted one the
    exact reward."""
    varied = summary[summary["rm_seed"].notna()]
    groups = varied.groupby(["arm", "policy", "task"])["setting"].agg(["nunique"])
    steps = varied.groupby(["arm", "policy", "task"])["rm_step"].nunique()
    arms = [arm for arm in varied["arm"].unique() if groups.loc[arm, "nunique"].max() > 1 or steps.loc[arm].max() > 1]
    rows = varied[varied["arm"].isin(arms)]
    policies = list(rows.loc[usable(rows), "policy"].unique()) or list(rows["policy"].unique())
    if not policies:
        raise ValueError("no family of reward models whose accuracy varies has runs")
    colors = dict(zip(arms, sns.color_palette("colorblind", len(arms)), strict=True))
    with style():
        figure, axes = _panels(len(policies), len(TASKS), 2.8 * len(policies) + 0.6)
        for row, policy in zip(axes, policies, strict=True):
            for axis, task in zip(row, TASKS, strict=True):
                here = varied[(varied["task"] == task) & (varied["policy"] == policy)]
                for index, arm in enumerate(arms):
                    own = here[here["arm"] == arm]
                    table = levels(own, asked, resamples=resamples, seed=seed)
                    if not len(table):
                        continue
                    done = own[usable(own)]
                    dots = {"color": colors[arm], "s": 5, "alpha": 0.35, "linewidth": 0}
                    axis.scatter(done[accuracy_kind(own)], done[READINGS["as measured"]], **dots)
                    bars = np.array([table["performance"] - table["low"], table["high"] - table["performance"]]).clip(min=0)
                    look = {"color": colors[arm], "marker": MARKERS[index % len(MARKERS)], "markersize": 4, "linewidth": 1.1}
                    axis.errorbar(table["accuracy"], table["performance"], yerr=bars, elinewidth=0.6, **look)
                start = summary[(summary["task"] == task) & (summary["policy"] == policy)]["lm_performance_start"].mean()
                exact = here.loc[here["arm"] == "exact", READINGS["as measured"]].mean()
                axis.axhline(start, color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
                if np.isfinite(exact):
                    axis.axhline(exact, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
                axis.set(title=_title(task, policy, policies), ylabel=LM_PERFORMANCE[task])
                axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for axis in axes[-1]:
            axis.set_xlabel("RM accuracy (share)")
        handles = [
            Line2D([], [], color=colors[arm], marker=MARKERS[i % len(MARKERS)], markersize=4, label=arm)
            for i, arm in enumerate(arms)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def forest(found: Sequence[Finding], margin: float) -> Figure:
    """Regret of every comparison with its 95 % interval, coloured by status; the band is what does not matter. Comparisons that
    lack what the rule needs are left out."""
    shown = [f for f in found if np.isfinite(f.of.low) and not f.missing]
    if not shown:
        raise ValueError("no comparison has the reward models and seeds that the rule needs")
    with style():
        figure, axes = _panels(1, 1, 0.9 + 0.24 * max(1, len(shown)))
        axis = axes[0, 0]
        axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
        axis.axvline(0, color=FAINT, linewidth=0.8)
        for place, finding in enumerate(reversed(shown)):
            f, color = finding.of, STATUS_COLORS[finding.status]
            axis.plot([f.low, f.high], [place, place], color=color, linewidth=1.6)
            axis.scatter(
                [f.regret], [place], color=color, s=36 if f.task == ALL else 20, marker="D" if f.task == ALL else "o", zorder=3
            )
        names = [f"{f.of.arm} · {f.of.task} · {f.of.policy}" for f in reversed(shown)]
        axis.set(
            yticks=range(len(shown)), yticklabels=names, xlabel="Regret of the most accurate reward model (LM performance)"
        )
        axis.set_ylim(-0.7, len(shown) - 0.3)
        handles = [Line2D([], [], color=color, linewidth=2, label=status) for status, color in STATUS_COLORS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        axis.grid(visible=False, axis="y")
    return figure


def in_brief(summary: pd.DataFrame) -> Figure:
    """The primary comparison and what the rule makes of it, in one picture for those who have not opened the book."""
    runs = primary(summary)
    decision, figure = verdict(runs, resamples=200), accuracy_and_performance(runs)
    words = decision.headline
    if decision.primary and np.isfinite(decision.primary.of.low):
        f = decision.primary.of
        words += f" Regret {f.regret:.3f} (95 % interval {f.low:.3f} to {f.high:.3f})."
    with style():
        figure.suptitle(textwrap.fill(words, 100), x=0.01, ha="left", fontsize=9)
    return figure
