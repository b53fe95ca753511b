"""What pages show of a study's comparisons: a row each, told apart by route, task and policy."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import regrets, verdict
from tests.worlds import decide, inverted_u, named, rising, world


@pytest.fixture(scope="module")
def study():
    """A study of two policies on the deciding arm, and of one dial."""
    first = world(inverted_u)
    second = first.assign(policy="atlas-t5-large", id="large-" + first["id"])
    return pd.concat([first, second, named(world(rising), "dial-noise")], ignore_index=True)


@pytest.fixture(scope="module")
def decision(study):
    return decide(study)


@pytest.fixture(scope="module")
def main(study, decision):
    return regrets.told(study[study["arm"] == verdict.PRIMARY], decision.primary)


def test_what_decides_comes_first_and_what_does_not_has_no_status(main, decision):
    assert list(main.index[:3]) == ["all", "atlas-t5", "atlas-t5-large"]
    assert main.loc["all", "regret"] == decision.primary.of.regret.estimate
    assert (main["status"] == "").sum() == main.index.str.startswith(("without", "gain")).sum()
    assert main.loc["a rank for each task", "status"] == decision.primary.within


def test_a_forest_has_each_comparison_once_and_pooled_ones_name_no_task(study, decision, main):
    rows = regrets.forest(main, verdict.pooled(study, resamples=30), decision.findings)
    assert list(rows) == regrets.ROW
    assert not rows.duplicated(["route", "name"]).any()
    steps, dial = (rows[rows["route"] == route].set_index("name") for route in ("steps", "dial-noise"))
    assert rows.loc[0, ["route", "name", "task", "policy"]].tolist() == ["steps", "all runs together", "", ""]
    assert steps.loc["relevance", ["task", "policy", "pooled"]].tolist() == ["relevance", "", True]
    assert steps.loc["atlas-t5", ["task", "policy", "pooled"]].tolist() == ["", "atlas-t5", True]
    one = steps.loc["relevance, atlas-t5"]
    assert (one["task"], one["policy"], one["pooled"]) == ("relevance", "atlas-t5", False)
    assert set(dial.index) == {"all runs together", *(f"{task}, atlas-t5" for task in study["task"].unique())}
    assert dial.loc["all runs together", "status"] == "not supported"
    assert set(steps.loc[steps["pooled"], "status"]) == {"supported"}


def test_without_what_the_rule_needs_there_is_no_row(study):
    few = decide(study[study["rm_seed"] == 0])
    assert regrets.forest(regrets.told(study.head(0), None), (), few.findings).empty


def test_each_task_and_policy_alone_has_its_best_reward_model(study, decision):
    steps = study[study["arm"] == verdict.PRIMARY]
    found = regrets.alone(steps, decision.findings)
    assert len(found) == 6
    assert (found["with the best"] > found["with the most accurate"]).all()
    np.testing.assert_allclose(found["accuracy, best"], 0.78, atol=0.05)
    assert (found["regret"] > verdict.MARGIN).all()


def test_all_that_is_measured_stands_in_the_table_with_what_lacks(study, decision):
    found = regrets.compared(decision.findings)
    assert len(found) == len(decision.findings)
    assert (found["missing"] == "").all()
    few = regrets.compared(decide(study[study["rm_seed"] == 0]).findings)
    assert few["missing"].str.contains("trajector").all()
