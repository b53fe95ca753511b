"""The project's root, files written in one step, JSON, locks, and lines for the terminal. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("PARADOX_ROOT") or PACKAGE.parent).resolve()


class FileError(RuntimeError):
    """A run folder, notebook or result that is not there or cannot be used; the message says what to do."""


def resolve(path: str | Path) -> Path:
    """``path``; a relative one is taken from the project root."""
    return ROOT / path


def for_task(name: str, task: str | None) -> str:
    """``name`` with the task in place of ``{task}``; other braces are its own."""
    return name.replace("{task}", task) if task else name


def snapshots(model: str) -> list[Path]:
    """The folders in the hub's cache on this machine that hold the model of this hub id, if it is there."""
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface", "hub"))
    return sorted((hub.expanduser() / f"models--{model.replace('/', '--')}" / "snapshots").glob("*"))


def say(line: str) -> None:
    """Print a line at once and whole, as several processes print side by side; "?" stands for what the terminal cannot show.

    It never fails: one whose terminal is gone goes on.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        print(line.encode(encoding, "replace").decode(encoding) + "\n", end="", flush=True)


def caches() -> dict[str, str]:
    """Where libraries keep their caches and settings if the home folder takes none, as variables of the environment."""
    home = Path(os.environ.get("HOME") or "/")
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=home):  # what permissions say is not all: it tries
        return {}
    own, hub = str(ROOT / ".snakemake" / "home"), home / ".cache" / "huggingface" / "hub"
    moved = {"XDG_CACHE_HOME": own, "XDG_CONFIG_HOME": own} | ({"HF_HUB_CACHE": str(hub)} if hub.is_dir() else {})
    return {name: folder for name, folder in moved.items() if name not in os.environ}


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises :class:`FileError` naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(f"{path}: does not exist, so its stage has not finished; run it first") from error
    except ValueError as error:
        raise FileError(f"{path}: is not JSON ({error}); delete its folder and run the stage again") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` as strict JSON (null for NaN and infinities), replacing ``path`` in one step."""
    write_text(path, json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write ``table`` as CSV without its index, replacing ``path`` in one step; a missing value is an empty field."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Write ``text``, replacing ``path`` in one step: a reader sees the old file or the new one, whole."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """:func:`write_text` for bytes."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())  # what is written after it must not reach the disk before it
    part.replace(path)


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
