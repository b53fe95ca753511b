"""The book's figures: each function takes a table and returns a matplotlib ``Figure``, the same for the same table.

One style for all: a colour a task from seaborn's colour-blind-safe palette, 7.5 inches wide, a light grid, axes with units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.analysis.tables import READINGS, Reading, accuracy_kind, reward_models, usable
from paradox_utils.data.tasks import TASKS

WIDTH = 7.5  # inches: the text column of the book
_COLORS = sns.color_palette("colorblind", as_cmap=False)
PALETTE = {"relevance": _COLORS[0], "factuality": _COLORS[1], "completeness": _COLORS[2]}
LM_PERFORMANCE = {  # what it is, by task
    "relevance": "relevant sub-sentences (share)",
    "factuality": "factual sentences (share)",
    "completeness": "completeness (mean score)",
}
INK, FAINT = "#222222", "#8a8a8a"


@contextmanager
def style() -> Iterator[None]:
    """The style of every figure; nothing of it stays behind."""
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


def _panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of book width with ``rows × columns`` axes, unknown to pyplot, so that a notebook shows it once."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **options)
    plt.close(figure)
    figure.get_layout_engine().set(wspace=0.06, hspace=0.06)
    return figure, axes


def _title(task: str, policy: str, policies: Sequence[str]) -> str:
    """What a panel of a task and policy is called; on two lines, as a panel is narrow."""
    return task.capitalize() + (f"\n{policy}" if len(policies) > 1 else "")


def accuracy_and_performance(summary: pd.DataFrame, reading: Reading = "as measured") -> Figure:
    """LM performance against reward-model accuracy, route ``steps``: one panel a task, one row of panels a policy.

    Small dots are runs (PPO seeds), larger ones reward-model checkpoints (means), joined within a trajectory in the order of
    training. Controls (route ``dial``) are open diamonds. Raises ``ValueError`` where no run has an accuracy and a performance.
    """
    kind = accuracy_kind(summary)
    shown = summary[usable(summary, reading) & summary[kind].notna() & summary["route"].isin(("steps", "dial"))]
    tasks, policies = [task for task in TASKS if (shown["task"] == task).any()], list(shown["policy"].unique())
    if not tasks:
        raise ValueError("no run of the routes steps and dial has both an accuracy and a performance")
    with style():
        figure, axes = _panels(len(policies), len(tasks), 2.9 * len(policies) + 0.5)
        for row, policy in zip(axes, policies, strict=True):
            for axis, task in zip(row, tasks, strict=True):
                runs = shown[(shown["task"] == task) & (shown["policy"] == policy)]
                _accuracy_panel(axis, runs, kind, reading, PALETTE[task])
                axis.set(title=_title(task, policy, policies), ylabel=LM_PERFORMANCE[task])
        words = "RM accuracy (share)" if kind == "rm_accuracy" else "RM accuracy on noisy labels (share)"
        for axis in axes[-1]:
            axis.set_xlabel(words)
        figure.legend(handles=_accuracy_legend(shown), loc="outside lower center", ncols=3)
    return figure


def _accuracy_panel(axis: Axes, runs: pd.DataFrame, kind: str, reading: Reading, color: Any) -> None:
    steps, dial, outcome = runs[runs["route"] == "steps"], runs[runs["route"] == "dial"], READINGS[reading]
    axis.axvline(runs["rm_majority"].mean(), color=FAINT, linestyle=":", linewidth=1.2, zorder=1)
    axis.axhline(runs["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
    for _, models in reward_models(steps, reading).groupby("rm_seed"):
        models = models.sort_values("rm_step")
        axis.plot(models["accuracy"], models["performance"], color=color, linewidth=1.0, alpha=0.5, zorder=2)
        axis.scatter(models["accuracy"], models["performance"], s=34, color=color, edgecolor="white", linewidth=0.6, zorder=4)
        top = models.sort_values(["accuracy", "rm_step"]).iloc[-1]
        axis.scatter(top["accuracy"], top["performance"], s=110, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=5)
    if steps["ppo_seed"].nunique() > 1:
        axis.scatter(steps[kind], steps[outcome], s=7, color=color, alpha=0.45, linewidth=0, zorder=3)
    axis.scatter(dial[kind], dial[outcome], s=38, marker="D", facecolor="white", edgecolor=color, linewidth=1.3, zorder=4)
    axis.margins(0.1)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _accuracy_legend(shown: pd.DataFrame) -> list[Line2D]:
    dots = {"linestyle": "none", "color": INK}
    handles = [Line2D([], [], marker="o", markersize=6, label="reward-model checkpoint", **dots)]
    if shown.loc[shown["route"] == "steps", "ppo_seed"].nunique() > 1:
        handles[0].set_label("checkpoint, mean of its runs")
        handles.append(Line2D([], [], marker="o", markersize=3, alpha=0.5, label="one run", **dots))
    ring = Line2D([], [], marker="o", markersize=9, markerfacecolor="none", label="most accurate of its trajectory", **dots)
    handles.append(ring)
    if (shown["route"] == "dial").any():
        handles.append(Line2D([], [], marker="D", markersize=6, markerfacecolor="white", label="control: dial", **dots))
    handles.append(Line2D([], [], linestyle="--", color=FAINT, label="initial policy"))
    handles.append(Line2D([], [], linestyle=":", color=FAINT, label="accuracy of the majority class"))
    return handles


def ppo_curves(curve: pd.DataFrame, task: str = "relevance") -> Figure:
    """Reward, KL, LM performance and length over the updates of one PPO run, or of several told apart by a column ``id``.

    Needs ``update``, ``reward_mean``, ``kl``, ``length`` and ``lm_performance`` (empty but for evaluations).
    """
    color = PALETTE[task]
    columns = {
        "reward_mean": ("Reward of a response", "batch mean"),
        "kl": ("KL from the reference policy", "nats"),
        "lm_performance": ("LM performance", LM_PERFORMANCE[task]),
        "length": ("Response length", "tokens"),
    }
    with style():
        figure, axes = _panels(2, 2, 4.8, sharex=True)
        for axis, (column, (title, unit)) in zip(axes.flat, columns.items(), strict=True):
            for _, run in curve.groupby(curve["id"] if "id" in curve else np.zeros(len(curve))):
                points = run.dropna(subset=[column])
                sparse = column == "lm_performance"
                axis.plot(points["update"], points[column], color=color, marker="o" if sparse else "", markersize=4)
            axis.set(title=title, ylabel=unit)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        for axis in axes[1]:
            axis.set_xlabel("PPO update")
        axes[0, 1].axhline(0, color=FAINT, linewidth=0.8)
        figure.align_ylabels()
    return figure


def accuracy_by_step(metrics: pd.DataFrame, task: str = "relevance") -> Figure:
    """A reward model's checkpoints on held-out feedback: accuracies with the majority class (left), F1 and calibration (right).

    Needs ``step``, ``accuracy`` (may be empty), ``accuracy_noisy``, ``balanced_accuracy``, ``majority``, ``f1``,
    ``calibration_error``; a column that is empty throughout is left out.
    """
    color = PALETTE[task]
    left = {
        "accuracy": ("clean labels", {"color": color, "marker": "o"}),
        "accuracy_noisy": (
            "annotators' labels",
            {"color": color, "marker": "o", "markerfacecolor": "white", "linestyle": "--"},
        ),
        "balanced_accuracy": ("balanced over classes", {"color": INK, "marker": "s", "linewidth": 1.0}),
        "majority": ("majority class", {"color": FAINT, "linestyle": ":"}),
    }
    right = {
        "f1": ("F1 of the error class", {"color": color, "marker": "^"}),
        "calibration_error": ("expected calibration error", {"color": INK, "marker": "v", "linewidth": 1.0}),
    }
    with style():
        figure, axes = _panels(1, 2, 3.4)
        for axis, lines in zip(axes[0], (left, right), strict=True):
            for column, (label, look) in lines.items():
                points = metrics.dropna(subset=[column]).sort_values("step")
                if len(points):
                    axis.plot(points["step"], points[column], label=label, **({"markersize": 5} | look))
            axis.set_xlabel("Training step of the reward model")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=2.6)
        axes[0, 0].set(title="Accuracy on held-out feedback", ylabel="share", ylim=(None, 1.02))
        axes[0, 1].set(title="F1 and calibration", ylabel="between 0 and 1", ylim=(-0.03, 1.03))
    return figure


def accuracies_by_step(checkpoints: pd.DataFrame) -> Figure:
    """Accuracy of a study's reward models by training step, a panel a task, a line a trajectory; the majority class is dotted.

    Needs ``id``, ``task``, ``step``, ``accuracy`` (may be empty: then the annotators' labels count), ``accuracy_noisy`` and
    ``majority``.
    """
    tasks = [task for task in TASKS if (checkpoints["task"] == task).any()]
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    truth = {"accuracy": "clean labels", "accuracy_noisy": "annotators' labels"}[kind]
    with style():
        figure, axes = _panels(1, len(tasks), 2.9, sharey=True)
        for axis, task in zip(axes[0], tasks, strict=True):
            rows = checkpoints[checkpoints["task"] == task]
            for _, model in rows.groupby("id", sort=False):
                model = model.sort_values("step")
                axis.plot(model["step"], model[kind].astype(float), color=PALETTE[task], marker="o", markersize=4)
            axis.axhline(rows["majority"].astype(float).mean(), color=FAINT, linestyle=":", linewidth=1.2)
            axis.set(title=task.capitalize(), xlabel="Training step")
        axes[0, 0].set_ylabel(f"Accuracy, {truth}")
    return figure


def training_loss(losses: pd.DataFrame, window: int = 0) -> Figure:
    """Supervised training: ``loss`` (nats a token) by ``step`` with a running mean; ``validation_loss`` if there.

    ``window``: points in the mean; 0: a thirtieth of all.
    """
    color, points = _COLORS[0], losses.dropna(subset=["loss"]).sort_values("step")
    window = window or max(1, len(points) // 30)
    smooth = points["loss"].rolling(window, center=True, min_periods=1).mean()
    with style():
        figure, axes = _panels(1, 1, 3.0)
        axis = axes[0, 0]
        if window > 1:
            axis.plot(points["step"], points["loss"], color=color, alpha=0.3, linewidth=0.7, label="each step")
        axis.plot(points["step"], smooth, color=color, label=f"mean of {window} steps" if window > 1 else "training")
        if "validation_loss" in losses:
            seen = losses.dropna(subset=["validation_loss"])
            axis.plot(seen["step"], seen["validation_loss"], color=INK, marker="o", markersize=4, label="validation")
        axis.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
        axis.legend(loc="upper right")
    return figure


def label_counts(table: pd.DataFrame) -> Figure:
    """How often each label occurs: ``task``, ``label``, ``count``; a panel a task, bars are shares, numbers counts."""
    tasks: Sequence[str] = [task for task in TASKS if (table["task"] == task).any()]
    most = int(table.groupby("task")["label"].nunique().max())
    with style():
        figure, axes = _panels(1, len(tasks), 1.1 + 0.34 * most)
        for axis, task in zip(axes[0], tasks, strict=True):
            rows = table[table["task"] == task].groupby("label", sort=False)["count"].sum()
            shares = rows / rows.sum()
            bars = axis.barh([str(label) for label in rows.index], shares, color=PALETTE[task], height=0.65)
            axis.bar_label(bars, [f"{count:,}" for count in rows], padding=3, fontsize=8)
            axis.set(title=task.capitalize(), xlim=(0, 1.25 * float(shares.max())))
            axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.invert_yaxis()
            axis.grid(visible=False, axis="y")
        figure.supxlabel("Share of labels (number of labels at the bar)", fontsize=9)
    return figure


def reliability(table: pd.DataFrame, task: str = "relevance") -> Figure:
    """Calibration: accuracy against mean confidence of binned predictions (``confidence``, ``accuracy``, ``count``)."""
    with style():
        figure, axes = _panels(1, 1, 3.6)
        axis = axes[0, 0]
        axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1.0, label="perfectly calibrated")
        size = 20 + 180 * table["count"] / table["count"].max()
        axis.plot(table["confidence"], table["accuracy"], color=PALETTE[task], linewidth=1.0)
        axis.scatter(table["confidence"], table["accuracy"], s=size, color=PALETTE[task], label="bin (area: predictions)")
        axis.set(xlabel="Mean confidence (probability)", ylabel="Accuracy (share)", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(loc="upper left")
    return figure
