"""The registry of sources: one door to all of them."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from paradox_utils import config, data
from paradox_utils.data.records import DataError, Splits
from paradox_utils.files import FileError
from paradox_utils.rewards.examples import training_examples


def test_config_and_the_registry_name_the_same_sources():
    assert tuple(data.SOURCES) == get_args(config.Source.model_fields["source"].annotation)
    assert tuple(name for name, origin in data.SOURCES.items() if origin.oracle) == config.WITH_ORACLE


def test_sources_of_graded_responses_alone_have_a_sample_of_their_own():
    for name, origin in data.SOURCES.items():
        p = config.Source(source=name)
        assert (origin.sets is not None and not origin.passages) == (name in config.SETS)
        if name in config.SETS:
            assert data.load_feedback(p, Path()) == data.load_sets(p)
    assert data.load_sets(config.Source()) == {}
    assert data.oracle_of(config.Source(), "preference") is None


def test_auto_is_the_splitter_of_the_source():
    assert data.splitter_of(config.Source()) == "punctuation"
    assert data.splitter_of(config.Source(sentence_splitter="pysbd")) == "pysbd"
    assert data.splitter_of(config.Source(source="qa-feedback")) in ("spacy", "pysbd")


def test_atlas_feedback_needs_its_file(tmp_path):
    with pytest.raises(FileError, match=r"feedback\.jsonl: does not exist; run the feedback stage"):
        data.load_feedback(config.Source(), tmp_path / "feedback.jsonl")


def test_what_a_source_has_decides_what_can_be_done_with_it(monkeypatch, question, judged):
    """A source without passages, oracle and demonstrations with errors."""
    toy = replace(
        data.SOURCES["qa-feedback"],
        splits=lambda p: Splits(train=[question] * p.train_questions),
        demonstrations=lambda questions, seed: [f"{q.id} {seed}" for q in questions],
        feedback=lambda p, path: {"train": judged["train"][:2]},
        splitter="punctuation",
        passages=False,
    )
    monkeypatch.setitem(data.SOURCES, "atlas", toy)
    p = config.Supervised(train_questions=2, seed=5)
    assert data.demonstrations(p) == [(question.prompt, "by-hand 5")] * 2
    assert data.oracle_of(p, "relevance") is None
    records = data.load_feedback(p, Path())["train"]
    assert len(training_examples(p, records, "relevance")) == 2
    for task in ("factuality", "completeness"):
        with pytest.raises(DataError, match=f"task = '{task}': its reward models read passages"):
            training_examples(p, records, task)
