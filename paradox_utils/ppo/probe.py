"""What can be said of a reward before any PPO: measured on responses sampled from the policy that PPO starts from."""

from __future__ import annotations

import math

import numpy as np

from paradox_utils import config
from paradox_utils.data.tasks import TASKS
from paradox_utils.policies.prompts import Responses, take
from paradox_utils.ppo.best_of_n import Drawn
from paradox_utils.ppo.evaluate import compared
from paradox_utils.ppo.loop import Rewards
from paradox_utils.rewards.judges import REWARDS, RewardFunction
from paradox_utils.rewards.measures import ROUNDING, rank_correlation

FEW = 8  # prompts that the dearer measures look at


def probe(p: config.PPO, rewards: Rewards, drawn: Drawn) -> dict[str, float]:
    """Measures of the reward on responses that were drawn, ``p.probe_samples`` to each prompt.

    ``probe_accuracy``: agreement with the true reward (see :func:`~paradox_utils.ppo.evaluate.compared`); NaN where nobody
    knows it.
    ``probe_variance``: mean over prompts of the variance among one prompt's responses, in units of the variance of all
    responses' rewards (so 0 to about 1, whatever the reward's scale); ``probe_variance_raw`` in the reward's own units.
    ``probe_margin``: mean distance from the decision: |P(good) − P(error)| of a segment, or the difference of two responses to
    a prompt in deviations of the reward.
    ``probe_length_correlation``: Spearman's, of reward and number of tokens within prompts (ranks within each prompt).
    ``probe_padding``: the largest change of a response's reward when scored alone instead of in a batch.
    """
    responses, given, true, earned = drawn
    totals, lengths = earned.reward, responses.mask.sum(1).cpu().numpy().reshape(earned.reward.shape)
    accuracy = math.nan
    if rewards.true is not None:
        _, agreeing, items = compared(p, given, true, p.probe_samples).sum(0)
        accuracy = float(agreeing / items)  # NaN where there are none
    within, overall = float(totals.var(1).mean()), float(totals.var())
    return {
        "probe_accuracy": accuracy,
        "probe_variance_raw": within,
        "probe_variance": within / overall if overall > ROUNDING**2 * float((totals**2).mean()) else math.nan,
        "probe_margin": _margin(rewards, responses, totals, p),
        "probe_length_correlation": rank_correlation(totals, lengths),
        "probe_padding": _alone(rewards.given, responses, totals),
    }


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


def _alone(reward: RewardFunction, responses: Responses, totals: np.ndarray) -> float:
    """The first response to each of a few prompts."""
    changes = []
    for index, row in enumerate(totals[:FEW]):
        one = take(responses, [index])
        length = int(one.mask[0].sum())
        alone = Responses(one.prompts, one.ids[:1, :length], one.mask[:1, :length], one.texts[:1], 1)
        changes.append(abs(float(reward(alone).sum()) - float(row[0])))
    return max(changes)
