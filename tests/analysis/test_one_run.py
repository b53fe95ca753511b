"""Which run the page *One run* follows, and whose training its reward model comes from."""

import pandas as pd
import pytest

from paradox_utils.analysis import one_run, tables
from tests.worlds import ACCURACIES, rising, run_page, study, world


def test_the_chosen_run_has_the_most_accurate_reward_model_of_the_first_training():
    made = world(rising, rm_seeds=2, ppo_seeds=2)
    found = one_run.chosen(made.sample(frac=1, random_state=0))
    own = made[(made["task"] == "relevance") & (made["rm_seed"] == 0) & (made["ppo_seed"] == 0)]
    assert found["id"] == own.loc[own["rm_accuracy"].idxmax(), "id"]
    assert one_run.chosen(made, "run-0007")["id"] == "run-0007"


def test_a_run_that_is_not_there_is_refused():
    made = world(rising, rm_seeds=1, ppo_seeds=1)
    with pytest.raises(tables.AnalysisError, match=r"point = 'ppo-0': .*no such run"):
        one_run.chosen(made, "ppo-0")
    with pytest.raises(tables.AnalysisError, match=r"run-0001.*no outcome \(failed\)"):
        one_run.chosen(made.assign(status="failed"), "run-0001")
    with pytest.raises(tables.AnalysisError, match="give the id of a run"):
        one_run.chosen(made.assign(status="failed"))


def test_a_reward_model_is_found_by_its_path():
    checkpoints = pd.DataFrame({"id": ["a", "a", "b"], "step": [20, 10, 10]})
    paths = pd.Series({"x": "results/s/.work/a/checkpoint-10", "y": "fixtures/atlas/reward-relevance"}, name="reward_model")
    parameters = paths.to_frame()
    run = pd.Series({"id": "x", "rm_step": 10.0})
    assert one_run.training(run, checkpoints, parameters)["step"].tolist() == [10, 20]
    assert one_run.training(pd.Series({"id": "y", "rm_step": float("nan")}), checkpoints, parameters).empty  # a dial
    assert one_run.training(run, checkpoints, parameters[[]]).empty  # a study of before


@pytest.mark.heavy
def test_the_page_follows_any_point_of_the_recorded_study(tmp_path):
    summary = tables.load_summary("results/recorded/quick")
    for point in ("", summary.loc[summary["route"] == "dial", "id"].iloc[0]):
        names = run_page("14", "results/recorded/quick", tmp_path / (point or "first"), point=point)
        assert point in ("", names["made"]["id"])
        assert len(names["trained"]) == (0 if point else 4)
        assert (tmp_path / (point or "first") / "result.json").is_file()


@pytest.mark.heavy
def test_the_page_shows_a_study_without_parameters(tmp_path):
    names = run_page("14", study(world(rising, rm_seeds=1, ppo_seeds=1), tmp_path), tmp_path / "out")
    assert names["made"]["rm_accuracy"] == pytest.approx(max(ACCURACIES), abs=0.011)
