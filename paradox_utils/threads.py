"""How many threads a run computes with: set by the run itself, before torch loads. Imports no torch.

papermill, JupyterLab, make and SLURM thereby give a run the same threads, and numbers that do not depend on who launched it.
Idle threads wait passively: on a busy machine threads that spin take the cores from those who compute.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paradox_utils import files

# The parameters that name a model, or a list of them: a folder, or a hub id. In those of judges, {task} stands for the task.
JUDGES = ("reward_model", "other_reward_models", "evaluator", "other_evaluators")
MODELS = ("policy", "value_weights", "backbone", *JUDGES)
SMALL_MB = 20  # models of so many MB of weights together compute no faster with a second thread
GROUP = Path("/sys/fs/cgroup")  # the limits of a container, where there are any
ASKED = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS") or ""  # by the caller, before `use` says ours


def use(parameters: Mapping[str, Any]) -> int:
    """Set the threads of this process, and of those it starts, and return their number.

    It is the caller's ``OMP_NUM_THREADS`` (or ``MKL_NUM_THREADS``) where set, else 1 for small models, and for larger ones the
    cores there are, divided by the ``processes`` that share the run. A hub's model counts as large until it is on this machine.
    Where torch is loaded already it is told; how its threads wait was settled then.
    """
    asked = re.match(r"\s*0*([1-9]\d*)", ASKED)
    number = int(asked[1]) if asked else _fitting(parameters)
    os.environ |= {"OMP_NUM_THREADS": str(number), "MKL_NUM_THREADS": str(number)}
    # of GNU's OpenMP (torch on Linux), of LLVM's and Intel's (conda, macOS), of the tokenizers' own threads
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("KMP_BLOCKTIME", "0"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(number)
    return number


def _fitting(parameters: Mapping[str, Any]) -> int:
    models = [model for name in MODELS for model in listed(parameters.get(name) or "")]
    sizes = [weights(files.for_task(model, parameters.get("task"))) for model in models]
    if all(size is not None for size in sizes) and sum(filter(None, sizes)) <= SMALL_MB:
        return 1
    return max(1, cores() // parameters.get("processes", 1))


def listed(value: Any) -> list[Any]:
    """What a parameter of :data:`MODELS` names, one or several."""
    return value if isinstance(value, list) else [value]


def cores() -> int:
    """Cores this process may use."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max" where nothing is limited
        quota, period = map(int, (GROUP / "cpu.max").read_text(encoding="utf-8").split())
        number = min(number, quota // period)
    with contextlib.suppress(KeyError, ValueError):  # a SLURM that confines no job to its cores still says how many it has
        number = min(number, int(os.environ["SLURM_CPUS_PER_TASK"]))
    return max(1, number)


def weights(model: str) -> float | None:
    """MB (2²⁰ bytes) of a model's weights in its folder or in the hub's cache; None: they are not on this machine yet."""
    if model in ("", "oracle") or model.startswith("atlas-"):
        return 0.0  # a preset of Atlas has a megabyte
    with contextlib.suppress(OSError, ValueError):  # no name of a folder; who loads the model says so
        for folder in (files.resolve(model), *files.snapshots(model)):
            for pattern in ("*.safetensors", "*.bin"):
                if size := sum(file.stat().st_size for file in folder.glob(pattern)):
                    return size / 2**20
    return None
