"""The figure of the ablations."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paradox_utils.analysis.ablations import BASE, OUTCOME, Ablation
from paradox_utils.plots import FAINT, _panels, style


def ablation(table: pd.DataFrame, of: Ablation) -> Figure:
    """LM performance against accuracy (rows of :func:`paradox_utils.analysis.ablations.pairs`): dots are runs, lines means by
    rank of accuracy; the base is grey."""
    looks = {BASE: (FAINT, of.base)} | {
        arm: (color, words) for (arm, words), color in zip(of.arms.items(), sns.color_palette("colorblind"), strict=False)
    }
    with style():
        figure, axes = _panels(1, 1, 2.6)
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
