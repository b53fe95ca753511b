"""What a word means, where it stands: a link that ``{term}`` makes shows the glossary's definition under mouse and keyboard."""

import html
from collections.abc import Iterator
from functools import cache

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def explain(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the definition of each linked word beside it; a style sheet shows it when the link is pointed at or has the focus."""
    for number, link in enumerate(list(doctree.findall(nodes.reference))):
        target = link.get("refuri", f"#{link.get('refid')}")  # the latter on the glossary's own page
        text = definitions(app.env).get(target.partition("#")[2])
        if not text:
            continue
        tip = f"definition-{number}"
        before = f'<span class="defined"><a class="term" href="{target}" aria-describedby="{tip}">'
        after = f'</a><span class="definition" role="tooltip" id="{tip}">{html.escape(text)}</span></span>'
        words = [nodes.Text(link.astext())]
        link.parent.replace(link, [nodes.raw("", before, format="html"), *words, nodes.raw("", after, format="html")])


@cache
def definitions(env: BuildEnvironment) -> dict[str, str]:
    """Anchor of each word → its definition."""
    pages = {page for (kind, _), (page, _) in env.domaindata["std"]["objects"].items() if kind == "term"}
    return {anchor: text for page in sorted(pages) for anchor, text in _defined(env.get_doctree(page))}


def _defined(doctree: nodes.document) -> Iterator[tuple[str, str]]:
    for item in doctree.findall(nodes.definition_list_item):
        text = " ".join(part.astext() for part in item.findall(nodes.definition))
        for term in item.findall(nodes.term):
            for anchor in term["ids"]:
                if anchor.startswith("term-"):
                    yield anchor, " ".join(text.split())


def setup(app: Sphinx) -> dict[str, bool]:
    """Explain the words of every page once all links are resolved."""
    app.connect("doctree-resolved", explain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
