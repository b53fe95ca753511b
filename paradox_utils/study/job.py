"""One run of a study: its notebook executed, its result published.

papermill executes the notebook in the run's work folder. A result folder appears when its run has succeeded, ``run.json`` last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paradox_utils import files, identity, notebooks
from paradox_utils.config.study import load_study
from paradox_utils.files import say
from paradox_utils.study import machine, plan, tables
from paradox_utils.study.plan import Run, describe
from paradox_utils.study.tables import folders


def load(path: str) -> tuple[str, list[Run]]:
    """The name and the runs of a config file's study; raises :class:`config.ParameterError` or :class:`files.FileError`."""
    study = load_study(Path(path))
    return study.study, plan.plan(study, path)


def run_one(path: str, wanted: str, gpus: Sequence[str] | None = None, runs_per_gpu: int = 1) -> int:
    """Execute the run of this id unless it is finished; 0 if it is finished now, else 1 and ``failure.json`` says why.

    ``gpus``: those it may choose from; None: it sees what this process sees.
    """
    name, runs = load(path)
    run = next((run for run in runs if run.id == wanted), None)
    if run is None:
        say(f"{wanted}: not a run of {path}; its parameters, code or data have changed since the call began: call again")
        return 1
    work, result = folders(name, run)
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as lock:
        if not files.acquire(lock):
            say(f"{describe(run)}: waits, as a job that outlived its scheduler is still at it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (result / "run.json").is_file():
            return 0
        (work / "started").touch()  # empty, so that a full disk has room for it; gone once the run's end is on record
        clear(work)
        shutil.rmtree(result, ignore_errors=True)  # half published by a job that was killed, or made empty by Snakemake
        started = time.perf_counter()
        try:
            with machine.held_gpus(plan.gpus(run), gpus or (), runs_per_gpu) as own:
                if gpus is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
                say(f"{tables.progress(name, runs)} {describe(run)}: started")
                record = execute(name, run, work)
            record["seconds"] = round(time.perf_counter() - started, 3)
            publish(work, result, record)
        except Exception as error:
            shutil.rmtree(result, ignore_errors=True)
            reason = explain(error)
            try:
                files.write_json(work / "failure.json", {"id": run.id, "status": "failed", "reason": reason})
                (work / "started").unlink()
            except OSError as second:  # the mark `started` stays, from which the summary knows
                reason += f" (this could not be recorded: {second.strerror})"
            with contextlib.suppress(OSError), (work / "log.txt").open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
            say(f"{tables.progress(name, runs)} {describe(run)}: failed, {reason}")
            return 1
        shutil.rmtree(work / "resume", ignore_errors=True)
        with contextlib.suppress(OSError):  # the run is finished, whatever is left of it
            (work / "started").unlink()
    outcome = ", ".join(filter(None, [f"{record['status']} in {record['seconds']:.0f} s", tables.headline(record)]))
    say(f"{tables.progress(name, runs)} {describe(run)}: {outcome}")
    return 0


def clear(work: Path) -> None:
    """Remove what an earlier attempt left. A state to go on from, ``resume``, stays, with the folders that it may build on.

    The run's id is a hash of its parameters, code and data, so whatever lies there was made by the same.
    """
    goes_on = (work / "resume").is_dir()
    for file in work.iterdir():
        if file.is_dir():
            if not goes_on:
                shutil.rmtree(file)
        elif file.name not in ("lock", "started"):
            file.unlink()


def execute(name: str, run: Run, work: Path) -> dict[str, Any]:
    """Run the notebook in ``work`` and return the record of the run; raises whatever went wrong."""
    for need in run.needs:
        if not files.resolve(plan.results_folder(name)).joinpath(need, "run.json").is_file():
            raise files.FileError(f"needs {need}, which has not finished; run the whole study")
    notebook = plan.NOTEBOOKS[run.stage]
    commit = identity.commit()  # now: another may stand there when the run ends
    notebooks.execute(files.resolve(notebook), work / "notebook.ipynb", run.parameters, work / "log.txt")
    if not (work / "result.json").is_file():
        raise files.FileError(f"{notebook} came to its end without a result: it must call run.finish(results)")
    result = files.read_json(work / "result.json")
    return {
        "id": run.id,
        "study": name,
        "stage": run.stage,
        "status": result["status"],
        "reason": result["reason"],
        "labels": run.labels,
        "results": result["results"],
        "seconds": None,
        "stage_seconds": result["seconds"],
        "parameters": run.parameters,
        "needs": list(run.needs),
        "notebook": notebook,
        "commit": commit,
        "code": run.code,
        "code_hash": identity.total(run.code),
        "data_hash": run.data,
        **{key: result[key] for key in ("versions", "device", "threads", "platform")},
        **{key: value for key, value in result.items() if key.startswith("peak_")},
    }


def publish(work: Path, result: Path, record: dict[str, Any]) -> None:
    """Put the executed notebook, the tables and, last, ``run.json`` where readers look."""
    result.mkdir(parents=True, exist_ok=True)
    for file in [work / "notebook.ipynb", *sorted(work.glob("*.csv"))]:
        files.write_text(result / file.name, file.read_text(encoding="utf-8"))
    files.write_json(result / "run.json", record)


def explain(error: Exception) -> str:
    """Why a run failed, in one line that says what to do where that is known."""
    line = one_line(error)
    if re.search(r"No space left|Disk quota exceeded|File too large|PytorchStreamWriter failed writing", line):
        return f"the disk is full, or a limit on it is reached ({line}); free some of it and call again"
    if "DeadKernelError" in line:
        return (
            "killed: the notebook's process was killed or crashed, perhaps out of memory; "
            "the next call goes on from its last state"
        )
    return line


def one_line(error: Exception) -> str:
    """Type and message of an exception, of the cell's own one where a notebook raised it."""
    kind = getattr(error, "ename", type(error).__name__)
    return " ".join(f"{kind}: {getattr(error, 'evalue', error)}".split())[:600]
