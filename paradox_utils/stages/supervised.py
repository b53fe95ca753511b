"""The stage ``supervised``, from its parameters to its results: what notebook 02 calls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data
from paradox_utils.data.tasks import MARKED, lm_performance
from paradox_utils.policies import supervised
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import device_of, load_policy
from paradox_utils.policies.prompts import Responses, encode_prompts, prompt_room

transformers_logging.disable_progress_bar()


def supervised_policy(p: config.Supervised, folder: Path) -> tuple[pd.DataFrame, dict, Responses]:
    """Stage ``supervised``: losses, results, and the greedy responses to the validation questions."""
    losses = supervised.train(p, folder)
    model, tokenizer = load_policy(str(folder / "model"))
    model.to(device_of(p.device))
    prompts = encode_prompts(model, tokenizer, data.load_splits(p).validation, prompt_room(model, tokenizer, p))
    responses = generate(model, tokenizer, prompts, p.response_limit)
    results = {"final_loss": None if losses.empty else float(losses["loss"].iloc[-1]), "truncated_prompts": prompts.truncated}
    if p.steps:
        results |= supervised.cut(model, tokenizer, p)
    for task in MARKED:
        if (exact := data.oracle_of(p, task)) is not None:
            values = exact(responses.questions, responses.texts, data.segments_of(p, responses.texts, task))
            results[f"lm_performance_{task}"] = lm_performance(values, task)
    return losses, results, responses
