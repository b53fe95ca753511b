"""One door to both data sources (Atlas and QA-FEEDBACK): questions, demonstrations and feedback."""

from __future__ import annotations

import hashlib
from pathlib import Path

from paradox_utils import config
from paradox_utils.data import atlas, qa_feedback
from paradox_utils.data.records import DataError, Feedback, Splits, read_feedback
from paradox_utils.data.segments import resolve_splitter


def load_splits(p: config.Source) -> Splits:
    """The questions of the policy, by use."""
    return atlas.load_splits(p) if p.source == "atlas" else qa_feedback.load_splits(p)


def demonstrations(p: config.Supervised) -> list[tuple[str, str]]:
    """(prompt, answer) pairs to learn from: Atlas demonstrations carry errors, QA-FEEDBACK's are the gold answers."""
    questions = load_splits(p).train
    if p.source == "atlas":
        return list(zip([q.prompt for q in questions], atlas.demonstrations(questions, p.seed), strict=True))
    return [(q.prompt, q.references[0]) for q in questions]


def load_feedback(p: config.Source, path: Path | None) -> dict[str, list[Feedback]]:
    """Feedback by use ("train", "heldout", "evaluator"), no question in two of them; Atlas feedback lies at ``path``."""
    if p.source == "qa-feedback":
        return qa_feedback.load_feedback(p)
    if path is None:
        raise DataError(
            "source = 'atlas' needs `feedback`: the feedback.jsonl that notebooks/01-data.ipynb leaves in its `out`"
        )
    parts: dict[str, list[Feedback]] = {"train": [], "heldout": [], "evaluator": []}
    for record in read_feedback(path):
        place = _unit_interval(record.question.prompt)
        part = "heldout" if place < p.heldout_share else "evaluator" if place > 1 - p.evaluator_share else "train"
        parts[part].append(record)
    return parts


def _unit_interval(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def splitter_of(p: config.Source) -> str:
    """The sentence splitter in use, ``auto`` resolved."""
    return resolve_splitter(p.sentence_splitter, p.source)
