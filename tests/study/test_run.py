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

from paradox_utils import config, files
from paradox_utils.config import study
from paradox_utils.study import plan
from paradox_utils.study.run import summarise

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


def start_study(project, *options, path="configs/tiny.yaml", **environment):
    """A study in a session of its own; :func:`ended` waits for it, :func:`printed` is what it has said so far."""
    command = [sys.executable, "-m", "paradox_utils.study", "run", path, "--workers", "2", *options]
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


# --- the project's own ---------------------------------------------------------------------------------------------


PLANNED = {
    "quick": 15,
    "atlas": None,
    "atlas-headroom": 9,
    "atlas-pilot": 27,
    "atlas-learning-rate": 36,
    "lottery-screen": 480,
    "lottery": 604,
    "choose-backtest": 0,
    "regime": 288,
    "qa-feedback-dev": 1,
    "semeval-t5": 18,
    "semeval-t5-pilot": 3,
} | {f"qa-feedback-t5-{size}": 64 for size in ("small", "base", "large")}
PICKS = {"people-quick", "people-semeval", "people-evouna", "people-evouna-known"}  # which train reward models alone
GRADED = {*PICKS, "semeval-t5", "semeval-t5-pilot"}
PLANNED |= dict.fromkeys([*PICKS, "people-qa-feedback"], 0)


def test_every_config_is_planned_below():
    assert {path.stem for path in study.studies(REPOSITORY / "configs")} == set(PLANNED)


def test_a_study_may_train_reward_models_and_no_policy(project, capsys):
    """Its tables are written, and nothing is analysed; what is not finished is told."""
    runs = plan.plan(study.load_study(REPOSITORY / "configs/choose-backtest.yaml"))
    assert summarise("choose-backtest", runs) == 1
    assert f"{len(runs)} of {len(runs)} runs are not finished" in capsys.readouterr().out
    assert summarise("choose-backtest", []) == 0
    assert "analysis" not in capsys.readouterr().out


def test_the_atlas_study_has_six_accuracies_and_a_ppo_seed_of_its_own_in_every_trajectory(project):
    families = {}
    for run in trained(plan.plan(study.load_study(REPOSITORY / "configs/atlas.yaml"))):
        for x in run.all_labels:
            if x["rm_seed"] is not None:
                assert x["ppo_seed"] == x["rm_seed"]
                family = families.setdefault((x["arm"], x["task"], x["policy"]), {})
                family.setdefault(x["rm_seed"], set()).add((x["rm_step"], x["setting"]))
    counts = {key: ({len(rungs) for rungs in family.values()}, len(family)) for key, family in families.items()}
    assert all(
        found == ({6}, 5) for (arm, _, _), found in counts.items() if arm in ("steps", "known-paradox", "known-monotone")
    )
    assert sum(arm == "steps" for arm, _, _ in counts) == 6  # three tasks, two policies
    routes = ("dial-prejudice", "label-noise", "data-size", "model-size")
    assert all(
        counts[arm, task, "atlas-t5"] == ({6}, 3) for arm in routes for task in ("relevance", "factuality", "completeness")
    )


def test_the_pilot_shares_no_seed_with_the_study_it_plans(project):
    pilot, whole = (
        trained(plan.plan(study.load_study(REPOSITORY / "configs" / f"{name}.yaml"))) for name in ("atlas-pilot", "atlas")
    )
    assert not {run.id for run in pilot} & {run.id for run in whole}
    for name in ("rm_seed", "ppo_seed"):
        assert not {run.labels[name] for run in pilot} & {x[name] for run in whole for x in run.all_labels}
    assert set(seeds_of(pilot)) == {(rm, own) for rm in (100, 101, 102) for own in (100, 101, 102)}


def test_the_lottery_takes_trainings_that_nothing_else_has(project):
    def seeds(name):
        runs = plan.plan(study.load_study(REPOSITORY / "configs" / f"{name}.yaml"))
        return {run.labels["rm_seed"] for run in runs if run.labels["rm_seed"] is not None}

    for name in ("atlas", "atlas-pilot", "lottery-screen"):
        assert not seeds("lottery") & seeds(name)


def test_the_t5_has_six_reward_models_a_training_and_evaluators_that_share_no_question_with_them(project):
    runs = plan.plan(study.load_study(REPOSITORY / "configs/semeval-t5.yaml"))
    steps = {}
    for run in trained(runs):
        assert run.labels["ppo_seed"] == run.labels["rm_seed"]
        assert len({run.parameters["evaluator"], *run.parameters["other_evaluators"]}) == 3
        steps.setdefault(run.labels["rm_seed"], set()).add(run.labels["rm_step"])
    assert list(map(len, steps.values())) == [6, 6, 6]
    judges = [run for run in runs if run.labels["setting"] == "evaluator"]
    assert [(run.parameters["split"], run.parameters["seed"]) for run in judges] == [("evaluator", seed) for seed in range(3)]
    assert len({run.parameters["backbone"] for run in runs if run.stage == "reward_model"}) == 2
    pilot = plan.plan(study.load_study(REPOSITORY / "configs/semeval-t5-pilot.yaml"))
    assert {run.labels["rm_seed"] for run in trained(pilot)} == {90}
    names = ("updates", "epochs", "prompts_per_update", "samples_per_prompt", "kl_coefficient", "response_limit")
    assert len({tuple(run.parameters[name] for name in names) for run in (*trained(pilot), *trained(runs))}) == 1


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_papers_configs_hold_the_papers_settings(project, size):
    runs = plan.plan(study.load_study(REPOSITORY / "configs" / f"qa-feedback-t5-{size}.yaml"))
    models = {r.labels["task"]: r.parameters for r in runs if r.stage == "reward_model" and r.labels["setting"] != "evaluator"}
    steps = {task: p["checkpoint_steps"] for task, p in models.items()}
    assert steps["relevance"] == sorted({2 + 150 * k for k in range(20)} | {52, 76, 80, 102})
    assert steps["factuality"] == [2 + 66 * k for k in range(20)]
    assert steps["completeness"] == [30 + 300 * k for k in range(20)]
    assert {task: p["batch_size"] for task, p in models.items()} == {"relevance": 48, "factuality": 96, "completeness": 48}
    assert {task: p["learning_rate"] for task, p in models.items()} == {
        "relevance": 5e-6,
        "factuality": 5e-6,
        "completeness": 5e-5,
    }
    assert all(p["max_length"] == 2048 and p["weight_decay"] == 0.001 for p in models.values())
    assert not any(p["global_attention"] or p["passage_bars"] for p in models.values())
    for p in (run.parameters for run in runs if run.stage == "ppo"):
        assert p["updates"] * p["prompts_per_update"] * p["samples_per_prompt"] == 80_000
        assert (p["top_k"], p["temperature"], p["kl_coefficient"], p["learning_rate"]) == (20, 0.7, 0.3, 1e-5)
        assert (p["whitening"], p["whiten_padding"], p["value_clip"]) == ("root-of-standard-deviation", True, 0.2)
        assert (p["value_head"], p["schedule"], p["adam_epsilon"]) == ("gelu", "step", 1.25e-6)
        assert (p["prompt_limit"], p["response_limit"], p["warmup_updates"]) == (1024, 200, 100)


@pytest.mark.parametrize(("name", "ppo"), PLANNED.items())
def test_the_projects_configs_are_valid(project, name, ppo):
    path = REPOSITORY / "configs" / f"{name}.yaml"
    runs = plan.plan(study.load_study(path))
    rows = [run for run in runs if run.stage == "ppo"]
    tasks = {run.labels["task"] for run in runs if run.stage == "reward_model"} | {run.labels["task"] for run in rows}
    assert (
        name in GRADED
        or name == "lottery"
        or tasks
        == {
            "relevance",
            "factuality",
            "completeness",
        }
    )
    if ppo:
        assert len(rows) == ppo
        assert sum(run.parameters["reward"] == "dial" for run in rows) == {
            "quick": 3,
            "atlas-headroom": 9,
            "atlas-learning-rate": 36,
            "lottery": 24,
            "regime": 288,
        }.get(name, 0)


@pytest.mark.parametrize("stage", plan.NOTEBOOKS)
def test_the_projects_notebooks_take_what_a_study_injects(project, stage):
    text = CONFIG.replace("checkpoints: last}", "checkpoints: last, rm_seeds: [3], ppo_seeds: [5]}")
    run = next(run for run in planned(project, text) if run.stage == stage)
    with (REPOSITORY / plan.NOTEBOOKS[stage]).open() as source:
        cells = nbformat.read(source, 4).cells
    namespace = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), namespace)
    assert config.check_notebook(config.STAGES[stage], namespace | run.parameters).model_dump() == run.parameters


# --- run to their end -----------------------------------------------------------------------------------------------


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


DIAL_ONLY = "study: tiny\narms: [{route: dial, tasks: [relevance]}]\n"


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_study_continues_and_completes_each_run_once(project, whole_group):
    (project / "configs/tiny.yaml").write_text(DIAL_ONLY)
    (project / "hold.txt").touch()
    process = start_study(project)
    wait_for(lambda: ("start", "supervised") in markers(project), process)
    family = psutil.Process(process.pid).children(recursive=True)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)  # the kernel has a session of its own: it notices and ends itself
        process.wait()
        again = start_study(project)
        wait_for(lambda: all(map(is_over, family)), again)
    else:
        code, output = run_study(project)
        assert code == 1
        schedulers = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
        assert any(f"process {pid} is already running it" in output for pid in schedulers[1:])
        for pid in schedulers:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        again = start_study(project)
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


def test_a_study_runs_where_strangers_work(project):
    """Under a Latin terminal, a profile for another workflow, a home that takes no files, a long path for temporary files and a
    foreign kernel of the same name; from a config of any name."""
    kernel, long = project / "jupyter/kernels/python3/kernel.json", project / ("long" * 30)
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/bin/false", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}')
    long.mkdir()
    (project / "configs" / STRANGE).write_text(DIAL_ONLY)
    places = {"HOME": "/proc/1", "TMPDIR": str(long), "JUPYTER_PATH": str(project / "jupyter"), "SNAKEMAKE_PROFILE": "/nowhere"}
    terminal = {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", "PYTHONUTF8": "0"}
    code, output = run_study(project, path=f"configs/{STRANGE}", **places, **terminal)
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
