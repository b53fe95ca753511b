"""The book's pages: executed notebooks that know whether they are fresh, and the staging of a build.

A stored output says nothing about the code that made it, so a page carries a stamp: hashes of its code (the package modules it
imports included), of its parameters, and of the data it reads. A page whose stamp no longer fits is stale, and a test fails.
Nothing here changes a tracked file, except ``execute``, which rewrites notebooks.

    python -m paradox_utils.pages execute [NAME …]     run the named notebooks, or the stale ones, in place
    python -m paradox_utils.pages check                name the stale pages; exit 1 if there are any
    python -m paradox_utils.pages stage [--study DIR]  write _build/source; with --study, with that study's analysis page
    python -m paradox_utils.pages verdict [--study DIR]  print the verdict of the analysis page
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from paradox_utils import config, files, hashes

ANALYSIS = "05-accuracy-and-performance.ipynb"
WAY_OUT = "run `make pages`"


class PageError(RuntimeError):
    """A page that cannot be read, stamped or staged; the message says which, why, and the way out."""


# --- stamps -----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """The committed notebooks, in order."""
    return sorted((files.ROOT / "notebooks").glob("*.ipynb"))


def stamp(path: Path) -> dict[str, str]:
    """Hashes of a page's code, parameters and data: equal stamps mean that executing it again would show the same."""
    notebook = _read(path)
    schema = _schema(notebook, path)
    parameters = config.check(schema, _assigned(notebook, path), where=_shown(path)).model_dump(mode="json")
    return {
        "code": hashes.code_hash(path, presentation=True),
        "parameters": _digest([json.dumps(parameters, sort_keys=True).encode()]),
        "data": _digest(_contents(_data(schema, parameters))),
    }


def stale(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """The pages whose stored stamp does not fit, and what changed since: of code, parameters, data."""
    reasons = {}
    for path in paths:
        kept, current = _read(path).metadata.get("paradox", {}), stamp(path)
        if changed := [name for name, value in current.items() if kept.get(name) != value]:
            reasons[path] = changed
    return reasons


def _schema(notebook: NotebookNode, path: Path) -> type[config.Stage]:
    """The schema that a notebook checks its parameters against: the first argument of ``config.check_notebook``."""
    for call in (node for cell in _code(notebook) for node in ast.walk(_parse(cell.source)) if isinstance(node, ast.Call)):
        if ast.unparse(call.func).endswith("check_notebook") and call.args:
            name = ast.unparse(call.args[0]).rsplit(".", 1)[-1]
            if schema := {s.__name__: s for s in config.STAGES.values()}.get(name):
                return schema
    raise PageError(f"{_shown(path)}: no cell calls config.check_notebook(config.STAGE, globals()); add one after `parameters`")


def _assigned(notebook: NotebookNode, path: Path) -> dict[str, Any]:
    """Names and literal values of the cell tagged ``parameters``."""
    cells = [cell for cell in _code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise PageError(f"{_shown(path)}: {len(cells)} cells are tagged `parameters`; tag exactly one")
    values = {}
    for node in ast.parse(cells[0].source).body:
        if isinstance(node, ast.Assign) and node.value and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            values[node.target.id] = ast.literal_eval(node.value)
    return values


def _data(schema: type[config.Stage], parameters: Mapping[str, Any]) -> list[Path]:
    """What a page reads: the project's files that its parameters name, and the fixtures where it may start from one."""
    named = [files.resolve(value) for value in parameters.values() if isinstance(value, str) and value]
    fixture = (
        []
        if issubclass(schema, config.Analysis | config.Design | config.Supervised | config.Published | config.Cost)
        else [files.ROOT / "fixtures"]
    )
    return [path for path in (*named, *fixture) if path.exists() and path.is_relative_to(files.ROOT)]


def _contents(paths: Iterable[Path]) -> Iterable[bytes]:
    for path in paths:
        for file in sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()):
            if "__pycache__" not in file.parts:
                yield file.relative_to(files.ROOT).as_posix().encode()
                yield file.read_bytes()


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


# --- execution --------------------------------------------------------------------------------------------------------


def execute(paths: Iterable[Path]) -> None:
    """Run notebooks with their own parameters, clean them, stamp them, and put them in place of the old ones.

    A notebook that fails leaves its page as it was: papermill's error names the cell.
    """
    import papermill  # imports the notebook machinery, which `check` and `stage` do without

    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of a missing widget library, at tqdm's import
    for path in paths:
        before = stamp(path)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / path.name
            papermill.execute_notebook(path, output, cwd=files.ROOT, kernel_name="python3", progress_bar=sys.stderr.isatty())
            notebook = clean(nbformat.read(output, as_version=4))
        notebook.metadata["paradox"] = before
        _write(path, notebook)
        print(f"executed {_shown(path)}", flush=True)


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


# --- the book ---------------------------------------------------------------------------------------------------------


def stage(study: Path | None = None) -> Path:
    """Copy the book's sources to ``_build/source`` and write the pages that come from code; returns that folder.

    ``study``: a results folder whose executed analysis notebook takes the place of the committed one.
    """
    root, target = files.ROOT, files.ROOT / "_build" / "source"
    analysis = _analysis(study)  # before anything is removed: a missing study must not cost the last build
    shutil.rmtree(root / "_build", ignore_errors=True)  # never yesterday's page in today's book
    shutil.copytree(root / "book", target / "book", ignore=shutil.ignore_patterns("__pycache__"))
    (target / "notebooks").mkdir()
    for page in pages():
        notebook = clean(_read(analysis if page.name == ANALYSIS else page))
        nbformat.write(notebook, target / "notebooks" / page.name)
    shutil.copy(root / "_toc.yml", target)
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    settings["parse"]["myst_substitutions"] = published_facts(root / "book" / "published")
    (target / "_config.yml").write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    (target / "book" / "parameters.md").write_text(parameter_page(), encoding="utf-8")
    return target


def verdict(study: Path | None = None) -> str:
    """The verdict that the analysis page computed: its output glued as ``verdict``."""
    path = _analysis(study)
    for output in (output for cell in _code(_read(path)) for output in cell.outputs):
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == "verdict":
            data = {kind.removeprefix("application/papermill.record/"): text for kind, text in output["data"].items()}
            return str(ast.literal_eval(data["text/plain"]))
    raise PageError(f"{_shown(path)}: holds no verdict; execute it again ({WAY_OUT}, or the study)")


def _analysis(study: Path | None) -> Path:
    path = files.ROOT / "notebooks" / ANALYSIS if study is None else files.resolve(str(study)) / ANALYSIS
    if not path.is_file():
        raise PageError(f"{_shown(path)}: there is no such page; run the study first (`make study CONFIG=configs/NAME.yaml`)")
    return path


def parameter_page() -> str:
    """Every parameter of every stage and of a config file, as a page of tables written from :mod:`paradox_utils.config`."""
    shared = [config.Source, config.Stage]
    read, other = ([f"`{k}`" for k, v in config.STAGES.items() if issubclass(v, config.Source) == has] for has in (True, False))
    lines = [
        "# Every parameter",
        "",
        "This page is written from `paradox_utils/config.py` each time the book is built; names and bounds live there.",
        "A value outside the bounds, a wrong type or an unknown name is refused before anything runs.",
        "",
        "## Shared by all stages that read questions",
        "",
        f"{', '.join(read)} take these; {', '.join(other)} take `out` alone of them.",
        "",
        *_table(config.Source, config.Source.model_fields),
    ]
    for name, schema in config.STAGES.items():
        own = [f for f in schema.model_fields if not any(_same(schema, base, f) for base in shared)]
        lines += ["", f"## Stage `{name}`", "", _first_sentence(schema), "", *_table(schema, own)]
    lines += ["", "### The preset `as-published`", "", "`preset: as-published` sets these; a value given beside it wins.", ""]
    lines += ["| parameter | default | as published |", "|---|---|---|"]
    defaults = config.PPO().model_dump()
    lines += [f"| `{k}` | {_code_span(defaults[k])} | {_code_span(v)} |" for k, v in config.AS_PUBLISHED.items()]
    for title, schema in {"## A config file": config.Study, "### One of its `arms`": config.Arm}.items():
        lines += ["", title, "", _first_sentence(schema), "", *_table(schema, schema.model_fields)]
    return "\n".join(lines) + "\n"


def _table(schema: type[config.Parameters], names: Iterable[str]) -> list[str]:
    rows = ["| parameter | allowed | meaning |", "|---|---|---|"]
    properties = schema.model_json_schema()["properties"]
    for name in names:
        field, words = properties[name], config.describe(schema, name)
        meaning = field.get("description", "")
        words = words.removesuffix(f": {meaning}") if meaning else words
        default = ""
        if "default" in field:
            words, default = words.removesuffix(f", default {field['default']!r}"), f"; default {_code_span(field['default'])}"
        words = re.sub(r"'([^']*)'", r"`\1`", words)  # typographic quotes would not survive copying
        rows.append(f"| `{name}` | {_cell(words)}{default} | {_cell(meaning)} |")
    return rows


def _same(schema: type[config.Parameters], base: type[config.Parameters], name: str) -> bool:
    return name in base.model_fields and config.describe(schema, name) == config.describe(base, name)


def _first_sentence(schema: type[config.Parameters]) -> str:
    text = " ".join((schema.__doc__ or "").split("\n\n")[0].split())
    return text.split(": ", 1)[-1][:1].upper() + text.split(": ", 1)[-1][1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _code_span(value: Any) -> str:
    if value is None or value == "":
        return "unset" if value is None else "(empty)"
    return f"`{_cell(value if isinstance(value, str) else json.dumps(value))}`"


def published_facts(folder: Path) -> dict[str, str]:
    """What the prose says of the paper's figures: :func:`paradox_utils.analysis.published_text.facts` of the tables of
    ``folder``."""
    from paradox_utils.analysis import published, published_text

    try:
        return published_text.facts(published.load_published(folder))
    except published.PublishedError as error:
        raise PageError(str(error)) from error


# --- small helpers and the command line -------------------------------------------------------------------------------


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise PageError(f"{_shown(path)}: is not a readable notebook ({error})") from error


def _write(path: Path, notebook: NotebookNode) -> None:
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(path)


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _parse(source: str) -> ast.Module:
    """A cell's syntax tree; lines of IPython's own (``%magic``, ``!command``) are left out."""
    return ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))


def _shown(path: Path) -> str:
    return path.relative_to(files.ROOT).as_posix() if path.is_relative_to(files.ROOT) else str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m paradox_utils.pages", description="The book's pages.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("execute", help="run the named notebooks, or the stale ones").add_argument("names", nargs="*")
    commands.add_parser("check", help="name the stale pages")
    for name, text in {
        "stage": "write the sources of a build to _build/source",
        "verdict": "print the computed verdict",
    }.items():
        commands.add_parser(name, help=text).add_argument("--study", type=Path, help="a results folder: results/NAME")
    given = parser.parse_args(arguments)
    try:
        if given.command == "execute":
            chosen = [p for p in pages() if not given.names or any(name in (p.name, p.stem) for name in given.names)]
            if unknown := set(given.names) - {name for p in chosen for name in (p.name, p.stem)}:
                known = ", ".join(p.stem for p in pages())
                raise PageError(f"no page {', '.join(sorted(unknown))}; there are {known}")
            execute(chosen if given.names else stale(chosen))
        elif given.command == "check":
            reasons = stale(pages())
            for path, changed in reasons.items():
                print(f"{_shown(path)}: its {', '.join(changed)} changed since it was executed; {WAY_OUT}", file=sys.stderr)
            return int(bool(reasons))
        elif given.command == "stage":
            print(f"staged {_shown(stage(given.study))}")
        else:
            print(verdict(given.study))
    except (PageError, config.ParameterError, files.FileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
