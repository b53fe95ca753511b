"""The table of results: what was measured, against what, on which machine, and whether it meets its target."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from paradox_utils import files

RECORDED = files.ROOT / "results" / "recorded" / "benchmarks.csv"
PACKAGES = ("torch", "transformers", "trl", "numpy")


@dataclass(frozen=True)
class Row:
    """One measure. ``ratio`` compares ``value`` with ``baseline`` so that more is better (faster, smaller), or is a share.

    ``target`` bounds ``ratio`` from below (``of`` = "ratio") or ``value`` from above (``of`` = "value"); None: there is none.
    """

    part: str
    measure: str
    value: float | str
    unit: str = ""
    baseline: float | None = None
    ratio: float | None = None
    target: float | None = None
    of: str = "ratio"

    def met(self) -> str:
        """``met``, ``missed``, or nothing where there is no target."""
        if self.target is None:
            return ""
        reached = self.ratio >= self.target if self.of == "ratio" else float(self.value) <= self.target
        return "met" if reached else "missed"


def faster(part: str, measure: str, ours: float, baseline: float, unit: str, target: float | None = None) -> Row:
    """A row for something of which less is better (seconds, bytes): the ratio is baseline ÷ ours."""
    return Row(part, measure, ours, unit, baseline, baseline / ours if ours else None, target)


def more(part: str, measure: str, ours: float, baseline: float, unit: str, target: float | None = None) -> Row:
    """A row for something of which more is better (episodes per second): the ratio is ours ÷ baseline."""
    return Row(part, measure, ours, unit, baseline, ours / baseline if baseline else None, target)


def spread(part: str, measure: str, ratios: Sequence[float]) -> list[Row]:
    """The lowest and the highest of the ratios of a comparison's turns, whose median another row has."""
    return [Row(part, f"{measure}, {name} ratio of a turn", of(ratios)) for name, of in (("lowest", min), ("highest", max))]


def tabulate(rows: Sequence[Row], device: str, threads: int, precision: str, size: str) -> pd.DataFrame:
    """Rows with what they were measured on: machine, versions, commit, date (UTC). ``size``: full, or quick."""
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    about = {"size": size, "threads": threads, "precision": precision, **machine(device), "commit": commit(), "date": when}
    lines = []
    for row in rows:
        line = asdict(row)
        bound, of = line.pop("target"), line.pop("of")
        sign = "≥" if of == "ratio" else "≤"
        line["target"] = "" if bound is None else f"{sign} {bound:g}"
        lines.append(line | {"met": row.met(), "device": device} | about)
    return pd.DataFrame(lines)


def machine(device: str) -> dict[str, str | int | None]:
    """Processor, cores, GPU, and versions."""
    gpu = None
    if device == "cuda":
        import torch

        gpu = torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"cpu": processor(), "cores": cores, "gpu": gpu, "python": platform.python_version()} | versions


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def commit() -> str:
    """The short git commit of the project, with ``+`` where tracked files differ from it; empty outside a repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=files.ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def merge(old: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    """``old`` with the rows of the same part, device and precision replaced by ``new``, in the order of parts."""
    if old is None or old.empty:
        return new
    key = ["part", "device", "precision"]
    replaced = set(new[key].itertuples(index=False, name=None))
    kept = old[[row not in replaced for row in old[key].itertuples(index=False, name=None)]]
    both = pd.concat([frame for frame in (kept, new) if len(frame)], ignore_index=True)
    return both.sort_values(key, kind="stable", ignore_index=True)


def record(new: pd.DataFrame, path: Path = RECORDED) -> pd.DataFrame:
    """Put ``new`` into the table at ``path`` and return the whole of it."""
    table = merge(pd.read_csv(path) if path.is_file() else None, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(path, table.assign(**{c: table[c].map(_short) for c in ("value", "baseline", "ratio")}))
    return table


def _short(value: object) -> object:
    """A number with four significant digits; anything else as it is."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value
    return "" if number != number else f"{number:.4g}"


def show(table: pd.DataFrame) -> str:
    """The table as text."""
    columns = ["part", "device", "precision", "measure", "value", "baseline", "unit", "ratio", "target", "met"]
    shown = table[columns].copy()
    for column in ("value", "baseline", "ratio"):
        shown[column] = shown[column].map(_short)
    return shown.fillna("").to_string(index=False)
