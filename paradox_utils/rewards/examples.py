"""Training sets of the reward models, from feedback of either source (Wu et al. 2023, as their released code makes them).

Token reward models (relevance, factuality) get a label for each segment of the first response, pairwise ones (completeness) get
pairs of responses, those of graded responses (preference) of a good and a bad one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from paradox_utils import config
from paradox_utils.config import TaskName
from paradox_utils.data import SOURCES, splitter_of
from paradox_utils.data.records import (
    DataError,
    Feedback,
    JudgedSet,
    PairExample,
    Passage,
    Question,
    SegmentExample,
    Span,
    prefer,
)
from paradox_utils.data.segments import MIN_WORDS, sub_sentences
from paradox_utils.data.tasks import FACTUAL_ERRORS, GOOD, TASKS, segment

MIN_SIMILARITY = 0.85
PAIRS = tuple(itertools.combinations(range(4), 2))  # the order of `Feedback.preference`


def training_examples(
    p: config.Source, records: list[Feedback] | list[JudgedSet], task: TaskName, bars: bool = True, known_answer: bool = False
) -> list[SegmentExample] | list[PairExample]:
    """What a reward model of ``task`` learns from (or is measured on); the last two as in :func:`context_of`."""
    if TASKS[task].graded:
        return graded_examples(records, task, known_answer)
    if TASKS[task].reads_passages and not SOURCES[p.source].passages:
        raise DataError(f"task = {task!r}: its reward models read passages, and source = {p.source!r} has none; name another")
    make = pair_examples if TASKS[task].pairwise else segment_examples
    return make(records, task, splitter_of(p), p.passage_sentences, bars)


# --- the reward model's input -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16384)
def context_of(
    question: Question, task: TaskName, passage_sentences: int = 0, bars: bool = True, known_answer: bool = False
) -> str:
    """The reward model's input up to the response: the question, its passages where the task has them read, and ``answer:``.

    ``bars`` between passages: the released code has them in the inputs of PPO, and not in those of reward-model training.
    ``known_answer``: the question's references stand before ``answer:``, to be compared with.

    ``passage_sentences`` > 0 keeps only so many sentences of all passages together: those most similar to the question by the
    cosine of TF-IDF vectors (document frequencies from the question and its sentences), the earlier one on a tie, in their
    original order; a passage left empty goes.
    """
    parts = [f"question: {question.text}"]
    passages = question.passages if TASKS[task].reads_passages else ()
    if passage_sentences > 0:
        passages = _most_similar(question.text, passages, passage_sentences)
    if passages:
        pages = (f"wikipage: {passage.title} text: {' '.join(passage.sentences)}" for passage in passages)
        parts.append(f"context: {(' | ' if bars else ' ').join(pages)}")
    if known_answer:
        parts.append(f"reference: {' / '.join(question.references)}")
    return " ".join(" ".join([*parts, "answer:"]).split())


def _most_similar(question: str, passages: Sequence[Passage], limit: int) -> list[Passage]:
    places = [(p, s) for p, passage in enumerate(passages) for s in range(len(passage.sentences))]
    if len(places) <= limit:
        return [passage for passage in passages if passage.sentences]
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [question, *(passages[p].sentences[s] for p, s in places)]
    vectors = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform(texts)
    similarity = (vectors[1:] @ vectors[0].T).toarray()[:, 0]
    kept = {places[i] for i in np.argsort(-similarity, kind="stable")[:limit]}
    shortened = (
        Passage(passage.title, tuple(text for s, text in enumerate(passage.sentences) if (p, s) in kept))
        for p, passage in enumerate(passages)
    )
    return [passage for passage in shortened if passage.sentences]


# --- segments with labels -----------------------------------------------------------------------------------------------------


def segment_labels(
    text: str, spans: Iterable[Span], task: TaskName, splitter: str, exhaustive: bool = False
) -> list[int | None]:
    """For each segment of ``text``, the index of its label in :data:`LABELS`; None where it is not trained on.

    The task's error label if a span of its error kinds overlaps the segment, else O. People's irrelevant, redundant and
    incoherent spans of fewer than 5 words do not count at all, as in the released code; where they gave a piece one error and
    did not look for a second (factuality), a segment with only other errors is None.
    ``exhaustive``: every error was looked for everywhere, however short, so nothing is left out.
    """
    of, labels = TASKS[task], []
    if not exhaustive:
        spans = [s for s in spans if s.kind in FACTUAL_ERRORS or len(text[s.start : s.end].split()) >= MIN_WORDS]
    for start, end in segment(text, task, splitter):
        kinds = {span.kind for span in spans if span.start < end and start < span.end}
        unchecked = of.one_error_each and not exhaustive and kinds and not kinds & of.errors
        labels.append(None if unchecked else of.bad if kinds & of.errors else GOOD)
    return labels


def segment_examples(
    records: Iterable[Feedback], task: TaskName, splitter: str, passage_sentences: int = 0, bars: bool = True
) -> list[SegmentExample]:
    """One example a record, on its first response; a response without a segment to train or measure on gives none."""
    examples = []
    for record in records:
        text = record.responses[0]
        if record.clean_spans is None:
            labels, clean = tuple(segment_labels(text, record.spans, task, splitter)), None
        else:  # Atlas: relevance and facts are judged apart, and no error is too short
            both = (record.spans, record.clean_spans)
            labels, clean = (tuple(segment_labels(text, spans, task, splitter, exhaustive=True)) for spans in both)
        if any(label is not None for label in (*labels, *(clean or ()))):
            pieces = tuple(text[start:end] for start, end in segment(text, task, splitter))
            examples.append(SegmentExample(context_of(record.question, task, passage_sentences, bars), pieces, labels, clean))
    return examples


# --- pairs of responses -------------------------------------------------------------------------------------------------------


def pair_examples(
    records: Iterable[Feedback], task: TaskName, splitter: str, passage_sentences: int = 0, bars: bool = True
) -> list[PairExample]:
    """Pairs of responses, the more complete one chosen; ties give no pair.

    With the oracle's scores (Atlas) the annotators' ``preference`` decides and ``clean`` says whether the oracle agrees;
    without them (QA-FEEDBACK) :func:`completeness_scores` decide.
    """
    examples = []
    for record in records:
        context, oracle = context_of(record.question, task, passage_sentences, bars), record.clean_scores
        preference = prefer(completeness_scores(record, splitter) or ()) if oracle is None else record.preference
        for (first, second), better in zip(PAIRS, preference, strict=False):
            if better == 0:
                continue
            chosen, rejected = (first, second) if better == 1 else (second, first)
            clean = None if oracle is None or oracle[chosen] == oracle[rejected] else oracle[chosen] > oracle[rejected]
            examples.append(PairExample(context, record.responses[chosen], record.responses[rejected], clean))
    return examples


def graded_examples(sets: Iterable[JudgedSet], task: TaskName, known_answer: bool = False) -> list[PairExample]:
    """Every good response chosen over every bad one to the same question."""
    return [
        PairExample(context_of(one.question, task, known_answer=known_answer), one.responses[better], one.responses[worse])
        for one in sets
        for better, worse in one.pairs()
    ]


def completeness_scores(record: Feedback, splitter: str) -> list[float] | None:
    """The share of the needed passage sentences that each response has, in [0, 1]; None where nothing is needed.

    Needed is what the corrected response has, without the sentences marked Missing-Minor-Auxiliary, unless the (last)
    sub-sentence that matches one stands, case aside, in the first response. A text *has* the passage sentences that its
    sub-sentences match.
    """
    matcher = _Matcher([sentence for passage in record.question.passages for sentence in passage.sentences])
    offsets = [0, *itertools.accumulate(len(passage.sentences) for passage in record.question.passages)]
    minor = {
        offsets[item.passage] + sentence
        for item in record.missing
        if item.kind == "Missing-Minor-Auxiliary"
        for sentence in item.sentences
    }
    first = record.responses[0].lower()
    corrected = matcher.matches(record.corrected, splitter)
    standing = {sentence: sentence not in minor or piece.lower() in first for piece, sentence in corrected}  # the last decides
    needed = {sentence for sentence, stands in standing.items() if stands}
    if not needed:
        return None
    found = [{sentence for _, sentence in matcher.matches(response, splitter)} for response in record.responses]
    return [len(needed & sentences) / len(needed) for sentences in found]


class _Matcher:
    """Finds, for each sub-sentence of a text, the passage sentence it was taken from.

    The similarity of a sub-sentence of n words and a passage sentence is 1 if it is a substring, else the highest
    ``difflib.SequenceMatcher.quick_ratio`` over the sentence's windows of n + ⌊0.05 n⌋ words. That ratio is 2 M / L, with M the
    common characters (as multisets) and L the sum of both lengths, so all windows are compared at once by character counts.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = [sentence.split() for sentence in sentences]
        alphabet = sorted({character for words in self.sentences for word in words for character in word} | {" ", "#"})
        self.columns = {character: column for column, character in enumerate(alphabet)}
        words = {word: self._counts(word) for sentence in self.sentences for word in sentence}
        # running character counts of each sentence, (words + 1, alphabet)
        self.totals = [np.cumsum([self._counts(""), *(words[w] for w in sentence)], axis=0) for sentence in self.sentences]
        self.windows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def matches(self, text: str, splitter: str) -> list[tuple[str, int]]:
        """(sub-sentence, index of its sentence) wherever the best similarity is at least 0.85; the first sentence on a tie."""
        text = " ".join(text.split())
        pieces = [text[start:end] for start, end in sub_sentences(text, splitter)] if self.sentences else []
        similar = [(piece, self.similarities(piece)) for piece in pieces]
        return [(piece, int(scores.argmax())) for piece, scores in similar if scores.max() >= MIN_SIMILARITY]

    def similarities(self, piece: str) -> np.ndarray:
        """Similarity of ``piece`` to each sentence, float (sentences,)."""
        words = len(piece.split())
        size = words + int(0.05 * words)
        if size not in self.windows:
            self.windows[size] = self._count_windows(size)
        counts, starts = self.windows[size]
        shared = np.minimum(counts, self._counts(piece)).sum(axis=1)
        ratios = 2.0 * shared / (counts.sum(axis=1) + len(piece))
        best = np.maximum.reduceat(ratios, starts)
        inside = [piece in " ".join(sentence) for sentence in self.sentences]
        return np.where(inside, 1.0, best)

    def _count_windows(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Character counts (windows, alphabet) of all windows, and the first window of each sentence."""
        windows, starts = [], []
        for total in self.totals:
            # a sentence too short for two windows gets "#" words, as in the released code
            missing = np.arange(1, max(0, size + 2 - len(total)) + 1)
            total = np.concatenate([total, total[-1] + np.outer(missing, self._counts("#"))])
            starts.append(sum(map(len, windows)))
            windows.append(total[size:] - total[:-size] + (size - 1) * self._counts(" "))
        return np.concatenate(windows), np.array(starts)

    def _counts(self, text: str) -> np.ndarray:
        counts = np.zeros(len(self.columns), dtype=np.int32)
        for character, number in Counter(text).items():
            if character in self.columns:  # others are in no window
                counts[self.columns[character]] = number
        return counts
