"""LM performance: what a judge that PPO never saw says of greedy responses to held-out questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data.segments import segment
from paradox_utils.generation import generate
from paradox_utils.rewards import Judge, RewardFunction
from paradox_utils.rollout import Prompts, choose
from paradox_utils.sources import splitter_of

Evaluation = Callable[[Prompts], dict[str, float]]


def evaluation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    judge: Judge,
    true_reward: RewardFunction | None,
    p: config.PPO,
) -> Evaluation:
    """A function from prompts to ``lm_performance``, ``true_return`` (NaN without an oracle), and the shape of responses."""

    def evaluate(prompts: Prompts) -> dict[str, float]:
        values, returns, lengths, ended = [], [], [], []
        order = range(len(prompts.questions))
        for start in order[:: p.evaluation_batch]:
            part = choose(prompts, list(order[start : start + p.evaluation_batch]))
            responses = generate(model, tokenizer, part, p.response_limit)
            offsets = [segment(text, p.task, splitter_of(p)) for text in responses.texts]
            values += judge(responses.questions, responses.texts, offsets)
            lengths += responses.mask.sum(1).tolist()
            ended += (responses.ids == tokenizer.eos_token_id).any(1).tolist()
            if true_reward is not None:
                returns += true_reward(responses).sum(1).tolist()
        return {
            "lm_performance": lm_performance(values, p.task),
            "true_return": float(np.mean(returns)) if returns else float("nan"),
            "greedy_length": float(np.mean(lengths)),
            "greedy_segments": float(np.mean([len(v) for v in values])),
            "unfinished": 1 - float(np.mean(ended)),
        }

    return evaluate


def lm_performance(values: list[list[float]], task: config.TaskName) -> float:
    """The pooled share of good segments (a response without any counts as one bad one); for completeness the mean score."""
    if task == "completeness":
        return float(np.mean([v[0] for v in values]))
    good = sum(value > 0 for row in values for value in row)
    return good / sum(max(1, len(row)) for row in values)
