"""Figures of one run: data, supervised training, a reward model's checkpoints, PPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from paradox_utils.data.tasks import among
from paradox_utils.figures.style import (
    COLORS,
    FAINT,
    INK,
    LM_PERFORMANCE,
    PALETTE,
    PAPER,
    Drawing,
    dot,
    grid,
    line,
    panel,
    same_range,
    style,
    ticks,
)

RING: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 11, "color": INK, "fillstyle": "none"}


@style()
def ppo_curves(curve: pd.DataFrame, task: str) -> Drawing:
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
    axes = {column: panel(2, 2.5) for column in columns}
    for column, (title, unit) in columns.items():
        points, marker, axis = curve.dropna(subset=[column]), "o" if column == "lm_performance" else "", axes[column]
        axis.plot(points["update"], points[column], color=color, marker=marker, markersize=4)
        axis.set(title=title, xlabel="Update", ylabel=unit)
        ticks(axis.xaxis, 6, integer=True)
    axes["kl"].axhline(0, color=FAINT, linewidth=0.8)
    return Drawing(list(axes.values()))


@style()
def start_to_end(checkpoints: pd.DataFrame, curve: pd.DataFrame, run: pd.Series) -> Drawing:
    """How one run came about: its reward model's training with the checkpoint that was used (ringed), what was paid and what
    that was worth by the evaluator, KL, and LM performance on validation questions from the start (dashed).

    ``checkpoints``: of the training, none for a reward that was not learned; ``curve``: of the run; ``run``: its row of the
    summary.
    """
    task, axes = str(run["task"]), [panel(2, 2.5) for _ in range(4)]
    models, paid, moved, performed = axes
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    models.plot(checkpoints["step"], checkpoints[kind].astype(float), color=INK, marker="o", markersize=4)
    used = checkpoints[checkpoints["step"] == run["rm_step"]]
    models.plot(used["step"], used[kind].astype(float), **RING)
    for floor in checkpoints["majority"].tail(1):
        models.axhline(floor, color=FAINT, linestyle=":", linewidth=1.2)
    models.set(title="1. Reward model: accuracy", xlabel="Training step", ylabel="share labelled right")
    for column, color in {"reward_mean": COLORS[3], "true_reward_mean": COLORS[0]}.items():
        if column in curve:
            paid.plot(curve["update"], curve[column].astype(float), color=color)
    paid.set(title="2. Reward of a response", ylabel="batch mean")
    moved.plot(curve["update"], curve["kl"], color=INK)
    moved.set(title="3. Distance from the start", ylabel="KL (nats)")
    seen = curve.dropna(subset=["lm_performance"])
    performed.plot(seen["update"], seen["lm_performance"], color=COLORS[0], marker="o", markersize=4)
    for start in seen["lm_performance"].head(1):
        performed.axhline(start, color=FAINT, linestyle="--", linewidth=1.2)
    performed.set(title="4. LM performance", ylabel=LM_PERFORMANCE[task])
    for axis in axes[1:]:
        axis.set_xlabel("PPO update")
        ticks(axis.xaxis, 6, integer=True)
    legend = [line("paid by the reward model", color=COLORS[3]), line("by the evaluator", color=COLORS[0])]
    marks = [dot("the checkpoint used", **RING), line("before PPO", color=FAINT, linestyle="--", linewidth=1.2)]
    return Drawing(axes, [*legend, *marks, line("majority class", color=FAINT, linestyle=":", linewidth=1.2)])


@style()
def landed(runs: pd.DataFrame, run: pd.Series, accuracy: str) -> Drawing:
    """Where a run lies (ringed) among those of its task and policy: LM performance by the column ``accuracy``."""
    axis = panel(1, 3.0)
    axis.plot(runs[accuracy], runs["lm_performance_final"], linestyle="none", marker="o", color=FAINT, markersize=4)
    axis.plot([run[accuracy]], [run["lm_performance_final"]], **RING)
    axis.axhline(run["lm_performance_start"], color=FAINT, linestyle="--", linewidth=1.2)
    axis.set(xlabel="Accuracy of the reward model", ylabel=LM_PERFORMANCE[str(run["task"])].capitalize())
    marks = [dot("this run", **RING), dot("the others of its task and policy", color=FAINT, markersize=4)]
    return Drawing([axis], [*marks, line("before PPO", color=FAINT, linestyle="--", linewidth=1.2)])


@style()
def accuracy_by_step(metrics: pd.DataFrame, task: str) -> Drawing:
    """A reward model's checkpoints on held-out feedback: accuracies with the majority class (left), F1 and calibration (right).

    Needs ``step``, ``accuracy`` (may be empty), ``accuracy_noisy``, ``balanced_accuracy``, ``majority``, ``f1``,
    ``calibration_error``; a column that is empty throughout is left out.
    """
    color = PALETTE[task]
    left = {
        "accuracy": ("clean labels", {"color": color, "marker": "o"}),
        "accuracy_noisy": (
            "annotators' labels",
            {"color": color, "marker": "o", "markerfacecolor": PAPER, "linestyle": "--"},
        ),
        "balanced_accuracy": ("balanced over classes", {"color": INK, "marker": "s", "linewidth": 1.0}),
        "majority": ("majority class", {"color": FAINT, "linestyle": ":"}),
    }
    right = {
        "f1": ("F1 of the error class", {"color": color, "marker": "^"}),
        "calibration_error": ("expected calibration error", {"color": INK, "marker": "v", "linewidth": 1.0}),
    }
    axes = panel(2, 3.2), panel(2, 3.2)
    for axis, lines in zip(axes, (left, right), strict=True):
        for column, (label, look) in lines.items():
            points = metrics.dropna(subset=[column]).sort_values("step")
            if len(points):
                axis.plot(points["step"], points[column], label=label, **({"markersize": 5} | look))
        axis.set_xlabel("Training step of the reward model")
    axes[0].set(title="Accuracy on held-out feedback", ylabel="share", ylim=(None, 1.02))
    axes[1].set(title="F1 and calibration", ylabel="between 0 and 1", ylim=(-0.03, 1.03))
    return Drawing(axes, [line for axis in axes for line in axis.lines])


@style()
def accuracies_by_step(checkpoints: pd.DataFrame) -> Drawing:
    """Accuracy of a study's reward models by training step, a panel a task, a line a trajectory; the majority class is dotted.

    Needs ``id``, ``task``, ``step``, ``accuracy`` (may be empty: then the annotators' labels count), ``accuracy_noisy`` and
    ``majority``.
    """
    tasks = among(checkpoints["task"])
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    truth = {"accuracy": "clean labels", "accuracy_noisy": "annotators' labels"}[kind]
    axes = grid(tasks, [""])
    for (task, _), axis in axes.items():
        rows = checkpoints[checkpoints["task"] == task]
        for _, model in rows.groupby("id", sort=False):
            model = model.sort_values("step")
            axis.plot(model["step"], model[kind].astype(float), color=PALETTE[task], marker="o", markersize=4)
        axis.axhline(rows["majority"].astype(float).mean(), color=FAINT, linestyle=":", linewidth=1.2)
        axis.set(xlabel="Training step", ylabel=f"Accuracy, {truth}")
    same_range(axes.values())
    return Drawing(list(axes.values()), [line("majority class", color=FAINT, linestyle=":", linewidth=1.2)])


@style()
def training_loss(losses: pd.DataFrame) -> Drawing:
    """Supervised training: ``loss`` (nats a token) by ``step`` with a running mean over a thirtieth of all points;
    ``validation_loss`` if there."""
    color, points = COLORS[0], losses.dropna(subset=["loss"]).sort_values("step")
    window = max(1, len(points) // 30)
    smooth = points["loss"].rolling(window, center=True, min_periods=1).mean()
    axis = panel(1, 3.0)
    if window > 1:
        axis.plot(points["step"], points["loss"], color=color, alpha=0.3, linewidth=0.7, label="each step")
    axis.plot(points["step"], smooth, color=color, label=f"mean of {window} steps" if window > 1 else "training")
    if "validation_loss" in losses:
        seen = losses.dropna(subset=["validation_loss"])
        axis.plot(seen["step"], seen["validation_loss"], color=INK, marker="o", markersize=4, label="validation")
    axis.set(xlabel="Training step", ylabel="Cross-entropy (nats a token)", ylim=(0, None))
    return Drawing([axis], axis.lines)


@style()
def label_counts(table: pd.DataFrame) -> Drawing:
    """How often each label occurs: ``task``, ``label``, ``count``; a panel a task, bars are shares, numbers counts."""
    tasks: Sequence[str] = among(table["task"])
    most = int(table.groupby("task")["label"].nunique().max())
    axes = grid(tasks, [""], 1.1 + 0.34 * most)
    for (task, _), axis in axes.items():
        rows = table[table["task"] == task].groupby("label", sort=False)["count"].sum()
        shares = rows / rows.sum()
        bars = axis.barh([str(label) for label in rows.index], shares, color=PALETTE[task], height=0.65)
        axis.bar_label(bars, [f"{count:,}" for count in rows], padding=3, fontsize=9)
        axis.set(xlabel="share of labels", xlim=(0, 1.3 * float(shares.max())))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
    return Drawing(list(axes.values()))
