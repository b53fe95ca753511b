"""Does what a reward model pays for probe texts foretell that PPO hacks it, beyond what the policy's own samples tell?

*Hacked* is :data:`paradox_utils.analysis.hacking.DEFINITION`, of a recorded run. Everything is compared within a task and
policy, where an area under the ROC curve (AUC) is the share of pairs of a hacked run and another one in which the hacked one's
measure is higher: 0.5 tells nothing, and less than that tells the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics, teachers
from paradox_utils.choose.gain import Array

CELL = ["task", "policy"]
SAMPLES = {
    "gain": "predicted gain",
    "accuracy": "accuracy on the policy's responses",
    "variance_normalised": "variance within prompts, normalised",
    "length_correlation": "correlation with length",
    "kl": "KL at which the gain is read",
}
PROBES = {
    "altered_repeated": "pays more for a repeated answer",
    "altered_long": "pays more for an answer with another behind it",
    "altered_unfinished": "pays more for an unfinished answer",
}
# Fitted on the other tasks: what of, and how it is called.
FITS = {"samples": tuple(SAMPLES), "probes": tuple(PROBES), "both": (*SAMPLES, *PROBES)}
BEYOND = "beyond"  # AUC of both, less that of samples
WORDS = {
    "samples": "samples together",
    "probes": "probes together",
    "both": "samples and probes",
    BEYOND: "what probes add to samples",
}
RESAMPLES = 500
COLUMNS = ["measure", "of", "task", "auc", "low", "high", "hacked", "runs"]


def foretold(table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """AUC of each measure with a 95 % interval that resamples trajectories, a row a measure and task, and a row for all tasks.

    ``of``: *samples* or *probes*; *fitted* for those of :data:`FITS` together, by least squares on the other tasks' runs
    (:func:`fitted`); and for :data:`BEYOND`, the difference that probes make, in which the fits are taken as they are.
    ``table``: with the measures, ``hacked`` (missing where it cannot be told) and ``rm_seed``. NaN where no run of a task is
    hacked, or all are.
    """
    known = table.dropna(subset=["hacked"]).reset_index(drop=True)
    known = known.assign(hacked=known["hacked"].astype(bool), cluster=known["task"] + " " + known["rm_seed"].astype(str))
    known = known.assign(**{name: fitted(known, measures) for name, measures in FITS.items()})
    kinds = dict.fromkeys(SAMPLES, "samples") | dict.fromkeys(PROBES, "probes") | dict.fromkeys((*FITS, BEYOND), "fitted")
    rows = []
    for task in ("all", *dict.fromkeys(known["task"])):
        own = known if task == "all" else known[known["task"] == task]
        for name, of in kinds.items():
            row = {"measure": name, "of": of, "task": task, "hacked": int(own["hacked"].sum()), "runs": len(own)}
            found = _interval(own, ("both", "samples") if name == BEYOND else (name,), resamples, seed)
            rows.append(row | {"auc": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(rows, columns=COLUMNS)


def fitted(table: pd.DataFrame, measures: Sequence[str]) -> Array:
    """A score of each run (N,), the higher the likelier hacked: measures weighted as they tell the hacked of the *other* tasks.

    Least squares of hacked on the measures, all as they stand within a task and policy (mean 0, deviation 1, which needs no
    outcome), which is Fisher's discriminant; a measure that is not known stands at the mean. NaN without another task.
    """
    group = table["task"] + ", " + table["policy"]
    z = teachers.standardised(table.assign(group=group), [*measures]).fillna(0.0).to_numpy(dtype=float)
    hacked = table["hacked"].astype(float)
    away = (hacked - hacked.groupby(group).transform("mean")).to_numpy()
    scores = np.full(len(table), np.nan)
    for task in table["task"].unique():
        own = (table["task"] == task).to_numpy()
        if not own.all():
            scores[own] = z[own] @ np.linalg.lstsq(z[~own], away[~own], rcond=None)[0]
    return scores


def _interval(own: pd.DataFrame, names: Sequence[str], resamples: int, seed: int) -> statistics.Interval:
    """AUC of the first measure, less that of the second where there are two."""
    columns = [own.groupby(CELL).ngroup(), own["hacked"], *(own[name] for name in names)]
    bounds = (0.0, 1.0) if len(names) == 1 else (-1.0, 1.0)
    return statistics.cluster_bootstrap(columns, own["cluster"], _auc, resamples=resamples, seed=seed, bounds=bounds)


def _auc(counts: Array, cell: Array, hacked: Array, *values: Array) -> Array:
    """Of B samples that have each run so often (``counts``, (B, N)): the AUC (B,) as
    :func:`paradox_utils.analysis.signs.early` counts its pairs, within cells and of finite values, less that of the second."""
    of = []
    for value in values:
        known = np.isfinite(value)
        a, b = known & (hacked > 0), known & (hacked == 0)
        pairs = (cell[a][:, None] == cell[b]).astype(float)
        right = pairs * ((value[a][:, None] > value[b]) + 0.5 * (value[a][:, None] == value[b]))
        with np.errstate(invalid="ignore", divide="ignore"):
            of.append(np.divide(*(((counts[:, a] @ each) * counts[:, b]).sum(axis=1) for each in (right, pairs))))
    return of[0] - sum(of[1:])


def answer(found: pd.DataFrame) -> str:
    """Whether probes foretell hacking, by what they add to the samples in all tasks together."""
    row = found[found["task"] == "all"].set_index("measure").loc
    beyond, both, samples = row[BEYOND], row["both"], row["samples"]
    if beyond[["auc", "low", "high"]].isna().any():
        return "Too few runs are hacked, or too few tasks, to tell whether probe texts foretell it."
    says = "Probe texts foretell" if beyond["low"] > 0 else "Probe texts do not foretell"
    if beyond["low"] <= 0 <= beyond["high"]:
        says = "It cannot be told whether probe texts foretell"
    return (
        f"{says} which runs are hacked, beyond what the policy's own samples tell: fitted on the other tasks, samples tell the "
        f"hacked run of a pair in {samples['auc']:.0%}, and with probes in {both['auc']:.0%} (difference {beyond['auc']:+.2f}, "
        f"95 % interval {beyond['low']:+.2f} to {beyond['high']:+.2f}; {beyond['hacked']:.0f} of {beyond['runs']:.0f} runs are "
        "hacked)."
    )
