"""Run folders and their provenance: what a stage leaves behind, and what exactly made it. Imports no torch."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paradox_utils import config

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PARADOX_ROOT") or PACKAGE.parent).resolve()

# Modules that no result depends on: an edit to them retrains nothing. All but the last two look at finished runs; what `config`
# says is in a run's resolved parameters, which its id holds already; `store` only writes results down.
PRESENTATION = frozenset({"plots", "analysis", "comparison", "verdict", "statistics", "shapes", "config", "store"})
PACKAGES = ("torch", "transformers", "trl", "numpy")
STATUSES = ("ok", "diverged")
KILLED = (
    "killed: its job ended without a word (killed, out of memory, or its disk too full to say why); "
    "the next call goes on from its last state"
)
NEED_FAILED = "which failed"  # ends the reason of a run that waits for one that failed


class StoreError(RuntimeError):
    """A run folder, notebook or result that is not there or cannot be used; the message says what to do."""


def resolve(path: str | Path) -> Path:
    """``path``; a relative one is taken from the project root."""
    return ROOT / path


# --- hashes -------------------------------------------------------------------------------------------------------------------


def code_hash(notebook: Path, *, presentation: bool, package: Path | None = None) -> str:
    """SHA-256 (hex) over the code a notebook runs.

    That is its code cells, without the one tagged ``parameters``, and every module of the package in their import closure
    (read statically, imports inside functions included). ``presentation=False`` leaves out the :data:`PRESENTATION` modules
    and the cells tagged ``figure``. Raises :class:`StoreError` for a notebook that is missing or not Python.
    """
    package = package or PACKAGE
    cells = list(_cells(notebook, presentation))
    digest = hashlib.sha256()
    for text in cells:
        digest.update(b"cell\0" + text.encode())
    skipped = frozenset() if presentation else PRESENTATION
    for name, path in sorted(_closure(cells, notebook, package, skipped).items()):
        digest.update(f"module\0{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _cells(notebook: Path, presentation: bool) -> Iterator[str]:
    skipped = {"parameters", "injected-parameters"} | (set() if presentation else {"figure"})
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{notebook}: no readable notebook ({error!r}); restore it from the repository") from error
    for cell in cells:
        if cell["cell_type"] == "code" and not skipped & set(cell["metadata"].get("tags", [])):
            source = cell["source"]
            yield source if isinstance(source, str) else "".join(source)


def _closure(cells: list[str], notebook: Path, package: Path, skipped: frozenset[str]) -> dict[str, Path]:
    """Dotted name → file of every module of ``package`` that the cells import, directly or not, ``skipped`` ones left out."""
    python = "\n".join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))
    found: dict[str, Path] = {}
    waiting = [(python, notebook, "")]
    while waiting:
        source, path, inside = waiting.pop()
        try:
            names = _imported(source, inside)
        except SyntaxError as error:
            raise StoreError(f"{path}: is not Python (line {error.lineno}: {error.msg})") from error
        for name in names:
            parts = name.split(".")
            if parts[0] != package.name or (len(parts) > 1 and parts[1] in skipped):
                continue
            for stop in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b as well
                module = ".".join(parts[:stop])
                file = _module_file(package, parts[1:stop])
                if file is not None and module not in found:
                    found[module] = file
                    home = module if file.name == "__init__.py" else module.rpartition(".")[0]
                    waiting.append((file.read_text(encoding="utf-8"), file, home))
    return found


@cache  # the notebooks of a study share most modules
def _imported(source: str, inside: str) -> tuple[str, ...]:
    """Every dotted name that may be a module; ``inside`` is the package that relative imports start from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = inside.split(".")[: len(inside.split(".")) - node.level + 1]
                base = ".".join([*home, *([base] if base else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


def _module_file(package: Path, parts: list[str]) -> Path | None:
    folder = package.joinpath(*parts)
    candidates = [folder / "__init__.py", *([folder.with_suffix(".py")] if parts else [])]
    return next((file for file in candidates if file.is_file()), None)


def made_by(parameters: config.Stage, module: str) -> dict[str, Any]:
    """What fixes the numbers of a stage that ``module`` runs, in JSON's types: parameters, data, code and versions."""
    digest = hashlib.sha256()
    for name, path in sorted(_closure([f"import {module}"], PACKAGE, PACKAGE, PRESENTATION).items()):
        digest.update(f"module\0{name}\0".encode() + path.read_bytes())
    return {
        "parameters": parameters.model_dump(exclude={"out", "resume_every"}),
        "data": data_hash(parameters),
        "code": digest.hexdigest(),
        "versions": environment()["versions"],
    }


def data_hash(parameters: config.Stage, known: dict[Path, bytes] | None = None) -> str:
    """SHA-256 (hex) of what a stage reads besides its parameters and the runs it depends on.

    The JSON files of a QA-FEEDBACK directory, the tables of an analysis, and the user's own model folders and feedback files
    (their names, sizes and the ends of each: whole weights would take minutes to read). Atlas and a hub id are
    identified by their parameters. ``known``: digests of files read before, which the runs of a study share.
    """
    try:
        return _data_hash(parameters.model_dump(), {} if known is None else known)
    except OSError as error:
        raise StoreError(
            f"{error.filename}: cannot be read ({error.strerror}); mend its permissions, or name another"
        ) from error


def _data_hash(values: dict[str, Any], known: dict[Path, bytes]) -> str:
    digest = hashlib.sha256(json.dumps([values.get("source"), values.get("data"), values.get("world_seed")]).encode())
    tables = sorted(resolve(values["data"]).glob("*.json")) if values.get("source") == "qa-feedback" else []
    tables += sorted(resolve(values["results"]).glob("*.csv*")) if "results" in values else []
    for file in tables:
        if file not in known:
            known[file] = hashlib.sha256(file.read_bytes()).digest()
        digest.update(file.name.encode() + b"\0" + known[file])
    for name in ("policy", "value_weights", "backbone", "reward_model", "feedback", "evaluator", "benchmarks"):
        path = resolve(str(values[name]).format(task=values.get("task"))) if values.get(name) else None
        for file in [path] if path and path.is_file() else sorted(path.rglob("*")) if path else []:
            if file.is_file():
                if file not in known:
                    known[file] = f"{file.stat().st_size}\0".encode() + _ends(file)
                digest.update(f"{name}\0{file.name}\0".encode() + known[file])
    return digest.hexdigest()


def _ends(file: Path, size: int = 1 << 20) -> bytes:
    """The first and the last ``size`` bytes: a new head stands in one of them, whatever the order of the tensors."""
    with file.open("rb") as source:
        digest = hashlib.sha256(source.read(size))
        source.seek(max(0, file.stat().st_size - size))
        digest.update(source.read())
    return digest.digest()


# --- results ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageRun:
    """A stage at work: its checked parameters and the folder it may fill."""

    parameters: config.Stage
    folder: Path
    started: float
    scratch: tempfile.TemporaryDirectory | None = field(default=None, repr=False)  # vanishes with this object

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


def start(parameters: config.Stage) -> StageRun:
    """Begin a stage: its clock, and its folder ``parameters.out`` (empty: a temporary one that vanishes with the object).

    A result that an earlier attempt left in the folder is removed, so that it cannot pass for this one's.
    """
    if not parameters.out:
        scratch = tempfile.TemporaryDirectory(prefix="paradox-")
        return StageRun(parameters, Path(scratch.name), time.perf_counter(), scratch)
    folder = resolve(parameters.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    return StageRun(parameters, folder, time.perf_counter())


def environment(device: str = "auto") -> dict[str, Any]:
    """Versions, device, threads and platform of this process, as stored beside every result."""
    torch = sys.modules.get("torch")  # never imported here: what has not loaded torch has not used a device
    gpu = torch is not None and device != "cpu" and torch.cuda.is_available()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": int(threads) if threads.isdigit() else None,
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


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # the reader's environment has no torch


def read_result(folder: Path) -> dict[str, Any]:
    """What :meth:`StageRun.finish` wrote; raises :class:`StoreError` where the stage has not finished."""
    return read_json(folder / "result.json")


# --- locks --------------------------------------------------------------------------------------------------------------------


def acquire(lock: IO[str]) -> bool:
    """Take the lock on an open file if nobody holds it; the kernel drops it when its last holder dies, however it dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held(path: Path) -> bool:
    """Whether somebody holds the lock on ``path`` now."""
    with contextlib.suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as lock:
        return not acquire(lock)
    return False


# --- files in one step --------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises :class:`StoreError` naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path}: does not exist, so its stage has not finished; run it first") from error
    except ValueError as error:
        raise StoreError(f"{path}: is not JSON ({error}); delete its folder and run the stage again") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as strict JSON (null for NaN and infinities), replacing ``path`` in one step."""
    write_text(path, json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write ``table`` as CSV without its index, replacing ``path`` in one step; a missing value is an empty field."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write ``text``, replacing ``path`` in one step: a reader sees the old file or the new one, whole."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    part.replace(path)


def copy(source: Path, target: Path) -> None:
    """Copy a file, replacing ``target`` in one step."""
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    with part.open("rb") as written:
        os.fsync(written.fileno())  # the record that follows must not reach the disk before it
    part.replace(target)


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types; a type that has no counterpart is left for :mod:`json` to refuse."""
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
