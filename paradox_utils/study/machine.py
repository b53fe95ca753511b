"""What a run needs and what this machine has: cores, memory, GPUs. From this comes how many runs stand side by side.

The memory a run needs is 1.2 × the largest recorded peak of this study's finished runs of the same stage and models. Where
there is none it is estimated: :data:`BASE_MB` and :data:`COPIES` of the weights. Either way :data:`AROUND_MB` is added, for
the processes around the notebook. Imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

from paradox_utils import files, identity, threads
from paradox_utils.study import plan
from paradox_utils.study.plan import Run

BASE_MB = 1000  # a kernel with torch, its libraries and the data
AROUND_MB = 500  # the job that executes the notebook, and on a cluster Snakemake twice
UNKNOWN_MB = 1000  # weights that are not on this machine yet: 250 million parameters of 4 bytes
MARGIN = 1.2  # over a recorded peak, as other seeds need a little more
# How often a stage holds the weights. Training: weights, gradients and Adam's two moments. PPO does so for the policy and for
# the value network, and holds the reference policy and the activations besides.
COPIES = {"supervised": 5, "feedback": 2, "reward_model": 5, "ppo": 11}


# --- what a run needs -----------------------------------------------------------------------------------------------


def memory(name: str, runs: Sequence[Run]) -> dict[str, int]:
    """Run id → MB (2²⁰ bytes) of memory to reserve for it; ``name``: the study, whose finished runs are looked at."""
    by_id = {run.id: run for run in runs}
    peaks: dict[tuple[object, ...], int] = {}
    for run in runs:
        with contextlib.suppress(files.FileError):
            record = files.read_json(files.resolve(plan.results_folder(name)) / run.id / "run.json")
            peaks[_kind(run)] = max(peaks.get(_kind(run), 0), record.get("peak_memory_mb") or 0)
    return {run.id: AROUND_MB + round(MARGIN * peaks.get(_kind(run), 0) or _estimate(run, by_id)) for run in runs}


def _kind(run: Run) -> tuple[object, ...]:
    """Runs of one kind need about the same memory."""
    values = run.parameters
    others = len(values.get("other_reward_models", []))
    return run.stage, run.labels["policy"], values.get("backbone"), values.get("processes"), others


def _estimate(run: Run, by_id: dict[str, Run]) -> float:
    """MB of a run of whose kind none has finished."""
    values = run.parameters
    trained = COPIES[run.stage] * sum(_weights(values.get(name), by_id) for name in ("policy", "backbone"))
    judges = sum(_weights(model, by_id) for name, _, model in identity.named(values) if name in threads.JUDGES)
    return values.get("processes", 1) * (BASE_MB + trained + judges)


def _weights(model: str | None, by_id: dict[str, Run]) -> float:
    """MB of a model's weights: those on this machine, else of the model that the run that makes it starts from."""
    if (size := threads.weights(model or "")) is not None:
        return size
    maker = next((by_id[part] for part in Path(model or "").parts if part in by_id), None)
    if maker is not None:
        return max(_weights(maker.parameters.get(name), by_id) for name in ("policy", "backbone"))
    return UNKNOWN_MB


# --- what this machine has ------------------------------------------------------------------------------------------


def free_memory() -> int:
    """MB (2²⁰ bytes) free now, or what a container's limit leaves of it, whichever is less."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):
        held = dict(line.split() for line in (threads.GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        free = min(free, int((threads.GROUP / "memory.max").read_text(encoding="utf-8")) - int(held["anon"]))
    return max(0, free) // 2**20


def visible_gpus() -> list[str]:
    """The GPUs runs may use: those of ``CUDA_VISIBLE_DEVICES``, else all that ``nvidia-smi`` lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:  # as CUDA reads it: up to the first word that names no GPU, such as -1 or NoDevFiles
        return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, map(str.strip, chosen.split(","))))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


@contextlib.contextmanager
def held_gpus(wanted: int, gpus: Sequence[str], runs_per_gpu: int) -> Iterator[list[str]]:
    """Wait for ``wanted`` of ``gpus`` and hold a slot of each, of which a GPU has ``runs_per_gpu``.

    A slot is a file in the machine's temporary folder, locked by ``flock``: it is shared by all studies of this user on the
    machine, and free again when its holder dies, however it dies.
    """
    wanted = min(wanted, len(gpus))
    if not wanted:
        yield []
        return
    folder = Path(tempfile.gettempdir()) / f"paradox-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        with contextlib.ExitStack() as stack:
            taken: list[str] = []
            for gpu in gpus:
                if len(taken) < wanted and _take_slot(stack, folder, gpu, runs_per_gpu):
                    taken.append(gpu)
            if len(taken) == wanted:
                yield taken
                return
        time.sleep(1)  # with what it had given back: two runs must not each hold half of what both want


def _take_slot(stack: contextlib.ExitStack, folder: Path, gpu: str, runs_per_gpu: int) -> bool:
    for number in range(runs_per_gpu):
        slot: IO[str] = stack.enter_context((folder / f"{gpu.replace('/', '-')}.{number}").open("a+"))
        if files.acquire(slot):
            return True
    return False
