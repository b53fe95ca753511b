"""PPO on segment rewards: one run of one policy against one reward, for encoder-decoder and decoder-only policies.

The loop knows rewards only as a function from responses to per-token rewards. Several processes may share a run: each then has
its part of a rollout's prompts, and every sum below is over all of them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config, states
from paradox_utils.policies.decoding import NonFiniteLogitsError, generate
from paradox_utils.policies.models import ValueModel
from paradox_utils.policies.passes import forward, grid, last_states
from paradox_utils.policies.prompts import Prompts, Responses, passes, rows_of, take
from paradox_utils.ppo import objective, processes, state
from paradox_utils.rewards.judges import RewardFunction

# A row of a run's curve, besides what the evaluation says. It describes the policy after so many updates; the losses are those
# of the update that follows, so the last row has none (NaN).
CURVE = ("update", "reward_mean", "reward_variance", "kl", "entropy", "length", "policy_loss", "value_loss")
CURVE += ("clip_share", "gradient_norm", "steps", "learning_rate", "truncated_prompts", "truncated_rm_inputs", "seconds")
CURVE += ("lm_performance",)  # the first of what the evaluation says, where there is one


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
    at the best validation evaluation; ``finite`` is False where the policy itself broke and has no final performance."""

    curve: pd.DataFrame
    status: str
    reason: str
    best: dict[str, Tensor]
    finite: bool


def train(
    p: config.PPO,
    actors: Actors,
    prompts: Callable[[int], Prompts],
    reward: RewardFunction,
    evaluate: Callable[[], dict[str, float]],
    report: Callable[[dict], None] = lambda row: None,
    folder: Path | None = None,
    cut: Callable[[], int] = lambda: 0,
    observe: Callable[[Responses, Tensor], Tensor] | None = None,
) -> Outcome:
    """Run PPO. ``prompts(update)`` gives (this process's part of) the prompts of a rollout; ``evaluate()`` scores the policy on
    validation questions, first before any update. The run stops as ``diverged`` at a reward, loss or gradient that is not
    finite, or when the KL stop rule fires. With a ``folder`` it leaves states there and goes on from the newest one. ``cut()``
    counts the reward-model inputs that were too long so far; ``observe`` compares responses and
    their rewards [B, T] with the truth: true return, agreeing and compared items of each response, [B, 3]."""
    set_dropout(actors.policy, p.dropout_in_updates)
    set_dropout(actors.value, p.dropout_in_updates)
    optimizer, networks = optimizer_of(p, actors), {"policy": actors.policy, "value": actors.value}
    # all processes go on from the state that process 0 finds
    found = processes.agreed(lambda: states.newest(folder)) if folder else None
    progress = state.Progress(best=state.weights(actors.policy))
    if found:
        progress = state.load(found, networks, optimizer)
    started, reason, finite = time.perf_counter() - progress.seconds, "", True
    for update in range(progress.update, p.updates + 1):
        row: dict[str, float] = dict.fromkeys(CURVE, math.nan) | {"update": update}
        torch.manual_seed(p.seed * 1_000_003 + update + 500_009 * processes.rank())  # of dropout; sampling has its own streams
        asked, cut_before = prompts(update), cut()
        rollout, reason = _rolled_out(p, actors, asked, reward, update)
        lost = processes.gathered(torch.tensor([[asked.truncated, cut() - cut_before]])).sum(0).tolist()
        row |= dict(zip(("truncated_prompts", "truncated_rm_inputs"), lost, strict=True))
        if rollout is not None:
            row |= measure(rollout)
            if observe is not None:
                true, agreeing, compared = processes.gathered(observe(rollout.responses, rollout.rewards)).unbind(1)
                row |= {"true_reward_mean": float(true.mean()), "rm_agreement": float(agreeing.sum() / compared.sum())}
            progress.high_kl += p.kl_stop is not None and row["kl"] > p.kl_stop
            if not reason and p.kl_stop is not None and progress.high_kl >= p.kl_stop_count:
                reason = f"the summed KL exceeded {p.kl_stop:g} in {progress.high_kl} rollouts, the last at update {update}"
            if update % p.evaluate_every == 0 or update == p.updates or reason:
                row |= processes.agreed(evaluate)
                if row["lm_performance"] > progress.best_performance:
                    progress.best, progress.best_performance = state.weights(actors.policy), row["lm_performance"]
            if update < p.updates and not reason:
                row["learning_rate"] = learning_rate(p, update + 1)
                row |= optimise(p, actors, optimizer, rollout, row["learning_rate"])
                if not math.isfinite(row["gradient_norm"]):
                    reason = f"the loss or its gradient is not finite at update {update}; {_remedy(p)}"
        # logits that broke, or a step already taken by an update that then broke
        finite = rollout is not None and not (reason and row["steps"] > 0)
        progress.seconds = time.perf_counter() - started
        progress.rows.append(row | {"seconds": progress.seconds})
        progress.update = update + 1
        report(progress.rows[-1])
        if reason:
            break
        if folder and p.resume_every and progress.update % p.resume_every == 0 and processes.rank() == 0:
            state.save(folder, progress, networks, optimizer)
    return Outcome(pd.DataFrame(progress.rows), "diverged" if reason else "ok", reason, progress.best, finite)


def _rolled_out(
    p: config.PPO, actors: Actors, prompts: Prompts, reward: RewardFunction, update: int
) -> tuple[Rollout | None, str]:
    """A rollout, or None where the policy is broken; and why nothing can be learnt from it, if so. All processes agree."""
    rollout = None
    try:
        responses = sample(p, actors, prompts, update)
        broken = 0.0
    except NonFiniteLogitsError:
        broken = 1.0
    if processes.total(torch.tensor(broken, device=prompts.ids.device)) > 0:
        return None, f"the policy's logits are not finite at update {update}; {_remedy(p)}"
    rollout = score(p, actors, responses, reward)
    if not bool(torch.isfinite(processes.total(rollout.rewards))):
        return rollout, f"the reward is not finite at update {update}; check the reward model"
    return rollout, ""


def _remedy(p: config.PPO) -> str:
    return f"lower learning_rate ({p.learning_rate:g})"


def sample(p: config.PPO, actors: Actors, prompts: Prompts, update: int) -> Responses:
    """The responses of a rollout; networks in evaluation mode (no dropout)."""
    actors.policy.eval(), actors.value.eval()
    with precision(p, prompts.ids.device):
        return generate(
            actors.policy, actors.tokenizer, prompts, p.response_limit, p.samples_per_prompt, p.temperature, p.top_k,
            seed=f"{p.seed} {update}",
        )  # fmt: skip


def score(p: config.PPO, actors: Actors, responses: Responses, reward: RewardFunction) -> Rollout:
    """Log-probabilities, values and rewards in one pass without gradients, and the advantages they make."""
    actors.policy.eval(), actors.value.eval()
    mask, heat = responses.mask.float(), temperature_of(p)
    log_p, log_ref, values, entropy = (torch.zeros_like(mask) for _ in range(4))
    for chosen in passes(responses, p.pass_tokens):
        part, rows = take(responses, chosen), rows_of(chosen, responses.samples)
        ids, width = part.ids[part.mask.bool()], part.ids.shape[1]
        with torch.inference_mode(), precision(p, mask.device):
            logits, seen = forward(actors.policy, part)
            scored = [objective.log_probabilities(logits, ids, heat), objective.entropy(logits, heat)]
            del logits  # the largest tensor of a pass: not two at a time
            scored.insert(1, objective.log_probabilities(forward(actors.reference, part)[0], ids, heat))
            judged = value_of(actors.value, part, seen).float()
        for whole, some in zip((log_p, log_ref, entropy), scored, strict=True):
            whole[rows, :width] = grid(some, part.mask)
        values[rows, :width] = judged * part.mask
    raw = reward(responses)
    penalised = objective.penalised_rewards(raw, log_p, log_ref, mask, p.kl_coefficient)
    how = {"how": p.whitening, "padding": p.whiten_padding, "total": processes.total}
    if p.whiten_rewards:
        penalised = objective.whiten(penalised, mask, shift_mean=False, **how)
    estimate, returns = objective.advantages(penalised, values, p.discount, p.gae_lambda)
    estimate = objective.whiten(estimate, mask, **how)
    kl = ((log_p - log_ref) * mask).sum(1)
    return Rollout(responses, mask, log_p, values, raw, kl, entropy, estimate, returns)


def optimizer_of(p: config.PPO, actors: Actors) -> torch.optim.Adam:
    """Adam over the policy and the value model, one group each."""
    groups = [{"params": list(network.parameters())} for network in (actors.policy, actors.value)]
    return torch.optim.Adam(groups, lr=p.learning_rate, eps=p.adam_epsilon, fused=True)


def optimise(
    p: config.PPO, actors: Actors, optimizer: torch.optim.Optimizer, rollout: Rollout, rate: float | None = None
) -> dict[str, float]:
    """``epochs`` optimizer steps on the whole rollout, each token weighing the same; losses of the last epoch, and steps taken.

    ``rate``: the learning rate (None: the optimizer's). It stops before a step along a non-finite loss or gradient: the weights
    stay as they were.
    """
    actors.policy.train(p.dropout_in_updates > 0), actors.value.train(p.dropout_in_updates > 0)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] if rate is None else rate
    tokens = processes.total(rollout.mask)
    parts = [(take(rollout.responses, chosen), rows_of(chosen, rollout.responses.samples))
             for chosen in passes(rollout.responses, p.pass_tokens)]  # fmt: skip
    steps = 0
    for _ in range(p.epochs):
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, device=tokens.device)
        for part, rows in parts:
            terms = _losses(p, actors, rollout, part, rows) / tokens
            (terms[0] + p.value_weight * terms[1]).backward()
            sums += terms.detach()
        sums = torch.stack([processes.total(term) for term in sums])
        for group in optimizer.param_groups:
            processes.sum_gradients(group["params"])
        norms = [nn.utils.clip_grad_norm_(group["params"], p.max_gradient_norm or math.inf) for group in optimizer.param_groups]
        finite = bool(torch.isfinite(torch.stack([*sums, *norms])).all())
        if not finite:
            break
        optimizer.step()
        steps += 1
    actors.policy.eval(), actors.value.eval()  # an evaluation may follow
    names = ("policy_loss", "value_loss", "clip_share", "gradient_norm", "steps")
    norm = float(norms[0]) if finite else math.nan  # of the policy, before clipping
    return dict(zip(names, [*sums.tolist(), norm, steps], strict=True))


def _losses(p: config.PPO, actors: Actors, rollout: Rollout, part: Responses, rows: list[int]) -> Tensor:
    """Policy loss, value loss and clipped tokens of one pass, each summed over its tokens, [3]."""
    real = part.mask.bool()

    def of(whole: Tensor) -> Tensor:
        return whole[rows, : real.shape[1]][real]

    with precision(p, part.ids.device):
        logits, seen = forward(actors.policy, part)
        values = value_of(actors.value, part, seen).float()[real]
    log_p = objective.log_probabilities(logits, part.ids[real], temperature_of(p))
    policy, clipped = objective.policy_loss(log_p, of(rollout.log_p), of(rollout.advantages), p.clip)
    value = objective.value_loss(values, of(rollout.values), of(rollout.returns), p.value_clip)
    return torch.stack([policy.sum(), value.sum(), clipped.sum()])


def measure(rollout: Rollout) -> dict[str, float]:
    """What a rollout says before its updates: rewards without the KL penalty, summed over each response."""
    sums = [rollout.rewards.sum(1), rollout.kl, rollout.entropy.sum(1), rollout.mask.sum(1)]
    rewards, kl, entropy, lengths = processes.gathered(torch.stack(sums, 1)).unbind(1)
    per_prompt = rewards.view(-1, rollout.responses.samples)
    return {
        "reward_mean": float(rewards.mean()),
        "reward_variance": float(per_prompt.var(1).mean()) if per_prompt.shape[1] > 1 else math.nan,
        "kl": float(kl.mean()),
        "entropy": float(entropy.sum() / lengths.sum()),
        "length": float(lengths.mean()),
    }


def value_of(value: ValueModel, responses: Responses, seen: Tensor) -> Tensor:
    """Values [B, T]: from the value model's own network, or from the states ``seen`` by the policy."""
    return value(seen if value.body is None else last_states(value.body, responses))


def temperature_of(p: config.PPO) -> float:
    """Of the distribution whose log-probabilities count: the one sampled from, or (as published) the untempered softmax."""
    return p.temperature if p.log_probabilities == "sampling" else 1.0


def learning_rate(p: config.PPO, update: int) -> float:
    """Linear warm-up over ``warmup_updates``, then linear decay to 0 after the last of ``updates`` (1-based)."""
    warm = min(1.0, update / p.warmup_updates) if p.warmup_updates else 1.0
    left = (p.updates - update + 1) / max(1, p.updates - p.warmup_updates) if p.decay else 1.0
    return p.learning_rate * warm * min(1.0, left)


def precision(p: config.PPO, device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast, if asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=p.precision == "bfloat16")


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
