"""LM performance: what a judge that PPO never saw says of responses to held-out questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data import segments_of
from paradox_utils.data.records import Judge
from paradox_utils.data.tasks import counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Prompts, choose
from paradox_utils.rewards.judges import RewardFunction
from paradox_utils.rewards.measures import distinct, rouge_l


@dataclass(frozen=True)
class Scores:
    """What the evaluator says: measures of all responses together, and of each question its ``good`` part of ``segments`` (for
    completeness the score of one segment), so that Σ good / Σ segments is the LM performance."""

    measures: dict[str, float]
    good: list[float]
    segments: list[int]


Evaluation = Callable[..., Scores]


def evaluation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    judge: Judge,
    true_reward: RewardFunction | None,
    p: config.PPO,
) -> Evaluation:
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
            offsets = segments_of(p, responses.texts, p.task)
            values += judge(responses.questions, responses.texts, offsets)
            lengths += responses.mask.sum(1).tolist()
            ended += (responses.ids == tokenizer.eos_token_id).any(1).tolist()
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
            "distinct_2": distinct(texts, 2),
            "rouge_l": float(np.mean([rouge_l(text, known) for text, known in zip(texts, references, strict=True)])),
        }
        return Scores(measures, good, segments)

    return evaluate
