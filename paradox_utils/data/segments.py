"""Cutting a response into the pieces that get a label and a reward each, as character offsets (end exclusive).

A *word* is a run of non-space characters. All spans are in order, disjoint, free of surrounding space, and together cover every
non-space character of the text; any text is accepted.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from functools import cache, lru_cache
from typing import Any

from paradox_utils.data.records import DataError

SPACY_MODEL = "en_core_web_sm"
MIN_WORDS = 5
# Finds the numbered references (".[1, 2] A") that pysbd's own pattern does, in the same groups. Its own can read a number in as
# many ways as its digits can be parted, and tries them all where no reference follows: a list of twelve numbers hangs it.
NUMBERED_REFERENCE = r"(?<=[^\d\s])(\.|∯)((\[(\d++(?>,?\s?-?\s?)(?<!\d))*+\d{1,3}\])+|((\d{1,3}\s?)?\d{1,3}))(\s)(?=[A-Z])"

Spans = list[tuple[int, int]]


def resolve_splitter(splitter: str) -> str:
    """The splitter that ``auto`` stands for: spaCy's model where installed, else pysbd."""
    if splitter != "auto":
        return splitter
    installed = all(importlib.util.find_spec(name) is not None for name in ("spacy", SPACY_MODEL))
    return "spacy" if installed else "pysbd"


def whole(text: str, _splitter: str) -> Spans:
    """The whole of ``text``; nothing where that is blank."""
    return _between(text, [0])


def sentences(text: str, splitter: str) -> Spans:
    """Sentences of ``text`` by ``splitter``: punctuation, pysbd or spacy (the released code's)."""
    return list(_sentences(text, splitter))


def sub_sentences(text: str, splitter: str) -> Spans:
    """Sentences, cut at commas and the like (Wu et al. 2023, appendix D, as their released code does it).

    Within a sentence, a break comes before a word if the word before it ends in , ; ! or ? and more than 5 words of the
    sentence remain from it on. A piece of fewer than 5 words then joins the piece before it, or, if it opens the sentence, the
    piece after it.
    """
    return [span for start, end in _sentences(text, splitter) for span in _cut_sentence(text, start, end)]


def _cut_sentence(text: str, start: int, end: int) -> Spans:
    words = [match.span() for match in re.compile(r"\S+").finditer(text, start, end)]
    opens = [0]  # the words that open a piece
    for word in range(1, len(words)):
        if text[words[word - 1][1] - 1] not in ",;!?" or len(words) - word <= MIN_WORDS:
            continue
        if word - opens[-1] >= MIN_WORDS:
            opens.append(word)
        elif opens[-1] > 0:
            opens[-1] = word  # the short piece joins the one before it
    ends = [words[opening - 1][1] for opening in opens[1:]] + [end]
    return [(words[opening][0], piece_end) for opening, piece_end in zip(opens, ends, strict=True)]


@lru_cache(maxsize=65536)
def _sentences(text: str, splitter: str) -> tuple[tuple[int, int], ...]:
    if not text.strip():
        return ()
    if splitter == "punctuation":
        starts = [match.end() for match in re.finditer(r"[.!?](?=\s)", text)]
    elif splitter == "pysbd":
        starts = _pysbd_starts(text)
    elif splitter == "spacy":
        starts = [sentence.start_char for sentence in _spacy()(text).sents]
    else:
        raise ValueError(f"sentence_splitter = {splitter!r}: must be 'punctuation', 'pysbd' or 'spacy'; resolve 'auto' first")
    return tuple(_between(text, [0, *starts]))


def _between(text: str, starts: list[int]) -> Spans:
    """The stripped, non-empty stretches between one start and the next."""
    spans = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        piece = text[start:end]
        if piece.strip():
            lead = len(piece) - len(piece.lstrip())
            spans.append((start + lead, start + lead + len(piece.strip())))
    return spans


def _pysbd_starts(text: str) -> list[int]:
    """Where pysbd's sentences begin.

    Its own ``char_span`` searches from the top for each sentence, which misplaces repeated ones; here the search goes on from
    the last one found. A sentence that pysbd rewrote is not found and stays with the one before it.
    """
    starts, cursor = [], 0
    for sentence in _pysbd().processor(text).process():
        found = text.find(sentence, cursor)
        if found >= 0:
            starts.append(found)
            cursor = found + len(sentence)
    return starts


@cache
def _pysbd() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its patterns are not raw strings
        import pysbd
    segmenter = pysbd.Segmenter(language="en", clean=False)
    english = segmenter.language_module
    segmenter.language_module = type("English", (english,), {"NUMBERED_REFERENCE_REGEX": NUMBERED_REFERENCE})
    return segmenter


@cache
def _spacy() -> Any:
    try:
        import spacy

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise DataError(
            f"sentence_splitter = 'spacy': spaCy and its model {SPACY_MODEL} are not installed; "
            f"run `pip install spacy && python -m spacy download {SPACY_MODEL}`, or set sentence_splitter = 'pysbd'"
        ) from error
