"""What the runs of a study say together: tables from its folder, and the measures its verdict rests on.

Reads ``summary.csv`` (one row a PPO run and arm, failed ones included) and ``curves.csv``; imports no torch. The rule that
turns measures into a verdict stands in :mod:`paradox_utils.analysis.verdict`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paradox_utils import files
from paradox_utils.analysis import statistics
from paradox_utils.data.tasks import TASKS

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

LABELS = ("study", "id", "task", "policy", "route", "setting", "status", "reason", "ended")
NUMBERS = (
    *("rm_step", "rm_seed", "ppo_seed", "rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "seconds"),
)
LEAST = 2  # segments that the brevity-robust reading takes an answer to have at least, where segments are judged
STATUSES = ("ok", "diverged", "failed", "blocked", "running")
LATER = (
    *READINGS.values(),
    *SELECTING.values(),
    VALIDATION,
    "rm_error_share",
    "kl_matched",
    "matched_early",
    "probe_padding",
)  # else empty
AGAIN = "run the study (make study CONFIG=configs/NAME.yaml) or name another folder"


class AnalysisError(files.FileError):
    """A results folder that cannot be analysed; the message says what is wrong and what to do."""


# --- tables -------------------------------------------------------------------------------------------------------------------


def read_table(
    path: Path, needed: Sequence[str] = (), text: Sequence[str] = (), numbers: Sequence[str] | None = None, way_out: str = AGAIN
) -> pd.DataFrame:
    """A CSV table, packed or not: every reader's door.

    ``needed``: columns it must have (one without rows is given them); ``text``: columns read as text; ``numbers``: those that
    must hold numbers or nothing, by default all that are not text. Raises :class:`AnalysisError` naming file, column and row,
    :class:`files.FileError` for a file that is not there or cannot be read.
    """
    content = files.read_text(path, way_out)
    head, *rows = content.rstrip("\n").split("\n")
    if separator := next((mark for mark in ";\t|" if mark in head and "," not in head), ""):
        raise AnalysisError(f"{path}: its columns are separated by {separator!r}; save it with commas, or {way_out}")
    try:
        table = pd.read_csv(io.StringIO(content), dtype=dict.fromkeys(text, str))
    except ValueError as error:  # what pandas says of a file that is no table
        raise AnalysisError(f"{path}: is no table ({' '.join(str(error).split())}); {way_out}") from error
    absent = [column for column in needed if column not in table]
    if table.empty:
        return table.reindex(columns=[*table, *absent]).astype({column: str for column in absent if column in text})
    if absent:
        names = ", ".join(absent[:5]) + (f" and {count(len(absent) - 5, 'other column')}" if len(absent) > 5 else "")
        raise AnalysisError(f"{path}: lacks {names}; it is another table, or another version's: {way_out}")
    if not isinstance(table.index, pd.RangeIndex) or (rows and content[-1] != "\n" and rows[-1].count(",") < head.count(",")):
        raise AnalysisError(f"{path}: rows and header differ in their number of fields; copy it again, or {way_out}")
    for column in table.columns.difference(text) if numbers is None else table.columns.intersection(numbers):
        wrong = pd.to_numeric(table[column], errors="coerce").isna() & table[column].notna()
        _refuse(path, table, column, wrong, "must be a number", way_out)
    return table


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, problem: str, way_out: str = AGAIN) -> None:
    """Raise :class:`AnalysisError` for the first row where the column is ``wrong``."""
    for row, value in table.loc[wrong, column].items():
        raise AnalysisError(f"{path}: {column} = {value!r} (row {row + 1}): {problem}; mend it, or {way_out}")


def load_summary(folder: Path | str) -> pd.DataFrame:
    """The study's ``summary.csv``, one row a PPO run and arm, with what its other tables add: :func:`with_curves`,
    ``best_of_n``, ``lm_performance_floored`` and ``rm_error_share``.

    Raises as :func:`read_table`, and where there is nothing to analyse.
    """
    path = Path(folder) / "summary.csv"
    table = read_table(path, (*LABELS, *NUMBERS), (*LABELS, "arm"))
    for column in NUMBERS:
        _refuse(path, table, column, np.isinf(table[column].astype(float)), "must be finite")
    _refuse(path, table, "id", table.duplicated(), "this row stands twice")
    table["ended"] = table["ended"].str.lower()  # spreadsheets shout
    for column, allowed in {"task": tuple(TASKS), "status": STATUSES, "ended": ("true", "false")}.items():
        _refuse(path, table, column, ~table[column].isin(allowed), f"must be one of {', '.join(allowed)}")
    table["ended"] = table["ended"] == "true"
    for column in ("setting", "reason"):
        table[column] = table[column].fillna("")
    if "arm" not in table:  # before arms had names
        table["arm"] = table["route"]
    table = with_curves(table, load_curves(folder))
    best = load_best_of_n(folder)
    if len(best):
        table["best_of_n"] = table["id"].map(best.sort_values("n").groupby("id")["lm_performance"].last())
    table[READINGS["brevity-robust"]] = _floored(table, load_questions(folder))
    table["rm_error_share"] = table["rm_error_share"].fillna(table["id"].map(_error_shares(folder)))  # of studies of before
    if not usable(table).any():
        counts = ", ".join(f"{n} {status}" for status, n in Counter(table["status"]).items()) or "no rows"
        raise AnalysisError(f"{path}: no finished run ({counts}); see its column `reason`, then {AGAIN}")
    return table


def _load(
    folder: Path | str,
    name: str,
    columns: Sequence[str],
    text: Sequence[str] = (),
    numbers: Sequence[str] | None = None,
    asked: Sequence[str] = (),
) -> pd.DataFrame:
    """A table of the study (recorded ones may be packed) with an ``id`` and ``columns``; empty where there is none.

    Raises as :func:`read_table`, and where there is none but columns of it are ``asked`` for.
    """
    path = next((path for end in ("csv", "csv.gz") if (path := Path(folder) / f"{name}.{end}").is_file()), None)
    columns = ["id", *columns, *asked]
    table = pd.DataFrame(columns=columns) if path is None else read_table(path, columns, ("id", *text), numbers)
    if asked and table.empty:
        raise AnalysisError(f"{folder}: holds no {name}.csv with {', '.join(asked)}; {AGAIN}")
    return table


def load_curves(folder: Path | str, *asked: str) -> pd.DataFrame:
    """The study's ``curves.csv``, one row an update; where it has none, empty, or refused if columns are ``asked`` for."""
    table = _load(folder, "curves", ("update", "kl", "lm_performance"), asked=asked)
    # a control, which has nothing to agree with the truth in, once left infinity for its agreement
    return table.replace([np.inf, -np.inf], np.nan)


BEST_OF_N = ("n", "kl", "reward", "true_return", "lm_performance")


def load_best_of_n(folder: Path | str) -> pd.DataFrame:
    """The study's ``best_of_n.csv``, one row a run and number of responses; empty where it has none."""
    return _load(folder, "best_of_n", ("n", "kl", "lm_performance"))


def load_parameters(folder: Path | str, *asked: str) -> pd.DataFrame:
    """The study's ``parameters.csv``: every resolved parameter of each PPO run, by run id; where it has none, empty, or refused
    if columns are ``asked`` for."""
    return _load(folder, "parameters", (), numbers=("learning_rate", "kl_coefficient"), asked=asked).set_index("id")


PAIRS = ("right", "compared", "alike_right", "alike_compared", "near_right", "near_compared")


def load_picks(folder: Path | str) -> pd.DataFrame:
    """The study's ``picks.csv``, one row a checkpoint and judged question; empty where it has none."""
    columns = ("question", "part", "step", "pick", "average_precision", "length_correlation", *PAIRS)
    return _load(folder, "picks", columns, columns[:2])


def load_sets(folder: Path | str) -> pd.DataFrame:
    """The study's ``sets.csv``, one row a judged question; empty where it has none."""
    columns = ("question", "part", "responses", "good", "between", "longest", "place", "copies", "regraded", "same")
    return _load(folder, "sets", columns, columns[:2])


def load_checkpoints(folder: Path | str) -> pd.DataFrame:
    """The study's ``reward_models.csv``, one row a checkpoint; raises as :func:`read_table`."""
    numbers = ("rm_seed", "step", "accuracy", "accuracy_noisy", "majority", "segments")
    text = ("id", "task", "route", "setting")
    return read_table(Path(folder) / "reward_models.csv", (*text, *numbers), (*text, "study", "arm"))


def _floored(summary: pd.DataFrame, questions: pd.DataFrame) -> list[float]:
    """LM performance of each run with every answer taken to have at least :data:`LEAST` segments (a whole answer is one)."""
    shares = {}
    for run, task in set(zip(summary["id"], summary["task"], strict=True)):
        if run in questions.index:
            good, segments = scores(questions, [run])
            shares[run] = float(good.sum() / segments.clip(1 if TASKS[task].pairwise else LEAST).sum())
    return [shares.get(run, float("nan")) for run in summary["id"]]


def _error_shares(folder: Path | str) -> dict[str, float]:
    """By run id, the share of held-out segments that its reward model calls errors: of the checkpoint its path names."""
    models = _load(folder, "reward_models", ("step",), numbers=("step", "error_share"))
    models = models.reindex(columns=["id", "step", "error_share"])  # those of before have no such share
    shares = {(row.id, f"checkpoint-{row.step:g}"): row.error_share for row in models.itertuples()}
    paths = load_parameters(folder).reindex(columns=["reward_model"])["reward_model"].dropna()
    return {run: shares.get(Path(path).parts[-2:], float("nan")) for run, path in paths.items()}


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
    logged = {run: _evaluated(curve) for run, curve in curves.groupby("id") if run in set(table["id"])}
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


def _evaluated(curve: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of a run, with its ``distance`` √KL there."""
    smooth = curve["kl"].rolling(3, center=True, min_periods=1).mean().where(curve["update"] > 0, 0.0)
    return curve.assign(distance=np.sqrt(smooth.clip(lower=0.0))).dropna(subset=["lm_performance"])


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


def listed(names: Sequence[str]) -> str:
    """Names in a row: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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


# --- views of a study ---------------------------------------------------------------------------------------------------------


def main_arms(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs that the study's verdict is about: without known truths and ablations, which have their own pages."""
    return summary[_main(summary)]


def steps(summary: pd.DataFrame) -> pd.DataFrame:
    """The runs against checkpoints of one training: the arm ``steps``, or all main arms of that route if none is called so."""
    return _called(summary, "steps")


def primary(summary: pd.DataFrame) -> pd.DataFrame:
    """:func:`steps` with the controls of set accuracy beside it: what the main figure shows."""
    return _called(summary, "steps", "exact", "dial")


def measured(summary: pd.DataFrame) -> pd.Series:
    """Which runs have both an accuracy and an outcome (boolean, one a row)."""
    return usable(summary) & summary[accuracy_kind(summary)].notna()


def _main(summary: pd.DataFrame) -> pd.Series:
    return ~summary["arm"].str.startswith(("known-", "ablation-"))


def _called(summary: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The arms of these names; in a study that gave names of its own instead of ``steps``, the main arms of such routes."""
    own = (summary["arm"] == "steps").any()
    return summary[summary["arm"].isin(names) if own else _main(summary) & summary["route"].isin(names)]


# --- scores of single test questions ------------------------------------------------------------------------------------------


def load_questions(folder: Path | str) -> pd.DataFrame:
    """The rows of a study's ``questions.csv`` after the last update, by run id; empty where there is none."""
    columns = ("when", "good", "segments")
    table = _load(folder, "questions", columns, columns)
    return table[table["when"] == "final"].drop_duplicates("id").set_index("id")[["good", "segments"]]


def scores(table: pd.DataFrame, runs: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Good segments and segments of every test question, [runs, questions]; all runs have the same questions.

    Raises :class:`AnalysisError` for a run that the table lacks, and for scores that are no numbers, or not of one length.
    """
    if lost := [run for run in runs if run not in table.index]:
        raise AnalysisError(f"questions.csv: lacks the run {lost[0]}; {AGAIN}")
    try:
        good, segments = (
            np.array([table.loc[run, name].split() for run in runs], dtype=float) for name in ("good", "segments")
        )
    except (ValueError, AttributeError) as error:  # words, lists of several lengths, an empty field
        raise AnalysisError(f"questions.csv: good, segments: must be numbers, as many in every run; {AGAIN}") from error
    return good, segments


def question_interval(
    table: pd.DataFrame, runs: Sequence[str], clusters: Sequence[object], *, resamples: int, seed: int
) -> statistics.Interval:
    """LM performance of some runs of a task (the pooled share of good segments of each, averaged), with an interval that
    resamples trajectories (``clusters``, one a run) and questions; NaN bounds for a single trajectory."""
    good, segments = scores(table, runs)
    return statistics.two_way_bootstrap(
        good / segments, clusters, weights=segments, resamples=resamples, seed=seed, bounds=(0.0, 1.0)
    )
