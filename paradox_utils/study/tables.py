"""What the runs of a study have come to: their states, ``summary.csv`` and ``curves.csv``."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paradox_utils import files
from paradox_utils.results import KILLED, NEED_FAILED, STATUSES
from paradox_utils.study import plan
from paradox_utils.study.plan import Run, describe

if TYPE_CHECKING:
    import pandas as pd

RECORDED = "results/recorded"
WHEN = ("start", "final")
TABLES = ("summary", "curves", "reward_models", "questions", "best_of_n")
OF_RUNS = {"curve": "curves", "questions": "questions", "best_of_n": "best_of_n"}  # a PPO run's tables, and a study's
MEASURES = (
    *("rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1", "rm_calibration_error"),
    *(f"probe_{name}" for name in ("accuracy", "variance", "variance_raw", "margin", "length_correlation", "padding")),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "true_return_best"),
    *(
        f"{name}_{when}"
        for name in ("greedy_length", "greedy_segments", "unfinished", "distinct_2", "rouge_l")
        for when in WHEN
    ),
    *(f"sampled_{name}_{when}" for name in ("lm_performance", "true_return", "length", "segments") for when in WHEN),
    *(f"sampled_{name}_{when}" for name in ("distinct_2", "rouge_l") for when in WHEN),
    *("kl_final", "updates", "truncated_prompts", "truncated_evaluation_prompts", "truncated_rm_inputs"),
)


def folders(name: str, run: Run) -> tuple[Path, Path]:
    """A run's work folder (models, logs, lock) and its result folder."""
    return files.resolve(plan.work_folder(name, run.id)), files.resolve(plan.results_folder(name)) / run.id


def finished(name: str, run: Run) -> bool:
    """Whether the run has a result (ok or diverged)."""
    return (folders(name, run)[1] / "run.json").is_file()


def progress(name: str, runs: list[Run]) -> str:
    """How many runs of the study are over, failed ones included, as ``[ 7/21]``."""
    over = sum(finished(name, run) or (folders(name, run)[0] / "failure.json").is_file() for run in runs)
    return f"[{over:>{len(str(len(runs)))}}/{len(runs)}]"


def headline(record: dict[str, Any]) -> str:
    """The numbers of a run that a progress line has room for."""
    results = record["results"]
    if record["stage"] == "ppo":
        name, values = "LM performance", [results.get("lm_performance_start"), results.get("lm_performance_final")]
    elif record["stage"] == "reward_model" and results.get("checkpoints"):
        ends = [results["checkpoints"][0], results["checkpoints"][-1]]
        name, values = "accuracy", [c.get("accuracy_noisy") if c.get("accuracy") is None else c["accuracy"] for c in ends]
    else:
        return record["reason"]
    numbers = " → ".join("–" if value is None else f"{value:.2f}" for value in values)
    return ", ".join(filter(None, [record["reason"], f"{name} {numbers}"]))


def states(name: str, runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Id → record of the run; one without a result gets status failed, running or blocked, and the reason."""
    known: dict[str, dict[str, Any]] = {}
    by_id = {run.id: run for run in runs}
    for run in runs:
        work, result = folders(name, run)
        stuck = next((need for need in run.needs if known[need]["status"] not in STATUSES), None)
        if (result / "run.json").is_file():
            known[run.id] = _read(result / "run.json")
        elif stuck:
            root = known[stuck].get("blocked_by", stuck)
            failed = known[root]["status"] == "failed" and not known[root]["reason"].startswith(KILLED)
            reason = f"needs {root} ({describe(by_id[root])})" + (f", {NEED_FAILED}" if failed else "")
            known[run.id] = {"status": "blocked", "reason": reason, "blocked_by": root}
        elif (work / "failure.json").is_file():
            known[run.id] = _read(work / "failure.json")
        elif (work / "started").is_file() and files.held(work / "lock"):
            known[run.id] = {"status": "running", "reason": "a job is still at it; call again when it has ended"}
        elif (work / "started").is_file():
            known[run.id] = {"status": "failed", "reason": f"{KILLED}; see {work.relative_to(files.ROOT) / 'log.txt'}"}
        else:
            known[run.id] = {"status": "blocked", "reason": "was not started"}
    return known


def _read(path: Path) -> dict[str, Any]:
    """A run's record; a damaged one (it is written in one step) counts as a failure."""
    try:
        return files.read_json(path)
    except files.FileError as error:
        return {"status": "failed", "reason": str(error)}


def record(name: str, runs: list[Run]) -> Path:
    """Copy the tables of a study, and what made them, to ``results/recorded``: what the book and the history keep."""
    import pandas as pd  # half a second, which `run` need not pay

    source, target = files.resolve(plan.results_folder(name)), files.resolve(RECORDED) / name
    target.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        text = (source / f"{table}.csv").read_text(encoding="utf-8")
        if table == "curves":  # by far the largest: packed, its numbers to six digits
            rounded = pd.read_csv(io.StringIO(text), dtype={"id": str}).to_csv(index=False, float_format="%.6g")
            (target / "curves.csv.gz").write_bytes(gzip.compress(rounded.encode(), mtime=0))
        else:
            files.write_text(target / f"{table}.csv", text)
    made = [state for state in states(name, runs).values() if state["status"] in STATUSES]
    keys = ("id", "stage", "labels", "seconds", "device", "threads", "versions", "platform", "code_hash", "data_hash")
    files.write_json(target / "provenance.json", {"study": name, "runs": [{key: state[key] for key in keys} for state in made]})
    return target


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """Every column, in the order of first appearance (an empty table keeps the one it is looked up by)."""
    return list(dict.fromkeys(key for row in rows for key in row)) or ["task"]


def write(name: str, runs: list[Run]) -> tuple[pd.DataFrame, list[str]]:
    """Write ``summary.csv`` (a row a PPO run and arm that asks for it, in the order of the plan), ``curves.csv`` (a row an
    update), ``reward_models.csv`` (a row a checkpoint), ``questions.csv`` (the scores of every test question, a row an
    evaluation) and ``best_of_n.csv`` (a row a number of responses); returns the first, and a line a problem."""
    import pandas as pd  # half a second, which `run` need not pay

    folder = files.resolve(plan.results_folder(name))
    folder.mkdir(parents=True, exist_ok=True)
    known = states(name, runs)
    rows, checkpoints = [], []
    parts: dict[str, list[pd.DataFrame]] = {file: [] for file in OF_RUNS}
    for run in runs:
        record = known[run.id]
        if run.stage == "reward_model":
            named = {"study": name, "id": run.id, **{key: run.labels[key] for key in ("task", "route", "setting", "rm_seed")}}
            checkpoints += [named | checkpoint for checkpoint in record.get("results", {}).get("checkpoints", [])]
        if run.stage != "ppo":
            continue
        results = record.get("results", {})
        measured = {measure: results.get(measure) for measure in MEASURES}
        measured |= {key: record.get(key) for key in ("seconds", "status", "reason")}
        rows += [{"study": name, "id": run.id, **labels} | measured for labels in run.all_labels]
        for file, tables in parts.items():
            path = folders(name, run)[1] / f"{file}.csv"
            if record["status"] in STATUSES and path.is_file():
                values = pd.read_csv(path)
                values.insert(0, "id", run.id)
                tables.append(values)
    table = pd.DataFrame(rows, dtype=object)  # object: a step stays 80, not 80.0, beside a dial's missing one
    tables = {
        "summary": table,
        **{OF_RUNS[file]: pd.concat(tables or [pd.DataFrame(columns=["id"])]) for file, tables in parts.items()},
        "reward_models": pd.DataFrame(checkpoints, columns=_names(checkpoints)),
    }
    for file, content in tables.items():
        files.write_table(folder / f"{file}.csv", content)
    failed = [run for run in runs if known[run.id]["status"] == "failed"]
    problems = [f"  failed: {describe(run)} ({run.id}): {known[run.id]['reason']}" for run in failed]
    blocked = Counter(record["reason"] for record in known.values() if record["status"] == "blocked")
    problems += [f"  running: {describe(run)} ({run.id})" for run in runs if known[run.id]["status"] == "running"]
    return table, problems + [f"  blocked: {number} × {reason}" for reason, number in blocked.items()]
