"""The paper's regime: reward models as inaccurate as the published ones, errors on one side, longer training. Imports no torch.

Its design stands in ``configs/regime.yaml``. The verdict's own comparison (:mod:`.comparison`) is applied to its trajectories.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis import hacking, statistics
from paradox_utils.analysis.comparison import ALL, compare, families
from paradox_utils.analysis.outcomes import READINGS, Reading, usable
from paradox_utils.analysis.verdict import MARGIN

PRIMARY: tuple[Reading, Reading] = ("as measured", "brevity-robust")  # two readings decide together
OUTCOMES = (*(READINGS[reading] for reading in PRIMARY), "hacked")


def regrets(steps: pd.DataFrame) -> pd.DataFrame:
    """The regret of the most accurate reward model over all tasks in each of :data:`PRIMARY`, a row each: with interval, and
    one-sided p-values, corrected for the two readings (Holm), that it is not above 0 (``p zero``), not above the margin
    (``p margin``) and not below the margin (``p below``)."""
    rows = {}
    for reading in PRIMARY:
        zero, margin = (compare(families(steps), reading, margin=bound, resamples=1) for bound in (0.0, MARGIN))
        regret = (zero.regret.estimate, zero.regret.low, zero.regret.high)
        rows[reading] = (*regret, zero.best_rank, zero.counts.rm_seeds, zero.p_above, margin.p_above, margin.p_below)
    names = ["regret", "low", "high", "best rank", "trajectories", "p zero", "p margin", "p below"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    for name in names[-3:]:
        table[name] = statistics.holm(table[name].fillna(1.0).tolist())
    return table


def crossed(summary: pd.DataFrame, curves: pd.DataFrame, parameters: pd.DataFrame) -> pd.DataFrame:
    """What accuracy and the side of errors do in the arm ``crossed``, whose dials have every accuracy at every bias.

    Of each outcome, task and all tasks together (a unit is a seed of a task), with Student's 95 % interval and two-sided p:
    ``accuracy`` (0.1 more of it: the least-squares slope, averaged over biases), each side of errors against both (averaged
    over accuracies), and ``accuracy, one-sided`` (how much more 0.1 does where errors lie on one side). ``adjusted``: by Holm
    over the contrasts of an outcome, all tasks together.

    ``parameters``: ``dial_accuracy`` and ``dial_bias`` of each run, by its id.
    """
    runs = hacking.ends(summary[(summary["arm"] == "crossed") & usable(summary)], curves)
    runs = runs.merge(parameters[["dial_accuracy", "dial_bias"]].astype(float), left_on="id", right_index=True)
    rows = []
    for outcome in OUTCOMES:
        values = runs.assign(value=runs[outcome].astype(float)).pivot(
            index=["task", "ppo_seed"], columns=["dial_bias", "dial_accuracy"], values="value"
        )
        contrasts = _crossed(values.dropna())
        for task, own in {ALL: contrasts, **dict(iter(contrasts.groupby(level="task", sort=False)))}.items():
            told = [_told(task, outcome, name, own[name]) for name in contrasts]
            if task == ALL:
                adjusted = statistics.holm([row["p"] for row in told])
                told = [row | {"adjusted": p} for row, p in zip(told, adjusted, strict=True)]
            rows += told
    return pd.DataFrame(rows).set_index(["outcome", "task", "contrast"])


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
    p = statistics.two_sided(statistics.p_greater(values, 0.0), statistics.p_greater(-values, 0.0))
    interval = {"mean": mean.estimate, "low": mean.low, "high": mean.high, "units": len(values), "p": p}
    return {"outcome": outcome, "task": task, "contrast": name} | interval


def later(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Runs of the arm ``longer`` beside those of ``steps`` with the same reward model and PPO seed, a row a task and kind of
    reward model (of each training's two, the ``top`` and the ``moderate`` one): ``runs``, LM performance ``before`` PPO, after
    as many updates as the others (``usual``) and at the ``longer`` end, and how many are hacked at both."""
    runs = hacking.ends(summary[summary["arm"].isin(["steps", "longer"]) & usable(summary)], curves)
    same = ["task", "policy", "rm_seed", "rm_step", "ppo_seed"]
    pairs = runs[runs["arm"] == "longer"].merge(runs[runs["arm"] == "steps"], on=same, suffixes=("", "_usual"))
    top = pairs.groupby(["task", "policy", "rm_seed"])["rm_accuracy"].transform("max")
    pairs = pairs.assign(kind=np.where(pairs["rm_accuracy"] == top, "top", "moderate"))
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
