"""Prompts to responses, and the forward passes over both: encoder-decoder and decoder-only policies look alike from here.

Shapes: P prompts, K samples each, B = P·K responses (the K of one prompt adjacent), S prompt tokens, T response tokens,
V words, D model width. The K responses to a prompt share one encoder pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils.data.records import DataError, Question

CUE = " answer:"  # tells a decoder-only policy where the prompt ends


class NonFiniteLogitsError(ArithmeticError):
    """A policy with NaN or infinite logits: nothing can be sampled from it."""


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
        return [row[: int(length)].tolist() for row, length in zip(self.ids, self.mask.sum(1), strict=True)]


def encode_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question], limit: int
) -> Prompts:
    """Prompts padded to the longest of the batch and cut to ``limit`` tokens (their number is counted)."""
    if not questions:
        raise DataError("no prompts: the data holds no question for this use; raise train_, validation_ or test_questions")
    causal = not model.config.is_encoder_decoder
    tail = tokenizer(CUE, add_special_tokens=False).input_ids if causal else [tokenizer.eos_token_id]
    if limit <= len(tail):
        raise DataError(f"prompt_limit = {limit}: leaves no room for a prompt; allow more than {len(tail)} tokens")
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


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    limit: int,
    samples: int = 1,
    temperature: float | None = None,
    top_k: int = 0,
) -> Responses:
    """``samples`` responses a prompt of at most ``limit`` tokens; ``temperature`` None decodes greedily.

    Sampling raises :class:`NonFiniteLogitsError` where the policy is broken.
    """
    how = {"do_sample": False}
    if temperature is not None:
        watch = LogitsProcessorList([_refuse_non_finite])
        how = {"do_sample": True, "temperature": temperature, "top_k": top_k, "logits_processor": watch}
    output = model.generate(
        input_ids=prompts.ids, attention_mask=prompts.mask, max_new_tokens=limit, num_return_sequences=samples, **how
    )
    ids = output[:, 1:] if model.config.is_encoder_decoder else output[:, prompts.ids.shape[1] :]
    ended = (ids == tokenizer.eos_token_id).cumsum(1)
    mask = ((ended == 0) | ((ended == 1) & (ids == tokenizer.eos_token_id))).long()
    ids = torch.where(mask.bool(), ids, tokenizer.pad_token_id)
    rows = [row[: int(length)] for row, length in zip(ids, mask.sum(1), strict=True)]
    return Responses(prompts, ids, mask, decode(tokenizer, rows), samples)


def _refuse_non_finite(ids: Tensor, scores: Tensor) -> Tensor:
    if not (scores < torch.inf).all():  # NaN compares false; −∞ is a token ruled out
        raise NonFiniteLogitsError("the policy's logits are not finite")
    return scores


def decode(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[int] | Tensor]) -> list[str]:
    """Token ids to texts, without special tokens and without tidying spaces: offsets must stay true."""
    return tokenizer.batch_decode(list(rows), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def forward(model: PreTrainedModel, responses: Responses, head: bool = True) -> tuple[Tensor | None, Tensor]:
    """Logits [B, T, V] that predict each response token (None without ``head``), and the states [B, T, D] they come from.

    ``model`` is a policy, or with ``head`` False a body without a language-model head (of a value model).
    """
    prompts, samples = responses.prompts, responses.samples
    if model.config.is_encoder_decoder:
        encoded = model.get_encoder()(input_ids=prompts.ids, attention_mask=prompts.mask).last_hidden_state
        start = torch.full_like(responses.ids[:, :1], model.config.decoder_start_token_id)
        inputs = {
            "encoder_outputs": (encoded.repeat_interleave(samples, 0),),
            "attention_mask": prompts.mask.repeat_interleave(samples, 0),
            "decoder_input_ids": torch.cat([start, responses.ids[:, :-1]], 1),
        }
        window = slice(None)
    else:
        mask = torch.cat([prompts.mask.repeat_interleave(samples, 0), responses.mask], 1)
        inputs = {
            "input_ids": torch.cat([prompts.ids.repeat_interleave(samples, 0), responses.ids], 1),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }
        window = slice(prompts.ids.shape[1] - 1, -1)
    if not head:
        return None, model(**inputs, use_cache=False).last_hidden_state[:, window]
    output = model(**inputs, use_cache=False, output_hidden_states=True)
    states = output.decoder_hidden_states if model.config.is_encoder_decoder else output.hidden_states
    return output.logits[:, window], states[-1][:, window]


def take(responses: Responses, first: int, last: int) -> Responses:
    """The responses to prompts ``first`` to ``last`` (exclusive)."""
    prompts, rows = responses.prompts, slice(first * responses.samples, last * responses.samples)
    some = Prompts(prompts.questions[first:last], prompts.ids[first:last], prompts.mask[first:last], 0)
    return Responses(some, responses.ids[rows], responses.mask[rows], responses.texts[rows], responses.samples)
