"""What a stage leaves behind: its results, and what exactly made them. Imports no torch.

The tower that trains and the tower that reads meet only in these folders.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paradox_utils import config
from paradox_utils.files import resolve, write_json
from paradox_utils.identity import versions

STATUSES = ("ok", "diverged")


@dataclass(frozen=True)
class StageRun:
    """A stage at work: its checked parameters and the folder it may fill."""

    parameters: config.Stage
    folder: Path
    started: float
    scratch: tempfile.TemporaryDirectory | None  # vanishes with this object

    def finish(self, results: Mapping[str, Any], status: str = "ok", reason: str = "") -> None:
        """Write ``folder/result.json``, last and in one step; nothing where the parameter ``out`` is empty.

        ``results``: plain numbers, text, lists and mappings, NumPy's included; a number that is not finite becomes null.
        ``status``: ok or diverged, the latter with its ``reason``.
        """
        if status not in STATUSES or (status != "ok" and not reason):
            raise ValueError(f"status = {status!r}, reason = {reason!r}: status is ok, or diverged with a reason")
        if self.scratch is not None:
            return
        record = {
            "status": status,
            "reason": reason,
            "results": results,
            "parameters": self.parameters.model_dump(),
            "seconds": round(time.perf_counter() - self.started, 3),
            **environment(getattr(self.parameters, "device", "auto")),
            **peak_memory(getattr(self.parameters, "processes", 1)),
        }
        write_json(self.folder / "result.json", record)
        if not (self.folder / "lock").exists():  # a study's run keeps its states until its result is published
            shutil.rmtree(self.folder / "resume", ignore_errors=True)


def begin(parameters: config.Stage) -> StageRun:
    """Begin a stage: its clock, and its folder ``parameters.out`` (empty: a temporary one that vanishes with the object).

    A result that an earlier attempt left in the folder is removed, so that it cannot pass for this one's.
    """
    scratch = None if parameters.out else tempfile.TemporaryDirectory(prefix="paradox-")
    folder = Path(scratch.name) if scratch else resolve(parameters.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    return StageRun(parameters, folder, time.perf_counter(), scratch)


def environment(device: str = "auto") -> dict[str, Any]:
    """Versions, device, threads and platform of this process, as stored beside every result."""
    torch = sys.modules.get("torch")  # never imported here: what has not loaded torch has not used a device
    gpu = torch is not None and device != "cpu" and torch.cuda.is_available()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "versions": versions(),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads() if torch is not None else int(asked) if asked.isdigit() else None,
        "platform": platform.platform(),
    }


def peak_memory(processes: int = 1) -> dict[str, int]:
    """The most memory this process has held, ``peak_memory_mb``, and on a GPU ``peak_gpu_memory_mb`` (MB of 2²⁰ bytes).

    ``processes``: of a run that several share, each counts as much as the largest.
    """
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if processes > 1 else (resource.RUSAGE_SELF,)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage counts bytes there, kilobytes elsewhere
    peak = {"peak_memory_mb": processes * max(resource.getrusage(kind).ru_maxrss for kind in kinds) // unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() // 2**20
    return peak
