"""A table on a page: few columns, as many digits as mean something, and room to scroll in itself."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from paradox_utils.figures.show import Shown, emphasised, framed, named

WIDEST = 8  # columns, those that name the rows included
DIGITS = 3  # significant ones of a column's largest value
SHORT = 24  # letters, which stay on one line
MISSING = "–"
PLAIN = str.maketrans("", "", "*`")


def table(
    frame: pd.DataFrame,
    *,
    name: str,
    caption: str,
    units: Mapping[str, str] | None = None,
    data: pd.DataFrame | None = None,
    runs: Iterable[str] = (),
) -> Shown:
    """A frame as a table; the levels of its index name the rows.

    Parameters
    ----------
    name, caption, runs: as of :func:`paradox_utils.figures.show.show`.
    units: of columns, set beside their names.
    data: what is offered as CSV, where that is more than what is shown.

    Raises ``ValueError`` for more than eight columns: choose those that answer the page's question.
    """
    known = [of or "" for of in frame.index.names]
    unnamed = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None  # steps of equal size make a named range
    full = frame if unnamed else frame.rename_axis(known).reset_index()
    if len(full.columns) > WIDEST:
        raise ValueError(f"table {name} has {len(full.columns)} columns and a page room for {WIDEST}; choose some, or make two")
    heads = len(full.columns) - len(frame.columns)
    columns = [full.iloc[:, place] for place in range(len(full.columns))]
    cells = [column(values) for values in columns]
    looks = [_look(values, texts) for values, texts in zip(columns, cells, strict=True)]
    top = "".join(_head(str(of), (units or {}).get(of), look) for of, look in zip(full.columns, looks, strict=True))
    rows = "\n".join(_rows(cells, heads, looks))
    body = f"<table><thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    scrolls = f'<div class="scroll" tabindex="0" role="group" aria-label="{html.escape(caption.translate(PLAIN))}">{body}</div>'
    text = framed("listing", name, [f"<figcaption>{emphasised(caption)}</figcaption>", scrolls])
    return Shown("Table", name, text, caption, full if data is None else data, named(runs))


def column(values: pd.Series) -> list[str]:
    """A column's cells as text: numbers of one column have one number of decimals, those of mixed kinds each their own."""
    known = [float(v) for v in values if _is_number(v) and math.isfinite(v)]
    decimals = _decimals(known) if _is_numeric(values) else None
    return [_cell(value, decimals) for value in values]


def _cell(value: Any, decimals: int | None) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not _is_number(value):
        return MISSING if value is None or value is pd.NA or value == "" else html.escape(str(value))
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return number(float(value), _decimals([float(value)]) if decimals is None else decimals)


def number(value: float, decimals: int) -> str:
    """A number with so many decimals; one that would read as zero and is not, with its first digit instead."""
    if not value:
        return "0"
    if round(value, decimals) == 0:
        decimals = -math.floor(math.log10(abs(value)))
    if decimals > 4 + DIGITS:
        digits, power = f"{value:.0e}".split("e")
        return f"{digits} × 10".replace("-", "−") + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{round(value, decimals) + 0:,.{decimals}f}".replace("-", "−")


def _decimals(values: list[float]) -> int:
    """Enough for three significant digits of the largest value (two below a tenth), and no more than these values need."""
    largest = max((abs(v) for v in values), default=0)
    digits = DIGITS if largest >= 0.1 else DIGITS - 1
    most = max(0, digits - math.ceil(math.log10(largest))) if largest else 0
    return next(n for n in range(most + 1) if n == most or all(round(v, n) == round(v, most) for v in values))


def _look(values: pd.Series, cells: list[str]) -> str:
    """How a column stands: numbers to the right, and words on one line if they are few."""
    if any(_is_number(v) and v == v for v in values):
        return ' class="number"'
    return ' class="short"' if max(map(len, cells), default=0) <= SHORT else ""


def _head(of: str, unit: str | None, look: str) -> str:
    beside = f' <span class="unit">{html.escape(unit)}</span>' if unit else ""
    return f'<th scope="col"{look}>{html.escape(of)}{beside}</th>' if of else "<td></td>"


def _rows(columns: list[list[str]], heads: int, looks: list[str]) -> Iterator[str]:
    """The rows; what names several that follow each other stands once."""
    rows = list(zip(*columns, strict=True))
    for place, row in enumerate(rows):
        cells = []
        for level in range(heads):
            same = [row[: level + 1] == other[: level + 1] for other in rows]
            if place and same[place - 1] and level < heads - 1:
                continue
            span = [*same[place:], False].index(False) if level < heads - 1 else 1
            cells.append(f'<th scope="row{"group" if span > 1 else ""}" rowspan="{span}"{looks[level]}>{row[level]}</th>')
        cells += [f"<td{look}>{text}</td>" for look, text in zip(looks[heads:], row[heads:], strict=True)]
        yield f"<tr>{''.join(cells)}</tr>".replace(' rowspan="1"', "")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and value is not pd.NA


def _is_numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def interval(low: pd.Series, high: pd.Series) -> list[str]:
    """Two columns in one: "0.012 to 0.034"."""
    decimals = _decimals([float(v) for v in (*low, *high) if np.isfinite(v)])
    pairs = zip(low, high, strict=True)
    return [f"{_cell(a, decimals)} to {_cell(b, decimals)}" if a == a and b == b else "" for a, b in pairs]
