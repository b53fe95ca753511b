"""The command line of studies: ``python -m paradox_utils.study run configs/quick.yaml``; ``-h`` lists the commands."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

import yaml

from paradox_utils import config, files
from paradox_utils.files import say
from paradox_utils.study import job, machine, stale, tables
from paradox_utils.study.job import load
from paradox_utils.study.plan import describe
from paradox_utils.study.run import Share, environment, run_study, summarise
from paradox_utils.study.tables import finished


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; every expected problem is one clear line and a non-zero exit code."""
    parser = argparse.ArgumentParser(prog="python -m paradox_utils.study", description="Run a study and summarise it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in [
        ("run", "run what is missing, then summarise; further options go to Snakemake, such as --profile DIR"),
        ("job", "execute one run by its id"),
        ("summary", "write summary.csv and curves.csv from the runs there are"),
        ("record", "copy the study's tables and their provenance to results/recorded"),
        ("plan", "list the runs"),
    ]:
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("config", help="a file such as configs/quick.yaml")
        if command == "job":
            sub.add_argument("id")
        sub.add_argument("--threads", type=int, default=1, help="cores of one run")
        if command == "plan":
            sub.add_argument("--why", action="store_true", help="say of each run to do what has changed since it was finished")
        if command in ("run", "job"):
            sub.add_argument(
                "--gpus", type=int, help="GPUs to use; left out: all that CUDA_VISIBLE_DEVICES or nvidia-smi names"
            )
            sub.add_argument("--runs-per-gpu", type=int, default=1, help="runs that share one GPU")
        if command == "run":
            sub.add_argument("--workers", type=int, default=0, help="runs side by side; 0: as many as cores and memory allow")
            sub.add_argument("--profile", default="", help="Snakemake profile of a cluster, such as profiles/slurm")
    options, extra = parser.parse_known_args(arguments)
    if extra and options.command != "run":
        parser.error(f"unknown: {' '.join(extra)}")
    os.chdir(files.ROOT)
    try:
        if options.command == "run":
            profile = ["--profile", options.profile] if options.profile else []
            return run_study(options.config, share_of(options), [*profile, *extra])
        os.environ.update({key: value for key, value in environment(options.threads).items() if key not in os.environ})
        if options.command == "job":
            gpus = None if options.gpus is None else machine.visible_gpus()[: options.gpus]
            return job.run_one(options.config, options.id, gpus, options.runs_per_gpu)
        name, runs = load(options.config)
        if options.command == "summary":
            return summarise(name, runs)
        if options.command == "record":
            say(f"recorded: {tables.record(name, runs).relative_to(files.ROOT)}")
            return 0
        why = stale.reasons(name, runs) if options.why else {}
        for run in runs:
            say(f"{run.id:<24} {'finished' if finished(name, run) else 'to do':<8}  {describe(run)}")
            for reason in why.get(run.id, []):
                say(f"    {reason}")
        return 0
    except (config.ParameterError, files.FileError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"{path}{job.explain(error)}; what is finished is kept, and the tables stay as they were\n")
        return 2


def share_of(options: argparse.Namespace) -> Share:
    """How the command line says that runs share the machine; raises :class:`ParameterError` if they cannot."""
    for name, least in (("threads", 1), ("workers", 0), ("runs_per_gpu", 1), ("gpus", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise config.ParameterError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    executor = executor_of(options.profile) if options.profile else ""
    if executor:  # its nodes have GPUs or not, whatever stands here
        gpus = [str(number) for number in range(options.gpus or 0)]
    else:
        gpus = machine.visible_gpus()
        if options.gpus and options.gpus > len(gpus):
            raise config.ParameterError(f"--gpus {options.gpus}: {len(gpus)} are visible here; give that many, or fewer")
    return Share(options.workers, options.threads, tuple(gpus[: options.gpus]), options.runs_per_gpu, executor)


def executor_of(profile: str) -> str:
    """What a Snakemake profile hands its jobs to, empty for this machine; raises :class:`ParameterError` if it cannot."""
    file = files.resolve(profile) / "config.yaml"
    try:
        name = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("executor", "local")
    except OSError as error:
        problem = f"{file} cannot be read; name a folder such as profiles/slurm"
        raise config.ParameterError(f"--profile {profile}: {problem}") from error
    if name not in ("local", "dryrun") and not importlib.util.find_spec(f"snakemake_executor_plugin_{name.replace('-', '_')}"):
        raise config.ParameterError(f"--profile {profile}: needs a plugin: pip install snakemake-executor-plugin-{name}")
    return "" if name == "local" else name


if __name__ == "__main__":
    sys.exit(main())
