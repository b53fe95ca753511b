"""PPO itself: advantages, the clipped losses, and the optimizer's steps. The optimiser ``ppo``, and what others share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from paradox_utils import config
from paradox_utils.policies.passes import forward
from paradox_utils.policies.prompts import Responses, passes, rows_of, take
from paradox_utils.ppo import loop, objective, processes
from paradox_utils.ppo.loop import Actors, Rollout

STEPS = ("gradient_norm", "steps", "learning_rate")  # what any learner's update says of its steps
COLUMNS = ("policy_loss", "value_loss", "clip_share", *STEPS)

# Of one pass over some responses and their rows [B]: the loss to descend, and what of it to log, [k]; both add up over passes.
Losses = Callable[[Responses, list[int]], tuple[Tensor, Tensor]]


def run(s: loop.Setting) -> loop.Outcome:
    """Train the policy, and a value model beside it, by PPO."""
    networks = {"policy": s.actors.policy, "value": s.actors.value}
    for network in networks.values():
        loop.set_dropout(network, s.p.dropout_in_updates)
    optimizer = optimizer_of(s.p, s.actors)

    def update(rollout: Rollout, number: int) -> dict[str, float]:
        return optimise(s.p, s.actors, optimizer, rollout, number)

    return loop.train(s, loop.Learner(networks, optimizer, update, COLUMNS))


def estimates(p: config.PPO, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Advantages, whitened, and returns of a rollout's penalised rewards, [B, T] each."""
    mask, how = rollout.mask, {"how": p.whitening, "padding": p.whiten_padding, "total": processes.total}
    penalised = objective.penalised_rewards(rollout.rewards, rollout.log_p, rollout.log_ref, mask, p.kl_coefficient)
    if p.whiten_rewards:
        penalised = objective.whiten(penalised, mask, shift_mean=False, **how)
    advantages, returns = objective.advantages(penalised, rollout.values, p.discount, p.gae_lambda)
    return objective.whiten(advantages, mask, **how), returns


def optimizer_of(p: config.PPO, actors: Actors) -> torch.optim.Adam:
    """Adam over the policy and the value model."""
    return adam(p, [actors.policy, actors.value])


def adam(p: config.PPO, networks: Sequence[nn.Module]) -> torch.optim.Adam:
    """Adam over networks, one group each, the policy's first."""
    groups = [{"params": list(network.parameters())} for network in networks]
    return torch.optim.Adam(groups, lr=p.learning_rate, eps=p.adam_epsilon, fused=True)


def optimise(
    p: config.PPO, actors: Actors, optimizer: torch.optim.Optimizer, rollout: Rollout, number: int
) -> dict[str, float]:
    """Update ``number`` (1-based): the steps of :func:`steps`, each token weighing the same. Its columns of the curve."""
    tokens, targets = processes.total(rollout.mask), estimates(p, rollout)

    def losses(part: Responses, rows: list[int]) -> tuple[Tensor, Tensor]:
        terms = _losses(p, actors, rollout, targets, part, rows) / tokens
        return terms[0] + p.value_weight * terms[1], terms

    return dict(zip(COLUMNS, steps(p, [actors.policy, actors.value], optimizer, rollout, number, losses), strict=True))


def steps(
    p: config.PPO,
    networks: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    number: int,
    losses: Losses,
) -> list[float]:
    """Change ``networks`` by ``epochs`` optimizer steps on the whole rollout. Returns what ``losses`` logs of the last epoch,
    then :data:`STEPS`: the policy's gradient norm before clipping, the steps taken, and the learning rate of the last.

    It stops before a step along a non-finite loss or gradient: the weights stay as they were.
    """
    for network in networks:
        network.train(p.dropout_in_updates > 0)
    parts = [(take(rollout.responses, chosen), rows_of(chosen, rollout.responses.samples))
             for chosen in passes(rollout.responses, p.pass_tokens)]  # fmt: skip
    taken = 0
    for epoch in range(p.epochs):
        rate = learning_rate(p, number, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        logged: list[Tensor] = []
        for part, rows in parts:
            loss, terms = losses(part, rows)
            loss.backward()
            logged.append(terms.detach())
        sums = torch.stack([processes.total(term) for term in sum(logged)])
        for group in optimizer.param_groups:
            processes.sum_gradients(group["params"])
        norms = [nn.utils.clip_grad_norm_(group["params"], p.max_gradient_norm or math.inf) for group in optimizer.param_groups]
        finite = bool(torch.isfinite(torch.stack([*sums, *norms])).all())
        if not finite:
            break
        optimizer.step()
        taken += 1
    for network in networks:
        network.eval()  # an evaluation may follow
    return [*sums.tolist(), float(norms[0]) if finite else math.nan, taken, rate]


def _losses(
    p: config.PPO, actors: Actors, rollout: Rollout, targets: tuple[Tensor, Tensor], part: Responses, rows: list[int]
) -> Tensor:
    """Policy loss, value loss and clipped tokens of one pass, each summed over its tokens, [3]."""
    real = part.mask.bool()
    old_log_p, old_values, advantages, returns = (
        whole[rows, : real.shape[1]][real] for whole in (rollout.log_p, rollout.values, *targets)
    )
    with loop.precision(p, part.ids.device):
        logits, seen = forward(actors.policy, part)
        values = loop.value_of(actors.value, part, seen).float()[real]
    log_p = objective.log_probabilities(logits, part.ids[real], loop.temperature_of(p))
    policy, clipped = objective.policy_loss(log_p, old_log_p, advantages, p.clip)
    value = objective.value_loss(values, old_values, returns, p.value_clip)
    return torch.stack([policy.sum(), value.sum(), clipped.sum()])


def learning_rate(p: config.PPO, update: int, epoch: int = 0) -> float:
    """Of a step (``update`` 1-based, ``epoch`` 0-based): linear warm-up over ``warmup_updates``, then linear decay to 0 after
    the last of ``updates``.

    The steps of an update share a rate, and the first is above 0; or each has its own, from 0 on (``schedule`` "step": the
    linear schedule of transformers over updates · epochs steps, as the released code has it).
    """
    each = p.schedule == "step"
    done = update - 1 + epoch / p.epochs * each
    warm = min(1.0, (done + (not each)) / p.warmup_updates) if p.warmup_updates else 1.0
    left = (p.updates - done) / max(1, p.updates - p.warmup_updates) if p.decay and warm == 1.0 else 1.0
    return p.learning_rate * warm * min(1.0, left)
