"""Judged sets: shuffled, split by question, and what a policy asks and learns of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from paradox_utils import config, files
from paradox_utils.data.records import DataError, JudgedSet, Question, Splits, shared, unit_interval


def present(p: config.Source, names: Sequence[str]) -> list[Path]:
    """Of the ``names`` of a source's files, those in the directory ``data``; raises :class:`DataError` where there are none."""
    folder = files.resolve(p.data)
    if paths := [folder / name for name in names if (folder / name).is_file()]:
        return paths
    problem = {"": "there is no such directory", "file": "is a file"}.get(
        files.lies(folder), "holds none of the source's files"
    )
    raise DataError(f"data = {p.data!r}: {problem}; name a directory with one or more of {', '.join(names)}")


def shuffled(question: Question, graded: Iterable[tuple[int, str, int]]) -> JudgedSet:
    """A judged set of (place in the source, response, grade); the question's id shuffles them."""
    order = sorted(graded, key=lambda one: unit_interval(f"{question.id} {one[0]}"))
    places, responses, grades = zip(*order, strict=True)
    return JudgedSet(question, responses, grades, places)


def split(p: config.Source, sets: Iterable[JudgedSet]) -> dict[str, list[JudgedSet]]:
    """Judged sets of different questions by use, in shares of exactly that size: a hash of its id gives a question its rank,
    and ``fold`` moves the parts on by so many times the held-out share, so that 1 / ``heldout_share`` folds hold out every
    question once. Raises :class:`DataError` where a part that is asked for gets none."""
    ranked = sorted(sets, key=lambda one: unit_interval(one.question.id))
    first, second = (round(share * len(ranked)) for share in (p.heldout_share, p.evaluator_share))
    start = round(p.fold * p.heldout_share * len(ranked)) % max(1, len(ranked))
    ranked = ranked[start:] + ranked[:start]
    parts = {"train": ranked[first + second :], "heldout": ranked[:first], "evaluator": ranked[first : first + second]}
    if lacking := [part for part, own in parts.items() if not own and (part != "evaluator" or p.evaluator_share)]:
        raise DataError(
            f"data = {p.data!r}: {len(ranked)} questions are too few for the part {lacking[0]!r} with heldout_share = "
            f"{p.heldout_share} and evaluator_share = {p.evaluator_share}; change the shares or add data"
        )
    return parts


def splits(p: config.Source, parts: dict[str, list[JudgedSet]]) -> Splits:
    """Questions for the policy: those of the part ``train`` with an answer to learn from; the held-out ones are shared between
    validation and test."""
    train = [one.question for one in parts["train"] if one.question.references]
    validation, test = shared([one.question for one in parts["heldout"]], p.validation_questions, p.test_questions)
    return Splits(train[: p.train_questions or None], validation, test)


def demonstrations(questions: Sequence[Question], seed: int) -> list[str]:
    """One reference answer to each question, drawn by a key."""
    return [random.Random(f"demonstration {seed} {question.id}").choice(question.references) for question in questions]
