"""The stage ``ppo``, from its parameters to its results: what notebook 04 calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from paradox_utils import config, ppo, reward_model, sources
from paradox_utils.data.records import DataError, Feedback, Question
from paradox_utils.evaluate import evaluation
from paradox_utils.models import ModelError, device_of, load_policy, load_value_model
from paradox_utils.rewards import (
    Centre,
    Judge,
    dial_of,
    exact_centre,
    measure_judge,
    model_judge,
    oracle_judge,
    reward_function,
)
from paradox_utils.rollout import encode_prompts
from paradox_utils.store import resolve

transformers_logging.disable_progress_bar()


def run_ppo(p: config.PPO, folder: Path, report: Callable[[dict], None] = lambda row: None) -> tuple[ppo.Outcome, dict]:
    """Stage ``ppo``: how the run ended, and its results on validation and test questions.

    ``lm_performance_start``, ``_final`` and ``_best`` (the policy that validation chose) are on test questions;
    ``lm_performance_best_logged`` is the published reading: the maximum over logged validation evaluations.
    """
    splits = sources.load_splits(p)
    actors = load_actors(p)
    judged = sources.load_feedback(p, resolve(p.feedback)) if p.source == "atlas" else {}
    reward, metrics, cut = reward_of(p, actors.tokenizer, judged)
    truth = None
    if p.source == "atlas":
        exact = p.model_copy(update={"reward": "model"})  # a scale-matched dial is divided by its shrinkage, the truth is not
        truth = reward_function(actors.tokenizer, oracle_judge(p.task), exact_centre(p.task, judged), exact)
    evaluate = evaluation(actors.policy, actors.tokenizer, evaluator_of(p), truth, p)
    validation = encode_prompts(actors.policy, actors.tokenizer, splits.validation, p.prompt_limit)
    test = encode_prompts(actors.policy, actors.tokenizer, splits.test, p.prompt_limit)
    start = evaluate(test)
    rng = random.Random(f"prompts {p.seed}")
    truncated = 0

    def prompts(update: int):  # noqa: ANN202
        nonlocal truncated
        chosen: list[Question] = rng.sample(splits.train, min(p.prompts_per_update, len(splits.train)))
        batch = encode_prompts(actors.policy, actors.tokenizer, chosen, p.prompt_limit)
        truncated += batch.truncated
        return batch

    outcome = ppo.train(p, actors, prompts, reward, lambda: evaluate(validation), report)
    final = evaluate(test)
    actors.policy.save_pretrained(folder / "model")
    actors.tokenizer.save_pretrained(folder / "model")
    actors.policy.load_state_dict(outcome.best)
    best = evaluate(test)
    logged = outcome.curve["lm_performance"].dropna()
    results = {
        f"rm_{name}": metrics.get(name) for name in ("accuracy", "accuracy_noisy", "balanced_accuracy", "majority", "f1")
    }
    for name in ("lm_performance", "true_return", "greedy_length", "greedy_segments", "unfinished"):
        results |= {f"{name}_start": start[name], f"{name}_final": final[name], f"{name}_best": best[name]}
    results |= {
        "lm_performance_best_logged": float(logged.max()),
        "kl_final": outcome.kl,
        "updates": int(outcome.curve["update"].iloc[-1]),
        "truncated_prompts": truncated,
        "truncated_evaluation_prompts": validation.truncated + test.truncated,
        "truncated_rm_inputs": cut(),
    }
    outcome.curve.to_csv(folder / "curve.csv", index=False)
    return outcome, results


def load_actors(p: config.PPO) -> ppo.Actors:
    """Policy, reference and value model on their device."""
    device = device_of(p.device)
    policy, tokenizer = load_policy(p.policy)
    shared = p.value_model == "shared"
    value = load_value_model(p.policy if shared else p.value_weights or p.policy, shared, p.seed)
    mine, its = policy.config, value.body.config if value.body is not None else policy.config
    if (its.is_encoder_decoder, its.vocab_size) != (mine.is_encoder_decoder, mine.vocab_size):
        raise ModelError(
            f"value_weights = {p.value_weights!r}: a model of another kind or vocabulary than the policy {p.policy!r}, whose "
            "tokens it would read; name one of the same family"
        )
    return ppo.Actors(policy.to(device), ppo.frozen_copy(policy).to(device), value.to(device), tokenizer)


def reward_of(p: config.PPO, tokenizer: PreTrainedTokenizerFast, judged: dict[str, list[Feedback]]):  # noqa: ANN201
    """The reward function that ``p`` asks for, the metrics of who gives it, and a count of its truncated inputs."""
    if p.reward == "dial":
        judge, centre = dial_of(p, judged)
        return reward_function(tokenizer, judge, centre, p), measure_judge(judge, p, judged["heldout"]), lambda: 0
    checkpoint = resolve(p.reward_model.format(task=p.task))
    scorer = reward_model.load_scorer(checkpoint, p.task, p, p.rm_micro_batch)
    stored = checkpoint / "metrics.json"
    metrics = json.loads(stored.read_text()) if stored.is_file() else {}
    if p.task == "completeness" and not {"score_mean", "score_std"} <= metrics.keys():
        raise DataError(
            f"{stored}: needs score_mean and score_std, mean and deviation of the model's scores on its training responses, "
            "to scale a completeness reward; write them there"
        )
    centre = Centre(metrics.get("score_mean", 0.0), metrics.get("score_std", 1.0))
    return reward_function(tokenizer, model_judge(scorer, p), centre, p), metrics, lambda: scorer.truncated


def evaluator_of(p: config.PPO) -> Judge:
    """Who scores the policy: the oracle, or a reward model by its arg-max labels."""
    if p.evaluator == "oracle":
        return oracle_judge(p.task)
    scorer = reward_model.load_scorer(resolve(p.evaluator), p.task, p, p.rm_micro_batch)
    return model_judge(scorer, p.model_copy(update={"reward_form": "arg-max"}))
