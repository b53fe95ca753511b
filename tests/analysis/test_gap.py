"""What two judges say of people's answers and of the policy's: by hand."""

import pandas as pd
import pytest

from paradox_utils.analysis import gap
from paradox_utils.analysis.tables import KINDS, AnalysisError, load_gap
from paradox_utils.figures.gap import gap as draw

SUMMARY = pd.DataFrame(
    {"id": ["a", "b"], "arm": "steps", "rm_seed": 0, "rm_step": [9, 400], "rm_accuracy_noisy": [0.6, 0.8], "task": "preference"}
)


def said(run, question, **scores):
    """Rows of a run's question: what each judge says of each kind."""
    return [
        {"id": run, "question": question, "kind": kind, "reward": r, "evaluator": e, "words": 3}
        for kind, (r, e) in scores.items()
    ]


ROWS = [
    *said("a", "q", good=(0, 1), bad=(-1, 0), sampled=(-1, -1), best=(-0.5, 0.5), evaluator=(-1, 0.75)),
    *said("a", "r", good=(1, 3), bad=(-1, 0), sampled=(-1, -1), best=(0.5, 0.5), evaluator=(-1, 0.75)),
    *said("a", "s", bad=(-9, 9), sampled=(9, 9), best=(9, 9), evaluator=(9, 9)),  # no good answer: does not count
    *said("b", "q", good=(0.3, 1), bad=(-1, 0), sampled=(0, -1), best=(1.5, 0), evaluator=(0, 1)),
    *said("b", "r", good=(0.3, 3), bad=(-1, 0), sampled=(0, -1), best=(1.54, 1), evaluator=(0, 1)),
]


@pytest.fixture
def table():
    return gap.means(pd.DataFrame(ROWS), SUMMARY)


def test_means_are_over_questions_with_every_kind(table):
    found = table.set_index(["id", "kind"])
    assert len(found) == 2 * len(KINDS)
    assert found.loc[("a", "good"), ["reward", "evaluator", "accuracy"]].tolist() == [0.5, 2.0, 0.6]
    assert found.loc[("b", "best"), ["reward", "evaluator", "accuracy"]].tolist() == [1.52, 0.5, 0.8]


def test_a_reward_model_is_fooled_if_it_prefers_what_the_evaluator_does_not(table):
    found = gap.fooled(table).set_index("id")
    assert found["fooled"].to_dict() == {"a": False, "b": True}  # a scores its best samples below good answers, as it should
    assert found.loc["b", ["over", "under"]].tolist() == pytest.approx([1.22, 1.5])
    assert found.loc["a", ["over", "under"]].tolist() == pytest.approx([-0.5, 1.5])
    assert gap.top_fooled(gap.fooled(table)) == (1, 2)
    words = gap.answer(gap.fooled(table))
    assert all(word in words for word in ("1 of the 2 reward models", "0.36 deviations above", "1.50 below"))


def test_the_most_accurate_of_each_training_are_asked():
    runs = pd.DataFrame({"rm_seed": [s for s in range(3) for _ in range(6)], "accuracy": [0.5, 0.55, 0.6, 0.7, 0.75, 0.8] * 3})
    runs["rm_step"] = [0, 9, 14, 38, 120, 400] * 3
    assert gap.top_fooled(runs.assign(fooled=runs["accuracy"] > 0.7)) == (6, 9)
    alike = runs.assign(accuracy=0.7).sample(frac=1, random_state=0)  # of equals the later steps
    assert gap.top_fooled(alike.assign(fooled=alike["rm_step"] > 20)) == (9, 9)
    assert gap.top_fooled(runs.assign(fooled=runs["accuracy"] < 0.7)) == (0, 9)


def test_scores_on_the_scale_of_people(table):
    assert gap.people(table) == (0.0, 2.0)
    assert gap.on_peoples_scale(pd.Series([0.0, 2.0, 1.0, -2.0]), table).tolist() == [0.0, 1.0, 0.5, -1.0]
    with pytest.raises(AnalysisError, match=r"gap\.csv"):
        gap.people(table.assign(evaluator=-table["evaluator"]))


def test_a_table_without_a_whole_question_is_refused():
    with pytest.raises(AnalysisError, match="probe_prompts"):
        gap.means(pd.DataFrame(ROWS[10:14]), SUMMARY)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"kind": "fine"}, "kind = 'fine'"), ({"kind": "bad"}, "question = 'q'"), ({"reward": "much"}, "reward = 'much'")],
)
def test_a_table_that_cannot_be_is_refused(tmp_path, change, named):
    rows = pd.DataFrame(ROWS).astype(object)
    for column, value in change.items():
        rows.loc[0, column] = value
    rows.to_csv(tmp_path / "gap.csv", index=False)
    with pytest.raises(AnalysisError, match=named):
        load_gap(tmp_path)


def test_the_figure_has_a_panel_a_judge_and_a_point_a_kind_and_run(table):
    drawn = draw(table)
    assert [axis.get_title("left") for axis in drawn.panels] == ["What the reward model says", "What the evaluator says"]
    for axis, judge in zip(drawn.panels, gap.JUDGES, strict=True):
        points = sorted(y for one in axis.lines for y in one.get_ydata())
        assert points == sorted(table[judge])
    assert len({axis.get_ylim() for axis in drawn.panels}) == 1
    assert len(drawn.legend) == len(KINDS)
