"""How a page shows a figure or a table: with a name to link to, a caption, a description, and the data behind it.

What a cell ends with is an object of :class:`Shown`. Jupyter renders its HTML; the staging of the book reads its data and runs
from the same output, numbers it, and writes below it where it comes from.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from markdown_it import MarkdownIt
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from paradox_utils.figures import svg
from paradox_utils.figures.interactive import Interactive
from paradox_utils.figures.style import WIDTHS, Drawing, style

Kind = Literal["Figure", "Table"]


@dataclass(frozen=True)
class Shown:
    """A figure or a table in a notebook's output: ``text/html``, the data as ``text/csv``, and what staging needs to know."""

    kind: Kind
    name: str
    html: str
    caption: str
    data: pd.DataFrame | None
    runs: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        shown = {"text/html": self.html, "text/plain": f"{self.kind} {self.name}: {self.caption}"}
        if self.data is not None:
            shown["text/csv"] = self.data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        return shown, {"paradox": {"kind": self.kind, "name": self.name, "runs": self.runs}}


def show(
    drawing: Drawing | Figure,
    *,
    name: str,
    caption: str,
    alt: str,
    data: pd.DataFrame | None = None,
    runs: Iterable[str] = (),
    touch: Interactive | None = None,
) -> Shown:
    """A figure of one or several panels, which stand side by side where there is room.

    Parameters
    ----------
    name: its anchor, one in the whole book: ``[](#name)`` in prose becomes "Figure 7".
    caption: what is shown, for those who see it; may have Markdown's emphasis and code.
    alt: what it shows, for those who do not.
    data: what is drawn, offered as CSV; a column ``id`` names its runs.
    runs: ids of the runs it stands on, where ``data`` does not name them.
    touch: what takes the drawing's place where a script can run.
    """
    figures = [drawing] if isinstance(drawing, Figure) else [panel.figure for panel in drawing.panels]
    columns = next((n for n, width in sorted(WIDTHS.items(), reverse=True) if figures[0].get_figwidth() <= width), 1)
    panels = "".join(svg.inline(figure, f"{name}-{index}") for index, figure in enumerate(figures))
    drawn = f'<div class="panels" role="img" aria-label="{html.escape(alt)}" style="--columns: {columns}">{panels}</div>'
    parts = [touch.html(drawn) if touch else drawn]
    if isinstance(drawing, Drawing) and drawing.legend:
        entries = (f"<li>{_swatch(mark, f'{name}-l{index}')}{_label(mark)}</li>" for index, mark in enumerate(drawing.legend))
        parts.append(f'<ul class="legend">{"".join(entries)}</ul>')
    parts.append(f"<figcaption>{emphasised(caption)}</figcaption>")
    return Shown("Figure", name, framed("drawing", name, parts), caption, data, named(runs))


def touched(one: Interactive, *, name: str, caption: str, data: pd.DataFrame | None = None, runs: Iterable[str] = ()) -> Shown:
    """An interactive that stands alone, as a figure with a caption and what it comes from; parameters as of :func:`show`."""
    parts = [one.html(), f"<figcaption>{emphasised(caption)}</figcaption>"]
    return Shown("Figure", name, framed("drawing", name, parts), caption, data, named(runs))


def framed(of: str, name: str, parts: Iterable[str]) -> str:
    """The ``<figure>`` that a page links to."""
    return f'<figure class="{of}" id="{name}">\n' + "\n".join(parts) + "\n</figure>"


def emphasised(text: str) -> str:
    """One line of Markdown as HTML; no tag of its own gets through."""
    return MarkdownIt("zero").enable(["emphasis", "backticks"]).renderInline(text)


def named(runs: Iterable[str]) -> str:
    """Ids of runs as an output keeps them: each once, in one line."""
    return " ".join(sorted(set(runs)))


@style()
def _swatch(mark: Artist, prefix: str) -> str:
    figure = Figure(figsize=(0.32, 0.16))
    look = {"borderpad": 0, "borderaxespad": 0, "handletextpad": 0, "handlelength": 2, "handleheight": 0.9}
    figure.legend(handles=[mark], labels=[""], loc="center", frameon=False, **look)
    return svg.inline(figure, prefix)


def _label(mark: Artist) -> str:
    return html.escape(str(mark.get_label()))
