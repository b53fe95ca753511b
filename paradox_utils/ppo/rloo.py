"""RLOO: REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024). A whole response is one action, and
the other responses to its prompt say what it would have earned anyway, so no value model is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from paradox_utils import config
from paradox_utils.policies.passes import forward, grid
from paradox_utils.policies.prompts import Responses
from paradox_utils.ppo import loop, objective, ppo, processes
from paradox_utils.ppo.loop import Actors, Rollout

COLUMNS = ("policy_loss", "clip_share", *ppo.STEPS)


def run(s: loop.Setting) -> loop.Outcome:
    """Train the policy by RLOO."""
    policy = s.actors.policy
    loop.set_dropout(policy, s.p.dropout_in_updates)
    optimizer = ppo.adam(s.p, [policy])

    def update(rollout: Rollout, number: int) -> dict[str, float]:
        return optimise(s.p, s.actors, optimizer, rollout, number)

    return loop.train(s, loop.Learner({"policy": policy}, optimizer, update, COLUMNS))


def advantages(p: config.PPO, rollout: Rollout) -> Tensor:
    """Leave-one-out advantages [B] of the responses' returns, the sums of their penalised rewards; neither discounted nor
    whitened."""
    given, log_p, log_ref, mask = rollout.rewards, rollout.log_p, rollout.log_ref, rollout.mask
    returns = objective.penalised_rewards(given, log_p, log_ref, mask, p.kl_coefficient).sum(1)
    return objective.leave_one_out(returns, rollout.responses.samples)


def optimise(
    p: config.PPO, actors: Actors, optimizer: torch.optim.Optimizer, rollout: Rollout, number: int
) -> dict[str, float]:
    """Update ``number`` (1-based): the steps of :func:`~paradox_utils.ppo.ppo.steps` along the clipped surrogate of each
    response, whose ratio is exp(Σ log π − Σ log π_old), each response weighing the same. At a ratio of 1, so in the first epoch
    without dropout, its gradient is that of REINFORCE, −A Σ log π. Returns its columns of the curve."""
    earned, old = advantages(p, rollout), (rollout.log_p * rollout.mask).sum(1)
    responses = processes.total(torch.ones_like(earned))

    def losses(part: Responses, rows: list[int]) -> tuple[Tensor, Tensor]:
        with loop.precision(p, part.ids.device):
            logits, _ = forward(actors.policy, part)
        log_p = objective.log_probabilities(logits, part.ids[part.mask.bool()], loop.temperature_of(p))
        surrogate, clipped = objective.policy_loss(grid(log_p, part.mask).sum(1), old[rows], earned[rows], p.clip)
        terms = torch.stack([surrogate.sum(), clipped.sum()]) / responses
        return terms[0], terms

    return dict(zip(COLUMNS, ppo.steps(p, [actors.policy], optimizer, rollout, number, losses), strict=True))
