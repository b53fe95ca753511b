"""Notebooks executed wherever the project stands."""

import os
import sys
import tempfile

import nbformat
import pytest

from paradox_utils import files, notebooks
from tests.study.test_run import write_notebook


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """A project with a foreign kernel named python3, a startup file of this user's IPython, and braces in its path."""
    home = tmp_path / "{home}"
    for name, text in {
        "jupyter/kernels/python3/kernel.json": '{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}',
        "ipython/profile_default/startup/mine.py": "raise RuntimeError('not mine')\nmine = 1",
    }.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    monkeypatch.setattr(files, "ROOT", home)
    monkeypatch.chdir(home)
    return home


@pytest.mark.heavy
def test_a_notebook_runs_in_this_python_and_no_settings_of_the_users(crowded):
    write_notebook(crowded / "page.ipynb", "wanted = 0", "import sys\nprint(sys.executable, wanted, 'mine' in globals())")
    before = dict(os.environ)
    notebooks.execute(crowded / "page.ipynb", crowded / "done.ipynb", {"wanted": 7}, crowded / "log.txt")
    assert (crowded / "log.txt").read_text().split("\n")[0].split() == [sys.executable, "7", "False"]
    assert nbformat.read(crowded / "done.ipynb", as_version=4).metadata["papermill"]["output_path"] == "done.ipynb"
    assert dict(os.environ) == before


def test_sockets_find_a_short_path(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with notebooks.scratch() as folder:
        assert len(folder) < notebooks.LONGEST_SOCKET
    assert list(long.iterdir()) == []
