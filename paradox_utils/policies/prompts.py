"""Prompts and responses as tensors, whatever the kind of policy.

Shapes: P prompts, K samples each, B = P·K responses (the K of one prompt adjacent), S prompt tokens, T response tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data.records import DataError, Question
from paradox_utils.policies.models import ModelError, positions_of

CUE = " answer:"  # tells a decoder-only policy where the prompt ends


@dataclass
class Prompts:
    """Tokenised prompts: ``ids`` and ``mask`` [P, S]; padding left for decoder-only policies, right for the others."""

    questions: list[Question]
    ids: Tensor
    mask: Tensor
    truncated: int


@dataclass
class Responses:
    """Sampled responses to prompts: ``ids`` and ``mask`` [B, T]; the mask is 1 up to and including the end of sequence."""

    prompts: Prompts
    ids: Tensor
    mask: Tensor
    texts: list[str]
    samples: int

    @property
    def questions(self) -> list[Question]:
        """The question of each response, B long."""
        return [question for question in self.prompts.questions for _ in range(self.samples)]

    def tokens(self) -> list[list[int]]:
        """Token ids of each response without padding."""
        return [row[:length] for row, length in zip(self.ids.tolist(), self.mask.sum(1).tolist(), strict=True)]


def tail_of(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, limit: int) -> list[int]:
    """The tokens that end a prompt, for which ``limit`` must leave room."""
    apart = network.config.is_encoder_decoder
    tail = [tokenizer.eos_token_id] if apart else tokenizer(CUE, add_special_tokens=False).input_ids
    if limit <= len(tail):
        raise DataError(f"prompt_limit = {limit}: leaves no room for a prompt; allow more than {len(tail)} tokens")
    return tail


def prompt_room(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, p: config.Source) -> int:
    """Tokens that a prompt may have: ``p.prompt_limit``, or what the network's positions leave it beside the response.

    Raises :class:`ModelError` where that is nothing, or the positions do not even hold the response.
    """
    least, apart = len(tail_of(network, tokenizer, p.prompt_limit)) + 1, network.config.is_encoder_decoder
    parts = (network.get_encoder(), network.get_decoder()) if apart else (network, network)
    reads, writes = map(positions_of, parts)
    room = p.prompt_limit if reads is None else min(p.prompt_limit, reads if apart else reads - p.response_limit)
    if room < least or (writes is not None and writes < p.response_limit):
        raise ModelError(
            f"response_limit = {p.response_limit}: the {network.config.model_type} model has {writes} positions"
            f"{'' if apart else ', for prompt and response together'}; lower response_limit, or name another model"
        )
    return room


def encode_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], limit: int
) -> Prompts:
    """Prompts padded to the longest of the batch and cut to ``limit`` tokens (their number is counted)."""
    if not questions:
        raise DataError("no prompts: the data holds no question for this use; raise train_, validation_ or test_questions")
    causal, tail = not model.config.is_encoder_decoder, tail_of(model, tokenizer, limit)
    rows, truncated = [], 0
    for ids in tokenizer([q.prompt for q in questions], add_special_tokens=False).input_ids:
        truncated += len(ids) > limit - len(tail)
        rows.append(ids[: limit - len(tail)] + tail)
    longest = max(map(len, rows))
    pad = tokenizer.pad_token_id
    padded = [[pad] * (longest - len(r)) + r if causal else r + [pad] * (longest - len(r)) for r in rows]
    ones = [[0] * (longest - len(r)) + [1] * len(r) if causal else [1] * len(r) + [0] * (longest - len(r)) for r in rows]
    return Prompts(
        list(questions), torch.tensor(padded, device=model.device), torch.tensor(ones, device=model.device), truncated
    )


def decode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[int] | Tensor]) -> list[str]:
    """Token ids to texts, without special tokens and without tidying spaces: offsets must stay true."""
    return tokenizer.batch_decode(list(rows), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def choose(prompts: Prompts, chosen: Sequence[int]) -> Prompts:
    """Some of the prompts, in this order, without the padding that only the others needed."""
    mask = prompts.mask[chosen]
    used = mask.any(0)
    return Prompts([prompts.questions[i] for i in chosen], prompts.ids[chosen][:, used], mask[:, used], 0)


def take(responses: Responses, chosen: Sequence[int]) -> Responses:
    """The responses to some of the prompts, in this order, without the padding that only the others needed."""
    rows = rows_of(chosen, responses.samples)
    mask = responses.mask[rows]
    longest = int(mask.sum(1).max())
    texts = [responses.texts[row] for row in rows]
    ids, mask = responses.ids[rows, :longest], mask[:, :longest]
    return Responses(choose(responses.prompts, chosen), ids, mask, texts, responses.samples)


def rows_of(chosen: Sequence[int], samples: int) -> list[int]:
    """The rows [B] of the responses to the ``chosen`` prompts."""
    return [index * samples + k for index in chosen for k in range(samples)]


def passes(responses: Responses, tokens: int) -> Iterator[list[int]]:
    """Indices of prompts for one forward pass each, of at most ``tokens`` tokens with padding (a single prompt may have more).

    Prompts of similar length, and with responses of similar length, go together, so little is padded. 0: one pass over all.
    """
    lengths = responses.mask.sum(1).view(-1, responses.samples).amax(1).tolist()
    sizes = responses.prompts.mask.sum(1).tolist()
    if not tokens:
        yield list(range(len(sizes)))
        return
    group: list[int] = []
    widest = longest = 0
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i] + responses.samples * lengths[i]):
        widest, longest = max(widest, sizes[index]), max(longest, lengths[index])
        if group and (len(group) + 1) * (widest + responses.samples * longest) > tokens:
            yield group
            group, widest, longest = [], sizes[index], lengths[index]
        group.append(index)
    yield group
