"""Choices in pools whose outcome is known, by hand; and how often sets hold, in worlds whose luck is known."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.choose import aims, pools
from paradox_utils.choose.decision import chances
from paradox_utils.choose.gain import Reading
from paradox_utils.choose.pools import FITTED, TOOL


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(pools, "POOLS", 60)


def table(**columns):
    rows = pd.DataFrame({"task": "relevance", "policy": "p", "arm": "steps", "rm_seed": 0} | columns)
    wanted = [*pools.BASELINES.values(), *pools.READINGS, "variance"]
    return rows.assign(**{name: rows["gain"] for name in wanted if name not in rows}, id=[f"r{i}" for i in range(len(rows))])


@pytest.mark.heavy
def test_regrets_by_hand():
    """One pool of six: the tool takes the best, the most accurate loses 0.2, at random 0.25 is lost."""
    final = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    rows = table(final=final, gain=final, rm_accuracy=[0, 0, 0, 9, 0, 0])
    found = pools.regrets(rows)
    assert found["mean"].loc[TOOL] == 0
    assert found["mean"].loc["most accurate"] == pytest.approx(0.2)
    assert found["mean"].loc["random"] == pytest.approx(0.25)
    assert found["performance"].loc[["best after the fact", "most accurate"]].tolist() == pytest.approx([1.0, 0.8])


def test_the_expected_best_of_all_pools_by_hand(monkeypatch):
    """Pools of two of three rows: the one with the largest measure is the third in two pools and the second in one; of a table
    that has the second row twice and not the third, it is the second in two pools with the first and in the one of both."""
    monkeypatch.setattr(pools, "POOL", 2)
    measure, final = pd.Series([1.0, 2.0, 3.0]), pd.Series([0.1, 0.5, 0.7])
    found = pools.expected_best(np.array([[1.0, 1, 1], [1, 2, 0]]), measure, final)
    assert found == pytest.approx([(2 * 0.7 + 0.5) / 3, 0.5])
    equal = pools.expected_best(np.ones((1, 3)), pd.Series([1.0, np.nan, 1.0]), final)  # what is not known is chosen last
    assert equal == pytest.approx([0.4])
    assert np.isnan(pools.expected_best(np.array([[1.0, 0, 0]]), measure, final))


@pytest.mark.heavy
def test_the_mean_over_all_pools_is_that_of_drawn_ones(monkeypatch):
    monkeypatch.setattr(pools, "POOLS", 3000)
    rng = np.random.default_rng(0)
    rows = table(final=rng.uniform(size=12), gain=rng.integers(0, 5, 12).astype(float))
    whole = pools.expected_best(np.ones((1, 12)), rows["gain"], rows["final"])
    drawn = [pool.loc[pool["gain"].idxmax(), "final"] for _, pool in pools.pools(rows)]
    assert whole == pytest.approx(np.mean(drawn), abs=0.02)


@pytest.mark.parametrize("copies", [1, 3])
def test_reward_models_of_one_training_tell_no_more_than_one(copies):
    """A lead's interval is of trainings: with copies of each reward model of a training it is hardly narrower."""
    rng = np.random.default_rng(1)
    gain, final = rng.uniform(size=(2, 40))
    rows = table(final=0.7 * final + 0.3 * gain, gain=gain, rm_accuracy=rng.uniform(size=40), rm_seed=np.arange(40) // 4)
    half = pools.half_width(pd.concat([rows] * copies), "rm_accuracy")
    assert half == pytest.approx(0.16, abs=0.05)
    assert pools.half_width(rows, "gain") == pytest.approx(0)  # the tool beside itself
    assert pools.half_width(rows, "gain", beside="rm_accuracy") == pytest.approx(pools.half_width(rows, "rm_accuracy"))


def test_recorded_leads_are_those_of_the_recorded_predictions():
    made = aims.load()
    kept = made["regrets"].set_index("choice")
    for name, measure in list(pools.BASELINES.items())[:2]:
        assert kept.loc[name, "tool less"] == pytest.approx(kept.loc[TOOL, "mean"] - kept.loc[name, "mean"])
        half = pools.half_width(made["predictions"], measure)
        assert (kept.loc[name, "high"] - kept.loc[name, "low"]) / 2 == pytest.approx(half, rel=1e-6)


@pytest.mark.heavy
def test_what_is_fitted_is_fitted_elsewhere():
    """In the one task the recipe's reading loses nothing and the tool's 0.5, in the other it is the other way round."""
    final = np.tile([1.0, 0.5, 0.5, 0.5, 0.5, 0.5], 2)
    right, wrong = np.array([9.0, 0, 0, 0, 0, 0]), np.array([0, 9.0, 0, 0, 0, 0])
    rows = table(
        task=["relevance"] * 6 + ["factuality"] * 6, final=final, gain=np.r_[wrong, right], rm_accuracy=np.r_[wrong, right]
    )
    rows["recipe"] = np.r_[right, wrong]
    for name in ("gain/2", "gain/4", "gain/16"):
        rows[name] = np.r_[wrong, wrong]
    found = pools.regrets(rows)
    assert found["mean"].loc[FITTED] == pytest.approx(0.5)
    assert found["mean"].loc["recipe"] == pytest.approx(0.25)


def test_families_of_known_truth_by_hand():
    rows = table(arm="known-paradox", final=[0.9, 0.8, 0.5], gain=[0.1, 0.4, 0.2], rm_accuracy=[0.6, 0.7, 0.9])
    found = pools.known(rows).loc["known-paradox, relevance"]
    assert found[TOOL] == pytest.approx(0.1)
    assert (found["rank"], found["in two"], found["seeds"]) == (2, 1, 1)
    assert found["most accurate"] == pytest.approx(0.4)


def test_the_chance_of_being_the_best_by_hand_and_as_it_is_drawn():
    """Of two, 0.1 apart, each 0.05 away: Φ(0.1 / (0.05 √2)) = Φ(√2); of three equal ones a third each."""
    assert pools.chances_of(np.array([[0.1, 0.0]]), 0.05) == pytest.approx(np.array([[0.92135, 0.07865]]), abs=1e-5)
    assert pools.chances_of(np.zeros((2, 3)), 0.05) == pytest.approx(np.full((2, 3), 1 / 3))
    gains = np.array([0.3, 0.28, 0.2, 0.0])
    drawn = chances(gains + 0.05 * np.random.default_rng(0).normal(size=(20_000, 4)))
    assert pools.chances_of(gains[None], 0.05)[0] == pytest.approx(drawn, abs=0.01)


def test_answers_by_hand():
    """One pool of six, of which the last is 0.1 above the next, and 0.9 above the rest: by 0.05 it is the best with 0.92, so
    two are named, and one is the set of 80 %. The best by PPO is the other of the two, 0.2 above."""
    rows = table(gain=[0.0] * 4 + [0.8, 0.9], final=[0.1] * 4 + [1.0, 0.8])
    family = table(arm="known-paradox", gain=[0.0, 0.0, 0.9], final=[0.1, 0.2, 0.9])
    found = pools.answers(pd.concat([rows, family]))
    assert list(found.index) == ["all", "relevance", pools.FAMILIES]
    for name in ("all", "relevance"):
        row = found.loc[name]
        assert (row["named"], row["one"], row["holds"], row["set"], row["set_holds"], row["pools"]) == (2, 0, 1, 1, 0, 60)
        assert (row["regret"], row["surest"]) == pytest.approx((0.2, 0.92135), abs=1e-4)
    assert found.loc[pools.FAMILIES, ["one", "holds", "regret", "pools"]].tolist() == [1, 1, 0, 1]
    assert pools.answers(rows.head(5)).empty


def test_judged_prompts_are_taken_from_those_there_are():
    rng, found, gains = np.random.default_rng(0), [], np.linspace(0, 0.3, 8)
    for i, gain in enumerate(gains):
        good = 0.5 + gain + rng.normal(0, 0.3, 120)
        row = {"id": f"r{i}", "task": "relevance", "policy": "p", "arm": "steps", "final": 0.5 + gain, "gain": gain}
        found.append(pools.Predicted(Reading(0.1, *np.ones((2, 120)), good, np.ones(120), good[:, None]), row))
    rows = pools.judged_prompts(found, {("p", "relevance"): (np.full(120, 0.5), np.ones(120))}).set_index("judged prompts")
    assert list(rows.index) == [50, 100]
    assert rows["regret"].loc[100] < rows["regret"].loc[50] < 0.1
    assert rows["contains"].min() > 0.7


def world(luck, seed=0):
    """Three tasks of twelve reward models; PPO reaches what is predicted, and luck."""
    rng, found, judged = np.random.default_rng(seed), [], {}
    for task in ("relevance", "factuality", "completeness"):
        judged["p", task] = np.full(120, 0.5), np.ones(120)
        for i in range(12):
            gain = rng.uniform(0, 0.2)
            good = 0.5 + gain + rng.normal(0, 0.1, 120)
            reached = gain + rng.normal(0, luck)
            row = {"id": f"{task}{i}", "task": task, "policy": "p", "arm": "steps", "gain": gain, "final": 0.5 + reached}
            row |= {"rm_seed": i % 4, "reached": reached, "reached_sampled": reached + 0.01, "rm_accuracy": -gain}
            found.append(
                pools.Predicted(Reading(0.1, *np.ones((2, 120)), good, np.ones(120), good[:, None]), row | {"limit": "recipe"})
            )
    return found, judged


@pytest.mark.heavy
def test_luck_of_ppo_is_allowed_for_where_other_tasks_show_it():
    """Sets by the prompts alone hold too seldom where PPO has luck of its own; those that allow it hold, and are larger."""
    told = pools.judged_prompts(*world(luck=0.06)).set_index("judged prompts").loc[100]
    assert told["contains"] < 0.75 < told["contains_fitted"]
    assert told["size"] < told["size_fitted"]
    assert 0.02 < told["spread"] <= 0.12
    certain = pools.judged_prompts(*world(luck=0.0)).set_index("judged prompts").loc[100]
    assert certain["spread"] <= 0.01


def test_what_is_predicted_goes_with_what_is_reached():
    rows = pools.agreement(pd.DataFrame([one.row for one in world(luck=0.0)[0]]))
    assert len(rows) == 3
    assert rows["spearman"].tolist() == pytest.approx([1.0] * 3)
    assert rows["accurate"].tolist() == pytest.approx([-1.0] * 3)
    assert rows["beyond"].tolist() == pytest.approx([0.01] * 3)
