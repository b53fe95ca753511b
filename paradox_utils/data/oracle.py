"""The Atlas oracle: judges any text as an annotator without error would.

Its verdicts have the form of human feedback (error spans, missing information), so the same code turns both into labels. It is
total: an empty response scores 0 on every task; a clause it cannot parse is Incoherent *and* Unverifiable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from paradox_utils.config import TaskName
from paradox_utils.data.atlas import ATTRIBUTES, KINDS, Topic, to_topic
from paradox_utils.data.records import Feedback, Judge, Missing, Offsets, Question, Span, prefer
from paradox_utils.data.tasks import FACTUAL_ERRORS, RELEVANCE_ERRORS, TASKS

_CHUNK = re.compile(r"[^,.!?]*[,.!?]|[^,.!?]+$")
_ATTRIBUTE, _KIND = "|".join(ATTRIBUTES), "|".join(KINDS)
_FORMS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:also )?the (?P<attribute>{_ATTRIBUTE}) of (?P<name>\w+) (?P<kind>{_KIND}) is (?P<value>\w+)",
        rf"(?:also )?(?P<name>\w+) (?P<kind>{_KIND}) has (?P<value>\w+) as its (?P<attribute>{_ATTRIBUTE})",
        rf"and its (?P<attribute>{_ATTRIBUTE}) is surely (?P<value>\w+)",
        rf"and (?P<value>\w+) is surely its (?P<attribute>{_ATTRIBUTE})",
    )
)


@dataclass(frozen=True)
class Statement:
    """One clause of a response: its characters, and the fact it states (None: not parsable)."""

    start: int
    end: int
    fact: tuple[str, str, str, str] | None  # name, kind, attribute, value


@dataclass(frozen=True)
class Judgement:
    """What the oracle says of one response; ``completeness`` is the share of asked facts stated right, in [0, 1]."""

    spans: tuple[Span, ...]
    missing: tuple[Missing, ...]
    completeness: float


def parse(text: str) -> list[Statement]:
    """The clauses of a text. They cover every character that is not white space."""
    statements, place = [], None
    for chunk in _CHUNK.finditer(text):
        content = chunk.group().strip()
        if not content:
            continue
        start = chunk.start() + len(chunk.group()) - len(chunk.group().lstrip())
        words = " ".join(content.rstrip(",.").split()) if content[-1] not in "!?" else ""
        match = next((m for form in _FORMS if (m := form.fullmatch(words))), None)
        fact = None
        if match:
            found = match.groupdict()
            place = (found["name"], found["kind"]) if "name" in found else place
            fact = (*place, found["attribute"], found["value"]) if place else None
        statements.append(Statement(start, start + len(content), fact))
        if content[-1] in ".!?":
            place = None  # "its" refers within a sentence
    return statements


def judge(question: Question, text: str) -> Judgement:
    """All errors of ``text`` as an answer to ``question``, and how complete it is."""
    topic = to_topic(question)
    facts = {(topic.name, r.kind): r.facts for r in topic.readings}
    spans: list[Span] = []
    said: dict[tuple[str, str, str], str] = {}
    for statement in parse(text):
        kinds = ["Incoherent", "Unverifiable"]
        if statement.fact is not None:
            name, kind, attribute, value = statement.fact
            kinds = _errors(topic, facts, said, statement.fact)
            said.setdefault((name, kind, attribute), value)
        spans += [Span(error, statement.start, statement.end) for error in kinds]
    missing, right = [], 0
    for index, reading in enumerate(topic.readings):
        for attribute, error in zip(topic.asked, ("Missing-Answer", "Missing-Major-Auxiliary"), strict=True):
            if said.get((topic.name, reading.kind, attribute)) == reading.facts[attribute]:
                right += 1
            else:
                missing.append(Missing(error, index, (list(reading.facts).index(attribute),)))
    return Judgement(tuple(spans), tuple(missing), right / (right + len(missing)))


def oracle_judge(task: TaskName) -> Judge:
    """The exact labels of Atlas."""

    def values_of(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        values = []
        for question, text, spans in zip(questions, texts, offsets, strict=True):
            verdict = judge(question, text)
            errors = [s for s in verdict.spans if s.kind in TASKS[task].errors]
            segments = [-1.0 if any(e.start < b and e.end > a for e in errors) else 1.0 for a, b in spans]
            values.append([verdict.completeness] if TASKS[task].pairwise else segments)
        return values

    return values_of


def feedback_on(question: Question, responses: tuple[str, ...], noise: float, rng: random.Random) -> Feedback:
    """One record: what an annotator who is wrong with probability ``noise`` says of the responses, beside the oracle's view."""
    verdicts = [judge(question, response) for response in responses]
    scores = tuple(verdict.completeness for verdict in verdicts)
    preference = tuple(3 - choice if choice and rng.random() < noise else choice for choice in prefer(scores))
    return Feedback(
        question=question,
        responses=responses,
        spans=annotate(question, responses[0], noise, rng),
        missing=verdicts[0].missing,
        corrected=question.references[0],
        preference=preference,
        clean_spans=verdicts[0].spans,
        clean_scores=scores,
    )


def _errors(topic: Topic, facts: dict, said: dict, fact: tuple[str, str, str, str]) -> list[str]:
    name, kind, attribute, value = fact
    known = facts.get((name, kind))
    errors = []
    if known is None or attribute not in topic.asked:
        errors.append("Irrelevant")
    elif (name, kind, attribute) in said:
        errors.append("Redundant")
    if known is None or attribute not in known:
        errors.append("Unverifiable")
    elif known[attribute] != value:
        errors.append("Wrong-Grounding")
    return errors


def annotate(question: Question, text: str, noise: float, rng: random.Random) -> tuple[Span, ...]:
    """The oracle's spans as an annotator reports them, who is wrong with probability ``noise``: about the relevance of each
    clause, and about the factuality of each sentence, independently."""
    spans = list(judge(question, text).spans)
    statements = parse(text)
    for statement in statements:
        if rng.random() < noise:
            spans = _flip(spans, statement.start, statement.end, RELEVANCE_ERRORS, "Irrelevant")
    for start, end in _sentences(text, statements):
        if rng.random() < noise:
            spans = _flip(spans, start, end, FACTUAL_ERRORS, "Wrong-Grounding")
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.kind)))


def _flip(spans: list[Span], start: int, end: int, kinds: frozenset[str], otherwise: str) -> list[Span]:
    """Without the spans of ``kinds`` inside the piece, or, where there are none, with one of kind ``otherwise``."""
    kept = [s for s in spans if s.kind not in kinds or s.end <= start or s.start >= end]
    return kept if len(kept) < len(spans) else [*spans, Span(otherwise, start, end)]


def _sentences(text: str, statements: list[Statement]) -> list[tuple[int, int]]:
    sentences, start = [], None
    for statement in statements:
        start = statement.start if start is None else start
        if text[statement.end - 1] in ".!?" or statement is statements[-1]:
            sentences.append((start, statement.end))
            start = None
    return sentences
