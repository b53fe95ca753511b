"""The bibliography's list is no list to a screen reader: docutils calls it one, and its entries something else."""

from typing import Any

from sphinx.application import Sphinx


def correct(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Leave the role to the entries, which have their own."""
    if "body" in context:
        context["body"] = context["body"].replace('<div role="list" class="citation-list">', '<div class="citation-list">')


def setup(app: Sphinx) -> dict[str, bool]:
    """As pages are written."""
    app.connect("html-page-context", correct)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
