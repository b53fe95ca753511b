"""What staging adds to a notebook: numbers and sources of figures and tables, and at its foot how to run it again."""

from __future__ import annotations

import functools
import html
import json
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from paradox_utils import files
from paradox_utils.analysis.tables import BOOKS
from paradox_utils.pages.citation import bibtex

PREFIX = "application/papermill.record/"  # of what is shown on another page
CHECK = "# NBVAL_CHECK_OUTPUT"
ANALYSIS = "05-accuracy-and-performance"
PERCENT, MINUS = re.compile(r"(?<=\d) %"), re.compile(r"(?<![\w.)\]-])-(?=\d)")
OWN = "your-run"  # the page of a reader's own study, which the notebook ANALYSIS made


def annotate(notebook: NotebookNode, page: str, given: Mapping[str, Any], counts: Counter[str], data: Path) -> None:
    """Number a page's figures and tables, write their data to the folder ``data``, and say below each where it comes from.

    ``page``: its name; ``given``: its parameters, among which are the folders of results it reads; ``counts``: of the pages
    before it.
    """
    recorded = provenance(given)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if not (about := output.get("metadata", {}).get("paradox")):
            continue
        counts[about["kind"]] += 1
        prefix = "" if "text/html" in output["data"] else PREFIX
        number = f'<span class="figure-number">{about["kind"]} {counts[about["kind"]]}</span> '
        text = output["data"][f"{prefix}text/html"].replace("<figcaption>", f"<figcaption>{number}", 1)
        csv = output["data"].pop(f"{prefix}text/csv", None)
        if csv is not None:
            files.write_text(data / f"{about['name']}.csv", csv)
        said = " · ".join(_source(about, csv, page, recorded, data))
        output["data"][f"{prefix}text/html"] = text.replace("\n</figure>", f'\n<p class="source">{said}</p>\n</figure>')


def _source(
    about: Mapping[str, str], csv: str | None, page: str, recorded: Mapping[str, dict[str, Any]], data: Path
) -> Iterator[str]:
    """The parts of the line below a figure."""
    if csv is not None:
        yield f'<a href="../data/{about["name"]}.csv" download>Data</a>'
    yield f'<a href="../notebooks/{page}.ipynb" download>Notebook</a>'
    ids = about["runs"].split() or _ids(csv or "")
    if known := [recorded[run] for run in ids if run in recorded]:
        yield f'<a href="../data/{_runs(known, ids, about["name"], data)}" download>{_counted(known)}</a>'
    again = "make study CONFIG=configs/NAME.yaml" if page == OWN else f"python -m paradox_utils.pages execute {page}"
    yield f"Again: <code>{again}</code>"


def _ids(csv: str) -> list[str]:
    """Ids of runs in a table's own column."""
    head, *rows = csv.rstrip("\n").split("\n")
    place = head.split(",").index("id") if "id" in head.split(",") else None
    return [] if place is None else sorted({row.split(",")[place] for row in rows})


def _runs(known: list[dict[str, Any]], ids: list[str], name: str, data: Path) -> str:
    """Write who made the runs of a figure; the file's name."""
    rows = [",".join(str(run[key]) for key in ("id", "study", "commit", "device")) for run in known]
    files.write_text(data / f"{name}-runs.csv", "\n".join(["id,study,commit,device", *rows]) + "\n")
    return f"{name}-runs.csv"


def _counted(known: list[dict[str, Any]]) -> str:
    """Of each study how many runs, of which commit and day, on what."""
    groups = Counter((run["study"], run["commit"], run["device"]) for run in known)
    return "; ".join(
        f"{count} run{'s' * (count > 1)} of the study {html.escape(study)} ({_commit(commit)}, {device})"
        for (study, commit, device), count in groups.items()
    )


def _commit(named: str) -> str:
    """A commit with its day, and that tracked files differed from it where a ``+`` says so."""
    commit = named.removesuffix("+")
    return f"commit {commit[:8]}{_day(commit)}" + (" and changes beyond it" if named != commit else "")


def _day(commit: str) -> str:
    """When a commit was made, where this is a clone that knows it."""
    asked = ["git", "-C", str(files.ROOT), "show", "--no-patch", "--format=%cs", commit]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return f" of {found.stdout.strip()}" if found.returncode == 0 else ""


def provenance(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Id → what is known of each run of the studies that a page's parameters name, and of the recorded ones."""
    named = [files.resolve(value) for value in given.values() if isinstance(value, str) and value]
    found: dict[str, dict[str, Any]] = {}
    for folder in (*named, *sorted(files.resolve(BOOKS).glob("*"))):
        if (folder / "provenance.json").is_file():
            record = _record(folder / "provenance.json")
            found |= {run["id"]: run | {"study": record["study"]} for run in record["runs"] if run["id"] not in found}
    return found


@functools.cache  # every page asks for it
def _record(path: Path) -> dict[str, Any]:
    return files.read_json(path)


def trim(notebook: NotebookNode) -> None:
    """Keep what answers: the code of a figure or a table behind a click, no code of a sentence, and nothing of cells that only
    prepare or check; parameters stand at the page's foot. Of a cell tagged ``hide-output``, what it shows is behind the click,
    called as its metadata's ``click`` says, else "Numbers"."""
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        tags = cell.metadata.setdefault("tags", [])
        if cell.source.startswith(CHECK) or not any(_shows(output) for output in cell.outputs):
            tags.append("remove-cell")
        elif "hide-output" in tags:
            tags.append("remove-input")
            said = cell.metadata.get("click", "Numbers")
            cell.metadata["mystnb"] = {"code_prompt_show": said, "code_prompt_hide": said}
        else:
            drawn = any("text/html" in output.get("data", {}) for output in cell.outputs)
            tags.append("hide-input" if drawn else "remove-input")


def typeset(notebook: NotebookNode) -> None:
    """A true minus before the numbers of computed sentences, and no percent sign that a line could begin with."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = PERCENT.sub("%", cell.source)
        for output in cell.get("outputs", []):
            for kind, text in output.get("data", {}).items():
                if kind.endswith(("text/html", "text/markdown", "text/plain")):
                    output["data"][kind] = PERCENT.sub("%", text if kind.endswith("html") else MINUS.sub("−", text))


def _shows(output: Mapping[str, Any]) -> bool:
    return not any(kind.startswith(PREFIX) for kind in output.get("data", {}))


def as_own(notebook: NotebookNode) -> None:
    """Make a study's analysis a page beside the committed one: its own parameters and title, figures of other names."""
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    if injected:
        notebook.cells = [cell for cell in notebook.cells if "parameters" not in cell.metadata.get("tags", [])]
        injected[0].metadata["tags"] = ["parameters"]
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        cell.source = re.sub(r"^# .*", "# Your run", cell.source).replace("](#", "](#your-")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if about := output.get("metadata", {}).get("paradox"):
            old, about["name"] = about["name"], f"your-{about['name']}"
            for kind in [kind for kind in output["data"] if kind.endswith("text/html")]:
                output["data"][kind] = output["data"][kind].replace(f'id="{old}"', f'id="{about["name"]}"', 1)


def foot(notebook: NotebookNode, page: str, given: Mapping[str, Any]) -> None:
    """Below a page: its notebook, the command that runs it with its parameters, what these are, and how to cite it."""
    options = [_option(name, value) for name, value in given.items() if value != ""]
    made_by = ANALYSIS if page == OWN else page
    command = " ".join([f"papermill notebooks/{made_by}.ipynb out.ipynb", *options])
    text = f'<a href="../notebooks/{page}.ipynb" download>Download this notebook</a>, or run it with other values:'
    known = "\n".join(cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parts = [f"{text}\n\n```bash\n{command}\n```", _clicked("Its parameters", "python", known), cite()]
    notebook.cells.append(new_markdown_cell(":::{div} page-foot\n" + "\n\n".join(parts) + "\n:::\n", id="foot"))


def cite() -> str:
    """The book's citation, as Markdown behind a click."""
    return _clicked("Cite this book", "bibtex", bibtex())


def _clicked(summary: str, language: str, text: str) -> str:
    """A block of code behind a click."""
    return f"<details><summary>{summary}</summary>\n\n```{language}\n{text}\n```\n\n</details>"


def _option(name: str, value: Any) -> str:
    """A parameter as papermill takes it: -p plain values, -y lists and names with values."""
    if isinstance(value, list | dict):
        return f"-y {shlex.quote(f'{name}: {json.dumps(value)}')}"
    return f"-p {name} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
