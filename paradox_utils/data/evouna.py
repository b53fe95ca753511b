"""EVOUNA (Wang et al. 2023, *Evaluating Open-QA Evaluation*): five systems' answers to factual questions, which people called
right or wrong.

``data`` is a directory with the published NQ.json and TQ.json. Questions that people called improper (they have no fixed right
answer) are left out, as are answers without a text or a verdict.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, create_model

from paradox_utils import config, files
from paradox_utils.data import sets
from paradox_utils.data.records import BAD, GOOD, DataError, JudgedSet, Question, Splits, malformed, question_id

FILES = ("NQ.json", "TQ.json")
SYSTEMS = ("fid", "gpt35", "chatgpt", "gpt4", "newbing")
MEND = "restore the published file"
_Words = Annotated[str, Field(pattern=r"\S")]
_Record: Any = create_model(
    "_Record",
    __config__=ConfigDict(strict=True, extra="forbid"),
    question=(_Words, ...),
    golden_answer=(str | None, ...),
    improper=(bool, ...),
    **{f"answer_{system}": (str | None, ...) for system in SYSTEMS},
    **{f"judge_{system}": (bool | Literal["nan"] | None, ...) for system in SYSTEMS},
)


def load_sets(p: config.Source) -> dict[str, list[JudgedSet]]:
    """Judged sets by use, see :func:`paradox_utils.data.sets.split`; of a question that stands twice the first counts.

    Raises :class:`DataError` for files that cannot be used, or a part left empty.
    """
    known: dict[str, JudgedSet] = {}
    for path in sets.present(p, FILES):
        for one in _parse(path, path.stat().st_mtime_ns):
            first = known.get(one.question.id)
            known[one.question.id] = replace(first, copies=first.copies + 1) if first else one
    return sets.split(p, known.values())


def load_splits(p: config.Source) -> Splits:
    """Questions for the policy, see :func:`paradox_utils.data.sets.splits`; references are the golden answers."""
    return sets.splits(p, load_sets(p))


@lru_cache(maxsize=len(FILES))
def _parse(path: Path, _modified: int) -> list[JudgedSet]:
    """The judged sets of two answers or more."""
    place = f"{path}, record %d (counted from 0)"
    found = []
    for index, raw in enumerate(files.read_json(path, list, MEND)):
        try:
            record = _Record.model_validate(raw)
        except ValidationError as error:
            raise malformed(place % index, error, MEND) from error
        if record.improper or len(graded := _graded(record)) < 2:
            continue
        references = tuple(answer.strip() for answer in (record.golden_answer or "").split("/") if answer.strip())
        if not references:
            raise DataError(f"{place % index}: field 'golden_answer' is empty, and the question is not improper; {MEND}")
        words = " ".join(record.question.split())
        question = Question(question_id(words, "EVOUNA"), words, (), f"question: {words}", references)
        found.append(sets.shuffled(question, graded))
    if not found:
        raise DataError(f"{path}: holds no question with two judged answers; {MEND}")
    return found


def _graded(record: Any) -> list[tuple[int, str, int]]:
    given = [(getattr(record, f"answer_{system}"), getattr(record, f"judge_{system}")) for system in SYSTEMS]
    return [
        (place, " ".join(text.split()), GOOD if right else BAD)
        for place, (text, right) in enumerate(given)
        if text and text.strip() and isinstance(right, bool)
    ]
