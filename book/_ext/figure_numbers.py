"""Links to figures and tables: ``[](#name)`` and ``{ref}`name` `` read "Figure 7".

Staging has numbered them in the order of the book and written the number into the page; here the number becomes the text of
links to it. A name that no figure has is an error of the build, as is one that something else has.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
NUMBERED = re.compile(r'<figure [^>]*\bid="([\w-]+)".*?<span class="figure-number">(\w+ \d+)</span>', re.DOTALL)


def register(app: Sphinx, doctree: nodes.document) -> None:
    """Make every figure of a page one that references find, as Sphinx finds sections."""
    labels, anonymous = (app.env.domaindata["std"][of] for of in ("labels", "anonlabels"))
    page = app.env.docname
    for raw in doctree.findall(nodes.raw):
        for name, number in NUMBERED.findall(raw.astext()):
            if name in labels and labels[name][2] == number:  # shown on two pages: links lead to the one read first
                continue
            if name in doctree.ids or (name in labels and labels[name][0] != page):
                where = page if name in doctree.ids else labels[name][0]
                LOG.warning("a figure is called %r, as something on %s is; rename it", name, where, location=page)
            labels[name], anonymous[name] = (page, name, number), (page, name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Read every page for figures."""
    app.connect("doctree-read", register)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
