"""Whether a page still shows what its code, parameters and data would show today, and the execution of those that do not.

A stored output says nothing about the code that made it, so a page carries a stamp: hashes of its code (the package modules it
imports included), of its parameters, of the data it reads, and of what it shows. A page whose stamp no longer fits is stale,
and a test fails.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from paradox_utils import config, files, identity, notebooks
from paradox_utils.files import FileError

WAY_OUT = "run `make pages`"


def pages() -> list[Path]:
    """The committed notebooks, in order."""
    return sorted((files.ROOT / "notebooks").glob("*.ipynb"))


def stamp(path: Path) -> dict[str, str]:
    """Hashes of a page's code, parameters and data, by which executing it again would show the same, and of its outputs."""
    given = parameters_of(path)
    parameters = given.model_dump(mode="json")
    return {
        "code": identity.page_code(path),
        "parameters": _digest([json.dumps(parameters, sort_keys=True).encode()]),
        "data": _digest(_contents(_data(type(given), parameters))),
        "outputs": _outputs(read_page(path)),
    }


def parameters_of(path: Path) -> config.Stage:
    """The parameters of a page: those of its schema, with the values that its cell tagged ``parameters`` gives."""
    return config.check(_schema(path), assigned(read_page(path), path), where=shown(path))


def _outputs(page: NotebookNode) -> str:
    """Of what a page shows: none stripped, none changed by hand. Text around it, and cells that show nothing, are not in it."""
    shown_by = [cell.outputs for cell in page.cells if cell.get("outputs")]
    outputs = [[dict(output) | {"execution_count": None} for output in own] for own in shown_by]
    return _digest([json.dumps(outputs, sort_keys=True).encode()])


def stale(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """The pages whose stored stamp does not fit, and what changed since: of code, parameters, data, outputs."""
    reasons = {}
    for path in paths:
        kept, current = read_page(path).metadata.get("paradox", {}), stamp(path)
        if changed := [name for name, value in current.items() if kept.get(name) != value]:
            reasons[path] = changed
    return reasons


def _schema(path: Path) -> type[config.Stage]:
    """The schema that a notebook checks its parameters against: the first argument of ``config.check_notebook``."""
    called = re.search(r"check_notebook\((?:\w+\.)*(\w+)", "\n".join(identity.cells(path, frozenset())))
    schema = {schema.__name__: schema for schema in config.STAGES.values()}.get(called[1] if called else "")
    if schema is None:
        raise FileError(f"{shown(path)}: no cell calls config.check_notebook(config.STAGE, globals()); add one")
    return schema


def assigned(notebook: NotebookNode, path: Path) -> dict[str, Any]:
    """Names and literal values of the cell tagged ``parameters``."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []))
    values = {}
    try:
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                values[ast.unparse(target)] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError) as error:
        raise FileError(f"{shown(path)}: its cell tagged `parameters` must give names plain values ({error})") from error
    return values


def _data(schema: type[config.Stage], parameters: Mapping[str, Any]) -> list[Path]:
    """What a page reads: the project's files that its parameters name, and the fixtures where it may start from one."""
    named = [files.resolve(value) for value in parameters.values() if isinstance(value, str) and value]
    if issubclass(schema, config.FeedbackParameters | config.RewardModel | config.PPO | config.Choose):
        named.append(files.ROOT / "fixtures")
    if issubclass(schema, config.Choose):
        named += sorted(files.ROOT.glob("configs/choose-*.yaml")) + sorted(files.ROOT.glob("results/recorded/choose-*"))
        named.append(files.ROOT / "results/recorded/benchmarks.csv")
    return [path for path in named if path.exists() and path.is_relative_to(files.ROOT)]


def _contents(paths: Iterable[Path]) -> Iterable[bytes]:
    for path in paths:
        for file in sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()):
            if "__pycache__" not in file.parts:
                yield file.relative_to(files.ROOT).as_posix().encode()
                yield identity.unix(file)


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def execute(paths: Iterable[Path]) -> None:
    """Run notebooks with their own parameters, clean them, stamp them, and put them in place of the old ones.

    A notebook that fails leaves its page as it was: papermill's error names the cell.
    """
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of a missing widget library, at tqdm's import
    for path in paths:
        before = stamp(path)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / path.name
            notebooks.execute(path, output, {}, Path(folder) / "log.txt")
            notebook = clean(nbformat.read(output, as_version=4))
        notebook.metadata["paradox"] = before | {"outputs": _outputs(notebook)}
        files.write_text(path, nbformat.writes(notebook) + "\n")
        files.say(f"executed {shown(path)}")


def clean(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from one execution to the next: timings, this machine's paths, progress bars, versions."""
    kept = {"paradox": notebook.metadata["paradox"]} if "paradox" in notebook.metadata else {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}, **kept})
    for cell in notebook.cells:
        for name in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if not _is_progress(output)]
            cell.outputs = [nbformat.from_dict(_without_paths(output)) for output in outputs]
    return notebook


def _is_progress(output: Mapping[str, Any]) -> bool:
    data = output.get("data", {})
    return (
        "\r" in output.get("text", "")
        or not output.get("text", "-").strip()  # what a bar that was cleared leaves
        or "<progress" in data.get("text/html", "")
        or any("widget-view" in kind for kind in data)
    )


def _without_paths(value: Any) -> Any:
    """Every text in a JSON value with the project's folder, the environment's and temporary ones made anonymous."""
    if isinstance(value, str):
        for prefix in (sys.prefix, sys.base_prefix):
            value = value.replace(f"{prefix}/", "<environment>/")
        value = value.replace(f"{files.ROOT}/", "").replace(str(files.ROOT), ".")
        return re.sub(re.escape(tempfile.gettempdir()) + r"/[^\s'\"<>)]+", "<temporary>", value)
    if isinstance(value, Mapping):
        return {key: item if key == "image/png" else _without_paths(item) for key, item in value.items()}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def read_page(path: Path) -> NotebookNode:
    """A page; raises :class:`FileError` where it cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise FileError(f"{shown(path)}: no readable notebook ({error}); restore it from the repository") from error


def shown(path: Path) -> str:
    """A path as messages name it: relative to the project where it lies in it."""
    return path.relative_to(files.ROOT).as_posix() if path.is_relative_to(files.ROOT) else str(path)
