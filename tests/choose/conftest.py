"""What tests of a choice share: prompts with responses, and small reward models of strangers."""

import shutil

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, LlamaConfig, LlamaForSequenceClassification

from paradox_utils import config
from paradox_utils.choose.inputs import Asked, judge
from paradox_utils.files import resolve
from paradox_utils.policies.models import atlas_policy_tokenizer
from paradox_utils.rewards.encoders import atlas_reward_tokenizer
from tests.conftest import answered

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def parameters(**values):
    return config.check(config.Choose, {"candidates": {"a": "x", "b": "y"}, "device": "cpu", "batch": 4} | values)


@pytest.fixture(scope="session")
def asked():
    """Six questions of Atlas with four answers each, judged by the oracle."""
    rows = [
        Asked(f"q{i}", record.question.prompt, record.question, {str(k): text for k, text in enumerate(record.responses)})
        for i, record in enumerate(answered(6, seed=3))
    ]
    judge(parameters(), rows, None)
    return rows


@pytest.fixture
def plain(tmp_path):
    """A BERT with one score a text, as any on the hub: the completeness fixture without what this project writes beside it."""
    folder = tmp_path / "plain"
    shutil.copytree(resolve("fixtures/atlas/reward-completeness"), folder)
    for name in ("metrics.json", "settings.json"):
        (folder / name).unlink()
    return folder


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path):
    """A decoder with one score, without a padding token."""
    torch.manual_seed(0)
    tokenizer = atlas_policy_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    built = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=None, bos_token_id=None, eos_token_id=1, **sizes)
    tokenizer.pad_token = None
    return saved(tmp_path / "llama", LlamaForSequenceClassification(built), tokenizer)


@pytest.fixture
def tagger(tmp_path):
    """A BERT that labels tokens good or bad."""
    torch.manual_seed(0)
    tokenizer = atlas_reward_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    built = BertConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=128, **sizes, **labels)
    return saved(tmp_path / "tagger", BertForTokenClassification(built), tokenizer)
