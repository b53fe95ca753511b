"""Judges by hand-made logits, dials that have the accuracy they claim, and how accurate a judge is."""

import itertools
import math
import random
from typing import get_args

import numpy as np
import pytest
import torch

from paradox_utils import config
from paradox_utils.data import oracle
from paradox_utils.data.records import DataError
from paradox_utils.data.tasks import TASKS, segment
from paradox_utils.rewards import judges
from paradox_utils.rewards.judges import Centre, reward_of
from tests.conftest import answered
from tests.rewards.test_placement import ORACLE, RIGHT, atlas_tokenizer, ppo, respond, tokens


def test_config_and_the_registry_name_the_same_rewards():
    assert tuple(judges.REWARDS) == get_args(config.PPO.model_fields["reward"].annotation)


# --- judges -------------------------------------------------------------------------------------------------------------------


class StubScorer:
    """Hands out prepared logits or scores, and remembers what it was asked."""

    passage_bars = True

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def segment_logits(self, contexts, segments):
        self.asked.append((list(contexts), [list(s) for s in segments]))
        return self.answer

    def scores(self, contexts, responses):
        self.asked.append((list(contexts), list(responses)))
        return self.answer


NAN = float("nan")
LOGITS = torch.tensor([[5.0, 0.0, 1.0], [0.0, 3.0, 1.0], [-2.0, 4.0, 4.5], [NAN, NAN, NAN]])  # F-ERR, NF-ERR, O


@pytest.mark.parametrize(
    ("task", "form", "expected"),
    [
        ("relevance", "arg-max", [1, -1, 1, 0]),  # the first: F-ERR leads, but O beats NF-ERR
        ("factuality", "arg-max", [-1, 1, 1, 0]),  # the second: NF-ERR leads, but O beats F-ERR
        # P(O) − P(error) by two-class softmax
        ("relevance", "probability", [math.tanh(0.5), math.tanh(-1.0), math.tanh(0.25), 0]),
        ("factuality", "probability", [math.tanh(-2.0), math.tanh(0.5), math.tanh(3.25), 0]),
    ],
)
def test_a_model_judges_by_the_two_classes_of_its_task(question, task, form, expected):
    scorer = StubScorer([LOGITS, torch.empty(0, 3)])
    judge = judges.model_judge(scorer, ppo(task, reward_form=form))
    spans = [(0, 3), (4, 5), (6, 7), (8, 9)]
    values = judge([question, question], ["abc d e f", ""], [spans, []])
    assert values[0] == pytest.approx(expected)
    assert values[1] == []
    contexts, segments = scorer.asked[0]
    assert segments == [["abc", "d", "e", "f"], []]
    assert all(c.startswith("question: what are the founder and the color of zodor?") for c in contexts)
    assert all(c.endswith("answer:") for c in contexts)
    assert ("wikipage: zodor isle" in contexts[0]) == (task == "factuality")  # relevance is judged without the passages


def test_two_class_probabilities_are_what_softmax_says():
    probability = LOGITS[:3, [0, 2]].softmax(-1)
    expected = (probability[:, 1] - probability[:, 0]).tolist()
    values = judges.model_judge(StubScorer([LOGITS]), ppo("factuality", reward_form="probability"))
    spans = [[(0, 1), (1, 2), (2, 3), (3, 4)]]
    assert values([oracle_question()], ["abcd"], spans)[0][:3] == pytest.approx(expected)


def oracle_question():
    return answered(1, seed=0)[0].question


def test_a_pairwise_model_gives_its_raw_score(question):
    scorer = StubScorer(torch.tensor([1.5, -2.0]))
    values = judges.model_judge(scorer, ppo("completeness"))([question] * 2, ["one", ""], [[(0, 3)], []])
    assert values == [[1.5], [-2.0]]
    contexts, texts = scorer.asked[0]
    assert texts == ["one", ""]
    assert "wikipage: zodor fort" in contexts[0]


def test_the_oracle_judges_segments(question):
    text = f"{RIGHT} also the stone of zodor isle is nane. the founder of zodor fort is melo, and its color is surely telo."
    relevance = segment(text, "relevance", "punctuation")
    assert len(relevance) == 5
    assert ORACLE["relevance"]([question], [text], [relevance]) == [[1, 1, -1, 1, 1]]
    sentences = segment(text, "factuality", "punctuation")
    assert ORACLE["factuality"]([question], [text], [sentences]) == [[1, -1, -1]]
    assert ORACLE["completeness"]([question], [text], [[(0, len(text))]]) == [[0.75]]


# --- dials --------------------------------------------------------------------------------------------------------------------


def judged_segments(records, task, judge):
    """{(prompt, segment text): value} of the first responses."""
    texts = [record.responses[0] for record in records]
    offsets = [segment(text, task, "punctuation") for text in texts]
    values = judge([record.question for record in records], texts, offsets)
    keys = [(r.question.prompt, t[a:b]) for r, t, spans in zip(records, texts, offsets, strict=True) for a, b in spans]
    return dict(zip(keys, itertools.chain(*values), strict=True))


@pytest.fixture(scope="module")
def many():
    return answered(600, seed=9)


def dial(task, accuracy, **changes):
    return judges.dial_judge(ppo(task, reward="dial", dial_accuracy=accuracy, **changes), 0.0)


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
    sigma = judges.dial_noise(accuracy, differences)
    rng, trials = np.random.default_rng(0), 40000
    gaps = differences[differences != 0]
    noise = rng.normal(0, sigma, (2, trials, len(gaps)))
    right = np.sign(gaps + noise[0] - noise[1]) == np.sign(gaps)
    assert right.mean() == pytest.approx(accuracy, abs=4.5 * math.sqrt(accuracy * (1 - accuracy) / right.size))


def test_dial_noise_at_its_ends():
    assert judges.dial_noise(1.0, np.array([0.5])) == 0.0
    # one gap of 1: Φ(1 / (σ√2)) = 0.841345 at σ = 1/√2
    assert judges.dial_noise(0.8413447460685429, np.array([1.0, 0.0, -1.0])) == pytest.approx(math.sqrt(0.5), rel=1e-6)
    for accuracy, gaps in ((0.5, [0.5]), (0.3, [0.5]), (0.8, [0.0, 0.0])):
        with pytest.raises(DataError, match=r"dial_accuracy = 0\.\d for completeness: needs more than 0.5"):
            judges.dial_noise(accuracy, np.array(gaps))


@pytest.mark.parametrize("kind", ["prejudice", "noise"])
def test_a_completeness_dial_orders_pairs_as_well_as_it_claims(many, kind):
    records = {"train": many[:300], "heldout": many[300:]}
    p = ppo("completeness", reward="dial", dial_accuracy=0.75, dial_kind=kind)
    judge, centre = judges.dial_of(p, records)
    metrics = judges.measure_judge(judge, p, records["heldout"])
    assert metrics["segments"] > 800
    assert metrics["accuracy"] == pytest.approx(0.75, abs=0.06)  # pairs of one question share their noise
    scores = np.array([record.clean_scores for record in records["train"]])
    assert centre.mean == pytest.approx(scores.mean())
    noisy = [judge([r.question] * 4, r.responses, [[]] * 4) for r in records["train"]]
    assert centre.std == pytest.approx(np.std(noisy), rel=0.1)  # rewards have unit variance, noise included
    matched = judges.dial_of(p.model_copy(update={"scale_matched": True}), records)[1]
    assert (matched.mean, matched.std) == pytest.approx((scores.mean(), scores.std()))


def test_an_exact_completeness_dial_is_the_oracle(many):
    judge, centre = judges.dial_of(ppo("completeness", reward="dial"), {"train": many})
    for record in many[:20]:
        expected = [[oracle.judge(record.question, text).completeness] for text in record.responses]
        assert judge([record.question] * 4, record.responses, [[]] * 4) == expected
    assert centre == judges.exact_centre("completeness", {"train": many})
    assert judges.exact_centre("relevance", {}) == Centre(0.0, 1.0)


# --- how accurate a judge is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_exact_judge_is_right_about_everything(many, task):
    metrics = judges.measure_judge(ORACLE[task], ppo(task), many)
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == metrics["balanced_accuracy"] == 1.0
    assert metrics["segments"] > 500
    assert 0.5 <= metrics["majority"] < 0.9


@pytest.mark.parametrize("task", TASKS)
def test_the_opposite_judge_is_wrong_about_everything(many, task):
    def opposite(questions, texts, offsets):
        return [[-value for value in row] for row in ORACLE[task](questions, texts, offsets)]

    metrics = judges.measure_judge(opposite, ppo(task), many)
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == 0.0


@pytest.mark.parametrize(("task", "segments"), [("relevance", 7), ("factuality", 3)])
def test_the_measured_segments_are_those_of_each_response(question, task, segments):
    redundant = f"{RIGHT[:-1]}, and its founder is surely bane."  # three clauses of one sentence
    texts = (redundant, "the founder of zodor fort is pelo.", "", f"{RIGHT[:-1]}, and nothing else is known of it", " ")
    records = [oracle.feedback_on(question, (text,) * 4, 0.0, random.Random(0)) for text in texts]
    metrics = judges.measure_judge(ORACLE[task], ppo(task), records)
    assert (metrics["segments"], metrics["accuracy"]) == (segments, 1.0)


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("task", TASKS)
def test_annotator_noise_separates_the_two_accuracies(task, noise):
    metrics = judges.measure_judge(ORACLE[task], ppo(task), answered(300, seed=12, noise=noise))
    assert metrics["accuracy"] == 1.0
    # a segment of relevance is a clause, one of factuality a sentence, a comparison a pair: each flips with this probability
    assert metrics["accuracy_noisy"] == pytest.approx(1 - noise, abs=0.05)


def test_the_stage_measures_a_dial_and_rewards_with_it(many):
    judged = {"train": many[:300], "heldout": many[300:]}
    p = ppo("relevance", reward="dial", dial_accuracy=0.8, dial_kind="noise")
    reward, metrics, cut = reward_of(p, atlas_tokenizer(), judged)
    assert metrics["accuracy"] == pytest.approx(0.8, abs=0.05)
    assert cut() == 0
    record = many[0]
    responses = respond(atlas_tokenizer(), record.question, [tokens(atlas_tokenizer(), record.responses[0])])
    spans = segment(record.responses[0], "relevance", "punctuation")
    expected = sum(judges.dial_judge(p, 0.0)([record.question], [record.responses[0]], [spans])[0])
    assert reward(responses).sum() == pytest.approx(0.3 * expected)


def test_feedback_without_a_difference_cannot_measure_completeness(question):
    records = [oracle.feedback_on(question, (RIGHT,) * 4, 0.0, random.Random(0))]
    with pytest.raises(DataError, match="no two held-out responses differ"):
        judges.measure_judge(ORACLE["completeness"], ppo("completeness"), records)
