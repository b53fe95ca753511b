"""What a reward model picks among graded responses: hand-computed rows, and what a training leaves."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config, data
from paradox_utils.data.records import BAD, BETWEEN, GOOD, JudgedSet, Question
from paradox_utils.data.tasks import MARKED
from paradox_utils.rewards import examples
from paradox_utils.rewards.model import load_scorer
from paradox_utils.rewards.picks import average_precision, described, picks
from paradox_utils.stages.reward_model import train_reward_model

ASKED = Question("q", "why", (), "question: why", ("so", "thus"))
LONG, ALIKE, SHORT = "one two three four five", "one two three four", "one two"


def judged(grades, responses=None, places=None):
    texts = responses or [f"answer {i}" for i in range(len(grades))]
    return JudgedSet(ASKED, tuple(texts), tuple(grades), tuple(places or range(len(grades))))


def row(grades, scores, responses=None):
    return picks([judged(grades, responses)], [np.array(scores, dtype=float)]).iloc[0]


def test_a_row_by_hand():
    found = row([GOOD, BAD, BETWEEN, GOOD, BAD], [0.5, 0.9, 0.7, 0.8, 0.1])
    assert (found["question"], found["pick"]) == ("q", 0)
    # of 10 subsets of two, the best is good in {0, 4}, {0, 3}, {2, 3} and {3, 4}
    assert found["best_2"] == pytest.approx(0.4)
    # of 5 of four the best is the second response in all that hold it, else the fourth
    assert found["best_4"] == pytest.approx(0.2)
    assert np.isnan(found["best_8"])
    assert found["average_precision"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert (found["right"], found["compared"]) == (2, 4)
    assert (found["near_right"], found["near_compared"]) == (1, 2)


def test_of_equals_the_first_is_picked_and_a_pair_counts_half():
    found = row([BAD, GOOD, GOOD], [1, 1, 1])
    assert found["pick"] == 0
    assert found["best_2"] == pytest.approx(2 / 3)
    assert (found["right"], found["compared"]) == (1, 2)
    assert row([GOOD, BAD, BAD], [1, 1, 1])["pick"] == 1


def test_pairs_alike_in_length_are_counted_apart():
    found = row([GOOD, BAD, BAD], [1, 2, 0], [LONG, ALIKE, SHORT])
    assert (found["right"], found["compared"]) == (1, 2)
    assert (found["alike_right"], found["alike_compared"]) == (0, 1)  # 4 of 5 words are alike, 2 are not
    assert found["length_correlation"] == pytest.approx(0.5)  # ranks 2 3 1 and 3 2 1


def test_without_a_good_response_nothing_is_picked_well():
    found = row([BAD, BETWEEN], [1, 2])
    assert (found["pick"], found["average_precision"], found["compared"]) == (0, 0, 0)


@pytest.mark.parametrize(("good", "value"), [([1, 0, 1, 0], 5 / 6), ([0, 1], 1 / 2), ([1, 1, 1], 1), ([0, 0], 0)], ids=str)
def test_average_precision(good, value):
    assert average_precision(np.array(good, dtype=bool)) == pytest.approx(value)


@given(st.permutations(range(10)), st.lists(st.sampled_from([BAD, GOOD]), min_size=10, max_size=10))
@pytest.mark.heavy
def test_the_more_are_compared_the_nearer_to_the_pick(scores, grades):
    """Of one random response goodness is the share of good ones; a perfect order picks well if it can."""
    found = row(grades, list(scores))
    assert 0 <= found["best_2"] <= 1
    perfect = row(grades, [grade + score / 100 for grade, score in zip(grades, scores, strict=True)])
    assert perfect["pick"] == (GOOD in grades)
    assert perfect["best_2"] <= perfect["best_4"] + 1e-9 <= perfect["best_8"] + 2e-9 <= perfect["pick"] + 3e-9
    assert perfect["right"] == perfect["compared"]


def test_what_people_said_and_rules_that_read_nothing():
    some = {
        "train": [judged([GOOD, BAD, BAD], places=[2, 0, 1]), judged([GOOD, BETWEEN], ["a", "longest"], [2, 0])],
        "heldout": [judged([BAD, GOOD, GOOD], ["aa", "b", "c"])],
    }
    found = described(some)
    assert found["part"].tolist() == ["train", "train", "heldout"]
    assert found["responses"].tolist() == [3, 2, 3]
    assert found["good"].tolist() == [1, 1, 2]
    assert found["between"].tolist() == [0, 1, 0]
    assert found["longest"].tolist() == [1, 0, 0]  # of equals the first
    assert found["place"].tolist() == [1, 1, 1]  # the third place, where all three are good


def test_the_known_answer_stands_before_the_response():
    assert examples.context_of(ASKED, "preference") == "question: why answer:"
    assert examples.context_of(ASKED, "preference", known_answer=True) == "question: why reference: so / thus answer:"


def parameters(**changes):
    small = {"backbone": "atlas-bert-8", "checkpoint_steps": [0, 3], "batch_size": 4, "max_length": 64, "device": "cpu"}
    return config.RewardModel(**(small | {"source": "semeval", "task": "preference", "evaluator_share": 0.25} | changes))


@pytest.mark.heavy
def test_a_training_leaves_picks_of_unseen_questions_and_a_description_of_all(tmp_path):
    p = parameters(heldout_share=0.34)
    results, _ = train_reward_model(p, tmp_path)
    picked, sets = pd.read_csv(tmp_path / "picks.csv"), pd.read_csv(tmp_path / "sets.csv")
    assert picked.groupby(["step", "part"]).size().to_dict() == {
        (step, part): count for step in (0, 3) for part, count in (("heldout", 4), ("evaluator", 3))
    }
    assert (len(sets), sets["regraded"].sum(), sets["same"].sum()) == (12, 20, 19)
    for checkpoint in results["checkpoints"]:
        own = picked[(picked["step"] == checkpoint["step"]) & (picked["part"] == "heldout")]
        assert own["right"].sum() / own["compared"].sum() == pytest.approx(checkpoint["accuracy_noisy"])
        assert own["compared"].sum() == checkpoint["segments"]
    answers = {text for part in data.load_sets(p).values() for one in part for text in one.responses}
    written = (tmp_path / "picks.csv").read_text() + (tmp_path / "sets.csv").read_text()
    assert not any(answer in written for answer in answers)


@pytest.mark.heavy
def test_an_evaluators_picks_are_of_held_out_questions_alone(tmp_path):
    train_reward_model(parameters(split="evaluator", checkpoint_steps=[0]), tmp_path)
    assert set(pd.read_csv(tmp_path / "picks.csv")["part"]) == {"heldout"}


@pytest.mark.heavy
def test_a_checkpoint_knows_that_it_reads_the_known_answer(tmp_path):
    p = parameters(source="evouna", known_answer=True, checkpoint_steps=[0])
    train_reward_model(p, tmp_path)
    scorer = load_scorer(tmp_path / "checkpoint-0", "preference", p)
    assert scorer.known_answer


@pytest.mark.heavy
@pytest.mark.parametrize("task", MARKED)
def test_every_task_of_marked_feedback_picks_among_preferred_responses(task, tmp_path):
    small = {"source": "qa-feedback", "data": "tests/data/qa_feedback", "heldout_share": 0.4, "evaluator_share": 0.0}
    train_reward_model(parameters(task=task, checkpoint_steps=[0], max_length=128, train_questions=0, **small), tmp_path)
    picked, sets = pd.read_csv(tmp_path / "picks.csv"), pd.read_csv(tmp_path / "sets.csv")
    assert picked["pick"].isin([0, 1]).all()
    assert len(sets) == 8
    assert (sets["good"] > 0).all()
    assert len(picked) == (sets["part"] == "heldout").sum()
