"""Kernels forked from a warm process: as those of a process of their own, and gone with whoever wanted them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest

from paradox_utils import notebooks, warm

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")]
NOTEBOOK = notebooks.files.ROOT / "notebooks/02-supervised-policy.ipynb"
CELL = """\
import json, os, sys
print(json.dumps({"thing": os.environ["THING"], "folder": os.getcwd(), "pid": os.getpid(),
                  "warm": "sklearn.metrics" in sys.modules, "ours": "paradox_utils" in sys.modules}))
"""


@pytest.fixture(scope="module")
def listening():
    with notebooks.warmed():
        yield os.environ[warm.DOOR]


@pytest.fixture
def door(listening, monkeypatch):
    monkeypatch.setenv(warm.DOOR, listening)
    return listening


def execute(tmp_path, source):
    """The output of a notebook of one cell."""
    made, done = tmp_path / "made.ipynb", tmp_path / "done.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), made)
    notebooks.execute(made, done, {}, tmp_path / "log.txt")
    return "".join(part.get("text", "") for part in nbformat.read(done, 4).cells[-1].outputs)


def test_a_forked_kernel_has_the_libraries_and_the_environment_of_its_own(door, tmp_path, monkeypatch):
    seen = []
    for thing in ("one", "two"):
        monkeypatch.setenv("THING", thing)
        seen.append(eval(execute(tmp_path, CELL), {"true": True, "false": False}))
    assert [one["thing"] for one in seen] == ["one", "two"]
    assert seen[0]["pid"] != seen[1]["pid"]
    assert all(one["warm"] and not one["ours"] for one in seen)
    assert {one["folder"] for one in seen} == {str(notebooks.files.ROOT)}


def test_random_numbers_differ_between_forks_as_between_processes(door, tmp_path):
    source = "import random, sys, numpy; print(random.random(), numpy.random.rand(), 'trl' in sys.modules)"
    first, second = (execute(tmp_path, source).split() for _ in range(2))
    assert set(first) & set(second) == {"True"}  # forked, both


def test_a_kernel_that_crashes_is_a_dead_kernel(door, tmp_path):
    with pytest.raises(Exception, match="died"):
        execute(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "one" in execute(tmp_path, "print('one')")  # the warm process lives on


def test_without_a_warm_process_a_kernel_starts_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv(warm.DOOR, str(tmp_path / "nobody"))
    assert execute(tmp_path, "print(1 + 1)") == "2\n"


@pytest.mark.slow
def test_a_run_has_the_same_numbers_in_a_forked_kernel(door, tmp_path, monkeypatch):
    parameters = {"policy": "atlas-t5", "steps": 3, "batch_size": 4, "train_questions": 40, "validation_questions": 4}
    found = []
    for name in ("forked", "own"):
        out = tmp_path / name
        out.mkdir()
        notebooks.execute(NOTEBOOK, out / "done.ipynb", parameters | {"test_questions": 4, "out": str(out)}, out / "log.txt")
        made = json.loads((out / "result.json").read_text())
        found.append((made["results"], made["versions"], made["threads"], (out / "model/model.safetensors").read_bytes()))
        monkeypatch.delenv(warm.DOOR, raising=False)
    assert found[0] == found[1]


def test_a_warm_process_that_dies_before_it_forks_is_done_without(tmp_path):
    others = set(psutil.Process().children())
    with notebooks.warmed(), ThreadPoolExecutor() as pool:
        (server,) = set(psutil.Process().children()) - others
        while not Path(os.environ[warm.DOOR]).exists():
            time.sleep(0.1)
        server.suspend()
        output = pool.submit(execute, tmp_path, "print(2 + 2)")
        while not any(warm.__file__ in child.cmdline() for child in psutil.Process().children()):
            time.sleep(0.1)
        server.kill()
        assert output.result() == "4\n"


def started(door, tmp_path):
    """A client whose kernel has come up, in a process of its own that stands for a job, and that kernel."""
    connection = tmp_path / "kernel.json"
    command = [sys.executable, "-I", "-S", warm.__file__, door, "-f", str(connection)]
    script = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    job = subprocess.Popen([sys.executable, "-c", script])
    while not connection.exists():
        time.sleep(0.1)
    keeper = next(p for p in psutil.process_iter() if _asked(p))
    (kernel,) = keeper.children()
    return job, keeper, kernel


def _asked(process):
    """Whether a process is a keeper: a child of the warm process, itself a child of this one, with a kernel."""
    parent = process.parent()
    return parent is not None and parent.ppid() == os.getpid() and warm.__name__ in parent.cmdline() and process.children()


@pytest.mark.parametrize("killed", ["job", "keeper"])
def test_a_kernel_goes_with_whoever_wanted_it(door, tmp_path, killed):
    job, keeper, kernel = started(door, tmp_path)
    os.kill(job.pid if killed == "job" else keeper.pid, signal.SIGKILL)
    assert psutil.wait_procs([kernel], timeout=60)[1] == []
    job.kill()
    job.wait()


@pytest.mark.slow
def test_the_warm_process_goes_with_its_study():
    script = (
        "import time\nfrom paradox_utils import notebooks\nwith notebooks.warmed():\n    print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as study:
        study.stdout.readline()
        (server,) = psutil.Process(study.pid).children()
        study.kill()
    assert psutil.wait_procs([server], timeout=120)[1] == []
