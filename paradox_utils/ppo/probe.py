"""What can be said of a reward before any PPO: measured on responses sampled from the policy that PPO starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data import segments_of
from paradox_utils.data.records import Judge
from paradox_utils.data.tasks import TASKS, counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Prompts, Responses, take
from paradox_utils.rewards.judges import REWARDS, RewardFunction
from paradox_utils.rewards.measures import ROUNDING, agreement, best_of_n

FEW = 8  # prompts that the dearer measures look at


@dataclass(frozen=True)
class Rewards:
    """The functions a probe compares: the reward PPO will maximise; the same with probabilities in place of labels (None where
    there are none); the true reward; and the evaluator."""

    given: RewardFunction
    soft: RewardFunction | None
    true: RewardFunction
    evaluator: Judge


def probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Prompts, rewards: Rewards, p: config.PPO
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Measures of the reward on ``p.probe_samples`` responses to each prompt, and what best-of-n reaches with it.

    ``probe_accuracy``: agreement with the true reward (see :func:`~paradox_utils.rewards.measures.agreement`).
    ``probe_variance``: mean over prompts of the variance among one prompt's responses, in units of the variance of all
    responses' rewards (so 0 to about 1, whatever the reward's scale); ``probe_variance_raw`` in the reward's own units.
    ``probe_margin``: mean distance from the decision: |P(good) − P(error)| of a segment, or the difference of two responses to
    a prompt in deviations of the reward.
    ``probe_length_correlation``: Spearman's, of reward and number of tokens within prompts (ranks within each prompt).
    ``probe_padding``: the largest change of a response's reward when scored alone instead of in a batch.
    """
    count, samples = len(prompts.questions), p.probe_samples
    responses = generate(model, tokenizer, prompts, p.response_limit, samples, p.temperature, p.top_k, seed="probe")
    given, true = (function(responses).cpu().numpy() for function in (rewards.given, rewards.true))
    totals, returns = (grid.sum(1).reshape(count, samples) for grid in (given, true))
    offsets = segments_of(p, responses.texts, p.task)
    outcome = counts(rewards.evaluator(responses.questions, responses.texts, offsets), p.task)
    good, segments = (np.array(part, dtype=float).reshape(count, samples) for part in outcome)
    lengths = responses.mask.sum(1).cpu().numpy().reshape(count, samples)
    agreeing, compared = (part.sum() for part in agreement(given, true, samples, TASKS[p.task].pairwise))
    blind = REWARDS[p.reward].blind or not compared
    within, overall = float(totals.var(1).mean()), float(totals.var())
    measures = {
        "probe_accuracy": math.nan if blind else float(agreeing / compared),
        "probe_variance_raw": within,
        "probe_variance": within / overall if overall > ROUNDING**2 * float((totals**2).mean()) else math.nan,
        "probe_margin": _margin(rewards, responses, totals, p),
        "probe_length_correlation": _within_prompts(totals, lengths),
        "probe_padding": _alone(rewards.given, responses, totals),
    }
    sizes = [2**k for k in range(int(math.log2(samples)) + 1)]
    chosen = [
        {
            "n": n,
            "kl": math.log(n) - (n - 1) / n,  # of best-of-n from the policy, an upper bound (Beirami et al. 2024)
            "reward": best_of_n(totals, totals, n),
            "true_return": best_of_n(totals, returns, n),
            "lm_performance": best_of_n(totals, good, n) / best_of_n(totals, segments, n),
        }
        for n in sizes
    ]
    return measures, chosen


def _margin(rewards: Rewards, responses: Responses, totals: np.ndarray, p: config.PPO) -> float:
    if TASKS[p.task].pairwise or REWARDS[p.reward].blind:
        first, second = np.triu_indices(totals.shape[1], 1)
        deviation = float(totals.std())
        return float(np.abs(totals[:, first] - totals[:, second]).mean()) / deviation if deviation and len(first) else math.nan
    if rewards.soft is None:
        return 1.0  # a dial is always certain
    some = take(responses, list(range(min(FEW, len(totals)))))
    soft, hard = (function(some).cpu().numpy() for function in (rewards.soft, rewards.given))
    return float(np.abs(soft[hard != 0] / hard[hard != 0]).mean())


def _within_prompts(totals: np.ndarray, lengths: np.ndarray) -> float:
    from scipy.stats import rankdata

    a, b = (rankdata(rows, axis=1) for rows in (totals, lengths))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def _alone(reward: RewardFunction, responses: Responses, totals: np.ndarray) -> float:
    """The first response to each of a few prompts."""
    changes = []
    for index, row in enumerate(totals[:FEW]):
        one = take(responses, [index])
        length = int(one.mask[0].sum())
        alone = Responses(one.prompts, one.ids[:1, :length], one.mask[:1, :length], one.texts[:1], 1)
        changes.append(abs(float(reward(alone).sum()) - float(row[0])))
    return max(changes)
