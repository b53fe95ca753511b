"""A study's tables, gathered from its runs: finished, diverged and failed ones, and runs that several arms ask for."""

import shutil

import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis.tables import load_curves, load_parameters
from paradox_utils.study import tables
from paradox_utils.study.run import summarise
from tests.study.test_plan import SHARED
from tests.study.test_run import planned, project, trained  # noqa: F401 (project is a fixture)

QUESTIONS = "when,good,segments\nstart,1 0,2 1\nfinal,2 1,2 1\n"
RESPONSES = "when,question,text,ends,paid,judged\nstart,who?,a. b.,2 5,0.3 -0.3,1 -1\n"
BEST_OF = "n,kl,reward,true_return,lm_performance\n1,0.0,0.1,0.2,0.5\n2,0.19,0.3,0.2,0.6\n"


def finish(run, results, status="ok", **texts):
    """Leave what a run leaves that has ended."""
    folder = tables.folders("tiny", run)[1]
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    made = {"seconds": 3.5, "device": "cpu", "threads": 1, "versions": {}, "platform": "p", "commit": "e", "code_hash": "c"}
    record = {"id": run.id, "stage": run.stage, "labels": run.labels, "status": status, "reason": "", "results": results}
    files.write_json(folder / "run.json", record | made | {"data_hash": "d"})


@pytest.fixture
def study(project):  # noqa: F811
    """Three PPO runs: one finished, one (that two arms ask for) diverged, one failed after it had written its tables."""
    runs = planned(project, SHARED)
    first, both, failed = trained(runs)
    for run in runs:
        if run.stage != "ppo":
            finish(run, {"checkpoints": [{"step": 0, "accuracy": 0.5}]} if run.stage == "reward_model" else {})
    finish(
        first,
        {"probe_accuracy": 0.75, "lm_performance_final": 0.5},
        curve="update,kl,lm_performance\n0,0.0,0.5\n",
        questions=QUESTIONS,
        responses=RESPONSES,
        best_of_n=BEST_OF,
    )
    finish(
        both,
        {"probe_accuracy": None, "lm_performance_final": 0.25},
        "diverged",
        curve="update,kl,lm_performance\n0,0.5,0.5\n",
        questions=QUESTIONS,
    )
    work, result = tables.folders("tiny", failed)
    for folder in (work, result):
        folder.mkdir(parents=True)
    (result / "questions.csv").write_text(QUESTIONS)
    files.write_json(work / "failure.json", {"status": "failed", "reason": "RuntimeError: no"})
    return runs


@pytest.fixture
def whole(study):
    """The study after the failed run was tried again and came to its end."""
    last = trained(study)[-1]
    for folder in tables.folders("tiny", last):
        shutil.rmtree(folder)
    curve = "update,kl,lm_performance\n0,0.0,0.5\n"
    finish(last, {"probe_accuracy": 0.5, "lm_performance_final": 0.75}, curve=curve, questions=QUESTIONS)
    return study


def test_the_summary_has_a_row_for_every_arm_that_asks_for_a_run(study, project):  # noqa: F811
    first, both, failed = trained(study)
    table, problems = tables.write("tiny", study)
    assert table[["id", "arm", "status", "lm_performance_final"]].values.tolist() == [
        [first.id, "steps", "ok", 0.5],
        [both.id, "steps", "diverged", 0.25],
        [both.id, "base", "diverged", 0.25],
        [failed.id, "low", "failed", None],
    ]
    assert table["probe_accuracy"].tolist() == [0.75, None, None, None]
    assert table["ended"].tolist() == [True] * 4
    assert len(problems) == 1
    assert "RuntimeError: no" in problems[0]
    written = pd.read_csv(project / "results/tiny/summary.csv")
    assert written["arm"].tolist() == ["steps", "steps", "base", "low"]
    assert written["setting"].fillna("").tolist() == ["", "", "", "kl_coefficient=0.01"]


def test_tables_of_finished_runs_are_gathered_once_a_run(study, project):  # noqa: F811
    first, both, _ = trained(study)
    tables.write("tiny", study)
    questions = pd.read_csv(project / "results/tiny/questions.csv")
    assert questions.columns.tolist() == ["id", "when", "good", "segments"]
    assert questions[["id", "when", "good"]].values.tolist() == [
        [run.id, when, good] for run in (first, both) for when, good in (("start", "1 0"), ("final", "2 1"))
    ]
    answers = pd.read_csv(project / "results/tiny/responses.csv", dtype=str)
    assert answers.values.tolist() == [[first.id, "start", "who?", "a. b.", "2 5", "0.3 -0.3", "1 -1"]]
    chosen = pd.read_csv(project / "results/tiny/best_of_n.csv")
    assert chosen.columns.tolist() == ["id", "n", "kl", "reward", "true_return", "lm_performance"]
    assert chosen[["id", "n", "reward"]].values.tolist() == [[first.id, 1, 0.1], [first.id, 2, 0.3]]
    assert pd.read_csv(project / "results/tiny/curves.csv")["id"].tolist() == [first.id, both.id]


def test_tables_that_no_run_has_are_there_and_empty(project):  # noqa: F811
    tables.write("tiny", planned(project, SHARED))
    for name in ("curves", "questions", "responses", "best_of_n"):
        table = pd.read_csv(project / f"results/tiny/{name}.csv")
        assert (len(table), table.columns.tolist()) == (0, ["id"])


def test_a_study_that_trains_reward_models_alone_ends_well(project, capsys):  # noqa: F811
    runs = planned(project, SHARED.partition("arms:")[0] + "arms: [{route: steps, tasks: [relevance], checkpoints: []}]\n")
    assert {run.stage for run in runs} == {"supervised", "feedback", "reward_model"}
    for run in runs:
        finish(run, {"checkpoints": [{"step": 0, "accuracy": 0.5}]} if run.stage == "reward_model" else {})
    assert summarise("tiny", runs) == 0
    assert "reward_models.csv" in capsys.readouterr().out.splitlines()[-1]
    folder = tables.record("tiny", runs)
    assert pd.read_csv(folder / "reward_models.csv")["accuracy"].tolist() == [0.5]
    assert pd.read_csv(folder / "summary.csv").empty


@pytest.mark.parametrize("lost", ["nothing ran", "a run was killed", "a run failed"])
def test_an_unfinished_study_leaves_the_recorded_one_alone(whole, project, lost):  # noqa: F811
    folder = tables.record("tiny", whole)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for run in whole if lost == "nothing ran" else trained(whole)[:1]:
        work, result = tables.folders("tiny", run)
        shutil.rmtree(result)
        shutil.rmtree(work, ignore_errors=True)
        if lost == "a run failed":
            work.mkdir(parents=True)
            files.write_json(work / "failure.json", {"status": "failed", "reason": "it broke"})
    with pytest.raises(files.FileError, match="results/recorded/tiny"):
        tables.record("tiny", whole)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_every_table_is_recorded_and_the_largest_are_packed(whole, project):  # noqa: F811
    folder = tables.record("tiny", whole)
    assert folder == project / "results/recorded/tiny"
    expected = {f"{name}.csv" for name in ("summary", "reward_models", "best_of_n")}
    packed = {f"{name}.csv.gz" for name in ("curves", "questions", "responses", "parameters")}
    assert {path.name for path in folder.iterdir()} == expected | packed | {"provenance.json"}
    made = pd.read_csv(project / "results/tiny/curves.csv", dtype={"id": str})
    pd.testing.assert_frame_equal(load_curves(folder), made, rtol=1e-5)
    parameters = load_parameters(folder)
    assert parameters.index.tolist() == [run.id for run in trained(whole)]
    assert parameters["kl_coefficient"].tolist() == [run.parameters["kl_coefficient"] for run in trained(whole)]
    assert "out" not in parameters
    before = (folder / "curves.csv.gz").read_bytes()
    (folder / "curves.csv").write_text("of an older version, which packed nothing")
    tables.record("tiny", whole)
    assert (folder / "curves.csv.gz").read_bytes() == before  # nothing of the time it was made
    assert not (folder / "curves.csv").exists()
    for name in expected:
        assert (folder / name).read_bytes() == (project / "results/tiny" / name).read_bytes()
    made = files.read_json(folder / "provenance.json")["runs"]
    assert {run["commit"] for run in made} == {"e"}
    assert [run["id"] for run in made] == [run.id for run in whole]


def test_a_run_ends_unless_the_next_call_goes_on_with_it(project):  # noqa: F811
    """Not started and killed runs have not ended, nor have those that need them; what waits for a failure has."""
    runs = planned(project, SHARED)
    supervised, feedback = (next(run for run in runs if run.stage == stage) for stage in ("supervised", "feedback"))

    def ended():
        states = tables.states("tiny", runs)
        return {run.stage: states[run.id]["ended"] for run in runs}

    assert set(ended().values()) == {False}
    finish(supervised, {})
    work, _ = tables.folders("tiny", feedback)
    work.mkdir(parents=True)
    (work / "started").touch()  # by a job that left nothing else: it was killed
    assert ended() == {"supervised": True, "feedback": False, "reward_model": False, "ppo": False}
    files.write_json(work / "failure.json", {"status": "failed", "reason": "killed: is only a word"})
    assert set(ended().values()) == {True}


def test_picks_are_put_together_and_a_question_is_described_once(study, project):  # noqa: F811
    run = next(run for run in study if run.stage == "reward_model")
    folder = tables.folders("tiny", run)[1]
    (folder / "picks.csv").write_text("question,pick,step\na,1,0\na,0,5\n")
    (folder / "sets.csv").write_text("part,question,good\ntrain,a,3\ntrain,a,3\nheldout,b,1\n")
    tables.write("tiny", study)
    results = project / "results/tiny"
    assert pd.read_csv(results / "picks.csv").values.tolist() == [[run.id, "a", 1, 0], [run.id, "a", 0, 5]]
    assert pd.read_csv(results / "sets.csv").values.tolist() == [[run.id, "train", "a", 3], [run.id, "heldout", "b", 1]]


def test_a_study_that_trains_no_policy_has_tables_and_can_be_recorded(project):  # noqa: F811
    text = (
        "study: tiny\nsource: {source: semeval}\npolicies: {}\narms: [{route: steps, tasks: [preference], checkpoints: []}]\n"
    )
    (run,) = runs = planned(project, text)
    finish(
        run, {"checkpoints": [{"step": 0, "accuracy_noisy": 0.5}]}, picks="question,pick\na,1\n", sets="question,good\na,1\n"
    )
    table, problems = tables.write("tiny", runs)
    assert (len(table), problems) == (0, [])
    recorded = tables.record("tiny", runs)
    kept = {"picks.csv.gz", "sets.csv.gz", "reward_models.csv", "provenance.json"}
    assert kept <= {path.name for path in recorded.iterdir()}
