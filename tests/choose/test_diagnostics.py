"""What stands beside a gain, by hand."""

import numpy as np
import pytest

from paradox_utils.choose import diagnostics, gain
from paradox_utils.choose.candidates import Scored
from paradox_utils.choose.inputs import Asked
from paradox_utils.data.records import Question


def asked(*texts):
    return [Asked("p", "x", Question("p", "x", (), "x", ()), {str(i): text for i, text in enumerate(texts)})]


def test_ties_count_half_of_an_accuracy():
    found = diagnostics.accuracies(np.array([[1.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 2.0]]))
    assert found == pytest.approx({"right": 1 / 3, "tied": 1 / 3, "wrong": 1 / 3, "accuracy": 0.5})
    assert np.isnan(diagnostics.accuracies(np.ones((1, 2)), np.ones((1, 2)))["accuracy"])


def test_ties_without_a_judgement_are_those_of_different_responses():
    """Of a, a, b, c with scores 1, 1, 1, 2, five pairs differ, and two of them are called equal."""
    found = diagnostics.measures(Scored(), np.array([[1.0, 1.0, 1.0, 2.0]]), np.full((1, 4), np.nan), asked(*"aabc"))
    assert found["tied"] == pytest.approx(2 / 5)
    assert np.isnan(found["accuracy"])


def test_length_within_prompts_and_calibration():
    rows, scores, judged = asked("a", "a b", "a b c"), np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 1.0, 2.0]])
    found = diagnostics.measures(Scored(pairwise=True), scores, judged, rows)
    assert found["length_correlation"] == pytest.approx(1)
    certain = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-2.0))  # two pairs, and one
    assert found["calibration_error"] == pytest.approx((2 * (1 - certain[0]) + (1 - certain[1])) / 3)
    assert np.isnan(diagnostics.measures(Scored(), scores, judged, rows)["calibration_error"])  # of any scale


def test_f1_of_labels_is_of_the_bad_ones():
    """Called bad: the first two; bad are the first and the third: one hit of two and two."""
    found = diagnostics.measures(Scored(labels=True), np.array([[-1.0, -1.0, 1.0]]), np.array([[0.0, 1.0, 0.0]]), asked(*"abc"))
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 2))


@pytest.mark.parametrize(("metrics", "f1"), [({"f1": 0.0}, 0.0), ({"f1": 0.25}, 0.25), ({"f1": None}, None), ({}, None)])
def test_an_f1_of_zero_is_one(metrics, f1):
    """Scores of any scale label nothing, so they have none."""
    found = diagnostics.measures(Scored(metrics=metrics), np.array([[1.0, 10.0]]), np.array([[0.0, 1.0]]), asked(*"ab"))
    assert found["f1"] == f1 if f1 is not None else np.isnan(found["f1"])


def test_accuracy_off_the_policy_is_that_of_other_responses_or_of_the_training():
    held_out = asked("a", "b")
    held_out[0].judged = {"0": (1.0, 1.0), "1": (0.0, 1.0)}
    scored = Scored(held_out={("p", "0"): 2.0, ("p", "1"): 1.0}, metrics={"accuracy": 0.7})
    assert diagnostics.off_policy(scored, held_out)["held_out_accuracy"] == 1.0
    assert diagnostics.off_policy(scored, [])["held_out_accuracy"] == 0.7
    assert np.isnan(diagnostics.off_policy(Scored(), [])["held_out_accuracy"])


def prompts(number, responses, name="p"):
    texts = {str(k): "a" * (k + 1) for k in range(responses)}
    return [Asked(f"{name}{i}", "x", Question("p", "x", (), "x", ()), dict(texts)) for i in range(number)]


def test_what_is_to_judge_are_whole_prompts():
    """Also the response to which no candidate gives another weight; what is judged is left out, and its prompt alone where all
    of it is. Where no response has another weight, no judgement would tell anything."""
    weights = np.array([[[0.9, 0.1, 0.0]] * 2, [[0.2, 0.1, 0.7]] * 2])
    rows = diagnostics.to_judge(prompts(2, 3), weights, np.full((2, 3), np.nan))
    assert sorted((row["prompt_id"], row["response_id"], row["worth"]) for row in rows) == [
        (of, name, worth) for of in ("p0", "p1") for name, worth in (("0", 0.7), ("1", 0.0), ("2", 0.7))
    ]
    assert [row["prompt_id"] for row in rows] in (["p0"] * 3 + ["p1"] * 3, ["p1"] * 3 + ["p0"] * 3)
    some = np.array([[1.0, np.nan, np.nan], [1.0, 0.0, 1.0]])
    assert [(row["prompt_id"], row["response_id"]) for row in diagnostics.to_judge(prompts(2, 3), weights, some)] == [
        ("p0", "1"),
        ("p0", "2"),
    ]
    assert diagnostics.to_judge(prompts(2, 3), weights[:1].repeat(2, axis=0), np.full((2, 3), np.nan)) == []


def test_gains_of_what_was_judged_are_those_of_all_prompts():
    """60 worlds whose prompts differ in how far their responses do, each of 150 prompts, of which 50 are judged. Those on which
    candidates differ most would have gains higher by 0.04."""

    def gained(rewards, good):
        return gain.read(rewards, good, np.ones_like(good), 1.0).score - good.mean()

    away = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.gamma(2, 0.5, (150, 1)) * rng.normal(size=(150, 12))
        good = (rng.random(truth.shape) < 1 / (1 + np.exp(-truth))).astype(float)
        rewards = [truth + error * rng.normal(size=truth.shape) for error in (0.3, 1.0)]
        asked = prompts(150, 12, f"{seed}-")
        weights = np.array([gain.tilted(one, 1.0) for one in rewards])
        judged = {row["prompt_id"] for row in diagnostics.to_judge(asked, weights, np.full(truth.shape, np.nan))}
        places = [i for i, one in enumerate(asked) if one.id in judged]
        assert len(places) == diagnostics.JUDGE_NEXT
        away.append([gained(one[places], good[places]) - gained(one, good) for one in rewards])
    assert np.mean(away, axis=0) == pytest.approx([0, 0], abs=0.01)


def test_agreement_is_of_ranks_within_prompts():
    one = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    found = diagnostics.agreement({"a": one, "b": one**3, "c": -one})
    assert found.loc["a", "b"] == pytest.approx(1)
    assert found.loc["a", "c"] == pytest.approx(-1)
