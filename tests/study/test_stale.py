"""Why a run is to do: what differs from the one that answered the same question before."""
# ruff: noqa: F811 (the fixture `project` is imported)

import pytest

from paradox_utils import files, identity
from paradox_utils.study import stale, tables
from paradox_utils.study.__main__ import main
from tests.study.test_run import CONFIG, planned, project  # noqa: F401 (project is a fixture)


@pytest.fixture
def finished(project):
    """Every run of the study, finished as it is planned now; by stage, the first of each."""
    return finish(planned(project))


def finish(runs):
    for run in runs:
        record = {
            "stage": run.stage,
            "labels": run.labels,
            "parameters": run.parameters,
            "code": run.code,
            "data_hash": run.data,
        }
        folder = tables.folders("tiny", run)[1]
        folder.mkdir(parents=True)
        files.write_json(folder / "run.json", record)
    return runs


def told(runs):
    """Reasons by stage."""
    found = stale.reasons("tiny", runs)
    return {run.stage: found[run.id] for run in runs if run.id in found}


def test_nothing_is_said_of_what_is_finished(finished):
    assert told(finished) == {}


def test_a_run_without_a_predecessor_was_never_finished(project):
    assert set(map(tuple, told(planned(project)).values())) == {("it was never finished",)}


def test_a_changed_parameter_is_named_with_both_values_and_what_follows_from_it(finished, project):
    found = told(planned(project, CONFIG.replace("prompts: 7", "prompts: 8") + "ppo: {kl_coefficient: 0.1}\n"))
    assert found["feedback"] == ["parameter prompts: 7 → 8"]
    assert found["reward_model"] == ["needs feedback atlas-t5, which is made anew"]
    assert found["ppo"][0] == "parameter kl_coefficient: 0.05 → 0.1"
    assert "supervised" not in found


def test_a_parameter_changed_in_an_arm_is_named_and_a_damaged_record_is_passed_by(finished, project):
    damaged = project / "results/tiny/ppo-0000000000/run.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    runs = planned(project, CONFIG.replace("dial_accuracy: 0.8", "dial_accuracy: 0.9"))
    found = stale.reasons("tiny", runs)
    assert list(found.values()) == [["parameter dial_accuracy: 0.8 → 0.9"]]


BESIDE = CONFIG.replace("checkpoints: last", "checkpoints: last, others: 1")


def test_models_that_stand_beside_the_reward_are_told_as_those_that_pay(project):
    finish(planned(project, BESIDE))
    found = told(planned(project, BESIDE.replace("[0, 10]", "[0, 10], batch_size: 8")))
    models = [f"reward_model relevance steps other_reward_models=1 RM seed {seed}" for seed in (0, 1000)]
    assert found["ppo"] == [f"needs {model}, which is made anew" for model in models]
    found = told(planned(project, BESIDE.replace("others: 1", "others: 2")))
    assert [line.split(":")[0] for line in found["ppo"]] == ["parameter other_reward_models"]


def test_changed_code_is_named_by_its_file(finished, project, monkeypatch):
    real = identity.code_of

    def edited(stage):
        return real(stage) | ({"ppo/loop.py": "other"} if stage == "ppo" else {})

    monkeypatch.setattr(identity, "code_of", edited)
    assert told(planned(project)) == {"ppo": ["code: ppo/loop.py"]}


def test_changed_data_is_told(finished, project, monkeypatch):
    real = identity.data_hash
    monkeypatch.setattr(
        identity, "data_hash", lambda p, known: real(p, known) + ("x" if p.out == "" and hasattr(p, "steps") else "")
    )
    found = told(planned(project))
    assert found["supervised"] == ["data: what its parameters name holds something else"]
    assert found["feedback"] == ["needs supervised atlas-t5, which is made anew"]


def test_the_command_says_it_of_each_run(finished, project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    planned(project, CONFIG + "ppo: {kl_coefficient: 0.1}\n")
    assert main(["plan", "configs/tiny.yaml", "--why"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("    parameter kl_coefficient: 0.05 → 0.1") for line in lines) == 2
    assert sum(" finished " in line for line in lines) == 3
