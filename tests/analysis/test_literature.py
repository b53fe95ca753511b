"""Beside published results: by hand, and the recorded reward models on the paper's feedback."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis import literature, people, published, tables
from tests.analysis.test_people import loaded, written
from tests.analysis.test_people import tables as made_tables
from tests.worlds import flat, rising


@pytest.fixture(scope="module")
def markers():
    return published.load_published(files.resolve("book/published")).markers


@pytest.mark.heavy
def test_the_official_split_is_for_the_literature_alone(tmp_path):
    made = made_tables(rising)
    other = made_tables(flat, trainings=3, accuracies=(0.8,), parts={"heldout": 50}, arm="official", seed=3)
    other = {name: table.assign(id="official-" + table["id"]) for name, table in other.items()}
    both = {name: pd.concat([made[name], other[name]]) for name in made}
    both["sets"] = both["sets"].drop_duplicates("question")
    judged = people.load({"forum": written(tmp_path / "a", both)})
    assert [one.of.arm for one in people.findings(judged)] == ["steps"]
    found = literature.official(judged)
    precision = other["picks"].groupby("id")["average_precision"].mean()
    assert found["MAP"].iloc[0] == pytest.approx(precision.mean())
    assert found["MAP"].tolist()[1:] == list(literature.PUBLISHED_MAP.values())
    assert literature.official(loaded(tmp_path / "b", rising)).empty
    assert f"{precision.mean():.3f}" in literature.beside_published(found)
    assert "recorded" in literature.beside_published(found.head(0))
    both["reward_models"]["study"] = people.MADE_UP
    assert literature.official(people.load({"forum": written(tmp_path / "c", both)})).empty


def test_map_by_hand(tmp_path):
    """Two trainings, three threads, the last without a good answer: it counts 0, as in the official scores."""
    made = made_tables(flat, trainings=2, accuracies=(0.8,), parts={"heldout": 3}, arm="official")
    made["picks"]["average_precision"] = [1.0, 0.5, 0.0, 5 / 6, 2 / 3, 0.0]
    made["reward_models"]["setting"] = "official_split=True, checkpoint_steps=[400], learning_rate=0.0001"
    found = literature.official(people.load({"forum": written(tmp_path / "a", made)}))
    assert found["MAP"].iloc[0] == pytest.approx(0.5)
    assert found.index[0] == "reward model, 0 steps, learning_rate=0.0001"


def test_reward_models_beside_the_papers_by_hand(markers):
    rows = [("relevance", "fold=0", 0, 0.5, 100), ("relevance", "fold=0", 60, 0.7, 100), ("relevance", "fold=0", 160, 0.6, 100)]
    rows += [
        ("relevance", "fold=1", 0, 0.5, 300),
        ("relevance", "fold=1", 60, 0.6, 300),
        ("relevance", "fold=1", 160, 0.66, 300),
    ]
    rows += [("relevance", "evaluator", 60, 0.99, 100), ("completeness", "fold=0", 60, 0.52, 100)]
    table = pd.DataFrame(rows, columns=["task", "setting", "step", "accuracy_noisy", "segments"])
    table = table.assign(study="mine", route="steps", majority=np.where(table["setting"] == "fold=1", 0.5, 0.6))
    found = literature.marked(table.sample(frac=1, random_state=0), markers).set_index("task")
    assert found.index.tolist() == ["relevance", "completeness"]
    one = found.loc["relevance"]
    assert (one["step"], one["labels"]) == (60, 400)  # 0.65 on average, beside 0.63
    assert (one["best"], one["majority"]) == pytest.approx((0.625, 0.525))
    assert one["errors"] == pytest.approx(0.1 / (0.625 * 0.375 / 400) ** 0.5)
    assert (one["least"], one["most"], one["paper's majority"]) == pytest.approx((0.494, 0.692, 0.50))
    said = literature.beside_paper(found.reset_index())
    assert "label in relevance, and" in said
    assert said.endswith("in none.")


def test_nothing_is_beside_the_paper_without_reward_models(markers):
    empty = pd.DataFrame(columns=["task", "setting", "step", "accuracy_noisy", "segments", "study", "route", "majority"])
    assert "recorded" in literature.beside_paper(literature.marked(empty, markers))


def test_relevance_beats_the_majority_class_on_human_feedback(markers):
    checkpoints = tables.load_checkpoints("results/recorded/qa-feedback-dev")
    assert checkpoints["accuracy"].isna().all()  # people's labels are all there is
    found = literature.marked(checkpoints, markers).set_index("task")
    assert found.index.tolist() == ["relevance", "factuality", "completeness"]
    assert found.loc["relevance", "errors"] > 2
    assert (found["best"] < found["most"]).all()
