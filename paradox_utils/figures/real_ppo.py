"""The figure of PPO on answers that people graded: where each reward model's policy ends."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis.outcomes import usable
from paradox_utils.analysis.real_ppo import FINAL, PAIR, START, STEPS
from paradox_utils.figures.people import named_lines
from paradox_utils.figures.style import COLORS, INK, Drawing, dot, line, panel, style, ticks

MARKERS = dict(zip((STEPS, *PAIR), "o^s", strict=True))
PEOPLE = {"called bad": 0.0, "called good": 1.0}


@style()
def ends(runs: pd.DataFrame) -> Drawing:
    """Accuracy against the evaluator's score after PPO on the scale of people (``runs`` of
    :class:`paradox_utils.analysis.real_ppo.RealPPO`): a colour a training, whose checkpoints are joined in the order of
    accuracy and whose most accurate one is ringed; early and late reward models of equal accuracy apart. Dotted: answers of
    people, and the policy before PPO."""
    shown = runs[usable(runs) & runs["arm"].isin([*MARKERS])].sort_values(["accuracy", "rm_step"])
    colors = dict(zip(sorted(shown["rm_seed"].unique()), COLORS, strict=False))
    axis = panel(1, 3.6)
    for (seed, arm), own in shown.groupby(["rm_seed", "arm"]):
        joined = "-" if arm == STEPS else "none"
        look = {"color": colors[seed], "marker": MARKERS[arm], "linewidth": 0.8, "markersize": 5 if arm == STEPS else 7}
        axis.plot(own["accuracy"], own[FINAL], linestyle=joined, **look)
        if arm == STEPS:
            axis.scatter(*own[["accuracy", FINAL]].iloc[-1], s=110, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=5)
    named_lines(axis, PEOPLE | {"before PPO": shown[START].mean()})
    axis.set(xlabel="RM accuracy by people's labels (share)", ylabel="evaluator's score (0 bad, 1 good)")
    ticks(axis.xaxis, 5)
    legend = [
        line(f"training {place}", color=color, marker="o", markersize=5) for place, color in enumerate(colors.values(), 1)
    ]
    arms = [dot(arm, marker=MARKERS[arm], markersize=6) for arm in PAIR if (shown["arm"] == arm).any()]
    return Drawing([axis], [*legend, *arms, dot("most accurate of its training", markersize=9, markerfacecolor="none")])
