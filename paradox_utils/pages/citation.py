"""How to cite the book, from ``CITATION.cff``."""

from __future__ import annotations

from typing import Any

import yaml

from paradox_utils import files

FILE = "CITATION.cff"


def bibtex() -> str:
    """The book as a BibTeX entry."""
    about: dict[str, Any] = yaml.safe_load(files.read_text(files.ROOT / FILE, "restore it from the repository"))
    fields = {
        "title": f"{{{about['title']}}}",
        "author": " and ".join(_name(author) for author in about["authors"]),
        "version": str(about["version"]),
        "year": str(about["date-released"])[:4],
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["@software{accuracy_paradox_book,", *lines, "}"])


def _name(author: dict[str, str]) -> str:
    """Of a person, or of many in braces, so that BibTeX takes no first name from it."""
    if "family-names" in author:
        return f"{author['family-names']}, {author['given-names']}"
    return f"{{{author['name']}}}"
