"""The records both data sources share, and their JSON Lines form.

A :class:`Question` is what the policy answers; a :class:`Feedback` is a question with responses somebody judged. Offsets are
character offsets (Python string indices), end exclusive.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from paradox_utils import files

ErrorKind = Literal["Irrelevant", "Redundant", "Incoherent", "Wrong-Grounding", "Unverifiable"]
MissingKind = Literal["Missing-Answer", "Missing-Major-Auxiliary", "Missing-Minor-Auxiliary"]
Preference = Annotated[int, Field(ge=0, le=2)]  # 1: the first of a pair, 2: the second, 0: tie
Score = Annotated[float, Field(allow_inf_nan=False)]
BAD, BETWEEN, GOOD = 0, 1, 2  # what people called a response


class _Record:
    """What is read from a file: a field it does not know, perhaps one misspelt, is refused."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Passage(_Record):
    """A titled passage, cut in sentences."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Question(_Record):
    """A question with its passages, the prompt the policy reads, and the reference answers."""

    id: str
    text: str
    passages: tuple[Passage, ...]
    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Span(_Record):
    """One marked error: characters ``start`` to ``end`` of the judged response."""

    kind: ErrorKind
    start: int
    end: int


@dataclass(frozen=True)
class Missing(_Record):
    """Passage sentences whose content the judged response lacks (indices into ``Question.passages`` and its sentences)."""

    kind: MissingKind
    passage: int
    sentences: tuple[int, ...]


@dataclass(frozen=True)
class Feedback(_Record):
    """Judged responses to one question.

    ``spans``, ``missing`` and ``corrected`` are about ``responses[0]``. ``preference`` compares all pairs of responses in the
    order 1v2 1v3 1v4 2v3 2v4 3v4 (1: the first, 2: the second, 0: tie), or none. ``clean_spans`` and ``clean_scores``
    (completeness of each response) are the oracle's, without annotator noise; None where no oracle exists.
    Raises ``ValueError`` where these do not fit together, naming the field and its value.
    """

    question: Question
    responses: Annotated[tuple[str, ...], Field(min_length=1)]
    spans: tuple[Span, ...]
    missing: tuple[Missing, ...] = ()
    corrected: str = ""
    preference: tuple[Preference, ...] = ()
    clean_spans: tuple[Span, ...] | None = None
    clean_scores: tuple[Score, ...] | None = None

    def __post_init__(self) -> None:
        length, passages = len(self.responses[0]), self.question.passages
        for name, spans in (("spans", self.spans), ("clean_spans", self.clean_spans or ())):
            for i, span in enumerate(spans):
                if not 0 <= span.start < span.end <= length:
                    raise ValueError(
                        f"{name}[{i}] = {span.start} to {span.end}: start must come before end, and both lie within "
                        f"responses[0] ({length} characters)"
                    )
        for i, item in enumerate(self.missing):
            if not 0 <= item.passage < len(passages):
                raise ValueError(f"missing[{i}].passage = {item.passage}: there are {len(passages)} passages, counted from 0")
            known = len(passages[item.passage].sentences)
            if not all(0 <= sentence < known for sentence in item.sentences):
                raise ValueError(f"missing[{i}].sentences = {list(item.sentences)}: the passage has {known}, counted from 0")
        pairs = len(self.responses) * (len(self.responses) - 1) // 2
        if len(self.preference) not in (0, pairs):
            raise ValueError(
                f"preference = {list(self.preference)}: must compare all {pairs} pairs of the {len(self.responses)} responses"
            )
        if self.clean_scores is not None and len(self.clean_scores) != len(self.responses):
            raise ValueError(
                f"clean_scores = {list(self.clean_scores)}: must hold one score for each of the {len(self.responses)} responses"
            )


@dataclass(frozen=True)
class JudgedSet:
    """Responses to one question, all graded by people: :data:`GOOD`, :data:`BETWEEN` or :data:`BAD`.

    They are in an order that a key shuffles, so that the first of equals is as good as any; ``places`` are where they stood in
    the source. ``copies``: how often the question stands there; ``regraded``: responses graded twice in
    it, of which ``same`` many got the same grade.
    """

    question: Question
    responses: tuple[str, ...]
    grades: tuple[int, ...]
    places: tuple[int, ...]
    copies: int = 1
    regraded: int = 0
    same: int = 0

    def pairs(self, better: int = GOOD, worse: int = BAD) -> list[tuple[int, int]]:
        """Places of every two responses of these grades."""
        found = [[i for i, grade in enumerate(self.grades) if grade == wanted] for wanted in (better, worse)]
        return [(i, j) for i in found[0] for j in found[1]]


@dataclass(frozen=True)
class SegmentExample:
    """A training example of a token reward model.

    ``context`` is the reward model's input before the segments. ``labels`` index :data:`LABELS`, None where the segment is not
    trained on; ``clean`` are the oracle's (None: no oracle).
    """

    context: str
    segments: tuple[str, ...]
    labels: tuple[int | None, ...]
    clean: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class PairExample:
    """A training example of a pairwise reward model.

    ``clean`` tells whether the oracle agrees that ``chosen`` is better (None: no oracle, or it finds them equal).
    """

    context: str
    chosen: str
    rejected: str
    clean: bool | None = None


Offsets = list[tuple[int, int]]
# Questions, responses and their segments to a value a segment: in [−1, 1] for relevance and factuality (its sign is the label),
# the raw score for completeness (one segment, the whole answer).
Judge = Callable[[Sequence[Question], Sequence[str], Sequence[Offsets]], list[list[float]]]


@dataclass
class Splits:
    """Questions by use. ``train`` trains the policy and PPO, ``validation`` selects, ``test`` reports."""

    train: list[Question] = field(default_factory=list)
    validation: list[Question] = field(default_factory=list)
    test: list[Question] = field(default_factory=list)


class DataError(ValueError):
    """Data that cannot be used; the message says where it is wrong and what to do."""


def prefer(scores: Sequence[float]) -> tuple[int, ...]:
    """Preferences (1: first, 2: second, 0: tie) among all pairs of scores, in the order 1v2 1v3 … 3v4."""
    pairs = [(a, b) for i, a in enumerate(scores) for b in scores[i + 1 :]]
    return tuple(0 if a == b else 1 if a > b else 2 for a, b in pairs)


def question_id(text: str, source: str) -> str:
    """A keyed hash of a question, whatever its spacing and case: the same question gets the same id in every file."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8, key=source.encode()).hexdigest()


def shared(questions: Sequence[Question], first: int, second: int) -> tuple[list[Question], list[Question]]:
    """Questions for validation and for test: so many of each, or, where there are too few, in that proportion."""
    cut = min(first, max(1, len(questions) * first // (first + second)))
    return list(questions[:cut]), list(questions[cut:][:second])


def unit_interval(text: str) -> float:
    """The place of a text in [0, 1), by a hash: decides about it alone, whatever else there is."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


_FEEDBACK = TypeAdapter(Feedback)


def write_feedback(path: Path, records: Iterable[Feedback]) -> None:
    """Write records as JSON Lines (compressed where ``path`` ends in .gz), replacing ``path`` in one step."""
    content = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records).encode()
    files.write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_feedback(path: Path) -> list[Feedback]:
    """Read what :func:`write_feedback` wrote, a record a line, whether or not the last one ends its line.

    Raises :class:`DataError` naming file, line and field of a record that is none, and :class:`files.FileError` for a file that
    is not there or cannot be read.
    """
    records = []
    lines = files.read_text(path, "run the feedback stage (notebooks/01-data.ipynb)").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                records.append(_FEEDBACK.validate_json(line, strict=True))
                json.loads(line, object_pairs_hook=files.each_once)
        except ValidationError as error:
            raise malformed(f"{path}, line {number}", error, "mend the line, or make the file again") from error
        except ValueError as error:  # of a name given twice the parser above takes the last
            raise DataError(f"{path}, line {number}: {error}; keep one") from error
    if not records:
        raise DataError(f"{path}: holds no feedback; sample more prompts")
    return records


def malformed(where: str, error: ValidationError, way_out: str) -> DataError:
    """What is wrong with a record, in one sentence: its first problem, with field and value."""
    problem = error.errors()[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    said = problem["msg"].removeprefix("Value error, ").replace("at line 1 column", "at character")  # a record is one line
    said = f"{said[0].lower()}{said[1:]}"
    if field or problem["type"] not in ("value_error", "json_invalid"):  # of a whole record, these say what they are about
        value = repr(problem["input"])
        named, value = f"field {field!r} = " if field else "", value if len(value) <= 60 else f"{value[:57]}…"
        said = f"{named}{value}: {said}"
    return DataError(f"{where}: {said}; {way_out}")
