"""What is said of a reward model before PPO: alterations and measures by hand, on judges that are plain functions."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config
from paradox_utils.data import oracle
from paradox_utils.data.records import DataError, Feedback, unit_interval
from paradox_utils.data.tasks import MARKED, TASKS, segment
from paradox_utils.rewards import stress

ISLE = "the founder of zodor isle is bane, and its color is surely kane."
FORT = "the founder of zodor fort is melo, and its color is surely selo."
STONE = "also the stone of zodor isle is mane."  # not asked
EXCESSES = {f"stress_{name}_excess" for name in ("repeated", "long", "unfinished")}


def parameters(task):
    return config.PPO(task=task, device="cpu")


def records(question, *responses):
    return [oracle.feedback_on(question, tuple(texts), 0.0, random.Random(0)) for texts in responses]


def says(values, otherwise=0.0):
    """A judge that knows segments by heart."""

    def judge(_questions, texts, offsets):
        return [[values.get(text[a:b], otherwise) for a, b in spans] for text, spans in zip(texts, offsets, strict=True)]

    return judge


def scores(values, otherwise):
    """A judge that knows whole answers by heart."""
    return lambda _questions, texts, _offsets: [[values.get(text, otherwise)] for text in texts]


# --- alterations --------------------------------------------------------------------------------------------------------------

ALTERED = {  # of the first of the responses, by relevance's segments: repeated, long, unfinished
    "two sentences": ([STONE, FORT], f"{STONE} {STONE}", f"{STONE} {FORT}", "also the stone of"),
    "two clauses": ([ISLE, STONE], f"{ISLE} {ISLE}", f"{ISLE} {STONE}", "the founder of zodor isle is bane, and its color"),
    "an odd number of words": (["it is kane."], "it is kane. it is kane.", "it is kane.", "it"),
    "no punctuation": (["bane kane", "melo"], "bane kane bane kane", "bane kane melo", "bane"),
    "one word": (["bane.", ""], "bane. bane.", "bane.", "bane"),
    "one mark": (["."], ". .", ".", "."),
    "a cut after a comma": (["bane, kane mane.", " "], "bane, kane mane. bane, kane mane.", "bane, kane mane.", "bane"),
    "nothing": (["", "bane."], "", "bane.", ""),
    "blanks": ([" \n", "", "bane."], "", "", " \n"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_alterations_by_hand(name):
    responses, *expected = ALTERED[name]
    segments = segment(responses[0], "relevance", "punctuation")
    made = {name: alter(responses, segments) for name, alter in stress.ALTERATIONS.items()}
    assert made == dict(zip(("plain", "repeated", "long", "unfinished"), (responses[0], *expected), strict=True))


def test_a_pairwise_answer_is_cut_in_its_middle():
    text = f"{ISLE} {FORT}"
    assert stress.unfinished([text], segment(text, "completeness", "punctuation")) == ISLE.rstrip(".")


# --- measures -----------------------------------------------------------------------------------------------------------------


def test_segments_by_hand(question):
    judge = says(
        {
            "the founder of zodor isle is bane,": 0.8,
            "and its color is surely kane.": -0.2,  # wrong
            STONE: -0.4,
            "the founder of zodor fort is melo,": 0.6,
            "and its color is surely selo.": 0.6,
            "the founder of zodor isle is bane, and its color": 0.2,  # wrong
            "also the stone of": -0.6,
        }
    )
    found = stress.measures(judge, parameters("relevance"), records(question, [ISLE, FORT], [STONE, ""]))
    # what is paid and what is due: plain 0, −1 and 2, −1; repeated 0, −2 and 0, −2 (said before); long 2, −1 and 4, −1;
    # unfinished 1, −1 and −1, −1. P(good): .9, .4, .3 (bad); each twice, bad the second time; .9 .4 .8 .8 .3; .6 .2, both bad
    assert found == pytest.approx(
        {
            "stress_error_share": 2 / 3 - 1 / 3,
            "stress_confidence": (0.8 + 0.2 + 0.4) / 3,
            "stress_confidence_wrong": 0.2,
            "stress_length_correlation": 0.0,
            "stress_repeated_excess": 0 - -1,
            "stress_long_excess": -1 - -1,
            "stress_unfinished_excess": 1 - -1,
            "stress_plain_calibration": (0.1 + 0.6 + 0.3) / 3,
            "stress_repeated_calibration": (2 * 0.4 + 2 * 0.1 + 2 * 0.3) / 6,
            "stress_long_calibration": (0.1 + 0.6 + 2 * 0.2 + 0.3) / 5,
            "stress_unfinished_calibration": (0.6 + 0.2) / 2,
        }
    )


def test_pairs_by_hand(question):
    both = f"{ISLE} {FORT}"
    judge = scores({ISLE: 1.0, FORT: 1.0, both: 3.0, STONE: 2.0}, otherwise=5.0)  # the third pair in the wrong order
    found = stress.measures(judge, parameters("completeness"), records(question, [ISLE, FORT], [both, STONE], [STONE, ISLE]))
    own, true = math.sqrt(2 / 3), math.sqrt(1 / 6)  # deviations of 1, 3, 2 and of the truth: ½, 1, 0
    assert found == pytest.approx(
        {
            "stress_confidence": (0 + 1 + 1) / 3 / own,
            "stress_confidence_wrong": 1 / own,
            "stress_length_correlation": 0.5 - 1.0,
            "stress_repeated_excess": 3 / own,  # all facts stand as before
            "stress_long_excess": (1 + 3 + 3) / 3 / own - (0.5 + 0.5 + 0) / 3 / true,
            "stress_unfinished_excess": 3 / own - (-0.5 + 0 - 0.5) / 3 / true,
        }
    )


def test_the_scale_of_scores_does_not_matter(question):
    p, some = parameters("completeness"), records(question, [ISLE, FORT], [STONE, ISLE], [FORT, STONE])
    small, large = (
        stress.measures(lambda _q, texts, _o, k=k: [[k * unit_interval(text) - k] for text in texts], p, some)
        for k in (1, 1000)
    )
    assert small == pytest.approx(large, nan_ok=True)


def test_a_judge_that_likes_words_is_seen_in_the_length_correlation(question):
    some = records(question, [ISLE], [STONE], [""])  # 13, 8 and 0 words; due 2, −1 and 0; paid 2, 1 and 0
    found = stress.measures(says({}, otherwise=1.0), parameters("relevance"), some)
    assert found["stress_length_correlation"] == pytest.approx(1.0 - 0.5)


def test_what_was_not_read_is_paid_nothing_and_is_no_label(question):
    found = stress.measures(says({}), parameters("relevance"), records(question, [ISLE, FORT], [STONE, ""]))
    assert found["stress_error_share"] == pytest.approx(0 - 1 / 3)
    assert (found["stress_confidence"], found["stress_confidence_wrong"]) == (0.0, 0.0)
    assert found["stress_repeated_excess"] == pytest.approx(-(0 - 2) / 2 + (2 - 1) / 2)
    assert math.isnan(found["stress_length_correlation"])  # all are paid alike


def test_scores_that_are_all_alike_have_no_unit(question):
    some = records(question, [ISLE, STONE], [STONE, ISLE])
    found = stress.measures(scores({}, otherwise=0.7), parameters("completeness"), some)
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("task", MARKED)
def test_answers_without_a_word_have_nothing_to_measure(question, task):
    found = stress.measures(says({}) if task != "completeness" else scores({}, 0.0), parameters(task), records(question, [""]))
    assert {name for name, value in found.items() if not math.isnan(value)} <= EXCESSES
    single = stress.measures(oracle.oracle_judge(task), parameters(task), records(question, [ISLE]))
    assert math.isnan(single["stress_confidence"]) == (task == "completeness")  # no pair


ANSWERS = st.lists(st.lists(st.text(max_size=40) | st.sampled_from([ISLE, FORT, STONE]), min_size=1, max_size=3), min_size=1)


@pytest.mark.heavy
@given(answers=ANSWERS)
@pytest.mark.parametrize("task", MARKED)
def test_any_text_is_measured(question, task, answers):
    def judge(_questions, texts, offsets):
        pieces = [[text] if TASKS[task].pairwise else [text[a:b] for a, b in o] for text, o in zip(texts, offsets, strict=True)]
        return [[2 * unit_interval(repr(piece)) - 1 for piece in some] for some in pieces]

    some = [Feedback(question, tuple(texts), ()) for texts in answers]
    found = stress.measures(judge, parameters(task), some)
    assert not any(math.isinf(value) for value in found.values())
    if not TASKS[task].pairwise:
        assert all(math.isfinite(found[name]) for name in EXCESSES)
        for name in ("error_share", "confidence", "plain_calibration"):
            assert math.isfinite(found[f"stress_{name}"]) == any(texts[0].strip() for texts in answers)
    exact = stress.measures(oracle.oracle_judge(task), parameters(task), some)
    assert all(exact[name] == 0 or (TASKS[task].pairwise and math.isnan(exact[name])) for name in EXCESSES)
    assert math.isnan(exact["stress_confidence_wrong"])
    for name, value in exact.items():
        if name.endswith(("calibration", "error_share", "correlation")):
            assert value == 0 or math.isnan(value), name


def test_no_held_out_record_is_refused():
    with pytest.raises(DataError, match=r"stress_records = 5: .*heldout_share"):
        stress.stress(config.PPO(stress_records=5), [])
