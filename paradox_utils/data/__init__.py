"""One door to all data sources: questions, demonstrations, feedback, and what else a source has.

A new source: its name in ``config.Source`` (and in ``config.WITH_ORACLE`` if it has one), a file here, an entry in
:data:`SOURCES`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paradox_utils import config
from paradox_utils.config import TaskName
from paradox_utils.data import atlas, evouna, oracle, qa_feedback, semeval, sets
from paradox_utils.data.records import Feedback, Judge, JudgedSet, Offsets, Question, Splits
from paradox_utils.data.segments import resolve_splitter
from paradox_utils.data.tasks import TASKS, segment


@dataclass(frozen=True)
class Origin:
    """What a source has. ``demonstrations``: one answer a question, from questions and a seed. ``feedback`` takes also the path
    of the feedback that the stage made, where the responses are not people's to begin with; what people graded is all the
    feedback that some have. ``more``: so many questions for a use, none of them among others; ``annotate``: a record of
    responses, by an annotator who errs with a probability; ``sets``: responses that people graded, by the uses of feedback."""

    splits: Callable[[config.Source], Splits]
    demonstrations: Callable[[Sequence[Question], int], list[str]]
    feedback: Callable[[config.Source, Path], dict[str, list[Feedback]] | dict[str, list[JudgedSet]]]
    splitter: str = "auto"  # the sentence splitter that "auto" stands for
    oracle: Callable[[TaskName], Judge] | None = None  # judges any text without error
    # Without these two, people judged given responses, and the stage ``feedback`` samples none.
    more: Callable[[config.Source, str, int, Iterable[Question]], list[Question]] | None = None
    annotate: Callable[[Question, tuple[str, ...], float, random.Random], Feedback] | None = None
    sets: Callable[[config.Source], dict[str, list[JudgedSet]]] | None = None
    passages: bool = True  # its questions come with passages to read
    quotable: bool = True  # its texts may stand in what is recorded; else a question is named by its id


SOURCES: dict[str, Origin] = {
    "atlas": Origin(
        atlas.load_splits,
        atlas.demonstrations,
        atlas.load_feedback,
        "punctuation",
        oracle.oracle_judge,
        more=atlas.new_questions,
        annotate=oracle.feedback_on,
    ),
    "qa-feedback": Origin(
        qa_feedback.load_splits,
        qa_feedback.demonstrations,
        lambda p, _path: qa_feedback.load_feedback(p),
        sets=qa_feedback.load_sets,
    ),
    **{
        name: Origin(
            source.load_splits,
            sets.demonstrations,
            lambda p, _path, source=source: source.load_sets(p),
            sets=source.load_sets,
            passages=False,
            quotable=quotable,
        )
        for name, source, quotable in (("semeval", semeval, False), ("evouna", evouna, True))
    },
}


def load_splits(p: config.Source) -> Splits:
    """The questions of the policy, by use."""
    return SOURCES[p.source].splits(p)


def demonstrations(p: config.Supervised) -> list[tuple[str, str]]:
    """(prompt, answer) pairs to learn from."""
    questions = load_splits(p).train
    answers = SOURCES[p.source].demonstrations(questions, p.seed)
    return [(question.prompt, answer) for question, answer in zip(questions, answers, strict=True)]


def load_feedback(p: config.Source, path: Path) -> dict[str, list[Feedback]] | dict[str, list[JudgedSet]]:
    """Feedback by use ("train", "heldout", "evaluator"), no question in two of them; what the stage made lies at ``path``."""
    return SOURCES[p.source].feedback(p, path)


def load_sets(p: config.Source) -> dict[str, list[JudgedSet]]:
    """Responses that people graded, by the uses of feedback; empty where people graded none."""
    graded = SOURCES[p.source].sets
    return graded(p) if graded else {}


def oracle_of(p: config.Source, task: TaskName) -> Judge | None:
    """Who judges any text without error; None where nobody does."""
    exact = SOURCES[p.source].oracle
    return exact(task) if exact and not TASKS[task].graded else None


def segments_of(p: config.Source, texts: Sequence[str], task: TaskName) -> list[Offsets]:
    """The segments of each text that ``task`` rewards."""
    splitter = splitter_of(p)
    return [segment(text, task, splitter) for text in texts]


def splitter_of(p: config.Source) -> str:
    """The sentence splitter in use, ``auto`` resolved."""
    return resolve_splitter(SOURCES[p.source].splitter if p.sentence_splitter == "auto" else p.sentence_splitter)
