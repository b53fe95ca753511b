"""One PPO run of the `atlas` study's size, from the start of its process to the end, on one core, and where its time goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

from benchmarks import table
from benchmarks.options import Options
from benchmarks.ours import operators
from benchmarks.plain import Clock
from benchmarks.t5 import operator_rows
from benchmarks.table import Row
from benchmarks.worker import Side
from paradox_utils import config, data, files
from paradox_utils.config.study import load_study
from paradox_utils.policies.prompts import encode_prompts
from paradox_utils.ppo import loop, ppo
from paradox_utils.rewards.judges import reward_of
from paradox_utils.stages.ppo import load_actors
from paradox_utils.study import plan as studies

CONFIG = files.ROOT / "configs" / "atlas.yaml"
LIMIT = 20.0  # seconds
# The models that a study would have trained first, by those the notebooks start from.
FIXTURES = {"policy": config.FIXTURE_POLICY, "feedback": config.FIXTURE_FEEDBACK, "reward_model": config.FIXTURE_REWARD_MODEL}


def run(options: Options) -> list[Row]:
    """One run a task: whole seconds, those of the updates, and those of the start (imports, kernel, data, models)."""
    rows = []
    for task in ("relevance",) if options.quick else ("relevance", "factuality", "completeness"):
        parameters = parameters_of(task) | ({"updates": 2, "evaluate_every": 1} if options.quick else {})
        whole, updates, stage = timed(parameters)
        options.say(f"atlas: {task}: {whole:.1f} s")
        rows += [
            Row("atlas", f"{task}, whole run", whole, "s", target=LIMIT, of="value"),
            Row("atlas", f"{task}, rollouts, updates and evaluations", updates, "s"),
            Row("atlas", f"{task}, data, models and final evaluations", stage - updates, "s"),
            Row("atlas", f"{task}, start-up (imports, kernel) and page", whole - stage, "s"),
            Row("atlas", f"{task}, length of the run", parameters["updates"], "updates"),
        ]
        laps = {}
        for value_model in ("separate", "shared"):
            with Side("benchmarks.atlas", {"parameters": parameters | {"value_model": value_model}}, threads=1) as side:
                laps[value_model] = side.call("phases", rollouts=2 if options.quick else 20)
                if value_model == "separate":
                    profile = side.call("profile")
        rows += [Row("atlas", f"{task}, {phase} of one update", seconds, "s") for phase, seconds in laps["separate"].items()]
        alike = laps["shared"]["updates"], laps["separate"]["updates"]
        rows.append(table.faster("atlas", f"{task}, the same updates with a value head on the policy", *alike, "s"))
        rows += operator_rows("atlas", profile, f"{task}, ")
    return rows


def parameters_of(task: str) -> dict:
    """Parameters of the first run of ``task`` against a reward model, as the study plans it, on the committed models."""
    plan = studies.plan(load_study(CONFIG), str(CONFIG))
    first = next(r for r in plan if r.stage == "ppo" and r.labels["task"] == task and r.parameters["reward"] == "model")
    return first.parameters | FIXTURES | {"device": "cpu"}


class Loop:
    """A run taken apart, in a process of its own."""

    def __init__(self, parameters: dict) -> None:
        self.p = config.PPO(**parameters)
        self.actors = load_actors(self.p)
        judged = data.load_feedback(self.p, files.resolve(self.p.feedback))
        self.reward, _, _ = reward_of(self.p, self.actors.tokenizer, judged)
        self.questions = data.load_splits(self.p).train

    def phases(self, rollouts: int) -> dict[str, float]:
        """Median seconds of each phase over so many rollouts, after one that warms up."""
        p, actors, laps = self.p, self.actors, []
        optimizer = ppo.optimizer_of(p, actors)
        for update in range(rollouts + 1):
            chosen = self.questions[update * p.prompts_per_update :][: p.prompts_per_update]
            clock = Clock(p.device)
            prompts = encode_prompts(actors.policy, actors.tokenizer, chosen, p.prompt_limit)
            responses = loop.sample(p, actors, prompts, update)
            clock.lap("generation")
            rollout = loop.score(p, actors, responses, self.reward)
            clock.lap("scoring")
            ppo.optimise(p, actors, optimizer, rollout, 1)
            clock.lap("updates")
            laps.append(clock.laps)
        return {phase: median(lap[phase] for lap in laps[1:]) for phase in laps[0]}

    def profile(self) -> list[dict]:
        """Where one update spends its time, as :func:`benchmarks.ours.operators` says it."""
        p, actors = self.p, self.actors
        prompts = encode_prompts(actors.policy, actors.tokenizer, self.questions[: p.prompts_per_update], p.prompt_limit)
        rollout = loop.score(p, actors, loop.sample(p, actors, prompts, 0), self.reward)
        optimizer = ppo.optimizer_of(p, actors)
        return operators("updates", lambda: ppo.optimise(p, actors, optimizer, rollout, 1), p.device)


def timed(parameters: dict) -> tuple[float, float, float]:
    """Seconds of a process that executes notebook 04, of its loop, and of its stage (the loop, and what stands around it)."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "parameters.yaml"
        file.write_text(yaml.safe_dump(parameters | {"out": f"{folder}/out"}))
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--kernel", "python3", "-f", str(file)]
        command += [studies.NOTEBOOKS["ppo"], f"{folder}/page.ipynb"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        started = time.perf_counter()
        subprocess.run(
            command, cwd=files.ROOT, env=environment, check=True, preexec_fn=on_one_core,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        whole = time.perf_counter() - started
        curve = (Path(folder) / "out" / "curve.csv").read_text().splitlines()
        updates = float(curve[-1].split(",")[curve[0].split(",").index("seconds")])
        return whole, updates, files.read_json(Path(folder) / "out" / "result.json")["seconds"]


def on_one_core() -> None:
    """Keep this process, a child before its program starts, to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
