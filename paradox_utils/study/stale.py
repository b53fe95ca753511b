"""Why a planned run is to do: what differs from the finished run that answered the same question before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paradox_utils import files
from paradox_utils.study.plan import Run, describe, results_folder
from paradox_utils.study.tables import finished
from paradox_utils.threads import listed


def reasons(name: str, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Id → why the run is not finished, in words, for each run of the study ``name`` that is to do."""
    by_id = {run.id: run for run in runs}
    paths = [path for path in files.resolve(results_folder(name)).glob("*/run.json") if path.parent.name not in by_id]
    latest_first = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    earlier = [record for path in latest_first if (record := _record(path))]  # those that the plan no longer names
    found = {}
    for run in (run for run in runs if not finished(name, run)):
        same = [record for record in earlier if (record["stage"], _asked(record["labels"])) == (run.stage, _asked(run.labels))]
        before = min(same, key=lambda record: len(_differences(run, record, by_id)), default=None)  # of equals the latest
        found[run.id] = _differences(run, before, by_id) if before else ["it was never finished"]
    return found


def _record(path: Path) -> dict[str, Any] | None:
    """A run's record; None for one that is damaged, which the next call of the study removes."""
    with contextlib.suppress(files.FileError):
        return files.read_json(path)
    return None


def _asked(labels: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was asked, whatever its arm is called and states: that is told as a changed parameter."""
    return {name: value for name, value in labels.items() if name not in ("arm", "setting")}


def _files(value: Any) -> list[str]:
    """What a parameter's paths end in."""
    return [str(one).rpartition("/")[2] for one in listed(value)]


def _differences(run: Run, before: dict[str, Any], planned: Mapping[str, Run]) -> list[str]:
    found, made_anew = [], []
    for name, value in run.parameters.items():
        was = before["parameters"].get(name, "unset")
        needs = [need for need in run.needs if any(need in str(one) for one in listed(value))]
        if needs and _files(was) == _files(value):
            made_anew += [describe(planned[need]) for need in needs if not any(need in one for one in listed(was))]
        elif name != "out" and was != value:
            found.append(f"parameter {name}: {was!r} → {value!r}")
    found += [f"parameter {name}: {was!r}, is gone" for name, was in before["parameters"].items() if name not in run.parameters]
    code = before.get("code", {})
    if changed := sorted(file for file in {*code, *run.code} if code.get(file) != run.code.get(file)):
        found.append(f"code: {', '.join(changed)}")
    if before["data_hash"] != run.data:
        found.append("data: what its parameters name holds something else")
    found += [f"needs {what}, which is made anew" for what in dict.fromkeys(made_anew)]
    return found or ["its record is gone, or was damaged"]
