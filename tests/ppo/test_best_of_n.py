"""Best-of-n on two questions whose samples are judged by hand."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from paradox_utils import config
from paradox_utils.policies.prompts import Prompts, Responses
from paradox_utils.ppo import OPTIMISERS, best_of_n
from paradox_utils.ppo.loop import Rewards, Setting

# rewards, true returns and good segments (of two each) of four responses to either question
REWARD = [[1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 8.0]]
TRUE = [[0.1, 0.9, 0.5, 0.3], [0.0, 0.0, 0.4, 1.0]]
GOOD = [[0, 2, 1, 1], [1, 1, 1, 0]]


@pytest.fixture
def setting(monkeypatch):
    """Validation asks both questions, test the second alone; a response is its number among the samples."""

    def generate(policy, tokenizer, prompts, limit, samples, **how):
        texts = [f"{question} {k}" for question in prompts.questions for k in range(samples)]
        grid = torch.ones(len(texts), 1, dtype=torch.long)
        return Responses(prompts, grid, grid, texts, samples)

    def looked_up(table):
        return lambda responses: torch.tensor([[table[int(q)][int(k)]] for q, k in map(str.split, responses.texts)])

    def judged(p, evaluator, responses):
        return [[1.0] * GOOD[int(q)][int(k)] + [-1.0] * (2 - GOOD[int(q)][int(k)]) for q, k in map(str.split, responses.texts)]

    monkeypatch.setattr(best_of_n, "generate", generate)
    monkeypatch.setattr(best_of_n, "judged", judged)

    def make(reward=REWARD, true=TRUE, **changes):
        p = config.PPO(optimiser="best-of-n", probe_samples=4, **changes)
        asked = {
            name: Prompts(list(q), torch.ones(len(q), 1), torch.ones(len(q), 1), 0)
            for name, q in (("validation", "01"), ("test", "1"))
        }
        actors = type("Actors", (), {"policy": None, "tokenizer": None})
        rewards = Rewards(looked_up(reward), None, true and looked_up(true), None, cut=iter([3, 5]).__next__)
        return Setting(p, actors, rewards, None, asked, None, None)

    return make


@pytest.mark.parametrize("evaluation_batch", [100, 1])  # all questions in one pass, or each in its own
def test_the_curve_by_hand(setting, evaluation_batch):
    curve = OPTIMISERS["best-of-n"](setting(evaluation_batch=evaluation_batch)).curve
    assert curve["n"].tolist() == [1, 2, 4]
    assert curve["kl"].tolist() == pytest.approx([0, math.log(2) - 1 / 2, math.log(4) - 3 / 4])
    # the better of two of 1 … 4: 4 in three of six pairs, 3 in two, 2 in one; of 0 0 0 8: 8 in three of six
    assert curve["reward_mean"].tolist() == pytest.approx([(2.5 + 2) / 2, (20 / 6 + 4) / 2, (4 + 8) / 2])
    second = [1.4 / 4, (3 * 1.0 + 3 * 0.4 / 3) / 6, 1.0]  # the three that tie share their weight
    assert curve["test_true_return"].tolist() == pytest.approx(second)
    first = [1.8 / 4, (3 * 0.9 + 2 * 0.3 + 0.5) / 6, 0.9]
    assert curve["true_return"].tolist() == pytest.approx((np.add(first, second) / 2).tolist())
    assert curve["test_lm_performance"].tolist() == pytest.approx([3 / 8, 1 / 4, 0])
    assert curve["lm_performance"].tolist() == pytest.approx([(4 + 3) / 16, (9 / 6 + 1 / 2) / 4, 2 / 4])
    assert curve["truncated_rm_inputs"].tolist() == [2, 0, 0]


def test_the_largest_n_is_final_and_validation_chooses_the_best(setting):
    outcome = best_of_n.run(setting())
    assert (outcome.status, outcome.reason) == ("ok", "")
    final, best = outcome.scores["final"], outcome.scores["best"]
    assert (final.good, final.segments) == ([0.0], [2.0])
    assert final.measures == {"lm_performance": 0.0, "true_return": 1.0}
    assert best.good == pytest.approx([1 / 2])  # of n = 2 and 4, which validation finds alike, the smaller


def test_without_an_oracle_there_is_no_true_return_and_a_broken_reward_is_said(setting):
    without = best_of_n.run(setting(true=None))
    assert without.curve["true_return"].isna().all()
    assert without.status == "ok"
    broken = best_of_n.run(setting(reward=[[math.nan] * 4] * 2))
    assert (broken.status, broken.reason) == ("diverged", "the reward is not finite; check the reward model")


def test_every_optimiser_of_the_schema_is_there():
    assert tuple(OPTIMISERS) == get_args(config.PPO.model_fields["optimiser"].annotation)
