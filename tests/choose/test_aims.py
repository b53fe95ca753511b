"""What the back-test was to reach: aims by hand, and what a page says with and without its tables."""

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
        "choice": ["predicted gain", "most accurate", "random"], "mean": [0.02, 0.016, 0.1], "95 %": [0.16, 0.1, 0.3],
        "performance": 0.8, "pools": 500, "relevance": [0.03, 0.02, 0.1],
    })  # fmt: skip
    families = ["known-paradox, relevance", "known-monotone, relevance"]
    known = pd.DataFrame({"family": families, "predicted gain": [0.04, 0.0], "in two": [0.2, 1.0]})
    judged = pd.DataFrame({"judged prompts": [50], "contains": [0.7], "contains_fitted": [0.81]})
    return {"regrets": regrets, "known": known, "judged": judged}


def test_aims_by_hand(made):
    found = aims.aims(made)
    assert found["met"].tolist() == ["met", "missed", "met", "missed", "met", "met", "missed", "met"]
    assert found["target"].iloc[[0, 5, 6]].tolist() == ["≤ 0.025", "≥ 1", "0.75 to 0.9"]
    assert aims.sentence(made).startswith("5 of 8 aims")


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
    lost = made["regrets"].set_index("choice")["mean"]
    said = aims.tested(made)
    assert f"by predicted gain costs {lost['predicted gain']:.3f}" in said
    assert f"the most accurate {lost['most accurate']:.3f}, and choosing at random {lost['random']:.3f}." in said
