"""Why a planned run is to do: what differs from the finished run that answered the same question before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paradox_utils import files
from paradox_utils.study.plan import Run, describe, results_folder
from paradox_utils.study.tables import finished


def reasons(name: str, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Id → why the run is not finished, in words, for each run of the study ``name`` that is to do."""
    by_id = {run.id: run for run in runs}
    stale = [run for run in runs if not finished(name, run)]
    earlier = list(_records(name, by_id)) if stale else []
    return {run.id: _differences(run, _predecessor(run, earlier), by_id) for run in stale}


def _records(name: str, planned: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
    """The finished runs of the study that its plan no longer names, the latest first."""
    paths = files.resolve(results_folder(name)).glob("*/run.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.parent.name not in planned:
            yield files.read_json(path)


def _predecessor(run: Run, earlier: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The latest run of the same stage and labels; of several arms' labels, the first arm's."""
    return next((record for record in earlier if (record["stage"], record["labels"]) == (run.stage, run.labels)), None)


def _differences(run: Run, before: dict[str, Any] | None, planned: Mapping[str, Run]) -> list[str]:
    if before is None:
        return ["it was never finished"]
    found, made_anew = [], []
    for name, value in run.parameters.items():
        was = before["parameters"].get(name, "unset")
        need = next((need for need in run.needs if isinstance(value, str) and need in value), None)
        if need and isinstance(was, str) and was.rpartition("/")[2] == value.rpartition("/")[2]:
            if need not in was:
                made_anew.append(describe(planned[need]))
        elif name != "out" and was != value:
            found.append(f"parameter {name}: {was!r} → {value!r}")
    found += [f"parameter {name}: {was!r}, is gone" for name, was in before["parameters"].items() if name not in run.parameters]
    code = before.get("code", {})
    if changed := sorted(file for file in {*code, *run.code} if code.get(file) != run.code.get(file)):
        found.append(f"code: {', '.join(changed)}" if code else "code: its record does not say which file")
    if before["data_hash"] != run.data:
        found.append("data: what its parameters name holds something else")
    found += [f"needs {what}, which is made anew" for what in dict.fromkeys(made_anew)]
    return found or ["its record is gone, or was damaged"]
