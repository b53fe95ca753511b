"""The workload of the comparison with TRL: a decoder-only policy, and one reward at the end of each response.

Everything that decides a result is the same on both sides: initial weights of policy and value model, the prompts of every
rollout and their padding, the reward, and every number of the objective. Responses always have their full length: what TRL does
after an end of sequence (a score one token late, a value for that token) has no counterpart in the engine, so none ever comes.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CUE = ("▁answer", ":")  # what the engine puts behind a decoder-only policy's prompt


@dataclass(frozen=True)
class Size:
    """Shapes and amounts; lengths in tokens. ``words`` is the vocabulary, of which the first half is rewarded."""

    words: int = 4096
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    prompts: int = 8
    samples: int = 4
    shortest: int = 60
    longest: int = 120
    response: int = 48
    updates: int = 16
    epochs: int = 4
    learning_rate: float = 1e-4  # larger ones break the policies of some seeds at the start, and would hide a difference
    adam_epsilon: float = 1e-5
    temperature: float = 0.7
    kl_coefficient: float = 0.05
    clip: float = 0.2
    value_weight: float = 0.5
    gae_lambda: float = 0.95
    scale: float = 5.0  # of the reward: a response of rewarded words alone gets as much


SIZES = {"full": Size(), "quick": Size(words=256, hidden=32, layers=1, shortest=6, longest=12, response=8, updates=3)}


def build(folder: Path, size: Size, seed: int = 0) -> None:
    """Fill ``folder``: ``policy`` with a tokenizer, ``value.safetensors``, ``prompts.json`` (by update), ``size.json``."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size.words, hidden_size=size.hidden, intermediate_size=3 * size.hidden, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=2 * size.longest,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    policy = LlamaForCausalLM(config)
    _make_learnable(policy)
    policy.save_pretrained(folder / "policy")
    tokenizer(size).save_pretrained(folder / "policy")
    head = nn.Sequential(nn.Linear(size.hidden, size.hidden), nn.ReLU(), nn.Linear(size.hidden, 1))
    body = {f"body.{name}": weight for name, weight in policy.model.state_dict().items()}
    weights = body | {f"head.{name}": weight for name, weight in head.state_dict().items()}
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "value.safetensors")
    rng = random.Random(seed)
    first = 2 + len(CUE)
    rollouts = [
        [
            [rng.randrange(first, size.words) for _ in range(rng.randint(size.shortest, size.longest) - len(CUE))]
            for _ in range(size.prompts)
        ]
        for _ in range(size.updates)
    ]
    (folder / "prompts.json").write_text(json.dumps(rollouts))
    (folder / "size.json").write_text(json.dumps(asdict(size)))


@torch.no_grad()
def _make_learnable(policy: LlamaForCausalLM, likely: int = 32) -> None:
    """Let the policy say only ``likely`` words of either half of the vocabulary, as a trained one says a few of all it knows:
    with thousands of equally likely words it would have to learn word by word, which takes thousands of updates.

    Every state shares one large coordinate, which the head reads as against all other words.
    """
    policy.model.embed_tokens.weight[:, 0] = 0.2
    policy.lm_head.weight[:, 0] = -2.0
    first = 2 + len(CUE)
    policy.lm_head.weight[first : first + likely, 0] = 0.0
    policy.lm_head.weight[-likely:, 0] = 0.0


def load(folder: Path) -> tuple[Size, list[list[list[int]]]]:
    """Size, and the word ids of each update's prompts (without the cue)."""
    return Size(**json.loads((folder / "size.json").read_text())), json.loads((folder / "prompts.json").read_text())


def tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """One token a word. The end of sequence, and a second padding token, lie outside what the policy can say: no response ends
    early, and none holds what TRL would take for padding."""
    words = ["<pad>", "<unk>", *CUE, *(f"▁w{i}" for i in range(2 + len(CUE), size.words)), "</s>", "<outside>"]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")])
    backend.decoder = decoders.Metaspace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend.add_special_tokens([AddedToken(token, special=True) for token in (*special.values(), "<outside>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def text(words: list[int]) -> str:
    """A prompt as text."""
    return " ".join(f"w{word}" for word in words)


def score(ids: Tensor, size: Size) -> Tensor:
    """The terminal reward [B] of responses [B, T]: the share of their tokens from the first half of the vocabulary, scaled."""
    return size.scale * (ids < size.words // 2).float().mean(1)
