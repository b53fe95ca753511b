"""Load or build policies, value models and reward models, and their tokenizers.

A model's name is an Atlas preset (built with random weights and a small vocabulary), a hub id, or a directory. Nothing is
unpickled and no remote code runs: weights are safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel, WordPiece
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    GenerationConfig,
    LongformerConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from paradox_utils.data import atlas
from paradox_utils.data.tasks import LABELS
from paradox_utils.files import resolve


class ModelError(ValueError):
    """A model that cannot be loaded or does not fit its use; the message says what to do."""


# Atlas presets. A RM reads names as two pieces where the policy has one token: alignment across tokenizers is exercised.
POLICY_PRESETS: dict[str, dict[str, int]] = {
    "atlas-t5": {"d_model": 48, "d_kv": 12, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4},
    "atlas-t5-large": {"d_model": 96, "d_kv": 24, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
}
ENCODER_PRESETS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "atlas-bert": (BertConfig, {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}),
    **{
        f"atlas-bert-{width}": (BertConfig, {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2})
        for width in (8, 16, 24, 32, 48)
    },
    "atlas-longformer": (
        LongformerConfig,
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "attention_window": [32, 32],
            "type_vocab_size": 1,
        },
    ),
}
ENCODER_COMMON = {"num_attention_heads": 4, "max_position_embeddings": 514, "hidden_dropout_prob": 0.0}


def device_of(choice: str) -> torch.device:
    """The device a ``device`` parameter means."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ModelError("device = 'cuda': this machine shows torch no GPU; use device = 'auto' or 'cpu'")
    return torch.device("cuda" if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()) else "cpu")


def atlas_policy_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; a word carries its leading space (as SentencePiece does), so decoding concatenates pieces."""
    # "▁" alone is the space before the bar that parts the passages
    words = ["▁", *(w if w in atlas.PUNCTUATION else f"▁{w}" for w in atlas.VOCABULARY)]
    vocabulary = {token: i for i, token in enumerate(("<pad>", "</s>", "<unk>", *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")])
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def atlas_reward_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the same words, names cut in two syllables."""
    names = sorted({piece for name in atlas.NAMES for piece in (name[:2], f"##{name[2:]}")})
    words = [word for word in atlas.VOCABULARY if word not in atlas.NAMES]
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *words, *names))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _fast(
        tokenizer, pad_token="<pad>", bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", unk_token="<unk>"
    )


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
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
            vocab_size=len(tokenizer),
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            dropout_rate=0.0,
            **POLICY_PRESETS[name],
        )
        model = AutoModelForSeq2SeqLM.from_config(config)
    else:
        config = _load(AutoConfig, name)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, tokenizer = _load(kind, name, dtype=torch.float32), _load(AutoTokenizer, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=start
    )
    return model.eval(), tokenizer


class ValueModel(nn.Module):
    """Per-token values: an MLP head on a network of its own, or (``body`` None) on states that the policy hands over."""

    def __init__(self, body: PreTrainedModel | None, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        """States [batch, tokens, width] to values [batch, tokens]."""
        return self.head(states).squeeze(-1)


def load_value_model(name: str, shared: bool, seed: int) -> ValueModel:
    """A value model that starts from the weights of ``name``, with a new head drawn from ``seed``."""
    torch.manual_seed(seed)
    if name in POLICY_PRESETS:
        raise ModelError(
            f"policy = {name!r}: an untrained preset is nothing to start PPO from; name a supervised policy's directory"
        )
    config = _load(AutoConfig, name)
    body = None if shared else _load(AutoModel, name, dtype=torch.float32)
    return ValueModel(body, config.hidden_size).eval()


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
            attention_probs_dropout_prob=0.0, **ENCODER_COMMON, **sizes, **classes,
        )  # fmt: skip
        model = kind.from_config(config)
        _favour_equal_tokens(model)
    else:
        tokenizer = _load(AutoTokenizer, name)
        # a head of another shape, left from the backbone's last task, is replaced by a new one
        model = _load(kind, name, dtype=torch.float32, ignore_mismatched_sizes=True, **classes)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
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


def load_reward_model(checkpoint: Path, pairwise: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A trained reward model; refuses a checkpoint whose labels do not fit the task."""
    config = _load(AutoConfig, str(checkpoint))
    labels = tuple(config.id2label[i] for i in range(config.num_labels))
    if pairwise and config.num_labels != 1:
        raise ModelError(
            f"{checkpoint}: has the classes {labels}, but completeness needs one score; name a pairwise reward model"
        )
    if not pairwise and labels != LABELS:
        raise ModelError(f"{checkpoint}: its labels are {labels}, but relevance and factuality need {LABELS}; name another")
    kind = AutoModelForSequenceClassification if pairwise else AutoModelForTokenClassification
    return _load(kind, str(checkpoint), dtype=torch.float32).eval(), _load(AutoTokenizer, str(checkpoint))


def is_causal(model: PreTrainedModel) -> bool:
    """Whether a token sees only what stands before it: the backbone is no masked language model."""
    return type(model.config) not in AutoModelForMaskedLM._model_mapping


def _load(kind: Any, name: str, **options: Any) -> Any:
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
            f"{name!r} cannot be loaded ({reason}); name a directory of safetensors weights, a hub id that can be reached, "
            f"or one of {', '.join([*POLICY_PRESETS, *ENCODER_PRESETS])}"
        ) from error
