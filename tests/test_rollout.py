"""From prompts to responses and their log-probabilities, for an encoder-decoder and a decoder-only policy of 13 words."""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from paradox_utils import objective
from paradox_utils.data.records import DataError, Question
from paradox_utils.models import load_policy, load_value_model
from paradox_utils.rollout import NonFiniteLogitsError, Prompts, Responses, encode_prompts, forward, generate, take

PAD, EOS, A = 0, 1, 3
KINDS = ("encoder-decoder", "decoder-only")
TEXTS = ["a b c", "d", "e f g h a b", "h h"]  # prompts of different lengths, so that there is padding


def tiny_tokenizer():
    words = ["<pad>", "</s>", "<unk>", *(f"▁{letter}" for letter in "abcdefgh"), "▁answer", ":"]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")])
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_model(kind, words=13):
    """Random weights, spread so that distributions are far from uniform and depend on the prompt."""
    torch.manual_seed(4)
    common = {"vocab_size": words, "pad_token_id": PAD, "eos_token_id": EOS}
    if kind == "encoder-decoder":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(**common, **sizes, decoder_start_token_id=PAD, dropout_rate=0.0))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**common, **sizes, **heads, bos_token_id=None, initializer_range=0.4))


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny_model(request.param).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(str(folder))


def ask(policy, texts=TEXTS, limit=32):
    return encode_prompts(*policy, [Question(str(i), text, (), text, ()) for i, text in enumerate(texts)], limit)


def sampled(policy, texts=TEXTS, limit=10, samples=3, temperature=0.7, seed=0, **how):
    torch.manual_seed(seed)
    return generate(*policy, ask(policy, texts), limit, samples, temperature, **how)


def plain_logits(model, prompt, response):
    """Logits of one response to one prompt, both lists of ids without any padding: the textbook computation."""
    if model.config.is_encoder_decoder:
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[PAD, *response[:-1]]])).logits[0]
    return model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


def unpadded(prompts):
    return [ids[mask.bool()].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]


# --- prompts ------------------------------------------------------------------------------------------------------------------


def test_prompts_end_in_the_end_of_sequence_or_in_the_cue_and_are_padded_on_the_side_their_policy_needs(policy):
    model, tokenizer = policy
    prompts = ask(policy, ["a b", "c"])
    a, b, c, answer, colon = tokenizer.convert_tokens_to_ids(["▁a", "▁b", "▁c", "▁answer", ":"])
    if model.config.is_encoder_decoder:
        ids, mask = [[a, b, EOS], [c, EOS, PAD]], [[1, 1, 1], [1, 1, 0]]
    else:
        ids, mask = [[a, b, answer, colon], [PAD, c, answer, colon]], [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert prompts.ids.tolist() == ids
    assert prompts.mask.tolist() == mask
    assert prompts.truncated == 0


def test_long_prompts_are_cut_and_counted_and_keep_their_end(policy):
    model, tokenizer = policy
    tail = [EOS] if model.config.is_encoder_decoder else tokenizer.convert_tokens_to_ids(["▁answer", ":"])
    prompts = ask(policy, ["a b c d e f", "a b", "a b c"], limit=2 + len(tail))
    a, b = tokenizer.convert_tokens_to_ids(["▁a", "▁b"])
    assert prompts.ids.tolist() == [[a, b, *tail]] * 3
    assert prompts.truncated == 2  # "a b" just fits


def test_no_prompts_and_no_room_for_prompts_are_refused_with_the_way_out(policy):
    with pytest.raises(DataError, match=r"holds no question.*raise train_"):
        encode_prompts(*policy, [], 32)
    with pytest.raises(DataError, match="prompt_limit = 1"):
        ask(policy, limit=1)


# --- responses ----------------------------------------------------------------------------------------------------------------


def test_the_mask_ends_with_the_end_of_sequence_and_padding_follows(policy):
    responses = sampled(policy, samples=8)
    assert responses.ids.shape == responses.mask.shape == (32, 10)
    for ids, mask, tokens, text in zip(responses.ids, responses.mask, responses.tokens(), responses.texts, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (10 - length)
        assert ids[length:].eq(PAD).all()
        assert EOS not in ids[: length - 1]
        assert ids[length - 1] == EOS or length == 10
        assert tokens == ids[:length].tolist()
        assert text == policy[1].decode([t for t in tokens if t > 2])  # without special tokens
    lengths = responses.mask.sum(1)
    assert len(set(lengths.tolist())) > 3  # the sample really holds short, middling and cut responses
    assert (lengths == 1).any() or (lengths == 2).any()
    assert ((lengths == 10) & (responses.ids[:, -1] != EOS)).any()


def test_a_policy_without_a_padding_token_has_the_same_masks(tmp_path):
    responses = []
    for name in ("with", "without"):
        tokenizer = tiny_tokenizer()
        if name == "without":
            tokenizer.pad_token = None
        tiny_model("decoder-only").save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        responses.append(sampled(load_policy(str(tmp_path / name)), texts=["a b c"], samples=16))
    usual, other = responses
    assert other.ids[other.mask == 0].eq(EOS).all()  # its padding is the end of sequence
    assert usual.mask.eq(0).any()
    assert torch.equal(usual.mask, other.mask)
    assert usual.tokens() == other.tokens()


def test_the_samples_of_one_prompt_lie_side_by_side(policy):
    greedy = generate(*policy, ask(policy), 10).tokens()
    assert all(one != next_one for one, next_one in itertools.pairwise(greedy))  # else the order could not be seen
    cold = sampled(policy, samples=3, temperature=1e-4)  # as good as greedy
    assert cold.tokens() == [tokens for tokens in greedy for _ in range(3)]
    assert [question.id for question in cold.questions] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3 + ["3"] * 3


def test_a_prompt_is_answered_alike_beside_longer_ones(policy):
    together = generate(*policy, ask(policy), 10)
    for index, text in enumerate(TEXTS):
        assert generate(*policy, ask(policy, [text]), 10).tokens() == [together.tokens()[index]]


def test_take_gives_the_rows_of_some_prompts(policy):
    responses = sampled(policy, samples=3)
    some = take(responses, 1, 3)
    assert [question.id for question in some.questions] == ["1", "1", "1", "2", "2", "2"]
    assert torch.equal(some.ids, responses.ids[3:9])
    assert some.tokens() == responses.tokens()[3:9]
    assert some.texts == responses.texts[3:9]
    assert torch.equal(some.prompts.ids, responses.prompts.ids[1:3])


# --- the distribution sampled from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 4])
def test_tokens_are_drawn_from_the_tempered_softmax_and_from_nothing_else(policy, top_k):
    """Frequencies of 4,000 first tokens against softmax(logits / 0.7), over all tokens or the top k of them."""
    responses = sampled(policy, texts=["a b c"], limit=1, samples=4000, top_k=top_k)
    logits = plain_logits(policy[0], unpadded(responses.prompts)[0], [A])[0].double()
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    counts = torch.bincount(responses.ids[:, 0], minlength=13)
    assert counts[logits.isinf()].sum() == 0

    def p_value(temperature):
        expected, order = ((logits / temperature).softmax(-1) * 4000).sort(descending=True)
        bins = int((expected > 5).sum())  # the rarest tokens are counted with the last of these
        assert bins >= 3
        pooled = [torch.cat([x[: bins - 1], x[bins - 1 :].sum(0, keepdim=True)]).tolist() for x in (counts[order], expected)]
        return chisquare(*pooled).pvalue

    assert p_value(0.7) > 0.001
    assert p_value(1.0) < 1e-9  # the test can tell the temperatures apart
    found = objective.log_probabilities(forward(policy[0], responses)[0], responses.ids, 0.7)
    assert found.isfinite().all()


def test_a_broken_policy_is_refused_before_anything_is_sampled(policy):
    model = tiny_model("encoder-decoder" if policy[0].config.is_encoder_decoder else "decoder-only")
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match="logits are not finite"):
        sampled((model.eval(), policy[1]))


# --- forward passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_equal_those_of_each_response_alone_without_padding(policy, temperature):
    responses = sampled(policy, samples=2)
    assert responses.prompts.mask.eq(0).any()
    assert responses.mask.eq(0).any()
    logits, _ = forward(policy[0], responses)
    found = objective.log_probabilities(logits, responses.ids, temperature)
    for row, tokens in enumerate(responses.tokens()):
        prompt = unpadded(responses.prompts)[row // 2]
        expected = (plain_logits(policy[0], prompt, tokens) / temperature).log_softmax(-1)[range(len(tokens)), tokens]
        torch.testing.assert_close(found[row, : len(tokens)], expected, atol=1e-5, rtol=1e-5)


def test_more_padding_changes_neither_logits_nor_states(policy):
    responses = sampled(policy, samples=2)
    sides = (0, 3) if policy[0].config.is_encoder_decoder else (3, 0)
    wide = [torch.nn.functional.pad(tensor, sides) for tensor in (responses.prompts.ids, responses.prompts.mask)]
    padded = Responses(Prompts(responses.prompts.questions, *wide, 0), responses.ids, responses.mask, responses.texts, 2)
    real = responses.mask.bool()
    for found, expected in zip(forward(policy[0], padded), forward(policy[0], responses), strict=True):
        torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


def test_absolute_positions_count_from_the_first_token_of_the_prompt():
    """Left padding shifts no position; only a model that numbers its positions (GPT-2) can tell, rotary ones cannot."""
    torch.manual_seed(4)
    shape = GPT2Config(vocab_size=13, n_embd=16, n_layer=1, n_head=2, n_positions=64, initializer_range=0.4)
    policy = GPT2LMHeadModel(shape).eval(), tiny_tokenizer()
    policy[0].generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS)
    responses = sampled(policy, samples=2)
    logits, _ = forward(policy[0], responses)
    for row, tokens in enumerate(responses.tokens()):
        expected = plain_logits(policy[0], unpadded(responses.prompts)[row // 2], tokens)
        torch.testing.assert_close(logits[row, : len(tokens)], expected, atol=1e-5, rtol=1e-5)


def test_sharing_the_encoder_pass_changes_neither_values_nor_gradients(policy):
    model, _ = policy
    responses = sampled(policy, samples=3)
    repeated = ask(policy, [text for text in TEXTS for _ in range(3)])
    each = Responses(repeated, responses.ids, responses.mask, responses.texts, 1)
    results = []
    for arrangement in (responses, each):
        model.zero_grad()
        logits, _ = forward(model, arrangement)
        log_p = objective.log_probabilities(logits, arrangement.ids, 0.7)
        objective.masked_mean(log_p, arrangement.mask).backward()
        results.append((log_p.detach() * arrangement.mask, [w.grad.clone() for w in model.parameters() if w.grad is not None]))
    model.zero_grad()
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    assert max(gradient.abs().max() for gradient in results[0][1]) > 1e-3
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=1e-5)


def test_states_are_what_the_logits_come_from_and_a_value_body_starts_from_the_same(policy, folder):
    model, _ = policy
    responses = sampled(policy)
    logits, states = forward(model, responses)
    scale = 16**-0.5 if model.config.is_encoder_decoder and model.config.tie_word_embeddings else 1.0
    torch.testing.assert_close(model.get_output_embeddings()(states * scale), logits)
    value = load_value_model(str(folder), shared=False, seed=0)
    nothing, body_states = forward(value.body, responses, head=False)
    assert nothing is None
    torch.testing.assert_close(body_states, states, atol=1e-6, rtol=1e-5)


def test_a_response_sees_its_own_past_alone(policy):
    """Changing a token changes what is predicted after it, and nothing up to it."""
    responses = sampled(policy, samples=1)
    before, _ = forward(policy[0], responses)
    responses.ids[0, 1] = A if responses.ids[0, 1] != A else A + 1
    after, _ = forward(policy[0], responses)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert (after[0, 2] - before[0, 2]).abs().max() > 1e-3
    torch.testing.assert_close(after[1:], before[1:])
