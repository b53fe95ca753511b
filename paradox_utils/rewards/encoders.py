"""Encoders of reward models and their tokenizers: built from a preset, or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    LongformerConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from paradox_utils.data import atlas
from paradox_utils.data.tasks import LABELS
from paradox_utils.policies.models import (
    ModelError,
    fast_tokenizer,
    load_pretrained,
    load_tokenizer,
    load_weights,
    reads_both_ways,
)


def _sizes(width: int) -> dict[str, Any]:
    depth = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 514}
    return depth | {"hidden_size": width, "intermediate_size": 2 * width}


ENCODER_PRESETS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "atlas-bert": (BertConfig, _sizes(64)),
    **{f"atlas-bert-{width}": (BertConfig, _sizes(width)) for width in (8, 16, 24, 32, 48)},
    "atlas-longformer": (LongformerConfig, _sizes(64) | {"attention_window": [32, 32], "type_vocab_size": 1}),
}


def atlas_reward_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the policy's words, but names in two pieces: alignment across tokenizers is exercised."""
    names = sorted({piece for name in atlas.NAMES for piece in (name[:2], f"##{name[2:]}")})
    words = [word for word in atlas.VOCABULARY if word not in atlas.NAMES]
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *words, *names))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return fast_tokenizer(
        tokenizer, pad_token="<pad>", bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>"
    )


def load_encoder(name: str, pairwise: bool, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A backbone with a new head: one score (pairwise), or the three classes of :data:`LABELS` on every token."""
    torch.manual_seed(seed)
    kind = AutoModelForSequenceClassification if pairwise else AutoModelForTokenClassification
    classes = (
        {"num_labels": 1}
        if pairwise
        else {"id2label": dict(enumerate(LABELS)), "label2id": {v: i for i, v in enumerate(LABELS)}}
    )
    if name in ENCODER_PRESETS:
        tokenizer = atlas_reward_tokenizer()
        build, sizes = ENCODER_PRESETS[name]
        config = build(
            vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, sep_token_id=2,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes, **classes,
        )  # fmt: skip
        model = kind.from_config(config)
        _favour_equal_tokens(model)
    else:
        model = load_weights(kind, name, ENCODER_PRESETS, new_head=True, **classes)
        tokenizer = load_tokenizer(name, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


@torch.no_grad()
def _favour_equal_tokens(model: PreTrainedModel) -> None:
    """Start a small encoder where a pretrained one already is: tokens attend to their equals elsewhere in the text.

    Word embeddings outweigh positions, and in the first layer queries equal keys. Without this a model of this size needs
    thousands of steps before it compares a statement with the passage at all.
    """
    model.base_model.embeddings.word_embeddings.weight.mul_(5.0)
    attention = model.base_model.encoder.layer[0].attention.self
    for query, key in (("query", "key"), ("query_global", "key_global")):
        if hasattr(attention, query):
            nn.init.normal_(getattr(attention, query).weight, std=0.2)
            getattr(attention, key).weight.copy_(getattr(attention, query).weight)


def load_reward_model(checkpoint: str | Path, pairwise: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A trained reward model, of a directory or hub id; refuses one whose kind or labels do not fit the task."""
    name = str(checkpoint)
    config = load_pretrained(AutoConfig, name)
    kind, other = AutoModelForSequenceClassification, "ForTokenClassification"
    if not pairwise:
        kind, other = AutoModelForTokenClassification, "ForSequenceClassification"
    needed = "one score a text" if pairwise else f"the classes {dict(enumerate(LABELS))} on its tokens"
    if wrong := [each for each in config.architectures or [] if each.endswith(other)]:
        raise ModelError(f"{name!r}: is a {wrong[0]}, but its task needs {needed}; name another reward model")
    classes = {int(index): label for index, label in config.id2label.items()}
    if len(classes) != 1 if pairwise else classes != dict(enumerate(LABELS)):
        raise ModelError(f"{name!r}: id2label = {classes}, but its task needs {needed}; name another reward model")
    model = load_weights(kind, name)
    tokenizer = load_tokenizer(name, model)
    model.config.pad_token_id = _padding(model, tokenizer)
    return model.eval(), tokenizer


def _padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """The token to pad with: by ``config.pad_token_id`` some sequence classifiers find the last token of a text. Without one
    they take the very last, so any does that ends no text."""
    rows, own = model.get_input_embeddings().weight.shape[0], model.config.pad_token_id
    if own is not None and 0 <= own < rows:
        return own
    ends = {tokenizer.sep_token_id, tokenizer.eos_token_id}
    return next(token for token in (tokenizer.pad_token_id, 0, 1, 2) if token not in ends)


def is_causal(model: PreTrainedModel) -> bool:
    """Whether a token sees only what stands before it."""
    return not reads_both_ways(model.config)
