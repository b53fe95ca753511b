"""What optimisers share: the loop that samples, scores, measures, evaluates, stops and goes on after a kill.

It knows rewards only as functions from responses to per-token rewards, and an optimiser only as its :class:`Learner`. Several
processes may share a run: each then has its part of a rollout's prompts, and every sum below is over all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config, states
from paradox_utils.data import segments_of
from paradox_utils.data.records import Judge
from paradox_utils.data.tasks import TASKS
from paradox_utils.policies.decoding import NonFiniteLogitsError, generate
from paradox_utils.policies.models import ValueModel
from paradox_utils.policies.passes import forward, grid, last_states
from paradox_utils.policies.prompts import Prompts, Responses, passes, rows_of, take
from paradox_utils.ppo import objective, processes, state
from paradox_utils.ppo.evaluate import Scores, compared, finished
from paradox_utils.rewards.judges import Ensemble, RewardFunction, size_of
from paradox_utils.rewards.measures import disagreement, repetition

# A row of a run's curve describes the policy after so many updates. What the optimiser says of the update that follows stands
# between these two: the last row has none of it (NaN). The last name is the first of what the evaluation says.
SHAPE = ("segments", "repetition", "sampled_unfinished")
BEFORE = ("update", "reward_mean", "reward_variance", "kl", "entropy", "length", *SHAPE, "disagreement")
AFTER = ("truncated_prompts", "truncated_rm_inputs", "seconds", "lm_performance")


@dataclass
class Actors:
    """The three networks of a run. ``value.body`` is None where the value head reads the policy's own states."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    value: ValueModel
    tokenizer: PreTrainedTokenizerFast


@dataclass(frozen=True)
class Rewards:
    """Who judges: the reward to maximise, and a count of its inputs that were too long so far; the same reward with
    probabilities in place of labels, and the true reward (None where there are none); and the evaluator."""

    given: RewardFunction
    soft: RewardFunction | None
    true: RewardFunction | None
    evaluator: Judge
    cut: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Setting:
    """What an optimiser is given. ``prompts(update)``: (this process's part of) the prompts of a rollout. ``questions``: those
    of ``validation`` and ``test``. ``evaluate()`` scores greedy answers to them, first before any update. ``folder``: where
    states are left, to go on from the newest one."""

    p: config.PPO
    actors: Actors
    rewards: Rewards
    prompts: Callable[[int], Prompts]
    questions: dict[str, Prompts]
    evaluate: Callable[[], dict[str, float]]
    folder: Path


@dataclass
class Outcome:
    """How a run ended: its curve, and status ``ok`` or ``diverged`` with the reason.

    Of a policy that was trained, ``best`` holds the weights at the best validation evaluation; ``finite`` is False where it
    broke and has no final performance. Where none was trained, ``scores`` has those of the ``final`` and the ``best`` answers.
    """

    curve: pd.DataFrame
    status: str
    reason: str
    best: dict[str, Tensor] = field(default_factory=dict)
    finite: bool = True
    scores: dict[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """What an optimiser that trains adds to the loop: the ``networks`` it changes and its ``optimizer``, whose state is kept
    with theirs; and ``update(rollout, number)``, which takes the steps of update ``number`` (1-based).

    An update returns its ``columns`` of the curve, among them the ``steps`` it took and ``gradient_norm``, not finite where it
    stopped short of a step along a loss or gradient that is not.
    """

    networks: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer
    update: Callable[[Rollout, int], dict[str, float]]
    columns: tuple[str, ...]


@dataclass
class Rollout:
    """Responses with all that an update needs, [B, T]; rewards are without the KL penalty. ``each``: those of every one of
    several reward models, [models, B, T]."""

    responses: Responses
    mask: Tensor
    log_p: Tensor
    log_ref: Tensor
    values: Tensor
    rewards: Tensor
    entropy: Tensor
    each: Tensor | None = None

    @property
    def kl(self) -> Tensor:
        """Σ_t (log π − log π_ref) of each response, [B]."""
        return ((self.log_p - self.log_ref) * self.mask).sum(1)


def train(s: Setting, learner: Learner) -> Outcome:
    """Train to the end, or until the run has diverged: at a reward, loss or gradient that is not finite, or when the KL stop
    rule fires."""
    p, policy, optimizer = s.p, s.actors.policy, learner.optimizer
    # all processes go on from the state that process 0 finds
    found = processes.agreed(lambda: states.newest(s.folder))
    progress = state.load(found, learner.networks, optimizer) if found else state.Progress(best=state.weights(policy))
    started, reason, finite = time.perf_counter() - progress.seconds, "", True
    for update in range(progress.update, p.updates + 1):
        row: dict[str, float] = dict.fromkeys((*BEFORE, *learner.columns, *AFTER), math.nan) | {"update": update}
        torch.manual_seed(p.seed * 1_000_003 + update + 500_009 * processes.rank())  # of dropout; sampling has its own streams
        asked, cut_before = s.prompts(update), s.rewards.cut()
        rollout, reason = _rolled_out(s, asked, update)
        lost = processes.gathered(torch.tensor([[asked.truncated, s.rewards.cut() - cut_before]])).sum(0).tolist()
        row |= dict(zip(("truncated_prompts", "truncated_rm_inputs"), lost, strict=True))
        if rollout is not None:
            row |= measure(rollout) | observe(p, s.actors.tokenizer, rollout)
            if s.rewards.true is not None:
                row |= against_truth(p, rollout, s.rewards.true)
            progress.high_kl += p.kl_stop is not None and row["kl"] > p.kl_stop
            if not reason and p.kl_stop is not None and progress.high_kl >= p.kl_stop_count:
                reason = f"the summed KL exceeded {p.kl_stop:g} in {progress.high_kl} rollouts, the last at update {update}"
            if update % p.evaluate_every == 0 or update == p.updates or reason:
                row |= processes.agreed(s.evaluate)
                if row["lm_performance"] > progress.best_performance:
                    progress.best, progress.best_performance = state.weights(policy), row["lm_performance"]
            if update < p.updates and not reason:
                row |= learner.update(rollout, update + 1)
                if not math.isfinite(row["gradient_norm"]):
                    reason = f"the loss or its gradient is not finite at update {update}; {_remedy(p)}"
        # logits that broke, or a step already taken by an update that then broke
        finite = rollout is not None and not (reason and row["steps"] > 0)
        progress.seconds = time.perf_counter() - started
        progress.rows.append(row | {"seconds": progress.seconds})
        progress.update = update + 1
        if reason:
            break
        if p.resume_every and progress.update % p.resume_every == 0 and processes.rank() == 0:
            state.save(s.folder, progress, learner.networks, optimizer)
    return Outcome(pd.DataFrame(progress.rows), "diverged" if reason else "ok", reason, progress.best, finite)


def _rolled_out(s: Setting, prompts: Prompts, update: int) -> tuple[Rollout | None, str]:
    """A rollout, or None where the policy is broken; and why nothing can be learnt from it, if so. All processes agree."""
    try:
        responses = sample(s.p, s.actors, prompts, update)
        broken = 0.0
    except NonFiniteLogitsError:
        broken = 1.0
    if processes.total(torch.tensor(broken, device=prompts.ids.device)) > 0:
        return None, f"the policy's logits are not finite at update {update}; {_remedy(s.p)}"
    rollout = score(s.p, s.actors, responses, s.rewards.given)
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
    """Log-probabilities, values and rewards in one pass without gradients; networks in evaluation mode."""
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
    each = reward.each(responses) if isinstance(reward, Ensemble) else None
    rewards = reward(responses) if each is None else reward.paid(each)
    return Rollout(responses, mask, log_p, log_ref, values, rewards, entropy, each)


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


def observe(p: config.PPO, tokenizer: PreTrainedTokenizerFast, rollout: Rollout) -> dict[str, float]:
    """What else can be seen in a rollout by who does not know the truth: the shape of its responses, and how far several reward
    models disagree on them."""
    texts = rollout.responses.texts
    segments = [len(spans) for spans in segments_of(p, texts, p.task)]
    unfinished = [not ended for ended in finished(rollout.responses, tokenizer)]
    shape = torch.tensor([segments, [repetition(text) for text in texts], unfinished], dtype=torch.float64)
    row = dict(zip(SHAPE, processes.gathered(shape.T).mean(0).tolist(), strict=True))
    if rollout.each is not None:
        found = disagreement(rollout.each.cpu().numpy(), size_of(p), TASKS[p.task].pairwise)
        apart, items = processes.gathered(torch.tensor(np.stack(found, 1))).sum(0)
        row["disagreement"] = float(apart / items)
    return row


def against_truth(p: config.PPO, rollout: Rollout, truth: RewardFunction) -> dict[str, float]:
    """What the rewards of a rollout have to do with the truth: the mean true return, and how often the two agree."""
    found = compared(p, rollout.rewards, truth(rollout.responses), rollout.responses.samples)
    true, agreeing, items = processes.gathered(found).unbind(1)
    return {"true_reward_mean": float(true.mean()), "rm_agreement": float(agreeing.sum() / items.sum())}


def value_of(value: ValueModel, responses: Responses, seen: Tensor) -> Tensor:
    """Values [B, T]: from the value model's own network, or from the states ``seen`` by the policy."""
    return value(seen if value.body is None else last_states(value.body, responses))


def temperature_of(p: config.PPO) -> float:
    """Of the distribution whose log-probabilities count: the one sampled from, or (as published) the untempered softmax."""
    return p.temperature if p.log_probabilities == "sampling" else 1.0


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
