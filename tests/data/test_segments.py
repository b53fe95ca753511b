"""Segmentation: the rule by hand, and what must hold on any text."""

import importlib.util
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paradox_utils.data import segments, tasks
from paradox_utils.data.records import DataError


def pieces(text: str, splitter: str = "punctuation", cut=segments.sub_sentences) -> list[str]:
    return [text[start:end] for start, end in cut(text, splitter)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("One.", ["One."]),
        ("  Lead. Tail ", ["Lead.", "Tail"]),
        ("Is it? Yes! Good.", ["Is it?", "Yes!", "Good."]),
        ("No space.Here 3.5 stays. End", ["No space.Here 3.5 stays.", "End"]),
        ("Wait... what", ["Wait...", "what"]),
        (". . x", [".", ".", "x"]),
    ],
)
def test_punctuation_sentences(text, expected):
    assert pieces(text, cut=segments.sentences) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # more than 5 words must remain: with 6 there is a break, with exactly 5 there is none
        ("a b c d e, f g h i j k", ["a b c d e,", "f g h i j k"]),
        ("a b c d e, f g h i j", ["a b c d e, f g h i j"]),
        # a short opening piece joins the one after it, and does so until it has 5 words
        ("a b c d, e f g h i j", ["a b c d, e f g h i j"]),
        ("a, b c d, e f, g h i j k l", ["a, b c d, e f,", "g h i j k l"]),
        # a short piece in the middle joins the one before it, and the break moves behind it
        ("a b c d e, f g, h i j k l m", ["a b c d e, f g,", "h i j k l m"]),
        ("a b c d e, f g, h i, j k l m n o", ["a b c d e, f g, h i,", "j k l m n o"]),
        # a piece of exactly 5 words stands
        ("a b c d e, f g h i j, k l m n o p", ["a b c d e,", "f g h i j,", "k l m n o p"]),
        # all four separators, and only at the end of a word
        ("a b c d e; f g h i j! k l m n o? p q r s t u", ["a b c d e;", "f g h i j!", "k l m n o?", "p q r s t u"]),
        ("a b c d 1,000 f g h i j k", ["a b c d 1,000 f g h i j k"]),
        ("a b c d e: f g h i j k", ["a b c d e: f g h i j k"]),
        # separators of one sentence do not see the next
        ("a b c d e, f g. h i j k l m", ["a b c d e, f g.", "h i j k l m"]),
        # characters, not bytes; odd white space
        ("é ü 漢字 😀 e,\u3000f g\n h i j k", ["é ü 漢字 😀 e,", "f g\n h i j k"]),
        ("", []),
        ("   ", []),
    ],
)
def test_sub_sentences_follow_the_rule(text, expected):
    # ! and ? end sentences under "punctuation", so they are tried with a splitter that sees one sentence
    whole = [(0, len(text))] if text.strip() else []
    if "!" in text:
        assert [text[s:e] for start, end in whole for s, e in segments._cut_sentence(text, start, end)] == expected
    else:
        assert pieces(text) == expected


def test_segment_by_task():
    text = " a b c d e, f g h i j k. Second one. "
    assert pieces(text, cut=lambda t, s: tasks.segment(t, "relevance", s)) == ["a b c d e,", "f g h i j k.", "Second one."]
    assert pieces(text, cut=lambda t, s: tasks.segment(t, "factuality", s)) == ["a b c d e, f g h i j k.", "Second one."]
    assert tasks.segment(text, "completeness", "punctuation") == [(1, len(text) - 1)]
    assert tasks.segment(" \n", "completeness", "punctuation") == []


def test_pysbd_knows_abbreviations_and_repeated_sentences():
    text = "Dr. Smith left the U.S. in 1950. He left. He left. He\u00a0left."
    assert pieces(text, "pysbd", segments.sentences) == [
        "Dr. Smith left the U.S. in 1950.",
        "He left.",
        "He left.",
        "He\u00a0left.",
    ]


NUMBERS = st.lists(
    st.sampled_from(["1", "12", "123", "1234", ", ", ",", " ", "-", " - ", "][", "[", "]", ".", "x"]), max_size=5
)


@settings(max_examples=300, deadline=None)
@given(NUMBERS.map("".join), st.sampled_from(["", "]", " A", "] A", "] B c. D"]))
def test_numbered_references_are_found_as_pysbd_finds_them(numbers, end):
    text, own = f"x.[{numbers}{end}", segments._pysbd().language_module.__mro__[1].NUMBERED_REFERENCE_REGEX
    assert own != segments.NUMBERED_REFERENCE
    old, new = (re.finditer(pattern, text) for pattern in (own, segments.NUMBERED_REFERENCE))
    assert [(m.span(), m.span(2), m.span(7)) for m in old] == [(m.span(), m.span(2), m.span(7)) for m in new]


@pytest.mark.parametrize("opening", ["", "It is..[", "(", '"'])
@pytest.mark.parametrize(
    "unit", [*"1aA.,;:!?-()[]\"'“”«\\ \n", "1 ", "1, ", "1-", "1. ", "12 ", ".[1 ", "[1]", "A. ", "p. ", "' a", "漢"]
)
def test_no_run_of_one_thing_hangs_pysbd(opening, unit):
    text = f"{opening}{unit * 300} End"  # with its own pattern of references some of these would never come back
    spans = segments.sentences(text, "pysbd")
    assert "".join(text[start:end] for start, end in spans).replace(" ", "").endswith("End")


def test_a_list_of_numbers_that_is_no_reference_is_segmented():
    numbers = " ".join(str(n) for n in range(100, 184, 7))
    assert pieces(f"Built in 1861..[{numbers}] It fell.", "pysbd", segments.sentences)[-1] == "It fell."
    assert pieces(f"Built in 1861.[{numbers}", "pysbd", segments.sentences) == [f"Built in 1861.[{numbers}"]


AWKWARD = [
    "Yes.",
    "No!",
    "Dr. Smith",
    "U.S.",
    "e.g.",
    "(a)",
    "1.",
    "2)",
    "i.",
    "\n",
    "\r\n",
    "...",
    '"Hi."',
    "“x.”",
    "a,",
    "b;",
    "☝",
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="aB .!?,;\n\r\t\"'()[]1…。\x1c\u2028\u3000&∯ȸ♨", max_size=60),
    st.lists(st.sampled_from([*AWKWARD, "one two three", "http://a.b/c", "3.5", "Yahoo!", " "]), max_size=20).map(" ".join),
)


@settings(max_examples=300, deadline=None)
@pytest.mark.heavy
@given(TEXTS, st.sampled_from(["punctuation", "pysbd"]), st.sampled_from(["relevance", "factuality", "completeness"]))
def test_segments_cover_in_order_without_overlap_or_margin(text, splitter, task):
    spans = tasks.segment(text, task, splitter)
    covered = [place for start, end in spans for place in range(start, end)]
    assert covered == sorted(set(covered))  # in order, disjoint
    assert {i for i, character in enumerate(text) if not character.isspace()} <= set(covered)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_sub_sentences_refine_sentences_and_are_long_enough(text):
    sentences = segments.sentences(text, "punctuation")
    for start, end in segments.sub_sentences(text, "punctuation"):
        ((outer_start, outer_end),) = [(s, e) for s, e in sentences if s <= start and end <= e]
        assert (start, end) == (outer_start, outer_end) or len(text[start:end].split()) >= 5


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_a_punctuation_sentence_is_one_sentence(text):
    for start, end in segments.sentences(text, "punctuation"):
        assert segments.sentences(text[start:end], "punctuation") == [(0, end - start)]


def test_the_caller_may_change_what_it_gets():
    segments.sentences("One. Two.", "punctuation").clear()
    assert len(segments.sentences("One. Two.", "punctuation")) == 2


@pytest.mark.parametrize(
    ("installed", "splitter"), [(("spacy", "en_core_web_sm"), "spacy"), (("spacy",), "pysbd"), ((), "pysbd")]
)
def test_auto_splitter(monkeypatch, installed, splitter):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
    assert segments.resolve_splitter("auto") == splitter
    assert segments.resolve_splitter("punctuation") == "punctuation"


def test_unknown_or_unresolved_splitter_is_refused():
    with pytest.raises(ValueError, match=r"'auto'.*'pysbd'"):
        segments.sentences("One.", "auto")


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_missing_spacy_says_how_to_get_it():
    with pytest.raises(DataError, match="pip install spacy"):
        segments.sentences("One.", "spacy")
