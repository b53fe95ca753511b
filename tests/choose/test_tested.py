"""What a page says and shows of the back-test, by hand; and what README says, of the record."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.choose import aims, exhibits, foretold, pools, tested
from paradox_utils.study.tables import BACKTEST
from tests.choose.test_aims import by_hand
from tests.choose.test_foretold import runs
from tests.choose.test_pools import world


@pytest.fixture
def made():
    return by_hand()


@pytest.fixture(scope="module")
def recorded():
    return aims.load()


def answers(**columns):
    """Of three trained reward models' tasks and of families."""
    names = {"named": 4.0, "one": 0.01, "holds": 0.96, "surest": 0.99, "regret": 0.02, "set": 2.5, "set_holds": 0.85}
    rows = pd.DataFrame([names | {"pools": 300}] * 3, index=["all", "relevance", pools.FAMILIES])
    return rows.assign(**columns)


def test_how_many_are_named_by_hand(made):
    said = tested.cost(made, answers(pools=[300, 100, 20], one=[0.01, 0.03, 0.05]))
    assert "names one alone in 3 of 300 pools" in said
    assert "names 4.0 on average" in said
    assert "among them in 96%" in said
    assert "in 1 of 20 (the surest: 0.99, where 0.975 is asked)" in said


def test_what_a_choice_costs_stands_beside_other_choices(made):
    """A lead whose interval reaches zero could be chance, and is told so."""
    said = tested.cost(made, answers())
    assert "the one named first costs 0.020 of" in said
    assert "at random 0.100." in said
    assert "the best of 16, costs 0.025, 0.005 more (95 % interval -0.004 to 0.014), which could be chance." in said
    assert "The most accurate costs 0.030, 0.010 more (95 % interval 0.002 to 0.018)." in said


def test_other_pages_get_one_sentence_of_it(made):
    said = tested.brief(made)
    assert "costs 0.020 of final LM performance on average, one at random 0.100, the best of 16 0.025, the most acc" in said
    assert said.endswith("accurate 0.030.")  # one of the two leads is clear
    made["regrets"]["high"] = 0.001
    assert tested.brief(made).endswith("ahead of the last 2 could be chance.")
    assert "Too few" in tested.brief({})


@pytest.mark.parametrize(("recipe", "said"), [(0.015, "does not favour"), (0.03, "favours")])
def test_where_the_tool_stops_reading_is_not_favoured_where_another_place_costs_less(made, recipe, said):
    more = pd.DataFrame({"choice": ["recipe", "gain/2", pools.FITTED], "mean": [recipe, 0.04, 0.022]})
    found = tested.others(made | {"regrets": pd.concat([made["regrets"], more])})
    assert f"The record {said} where the tool stops reading, at 1/8" in found
    assert ("read at the recipe's β (0.015)" in found) == (recipe < 0.02)
    assert "read to 1/2" not in found
    assert "on the other tasks costs 0.022." in found


def test_the_best_of_n_goes_with_the_gain_and_may_save_nothing(made):
    """It orders the two tasks as PPO does, accuracy one of them, so 1 and (1 − 1) / 2."""
    rising = np.tile(np.arange(6.0), 2)
    rows = {"task": np.repeat(["relevance", "factuality"], 6), "policy": "p", "arm": "steps", "rm_seed": rising}
    rows |= {"reached": rising, "final": rising, "best_of_16": rising, "rm_accuracy": rising * np.repeat([1, -1], 6)}
    found = tested.others(made | {"predictions": pd.DataFrame(rows)})
    assert "more closely than accuracy does (mean rank correlation 1.00 and 0.00)" in found
    assert "but among 6 it saves 0.005 (95 % interval" in found  # 0.030 − 0.025


def test_sets_are_told_with_the_deviation_of_the_tool_by_task(made):
    said = tested.sets(made, answers())
    assert "held it in 70% to 70%." in said
    assert "in 85% (relevance 85%), with 2.5 of 6" in said
    assert said.endswith("they held it in 81% to 81%.")
    assert "relevance" not in tested.sets(made, pd.DataFrame())


def test_how_far_ppo_ended_from_its_prediction_by_hand(made):
    """By 0.1 and −0.2, so 0.15 apart from their mean of −0.05; a family tells nothing of that."""
    arms = ["steps", "steps", "known-paradox"]
    rows = pd.DataFrame({"arm": arms, "gain": [0.1, 0.2, 0.0], "reached_sampled": [0.2, 0.0, 9.0]})
    said = tested.away(made | {"predictions": rows.assign(task="relevance", policy="p")})
    assert "0.150 away on average (root mean square 0.158) over 2 runs" in said
    assert "less the mean of their task and policy, which changes no choice, 0.150 on average" in said
    assert tested.away(made) == ""


@pytest.mark.heavy
def test_the_figure_tells_of_the_runs_that_the_sentence_tells_of(recorded):
    far = exhibits._gains(recorded["predictions"])
    said = tested.away(recorded)
    number = said.split("single trainings ended ")[1].split()[0]
    assert f"336 runs, {number} from the line" in far.html


def test_reward_models_that_were_trained_again_are_the_recorded_ones():
    assert "531 of 531 checkpoints of 171 models" in tested.again()


def test_a_model_that_came_out_otherwise_is_counted(tmp_path, monkeypatch):
    columns = ("task", "route", "setting", "rm_seed", "step", "accuracy", "accuracy_noisy", "majority", "segments")
    for name, accuracy in {"KEPT": [0.7, 0.8], "STUDY": [0.7, 0.9]}.items():
        rows = dict.fromkeys(columns, 1) | {"id": "m", "task": "relevance", "route": "steps", "setting": ""}
        table = pd.DataFrame([rows | {"step": step, "accuracy": own} for step, own in enumerate(accuracy)])
        (tmp_path / name).mkdir()
        files.write_table(tmp_path / name / "reward_models.csv", table)
        monkeypatch.setattr(tested, name, str(tmp_path / name))
    assert "1 of 2 checkpoints of 1 model " in tested.again()
    assert "(largest difference 0.1)" in tested.again()
    (tmp_path / "KEPT" / "reward_models.csv").unlink()
    assert "checkpoints" not in tested.again()


def test_readme_tells_the_record(recorded):
    """In words: seldom one alone, about four, nearly always with the best among them, and leads that could be chance."""
    found, by = aims.answered(recorded).loc["all"], recorded["regrets"].set_index("choice")
    assert found["one"] < 0.01
    assert found["named"] == pytest.approx(4, abs=0.5)
    assert found["holds"] > 0.95
    assert found["regret"] == pytest.approx(by.loc[pools.TOOL, "mean"])
    for rival in (tested.BEST_OF, pools.ACCURATE):
        assert by.loc[rival, "tool less"] < 0 < by.loc[rival, "high"]


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
    shown = exhibits.shown(read)
    assert foretold.answer(read["foretold"]) == foretold.answer(told)
    assert [*shown] == ["aims", "gains", "answers", "agreement", "regrets", "known", "judged", "foretold"]
    assert len({one.name for one in shown.values()}) == 8
    assert exhibits.shown({}) == {}


def test_a_back_test_of_few_reward_models_says_so():
    assert "is not there" in tested.sentence({})
    nothing = {name: pd.DataFrame(columns=["task"]) for name in BACKTEST}
    assert "Too few" in tested.sentence(nothing)
    assert "Too few" in tested.cost({}, answers())
    assert tested.detail({}) == ""
