"""Why some reward models teach better than others: what was measured before PPO, along it, and with another optimiser.

Reads the tables of a study; imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.outcomes import READINGS, accuracy_kind, main_arms, steps, usable
from paradox_utils.analysis.statistics import Array, Interval, pearson
from paradox_utils.config.study import TRAINED
from paradox_utils.data.tasks import TASKS, among

# What is known of a reward model before any PPO, and in words.
BEFORE = {
    "rm_accuracy": "accuracy on held-out feedback",
    "probe_accuracy": "accuracy on this policy's responses",
    "rm_f1": "F1 of the error class",
    "rm_error_share": "share of segments called errors",
    "rm_calibration_error": "expected calibration error",
    "probe_variance": "reward variance within prompts (normalised)",
    "probe_variance_raw": "reward variance within prompts (raw)",
    "probe_margin": "distance from the decision",
    "probe_length_correlation": "correlation of reward and length",
    "best_of_n": "LM performance of best-of-n",
}
# Of a run, along it.
ALONG = {
    "reward_level": "reward, mean over training",
    "reward_spread": "reward, variance of batch means over training (the paper's)",
    "reward_within": "reward variance within prompts, mean over training",
    "kl_level": "KL, mean over training",
    "agreement_end": "agreement of reward and truth at the end",
    "agreement_lost": "agreement lost since the start",
}
# Razin et al. 2025, "What makes a reward model a good teacher?", Table 2: Pearson's correlation with the gain in ground-truth
# reward after one epoch. The last is of the mean of reward variance and accuracy, the latter the mean of on- and off-policy.
RAZIN = {
    "reward variance": 0.834,
    "accuracy on-policy": -0.283,
    "accuracy off-policy": -0.507,
    "variance and accuracy": 0.940,
}
# Ours alone: held-out feedback is off-policy only for a policy that did not write its responses.
OWN = "accuracy held-out, of the feedback's policy"
BRIEF = 1.5  # segments an answer, on average: policies below it answer mostly with one
COLLINEAR = 0.8  # of a predictor's variance: where those before it explain more (a variance inflation above 5), it stays out
KNOWN = 0.9  # of the pairs: a predictor that fewer have stays out of the regression, as the pairs without it would fall out


def teacher_table(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of trained reward model and policy: the measures of :data:`BEFORE` and :data:`ALONG` and the ``gain`` in
    LM performance from the initial policy, averaged over its runs; ``group`` is task and policy, ``cluster`` the trajectory (a
    reward model that trains two policies is in two rows of one cluster)."""
    runs = main_arms(summary)
    runs = runs[runs["route"].isin(TRAINED) & usable(runs)].drop_duplicates("id")
    runs = runs.merge(along(curves), how="left", left_on="id", right_index=True)
    runs = runs.assign(gain=runs["lm_performance_final"] - runs["lm_performance_start"])
    keys = ["arm", "task", "policy", "rm_seed", "setting", "rm_step"]
    known = [*BEFORE, *ALONG, "gain"]
    runs = runs.reindex(columns=[*keys, *known])  # older runs have no measures before PPO
    table = runs.groupby(keys, dropna=False, sort=False)[known].mean().reset_index()
    # trainings with one seed share initialization and order of data, whatever their route
    group, cluster = table["task"] + ", " + table["policy"], table["task"] + " " + table["rm_seed"].astype(str)
    return table.assign(group=group, cluster=cluster)


def brevity(summary: pd.DataFrame) -> pd.DataFrame:
    """Whether saying less passes for a better policy: one row a policy of each task whose segments are judged, of the runs of
    :func:`.outcomes.steps`.

    ``brief``: of its ``runs``, those that end with fewer than :data:`BRIEF` segments an answer, and the mean ``error share`` of
    their reward models. Spearman's correlation of accuracy with LM performance ``as measured`` and in the ``brevity-robust``
    reading, and R² of LM performance on accuracy and on error share alone; NaN for fewer than 3 runs.
    """
    readings, shares = ("as measured", "brevity-robust"), ("R² accuracy", "R² error share")
    runs, rows = steps(summary), []
    runs = runs[usable(runs)].drop_duplicates("id")
    for (task, policy), own in runs.groupby(["task", "policy"], sort=False):
        if TASKS[task].pairwise:
            continue
        row = {"task": task, "policy": policy, "runs": len(own)}
        brief = own[own["greedy_segments_final"] < BRIEF] if "greedy_segments_final" in own else own.head(0)
        row |= {"brief": len(brief), "error share": brief["rm_error_share"].mean()}
        accuracy = accuracy_kind(own)
        for reading in readings:
            known = own.dropna(subset=[accuracy, READINGS[reading]])
            row[reading] = statistics.rank_correlation(known[accuracy], known[READINGS[reading]])
        for words, name in zip(shares, (accuracy, "rm_error_share"), strict=True):
            known = own.dropna(subset=[name])
            row[words] = statistics.correlation(known[name], known[READINGS["as measured"]]) ** 2
        rows.append(row)
    return pd.DataFrame(rows, columns=["task", "policy", "runs", "brief", "error share", *readings, *shares])


def writer(summary: pd.DataFrame) -> str:
    """The policy whose sampled responses the feedback holds: the first of the runs against trained reward models, which is so
    unless the study's config names another."""
    trained = summary[summary["route"].isin(TRAINED)]
    policies = (trained if len(trained) else summary)["policy"].dropna()
    return str(policies.iloc[0]) if len(policies) else ""


def along(curves: pd.DataFrame) -> pd.DataFrame:
    """What each run's curve says of its training, indexed by run: the measures of :data:`ALONG`."""
    rows = {}  # older curves lack some
    for run, curve in curves.reindex(columns=["id", "kl", "reward_mean", "reward_variance", "rm_agreement"]).groupby("id"):
        agreement = curve["rm_agreement"]
        tenth = max(1, len(curve) // 10)
        rows[run] = {
            "reward_level": curve["reward_mean"].mean(),
            "reward_spread": curve["reward_mean"].var(ddof=1),
            "reward_within": curve["reward_variance"].mean(),
            "kl_level": curve["kl"].mean(),
            "agreement_end": agreement.iloc[-tenth:].mean(),
            "agreement_lost": agreement.iloc[:tenth].mean() - agreement.iloc[-tenth:].mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(ALONG))


def standardised(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The columns with mean 0 and deviation 1 within each group (task and policy), so that tasks can be pooled; a column that
    is constant in a group is 0 there."""
    groups = table.groupby("group")[columns]
    away, spread = table[columns] - groups.transform("mean"), groups.transform("std")
    return (away / spread.replace(0.0, np.nan)).where((spread != 0) | away.isna(), 0.0)


def correlations(
    table: pd.DataFrame, *, resamples: int, seed: int, measures: Sequence[str] = (*BEFORE, *ALONG)
) -> pd.DataFrame:
    """Pearson's correlation of each measure with the gain: one row a measure and task, and over all tasks together
    (standardised within task and policy), with a 95 % interval that resamples trajectories, not corrected for the number of
    measures; ``pairs`` of reward model and policy. ``spearman``, of the same values, is what few collapsed runs cannot make."""
    measures = [name for name in measures if name in table and table[name].notna().sum() > 2]
    rows = []
    for task in ("all", *among(table["task"])):
        own = table if task == "all" else table[table["task"] == task]
        z = standardised(own, [*measures, "gain"]).join(own["cluster"])
        for name in measures:
            known = z.dropna(subset=[name, "gain"])
            if len(known) > 3 and np.ptp(known[name]) > 0:
                row = {"task": task, "measure": name} | _with_gain(known, name, resamples, seed)
                rows.append(row | {"spearman": statistics.rank_correlation(known[name], known["gain"])})
    return pd.DataFrame(rows, columns=["task", "measure", "correlation", "low", "high", "pairs", "spearman"])


def _with_gain(z: pd.DataFrame, name: str, resamples: int, seed: int) -> dict[str, float]:
    """A measure's correlation with the gain and its interval over clusters."""
    columns = [z[name], z["gain"]]
    found = statistics.cluster_bootstrap(columns, z["cluster"], pearson, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))
    return {"correlation": found.estimate, "low": found.low, "high": found.high, "pairs": len(z)}


def lead(table: pd.DataFrame, measure: str, other: str, *, resamples: int, seed: int) -> Interval:
    """By how much one measure's correlation with the gain is larger than another's, signs aside, over the pairs that have both;
    pooled and resampled as in :func:`correlations`."""
    names = [measure, other, "gain"]
    z = standardised(table, names).join(table["cluster"]).dropna(subset=names)

    def larger(counts: Array, a: Array, b: Array, gain: Array) -> Array:
        return np.abs(pearson(counts, a, gain)) - np.abs(pearson(counts, b, gain))

    columns = [z[name] for name in names]
    return statistics.cluster_bootstrap(columns, z["cluster"], larger, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))


def against_razin(table: pd.DataFrame, writer: str, *, resamples: int, seed: int) -> pd.DataFrame:
    """Razin et al.'s published correlations beside ours (pooled, standardised within task and policy).

    ``here``, with a 95 % interval as in :func:`correlations`: with the variance of normalised rewards, as theirs; ``raw``: with
    that of the rewards PPO was paid. Accuracy on held-out feedback is off-policy for policies other than :func:`writer`; the
    writer's has a row :data:`OWN`, over the reward models that trained another policy as well. *Variance and accuracy* is the
    mean of the two standardised, accuracy being that of both accuracies. NaN where fewer than 4 ``pairs`` have the measures.
    """
    rows = pd.DataFrame({"Razin et al. 2025": RAZIN | {OWN: np.nan}}).rename_axis("measure")
    rows[["here", "low", "high", "pairs", "raw"]] = [np.nan, np.nan, np.nan, 0, np.nan]
    measures = ["probe_variance", "probe_variance_raw", "probe_accuracy", "rm_accuracy", "gain"]
    known = table.dropna(subset=measures)
    keys = ["task", "arm", "setting", "rm_seed", "rm_step"]
    known = known.assign(model=known.reindex(columns=keys).groupby(keys, dropna=False).ngroup())
    z = standardised(known, measures).join(known[["group", "cluster", "policy", "model"]])
    z = z.dropna()  # a pair alone in its group is none
    z["accuracy"] = z[["probe_accuracy", "rm_accuracy"]].mean(axis=1)
    z["accuracy"] = standardised(z, ["accuracy"])["accuracy"]
    for kind in ("", "_raw"):
        z[f"both{kind}"] = z[[f"probe_variance{kind}", "accuracy"]].mean(axis=1)
    others = z["policy"] != writer
    shared = z["model"].isin(z.loc[others, "model"]) | (not others.any())
    ours = {
        "reward variance": ("probe_variance", "probe_variance_raw", z),
        "accuracy on-policy": ("probe_accuracy", "probe_accuracy", z),
        "accuracy off-policy": ("rm_accuracy", "rm_accuracy", z[others]),
        "variance and accuracy": ("both", "both_raw", z),
        OWN: ("rm_accuracy", "rm_accuracy", z[~others & shared]),
    }
    for words, (name, raw, own) in ours.items():
        if len(own) > 3:
            found = _with_gain(own, name, resamples, seed)
            found |= {"raw": statistics.correlation(own[raw], own["gain"])}
            rows.loc[words, ["here", "low", "high", "pairs", "raw"]] = [*found.values()]
    return rows.astype({"pairs": int})


def regressions(table: pd.DataFrame) -> pd.DataFrame:
    """Least squares of the gain on what is known before PPO: one row a ``model`` and predictor, all models over the same pairs.

    Models: held-out ``accuracy`` alone, reward ``variance`` within prompts alone, ``both``, and ``all``: in the order of
    :data:`BEFORE`, also those that are :data:`KNOWN` and that the predictors before them leave :data:`COLLINEAR` room. All is
    standardised within task and policy, and so is R²; ``low`` and ``high`` are 95 % intervals, ``p (Holm)`` is corrected for
    the predictors of the model. A model needs two trajectories more than it has predictors.

    Errors are jackknifed over trajectories (:func:`paradox_utils.analysis.statistics.jackknife`).
    """
    base = ["rm_accuracy", "probe_variance"]
    known = table.dropna(subset=[*base, "gain"])
    joined = [name for name in BEFORE if name not in base and len(known) and known[name].notna().mean() >= KNOWN]
    known = known.dropna(subset=joined)
    z = standardised(known, [*base, *joined, "gain"]).join(known[["group", "cluster"]]).dropna()
    everything = list(base)
    centred = z[[*base, *joined]] - z[[*base, *joined]].mean()
    for name in joined:
        if z[name].std() > 0 and _least_squares(centred[everything].to_numpy(), centred[name].to_numpy())[1] <= COLLINEAR:
            everything.append(name)
    models = {"accuracy": base[:1], "variance": base[1:], "both": base, "all": everything}
    parts = []
    for model, names in models.items():
        enough = z["cluster"].nunique() >= len(names) + 2 and len(z) > len(names) + z["group"].nunique()
        if enough and (z[[*names, "gain"]].std() > 0).all() and (model != "all" or len(names) > len(base)):
            parts.append(regression(z, model, names))
    columns = ["model", "predictor", "coefficient", "low", "high", "p (Holm)", "R²", "adjusted R²", "pairs", "trajectories"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def regression(z: pd.DataFrame, model: str, names: list[str]) -> pd.DataFrame:
    """Least squares of ``gain`` on the columns ``names``, standardised within ``group``, with errors over ``cluster``: a row a
    predictor, as in :func:`regressions`; an intercept a group stands for the means that standardising took."""
    design = pd.concat([z[[*names]], pd.get_dummies(z["group"], dtype=float)], axis=1)
    x, y, n = design.to_numpy(), z["gain"].to_numpy(), z["cluster"].nunique()
    found, covariance = statistics.jackknife(lambda kept: _least_squares(x[kept], y[kept])[0][: len(names)], z["cluster"])
    share, left = _least_squares(x, y)[1], len(y) - np.linalg.matrix_rank(x)
    rows, p = [], []
    for name, b, error in zip(names, found, np.sqrt(np.diag(covariance)), strict=True):
        interval = statistics.student(b, error, n)
        rows.append({"model": model, "predictor": name, "coefficient": b, "low": interval.low, "high": interval.high})
        p.append(statistics.two_sided(statistics.p_positive(b, error, n), statistics.p_positive(-b, error, n)))
    fit = {"R²": share, "adjusted R²": 1 - (1 - share) * (1 + len(names) / left), "pairs": len(z), "trajectories": n}
    return pd.DataFrame(rows).assign(**{"p (Holm)": statistics.holm(p)}, **fit)


def _least_squares(x: Array, y: Array) -> tuple[Array, float]:
    """Coefficients of y (N,) on the columns of x (N, P), and R²."""
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    return found, float(1 - np.sum((y - x @ found) ** 2) / np.sum((y - y.mean()) ** 2))
