"""What identifies code and data: hashes that tell whether a run, a state or a page is still what would be made today."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from paradox_utils import config
from paradox_utils.files import PACKAGE, FileError, resolve
from paradox_utils.results import environment

# Modules that no result depends on: an edit to them retrains nothing. They look at finished runs, write
# results down, or say what is in a run's resolved parameters, which its id holds already.
PRESENTATION = frozenset({"analysis", "figures", "config", "files", "results", "hashes"})


def code_hash(notebook: Path, *, presentation: bool, package: Path | None = None) -> str:
    """SHA-256 (hex) over the code a notebook runs.

    That is its code cells, without the one tagged ``parameters``, and every module of the package in their import closure
    (read statically, imports inside functions included). ``presentation=False`` leaves out the :data:`PRESENTATION` modules
    and the cells tagged ``figure``. Raises :class:`FileError` for a notebook that is missing or not Python.
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
        raise FileError(f"{notebook}: no readable notebook ({error!r}); restore it from the repository") from error
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
            raise FileError(f"{path}: is not Python (line {error.lineno}: {error.msg})") from error
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


def made_by(parameters: config.Stage, stage: str) -> dict[str, Any]:
    """What fixes the numbers of a ``stage``, in JSON's types: parameters, data, code and versions."""
    digest = hashlib.sha256()
    for name, path in sorted(_closure([f"import paradox_utils.stages.{stage}"], PACKAGE, PACKAGE, PRESENTATION).items()):
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
        raise FileError(
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
