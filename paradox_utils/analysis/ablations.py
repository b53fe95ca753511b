"""What the published setting leaves open: each choice against the study's own, run by run. Imports no torch.

Two questions are kept apart. Does a choice raise or lower LM performance? And does it change what accuracy does, that is, how
the most accurate reward model of a trajectory stands to its others? Only the second bears on the paradox.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.outcomes import READINGS, accuracy_kind, usable

BASE = "ablation-base"
LEVEL = 0.05  # of a change called clear, over all tests of one question
OUTCOME = READINGS["as measured"]
TRAJECTORY = ["task", "policy", "rm_seed"]
QUESTIONS = {"LM performance": "LM performance", "slope": "accuracy", "lead": "accuracy"}  # a measure's, corrected together
OWN = "the study's own"  # of the base, where nothing says its value


@dataclass(frozen=True)
class Ablation:
    """A question, and the arms that answer it beside :data:`BASE` (arm → its setting in words).

    Empty words are values of ``parameter``, which :func:`named` reads from a study.
    """

    title: str
    base: str
    arms: dict[str, str]
    parameter: str = ""


ABLATIONS = (
    Ablation("Arg-max or probability rewards", "arg-max", {"ablation-probability": "probability"}),
    Ablation("Sum or mean over segments", "sum", {"ablation-mean": "mean"}),
    Ablation("Rewards normalised for each reward model", "not normalised", {"ablation-normalised": "normalised"}),
    Ablation("KL coefficient", "", {"ablation-kl-low": "", "ablation-kl-high": ""}, "kl_coefficient"),
    Ablation(
        "KL estimator",
        "of the distribution sampled",
        {
            "ablation-kl-estimator": "of the untempered softmax, as published",
            "ablation-published-sampling": "as published, with its sampling from the likeliest tokens",
        },
    ),
)


def named(summary: pd.DataFrame, parameters: pd.DataFrame) -> tuple[Ablation, ...]:
    """:data:`ABLATIONS` with the words that are values, from the ``parameters`` of a study's runs (index: run id)."""

    def value(arm: str, parameter: str, unknown: str) -> str:
        runs = parameters[parameters.index.isin(summary.loc[summary["arm"] == arm, "id"])]
        return f"{runs[parameter].iloc[0]:g}" if len(runs) else unknown

    found = []
    for one in ABLATIONS:
        spoken = {arm: arm.removeprefix("ablation-").replace("-", " ") for arm in one.arms}
        arms = {arm: text or value(arm, one.parameter, spoken[arm]) for arm, text in one.arms.items()}
        found.append(replace(one, base=one.base or value(BASE, one.parameter, OWN), arms=arms))
    return tuple(found)


def pairs(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a run of an ablation beside the LM performance of the ``base`` run of its reward model and seed.

    ``planned``: how many reward models the base is to have in the run's trajectory; ``total``: in all trajectories.
    """
    keys = [*TRAJECTORY, "rm_step", "ppo_seed"]
    planned = summary[summary["arm"].str.startswith("ablation-")]
    steps = planned[planned["arm"] == BASE].groupby(TRAJECTORY)["rm_step"].nunique().rename("planned").reset_index()
    runs = planned[usable(planned)]
    base = runs[runs["arm"] == BASE][[*keys, OUTCOME]].rename(columns={OUTCOME: "base"})
    table = runs.merge(base, on=keys).merge(steps, on=TRAJECTORY, how="left")
    return table.assign(accuracy=table[accuracy_kind(planned)], total=steps["planned"].sum()).dropna(subset=["accuracy"])


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, trajectory and measure (from rows of :func:`pairs`): its ``value``, and that of the ``base``.

    *LM performance*: the mean of the trajectory's runs. *slope*: LM performance with the most accurate reward model minus that
    with the least accurate one; *lead*: minus the best of all others, chosen after the fact, and so too low by what a maximum
    of noisy runs adds, in the arm and in its base. Slope and lead need two or more reward models, and all that were planned.
    """
    rows: list[tuple[object, ...]] = []
    for key, runs in table.groupby(["arm", *TRAJECTORY], sort=False):
        rows.append((*key, "LM performance", runs[OUTCOME].mean(), runs["base"].mean()))
        models = runs.groupby("rm_step")[["accuracy", OUTCOME, "base", "planned"]].mean().sort_values("accuracy", kind="stable")
        if len(models) >= max(2, models["planned"].iloc[0]):
            *others, top = models[[OUTCOME, "base"]].to_numpy()
            rows.append((*key, "slope", *(top - others[0])))
            rows.append((*key, "lead", *(top - np.max(others, axis=0))))
    return pd.DataFrame(rows, columns=["arm", *TRAJECTORY, "measure", "value", "base"])


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and measure of :func:`contrasts`: its mean in the ``base`` and the arm (``value``), and the ``change``
    with its Student 95 % interval over ``trajectories`` and ``p`` of no change.

    p is two-sided, corrected (Holm) for all tests of its question: one an arm for LM performance, two an arm for what accuracy
    does. It is NaN where fewer than two trajectories can be compared.
    """
    rows = []
    for (arm, measure), own in contrasts(table[table["arm"] != BASE]).groupby(["arm", "measure"], sort=False):
        change = np.round((own["value"] - own["base"]).to_numpy(), 12)  # equal scores leave rounding, which is no spread
        found, sides = statistics.mean_interval(change), [statistics.p_greater(sign * change, 0.0) for sign in (1, -1)]
        p = statistics.two_sided(*sides) if len(own) > 1 else np.nan
        rows.append((arm, measure, own["base"].mean(), own["value"].mean(), found.estimate, found.low, found.high, p, len(own)))
    names = ["arm", "measure", "base", "value", "change", "low", "high", "p", "trajectories"]
    found = pd.DataFrame(rows, columns=names)
    for _, tests in found.dropna(subset=["p"]).groupby(found["measure"].map(QUESTIONS)):
        found.loc[tests.index, "p"] = statistics.holm(list(tests["p"]))
    return found.set_index(["arm", "measure"])


def described(table: pd.DataFrame, parameters: pd.DataFrame) -> pd.DataFrame:
    """One row an arm (of :func:`pairs`): its runs, their reward models and how many were ``planned``, in how many trajectories
    the most accurate one came ``first``, mean KL and length; KL is NaN where it is not estimated as the base's, as the two
    estimate different quantities."""
    estimator = table["id"].map(parameters.get("log_probabilities", {}))
    same = (table["arm"] == BASE) | estimator.isin(estimator[table["arm"] == BASE].dropna())
    table = table.assign(KL=table["kl_final"].where(same), length=table.get("greedy_length_final", np.nan))
    arms, leads = table.groupby("arm", sort=False), contrasts(table).query("measure == 'lead'")
    found = arms.agg(runs=("id", "size"), planned=("total", "first"), KL=("KL", "mean"), length=("length", "mean"))
    found.insert(1, "models", table.drop_duplicates(["arm", *TRAJECTORY, "rm_step"]).groupby("arm").size())
    return found.assign(first=(leads["value"] >= -1e-12).groupby(leads["arm"]).sum()).fillna({"first": 0})
