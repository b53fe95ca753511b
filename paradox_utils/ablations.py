"""What the published setting leaves open: each choice against the study's own, run by run. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from paradox_utils import statistics
from paradox_utils.analysis import READINGS, accuracy_kind, usable

BASE = "ablation-base"
LEVEL = 0.05  # of a change called clear, over all arms
OUTCOME = READINGS["as measured"]


@dataclass(frozen=True)
class Ablation:
    """A question, and the arms that answer it beside :data:`BASE` (arm → its setting in words)."""

    title: str
    base: str
    arms: dict[str, str]


ABLATIONS = (
    Ablation("Arg-max or probability rewards", "arg-max", {"ablation-probability": "probability"}),
    Ablation("Sum or mean over segments", "sum", {"ablation-mean": "mean"}),
    Ablation("Rewards normalised for each reward model", "not normalised", {"ablation-normalised": "normalised"}),
    Ablation("KL coefficient", "0.05", {"ablation-kl-low": "0.02", "ablation-kl-high": "0.125"}),
    Ablation("KL estimator and sampling", "as sampled", {"ablation-kl-estimator": "as published"}),
)


def pairs(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a run of an ablation: its ``difference`` in LM performance from the base run of its reward model and seed."""
    keys = ["task", "policy", "rm_seed", "rm_step", "ppo_seed"]
    planned = summary[summary["arm"].str.startswith("ablation-")]
    kind = accuracy_kind(planned)
    planned = planned.assign(highest=planned.groupby(["task", "policy", "rm_seed"])[kind].transform("max"))
    runs = planned[usable(planned)]
    base = runs[runs["arm"] == BASE][[*keys, OUTCOME]].rename(columns={OUTCOME: "base"})
    table = runs.merge(base, on=keys)
    return table.assign(difference=table[OUTCOME] - table["base"], accuracy=table[kind])


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: mean difference from the base with Student's 95 % interval over trajectories, ``p`` of no difference
    (two-sided, after Holm's correction for the number of arms), the difference at the most accurate reward models, KL, length,
    and in how many trajectories the most accurate one trained the best policy."""
    rows: list[dict[str, object]] = []
    for arm, own in table.dropna(subset=["accuracy"]).groupby("arm", sort=False):
        means = statistics.mean_interval(own.groupby("rm_seed")["difference"].mean())
        top = own.loc[own.groupby("rm_seed")["accuracy"].idxmax()]
        best = own.groupby("rm_seed")[OUTCOME].max()
        top = top[top["accuracy"] == top["highest"]]  # not where its own run is missing
        first = int((top.set_index("rm_seed")[OUTCOME] >= best.reindex(top["rm_seed"]) - 1e-12).sum())
        row = {"arm": arm, "runs": len(own), "LM performance": own[OUTCOME].mean(), "difference": means.estimate}
        differences = own.groupby("rm_seed")["difference"].mean()
        sides = (statistics.p_greater(differences, 0.0), statistics.p_greater(-differences, 0.0))
        row |= {
            "low": means.low,
            "high": means.high,
            "p": min(1.0, 2 * min(sides)),
            "at the most accurate": top["difference"].mean(),
        }
        row |= {"KL": own["kl_final"].mean(), "length": own["greedy_length_final"].mean()}
        rows.append(row | {"most accurate first": first, "trajectories": len(best)})
    names = ["arm", "runs", "LM performance", "difference", "low", "high", "p", "at the most accurate", "KL", "length"]
    table = pd.DataFrame(rows, columns=[*names, "most accurate first", "trajectories"]).set_index("arm")
    tested = table.index[table.index != BASE]
    table.loc[tested, "p"] = statistics.holm(list(table.loc[tested, "p"]))
    table.loc[table.index == BASE, "p"] = np.nan
    return table


def sentence(ablation: Ablation, found: pd.DataFrame) -> str:
    """What one ablation changed, in words (Markdown)."""
    parts = []
    for arm, words in ablation.arms.items():
        if arm not in found.index:
            parts.append(f"*{words}* was not run")
            continue
        row = found.loc[arm]
        clear = row["p"] <= LEVEL
        change = ("raises" if row["difference"] > 0 else "lowers") if clear else "does not clearly change"
        wide = f", 95 % interval {row['low']:+.3f} to {row['high']:+.3f}" if np.isfinite(row["low"]) else ", one trajectory"
        parts.append(
            f"*{words}* {change} LM performance (by {row['difference']:+.3f}{wide}) and the most accurate reward model trains "
            f"the best policy in {row['most accurate first']:.0f} of {row['trajectories']:.0f} trajectories"
        )
    base = found.loc[BASE] if BASE in found.index else None
    against = f" (*{ablation.base}*: {base['most accurate first']:.0f})" if base is not None else ""
    return f"**{ablation.title}.** Against *{ablation.base}*, {'; '.join(parts)}{against}."
