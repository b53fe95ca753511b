"""A killed PPO run goes on as if nothing had happened, a broken state is passed by, and two processes do the work of one."""

import errno
import json
import os
import random
import re
import signal
import warnings
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from paradox_utils import config, files, states
from paradox_utils.ppo import loop, processes, state
from paradox_utils.ppo import ppo as updates
from paradox_utils.stages import ppo
from tests.policies.altered import shaken_reward_models
from tests.study.test_run import wait_for

SMALL = {
    "updates": 8,
    "prompts_per_update": 4,
    "evaluate_every": 3,
    "resume_every": 2,
    "validation_questions": 10,
    "test_questions": 10,
    "response_limit": 40,
    "dropout_in_updates": 0.1,
}


def run(folder, kill=None, during_save=0, at=None, **changes):
    """Run in a child that shares our imports; it kills itself at update ``kill``, before its ``during_save``-th file, or at a
    moment: ``at`` = (owner, name, count), a call of a function."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            if during_save:
                kill_in_a_save(during_save)
            if at:
                kill_at(*at)
            if kill is not None:
                kill_at_update(kill)
            _, results = ppo.run_ppo(config.PPO(**SMALL | changes), folder)
            (folder / "results.json").write_text(json.dumps(results))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(owner, name, count):
    real, calls = getattr(owner, name), iter(range(1, 1000))

    def act(*args, **kwargs):
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, act)


def kill_at_update(number):
    real = loop.sample

    def sample(p, actors, prompts, update):
        if update == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(p, actors, prompts, update)

    loop.sample = sample


def kill_in_a_save(count):
    real, calls = state.save_file, iter(range(1, 1000))

    def save_file(tensors, path):
        if next(calls) == count:
            Path(path).write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        real(tensors, path)

    state.save_file = save_file


def outcome(folder):
    """All that a run leaves, but for its times."""
    curve = pd.read_csv(folder / "curve.csv", float_precision="round_trip").drop(columns="seconds")
    weights = (folder / "model" / "model.safetensors").read_bytes()
    return curve.to_csv(), json.loads((folder / "results.json").read_text()), weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nobody kills leaves."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder) == 0
    return outcome(folder)


@pytest.mark.heavy
def test_a_run_killed_at_random_points_ends_as_one_that_was_not(whole, tmp_path):
    points = sorted(random.Random(3).sample(range(1, 8), 3))
    for point in points:
        assert run(tmp_path, kill=point) == -signal.SIGKILL
        states = sorted(path.name for path in tmp_path.glob("resume/state-*"))
        assert states == [f"state-{n}" for n in range(2, point + 1, 2)][-2:]
    assert run(tmp_path) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.slow
def test_a_run_with_several_reward_models_goes_on_too(tmp_path):
    changes = {"updates": 4, "others": "minimum", "other_reward_models": shaken_reward_models("relevance", tmp_path, count=1)}
    assert run(tmp_path / "whole", **changes) == 0
    assert run(tmp_path / "killed", kill=3, **changes) == -signal.SIGKILL
    assert run(tmp_path / "killed", **changes) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert pd.read_csv(tmp_path / "whole" / "curve.csv")["disagreement"].notna().all()


@pytest.mark.slow
def test_a_killed_run_of_another_optimiser_goes_on_too(tmp_path):
    assert run(tmp_path / "whole", optimiser="rloo") == 0
    assert run(tmp_path / "killed", kill=5, optimiser="rloo") == -signal.SIGKILL
    assert run(tmp_path / "killed", optimiser="rloo") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


MOMENTS = {
    "in the middle of an epoch": (updates, "_losses", 23),
    "between a state and its successor's clearing": (states, "keep_last", 2),
    "before the curve is written": (files, "write_table", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_anywhere_ends_as_one_that_was_not(whole, tmp_path, moment):
    assert run(tmp_path, at=MOMENTS[moment]) == -signal.SIGKILL
    assert any(tmp_path.glob("resume/state-*"))
    assert run(tmp_path) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("file", [1, 6])  # of four a state: in the first one, and in the second
def test_a_run_killed_while_it_saves_ends_as_one_that_was_not(whole, tmp_path, file):
    assert run(tmp_path, during_save=file) == -signal.SIGKILL
    assert any(tmp_path.glob("resume/*.part"))
    assert run(tmp_path, kill=7) == -signal.SIGKILL
    assert not any(tmp_path.glob("resume/*.part"))
    assert run(tmp_path) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.heavy
def test_a_truncated_state_is_passed_by(whole, tmp_path):
    assert run(tmp_path, kill=6) == -signal.SIGKILL
    newest = tmp_path / "resume" / "state-6" / "value.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="state-6: is not whole"):
        assert states.newest(tmp_path / "resume").name == "state-4"
    assert run(tmp_path) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.heavy
def test_other_parameters_start_afresh(tmp_path):
    assert run(tmp_path, kill=5) == -signal.SIGKILL
    assert run(tmp_path, seed=1, updates=1) == 0
    assert json.loads((tmp_path / "results.json").read_text())["updates"] == 1


@pytest.mark.heavy
def test_a_full_disk_leaves_the_last_whole_state(tmp_path, monkeypatch):
    real, calls = state.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        ppo.run_ppo(config.PPO(**SMALL), tmp_path)
    assert [path.name for path in (tmp_path / "resume").iterdir() if path.is_dir()] == ["state-2"]
    assert states.is_complete(tmp_path / "resume" / "state-2")


@pytest.mark.heavy
def test_a_state_is_safetensors_and_json_alone(tmp_path):
    assert run(tmp_path, kill=4) == -signal.SIGKILL
    files = list(tmp_path.glob("resume/state-*/*"))
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert len(files) == 2 * 6


def test_nothing_is_unpickled_and_no_remote_code_runs():
    modules = {path: path.read_text() for path in files.PACKAGE.rglob("*.py")}
    source = "\n".join(modules.values())
    unsafe = r"import (pickle|joblib|dill|cloudpickle)|pickle\.load|torch\.load\((?!weights_only=True)|trust_remote_code\W+True"
    assert not re.search(unsafe, source)
    asking = {path.parent.name for path, text in modules.items() if "trust_remote_code" in text}
    assert asking == {"choose", "config"}  # a candidate of somebody's choice, by its name alone
    assert source.count('"use_safetensors"') == 1  # in the one function that loads weights


def test_processes_alone_change_nothing():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert (processes.count(), processes.rank()) == (1, 0)
    assert processes.total(values) == 10
    assert processes.gathered(values) is values
    assert processes.agreed(lambda: "said") == "said"
    weight = torch.nn.Parameter(values)
    weight.sum().backward()
    processes.sum_gradients([weight])
    assert weight.grad.eq(1).all()


@pytest.mark.parametrize(
    "optimiser", [pytest.param("ppo", marks=pytest.mark.heavy), pytest.param("rloo", marks=pytest.mark.slow)]
)
def test_two_processes_make_the_updates_of_one(tmp_path, optimiser):
    ended, others = {}, shaken_reward_models("relevance", tmp_path)
    for number in (1, 2):  # of five prompts one process takes three, the other two
        changes = {"optimiser": optimiser, "updates": 3, "prompts_per_update": 5, "dropout_in_updates": 0.0}
        changes |= {"whiten_rewards": True, "other_reward_models": others}
        folder = tmp_path / str(number)
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made, results = ppo.run_ppo(config.PPO(**SMALL | changes, processes=number), folder)
        ended[number] = made.curve.drop(columns="seconds"), results, load_file(folder / "model" / "model.safetensors")
    (curve, results, weights), (other_curve, other_results, other_weights) = ended[1], ended[2]
    pd.testing.assert_frame_equal(curve, other_curve, rtol=1e-5, atol=1e-5, check_dtype=False)
    assert results["lm_performance_final"] == other_results["lm_performance_final"]
    assert max(float((weights[name] - other_weights[name]).abs().max()) for name in weights) < 1e-5


SHARED = {"updates": 4, "processes": 2, "resume_every": 1}


def of_folder(folder):
    """Processes that work on a folder, this one apart."""
    return [p for p in psutil.process_iter(["cmdline", "pid"]) if str(folder) in (p.info["cmdline"] or [])]


@pytest.mark.slow
def test_processes_end_with_the_run_that_started_them(tmp_path):
    assert run(tmp_path / "whole", **SHARED) == 0
    folder = tmp_path / "killed"
    folder.mkdir()
    child = os.fork()
    if child == 0:
        try:
            ppo.run_ppo(config.PPO(**SMALL | SHARED), folder)
        finally:
            os._exit(0)
    wait_for(lambda: any(folder.glob("resume/state-*/complete.json")))
    assert len(of_folder(folder)) == 3  # the launcher and its two
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not of_folder(folder))
    assert run(folder, **SHARED) == 0
    assert outcome(folder) == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_why_one_of_several_processes_failed_is_said(tmp_path, capsys):
    (tmp_path / "curve.csv").mkdir()  # where a file must be
    with pytest.raises(RuntimeError, match=r"one of the run's 2 processes ended with an error: \w*(File|Dir)\w*Error"):
        ppo.run_ppo(config.PPO(**SMALL | SHARED | {"updates": 1}), tmp_path)
    assert "Traceback" in capsys.readouterr().err


def test_more_processes_than_prompts_are_refused():
    with pytest.raises(config.ParameterError, match="processes = 5: more than prompts_per_update = 4"):
        config.check(config.PPO, {"processes": 5, "prompts_per_update": 4})
