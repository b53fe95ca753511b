"""What runs need and machines have: sizes from recorded peaks or weights, limits of containers, slots of GPUs."""

import json
import subprocess
import sys

import psutil
import pytest

from paradox_utils import files, threads
from paradox_utils.study import machine, plan
from paradox_utils.study.__main__ import main
from paradox_utils.study.run import Share, shares
from tests.study.test_run import REPOSITORY, planned, project, run_study, write_notebook  # noqa: F401 (project is a fixture)


def finish(project, run, **record):  # noqa: F811
    folder = project / "results/tiny" / run.id
    folder.mkdir(parents=True)
    files.write_json(folder / "run.json", record)


def test_memory_follows_recorded_peaks_of_the_same_kind(project):  # noqa: F811
    text = "study: tiny\narms: [{route: dial, tasks: [relevance], ppo_seeds: [0, 1, 2]}]\n"
    runs = {(run.stage, run.labels["ppo_seed"]): run for run in planned(project, text)}
    before = machine.memory("tiny", list(runs.values()))
    assert set(before.values()) == {machine.BASE_MB + machine.AROUND_MB}  # Atlas's models weigh next to nothing
    finish(project, runs["ppo", 0], peak_memory_mb=700)
    finish(project, runs["ppo", 1], peak_memory_mb=800)
    finish(project, runs["supervised", None])  # recorded before peaks were
    after = machine.memory("tiny", list(runs.values()))
    assert after[runs["ppo", 2].id] == machine.AROUND_MB + 960
    assert after[runs["feedback", None].id] == before[runs["feedback", None].id]
    assert after[runs["supervised", None].id] == before[runs["supervised", None].id]


def test_memory_is_estimated_from_weights_also_of_models_to_be_made(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_HOME", str(project / "cache"))
    snapshot = project / "cache/hub/models--some--lm/snapshots/abc"
    for folder, size in ((project / "mine", 30), (snapshot, 50)):
        folder.mkdir(parents=True)
        with (folder / "model.safetensors").open("wb") as sink:
            sink.truncate(size * 2**20)
    text = """
study: tiny
policies: {local: {policy: mine}, cached: {policy: some/lm}, unknown: {policy: else/lm}}
arms: [{route: dial, tasks: [relevance], ppo: {processes: 2}}]
"""
    runs = planned(project, text)
    need = machine.memory("tiny", runs)
    sizes = {"local": 30, "cached": 50, "unknown": machine.UNKNOWN_MB}
    for run in runs:
        one = machine.BASE_MB + machine.COPIES[run.stage] * sizes[run.labels["policy"]]
        assert need[run.id] == machine.AROUND_MB + (2 * one if run.stage == "ppo" else one)


def test_reward_models_beside_the_one_that_pays_need_memory_too(project):  # noqa: F811
    for name in ("one", "two"):
        (project / name).mkdir()
        with (project / name / "model.safetensors").open("wb") as sink:
            sink.truncate(30 * 2**20)
    text = """
study: tiny
arms:
  - {route: steps, tasks: [relevance], ppo: {reward_model: one}}
  - {route: steps, tasks: [relevance], ppo: {reward_model: one, other_reward_models: [two]}}
"""
    runs = planned(project, text)
    alone, beside = (run for run in runs if run.stage == "ppo")
    need, base = machine.memory("tiny", runs), machine.BASE_MB + machine.AROUND_MB
    assert (need[alone.id], need[beside.id]) == (base + 30, base + 60)
    finish(project, alone, peak_memory_mb=10)
    need = machine.memory("tiny", runs)
    assert (need[alone.id], need[beside.id]) == (machine.AROUND_MB + 12, base + 60)  # another kind of run


def test_limits_of_a_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "GROUP", tmp_path)
    whole = threads.cores()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 1048576\nfile 5\n")
    assert threads.cores() == whole
    assert machine.free_memory() == pytest.approx(psutil.virtual_memory().available / 2**20, rel=0.1)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(str(5 * 2**20))
    assert threads.cores() == 1
    assert machine.free_memory() == 4


def test_runs_side_by_side_follow_cores_memory_and_gpus(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 16)
    monkeypatch.setattr(machine, "free_memory", lambda: 10_000)
    options, words = shares(Share(threads=2), [1000, 4000])
    assert options == ["--cores", "16", "--resources", "mem_mb=10000"]
    assert words.startswith("2 to 8 at a time (16 cores, 10000 MB free), 2 thread(s)")
    assert shares(Share(), [40_000])[1].startswith("1 at a time")  # it may still fit; waiting would not make it smaller
    assert shares(Share(workers=3, threads=2), [1000])[0] == ["--cores", "6"]
    options, words = shares(Share(gpus=("0", "1"), runs_per_gpu=2), [1000])
    assert options == ["--cores", "16", "--resources", "gpu=4", "mem_mb=10000"]
    assert words.startswith("4 at a time (16 cores, 10000 MB free), 2 GPU(s)")
    assert shares(Share(executor="slurm"), [1000])[0] == []
    assert shares(Share(executor="slurm", workers=9), [1000])[0] == ["--jobs", "9"]


def test_gpus_are_those_named_else_those_listed(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'; echo 'GPU 1: A (UUID: y)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, []) for text in ("", "-1", "-2", "none", "NoDevFiles", "GPU", "-1,0")),
        *((text, ["0"]) for text in ("0", " 0 ", "0,-1,1", "0, no ,1")),
        ("1, GPU-abc,MIG-1/2", ["1", "GPU-abc", "MIG-1/2"]),
    ],
)
def test_what_names_no_gpu_is_none_and_hides_what_follows(monkeypatch, text, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    assert machine.visible_gpus() == expected


HOLD = """
import sys, time
from paradox_utils.study import machine
real = time.sleep
def sleep(seconds):
    print("waits", flush=True)
    real(seconds)
time.sleep = sleep
with machine.held_gpus(int(sys.argv[1]), ["0", "1"], 1) as own:
    print(*own, flush=True)
    sys.stdin.read()
"""


def hold(number):
    command = [sys.executable, "-c", HOLD, str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.heavy
def test_a_gpu_is_held_until_its_holder_ends_however_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    first = hold(1)
    assert first.stdout.readline() == "0\n"
    with machine.held_gpus(1, ["0", "1"], 1) as own:
        assert own == ["1"]
        both = hold(2)
        assert [both.stdout.readline() for _ in range(2)] == ["waits\n"] * 2  # it has tried, and tried again
        with machine.held_gpus(1, ["0"], 2) as second_on_it:
            assert second_on_it == ["0"]
    first.kill()
    first.wait()
    assert next(line for line in both.stdout if line != "waits\n") == "0 1\n"
    both.communicate("")
    with machine.held_gpus(0, ["0"], 1) as own, machine.held_gpus(5, ["0"], 1) as all_there_are:
        assert (own, all_there_are) == ([], ["0"])


SEES = """
import os, time
from paradox_utils import config, files
from paradox_utils.results import begin
p = config.check_notebook(config.PPO, globals())
run = begin(p)
here = files.resolve(str(p.seed))
here.touch()
while not all(files.resolve(seed).exists() for seed in "01"):  # both run side by side
    time.sleep(0.05)
run.finish({"lm_performance_start": 0.5, "lm_performance_final": 0.75, "gpu": os.environ["CUDA_VISIBLE_DEVICES"]})
"""


@pytest.mark.heavy
def test_runs_of_a_study_take_a_gpu_each(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,9")
    monkeypatch.setenv("TMPDIR", str(project))
    write_notebook(project / plan.NOTEBOOKS["ppo"], 'out = ""', SEES)
    runs = planned(project, "study: tiny\narms: [{route: dial, tasks: [relevance], ppo_seeds: [0, 1]}]\n")
    code, output = run_study(project, "--gpus", "2")
    assert code == 0, output
    assert "2 GPU(s)" in output
    records = [json.loads((project / "results/tiny" / run.id / "run.json").read_text()) for run in runs if run.stage == "ppo"]
    assert sorted(record["results"]["gpu"] for record in records) == ["5", "7"]
    assert all(record["peak_memory_mb"] > 20 for record in records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threads", "0"), "--threads 0: must be at least 1"),
        (("--workers", "-1"), "--workers -1: must be at least 0"),
        (("--runs-per-gpu", "0"), "--runs-per-gpu 0: must be at least 1"),
        (("--gpus", "9"), "--gpus 9: 1 are visible here; give that many, or fewer"),
        (("--profile", "nowhere"), "name a folder such as profiles/slurm"),
        (("--profile", "cloud"), "needs a plugin: pip install snakemake-executor-plugin-some-cloud"),
    ],
)
def test_an_impossible_share_is_refused(project, monkeypatch, capsys, options, message):  # noqa: F811
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(project)
    (project / "cloud").mkdir()
    (project / "cloud/config.yaml").write_text("executor: some-cloud\n")
    assert main(["run", "configs/tiny.yaml", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.heavy
def test_the_slurm_test_names_missing_packages(tmp_path):
    script = REPOSITORY / "tests/slurm/one_node.py"
    done = subprocess.run([sys.executable, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("test-slurm: needs ")
    assert "slurm-client" in done.stderr
    assert "apt-get install" in done.stderr
