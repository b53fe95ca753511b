"""What training against a reward would make of a policy, read off its own samples. NumPy alone.

Shapes: P prompts, K responses to each, sampled from the policy π (a prompt with fewer responses has NaN in the places of the
others). ``rewards`` [P, K] are those of whole responses, summed over segments or tokens, as PPO is paid. ``good`` and ``size``
[P, K] are the judgement: a score is Σ good / Σ size, so the pooled share of good segments, or with ``size`` 1 a mean.

The policy that maximises E[r] − β KL(π' ‖ π), with β times the KL of whole responses as a penalty per token adds up to, is
π*(y|x) = π(y|x) exp(r(x, y) / β) / Z(x) (Rafailov et al. 2023, eq. 4). Of K samples of π it gives the k-th the weight
w_k = exp(r_k / β) / Σ_j exp(r_j / β), so whatever π* is judged by is the weighted mean of the samples' judgements
(self-normalised importance sampling). That takes no training, and no gradient.

How far π* is from π is read off the same weights: KL(w ‖ uniform) = Σ_k w_k log(K w_k) = log K − H(w), which estimates
KL(π* ‖ π) = E_w[r]/β − log Z as the mean of exp(r/β) over the samples estimates Z. It cannot exceed log K: K samples do not
contain what a policy that far away writes. So a curve ends where the effective sample size 1 / Σ w² (Kong 1992), averaged over
prompts, falls to :func:`least_effective`. Read as it stands, the weighted mean is exactly what choosing one of K samples with
these probabilities reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from paradox_utils.rewards.measures import ROUNDING

Array = NDArray[np.float64]
SHARE, FLOOR = 8, 1.5  # the effective sample size must be at least K / SHARE, and FLOOR
POINTS = 25  # of a curve
Limit = Literal["recipe", "budget", "samples"]


@dataclass(frozen=True)
class Reading:
    """What the policy would be: by prompt [P] its ``kl`` (nats) from the policy that was sampled, the ``effective`` sample
    size, and the expected judgement ``good`` and ``size``. ``beta`` is the KL coefficient (0: the largest reward takes all);
    ``weights`` [P, K] are those of the responses."""

    beta: float
    kl: Array
    effective: Array
    good: Array
    size: Array
    weights: Array

    @property
    def score(self) -> float:
        """The judged score of all prompts together."""
        return float(self.good.sum() / self.size.sum())


def tilted(rewards: Array, beta: float) -> Array:
    """Weights exp(r/β) normalised within each prompt [P, K], 0 in the place of no response; β = 0 shares all weight among the
    largest, and an endless β weighs all alike."""
    known, best = np.isfinite(rewards), np.nanmax(rewards, axis=1, keepdims=True)
    below = np.where(known, rewards - best, 0.0)
    with np.errstate(over="ignore"):  # by a tiny β: the weight is 0 then
        raw = np.exp(below / beta) if beta else (below >= -ROUNDING * np.maximum(1, np.abs(best))).astype(float)
    raw = np.where(known, raw, 0.0)
    return raw / raw.sum(1, keepdims=True)


def divergence(weights: Array, counts: Array) -> Array:
    """KL of the weights [P, K] from equal ones over ``counts`` [P] responses: log K − H(w), [P] in nats."""
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.maximum(0.0, np.log(counts) + (weights * logs).sum(1))


def effective(weights: Array) -> Array:
    """Effective sample size 1 / Σ w² of each prompt, from 1 to K."""
    return 1 / (weights**2).sum(1)


def least_effective(counts: Array, share: int = SHARE) -> float:
    """The effective sample size, as a mean over prompts, below which a reading is not believed: an eighth of a prompt's
    responses, and at least 1.5, or the one response that it has. ``share``: another part than the eighth."""
    return float(np.minimum(counts, np.maximum(FLOOR, counts / share)).mean())


def read(rewards: Array, good: Array, size: Array, beta: float) -> Reading:
    """The policy that maximises ``rewards`` less β times the KL, judged."""
    weights, counts = tilted(rewards, beta), np.isfinite(rewards).sum(1)
    expected = ((weights * np.nan_to_num(part)).sum(1) for part in (good, size))
    return Reading(beta, divergence(weights, counts), effective(weights), *expected, weights)


def strongest(rewards: Array, beta: float, budget: float | None = None, share: int = SHARE) -> tuple[float, Limit]:
    """The KL coefficient to read at, and what sets it: the recipe's β; a larger one, at which the mean KL is the ``budget``; or
    the one at which the mean effective sample size is :func:`least_effective`, where that comes first."""
    counts = np.isfinite(rewards).sum(1)
    limits: list[tuple[float, Limit]] = [(beta, "recipe")]
    if budget is not None:
        kl = _solved(rewards, lambda weights: budget - divergence(weights, counts).mean())
        limits.append((kl, "budget"))
    least = least_effective(counts, share)
    limits.append((_solved(rewards, lambda weights: effective(weights).mean() - least), "samples"))
    return max(limits, key=lambda limit: limit[0])  # of equals the first


def _solved(rewards: Array, room: Callable[[Array], float]) -> float:
    """The smallest β at which there is room, which grows with β: both KL and effective sample size are monotone in it, as
    dKL/dλ = λ Var_w(r) and d Σw²/dλ = 2 Σ w² (r − E_w r) ≥ 0 for λ = 1/β. 0 where there is always room, and endless where
    rounding leaves none for any weights but equal ones."""
    if room(tilted(rewards, 0.0)) >= 0:
        return 0.0
    spread = float((np.nanmax(rewards, axis=1) - np.nanmin(rewards, axis=1)).max())
    low, high = math.log(spread) - 12, math.log(spread) + 12
    if room(tilted(rewards, math.exp(low))) >= 0:
        return math.exp(low)
    if room(tilted(rewards, math.exp(high))) < 0:  # as for a budget below the KL that is left there
        return math.inf
    return math.exp(brentq(lambda log_beta: room(tilted(rewards, math.exp(log_beta))), low, high, xtol=1e-6)) * (1 + 1e-6)


def path(rewards: Array, good: Array, size: Array) -> list[Reading]:
    """Readings from no training up to where the samples end, evenly spaced in √KL."""
    counts = np.isfinite(rewards).sum(1)
    last = strongest(rewards, 0.0)[0]
    far = divergence(tilted(rewards, last), counts).mean()
    betas = [math.inf, *(_at_kl(rewards, far * (i / POINTS) ** 2, counts) for i in range(1, POINTS)), last] if far > 0 else []
    return [read(rewards, good, size, beta) for beta in betas or [math.inf]]


def _at_kl(rewards: Array, target: float, counts: Array) -> float:
    return _solved(rewards, lambda weights: target - divergence(weights, counts).mean())


def best_of(rewards: Array, good: Array, size: Array, n: int) -> Reading:
    """The best of n responses by the reward, expected over all subsets of those there are (of as many where there are fewer).
    Its KL is the bound log n − (n − 1)/n (Beirami et al. 2024)."""
    counts, weights = np.minimum(n, np.isfinite(rewards).sum(1)), chosen(rewards, n)
    expected = ((weights * np.nan_to_num(part)).sum(1) for part in (good, size))
    return Reading(math.nan, np.log(counts) - (counts - 1) / counts, np.full(len(rewards), np.nan), *expected, weights)


def chosen(rewards: Array, n: int) -> Array:
    """The probability [P, K] that a response is the best by the reward of n that are drawn from its prompt's without
    replacement, 0 in the place of no response; equals share (the estimator of
    :func:`~paradox_utils.rewards.measures.best_of_n`)."""
    weights = np.zeros(rewards.shape)
    for row, given in zip(weights, rewards, strict=True):
        known = np.isfinite(given)
        ordered = np.sort(given[known])
        drawn = np.arange(min(n, len(ordered)))
        below, upto = (np.searchsorted(ordered, given[known], side) for side in ("left", "right"))
        # all drawn are among the lowest c of N with probability C(c, n) / C(N, n)
        among_upto, among_below = (((c[:, None] - drawn) / (len(ordered) - drawn)).prod(1) for c in (upto, below))
        row[known] = (among_upto - among_below) / (upto - below)
    return weights


# --- rewards as an algorithm sees them ----------------------------------------------------------------------------------------


def standardised(rewards: Array) -> Array:
    """Less their mean, by their deviation, over all responses; 0 where all are alike."""
    return _scaled(rewards, None)


def group_normalised(rewards: Array) -> Array:
    """Less their mean, by their deviation (of a sample, as in TRL's GRPO), within each prompt; 0 where these are alike.

    This is what GRPO's default maximises in the place of r: the optimum is then exp(r / (σ β)) with each prompt's own σ, so the
    size of a reward is without effect, and a reward that hardly tells responses apart pushes as hard as one that does.
    """
    counts = np.isfinite(rewards).sum(1, keepdims=True)
    return _scaled(rewards, 1) * np.sqrt(np.maximum(1, counts - 1) / counts)


def _scaled(rewards: Array, axis: int | None) -> Array:
    mean = np.nanmean(rewards, axis=axis, keepdims=True)
    spread = np.nanstd(rewards, axis=axis, keepdims=True)
    flat = ~(spread > ROUNDING * np.nanmax(np.abs(rewards), axis=axis, keepdims=True))
    return np.where(flat & np.isfinite(rewards), 0.0, (rewards - mean) / np.where(flat, 1.0, spread))


# --- what else can be said of rewards -----------------------------------------------------------------------------------------


def gaps(rewards: Array, score: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Of each two responses to a prompt the first's ``rewards`` and ``score`` less the second's, and whether these are judged
    different, [P, K (K - 1) / 2] each."""
    first, second = np.triu_indices(rewards.shape[1], 1)
    paid, truth = rewards[:, first] - rewards[:, second], score[:, first] - score[:, second]
    return paid, truth, np.isfinite(paid) & np.isfinite(truth) & (truth != 0)


def pairs(rewards: Array, score: Array) -> tuple[Array, Array, Array]:
    """Of each prompt's pairs of responses that are judged different, how many the reward orders ``right``, calls equal
    (``tied``), and orders wrong, [P] each. ``score`` [P, K], NaN where unjudged."""
    paid, truth, told = gaps(rewards, score)
    same = np.abs(paid) <= ROUNDING * np.nanmax(np.abs(rewards), initial=0.0)
    agree = np.sign(paid) == np.sign(truth)
    return tuple((told & kind).sum(1).astype(float) for kind in (agree & ~same, same, ~agree & ~same))


def variances(rewards: Array) -> tuple[float, float]:
    """Mean over prompts of the variance among a prompt's responses, raw and in units of the variance of all responses' rewards
    (NaN where these are all alike)."""
    within, overall = float(np.nanmean(np.nanvar(rewards, axis=1))), float(np.nanvar(rewards))
    alike = overall <= ROUNDING**2 * float(np.nanmean(rewards**2))
    return within, math.nan if alike else within / overall
