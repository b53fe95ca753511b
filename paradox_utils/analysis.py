"""What the runs of a study say together: tables from its folder, and the measures its verdict rests on.

Reads ``summary.csv`` (one row a PPO run and arm, failed ones included) and ``curves.csv``; imports no torch. The rule that
turns measures into a verdict stands in :mod:`paradox_utils.verdict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from paradox_utils import shapes, statistics
from paradox_utils.data.records import TASKS

Reading = Literal["as measured", "as published", "best on validation", "sampled", "at matched KL", "true return"]

# What counts as the outcome of a run. The first two are decided, the others shown beside them.
READINGS: dict[Reading, str] = {
    "as measured": "lm_performance_final",
    "as published": "lm_performance_best_logged",
    "best on validation": "lm_performance_best",
    "sampled": "sampled_lm_performance_final",
    "at matched KL": "lm_performance_matched",
    "true return": "true_return_final",
}
READING_WORDS: dict[Reading, str] = {
    "as measured": "the score of greedy answers after the last update, on test questions",
    "as published": "the maximum over logged evaluations, on validation questions",
    "best on validation": "the score on test questions of the update that validation questions chose",
    "sampled": "the score of sampled answers after the last update, on test questions",
    "at matched KL": "the score on test questions where every run of the comparison is equally far from its reference",
    "true return": "the oracle's labels put through the reward function that PPO maximised",
}
VALIDATION = "lm_performance_validation"  # after the last update, to select by

LABELS = ("study", "id", "task", "policy", "route", "setting", "status", "reason")
NUMBERS = (
    *("rm_step", "rm_seed", "ppo_seed", "rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "seconds"),
)
LATER = ("sampled_lm_performance_final", "true_return_best", VALIDATION, "lm_performance_matched", "kl_matched")
ACCURACY_RESOLUTION = 0.01  # accuracies are distinct if they differ after rounding to this
MATCHED_SHARE = 0.1  # runs of a comparison that need not reach the KL at which it is matched
ALL = "all tasks"


class AnalysisError(ValueError):
    """A results folder that cannot be analysed; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Comparison:
    """One family of reward models: of a task, policy and arm, or (``task`` :data:`ALL`) of an arm over tasks and policies.

    ``*_top``: the most accurate reward model; ``*_best``: the one with the best policy, after the fact; both averaged over
    trajectories. ``regret``, ``low``, ``high``: cross-fitted over complete trajectories (rank selected on the validation
    questions of the others), ``chosen*``: selected on the trajectory's own validation questions; both paid on test questions.
    Shapes (:mod:`paradox_utils.shapes`) need 3 trajectories; NaN where too little is known.
    """

    task: str
    policy: str
    arm: str
    planned: int  # reward models of the study
    reward_models: int  # with an accuracy and a finished PPO run
    accuracies: int  # distinct ones, in the trajectory with the fewest
    rm_seeds: int  # complete trajectories
    lost: int  # incomplete ones
    ppo_seeds: int  # different ones, in all
    accuracy_kind: str  # rm_accuracy, or rm_accuracy_noisy where no clean labels exist
    majority: float
    start: float  # outcome of the initial policy
    spearman: float
    spearman_low: float
    spearman_high: float
    accuracy_top: float
    performance_top: float
    step_top: str
    accuracy_best: float
    performance_best: float
    step_best: str
    regret_after_the_fact: float
    regret: float
    low: float
    high: float
    p_above: float
    p_below: float
    chosen: float
    chosen_low: float
    chosen_high: float
    breakpoint: float
    first_slope: float
    second_slope: float
    p_two_lines: float
    turning_point: float
    turning_low: float
    turning_high: float
    turns_inside: bool
    p_quadratic: float


# --- tables -------------------------------------------------------------------------------------------------------------------


def load(folder: Path | str) -> pd.DataFrame:
    """The study's ``summary.csv``, one row a PPO run and arm, with what its ``curves.csv`` adds (see :func:`with_curves`).

    Raises :class:`AnalysisError` where there is nothing to analyse.
    """
    path = Path(folder) / "summary.csv"
    again = "run the study: make study CONFIG=configs/NAME.yaml"
    try:
        text = {"study": str, "id": str, "setting": str, "reason": str}
        table = pd.read_csv(path, dtype=text, keep_default_na=True)
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be read ({error.strerror}); {again}, or name another results folder") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path}: is no table ({' '.join(str(error).split())}); {again}") from error
    if absent := [column for column in (*LABELS, *NUMBERS) if column not in table]:
        raise AnalysisError(f"{path}: lacks {', '.join(absent)}; it was written by another version: {again}")
    for column in NUMBERS:
        values = pd.to_numeric(table[column], errors="coerce")
        if len(bad := table.index[values.isna() & table[column].notna()]):
            value = table.loc[bad[0], column]
            raise AnalysisError(f"{path}: line {bad[0] + 2}: {column} = {value!r} is no number; {again}")
        table[column] = values
    for column in ("setting", "reason"):
        table[column] = table[column].fillna("")
    if "arm" not in table:  # before arms had names
        table["arm"] = table["route"]
    table = with_curves(table, load_curves(folder))
    if not usable(table).any():
        counts = ", ".join(f"{n} {status}" for status, n in Counter(table["status"]).items()) or "no rows"
        raise AnalysisError(f"{path}: no finished run ({counts}); see its column `reason`, then {again}")
    return table


def load_curves(folder: Path | str) -> pd.DataFrame:
    """The study's ``curves.csv``, one row an update; empty where it has none."""
    path = Path(folder) / "curves.csv"
    empty = pd.DataFrame(columns=["id", "update", "kl", "lm_performance"])
    return pd.read_csv(path, dtype={"id": str}) if path.is_file() else empty


def load_checkpoints(folder: Path | str) -> pd.DataFrame:
    """The study's ``reward_models.csv``, one row a checkpoint; raises :class:`AnalysisError` where there is none."""
    path = Path(folder) / "reward_models.csv"
    try:
        return pd.read_csv(path, dtype={"setting": str})
    except (OSError, pd.errors.EmptyDataError) as error:
        raise AnalysisError(f"{path}: cannot be read ({error}); run its study: make study CONFIG=configs/NAME.yaml") from error


def checkpoint_findings(checkpoints: pd.DataFrame) -> list[str]:
    """A sentence a reward model: its best checkpoint, chosen on the same questions, against the majority class.

    The standard error is that of independent judgements; those of one response are not, so it is a lower bound.
    """
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    truth = {"accuracy": "the true labels", "accuracy_noisy": "the annotators' labels"}[kind]
    sentences = []
    for (task, setting), rows in checkpoints.fillna({"setting": ""}).groupby(["task", "setting"], sort=False):
        best = rows.sort_values(kind).iloc[-1]
        gap = float(best[kind]) - float(best["majority"])
        error = float(np.sqrt(best[kind] * (1 - best[kind]) / best["segments"]))
        verdict = "beats" if gap > 0 else "does not beat"
        name = f"{task} ({setting})" if setting else task
        sentences.append(
            f"{name}: the best checkpoint (step {best['step']:.0f}) agrees with {truth} on {best[kind]:.1%} of "
            f"{best['segments']:.0f} held-out judgements and {verdict} the constant answer's {best['majority']:.1%} "
            f"({gap:+.1%}; one standard error is {error:.1%})."
        )
    return sentences


def with_curves(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The summary with :data:`VALIDATION`, and with the LM performance at matched KL.

    Matched: for each task and policy, at the KL that all but :data:`MATCHED_SHARE` of its runs reach (``kl_matched``), by
    linear interpolation along √KL between a run's evaluations on test questions; a run that stayed nearer counts as it ended.
    KL estimates of single rollouts are noisy, so an evaluation takes the mean over its own and the neighbouring updates.
    """
    table = summary.copy()
    for column in LATER:
        if column not in table:
            table[column] = np.nan
    logged = {run: _evaluated(curve) for run, curve in curves.groupby("id") if run in set(table["id"])}
    table[VALIDATION] = [
        float(logged[run]["lm_performance"].iloc[-1]) if run in logged and len(logged[run]) else np.nan for run in table["id"]
    ]
    for _, rows in table[usable(table)].groupby(["task", "policy"]):
        paths = {run: logged[run] for run in rows["id"] if run in logged and "test_lm_performance" in logged[run]}
        if paths:
            target = float(np.quantile([path["distance"].max() for path in paths.values()], MATCHED_SHARE))
            known = table["id"].isin(paths) & table.index.isin(rows.index)
            table.loc[known, "kl_matched"] = target**2
            table.loc[known, "lm_performance_matched"] = [_at(paths[run], target) for run in table.loc[known, "id"]]
    return table


def _evaluated(curve: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of a run, with its ``distance`` √KL there."""
    smooth = curve["kl"].rolling(3, center=True, min_periods=1).mean().where(curve["update"] > 0, 0.0)
    return curve.assign(distance=np.sqrt(smooth.clip(lower=0.0))).dropna(subset=["lm_performance"])


def _at(path: pd.DataFrame, target: float) -> float:
    """LM performance where the path first gets ``target`` far."""
    distance, score = path["distance"].to_numpy(), path["test_lm_performance"].to_numpy(dtype=float)
    beyond = np.flatnonzero(distance >= target)
    if not len(beyond) or beyond[0] == 0:
        return float(score[0] if len(beyond) else score[-1])
    after = beyond[0]
    share = (target - distance[after - 1]) / (distance[after] - distance[after - 1])
    return float(score[after - 1] + share * (score[after] - score[after - 1]))


def usable(summary: pd.DataFrame, reading: Reading = "as measured") -> pd.Series:
    """Which runs have an outcome to count (boolean, one a row)."""
    return summary["status"].isin(("ok", "diverged")) & np.isfinite(summary[READINGS[reading]].astype(float))


def run_counts(summary: pd.DataFrame) -> str:
    """How the study's runs ended, in words."""
    runs = summary.drop_duplicates("id")
    counts = Counter(runs["status"])
    kept = int((usable(runs) & (runs["status"] == "diverged")).sum())
    words = {
        "diverged": f"{counts['diverged']} diverged ({kept} with a performance at its end, which counts)",
        "failed": f"{counts['failed']} failed",
        "blocked": f"{counts['blocked']} not started",
        "running": f"{counts['running']} still running",
    }
    lost = [text for status, text in words.items() if counts[status]]
    return f"{counts['ok']} of {count(len(runs), 'PPO run')} finished" + (f"; {', '.join(lost)}" if lost else "") + "."


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{n} {one if n == 1 else many or one + 's'}"


# --- reward models and trajectories ------------------------------------------------------------------------------------------


def accuracy_kind(runs: pd.DataFrame) -> str:
    """The column that says how accurate reward models are: against clean labels where there are any."""
    return "rm_accuracy" if runs["rm_accuracy"].notna().any() else "rm_accuracy_noisy"


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
    outcome = runs.assign(outcome=runs[column or READINGS[reading]].where(usable(runs, reading)))
    outcome = outcome.assign(model=list(zip(outcome["setting"], outcome["rm_step"].fillna(-1), strict=True)))
    for rm_seed, own in models.groupby("rm_seed"):
        own = own.sort_values(["accuracy", "rm_step"], ascending=False)
        table = outcome[outcome["rm_seed"] == rm_seed].pivot_table(
            index="model", columns="ppo_seed", values="outcome", aggfunc="mean"
        )
        keys = list(zip(own["setting"], own["rm_step"].fillna(-1), strict=True))
        paired = table.reindex(pd.Index(keys, tupleize_cols=False))
        difference = (paired - paired.iloc[0]).mean(axis=1).to_numpy()
        if len(own) == planned and own["accuracy"].notna().all() and np.isfinite(difference).all():
            rows[rm_seed] = difference
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(planned))


# --- comparisons -------------------------------------------------------------------------------------------------------------


def families(summary: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """The runs of each task, policy and arm in which accuracies differ within a trajectory, in the order of :data:`TASKS`."""
    groups = summary[summary["rm_seed"].notna()].groupby(["arm", "policy", "task"], sort=False)
    found = [((task, policy, arm), runs) for (arm, policy, task), runs in groups if _levels(runs) > 1]
    arms = list(dict.fromkeys(arm for (_, _, arm), _ in found))
    return sorted(found, key=lambda family: (arms.index(family[0][2]), TASKS.index(family[0][0])))


def main_arms(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs that the study's verdict is about: without known truths and ablations, which have their own pages."""
    return summary[~summary["arm"].str.startswith(("known-", "ablation-"))]


def _levels(runs: pd.DataFrame) -> int:
    models = runs.assign(rm_step=runs["rm_step"].fillna(-1)).groupby("rm_seed")[["setting", "rm_step"]]
    return int(models.apply(lambda own: len(own.drop_duplicates())).max())


def compare(
    families: Sequence[tuple[tuple[str, str, str], pd.DataFrame]],
    reading: Reading = "as measured",
    *,
    smallest: float,
    margin: float,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The comparison of one family, or of several pooled: trajectories of all of them together, each a unit of inference.

    Pooled, accuracies are put on the range of their family (0 the least, 1 the most accurate of it), and trajectories of
    different tasks are different ones.
    """
    parts = [_part(key, runs, reading) for key, runs in families]
    (task, policy, arm), one = families[0][0], len(families) == 1
    widths = {part.difference.shape[1] for part in parts if len(part.difference)}
    joined = selecting = pd.DataFrame()
    if len(widths) == 1:  # policies that share a reward model are one unit
        joined = pd.concat([part.difference for part in parts]).groupby(level=0).mean()
        selecting = pd.concat([part.selecting for part in parts]).groupby(level=0).mean()
    known = pd.concat([part.known for part in parts])
    runs = pd.concat([runs for _, runs in families])
    kind = accuracy_kind(runs)
    if not one:
        known = known.assign(accuracy=known.groupby("family")["accuracy"].transform(_on_range))
    counted = known[known["cluster"].isin(joined.index)] if len(joined) else known
    tick = ACCURACY_RESOLUTION if one else 1e-9
    distinct = (counted["accuracy"] / tick).round().groupby([counted["family"], counted["cluster"]]).nunique()
    correlation = statistics.spearman(known["accuracy"], known["performance"], known["cluster"], resamples=resamples, seed=seed)
    groups = [group.sort_values(["accuracy", "rm_step"], ascending=False) for _, group in known.groupby(["family", "cluster"])]
    top = pd.DataFrame([group.iloc[0] for group in groups], columns=known.columns)
    best = pd.DataFrame([group.iloc[int(group["performance"].argmax())] for group in groups], columns=known.columns)
    afterwards = [statistics.regret(group["accuracy"], group["performance"]) for group in groups]
    start = {"true return": "true_return_start", "sampled": "sampled_lm_performance_start"}.get(reading, "lm_performance_start")
    return Comparison(
        task=task if one else ALL,
        policy=policy if one else ", ".join(dict.fromkeys(key[1] for key, _ in families)),
        arm=arm,
        planned=sum(part.planned for part in parts),
        reward_models=len(known),
        accuracies=int(distinct.min()) if len(distinct) else 0,
        rm_seeds=len(joined),
        lost=sum(part.lost for part in parts),
        ppo_seeds=int(runs.loc[usable(runs, reading), "ppo_seed"].nunique()),
        accuracy_kind=kind,
        majority=float(runs["rm_majority"].mean()) if one else float("nan"),
        start=float(runs[start].astype(float).mean()) if start in runs else float("nan"),
        spearman=correlation.estimate,
        spearman_low=correlation.low,
        spearman_high=correlation.high,
        accuracy_top=float(top["accuracy"].mean()),
        performance_top=float(top["performance"].mean()),
        step_top=_steps(top["rm_step"]),
        accuracy_best=float(best["accuracy"].mean()),
        performance_best=float(best["performance"].mean()),
        step_best=_steps(best["rm_step"]),
        regret_after_the_fact=float(np.mean(afterwards or [np.nan])),
        **_regrets(joined, selecting, smallest, margin),
        **_shapes(known, one),
    )


@dataclass(frozen=True)
class _Part:
    difference: pd.DataFrame
    selecting: pd.DataFrame
    known: pd.DataFrame
    planned: int
    lost: int


def _part(key: tuple[str, str, str], runs: pd.DataFrame, reading: Reading) -> _Part:
    """Contrasts and reward models of one family, its trajectories labelled by task and seed."""
    models = reward_models(runs, reading)
    difference = contrasts(runs, reading)
    validated = contrasts(runs, reading, VALIDATION)
    selecting = validated if validated.index.equals(difference.index) and validated.shape == difference.shape else difference
    label = {seed: f"{key[0]} {seed:g}" for seed in models["rm_seed"].unique()}
    known = models.dropna(subset=["accuracy", "performance"]).assign(family=" ".join(key))
    known = known.assign(cluster=known["rm_seed"].map(label))
    lost = models["rm_seed"].nunique() - len(difference)
    return _Part(difference.rename(index=label), selecting.rename(index=label), known, len(models), lost)


def _on_range(values: pd.Series) -> pd.Series:
    return (values - values.min()) / (values.max() - values.min()) if np.ptp(values) else values * 0.0


def _regrets(joined: pd.DataFrame, selecting: pd.DataFrame, smallest: float, margin: float) -> dict[str, float]:
    names = ("regret", "low", "high", "p_above", "p_below", "chosen", "chosen_low", "chosen_high")
    if len(joined) < 2:
        return dict.fromkeys(names, float("nan"))
    fitted = statistics.cross_fitted_regret(joined, margin=smallest, selecting=selecting)
    below = statistics.cross_fitted_regret(joined, margin=margin, selecting=selecting).p_below
    own = joined.to_numpy()[np.arange(len(joined)), selecting.to_numpy().argmax(axis=1)]
    chosen = statistics.mean_interval(own)
    values = (fitted.interval.estimate, fitted.interval.low, fitted.interval.high, fitted.p_above, below)
    return dict(zip(names, (*values, chosen.estimate, chosen.low, chosen.high), strict=True))


def _shapes(known: pd.DataFrame, one: bool) -> dict[str, float | bool]:
    names = ("breakpoint", "first_slope", "second_slope", "p_two_lines", "turning_point", "turning_low", "turning_high")
    nothing = dict.fromkeys((*names, "p_quadratic"), float("nan")) | {"turns_inside": False}
    if known["cluster"].nunique() < 3 or known["accuracy"].nunique() < 5:
        return nothing
    strata: Sequence[Hashable] | None = None if one else list(known["family"])
    lines = shapes.two_lines(known["accuracy"], known["performance"], known["cluster"], strata=strata)
    curve = shapes.quadratic(known["accuracy"], known["performance"], known["cluster"], strata=strata)
    values = (lines.breakpoint, lines.first.estimate, lines.second.estimate, lines.p_supported)
    values += (curve.turning_point, curve.turning_low, curve.turning_high)
    return dict(zip(names, values, strict=True)) | {"p_quadratic": curve.p_supported, "turns_inside": bool(curve.turns_inside)}


def _steps(steps: pd.Series) -> str:
    return ", ".join(f"{step:.0f}" for step in sorted(set(steps.dropna())))
