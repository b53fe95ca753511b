"""The tables in a study's folder, read whole or refused in a sentence. Imports no torch.

``summary.csv`` has one row a PPO run and arm, failed ones included; the others add to it by run id. What counts as the outcome
of a run stands in :mod:`.outcomes`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paradox_utils import files
from paradox_utils.analysis import statistics
from paradox_utils.analysis.outcomes import LEAST, READINGS, usable, with_curves
from paradox_utils.analysis.phrases import count
from paradox_utils.data.tasks import TASKS

LABELS = ("study", "id", "task", "policy", "route", "setting", "status", "reason", "ended")
NUMBERS = (
    *("rm_step", "rm_seed", "ppo_seed", "rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "seconds"),
)
STATUSES = ("ok", "diverged", "failed", "blocked", "running")
AGAIN = "run the study (make study CONFIG=configs/NAME.yaml) or name another folder"
BOOKS = "results/recorded"  # where the studies of the book are


class AnalysisError(files.FileError):
    """A results folder that cannot be analysed; the message says what is wrong and what to do."""


def recorded(folder: str) -> bool:
    """Whether there is something to read: not where no folder is named, nor while a study of the book has yet to be recorded.
    Any other folder that is not there is for its reader to refuse."""
    path = files.resolve(folder)
    return bool(folder) and (path.is_dir() or path.parent != files.resolve(BOOKS))


# --- any table ----------------------------------------------------------------------------------------------------------------


def read_table(
    path: Path,
    needed: Sequence[str] = (),
    text: Sequence[str] = (),
    numbers: Sequence[str] | None = None,
    way_out: str = AGAIN,
    verbatim: bool = False,
) -> pd.DataFrame:
    """A CSV table, packed or not: every reader's door.

    ``needed``: columns it must have (one without rows is given them); ``text``: columns read as text; ``numbers``: those that
    must hold numbers or nothing, by default all that are not text; ``verbatim``: no word in it (an answer *None*) stands for
    nothing. Raises :class:`AnalysisError` naming file, column and row,
    :class:`files.FileError` for a file that is not there or cannot be read.
    """
    content = files.read_text(path, way_out)
    head, *rows = content.rstrip("\n").split("\n")
    if separator := next((mark for mark in ";\t|" if mark in head and "," not in head), ""):
        raise AnalysisError(f"{path}: its columns are separated by {separator!r}; save it with commas, or {way_out}")
    try:
        table = pd.read_csv(io.StringIO(content), dtype=dict.fromkeys(text, str), keep_default_na=not verbatim)
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


# --- a study's summary --------------------------------------------------------------------------------------------------------


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


# --- its other tables ---------------------------------------------------------------------------------------------------------


def _load(
    folder: Path | str,
    name: str,
    columns: Sequence[str],
    text: Sequence[str] = (),
    numbers: Sequence[str] | None = None,
    asked: Sequence[str] = (),
    verbatim: bool = False,
) -> pd.DataFrame:
    """A table of the study (recorded ones may be packed) with an ``id`` and ``columns``; empty where there is none.

    Raises as :func:`read_table`, and where there is none but columns of it are ``asked`` for.
    """
    path = next((path for end in ("csv", "csv.gz") if (path := Path(folder) / f"{name}.{end}").is_file()), None)
    columns = ["id", *columns, *asked]
    if path is None:
        table = pd.DataFrame(columns=columns)
    else:
        table = read_table(path, columns, ("id", *text), numbers, verbatim=verbatim)
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


def of_arms(summary: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The runs of these arms of a study, all of them for none; raises :class:`AnalysisError` for one that it lacks."""
    there = set(summary["arm"])
    if lost := next((arm for arm in arms if arm not in there), None):
        raise AnalysisError(
            f"arms: {lost!r} is no arm of this study; it has {', '.join(sorted(there))}; leave them out to read all"
        )
    return summary[summary["arm"].isin(arms)] if arms else summary


def load_responses(folder: Path | str) -> pd.DataFrame:
    """The study's ``responses.csv``, one row a response, where ``ends``, ``paid`` and ``judged`` are tuples, with a number
    for each segment; empty where it has none. Raises as :func:`read_table`, and where the three do not fit the text."""
    numbers, path = ("ends", "paid", "judged"), Path(folder) / "responses.csv"
    columns = ("when", "question", "text", *numbers)
    table = _load(folder, "responses", columns, columns, numbers=(), verbatim=True)
    _refuse(path, table, "when", ~table["when"].isin(("start", "final")), "must be start or final")
    _refuse(path, table, "question", table.duplicated(["id", "when", "question"]), "this answer stands twice")
    lists = {name: table[name].map(_segments) for name in numbers}
    for name, own in lists.items():
        _refuse(path, table, name, own.isna(), "must be numbers parted by spaces")
        _refuse(path, table, name, own.map(len) != lists["ends"].map(len), "must have a number for each segment")
    rise = [[*ends] == sorted({*ends}) and min(ends, default=0) >= 0 for ends in lists["ends"]]
    within = [max(ends, default=0) <= len(text) for ends, text in zip(lists["ends"], table["text"], strict=True)]
    _refuse(path, table, "ends", ~pd.Series(rise, table.index, dtype=bool), "must rise")
    _refuse(path, table, "ends", ~pd.Series(within, table.index, dtype=bool), "must lie within the text")
    return table.assign(**lists)


def _segments(numbers: str) -> tuple[float, ...] | None:
    """The numbers of a response's segments; None for what is none."""
    try:
        return tuple(float(number) for number in numbers.split())
    except ValueError:
        return None


def load_parameters(folder: Path | str, *asked: str) -> pd.DataFrame:
    """The study's ``parameters.csv``: every resolved parameter of each PPO run, by run id; where it has none, empty, or refused
    if columns are ``asked`` for."""
    return _load(folder, "parameters", (), numbers=("learning_rate", "kl_coefficient"), asked=asked).set_index("id")


PAIRS = ("right", "compared", "alike_right", "alike_compared", "near_right", "near_compared")
PICKS = ("question", "part", "step", "pick", "average_precision", "length_correlation", *PAIRS)
SETS = ("question", "part", "responses", "good", "between", "longest", "place", "copies", "regraded", "same")


def load_picks(folder: Path | str) -> pd.DataFrame:
    """The study's ``picks.csv``, one row a checkpoint and judged question; empty where it has none."""
    return _load(folder, "picks", PICKS, PICKS[:2])


KINDS = ("good", "bad", "sampled", "best", "evaluator")  # of answers: people's, the policy's, its best by either judge


def load_gap(folder: Path | str) -> pd.DataFrame:
    """The study's ``gap.csv``, one row a PPO run, question and kind of answer (:data:`KINDS`); empty where it has none."""
    table = _load(folder, "gap", ("question", "kind", "reward", "evaluator", "words"), ("question", "kind"))
    path = Path(folder) / "gap.csv"
    _refuse(path, table, "kind", ~table["kind"].isin(KINDS), f"must be one of {', '.join(KINDS)}")
    _refuse(path, table, "question", table.duplicated(["id", "question", "kind"]), "this kind of answer stands twice")
    return table


def load_sets(folder: Path | str) -> pd.DataFrame:
    """The study's ``sets.csv``, one row a judged question; empty where it has none."""
    return _load(folder, "sets", SETS, SETS[:2])


def load_checkpoints(folder: Path | str) -> pd.DataFrame:
    """The study's ``reward_models.csv``, one row a checkpoint; raises as :func:`read_table`."""
    numbers = ("rm_seed", "step", "accuracy", "accuracy_noisy", "majority", "segments")
    text = ("id", "task", "route", "setting")
    return read_table(Path(folder) / "reward_models.csv", (*text, *numbers), (*text, "study", "arm"))


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
