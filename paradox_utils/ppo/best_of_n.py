"""Best-of-n: the optimiser that trains nothing. Its answer is the one with the highest reward among n sampled responses."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paradox_utils import config
from paradox_utils.data.tasks import counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Prompts, Responses, choose
from paradox_utils.ppo import processes
from paradox_utils.ppo.evaluate import Scores, judged
from paradox_utils.ppo.loop import Actors, Outcome, Rewards, Setting
from paradox_utils.rewards.measures import best_of_n


class Earned(NamedTuple):
    """What sampled responses have, [prompts, samples] each: their reward, their true return (NaN without an oracle), and by the
    evaluator their ``good`` part of so many ``segments``."""

    reward: np.ndarray
    true_return: np.ndarray
    good: np.ndarray
    segments: np.ndarray


def run(s: Setting) -> Outcome:
    """Choose by the reward among 1, 2, 4, … up to ``probe_samples`` responses to each validation and test question.

    The curve has a row a number of responses ``n``. The final answers are those of the largest n, the best those of the n with
    the highest LM performance on validation questions.
    """
    cut = s.rewards.cut()
    validation, test = processes.agreed(lambda: [_asked(s, s.questions[name]) for name in ("validation", "test")])
    curve, reported = (pd.DataFrame(table(own)) for own in (validation, test))
    curve = curve.rename(columns={"reward": "reward_mean"}).assign(update=0)  # nothing was trained
    curve[["test_lm_performance", "test_true_return"]] = reported[["lm_performance", "true_return"]]
    curve["truncated_rm_inputs"] = [s.rewards.cut() - cut] + [0] * (len(curve) - 1)  # the first row read them for all
    best = curve["n"][curve["lm_performance"].idxmax()]  # of equals the smaller
    scores = {"final": _scores(test, curve["n"].iloc[-1]), "best": _scores(test, best)}
    finite = np.isfinite(validation.reward).all() and np.isfinite(test.reward).all()
    status, reason = ("ok", "") if finite else ("diverged", "the reward is not finite; check the reward model")
    return Outcome(curve, status, reason, scores=scores)


class Drawn(NamedTuple):
    """Sampled responses, their rewards and true rewards [B, T] (NaN without an oracle), and what they have."""

    responses: Responses
    given: Tensor
    true: Tensor
    earned: Earned


def draw(p: config.PPO, actors: Actors, prompts: Prompts, rewards: Rewards) -> Drawn:
    """``probe_samples`` responses to each prompt."""
    how = {"samples": p.probe_samples, "temperature": p.temperature, "top_k": p.top_k, "seed": "probe"}
    responses = generate(actors.policy, actors.tokenizer, prompts, p.response_limit, **how)
    given = rewards.given(responses)
    true = rewards.true(responses) if rewards.true else torch.full_like(given, torch.nan)
    good, segments = counts(judged(p, rewards.evaluator, responses), p.task)
    parts = given.cpu().numpy().sum(1), true.cpu().numpy().sum(1), np.array(good), np.array(segments, dtype=float)
    return Drawn(responses, given, true, Earned(*(part.reshape(-1, p.probe_samples) for part in parts)))


def table(own: Earned) -> list[dict[str, float]]:
    """What the best of n responses are expected to have, over all subsets of those sampled: a row for n = 1, 2, 4, …"""
    return [
        {
            "n": n,
            "kl": math.log(n) - (n - 1) / n,  # of best-of-n from the policy, an upper bound (Beirami et al. 2024)
            "reward": best_of_n(own.reward, own.reward, n),
            "true_return": best_of_n(own.reward, own.true_return, n),
            "lm_performance": best_of_n(own.reward, own.good, n) / best_of_n(own.reward, own.segments, n),
        }
        for n in (2**k for k in range(own.reward.shape[1].bit_length()))
    ]


def _asked(s: Setting, prompts: Prompts) -> Earned:
    """What responses to all the prompts have, sampled in parts of about as many responses as an evaluation's."""
    places, size = range(len(prompts.questions)), max(1, s.p.evaluation_batch // s.p.probe_samples)
    groups = [choose(prompts, places[start : start + size]) for start in places[::size]]
    parts = [draw(s.p, s.actors, group, s.rewards).earned for group in groups]
    return Earned(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _scores(own: Earned, n: int) -> Scores:
    """The best of n as an evaluation: the expected numbers of good segments and of segments in the answer to each question."""

    def expected(outcome: np.ndarray) -> list[float]:
        return [best_of_n(reward[None], values[None], n) for reward, values in zip(own.reward, outcome, strict=True)]

    good, segments, returns = expected(own.good), expected(own.segments), expected(own.true_return)
    return Scores({"lm_performance": sum(good) / sum(segments), "true_return": float(np.mean(returns))}, good, segments)
