"""What stands behind a click is called by its own words; myst-nb tells a screen reader of each one "Toggle hidden content"."""

from html import escape

from myst_nb.sphinx_ import HideCodeCellNode, depart_HideCellInput
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def visit(self: HTML5Translator, node: HideCodeCellNode) -> None:
    """Open ``<details>`` with its summary; what it hides follows."""
    summary = f'<summary><p class="admonition-title">{escape(node["prompt_show"])}</p></summary>'
    self.body.append(f'<details class="admonition hide {" ".join(node["classes"])}">\n{summary}\n')


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace what myst-nb writes."""
    app.add_node(HideCodeCellNode, override=True, html=(visit, depart_HideCellInput))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
