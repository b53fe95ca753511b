"""Folders written in one step and checked before use, so that a killed run goes on from its last whole state.

A state is a folder ``PREFIXNUMBER``. It counts only with its mark, ``complete.json``: the size and SHA-256 of every other file,
written last. Whole files are hashed, about a second for each gigabyte, so that what a full disk, a power cut or a copy broke is
noticed however it broke. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paradox_utils.files import write_text

MARK = "complete.json"


def complete(folder: Path) -> None:
    """Write the mark of a folder whose other files are all there, in one step. Raises :class:`OSError`."""
    write_text(folder / MARK, json.dumps({name: [size, _sha256(folder / name)] for name, size in _sizes(folder).items()}))


def is_complete(folder: Path) -> bool:
    """Whether the folder has its mark and holds exactly the files that the mark names, each as it was."""
    return _fits(folder) and all(_sha256(folder / name) == digest for name, (_, digest) in _mark(folder).items())


def newest(parent: Path, prefix: str = "state-") -> Path | None:
    """The whole state of the highest number, None without one; warns of each broken one it passes by, and deletes it: it would
    count among the last ones."""
    for folder in reversed(_numbered(parent, prefix)):
        if is_complete(folder):
            return folder
        warnings.warn(f"{folder}: is not whole, so the run goes on from an earlier state, or from its start", stacklevel=2)
        shutil.rmtree(folder, ignore_errors=True)
    return None


def keep_last(parent: Path, count: int = 2, prefix: str = "state-") -> None:
    """Delete all but the last ``count`` states. A broken state counts for nothing: it is deleted too (by its mark and its
    sizes; contents are :func:`newest`'s to check), as is what an interrupted write left."""
    whole = [folder for folder in _numbered(parent, prefix) if _fits(folder)]
    for path in parent.glob(f"{prefix}[0-9]*"):
        if path.is_dir() and path not in whole[-count:]:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder ``target.part`` to fill; it becomes ``target`` at the end, in place of an old one.

    On an exception (a full disk, say) it is deleted, and an old ``target`` stays as it was.
    """
    part, old = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            target.replace(old)  # a folder cannot replace one that holds files
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def claim(parent: Path, made_by: Mapping[str, Any]) -> None:
    """Keep the states in ``parent`` only if they were made by the same: a run of other parameters or data starts afresh.

    ``made_by``: what fixes the run's numbers, in JSON's types.
    """
    record, written = parent / "made-by.json", json.dumps(made_by, sort_keys=True)
    if record.is_file() and record.read_text(encoding="utf-8", errors="replace") == written:
        return
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    write_text(record, written)


def _numbered(parent: Path, prefix: str) -> list[Path]:
    """The folders ``PREFIXNUMBER`` by number: a half-written ``PREFIXNUMBER.part`` is none."""
    numbers = {path: path.name.removeprefix(prefix) for path in parent.glob(f"{prefix}*") if path.is_dir()}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda path: int(numbers[path]))


def _fits(folder: Path) -> bool:
    """Whether the mark is there and names the files that are there, by their sizes."""
    mark = _mark(folder)
    return bool(mark) and {name: size for name, (size, _) in mark.items()} == _sizes(folder)


def _mark(folder: Path) -> dict[str, tuple[int, str]]:
    try:
        return {name: (int(size), str(digest)) for name, (size, digest) in json.loads((folder / MARK).read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # no mark, or not one of ours


def _sizes(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARK]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
