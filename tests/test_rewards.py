"""Rewards on exactly the right token, judges by hand-made logits, and dials that have the accuracy they claim."""

import bisect
import functools
import itertools
import math
import random

import numpy as np
import pytest
import torch
from conftest import answered
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from paradox_utils import config, experiment, rewards
from paradox_utils.data import oracle
from paradox_utils.data.records import TASKS, DataError
from paradox_utils.data.segments import segment
from paradox_utils.feedback import annotate
from paradox_utils.models import atlas_policy_tokenizer
from paradox_utils.rewards import Centre, last_tokens, reward_function
from paradox_utils.rollout import Prompts, Responses, decode

RIGHT = "the founder of zodor isle is bane, and its color is surely kane."
ORACLE = {task: rewards.oracle_judge(task) for task in TASKS}
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
    dial = {"reward": "dial", "dial_accuracy": 0.75}
    for p, size in (
        (ppo("relevance", scale_matched=True, **dial), 0.6),
        (ppo("relevance", **dial), 0.3),
        (ppo("relevance", scale_matched=True, dial_accuracy=0.75), 0.3),  # not a dial
    ):
        grid = reward_function(tokenizer, constant([1, -1]), Centre(), p)(responses)
        assert placed(grid[0]) == {7: size, 14: -size}


def test_completeness_is_standardised_on_the_last_token(question):
    tokenizer = atlas_tokenizer()
    rows = [tokens(tokenizer, RIGHT), tokens(tokenizer, RIGHT, end=False)[:9], [tokenizer.eos_token_id]]
    responses = respond(tokenizer, question, rows)
    p = ppo("completeness", reward="dial", dial_accuracy=0.75, scale_matched=True)  # shrinkage is no business of scores

    def judge(questions, texts, offsets):
        assert texts == [RIGHT, "the founder of zodor isle is bane, and", ""]
        return [[4.0], [1.0], [0.0]]

    grid = reward_function(tokenizer, judge, Centre(mean=2.0, std=4.0), p)(responses)
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
    assert grid.sum() == pytest.approx(0.3 * len(spans))


def test_rewards_on_one_token_add_up(question):
    tokenizer = byte_tokenizer()
    text = "one two three four five, six seven eight nine ten eleven."
    ids = spell(text, min)
    responses = respond(tokenizer, question, [ids])
    judge = constant([1, 1])
    grid = reward_function(tokenizer, judge, Centre(), ppo("relevance"))(responses)
    assert placed(grid[0]) == {23: 0.3, 56: 0.3}  # a token a byte: the comma and the full stop
    whole = spelled_by(text)
    responses = respond(whole, question, [[2, 0]])
    assert responses.texts == [text]
    grid = reward_function(whole, judge, Centre(), ppo("relevance"))(responses)
    assert placed(grid[0]) == {0: 0.6}


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
@pytest.mark.parametrize("task", TASKS)
def test_every_segment_is_paid_once_whatever_the_tokenizer(question, task, name):
    tokenizer = TOKENIZERS[name]()
    records = answered(20, seed=4)
    for record in records:
        text = record.responses[0]
        responses = respond(tokenizer, record.question, [tokens(tokenizer, text)])
        assert responses.texts == [text]
        spans = segment(text, task, "punctuation")
        truth = ORACLE[task]([record.question], [text], [spans])[0]
        size, share = rewards.REWARD_SIZE[task], Centre(0.25, 0.5) if task == "completeness" else Centre()
        grid = reward_function(tokenizer, ORACLE[task], share, ppo(task))(responses)[0]
        if task == "completeness":
            assert placed(grid) in ({len(grid) - 1: size * (truth[0] - 0.25) / 0.5}, {})
            continue
        places = last_tokens(tokenizer, responses.tokens()[0], text, [end for _, end in spans])
        assert placed(grid) == {place: size * value for place, value in zip(places, truth, strict=True)}
        for place, (_, end) in zip(places, spans, strict=True):  # the prefix holds the segment and nothing of the next word
            assert decode(tokenizer, [responses.tokens()[0][: place + 1]])[0][:end] == text[:end]


# --- judges -------------------------------------------------------------------------------------------------------------------


class StubScorer:
    """Hands out prepared logits or scores, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def segment_logits(self, contexts, segments):
        self.asked.append((list(contexts), [list(s) for s in segments]))
        return self.answer

    def scores(self, contexts, responses):
        self.asked.append((list(contexts), list(responses)))
        return self.answer


NAN = float("nan")
LOGITS = torch.tensor([[5.0, 0.0, 1.0], [0.0, 3.0, 1.0], [-2.0, 4.0, 4.5], [NAN, NAN, NAN]])  # F-ERR, NF-ERR, O


@pytest.mark.parametrize(
    ("task", "form", "expected"),
    [
        ("relevance", "arg-max", [1, -1, 1, 0]),  # the first: F-ERR leads, but O beats NF-ERR
        ("factuality", "arg-max", [-1, 1, 1, 0]),  # the second: NF-ERR leads, but O beats F-ERR
        # P(O) − P(error) by two-class softmax
        ("relevance", "probability", [math.tanh(0.5), math.tanh(-1.0), math.tanh(0.25), 0]),
        ("factuality", "probability", [math.tanh(-2.0), math.tanh(0.5), math.tanh(3.25), 0]),
    ],
)
def test_a_model_judges_by_the_two_classes_of_its_task(question, task, form, expected):
    scorer = StubScorer([LOGITS, torch.empty(0, 3)])
    judge = rewards.model_judge(scorer, ppo(task, reward_form=form))
    spans = [(0, 3), (4, 5), (6, 7), (8, 9)]
    values = judge([question, question], ["abc d e f", ""], [spans, []])
    assert values[0] == pytest.approx(expected)
    assert values[1] == []
    contexts, segments = scorer.asked[0]
    assert segments == [["abc", "d", "e", "f"], []]
    assert all(c.startswith("question: what are the founder and the color of zodor?") for c in contexts)
    assert all(c.endswith("answer:") for c in contexts)
    assert ("wikipage: zodor isle" in contexts[0]) == (task == "factuality")  # relevance is judged without the passages


def test_two_class_probabilities_are_what_softmax_says():
    probability = LOGITS[:3, [0, 2]].softmax(-1)
    expected = (probability[:, 1] - probability[:, 0]).tolist()
    values = rewards.model_judge(StubScorer([LOGITS]), ppo("factuality", reward_form="probability"))
    spans = [[(0, 1), (1, 2), (2, 3), (3, 4)]]
    assert values([oracle_question()], ["abcd"], spans)[0][:3] == pytest.approx(expected)


def oracle_question():
    return answered(1, seed=0)[0].question


def test_a_pairwise_model_gives_its_raw_score(question):
    scorer = StubScorer(torch.tensor([1.5, -2.0]))
    values = rewards.model_judge(scorer, ppo("completeness"))([question] * 2, ["one", ""], [[(0, 3)], []])
    assert values == [[1.5], [-2.0]]
    contexts, texts = scorer.asked[0]
    assert texts == ["one", ""]
    assert "wikipage: zodor fort" in contexts[0]


def test_the_oracle_judges_segments(question):
    text = f"{RIGHT} also the stone of zodor isle is nane. the founder of zodor fort is melo, and its color is surely telo."
    relevance = segment(text, "relevance", "punctuation")
    assert len(relevance) == 5
    assert ORACLE["relevance"]([question], [text], [relevance]) == [[1, 1, -1, 1, 1]]
    sentences = segment(text, "factuality", "punctuation")
    assert ORACLE["factuality"]([question], [text], [sentences]) == [[1, -1, -1]]
    assert ORACLE["completeness"]([question], [text], [[(0, len(text))]]) == [[0.75]]


# --- dials --------------------------------------------------------------------------------------------------------------------


def judged_segments(records, task, judge):
    """{(prompt, segment text): value} of the first responses."""
    texts = [record.responses[0] for record in records]
    offsets = [segment(text, task, "punctuation") for text in texts]
    values = judge([record.question for record in records], texts, offsets)
    keys = [(r.question.prompt, t[a:b]) for r, t, spans in zip(records, texts, offsets, strict=True) for a, b in spans]
    return dict(zip(keys, itertools.chain(*values), strict=True))


@pytest.fixture(scope="module")
def many():
    return answered(600, seed=9)


def dial(task, accuracy, **changes):
    return rewards.dial_judge(ppo(task, reward="dial", dial_accuracy=accuracy, **changes), 0.0)


@pytest.mark.parametrize("kind", ["prejudice", "noise"])
@pytest.mark.parametrize("accuracy", [0.6, 0.85])
def test_a_dial_has_the_accuracy_it_is_set_to(many, accuracy, kind):
    truth = judged_segments(many, "relevance", ORACLE["relevance"])
    values = judged_segments(many, "relevance", dial("relevance", accuracy, dial_kind=kind))
    assert all(abs(value) == 1 for value in values.values())
    kept = {key: values[key] == truth[key] for key in truth}
    if kind == "prejudice":  # one decision a text
        kept = {text: right for (_, text), right in kept.items()}
    assert len(kept) > 700
    deviation = math.sqrt(accuracy * (1 - accuracy) / len(kept))
    assert np.mean([*kept.values()]) == pytest.approx(accuracy, abs=4.5 * deviation)


@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_the_ends_of_a_dial(many, task):
    truth = judged_segments(many[:50], task, ORACLE[task])
    assert judged_segments(many[:50], task, dial(task, 1.0)) == truth
    assert judged_segments(many[:50], task, dial(task, 0.0)) == {key: -value for key, value in truth.items()}


def test_prejudice_depends_on_the_text_alone_and_noise_on_the_prompt_too(many):
    truth = judged_segments(many, "relevance", ORACLE["relevance"])
    mixed = {}
    for kind in ("prejudice", "noise"):
        values = judged_segments(many, "relevance", dial("relevance", 0.7, dial_kind=kind))
        decisions = {}
        for key in truth:
            decisions.setdefault(key[1], set()).add(values[key] == truth[key])
        mixed[kind] = sum(len(found) > 1 for found in decisions.values())
    assert mixed["prejudice"] == 0
    assert mixed["noise"] > 50


def test_a_dial_is_fixed_by_its_seed(many):
    first, again, other = (
        judged_segments(many, "relevance", dial("relevance", 0.7, dial_seed=seed, dial_kind="noise")) for seed in (1, 1, 2)
    )
    assert first == again
    agreement = np.mean([first[key] == other[key] for key in first])
    expected = 0.7**2 + 0.3**2  # independent flips
    assert agreement == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / len(first)))


def test_a_dial_judges_a_segment_wherever_it_stands(many):
    judge = dial("relevance", 0.6)
    text = many[0].responses[0]
    spans = segment(text, "relevance", "punctuation")
    question = many[0].question
    together = judge([question], [text], [spans])[0]
    assert judge([question, question], [text, text], [spans[:1], spans[1:]]) == [together[:1], together[1:]]


@pytest.mark.parametrize("accuracy", [0.55, 0.7, 0.9])
def test_dial_noise_solves_for_the_pairwise_accuracy(accuracy):
    differences = np.array([0.25, -0.25, 0.5, 0.0, -0.75, 1.0, 0.25])
    sigma = rewards.dial_noise(accuracy, differences)
    rng, trials = np.random.default_rng(0), 40000
    gaps = differences[differences != 0]
    noise = rng.normal(0, sigma, (2, trials, len(gaps)))
    right = np.sign(gaps + noise[0] - noise[1]) == np.sign(gaps)
    assert right.mean() == pytest.approx(accuracy, abs=4.5 * math.sqrt(accuracy * (1 - accuracy) / right.size))


def test_dial_noise_at_its_ends():
    assert rewards.dial_noise(1.0, np.array([0.5])) == 0.0
    # one gap of 1: Φ(1 / (σ√2)) = 0.841345 at σ = 1/√2
    assert rewards.dial_noise(0.8413447460685429, np.array([1.0, 0.0, -1.0])) == pytest.approx(math.sqrt(0.5), rel=1e-6)
    for accuracy, gaps in ((0.5, [0.5]), (0.3, [0.5]), (0.8, [0.0, 0.0])):
        with pytest.raises(DataError, match=r"dial_accuracy = 0\.\d for completeness: needs more than 0.5"):
            rewards.dial_noise(accuracy, np.array(gaps))


@pytest.mark.parametrize("kind", ["prejudice", "noise"])
def test_a_completeness_dial_orders_pairs_as_well_as_it_claims(many, kind):
    records = {"train": many[:300], "heldout": many[300:]}
    p = ppo("completeness", reward="dial", dial_accuracy=0.75, dial_kind=kind)
    judge, centre = rewards.dial_of(p, records)
    metrics = rewards.measure_judge(judge, p, records["heldout"])
    assert metrics["segments"] > 800
    assert metrics["accuracy"] == pytest.approx(0.75, abs=0.06)  # pairs of one question share their noise
    scores = np.array([record.clean_scores for record in records["train"]])
    assert centre.mean == pytest.approx(scores.mean())
    noisy = [judge([r.question] * 4, r.responses, [[]] * 4) for r in records["train"]]
    assert centre.std == pytest.approx(np.std(noisy), rel=0.1)  # rewards have unit variance, noise included
    matched = rewards.dial_of(p.model_copy(update={"scale_matched": True}), records)[1]
    assert (matched.mean, matched.std) == pytest.approx((scores.mean(), scores.std()))


def test_an_exact_completeness_dial_is_the_oracle(many):
    judge, centre = rewards.dial_of(ppo("completeness", reward="dial"), {"train": many})
    for record in many[:20]:
        expected = [[oracle.judge(record.question, text).completeness] for text in record.responses]
        assert judge([record.question] * 4, record.responses, [[]] * 4) == expected
    assert centre == rewards.exact_centre("completeness", {"train": many})
    assert rewards.exact_centre("relevance", {}) == Centre(0.0, 1.0)


# --- how accurate a judge is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_exact_judge_is_right_about_everything(many, task):
    metrics = rewards.measure_judge(ORACLE[task], ppo(task), many)
    assert metrics["accuracy"] == metrics["accuracy_noisy"] == metrics["balanced_accuracy"] == 1.0
    assert metrics["segments"] > 500
    assert 0.5 <= metrics["majority"] < 0.9


@pytest.mark.parametrize("task", TASKS)
def test_the_opposite_judge_is_wrong_about_everything(many, task):
    def opposite(questions, texts, offsets):
        return [[-value for value in row] for row in ORACLE[task](questions, texts, offsets)]

    metrics = rewards.measure_judge(opposite, ppo(task), many)
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == 0.0


@pytest.mark.parametrize(("task", "segments"), [("relevance", 7), ("factuality", 3)])
def test_the_measured_segments_are_those_of_each_response(question, task, segments):
    p = config.FeedbackParameters(annotator_noise=0.0)
    redundant = f"{RIGHT[:-1]}, and its founder is surely bane."  # three clauses of one sentence
    texts = (redundant, "the founder of zodor fort is pelo.", "", f"{RIGHT[:-1]}, and nothing else is known of it", " ")
    records = [annotate(question, (text,) * 4, p, random.Random(0)) for text in texts]
    metrics = rewards.measure_judge(ORACLE[task], ppo(task), records)
    assert (metrics["segments"], metrics["accuracy"]) == (segments, 1.0)


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("task", TASKS)
def test_annotator_noise_separates_the_two_accuracies(task, noise):
    metrics = rewards.measure_judge(ORACLE[task], ppo(task), answered(300, seed=12, noise=noise))
    assert metrics["accuracy"] == 1.0
    # a segment of relevance is a clause, one of factuality a sentence, a comparison a pair: each flips with this probability
    assert metrics["accuracy_noisy"] == pytest.approx(1 - noise, abs=0.05)


def test_the_stage_measures_a_dial_and_rewards_with_it(many):
    judged = {"train": many[:300], "heldout": many[300:]}
    p = ppo("relevance", reward="dial", dial_accuracy=0.8, dial_kind="noise")
    reward, metrics, cut = experiment.reward_of(p, atlas_tokenizer(), judged)
    assert metrics["accuracy"] == pytest.approx(0.8, abs=0.05)
    assert cut() == 0
    record = many[0]
    responses = respond(atlas_tokenizer(), record.question, [tokens(atlas_tokenizer(), record.responses[0])])
    spans = segment(record.responses[0], "relevance", "punctuation")
    expected = sum(rewards.dial_judge(p, 0.0)([record.question], [record.responses[0]], [spans])[0])
    assert reward(responses).sum() == pytest.approx(0.3 * expected)


def test_feedback_without_a_difference_cannot_measure_completeness(question):
    p = config.FeedbackParameters(annotator_noise=0.0)
    records = [annotate(question, (RIGHT,) * 4, p, random.Random(0))]
    with pytest.raises(DataError, match="no two held-out responses differ"):
        rewards.measure_judge(ORACLE["completeness"], ppo("completeness"), records)
