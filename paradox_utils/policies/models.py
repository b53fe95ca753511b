"""Load or build policies and value models, and their tokenizers.

A model's name is an Atlas preset (built with random weights and a small vocabulary), a hub id, or a directory. Nothing is
unpickled and no remote code runs: weights are safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from paradox_utils.data import atlas
from paradox_utils.files import HUB_ID, lies, resolve

LFS = b"version https://git-lfs.github.com/spec/"  # opens what Git LFS leaves in place of a file that was not fetched
TABLES = ("position_embeddings", "embed_positions", "wpe")  # what architectures call their table of positions


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
        if not config.is_encoder_decoder and reads_both_ways(config):
            raise ModelError(
                f"{name!r}: its model_type {config.model_type!r} is an encoder, which cannot write; name an encoder-decoder or "
                "decoder-only model"
            )
        model = load_weights(AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM, name)
        tokenizer = load_tokenizer(name, model)
        if config.is_encoder_decoder:
            _set_start(model, name)
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=start
    )
    return model.eval(), tokenizer


def _set_start(model: PreTrainedModel, name: str) -> None:
    """The token that a decoder starts from stands in the model's config, or in the generation config alone."""
    configs = (model.config, model.generation_config)
    starts = [getattr(c, key, None) for key in ("decoder_start_token_id", "bos_token_id") for c in configs]
    model.config.decoder_start_token_id = next((start for start in starts if start is not None), None)
    if model.config.decoder_start_token_id is None:
        raise ModelError(f"{name!r}: neither of its configs has a decoder_start_token_id; write it into config.json")


def reads_both_ways(config: PretrainedConfig) -> bool:
    """Whether a token sees what stands after it: there is a masked language model of this kind, and this one is no decoder."""
    return type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False)


def positions_of(network: PreTrainedModel) -> int | None:
    """Tokens that a network has positions for; None: any number.

    From its table of positions, of which some kinds leave the first rows unused (RoBERTa's start after the padding id);
    without a table, what its config says it was trained for.
    """
    rooms = [
        table.num_embeddings - getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in network.named_modules()
        if name.rsplit(".", 1)[-1] in TABLES and isinstance(table, nn.Embedding)
    ]
    return min(rooms, default=getattr(network.config, "max_position_embeddings", None))


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
    body = None if shared else load_weights(AutoModel, name, new_head=True)
    return ValueModel(body, config.hidden_size, head).eval()


# --- loading ------------------------------------------------------------------------------------------------------------------


def load_weights(
    kind: Any, name: str, presets: Collection[str] = (), new_head: bool = False, **options: Any
) -> PreTrainedModel:
    """A model (float32) of a directory or hub id, every weight of which was read there; raises :class:`ModelError`.

    ``new_head``: only the body must be there, and is: the head is a new one (with the pooler before it, which some checkpoints
    lack), and what the backbone had for its last task is left.
    """
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = load_pretrained(kind, name, presets, **options)
    missing, spare = set(found["missing_keys"]), _spare(model)
    left = {key for key in found["unexpected_keys"] if not spare.fullmatch(key)}
    reshaped = {key for key, *_ in found["mismatched_keys"]}
    wrapper = next((key.split(".")[0] for key in left if key.partition(".")[2] in missing), None)
    if new_head:
        body = "" if model is model.base_model else f"{model.base_model_prefix}."
        missing, reshaped = (
            {key for key in keys if key.startswith(body) and "pooler" not in key.split(".")} for keys in (missing, reshaped)
        )
        own = {re.sub(r"\d+", "0", key) for key in model.state_dict()}
        left = {key for key in left if {re.sub(r"\d+", "0", key), re.sub(r"\d+", "0", body + key)} & own}  # further layers
    problems = {"missing": missing, "of another shape": reshaped, "left over": left}
    if any(problems.values()):
        why = "; ".join(f"{what}: {_some(keys)}" for what, keys in problems.items() if keys)
        out = f"remove {wrapper + '.'!r}, which a wrapper put before the names" if wrapper else "save the whole model again"
        raise ModelError(f"{name!r}: its weights do not fit {type(model).__name__} ({why}); {out}, or name another model")
    return model


def _spare(model: PreTrainedModel) -> re.Pattern[str]:
    """The names of what older versions of transformers saved and no result of this model depends on: constants that are made
    anew, and a pooler where the model has none."""
    names = [r"(.+\.)?embeddings\.position_ids"]
    if any(name.endswith("inv_freq") for name, _ in model.named_buffers()):
        names.append(r"(.+\.)?inv_freq")
    if not reads_both_ways(model.config):  # the mask of a causal attention
        names.append(r"(.+\.)?(attn|attention)\.(masked_)?bias")
    if not any(name.rsplit(".", 1)[-1] == "pooler" for name, _ in model.named_modules()):
        names.append(rf"({model.base_model_prefix}\.)?pooler\..+")
    return re.compile("|".join(names))


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return f"{first} and {len(names) - 3} more" if len(names) > 3 else first


def load_tokenizer(name: str, model: PreTrainedModel) -> PreTrainedTokenizerFast:
    """The tokenizer of a loaded ``model``: one that has words, an end of text, and no text token that the model cannot embed.

    A padding token that is missing or beyond the embedding gives way to the end of text: padding is masked everywhere.
    """
    tokenizer = load_pretrained(AutoTokenizer, name)
    vocabularies = tokenizer.vocab_files_names.values()
    if vocabularies and not any(beside(name, file) for file in vocabularies):
        raise ModelError(f"{name!r}: has no tokenizer ({' or '.join(vocabularies)}); save the model's own beside its weights")
    ends = (tokenizer.eos_token,) if model.can_generate() else (tokenizer.sep_token, tokenizer.eos_token)
    end = next((token for token in ends if token is not None), None)
    if end is None:
        raise ModelError(f"{name!r}: its tokenizer has no eos_token, so no text can end; name it in tokenizer_config.json")
    rows, vocabulary = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab()
    if tokenizer.pad_token is None or vocabulary.get(tokenizer.pad_token, rows) >= rows:
        tokenizer.pad_token = end
    unused = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} - {end, tokenizer.cls_token}
    if beyond := [token for token, place in vocabulary.items() if place >= rows and token not in unused]:
        raise ModelError(
            f"{name!r}: its tokenizer knows {_some(beyond)}, for which the model's embedding of {rows} tokens has no row; "
            "resize the model's embedding, or give it its own tokenizer"
        )
    return tokenizer


def load_pretrained(kind: Any, name: str, presets: Collection[str] = (), **options: Any) -> Any:
    """``kind.from_pretrained`` of a directory or hub id; raises :class:`ModelError`, which names the ``presets`` too."""
    local = resolve(name)
    if kind is AutoTokenizer:
        options["clean_up_tokenization_spaces"] = False
    elif kind is not AutoConfig:
        options["use_safetensors"] = True
    try:
        return kind.from_pretrained(str(local) if lies(local) == "folder" else name, **options)
    except Exception as error:  # the libraries raise anything at files that are not what their names say
        described = (str(error).strip().splitlines() or [""])[0]
        kind_of = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        if isinstance(error, SafetensorError):
            kind_of = "its .safetensors file is cut or damaged: "
        reason = _instead(name) or kind_of + described
        raise ModelError(
            f"{name!r} cannot be loaded ({reason}); name a directory of safetensors weights"
            f"{',' if presets else ' or'} a hub id that can be reached{', or one of ' if presets else ''}{', '.join(presets)}"
        ) from error


def _instead(name: str) -> str:
    """What there is in place of a model that cannot be loaded, as far as that explains it."""
    folder = resolve(name)
    if (found := lies(folder)) != "folder":
        return "" if HUB_ID.fullmatch(name) else "it is a file" if found else "there is no such directory"
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as opened:
            if opened.read(len(LFS)) == LFS:
                return f"its {file.name} is a Git LFS pointer in place of the file: run `git lfs pull` in its repository"
    if not (folder / "config.json").is_file() and (inside := sorted(path.parent.name for path in folder.glob("*/config.json"))):
        return f"it holds no model itself, but its subfolder {' and '.join(inside)} does"
    return ""


def beside(name: str, file: str) -> Path | None:
    """A file of a model's directory, or of its hub repository; None where it has none."""
    local = resolve(name)
    if lies(local) == "folder":
        return local / file if (local / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file))
    except (OSError, EntryNotFoundError, HFValidationError):  # nor is there one in the cache; loading the model says the rest
        return None
