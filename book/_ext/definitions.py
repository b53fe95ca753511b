"""What a word means, where it stands: a link to the glossary shows its definition under mouse and keyboard.

``{term}`` makes such links. Sentences that a notebook computed have none: there the first of each of :data:`OWN` becomes one.
"""

import html
import re
from collections.abc import Iterator
from functools import cache

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

# The study's own words, as they are written, and the glossary's entry of each. A rank alone may be one of anything.
OWN = {word: entry for entry in ("arm", "dial", "regret", "route") for word in (entry, f"{entry}s")}
OWN |= {"hacked": "hacked", "margin": "margin", "trajectory": "trajectory", "trajectories": "trajectory"}
OWN |= {"rank of accuracy": "rank", "ranks of accuracy": "rank"}
WORD = re.compile(rf"\b({'|'.join(OWN)})\b", re.IGNORECASE)
COMPUTED = {"pasted-text", "cell_output"}  # what is glued into prose, and what a cell shows


def explain(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the definition of each linked word beside it; a style sheet shows it when the link is pointed at or has the focus."""
    link_computed(app, doctree, docname)
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


def link_computed(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the study's own words in computed sentences: of each the first on the page, if no link stands before it."""
    anchors, seen = places(app.env), set()
    for node in list(doctree.findall(lambda node: isinstance(node, nodes.Text | nodes.reference))):
        if isinstance(node, nodes.reference):
            seen.add(node.get("refuri", "").partition("#")[2])
        elif _is_computed(node):
            parts, end, text = [], 0, node.astext()
            for found in WORD.finditer(text):
                page, anchor = anchors.get(OWN[found[0].lower()], ("", ""))
                if not anchor or anchor in seen:
                    continue
                seen.add(anchor)
                target = f"{app.builder.get_relative_uri(docname, page)}#{anchor}"
                parts += [nodes.Text(text[end : found.start()]), nodes.reference("", found[0], refuri=target, internal=True)]
                end = found.end()
            if parts:
                node.parent.replace(node, [*parts, nodes.Text(text[end:])])


def _is_computed(node: nodes.Text) -> bool:
    """Whether a text is a computed sentence's own, and no link, code or title within one."""
    above, computed = node.parent, False
    while above is not None:
        if isinstance(above, nodes.raw | nodes.literal | nodes.literal_block | nodes.reference | nodes.title):
            return False
        computed = computed or bool(COMPUTED & set(getattr(above, "attributes", {}).get("classes", ())))
        above = above.parent
    return computed


@cache
def places(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """Each word of the glossary → its page and anchor."""
    known = env.domaindata["std"]["objects"]
    return {word: place for (kind, word), place in known.items() if kind == "term"}


@cache
def definitions(env: BuildEnvironment) -> dict[str, str]:
    """Anchor of each word → its definition."""
    pages = {page for page, _ in places(env).values()}
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
