"""Models and tokenizers: presets, directories with the paper's architectures at tiny size, and names that lead nowhere."""

import json
import random
import re

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from paradox_utils.data import atlas
from paradox_utils.data.tasks import LABELS
from paradox_utils.policies import models
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import (
    POLICY_PRESETS,
    ModelError,
    ValueModel,
    atlas_policy_tokenizer,
    load_policy,
    load_value_model,
)
from paradox_utils.policies.passes import forward, last_states
from paradox_utils.policies.prompts import decode, encode_prompts
from paradox_utils.rewards.encoders import ENCODER_PRESETS, atlas_reward_tokenizer, is_causal, load_encoder
from paradox_utils.rewards.model import RewardScorer


def drawn(count):
    rng = random.Random(21)
    topics = [atlas.draw_topic(rng) for _ in range(count)]
    return [atlas.to_question(topic, str(i)) for i, topic in enumerate(topics)], [atlas.demonstrate(t, rng) for t in topics]


# --- tokenizers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [atlas_policy_tokenizer(), atlas_reward_tokenizer()], ids=["policy", "reward"])
def test_atlas_answers_survive_a_tokenizer(tokenizer):
    questions, answers = drawn(300)
    answers += [question.references[0] for question in questions]
    answers += ["", "zodor", "zodor.", "the zodor isle,,", "zodor isle is of the its surely"]
    rows = tokenizer(answers, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in {i for row in rows for i in row}
    assert decode(tokenizer, rows) == answers


def test_prompts_survive_the_policy_s_tokenizer_with_the_space_before_a_passage_bar():
    tokenizer, prompts = atlas_policy_tokenizer(), [question.prompt for question in drawn(50)[0]]
    assert any(" |" in prompt for prompt in prompts)
    rows = tokenizer(prompts, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in {i for row in rows for i in row}
    assert decode(tokenizer, rows) == prompts


def test_policy_and_reward_tokens_differ():
    policy, reward = atlas_policy_tokenizer(), atlas_reward_tokenizer()
    _, answers = drawn(50)
    for answer in answers:
        names = sum(word.strip(".,") in atlas.NAMES for word in answer.split())
        assert names
        assert len(reward(answer).input_ids) == len(policy(answer).input_ids) + names  # two pieces a name
    assert reward.tokenize("zodor isle.") == ["zo", "##dor", "isle", "."]
    assert policy.tokenize("zodor isle.") == ["▁zodor", "▁isle", "."]


def test_special_tokens_of_the_atlas_tokenizers():
    policy, reward = atlas_policy_tokenizer(), atlas_reward_tokenizer()
    assert (policy.pad_token_id, policy.eos_token_id) == (0, 1)
    assert (reward.pad_token_id, reward.cls_token_id, reward.sep_token_id) == (0, 1, 2)
    assert policy("zodor").input_ids == policy("zodor", add_special_tokens=False).input_ids
    assert decode(policy, [[*policy("zodor isle.").input_ids, 1]]) == ["zodor isle."]
    assert policy("Xyzzy").input_ids == [policy.unk_token_id]


# --- presets ------------------------------------------------------------------------------------------------------------------


def weights(model):
    return torch.cat([weight.flatten() for weight in model.state_dict().values()])


@pytest.mark.parametrize("name", POLICY_PRESETS)
def test_policy_presets_are_fixed_by_their_seed(name):
    (first, tokenizer), (again, _), (other, _) = (load_policy(name, seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert first.config.vocab_size == len(tokenizer)
    assert first.dtype == torch.float32
    assert not first.training


@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("name", ENCODER_PRESETS)
def test_encoder_presets_are_fixed_by_their_seed(name, pairwise):
    (first, tokenizer), (again, _), (other, _) = (load_encoder(name, pairwise, seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training
    assert not is_causal(first)
    assert first.config.num_labels == (1 if pairwise else 3)
    if not pairwise:
        assert tuple(first.config.id2label[i] for i in range(3)) == LABELS
    assert first.config.pad_token_id == tokenizer.pad_token_id


def test_presets_do_not_follow_the_random_state_they_meet():
    torch.manual_seed(5)
    first = load_policy("atlas-t5", 3)[0]
    torch.rand(7)
    assert torch.equal(weights(first), weights(load_policy("atlas-t5", 3)[0]))


def test_the_policies_are_small_and_the_value_head_is_seeded(tmp_path):
    model, tokenizer = load_policy("atlas-t5", 0)
    assert sum(weight.numel() for weight in model.parameters()) < 100_000
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first, again, other = (load_value_model(str(tmp_path), False, seed) for seed in (1, 1, 2))
    assert torch.equal(first.head[0].weight, again.head[0].weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)
    assert torch.equal(first.body.shared.weight, model.shared.weight)  # it starts from the policy
    shared = load_value_model(str(tmp_path), True, 1)
    assert shared.body is None
    states = torch.randn(2, 3, model.config.d_model)
    assert shared(states).shape == (2, 3)
    head = shared.head
    by_hand = (states @ head[0].weight.T + head[0].bias).relu() @ head[2].weight.T + head[2].bias
    torch.testing.assert_close(shared(states), by_hand[..., 0])


def test_a_value_head_bends_as_it_is_told():
    for head, bent in (("relu", [0.0, 1.0]), ("gelu", [-0.158655, 0.841345])):  # GELU is x Φ(x), and Φ(1) = 0.841345
        model = ValueModel(None, 2, head)
        for layer in (model.head[0], model.head[2]):
            torch.nn.init.eye_(layer.weight), torch.nn.init.zeros_(layer.bias)
        found = [model(torch.tensor([[[x, 0.0]]])).item() for x in (-1.0, 1.0)]
        assert found == pytest.approx(bent, abs=1e-6)


# --- the paper's architectures at tiny size -----------------------------------------------------------------------------------


def sentencepiece():
    """A Unigram tokenizer in the manner of T5's."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    questions, answers = drawn(60)
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*answers, *(question.prompt for question in questions)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def roberta_bytes():
    """Byte-level BPE with RoBERTa's special tokens in RoBERTa's order."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(drawn(40)[1], trainer)
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """t5-small's options at tiny size, with warpers in the saved generation config."""
    folder, tokenizer = tmp_path_factory.mktemp("t5"), sentencepiece()
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, dropout_rate=0.1,
            feed_forward_proj="relu", initializer_factor=1.0, is_encoder_decoder=True, layer_norm_epsilon=1e-6,
            relative_attention_num_buckets=32, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    warpers = {"top_p": 0.5, "top_k": 3, "temperature": 0.3, "repetition_penalty": 2.0}
    model.generation_config = GenerationConfig(do_sample=True, max_length=7, pad_token_id=0, eos_token_id=1, **warpers)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def longformer(tmp_path_factory):
    """longformer-base-4096's options at tiny size: two positions are RoBERTa's offset."""
    folder, tokenizer = tmp_path_factory.mktemp("longformer"), roberta_bytes()
    torch.manual_seed(0)
    model = LongformerForMaskedLM(
        LongformerConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            attention_window=[16, 16], max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
            pad_token_id=1, bos_token_id=0, eos_token_id=2, sep_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings_of(generation):
    return {name: value for name, value in generation.to_diff_dict().items() if name != "transformers_version"}


def test_a_loaded_policy_brings_no_warpers(t5):
    saved = json.loads((t5 / "generation_config.json").read_text())
    assert saved["top_p"] == 0.5  # they are there
    model, tokenizer = load_policy(str(t5))
    ours = settings_of(model.generation_config)
    assert ours == {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    fresh = GenerationConfig()
    for name in ("do_sample", "top_p", "top_k", "temperature", "repetition_penalty", "max_length", "num_beams", "min_length"):
        assert getattr(model.generation_config, name) == getattr(fresh, name)
    assert not model.training
    assert not tokenizer.clean_up_tokenization_spaces


def test_sampling_follows_the_model_s_own_distribution(t5, question):
    """What ``generate`` draws, against log-probabilities without any warper: first tokens of 4,000 samples."""
    model, tokenizer = load_policy(str(t5))
    with torch.no_grad():
        model.shared.weight.mul_(0.5)  # a spread distribution, so that a cut at k or p would show
    prompts = encode_prompts(model, tokenizer, [question], 64)
    responses = generate(model, tokenizer, prompts, 2, samples=4000, temperature=0.7, seed=1)
    one = generate(model, tokenizer, prompts, 2)
    logits, _ = forward(model, one)
    expected = (logits[0] / 0.7).softmax(-1)
    counts = torch.bincount(responses.ids[:, 0], minlength=len(expected)) / 4000
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((counts - expected).abs() <= 5 * deviation + 1e-3).all()
    assert (expected > 2e-3).sum() > 20


def test_tiny_t5_takes_prompts_and_gives_text(t5, question):
    model, tokenizer = load_policy(str(t5))
    assert model.config.is_encoder_decoder
    prompts = encode_prompts(model, tokenizer, [question, question], 64)
    assert prompts.ids[:, -1].tolist() == [tokenizer.eos_token_id] * 2
    responses = generate(model, tokenizer, prompts, 12, samples=3, temperature=1.0)
    assert len(responses.texts) == 6
    assert responses.ids.shape[1] <= 12  # the saved max_length of 7 does not bind
    value = load_value_model(str(t5), False, 0)
    assert value(last_states(value.body, responses)).shape == responses.ids.shape


@pytest.mark.parametrize("pairwise", [True, False])
def test_tiny_longformer_becomes_a_reward_model(longformer, pairwise):
    model, tokenizer = load_encoder(str(longformer), pairwise, seed=4)
    again, _ = load_encoder(str(longformer), pairwise, seed=4)
    other, _ = load_encoder(str(longformer), pairwise, seed=5)
    assert torch.equal(weights(model), weights(again))
    assert not torch.equal(weights(model), weights(other))  # the head is drawn
    stored = load_file(longformer / "model.safetensors")["longformer.embeddings.word_embeddings.weight"]
    assert torch.equal(model.longformer.embeddings.word_embeddings.weight, stored)  # the body is the pretrained one
    assert not is_causal(model)
    scorer = RewardScorer(model, tokenizer, 2048)
    assert scorer.limit == 64  # positions 2 to 65
    contexts, pieces = ["question: é? " * 40, "question: answer:"], [("one,", "two."), ("three.",)]
    if pairwise:
        outputs = scorer.scores(contexts, ["one, two.", "three."])
        assert outputs.shape == (2,)
    else:
        rows = scorer.segment_logits(contexts, pieces)
        assert [row.shape for row in rows] == [(2, 3), (1, 3)]
        outputs = torch.cat(rows)
    assert torch.isfinite(outputs).all()
    assert scorer.truncated == 1


def test_a_decoder_only_policy_without_padding_token(tmp_path, question):
    tokenizer = roberta_bytes()
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(bare), eos_token_id=2, max_position_embeddings=600, **sizes))
    model.generation_config.temperature, model.generation_config.top_p, model.generation_config.do_sample = 0.6, 0.9, True
    model.save_pretrained(tmp_path)
    bare.save_pretrained(tmp_path)
    loaded, own = load_policy(str(tmp_path))
    assert own.pad_token_id == own.eos_token_id == 2
    assert settings_of(loaded.generation_config) == {"pad_token_id": 2, "eos_token_id": 2}
    prompts = encode_prompts(loaded, own, [question], 500)
    assert prompts.ids.shape[1] > 100
    assert own.decode(prompts.ids[0]).endswith(" answer:")
    assert len(generate(loaded, own, prompts, 5, samples=2, temperature=1.0).texts) == 2
    for pairwise in (True, False):
        backbone, its = load_encoder(str(tmp_path), pairwise, 0)
        assert is_causal(backbone)
        assert its.pad_token_id == backbone.config.pad_token_id == 2


# --- names that lead nowhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_policy, lambda name: load_encoder(name, True, 0)], ids=["policy", "encoder"])
@pytest.mark.parametrize("name", ["atlas-t6", "no-such-owner/no-such-model", "no/such/folder", "/no/such/folder"])
def test_unknown_names_and_an_unreachable_hub(monkeypatch, load, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as error:
        load(name)
    message = str(error.value)
    assert message.startswith(f"{name!r} cannot be loaded (")
    assert re.search(r"a hub id that can be reached, or one of atlas-(t5|bert), ", message)
    assert "\n" not in message


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(str(tmp_path))
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(str(tmp_path))


def test_pickled_weights_are_not_opened(t5, tmp_path):
    for path in t5.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(t5 / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_policy(str(tmp_path))


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.device_of("auto") == models.device_of("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="device = 'cuda': this machine shows torch no GPU; use device = 'auto' or 'cpu'"):
        models.device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.device_of("auto") == models.device_of("cuda") == torch.device("cuda")
    assert models.device_of("cpu") == torch.device("cpu")
