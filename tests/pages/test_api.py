"""The page of the package names everything public, once, as it is called."""

import re

import pytest

from paradox_utils.pages import api


@pytest.mark.heavy
def test_the_page_has_a_row_for_each_public_name_and_none_for_others():
    page = api.api_page()
    rows = re.findall(r"^\| \{src\}`([\w.]+)`", page, flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) > 400
    assert {"pages.api.api_page", "ppo.objective.whiten", "files.FileError"} <= set(rows)
    assert not [name for name in rows if name.split(".")[-1].startswith("_")]
    assert all(re.search(r" \| [^|]*\w", row) for row in page.splitlines() if row.startswith("| {src}"))


def test_a_row_has_arguments_without_their_types_and_the_first_sentence(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    code = '"""A module. Of two sentences."""\n\ndef f(a: int, *, b: str = "x") -> int | None:\n'
    code += '    """Do ``it`` as :func:`~m.g` does. And more."""\n'
    (tmp_path / "made" / "m.py").write_text(code + "\ndef _g() -> None: ...\n")
    (tmp_path / "made" / "__init__.py").write_text('"""A folder."""\n')
    monkeypatch.setattr(api.files, "PACKAGE", tmp_path)
    page = api.api_page().removeprefix(api.INTRODUCTION)
    row = "| {src}`made.m.f` `(a, *, b='x') → int \\| None` | Do `it` as `m.g` does. |"
    head = "## `made`\n\n### {src}`made`\n\nA folder.\n\n### {src}`made.m`\n\nA module.\n\n| name | what it is |\n|---|---|\n"
    assert page.strip() == head + row
