"""The workload of the comparison with the paper's kind of loop, as files that both sides read.

Prompts and response lengths are those of QA-FEEDBACK; shapes are T5-small's (policy, value model) and MiniLM's (reward model);
weights are random. The paper's value model is T5-base whatever the policy: that would add the same work to both sides. It and a
Longformer stand in :data:`PAPER`, the size of the paper's own setting.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    LongformerConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from paradox_utils import config, files
from paradox_utils.data import qa_feedback
from paradox_utils.data.records import DataError, Feedback, read_feedback, write_feedback
from paradox_utils.data.tasks import LABELS

SOURCE = "PARADOX_QA_FEEDBACK"  # environment variable: a directory of the original files, or a hub id
PIECES = 8000  # byte-pair pieces: 1.5 tokens a word on these texts
PASS_TOKENS = {"cpu": 1200, "cuda": 200000}  # padded tokens of a pass of the engine; on a CPU, one prompt


@dataclass(frozen=True)
class Size:
    """Shapes and amounts. ``policy``, ``value``: values of T5Config (no value model of its own where empty); ``reward``: of
    BertConfig, or, with an ``attention_window``, of LongformerConfig; limits and lengths in tokens."""

    policy: dict[str, int]
    reward: dict[str, Any]
    value: dict[str, int] = field(default_factory=dict)
    pieces: int = PIECES
    prompts: int = 8
    samples: int = 4
    epochs: int = 4
    prompt_limit: int = 1024
    response_limit: int = 200
    questions: int = 400


FULL = Size(
    {"vocab_size": 32128, "d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8},
    {"vocab_size": 30522, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12},
)
QUICK = Size(
    {"vocab_size": 3000, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    {"vocab_size": 3000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    pieces=1500, prompts=2, prompt_limit=256, response_limit=48, questions=24,
)  # fmt: skip
T5_BASE = FULL.policy | {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12}
LONGFORMER = {"vocab_size": 50265, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
LONGFORMER |= {"num_attention_heads": 12, "max_position_embeddings": 4098, "attention_window": [512] * 12}
PAPER = replace(FULL, value=T5_BASE, reward=LONGFORMER)
QUICK_LONGFORMER = QUICK.reward | {"max_position_embeddings": 1026, "attention_window": [32] * 2}
SIZES = {"full": FULL, "quick": QUICK}
PAPERS = {"full": PAPER, "quick": replace(QUICK, value=QUICK.policy, reward=QUICK_LONGFORMER)}


def judged() -> list[Feedback]:
    """QA-FEEDBACK's judged questions with four predictions each; raises :class:`DataError` where there are none."""
    p = config.RewardModel(source="qa-feedback", data=os.environ.get(SOURCE, "tasksource/QA-Feedback"), heldout_share=0.2)
    try:
        parts = qa_feedback.load_feedback(p)
    except (DataError, files.FileError) as error:
        raise DataError(
            f"the benchmark needs QA-FEEDBACK: set {SOURCE} to a directory or hub id that has it ({error})"
        ) from error
    return [record for part in parts.values() for record in part]


def build(folder: Path, size: Size, records: Sequence[Feedback] | None = None, seed: int = 0) -> None:
    """Fill ``folder``: ``feedback.jsonl``, ``policy`` and ``reward`` (models with their tokenizers), ``size.json``, and
    ``value`` where the size has one."""
    records = judged() if records is None else list(records)
    texts = [text for r in records for text in (r.question.prompt, *r.responses)]
    folder.mkdir(parents=True, exist_ok=True)
    write_feedback(folder / "feedback.jsonl", records[: size.questions])
    torch.manual_seed(seed)
    for name, shape in {"policy": size.policy, "value": size.value}.items():
        if shape:
            body = T5Config(**shape, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
            T5ForConditionalGeneration(body).save_pretrained(folder / name)
    policy_tokenizer(texts, size.pieces, size.policy["vocab_size"]).save_pretrained(folder / "policy")
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    shape = {"max_position_embeddings": 512, "pad_token_id": 0} | size.reward
    reward = (LongformerConfig if "attention_window" in shape else BertConfig)(**shape, **labels)
    AutoModelForTokenClassification.from_config(reward).save_pretrained(folder / "reward")
    reward_tokenizer(texts, size.pieces).save_pretrained(folder / "reward")
    (folder / "size.json").write_text(json.dumps(asdict(size)))


def load(folder: Path) -> tuple[Size, list[Feedback]]:
    """What :func:`build` wrote besides the models."""
    return Size(**json.loads((folder / "size.json").read_text())), read_feedback(folder / "feedback.jsonl")


def batch(records: Sequence[Feedback], size: Size, index: int) -> list[Feedback]:
    """The questions of rollout ``index``, in the order of the data and from the start again at its end."""
    return [records[(index * size.prompts + i) % len(records)] for i in range(size.prompts)]


def lengths(tokenizer: PreTrainedTokenizerFast, chosen: Sequence[Feedback], size: Size) -> list[int]:
    """Tokens of each question's real predictions, end of sequence included, cut to the limit; one question's stand together."""
    texts = [text for record in chosen for text in record.responses[: size.samples]]
    return [min(len(ids) + 1, size.response_limit) for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def parameters(folder: Path, size: Size, device: str, precision: str, **more: object) -> config.PPO:
    """PPO's parameters as both sides run them; the objective's choices are the defaults. ``more``: what differs."""
    models = {"policy": "policy", "reward_model": "reward", "evaluator": "reward"}
    common = {name: str(folder / model) for name, model in models.items()} | {"source": "qa-feedback", "data": ""}
    common |= {"task": "relevance", "prompts_per_update": size.prompts, "samples_per_prompt": size.samples}
    common |= {"epochs": size.epochs, "prompt_limit": size.prompt_limit, "response_limit": size.response_limit}
    common |= {"temperature": 0.7, "learning_rate": 1e-5, "device": device, "precision": precision, "updates": 1000}
    return config.PPO(**(common | more))


# --- tokenizers ---------------------------------------------------------------------------------------------------------------


def policy_tokenizer(texts: Iterable[str], pieces: int, size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of ``pieces`` pieces, which decodes exactly, filled up to ``size`` with whole words that no merge reaches:
    a policy with random weights samples from the whole vocabulary, and its responses must read as text."""
    texts = list(texts)
    special = ["<pad>", "</s>", "<unk>"]
    learned = _bpe(texts, pieces, special)
    state = json.loads(learned.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    splitter = learned.pre_tokenizer
    words = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    for word in [*(w for w, _ in words.most_common()), *(f"Ġw{i}" for i in range(size))]:
        if len(vocabulary) >= size:
            break
        vocabulary.setdefault(word, len(vocabulary))
    full = Tokenizer(BPE(vocabulary, [tuple(merge) for merge in state["merges"]]))
    full.pre_tokenizer, full.decoder = splitter, decoders.ByteLevel()
    return _fast(full, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def reward_tokenizer(texts: Iterable[str], pieces: int) -> PreTrainedTokenizerFast:
    """Another BPE with BERT's special tokens: texts must be tokenised anew for the reward model."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _fast(_bpe(texts, pieces // 2, list(special.values())), **special)


def _bpe(texts: Iterable[str], pieces: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=pieces, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
