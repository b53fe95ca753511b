"""Studies of equal PPO runs, one thread each: what a second worker brings, and what short runs spend outside of PPO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import table
from benchmarks.options import Options
from benchmarks.table import Row
from paradox_utils import files
from paradox_utils.analysis import tables
from paradox_utils.config.study import load_study
from paradox_utils.study import plan as studies

CONFIG = Path(__file__).with_name("twelve.yaml")
ACCURACIES = "[0.7, 0.8, 0.9, 1.0]"
SPEED_UP = 1.9
SHORT = 100  # runs of SHORT_UPDATES each
SHORT_UPDATES = 5


def run(options: Options) -> list[Row]:
    """Whole seconds of a study's PPO runs, with its summary and without an analysis page, round by round with one worker and
    with two; then a hundred short runs. What all start from is there."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        root, plan = project(Path(folder), {"updates: 20": "updates: 1", ACCURACIES: "[1.0]"} if options.quick else {})
        count, rounds = sum(one.stage == "ppo" for one in plan), []
        for number in range(1 if options.quick else options.rollouts):
            rounds.append({workers: timed(root, plan, workers) for workers in (1, 2)})
            options.say(f"study: round {number + 1}, {count} runs: {rounds[-1][1]:.1f} s, two workers {rounds[-1][2]:.1f} s")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        seeds = 1 if options.quick else SHORT // 4
        short = {"updates: 20": f"updates: {SHORT_UPDATES}", "[0, 1, 2]": str(list(range(seeds)))}
        root, plan = project(Path(folder), short)
        seconds = timed(root, plan, 2)
        learning = [learned(root / studies.results_folder("twelve") / one.id) for one in plan if one.stage == "ppo"]
        options.say(f"study: {len(learning)} short runs: {seconds:.1f} s")
    return rows(rounds, count, seconds, learning)


def rows(rounds: Sequence[Mapping[int, float]], count: int, short: float, learning: Sequence[float]) -> list[Row]:
    """The table's rows from the seconds of each round by its number of workers, and of the short runs, of which each took so
    long for PPO itself (``learning``)."""
    one, two = (median(lap[workers] for lap in rounds) for workers in (1, 2))
    ratios = [lap[1] / lap[2] for lap in rounds]
    named = f"{count} runs, 2 workers against 1"
    return [
        Row("study", named, two, "s", one, median(ratios), SPEED_UP),
        *table.spread("study", named, ratios),
        Row("study", "rounds measured", len(rounds), "rounds"),
        Row("study", "a run, 1 worker", one / count, "s"),
        Row("study", f"{len(learning)} runs of {SHORT_UPDATES} updates, 2 workers", short, "s"),
        Row("study", "the same, share of the workers' time that is not PPO", 1 - sum(learning) / (2 * short)),
    ]


def timed(root: Path, plan: list[studies.Run], workers: int) -> float:
    """Seconds of a study's PPO runs; what they start from is made before, where it is not there."""
    for one in plan:
        if one.stage != "ppo":
            execute(root, "job", CONFIG.name, one.id)
    forget(root, plan)
    started = time.perf_counter()
    execute(root, "run", CONFIG.name, "--workers", str(workers), "--threads", "1")
    return time.perf_counter() - started


def learned(folder: Path) -> float:
    """Seconds that a finished run spent on rollouts, updates and evaluations."""
    return float(tables.read_table(folder / "curve.csv", ("seconds",))["seconds"].iloc[-1])


def project(root: Path, changes: Mapping[str, str]) -> tuple[Path, list[studies.Run]]:
    """A project folder of its own, so that nothing is left among the real results, and its plan: that of :data:`CONFIG` with
    ``changes`` in its text."""
    for name in ("Snakefile", "fixtures"):
        (root / name).symlink_to(files.ROOT / name)
    (root / "notebooks").mkdir()
    for page in set(studies.NOTEBOOKS.values()):  # without the analysis page: it takes as long whatever the workers
        (root / page).symlink_to(files.ROOT / page)
    text = CONFIG.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (root / CONFIG.name).write_text(text, encoding="utf-8")
    return root, studies.plan(load_study(root / CONFIG.name), CONFIG.name)


def execute(root: Path, *arguments: str) -> None:
    """Call :mod:`paradox_utils.study` in the project folder ``root``; its progress goes to stderr."""
    environment = os.environ | {"PARADOX_ROOT": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "paradox_utils.study", *arguments]
    subprocess.run(command, cwd=root, env=environment, stdout=sys.stderr, check=True)


def forget(root: Path, plan: list[studies.Run]) -> None:
    """Remove the PPO runs' results: the next call makes them again."""
    for one in plan:
        if one.stage == "ppo":
            for folder in (studies.results_folder("twelve") + f"/{one.id}", studies.work_folder("twelve", one.id)):
                shutil.rmtree(root / folder, ignore_errors=True)
