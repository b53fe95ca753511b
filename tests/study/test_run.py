"""Whole studies: the project's own as planned, and stub notebooks under the real Snakemake and papermill."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from paradox_utils import files
from paradox_utils.config import study
from paradox_utils.study import plan

REPOSITORY = Path(__file__).resolve().parents[2]

GUARD = 1800  # seconds: no test waits for ever, and none races the clock
# A stub stage: notes its start and its end in markers.txt, writes what the real one would write, fails or waits on demand.
STUB = """
import time, json
from pathlib import Path
from paradox_utils import files
from paradox_utils.results import begin
markers = files.resolve("markers.txt")
def mark(word):
    with markers.open("a") as sink:
        sink.write(f"{word} {p.out.rsplit('/', 1)[-1]}\\n")
mark("start")
while files.resolve("hold.txt").exists():
    time.sleep(0.05)
if files.resolve("fail.txt").read_text() in p.out:
    raise RuntimeError("the stub was told\\nto fail")
run = begin(p)
"""
WORK = {
    "supervised": '(run.folder / "model").mkdir(); run.finish({}); mark("end")',
    "feedback": '(run.folder / "feedback.jsonl").write_text("{}"); run.finish({}); mark("end")',
    "reward_model": """
for step in p.checkpoint_steps:
    (run.folder / f"checkpoint-{step}").mkdir()
run.finish({"checkpoints": [{"step": step, "accuracy": 0.5 + step / 1000} for step in p.checkpoint_steps]})
mark("end")
""",
    "ppo": """
assert files.resolve(p.policy).is_dir() and (p.reward == "dial" or files.resolve(p.reward_model).is_dir())
(run.folder / "curve.csv").write_text("update,kl,lm_performance\\n0,0.0,0.5\\n1,0.5,0.75\\n")
run.finish({"rm_accuracy": float("nan"), "lm_performance_start": 0.5, "lm_performance_final": 0.75, "updates": p.updates})
mark("end")
""",
}
SCHEMAS = {"supervised": "Supervised", "feedback": "FeedbackParameters", "reward_model": "RewardModel", "ppo": "PPO"}
ANALYSIS = """
from pathlib import Path
import pandas as pd
from paradox_utils import files
table = pd.read_csv(files.resolve(results) / "summary.csv")
files.resolve(out).mkdir(parents=True)
(files.resolve(out) / "verdict.txt").write_text(f"verdict on {(table.status == 'ok').sum()} runs")
"""
CONFIG = """
study: tiny
feedback: {prompts: 7}
tasks:
  relevance: {reward_model: {checkpoint_steps: [0, 10]}}
arms:
  - {route: steps, tasks: [relevance], checkpoints: last}
  - {route: dial, tasks: [relevance], ppo: {dial_accuracy: 0.8}}
"""


def write_notebook(path, parameters, *cells):
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of stub notebooks."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "configs").mkdir()
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    for stage, notebook in plan.NOTEBOOKS.items():
        check = f"from paradox_utils import config\np = config.check_notebook(config.{SCHEMAS[stage]}, globals())"
        write_notebook(tmp_path / notebook, 'out = ""', check, STUB + WORK[stage])
    write_notebook(tmp_path / "notebooks/05-accuracy-and-performance.ipynb", 'results = ""\nout = ""', ANALYSIS)
    (tmp_path / "configs/tiny.yaml").write_text(CONFIG)
    (tmp_path / "fail.txt").write_text("nothing")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    return tmp_path


def planned(project, text=CONFIG):
    (project / "configs/tiny.yaml").write_text(text)
    return plan.plan(study.load_study(project / "configs/tiny.yaml"), "configs/tiny.yaml")


def trained(runs):
    return [run for run in runs if run.stage == "ppo"]


def seeds_of(runs):
    return sorted((run.labels["rm_seed"], run.labels["ppo_seed"]) for run in trained(runs))


# The command of a study whose kernels are not forked from a warm process: stubs need none of the libraries it would load.
COLD = """
import contextlib, sys
from paradox_utils import notebooks
from paradox_utils.study.__main__ import main
notebooks.warmed = contextlib.nullcontext
sys.exit(main())
"""


def start_study(project, *options, path="configs/tiny.yaml", warm=False, **environment):
    """A study in a session of its own; :func:`ended` waits for it, :func:`printed` is what it has said so far.

    ``warm``: as its users start it.
    """
    command = ["-m", "paradox_utils.study"] if warm else ["-c", COLD]
    command = [sys.executable, *command, "run", path, "--workers", "2", *options]
    environment = os.environ | {"PARADOX_ROOT": str(project)} | environment
    with tempfile.NamedTemporaryFile(dir=project, prefix="output-", delete=False) as sink:
        pipes = {"stdout": sink, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, **pipes)
    process.output = Path(sink.name)
    return process


def printed(process):
    return process.output.read_text(errors="replace")


def ended(process):
    """Exit code and output of a study."""
    return process.wait(GUARD), printed(process)


def run_study(project, *options, **others):
    return ended(start_study(project, *options, **others))


def markers(project):
    """[(start or end, stage), …] in the order in which the stubs noted it."""
    path = project / "markers.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, name.rsplit("-", 1)[0]) for word, name in map(str.split, lines)]


def wait_for(condition, process=None):
    """Wait until it holds; fail where the process that is to bring it about, if it is known, has ended."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert process is None or process.poll() is None or condition(), printed(process)
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.1)


def is_over(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


# --- run to their end -----------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_one_failure_leaves_the_others_running_and_the_next_call_tries_again(project):
    (project / "fail.txt").write_text("reward_model")
    code, output = run_study(project)
    assert code == 1, output
    assert "failed: reward_model relevance" in output
    assert "RuntimeError: the stub was told to fail" in output  # one line, no traceback
    assert "Traceback" not in output
    results = project / "results/tiny"
    rows = pd.read_csv(results / "summary.csv").set_index("route")
    assert rows.loc["dial", "status"] == "ok"
    assert rows.loc["dial", "lm_performance_final"] == 0.75
    assert rows.loc["steps", "status"] == "blocked"
    assert "reward_model-" in rows.loc["steps", "reason"]
    assert "verdict on 1 runs" in output
    finished = {path.parent.name.rsplit("-", 1)[0] for path in results.glob("*/run.json")}
    assert finished == {"supervised", "feedback", "ppo"}
    assert not list(results.glob("reward_model-*"))  # no half-filled folder
    assert list(results.glob(".work/reward_model-*/notebook.ipynb"))  # but the failed notebook can be read

    (project / "fail.txt").write_text("nothing")
    code, output = run_study(project)
    assert code == 0, output
    assert "2 of 5 runs to do" in output
    assert "LM performance 0.50 → 0.75" in output
    assert "verdict on 2 runs" in output
    assert sorted(stage for word, stage in markers(project) if word == "end") == sorted(
        ["supervised", "feedback", "reward_model", "ppo", "ppo"]
    )
    rows = pd.read_csv(results / "summary.csv", dtype=str)
    assert rows["status"].tolist() == ["ok", "ok"]
    assert rows["rm_step"].tolist()[0] == "10"
    assert list(pd.read_csv(results / "curves.csv").columns) == ["id", "update", "kl", "lm_performance"]
    record = json.loads((results / rows["id"][0] / "run.json").read_text())
    assert record["results"]["rm_accuracy"] is None
    assert record["needs"]
    assert record["versions"]["numpy"]
    assert not any(str(project) in path.read_text() for path in results.glob("[!.]*/*.*"))  # no path of this machine

    before = (project / "markers.txt").read_text()
    code, output = run_study(project)
    assert code == 0
    assert "nothing to do, all 5 runs are finished" in output
    assert "verdict on 2 runs" in output
    assert "started" not in output
    assert (project / "markers.txt").read_text() == before


COLD_AND_WARM = [pytest.param(False, marks=pytest.mark.heavy, id="cold"), pytest.param(True, marks=pytest.mark.slow, id="warm")]
DIAL_ONLY = "study: tiny\narms: [{route: dial, tasks: [relevance]}]\n"


@pytest.mark.parametrize("warm", COLD_AND_WARM)
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_study_continues_and_completes_each_run_once(project, whole_group, warm):
    (project / "configs/tiny.yaml").write_text(DIAL_ONLY)
    (project / "hold.txt").touch()
    process = start_study(project, warm=warm)
    wait_for(lambda: ("start", "supervised") in markers(project), process)
    family = psutil.Process(process.pid).children(recursive=True)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)  # the kernel has a session of its own: it notices and ends itself
        process.wait()
        again = start_study(project, warm=warm)
        wait_for(lambda: all(map(is_over, family)), again)
    else:
        code, output = run_study(project)
        assert code == 1
        schedulers = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
        assert any(f"process {pid} is already running it" in output for pid in schedulers[1:])
        for pid in schedulers:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        again = start_study(project, warm=warm)
        wait_for(lambda: "waits" in printed(again), again)
    (project / "hold.txt").unlink()
    code, output = ended(again)
    assert code == 0, output
    assert ("waits" in output) is not whole_group
    assert [stage for word, stage in markers(project) if word == "end"] == ["supervised", "feedback", "ppo"]
    starts = [stage for word, stage in markers(project) if word == "start"]
    assert starts == ["supervised"] * (2 if whole_group else 1) + ["feedback", "ppo"]
    assert pd.read_csv(project / "results/tiny/summary.csv")["status"].tolist() == ["ok"]


# --- where strangers work -------------------------------------------------------------------------------------------


STRANGE = "a=b,c: {id} 'my' \"réglage\" → $HOME %s #1.yaml"


@pytest.mark.parametrize("warm", COLD_AND_WARM)
def test_a_study_runs_where_strangers_work(project, warm):
    """Under a Latin terminal, a profile for another workflow, a home that takes no files, a long path for temporary files and a
    foreign kernel of the same name; from a config of any name."""
    kernel, long = project / "jupyter/kernels/python3/kernel.json", project / ("long" * 30)
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/bin/false", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}')
    long.mkdir()
    (project / "configs" / STRANGE).write_text(DIAL_ONLY)
    places = {"HOME": "/proc/1", "TMPDIR": str(long), "JUPYTER_PATH": str(project / "jupyter"), "SNAKEMAKE_PROFILE": "/nowhere"}
    terminal = {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", "PYTHONUTF8": "0"}
    code, output = run_study(project, path=f"configs/{STRANGE}", warm=warm, **places, **terminal)
    assert code == 0, output
    assert "LM performance 0.50 ? 0.75" in output
    assert pd.read_csv(project / "results/tiny/summary.csv")["status"].tolist() == ["ok"]


BREAKS_AFTERWARDS = """
import sys
if "job" in sys.orig_argv:
    from paradox_utils.study import job
    publish = job.publish
    def breaking(work, result, record):
        publish(work, result, record)
        raise KeyboardInterrupt
    job.publish = breaking
"""


@pytest.mark.heavy
def test_what_fails_after_a_result_is_published_does_not_unpublish_it(project):
    (project / "configs/tiny.yaml").write_text(DIAL_ONLY)
    (project / "sitecustomize.py").write_text(BREAKS_AFTERWARDS)
    path = os.pathsep.join([str(project), str(REPOSITORY)])
    code, output = run_study(project, PYTHONPATH=path)
    assert code == 1
    assert len(list(project.glob("results/tiny/*/run.json"))) == 1  # Snakemake starts nothing that needs a failed job
    (project / "sitecustomize.py").unlink()
    code, output = run_study(project)
    assert code == 0, output
    assert [stage for word, stage in markers(project) if word == "start"] == ["supervised", "feedback", "ppo"]
