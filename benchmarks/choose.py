"""What a choice among reward models costs beside PPO on every one of them: whole processes, on one core."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import yaml

from benchmarks import atlas, table
from benchmarks.options import Options
from benchmarks.table import Row
from paradox_utils import config, files
from paradox_utils.choose.__main__ import load
from paradox_utils.data.tasks import TASKS

CONFIG = files.ROOT / "configs" / "choose-atlas.yaml"
SPEED_UP = 20.0
TINY = {"samples": 2, "limit": 3, "bootstrap": 100}
Lap = dict[str, float]  # seconds by name


def run(options: Options) -> list[Row]:
    """Round by round the choice, and then a PPO run against each of its candidates, all with the same recipe."""
    more = TINY if options.quick else {}
    p = load(str(CONFIG))
    runs, rounds = trainings(p, {"updates": 2, "evaluate_every": 1} if options.quick else {}), []
    for number in range(1 if options.quick else options.rollouts):
        lap = timed(more)
        for name, parameters in runs.items():
            whole, updates, _ = atlas.timed(parameters)
            lap["ppo"] = lap.get("ppo", 0.0) + whole
            lap["ppo updates"] = lap.get("ppo updates", 0.0) + updates
            options.say(f"choose: round {number + 1}, PPO against {name}: {whole:.1f} s")
        options.say(f"choose: round {number + 1}, the choice: {lap['whole']:.1f} s")
        rounds.append(lap)
    return rows(rounds, len(runs), next(iter(runs.values()))["updates"])


def trainings(p: config.Choose, more: Mapping[str, object]) -> dict[str, dict]:
    """Parameters of a PPO run of the ``atlas`` study against each candidate, by its name."""
    common = atlas.parameters_of(p.task) | {"kl_coefficient": p.kl_coefficient} | dict(more)
    size = TASKS[p.task].reward_size
    return {name: common | {"reward_model": one.model, "reward_size": size * one.scale} for name, one in p.candidates.items()}


def timed(more: Mapping[str, object]) -> Lap:
    """Seconds of a process that chooses (``whole``), of what it does after its start (``choice``), and of its scoring."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file, out = Path(folder) / "choose.yaml", Path(folder) / "out"
        values = yaml.safe_load(CONFIG.read_text(encoding="utf-8")) | {"out": str(out), "device": "cpu"} | dict(more)
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [sys.executable, "-m", "paradox_utils.choose", "run", str(file)]
        started = time.perf_counter()
        subprocess.run(
            command, cwd=files.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, preexec_fn=atlas.on_one_core,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        whole = time.perf_counter() - started
        made = files.read_json(out / "choice.json")
        return {"whole": whole, "choice": made["seconds"], "scoring": sum(one["seconds"] for one in made["candidates"])}


def rows(rounds: Sequence[Lap], candidates: int, updates: int) -> list[Row]:
    """The table's rows: medians over rounds, and how far the rounds' ratios lie apart."""
    middle = {name: median(lap[name] for lap in rounds) for name in rounds[0]}
    ratios = [lap["ppo"] / lap["whole"] for lap in rounds]
    named = f"{candidates} candidates, a choice against a PPO run on each"
    return [
        Row("choose", named, middle["whole"], "s", middle["ppo"], median(ratios), SPEED_UP),
        *table.spread("choose", "the same", ratios),
        table.faster("choose", "the same, without start-up and pages", middle["choice"], middle["ppo updates"], "s"),
        Row("choose", "start-up of a choice (imports)", middle["whole"] - middle["choice"], "s"),
        Row("choose", "scoring, health checks and a process for each candidate", middle["scoring"], "s"),
        Row("choose", "sampling, judging and deciding", middle["choice"] - middle["scoring"], "s"),
        Row("choose", "length of a PPO run", updates, "updates"),
        Row("choose", "rounds measured", len(rounds), "rounds"),
    ]
