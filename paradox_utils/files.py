"""The project's root, files read whole and written in one step, JSON, locks, and lines for the terminal. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import math
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).resolve().parent
HUB_ID = re.compile(r"(?!.*(--|\.\.|\.git$))(\w([\w.-]{0,94}\w)?/)?\w([\w.-]{0,94}\w)?", re.ASCII)  # as the hub's client has it
ROOT = Path(os.environ.get("PARADOX_ROOT") or PACKAGE.parent).resolve()


class FileError(RuntimeError):
    """A file or folder that is not there or cannot be used; the message says what to do."""


def resolve(path: str | Path) -> Path:
    """``path``; a relative one is taken from the project root."""
    return ROOT / path


def for_task(name: str, task: str | None) -> str:
    """``name`` with the task in place of ``{task}``; other braces are its own."""
    return name.replace("{task}", task) if task else name


def lies(path: Path) -> Literal["", "file", "folder"]:
    """What lies at ``path``; nothing does at one that cannot be asked about, such as a name too long for the file system."""
    with contextlib.suppress(OSError):
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    return ""


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


def read_text(path: Path, way_out: str) -> str:
    """A text in UTF-8, without its byte-order mark; unpacked where it is a gzip file, whatever its name says.

    Raises :class:`FileError` naming the file and the ``way_out``.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(f"{path}: is not UTF-8 (line {line}: {error.reason}); save it as UTF-8, or {way_out}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileError(f"{path}: is a gzip file cut short or damaged ({error}); copy it again, or {way_out}") from error
    except FileNotFoundError as error:
        raise FileError(f"{path}: does not exist; {way_out}") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); mend that, or {way_out}") from error


def read_json(path: Path, kind: type = dict, way_out: str = "run its stage (again, in an empty folder)") -> Any:
    """A JSON object, or another ``kind`` of value; raises :class:`FileError` naming the file and the ``way_out``."""
    try:
        value = json.loads(read_text(path, way_out), object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:  # Python's own reader goes as deep as its stack
        raise FileError(f"{path}: is not JSON ({error}); {way_out}") from error
    if not isinstance(value, kind):
        wanted = {dict: "object", list: "list"}[kind]
        raise FileError(f"{path}: must hold a JSON {wanted}, but holds {type(value).__name__}; {way_out}")
    return value


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its names and values; ``ValueError`` for a name given twice, of which one value would be lost."""
    if len(made := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return made


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
