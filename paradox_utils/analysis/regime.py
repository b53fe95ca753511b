"""The paper's regime: reward models as inaccurate as the published ones, errors on one side, longer training. Imports no torch.

Its design stands in ``configs/regime.yaml``. The verdict's own comparison (:mod:`.comparison`) is applied to its trajectories.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from paradox_utils.analysis import hacking, statistics
from paradox_utils.analysis.comparison import ALL, compare, families
from paradox_utils.analysis.outcomes import READINGS, Reading, usable
from paradox_utils.analysis.phrases import listed
from paradox_utils.analysis.power import truths, verdict_rates
from paradox_utils.analysis.verdict import ALPHA, MARGIN, pooled
from paradox_utils.data.tasks import TASKS

PRIMARY: tuple[Reading, Reading] = ("as measured", "brevity-robust")  # two readings decide together
P_VALUES = ["p zero", "p margin", "p below"]
OUTCOMES = (*(READINGS[reading] for reading in PRIMARY), "hacked")


def regrets(steps: pd.DataFrame) -> pd.DataFrame:
    """The regret of the most accurate reward model over all tasks in each of :data:`PRIMARY`, a row each: with interval, and
    one-sided p-values, corrected for the two readings (Holm), that it is not above 0 (``p zero``), not above the margin
    (``p margin``) and not below the margin (``p below``); and what the verdict's rule finds ``lacking``, in words."""
    rows = {}
    for reading in PRIMARY:
        (finding,) = pooled(steps, reading, resamples=1)
        zero, margin = compare(families(steps), reading, margin=0.0, resamples=1), finding.of
        regret = (zero.regret.estimate, zero.regret.low, zero.regret.high)
        told = (zero.p_above, margin.p_above, margin.p_below, listed(finding.missing) if finding.missing else "")
        rows[reading] = (*regret, zero.best_rank, zero.counts.rm_seeds, *told)
    names = ["regret", "low", "high", "best rank", "trajectories", *P_VALUES, "lacking"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    for name in P_VALUES:
        table[name] = statistics.holm(table[name].fillna(1.0).tolist())
    return table


def rates(regret: float, units: int, noise: float, ranks: int = 5, studies: int = 4000) -> dict[str, float]:
    """Shares of simulated studies of so many ``units`` that :func:`regrets` shows above 0, above the margin and below it,
    where an inverted U has this ``regret`` (at 0 all ranks are equal) and every run normal noise of standard deviation
    ``noise``; NaN where that is not known. Both readings are taken to say the same, in which case Holm asks half the level of
    each."""
    if not np.isfinite(noise):
        return dict.fromkeys(("above 0", f"above {MARGIN}", f"below {MARGIN}"), float("nan"))
    truth = truths(regret, ranks=ranks)["inverted U"] if regret else [0.9] * ranks
    level = ALPHA / len(PRIMARY)
    shown = {}
    for name, bound in (("above 0", 0.0), (f"above {MARGIN}", MARGIN)):
        found = verdict_rates([truth] * units, noise, studies, margin=bound, level=level)
        shown |= {name: found["supported"]} | ({f"below {MARGIN}": found["not supported"]} if bound else {})
    return shown


def crossed(summary: pd.DataFrame, curves: pd.DataFrame, parameters: pd.DataFrame) -> pd.DataFrame:
    """What accuracy and the side of errors do in the arm ``crossed``, whose dials have every accuracy at every bias.

    Of each outcome, task and all tasks together (a unit is a seed of a task), with Student's 95 % interval and two-sided p:
    ``accuracy`` (0.1 more of it: the least-squares slope, averaged over biases), each side of errors against both (averaged
    over accuracies), and ``accuracy, one-sided`` (how much more 0.1 does where errors lie on one side). ``adjusted``: by Holm
    over the contrasts of an outcome, all tasks together.

    ``parameters``: ``dial_accuracy`` and ``dial_bias`` of each run, by its id. A seed without one of its dials has no part;
    no row while a planned run has not ended, or where no seed is whole.
    """
    planned = summary[summary["arm"] == "crossed"]
    runs = hacking.ends(planned[usable(planned)], curves)
    runs = runs.merge(parameters[["dial_accuracy", "dial_bias"]].astype(float), left_on="id", right_index=True)
    rows = []
    for outcome in OUTCOMES if planned["ended"].all() else ():
        values = runs.assign(value=runs[outcome].astype(float)).pivot(
            index=["task", "ppo_seed"], columns=["dial_bias", "dial_accuracy"], values="value"
        )
        values = values.dropna()
        contrasts = _crossed(values) if len(values) else values
        for task, own in {ALL: contrasts, **dict(iter(contrasts.groupby(level="task", sort=False)))}.items():
            told = [_told(task, outcome, name, own[name]) for name in contrasts]
            if task == ALL:
                adjusted = statistics.holm([row["p"] for row in told])
                told = [row | {"adjusted": p} for row, p in zip(told, adjusted, strict=True)]
            rows += told
    names = ["outcome", "task", "contrast", "mean", "low", "high", "units", "p", "adjusted"]
    return pd.DataFrame(rows, columns=names).set_index(names[:3])


def _crossed(values: pd.DataFrame) -> pd.DataFrame:
    """Contrasts of each unit: ``values`` has a column a bias and accuracy."""
    accuracies = np.sort(values.columns.get_level_values("dial_accuracy").unique())
    apart = accuracies - accuracies.mean()
    slopes, means = {}, {}
    for bias in values.columns.get_level_values("dial_bias").unique():
        own = values[bias][accuracies]
        slopes[bias], means[bias] = own @ (0.1 * apart / (apart**2).sum()), own.mean(axis=1)
    below, even, above = sorted(slopes)
    return pd.DataFrame(
        {
            "accuracy": sum(slopes.values()) / len(slopes),
            "good called errors": means[above] - means[even],
            "errors called good": means[below] - means[even],
            "accuracy, one-sided": (slopes[below] + slopes[above]) / 2 - slopes[even],
        }
    )


def _told(task: str, outcome: str, name: str, values: pd.Series) -> dict[str, object]:
    mean = statistics.mean_interval(values)
    if values.nunique() < 2:  # no spread is no certainty
        mean = replace(mean, low=np.nan, high=np.nan)
    p = statistics.two_sided(statistics.p_greater(values, 0.0), statistics.p_greater(-values, 0.0))
    interval = {"mean": mean.estimate, "low": mean.low, "high": mean.high, "units": len(values), "p": p}
    return {"outcome": outcome, "task": task, "contrast": name} | interval


def struck(steps: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """How many policies are hacked, a row a task and a column a rank of accuracy in its trajectory (1: the most accurate; of
    equals the later step), beside all ``runs`` whose end is known."""
    order = steps.sort_values(["rm_accuracy", "rm_step"], ascending=False, kind="stable")
    ranked = steps.assign(rank=order.groupby(["task", "policy", "rm_seed", "ppo_seed"]).cumcount() + 1)
    known = hacking.ends(ranked[usable(ranked)], curves).dropna(subset=["hacked"])
    counts = known.pivot_table(index="task", columns="rank", values="hacked", aggfunc="sum", fill_value=0, sort=False)
    counts = counts.sort_index(axis=1).astype(int)
    return counts.assign(runs=known.groupby("task").size())


def informative(models: pd.DataFrame) -> pd.DataFrame:
    """Of each task whose reward models judge segments: how many ``models`` there are, and how many of them are no more accurate
    (``constant``) than one that always gives the more frequent answer, whose ``accuracy`` stands beside; and Spearman's
    correlation of LM performance with *balanced* accuracy, with interval (resampling trajectories). ``models``: measured runs,
    one a reward model."""
    rows = {}
    for task, own in models.dropna(subset=["rm_balanced_accuracy", "rm_majority"]).groupby("task", sort=False):
        if TASKS[str(task)].pairwise:
            continue
        score = own[READINGS["as measured"]]
        found = statistics.spearman(own["rm_balanced_accuracy"], score, own["rm_seed"], resamples=1000, seed=0)
        constant = int((own["rm_accuracy"] <= own["rm_majority"]).sum())
        rows[task] = (len(own), constant, own["rm_majority"].mean(), found.estimate, found.low, found.high)
    names = ["models", "constant", "accuracy", "balanced", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def later(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Runs of the arm ``longer`` beside those of ``steps`` with the same reward model and PPO seed, a row a task and kind of
    reward model (of each training's two, the ``top`` and the ``moderate`` one): ``runs``, LM performance ``before`` PPO, after
    as many updates as the others (``usual``) and at the ``longer`` end, and how many are hacked at both. A training without
    one of the four runs has no part."""
    training, same = ["task", "policy", "rm_seed"], ["task", "policy", "rm_seed", "rm_step", "ppo_seed"]
    planned = summary[summary["arm"] == "longer"]
    top = planned["rm_accuracy"] == planned.groupby(training)["rm_accuracy"].transform("max")
    kinds = planned[same].assign(kind=np.where(top, "top", "moderate"))
    runs = hacking.ends(summary[summary["arm"].isin(["steps", "longer"]) & usable(summary)], curves)
    runs = runs.dropna(subset=["hacked"])
    pairs = runs[runs["arm"] == "longer"].merge(runs[runs["arm"] == "steps"], on=same, suffixes=("", "_usual")).merge(kinds)
    pairs = pairs[pairs.groupby(training)["kind"].transform("nunique") == 2]  # both of a training, or neither
    final = READINGS["as measured"]
    grouped = pairs.groupby(["task", "kind"], sort=False)
    return grouped.agg(
        runs=("id", "size"),
        before=("lm_performance_start", "mean"),
        usual=(f"{final}_usual", "mean"),
        longer=(final, "mean"),
        hacked_usual=("hacked_usual", "sum"),
        hacked_longer=("hacked", "sum"),
    )
