"""The sources of a build: the book, its pages, and what is written from code."""

from __future__ import annotations

import ast
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import nbformat

from paradox_utils import files
from paradox_utils.pages import sources
from paradox_utils.pages.api import api_page
from paradox_utils.pages.citation import bibtex
from paradox_utils.pages.commands import command_builder
from paradox_utils.pages.freshness import WAY_OUT, assigned, clean, pages, read_page, shown
from paradox_utils.pages.parameters import parameter_page

ANALYSIS = f"{sources.ANALYSIS}.ipynb"
MARK = "% your run\n"  # on the first page, where its answer from the reader's own study belongs
OWN = """\
:::{admonition} Your run: {glue:text}`../notebooks/your-run.ipynb::runs:s`
:class: important
{glue:text}`../notebooks/your-run.ipynb::answer:s`

{doc}`A page of its own <../notebooks/your-run>` has every comparison.
:::
"""


def stage(study: Path | None = None) -> Path:
    """Copy the book's sources to ``_build/source`` and write the pages that come from code; returns that folder.

    ``study``: a results folder whose executed analysis notebook becomes a page beside the committed one; the first page has
    the answers of both.
    """
    root, target = files.ROOT, files.ROOT / "_build" / "source"
    paths = {page.name: page for page in pages()}
    if study is not None:  # before anything is removed: a missing study must not cost the last build
        paths[f"{sources.OWN}.ipynb"] = _analysis(study)
    shutil.rmtree(root / "_build", ignore_errors=True)  # never yesterday's page in today's book
    shutil.copytree(root / "book", target / "book", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_toc.yml", "_config.yml"):
        shutil.copy(root / name, target)
    _make_room(target, own=study is not None)
    (target / "book" / "commands.html").write_text(command_builder(), encoding="utf-8")
    shutil.copy(root / "CHANGELOG.md", target / "book" / "changelog.md")
    written = {"parameters.md": parameter_page(), "api.md": api_page(), "citation.bib": f"{bibtex()}\n"}
    for name, text in written.items():
        (target / "book" / name).write_text(text, encoding="utf-8")
    for path in (target / "book").glob("*.md"):
        path.write_text(f"{path.read_text(encoding='utf-8')}\n:::{{div}} page-foot\n{sources.cite()}\n:::\n", encoding="utf-8")
    _stage_notebooks(paths, target)
    return target


def _make_room(target: Path, *, own: bool) -> None:
    """The reader's own study in the contents, behind the book's, and on the first page; or nothing of it."""
    first, toc = target / "book" / "introduction.md", target / "_toc.yml"
    first.write_text(first.read_text(encoding="utf-8").replace(MARK, OWN if own else ""), encoding="utf-8")
    if own:
        line = rf"^( *- )file: notebooks/{sources.ANALYSIS}$"
        more = rf"\g<0>\n\1file: notebooks/{sources.OWN}"
        toc.write_text(re.sub(line, more, toc.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")


def _stage_notebooks(paths: Mapping[str, Path], target: Path) -> None:
    """Numbered in the order of the book, with their data and the notebooks themselves to download."""
    (target / "notebooks").mkdir()
    for name in ("notebooks", "data"):
        (target / "files" / name).mkdir(parents=True)
    counts: Counter[str] = Counter()
    for name in sorted(paths, key=_places(target / "_toc.yml").__getitem__):
        notebook, page = clean(read_page(paths[name])), Path(name).stem
        if page == sources.OWN:
            sources.as_own(notebook)
        nbformat.write(notebook, target / "files" / "notebooks" / name)
        given = assigned(notebook, paths[name])
        sources.annotate(notebook, page, given, counts, target / "files" / "data")
        sources.trim(notebook)
        sources.typeset(notebook)
        sources.foot(notebook, page, given)
        nbformat.write(notebook, target / "notebooks" / name)


def _places(toc: Path) -> defaultdict[str, int]:
    """File name of each notebook → its place in the book; a page that is not in it comes last."""
    listed = re.findall(r"file: notebooks/(\S+)", toc.read_text(encoding="utf-8"))
    return defaultdict(lambda: len(listed), {f"{name}.ipynb": place for place, name in enumerate(listed)})


def verdict(study: Path | None = None) -> str:
    """The verdict that the analysis page computed: its output glued as ``verdict``."""
    path = _analysis(study)
    for output in (output for cell in read_page(path).cells for output in cell.get("outputs", [])):
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == "verdict":
            data = {kind.removeprefix("application/papermill.record/"): text for kind, text in output["data"].items()}
            return str(ast.literal_eval(data["text/plain"]))
    raise files.FileError(f"{shown(path)}: holds no verdict; execute it again ({WAY_OUT}, or the study)")


def _analysis(study: Path | None) -> Path:
    path = files.ROOT / "notebooks" / ANALYSIS if study is None else files.resolve(str(study)) / ANALYSIS
    if not path.is_file():
        raise files.FileError(f"{shown(path)}: there is no such page; run `make study CONFIG=configs/NAME.yaml` first")
    return path
