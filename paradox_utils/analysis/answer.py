"""The words of the first page: a study's answer, what it says of choosing a reward model, and how far it can be trusted.

Plain sentences for practitioners about what :mod:`paradox_utils.analysis.verdict` decides and the other analyses measure.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.comparison import families, unit_contrasts
from paradox_utils.analysis.hacking import CONTROLS
from paradox_utils.analysis.overoptimisation import THIRDS
from paradox_utils.analysis.phrases import count, estimate, listed
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.teachers import BEFORE
from paradox_utils.analysis.verdict import MARGIN, Verdict


def answer(decision: Verdict, runs: int) -> str:
    """Whether to train against the most accurate reward model, by a study's verdict; ``runs``: those that decide."""
    if decision.primary is None or decision.status == "undecided":
        return decision.headline
    regret = decision.primary.of.regret
    trainings = f"{count(runs, 'PPO run')} on {count(regret.units, 'training')} of reward models"
    if decision.status == "supported":
        return (
            f"No, on average. In {trainings}, the most accurate checkpoint taught worse than a lower rank of accuracy: it cost "
            f"{estimate(regret)} of LM performance, and {MARGIN} was fixed beforehand as what matters."
        )
    return (
        f"Yes, on average. In {trainings}, no lower rank of accuracy taught better policies than the most accurate one by "
        f"more than {regret.high:.3f} of LM performance, tasks and policies together (upper end of a 95 % interval; {MARGIN} "
        "was fixed beforehand as what matters). Single trainings differ."
    )


def advice(decision: Verdict) -> str:
    """What to do about accuracy, by a study's verdict."""
    told = {
        "supported": "Compare the most accurate reward model with less accurate ones.",
        "not supported": "On average, prefer the more accurate reward model.",
    }
    return told.get(decision.status, "Choose by more than accuracy: this study does not tell what the most accurate costs.")


def struck(turns: pd.DataFrame) -> str:
    """How many policies of trained reward models are hacked, and by which third of accuracies (rows of :func:`hacking.turns`);
    empty where no end is known."""
    known = turns[~turns["arm"].isin(CONTROLS)].dropna(subset=["hacked"])
    if known.empty:
        return ""
    bad = known.loc[known["hacked"].astype(bool), "third"].value_counts()
    where = [f"{bad[third]} with reward models of the {name}" for third, name in enumerate(THIRDS) if bad.get(third)]
    told = f": {listed(where)}" if where else ""
    return f"Of these {count(len(known), 'policy', 'policies')} {bad.sum() or 'none'} are hacked{told}."


def caveat(decision: Verdict) -> str:
    """What the answer does not cover: a rank of accuracy for each task, instead of one for all."""
    within = decision.primary.of.further.within if decision.primary else None
    if decision.primary is None or within is None or not np.isfinite(within.low):
        return "The answer is an average over tasks and policies."
    return (
        "The answer is an average over tasks and policies, for one rank of accuracy common to all tasks. With a rank of its "
        f"own for each task the cost is {estimate(within)}: {decision.primary.within}."
    )


def powered(decision: Verdict, gap: float, rates: Mapping[str, float], every: float) -> str:
    """Whether the study would have seen a cost of the published ``gap`` (:func:`published.typical_gap`, and over ``every``
    pair); ``rates`` of :func:`power.own_power`."""
    if not np.isfinite(rates["supported"]):
        return "These runs do not tell how often a study like this one would see a gap of the published size."
    opening = (
        f"The gaps in the paper's figures have a median of {gap:.3f} where performance is a share (with completeness, a reward "
        f"model's score, {every:.3f}); they are to the best of many policies, picked after the fact, and so too large."
    )
    alike = "of studies as large and as noisy as this one"
    if gap >= MARGIN or decision.primary is None or decision.status != "not supported":
        return f"{opening} A true cost of that size would be called supported in {rates['supported']:.1%} {alike}."
    high = decision.primary.of.regret.high
    return (
        f"{opening} A cost of that size is inside the margin of {MARGIN}, so this rule is not built to find it. It would "
        f"give the answer above in {rates['not supported']:.0%} {alike}, though, and the interval found ends "
        f"{'below' if high < gap else 'above'} it, at {high:.3f}."
    )


def worth(runs: pd.DataFrame) -> str:
    """What the most accurate reward model of a training is worth beside the least accurate one, from the runs of one arm."""
    units = unit_contrasts(families(runs))
    if len(units) < 2:
        return "These runs do not tell what accuracy is worth."
    gain = statistics.mean_interval(-units.iloc[:, -1].to_numpy(dtype=float))
    return (
        "From the least to the most accurate checkpoint of a training, the LM performance that they teach changes by "
        f"{estimate(gain, '+z.3f')}, over {count(gain.units, 'training')}."
    )


def foreknown(correlations: pd.DataFrame) -> str:
    """Which measure of a reward model before PPO goes best with the gain (rows of :func:`teachers.correlations`)."""
    found = correlations[(correlations["task"] == "all") & correlations["measure"].isin(BEFORE)]
    found = found.dropna(subset=["low"]).set_index("measure")
    if found.empty:
        return "These runs do not tell what else can be known of a reward model before PPO."
    best = found["correlation"].abs().idxmax()
    said = (
        f"Of {count(len(found), 'measure')} known before PPO, {BEFORE[best]} has the highest correlation with what PPO gains, "
        f"{_related(found.loc[best])}"
    )
    if "rm_accuracy" in found.index and best != "rm_accuracy":
        said += f"; {BEFORE['rm_accuracy']} has {_related(found.loc['rm_accuracy'])}"
    if best == "best_of_n":
        said += ". To measure it, someone must judge the chosen responses, as accuracy needs labels"
    return f"{said}."


def _related(row: pd.Series) -> str:
    return estimate(Interval(row["correlation"], row["low"], row["high"], 0), "+z.2f")
