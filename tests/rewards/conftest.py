"""What tests of reward models share: feedback, and two trained models."""

import random

import pytest

from paradox_utils import config
from paradox_utils.data import atlas
from paradox_utils.data.records import Feedback, prefer
from paradox_utils.rewards import training
from tests.conftest import answered


def parameters(task="relevance", **changes):
    common = {"backbone": "atlas-bert-32", "batch_size": 16, "learning_rate": 2e-3, "device": "cpu"}
    return config.RewardModel(task=task, **(common | changes))


def fit(folder, feedback, task="relevance", **changes):
    folder.mkdir(exist_ok=True)
    return training.train(parameters(task, **changes), feedback, folder)


@pytest.fixture(scope="session")
def many():
    return answered(600, seed=9)


@pytest.fixture(scope="session")
def few(judged):
    """Enough feedback for a few steps."""
    return {"train": judged["train"][:40], "heldout": judged["heldout"][:4], "evaluator": judged["evaluator"][:10]}


@pytest.fixture(scope="session")
def pairs(question):
    """Comparisons that are easy: two full answers, two halves."""
    records = {"train": [], "heldout": []}
    for index in range(60):
        topic = atlas.draw_topic(random.Random(index))
        asked = atlas.to_question(topic, str(index))
        full = asked.references[0]
        half = full.split(". ")[0] + "."
        responses, scores = (full, half, full, half), (1.0, 0.5, 1.0, 0.5)
        preference = prefer(scores)
        record = Feedback(asked, responses, (), (), "", preference, (), scores)
        records["train" if index < 40 else "heldout"].append(record)
    return records


@pytest.fixture(scope="session")
def relevance(judged, tmp_path_factory):
    """A trained relevance model: (folder, metrics, losses, truncated)."""
    folder = tmp_path_factory.mktemp("relevance")
    return folder, *fit(folder, judged, checkpoint_steps=[0, 5, 40])


@pytest.fixture(scope="session")
def completeness(pairs, tmp_path_factory):
    """A trained completeness model."""
    folder = tmp_path_factory.mktemp("completeness")
    return folder, *fit(folder, pairs, "completeness", checkpoint_steps=[0, 30])
