"""What the tests of data and models share: an Atlas question by hand, and judged answers."""

import os
import random

import hypothesis
import pytest

from paradox_utils import threads
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import Feedback, Question

threads.use({})  # the tests' models are small
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test must not depend on a network
hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("unhurried")  # no example races the clock


@pytest.fixture(autouse=True)
def same_environment():
    """What a test sets for the processes it starts does not reach those of the next."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"})


ISLE = atlas.Reading("isle", {"color": "kane", "founder": "bane", "stone": "mane"})
FORT = atlas.Reading("fort", {"founder": "melo", "trade": "dusk", "color": "selo"})


@pytest.fixture(scope="session")
def question() -> Question:
    """What are the founder and the color of zodor? An isle (bane, kane; stone: mane) and a fort (melo, selo; trade: dusk)."""
    return atlas.to_question(atlas.Topic("zodor", (ISLE, FORT), ("founder", "color")), "by-hand")


def answered(count: int, seed: int, noise: float = 0.0) -> list[Feedback]:
    """Feedback on four demonstrations to each of ``count`` random questions, with annotator noise."""
    rng = random.Random(seed)
    records = []
    for index in range(count):
        topic = atlas.draw_topic(rng)
        responses = tuple(atlas.demonstrate(topic, rng) for _ in range(4))
        records.append(oracle.feedback_on(atlas.to_question(topic, f"{seed}-{index}"), responses, noise, rng))
    return records


@pytest.fixture(scope="session")
def judged() -> dict[str, list[Feedback]]:
    """Feedback without annotator noise, by use."""
    return {"train": answered(200, seed=1), "heldout": answered(60, seed=2), "evaluator": answered(40, seed=3)}
