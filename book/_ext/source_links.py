"""Links from prose to code: ``{src}`ppo.objective.whiten` `` leads to that line of the module's source, on a page of this book.

The pages are made from the package as it is while the book is built, so a link needs no network and cannot go stale: a name
that is gone is an error of the build.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx

PACKAGE = "paradox_utils"
PAGES = "code"  # folder of the source pages


@cache
def modules() -> dict[str, Path]:
    """The package's modules by dotted name; a folder's ``__init__`` file under the folder's name."""
    files = {path.relative_to(root()).with_suffix("").parts: path for path in sorted(root().rglob("*.py"))}
    names = {".".join(parts).removesuffix("__init__").removesuffix("."): path for parts, path in files.items()}
    return {name: path for name, path in names.items() if name}


def root() -> Path:
    """The package's folder; nothing of it is imported."""
    return Path(find_spec(PACKAGE).origin).parent


@cache
def lines(module: str) -> dict[str, int]:
    """Line of each function, class, method and constant of a module, by dotted name."""
    found = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(prefix + target.id, node.lineno)

    walk(ast.parse(modules()[module].read_text(encoding="utf-8")).body, "")
    return found


def source(
    role: str, raw: str, text: str, line: int, inliner: Inliner, options: dict | None = None, content: list | None = None
) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """The role ``src``: a module's name, or that of something in it."""
    parts = text.split(".")
    module = next((name for n in (2, 1) if (name := ".".join(parts[:n])) in modules()), "")
    name = text[len(module) + 1 :]
    if not module or (name and name not in lines(module)):
        message = inliner.reporter.error(f"{PACKAGE} has no {text!r}", line=line)
        return [inliner.problematic(raw, raw, message)], [message]
    up = "../" * inliner.document.settings.env.docname.count("/")
    target = f"{up}{PAGES}/{module}.html" + (f"#{name}" if name else "")
    return [nodes.reference("", "", nodes.literal("", text), refuri=target, internal=True)], []


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """A page of highlighted source for each module, with a target at each of its names."""
    for module, path in modules().items():
        code = app.builder.highlighter.highlight_block(path.read_text(encoding="utf-8"), "python").split("\n")
        for name, line in lines(module).items():
            code[line - 1] = f'<span id="{name}"></span>{code[line - 1]}'
        title = f"{PACKAGE}/{path.relative_to(root()).as_posix()}"
        yield f"{PAGES}/{module}", {"title": title, "body": f"<h1>{title}</h1>\n" + "\n".join(code)}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role, and the pages it leads to."""
    app.add_role("src", source)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
