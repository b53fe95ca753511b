"""Figures of one run: data, supervised training, a reward model's checkpoints, PPO."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.data.tasks import TASKS
from paradox_utils.figures.style import COLORS, FAINT, INK, LM_PERFORMANCE, PALETTE, panels, style, ticks


@style()
def ppo_curves(curve: pd.DataFrame, task: str) -> Figure:
    """Reward, KL, LM performance and length over the updates of one run.

    Needs ``update``, ``reward_mean``, ``kl``, ``length`` and ``lm_performance`` (empty but for evaluations).
    """
    color = PALETTE[task]
    columns = {
        "reward_mean": ("Reward of a response", "batch mean"),
        "kl": ("KL from the reference policy", "nats"),
        "lm_performance": ("LM performance", LM_PERFORMANCE[task]),
        "length": ("Response length", "tokens"),
    }
    figure, axes = panels(2, 2, 4.8, sharex=True)
    for axis, (column, (title, unit)) in zip(axes.flat, columns.items(), strict=True):
        points, marker = curve.dropna(subset=[column]), "o" if column == "lm_performance" else ""
        axis.plot(points["update"], points[column], color=color, marker=marker, markersize=4)
        axis.set(title=title, ylabel=unit)
        ticks(axis.xaxis, 6, integer=True)
    for axis in axes[1]:
        axis.set_xlabel("Update")
    axes[0, 1].axhline(0, color=FAINT, linewidth=0.8)
    figure.align_ylabels()
    return figure


@style()
def accuracy_by_step(metrics: pd.DataFrame, task: str) -> Figure:
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
    figure, axes = panels(1, 2, 3.4)
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


@style()
def accuracies_by_step(checkpoints: pd.DataFrame) -> Figure:
    """Accuracy of a study's reward models by training step, a panel a task, a line a trajectory; the majority class is dotted.

    Needs ``id``, ``task``, ``step``, ``accuracy`` (may be empty: then the annotators' labels count), ``accuracy_noisy`` and
    ``majority``.
    """
    tasks = [task for task in TASKS if (checkpoints["task"] == task).any()]
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    truth = {"accuracy": "clean labels", "accuracy_noisy": "annotators' labels"}[kind]
    figure, axes = panels(1, len(tasks), 2.9, sharey=True)
    for axis, task in zip(axes[0], tasks, strict=True):
        rows = checkpoints[checkpoints["task"] == task]
        for _, model in rows.groupby("id", sort=False):
            model = model.sort_values("step")
            axis.plot(model["step"], model[kind].astype(float), color=PALETTE[task], marker="o", markersize=4)
        axis.axhline(rows["majority"].astype(float).mean(), color=FAINT, linestyle=":", linewidth=1.2)
        axis.set(title=task.capitalize(), xlabel="Training step")
    axes[0, 0].set_ylabel(f"Accuracy, {truth}")
    return figure


@style()
def training_loss(losses: pd.DataFrame) -> Figure:
    """Supervised training: ``loss`` (nats a token) by ``step`` with a running mean over a thirtieth of all points;
    ``validation_loss`` if there."""
    color, points = COLORS[0], losses.dropna(subset=["loss"]).sort_values("step")
    window = max(1, len(points) // 30)
    smooth = points["loss"].rolling(window, center=True, min_periods=1).mean()
    figure, axes = panels(1, 1, 3.0)
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


@style()
def label_counts(table: pd.DataFrame) -> Figure:
    """How often each label occurs: ``task``, ``label``, ``count``; a panel a task, bars are shares, numbers counts."""
    tasks: Sequence[str] = [task for task in TASKS if (table["task"] == task).any()]
    most = int(table.groupby("task")["label"].nunique().max())
    figure, axes = panels(1, len(tasks), 1.1 + 0.34 * most)
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
