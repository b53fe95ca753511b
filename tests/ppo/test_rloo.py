"""RLOO on policies of a few thousand weights: its advantages, its loss by hand, and that it learns."""
# ruff: noqa: F811 (the fixture `settings` is imported)

import pytest
import torch

from paradox_utils.policies.passes import forward, grid
from paradox_utils.ppo import loop, objective, rloo
from paradox_utils.ppo.ppo import adam
from paradox_utils.stages.ppo import load_actors
from tests.policies.test_prompts import KINDS
from tests.ppo.test_loop import NEVER
from tests.ppo.test_ppo import (  # noqa: F401 (folders and settings are fixtures)
    count,
    flatten,
    folders,
    rolled_out,
    run,
    settings,
    unchanged,
    weights,
)


def update(p, actors, rollout):
    return rloo.optimise(p, actors, adam(p, [actors.policy]), rollout, 1)


def summed(policy, rollout, temperature=0.7):
    """Σ log π of each response, with its gradient."""
    logits, _ = forward(policy, rollout.responses)
    log_p = objective.log_probabilities(logits, rollout.responses.ids[rollout.mask.bool()], temperature)
    return grid(log_p, rollout.mask).sum(1)


def test_advantages_are_returns_less_those_of_the_prompts_others(settings):
    p = settings(
        optimiser="rloo", kl_coefficient=0.3, whitening="standard-deviation", discount=0.5
    )  # no effect of the last two
    actors = load_actors(p)
    flatten(actors.policy)
    rollout = rolled_out(p, actors)
    earned = (rollout.rewards.sum(1) - 0.3 * rollout.kl).view(-1, 3)
    assert rollout.kl.abs().max() > 0.1
    others = torch.stack([earned[:, [1, 2]].mean(1), earned[:, [0, 2]].mean(1), earned[:, [0, 1]].mean(1)], 1)
    torch.testing.assert_close(rloo.advantages(p, rollout), (earned - others).flatten(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passed", [0, 60])
def test_one_epoch_is_the_plain_gradient_of_reinforce(settings, kind, passed):
    p = settings(kind, optimiser="rloo", epochs=1, max_gradient_norm=None, pass_tokens=passed)
    actors = load_actors(p)
    flatten(actors.policy)  # so that the penalty counts
    rollout = rolled_out(p, actors)
    earned, parameters = rloo.advantages(p, rollout), dict(actors.policy.named_parameters())
    loss = -(earned * summed(actors.policy, rollout)).mean()
    expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    columns = update(p, actors, rollout)
    assert list(columns) == list(rloo.COLUMNS)
    assert max(float(g.abs().max()) for g in expected if g is not None) > 1e-2
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4, msg=name)
    norm = torch.stack([g.norm() for g in expected if g is not None]).norm()
    assert columns["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert (columns["clip_share"], columns["steps"]) == (0.0, 1)
    assert columns["policy_loss"] == pytest.approx(0, abs=1e-5)  # −mean A, and a prompt's advantages sum to 0


def test_the_ratio_is_that_of_the_whole_response_by_hand(settings):
    """Old log-probabilities are moved, so that Σ log π − Σ log π_old is log 1.5 for every response, wherever it is spread."""
    p = settings(optimiser="rloo", epochs=1, clip=0.2)
    actors = load_actors(p)
    rollout = rolled_out(p, actors)
    rollout.log_p = rollout.log_p - rollout.mask * torch.tensor(1.5).log() / rollout.mask.sum(1, keepdim=True)
    rollout.log_ref = rollout.log_p  # no penalty
    earned = rloo.advantages(p, rollout)
    gains = (earned > 0).float()
    assert 0 < gains.mean() < 1
    columns = update(p, actors, rollout)
    expected = -(earned * torch.where(earned > 0, 1.2, 1.5)).mean()  # a gain is clipped, a loss is not
    assert columns["policy_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert columns["clip_share"] == pytest.approx(float(gains.mean()))


def test_every_epoch_is_a_step_and_later_ones_clip(settings):
    p = settings(optimiser="rloo", epochs=3, clip=1e-3)
    actors = load_actors(p)
    optimizer = adam(p, [actors.policy])
    columns = rloo.optimise(p, actors, optimizer, rolled_out(p, actors), 1)
    assert columns["steps"] == 3
    assert columns["clip_share"] > 0.2
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


def test_a_prompt_whose_responses_earn_alike_teaches_nothing(settings):
    p = settings(optimiser="rloo")
    actors = load_actors(p)
    before = weights(actors.policy)
    update(p, actors, rolled_out(p, actors, reward=lambda responses: torch.zeros(responses.ids.shape)))
    assert unchanged(actors.policy, before)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_rewarded_without_a_value_model(settings, kind):
    p = settings(kind, optimiser="rloo", updates=8, evaluate_every=NEVER, learning_rate=2e-2, decay=False, samples_per_prompt=8)
    actors = load_actors(p)
    assert actors.value.body is None  # a head that is not trained
    value = weights(actors.value)
    outcome = run(p, actors)
    assert outcome.status == "ok"
    assert list(outcome.curve) == [*loop.BEFORE, *rloo.COLUMNS, *loop.AFTER]
    assert outcome.curve["reward_mean"].iloc[-2:].mean() > 2.0 > 4 * outcome.curve["reward_mean"].iloc[0]
    assert unchanged(actors.value, value)
