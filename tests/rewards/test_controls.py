"""Rewards that know nothing of the truth, and rewards brought to one scale: totals and metrics by hand."""

import functools
import itertools
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config, data
from paradox_utils.data import oracle
from paradox_utils.data.records import DataError
from paradox_utils.data.tasks import MARKED, segment
from paradox_utils.files import resolve
from paradox_utils.rewards import examples, judges, model
from paradox_utils.rewards.judges import reward_of, size_of
from tests.conftest import answered
from tests.rewards.test_judges import StubScorer
from tests.rewards.test_placement import ORACLE, RIGHT, atlas_tokenizer, placed, ppo, respond, tokens

SEGMENTED = ("relevance", "factuality")


def responses_to(records):
    """All responses of the feedback, as a policy would have sampled them."""
    rows = [tokens(atlas_tokenizer(), text) for record in records for text in record.responses]
    made = respond(atlas_tokenizer(), records[0].question, rows)
    made.prompts.questions = [record.question for record in records for _ in record.responses]
    return made


def record_of(question, *texts):
    return oracle.feedback_on(question, texts, 0.0, random.Random(0))


# --- a constant, and length ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MARKED)
def test_a_constant_reward_pays_every_response_alike_on_its_last_token(question, judged, task):
    reward, _, cut = reward_of(ppo(task, reward="constant"), atlas_tokenizer(), judged)
    ids = tokens(atlas_tokenizer(), RIGHT)
    responses = respond(atlas_tokenizer(), question, [ids, ids[:9], [atlas_tokenizer().eos_token_id]])  # whole, cut, empty
    grid = reward(responses)
    assert grid.shape == responses.ids.shape
    assert [placed(row) for row in grid] == [{place: size_of(ppo(task))} for place in (15, 8, 0)]
    assert cut() == 0
    larger, _, _ = reward_of(ppo(task, reward="constant", reward_size=2.0), atlas_tokenizer(), judged)
    assert [placed(row) for row in larger(responses)] == [{place: 2.0} for place in (15, 8, 0)]


def test_the_length_reward_is_standardised_by_training_responses(question, judged):
    train = [record_of(question, "a b c d", "a b c d", "a b c d e f g h", "b c d e f g h i")]  # words: mean 6, deviation 2
    reward, _, _ = reward_of(ppo("factuality", reward="length"), atlas_tokenizer(), judged | {"train": train})
    nine = " ".join(RIGHT.split()[:9])
    assert len(RIGHT.split()) == 13
    rows = [tokens(atlas_tokenizer(), RIGHT), tokens(atlas_tokenizer(), nine, end=False), [atlas_tokenizer().eos_token_id]]
    grid = reward(respond(atlas_tokenizer(), question, rows))
    sizes = [0.5 * (words - 6) / 2 for words in (13, 9, 0)]
    assert [placed(row) for row in grid] == [{len(ids) - 1: size} for ids, size in zip(rows, sizes, strict=True)]


def test_lengths_that_are_all_the_same_have_no_scale(question, judged):
    train = [record_of(question, "a b", "c d", "e f", "g h")]
    with pytest.raises(DataError, match="every training response has 2 words, so there is no scale; use reward=constant"):
        reward_of(ppo("factuality", reward="length"), atlas_tokenizer(), judged | {"train": train})
    reward_of(ppo("factuality", reward="constant"), atlas_tokenizer(), judged | {"train": train})


@pytest.mark.parametrize("task", MARKED)
def test_length_rewards_of_the_training_responses_have_mean_0_and_the_size_as_deviation(judged, task):
    reward, _, _ = reward_of(ppo(task, reward="length", reward_size=0.7), atlas_tokenizer(), judged)
    totals = reward(responses_to(judged["train"])).sum(1)
    assert float(totals.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(totals.std(unbiased=False)) == pytest.approx(0.7, rel=1e-5)


@pytest.mark.parametrize("task", SEGMENTED)
def test_a_constant_is_as_accurate_as_the_majority_class_if_that_is_good(judged, task):
    _, metrics, _ = reward_of(ppo(task, reward="constant"), atlas_tokenizer(), judged)
    truth = judges.measure_judge(ORACLE[task], ppo(task), judged["heldout"])
    assert metrics["accuracy"] == metrics["majority"] == pytest.approx(1 - truth["error_share"])
    assert metrics["balanced_accuracy"] == 0.5
    assert metrics["error_share"] == metrics["f1"] == 0.0
    bad = record_of(judged["heldout"][0].question, *["the founder of zodor fort is pelo."] * 4)
    _, metrics, _ = reward_of(ppo(task, reward="constant"), atlas_tokenizer(), judged | {"heldout": [bad] * 3})
    assert (metrics["accuracy"], metrics["majority"]) == (0.0, 1.0)  # where every segment is an error it is always wrong


def test_a_constant_orders_half_of_the_pairs(judged):
    _, metrics, _ = reward_of(ppo("completeness", reward="constant"), atlas_tokenizer(), judged)
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == metrics["majority"] == 0.5
    assert metrics["segments"] > 50


@pytest.mark.parametrize("task", SEGMENTED)
def test_length_labels_no_segments_and_so_has_no_metrics(judged, task):
    _, metrics, _ = reward_of(ppo(task, reward="length"), atlas_tokenizer(), judged)
    assert metrics == {}


def test_length_orders_pairs_by_words(judged):
    _, metrics, _ = reward_of(ppo("completeness", reward="length"), atlas_tokenizer(), judged)
    right = []
    for record in judged["heldout"]:
        scored = [(score, len(text.split())) for score, text in zip(record.clean_scores, record.responses, strict=True)]
        for (first, words), (second, others) in itertools.combinations(scored, 2):
            if first != second:
                right.append(0.5 if words == others else float((first > second) == (words > others)))
    assert metrics["segments"] == len(right)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["accuracy"] > 0.5  # who says more leaves out less


# --- the spread of a reward -------------------------------------------------------------------------------------------------


def judge_of(rows):
    """A judge that values the segments of each text as the rows say."""
    return lambda questions, texts, offsets: [list(rows[text]) for text in texts]


def test_the_spread_is_that_of_whole_responses(question):
    records = [record_of(question, "a.", "b.", "c.", "d.")]
    judge = judge_of({"a.": [1, 1, 1], "b.": [1, -1], "c.": [-1], "d.": []})
    assert judges.spread_of(judge, ppo("relevance"), records) == pytest.approx(np.std([3, 0, -1, 0]))
    assert judges.spread_of(judge, ppo("relevance", reward_pooling="mean"), records) == pytest.approx(np.std([1, 0, -1, 0]))


def test_rounding_is_no_spread(question):
    records = [record_of(question, "a.", "b.", "c.", "d.")]
    judge = judge_of({"a.": [0.1, 0.2, 0.3], "b.": [0.3, 0.2, 0.1], "c.": [0.6], "d.": [0.3, 0.3]})
    assert 0 < np.std([sum(values) for values in judge([], ["a.", "b.", "c.", "d."], [])]) < 1e-15
    with pytest.raises(DataError, match="values all responses alike"):
        judges.spread_of(judge, ppo("relevance"), records)


def test_the_spread_is_measured_on_the_first_questions_of_the_feedback():
    records, asked = answered(101, seed=6), []

    def judge(questions, texts, offsets):
        asked.append((list(questions), list(texts), list(offsets)))
        return [[float(index)] for index in range(len(texts))]

    assert judges.spread_of(judge, ppo("factuality"), records) == pytest.approx(np.std(range(400)))
    questions, texts, offsets = asked[0]
    assert texts == [text for record in records[:100] for text in record.responses]
    assert questions == [record.question for record in records[:100] for _ in range(4)]
    assert offsets == [segment(text, "factuality", "punctuation") for text in texts]


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4), st.integers(1, 9))
def test_the_spread_follows_the_scale_of_the_values(values, scale):
    records = [record_of(answered(1, seed=0)[0].question, "a.", "b.", "c.", "d.")]
    judge, scaled = (judge_of({t: [k * v] for t, v in zip(records[0].responses, values, strict=True)}) for k in (1, scale))
    if len(set(values)) == 1:
        with pytest.raises(DataError, match="values all responses alike"):
            judges.spread_of(judge, ppo("relevance"), records)
    else:
        spread = judges.spread_of(judge, ppo("relevance"), records)
        assert judges.spread_of(scaled, ppo("relevance"), records) == pytest.approx(scale * spread)


@functools.cache
def fixture_feedback():
    return data.load_feedback(ppo("relevance"), resolve(config.FIXTURE_FEEDBACK))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("relevance", {}),
        ("factuality", {"reward_form": "probability"}),
        ("relevance", {"reward_pooling": "mean", "reward_size": 2.0}),
    ],
)
def test_normalised_rewards_spread_by_their_size_over_responses(task, changes):
    p, records = ppo(task, **changes), fixture_feedback()["train"][:100]
    unset, off, on = (
        reward_of(p.model_copy(update={"normalise_reward": choice}), atlas_tokenizer(), fixture_feedback())[0]
        for choice in (None, False, True)
    )
    size = size_of(p)
    assert float(on(responses_to(records)).sum(1).std(unbiased=False)) == pytest.approx(size, rel=1e-4)
    few = responses_to(records[:10])
    raw, scaled = unset(few), on(few)
    assert torch.equal(raw, off(few))  # unset leaves segment rewards as they are
    factor = scaled[raw != 0] / raw[raw != 0]
    assert float(factor.max()) == pytest.approx(float(factor.min()), rel=1e-4)  # one factor for all: nothing is shifted
    assert float(factor.min()) > 0
    assert float(factor.min()) != pytest.approx(1, rel=0.1)
    assert not scaled[raw == 0].any()


def test_a_model_that_values_all_responses_alike_cannot_be_normalised(monkeypatch):
    class Same(StubScorer):
        def segment_logits(self, contexts, segments):
            return [torch.tensor([[0.0, 0.0, 1.0]]).expand(len(s), 3) for s in segments]

    monkeypatch.setattr(model, "load_scorer", lambda *_: Same(None))
    p = ppo("relevance", normalise_reward=True, reward_pooling="mean")
    with pytest.raises(DataError, match="normalise_reward: the reward model values all responses alike"):
        reward_of(p, atlas_tokenizer(), fixture_feedback())
    reward_of(p.model_copy(update={"normalise_reward": None}), atlas_tokenizer(), fixture_feedback())


@pytest.mark.heavy
def test_completeness_is_standardised_unless_told_to_pay_raw_scores():
    some = fixture_feedback()["heldout"][:5]
    responses, p = responses_to(some), ppo("completeness")
    checkpoint = resolve(p.reward_model.format(task="completeness"))
    scorer = model.load_scorer(checkpoint, "completeness", p, p.rm_micro_batch)
    contexts = [examples.context_of(question, "completeness") for question in responses.questions]
    scores = torch.as_tensor(scorer.scores(contexts, responses.texts)).float()
    stored = json.loads((checkpoint / "metrics.json").read_text())
    standard = 0.3 * (scores - stored["score_mean"]) / stored["score_std"]
    for choice, expected in ((None, standard), (True, standard), (False, 0.3 * scores)):
        chosen = p.model_copy(update={"normalise_reward": choice})
        totals = reward_of(chosen, atlas_tokenizer(), fixture_feedback())[0](responses).sum(1)
        assert totals.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert standard.tolist() != pytest.approx((0.3 * scores).tolist(), abs=0.01)
