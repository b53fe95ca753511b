"""What identifies a run, a state or a page: the code that can change its numbers, and its data. Imports no torch.

A stage declares the makers whose code can change what it leaves (:data:`MAKERS`; a test holds that to what it imports).
Comments and docstrings are no code. What ``config`` says is in a run's resolved parameters, what ``files`` and ``results``
write down is made by others, and a run's record says its threads, so an edit to them, to prose, a figure, an analysis or
another stage renames no run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import json
import platform
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from paradox_utils import config
from paradox_utils.files import HUB_ID, PACKAGE, ROOT, FileError, for_task, lies, read_json, resolve, snapshots
from paradox_utils.threads import JUDGES, MODELS, listed

PACKAGES = ("torch", "transformers", "trl", "numpy")
# The notebook of each stage, and the files and folders of the package whose code can change its numbers.
NOTEBOOKS = {
    "supervised": "notebooks/02-supervised-policy.ipynb",
    "feedback": "notebooks/01-data.ipynb",
    "reward_model": "notebooks/03-reward-model.ipynb",
    "ppo": "notebooks/04-ppo.ipynb",
}
MAKERS: dict[str, tuple[str, ...]] = {
    "supervised": ("states.py", "data", "policies", "stages/supervised.py"),
    "feedback": ("data", "policies", "rewards/examples.py", "stages/feedback.py"),
    "reward_model": ("states.py", "data", "policies", "rewards", "stages/reward_model.py"),
    "ppo": ("states.py", "data", "policies", "rewards", "ppo", "stages/ppo.py"),
}
SHOWS = frozenset({"parameters", "injected-parameters", "figure", "finding"})  # tags of cells that change no stored number


def code_of(stage: str) -> dict[str, str]:
    """The digest (hex) of each file that the stage declares, and of the cells of its notebook that make numbers.

    Raises :class:`FileError` for a notebook that is missing or not Python.
    """
    notebook = NOTEBOOKS[stage]
    files = [file for part in MAKERS[stage] for file in sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / part]]
    made = {file.relative_to(PACKAGE).as_posix(): _digest(_stripped(file.read_text(encoding="utf-8"))) for file in files}
    return made | {notebook: _digest(_stripped("\n".join(cells(resolve(notebook), SHOWS)), notebook))}


def total(digests: dict[str, str]) -> str:
    """One digest (hex) of several named ones."""
    return _digest(json.dumps(digests, sort_keys=True))


def made_by(parameters: config.Stage) -> dict[str, Any]:
    """What fixes the numbers of a stage, in JSON's types: parameters, data, code and versions."""
    stage = next(name for name, schema in config.STAGES.items() if type(parameters) is schema)
    return {
        "parameters": parameters.model_dump(exclude={"out", "resume_every"}),
        "data": data_hash(parameters),
        "code": total(code_of(stage)),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Python's version, and those of the packages that can change a number."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # the reader's environment has no torch


def commit() -> str:
    """The commit of the code that runs here, with ``+`` where tracked files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]  # no tag's name, the whole hash
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def page_code(notebook: Path) -> str:
    """A digest (hex) of the code a page runs: its cells but that tagged ``parameters``, and what of the package they import.

    Imports are followed as written, those inside functions included. Raises :class:`FileError` as :func:`code_of` does.
    """
    source = "\n".join(cells(notebook, frozenset({"parameters", "injected-parameters"})))
    return total(reached(source, notebook.name) | {"cells": _digest(_stripped(source, notebook.name))})


def reached(source: str, where: str) -> dict[str, str]:
    """The digest (hex) of each module of the package that ``source`` imports, directly or not."""
    found = imported(source, where)
    return {name: _digest(_stripped(path.read_text(encoding="utf-8"), str(path))) for name, path in found.items()}


def cells(notebook: Path, skipped: frozenset[str]) -> list[str]:
    """The code cells of a notebook that have none of the tags ``skipped``, as Python: IPython's own lines are left out.

    Raises :class:`FileError` for one that cannot be read, or in which papermill's parameters would not take effect.
    """
    content = read_json(notebook, way_out="restore it from the repository")
    try:
        code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        coded = [(set(cell["metadata"].get("tags", [])), "".join(cell["source"])) for cell in code]
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{notebook}: no readable notebook ({error!r}); restore it from the repository") from error
    checked = next((place for place, (_, source) in enumerate(coded) if "check_notebook(" in source), len(coded))
    tagged = [place for place, (tags, _) in enumerate(coded) if "parameters" in tags]
    if len(tagged) != 1 or tagged[0] > checked or any("injected-parameters" in tags for tags, _ in coded):
        raise FileError(
            f"{notebook}: must have one cell tagged `parameters`, before that of check_notebook, and none tagged "
            "`injected-parameters`, or what a study or papermill sets would not take effect; restore it from the repository"
        )
    lines = [source.splitlines() for tags, source in coded if not skipped & tags]
    return ["\n".join(line for line in cell if not line.lstrip().startswith(("%", "!"))) for cell in lines]


def imported(source: str, where: str) -> dict[str, Path]:
    """Dotted name → file of every module of the package that ``source`` imports, directly or not."""
    found: dict[str, Path] = {}
    waiting = [(source, where)]
    while waiting:
        for name in _names(*waiting.pop()):
            parts = name.split(".")
            if parts[0] != PACKAGE.name:
                continue
            for stop in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b as well
                module, folder = ".".join(parts[:stop]), PACKAGE.joinpath(*parts[1:stop])
                file = next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.is_file()), None)
                if file is not None and module not in found:
                    found[module] = file
                    waiting.append((file.read_text(encoding="utf-8"), str(file)))
    return found


@cache  # most modules are asked for again and again
def _names(source: str, where: str) -> list[str]:
    """Every dotted name that a source imports and that may be a module."""
    names: list[str] = []
    for node in ast.walk(_parsed(source, where)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@cache  # asked for the names it imports, and for its docstrings
def _parsed(source: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise FileError(f"{where}: is not Python (line {error.lineno}: {error.msg})") from error


@cache
def _stripped(source: str, where: str = "") -> str:
    """Python without comments, docstrings and blank lines; text, not a syntax tree, so that it is the same for every Python."""
    lines = source.splitlines()
    for node in ast.walk(_parsed(source, where)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            text = node.body[0]
            lines[text.lineno - 1 : text.end_lineno] = [""] * (text.end_lineno - text.lineno + 1)
    quoted: set[int] = set()  # rows that end inside a string: its blank lines, and blanks at their ends, are code
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT":
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
        elif kind.endswith("STRING_START"):  # an f-string is one token up to Python 3.11, and many from there
            opened.append(token.start[0])
        elif kind == "STRING" or kind.endswith("STRING_END"):
            quoted |= set(range(token.start[0] if kind == "STRING" else opened.pop(), token.end[0]))
    numbered = enumerate(lines, 1)
    return "\n".join(line if row in quoted else line.rstrip() for row, line in numbered if row - 1 in quoted or line.strip())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def data_hash(parameters: config.Stage, known: dict[Path, bytes] | None = None) -> str:
    """SHA-256 (hex) of what a stage reads besides its parameters and the runs it depends on.

    The JSON and XML files of a directory of people's feedback, the tables of an analysis, and the user's own model folders and
    feedback files (their names, sizes and the ends of each: whole weights would take minutes to read); of a choice, the user's
    responses and scores whole. Atlas and a hub id are identified by their parameters. ``known``: digests of files read before,
    which the runs of a study share.
    """
    values, known = parameters.model_dump(), {} if known is None else known
    digest = hashlib.sha256(json.dumps([values.get("source"), values.get("data"), values.get("world_seed")]).encode())
    try:
        for label, file, content in _read(values):
            if file not in known:
                known[file] = content(file)
            digest.update(f"{label}\0".encode() + known[file])
    except OSError as error:
        raise FileError(
            f"{error.filename}: cannot be read ({error.strerror}); mend its permissions, or name another"
        ) from error
    return digest.hexdigest()


def _read(values: dict[str, Any]) -> Iterator[tuple[str, Path, Callable[[Path], bytes]]]:
    """Label, path, and what stands for the content, of each file that a stage of these parameters reads."""
    people = resolve(values["data"]) if values.get("source", "atlas") not in config.WITH_ORACLE else None
    tables = [] if people is None else sorted((*people.glob("*.json"), *people.glob("*.xml")))
    tables += sorted(resolve(values["results"]).glob("*.csv*")) if "results" in values else []
    for file in tables:
        yield file.name, file, _whole
    for name, path in ((name, resolve(model)) for name, _, model in named(values)):
        content = _whole if "candidates" in values and path.is_file() else _ends
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                yield f"{name}\0{file.name}", file, content


def named(values: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Parameter, its value, and name of each model or file that a stage of these parameters reads: its path, or its hub id."""
    unread = {"reward_model"} if values.get("reward", "model") != "model" else set()  # a control has none
    chosen = values.get("candidates", {}) | {"judge": values.get("judge") or {}}
    for which, candidate in chosen.items():
        yield from ((which, one, one) for kind in ("model", "scores") if (one := candidate.get(kind)))
    for name in (*MODELS, "feedback", "benchmarks", "prompts", "responses", "judgement", "held_out"):
        task = values.get("task") if name in JUDGES else None  # other names are taken as they are
        for value in listed(values.get(name)) if name not in unread else []:
            if value and isinstance(value, str):  # `prompts` is also a number of them
                yield name, value, for_task(value, task)


def absent(name: str, model: str) -> str:
    """Why the ``model`` of the parameter ``name`` cannot be read, and what to do; empty if it may be there.

    What looks like a hub id, and does not start in a folder of the project, may be one. A reward model or an evaluator must be
    in the hub's cache then: a study reads it after hours of other runs.
    """
    path = resolve(model)
    if found := lies(path):
        return "is a file; name the folder of a model" if found == "file" else ""
    if HUB_ID.fullmatch(model) and not lies(resolve(model.split("/")[0])):
        if name not in JUDGES or snapshots(model):
            return ""
        return f"is neither a folder nor a model in the hub's cache; mend the path, or run `hf download {model}` first"
    return f"there is no folder {path}; mend the path, which starts at the project's folder"


def _whole(file: Path) -> bytes:
    return hashlib.sha256(unix(file)).digest()


def unix(file: Path) -> bytes:
    """What a file holds, its lines ended as on Unix: git may have written them another way."""
    return file.read_bytes().replace(b"\r\n", b"\n")


def _ends(file: Path) -> bytes:
    """Size, first and last megabyte: a new head stands in one of them, whatever the order of the tensors."""
    size = file.stat().st_size
    with file.open("rb") as source:
        digest = hashlib.sha256(source.read(2**20))
        source.seek(max(0, size - 2**20))
        digest.update(source.read())
    return f"{size}\0".encode() + digest.digest()
