"""Dials have the accuracy they claim, on the side they are set to, and pay as they say."""

import itertools
import math

import numpy as np
import pytest

from paradox_utils.data import oracle
from paradox_utils.data.records import DataError
from paradox_utils.data.tasks import segment
from paradox_utils.rewards import judges
from paradox_utils.rewards.dial import Centre, dial_judge, dial_noise, dial_of, exact_centre
from tests.rewards.test_placement import ORACLE, ppo


def judged_segments(records, task, judge):
    """{(prompt, segment text): value} of the first responses."""
    texts = [record.responses[0] for record in records]
    offsets = [segment(text, task, "punctuation") for text in texts]
    values = judge([record.question for record in records], texts, offsets)
    keys = [(r.question.prompt, t[a:b]) for r, t, spans in zip(records, texts, offsets, strict=True) for a, b in spans]
    return dict(zip(keys, itertools.chain(*values), strict=True))


def dial(task, accuracy, **changes):
    return dial_judge(ppo(task, reward="dial", dial_accuracy=accuracy, **changes), 0.0)


@pytest.mark.parametrize("kind", ["prejudice", "noise"])
@pytest.mark.parametrize("accuracy", [0.6, 0.85])
def test_a_dial_has_the_accuracy_it_is_set_to(many, accuracy, kind):
    truth = judged_segments(many, "relevance", ORACLE["relevance"])
    values = judged_segments(many, "relevance", dial("relevance", accuracy, dial_kind=kind))
    assert all(abs(value) == 1 for value in values.values())
    kept = {key: values[key] == truth[key] for key in truth}
    if kind == "prejudice":  # one decision a text
        kept = {text: right for (_, text), right in kept.items()}
    assert len(kept) > 700
    deviation = math.sqrt(accuracy * (1 - accuracy) / len(kept))
    assert np.mean([*kept.values()]) == pytest.approx(accuracy, abs=4.5 * deviation)


@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_the_ends_of_a_dial(many, task):
    truth = judged_segments(many[:50], task, ORACLE[task])
    assert judged_segments(many[:50], task, dial(task, 1.0)) == truth
    assert judged_segments(many[:50], task, dial(task, 0.0)) == {key: -value for key, value in truth.items()}


def test_prejudice_depends_on_the_text_alone_and_noise_on_the_prompt_too(many):
    truth = judged_segments(many, "relevance", ORACLE["relevance"])
    mixed = {}
    for kind in ("prejudice", "noise"):
        values = judged_segments(many, "relevance", dial("relevance", 0.7, dial_kind=kind))
        decisions = {}
        for key in truth:
            decisions.setdefault(key[1], set()).add(values[key] == truth[key])
        mixed[kind] = sum(len(found) > 1 for found in decisions.values())
    assert mixed["prejudice"] == 0
    assert mixed["noise"] > 50


def test_a_dial_is_fixed_by_its_seed(many):
    first, again, other = (
        judged_segments(many, "relevance", dial("relevance", 0.7, dial_seed=seed, dial_kind="noise")) for seed in (1, 1, 2)
    )
    assert first == again
    agreement = np.mean([first[key] == other[key] for key in first])
    expected = 0.7**2 + 0.3**2  # independent flips
    assert agreement == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / len(first)))


def test_a_dial_judges_a_segment_wherever_it_stands(many):
    judge = dial("relevance", 0.6)
    text = many[0].responses[0]
    spans = segment(text, "relevance", "punctuation")
    question = many[0].question
    together = judge([question], [text], [spans])[0]
    assert judge([question, question], [text, text], [spans[:1], spans[1:]]) == [together[:1], together[1:]]


@pytest.mark.parametrize("accuracy", [0.55, 0.7, 0.9])
def test_dial_noise_solves_for_the_pairwise_accuracy(accuracy):
    differences = np.array([0.25, -0.25, 0.5, 0.0, -0.75, 1.0, 0.25])
    sigma = dial_noise(accuracy, differences)
    rng, trials = np.random.default_rng(0), 40000
    gaps = differences[differences != 0]
    noise = rng.normal(0, sigma, (2, trials, len(gaps)))
    right = np.sign(gaps + noise[0] - noise[1]) == np.sign(gaps)
    assert right.mean() == pytest.approx(accuracy, abs=4.5 * math.sqrt(accuracy * (1 - accuracy) / right.size))


def test_dial_noise_at_its_ends():
    assert dial_noise(1.0, np.array([0.5])) == 0.0
    # one gap of 1: Φ(1 / (σ√2)) = 0.841345 at σ = 1/√2
    assert dial_noise(0.8413447460685429, np.array([1.0, 0.0, -1.0])) == pytest.approx(math.sqrt(0.5), rel=1e-6)
    for accuracy, gaps in ((0.5, [0.5]), (0.3, [0.5]), (0.8, [0.0, 0.0])):
        with pytest.raises(DataError, match=r"dial_accuracy = 0\.\d for completeness: needs more than 0.5"):
            dial_noise(accuracy, np.array(gaps))


@pytest.mark.parametrize("kind", ["prejudice", "noise"])
def test_a_completeness_dial_orders_pairs_as_well_as_it_claims(many, kind):
    records = {"train": many[:300], "heldout": many[300:]}
    p = ppo("completeness", reward="dial", dial_accuracy=0.75, dial_kind=kind)
    judge, centre = dial_of(p, records)
    metrics = judges.measure_judge(judge, p, records["heldout"])
    assert metrics["segments"] > 800
    assert metrics["accuracy"] == pytest.approx(0.75, abs=0.06)  # pairs of one question share their noise
    scores = np.array([record.clean_scores for record in records["train"]])
    assert centre.mean == pytest.approx(scores.mean())
    noisy = [judge([r.question] * 4, r.responses, [[]] * 4) for r in records["train"]]
    assert centre.std == pytest.approx(np.std(noisy), rel=0.1)  # rewards have unit variance, noise included
    matched = dial_of(p.model_copy(update={"scale_matched": True}), records)[1]
    assert (matched.mean, matched.std) == pytest.approx((scores.mean(), scores.std()))


def test_an_exact_completeness_dial_is_the_oracle(many):
    judge, centre = dial_of(ppo("completeness", reward="dial"), {"train": many})
    for record in many[:20]:
        expected = [[oracle.judge(record.question, text).completeness] for text in record.responses]
        assert judge([record.question] * 4, record.responses, [[]] * 4) == expected
    assert centre == exact_centre("completeness", {"train": many})
    assert exact_centre("relevance", {}) == Centre(0.0, 1.0)


# --- errors on one side -------------------------------------------------------------------------------------------------------


def flips(records, task, **changes):
    """How often a dial flips good and bad segments, and how often it errs in all."""
    p = ppo(task, reward="dial", dial_kind="noise", **changes)
    truth = judged_segments(records, task, ORACLE[task])
    values = judged_segments(records, task, dial_of(p, {"train": records})[0])
    wrong = {side: np.mean([values[key] != v for key, v in truth.items() if v == side]) for side in (1, -1)}
    return wrong[1], wrong[-1], np.mean([values[key] != v for key, v in truth.items()])


@pytest.mark.heavy
@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_a_bias_moves_errors_to_one_side_and_leaves_their_number(many, task):
    truth = judged_segments(many, task, ORACLE[task])
    share = np.mean([v > 0 for v in truth.values()])
    noise = 4.5 * math.sqrt(0.2 * 0.8 / min(np.sum([v == side for v in truth.values()]) for side in (1, -1)))
    good, bad, errors = flips(many, task, dial_accuracy=0.9, dial_bias=1.0)
    assert (good, bad) == (pytest.approx(0.1 / share, abs=noise), 0.0)
    assert errors == pytest.approx(0.1, abs=noise)
    good, bad, errors = flips(many, task, dial_accuracy=0.9, dial_bias=-1.0)
    assert (good, bad) == (0.0, pytest.approx(0.1 / (1 - share), abs=noise))
    good, bad, errors = flips(many, task, dial_accuracy=0.9, dial_bias=0.5)  # half the way
    assert bad == pytest.approx(0.05, abs=noise)
    assert share * good + (1 - share) * bad == pytest.approx(0.1, abs=noise)


def test_more_errors_of_a_kind_than_there_are_are_refused(many):
    with pytest.raises(DataError, match=r"dial_bias = -1\.0.*dial_accuracy = 0\.5"):
        flips(many, "relevance", dial_accuracy=0.5, dial_bias=-1.0)


@pytest.mark.parametrize("bias", [-1.0, 1.0, 0.5])
def test_a_scale_matched_dial_keeps_the_difference_between_good_and_bad(many, bias):
    p = ppo("factuality", reward="dial", dial_accuracy=0.9, dial_bias=bias, dial_kind="noise", scale_matched=True)
    judge, centre = dial_of(p, {"train": many})
    truth, values = judged_segments(many, "factuality", ORACLE["factuality"]), judged_segments(many, "factuality", judge)
    good, bad = (np.mean([values[key] for key, v in truth.items() if v == side]) / centre.std for side in (1, -1))
    assert good - bad == pytest.approx(2.0, abs=0.1)


def test_noise_with_one_tail_orders_some_pairs_right_whatever_its_size():
    with pytest.raises(DataError, match=r"dial_accuracy = 0\.6 .*dial_bias = 1\.0 needs more than 0\.62"):
        dial_noise(0.6, np.array([0.25, 0.5]), 1.0)


@pytest.mark.parametrize("bias", [-1.0, 0.4, 1.0])
def test_skewed_noise_orders_pairs_as_well_and_has_the_moments_it_is_centred_by(many, bias):
    differences, rng = np.array([0.25, 0.5, 0.5, 1.0]), np.random.default_rng(0)
    scale = dial_noise(0.7, differences, bias)
    z = rng.normal(size=(2, 200_000, 4))
    noise = scale * np.where(z < 0, (1 + bias) * z, (1 - bias) * z)
    right = differences + noise[0] - noise[1] > 0
    assert right.mean() == pytest.approx(0.7, abs=0.005)
    p = ppo("completeness", reward="dial", dial_accuracy=0.7, dial_bias=bias, dial_kind="noise")
    judge, centre = dial_of(p, {"train": many})
    values = np.array([judge([r.question] * 4, r.responses, [[]] * 4) for r in many])
    assert centre.mean == pytest.approx(values.mean(), abs=4.5 * values.std() / math.sqrt(values.size))
    assert centre.std == pytest.approx(values.std(), rel=0.1)
