"""A matplotlib figure as SVG that stands in a page: it takes the colours of the page's theme, its font, and little space."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from paradox_utils.figures.style import THEME

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points", "viewBox")
COLORS = re.compile("|".join(THEME))
LARGEST = 1.5  # how much larger than drawn a figure may be shown: its text grows with it


def inline(figure: Figure, prefix: str) -> str:
    """The ``<svg>`` of a figure, hidden from readers of text: what holds it says what it shows.

    ``prefix`` makes its ids unique on a page. It fills what it stands in, up to half again the size it was drawn in.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "paradox", "path.simplify_threshold": 0.3}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(text.getvalue())
    for part in [*root.findall(f"{SVG}metadata"), *root.findall(f"{SVG}defs[{SVG}style]")]:  # the style is for a whole page
        root.remove(part)
    used = {link.lstrip("#") for node in root.iter() for link in _links(node)}
    names = {old: f"{prefix}-{index}" for index, old in enumerate(sorted(used))}
    for node in root.iter():
        _trim(node, names)
    for node in root.iter():
        _hoist(node)
    width = figure.get_figwidth() * 72 * LARGEST
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "style": f"max-width: {width:.0f}px"}
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")).strip()


def _links(node: ElementTree.Element) -> Iterator[str]:
    """The ids that an element refers to: a shape used again, the region it is cut to."""
    if LINK in node.attrib:
        yield node.attrib[LINK]
    yield from re.findall(r"url\(#([^)]+)\)", node.attrib.get("clip-path", ""))


def _trim(node: ElementTree.Element, names: dict[str, str]) -> None:
    """Shorten one element: short ids and only where used, coordinates to a tenth, colours by name, no font, no namespace."""
    node.tag = node.tag.removeprefix(SVG)
    found = dict(node.attrib)
    node.attrib.clear()
    if link := found.pop(LINK, None):
        node.set("href", "#" + names[link.lstrip("#")])
    for key, value in found.items():
        if key == "id":
            if value in names:
                node.set("id", names[value])
        elif key == "clip-path":
            node.set(key, f"url(#{names[value[5:-1]]})")
        elif key == "style":
            node.set(key, COLORS.sub(_color, re.sub(r"font-family: [^;]+;? ?", "", value)).rstrip("; "))
        elif key in GEOMETRY and not value.startswith("rotate(-0 "):
            node.set(key, _relative(_rounded(value)) if key == "d" else _rounded(value))


def _hoist(node: ElementTree.Element) -> None:
    """A style that all of an element's points have is written once."""
    styles = {child.attrib.get("style") for child in node}
    if node.tag == "g" and len(node) > 1 and len(styles) == 1 and None not in styles:
        node.set("style", styles.pop() or "")
        for child in node:
            del child.attrib["style"]


def _color(found: re.Match[str]) -> str:
    return f"var(--figure-{THEME[found[0]]}, {found[0]})"


def _rounded(value: str) -> str:
    value = re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 1) + 0:g}", value)
    return re.sub(r"\s*([MLCQz])\s*", r"\1", value).strip()


def _relative(path: str) -> str:
    """A path of straight lines by its steps, in tenths so that no error adds up: half as long as by its places."""
    if re.search("[^MLz0-9. -]", path):
        return path
    parts, at, start = [], (0, 0), (0, 0)
    for command, place in re.findall(r"([MLz])([^MLz]*)", path):
        if command == "z":
            parts.append("z")
            at = start
            continue
        x, y = (round(float(number) * 10) for number in place.split())
        step = "".join(_tenths(number) for number in (x - at[0], y - at[1]))
        parts.append("h0" if command == "L" and (x, y) == at else command.lower() + step.removeprefix(" "))
        at = x, y
        start = at if command == "M" else start
    return "".join(parts)


def _tenths(number: int) -> str:
    """A number of tenths, with the sign or space that parts it from what stands before."""
    text = f"{abs(number) / 10:g}".removeprefix("0") or "0"
    return ("-" if number < 0 else " ") + text
