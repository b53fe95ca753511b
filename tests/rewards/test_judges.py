"""Judges by hand-made logits, and how accurate a judge is."""

import math
import random
from typing import get_args

import pytest
import torch

from paradox_utils import config
from paradox_utils.data import oracle
from paradox_utils.data.records import DataError
from paradox_utils.data.tasks import MARKED, segment
from paradox_utils.rewards import dial, judges
from paradox_utils.rewards.judges import reward_of
from tests.conftest import answered
from tests.rewards.test_placement import ORACLE, RIGHT, atlas_tokenizer, ppo, respond, tokens


def test_config_and_the_registry_name_the_same_rewards():
    assert tuple(judges.REWARDS) == get_args(config.PPO.model_fields["reward"].annotation)


# --- judges -------------------------------------------------------------------------------------------------------------------


class StubScorer:
    """Hands out prepared logits or scores, and remembers what it was asked."""

    passage_bars, known_answer = True, False

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


# --- how accurate a judge is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MARKED)
def test_the_exact_judge_is_right_about_everything(many, task):
    metrics = judges.measure_judge(ORACLE[task], ppo(task), many)
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == metrics["balanced_accuracy"] == 1.0
    assert metrics["segments"] > 500
    assert 0.5 <= metrics["majority"] < 0.9


@pytest.mark.parametrize("task", MARKED)
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


@pytest.mark.heavy
@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("task", MARKED)
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
    expected = sum(dial.dial_judge(p, 0.0)([record.question], [record.responses[0]], [spans])[0])
    assert reward(responses).sum() == pytest.approx(0.3 * expected)


def test_feedback_without_a_difference_cannot_measure_completeness(question):
    records = [oracle.feedback_on(question, (RIGHT,) * 4, 0.0, random.Random(0))]
    with pytest.raises(DataError, match="no two held-out responses differ"):
        judges.measure_judge(ORACLE["completeness"], ppo("completeness"), records)
