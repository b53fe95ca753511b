"""Several processes that share one run, started by ``accelerate launch``: what they sum, gather and agree on.

Each process holds the whole networks and its part of a rollout's prompts. In a run of one process every function here is the
identity, and nothing is initialised.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, distributed

Anything = TypeVar("Anything")


def join(cpu: bool) -> None:
    """Meet the other processes that ``accelerate launch`` started."""
    PartialState(cpu=cpu, timeout=timedelta(days=1))  # all wait while process 0 evaluates


def end_with(owner: int) -> None:
    """End this process within moments of the end of the process ``owner``, however that ends.

    The launcher gives each process a session of its own, so that nothing else would tell it that the run was killed; and a
    process that goes on would write into the folder of the run that follows. Raises :class:`psutil.NoSuchProcess` where it has
    ended already.
    """
    process = psutil.Process(owner)

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count() -> int:
    """Processes that share the run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process; 0 is the one that evaluates and writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def total(values: Tensor) -> Tensor:
    """The sum of all elements over all processes, a scalar."""
    own = values.detach().sum()
    return reduce(own, "sum") if count() > 1 else own


def gathered(values: Tensor) -> Tensor:
    """The rows of all processes, in the order of their numbers; their counts may differ."""
    return torch.cat(gather_object([values.cpu()])).to(values.device) if count() > 1 else values


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over the processes, in one exchange."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed(make: Callable[[], Anything]) -> Anything:
    """What process 0 makes, given to all; the others wait for it."""
    if count() == 1:
        return make()
    return broadcast_object_list([make() if rank() == 0 else None])[0]
