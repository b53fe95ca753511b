"""Reward models of strangers: what is wrong with a folder is said with its file or key, and what is right is measured."""

import json
import re

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2ForTokenClassification

from paradox_utils import config, data, files, identity
from paradox_utils.data.tasks import LABELS, MARKED, TASKS
from paradox_utils.files import resolve
from paradox_utils.policies.models import ModelError, atlas_policy_tokenizer
from paradox_utils.ppo.evaluate import REWARD_METRICS
from paradox_utils.rewards import judges, model
from paradox_utils.rewards.encoders import atlas_reward_tokenizer, load_encoder, load_reward_model
from tests.policies.altered import POINTER, altered, another_token, cut, remove, renamed, setting, write

FIXTURE = config.FIXTURE_REWARD_MODEL.format
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def feedback():
    p = config.PPO()
    records = data.load_feedback(p, resolve(p.feedback))
    return records | {"train": records["train"][:40]}


def metrics_of(folder, task, feedback, **more):
    p = config.PPO(task=task, reward_model=str(folder), device="cpu", **more)
    return judges.reward_of(p, atlas_policy_tokenizer(), feedback).metrics


def headless(name):
    return None if name.startswith("classifier") else name


REFUSED = {
    "no head": ([renamed(headless)], "classifier.weight"),
    **{p: ([renamed(f"{p}.{{}}".format)], f"'{p}.'") for p in ("module", "_orig_mod", "model")},
    "another layer": ([setting("config.json", num_hidden_layers=1)], "bert.encoder.layer.1"),
    "a layer more": ([setting("config.json", num_hidden_layers=3)], "bert.encoder.layer.2"),
    "another size": ([setting("config.json", hidden_size=32)], "bert.embeddings"),
    "a pointer": ([write("model.safetensors", POINTER)], "model.safetensors"),
    "a pointer to a tokenizer": ([write("tokenizer.json", POINTER)], "tokenizer.json"),
    "half a file": ([cut("model.safetensors")], "safetensors"),
    "half a tokenizer": ([cut("tokenizer.json")], "cannot be loaded"),
    "no tokenizer": ([remove(*TOKENIZER)], "tokenizer.json"),
    "a token too many": ([another_token(special=False)], "[NEW]"),
    "labels from 1": ([setting("config.json", id2label={i + 1: label for i, label in enumerate(LABELS)})], "id2label"),
    "labels of another order": ([setting("config.json", id2label=dict(enumerate(reversed(LABELS))))], "id2label"),
    "another architecture": (
        [setting("config.json", architectures=["ModernBertForSequenceClassification"])],
        "ModernBertForSequenceClassification",
    ),
    "no length": ([setting("settings.json", max_length=0)], "max_length = 0"),
    "too short": ([setting("settings.json", max_length=2)], "max_length = 2"),
    "length as text": ([setting("settings.json", max_length="512")], "max_length = '512'"),
    "another task": ([setting("settings.json", task="factuality")], "task = 'factuality'"),
    "settings that are a list": ([write("settings.json", "[512]")], "settings.json"),
    "broken metrics": ([write("metrics.json", '{"accuracy": 1,}')], "metrics.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_not_what_it_should_be_is_refused(case, feedback, tmp_path):
    changes, named = REFUSED[case]
    folder = altered(FIXTURE(task="relevance"), tmp_path / "rm", *changes)
    with pytest.raises((ModelError, files.FileError, config.ParameterError)) as error:
        metrics_of(folder, "relevance", feedback)
    assert str(folder) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"score_mean": 0.1, "score_std": 1.0,}', "metrics.json"),
        ("[0.1, 1.0]", "metrics.json"),
        ('{"score_mean": NaN, "score_std": 1.0}', "score_mean"),
        ('{"score_mean": 0.1, "score_std": -1.0}', "score_std"),
        ('{"score_mean": 0.1, "score_std": 0}', "score_std"),
        ('{"score_mean": 0.1, "score_std": "1.0"}', "score_std"),
        ('{"score_mean": 0.1}', "score_std"),
    ],
)
def test_scores_are_not_centred_by_what_is_no_mean_or_deviation(content, named, feedback, tmp_path):
    folder = altered(FIXTURE(task="completeness"), tmp_path / "rm", write("metrics.json", content))
    with pytest.raises((files.FileError, config.ParameterError), match="metrics") as error:
        metrics_of(folder, "completeness", feedback)
    assert named in str(error.value)


@pytest.mark.parametrize("name", ["none/of/them", "someone/none", config.FIXTURE_POLICY, "a" * 5000])
def test_what_is_no_model_is_not_told_that_its_scores_are_missing(name, feedback):
    with pytest.raises(ModelError, match=re.escape(repr(name))):
        metrics_of(name, "completeness", feedback)
    with pytest.raises(ModelError, match=re.escape(repr(name))):
        judges.evaluator_of(config.PPO(task="completeness", evaluator=name, device="cpu"), feedback)


@pytest.mark.heavy
@pytest.mark.parametrize(("model_of", "task"), [("relevance", "factuality"), ("factuality", "relevance")])
def test_a_model_of_another_task_gives_itself_away_by_its_labels(model_of, task, feedback, tmp_path):
    label = TASKS[task].error_label
    with pytest.raises(ModelError, match=rf"none {label}"):
        metrics_of(FIXTURE(task=model_of), task, feedback)
    with pytest.raises(ModelError, match=rf"none {label}"):
        judges.evaluator_of(config.PPO(task=task, evaluator=FIXTURE(task=model_of), device="cpu"), feedback)
    claimed = altered(FIXTURE(task=model_of), tmp_path / "rm", setting("settings.json", task=task))
    assert metrics_of(claimed, task, feedback)["accuracy"] < 0.9  # whoever writes it there knows better


@pytest.mark.parametrize(("task", "other"), [("completeness", "relevance"), ("relevance", "completeness")])
def test_sequence_and_token_classifiers_do_not_stand_in_for_each_other(task, other):
    with pytest.raises(ModelError, match="Classification"):
        load_reward_model(FIXTURE(task=other), pairwise=TASKS[task].pairwise)


# --- what is measured ---------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("task", MARKED)
def test_the_metrics_are_those_of_the_model_that_was_loaded(task, feedback, tmp_path):
    stored = json.loads((resolve(FIXTURE(task=task)) / "metrics.json").read_text())
    found = metrics_of(FIXTURE(task=task), task, feedback)
    same = pytest.approx(found, abs=1e-6)  # where the weights lie in memory decides how probabilities round
    assert {name: stored.get(name, found[name]) for name in found} == same
    assert set(REWARD_METRICS) & set(found) == set(REWARD_METRICS) & set(stored)
    false = altered(FIXTURE(task=task), tmp_path / "rm", setting("metrics.json", accuracy=0.99, accuracy_noisy=0.98))
    assert metrics_of(false, task, feedback) == same
    if not TASKS[task].pairwise:
        bare = altered(FIXTURE(task=task), tmp_path / "bare", remove("metrics.json", "settings.json"))
        assert metrics_of(bare, task, feedback) == same
    assert metrics_of(FIXTURE(task=task), task, feedback | {"heldout": []}) == {}


# --- what works all the same --------------------------------------------------------------------------------------------------

WORKS = {
    "braces in its name": ("lr={0.1}", []),
    "spaces and umlauts": ("model name with spaces ü", []),
    "padding beyond the embedding": ("rm", [another_token(special=True)]),
    "no padding token": ("rm", [setting("tokenizer_config.json", pad_token=None), setting("config.json", pad_token_id=None)]),
}


@pytest.mark.heavy
@pytest.mark.parametrize("case", WORKS)
def test_it_scores_as_ever(case, feedback, tmp_path):
    name, changes = WORKS[case]
    altered(FIXTURE(task="relevance"), tmp_path / name / "relevance", *changes)
    found = metrics_of(tmp_path / name / "{task}", "relevance", feedback)
    assert found == pytest.approx(metrics_of(FIXTURE(task="relevance"), "relevance", feedback), abs=1e-6)


def test_a_run_is_known_by_the_files_of_a_folder_with_braces(tmp_path):
    p = config.PPO(reward_model=str(tmp_path / "lr={0.1}" / "{task}"))
    before = identity.data_hash(p)
    altered(FIXTURE(task="relevance"), tmp_path / "lr={0.1}" / "relevance")
    assert identity.data_hash(p) != before


@pytest.mark.parametrize("kind", [GPT2ForSequenceClassification, GPT2ForTokenClassification])
@pytest.mark.parametrize("known", [{}, {"pad_token": "<pad>"}], ids=["nowhere", "by the tokenizer alone"])
def test_without_a_padding_token_scores_are_those_of_texts_alone(kind, known, tmp_path):
    tokenizer, pairwise = atlas_reward_tokenizer(), kind is GPT2ForSequenceClassification
    torch.manual_seed(0)
    classes = {"num_labels": 1} if pairwise else {"id2label": dict(enumerate(LABELS))}
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.4}
    ends = {"eos_token_id": 2, "bos_token_id": 1}
    kind(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends, **classes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    setting("tokenizer_config.json", **({"pad_token": None} | known))(tmp_path)
    scorer = model.load_scorer(tmp_path, "completeness" if pairwise else "relevance", config.PPO(device="cpu"))
    assert scorer.limit == 64
    contexts, texts = ["question: zodor answer:"] * 3, ["the stone.", "the stone of zodor isle is kane.", "kane, bane."]
    if pairwise:
        together, encoded = scorer.scores(contexts, texts), scorer.encode_wholes(contexts, texts)
    else:
        together = torch.cat(scorer.segment_logits(contexts, [[text] for text in texts]))
        encoded = scorer.encode_segments(contexts, [[text] for text in texts])
    as_it_came = kind.from_pretrained(tmp_path).eval()
    assert as_it_came.config.pad_token_id is None
    alone = [as_it_came(torch.tensor([one.ids])).logits[0] for one in encoded]
    alone = [row if pairwise else row[one.marks] for row, one in zip(alone, encoded, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone).detach(), rtol=1e-5, atol=1e-6)


# --- backbones ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairwise", [True, False])
def test_a_backbone_brings_its_body_and_no_more(pairwise, tmp_path):
    """What a masked language model leaves behind and what it lacks is no fault; a body that was not read is one."""
    masked = altered(
        FIXTURE(task="completeness"), tmp_path / "masked",
        renamed(lambda name: None if "pooler" in name else name.replace("classifier", "cls.predictions")),
    )  # fmt: skip
    loaded, _ = load_encoder(str(masked), pairwise, 0)
    trained, _ = load_reward_model(FIXTURE(task="completeness"), pairwise=True)
    assert torch.equal(loaded.bert.encoder.layer[1].output.dense.weight, trained.bert.encoder.layer[1].output.dense.weight)
    for index, (changes, named) in enumerate(
        [
            ([renamed("module.{}".format)], "'module.'"),
            ([renamed(lambda name: None if "layer.1" in name else name)], "bert.encoder.layer.1"),
            ([setting("config.json", num_hidden_layers=1)], "bert.encoder.layer.1"),
            ([setting("config.json", hidden_size=32)], "bert.embeddings"),
        ]
    ):
        folder = altered(FIXTURE(task="completeness"), tmp_path / str(index), *changes)
        with pytest.raises(ModelError, match=str(folder)) as error:
            load_encoder(str(folder), pairwise, 0)
        assert named in str(error.value)
