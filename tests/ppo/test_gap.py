"""What is said of people's answers and of the policy's own: by hand, with judges that are looked up."""

import numpy as np
import pytest
import torch

from paradox_utils import config
from paradox_utils.data.records import BAD, BETWEEN, GOOD, JudgedSet, Question
from paradox_utils.policies.prompts import Prompts, Responses
from paradox_utils.ppo import gap
from paradox_utils.ppo.best_of_n import Drawn

P = config.PPO(source="semeval", task="preference", reward_model="paid-by", evaluator="a")
FIRST, SECOND = (Question(name, name, (), name, ("so",)) for name in ("first", "second"))
SETS = [
    JudgedSet(SECOND, ("s between", "s bad"), (BETWEEN, BAD), (0, 1)),
    JudgedSet(FIRST, ("f bad", "f good one", "f good two", "f bad two"), (BAD, GOOD, GOOD, BAD), (0, 1, 2, 3)),
]
REWARD = {"f good one": 0.3, "f bad": -1, "s bad": 0, "f 0": 1, "f 1": 1.5, "f 2": 1.5, "s 0": 2, "s 1": -1, "s 2": -4}
EVALUATOR = {"f good one": 2, "f bad": 1, "s bad": -1, "f 0": 0.5, "f 1": -3, "f 2": 3, "s 0": 0, "s 1": 1, "s 2": 2}


def looked_up(table):
    return lambda questions, texts, offsets: [[float(table[text])] for text in texts]


@pytest.fixture
def say(monkeypatch):
    monkeypatch.setattr(gap, "standardised", lambda name, p: {"paid-by": looked_up(REWARD)}[name])
    texts = [f"{name} {k}" for name in "fs" for k in range(3)]
    grid = torch.ones(6, 1, dtype=torch.long)
    responses = Responses(Prompts([FIRST, SECOND], grid[:2], grid[:2], 0), grid, grid, texts, 3)
    return lambda sets: gap.gap(P, sets, looked_up(EVALUATOR), Drawn(responses, grid, grid, None))


@pytest.fixture
def said(say):
    return say(SETS)


def test_a_question_that_nobody_graded_answers_to_has_those_of_the_policy(say):
    found = say(SETS[1:]).groupby("question", sort=False)["kind"].agg(set)
    assert found["second"] == {"sampled", "best", "evaluator"}
    assert len(found["first"]) == 5


def test_every_kind_of_answer_by_hand(said):
    found = {(row.question, row.kind): (row.reward, row.evaluator, row.words) for row in said.itertuples()}
    assert found == {
        ("first", "good"): (0.3, 2, 3),  # the first that people call so
        ("first", "bad"): (-1, 1, 2),
        ("second", "bad"): (0, -1, 2),  # and no good one
        ("first", "sampled"): (pytest.approx(4 / 3), pytest.approx(0.5 / 3), 2),
        ("second", "sampled"): (-1, 1, 2),
        ("first", "best"): (1.5, -3, 2),  # of equals the first
        ("second", "best"): (2, 0, 2),
        ("first", "evaluator"): (1.5, 3, 2),
        ("second", "evaluator"): (-4, 2, 2),
    }


def test_no_text_is_in_it(said):
    words = {str(value) for value in said[["question", "kind"]].to_numpy().ravel()}
    assert words == {"first", "second", "good", "bad", "sampled", "best", "evaluator"}
    assert all(np.issubdtype(said[name].dtype, np.number) for name in ("reward", "evaluator", "words"))
