"""Figures of a whole study draw what its runs say."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import answer, comparison, outcomes, power, statistics, verdict
from paradox_utils.figures import study as draw
from tests.worlds import TASKS, decide, flat, inverted_u, named, nested, offsets, questions_of, rising, world


def test_main_figure_shows_every_checkpoint_and_the_most_accurate():
    made = world(inverted_u, rm_seeds=2, ppo_seeds=2)
    panels = draw.accuracy_and_performance(made).panels
    assert [axis.get_title("left") for axis in panels] == ["Relevance", "Factuality", "Completeness"]
    rings = [c for c in panels[0].collections if c.get_sizes()[0] == 110]
    models = outcomes.reward_models(made[made["task"] == "relevance"])
    tops = models.loc[models.groupby("rm_seed")["accuracy"].idxmax(), ["accuracy", "performance"]].to_numpy()
    np.testing.assert_allclose(np.concatenate([ring.get_offsets() for ring in rings]), tops)
    with pytest.raises(ValueError, match="no run of the routes"):
        draw.accuracy_and_performance(made.assign(status="failed"))


def test_many_trajectories_are_shown_by_the_means_of_their_ranks():
    made = nested(rising, rm_seeds=draw.MANY + 1, tasks=TASKS[:1])
    drawn = draw.accuracy_and_performance(made)
    (axis,) = drawn.panels
    ordered = made.sort_values(["rm_seed", "rm_accuracy"])
    ranks = ordered.groupby(ordered.groupby("rm_seed").cumcount())[["rm_accuracy", "lm_performance_final"]].mean()
    (means,) = [one for one in axis.lines if one.get_marker() == "s"]
    np.testing.assert_allclose(means.get_xydata(), ranks.to_numpy())
    labels = [handle.get_label() for handle in drawn.legend]
    assert "mean of each rank of accuracy" in labels
    assert "one run" not in labels  # each checkpoint has one
    few = draw.accuracy_and_performance(nested(rising, rm_seeds=2, tasks=TASKS[:1]))
    assert "mean of each rank of accuracy" not in [handle.get_label() for handle in few.legend]


def test_main_figure_keeps_arms_apart():
    made = nested(rising, rm_seeds=2, tasks=TASKS[:1])
    both = pd.concat([made.assign(arm="wide"), made.assign(arm="narrow", lm_performance_final=0.3)], ignore_index=True)
    (axis,) = draw.accuracy_and_performance(both).panels
    rings = np.concatenate([c.get_offsets() for c in axis.collections if c.get_sizes()[0] == 110])
    tops = both.loc[both.groupby(["arm", "rm_seed"])["rm_accuracy"].idxmax(), ["rm_accuracy", "lm_performance_final"]]
    np.testing.assert_allclose(rings, tops.to_numpy())


def test_the_pilot_s_figure_shows_every_run_and_every_world():
    made = world(rising, rm_seeds=3, accuracies=(0.75,), noise=0.03)
    made.loc[0, "status"] = "failed"
    known = power.simulated_power(0.05, [3, 5], [0.06, 0.12], studies=10)
    (left,), (right,) = draw.pilot(made).panels, draw.power_curves(known).panels
    assert [text.get_text() for text in left.texts] == list(TASKS)
    done = made["lm_performance_final"][1:]
    np.testing.assert_allclose(np.sort(offsets(left)[:, 1]), np.sort(done))
    assert len(np.unique(offsets(left)[:, 0])) == 27 - 1  # nothing covers anything
    assert [line.get_label() for line in right.lines] == [
        "inverted U, regret 0.06",
        "inverted U, regret 0.12",
        "ranks apart",
        "one task",
        "one task, others rising",
        "rising",
        "plateau",
    ]
    np.testing.assert_allclose(right.lines[1].get_ydata(), known.query("regret == 0.12 and world == 'inverted U'")["right"])


def test_power_by_effect_shows_both_verdicts_and_the_marks():
    known = power.simulated_power(0.05, [5], [0.12, 0.03], studies=20)
    (axis,) = draw.power_by_effect(known, {"margin": 0.04}).panels
    own = known[known["world"] == "inverted U"].sort_values("regret")
    assert [text.get_text() for text in axis.texts] == ["supported", "not\nsupported", "margin\n0.040"]
    for line, name in zip(axis.lines, ("right", "wrong"), strict=False):
        np.testing.assert_allclose(np.transpose(line.get_data()), own[["regret", name]])


def test_changes_stand_in_a_row_a_choice_with_their_intervals():
    rows = [("a", "LM performance", 0.1, 0.0, 0.2), ("a", "slope", -0.1, -0.3, 0.1), ("b", "LM performance", 0.0, -0.1, 0.1)]
    found = pd.DataFrame(rows, columns=["arm", "measure", "change", "low", "high"]).set_index(["arm", "measure"])
    drawing = draw.changes(found, {"a": "one", "b": "another", "c": "not run"}, 0.04)
    assert [axis.get_title("left") for axis in drawing.panels] == ["LM performance", "Slope", "Lead"]
    level, slope, lead = drawing.panels
    assert [label.get_text() for label in slope.get_yticklabels()] == ["another", "one"]
    assert {tuple(place) for place in np.round(offsets(level), 2)} == {(0.1, 1), (0.0, 0)}
    assert {tuple(place) for place in np.round(offsets(slope), 2)} == {(-0.1, 1)}
    assert not lead.collections


def test_levels_average_ranks_over_trajectories():
    made = world(flat, rm_seeds=2, ppo_seeds=1, accuracies=(0.9, 0.6, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.9, 0.1, 0.5, 0.7, 0.3, np.nan]  # steps 0 (most accurate), 40 (least), 80; seeds 0 and 1
    made.loc[5, "status"] = "failed"
    asked = pd.DataFrame({"good": ["9 9", "0 2", "5 5", "7 7", "3 3"], "segments": "10 10"}, index=made["id"][:5])
    found = draw.levels(made, asked, resamples=50, seed=0)
    assert found["performance"].tolist() == pytest.approx([(0.1 + 0.3) / 2, 0.5, (0.9 + 0.7) / 2])
    assert found["runs"].tolist() == [2, 1, 2]
    np.testing.assert_allclose(
        found["accuracy"], [made["rm_accuracy"][[1, 4]].mean(), *made["rm_accuracy"][[2]], 0.9], atol=0.01
    )
    assert found["low"].isna().tolist() == [False, True, False]  # one trajectory has no interval
    assert (found["low"] <= found["performance"])[[0, 2]].all()
    assert (found["high"] >= found["performance"])[[0, 2]].all()
    three = nested(flat, rm_seeds=3, accuracies=(0.7,), tasks=("relevance",))
    asked = asked.set_axis([*three["id"], "x", "y"])
    assert draw.levels(three, asked, resamples=50, seed=0)["low"].notna().all()
    unasked = draw.levels(three, asked[1:], resamples=50, seed=0)  # not all runs of the rank have questions
    assert unasked["low"].isna().all()
    assert unasked["performance"].notna().all()
    assert draw.levels(made.head(0), asked, resamples=50, seed=0).empty


@pytest.mark.heavy
def test_routes_draw_a_line_an_arm_in_the_panels_of_its_task_and_policy():
    steps = nested(rising, rm_seeds=2)
    large = nested(flat, rm_seeds=2, tasks=TASKS[:1]).assign(policy="large", id=lambda t: "l" + t["id"])
    dial = named(nested(rising, rm_seeds=2, tasks=TASKS[1:2]), "dial")
    exact = named(nested(flat, rm_seeds=2, accuracies=(1.0,)), "exact")  # does not vary: a dotted line
    waiting = steps.assign(policy="waiting", status="not started", id=lambda t: "w" + t["id"])  # has no panels yet
    summary = pd.concat([steps, large, dial, exact, waiting])
    drawing = draw.routes(summary, questions_of(summary).set_index("id"), resamples=20)
    assert [axis.get_title("left") for axis in drawing.panels] == [
        f"{task.capitalize()}\n{policy}" for policy in ("atlas-t5", "large") for task in TASKS
    ]
    assert [len(axis.containers) for axis in drawing.panels] == [1, 2, 1, 1, 0, 0]
    assert [mark.get_label() for mark in drawing.legend][:2] == ["steps", "dial"]
    (only,) = {len(axis.containers) for axis in draw.routes(summary, pd.DataFrame(), ["dial"]).panels[1:2]}
    assert only == 1
    line = drawing.panels[0].containers[0].lines[0]
    table = draw.levels(steps[steps["task"] == TASKS[0]], pd.DataFrame(), resamples=20, seed=0)
    np.testing.assert_allclose(line.get_xydata(), table[["accuracy", "performance"]])
    rules = [[one.get_linestyle() for one in axis.lines if len(one.get_xdata()) == 2] for axis in drawing.panels]
    assert rules == [["--", ":"]] * 3 + [["--"]] * 3


def test_routes_of_a_pilot_are_refused():
    with pytest.raises(ValueError, match="no family of reward models"):
        draw.routes(nested(flat, rm_seeds=2, accuracies=(0.7,)), pd.DataFrame())


def finding(regret, status="undecided", missing=(), task="relevance", arm="steps"):
    of = decide(nested(flat, rm_seeds=2, tasks=TASKS[:1])).findings[0].of
    interval = statistics.Interval(regret, regret - 0.1, regret + 0.2, 2)
    of = dataclasses.replace(of, task=task, policy="t5", arm=arm, regret=interval)
    return verdict.Finding(of, status, missing, 0.5, 0.5, 0.5, False)


@pytest.mark.heavy
def test_forest_draws_what_the_rule_can_decide():
    found = [
        finding(0.3, "supported", task=comparison.ALL),
        finding(0.0, "not supported"),
        finding(0.1, arm="dial"),
        finding(0.9, missing=("seeds",)),
        finding(np.nan),
    ]
    (axis,) = draw.forest(found, 0.04).panels
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["dial · relevance · t5", "steps · relevance · t5", "steps · all tasks · t5"]
    bars = axis.lines[1:]
    np.testing.assert_allclose([bar.get_xdata() for bar in bars], [[0.0, 0.3], [-0.1, 0.2], [0.2, 0.5]])
    assert [bar.get_color() for bar in bars] == [draw.STATUS_COLORS[s] for s in ("undecided", "not supported", "supported")]
    np.testing.assert_allclose(offsets(axis), [[0.1, 0], [0.0, 1], [0.3, 2]])
    with pytest.raises(ValueError, match="no comparison has"):
        draw.forest(found[3:], 0.04)


@pytest.mark.heavy
@pytest.mark.parametrize(("seeds", "outcome"), [(5, "not supported"), (2, "undecided")])
def test_the_picture_in_brief_says_what_the_rule_says(seeds, outcome):
    summary = pd.concat([nested(rising, rm_seeds=seeds), named(nested(inverted_u, rm_seeds=5), "known-paradox")])
    figure, decision = draw.in_brief(summary), verdict.verdict(outcomes.main_arms(summary))
    assert decision.status == outcome
    assert " ".join(figure.get_suptitle().split()) == answer.answer(decision, seeds * 18)  # 6 checkpoints of 3 tasks
    assert [axis.get_title("left") for axis in figure.axes] == [task.capitalize() for task in TASKS]
