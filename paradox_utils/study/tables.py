"""What the runs of a study have come to: their states, ``summary.csv``, ``curves.csv`` and its other tables."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paradox_utils import files
from paradox_utils.results import STATUSES
from paradox_utils.study import plan
from paradox_utils.study.plan import Run, describe

if TYPE_CHECKING:
    import pandas as pd

RECORDED = "results/recorded"
KILLED = (
    "killed: its job ended without a word (killed, out of memory, or its disk too full to say why); "
    "the next call goes on from its last state"
)
TABLES = ("summary", "curves", "reward_models", "questions", "responses", "best_of_n", "parameters", "gap", "picks", "sets")
PACKED = ("curves", "questions", "responses", "parameters", "gap", "picks", "sets")  # where they are recorded: the largest
OPTIONAL = ("gap", "picks", "sets")  # only where people graded answers
BACKTEST = ("predictions", "agreement", "regrets", "known", "judged", "foretold")  # of a study that `choose backtest` reads
# a run's tables, and a study's
OF_RUNS = {
    "ppo": {"curve": "curves", "questions": "questions", "responses": "responses", "best_of_n": "best_of_n", "gap": "gap"},
    "reward_model": {"picks": "picks", "sets": "sets"},
}
AT_BOTH_ENDS = (
    *("greedy_length", "greedy_segments", "greedy_repetition", "unfinished", "distinct_2", "rouge_l"),
    *("sampled_lm_performance", "sampled_true_return", "sampled_length", "sampled_segments"),
    *("sampled_repetition", "sampled_distinct_2", "sampled_rouge_l"),
)
MEASURES = (
    *("rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1", "rm_calibration_error"),
    "rm_error_share",
    *(f"probe_{name}" for name in ("accuracy", "variance", "variance_raw", "margin", "length_correlation", "padding")),
    *(f"stress_{name}" for name in ("error_share", "confidence", "confidence_wrong", "length_correlation")),
    *(f"stress_{altered}_excess" for altered in ("repeated", "long", "unfinished")),
    *(f"stress_{altered}_calibration" for altered in ("plain", "repeated", "long", "unfinished")),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "true_return_best"),
    *(f"{name}_{when}" for name in AT_BOTH_ENDS for when in ("start", "final")),
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
    """Id → record of the run; one without a result gets status failed, running or blocked, and the reason.

    ``ended``: whether there is nothing to wait for. A run that was killed goes on at the next call, so neither it nor what
    needs it has ended.
    """
    known: dict[str, dict[str, Any]] = {}
    by_id = {run.id: run for run in runs}
    for run in runs:
        work, result = folders(name, run)
        stuck = next((need for need in run.needs if known[need]["status"] not in STATUSES), None)
        if (result / "run.json").is_file():
            state = _read(result / "run.json") | {"ended": True}
        elif stuck:
            root = known[stuck].get("blocked_by", stuck)
            ended = known[root]["ended"]
            reason = f"needs {root} ({describe(by_id[root])})" + (", which failed" if ended else "")
            state = {"status": "blocked", "reason": reason, "ended": ended, "blocked_by": root}
        elif (work / "failure.json").is_file():
            state = _read(work / "failure.json") | {"ended": True}
        elif (work / "started").is_file() and files.held(work / "lock"):
            state = {"status": "running", "reason": "a job is still at it; call again when it has ended", "ended": False}
        elif (work / "started").is_file():
            reason = f"{KILLED}; see {work.relative_to(files.ROOT) / 'log.txt'}"
            state = {"status": "failed", "reason": reason, "ended": False}
        else:
            state = {"status": "blocked", "reason": "was not started", "ended": False}
        known[run.id] = state
    return known


def _read(path: Path) -> dict[str, Any]:
    """A run's record; a damaged one (it is written in one step) counts as a failure."""
    try:
        return files.read_json(path)
    except files.FileError as error:
        return {"status": "failed", "reason": str(error)}


def record(name: str, runs: list[Run]) -> Path:
    """Write a study's tables and copy them, and what made them, to ``results/recorded``: what book and history keep.

    Raises :class:`FileError` for a study with a run that has not finished: its tables would replace those of one that has.
    """
    import pandas as pd  # half a second, which `run` need not pay

    known = states(name, runs)
    if first := next((run for run in runs if known[run.id]["status"] not in STATUSES), None):
        raise files.FileError(
            f"study {name}: is not finished ({describe(first)}, {first.id}: {known[first.id]['reason']}), so {RECORDED}/{name} "
            "stays as it is; run the study to its end first"
        )
    write(name, runs)
    source, target = files.resolve(plan.results_folder(name)), files.resolve(RECORDED) / name
    target.mkdir(parents=True, exist_ok=True)
    for table in (*TABLES, *BACKTEST):
        if not (source / f"{table}.csv").is_file():  # one of OPTIONAL, or no back-test
            continue
        text = (source / f"{table}.csv").read_text(encoding="utf-8")
        if table == "curves":  # its numbers to six digits
            text = pd.read_csv(io.StringIO(text), dtype={"id": str}).to_csv(index=False, float_format="%.6g")
        if table in PACKED:
            files.write_bytes(target / f"{table}.csv.gz", gzip.compress(text.encode(), mtime=0))
            (target / f"{table}.csv").unlink(missing_ok=True)  # recorded before it was packed: readers would take it
        else:
            files.write_text(target / f"{table}.csv", text)
    keys = ("id", "stage", "labels", "seconds", "device", "threads", "versions", "platform", "commit", "code_hash", "data_hash")
    files.write_json(
        target / "provenance.json", {"study": name, "runs": [{key: state[key] for key in keys} for state in known.values()]}
    )
    return target


def write(name: str, runs: list[Run]) -> tuple[pd.DataFrame, list[str]]:
    """Write the study's tables; returns ``summary``, and a line a problem.

    ``summary.csv`` has a row a PPO run and arm that asks for it, in the order of the plan, ``parameters.csv`` a row a PPO run,
    ``reward_models.csv`` a row a checkpoint, ``curves.csv`` a row an update, ``questions.csv`` (scores of every test
    question) a row an evaluation, ``responses.csv`` a row a response, and ``best_of_n.csv`` a row a number of responses. Where
    people graded responses, ``gap.csv`` has a row a PPO run, question and kind of answer, ``picks.csv`` a row a checkpoint and
    question, and ``sets.csv`` a row a question.
    """
    folder, known = files.resolve(plan.results_folder(name)), states(name, runs)
    folder.mkdir(parents=True, exist_ok=True)
    tables = _of_plan(name, runs, known)
    for stage in OF_RUNS:
        found = _of_runs(name, runs, known, stage)
        tables |= {table: content for table, content in found.items() if len(content) or table not in OPTIONAL}
    if "sets" in tables:  # as the first run has each
        tables["sets"] = tables["sets"].drop_duplicates("question")
    for file, content in tables.items():
        files.write_table(folder / f"{file}.csv", content)
    return tables["summary"], _problems(runs, known)


def _of_plan(name: str, runs: list[Run], known: dict[str, dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """The tables with a row for every planned PPO run, finished or not, and that of the reward models' checkpoints."""
    import pandas as pd

    rows, parameters, checkpoints = [], [], []
    for run in runs:
        state, results = known[run.id], known[run.id].get("results", {})
        if run.stage == "ppo":
            measured = {measure: results.get(measure) for measure in MEASURES}
            measured |= {key: state.get(key) for key in ("seconds", "status", "reason", "ended")}
            rows += [{"study": name, "id": run.id, **labels} | measured for labels in run.all_labels]
            parameters.append({"id": run.id} | {key: value for key, value in run.parameters.items() if key != "out"})
        if run.stage == "reward_model":
            named = {
                "study": name,
                "id": run.id,
                **{key: run.labels[key] for key in ("task", "route", "arm", "setting", "rm_seed")},
            }
            checkpoints += [named | checkpoint for checkpoint in results.get("checkpoints", [])]
    # object: a step stays 80, not 80.0, beside a dial's missing one
    found = {"summary": (rows, object), "parameters": (parameters, object), "reward_models": (checkpoints, None)}
    tables = {file: pd.DataFrame(content, dtype=dtype) for file, (content, dtype) in found.items()}
    # an empty table has a column too
    return {file: table if len(table) else pd.DataFrame(columns=["task"]) for file, table in tables.items()}


def _of_runs(name: str, runs: list[Run], known: dict[str, dict[str, Any]], stage: str) -> dict[str, pd.DataFrame]:
    """The tables that the finished runs of a stage left, put together."""
    import pandas as pd

    done = [run for run in runs if run.stage == stage and known[run.id]["status"] in STATUSES]
    tables = {}
    for file, table in OF_RUNS[stage].items():
        paths = {run.id: folders(name, run)[1] / f"{file}.csv" for run in done}
        parts = [pd.read_csv(path).assign(id=run) for run, path in paths.items() if path.is_file()]
        whole = pd.concat(parts) if parts else pd.DataFrame(columns=["id"])
        tables[table] = whole[["id", *(column for column in whole if column != "id")]]
    return tables


def _problems(runs: list[Run], known: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each run that failed or is still at work, and for each thing that others wait for."""
    told = {status: [run for run in runs if known[run.id]["status"] == status] for status in ("failed", "running")}
    problems = [f"  failed: {describe(run)} ({run.id}): {known[run.id]['reason']}" for run in told["failed"]]
    problems += [f"  running: {describe(run)} ({run.id})" for run in told["running"]]
    blocked = Counter(state["reason"] for state in known.values() if state["status"] == "blocked")
    return problems + [f"  blocked: {number} × {reason}" for reason, number in blocked.items()]
