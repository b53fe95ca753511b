"""Pages that carry what they use: the style sheets lose the rules, and the font the signs, that no page of the book has.

The theme comes with all of Bootstrap and 2,000 icons, half a megabyte that every page would load. A rule stays if every class
it names occurs as a word in some page or script, so a class that a script sets stays too.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import tinycss2
from fontTools import subset
from sphinx.application import Sphinx

CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
SHEETS = ("styles/pydata-sphinx-theme.css", "styles/sphinx-book-theme.css", "sphinx-design.min.css", "mystnb.*.css")
FONT = "vendor/fontawesome/webfonts/fa-solid-900"
NESTED = {"media", "supports", "layer"}  # rules that hold rules


def shorten(app: Sphinx, failed: Exception | None) -> None:
    """Rewrite the style sheets and the font of a finished build."""
    static = Path(app.outdir) / "_static"
    if failed or app.builder.name != "html":
        return
    used = _words([*Path(app.outdir).rglob("*.html"), *static.rglob("*.js")])
    icons = set()
    for sheet in (path for pattern in SHEETS for path in static.glob(pattern)):
        text = "".join(_kept(tinycss2.parse_stylesheet(sheet.read_text("utf-8"), skip_comments=True), used))
        sheet.write_text(text, "utf-8")
        icons |= {ord(sign) for sign in text if "\ue000" <= sign <= "\uf8ff"}  # where icon fonts put theirs
    _shrink(static / f"{FONT}.woff2", icons)
    for path in [*static.rglob("*.map"), *static.glob("vendor/fontawesome/webfonts/*.ttf")]:
        path.unlink()  # for those who develop the theme, and for browsers of the last decade


def _words(paths: Iterable[Path]) -> set[str]:
    return {word for path in paths for word in re.findall(r"[\w-]+", path.read_text("utf-8"))}


def _kept(rules: Iterable[tinycss2.ast.Node], used: set[str]) -> Iterator[str]:
    """The rules that can apply, as text; of a list of selectors those that can."""
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = _split(tinycss2.serialize(rule.prelude))
            if able := [one for one in selectors if set(CLASS.findall(one)) <= used]:
                yield f"{','.join(able)}{{{tinycss2.serialize(rule.content)}}}"
        elif rule.type == "at-rule" and rule.content is not None and rule.lower_at_keyword in NESTED:
            inside = "".join(_kept(tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True), used))
            if inside:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inside}}}"
        elif rule.type != "whitespace":
            yield rule.serialize()


def _split(selectors: str) -> list[str]:
    """A list of selectors at its commas, but not at those within parentheses."""
    return re.split(r",(?![^(]*\))", selectors)


def _shrink(font: Path, icons: set[int]) -> None:
    options = subset.Options(flavor="woff2", notdef_outline=True)
    loaded = subset.load_font(font, options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=icons)
    chosen.subset(loaded)
    subset.save_font(loaded, font, options)


def setup(app: Sphinx) -> dict[str, bool]:
    """Once the build is finished, and its pages are known."""
    app.connect("build-finished", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
