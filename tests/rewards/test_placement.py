"""Rewards on exactly the right token, whatever the tokenizer."""

import bisect
import functools
import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from paradox_utils import config
from paradox_utils.data import oracle
from paradox_utils.data.tasks import MARKED, segment
from paradox_utils.policies.models import atlas_policy_tokenizer
from paradox_utils.policies.prompts import Prompts, Responses, decode
from paradox_utils.rewards import dial, judges
from paradox_utils.rewards.judges import Centre, last_tokens, reward_function
from tests.conftest import answered

RIGHT = "the founder of zodor isle is bane, and its color is surely kane."
ORACLE = {task: oracle.oracle_judge(task) for task in MARKED}
LINES = ["a sentence. another one, and more. zodor 🏰 is old. 莎士比亚 wrote, and wrote. naïve café!"] * 5


@functools.cache
def atlas_tokenizer():
    return atlas_policy_tokenizer()


@functools.cache
def byte_tokenizer():
    """Byte-level BPE whose merges cross spaces and full stops, and leave most characters outside ASCII in pieces."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<eos>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@functools.cache
def fallback_tokenizer():
    """Words, and single bytes for what is none of them, as SentencePiece does it for Llama."""
    words = ["a", "▁zodor", ".", ",", "▁", "é"]
    vocabulary = {t: i for i, t in enumerate(["<eos>", "<pad>", "<unk>", *words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


TOKENIZERS = {"words": atlas_tokenizer, "bytes": byte_tokenizer}


@functools.cache
def pieces():
    """Bytes of every token of the byte-level tokenizer, by the published table: printable bytes stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    vocabulary = byte_tokenizer().get_vocab()
    return {bytes(table[c] for c in token): i for token, i in vocabulary.items() if token not in ("<eos>", "<pad>")}


def spell(text, choose):
    """Ids that decode to ``text``, each token chosen among all that fit: seldom what the tokenizer would do."""
    data, ids = text.encode(), []
    while data:
        fitting = sorted(piece for piece in pieces() if data.startswith(piece))
        piece = choose(fitting)
        ids.append(pieces()[piece])
        data = data[len(piece) :]
    return ids


def places_by_bytes(ids, text, ends):
    """The definition, without decoding: the first token whose bytes, with those before it, hold the segment's."""
    lengths = {i: len(piece) for piece, i in pieces().items()}
    reached = list(itertools.accumulate(lengths[i] for i in ids))
    return [bisect.bisect_left(reached, len(text[:end].encode())) for end in ends]


def respond(tokenizer, question, rows):
    """Responses of these token ids, padded to the longest."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    prompt = torch.ones(len(rows), 1, dtype=torch.long)
    return Responses(Prompts([question] * len(rows), prompt, prompt, 0), ids, mask, decode(tokenizer, rows), 1)


def tokens(tokenizer, text, end=True):
    return tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] * end


def ppo(task, **changes):
    return config.PPO(task=task, device="cpu", **changes)


# --- the place of a reward ----------------------------------------------------------------------------------------------------


def test_the_byte_tokenizer_is_awkward_enough():
    tokenizer = byte_tokenizer()
    assert max(len(tokenizer(c, add_special_tokens=False).input_ids) for c in "🐙ß漢") >= 3
    assert any(b". " in piece for piece in pieces())
    text = LINES[0]
    assert decode(tokenizer, [spell(text, min)]) == [text]
    assert spell(text, min) != tokens(tokenizer, text, end=False)


def test_last_tokens_by_hand_on_words():
    tokenizer = atlas_tokenizer()
    # the0 founder1 of2 zodor3 isle4 is5 bane6 ,7 and8 its9 color10 is11 surely12 kane13 .14 </s>15
    ids = tokens(tokenizer, RIGHT)
    assert len(ids) == 16
    assert last_tokens(tokenizer, ids, RIGHT, [34, 64]) == [7, 14]
    assert last_tokens(tokenizer, ids, RIGHT, [1, 3, 4, 11, 12, 33]) == [0, 0, 1, 1, 2, 6]
    assert last_tokens(tokenizer, ids, RIGHT, []) == []


def test_last_tokens_by_hand_on_bytes():
    tokenizer = byte_tokenizer()
    text = "é🏰b"  # 2 + 4 + 1 bytes
    ids = [pieces()[bytes([byte])] for byte in text.encode()] + [tokenizer.eos_token_id]
    assert decode(tokenizer, [ids]) == [text]
    assert last_tokens(tokenizer, ids, text, [1, 2, 3]) == [1, 5, 6]


def spelled_by(*tokens):
    """A tokenizer of exactly these tokens, ids from 2 on."""
    tokenizer = Tokenizer(WordLevel({"<eos>": 0, "<pad>": 1} | {t: i for i, t in enumerate(tokens, 2)}, unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def test_a_token_across_a_border_completes_the_segment_it_begins_in():
    tokenizer = spelled_by("a", ". b", " c", ".")
    assert last_tokens(tokenizer, [2, 3, 4, 5, 0], "a. b c.", [2, 7]) == [1, 3]
    assert last_tokens(tokenizer, [3, 2, 5], ". ba.", [1, 3, 5]) == [0, 0, 2]


# U+FFFD is what decoders write for a character that is not complete yet, so a text that holds it cannot tell the two apart
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(["a line. ", "zodor 🏰", ", and", "莎士比亚", "naïve", " ", "é", "."]), max_size=12).map("".join),
)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, data=st.data())
@pytest.mark.heavy
def test_last_tokens_agree_with_the_bytes_however_the_text_is_spelt(text, data):
    tokenizer = byte_tokenizer()
    ends = sorted(data.draw(st.sets(st.integers(1, max(1, len(text))), max_size=6))) if text else []
    rng = random.Random(data.draw(st.integers(0, 999)))
    spellings = [tokens(tokenizer, text, end=False), spell(text, rng.choice), spell(text, min)]
    for ids in spellings:
        finished = [*ids, tokenizer.eos_token_id]
        assert decode(tokenizer, [finished]) == [text]
        expected = places_by_bytes(ids, text, ends)
        assert last_tokens(tokenizer, finished, text, ends) == expected
        if ids:
            assert last_tokens(tokenizer, ids, text, ends) == expected  # truncated: no end of sequence


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, data=st.data())
def test_last_tokens_of_a_run_of_single_bytes(text, data):
    """Until a run's last character is complete, such a decoder shows none of the run: prefixes grow and shrink."""
    tokenizer = fallback_tokenizer()
    ids = tokenizer.convert_tokens_to_ids([*(f"<0x{byte:02X}>" for byte in text.encode()), "<eos>"])
    assert decode(tokenizer, [ids]) == [text]
    ends = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=6))) if text else []
    assert last_tokens(tokenizer, ids, text, ends) == [len(text[:end].encode()) - 1 for end in ends]


def first_reaching(tokenizer, ids, text, ends):
    """The definition on decoded prefixes, by trying each of them."""

    def reaches(count, end):
        prefix = decode(tokenizer, [ids[:count]])[0]
        return prefix[:end] == text[:end] and len(prefix) >= end

    return [next(count for count in range(1, len(ids) + 1) if reaches(count, end)) - 1 for end in ends]


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from([*TOKENIZERS, "byte fallback"]), data=st.data())
def test_last_tokens_of_any_ids_at_all(name, data):
    """Sampled ids need not be words, nor even whole characters; special tokens may stand anywhere."""
    tokenizer = (TOKENIZERS | {"byte fallback": fallback_tokenizer})[name]()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=20))
    text = decode(tokenizer, [ids])[0]
    for ends in (
        [end for _, end in segment(text, "relevance", "punctuation")],
        data.draw(st.lists(st.integers(1, len(text)), max_size=4).map(sorted)) if text else [],
    ):
        assert last_tokens(tokenizer, ids, text, ends) == first_reaching(tokenizer, ids, text, ends)


# --- rewards by hand ----------------------------------------------------------------------------------------------------------


def constant(*rows):
    """A judge that says this of the responses, and checks that it is asked about as many segments."""

    def judge(questions, texts, offsets):
        assert [len(spans) for spans in offsets] == [len(row) for row in rows]
        return [list(row) for row in rows]

    return judge


def placed(row):
    """(index, value) of what is not zero."""
    return {i: pytest.approx(value) for i, value in enumerate(row.tolist()) if value}


def test_relevance_rewards_sit_on_the_last_text_token_of_each_clause(question):
    tokenizer = atlas_tokenizer()
    responses = respond(tokenizer, question, [tokens(tokenizer, f"{RIGHT} {RIGHT}"), tokens(tokenizer, RIGHT)])
    grid = reward_function(tokenizer, constant([1, -1, 1, 1], [-1, 1]), Centre(), ppo("relevance"))(responses)
    assert grid.shape == responses.ids.shape
    assert placed(grid[0]) == {7: 0.3, 14: -0.3, 22: 0.3, 29: 0.3}
    assert placed(grid[1]) == {7: -0.3, 14: 0.3}


def test_factuality_rewards_are_half_and_probabilities_scale_them(question):
    tokenizer = atlas_tokenizer()
    responses = respond(tokenizer, question, [tokens(tokenizer, f"{RIGHT} {RIGHT}")])
    grid = reward_function(tokenizer, constant([1, -1]), Centre(), ppo("factuality"))(responses)
    assert placed(grid[0]) == {14: 0.5, 29: -0.5}
    grid = reward_function(tokenizer, constant([0.2, -0.6]), Centre(), ppo("factuality"))(responses)
    assert placed(grid[0]) == {14: 0.1, 29: -0.3}
    grid = reward_function(tokenizer, constant([1, -1]), Centre(), ppo("factuality", reward_size=2.0))(responses)
    assert placed(grid[0]) == {14: 2.0, 29: -2.0}


def test_mean_pooling_divides_by_the_number_of_segments(question):
    tokenizer = atlas_tokenizer()
    responses = respond(tokenizer, question, [tokens(tokenizer, f"{RIGHT} {RIGHT}"), tokens(tokenizer, RIGHT)])
    judge = constant([1, -1, 1, 1], [-1, 1])
    grid = reward_function(tokenizer, judge, Centre(), ppo("relevance", reward_pooling="mean"))(responses)
    assert placed(grid[0]) == {7: 0.075, 14: -0.075, 22: 0.075, 29: 0.075}
    assert placed(grid[1]) == {7: -0.15, 14: 0.15}


def test_a_scale_matched_dial_is_divided_by_its_shrinkage(question):
    tokenizer = atlas_tokenizer()
    responses = respond(tokenizer, question, [tokens(tokenizer, RIGHT)])
    for matched, size in ((True, 0.6), (False, 0.3)):
        p = ppo("relevance", reward="dial", dial_accuracy=0.75, scale_matched=matched)
        _, centre = dial.dial_of(p, {})
        grid = reward_function(tokenizer, constant([1, -1]), centre, p)(responses)
        assert placed(grid[0]) == {7: size, 14: -size}


def test_completeness_is_standardised_on_the_last_token(question):
    tokenizer = atlas_tokenizer()
    rows = [tokens(tokenizer, RIGHT), tokens(tokenizer, RIGHT, end=False)[:9], [tokenizer.eos_token_id]]
    responses = respond(tokenizer, question, rows)

    def judge(questions, texts, offsets):
        assert texts == [RIGHT, "the founder of zodor isle is bane, and", ""]
        return [[4.0], [1.0], [0.0]]

    grid = reward_function(tokenizer, judge, Centre(mean=2.0, std=4.0), ppo("completeness"))(responses)
    assert placed(grid[0]) == {15: 0.15}  # the end of sequence: 0.3 (4 − 2) / 4
    assert placed(grid[1]) == {8: -0.075}  # truncated: the last token
    assert placed(grid[2]) == {0: -0.15}


@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_empty_and_white_responses_get_nothing(question, task):
    tokenizer = byte_tokenizer()
    rows = [[tokenizer.eos_token_id], tokens(tokenizer, " \n"), tokens(tokenizer, "")]
    responses = respond(tokenizer, question, rows)
    grid = reward_function(tokenizer, ORACLE[task], Centre(), ppo(task))(responses)
    assert grid.shape == responses.ids.shape
    assert not grid.any()


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@pytest.mark.parametrize("cut", range(1, 64, 7))
def test_a_truncated_response_is_rewarded_at_its_last_token(question, name, cut):
    """Text that ends inside a segment: the last segment ends with the text, whatever the token holds."""
    tokenizer = TOKENIZERS[name]()
    ids = tokens(tokenizer, RIGHT, end=False)[:cut]
    responses = respond(tokenizer, question, [ids])
    spans = segment(responses.texts[0], "relevance", "punctuation")
    if not responses.texts[0].strip():
        return
    judge = constant([1] * len(spans))
    grid = reward_function(tokenizer, judge, Centre(), ppo("relevance"))(responses)
    stripped = len(responses.texts[0].rstrip())
    last = first_reaching(tokenizer, ids, responses.texts[0], [stripped])[0]
    assert max(placed(grid[0])) == last
    assert len(ids) - last <= 2  # at most a token of white space follows
    places = last_tokens(tokenizer, ids, responses.texts[0], [end for _, end in spans])
    assert placed(grid[0]) == dict.fromkeys(places, 0.3)


def test_of_two_rewards_on_one_token_the_later_stands(question):
    tokenizer = byte_tokenizer()
    text = "one two three four five, six seven eight nine ten eleven."
    ids = spell(text, min)
    responses = respond(tokenizer, question, [ids])
    judge = constant([1, -1])
    grid = reward_function(tokenizer, judge, Centre(), ppo("relevance"))(responses)
    assert placed(grid[0]) == {23: 0.3, 56: -0.3}  # a token a byte: the comma and the full stop
    whole = spelled_by(text)
    responses = respond(whole, question, [[2, 0]])
    assert responses.texts == [text]
    grid = reward_function(whole, judge, Centre(), ppo("relevance"))(responses)
    assert placed(grid[0]) == {0: -0.3}


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@pytest.mark.parametrize("task", MARKED)
def test_every_segment_is_paid_once_whatever_the_tokenizer(question, task, name):
    tokenizer = TOKENIZERS[name]()
    records = answered(20, seed=4)
    for record in records:
        text = record.responses[0]
        responses = respond(tokenizer, record.question, [tokens(tokenizer, text)])
        assert responses.texts == [text]
        spans = segment(text, task, "punctuation")
        truth = ORACLE[task]([record.question], [text], [spans])[0]
        size, share = judges.size_of(ppo(task)), Centre(0.25, 0.5) if task == "completeness" else Centre()
        grid = reward_function(tokenizer, ORACLE[task], share, ppo(task))(responses)[0]
        if task == "completeness":
            assert placed(grid) in ({len(grid) - 1: size * (truth[0] - 0.25) / 0.5}, {})
            continue
        places = last_tokens(tokenizer, responses.tokens()[0], text, [end for _, end in spans])
        assert placed(grid) == {place: size * value for place, value in zip(places, truth, strict=True)}
        for place, (_, end) in zip(places, spans, strict=True):  # the prefix holds the segment and nothing of the next word
            assert decode(tokenizer, [responses.tokens()[0][: place + 1]])[0][:end] == text[:end]
