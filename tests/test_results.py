"""Run folders: atomic results, provenance, and hashes that change with the code and with nothing else."""

import json
import math
import os
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config, files, hashes, results


@pytest.fixture
def package(tmp_path):
    """A small package with every kind of import, and a notebook that uses it."""
    modules = {
        "__init__": "",
        "ppo": "import numpy\nfrom . import losses\ndef late():\n    from paradox_utils.data.records import X",
        "losses": "import paradox_utils.kl as kl",
        "kl": "",
        "plots": "from paradox_utils import style",
        "style": "",
        "unused": "",
        "data/__init__": "",
        "data/records": "from ..shared import deep",
        "shared": "deep = 1",
    }
    for name, text in modules.items():
        path = tmp_path / "paradox_utils" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "paradox_utils"


def notebook(path, *cells):
    """Write a notebook of (tag, source) cells."""
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}) for tag, source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("words"), *made]), path)
    return path


CELLS = (
    ("parameters", "seed = 0"),
    ("", "%matplotlib inline\nfrom paradox_utils import ppo\nppo.run(seed)"),
    ("figure", "from paradox_utils import plots\nplots.draw()"),
)


@pytest.mark.parametrize("module", ["__init__", "ppo", "losses", "kl", "data/__init__", "data/records", "shared"])
def test_code_hash_follows_every_import(package, tmp_path, module):
    path = notebook(tmp_path / "a.ipynb", *CELLS)
    before = hashes.code_hash(path, presentation=False, package=package)
    assert hashes.code_hash(path, presentation=False, package=package) == before
    (package / f"{module}.py").write_text((package / f"{module}.py").read_text() + "\nedited = 1")
    assert hashes.code_hash(path, presentation=False, package=package) != before


@pytest.mark.parametrize(("module", "page_changes"), [("plots", True), ("style", True), ("unused", False)])
def test_code_hash_leaves_presentation_out_unless_asked(package, tmp_path, module, page_changes):
    path = notebook(tmp_path / "a.ipynb", *CELLS)
    work, page = (hashes.code_hash(path, presentation=value, package=package) for value in (False, True))
    (package / f"{module}.py").write_text("edited = 1")
    assert hashes.code_hash(path, presentation=False, package=package) == work
    assert (hashes.code_hash(path, presentation=True, package=package) != page) is page_changes


def test_what_is_left_out_of_a_results_hash_exists_and_no_result_is_made_with_it():
    """What trains may use what writes results down and says what is in parameters, and nothing else that is left out."""
    modules = {path.stem for path in files.PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert modules >= hashes.PRESENTATION
    looks = hashes.PRESENTATION - {"config", "files", "results", "hashes"}
    makers = [
        path for folder in ("data", "policies", "rewards", "ppo", "stages") for path in (files.PACKAGE / folder).glob("*.py")
    ]
    assert len(makers) > 20
    for path in makers:
        imported = re.findall(r"^ *from paradox_utils(?:\.(\w+))?.* import (.*)", path.read_text(), re.M)
        words = {word for home, names in imported for word in [home, *re.findall(r"\w+", names if not home else "")]}
        assert not words & looks, path


def test_code_hash_counts_code_cells_only(package, tmp_path):
    def both(*cells):
        path = notebook(tmp_path / "a.ipynb", *cells)
        return [hashes.code_hash(path, presentation=value, package=package) for value in (False, True)]

    work, page = both(*CELLS)
    assert both(("parameters", "seed = 1"), *CELLS[1:]) == [work, page]
    assert both(("injected-parameters", "seed = 7"), *CELLS) == [work, page]
    figure = both(*CELLS[:2], ("figure", "from paradox_utils import plots\nplots.draw(2)"))
    assert figure[0] == work
    assert figure[1] != page
    assert both(CELLS[0], ("", "from paradox_utils import ppo\nppo.run(2)"), CELLS[2])[0] != work
    with (tmp_path / "a.ipynb").open() as source:  # outputs are no code
        content = nbformat.read(source, 4)
    content.cells[0].source = "other words"
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="7")]
    nbformat.write(content, tmp_path / "a.ipynb")
    assert hashes.code_hash(tmp_path / "a.ipynb", presentation=False, package=package) != work  # the changed ppo.run(2)
    assert both(*CELLS) == [work, page]


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_an_unreadable_notebook_is_named(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(files.FileError, match=r"a\.ipynb: no readable notebook"):
        hashes.code_hash(tmp_path / "a.ipynb", presentation=True)
    with pytest.raises(files.FileError, match=r"b\.ipynb"):
        hashes.code_hash(tmp_path / "b.ipynb", presentation=True)


def test_a_cell_that_is_not_python_is_named(package, tmp_path):
    with pytest.raises(files.FileError, match="is not Python"):
        hashes.code_hash(notebook(tmp_path / "a.ipynb", ("", "def")), presentation=True, package=package)


def test_data_hash_follows_the_files_a_stage_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa/dev.json").write_text("[]")
    p = config.RewardModel(source="qa-feedback", data="qa", backbone="mine")
    first = hashes.data_hash(p)
    (tmp_path / "qa/notes.txt").write_text("no data")
    assert hashes.data_hash(p) == first
    (tmp_path / "qa/dev.json").write_text("[1]")
    second = hashes.data_hash(p)
    assert second != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/model.safetensors").write_bytes(b"\0" * 200_000)
    third = hashes.data_hash(p)
    assert third != second
    (tmp_path / "mine/model.safetensors").write_bytes(b"\0" * 199_999 + b"\1")
    assert hashes.data_hash(p) != third
    assert hashes.data_hash(config.RewardModel()) == hashes.data_hash(config.RewardModel(seed=5))
    assert hashes.data_hash(config.RewardModel()) != hashes.data_hash(config.RewardModel(world_seed=1))


def test_a_result_says_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run = results.begin(config.PPO(out="runs/a", updates=2, device="cpu"))
    assert run.folder == tmp_path / "runs/a"
    run.finish({"value": np.float32(0.5), "count": np.int64(3), "curve": np.array([1.0, np.nan])}, "diverged", "loss is nan")
    record = results.read_result(run.folder)
    assert record["results"] == {"value": 0.5, "count": 3, "curve": [1.0, None]}
    assert (record["status"], record["reason"]) == ("diverged", "loss is nan")
    assert record["parameters"] == config.PPO(out="runs/a", updates=2, device="cpu").model_dump()
    assert record["versions"]["numpy"] == np.__version__
    assert (record["device"], record["threads"]) == ("cpu", 3)
    assert record["seconds"] >= 0
    assert [path.name for path in run.folder.iterdir()] == ["result.json"]


def test_an_earlier_result_does_not_outlive_a_new_start(tmp_path):
    p = config.PPO(out=str(tmp_path / "a"))
    results.begin(p).finish({})
    run = results.begin(p)
    with pytest.raises(files.FileError, match="does not exist, so its stage has not finished"):
        results.read_result(run.folder)


@pytest.mark.parametrize("in_a_study", [False, True])
def test_states_go_once_the_result_is_safe(tmp_path, in_a_study):
    """In a study the result is safe when it is published, which its executor sees to."""
    run = results.begin(config.PPO(out=str(tmp_path)))
    (run.folder / "resume").mkdir()
    if in_a_study:
        (run.folder / "lock").touch()
    run.finish({})
    assert (run.folder / "resume").exists() is in_a_study


def test_what_made_a_state_names_the_code(package, monkeypatch):
    monkeypatch.setattr(hashes, "PACKAGE", package)
    (package / "stages").mkdir()
    (package / "stages" / "ppo.py").write_text("clip = 0.2")
    first = hashes.made_by(config.PPO(out="a", resume_every=1), "ppo")
    assert hashes.made_by(config.PPO(out="b"), "ppo") == first
    assert hashes.made_by(config.PPO(seed=1), "ppo") != first
    (package / "stages" / "ppo.py").write_text("clip = 0.3")
    assert hashes.made_by(config.PPO(), "ppo") != first


def test_without_out_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    run = results.begin(config.PPO())
    (run.folder / "curve.csv").write_text("x")
    run.finish({})
    folder = run.folder
    assert folder.is_dir()  # the figure cells after finish still read it
    del run
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "reason"), [("failed", "x"), ("diverged", ""), ("", "")])
def test_a_status_is_ok_or_diverged_with_a_reason(tmp_path, status, reason):
    run = results.begin(config.PPO(out=str(tmp_path / "a")))
    with pytest.raises(ValueError, match="status = "):
        run.finish({}, status, reason)
    assert not (run.folder / "result.json").exists()


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"a": ')
    with pytest.raises(files.FileError, match=r"result\.json: is not JSON"):
        results.read_result(tmp_path)


@given(st.recursive(st.floats() | st.integers() | st.text() | st.booleans(), lambda inner: st.lists(inner, max_size=3)))
def test_any_number_is_written_as_strict_json(value):
    text = json.dumps(files._plain({"value": value}), allow_nan=False)
    read = json.loads(text)["value"]
    if isinstance(value, float):
        assert read == value if math.isfinite(value) else read is None


def test_a_table_is_written_without_index_and_with_empty_fields(tmp_path):
    files.write_table(tmp_path / "a.csv", pd.DataFrame({"step": [80, None], "name": ["x, y", "z"]}, dtype=object))
    assert (tmp_path / "a.csv").read_text() == 'step,name\n80,"x, y"\n,z\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_result_says_how_much_memory_the_run_has_held(tmp_path):
    held = bytearray(b"x" * 50 * 2**20)
    results.begin(config.PPO(out=str(tmp_path))).finish({})
    assert len(held) // 2**20 < results.read_result(tmp_path)["peak_memory_mb"] < 20_000
    assert results.peak_memory(3)["peak_memory_mb"] >= 3 * results.peak_memory()["peak_memory_mb"] - 3


def test_a_lock_is_held_until_its_holder_closes_it(tmp_path):
    path = tmp_path / "lock"
    assert not files.held(path)
    assert not path.exists()
    with path.open("a+") as lock:
        assert files.acquire(lock)
        assert files.held(path)
    assert not files.held(path)


def test_a_copy_is_whole_or_absent(tmp_path):
    (tmp_path / "a").write_text("content")
    files.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"
    with pytest.raises(FileNotFoundError):
        files.copy(tmp_path / "none", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"


def test_files_known_already_are_not_read_again(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"1")
    known = {}
    first = hashes.data_hash(config.PPO(policy=str(tmp_path / "model")), known)
    assert first == hashes.data_hash(config.PPO(policy=str(tmp_path / "model")))
    weights.write_bytes(b"2")
    assert hashes.data_hash(config.PPO(policy=str(tmp_path / "model")), known) == first
    assert hashes.data_hash(config.PPO(policy=str(tmp_path / "model"))) != first
