"""The PPO objective in small pure functions. Tensors are [B, T] (responses, tokens) unless said otherwise; masks are 0 or 1."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Whitening = Literal["standard-deviation", "root-of-standard-deviation", "none"]
EPSILON = 1e-8


def log_probabilities(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log π of the taken tokens under log-softmax(logits / T); logits [B, T, V]. No second [B, T, V] tensor is kept."""
    scaled = logits.float() / temperature
    return scaled.gather(-1, ids[..., None]).squeeze(-1) - scaled.logsumexp(-1)


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy (nats) of each next-token distribution; logits [B, T, V]."""
    log_p = (logits.float() / temperature).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens where ``mask`` is 1: token-weighted, whatever the lengths of the responses."""
    return (values * mask).sum() / mask.sum()


def penalised_rewards(rewards: Tensor, log_p: Tensor, log_ref: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """r_t − β (log π − log π_ref) on response tokens (Ziegler et al. 2019, eq. 2, spread over tokens)."""
    return (rewards - coefficient * (log_p - log_ref)) * mask


def whiten(values: Tensor, mask: Tensor, how: Whitening, shift_mean: bool = True, padding: bool = False) -> Tensor:
    """Scale to unit deviation over the masked tokens (population variance), and shift to mean 0 if ``shift_mean``.

    ``root-of-standard-deviation`` divides by √σ as the released code does; ``padding`` leaves what that code leaves on padding
    (its values are shifted too), else padding is 0.
    """
    if how == "none":
        return values * mask
    mean = masked_mean(values, mask)
    deviation = masked_mean((values - mean) ** 2, mask).clamp_min(EPSILON).sqrt()
    scale = deviation if how == "standard-deviation" else deviation.sqrt()
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


def policy_loss(log_p: Tensor, old_log_p: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7) of each token, and whether clipping was the larger loss."""
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
