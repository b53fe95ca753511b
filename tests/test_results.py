"""Run folders: results written in one step, provenance, locks."""

import gzip
import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config, files, results


def test_a_result_says_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    run = results.begin(config.PPO(out="runs/a", updates=2, device="cpu"))
    assert run.folder == tmp_path / "runs/a"
    run.finish({"value": np.float32(0.5), "count": np.int64(3), "curve": np.array([1.0, np.nan])}, "diverged", "loss is nan")
    record = files.read_json(run.folder / "result.json")
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
    with pytest.raises(files.FileError, match=r"result\.json: does not exist"):
        files.read_json(run.folder / "result.json")


@pytest.mark.parametrize("in_a_study", [False, True])
def test_states_go_once_the_result_is_safe(tmp_path, in_a_study):
    """In a study the result is safe when it is published, which its executor sees to."""
    run = results.begin(config.PPO(out=str(tmp_path)))
    (run.folder / "resume").mkdir()
    if in_a_study:
        (run.folder / "lock").touch()
    run.finish({})
    assert (run.folder / "resume").exists() is in_a_study


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


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[" * 200_000, b"[]", b"1", b'{"a": "\xe9"}', b"\x1f\x8b\x08"])
def test_a_damaged_result_is_named(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(files.FileError, match=r"result\.json: "):
        files.read_json(tmp_path / "result.json")


@pytest.mark.parametrize("content", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}\r\n', gzip.compress(b'{"a": 1}', mtime=0)])
def test_a_json_file_is_read_with_a_mark_and_packed(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    assert files.read_json(tmp_path / "result.json") == {"a": 1}


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
    assert len(held) // 2**20 < files.read_json(tmp_path / "result.json")["peak_memory_mb"] < 20_000
    assert results.peak_memory(3)["peak_memory_mb"] >= 3 * results.peak_memory()["peak_memory_mb"] - 3


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "0.5 → 0.7"), ("latin-1", "0.5 ? 0.7"), ("ascii", "0.5 ? 0.7"), ("cp1252", "0.5 ? 0.7")]
)
def test_a_line_is_shown_as_far_as_the_terminal_can(encoding, shown):
    code = "from paradox_utils.files import say; say('0.5 → 0.7'); import sys; sys.stdout = None; say('gone')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True)
    assert (done.returncode, done.stdout.decode(encoding)) == (0, f"{shown}\n")


def test_libraries_keep_their_caches_in_the_project_where_the_home_takes_none(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.caches() == {}
    assert list(tmp_path.iterdir()) == []
    for home in ("/proc/1", str(tmp_path / "not there")):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_CONFIG_HOME", "mine")
        assert files.caches() == {"XDG_CACHE_HOME": str(files.ROOT / ".snakemake/home")}


def test_a_lock_is_held_until_its_holder_closes_it(tmp_path):
    path = tmp_path / "lock"
    assert not files.held(path)
    assert not path.exists()
    with path.open("a+") as lock:
        assert files.acquire(lock)
        assert files.held(path)
    assert not files.held(path)
