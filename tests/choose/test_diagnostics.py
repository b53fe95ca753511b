"""What stands beside a gain, by hand."""

import numpy as np
import pytest

from paradox_utils.choose import diagnostics
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


def test_what_is_worth_judging_is_where_weights_differ():
    weights = np.array([[[0.9, 0.1, 0.0]], [[0.2, 0.1, 0.7]]])
    rows = diagnostics.worth_judging(asked(*"abc"), weights, np.full((1, 3), np.nan))
    assert [(row["response"], row["worth"]) for row in rows] == [("a", 0.7), ("c", 0.7)]
    judged = diagnostics.worth_judging(asked(*"abc"), weights, np.array([[1.0, np.nan, np.nan]]))
    assert [row["response"] for row in judged] == ["c"]


def test_agreement_is_of_ranks_within_prompts():
    one = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    found = diagnostics.agreement({"a": one, "b": one**3, "c": -one})
    assert found.loc["a", "b"] == pytest.approx(1)
    assert found.loc["a", "c"] == pytest.approx(-1)
