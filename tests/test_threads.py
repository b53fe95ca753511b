"""How many threads a run computes with, whoever launches it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from paradox_utils import config, files, results, threads

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SLURM_CPUS_PER_TASK", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of six cores, nobody asking for anything, and a model folder ``large``."""
    monkeypatch.setattr(threads, "ASKED", "")
    monkeypatch.setattr(threads, "GROUP", tmp_path)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in NAMES:  # first set, so that what a test leaves is undone
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "large").mkdir()
    with (tmp_path / "large/model.safetensors").open("wb") as sink:
        sink.truncate(300 * 2**20)
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("parameters", "number"),
    [
        ({}, 1),
        (config.Analysis().model_dump(), 1),
        ({"policy": "atlas-t5", "backbone": "atlas-bert", "evaluator": "oracle"}, 1),
        ({"policy": "large"}, 6),
        ({"backbone": "large"}, 6),
        ({"value_weights": "large"}, 6),
        ({"other_reward_models": []}, 1),
        ({"other_reward_models": ["atlas-bert", "{task}"], "task": "large"}, 6),
        ({"policy": "large", "processes": 2}, 3),
        ({"policy": "large", "processes": 9}, 1),
        ({"policy": "google/t5-of-the-hub"}, 6),  # not here yet
        ({"policy": "x" * 5000}, 6),  # no name of a folder: the stage will say so
        ({"policy": "{x} [y] ** \0"}, 6),
    ],
)
def test_small_models_take_one_thread_and_larger_ones_the_cores(machine, parameters, number):
    assert threads.use(parameters) == number == torch.get_num_threads()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == str(number)
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("PASSIVE", "0")


@pytest.mark.parametrize(("asked", "number"), [("3", 3), (" 12 ", 12), ("4,2", 4), ("0", 1), ("many", 1), ("-1", 1), ("", 1)])
def test_what_the_caller_asks_for_counts(machine, asked, number):
    machine.setattr(threads, "ASKED", asked)
    assert threads.use({"policy": "atlas-t5"}) == number
    assert threads.use({"policy": "large"}) == (6 if number == 1 else number)


@pytest.mark.parametrize(("slurm", "number"), [("4", 4), ("9", 6), ("0", 1), ("x", 6)])
def test_a_job_of_slurm_has_the_cores_it_was_given(machine, slurm, number):
    machine.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert threads.use({"policy": "large"}) == number


def test_a_second_call_is_not_bound_by_the_first(machine):
    """In JupyterLab a parameter is changed and the cell executed again."""
    assert [threads.use(p) for p in ({}, {"policy": "large"}, {})] == [1, 6, 1]


def test_how_the_callers_threads_wait_is_the_callers_choice(machine):
    machine.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.use({})
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_result_says_the_threads_that_were_used(machine):
    threads.use({"policy": "large"})
    assert results.environment("cpu")["threads"] == 6


ALONE = """
import json, sys
{before}
from paradox_utils import config
updates = 2
p = config.check_notebook(config.PPO, globals())
assert {loaded} == ("torch" in sys.modules)
import os, torch
from paradox_utils import results
print(json.dumps([torch.get_num_threads(), results.environment("cpu")["threads"], os.environ["OMP_WAIT_POLICY"]]))
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("asked", "before", "number"),
    [
        ({}, "", 1),
        ({}, "import torch; torch.set_num_threads(2)", 1),
        ({"OMP_NUM_THREADS": "2"}, "", 2),
        ({"OMP_NUM_THREADS": "2"}, "import torch", 2),
        ({"MKL_NUM_THREADS": "2"}, "", 2),
    ],
)
def test_a_notebook_chooses_before_torch_loads_or_tells_it(asked, before, number):
    """As in a new kernel: papermill's, or JupyterLab's where torch may be loaded already."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | asked
    code = ALONE.format(before=before, loaded=bool(before))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [number, number, "PASSIVE"]
