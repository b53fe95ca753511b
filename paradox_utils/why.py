"""Why some reward models teach better than others: what was measured before PPO, along it, and with another optimiser.

Reads the tables of a study; imports no torch.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils import overoptimisation, statistics
from paradox_utils.analysis import accuracy_kind, usable
from paradox_utils.data.records import TASKS

# What is known of a reward model before any PPO, and in words.
BEFORE = {
    "rm_accuracy": "accuracy off-policy (held-out feedback)",
    "probe_accuracy": "accuracy on-policy (this policy's responses)",
    "rm_f1": "F1 of the error class",
    "rm_calibration_error": "expected calibration error",
    "probe_variance": "reward variance within prompts (normalised)",
    "probe_variance_raw": "reward variance within prompts (raw)",
    "probe_margin": "margin",
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
WINDOW = 5  # updates that a point of a path averages
TRAINED = ("steps", "label-noise", "data-size", "model-size")


def teachers(summary: pd.DataFrame, curves: pd.DataFrame, arms: tuple[str, ...] = TRAINED) -> pd.DataFrame:
    """One row a reward model that PPO used: the measures of :data:`BEFORE` and :data:`ALONG` and the ``gain`` in LM performance
    from the initial policy, averaged over its runs; ``group`` is task and policy, ``cluster`` the trajectory."""
    runs = summary[summary["arm"].isin(arms) & usable(summary)].drop_duplicates("id")
    runs = runs.merge(along(curves), how="left", left_on="id", right_index=True)
    runs = runs.assign(gain=runs["lm_performance_final"] - runs["lm_performance_start"])
    runs = runs.assign(accuracy=runs[accuracy_kind(runs)])
    keys = ["arm", "task", "policy", "rm_seed", "setting", "rm_step"]
    known = [*BEFORE, *ALONG, "gain", "accuracy"]
    runs = runs.reindex(columns=[*keys, *known])  # older runs have no measures before PPO
    table = runs.groupby(keys, dropna=False, sort=False)[known].mean().reset_index()
    # trainings with one seed share initialization and order of data, whatever their route
    group, cluster = table["task"] + ", " + table["policy"], table["task"] + " " + table["rm_seed"].astype(str)
    return table.assign(group=group, cluster=cluster)


def along(curves: pd.DataFrame) -> pd.DataFrame:
    """What each run's curve says of its training, indexed by run: the measures of :data:`ALONG`."""
    rows = {}
    for run, curve in curves.groupby("id"):
        agreement = curve["rm_agreement"] if "rm_agreement" in curve else pd.Series(np.nan, curve.index)
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


def correlations(table: pd.DataFrame, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Pearson's correlation of each measure with the gain: one row a measure and task, and over all tasks together
    (standardised within task and policy), with a 95 % interval that resamples trajectories."""
    measures = [name for name in (*BEFORE, *ALONG) if name in table and table[name].notna().sum() > 2]
    rows = []
    for task in ("all", *[task for task in TASKS if (table["task"] == task).any()]):
        own = table if task == "all" else table[table["task"] == task]
        z = standardised(own, [*measures, "gain"])
        for name in measures:
            known = z[name].notna() & z["gain"].notna()
            if known.sum() < 4 or np.ptp(z.loc[known, name]) == 0:
                continue
            found = statistics.cluster_bootstrap(
                [z.loc[known, name], z.loc[known, "gain"]],
                own.loc[known, "cluster"].to_numpy(),
                pearson,
                resamples=resamples,
                seed=seed,
                bounds=(-1.0, 1.0),
            )
            rows.append((task, name, found.estimate, found.low, found.high, int(known.sum())))
    return pd.DataFrame(rows, columns=["task", "measure", "correlation", "low", "high", "reward models"])


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN where one side is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def against_razin(table: pd.DataFrame) -> pd.DataFrame:
    """Razin et al.'s published correlations beside ours (pooled, standardised within task and policy).

    ``here``: with the variance of normalised rewards, as theirs; ``raw``: with that of the rewards PPO was paid. The row
    ``regression`` is the multiple correlation of the gain with variance and both accuracies: never negative, and not theirs.
    """
    names = {"reward variance": "probe_variance", "accuracy on-policy": "probe_accuracy", "accuracy off-policy": "rm_accuracy"}
    known = table.dropna(subset=[*names.values(), "probe_variance_raw", "gain"])
    rows = pd.DataFrame({"Razin et al. 2025": RAZIN})
    if len(known) < 3:
        return rows.assign(here=np.nan, raw=np.nan).rename_axis("measure")
    for column, variance in (("here", "probe_variance"), ("raw", "probe_variance_raw")):
        accuracy = (known["probe_accuracy"] + known["rm_accuracy"]) / 2
        own = known.assign(both=(known[variance] + accuracy) / 2)
        measures = {**names, "reward variance": variance, "variance and accuracy": "both"}
        z = standardised(own, [*measures.values(), "gain"])
        rows[column] = {words: pearson(z[name].to_numpy(), z["gain"].to_numpy()) for words, name in measures.items()}
        predictors = z[[variance, "probe_accuracy", "rm_accuracy"]].to_numpy()
        rows.loc["regression", column] = statistics.multiple_correlation(predictors, z["gain"].to_numpy())
    return rows.rename_axis("measure")


# --- over-optimisation -------------------------------------------------------------------------------------------------------


def thirds(runs: pd.DataFrame) -> pd.Series:
    """The third of its trajectory's accuracies that each run's reward model is in (0: the least accurate; NaN: unmeasured)."""
    rank = runs.groupby(["task", "policy", "rm_seed"])[accuracy_kind(runs)].rank(method="dense", pct=True)
    return np.ceil(rank * 3) - 1


def paths(summary: pd.DataFrame, curves: pd.DataFrame, arm: str = "steps") -> pd.DataFrame:
    """Every update of an arm's runs: ``distance`` √KL, ``proxy`` and ``true`` reward gained since the start (in deviations of
    the true reward's gain within the task), and the ``third`` of accuracies its reward model is in (0: the least accurate).

    All are means over :data:`WINDOW` updates: in a single rollout odd responses have a low reward *and* a high KL, which would
    bend a curve of one against the other downwards by noise alone.
    """
    runs = summary[(summary["arm"] == arm) & usable(summary)].drop_duplicates("id")
    runs = runs.assign(third=thirds(runs), cluster=runs["task"] + " " + runs["rm_seed"].astype(str))
    keep = ["id", "task", "policy", "third", "cluster"]
    rows = curves.merge(runs[keep], on="id")
    if "true_reward_mean" not in rows:
        return pd.DataFrame(columns=[*keep, "update", "distance", "proxy", "true"])
    start = rows.groupby("id")[["reward_mean", "true_reward_mean"]].transform("first")
    measured = ["kl", "reward_mean", "true_reward_mean"]
    smooth = rows.groupby("id")[measured].rolling(WINDOW, center=True, min_periods=1).mean().droplevel(0)
    rows = rows.assign(**smooth.loc[rows.index]).where(rows["update"] > 0, rows)  # at the start all is known exactly
    rows = rows.assign(
        distance=np.sqrt(rows["kl"].clip(lower=0.0)),
        proxy=rows["reward_mean"] - start["reward_mean"],
        true=rows["true_reward_mean"] - start["true_reward_mean"],
    )
    scale = rows.groupby("task")["true"].transform("std")
    rows = rows.assign(proxy=rows["proxy"] / scale, true=rows["true"] / scale)
    return rows[[*keep, "update", "distance", "proxy", "true"]].dropna()


def fits(table: pd.DataFrame, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """R = d (α − β log d) (Gao et al. 2023) fitted to the true reward along :func:`paths`, by task and third of accuracies: the
    point of over-optimisation ``peak`` (√KL) with its interval, and whether it lies within the data.

    A curve that only levels off is fitted with a peak as well, so the ``highest`` true reward of the mean run stands beside
    the one at its ``end``, and its ``farthest`` distance beside that at its end: a run that comes back is no function of √KL.
    """
    rows: list[dict[str, object]] = []
    for (task, third), own in table[table["distance"] > 0].groupby(["task", "third"]):
        fit = overoptimisation.fit(own["distance"], own["true"], "rl")
        values = {"alpha": fit.alpha, "beta": fit.beta, "peak": fit.peak, "inside": fit.inside}
        if own["cluster"].nunique() > 1:
            found = overoptimisation.fit_intervals(
                own["distance"], own["true"], own["cluster"].to_numpy(), "rl", resamples=resamples, seed=seed
            )
            values |= {"beta low": found.beta.low, "beta high": found.beta.high}
            values |= {"peak low": found.peak.low, "peak high": found.peak.high}
        mean = table[(table["task"] == task) & (table["third"] == third)].groupby("update")[["distance", "true"]].mean()
        values |= {"highest": mean["true"].max(), "end": mean["true"].iloc[-1]}
        values |= {"farthest": mean["distance"].max(), "end distance": mean["distance"].iloc[-1]}
        rows.append({"task": task, "third": int(third) + 1, **values})
    names = ["task", "third", "alpha", "beta", "beta low", "beta high", "peak", "peak low", "peak high", "inside"]
    return pd.DataFrame(rows, columns=[*names, "highest", "end", "farthest", "end distance"])


def best_of_n_paths(summary: pd.DataFrame, table: pd.DataFrame, arm: str = "steps") -> pd.DataFrame:
    """LM performance of best-of-n by task and third of accuracies: one row a number of responses, with √KL."""
    runs = summary[(summary["arm"] == arm) & usable(summary)].drop_duplicates("id")
    runs = runs.assign(third=thirds(runs))
    rows = table.merge(runs[["id", "task", "policy", "rm_seed", "third"]], on="id")
    return rows.assign(distance=np.sqrt(rows["kl"]))
