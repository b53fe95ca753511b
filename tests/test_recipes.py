"""CONTRIBUTING's recipes, followed for real in a copy of the project: a new task, a new data source and a new route."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from paradox_utils.files import PACKAGE, ROOT


@pytest.fixture
def project(tmp_path):
    """A copy of what a run needs."""
    for name in ("paradox_utils", "notebooks", "fixtures", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert PACKAGE.parent == ROOT
    return tmp_path


def edit(path, old, new):
    """Replace the one place where a text stands."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} holds {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(project, code):
    """What a new process that sees the copy prints last, from JSON."""
    environment = os.environ | {"PYTHONPATH": str(project), "PARADOX_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_task_is_a_name_and_an_entry(project):
    """*Grounding*: sentences without a statement that the passages contradict."""
    package = project / "paradox_utils"
    edit(package / "config/stages.py", 'TaskName = Literal["relevance",', 'TaskName = Literal["grounding", "relevance",')
    entry = '    "grounding": Task(sentences, 0.4, "grounded sentences (share)", frozenset({"Wrong-Grounding"}), "F-ERR"),\n'
    edit(package / "data/tasks.py", "TASKS: dict[TaskName, Task] = {\n", "TASKS: dict[TaskName, Task] = {\n" + entry)
    found = run(
        project,
        """
import json
from pathlib import Path
from paradox_utils import config
from paradox_utils.stages.ppo import run_ppo
from paradox_utils.stages.reward_model import train_reward_model
few = {"task": "grounding", "train_questions": 20, "validation_questions": 4, "test_questions": 4}
trained, _ = train_reward_model(config.RewardModel(**few, checkpoint_steps=[0, 2], batch_size=4), Path("rm"))
p = config.PPO(**few, reward_model="rm/checkpoint-2", updates=1, prompts_per_update=2, evaluate_every=1)
outcome, results = run_ppo(p, Path("ppo"))
dial, exact = run_ppo(p.model_copy(update={"reward": "dial"}), Path("dial"))
print(json.dumps([trained["checkpoints"][-1], results, exact, outcome.status, dial.status]))
""",
    )
    checkpoint, results, exact, *statuses = found
    assert statuses == ["ok", "ok"]
    assert checkpoint["step"] == 2
    assert 0 <= checkpoint["accuracy"] <= 1
    assert results["rm_accuracy"] == checkpoint["accuracy"]
    assert exact["rm_accuracy"] == 1.0  # the oracle knows the new task by its kinds of errors
    assert 0 < exact["lm_performance_start"] == results["lm_performance_start"] < 1


SOURCE = '''
"""Counting: questions that ask for the next number."""

from paradox_utils import config
from paradox_utils.data.records import Passage, Question, Splits


def load_splits(p: config.Source) -> Splits:
    def question(n: int) -> Question:
        passages = (Passage("numbers", (f"{n} comes before {n + 1}.",)),)
        return Question(f"q{n}", f"what follows {n}?", passages, f"question: what follows {n}?", (f"{n + 1}.",))

    first, second = p.train_questions, p.train_questions + p.validation_questions
    parts = range(first), range(first, second), range(second, second + p.test_questions)
    return Splits(*([question(n) for n in part] for part in parts))


def demonstrations(questions: list[Question], seed: int) -> list[str]:
    return [question.references[0] for question in questions]


def load_feedback(p: config.Source, path: object) -> dict:
    return {"train": [], "heldout": [], "evaluator": []}
'''


@pytest.mark.heavy
def test_a_source_is_a_name_a_file_and_an_entry(project):
    package = project / "paradox_utils"
    edit(package / "config/stages.py", 'source: Literal["atlas",', 'source: Literal["counting", "atlas",')
    (package / "data/counting.py").write_text(SOURCE.lstrip(), encoding="utf-8")
    door = package / "data/__init__.py"
    edit(door, "from paradox_utils.data import atlas,", "from paradox_utils.data import counting, atlas,")
    entry = '    "counting": Origin(counting.load_splits, counting.demonstrations, counting.load_feedback),\n'
    edit(door, "SOURCES: dict[str, Origin] = {\n", "SOURCES: dict[str, Origin] = {\n" + entry)
    losses, answers, questions = run(
        project,
        """
import json
from pathlib import Path
from paradox_utils import config
from paradox_utils.stages.supervised import supervised_policy
few = {"source": "counting", "train_questions": 8, "validation_questions": 3, "test_questions": 2}
losses, results, responses = supervised_policy(config.Supervised(**few, steps=2, batch_size=4), Path("policy"))
print(json.dumps([losses["loss"].tolist(), responses.texts, [q.text for q in responses.questions]]))
""",
    )
    assert len(losses) == 2
    assert all(loss > 0 for loss in losses)
    assert len(answers) == 3
    assert questions == ["what follows 8?", "what follows 9?", "what follows 10?"]


@pytest.mark.heavy
def test_a_route_is_a_name(project):
    """*Batch size*: as many steps on fewer or more examples each."""
    edit(project / "paradox_utils/config/study.py", 'Route = Literal["steps",', 'Route = Literal["batch-size", "steps",')
    (project / "configs/tiny.yaml").write_text(
        "study: tiny\narms: [{route: batch-size, tasks: [relevance], vary: {batch_size: [8, 16]}, checkpoints: last}]\n"
    )
    planned, trained = run(
        project,
        """
import json
from pathlib import Path
from paradox_utils.analysis.teachers import TRAINED
from paradox_utils.config.study import load_study
from paradox_utils.study import plan
runs = plan.plan(load_study(Path("configs/tiny.yaml")))
labels = [[run.stage, run.labels["route"], run.labels["setting"], run.parameters.get("batch_size")] for run in runs]
print(json.dumps([labels, TRAINED]))
""",
    )
    of_models = [row[1:] for row in planned if row[0] == "reward_model"]
    assert of_models == [["batch-size", "batch_size=8", 8], ["batch-size", "batch_size=16", 16]]
    assert [row[1:3] for row in planned if row[0] == "ppo"] == [["batch-size", f"batch_size={n}"] for n in (8, 16)]
    assert "batch-size" in trained  # the analysis counts it among the routes that train
