"""What counts as the outcome of a run, which runs are compared, and what becomes of a reward model and a trajectory.

Works on the summary that :func:`.tables.load_summary` reads, one row a PPO run and arm. The rule that turns these measures into
a verdict stands in :mod:`.verdict`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

Reading = Literal[
    "as measured",
    "as published",
    "best on validation",
    "sampled",
    "brevity-robust",
    "at matched KL",
    "true return",
    "true return, best on validation",
    "true return at matched KL",
    "best of n",
]

# What counts as the outcome of a run. The first two are decided, the others shown beside them.
READINGS: dict[Reading, str] = {
    "as measured": "lm_performance_final",
    "as published": "lm_performance_best_logged",
    "best on validation": "lm_performance_best",
    "sampled": "sampled_lm_performance_final",
    "brevity-robust": "lm_performance_floored",
    "at matched KL": "lm_performance_matched",
    "true return": "true_return_final",
    "true return, best on validation": "true_return_best",
    "true return at matched KL": "true_return_matched",
    "best of n": "best_of_n",
}
VALIDATION = "lm_performance_validation"  # after the last update, to select by
# What to select by, on validation questions, where that is not VALIDATION.
SELECTING: dict[Reading, str] = {
    "best on validation": "lm_performance_best_logged",
    "at matched KL": "lm_performance_matched_validation",
    "true return": "true_return_validation",
    "true return, best on validation": "true_return_validation",
    "true return at matched KL": "true_return_matched_validation",
}
LEAST = 2  # segments that the brevity-robust reading takes an answer to have at least, where segments are judged
LATER = (
    *READINGS.values(),
    *SELECTING.values(),
    VALIDATION,
    "rm_error_share",
    "kl_matched",
    "matched_early",
    "probe_padding",
)  # else empty

# --- outcomes -----------------------------------------------------------------------------------------------------------------


def with_curves(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The summary with what :data:`SELECTING` names, and with LM performance and true return at matched KL.

    Matched: for each task, policy and arm, at the largest KL that all its runs reach (``kl_matched``), by linear interpolation
    along √KL between a run's evaluations, where it first gets that far; ``matched_early`` is 1 where that is before the first
    evaluation after the start. The KL of an evaluation is the mean over its own and the neighbouring updates.
    """
    table = summary.copy()
    for column in LATER:
        if column not in table:
            table[column] = np.nan
    logged = dict(iter(_evaluated(curves[curves["id"].isin(table["id"])]).groupby("id")))
    ends = {
        VALIDATION: ("lm_performance", -1),
        "true_return_validation": ("true_return", -1),
        "lm_performance_start_validation": ("lm_performance", 0),
    }
    for column, (name, place) in ends.items():
        known = [logged[run][name] if run in logged and name in logged[run] else [] for run in table["id"]]
        table[column] = [float(np.asarray(values)[place]) if len(values) else np.nan for values in known]
    for _, rows in table[usable(table)].groupby(["task", "policy", "arm"]):
        paths = {run: logged[run] for run in rows["id"] if run in logged and "test_lm_performance" in logged[run]}
        target = min((float(path["distance"].max()) for path in paths.values()), default=0.0)
        if target > 0:  # a run whose estimates are all below 0 has no distance at which others could be compared with it
            known = table["id"].isin(paths) & table.index.isin(rows.index)
            own = [paths[run] for run in table.loc[known, "id"]]
            table.loc[known, "kl_matched"] = target**2
            table.loc[known, "matched_early"] = [float(path["distance"].iloc[:2].max() >= target) for path in own]
            for name in ("lm_performance", "true_return"):
                for column, ending in ((f"test_{name}", ""), (name, "_validation")):
                    table.loc[known, f"{name}_matched{ending}"] = [_at(path, target, column) for path in own]
    return table


def _evaluated(curves: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of runs, with their ``distance`` √KL there."""
    smooth = curves.groupby("id")["kl"].rolling(3, center=True, min_periods=1).mean().droplevel(0).reindex(curves.index)
    smooth = smooth.where(curves["update"] > 0, 0.0)
    return curves.assign(distance=np.sqrt(smooth.clip(lower=0.0))).dropna(subset=["lm_performance"])


def _at(path: pd.DataFrame, target: float, column: str) -> float:
    """A column where the path first gets ``target`` far; NaN where it has none."""
    if column not in path:
        return float("nan")
    distance, score = path["distance"].to_numpy(), path[column].to_numpy(dtype=float)
    beyond = np.flatnonzero(distance >= target)
    if beyond[0] == 0:
        return float(score[0])
    after = beyond[0]
    share = (target - distance[after - 1]) / (distance[after] - distance[after - 1])
    return float(score[after - 1] + share * (score[after] - score[after - 1]))


def usable(summary: pd.DataFrame, reading: Reading = "as measured") -> pd.Series:
    """Which runs have an outcome to count (boolean, one a row)."""
    return summary["status"].isin(("ok", "diverged")) & np.isfinite(summary[READINGS[reading]].astype(float))


# --- reward models and trajectories ------------------------------------------------------------------------------------------


def accuracy_kind(runs: pd.DataFrame) -> str:
    """The column that says how accurate reward models are: against clean labels where there are any."""
    return "rm_accuracy" if runs["rm_accuracy"].notna().any() else "rm_accuracy_noisy"


def measured(summary: pd.DataFrame) -> pd.Series:
    """Which runs have both an accuracy and an outcome (boolean, one a row)."""
    return usable(summary) & summary[accuracy_kind(summary)].notna()


def reward_models(runs: pd.DataFrame, reading: Reading = "as measured") -> pd.DataFrame:
    """One row a reward model: rm_seed, setting, rm_step, accuracy, performance (mean of its finished runs; NaN: none), runs."""
    outcome = runs[READINGS[reading]].where(usable(runs, reading))
    table = runs.assign(accuracy=runs[accuracy_kind(runs)], performance=outcome, runs=outcome.notna())
    keep = {"accuracy": "mean", "performance": "mean", "runs": "sum"}
    return table.groupby(["rm_seed", "setting", "rm_step"], as_index=False, dropna=False).agg(keep)


def contrasts(runs: pd.DataFrame, reading: Reading = "as measured", column: str = "") -> pd.DataFrame:
    """Outcome minus that with the trajectory's most accurate reward model at the same PPO seed, averaged over PPO seeds.

    One row a complete trajectory (index ``rm_seed``), one column a rank by accuracy: 0 is the most accurate; of equals, the
    later step comes first. ``column``: another outcome than the reading's, of the same runs.
    """
    models = reward_models(runs, reading)
    planned, rows = int(models.groupby("rm_seed").size().max()) if len(models) else 0, {}
    keys = ["rm_seed", "setting", "rm_step"]
    outcome = runs.assign(
        outcome=runs[column or READINGS[reading]].where(usable(runs, reading)), rm_step=runs["rm_step"].fillna(-1)
    )
    table = outcome.groupby([*keys, "ppo_seed"])["outcome"].mean().unstack("ppo_seed")
    models = models.sort_values(["accuracy", "rm_step"], ascending=False)
    reached = table.reindex(pd.MultiIndex.from_frame(models[keys].fillna({"rm_step": -1}))).to_numpy()
    has_accuracy = models["accuracy"].notna().to_numpy()
    for rm_seed, places in models.groupby("rm_seed").indices.items():
        paired = reached[places]
        known = np.isfinite(paired) & np.isfinite(paired[0])
        if len(places) == planned and has_accuracy[places].all() and known.any(axis=1).all():
            rows[rm_seed] = np.where(known, paired - paired[0], 0.0).sum(axis=1) / known.sum(axis=1)
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(planned))


# --- which runs ---------------------------------------------------------------------------------------------------------------


def main_arms(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs that the study's verdict is about: without known truths and ablations, which have their own pages."""
    return summary[_main(summary)]


def steps(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs against checkpoints of one training: the arm ``steps``, or all main arms of that route if none is called so."""
    return _called(summary, "steps")


def primary(summary: pd.DataFrame) -> pd.DataFrame:
    """:func:`steps` with the controls of set accuracy beside it: what the main figure shows."""
    return _called(summary, "steps", "exact", "dial")


def _main(summary: pd.DataFrame) -> pd.Series:
    return ~summary["arm"].str.startswith(("known-", "ablation-"))


def _called(summary: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The arms of these names; in a study that gave names of its own instead of ``steps``, the main arms of such routes."""
    own = (summary["arm"] == "steps").any()
    return summary[summary["arm"].isin(names) if own else _main(summary) & summary["route"].isin(names)]
