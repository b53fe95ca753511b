"""Injected faults: each ends in a run marked with its status and reason, with the study gone on and a summary of all of it."""

import contextlib
import io
import os
import resource
import subprocess
import sys

import pandas as pd
import psutil
import pytest

from paradox_utils import files
from paradox_utils.analysis.phrases import run_counts
from paradox_utils.analysis.tables import load_summary
from paradox_utils.config import study
from paradox_utils.study import plan, tables
from paradox_utils.study.__main__ import main
from tests.study.test_run import GUARD, ended, project, run_study, start_study, wait_for, write_notebook  # noqa: F401 (project is a fixture)

CONFIG = """
study: tiny
arms: [{{route: dial, tasks: [relevance], vary: {{dial_accuracy: {}}}}}]
"""
# A PPO run that leaves a state to go on from; one of these accuracies then meets its fault, until that is mended.
PPO = """
from paradox_utils import config, files
from paradox_utils.results import begin
import os, resource, signal, time
p = config.check_notebook(config.PPO, globals())
run = begin(p)
(run.folder / "resume").mkdir(exist_ok=True)
(run.folder / "resume" / "state-7").touch()
(run.folder / "curve.csv").write_text("update,kl,lm_performance\\n0,0.0,0.5\\n")
outcome = [{"lm_performance_start": 0.5, "lm_performance_final": 0.75}]
if not files.resolve("mended.txt").exists():
    exec(FAULTS.get(p.dial_accuracy, ""))
run.finish(*outcome)
"""
FAULTS = {
    0.5: 'resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); (run.folder / "weights").write_bytes(bytes(10_000))',
    0.6: "os.kill(os.getpid(), signal.SIGKILL)",
    0.7: "held = bytearray(10**16)",
    0.8: 'outcome += ["diverged", "KL is not finite"]; outcome[0]["lm_performance_final"] = float("nan")',
}
REASONS = {
    0.5: "the disk is full, or a limit on it is reached (OSError: [Errno 27] File too large); free some",
    0.6: "killed: the notebook's process was killed or crashed, perhaps out of memory; ",
    0.7: "MemoryError",
    0.8: "KL is not finite",
}


def faulty(project, faults, accuracies=(0.5, 0.6, 0.7, 0.8, 0.9)):  # noqa: F811
    """Make the project one whose runs meet these faults, and return those by their dial's accuracy, others by stage."""
    (project / "configs/tiny.yaml").write_text(CONFIG.format(list(accuracies)))
    write_notebook(project / plan.NOTEBOOKS["ppo"], 'out = ""', PPO.replace("FAULTS", repr(faults)))
    return {run.parameters.get("dial_accuracy", run.stage): run for run in runs_of(project)}


def runs_of(project):  # noqa: F811
    return plan.plan(study.load_study(project / "configs/tiny.yaml"), "configs/tiny.yaml")


def rows(project):  # noqa: F811
    table = pd.read_csv(project / "results/tiny/summary.csv")
    return table.set_index(table["setting"].str.removeprefix("dial_accuracy=").astype(float))


def files_of(limit):
    """What makes a new process one whose files cannot hold more bytes; Python makes an error of the signal."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def call(project, *words, limit=None):  # noqa: F811
    """A command of the module; ``limit``: bytes that a file may have, for which it takes a process of its own."""
    arguments = [words[0], "configs/tiny.yaml", *words[1:]]
    if limit is None:
        said = io.StringIO()
        with contextlib.chdir(project), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return main(arguments), said.getvalue()
    command = [sys.executable, "-m", "paradox_utils.study", *arguments]
    environment = os.environ | {"PARADOX_ROOT": str(project)}
    pipes = {"capture_output": True, "text": True, "preexec_fn": files_of(limit)}
    done = subprocess.run(command, cwd=project, env=environment, timeout=GUARD, **pipes)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_faults_mark_their_runs_and_leave_the_others(project):  # noqa: F811
    runs = faulty(project, FAULTS)
    code, output = run_study(project, warm=True)
    assert code == 1, output
    table = rows(project)
    assert table["status"].to_dict() == {0.5: "failed", 0.6: "failed", 0.7: "failed", 0.8: "diverged", 0.9: "ok"}
    for accuracy, reason in REASONS.items():
        assert table.loc[accuracy, "reason"].startswith(reason)
        assert reason in output
    assert "Traceback" not in output
    assert "1 of 5 PPO runs finished; 1 diverged (0 with a performance" in run_counts(load_summary(project / "results/tiny"))
    assert "3 failed" in run_counts(load_summary(project / "results/tiny"))
    works = {accuracy: tables.folders("tiny", runs[accuracy])[0] for accuracy in table.index}
    assert not any((work / "started").exists() for work in works.values())
    kept = {accuracy for accuracy, work in works.items() if (work / "resume/state-7").exists()}
    assert kept == {0.5, 0.6, 0.7}  # the failed ones' states, for the next call to go on from

    (project / "mended.txt").touch()
    record = tables.folders("tiny", runs["feedback"])[1] / "run.json"
    record.write_text(record.read_text()[:100])
    code, output = run_study(project, warm=True)
    assert code == 0, output
    assert "feedback atlas-t5: its record is damaged, so it runs again" in output
    assert "4 of 7 runs to do" in output
    assert rows(project)["status"].to_dict() == {0.5: "ok", 0.6: "ok", 0.7: "ok", 0.8: "diverged", 0.9: "ok"}
    assert files.read_json(record)["id"] == runs["feedback"].id
    assert not any((work / "resume").exists() for work in works.values())


@pytest.mark.heavy
def test_a_killed_job_is_told_from_one_that_runs_and_one_that_never_started(project):  # noqa: F811
    runs = faulty(project, {0.7: "signal.pause()"}, accuracies=(0.6, 0.7))
    work, _ = tables.folders("tiny", runs[0.7])
    process = start_study(project)
    wait_for(lambda: (work / "resume/state-7").exists() and tables.finished("tiny", runs[0.6]), process)
    code, output = call(project, "summary")
    assert code == 1
    assert rows(project).loc[0.7, "status"] == "running"
    assert "running: ppo relevance" in output
    jobs = [child for child in psutil.Process(process.pid).children(recursive=True) if runs[0.7].id in child.cmdline()]
    assert len(jobs) == 1
    jobs[0].kill()
    _, output = ended(process)
    row = rows(project).loc[0.7]
    assert row["status"] == "failed"
    assert row["reason"].startswith("killed: its job ended without a word")
    assert f"failed: ppo relevance atlas-t5 dial dial_accuracy=0.7 RM seed 0 seed 0 ({runs[0.7].id}): killed" in output
    assert (work / "resume/state-7").exists()
    (work / "started").unlink()  # what is left of a run that never started: at most its folder
    assert tables.states("tiny", runs_of(project))[runs[0.7].id] == {
        "status": "blocked",
        "reason": "was not started",
        "ended": False,
    }


@pytest.mark.heavy
def test_a_run_whose_disk_has_no_room_for_the_reason_is_marked(project):  # noqa: F811
    run = faulty(project, {})["supervised"]
    code, output = call(project, "job", run.id, limit=100)
    assert code == 1
    assert "supervised atlas-t5: failed, the disk is full" in output
    assert "(this could not be recorded: File too large)" in output
    state = tables.states("tiny", runs_of(project))[run.id]
    assert state["status"] == "failed"
    assert "its disk too full to say why" in state["reason"]


@pytest.mark.heavy
def test_a_full_disk_under_the_study_is_one_sentence_and_keeps_the_old_tables(project):  # noqa: F811
    run = faulty(project, {})["supervised"]
    call(project, "summary")
    table = project / "results/tiny/summary.csv"
    before = table.read_text()
    work, _ = tables.folders("tiny", run)
    work.mkdir(parents=True)
    files.write_json(work / "failure.json", {"id": run.id, "status": "failed", "reason": "it broke"})
    code, output = call(project, "summary", limit=100)
    assert code == 2
    assert output.strip().splitlines()[-1].startswith("the disk is full, or a limit on it is reached")
    assert "Traceback" not in output
    assert table.read_text() == before
    assert call(project, "summary")[0] == 1
    assert rows(project)["reason"].str.startswith("needs supervised-").all()


@pytest.mark.parametrize("damage", ["", '{"id": "ppo-', "{}.part"])
def test_half_a_record_never_passes_for_a_whole_one(project, damage):  # noqa: F811
    run = faulty(project, {})["supervised"]
    _, result = tables.folders("tiny", run)
    result.mkdir(parents=True)
    name = "run.json.part" if damage.endswith(".part") else "run.json"
    (result / name).write_text(damage)
    state = tables.states("tiny", runs_of(project))[run.id]
    assert state["status"] == ("blocked" if name.endswith(".part") else "failed")
    assert "is not JSON" in state["reason"] or name.endswith(".part")


def test_a_rerun_keeps_a_state_with_what_it_builds_on_and_nothing_else(tmp_path):
    from paradox_utils.study.job import clear

    for folder in ("resume", "checkpoint-10"):
        (tmp_path / folder).mkdir()
    for file in ("lock", "started", "result.json", "failure.json", "resume/state-7"):
        (tmp_path / file).touch()
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoint-10", "lock", "resume", "started", "state-7"]
    (tmp_path / "resume/state-7").unlink()
    (tmp_path / "resume").rmdir()
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lock", "started"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    files.write_json(path, {"whole": 1})
    write = f"from paradox_utils import files; files.write_json(files.Path({str(path)!r}), {{'x': 'x' * 1000}})"
    done = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, preexec_fn=files_of(100))
    assert "File too large" in done.stderr
    assert files.read_json(path) == {"whole": 1}
