"""Going on after a kill: whole folders only, and trainings that end with the same bits however often they were killed."""

import contextlib
import errno
import functools
import importlib
import itertools
import os
import pickle
import random
import shutil
import signal
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import transformers

from paradox_utils import config, states
from paradox_utils.policies import supervised
from paradox_utils.rewards import training
from tests.conftest import answered

# --- folders ------------------------------------------------------------------------------------------------------------------


def state(parent, number, prefix="state-"):
    folder = parent / f"{prefix}{number}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes([number]) * 100)
    (folder / "inner" / "more").write_text("text")
    states.complete(folder)
    return folder


def cut(folder):
    os.truncate(folder / "weights", 99)


def lose(folder):
    (folder / "inner" / "more").unlink()


def add(folder):
    (folder / "extra").write_text("")


def unmark(folder):
    (folder / states.MARK).unlink()


def garble(folder):
    (folder / states.MARK).write_text('{"weights": 3}')


BREAKS = [cut, lose, add, unmark, garble]


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_state_is_passed_by_with_a_sentence(how, tmp_path):
    first, second = state(tmp_path, 9), state(tmp_path, 10)  # by number, not by name
    assert states.is_complete(second)
    assert states.newest(tmp_path) == second
    how(second)
    assert not states.is_complete(second)
    with pytest.warns(UserWarning, match="state-10: is not whole, so the run goes on from an earlier state"):
        assert states.newest(tmp_path) == first


def test_without_a_state_there_is_none(tmp_path):
    for name in ("state-3.part", "state-x", "other-4", "state-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
        states.complete(tmp_path / name)
    (tmp_path / "state-5").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert states.newest(tmp_path) is None
        assert states.newest(tmp_path / "nowhere") is None
    assert not states.is_complete(tmp_path / "nowhere")


def test_the_last_whole_states_stay(tmp_path):
    for number in (2, 8, 9, 10, 11):
        state(tmp_path, number)
    unmark(tmp_path / "state-11")
    (tmp_path / "state-12.part").mkdir()
    state(tmp_path, 1, "other-")
    states.keep_last(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-1", "state-10", "state-9"]


def no_room():
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(target):
    with states.whole_folder(target) as part:
        (part / "a").write_text("second")
        no_room()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model"
    with states.whole_folder(target) as part:
        (part / "a").write_text("first")
        assert not target.exists()
    with pytest.raises(OSError, match="No space left"):
        fill(target)
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "a").read_text() == "first"
    (target.parent / "model.part").mkdir()
    (target.parent / "model.part" / "b").write_text("what a kill left")
    with states.whole_folder(target) as part:
        (part / "a").write_text("third")
    assert [path.name for path in target.parent.rglob("*")] == ["model", "a"]
    assert (target / "a").read_text() == "third"


def test_another_run_does_not_inherit_steps_kept(tmp_path):
    parent = tmp_path / "resume"
    states.claim(parent, {"seed": 0, "rate": 0.1})
    kept = state(parent, 1)
    states.claim(parent, {"rate": 0.1, "seed": 0})
    assert states.newest(parent) == kept
    states.claim(parent, {"rate": 0.1, "seed": 1})
    assert states.newest(parent) is None


# --- trainings ----------------------------------------------------------------------------------------------------------------

EVERY, LAST = 7, 24
STATES = {"segments": (8, 16), "pairs": (8, 16), "supervised": (7, 14, 21)}


@pytest.fixture(scope="module")
def few():
    return {"train": answered(30, seed=1), "heldout": answered(4, seed=2)}


def train(kind, folder, few):
    """A short training of each kind; returns the losses and, for reward models, the metrics.

    Reward models report their loss every other step only, so that their states wait for step 8.
    """
    folder.mkdir(exist_ok=True)
    common = {"batch_size": 4, "resume_every": EVERY, "device": "cpu"}
    if kind == "supervised":
        p = config.Supervised(steps=LAST, train_questions=40, **common)
        return [], supervised.train(p, folder)
    p = config.RewardModel(
        task="completeness" if kind == "pairs" else "relevance", backbone="atlas-bert-32", micro_batch=2,
        checkpoint_steps=[0, 5, 14, LAST], schedule_steps=120, **common,
    )  # fmt: skip
    metrics, losses, _ = training.train(p, few, folder)
    return metrics, losses


def finished(kind, folder, few):
    """Everything a training leaves beside its states: what it returns, and the hash of each file."""
    metrics, losses = train(kind, folder, few)
    shutil.rmtree(folder / "resume")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return metrics, losses.to_dict("list"), {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def killed(kind, folder, few, when):
    """Run the training in a process of its own that kills itself once ``when`` says so; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            when()
            train(kind, folder, few)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def in_step(step):
    """A kill in the middle of an optimizer step."""

    def arm():
        act = states.KeepStates.on_step_begin
        states.KeepStates.on_step_begin = lambda self, args, state, *a, **k: (
            die() if state.global_step == step else act(self, args, state, *a, **k)
        )

    return arm


def in_call(owner, name, count):
    """A kill at the ``count``-th call of a function, before it does anything."""

    def arm():
        setattr(owner, name, failing(getattr(owner, name), count, die))

    return arm


def failing(act, count, fail):
    """``act``, but ``fail`` at the ``count``-th call."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: fail() if next(calls) == count else act(*args, **kwargs)


# A state calls torch.save four times. A reward model has checkpoints 0 and 5, state 8, checkpoint 14, state 16: each with the
# tokenizer and a mark.
MOMENTS = {
    "a state without its optimizer": lambda kind: in_call(torch, "save", 6),
    "a state without its mark": lambda kind: in_call(states, "complete", 2 if kind == "supervised" else 5),
    "old states not cleared": lambda kind: in_call(states, "keep_last", 2),
    "a result without its tokenizer": lambda kind: in_call(
        transformers.PreTrainedTokenizerFast, "save_pretrained", 1 if kind == "supervised" else 4
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory):
    """Uninterrupted trainings by kind, each made when it is first asked for."""
    return functools.cache(lambda kind: finished(kind, tmp_path_factory.mktemp(kind), few))


@pytest.fixture(scope="module")
def killed_early(few, tmp_path_factory):
    """The folders of trainings that were killed in step 9, by kind."""

    @functools.cache
    def folder(kind):
        made = tmp_path_factory.mktemp(f"killed-{kind}")
        assert killed(kind, made, few, in_step(9))
        return made

    return folder


@pytest.fixture
def left(killed_early, tmp_path):
    """Puts what such a training left into the test's own folder."""
    return lambda kind: shutil.copytree(killed_early(kind), tmp_path, dirs_exist_ok=True)


HEAVY, SLOW = pytest.mark.heavy, pytest.mark.slow


@pytest.mark.parametrize(
    "kind", [pytest.param("segments", marks=HEAVY), pytest.param("pairs", marks=SLOW), pytest.param("supervised", marks=HEAVY)]
)
def test_a_killed_training_ends_with_the_same_bits(kind, whole, few, tmp_path, monkeypatch):
    expected = whole(kind)
    for step in sorted(random.Random(kind).sample(range(1, LAST), 3)):
        assert killed(kind, tmp_path, few, in_step(step))
        assert steps_kept(tmp_path) == [at for at in STATES[kind] if at <= step][-2:]
    steps = []
    monkeypatch.setattr(states.KeepStates, "on_step_begin", lambda self, args, state, *a, **k: steps.append(state.global_step))
    done = max(steps_kept(tmp_path), default=0)
    assert finished(kind, tmp_path, few) == expected
    assert steps == list(range(done, LAST))


def steps_kept(folder):
    return sorted(int(path.name.split("-")[1]) for path in (folder / "resume").glob("checkpoint-*"))


@pytest.mark.parametrize("kind", ["segments", "supervised"])
@pytest.mark.parametrize("moment", [pytest.param(name, marks=SLOW if place else HEAVY) for place, name in enumerate(MOMENTS)])
@pytest.mark.filterwarnings("ignore:.*is not whole:UserWarning")
def test_a_kill_in_the_middle_of_a_write_is_made_good(kind, moment, whole, few, tmp_path):
    assert killed(kind, tmp_path, few, MOMENTS[moment](kind))
    assert finished(kind, tmp_path, few) == whole(kind)


def at_the_end():
    states.KeepStates.on_train_end = die


@pytest.mark.parametrize("kind", [pytest.param("segments", marks=HEAVY), pytest.param("supervised", marks=SLOW)])
def test_no_state_follows_the_last_step(kind, whole, few, tmp_path):
    """Going on from one would take a step too many."""
    assert killed(kind, tmp_path, few, at_the_end)
    assert steps_kept(tmp_path) == list(STATES[kind][-2:])
    assert finished(kind, tmp_path, few) == whole(kind)


@HEAVY
def test_a_cut_state_is_passed_by(whole, few, tmp_path):
    assert killed("segments", tmp_path, few, in_step(17))
    os.truncate(tmp_path / "resume" / "checkpoint-16" / "optimizer.pt", 1000)
    with pytest.warns(UserWarning, match="checkpoint-16: is not whole, so the run goes on from an earlier state"):
        assert finished("segments", tmp_path, few) == whole("segments")


@HEAVY
def test_nothing_whole_is_a_fresh_start(whole, few, left, tmp_path):
    left("supervised")
    (tmp_path / "resume" / "checkpoint-7" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="or from its start"):
        assert finished("supervised", tmp_path, few) == whole("supervised")


@pytest.mark.parametrize(
    ("writer", "count"),
    [
        pytest.param("torch.save", 6, marks=HEAVY, id="optimizer"),
        pytest.param("transformers.modeling_utils.safe_save_file", 5, marks=SLOW, id="weights"),
    ],
)
def test_a_full_disk_leaves_the_state_before(writer, count, whole, few, tmp_path, monkeypatch):
    module, name = writer.rsplit(".", 1)
    owner = importlib.import_module(module)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), count, no_room))
        with pytest.raises(OSError, match="No space left"):
            train("segments", tmp_path, few)
    assert steps_kept(tmp_path) == [8]  # the half of state 16 is gone, and the room it took
    assert states.is_complete(tmp_path / "resume" / "checkpoint-8")
    assert finished("segments", tmp_path, few) == whole("segments")


@HEAVY
def test_other_parameters_start_afresh(left, tmp_path):
    left("supervised")
    p = config.Supervised(steps=LAST, train_questions=40, batch_size=4, resume_every=EVERY, device="cpu", seed=1)
    assert supervised.train(p, tmp_path).equals(supervised.train(p, tmp_path / "fresh"))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, marks=HEAVY, id="gone"),
        pytest.param(lambda path: os.truncate(path, 1000), marks=SLOW, id="cut"),
    ],
)
def test_a_training_that_lost_a_checkpoint_starts_again(damage, whole, few, left, tmp_path):
    left("segments")
    damage(tmp_path / "checkpoint-5" / "model.safetensors")
    with pytest.warns(UserWarning, match="checkpoint-5: is not whole, so the training starts again"):
        assert finished("segments", tmp_path, few) == whole("segments")


class Planted:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@HEAVY
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"])
def test_no_code_of_a_state_runs(name, few, left, tmp_path):
    left("supervised")
    kept = tmp_path / "resume" / "checkpoint-7"
    assert not (kept / "training_args.bin").exists()
    torch.save(Planted(tmp_path / "trap"), kept / name)
    states.complete(kept)
    read = name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")  # the others are left alone
    with pytest.raises(pickle.UnpicklingError) if read else contextlib.nullcontext():
        train("supervised", tmp_path, few)
    assert not (tmp_path / "trap").exists()
