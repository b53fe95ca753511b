"""Figures of the paper's regime: what accuracy and the side of a dial's errors do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis.outcomes import READINGS
from paradox_utils.analysis.statistics import mean_interval
from paradox_utils.data.tasks import TASKS
from paradox_utils.figures.style import COLORS, FAINT, LM_PERFORMANCE, Drawing, dot, grid, style, ticks

SIDES = {-1: "errors called good", 0: "errors on both sides", 1: "good called errors"}
MEASURED = READINGS["as measured"]


@style()
def crossed(runs: pd.DataFrame) -> Drawing:
    """LM performance by the accuracy of dials, a panel a task and policy and a line a side of errors (the sign of
    ``dial_bias``): means over seeds with 95 % intervals."""
    policies = list(dict.fromkeys(runs["policy"]))
    axes = grid([task for task in TASKS if (runs["task"] == task).any()], policies)
    looks = dict(zip(SIDES, zip(COLORS, "oDs", strict=False), strict=False))
    for (task, policy), axis in axes.items():
        own = runs[(runs["task"] == task) & (runs["policy"] == policy)]
        axis.axhline(own["lm_performance_start"].mean(), color=FAINT, linestyle="--", linewidth=1.0)
        for shift, (sign, (color, marker)) in zip((-0.002, 0.0, 0.002), looks.items(), strict=True):
            found = own[np.sign(own["dial_bias"]) == sign].groupby("dial_accuracy")[MEASURED].apply(mean_interval)
            means = np.array([[of.estimate, of.low, of.high] for of in found]).T
            at = found.index.to_numpy() + shift
            axis.errorbar(at, means[0], [means[0] - means[1], means[2] - means[0]], color=color, marker=marker, markersize=5)
        axis.set(xlabel="accuracy of the dial (share)", ylabel=LM_PERFORMANCE[task])
        ticks(axis.xaxis, 4)
        ticks(axis.yaxis, 5)
    return Drawing(
        list(axes.values()), [dot(SIDES[sign], color=color, marker=marker) for sign, (color, marker) in looks.items()]
    )
