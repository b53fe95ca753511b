"""Prompts as tensors, and how a rollout is cut, for an encoder-decoder and a decoder-only policy of 13 words."""

import dataclasses

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from paradox_utils.data.records import DataError, Question
from paradox_utils.policies.models import load_policy
from paradox_utils.policies.prompts import Prompts, Responses, choose, encode_prompts, passes, rows_of, take

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


# --- parts of a rollout -------------------------------------------------------------------------------------------------------


def answers(policy, texts, lengths, samples):
    """Responses of these lengths, made of numbered tokens, padded to the longest."""
    width, prompts = max(lengths), ask(policy, texts)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    ids = (torch.arange(mask.numel()).view(mask.shape) % 10 + 3) * mask
    return Responses(prompts, ids, mask, [f"text {row}" for row in range(len(lengths))], samples)


def test_chosen_prompts_come_in_the_order_asked_for_and_leave_the_others_padding_behind(policy):
    prompts = ask(policy)  # 3, 1, 6 and 2 words
    some = choose(prompts, [3, 1])
    assert [question.id for question in some.questions] == ["3", "1"]
    assert unpadded(some) == [unpadded(prompts)[3], unpadded(prompts)[1]]
    assert some.ids.shape[1] == prompts.ids.shape[1] - 4
    assert some.mask.sum(1).tolist() == [some.ids.shape[1], some.ids.shape[1] - 1]
    alone = ask(policy, [TEXTS[3], TEXTS[1]])
    assert torch.equal(some.ids, alone.ids)
    assert torch.equal(some.mask, alone.mask)


def test_take_gives_the_rows_of_some_prompts_in_the_order_asked_for_without_the_others_padding(policy):
    responses = answers(policy, TEXTS, [7, 2, 1, 3, 2, 2, 4, 1], samples=2)
    some = take(responses, [3, 1])
    assert rows_of([3, 1], 2) == [6, 7, 2, 3]
    assert [question.id for question in some.questions] == ["3", "3", "1", "1"]
    assert some.mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert torch.equal(some.ids, responses.ids[[6, 7, 2, 3], :4])
    assert some.tokens() == [responses.tokens()[row] for row in (6, 7, 2, 3)]
    assert some.texts == ["text 6", "text 7", "text 2", "text 3"]
    assert unpadded(some.prompts) == [unpadded(responses.prompts)[index] for index in (3, 1)]


def test_a_pass_of_no_limit_is_the_whole_rollout_as_it_lies(policy):
    assert list(passes(answers(policy, TEXTS, [5, 1, 3, 2], samples=1), 0)) == [[0, 1, 2, 3]]


def test_passes_by_hand():
    """Prompts of 4, 1, 1 and 2 tokens with two responses of at most 1, 9, 1 and 2.

    Sizes alone, S + 2 T: 6, 19, 3, 6. Together: prompts 2 and 0 make 2 (4 + 2 * 1) = 12; with 3, 3 (4 + 2 * 2) = 24.
    """
    widths, longest = [4, 1, 1, 2], [1, 9, 1, 2]
    mask = torch.tensor([[1] * n + [0] * (4 - n) for n in widths])
    lengths = torch.tensor([length for n in longest for length in (1, n)])
    answered = (torch.arange(9) < lengths[:, None]).long()
    responses = Responses(Prompts([None] * 4, mask, mask, 0), answered, answered, [""] * 8, 2)
    assert list(passes(responses, 12)) == [[2, 0], [3], [1]]
    assert list(passes(responses, 11)) == [[2], [0], [3], [1]]
    assert list(passes(responses, 24)) == [[2, 0, 3], [1]]
    assert list(passes(responses, 1)) == [[2], [0], [3], [1]]  # a single prompt may have more than the limit
    assert list(passes(responses, 4 * (4 + 2 * 9))) == [[2, 0, 3, 1]]


@pytest.mark.parametrize("tokens", [1, 20, 40, 60, 100, 1000])
def test_every_prompt_is_in_one_pass_and_no_pass_of_several_is_over_the_limit(policy, tokens):
    generator = torch.Generator().manual_seed(tokens)
    texts = [" ".join("abcdefgh"[:n]) for n in torch.randint(1, 9, (9,), generator=generator).tolist()]
    responses = answers(policy, texts, torch.randint(1, 12, (27,), generator=generator).tolist(), samples=3)
    found = list(passes(responses, tokens))
    assert sorted(index for chosen in found for index in chosen) == list(range(9))
    for chosen in found:
        part = take(responses, chosen)
        assert len(chosen) == 1 or part.prompts.ids.numel() + part.ids.numel() <= tokens
    assert len(found) == {1: 9, 1000: 1}.get(tokens, len(found))


def test_passes_give_what_was_asked_for_whatever_the_padding_around_it(policy):
    """Columns that no row needs neither count nor survive."""
    responses = answers(policy, TEXTS, [3, 2, 4, 1], samples=1)
    wide = dataclasses.replace(
        responses, ids=torch.nn.functional.pad(responses.ids, (0, 9)), mask=torch.nn.functional.pad(responses.mask, (0, 9))
    )
    assert list(passes(wide, 20)) == list(passes(responses, 20))
    assert torch.equal(take(wide, [0, 1, 2, 3]).ids, responses.ids)
