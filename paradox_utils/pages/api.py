"""The page of the package's public names, written from its docstrings."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from paradox_utils import files

Named = ast.FunctionDef | ast.ClassDef
INTRODUCTION = """\
# The package

*Where is what?* Every module of `paradox_utils`, and what is public in it: a name leads to its code, where types, shapes, units
and errors stand. The page is written from the docstrings each time the book is built. `CONTRIBUTING.md` in the repository says
how the folders depend on each other, and how to add a task, a data source, an optimiser or a metric.

```{raw} html
<div class="interactive" data-kind="filter" role="search"></div>
```
"""


def api_page() -> str:
    """A section a folder of the package, a table a module: its public functions and classes with the first sentence of each."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files.PACKAGE.rglob("*.py")):
        folders[path.relative_to(files.PACKAGE).parent.as_posix()].append(path)
    parts = [INTRODUCTION]
    for folder, paths in sorted(folders.items()):
        parts.append("## At the root\n" if folder == "." else f"## `{folder}`\n")
        parts += [part for path in paths if (part := _module(path))]
    return "\n".join(parts)


def _module(path: Path) -> str:
    """A module's first sentence and its table; of a folder's own file without code, the sentence; nothing of an empty one."""
    name = ".".join(path.relative_to(files.PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not name:
        return ""
    rows = [_row(name, node) for node in tree.body if isinstance(node, Named) and not node.name.startswith("_")]
    head = f"### {{src}}`{name}`\n\n{_sentence(tree)}\n"
    return "\n".join([head, "| name | what it is |", "|---|---|", *rows, ""]) if rows else head


def _row(module: str, node: Named) -> str:
    call = f" `{_call(node)}`" if isinstance(node, ast.FunctionDef) else ""
    cells = [f"{{src}}`{module}.{node.name}`{call}", _sentence(node)]
    return " | ".join(["", *(text.replace("|", "\\|") for text in cells), ""]).strip()


def _call(node: ast.FunctionDef) -> str:
    """Names of the arguments with their defaults, and what comes back."""
    arguments = node.args
    for one in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if one:
            one.annotation = None
    back = f" → {ast.unparse(node.returns)}" if node.returns and ast.unparse(node.returns) != "None" else ""
    return f"({ast.unparse(arguments)}){back}"


def _sentence(node: ast.Module | Named) -> str:
    """The first sentence of a docstring, its marks of reStructuredText as Markdown."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0].rstrip(":")
    return re.sub(r"(?::[\w:]+:)?`+~?([^`]+?)`+", r"`\1`", first)
