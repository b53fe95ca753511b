"""Forward passes over prompts and their responses in which no work is done twice.

The K responses to a prompt share one pass over it: an encoder-decoder policy encodes each prompt once (T5 and mT5, whose passes
are :mod:`.t5`'s, project the keys and values of cross-attention once as well); a decoder-only policy computes the prompt's
prefix once. Gradients flow through what is shared. Only real response tokens reach the language-model head, which for a small
model is most of the work. Encoder-decoder and decoder-only policies look alike from here.

Shapes: P prompts, K samples each, B = P·K responses, S prompt tokens, T response tokens, N response tokens without padding,
V words, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from paradox_utils.policies import t5
from paradox_utils.policies.prompts import Prompts, Responses


def forward(model: PreTrainedModel, responses: Responses) -> tuple[Tensor, Tensor]:
    """Logits [N, V] that predict each response token (rows in the order of ``responses.mask``'s ones), and the states
    [B, T, D] that they come from."""
    if t5.speaks(model):
        states = _written(model, responses)
        return t5.logits(model, states[responses.mask.bool()]), states
    inputs, first = _read(model.get_decoder(), model, responses)
    kept: dict[str, Tensor] = {}

    def keep(_module: nn.Module, _arguments: tuple, output: Any) -> None:
        kept["states"] = _after(first, output.last_hidden_state, responses)

    def select(before_head: Tensor) -> Tensor:
        return _after(first, before_head, responses)[responses.mask.bool()]

    with model.get_decoder().register_forward_hook(keep), reaching_head(model, select):
        logits = model(**inputs).logits
    return logits, kept["states"]


def last_states(body: PreTrainedModel, responses: Responses) -> Tensor:
    """The last states [B, T, D] of a model without a language-model head (of a value model)."""
    if t5.speaks(body):
        return _written(body, responses)
    inputs, first = _read(body, body, responses)
    return _after(first, body(**inputs).last_hidden_state, responses)


def _written(model: PreTrainedModel, responses: Responses) -> Tensor:
    """The states [B, T, D] of a :mod:`.t5` decoder that predict the responses."""
    prompts, samples = responses.prompts, responses.samples
    return t5.write(model, _shifted(model, responses), t5.read(model, prompts.ids, prompts.mask), samples)


def _shifted(model: PreTrainedModel, responses: Responses) -> Tensor:
    """What a decoder reads to predict the responses: its start, then all but their last token."""
    start = torch.full_like(responses.ids[:, :1], model.config.decoder_start_token_id)
    return torch.cat([start, responses.ids[:, :-1]], 1)


def _read(body: PreTrainedModel, model: PreTrainedModel, responses: Responses) -> tuple[dict[str, Any], Tensor | None]:
    """Read the prompts; what the pass over the responses takes, and the state [B, 1, D] that predicts a decoder-only policy's
    first token (None for the others)."""
    if model.config.is_encoder_decoder:
        inputs = {"decoder_input_ids": _shifted(model, responses), "use_cache": False}
        return encoded(model, responses.prompts, responses.samples) | inputs, None
    prompts, samples = responses.prompts, responses.samples
    prefix = body(**_prefix(prompts))
    prefix.past_key_values.batch_repeat_interleave(samples)
    ids = responses.ids[:, : max(1, responses.ids.shape[1] - 1)]  # the last token predicts nothing
    inputs = {"input_ids": ids, "past_key_values": prefix.past_key_values, "use_cache": True}
    inputs |= positions(prompts.mask, samples, responses.mask[:, : ids.shape[1]])
    return inputs, prefix.last_hidden_state[:, -1:].repeat_interleave(samples, 0)


def _after(first: Tensor | None, rest: Tensor, responses: Responses) -> Tensor:
    return rest if first is None else torch.cat([first, rest], 1)[:, : responses.ids.shape[1]]


def encoded(model: PreTrainedModel, prompts: Prompts, samples: int) -> dict[str, Any]:
    """One encoder pass over the prompts, as a decoder takes it for ``samples`` responses each."""
    read = model.get_encoder()(input_ids=prompts.ids, attention_mask=prompts.mask).last_hidden_state
    return {
        "encoder_outputs": (read.repeat_interleave(samples, 0),),
        "attention_mask": prompts.mask.repeat_interleave(samples, 0),
    }


def _prefix(prompts: Prompts) -> dict[str, Any]:
    return {
        "input_ids": prompts.ids,
        "attention_mask": prompts.mask,
        "position_ids": (prompts.mask.cumsum(1) - 1).clamp(min=0),
        "use_cache": True,
    }


def prefilled(model: PreTrainedModel, prompts: Prompts, samples: int) -> tuple[Any, Tensor]:
    """One pass of a decoder-only policy over the prompts: its cache for ``samples`` responses each, and the logits [B, V] of
    their first tokens."""
    with reaching_head(model, lambda states: states[:, -1]):
        output = model(**_prefix(prompts))
    output.past_key_values.batch_repeat_interleave(samples)
    return output.past_key_values, output.logits.repeat_interleave(samples, 0)


def positions(prompts: Tensor, samples: int, mask: Tensor) -> dict[str, Tensor]:
    """Attention mask [B, S + T] and positions [B, T] of response tokens (``mask`` [B, T]) behind a prompt's prefix (mask
    ``prompts`` [P, S])."""
    before = prompts.repeat_interleave(samples, 0)
    steps = torch.arange(mask.shape[1], device=mask.device)
    return {"attention_mask": torch.cat([before, mask], 1), "position_ids": before.sum(1, keepdim=True) + steps}


def grid(values: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of real tokens as [B, T], 0 on padding; gradients flow."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask.bool(), values)


# --- hooks --------------------------------------------------------------------------------------------------------------------


def reaching_head(model: PreTrainedModel, select: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """For the time of a ``with``, only what ``select`` makes of the states [B, T, D] reaches the language-model head; what the
    model does to its logits afterwards (scaling, soft capping) stays its own."""
    return model.get_output_embeddings().register_forward_pre_hook(lambda _module, arguments: (select(arguments[0]),))
