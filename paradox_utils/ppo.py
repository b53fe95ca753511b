"""PPO on segment rewards: one run of one policy against one reward, for encoder-decoder and decoder-only policies.

The loop knows rewards only as a function from responses to per-token rewards.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config, objective
from paradox_utils.models import ValueModel
from paradox_utils.rewards import RewardFunction
from paradox_utils.rollout import NonFiniteLogitsError, Prompts, Responses, forward, generate, take

# A row of a run's curve, besides what the evaluation says; NaN where an update has no such number.
CURVE = ("update", "reward_mean", "reward_variance", "kl", "entropy", "length", "policy_loss", "value_loss")
CURVE += ("clip_share", "gradient_norm", "learning_rate", "seconds")


@dataclass
class Actors:
    """The three networks of a run. ``value.body`` is None where the value head reads the policy's own states."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    value: ValueModel
    tokenizer: PreTrainedTokenizerFast


@dataclass
class Rollout:
    """Responses with all that the updates need, [B, T]; ``kl`` is Σ_t (log π − log π_ref) of each response, [B]."""

    responses: Responses
    mask: Tensor
    log_p: Tensor
    values: Tensor
    rewards: Tensor
    kl: Tensor
    entropy: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Outcome:
    """How a run ended: its curve (one row an update), status ``ok`` or ``diverged`` with the reason, and the policy's weights
    at the best validation evaluation; ``kl`` is that of the last rollout."""

    curve: pd.DataFrame
    status: str
    reason: str
    best: dict[str, Tensor]
    kl: float


def train(
    p: config.PPO,
    actors: Actors,
    prompts: Callable[[int], Prompts],
    reward: RewardFunction,
    evaluate: Callable[[], dict[str, float]],
    report: Callable[[dict], None] = lambda row: None,
) -> Outcome:
    """Run PPO. ``prompts(update)`` gives the prompts of a rollout; ``evaluate()`` scores the policy on validation questions,
    first before any update. The run stops as ``diverged`` at a non-finite loss, or when the KL stop rule fires."""
    torch.manual_seed(p.seed)
    set_dropout(actors.policy, p.dropout_in_updates)
    set_dropout(actors.value, p.dropout_in_updates)
    optimizer = torch.optim.Adam(_groups(actors), lr=p.learning_rate, eps=p.adam_epsilon)
    started, rows, high_kl, reason, kl = time.perf_counter(), [], 0, "", 0.0
    best, best_performance = {}, -math.inf
    for update in range(p.updates + 1):
        row: dict[str, float] = dict.fromkeys(CURVE, math.nan) | {"update": update, "kl": kl}
        if update > 0:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(p, update)
            try:
                rollout = roll_out(p, actors, prompts(update), reward)
            except NonFiniteLogitsError as error:
                reason = f"{error} at update {update}; lower learning_rate ({p.learning_rate:g})"
                break
            row |= measure(rollout) | {"learning_rate": learning_rate(p, update)}
            kl = row["kl"]
            high_kl += p.kl_stop is not None and kl > p.kl_stop
            losses = optimise(p, actors, optimizer, rollout)
            row |= losses
            if not all(math.isfinite(loss) for loss in losses.values()):
                rewarded = math.isfinite(row["reward_mean"])
                remedy = f"lower learning_rate ({p.learning_rate:g})" if rewarded else "check the reward, which is not finite"
                reason = f"the loss or its gradient is not finite at update {update}; {remedy}"
            elif p.kl_stop is not None and high_kl >= p.kl_stop_count:
                reason = f"the summed KL exceeded {p.kl_stop:g} in {high_kl} rollouts, the last at update {update}"
        if not reason.startswith("the loss") and (update % p.evaluate_every == 0 or update == p.updates or reason):
            row |= evaluate()
            if row["lm_performance"] > best_performance:
                best_performance = row["lm_performance"]
                best = {name: weight.detach().cpu().clone() for name, weight in actors.policy.state_dict().items()}
        rows.append(row | {"seconds": time.perf_counter() - started})
        report(rows[-1])
        if reason:
            break
    return Outcome(pd.DataFrame(rows), "diverged" if reason else "ok", reason, best, kl)


@torch.no_grad()
def roll_out(p: config.PPO, actors: Actors, prompts: Prompts, reward: RewardFunction) -> Rollout:
    """Sample responses, reward them, and estimate advantages; networks in evaluation mode (no dropout)."""
    actors.policy.eval(), actors.value.eval()
    responses = generate(
        actors.policy, actors.tokenizer, prompts, p.response_limit, p.samples_per_prompt, p.temperature, p.top_k
    )
    parts = []
    for part in _micro_batches(p, responses):
        with precision(p, part):
            logits, states = forward(actors.policy, part)
            reference = forward(actors.reference, part)[0]
            values = value_of(actors.value, part, states)
        parts.append((
            objective.log_probabilities(logits, part.ids, temperature_of(p)),
            objective.log_probabilities(reference, part.ids, temperature_of(p)),
            values.float(),
            objective.entropy(logits, temperature_of(p)),
        ))  # fmt: skip
    log_p, log_ref, values, entropy = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    mask = responses.mask.float()
    raw, values = reward(responses), values * mask
    penalised = objective.penalised_rewards(raw, log_p, log_ref, mask, p.kl_coefficient)
    if p.whiten_rewards:
        penalised = objective.whiten(penalised, mask, p.whitening, shift_mean=False, padding=p.whiten_padding)
    estimate, returns = objective.advantages(penalised, values, p.discount, p.gae_lambda)
    estimate = objective.whiten(estimate, mask, p.whitening, padding=p.whiten_padding)
    kl = ((log_p - log_ref) * mask).sum(1)
    return Rollout(responses, mask, log_p, values, raw, kl, entropy * mask, estimate, returns)


def optimise(p: config.PPO, actors: Actors, optimizer: torch.optim.Optimizer, rollout: Rollout) -> dict[str, float]:
    """``epochs`` optimizer steps on the whole rollout, each token weighing the same; losses of the last epoch.

    It stops before a step along a non-finite loss or gradient: the weights stay as they were.
    """
    actors.policy.train(p.dropout_in_updates > 0), actors.value.train(p.dropout_in_updates > 0)
    tokens = rollout.mask.sum()
    for _ in range(p.epochs):
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, device=tokens.device)
        for rows, part in _rows(p, rollout.responses):
            with precision(p, part):
                logits, states = forward(actors.policy, part)
                values = value_of(actors.value, part, states).float()
            log_p = objective.log_probabilities(logits, part.ids, temperature_of(p))
            mask = rollout.mask[rows]
            policy, clipped = objective.policy_loss(log_p, rollout.log_p[rows], rollout.advantages[rows], p.clip)
            value = objective.value_loss(values, rollout.values[rows], rollout.returns[rows], p.value_clip)
            terms = torch.stack([(term * mask).sum() / tokens for term in (policy, value, clipped)])
            (terms[0] + p.value_weight * terms[1]).backward()
            sums += terms.detach()
        norms = [nn.utils.clip_grad_norm_(group["params"], p.max_gradient_norm or math.inf) for group in optimizer.param_groups]
        finite = bool(torch.isfinite(torch.stack([*sums, *norms])).all())
        if not finite:
            break
        optimizer.step()
    actors.policy.eval(), actors.value.eval()  # an evaluation may follow
    names = ("policy_loss", "value_loss", "clip_share", "gradient_norm")  # the norm is that of the policy, before clipping
    return dict(zip(names, [*sums.tolist(), float(norms[0]) if finite else math.nan], strict=True))


def measure(rollout: Rollout) -> dict[str, float]:
    """What a rollout says before its updates: rewards without the KL penalty, summed over each response."""
    rewards = rollout.rewards.sum(1)
    per_prompt = rewards.view(-1, rollout.responses.samples)
    return {
        "reward_mean": float(rewards.mean()),
        "reward_variance": float(per_prompt.var(1).mean()) if per_prompt.shape[1] > 1 else math.nan,
        "kl": float(rollout.kl.mean()),
        "entropy": float(rollout.entropy.sum() / rollout.mask.sum()),
        "length": float(rollout.mask.sum(1).mean()),
    }


def value_of(value: ValueModel, responses: Responses, states: Tensor) -> Tensor:
    """Values [B, T]: from the value model's own network, or from the policy's states."""
    return value(states if value.body is None else forward(value.body, responses, head=False)[1])


def temperature_of(p: config.PPO) -> float:
    """Of the distribution whose log-probabilities count: the one sampled from, or (as published) the untempered softmax."""
    return p.temperature if p.log_probabilities == "sampling" else 1.0


def learning_rate(p: config.PPO, update: int) -> float:
    """Linear warm-up over ``warmup_updates``, then linear decay to 0 after the last of ``updates`` (1-based)."""
    warm = min(1.0, update / p.warmup_updates) if p.warmup_updates else 1.0
    left = (p.updates - update + 1) / max(1, p.updates - p.warmup_updates) if p.decay else 1.0
    return p.learning_rate * warm * min(1.0, left)


def precision(p: config.PPO, responses: Responses) -> AbstractContextManager:
    """bfloat16 autocast, if asked for."""
    return torch.autocast(responses.ids.device.type, torch.bfloat16, enabled=p.precision == "bfloat16")


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set every dropout layer's probability, and that of attention layers, which drop weights by an attribute of their own."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = probability
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(layer, name, None), float):
                setattr(layer, name, probability)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The reference policy: the same weights, never trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _groups(actors: Actors) -> list[dict]:
    return [{"params": list(actors.policy.parameters())}, {"params": list(actors.value.parameters())}]


def _micro_batches(p: config.PPO, responses: Responses) -> Iterator[Responses]:
    count = len(responses.prompts.questions)
    size = p.micro_batch or count
    yield from (take(responses, first, min(first + size, count)) for first in range(0, count, size))


def _rows(p: config.PPO, responses: Responses) -> Iterator[tuple[slice, Responses]]:
    first = 0
    for part in _micro_batches(p, responses):
        yield slice(first, first + len(part.ids)), part
        first += len(part.ids)
