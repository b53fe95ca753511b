"""How a killed run goes on: from the last whole one of its states, folders written in one step and checked before use.

A state is a folder ``PREFIXNUMBER``. It counts only with its mark, ``complete.json``: the size of every other file, written
last, once those are on the disk. A file that is missing, cut or half written is noticed; a byte that flips is not.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from paradox_utils.files import write_text

if TYPE_CHECKING:
    from transformers import Trainer

MARK = "complete.json"
TRAINER = "checkpoint-"  # what transformers' Trainer calls its states


def complete(folder: Path) -> None:
    """Write the mark of a folder whose other files are all there, in one step. Raises :class:`OSError`."""
    sizes = _sizes(folder)
    for name in sizes:
        with (folder / name).open("rb") as written:
            os.fsync(written.fileno())
    write_text(folder / MARK, json.dumps(sizes))


def is_complete(folder: Path) -> bool:
    """Whether the folder has its mark and holds exactly the files that the mark names, each of its size."""
    try:
        return json.loads((folder / MARK).read_bytes()) == _sizes(folder)
    except (OSError, ValueError):
        return False  # no mark, or not a whole one


def newest(parent: Path, prefix: str = "state-") -> Path | None:
    """The whole state of the highest number, None without one; warns of each broken one it passes by, and deletes it: it would
    count among the last ones."""
    for folder in reversed(_numbered(parent, prefix)):
        if is_complete(folder):
            return folder
        warnings.warn(f"{folder}: is not whole, so the run goes on from an earlier state, or from its start", stacklevel=2)
        shutil.rmtree(folder, ignore_errors=True)
    return None


def keep_last(parent: Path, prefix: str = "state-") -> None:
    """Delete all but the last two states. A broken state counts for nothing: it is deleted too, as is what an interrupted write
    left."""
    whole = [folder for folder in _numbered(parent, prefix) if is_complete(folder)]
    for path in parent.glob(f"{prefix}[0-9]*"):
        if path.is_dir() and path not in whole[-2:]:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder ``target.part`` to fill; it becomes ``target`` at the end, in place of an old one.

    On an exception (a full disk, say) it is deleted, and an old ``target`` stays as it was.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)  # a folder cannot replace one that holds files
    part.replace(target)


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


class KeepStates(TrainerCallback):
    """Marks each state of a ``Trainer`` as whole once it is written, and keeps the last two of them."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102 (transformers' signature)
        if control.should_training_stop:
            control.should_save = False  # what comes next is the result

    def on_save(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102
        folder = Path(args.output_dir)
        written = folder / f"{TRAINER}{state.global_step}"
        (written / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing here reads
        complete(written)
        keep_last(folder, TRAINER)


def train(trainer: Trainer, made_by: Mapping[str, Any] | None) -> None:
    """Train to the end, from the last whole state in ``trainer``'s folder that the same left there (None: from the start).

    Killed at any moment and called again, it ends, on a CPU, with the same bits. Nothing is unpickled beyond what
    ``torch.load(weights_only=True)`` admits: tensors and plain containers.
    """
    folder, start = Path(trainer.args.output_dir), None
    if made_by is not None:
        claim(folder, made_by)
        start = newest(folder, TRAINER)
    trainer.add_callback(KeepStates())
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except Exception:
        keep_last(folder, TRAINER)  # half a state would hold on to the room that a full disk lacks
        raise


def _numbered(parent: Path, prefix: str) -> list[Path]:
    """The folders ``PREFIXNUMBER`` by number: a half-written ``PREFIXNUMBER.part`` is none."""
    numbers = {path: path.name.removeprefix(prefix) for path in parent.glob(f"{prefix}*") if path.is_dir()}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda path: int(numbers[path]))


def _sizes(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARK]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
