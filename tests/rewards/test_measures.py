"""Agreement with the truth, by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from paradox_utils.rewards.measures import (
    agreement,
    best_of_n,
    calibration_error,
    disagreement,
    distinct,
    pair_metrics,
    rank_correlation,
    repetition,
    rouge_l,
    segment_metrics,
)

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
@pytest.mark.heavy
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


# --- texts --------------------------------------------------------------------------------------------------------------------


def test_distinct_n_grams_by_hand():
    texts = ["a b a b", "b a"]  # pairs: ab, ba, ab, and ba; none across the two
    assert distinct(texts, 1) == pytest.approx(2 / 6)
    assert distinct(texts, 2) == pytest.approx(2 / 4)
    assert distinct(texts, 3) == 1.0  # aba, bab
    assert distinct(texts, 4) == 1.0
    assert distinct(texts, 5) == 0.0  # no text is as long
    assert distinct(["", "  "], 1) == distinct([], 2) == 0.0


def test_rouge_l_by_hand():
    # Lin 2004, section 3: "police kill the gunman" shares 3 words in order with the reference, "the gunman kill police" 2
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", [reference]) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", [reference]) == pytest.approx(2 / 4)
    assert rouge_l("a b c d e", ["b e"]) == pytest.approx(2 * 2 / 7)  # precision 2/5, recall 2/2
    assert rouge_l("b a a", ["a b"]) == pytest.approx(2 * 1 / 5)  # a word of the reference counts once
    assert rouge_l("The Isle", ["the isle"]) == 1.0
    assert rouge_l("a b", ["c", "b a", "a b c"]) == pytest.approx(2 * 2 / 5)  # the best of the references


def test_rouge_l_of_nothing_is_0():
    for text, references in (("", ["a"]), ("a", [""]), ("", [""]), ("a", [])):
        assert rouge_l(text, references) == 0.0


def longest_by_trying(a, b):
    """The longest of all subsequences of a that is one of b."""

    def inside(part):
        rest = iter(b)
        return all(word in rest for word in part)

    return max(n for n in range(len(a) + 1) if any(map(inside, itertools.combinations(a, n))))


@given(*[st.lists(st.sampled_from("abc"), min_size=1, max_size=7)] * 2)
def test_rouge_l_agrees_with_trying_all_subsequences(a, b):
    value = rouge_l(" ".join(a), [" ".join(b)])
    assert value == pytest.approx(2 * longest_by_trying(a, b) / (len(a) + len(b)))
    assert value == pytest.approx(rouge_l(" ".join(b), [" ".join(a)]))


# --- rewards ------------------------------------------------------------------------------------------------------------------


def test_rank_correlation_is_of_ranks_within_each_group():
    rising, spread = np.array([[1, 2, 3], [100, 200, 300]]), np.array([[1.0, 10.0, 100.0], [0.3, 0.2, 0.1]])
    assert rank_correlation(rising, spread) == pytest.approx(0.0)  # 1 in the first group, −1 in the second
    assert rank_correlation(rising[:1], spread[:1]) == pytest.approx(1.0)
    # ranks 1½ 1½ 3 and 1 2 3: covariance 1.5, variances 1.5 and 2
    assert rank_correlation(np.array([[7, 7, 9]]), rising[:1]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    assert math.isnan(rank_correlation(np.array([[7, 7, 7], [9, 9, 9]]), rising))  # groups differ, members do not


def test_segment_rewards_agree_by_sign_where_there_is_a_segment():
    truth = np.array([[0.3, 0.0, -0.3, 0.3], [0.0, 0.0, 0.0, 0.0]])
    proxy = np.array([[0.9, 0.5, 0.1, 0.0], [0.3, 0.0, 0.0, 0.0]])
    # first: right, no segment there, wrong, unread (0); second: a response without a segment
    agreeing, compared = agreement(proxy, truth, samples=2, pairwise=False)
    assert (agreeing.tolist(), compared.tolist()) == ([1, 0], [3, 0])


def test_pairwise_rewards_agree_on_the_order_of_a_prompts_responses():
    # two prompts of three responses; only the sum over tokens counts
    truth = np.array([[1, 0], [0, 2], [0, 3], [2, 0], [1, 1], [5, 0]], dtype=float)
    proxy = np.array([[0, 1], [0, 5], [5, 0], [7, 0], [1, 0], [3, 0]], dtype=float)
    agreeing, compared = agreement(proxy, truth, samples=3, pairwise=True)
    # first: 1 < 2 right, 1 < 3 right, 2 < 3 given as equal: half
    # second: a tie is no pair, 2 < 5 given as 7 > 3, 2 < 5 given as 1 < 3
    assert agreeing.tolist() == [2.5, 0, 0, 1, 0, 0]
    assert compared.tolist() == [3, 0, 0, 2, 0, 0]


def test_one_response_a_prompt_makes_no_pair():
    agreeing, compared = agreement(np.ones((2, 1)), np.array([[1.0], [2.0]]), samples=1, pairwise=True)
    assert agreeing.tolist() == compared.tolist() == [0, 0]


GRIDS = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=4, max_size=4), min_size=6, max_size=6).map(np.array)


@given(GRIDS, GRIDS, st.booleans())
def test_agreement_is_whole_with_itself_none_with_the_opposite_and_blind_to_scale(proxy, truth, pairwise):
    agreeing, compared = agreement(truth, truth, 3, pairwise)
    assert agreeing.tolist() == compared.tolist()
    assert not agreement(-truth, truth, 3, pairwise)[0].any()
    assert agreement(8 * proxy, truth, 3, pairwise)[0].tolist() == agreement(proxy, truth, 3, pairwise)[0].tolist()


def test_best_of_n_by_hand():
    proxy, outcome = np.array([[1.0, 3.0, 2.0]]), np.array([[10.0, 30.0, 80.0]])
    assert best_of_n(proxy, outcome, 1) == pytest.approx(40)
    assert best_of_n(proxy, outcome, 2) == pytest.approx((30 + 30 + 80) / 3)  # the pairs {1, 3} {3, 2} {1, 2}
    assert best_of_n(proxy, outcome, 3) == pytest.approx(30)
    tied = np.array([[1.0, 3.0, 3.0]])  # two best: each is chosen half the time
    assert best_of_n(tied, outcome, 3) == pytest.approx(55)
    assert best_of_n(tied, outcome, 2) == pytest.approx((30 + 55 + 80) / 3)
    both = best_of_n(np.vstack([proxy, tied]), np.vstack([outcome, outcome]), 3)
    assert both == pytest.approx((30 + 55) / 2)  # the mean over prompts


def best_by_trying(proxy, outcome, n):
    """Every subset of n, and of each the mean outcome of those that tie for its best."""
    found = []
    for row, results in zip(proxy, outcome, strict=True):
        for chosen in itertools.combinations(range(len(row)), n):
            best = max(row[i] for i in chosen)
            found.append(np.mean([results[i] for i in chosen if row[i] == best]))
    return np.mean(found)


@pytest.mark.heavy
@given(st.data(), st.integers(1, 7), st.integers(1, 3))
def test_best_of_n_agrees_with_all_subsets(data, size, prompts):
    def grid(values):
        return np.array(data.draw(st.lists(st.lists(values, min_size=size, max_size=size), min_size=prompts, max_size=prompts)))

    proxy, outcome = grid(st.sampled_from([0.0, 1.0, 2.0, 3.0])), grid(st.floats(-5, 5))  # few values: ties are common
    values = [best_of_n(proxy, outcome, n) for n in range(1, size + 1)]
    assert values == pytest.approx([best_by_trying(proxy, outcome, n) for n in range(1, size + 1)])
    assert values[0] == pytest.approx(outcome.mean())
    own = [best_of_n(proxy, proxy, n) for n in range(1, size + 1)]
    assert all(more >= fewer - 1e-9 for fewer, more in itertools.pairwise(own))
    assert own[-1] == pytest.approx(proxy.max(1).mean())


def test_best_of_many_by_the_expected_maximum():
    proxy = np.arange(1.0, 3001.0)[None]
    for n in (1, 500, 1500, 3000):  # of n drawn from 1 … N: n (N + 1) / (n + 1); the binomials exceed any float
        assert best_of_n(proxy, proxy, n) == pytest.approx(n * 3001 / (n + 1))


# --- several reward models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one", 0.0),
        ("one two", 0.0),
        ("a a a a", 2 / 3),
        ("a b a b", 1 / 3),  # ab, ba, ab
        ("a b, a b.", 0.0),  # a word is a run of non-space characters
        ("the end  the\nend the end", 3 / 5),
    ],
)
def test_repetition_is_the_share_of_bigrams_that_stood_before(text, share):
    assert repetition(text) == pytest.approx(share)


def test_models_disagree_on_segments_that_they_do_not_all_give_the_same_sign():
    one = [[0.3, 0.0, -0.3, 0.3], [0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    two = [[0.1, 0.0, 0.2, 0.3], [0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    unread = [[0.3, 0.0, -0.3, 0.0], [0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]  # no sign where it was cut
    apart, items = disagreement(np.array([one, two, unread]), 0.3, pairwise=False)
    assert (apart.tolist(), items.tolist()) == ([2, 0, 0], [3, 1, 0])
    apart, items = disagreement(np.array([one, one]), 0.3, pairwise=False)
    assert (apart.tolist(), items.tolist()) == ([0, 0, 0], [3, 1, 0])


def test_scores_lie_apart_by_their_range_in_units_of_the_reward():
    each = np.array([[[0.0, 0.3], [-0.6, 0.0]], [[0.0, -0.3], [-0.6, 0.0]], [[0.0, 0.6], [0.0, 0.0]]])
    apart, items = disagreement(each, 0.3, pairwise=True)
    assert apart.tolist() == pytest.approx([3.0, 2.0])
    assert items.tolist() == [1, 1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("pairwise", [False, True])
def test_disagreement_with_a_reward_that_is_not_finite_is_unknown(broken, pairwise):
    each = np.array([[[0.3, 0.0], [0.3, 0.0]], [[broken, broken], [0.3, 0.0]]])
    with np.errstate(invalid="ignore"):
        apart, items = disagreement(each, 0.3, pairwise)
    assert np.isnan(apart).tolist() == [True, False]
    assert items[1] == 1
