"""The objectives of PPO and RLOO in small pure functions.

Tensors are [B, T] (responses, tokens) unless said otherwise; masks are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
Whitening = Literal["standard-deviation", "root-of-standard-deviation", "none"]
EPSILON = 1e-8
PART = 1 << 20  # numbers of a vocabulary-wide tensor worked on at a time


def log_probabilities(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log π of the taken tokens under log-softmax(logits / T), float32; logits [..., V], ids [...].

    No second tensor of the logits' size is made, not even for their gradient, which is written over them: nothing may read the
    logits after a backward pass, and there can be only one.
    """
    return _TakenLogProbability.apply(logits, ids, temperature)


class _TakenLogProbability(torch.autograd.Function):
    """x_a / T − log Σ exp(x / T); its gradient with respect to x is (1[a] − softmax(x / T)) / T."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        rows, taken = logits.flatten(0, -2), ids.flatten()
        total = torch.cat([(part.float() / temperature).logsumexp(-1) for part in _parts(rows)])
        ctx.logits, ctx.taken, ctx.total, ctx.temperature = rows, taken, total, temperature
        return (rows.gather(-1, taken[:, None]).squeeze(-1).float() / temperature - total).view(ids.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        scale = gradient.flatten() / ctx.temperature
        for part, total, weight in zip(
            _parts(ctx.logits), _parts(ctx.total, ctx.logits), _parts(scale, ctx.logits), strict=True
        ):
            log_p = part.float().div_(ctx.temperature) if part.dtype != torch.float32 else part.div_(ctx.temperature)
            part.copy_(log_p.sub_(total[:, None]).exp_().mul_(-weight[:, None]))
        ctx.logits.scatter_add_(-1, ctx.taken[:, None], scale[:, None].to(ctx.logits.dtype))
        return ctx.logits.view(*gradient.shape, -1), None, None


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy (nats, float32) of each next-token distribution; logits [..., V]. For measuring: in parts, without gradients."""
    parts = []
    for part in _parts(logits.detach().flatten(0, -2)):
        log_p = (part.float() / temperature).log_softmax(-1)
        parts.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(parts).view(logits.shape[:-1])


def _parts(rows: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Rows cut so that a part of the vocabulary-wide tensor (``like``, or they themselves) stays in a processor's cache."""
    width = (rows if like is None else like).shape[-1]
    return rows.split(max(1, PART // width))


def masked_mean(values: Tensor, mask: Tensor, total: Total = torch.sum) -> Tensor:
    """Mean over the tokens where ``mask`` is 1: token-weighted, whatever the lengths of the responses.

    ``total`` sums a tensor's elements, over all processes where several share a rollout.
    """
    return total(values * mask) / total(mask)


def penalised_rewards(rewards: Tensor, log_p: Tensor, log_ref: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """r_t − β (log π − log π_ref) on response tokens (Ziegler et al. 2019, eq. 2, spread over tokens)."""
    return (rewards - coefficient * (log_p - log_ref)) * mask


def whiten(
    values: Tensor, mask: Tensor, how: Whitening, shift_mean: bool = True, padding: bool = False, total: Total = torch.sum
) -> Tensor:
    """Scale to unit deviation over the masked tokens (population variance), and shift to mean 0 if ``shift_mean``.

    ``root-of-standard-deviation`` divides by √(σ + 1e-8) as the released code does, where the default divides by σ, held at
    1e-4 or more; ``padding`` leaves what that code leaves on padding (its values are shifted too), else padding is 0. ``total``
    as in :func:`masked_mean`.
    """
    if how == "none":
        return values * mask
    mean = masked_mean(values, mask, total)
    variance = masked_mean((values - mean) ** 2, mask, total)
    scale = variance.clamp_min(EPSILON).sqrt() if how == "standard-deviation" else (variance.sqrt() + EPSILON).sqrt()
    whitened = (values - mean) / scale + (0.0 if shift_mean else mean)
    return whitened if padding else whitened * mask


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns (Schulman et al. 2016, eq. 16): δ_t = r_t + γ V_{t+1} − V_t,
    A_t = δ_t + γ λ A_{t+1}, return = A_t + V_t; nothing follows the last column. Padding must hold zeros."""
    result = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = delta + discount * trace * following
        next_value = values[:, t]
        result[:, t] = following
    return result, result + values


def leave_one_out(returns: Tensor, samples: int) -> Tensor:
    """Returns [B] less the mean return of the other responses to the same prompt (Kool et al. 2019), of which each has
    ``samples`` ≥ 2: G − (Σ G' − G) / (K − 1) = (G − mean) K / (K − 1)."""
    groups = returns.view(-1, samples)
    return ((groups - groups.mean(1, keepdim=True)) * (samples / (samples - 1))).flatten()


def policy_loss(log_p: Tensor, old_log_p: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7) of each action (a token, or a response by its summed log-probabilities),
    and whether clipping was the larger loss."""
    ratio = (log_p - old_log_p).exp()
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), (clipped > plain).float()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½ (V − R)² of each token; with ``clip`` the larger of that and the same for V kept within ``clip`` of its old value."""
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near - returns) ** 2)
