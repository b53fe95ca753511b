"""What a judge that the optimiser never saw says of responses to held-out questions, and how that becomes a run's results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data import segments_of
from paradox_utils.data.records import Judge
from paradox_utils.data.tasks import TASKS, counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Prompts, Responses, choose
from paradox_utils.rewards.judges import REWARDS, RewardFunction
from paradox_utils.rewards.measures import agreement, distinct, repetition, rouge_l

WHEN = ("start", "final", "best")
SAMPLED = ("lm_performance", "true_return", "length", "segments", "repetition", "distinct_2", "rouge_l")
SHAPES = ("length", "segments", "repetition")  # measures of greedy responses that a curve has of its rollouts too
REWARD_METRICS = ("accuracy", "accuracy_noisy", "balanced_accuracy", "majority", "f1", "calibration_error", "error_share")


@dataclass(frozen=True)
class Scores:
    """What the evaluator says: measures of all responses together, and of each question its ``good`` part of ``segments`` (for
    completeness the score of one segment), so that Σ good / Σ segments is the LM performance."""

    measures: dict[str, float]
    good: list[float]
    segments: list[float]


def evaluation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    judge: Judge,
    true_reward: RewardFunction | None,
    p: config.PPO,
) -> Callable[..., Scores]:
    """A function from prompts to the :class:`Scores` of greedy responses, or of one ``sampled`` a prompt at the training
    temperature (the same random numbers each time). Measures: ``lm_performance``, ``true_return`` (NaN without an oracle), and
    the shape of responses."""

    def evaluate(prompts: Prompts, sampled: bool = False) -> Scores:
        values, returns, lengths, ended, texts = [], [], [], [], []
        order = range(len(prompts.questions))
        heat = p.temperature if sampled else None
        for start in order[:: p.evaluation_batch]:
            part = choose(prompts, list(order[start : start + p.evaluation_batch]))
            responses = generate(model, tokenizer, part, p.response_limit, 1, heat, seed="evaluation")
            values += judged(p, judge, responses)
            lengths += responses.mask.sum(1).tolist()
            ended += finished(responses, tokenizer)
            texts += responses.texts
            if true_reward is not None:
                returns += true_reward(responses).sum(1).tolist()
        good, segments = counts(values, p.task)
        references = [question.references for question in prompts.questions]
        measures = {
            "lm_performance": sum(good) / sum(segments),
            "true_return": float(np.mean(returns)) if returns else float("nan"),
            "length": float(np.mean(lengths)),
            "segments": float(np.mean([len(v) for v in values])),
            "unfinished": 1 - float(np.mean(ended)),
            "repetition": float(np.mean([repetition(text) for text in texts])),
            "distinct_2": distinct(texts, 2),
            "rouge_l": float(np.mean([rouge_l(text, known) for text, known in zip(texts, references, strict=True)])),
        }
        return Scores(measures, good, segments)

    return evaluate


def finished(responses: Responses, tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """Whether each response came to an end of sequence."""
    return (responses.ids == tokenizer.eos_token_id).any(1).tolist()


def judged(p: config.PPO, judge: Judge, responses: Responses) -> list[list[float]]:
    """What the judge says of each segment of each response."""
    return judge(responses.questions, responses.texts, segments_of(p, responses.texts, p.task))


def named(scores: Scores) -> dict[str, float]:
    """Measures of greedy responses under the names of results and curves, where ``length`` is that of a rollout."""
    return {f"greedy_{name}" if name in SHAPES else name: value for name, value in scores.measures.items()}


def results_of(metrics: dict, scores: dict[str, Scores | None], probed: dict[str, float], curve: pd.DataFrame) -> dict:
    """A run's results: ``metrics`` of who rewards, and what its ``scores`` on test questions, probe and curve come to.

    ``*_start``, ``*_final`` and ``*_best`` (what validation chose) are of greedy responses, ``sampled_*`` of ones sampled at
    the training temperature; None where there was nothing to measure. ``lm_performance_best_logged`` is the published reading:
    the maximum over logged validation evaluations.
    """
    results = {f"rm_{name}": metrics.get(name) for name in REWARD_METRICS}
    names = named(scores["start"])
    for when in WHEN:
        found = named(scores[when]) if scores[when] else {}
        results |= {f"{name}_{when}": found.get(name) for name in names}
    for when in ("start", "final"):
        sampled = scores.get(f"sampled_{when}")
        results |= {f"sampled_{name}_{when}": sampled.measures[name] if sampled else None for name in SAMPLED}
    results |= {name: None if math.isnan(value) else value for name, value in probed.items()}
    results |= {
        "lm_performance_best_logged": float(curve["lm_performance"].max()),
        "kl_final": float(curve["kl"].iloc[-1]),
        "updates": int(curve["update"].iloc[-1]) if "update" in curve else 0,  # of an optimiser that trains nothing
    }
    lost = ("truncated_prompts", "truncated_rm_inputs")
    return results | {name: int(curve[name].sum()) if name in curve else 0 for name in lost}


def questions_table(scores: dict[str, Scores | None]) -> pd.DataFrame:
    """One row an evaluation of the test questions: ``good`` and ``segments`` of each, in order, parted by spaces."""

    def joined(values: list[float]) -> str:
        return " ".join(f"{value:g}" for value in values)

    found = {when: scores[when] for when in WHEN if scores[when]}
    return pd.DataFrame([{"when": w, "good": joined(s.good), "segments": joined(s.segments)} for w, s in found.items()])


def compared(p: config.PPO, rewards: Tensor, true: Tensor, samples: int) -> Tensor:
    """Rewards beside true rewards, [B, T] each: of each response its true return, and its agreeing and compared items, [B, 3].

    ``samples``: responses to a prompt. A control without labels has nothing to agree with: no items, for any value.
    """
    agreeing, items = agreement(rewards.cpu().numpy(), true.cpu().numpy(), samples, TASKS[p.task].pairwise)
    some = not REWARDS[p.reward].blind
    columns = true.sum(1).cpu(), torch.tensor(agreeing * some), torch.tensor(items * some)
    return torch.stack([column.double() for column in columns], 1)
