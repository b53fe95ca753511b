"""What the back-test was to reach: aims by hand, and what a page says with and without its tables."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.choose import aims, foretold, pools
from paradox_utils.choose.foretold import COLUMNS
from paradox_utils.study.tables import BACKTEST
from tests.choose.test_foretold import runs
from tests.choose.test_pools import world


@pytest.fixture
def made():
    regrets = pd.DataFrame({
        "choice": ["predicted gain", "most accurate", "best of 16", "random"], "mean": [0.02, 0.03, 0.025, 0.1],
        "95 %": [0.16, 0.1, 0.2, 0.3], "tool less": [np.nan, -0.01, -0.005, np.nan], "low": [np.nan, -0.018, -0.014, np.nan],
        "high": [np.nan, -0.002, 0.004, np.nan], "performance": 0.8, "pools": 500,
        "relevance": [0.03, 0.02, 0.02, 0.1], "factuality": 0.0, "completeness": 0.0,
    })  # fmt: skip
    families = ["known-paradox, relevance", "known-monotone, relevance"]
    known = pd.DataFrame({"family": families, "predicted gain": [0.04, 0.0], "in two": [0.2, 1.0]})
    judged = pd.DataFrame({"judged prompts": [50], "contains": [0.7], "contains_fitted": [0.81]})
    return {"regrets": regrets, "known": known, "judged": judged, "predictions": pd.DataFrame(columns=["task"])}


def measured(folder, monkeypatch, *rows):
    """A table of benchmarks with these parts, ratios and targets."""
    table = pd.DataFrame(rows, columns=["part", "measure", "ratio", "target"])
    files.write_table(folder / "benchmarks.csv", table)
    monkeypatch.setattr(aims, "MEASURED", str(folder / "benchmarks.csv"))


def test_aims_by_hand(made, tmp_path, monkeypatch):
    measured(tmp_path, monkeypatch, ("atlas", "a run", 2.0, "≥ 1"))
    found = aims.aims(made)
    assert found["met"].tolist() == ["met", "missed", "met", "met", "met", "met", "met", "met", "not measured yet"]
    assert found["target"].iloc[[0, 4, 5, 8]].tolist() == ["≤ 0.025", "≥ 1", "0.75 to 0.9", "≥ 20"]
    assert aims.sentence(made).startswith("7 of 9 aims are met (1 is not measured yet).")


@pytest.mark.parametrize(("ratio", "met"), [(25.0, "met"), (5.0, "missed")])
def test_the_cost_is_that_of_the_benchmark(made, tmp_path, monkeypatch, ratio, met):
    rows = ("choose", "4 candidates", ratio, "≥ 20"), ("choose", "lowest ratio", None, None), ("choose", "scoring", 1.0, None)
    measured(tmp_path, monkeypatch, *rows)
    last = aims.aims(made).iloc[-1]
    assert (last["found"], last["met"]) == (ratio, met)
    assert "not measured" not in aims.sentence(made)


def test_worlds_whose_sets_hold_are_told_beside_those_that_do_not(made):
    assert "in 70% to 70% of the pools" in aims.sets(made)
    assert "in 81% to 81%; the tool allows 0.05" in aims.sets(made)


def test_how_far_ppo_ended_from_its_prediction_by_hand(made):
    arms = ["steps", "steps", "known-paradox"]
    rows = pd.DataFrame({"arm": arms, "gain": [0.1, 0.2, 0.0], "reached_sampled": [0.2, 0.0, 9.0]})
    assert "0.150 from the predicted one on average, over 2 runs" in aims.away(made | {"predictions": rows})
    assert aims.away(made) == ""


def test_recorded_tables_are_read_and_absent_ones_are_said_to_be(made, tmp_path):
    assert aims.load(str(tmp_path)) == {}
    assert "is not there" in aims.sentence({})
    tables = {name: pd.DataFrame(columns=["task"]) for name in BACKTEST} | made | {"foretold": pd.DataFrame(columns=COLUMNS)}
    for name, table in tables.items():
        files.write_table(tmp_path / f"{name}.csv", table)
    assert aims.aims(aims.load(str(tmp_path)))["met"].tolist() == aims.aims(made)["met"].tolist()


@pytest.mark.heavy
def test_a_page_shows_each_table_that_has_rows(made, tmp_path):
    """Of every part, as the back-test leaves it and it is read again."""
    rows = pd.DataFrame([one.row for one in world(luck=0.05)[0]])
    whole = rows.assign(arm="known-paradox", rm_seed=0, **dict.fromkeys([*pools.BASELINES.values(), "variance"], 1.0))
    told = foretold.foretold(runs(1.0, 1.0), resamples=20)
    tables = {"predictions": rows, "agreement": pools.agreement(rows), "known": pools.known(whole).reset_index()}
    tables |= {"regrets": made["regrets"], "judged": made["judged"].assign(regret=0, size=2, size_fitted=3, spread=0, pools=9)}
    for name, table in (tables | {"foretold": told}).items():
        files.write_table(tmp_path / f"{name}.csv", table)
    read = aims.load(str(tmp_path))
    shown = aims.shown(read)
    assert foretold.answer(read["foretold"]) == foretold.answer(told)
    assert [*shown] == ["aims", "gains", "agreement", "regrets", "known", "judged", "foretold"]
    assert len({one.name for one in shown.values()}) == 7
    assert aims.shown({}) == {}


def test_a_back_test_of_few_reward_models_says_so():
    nothing = {name: pd.DataFrame(columns=["task"]) for name in BACKTEST}
    assert "Too few" in aims.sentence(nothing)
    assert "Too few" in aims.tested({})


def test_what_a_choice_costs_stands_beside_other_choices(made):
    """A lead whose interval reaches zero could be chance, and is told so."""
    said = aims.tested(made)
    assert "by predicted gain costs 0.020 of" in said
    assert "at random 0.100." in said
    assert "rival, the best of 16, costs 0.025, 0.005 more (95 % interval -0.004 to 0.014), which could be chance." in said
    assert "The most accurate costs 0.030, 0.010 more (95 % interval 0.002 to 0.018)." in said
