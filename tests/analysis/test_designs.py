"""The configs of the second studies follow the rules that were fixed beforehand, from what is recorded of the first."""

import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis import lottery, matching, tables
from paradox_utils.config import study
from paradox_utils.study.tables import RECORDED

KEPT = files.resolve(RECORDED)


def arms(name, route_of):
    """(arm's name, task, rm_seed, step) of every arm that trains a policy."""
    found = set()
    for arm in study.load_study(files.resolve(f"configs/{name}.yaml")).arms:
        if route_of(arm):
            found |= {
                (arm.name, task, seed, step) for task in arm.tasks for seed, steps in arm.checkpoints.items() for step in steps
            }
    return found


@pytest.fixture(scope="module")
def models():
    return pd.read_csv(KEPT / "lottery" / "reward_models.csv")


@pytest.fixture(scope="module")
def picked(models):
    return matching.first(matching.chosen(models), lottery.trainings(3))


@pytest.mark.heavy
def test_the_cells_are_those_that_the_screen_names():
    folder = KEPT / "lottery-screen"
    curves = tables.load_curves(folder, "reward_mean", "true_reward_mean")
    cells = lottery.screened(lottery.screen(tables.load_summary(folder), curves))
    wanted = {*lottery.named(cells), lottery.control(cells)}
    found = set()
    for arm in study.load_study(files.resolve("configs/lottery.yaml")).arms:
        pressure, _, kind = arm.name.partition("-long-top")
        if kind == "" and arm.name.endswith("-long-top") and pressure in lottery.PRESSURES:
            found |= {(task, policy, pressure) for task in arm.tasks for policy in arm.policies}
    assert found == wanted


@pytest.mark.heavy
@pytest.mark.parametrize("prefix", ["low-kl", "as-published", "rloo", "best-of-n"])
def test_every_kind_of_reward_model_is_the_one_that_the_rule_takes(prefix, picked):
    own = picked[picked["task"] == "relevance"]
    wanted = {(f"{prefix}-{row.kind}", "relevance", row.rm_seed, row.step) for row in own.itertuples()}
    assert len(wanted) == 4 * lottery.trainings(3)
    assert arms("lottery", lambda arm: arm.name.startswith(f"{prefix}-")) == wanted


def test_the_control_has_the_papers_pairs_where_too_few_trainings_match(models, picked):
    own = models[models["task"] == "completeness"]
    assert picked.loc[picked["task"] == "completeness", "rm_seed"].nunique() < lottery.trainings(3)
    pairs = matching.first(matching.pairs(own), lottery.trainings(3))
    wanted = {(f"default-{row.kind}", "completeness", row.rm_seed, row.step) for row in pairs.itertuples()}
    assert len(wanted) == 2 * lottery.trainings(3)
    assert arms("lottery", lambda arm: arm.name.startswith("default-")) == wanted


def test_cures_are_of_the_same_trainings(models, picked):
    top = picked[(picked["task"] == "relevance") & (picked["kind"] == "long-top")]
    early, smooth = matching.stopped_early(models), matching.smoothed(models, picked)
    wanted = {("minimum", "relevance", row.rm_seed, row.step) for row in top.itertuples()}
    for name, steps in (("stopped-early", early), ("smoothed", smooth)):
        wanted |= {(name, "relevance", seed, steps["relevance", seed]) for seed in top["rm_seed"]}
    assert arms("lottery", lambda arm: arm.name in ("minimum", "stopped-early", "smoothed")) == wanted


# --- the paper's range of accuracy --------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_the_regimes_checkpoints_are_those_that_the_rule_takes_and_its_longer_runs_the_first_and_third_of_them():
    taken = matching.spaced(pd.read_csv(KEPT / "regime" / "reward_models.csv"))
    wanted = {("steps", row.task, row.rm_seed, row.step) for row in taken.itertuples()}
    assert arms("regime", lambda arm: arm.name == "steps") == wanted
    assert len(wanted) == 3 * 15 * 5
    few = taken[taken["rm_seed"] < taken["rm_seed"].min() + 4].sort_values("accuracy", ascending=False)
    longer = few[few.groupby(["task", "rm_seed"]).cumcount().isin((0, 2))]
    wanted = {("longer", row.task, row.rm_seed, row.step) for row in longer.itertuples()}
    assert arms("regime", lambda arm: arm.name == "longer") == wanted
    assert len(wanted) == 3 * 4 * 2
