"""Figures of the lottery: where top reward models are hacked, what accuracy and training do, and what tells it early."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from paradox_utils.analysis import findings, lottery, signs
from paradox_utils.data.tasks import among
from paradox_utils.figures.style import COLORS, FAINT, INK, LM_PERFORMANCE, PALETTE, Drawing, dot, grid, panel, style, ticks

MODERATE, TOP = FAINT, COLORS[3]
WRAP = 56  # letters of a title in a panel of two in a row
SHOWN = 5  # signs with a colour of their own
SHORT = {"default": "default", "published": "published", "low-kl": "½ KL", "fast": "2 × rate", "slow": "½ rate"}


@style()
def screen(cells: pd.DataFrame, named: list[tuple[str, str, str]]) -> Drawing:
    """Hacked runs of each cell (rows of :func:`lottery.screened`), a panel a task and policy: of the moderate and of the top
    checkpoint of every training; a star marks the cells that the rule names."""
    policies = list(dict.fromkeys(cells.index.get_level_values("policy")))
    axes = grid(among(cells.index.get_level_values("task")), policies, 2.4)
    for (task, policy), axis in axes.items():
        own = cells[[cell[:2] == (task, policy) for cell in cells.index]].droplevel(lottery.CELL[:2])
        own = own.reindex([pressure for pressure in lottery.PRESSURES if pressure in own.index])
        places = np.arange(len(own))
        for shift, kind, color in ((-0.2, "moderate", MODERATE), (0.2, "top", TOP)):
            axis.bar(places + shift, own[kind], 0.38, color=color)
            axis.plot(places + shift, own[kind], linestyle="none", marker="_", markersize=9, color=color)  # where it is 0
        for place, pressure in zip(places, own.index, strict=True):
            if (task, policy, pressure) in named:
                axis.annotate("★", (place + 0.2, own.loc[pressure, "top"]), ha="center", va="bottom", color=INK)
        axis.set_xticks(places, [SHORT[pressure] for pressure in own.index], rotation=30, ha="right")
        axis.set(ylabel="hacked runs", ylim=(0, max(cells["trainings"].max(), 1)))
        axis.grid(axis="x", visible=False)
    kinds = [Patch(color=MODERATE, label="moderate checkpoint"), Patch(color=TOP, label="top checkpoint")]
    return Drawing(list(axes.values()), kinds)


@style()
def runs(table: pd.DataFrame) -> Drawing:
    """Every run of the second study (rows of :func:`lottery.confirmed`), a panel a cell: LM performance by kind of reward
    model, hacked runs filled, those whose end is unknown crossed, with the number of hacked ones above."""
    cells = list(dict.fromkeys(table[lottery.CELL].itertuples(index=False, name=None)))
    axes = [panel(2, 2.7) for _ in cells]
    for axis, cell in zip(axes, cells, strict=True):
        own = table[(table[lottery.CELL] == cell).all(axis=1)]
        kinds = [kind for kind in lottery.KINDS if kind in set(own["kind"])]
        for place, kind in enumerate(kinds):
            found = own[own["kind"] == kind].sort_values(lottery.OUTCOME)
            spread = (np.arange(len(found)) % 7 - 3) * 0.06  # by rank, so that equals lie beside each other
            bad = found["hacked"].fillna(False).to_numpy(bool)
            unknown = found["hacked"].isna().to_numpy()
            edge = PALETTE[cell[0]]
            for which, mark, fill, color in (
                (~bad & ~unknown, "o", "none", edge), (unknown, "x", FAINT, FAINT), (bad, "o", TOP, TOP)
            ):  # fmt: skip
                axis.plot(
                    place + spread[which], found.loc[which, lottery.OUTCOME], linestyle="none", marker=mark, markersize=4,
                    markerfacecolor=fill, markeredgecolor=color, alpha=0.8,
                )  # fmt: skip
            axis.annotate(
                f"{bad.sum()} of {found['hacked'].count()}",
                (place, 1.02),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize=8,
            )
        axis.set_xticks(range(len(kinds)), [kind.replace("-", "\n") for kind in kinds])
        axis.set(xlim=(-0.5, len(lottery.KINDS) - 0.5), ylabel=LM_PERFORMANCE[cell[0]], ylim=(-0.03, 1.03))
        title = " · ".join((*cell[:2], findings.PRESSURES[cell[2]]))
        axis.set_title(textwrap.fill(title, WRAP), pad=14, fontsize=9)
        axis.grid(axis="x", visible=False)
    unclear = [dot("unknown", color=FAINT, marker="x")] * bool(table["hacked"].isna().any())
    return Drawing(axes, [dot("hacked", color=TOP), dot("not hacked", color=FAINT, markerfacecolor="none"), *unclear])


@style()
def contrasts(effects: pd.DataFrame) -> Drawing:
    """What each contrast changes (rows of :func:`lottery.effects`), a panel an outcome, a row a contrast and setting, with 95 %
    intervals; rows without one, as where no run is hacked, are left out."""
    rows = effects.dropna(subset=["low"]).reset_index()
    settings = list(dict.fromkeys(rows[lottery.CELL].itertuples(index=False, name=None)))
    colors = dict(zip(settings, COLORS, strict=False))
    names = [name for name in lottery.CONTRASTS if name in set(rows["contrast"])]
    height = 1.1 + 0.22 * len(names) * len(settings)
    axes = {outcome: panel(2, height) for outcome in dict.fromkeys(rows["outcome"])}
    for outcome, axis in axes.items():
        axis.axvline(0, color=FAINT, linewidth=0.8)
        for _, row in rows[rows["outcome"] == outcome].iterrows():
            setting = tuple(row[lottery.CELL])
            place = -names.index(row["contrast"]) - (settings.index(setting) + 0.5) / len(settings) * 0.7
            axis.plot([row["low"], row["high"]], [place, place], color=colors[setting], linewidth=1.6)
            axis.scatter([row["mean"]], [place], color=colors[setting], s=20, zorder=3)
        axis.set_yticks([-index - 0.35 for index in range(len(names))], [textwrap.fill(name, 24) for name in names])
        axis.set(xlabel=f"change ({'share hacked' if outcome == 'hacked' else outcome})")
        axis.set_ylim(-len(names) + 0.1, 0.2)
        axis.grid(visible=False, axis="y")
    return Drawing(list(axes.values()), [dot(textwrap.fill(findings.spoken(one), WRAP), color=colors[one]) for one in settings])


@style()
def early(table: pd.DataFrame) -> Drawing:
    """How well each sign tells hacked runs by update (:func:`signs.early`): those that tell most at the end have colours."""
    last = (table.iloc[-1] - 0.5).abs().sort_values(ascending=False)  # those set apart come after the others
    last = last[sorted(last.index, key=lambda sign: sign in signs.APART)]
    axis = panel(1, 3.2)
    for rank, sign in enumerate(last.index):
        color = COLORS[rank] if rank < SHOWN else FAINT
        axis.plot(table.index, table[sign], color=color, linewidth=1.6 if rank < SHOWN else 0.8, label=signs.SIGNS[sign])
    handles = list(axis.lines)
    axis.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axis.set(xlabel="PPO update", ylabel="AUC (1: hacked runs are higher)", ylim=(-0.02, 1.02))
    ticks(axis.xaxis, 8, integer=True)
    return Drawing([axis], handles)
