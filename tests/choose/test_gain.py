"""What training would make of a policy, against values computed by hand, and properties that must hold for any rewards."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paradox_utils.choose import gain
from paradox_utils.rewards.measures import best_of_n

matrices = arrays(float, (3, 6), elements=st.floats(-3, 3, width=16))


def test_weights_are_those_of_the_optimum_of_the_kl_regularised_objective():
    """exp(r/β): rewards 0 and β log 3 give ¼ and ¾."""
    assert gain.tilted(np.array([[0.0, 0.5 * math.log(3)]]), 0.5) == pytest.approx(np.array([[0.25, 0.75]]))


def test_no_other_weights_do_better():
    """Σ w r − β KL(w ‖ uniform) is largest at the tilt: its value is β log mean exp(r/β)."""
    rng, rewards, beta = np.random.default_rng(0), np.array([[0.3, -0.2, 0.9, 0.0]]), 0.4

    def value(weights):
        return (weights * rewards).sum() - beta * gain.divergence(weights, np.array([4]))[0]

    best = value(gain.tilted(rewards, beta))
    assert best == pytest.approx(beta * math.log(np.exp(rewards / beta).mean()))
    assert all(value(rng.dirichlet(np.ones(4))[None]) < best for _ in range(200))


def test_kl_by_hand():
    weights = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    by_hand = [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.0, math.log(2)]
    assert gain.divergence(weights, np.array([2, 2, 2])) == pytest.approx(by_hand)
    assert gain.effective(weights) == pytest.approx([1 / (0.0625 + 0.5625), 2.0, 1.0])


def test_a_reading_by_hand():
    """Two prompts, pooled: (¼·1 + ¾·3 + 2) good of (¼·4 + ¾·4 + 2) segments."""
    rewards = np.array([[0.0, math.log(3), np.nan], [1.0, np.nan, np.nan]])
    good, size = np.array([[1.0, 3.0, np.nan], [2.0, np.nan, np.nan]]), np.array([[4.0, 4.0, np.nan], [2.0, np.nan, np.nan]])
    reading = gain.read(rewards, good, size, 1.0)
    assert reading.score == pytest.approx((0.25 + 2.25 + 2) / (4 + 2))
    assert reading.kl[1] == 0


def test_without_a_penalty_the_largest_share_everything():
    assert gain.tilted(np.array([[1.0, 2.0, 2.0]]), 0.0) == pytest.approx(np.array([[0.0, 0.5, 0.5]]))
    assert gain.tilted(np.array([[1.0, 2.0, 2.0]]), math.inf) == pytest.approx(np.full((1, 3), 1 / 3))


@given(matrices, st.floats(0.05, 5))
def test_weights_are_a_distribution_that_follows_the_rewards(rewards, beta):
    weights = gain.tilted(rewards, beta)
    assert weights.sum(1) == pytest.approx(np.ones(3))
    assert (weights >= 0).all()
    assert gain.tilted(rewards + 7, beta) == pytest.approx(weights)  # a reward's level is without effect
    kl, ess = gain.divergence(weights, np.full(3, 6)), gain.effective(weights)
    assert (kl <= math.log(6) + 1e-9).all()
    assert ((ess >= 1 - 1e-9) & (ess <= 6 + 1e-9)).all()


@given(matrices, st.floats(0.1, 2), st.floats(1.1, 3))
def test_a_smaller_coefficient_goes_farther_and_pays_more(rewards, beta, factor):
    near, far = (gain.read(rewards, rewards, np.ones_like(rewards), b) for b in (beta * factor, beta))
    assert (far.kl >= near.kl - 1e-9).all()
    assert (far.effective <= near.effective + 1e-9).all()
    assert far.score >= near.score - 1e-9


@given(matrices, st.floats(0.01, 100))
def test_size_counts_against_a_fixed_penalty_and_not_within_groups(rewards, factor):
    assert gain.tilted(rewards * factor, 1.0) == pytest.approx(gain.tilted(rewards, 1 / factor), abs=1e-9)
    assert gain.group_normalised(rewards * factor) == pytest.approx(gain.group_normalised(rewards), abs=1e-6)


def test_a_hundredth_of_the_reward_changes_the_rank_under_ppo_and_not_under_grpo():
    """A good reward and a middling one; the good one is then made a hundred times as small."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(80, 24))
    good, middling, size = (
        truth + 0.3 * rng.normal(size=truth.shape),
        truth + 2 * rng.normal(size=truth.shape),
        np.ones_like(truth),
    )

    def score(rewards):
        return gain.read(rewards, truth, size, gain.strongest(rewards, 0.5)[0]).score

    assert score(good) > score(middling) > score(good * 0.01) > truth.mean()
    grouped = [score(gain.group_normalised(one)) for one in (good, middling, good * 0.01)]
    assert grouped[0] == pytest.approx(grouped[2])
    assert grouped[0] > grouped[1]


def test_groups_are_normalised_by_hand_and_equal_rewards_push_nowhere():
    rewards = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 3.0, np.nan]])
    by_hand = [[-1, 0, 1], [0, 0, 0], [-math.sqrt(0.5), math.sqrt(0.5), np.nan]]
    assert gain.group_normalised(rewards) == pytest.approx(np.array(by_hand), nan_ok=True)
    assert gain.standardised(np.array([[1.0, 2.0], [3.0, 2.0]])) == pytest.approx(np.array([[-1, 0], [1, 0]]) * math.sqrt(2))


@pytest.mark.parametrize(("count", "least"), [(1, 1.0), (2, 1.5), (4, 1.5), (16, 2.0), (48, 6.0)])
def test_the_least_effective_sample_size(count, least):
    assert gain.least_effective(np.full(5, count)) == least


def test_how_far_a_reading_goes():
    rewards, counts = np.random.default_rng(2).normal(size=(200, 32)), np.full(200, 32)
    assert gain.strongest(rewards, 2.0) == (2.0, "recipe")
    beta, limit = gain.strongest(rewards, 0.01)
    assert limit == "samples"
    assert gain.effective(gain.tilted(rewards, beta)).mean() == pytest.approx(4.0, abs=1e-3)
    beta, limit = gain.strongest(rewards, 0.01, budget=0.3)
    assert limit == "budget"
    assert gain.divergence(gain.tilted(rewards, beta), counts).mean() == pytest.approx(0.3, abs=1e-4)
    assert gain.strongest(rewards, 2.0, budget=0.3) == (2.0, "recipe")


@pytest.mark.parametrize("lone", [10, 6, 0])
def test_prompts_of_one_or_two_responses_can_be_read(lone):
    """A prompt's one response has an effective sample size of one, whatever the weights."""
    rewards = np.random.default_rng(4).normal(size=(10, 2))
    rewards[:lone, 1] = np.nan
    beta, limit = gain.strongest(rewards, 0.0)
    least = (lone + 1.5 * (10 - lone)) / 10
    assert gain.effective(gain.tilted(rewards, beta)).mean() == pytest.approx(least, abs=1e-3)
    assert limit == ("samples" if lone < 10 else "recipe")


@pytest.mark.parametrize("budget", [1e-12, 1e-17])
def test_the_smallest_budget_stays_at_the_policy(budget):
    rewards = np.random.default_rng(5).normal(size=(20, 8))
    beta, limit = gain.strongest(rewards, 0.0, budget=budget)
    reading = gain.read(rewards, rewards, np.ones_like(rewards), beta)
    assert limit == "budget"
    assert reading.kl.mean() < 1e-11
    assert reading.score == pytest.approx(rewards.mean(), abs=1e-4)


def test_equal_rewards_go_nowhere():
    same = np.ones((4, 8))
    assert gain.strongest(same, 0.1) == (0.1, "recipe")
    (only,) = gain.path(same, np.eye(4, 8), same)
    assert only.score == pytest.approx(1 / 8)


def test_a_path_begins_at_the_policy_and_ends_where_the_samples_do():
    rng = np.random.default_rng(3)
    rewards, good = rng.normal(size=(2, 60, 16))
    way = gain.path(rewards, good, np.ones_like(good))
    kl = [one.kl.mean() for one in way]
    assert way[0].score == pytest.approx(good.mean())
    assert kl == sorted(kl)
    assert way[-1].effective.mean() == pytest.approx(2.0, abs=1e-3)


def test_best_of_n_by_hand():
    """Of three, pairs {a,b} {a,c} {b,c} have c, c and b as their best: (2·g(c) + g(b)) / 3."""
    rewards, good = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.3, 0.9]])
    assert gain.best_of(rewards, good, np.ones((1, 3)), 2).score == pytest.approx((2 * 0.9 + 0.3) / 3)
    assert gain.best_of(rewards, good, np.ones((1, 3)), 1).score == pytest.approx(0.4)
    assert gain.best_of(rewards, good, np.ones((1, 3)), 9).score == pytest.approx(0.9)  # as many as there are


def test_the_best_of_n_weighs_each_response_by_its_chance_to_be_that():
    """Of 1, 2, 2 and one that is not there: pairs {1,2} {1,2'} {2,2'} have 2, 2' and either as their best."""
    rewards = np.array([[1.0, 2.0, 2.0, np.nan], [3.0, np.nan, np.nan, np.nan]])
    assert gain.chosen(rewards, 2) == pytest.approx(np.array([[0, 0.5, 0.5, 0], [1, 0, 0, 0]]))
    assert gain.chosen(rewards[:1, :3] * [1, 1, 2], 2) == pytest.approx(np.array([[0, 1 / 3, 2 / 3]]))


@given(arrays(float, (3, 6), elements=st.integers(-2, 2)), st.integers(1, 6))
def test_the_best_of_n_is_that_of_the_estimator_of_others(rewards, n):
    outcome = np.random.default_rng(0).normal(size=rewards.shape)
    assert (gain.chosen(rewards, n) * outcome).sum(1).mean() == pytest.approx(best_of_n(rewards, outcome, n))


def test_pairs_by_hand():
    """Judged 0 < 1 < 2 (pairs 01, 02, 12): rewards order the first right, tie the second, order the third wrong."""
    right, tied, wrong = gain.pairs(np.array([[1.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 2.0]]))
    assert (right[0], tied[0], wrong[0]) == (1, 1, 1)
    assert [part[0] for part in gain.pairs(np.array([[1.0, 2.0, 1.0]]), np.array([[1.0, 1.0, np.nan]]))] == [0, 0, 0]


def test_gaps_by_hand():
    """Of pairs 01, 02, 12; the last response is not judged."""
    paid, truth, told = gain.gaps(np.array([[1.0, 3.0, 2.0]]), np.array([[0.0, 1.0, np.nan]]))
    assert (paid.tolist(), truth[0, 0], told.tolist()) == ([[-2.0, -1.0, 1.0]], -1.0, [[True, False, False]])


def test_variances_by_hand():
    within, normalised = gain.variances(np.array([[0.0, 2.0], [4.0, 6.0]]))
    assert within == 1.0
    assert normalised == pytest.approx(1 / 5)
    assert math.isnan(gain.variances(np.ones((2, 2)))[1])


def test_a_prompt_may_have_fewer_responses():
    rewards = np.array([[1.0, np.nan, 1.0], [np.nan, 0.0, 5.0]])
    assert gain.tilted(rewards, math.inf) == pytest.approx(np.array([[0.5, 0, 0.5], [0, 0.5, 0.5]]))
    assert gain.tilted(rewards, 0.0) == pytest.approx(np.array([[0.5, 0, 0.5], [0, 0, 1]]))
    assert gain.tilted(rewards, 1e-300) == pytest.approx(np.array([[0.5, 0, 0.5], [0, 0, 1]]))
