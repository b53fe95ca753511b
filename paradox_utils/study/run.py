"""Run a study: what is missing, side by side, then the summary in any case.

Snakemake decides what is missing and runs it; each of its jobs is one run (:mod:`paradox_utils.study.job`).

Locks. A study is locked by ``flock`` on a file whose descriptor the Snakemake process inherits, a run by ``flock`` on a file in
its work folder. The kernel drops both when their last holder dies, however it dies, so nothing is ever left to unlock;
Snakemake's own locks outlive a SIGKILL and are therefore switched off (``--nolock``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from paradox_utils import files, identity, notebooks, threads
from paradox_utils.files import say
from paradox_utils.results import STATUSES
from paradox_utils.study import job, machine, plan, tables
from paradox_utils.study.job import load
from paradox_utils.study.plan import Run, describe
from paradox_utils.study.tables import finished, folders

if TYPE_CHECKING:
    import pandas as pd

ANALYSIS = "notebooks/05-accuracy-and-performance.ipynb"


def environment(number: int) -> dict[str, str]:
    """What every kernel gets: its ``number`` of threads, quiet libraries, and figures that go into the notebook."""
    return {
        "PARADOX_ROOT": str(files.ROOT),
        "OMP_NUM_THREADS": str(number),
        "MKL_NUM_THREADS": str(number),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",
        **files.caches(),
    }


@dataclass(frozen=True)
class Share:
    """How a study's runs share a machine, or a cluster.

    ``workers``: runs side by side, 0: as many as cores and memory allow. ``threads``: cores of one run, or of each of its
    processes. ``gpus``: as :func:`machine.visible_gpus` names them; a run takes one, or one for each of its processes.
    ``executor``: what Snakemake hands the runs to, such as slurm; empty: this machine.
    """

    workers: int = 0
    threads: int = 1
    gpus: tuple[str, ...] = ()
    runs_per_gpu: int = 1
    executor: str = ""


def run_study(path: str, share: Share, extra: Sequence[str] = ()) -> int:
    """Run what is missing, then summarise in any case; 0 if every run is finished, 1 if not, 130 after an interrupt."""
    os.environ.update(environment(share.threads))
    name, runs = load(path)
    scheduler = files.resolve(plan.work_folder(name, "scheduler.lock"))
    scheduler.parent.mkdir(parents=True, exist_ok=True)
    with scheduler.open("a+") as lock:
        if not files.acquire(lock):
            say(f"study {name}: process {scheduler.read_text()} is already running it; wait for it or stop it")
            return 1
        note_holder(lock, os.getpid())
        prepare(name, runs)
        missing = [run for run in runs if not finished(name, run)]
        if not missing:
            say(f"study {name}: nothing to do, all {len(runs)} runs are finished")
            return summarise(name, runs)
        need = machine.memory(name, runs)
        limits, words = shares(share, [need[run.id] for run in missing])
        say(f"study {name}: {len(missing)} of {len(runs)} runs to do, {words}")
        # a cluster's jobs are on other machines, and CUDA does not survive a fork
        with contextlib.nullcontext() if share.executor or share.gpus else notebooks.warmed():
            interrupted = snakemake(path, name, runs, share, [*limits, *extra], lock)
        code = summarise(name, runs, analyse=not interrupted)
    return 130 if interrupted else code


def note_holder(lock: IO[str], process: int) -> None:
    """Write down who holds the lock, for whoever finds it taken."""
    lock.truncate(0)
    lock.write(str(process))
    lock.flush()


def shares(share: Share, need: Sequence[int]) -> tuple[list[str], str]:
    """Snakemake's options for runs that need so many MB each, and the same in words."""
    sizes = f"{min(need)} MB" if min(need) == max(need) else f"{min(need)} to {max(need)} MB"
    each = f"{share.threads} thread(s) and {sizes} of memory each"
    if share.executor:
        return ["--jobs", str(share.workers)] if share.workers else [], f"handed to {share.executor}, {each}"
    slots = len(share.gpus) * share.runs_per_gpu
    limits = [f"gpu={slots}"] if slots else []
    if share.workers:
        cores, words = share.workers * share.threads, f"{share.workers} at a time"
    else:
        cores, free = max(threads.cores(), share.threads), machine.free_memory()
        limits.append(f"mem_mb={free}")
        fewest, most = (max(1, min(cores // share.threads, free // size, slots or cores)) for size in (max(need), min(need)))
        words = f"{most if fewest == most else f'{fewest} to {most}'} at a time ({cores} cores, {free} MB free)"
    words += f", {len(share.gpus)} GPU(s)" if slots else ""
    return ["--cores", str(cores), *(["--resources", *limits] if limits else [])], f"{words}, {each}"


def snakemake(path: str, name: str, runs: list[Run], share: Share, options: Sequence[str], lock: IO[str]) -> bool:
    """Let Snakemake run what is missing; True if it was interrupted. A failed run is no error here: the summary names it."""
    command = [sys.executable, "-m", "paradox_utils.study.scheduler", "--snakefile", "Snakefile", "--directory", "."]
    command += ["--keep-going", "--rerun-incomplete", "--nolock", "--scheduler", "greedy", "--rerun-triggers", "input"]
    command += ["--keep-incomplete"]  # a run.json is whole and stays, however its job ends afterwards
    asked = {"study": path, "threads": share.threads, "gpus": len(share.gpus)}
    settings = files.resolve(plan.work_folder(name, "snakemake.json"))  # on its command line a path would be read as YAML
    files.write_text(settings, json.dumps(asked if share.executor else asked | {"runs_per_gpu": share.runs_per_gpu}))
    command += ["--configfile", str(settings.relative_to(files.ROOT)), *options]
    own = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}  # which speaks of other workflows
    log = files.resolve(plan.work_folder(name, "snakemake.log"))
    with log.open("w", encoding="utf-8") as sink:
        # stdout stays ours for the jobs' progress lines; stderr is Snakemake's own account of them
        process = subprocess.Popen(command, cwd=files.ROOT, env=own, stderr=sink, pass_fds=[lock.fileno()])
        note_holder(lock, process.pid)  # it holds the lock even when this process is killed
        try:
            code = watch(process, name, runs) if share.executor else process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has sent it the same signal
            say(f"study {name}: interrupted; the next call goes on from here")
            return True
    if code != 0 and not any(record["status"] == "failed" for record in tables.states(name, runs).values()):
        last = log.read_text(encoding="utf-8").strip().splitlines()[-5:]
        say("\n  ".join([f"Snakemake stopped with exit code {code} (its log: {log.relative_to(files.ROOT)}):", *last]))
    return False


def watch(process: subprocess.Popen[bytes], name: str, runs: list[Run], every: float = 10.0) -> int:
    """Wait for a process; say how far the study is whenever that changes, as the lines of a cluster's jobs go to its logs."""
    told = ""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(every)
        if (now := tables.progress(name, runs)) != told:
            say(f"{now} runs are over")
            told = now


def prepare(name: str, runs: list[Run]) -> None:
    """Failed and killed runs are tried again, as are those whose record is damaged, or whose models are gone and needed."""
    needed: set[str] = set()  # by a run to do
    for run in reversed(runs):  # those who need come after those needed
        work, result = folders(name, run)
        record, why = result / "run.json", ""
        (work / "failure.json").unlink(missing_ok=True)  # an old failure must not pass for today's
        if not files.held(work / "lock"):  # else a job that outlived its scheduler is at it
            (work / "started").unlink(missing_ok=True)
        if record.is_file():
            try:
                files.read_json(record)
            except files.FileError:  # a disk's fault, or a copy cut short: it is written in one step
                why = "its record is damaged"
            if run.id in needed and not (work / "result.json").is_file():
                why = "its models are gone and needed again"
        if why:
            say(f"{describe(run)}: {why}, so it runs again")
            record.unlink()
        if not record.is_file():
            needed |= set(run.needs)


def summarise(name: str, runs: list[Run], analyse: bool = True) -> int:
    """Write the tables, print them and every failure, execute the analysis notebook; 1 if anything is missing, else 0."""
    rows, problems = tables.write(name, runs)
    shown = ["task", "route", "setting", "rm_step", "rm_accuracy", "lm_performance_start", "lm_performance_final", "status"]
    if len(rows):
        say(rows[shown].fillna("").to_string(index=False, float_format="{:.3f}".format))
    complete = not analyse or not len(rows) or analysis(name, rows)  # without a policy there is nothing to analyse
    if problems:
        open_runs = sum(not finished(name, run) for run in runs)
        say("\n".join([f"study {name}: {open_runs} of {len(runs)} runs are not finished", *problems]))
        say(f"  executed notebooks and logs of failures: {plan.work_folder(name, 'ID')}")
    say(f"summary: {plan.results_folder(name)}/{'summary' if len(rows) else 'reward_models'}.csv")
    return 0 if complete and not problems else 1


def analysis(name: str, rows: pd.DataFrame) -> bool:
    """Execute the analysis notebook on the study's tables unless its stored output is of the same code and tables."""
    source, results = files.resolve(ANALYSIS), files.resolve(plan.results_folder(name))
    work, target, folder = results / ".work", results / source.name, results / "analysis"
    stamp = work / "analysis.json"
    if not source.is_file():
        return True
    digest = hashlib.sha256(identity.page_code(source).encode())
    for path in (results / f"{table}.csv" for table in tables.TABLES):
        digest.update(path.read_bytes() if path.is_file() else b"")  # picks and sets are not in every study
    if not (stamp.is_file() and files.read_json(stamp)["key"] == digest.hexdigest() and target.is_file()):
        stamp.unlink(missing_ok=True)
        target.unlink(missing_ok=True)  # yesterday's analysis must not pass for today's
        shutil.rmtree(folder, ignore_errors=True)
        if not rows["status"].isin(STATUSES).any():
            say("analysis: no PPO run is finished, so there is nothing to analyse")
            return False
        say("analysis: started")
        parameters = {"results": plan.results_folder(name), "out": f"{plan.results_folder(name)}/analysis"}
        try:
            notebooks.execute(source, work / source.name, parameters, work / "analysis.txt")
        except Exception as error:
            say(f"analysis: failed, {job.one_line(error)} ({(work / source.name).relative_to(files.ROOT)})")
            return False
        (work / source.name).replace(target)
        files.write_json(stamp, {"key": digest.hexdigest()})
    say(f"analysis: {target.relative_to(files.ROOT)}")
    if (folder / "verdict.txt").is_file():
        say((folder / "verdict.txt").read_text(encoding="utf-8").rstrip())
    return True
