"""A study of twelve PPO runs with one worker and with two, one thread each: what the second core brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table
from benchmarks.options import Options
from benchmarks.table import Row
from paradox_utils import files
from paradox_utils.config.study import load_study
from paradox_utils.study import plan as studies

CONFIG = Path(__file__).with_name("twelve.yaml")
SPEED_UP = 1.8
RUNS = 12


def run(options: Options) -> list[Row]:
    """Whole seconds of a study's PPO runs, with its summary and without an analysis page; what they start from is there."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        root = project(Path(folder), options.quick)
        plan = studies.plan(load_study(root / CONFIG.name), CONFIG.name)
        count = sum(one.stage == "ppo" for one in plan)
        for one in plan:
            if one.stage != "ppo":
                execute(root, "job", CONFIG.name, one.id)
        seconds = {}
        for workers in (1, 2):
            forget(root, plan)
            started = time.perf_counter()
            execute(root, "run", CONFIG.name, "--workers", str(workers), "--threads", "1")
            seconds[workers] = time.perf_counter() - started
            options.say(f"study: {count} runs, {workers} worker(s): {seconds[workers]:.1f} s")
    return [
        table.faster("study", f"{count} runs, 2 workers against 1", seconds[2], seconds[1], "s", SPEED_UP),
        Row("study", "a run, 1 worker", seconds[1] / count, "s"),
    ]


def project(root: Path, quick: bool) -> Path:
    """A project folder of its own, so that nothing is left among the real results."""
    for name in ("Snakefile", "fixtures"):
        (root / name).symlink_to(files.ROOT / name)
    (root / "notebooks").mkdir()
    for page in set(studies.NOTEBOOKS.values()):  # without the analysis page: it takes as long whatever the workers
        (root / page).symlink_to(files.ROOT / page)
    text = CONFIG.read_text(encoding="utf-8")
    if quick:
        text = text.replace("updates: 20", "updates: 1").replace("[0.7, 0.8, 0.9, 1.0]", "[1.0]")
    (root / CONFIG.name).write_text(text, encoding="utf-8")
    return root


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
