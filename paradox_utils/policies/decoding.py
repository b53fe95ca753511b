"""Sampling and greedy decoding: a prompt is read once for its K samples, and what is finished is dropped on the way.

A response depends on nothing but the policy, the prompt and its own stream of random numbers, never on what it is batched with,
so runs may be cut in passes or spread over processes at will.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

from paradox_utils.policies import t5
from paradox_utils.policies.passes import encoded, positions, prefilled
from paradox_utils.policies.prompts import Prompts, Responses, decode


class NonFiniteLogitsError(ArithmeticError):
    """A policy with NaN or infinite logits: nothing can be sampled from it."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    limit: int,
    samples: int = 1,
    temperature: float | None = None,
    top_k: int = 0,
    seed: int | str = 0,
    lengths: Tensor | None = None,
) -> Responses:
    """``samples`` responses a prompt of at most ``limit`` tokens; ``temperature`` None decodes greedily.

    ``seed`` keys the random numbers of sampling (with the prompt and the number of the sample). ``lengths`` [B] imposes the
    number of tokens, end of sequence included (random weights rarely stop by themselves: for benchmarks).
    Sampling raises :class:`NonFiniteLogitsError` where the policy is broken.
    """
    draws = None
    if temperature is not None:
        streams = [_stream(seed, question.prompt, k, limit) for question in prompts.questions for k in range(samples)]
        draws = torch.tensor(np.stack(streams), dtype=torch.float32, device=prompts.ids.device)
    ids = torch.full((len(prompts.questions) * samples, limit), tokenizer.pad_token_id, device=prompts.ids.device)
    end = tokenizer.eos_token_id
    with torch.inference_mode():
        state = (_T5State if t5.speaks(model) else _State)(model, prompts, samples, limit)
        rows = torch.arange(len(ids), device=ids.device)  # of the responses still at work
        for step in range(limit):
            logits = state.next_logits(ids[rows, :step]).float()
            if lengths is not None:
                logits[:, end] = -torch.inf
                ending = lengths[rows] == step + 1
                logits[ending] = -torch.inf
                logits[ending, end] = 0.0
            ids[rows, step] = logits.argmax(-1) if draws is None else _sample(logits, draws[rows, step], temperature, top_k)
            live = ~(ids[rows, : step + 1] == end).any(1).view(-1, samples).all(1)  # prompts with a response that goes on
            if not (count := int(live.sum())):
                break
            if count <= 0.75 * len(live):  # dropping costs a copy of the cache
                chosen = live.nonzero().flatten()
                kept = (chosen[:, None] * samples + torch.arange(samples, device=ids.device)).flatten()
                state.keep(chosen, kept)
                rows = rows[kept]
    ended = (ids == end).cumsum(1)
    mask = ((ended == 0) | ((ended == 1) & (ids == end))).long()
    longest = int(mask.sum(1).max())
    ids = torch.where(mask.bool(), ids, tokenizer.pad_token_id)[:, :longest]
    responses = Responses(prompts, ids, mask[:, :longest], [], samples)
    responses.texts = decode(tokenizer, responses.tokens())
    return responses


def _stream(seed: int | str, prompt: str, sample: int, limit: int) -> np.ndarray:
    """Uniform random numbers in [0, 1) for the tokens of one response."""
    key = hashlib.blake2b(f"{seed}\0{prompt}\0{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(limit, dtype=np.float32)


def _sample(logits: Tensor, draw: Tensor, temperature: float, top_k: int) -> Tensor:
    """Tokens [B] by inversion of the cumulative distribution at ``draw`` [B], of softmax(logits / T) over the top k."""
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    if not torch.isfinite(total).all():
        raise NonFiniteLogitsError("the policy's logits are not finite")
    # the first token whose cumulative probability exceeds the draw: one of probability 0 never does
    tokens = torch.searchsorted(cumulative, (draw[:, None] * total).clamp(max=total.nextafter(total.new_zeros(()))), right=True)
    return tokens.flatten()


class _RoomyLayer(DynamicLayer):
    """Keys and values in room for ``more`` tokens, made once: a step writes its own token where a growing cache would copy all
    that stand before it. ``begun``: what has been read already."""

    def __init__(self, more: int, begun: DynamicLayer | None = None) -> None:
        super().__init__()
        self.more = more
        self.stores: tuple[Tensor, ...] = ()
        if begun is not None:
            self.update(begun.keys, begun.values)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens; keys and values [B, heads, tokens so far, width]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, tokens = self.get_seq_length(), key_states.shape[-2]
        if not self.stores:
            batch, heads, _, _ = key_states.shape
            new = (key_states, value_states)
            self.stores = tuple(one.new_empty(batch, heads, tokens + self.more, one.shape[-1]) for one in new)
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, before : before + tokens] = new
        return self._show(before + tokens)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone."""
        length = self.get_seq_length()
        self.stores = tuple(store[indices] for store in self.stores)
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (store[:, :, :length] for store in self.stores)
        return self.keys, self.values


class _State:
    """What a policy remembers between the steps of decoding: its cache, and what it has read of the prompts."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, samples: int, limit: int) -> None:
        self.model, self.samples = model, samples
        if model.config.is_encoder_decoder:
            self.read = encoded(model, prompts, samples)
            self.cache = EncoderDecoderCache(
                Cache(layer_class_to_replicate=functools.partial(_RoomyLayer, limit)), DynamicCache()
            )
        else:
            self.read = {"mask": prompts.mask}
            self.cache, self.first = prefilled(model, prompts, samples)
            for index, layer in enumerate(self.cache.layers):
                if type(layer) is DynamicLayer:  # others, such as sliding windows, have a way of their own
                    self.cache.layers[index] = _RoomyLayer(limit, layer)

    def next_logits(self, before: Tensor) -> Tensor:
        """Logits [B, V] of the token that follows ``before`` [B, t], all of which but the last has been read."""
        if self.model.config.is_encoder_decoder:
            inputs = self.read | {"decoder_input_ids": _last(self.model, before)}
        elif before.shape[1] == 0:
            return self.first
        else:
            places = positions(self.read["mask"], self.samples, torch.ones_like(before))
            inputs = {"input_ids": before[:, -1:], "attention_mask": places["attention_mask"]}
            inputs["position_ids"] = places["position_ids"][:, -1:]
        return self.model(**inputs, past_key_values=self.cache, use_cache=True).logits[:, -1]

    def keep(self, chosen: Tensor, rows: Tensor) -> None:
        """Go on with the responses (at ``rows``) to the ``chosen`` prompts alone."""
        if not self.model.config.is_encoder_decoder:
            self.read = {"mask": self.read["mask"][chosen]}
            self.cache.batch_select_indices(rows)
            return
        self.read = {
            "encoder_outputs": (self.read["encoder_outputs"][0][rows],),
            "attention_mask": self.read["attention_mask"][rows],
        }
        self.cache.self_attention_cache.batch_select_indices(rows)
        self.cache.cross_attention_cache.batch_select_indices(rows)


class _T5State:
    """The same of T5 and mT5, whose passes are :mod:`.t5`'s."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, samples: int, limit: int) -> None:
        self.model, self.samples = model, samples
        self.prompt, self.answer = t5.read(model, prompts.ids, prompts.mask), t5.Answer(model.decoder, limit)

    def next_logits(self, before: Tensor) -> Tensor:
        """As of :class:`_State`."""
        states = t5.write(self.model, _last(self.model, before), self.prompt, self.samples, self.answer)
        return t5.logits(self.model, states[:, -1])

    def keep(self, chosen: Tensor, rows: Tensor) -> None:
        """As of :class:`_State`."""
        t5.keep(self.prompt, self.answer, chosen, rows)


def _last(model: PreTrainedModel, before: Tensor) -> Tensor:
    """The token [B, 1] that a decoder reads next: the last of ``before`` [B, t], or its start."""
    return before[:, -1:] if before.shape[1] else before.new_full((len(before), 1), model.config.decoder_start_token_id)
