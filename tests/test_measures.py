"""Agreement with the truth, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from paradox_utils.measures import calibration_error, pair_metrics, segment_metrics

F_ERR, NF_ERR, OK = range(3)
NAN = [math.nan] * 3

# arg-max: NF-ERR, O, O, F-ERR, NF-ERR, unreadable
PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6], [0.0, 0.1, 0.9], [0.8, 0.1, 0.1], [0.3, 0.4, 0.3], NAN])
CLEAN = [NF_ERR, NF_ERR, OK, OK, NF_ERR, OK]
NOISY = [NF_ERR, OK, OK, None, OK, None]


def test_segments_against_the_oracle():
    metrics = segment_metrics(PROBABILITIES, NOISY, CLEAN, NF_ERR)
    assert metrics["segments"] == 6
    assert metrics["accuracy"] == pytest.approx(3 / 6)  # first, third, fifth; the unreadable one is wrong
    assert metrics["accuracy_noisy"] == pytest.approx(3 / 4)  # first, second, third of the four labelled
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["majority"] == pytest.approx(3 / 6)
    assert metrics["f1"] == pytest.approx(2 * 1.0 * (2 / 3) / (1.0 + 2 / 3))  # precision 2/2, recall 2/3
    assert metrics["error_share"] == pytest.approx(2 / 6)
    # certainties .7 (right) .6 (wrong) .9 (right) .8 (wrong) .4 (right) 0 (wrong), each alone in its bin of 1/15
    assert metrics["calibration_error"] == pytest.approx((0.3 + 0.6 + 0.1 + 0.8 + 0.6 + 0.0) / 6)


def test_segments_without_an_oracle():
    metrics = segment_metrics(PROBABILITIES, NOISY, None, NF_ERR)
    assert metrics["accuracy"] is None
    assert metrics["segments"] == 4
    assert metrics["accuracy_noisy"] == pytest.approx(3 / 4)
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["majority"] == pytest.approx(3 / 4)
    assert metrics["f1"] == pytest.approx(2 * 0.5 * 1 / 1.5)  # precision 1/2, recall 1
    assert metrics["calibration_error"] == pytest.approx((0.3 + 0.4 + 0.1 + 0.4) / 4)
    assert metrics["error_share"] == pytest.approx(2 / 4)


def test_segments_the_oracle_leaves_out():
    metrics = segment_metrics(PROBABILITIES, NOISY, [None, None, OK, OK, None, None], F_ERR)
    assert metrics["segments"] == 2
    assert metrics["accuracy"] == pytest.approx(1 / 2)
    assert metrics["balanced_accuracy"] == pytest.approx(1 / 2)  # one class
    assert metrics["majority"] == 1.0
    assert metrics["f1"] == 0.0  # no error, one called
    assert metrics["accuracy_noisy"] == pytest.approx(3 / 4)  # what the oracle leaves out still counts against annotators


def test_no_annotated_segment():
    metrics = segment_metrics(PROBABILITIES, [None] * 6, CLEAN, NF_ERR)
    assert metrics["accuracy_noisy"] is None
    assert metrics["accuracy"] == pytest.approx(3 / 6)


def test_unreadable_segments_are_wrong_whatever_the_label():
    for label in (F_ERR, NF_ERR, OK):
        metrics = segment_metrics(np.array([NAN, NAN]), [label] * 2, [label] * 2, NF_ERR)
        assert (metrics["accuracy"], metrics["accuracy_noisy"], metrics["f1"]) == (0.0, 0.0, 0.0)
        assert metrics["calibration_error"] == 0.0  # not certain, and not right
        assert metrics["error_share"] == 0.0


@given(st.lists(st.tuples(st.sampled_from([F_ERR, NF_ERR, OK]), st.sampled_from([NF_ERR, OK])), min_size=1, max_size=40))
def test_segments_agree_with_sklearn(rows):
    predicted, truth = map(list, zip(*rows, strict=True))
    metrics = segment_metrics(np.eye(3)[predicted], truth, truth, NF_ERR)
    recalls = [np.mean([p == t for p, t in rows if t == c]) for c in set(truth)]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(truth) and len(set(truth)) > 1:  # sklearn warns of a single class
        assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    flags = [[label == NF_ERR for label in labels] for labels in (truth, predicted)]
    assert metrics["f1"] == pytest.approx(f1_score(*flags, zero_division=0.0))
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == pytest.approx(np.mean([p == t for p, t in rows]))


def test_pairs_against_the_oracle():
    margins = np.array([2.0, -1.0, 0.0, 1.0, -3.0, 0.0])
    clean = [True, True, True, False, False, None]
    metrics = pair_metrics(margins, clean)
    # right, wrong, tie, wrong (the annotator erred, the model followed), right (it did not)
    assert metrics["accuracy"] == pytest.approx((1 + 0 + 0.5 + 0 + 1) / 5)
    assert metrics["accuracy_noisy"] == pytest.approx((1 + 0 + 0.5 + 1 + 0 + 0.5) / 6)
    assert metrics["balanced_accuracy"] == metrics["accuracy"]
    assert metrics["majority"] == 0.5
    assert metrics["f1"] is None
    assert metrics["segments"] == 5
    certainty = {gap: 1 / (1 + math.exp(-gap)) for gap in (0, 1, 2, 3)}  # .5 .73 .88 .95: bins 7, 10, 13, 14
    gaps = [certainty[2] - 1, 2 * certainty[1], certainty[0] - 0.5, certainty[3] - 1]
    assert metrics["calibration_error"] == pytest.approx(sum(map(abs, gaps)) / 5)


def test_pairs_without_an_oracle():
    metrics = pair_metrics(np.array([1.0, -1.0, 2.0]), [None, None, None])
    assert metrics["accuracy"] is None
    assert metrics["accuracy_noisy"] == metrics["balanced_accuracy"] == pytest.approx(2 / 3)
    assert metrics["segments"] == 3


def test_equal_scores_count_half():
    metrics = pair_metrics(np.zeros(4), [True, False, True, None])
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == 0.5
    assert metrics["calibration_error"] == 0.0  # it claims no more


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=30))
def test_turning_every_comparison_round_changes_nothing_the_oracle_sees(rows):
    margins, clean = np.array([m for m, _ in rows]), [c for _, c in rows]
    forward, backward = pair_metrics(margins, clean), pair_metrics(-margins, [not c for c in clean])
    assert forward["accuracy"] == pytest.approx(backward["accuracy"])
    assert forward["accuracy_noisy"] == pytest.approx(1 - backward["accuracy_noisy"])


def test_calibration_by_hand():
    # bins of 1/15: 0.95 and 0.99 share the last one, 0.50 is in the eighth
    error = calibration_error(np.array([0.95, 0.99, 0.50]), np.array([True, False, True]))
    assert error == pytest.approx(2 / 3 * abs(0.97 - 0.5) + 1 / 3 * 0.5)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, False])) == 1.0
    assert calibration_error(np.array([0.75] * 4), np.array([1.0, 1.0, 1.0, 0.0])) == pytest.approx(0.0)


def test_metrics_are_plain_numbers():
    """They are stored as JSON and glued into pages."""
    for metrics in (segment_metrics(PROBABILITIES, NOISY, CLEAN, NF_ERR), pair_metrics(np.array([1.0, -1.0]), [True, None])):
        assert {type(value) for value in metrics.values()} <= {float, int, type(None)}
