"""The figure of the gap: what two judges say of people's answers and of the policy's, before PPO."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis.gap import JUDGES
from paradox_utils.figures.style import COLORS, Drawing, dot, panel, same_range, style, ticks

KINDS = {
    "good": "people call it good",
    "bad": "people call it bad",
    "sampled": "the policy's samples",
    "best": "their best by the reward model",
    "evaluator": "their best by the evaluator",
}
TITLES = {"reward": "What the reward model says", "evaluator": "What the evaluator says"}


@style()
def gap(means: pd.DataFrame) -> Drawing:
    """Accuracy against the mean score of each kind of answer (rows of :func:`paradox_utils.analysis.gap.means`): a panel a
    judge, a point a run's reward model and kind."""
    looks = {kind: {"color": COLORS[i], "marker": "osD^v"[i]} for i, kind in enumerate(KINDS)}
    axes = [panel(2, 3.2) for _ in JUDGES]
    for axis, judge in zip(axes, JUDGES, strict=True):
        for kind, look in looks.items():
            own = means[means["kind"] == kind].sort_values("accuracy")
            axis.plot(own["accuracy"], own[judge], linestyle="none", markersize=4.5, **look)
        axis.set(title=TITLES[judge], xlabel="RM accuracy (share)", ylabel="score (deviations)")
        ticks(axis.xaxis, 5)
    same_range(axes)
    return Drawing(axes, [dot(words, markersize=5, **looks[kind]) for kind, words in KINDS.items()])
