"""A reader's environment, `pip install .[read]`, builds the whole book: whatever else is installed here cannot be imported."""

import os
import re
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from paradox_utils.files import ROOT

LIMIT = 120  # seconds of one processor for the whole book
# Imported by Python at its start: whatever is not the reader's is missing.
MISSING = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""


def read_by(wanted):
    """The distributions that ``pip install`` of this brings, by their normalised names."""
    found, open_ends = set(), [Requirement(wanted)]
    while open_ends:
        needed = open_ends.pop()
        for extra in {"", *needed.extras}:
            key = (re.sub(r"[-_.]+", "-", needed.name).lower(), extra)
            if key in found:
                continue
            found.add(key)
            for line in metadata.requires(needed.name) or ():
                of = Requirement(line)
                if of.marker is None or of.marker.evaluate({"extra": extra}):
                    open_ends.append(of)
    return {name for name, _ in found}


@pytest.mark.heavy
def test_the_book_renders_without_what_trains(tmp_path):
    brought = read_by("accuracy-paradox-book[read]")
    assert {"jupyter-book", "matplotlib", "pandas"} <= brought
    assert not brought & {"torch", "transformers", "trl", "datasets", "snakemake"}
    modules = metadata.packages_distributions()
    normal = {name: {re.sub(r"[-_.]+", "-", of).lower() for of in owners} for name, owners in modules.items()}
    missing = sorted(name for name, owners in normal.items() if not owners & brought)
    assert {"torch", "transformers", "snakemake", "pytest"} <= set(missing)
    (tmp_path / "sitecustomize.py").write_text(MISSING.format(missing=missing))

    project = tmp_path / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{project}", "PARADOX_ROOT": str(project)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["make", "book", f"BIN={Path(sys.executable).parent}", "INSTALLED="]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (project / "_build/html/index.html").is_file()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT
    probe = [sys.executable, "-c", "import torch"]
    assert subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == 1
