"""Passes of T5 and mT5 in plain tensor operations on the weights of a transformers model: its layers without their wrappers,
which cost a small network more than its arithmetic does.

The K responses to a prompt read its keys and values together: queries [P·K, T, d] become [P, K·T, d], so nothing of the prompt
is repeated. The architecture is that of Raffel et al. 2020 (section 2.1; layer norms that only scale, before each part; a bias
learned by distance, shared by a stack's layers; attention without scaling), with the gated feed-forward of Shazeer 2020.

Shapes: P prompts, K samples each, B = P·K responses, S prompt tokens, T response tokens, H heads of width d, D model width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, linear, rms_norm, scaled_dot_product_attention
from transformers import MT5Config, PreTrainedModel, T5Config


@dataclass
class Prompt:
    """What a decoder remembers of the prompts it answers: keys and values [P, H, S, d] of each layer's cross-attention, and
    what it may not look at [P, 1, 1, S] (additive)."""

    layers: list[tuple[Tensor, Tensor]]
    blocked: Tensor


class Answer:
    """Keys and values of the tokens written so far, of each layer's self-attention, in room for ``limit`` tokens that is made
    once: a step writes its own token where a growing cache would copy all that stand before it."""

    def __init__(self, decoder: PreTrainedModel, limit: int) -> None:
        self.bias = _bias(decoder, limit, limit)
        self.layers: list[list[Tensor]] = [[] for _ in decoder.block]
        self.length = 0

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write those of the next token, [B, H, 1, d] each; all so far."""
        stores, rows = self.layers[layer], (len(keys), keys.shape[1], self.bias.shape[-1], keys.shape[3])
        if not stores:
            stores += [keys.new_empty(rows), values.new_empty(rows)]
        for store, new in zip(stores, (keys, values), strict=True):
            store[:, :, self.length : self.length + 1] = new
        first, second = (store[:, :, : self.length + 1] for store in stores)
        return first, second


def speaks(model: PreTrainedModel) -> bool:
    """Whether these passes are this model's."""
    return isinstance(model.config, T5Config | MT5Config)


def read(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Prompt:
    """Read prompts, ``ids`` and ``mask`` [P, S]: one encoder pass, and what the decoder keeps of it."""
    encoder, decoder = model.encoder, model.decoder
    states, drop = embedding(ids, encoder.embed_tokens.weight), _dropout(encoder)
    blocked = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
    blocked = blocked.masked_fill_(mask == 0, torch.finfo(states.dtype).min)[:, None, None]
    bias, states = _bias(encoder, ids.shape[1], ids.shape[1]) + blocked, drop(states)
    for block in encoder.block:
        own = block.layer[0].SelfAttention
        normed = _norm(block.layer[0].layer_norm, states)
        keys, values = _keys(own, normed)
        states = states + drop(_attended(own, normed, keys, values, bias))
        states = states + drop(_fed(block.layer[1], states, drop))
    states = drop(_norm(encoder.final_layer_norm, states))
    return Prompt([_keys(block.layer[1].EncDecAttention, states) for block in decoder.block], blocked)


def write(model: PreTrainedModel, ids: Tensor, prompt: Prompt, samples: int, answer: Answer | None = None) -> Tensor:
    """The decoder's states [B, T, D] at ``ids`` [B, T]; with an ``answer`` (T = 1) they follow what it holds, and are added."""
    decoder = model.decoder
    drop = _dropout(decoder)
    states = drop(embedding(ids, decoder.embed_tokens.weight))
    if answer is None:
        bias = _bias(decoder, ids.shape[1], ids.shape[1])
    else:
        bias = answer.bias[:, :, answer.length : answer.length + 1, : answer.length + 1]
    for number, (block, (read_keys, read_values)) in enumerate(zip(decoder.block, prompt.layers, strict=True)):
        own, cross = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
        normed = _norm(block.layer[0].layer_norm, states)
        keys, values = _keys(own, normed)
        if answer is not None:
            keys, values = answer.add(number, keys, values)
        states = states + drop(_attended(own, normed, keys, values, bias))
        normed = _norm(block.layer[1].layer_norm, states)
        together = normed.reshape(-1, samples * normed.shape[1], normed.shape[2])
        found = _attended(cross, together, read_keys, read_values, prompt.blocked)
        states = states + drop(found.view_as(states))
        states = states + drop(_fed(block.layer[2], states, drop))
    if answer is not None:
        answer.length += 1
    return drop(_norm(decoder.final_layer_norm, states))


def logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """What the language-model head makes of states [..., D]: logits [..., V]."""
    scaled = getattr(model.config, "scale_decoder_outputs", False)  # mT5 has none
    return linear(states * model.config.d_model**-0.5 if scaled else states, model.lm_head.weight)


def keep(prompt: Prompt, answer: Answer, chosen: Tensor, rows: Tensor) -> None:
    """Go on with these prompts, and these rows of responses, alone."""
    prompt.layers = [(keys[chosen], values[chosen]) for keys, values in prompt.layers]
    prompt.blocked = prompt.blocked[chosen]
    answer.layers = [[store[rows] for store in stores] for stores in answer.layers]


# --- parts of a layer ---------------------------------------------------------------------------------------------------------


def _dropout(stack: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """A stack's dropout, the same everywhere in it but for attention's weights."""
    return functools.partial(dropout, p=stack.dropout.p, training=stack.training)


def _norm(norm: nn.Module, states: Tensor) -> Tensor:
    return rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _heads(attention: nn.Module, projected: Tensor) -> Tensor:
    return projected.unflatten(-1, (-1, attention.key_value_proj_dim)).transpose(1, 2)


def _keys(attention: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [.., H, tokens, d] of states [.., tokens, D]."""
    first, second = (_heads(attention, linear(states, part.weight)) for part in (attention.k, attention.v))
    return first, second


def _attended(attention: nn.Module, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """What states [.., T, D] find at keys and values, ``bias`` added to their scores."""
    queries, rate = _heads(attention, linear(states, attention.q.weight)), attention.dropout if attention.training else 0.0
    if bias.requires_grad:  # of which torch's own kernels make no gradient
        weights = dropout((queries @ keys.transpose(2, 3) + bias).softmax(-1), rate)
        found = weights @ values
    else:
        found = scaled_dot_product_attention(queries, keys, values, bias, rate, scale=1.0)
    return linear(found.transpose(1, 2).flatten(2), attention.o.weight)


def _fed(layer: nn.Module, states: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """The feed-forward layer, gated or not."""
    dense, normed = layer.DenseReluDense, _norm(layer.layer_norm, states)
    if hasattr(dense, "wi"):
        inner = dense.act(linear(normed, dense.wi.weight))
    else:
        inner = dense.act(linear(normed, dense.wi_0.weight)) * linear(normed, dense.wi_1.weight)
    return linear(drop(inner), dense.wo.weight)


def _bias(stack: PreTrainedModel, queries: int, keys: int) -> Tensor:
    """The learned bias [1, H, queries, keys] by distance; of a decoder, the future is blocked."""
    attention = stack.block[0].layer[0].SelfAttention
    table, decodes = attention.relative_attention_bias.weight, stack.config.is_decoder
    how = (not decodes, attention.relative_attention_num_buckets, attention.relative_attention_max_distance)
    places, blocked = _places(attention._relative_position_bucket, queries, keys, *how)
    found = embedding(places.to(table.device), table).permute(2, 0, 1)[None]
    return found + blocked.to(found) if decodes else found


@functools.lru_cache(maxsize=512)
def _places(bucket: Callable[..., Tensor], queries: int, keys: int, *how: int) -> tuple[Tensor, Tensor]:
    """The row of the bias's table for each query and key, and what a decoder may not see (additive), [queries, keys]."""
    with torch.inference_mode(False):  # they serve passes with gradients as well
        apart = torch.arange(keys)[None] - torch.arange(queries)[:, None]
        return bucket(apart, *how), torch.zeros(queries, keys).masked_fill_(apart > 0, torch.finfo(torch.float32).min)
