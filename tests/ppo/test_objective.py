"""The PPO objective, against numbers worked out by hand and the identities it must obey."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paradox_utils.ppo import objective

numbers = st.floats(-5, 5, width=32)
brief = settings(deadline=None, max_examples=60)


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


@st.composite
def ragged(draw, fields=1):
    """``fields`` tensors [B, T], zero on padding, and their mask: responses of different lengths."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    width = max(lengths)
    mask = torch.tensor([[1.0] * n + [0.0] * (width - n) for n in lengths])
    tensors = [
        torch.tensor([draw(st.lists(numbers, min_size=width, max_size=width)) for _ in lengths]) * mask for _ in range(fields)
    ]
    return *tensors, mask


# --- probabilities ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "odds"), [(1.0, (1, 2, 4)), (0.5, (1, 4, 16)), (2.0, (1, math.sqrt(2), 2))])
def test_log_probability_is_that_of_the_tempered_softmax(temperature, odds):
    logits = torch.log(rows([1, 2, 4])).expand(1, 3, 3)  # dividing logits by T raises the odds to the power 1/T
    found = objective.log_probabilities(logits, torch.tensor([[0, 1, 2]]), temperature)
    close(found, [[math.log(odd / sum(odds)) for odd in odds]])


def test_log_probabilities_stay_exact_for_huge_and_for_half_precision_logits():
    huge = objective.log_probabilities(rows([1000.0, 0.0])[None], torch.tensor([[1]]), 0.5)
    close(huge, [[-2000.0]])
    halves = objective.log_probabilities(torch.zeros(1, 1, 3, dtype=torch.bfloat16), torch.tensor([[2]]), 0.7)
    assert halves.dtype == torch.float32
    close(halves, [[-math.log(3)]], 1e-7)  # a bfloat16 result could not hold it


def test_the_gradient_takes_the_place_of_the_logits():
    """No second tensor as wide as the vocabulary."""
    logits = rows([1.0, 2.0, 4.0])[None].requires_grad_() * 1.0
    places, given = [], logits.data_ptr()
    logits.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    objective.log_probabilities(logits, torch.tensor([[1]]), 0.7).sum().backward()
    assert places == [given]


@pytest.mark.parametrize(("temperature", "odds"), [(1.0, (1, 2)), (0.5, (1, 4))])
def test_entropy_by_hand(temperature, odds):
    expected = -sum(odd / sum(odds) * math.log(odd / sum(odds)) for odd in odds)
    close(objective.entropy(torch.log(rows([1, 2]))[None], temperature), [[expected]])


def test_entropy_of_the_uniform_distribution_is_log_of_its_size_at_any_temperature():
    close(objective.entropy(torch.full((2, 3, 7), 4.0), 0.3), torch.full((2, 3), math.log(7)))


# --- means, penalty, whitening ------------------------------------------------------------------------------------------------


def test_masked_mean_weighs_tokens_alike_whatever_the_length_of_their_response():
    values, mask = rows([1, 2, 3], [9, 100, 100]), rows([1, 1, 1], [1, 0, 0])
    close(objective.masked_mean(values, mask), 15 / 4)  # the mean of response means would be 5.5


def test_penalised_rewards_subtract_the_log_ratio_and_leave_padding_at_zero():
    rewards, mask = rows([0, 0.3, 0]), rows([1, 1, 0])
    found = objective.penalised_rewards(rewards, rows([-1, -2, -3]), rows([-1.5, -1, -9]), mask, 0.2)
    close(found, [[-0.1, 0.3 + 0.2, 0.0]])


WHITENED = {  # of 0 and 4 (mean 2, standard deviation 2), the third token being padding
    ("standard-deviation", True): ([-1.0, 1.0], -1.0),
    ("standard-deviation", False): ([1.0, 3.0], 1.0),
    ("root-of-standard-deviation", True): ([-math.sqrt(2), math.sqrt(2)], -math.sqrt(2)),
    ("root-of-standard-deviation", False): ([2 - math.sqrt(2), 2 + math.sqrt(2)], 2 - math.sqrt(2)),
}


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize(("how", "shift_mean"), WHITENED)
def test_whitening_by_hand(how, shift_mean, padding):
    tokens, on_padding = WHITENED[how, shift_mean]
    found = objective.whiten(rows([0, 4, 0]), rows([1, 1, 0]), how, shift_mean, padding)
    close(found, [[*tokens, on_padding if padding else 0.0]])


@pytest.mark.parametrize("shift_mean", [False, True])
def test_no_whitening_leaves_tokens_alone_and_zeroes_padding(shift_mean):
    close(objective.whiten(rows([1, 5, 7]), rows([1, 1, 0]), "none", shift_mean), [[1.0, 5.0, 0.0]])


def test_whitening_a_constant_gives_zeros():
    close(objective.whiten(rows([3, 3]), rows([1, 1]), "standard-deviation"), [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # σ = 3e-8: as published √(σ + 1e-8) = 2e-4; by default σ is held at 1e-4
        ("root-of-standard-deviation", 3e-8 / 2e-4),
        ("standard-deviation", 3e-8 / 1e-4),
    ],
)
def test_whitening_a_tiny_spread(how, expected):
    close(objective.whiten(rows([-3e-8, 3e-8]), rows([1, 1]), how), [[-expected, expected]], 1e-9)


def test_as_published_whitened_rewards_leak_from_padding_into_real_advantages():
    """Padding becomes mean − mean/scale, which is not 0, and the advantages of the shorter response swallow it."""
    rewards, mask, values = rows([0, 4, 0, 0], [2, 2, 2, 2]), rows([1, 1, 0, 0], [1, 1, 1, 1]), torch.zeros(2, 4)
    mean, scale = 2.0, (8 / 6) ** 0.25  # population variance 8/6; divided by the root of the standard deviation
    leak = mean - mean / scale
    published = objective.whiten(rewards, mask, "root-of-standard-deviation", shift_mean=False, padding=True)
    clean = objective.whiten(rewards, mask, "root-of-standard-deviation", shift_mean=False)
    close(published[0, 2:], [leak, leak])
    assert abs(leak) > 0.1
    with_leak, without = (objective.advantages(r, values, 1.0, 0.95)[0] for r in (published, clean))
    close(with_leak[1], without[1])  # the longest response has no padding
    close(without[0, 1], (4 - mean) / scale + mean)
    close(with_leak[0, 1] - without[0, 1], leak * (0.95 + 0.95**2))


@brief
@given(ragged())
def test_whitened_tokens_have_mean_0_and_deviation_1(drawn):
    values, mask = drawn
    tokens = values[mask.bool()]
    assume(tokens.std(unbiased=False) > 0.1)
    found = objective.whiten(values, mask, "standard-deviation")
    close(found[mask.bool()].mean(), 0.0, 1e-4)
    close(found[mask.bool()].std(unbiased=False), 1.0, 1e-4)
    assert (found[~mask.bool()] == 0).all()
    unshifted = objective.whiten(values, mask, "standard-deviation", shift_mean=False)
    close(unshifted[mask.bool()].mean(), tokens.mean(), 1e-4)


# --- advantages ---------------------------------------------------------------------------------------------------------------


def test_advantages_of_two_lengths_by_hand():
    rewards = rows([1, 2, 3], [1, -1, 0])
    values = rows([0.5, 1, 1.5], [2, 0.5, 0])
    found, returns = objective.advantages(rewards, values, discount=0.9, trace=0.8)
    # δ = (1.4, 2.35, 1.5) and (−0.55, −1.5, 0); each advantage adds 0.72 times the next
    close(found, [[1.4 + 0.72 * 3.43, 2.35 + 0.72 * 1.5, 1.5], [-0.55 - 0.72 * 1.5, -1.5, 0.0]])
    close(returns, found + values)


def test_with_trace_0_advantages_are_the_one_step_errors():
    found, _ = objective.advantages(rows([1, 2]), rows([10, 20]), discount=0.5, trace=0.0)
    close(found, [[1 + 0.5 * 20 - 10, 2 - 20]])


@brief
@given(ragged(fields=2))
def test_undiscounted_full_trace_advantage_is_reward_to_go_minus_value(drawn):
    rewards, values, mask = drawn
    found, returns = objective.advantages(rewards, values, 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    close(found, to_go - values, 1e-4)
    close(returns * mask, to_go * mask, 1e-4)


@brief
@given(ragged(fields=2), st.floats(0, 1), st.floats(0, 1))
def test_padding_changes_no_advantage(drawn, discount, trace):
    rewards, values, mask = drawn
    together, _ = objective.advantages(rewards, values, discount, trace)
    for row, length in enumerate(mask.sum(1).int().tolist()):
        alone, _ = objective.advantages(rewards[row : row + 1, :length], values[row : row + 1, :length], discount, trace)
        close(together[row, :length], alone[0], 1e-5)
        assert (together[row, length:] == 0).all()


def test_leave_one_out_by_hand():
    # 6 − mean(1, 2), 1 − mean(6, 2), 2 − mean(6, 1); of two responses each is the other's baseline
    close(objective.leave_one_out(torch.tensor([6.0, 1, 2, 0, 0, 0]), 3), [4.5, -3.0, -1.5, 0, 0, 0])
    close(objective.leave_one_out(torch.tensor([1.0, 3, -2, -7]), 2), [-2.0, 2.0, 5.0, -5.0])


# --- losses -------------------------------------------------------------------------------------------------------------------


def test_clipped_policy_loss_of_both_signs_and_its_gradient():
    ratio, advantage = rows([1.5, 0.5, 1.1, 1.5, 0.5, 0.9]), rows([2, 2, 2, -2, -2, -2])
    log_p = ratio.log().requires_grad_()
    loss, clipped = objective.policy_loss(log_p, torch.zeros(1, 6), advantage, clip=0.2)
    close(loss, [[-2.4, -1.0, -2.2, 3.0, 1.6, 1.8]])
    close(clipped, [[1.0, 0, 0, 0, 1.0, 0]])
    loss.sum().backward()
    # d(−A·ratio)/d log π = −A·ratio; nothing where the clipped loss is the larger
    close(log_p.grad, [[0, -1.0, -2.2, 3.0, 0, 1.8]])


def test_policy_loss_measures_the_ratio_from_the_old_log_probability():
    loss, clipped = objective.policy_loss(rows([-1.0]), rows([-1.0 - math.log(1.1)]), rows([1.0]), clip=0.2)
    close(loss, [[-1.1]])
    close(clipped, [[0.0]])


@brief
@given(numbers, numbers, numbers, st.floats(0.01, 0.9))
def test_clipping_never_lowers_the_loss_and_keeps_it_within_the_range(log_p, old, advantage, clip):
    loss, _ = objective.policy_loss(rows([log_p]), rows([old]), rows([advantage]), clip)
    ratio = math.exp(log_p - old)
    plain, bound = -advantage * ratio, -advantage * min(max(ratio, 1 - clip), 1 + clip)
    close(loss, [[max(plain, bound)]], 1e-4)


def test_value_loss_carries_its_half_and_takes_the_worse_of_clipped_and_plain():
    values, old, returns = rows([1, -1, 0.1]), rows([0, 0, 0]), rows([2, 2, 2])
    close(objective.value_loss(values, old, returns, None), [[0.5, 4.5, 1.805]])
    # clipped to within 0.2 of the old value: 0.2, −0.2, 0.1
    close(objective.value_loss(values, old, returns, 0.2), [[0.5 * 1.8**2, 4.5, 1.805]])


def test_clipped_value_loss_stops_pulling_beyond_its_range():
    values = rows([1, 1]).requires_grad_()
    objective.value_loss(values, rows([0, 0]), rows([2, -2]), 0.2).sum().backward()
    close(values.grad, [[0.0, 3.0]])  # towards 2 it has moved enough; away from −2 it is pulled back by V − R
