"""The policy's own responses to the prompts, sampled as in the training to come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from paradox_utils import config, threads
from paradox_utils.choose.inputs import Asked, templated
from paradox_utils.data.records import Question
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import ModelError, device_of, load_policy
from paradox_utils.policies.prompts import Prompts, encode_prompts, prompt_room

transformers_logging.disable_progress_bar()
TOGETHER = 512  # responses sampled at a time


def sample(p: config.Choose, asked: Sequence[Asked]) -> tuple[list[list[str]], int]:
    """``p.samples`` responses to each prompt, and how many prompts were cut; raises :class:`ModelError` where the policy cannot
    answer them."""
    threads.use({"policy": p.policy})
    policy, tokenizer = load_policy(p.policy)
    policy.to(device_of(p.device))
    room, texts, cut = prompt_room(policy, tokenizer, p), [], 0
    size = max(1, TOGETHER // p.samples)
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        prompts = (
            _own(policy, tokenizer, part, room) if p.prompts else encode_prompts(policy, tokenizer, _questions(part), room)
        )
        made = generate(policy, tokenizer, prompts, p.response_limit, p.samples, p.temperature, p.top_k, f"choose {p.seed}")
        texts += [made.texts[i : i + p.samples] for i in range(0, len(made.texts), p.samples)]
        cut += prompts.truncated
    return texts, cut


def _questions(part: Sequence[Asked]) -> list[Question]:
    return [one.question for one in part]


def _own(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, part: Sequence[Asked], room: int) -> Prompts:
    """The user's prompts, by the policy's chat template where it has one; cut from their beginning."""
    causal, ids = not policy.config.is_encoder_decoder, []
    has_template = getattr(tokenizer, "chat_template", None) is not None
    for one in part:
        if has_template:
            text = templated(tokenizer, one.prompt)
        elif isinstance(one.prompt, str):
            text = one.prompt
        else:
            raise ModelError("policy: prompts are messages, and its tokenizer has no chat template; give them as text")
        ids.append(tokenizer(text, add_special_tokens=not has_template, verbose=False).input_ids)
    rows = [row[-room:] for row in ids]
    longest = max(map(len, rows))
    pad = tokenizer.pad_token_id
    left = [[pad] * (longest - len(row)) + row if causal else row + [pad] * (longest - len(row)) for row in rows]
    mask = [
        [0] * (longest - len(row)) + [1] * len(row) if causal else [1] * len(row) + [0] * (longest - len(row)) for row in rows
    ]
    tensors = (torch.tensor(one, device=policy.device) for one in (left, mask))
    return Prompts(_questions(part), *tensors, sum(len(row) > room for row in ids))
