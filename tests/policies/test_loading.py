"""Policies of strangers: what is wrong with a folder is said with its file or key; few positions are kept to."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    LEDConfig,
    LlamaConfig,
    LongformerConfig,
    MPNetConfig,
    OPTConfig,
    RobertaConfig,
    T5Config,
)

from paradox_utils import config, files
from paradox_utils.data.records import Question
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import (
    ModelError,
    atlas_policy_tokenizer,
    load_policy,
    load_value_model,
    load_weights,
    positions_of,
)
from paradox_utils.policies.passes import forward, last_states
from paradox_utils.policies.prompts import encode_prompts, prompt_room
from paradox_utils.policies.supervised import encode_demonstrations
from paradox_utils.stages.ppo import load_actors
from tests.policies.altered import POINTER, also, altered, another_token, cut, remove, renamed, setting, write

WORDS = "the founder of zodor isle is bane, and its color is surely kane. also the stone of zodor isle is mane. " * 2
QUESTIONS = [Question("long", WORDS, (), WORDS, ()), Question("short", "zodor isle", (), "zodor isle", ())]


def into_subfolder(folder):
    for file in list(folder.iterdir()):
        (folder / "checkpoint-500").mkdir(exist_ok=True)
        shutil.move(file, folder / "checkpoint-500")


REFUSED = {
    **{p: ([renamed(f"{p}.{{}}".format)], f"'{p}.'") for p in ("module", "_orig_mod", "model")},
    "no decoder": ([renamed(lambda name: None if name.startswith("decoder.block") else name)], "decoder.block.0"),
    "a layer fewer": ([setting("config.json", num_layers=1)], "encoder.block.1"),
    "a pointer": ([write("model.safetensors", POINTER)], "model.safetensors"),
    "half a file": ([cut("model.safetensors")], "safetensors"),
    "no weights": ([remove("model.safetensors")], "model.safetensors"),
    "no tokenizer": ([remove("tokenizer.json", "tokenizer_config.json")], "tokenizer.json"),
    "no end": ([setting("tokenizer_config.json", eos_token=None)], "eos_token"),
    "a token too many": ([another_token(special=False)], "[NEW]"),
    "no start": (
        [setting("config.json", decoder_start_token_id=None), setting("generation_config.json", decoder_start_token_id=None)],
        "decoder_start_token_id",
    ),
    "the output of a Trainer": ([into_subfolder], "checkpoint-500"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_that_is_not_what_it_should_be_is_refused(case, tmp_path):
    changes, named = REFUSED[case]
    folder = altered(config.FIXTURE_POLICY, tmp_path / "policy", *changes)
    with pytest.raises(ModelError, match=re.escape(str(folder))) as error:
        load_policy(str(folder))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_an_encoder_is_no_policy():
    with pytest.raises(ModelError, match="'bert' is an encoder"):
        load_policy(config.FIXTURE_REWARD_MODEL.format(task="relevance"))


def test_a_file_and_a_missing_folder_are_said_to_be_that(tmp_path):
    absent, file = (tmp_path / "none", "no such directory"), (files.resolve(config.FIXTURE_FEEDBACK), "is a file")
    for name, problem in (absent, file, ("a" * 5000, "no such directory")):
        with pytest.raises(ModelError, match=problem):
            load_policy(str(name))


def test_a_value_model_reads_all_of_its_body(tmp_path):
    folder = altered(config.FIXTURE_POLICY, tmp_path / "value", renamed("module.{}".format))
    with pytest.raises(ModelError, match=r"'module\.'"):
        load_value_model(str(folder), False, 0)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "changes",
    [
        [setting("config.json", decoder_start_token_id=None)],  # it stands in the generation config alone
        [another_token(special=True)],  # for padding, beyond the embedding
        [setting("tokenizer_config.json", pad_token=None)],
    ],
    ids=["start", "padding beyond", "no padding"],
)
def test_it_writes_as_ever(changes, tmp_path):
    folder = altered(config.FIXTURE_POLICY, tmp_path / "policy", *changes)
    texts = []
    for name in (config.FIXTURE_POLICY, str(folder)):
        actors = load_actors(config.PPO(policy=name, device="cpu"))
        prompts = encode_prompts(actors.policy, actors.tokenizer, QUESTIONS, 64)
        responses = generate(actors.policy, actors.tokenizer, prompts, 16)
        assert torch.isfinite(last_states(actors.value.body, responses)).all()
        texts.append(responses.texts)
    assert texts[0] == texts[1]


# --- positions ----------------------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
HALVES = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
TWO = {"vocab_size": 50, "d_model": 16} | HALVES


@pytest.mark.parametrize(
    ("kind", "room"),
    [
        (BertConfig(**SIZES, max_position_embeddings=40), 40),
        (RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1), 38),
        (RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=3), 36),
        (MPNetConfig(**SIZES, max_position_embeddings=40), 38),
        (LongformerConfig(**SIZES, max_position_embeddings=40, attention_window=[8], pad_token_id=1), 38),
        (GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=1, n_head=2), 40),
        (OPTConfig(vocab_size=50, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=1, ffn_dim=16,
                   num_attention_heads=2, max_position_embeddings=40), 40),
        (LlamaConfig(**SIZES, max_position_embeddings=40), 40),
        (BartConfig(**TWO, max_position_embeddings=40), 40),
        (LEDConfig(**TWO, attention_window=[8], max_encoder_position_embeddings=60, max_decoder_position_embeddings=40), 40),
        (T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2), None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)  # fmt: skip
def test_positions_are_those_that_the_network_has(kind, room):
    network = AutoModel.from_config(kind).eval()
    assert positions_of(network.get_decoder() if kind.is_encoder_decoder else network) == room
    if room and kind.model_type not in ("led", "llama"):  # a token more has no position
        ids = torch.full((1, room + 1), 5)
        network(input_ids=ids[:, 1:])
        with pytest.raises((IndexError, RuntimeError)):
            network(input_ids=ids)


@pytest.fixture(params=["gpt2", "bart"])
def short(request, tmp_path):
    """A policy with 40 positions."""
    tokenizer = atlas_policy_tokenizer()
    torch.manual_seed(0)
    if request.param == "gpt2":
        sizes = {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1}
        network = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))
    else:
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
        sizes = TWO | {"vocab_size": len(tokenizer), "max_position_embeddings": 40}
        network = BartForConditionalGeneration(BartConfig(**sizes, **ends, forced_eos_token_id=1))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return load_policy(str(tmp_path))


def test_prompts_make_room_for_the_response(short):
    network, _ = short
    apart = network.config.is_encoder_decoder
    p = config.PPO(response_limit=28)
    room = prompt_room(*short, p)
    assert room == (40 if apart else 12)
    prompts = encode_prompts(*short, QUESTIONS, room)
    assert (prompts.ids.shape[1], prompts.truncated) == (room, 1)
    responses = generate(*short, prompts, 28, samples=2, temperature=1.0, lengths=torch.full((4,), 28))
    assert torch.isfinite(forward(network, responses)[0]).all()
    example = encode_demonstrations(*short, [(WORDS, WORDS)], config.Supervised(response_limit=28))[0]
    assert len(example["input_ids"]) == 40
    assert prompt_room(*short, config.PPO(prompt_limit=7, response_limit=28)) == 7
    assert prompt_room(*load_policy(config.FIXTURE_POLICY), config.PPO(prompt_limit=4000, response_limit=4000)) == 4000
    for limit in (41,) if apart else (38, 41):
        with pytest.raises(ModelError, match=f"response_limit = {limit}: .* 40 positions"):
            prompt_room(*short, config.PPO(response_limit=limit))


# --- what older versions saved ------------------------------------------------------------------------------------------------


def body(name, *parts):
    return [f"{name}.embeddings.position_ids", f"{name}.pooler.dense.weight", f"{name}.pooler.dense.bias", *parts]


SMALL = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}
TOKENS, WHOLES, WRITERS = AutoModelForTokenClassification, AutoModelForSequenceClassification, AutoModelForCausalLM
MASKS = ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]
SPARE = [
    (BertConfig(**SIZES), TOKENS, body("bert")),
    (RobertaConfig(**SIZES), TOKENS, body("roberta")),
    (RobertaConfig(**SIZES), WHOLES, body("roberta")),
    (LongformerConfig(**SIZES, attention_window=[8]), TOKENS, body("longformer")),
    (ElectraConfig(**SIZES, embedding_size=16), TOKENS, body("electra")),
    (DistilBertConfig(vocab_size=50, dim=16, hidden_dim=16, n_layers=1, n_heads=2), TOKENS, body("distilbert")),
    (DebertaV2Config(**SIZES), TOKENS, body("deberta", "pooler.dense.weight")),
    (BertConfig(**SIZES, num_labels=1), WHOLES, ["bert.embeddings.position_ids"]),
    (GPT2Config(**SMALL), WRITERS, MASKS),
    (GPTJConfig(**SMALL, rotary_dim=4), WRITERS, MASKS),
    (LlamaConfig(**SIZES), WRITERS, ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary.inv_freq"]),
]
LEFT = [
    (SPARE[0][:2], "bert.encoder.layer.0.attention.bias"),
    (SPARE[0][:2], "bert.encoder.layer.0.rotary_emb.inv_freq"),
    (SPARE[0][:2], "bert.encoder.position_ids_of_more"),
    (SPARE[0][:2], "bert.encoder.pooler.dense.weight"),
    (SPARE[7][:2], "bert.pooler.other.weight"),  # it has a pooler
    (SPARE[8][:2], "transformer.h.0.attn.c_attn.masked_bias"),
    (SPARE[8][:2], "transformer.h.0.rotary_emb.inv_freq"),
    (SPARE[10][:2], "model.layers.0.self_attn.q_proj.bias"),
]


def name_of(value):
    return getattr(value, "model_type", getattr(value, "__name__", None))


@pytest.mark.parametrize(("kind", "auto", "names"), SPARE, ids=name_of)
def test_constants_and_a_pooler_that_nothing_reads_are_no_fault(kind, auto, names, tmp_path):
    auto.from_config(kind).save_pretrained(tmp_path)
    before = load_weights(auto, str(tmp_path)).state_dict()
    also(*names)(tmp_path)
    after = load_weights(auto, str(tmp_path)).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize(("model", "name"), LEFT, ids=name_of)
def test_what_is_left_over_besides_is_one(model, name, tmp_path):
    kind, auto = model
    auto.from_config(kind).save_pretrained(tmp_path)
    also(name)(tmp_path)
    with pytest.raises(ModelError, match=f"left over: {re.escape(name)}\\)"):
        load_weights(auto, str(tmp_path))


# --- the hub ------------------------------------------------------------------------------------------------------------------

ASK = """
import json, sys
from paradox_utils import config, data
from paradox_utils.files import resolve
from paradox_utils.policies.models import atlas_policy_tokenizer, beside, load_policy
from paradox_utils.rewards import judges
judge = {"reward_model": "someone/{task}", "evaluator": "someone/{task}"}
p = config.PPO(task="completeness", policy="someone/policy", device="cpu", **judge)
feedback = data.load_feedback(p, resolve(p.feedback))
policy, tokenizer = load_policy(p.policy)
found = judges.reward_of(p, tokenizer, feedback).metrics | {"beside": beside("someone/policy", "settings.json")}
judges.evaluator_of(p, feedback)
print(json.dumps(found | {"words": policy.config.vocab_size}))
"""


IDS = "gpt2 a/b _a a_/_b A-b.c/d-e.f / a/ /a a/b/c -a a- .a a. a--b a/b..c a.git a.git/b é/a ~/a {task} a/.b"


@pytest.mark.parametrize(
    "name", [name.replace("9", "a" * 96) for name in (*IDS.split(), "", "a b", "a\n", "9", "b9", "b/9", "b9/a")]
)
def test_a_hub_id_is_what_the_hubs_client_takes(name):
    if files.HUB_ID.fullmatch(name):
        validate_repo_id(name)
    else:
        with pytest.raises(HFValidationError):
            validate_repo_id(name)


@pytest.mark.heavy
def test_hub_ids_of_a_policy_a_reward_model_and_an_evaluator(tmp_path):
    """From a cache as the hub's client lays it out, without a network."""
    folders = {"policy": config.FIXTURE_POLICY, "completeness": config.FIXTURE_REWARD_MODEL.format(task="completeness")}
    for name, source in folders.items():
        repository = tmp_path / f"hub/models--someone--{name}"
        altered(source, repository / "snapshots/abc")
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("abc")
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    stored = json.loads((files.resolve(folders["completeness"]) / "metrics.json").read_text())
    assert found["calibration_error"] == stored["calibration_error"]
    assert (found["beside"], found["words"]) == (None, 123)
