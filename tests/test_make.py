"""What the Makefile hands on."""

import os
import re
import subprocess

import pytest

from paradox_utils.files import ROOT

TELLS = """#!/bin/sh
for word in "$@"; do echo "$word"; done
echo "threads: $OMP_NUM_THREADS"
"""


@pytest.fixture
def make(tmp_path):
    """make with a Python that prints its words and its threads."""
    (tmp_path / "python").write_text(TELLS)
    (tmp_path / "python").chmod(0o755)

    def call(*words, **environment):
        command = ["make", "--silent", "INSTALLED=", f"BIN={tmp_path}", *words]
        inner = ("OMP_NUM_THREADS", "MAKEFLAGS", "MAKELEVEL", "CONFIG")  # what a make that runs these tests hands on
        outer = {name: value for name, value in os.environ.items() if name not in inner}
        return subprocess.run(command, cwd=ROOT, env=outer | environment, capture_output=True, text=True)

    return call


@pytest.mark.parametrize("name", ["my study #1.yaml", "a=b,c {x} 'one' \"two\".yaml", "réglage.yaml", "-x.yaml"])
@pytest.mark.parametrize("by", ["command line", "environment"])
def test_a_config_of_any_name_arrives_whole(make, name, by):
    path = f"configs/{name}"
    done = make("study", f"CONFIG={path}") if by == "command line" else make("study", CONFIG=path)
    assert done.stdout.splitlines() == ["-m", "paradox_utils.study", "run", path, "threads: "]


def test_options_arrive_as_those_of_the_study(make):
    done = make("study", "WORKERS=2", "THREADS=1", "GPUS=0", "RUNS_PER_GPU=3", "PROFILE=my profile")
    options = ["--workers", "2", "--threads", "1", "--gpus", "0", "--runs-per-gpu", "3", "--profile", "my profile"]
    assert done.stdout.splitlines()[4:-1] == options


@pytest.mark.parametrize("target", ["study", "help", "book"])
def test_a_variable_that_nothing_reads_is_refused(make, target):
    done = make(target, "WORKER=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "WORKER:" in done.stderr
    assert "WORKERS" in done.stderr


def test_the_environments_variables_of_other_programs_may_stand_on_the_command_line(make):
    given = ["PIP_EXTRA_INDEX_URL=x", "TMPDIR=/tmp", "PYTEST_ADDOPTS=-x", "LC_ALL=C", "SHELL=/bin/sh", "OMP_NUM_THREADS=2"]
    assert make("study", *given, MINE="1").stdout.endswith("threads: 2\n")


@pytest.mark.parametrize("given", [{}, {"CONFIG": "configs/mine.yaml"}])
def test_a_choice_has_a_config_of_its_own(make, given):
    path = given.get("CONFIG", "configs/choose-atlas.yaml")
    assert make("choose", **given).stdout.splitlines()[:4] == ["-m", "paradox_utils.choose", "run", path]
    assert make("choose", *(f"{name}={value}" for name, value in given.items())).stdout.splitlines()[3] == path


def test_what_make_test_leaves_out_ci_runs_too(make):
    unit, slow = (make(target).stdout.splitlines() for target in ("unit", "test-slow"))
    assert [word for word in unit if word != "not slow"] == [word for word in slow if word != "slow"]
    assert ("not slow" in unit, "slow" in slow) == (True, True)
    called = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert called[:2] == ["test", "test-slow"]
