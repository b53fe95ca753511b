"""Load or build policies and value models, and their tokenizers.

A model's name is an Atlas preset (built with random weights and a small vocabulary), a hub id, or a directory. Nothing is
unpickled and no remote code runs: weights are safetensors.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from paradox_utils.data import atlas
from paradox_utils.files import resolve


class ModelError(ValueError):
    """A model that cannot be loaded or does not fit its use; the message says what to do."""


def device_of(choice: str) -> torch.device:
    """The device a ``device`` parameter means."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ModelError("device = 'cuda': this machine shows torch no GPU; use device = 'auto' or 'cpu'")
    return torch.device("cuda" if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()) else "cpu")


# Atlas presets.
POLICY_PRESETS: dict[str, dict[str, int]] = {
    "atlas-t5": {"d_model": 48, "d_kv": 12, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4},
    "atlas-t5-large": {"d_model": 96, "d_kv": 24, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
}


def atlas_policy_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; a word carries its leading space (as SentencePiece does), so decoding concatenates pieces."""
    # "▁" alone is the space before the bar that parts the passages
    words = ["▁", *(w if w in atlas.PUNCTUATION else f"▁{w}" for w in atlas.VOCABULARY)]
    vocabulary = {token: i for i, token in enumerate(("<pad>", "</s>", "<unk>", *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")])
    tokenizer.decoder = decoders.Metaspace()
    return fast_tokenizer(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def fast_tokenizer(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer for transformers, with its special tokens by name."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(special.values())])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def load_policy(name: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A policy (encoder-decoder or decoder-only, float32) and its tokenizer; ``seed`` draws a preset's weights.

    Its generation config holds nothing but token ids: a warper that log-probabilities do not share would bias the KL.
    """
    if name in POLICY_PRESETS:
        tokenizer = atlas_policy_tokenizer()
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=len(tokenizer), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
            **POLICY_PRESETS[name],
        )  # fmt: skip
        model = AutoModelForSeq2SeqLM.from_config(config)
    else:
        config = load_pretrained(AutoConfig, name, POLICY_PRESETS)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, tokenizer = load_pretrained(kind, name, dtype=torch.float32), load_pretrained(AutoTokenizer, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=start
    )
    return model.eval(), tokenizer


class ValueModel(nn.Module):
    """Per-token values: an MLP head on a network of its own, or (``body`` None) on states that the policy hands over."""

    def __init__(self, body: PreTrainedModel | None, width: int, head: Literal["relu", "gelu"] = "relu") -> None:
        super().__init__()
        self.body = body
        bend = nn.GELU() if head == "gelu" else nn.ReLU()
        self.head = nn.Sequential(nn.Linear(width, width), bend, nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        """States [batch, tokens, width] to values [batch, tokens]."""
        return self.head(states).squeeze(-1)


def load_value_model(name: str, shared: bool, seed: int, head: Literal["relu", "gelu"] = "relu") -> ValueModel:
    """A value model that starts from the weights of ``name``, with a new head drawn from ``seed``."""
    torch.manual_seed(seed)
    if name in POLICY_PRESETS:
        raise ModelError(
            f"policy = {name!r}: an untrained preset is nothing to start PPO from; name a supervised policy's directory"
        )
    config = load_pretrained(AutoConfig, name)
    body = None if shared else load_pretrained(AutoModel, name, dtype=torch.float32)
    return ValueModel(body, config.hidden_size, head).eval()


def load_pretrained(kind: Any, name: str, presets: Collection[str] = (), **options: Any) -> Any:
    """``kind.from_pretrained`` of a directory or hub id; raises :class:`ModelError`, which names the ``presets`` too."""
    local = resolve(name)
    if kind is AutoTokenizer:
        options["clean_up_tokenization_spaces"] = False
    elif kind is not AutoConfig:
        options["use_safetensors"] = True
    try:
        return kind.from_pretrained(str(local) if local.is_dir() else name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name!r} cannot be loaded ({reason}); name a directory of safetensors weights"
            f"{',' if presets else ' or'} a hub id that can be reached{', or one of ' if presets else ''}{', '.join(presets)}"
        ) from error
