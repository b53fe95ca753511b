"""What is measured of a reward before PPO: exact, blind and scaled rewards whose measures are known."""

import functools
import itertools
import math

import numpy as np
import pytest

from paradox_utils import config, data
from paradox_utils.data.oracle import oracle_judge
from paradox_utils.data.tasks import MARKED
from paradox_utils.files import resolve
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import load_policy
from paradox_utils.policies.prompts import encode_prompts, take
from paradox_utils.ppo import best_of_n, loop, probe
from paradox_utils.rewards import judges

pytestmark = pytest.mark.heavy

PROMPTS, SAMPLES = 6, 8


def parameters(task, reward, **changes):
    return config.PPO(task=task, reward=reward, probe_samples=SAMPLES, validation_questions=PROMPTS, device="cpu", **changes)


@functools.cache
def start():
    """The policy, its tokenizer, prompts and the feedback on it."""
    p = parameters("relevance", "dial")
    model, tokenizer = load_policy(p.policy)
    prompts = encode_prompts(model, tokenizer, data.load_splits(p).validation, p.prompt_limit)
    return model, tokenizer, prompts, data.load_feedback(p, resolve(p.feedback))


def rewards_of(p):
    _, tokenizer, _, judged = start()
    given = judges.reward_of(p, tokenizer, judged)[0]
    soft = None
    if p.reward == "model" and p.task != "completeness":
        soft = judges.reward_of(p.model_copy(update={"reward_form": "probability"}), tokenizer, judged)[0]
    return loop.Rewards(given, soft, judges.true_reward(p, tokenizer, judged), oracle_judge(p.task))


def probed(p, rewards=None):
    """Measures, and what best-of-n reaches."""
    model, tokenizer, prompts, _ = start()
    rewards = rewards or rewards_of(p)
    drawn = best_of_n.draw(p, loop.Actors(model, None, None, tokenizer), prompts, rewards)
    return probe.probe(p, rewards, drawn), best_of_n.table(drawn.earned)


@functools.cache
def responses():
    model, tokenizer, prompts, _ = start()
    p = parameters("relevance", "dial")
    return generate(model, tokenizer, prompts, p.response_limit, SAMPLES, p.temperature, p.top_k, seed="probe")


@pytest.mark.parametrize("task", MARKED)
def test_the_exact_reward_is_always_right(task):
    p = parameters(task, "dial", dial_accuracy=1.0)
    measures, chosen = probed(p)
    assert measures["probe_accuracy"] == 1.0
    assert measures["probe_padding"] == 0.0  # it reads no batch
    if task != "completeness":
        assert measures["probe_margin"] == 1.0
    assert 0 < measures["probe_variance"] < 1
    assert all(row["true_return"] == row["reward"] for row in chosen)


@pytest.mark.parametrize("task", MARKED)
def test_the_opposite_reward_is_always_wrong(task):
    p = parameters(task, "dial")
    exact = rewards_of(p)
    right, wrong = probed(p, exact), probed(p, loop.Rewards(lambda r: -exact.true(r), None, exact.true, exact.evaluator))
    assert wrong[0]["probe_accuracy"] == 0.0
    assert wrong[0]["probe_variance"] == pytest.approx(right[0]["probe_variance"])
    assert wrong[1][-1]["true_return"] < right[1][0]["true_return"] < right[1][-1]["true_return"]


def test_variance_margin_and_correlation_by_hand():
    """Response k of prompt i is paid 10 i + k: the variance within a prompt is that of 0 … 7, 5.25."""
    p = parameters("completeness", "dial")
    totals = np.add.outer(10.0 * np.arange(PROMPTS), np.arange(SAMPLES))

    def given(some):
        """Looked up by text and question, so that a response alone gets what it got in the batch."""
        grid = some.ids.new_zeros(some.ids.shape).double()
        keys = [(q.prompt, t) for q, t in zip(responses().questions, responses().texts, strict=True)]
        for row, key in enumerate(zip([q.prompt for q in some.questions], some.texts, strict=True)):
            grid[row, 0] = totals.ravel()[row if len(some.texts) == len(keys) else keys.index(key)]
        return grid

    exact = rewards_of(p)
    measures, chosen = probed(p, loop.Rewards(given, None, exact.true, exact.evaluator))
    assert measures["probe_variance_raw"] == pytest.approx(5.25)
    overall = 5.25 + 100 * 35 / 12  # 0 … 7, and ten times 0 … 5
    assert measures["probe_variance"] == pytest.approx(5.25 / overall)
    assert measures["probe_margin"] == pytest.approx(3 / math.sqrt(overall))  # mean distance of two of 0 … 7: (8 + 1) / 3
    assert measures["probe_padding"] == 0.0
    # the expected maximum of n of 0 … 7 is 9 n / (n + 1) − 1
    assert [row["reward"] for row in chosen] == pytest.approx([25 + 9 * n / (n + 1) - 1 for n in (1, 2, 4, 8)])


@pytest.mark.parametrize("task", MARKED)
def test_where_nobody_knows_the_truth_the_rest_is_measured_all_the_same(task):
    p = parameters(task, "model")
    known = rewards_of(p)
    measures, chosen = probed(p)
    blind, others = probed(p, loop.Rewards(known.given, known.soft, None, known.evaluator))
    assert math.isnan(blind.pop("probe_accuracy"))
    assert {name: measures[name] for name in blind} == blind
    for row, other in zip(chosen, others, strict=True):
        assert math.isnan(other.pop("true_return"))
        assert {name: row[name] for name in other} == other


@pytest.mark.parametrize("task", MARKED)
def test_a_constant_reward_has_nothing_to_measure(task):
    measures, chosen = probed(parameters(task, "constant"))
    assert measures["probe_variance_raw"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(measures["probe_accuracy"])
    assert math.isnan(measures["probe_length_correlation"])
    assert math.isnan(measures["probe_variance"])  # 0 / 0, or rounding / rounding
    assert math.isnan(measures["probe_margin"]) or measures["probe_margin"] == 0
    size = 0.5 if task == "factuality" else 0.3
    for row in chosen:  # all tie, so that choosing changes nothing
        assert row["reward"] == pytest.approx(size)
        assert row["lm_performance"] == pytest.approx(chosen[0]["lm_performance"])
        assert row["true_return"] == pytest.approx(chosen[0]["true_return"])


def test_the_length_reward_follows_length_and_no_truth():
    measures, _ = probed(parameters("relevance", "length"))
    assert math.isnan(measures["probe_accuracy"])
    assert measures["probe_length_correlation"] == pytest.approx(1.0, abs=0.02)  # words against tokens
    p = parameters("relevance", "dial")
    exact = rewards_of(p)
    shorter = loop.Rewards(lambda r: -r.mask.double(), None, exact.true, exact.evaluator)
    assert probed(p, shorter)[0]["probe_length_correlation"] == pytest.approx(-1.0)


@pytest.mark.parametrize("reward", ["dial", "model"])
def test_the_size_of_a_reward_changes_only_what_is_in_its_units(reward):
    small, large = (probed(parameters("factuality", reward, dial_accuracy=0.8, reward_size=size)) for size in (0.5, 4.0))
    for name in ("accuracy", "variance", "margin", "length_correlation"):
        assert large[0][f"probe_{name}"] == pytest.approx(small[0][f"probe_{name}"], rel=1e-5)
    assert large[0]["probe_variance_raw"] == pytest.approx(64 * small[0]["probe_variance_raw"], rel=1e-5)
    for a, b in zip(small[1], large[1], strict=True):
        assert b["reward"] == pytest.approx(8 * a["reward"], rel=1e-5)
        assert b["lm_performance"] == pytest.approx(a["lm_performance"])


@pytest.mark.parametrize(("task", "reward"), [("relevance", "dial"), ("relevance", "model"), ("completeness", "model")])
def test_best_of_n_doubles_n_and_its_reward_rises(task, reward):
    p = parameters(task, reward)
    chosen = probed(p)[1]
    assert [row["n"] for row in chosen] == [1, 2, 4, 8]
    assert [row["kl"] for row in chosen] == pytest.approx([0, math.log(2) - 1 / 2, math.log(4) - 3 / 4, math.log(8) - 7 / 8])
    gains = [later["reward"] - earlier["reward"] for earlier, later in itertools.pairwise(chosen)]
    assert min(gains) > 0
    totals = rewards_of(p).given(responses()).sum(1).view(PROMPTS, SAMPLES)
    assert chosen[0]["reward"] == pytest.approx(float(totals.mean()), rel=1e-5)
    assert chosen[-1]["reward"] == pytest.approx(float(totals.amax(1).mean()), rel=1e-5)


def test_the_samples_need_not_be_a_power_of_two():
    p = parameters("relevance", "dial").model_copy(update={"probe_samples": 3})
    assert [row["n"] for row in probed(p)[1]] == [1, 2]
    alone = probed(p.model_copy(update={"probe_samples": 1}))
    assert [(row["n"], row["kl"]) for row in alone[1]] == [(1, 0.0)]
    assert alone[0]["probe_variance_raw"] == 0.0


def test_a_models_margin_is_its_mean_distance_from_the_decision():
    p = parameters("relevance", "model")
    rewards = rewards_of(p)
    value = probed(p, rewards)[0]["probe_margin"]
    soft = rewards.soft(take(responses(), range(PROMPTS))).numpy()
    assert value == pytest.approx(np.abs(soft[soft != 0]).mean() / 0.3, abs=1e-5)
    assert 0.2 < value < 1


@pytest.mark.parametrize("task", MARKED)
def test_a_models_rewards_do_not_depend_on_padding_and_one_that_does_is_found(task):
    p = parameters(task, "model")
    rewards = rewards_of(p)
    assert probed(p, rewards)[0]["probe_padding"] < 1e-5

    def leaky(some):
        return rewards.given(some) + 0.01 * (some.mask == 0)

    leak = probed(p, loop.Rewards(leaky, rewards.soft, rewards.true, rewards.evaluator))[0]["probe_padding"]
    pads = (responses().mask[::SAMPLES] == 0).sum(1)  # of the first response to each prompt
    assert leak == pytest.approx(0.01 * int(pads.max()), abs=1e-4)
