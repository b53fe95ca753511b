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

from pydantic import TypeAdapter, ValidationError

from paradox_utils import files


@dataclass(frozen=True)
class Passage:
    """A titled passage, cut in sentences."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question with its passages, the prompt the policy reads, and the reference answers."""

    id: str
    text: str
    passages: tuple[Passage, ...]
    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """One marked error: characters ``start`` to ``end`` of the judged response."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Missing:
    """Passage sentences whose content the judged response lacks (indices into ``Question.passages`` and its sentences)."""

    kind: str
    passage: int
    sentences: tuple[int, ...]


@dataclass(frozen=True)
class Feedback:
    """Judged responses to one question.

    ``spans``, ``missing`` and ``corrected`` are about ``responses[0]``. ``preference`` compares pairs of responses in the order
    1v2 1v3 1v4 2v3 2v4 3v4 (1: the first, 2: the second, 0: tie). ``clean_spans`` and ``clean_scores`` (completeness of each
    response) are the oracle's, without annotator noise; None where no oracle exists.
    """

    question: Question
    responses: tuple[str, ...]
    spans: tuple[Span, ...]
    missing: tuple[Missing, ...] = ()
    corrected: str = ""
    preference: tuple[int, ...] = ()
    clean_spans: tuple[Span, ...] | None = None
    clean_scores: tuple[float, ...] | None = None


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


def unit_interval(text: str) -> float:
    """The place of a text in [0, 1), by a hash: decides about it alone, whatever else there is."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


_FEEDBACK = TypeAdapter(Feedback)


def write_feedback(path: Path, records: Iterable[Feedback]) -> None:
    """Write records as JSON Lines (compressed where ``path`` ends in .gz), replacing ``path`` in one step."""
    content = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records).encode()
    files.write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_feedback(path: Path) -> list[Feedback]:
    """Read what :func:`write_feedback` wrote; raises :class:`DataError` naming the file and line."""
    if not path.is_file():
        raise DataError(f"{path}: no such feedback file; run the feedback stage (notebooks/01-data.ipynb) first")
    records = []
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for number, line in enumerate(raw.decode().split("\n")[:-1], 1):
        try:
            records.append(_FEEDBACK.validate_json(line))
        except ValidationError as error:
            raise DataError(f"{path}, line {number}: not a feedback record ({error}); make the file again") from error
    if not records:
        raise DataError(f"{path}: holds no feedback; sample more prompts")
    return records
