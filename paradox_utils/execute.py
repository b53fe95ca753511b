"""Run a study: ``python -m paradox_utils.execute study configs/quick.yaml``. Also ``plan``, ``run``, ``summary``, ``record``.

Snakemake decides what is missing and runs it side by side; papermill executes each notebook. Here are the locks, the record of
every run, and the summary, which is made in any case. A result folder appears when its run has succeeded, ``run.json`` last.

Locks. A study is locked by ``flock`` on a file whose descriptor the Snakemake process inherits, a run by ``flock`` on a file in
its work folder. The kernel drops both when their last holder dies, however it dies, so nothing is ever left to unlock;
Snakemake's own locks outlive a SIGKILL and are therefore switched off (``--nolock``).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paradox_utils import config, store, study, summary
from paradox_utils.study import Run, describe
from paradox_utils.summary import finished, folders

if TYPE_CHECKING:
    import pandas as pd

ANALYSIS = "notebooks/05-accuracy-and-performance.ipynb"


def load(path: str) -> tuple[config.Study, list[Run]]:
    """A config file's study and its runs; raises :class:`ParameterError` or :class:`StoreError`."""
    settings = config.load_study(Path(path))
    return settings, study.plan(settings, path)


def acquire(lock: IO[str]) -> bool:
    """Take the lock if nobody holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def environment(threads: int) -> dict[str, str]:
    """What every kernel gets: its share of the cores, quiet libraries, and figures that go into the notebook."""
    return {
        "PARADOX_ROOT": str(store.ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }


def say(line: str) -> None:
    """Print a line at once and whole, as several processes print side by side; a job whose terminal is gone goes on."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


# --- one run --------------------------------------------------------------------------------------------------------


def run_one(path: str, name: str) -> int:
    """Execute one run of a study unless it is finished; 0 if it is finished now, else 1 and ``failure.json`` says why."""
    settings, runs = load(path)
    run = next((run for run in runs if run.id == name), None)
    if run is None:
        say(f"{name}: not a run of {path}; its parameters, code or data have changed since the call began: call again")
        return 1
    work, result = folders(settings.study, run)
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as lock:
        if not acquire(lock):
            say(f"{describe(run)}: waits, as a job that outlived its scheduler is still at it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (result / "run.json").is_file():
            return 0
        for file in work.iterdir():
            if file.is_dir():
                shutil.rmtree(file)
            elif file.name != "lock":
                file.unlink()
        shutil.rmtree(result, ignore_errors=True)  # half published by a job that was killed, or made empty by Snakemake
        say(f"{summary.progress(settings.study, runs)} {describe(run)}: started")
        started = time.perf_counter()
        try:
            record = execute(settings.study, run, work)
            record["seconds"] = round(time.perf_counter() - started, 3)
            publish(work, result, record)
        except Exception as error:
            shutil.rmtree(result, ignore_errors=True)
            with (work / "log.txt").open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            reason = one_line(error)
            store.write_json(work / "failure.json", {"id": run.id, "status": "failed", "reason": reason})
            say(f"{summary.progress(settings.study, runs)} {describe(run)}: failed, {reason}")
            return 1
    outcome = ", ".join(filter(None, [f"{record['status']} in {record['seconds']:.0f} s", summary.headline(record)]))
    say(f"{summary.progress(settings.study, runs)} {describe(run)}: {outcome}")
    return 0


def execute(name: str, run: Run, work: Path) -> dict[str, Any]:
    """Run the notebook in ``work`` and return the record of the run; raises whatever went wrong."""
    for need in run.needs:
        if not store.resolve(study.results_folder(name)).joinpath(need, "run.json").is_file():
            raise store.StoreError(f"needs {need}, which has not finished; run the whole study")
    notebook(store.resolve(run.notebook), work / "notebook.ipynb", run.parameters, work / "log.txt")
    if not (work / "result.json").is_file():
        raise store.StoreError(f"{run.notebook} came to its end without a result: it must call run.finish(results)")
    result = store.read_result(work)
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
        "notebook": run.notebook,
        "code_hash": run.code,
        "data_hash": run.data,
        **{key: result[key] for key in ("versions", "device", "threads", "platform")},
    }


def notebook(source: Path, target: Path, parameters: dict[str, Any], log: Path) -> None:
    """Execute a notebook with papermill from the project root; what its cells print goes to ``log`` as well."""
    import papermill  # a second and more: only those who execute pay it

    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters that keep their default are injected all the same
    # Papermill writes the paths into the notebook: they must not be this machine's.
    relative = [os.path.relpath(path, store.ROOT) for path in (source, target)]
    with log.open("w", encoding="utf-8") as sink, stderr_to(sink):
        papermill.execute_notebook(
            *relative,
            parameters=parameters,
            cwd=store.ROOT,
            kernel_name="python3",  # this environment's, whatever the notebook was last saved with
            progress_bar=False,
            stdout_file=sink,
            stderr_file=sink,
        )


@contextlib.contextmanager
def stderr_to(sink: IO[str]) -> Iterator[None]:
    """Send file descriptor 2, which the kernel inherits, to ``sink``: warnings, and the last words of one that crashes."""
    saved = os.dup(2)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def publish(work: Path, result: Path, record: dict[str, Any]) -> None:
    """Put the executed notebook, the tables and, last, ``run.json`` where readers look."""
    result.mkdir(parents=True, exist_ok=True)
    for file in [work / "notebook.ipynb", *sorted(work.glob("*.csv"))]:
        shutil.copyfile(file, result / file.name)
    store.write_json(result / "run.json", record)


def one_line(error: Exception) -> str:
    """Type and message of an exception, of the cell's own one where a notebook raised it."""
    kind = getattr(error, "ename", type(error).__name__)
    return " ".join(f"{kind}: {getattr(error, 'evalue', error)}".split())[:600]


# --- a whole study --------------------------------------------------------------------------------------------------


def run_study(path: str, workers: int, threads: int, gpus: int, extra: Sequence[str] = ()) -> int:
    """Run what is missing, then summarise in any case; 0 if every run is finished, 1 if not, 130 after an interrupt."""
    os.environ.update(environment(threads))
    settings, runs = load(path)
    scheduler = store.resolve(study.work_folder(settings.study, "scheduler.lock"))
    scheduler.parent.mkdir(parents=True, exist_ok=True)
    with scheduler.open("a+") as lock:
        if not acquire(lock):
            say(f"study {settings.study}: process {scheduler.read_text()} is already running it; wait for it or stop it")
            return 1
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        forget_failures(settings.study, runs)
        remake_lost_models(settings.study, runs)
        missing = [run for run in runs if not finished(settings.study, run)]
        if not missing:
            say(f"study {settings.study}: nothing to do, all {len(runs)} runs are finished")
            return summarise(settings, runs)
        say(f"study {settings.study}: {len(missing)} of {len(runs)} runs to do, {workers} at a time, {threads} thread(s) each")
        interrupted = snakemake(path, settings.study, runs, workers, threads, gpus, extra, lock)
        code = summarise(settings, runs, analyse=not interrupted)
        return 130 if interrupted else code


def snakemake(
    path: str, name: str, runs: list[Run], workers: int, threads: int, gpus: int, extra: Sequence[str], lock: IO[str]
) -> bool:
    """Let Snakemake run what is missing; True if it was interrupted. A failed run is no error here: the summary names it."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--directory", "."]
    command += ["--cores", str(workers * threads), "--keep-going", "--rerun-incomplete", "--nolock", "--scheduler", "greedy"]
    command += ["--rerun-triggers", "input", "--resources", f"gpu={gpus}"]
    command += ["--config", f"study={path}", f"threads={threads}", f"gpus={gpus}", *extra]
    log = store.resolve(study.work_folder(name, "snakemake.log"))
    with log.open("w", encoding="utf-8") as sink:
        # stdout stays ours for the jobs' progress lines; stderr is Snakemake's own account of them
        process = subprocess.Popen(command, cwd=store.ROOT, stderr=sink, pass_fds=[lock.fileno()])
        lock.truncate(0)
        lock.write(str(process.pid))  # it holds the lock even when this process is killed
        lock.flush()
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has sent it the same signal
            say(f"study {name}: interrupted; the next call goes on from here")
            return True
    if code != 0 and not any(record["status"] == "failed" for record in summary.states(name, runs).values()):
        last = log.read_text(encoding="utf-8").strip().splitlines()[-5:]
        say("\n  ".join([f"Snakemake stopped with exit code {code} (its log: {log.relative_to(store.ROOT)}):", *last]))
    return False


def forget_failures(name: str, runs: list[Run]) -> None:
    """Failed runs are tried again; until then an old failure must not pass for today's."""
    for run in runs:
        (folders(name, run)[0] / "failure.json").unlink(missing_ok=True)


def remake_lost_models(name: str, runs: list[Run]) -> None:
    """A finished run whose work folder was deleted runs again if a run still to be done needs its models."""
    wanted: set[str] = set()
    for run in reversed(runs):  # those who need come after those needed
        work, result = folders(name, run)
        if run.id in wanted and finished(name, run) and not (work / "result.json").is_file():
            say(f"{describe(run)}: its models are gone and needed again, so it runs again")
            (result / "run.json").unlink()
        if not finished(name, run):
            wanted |= set(run.needs)


def summarise(settings: config.Study, runs: list[Run], analyse: bool = True) -> int:
    """Write the tables, print them and every failure, execute the analysis notebook; 1 if anything is missing, else 0."""
    rows, problems = summary.write(settings.study, runs)
    shown = ["task", "route", "setting", "rm_step", "rm_accuracy", "lm_performance_start", "lm_performance_final", "status"]
    say(rows[shown].fillna("").to_string(index=False, float_format="{:.3f}".format))
    complete = not analyse or analysis(settings.study, rows)
    if problems:
        open_runs = sum(not finished(settings.study, run) for run in runs)
        say("\n".join([f"study {settings.study}: {open_runs} of {len(runs)} runs are not finished", *problems]))
        say(f"  executed notebooks and logs of failures: {study.work_folder(settings.study, 'ID')}")
    say(f"summary: {study.results_folder(settings.study)}/summary.csv")
    return 0 if complete and not problems else 1


def analysis(name: str, rows: pd.DataFrame) -> bool:
    """Execute the analysis notebook on the study's tables unless its stored output is of the same code and tables."""
    source = store.resolve(ANALYSIS)
    results = store.resolve(study.results_folder(name))
    work = results / ".work"
    target, folder, stamp = results / source.name, results / "analysis", work / "analysis.json"
    if not source.is_file():
        return True
    digest = hashlib.sha256(store.code_hash(source, presentation=True).encode())
    for file in ("summary.csv", "curves.csv", "reward_models.csv"):
        digest.update((results / file).read_bytes())
    if not (stamp.is_file() and store.read_json(stamp)["key"] == digest.hexdigest() and target.is_file()):
        stamp.unlink(missing_ok=True)
        target.unlink(missing_ok=True)  # yesterday's analysis must not pass for today's
        shutil.rmtree(folder, ignore_errors=True)
        if not rows["status"].isin(store.STATUSES).any():
            say("analysis: no PPO run is finished, so there is nothing to analyse")
            return False
        say("analysis: started")
        parameters = {"results": study.results_folder(name), "out": f"{study.results_folder(name)}/analysis"}
        try:
            notebook(source, work / source.name, parameters, work / "analysis.txt")
        except Exception as error:
            say(f"analysis: failed, {one_line(error)} ({(work / source.name).relative_to(store.ROOT)})")
            return False
        (work / source.name).replace(target)
        store.write_json(stamp, {"key": digest.hexdigest()})
    say(f"analysis: {target.relative_to(store.ROOT)}")
    if (folder / "verdict.txt").is_file():
        say((folder / "verdict.txt").read_text(encoding="utf-8").rstrip())
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; every expected problem is one clear line and a non-zero exit code."""
    parser = argparse.ArgumentParser(prog="python -m paradox_utils.execute", description="Run a study and summarise it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in [
        ("study", "run what is missing, then summarise; further options go to Snakemake, such as --profile DIR"),
        ("run", "execute one run by its id"),
        ("summary", "write summary.csv and curves.csv from the runs there are"),
        ("record", "copy the study's tables and their provenance to results/recorded"),
        ("plan", "list the runs"),
    ]:
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("config", help="a file such as configs/quick.yaml")
        if command == "run":
            sub.add_argument("id")
        sub.add_argument("--threads", type=int, default=1, help="cores of one run")
        if command == "study":
            sub.add_argument("--workers", type=int, default=0, help="runs side by side; 0: as many as the cores allow")
            sub.add_argument("--gpus", type=int, default=0, help="GPUs; each run takes one, 0: runs do not wait for any")
    options, extra = parser.parse_known_args(arguments)
    if extra and options.command != "study":
        parser.error(f"unknown: {' '.join(extra)}")
    os.chdir(store.ROOT)
    try:
        if options.command == "study":
            threads = max(1, options.threads)
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = options.workers or max(1, cores // threads)
            return run_study(options.config, workers, threads, options.gpus, extra)
        os.environ.update({key: value for key, value in environment(options.threads).items() if key not in os.environ})
        if options.command == "run":
            return run_one(options.config, options.id)
        settings, runs = load(options.config)
        if options.command == "summary":
            return summarise(settings, runs)
        if options.command == "record":
            summary.write(settings.study, runs)
            say(f"recorded: {summary.record(settings.study, runs).relative_to(store.ROOT)}")
            return 0
        for run in runs:
            say(f"{run.id:<24} {'finished' if finished(settings.study, run) else 'to do':<8}  {describe(run)}")
        return 0
    except (config.ParameterError, store.StoreError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
