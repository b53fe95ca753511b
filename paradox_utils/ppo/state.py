"""The state of a PPO run on disk, so that a killed run goes on as if nothing had happened.

A state is a folder ``state-UPDATE``: safetensors and JSON alone, nothing pickled. Random numbers need no state: those of an
update are keyed by the run's seed and the update's number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paradox_utils import states


@dataclass
class Progress:
    """How far a run has come: ``update`` is the next one, ``rows`` the curve so far, ``best`` the weights of the best
    validation evaluation, ``seconds`` the time spent."""

    update: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    high_kl: int = 0
    best_performance: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, tied ones once; copies on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.named_parameters()}


@torch.no_grad()
def restore(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Put parameters of :func:`weights` back."""
    for name, parameter in module.named_parameters():
        parameter.copy_(saved[name])


def save(folder: Path, progress: Progress, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Write a state in one step and keep the last two; a failed write leaves the earlier ones as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    with states.whole_folder(folder / f"state-{progress.update}") as part:
        for name, network in networks.items():
            save_file(weights(network), part / f"{name}.safetensors")
        save_file(progress.best, part / "best.safetensors")
        moments = {f"{i}.{name}": v.cpu() for i, state in optimizer.state_dict()["state"].items() for name, v in state.items()}
        save_file(moments, part / "moments.safetensors")
        record = {name: value for name, value in vars(progress).items() if name != "best"}
        (part / "progress.json").write_text(json.dumps(record))  # NaN and every digit survive
        states.complete(part)
    states.keep_last(folder)


def load(state: Path, networks: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
    """Put a whole state back."""
    for name, network in networks.items():
        restore(network, load_file(state / f"{name}.safetensors"))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(state / "moments.safetensors").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    record = json.loads((state / "progress.json").read_text())
    return Progress(**record, best=load_file(state / "best.safetensors"))
