"""Figures of one run draw their columns, in a style that stays with them."""

import re
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from paradox_utils.figures import style
from paradox_utils.figures.annotated import annotated, before_and_after, pieces
from paradox_utils.figures.run import (
    accuracies_by_step,
    accuracy_by_step,
    label_counts,
    landed,
    ppo_curves,
    start_to_end,
    training_loss,
)


def test_figures_draw_their_columns():
    steps = pd.DataFrame({"step": [0, 10], "accuracy": np.nan, "accuracy_noisy": [0.4, 0.8], "balanced_accuracy": [0.5, 0.7]})
    steps = steps.assign(majority=0.6, f1=[0.1, 0.6], calibration_error=[0.3, 0.1])
    labels = [line.get_label() for line in accuracy_by_step(steps, "relevance").panels[0].lines]
    assert labels == ["annotators' labels", "balanced over classes", "majority class"]
    curve = pd.DataFrame({"update": [0, 1, 2], "reward_mean": [0.1, 0.2, 0.3], "kl": 0.0, "length": 9.0})
    curve["lm_performance"] = [0.5, np.nan, 0.7]
    np.testing.assert_allclose(ppo_curves(curve, "factuality").panels[2].lines[0].get_ydata(), [0.5, 0.7])
    losses = pd.DataFrame({"step": range(90), "loss": [4.0, 2.0, 3.0] * 30})  # the mean of 3 points, of 2 at the ends
    np.testing.assert_allclose(training_loss(losses).panels[0].lines[1].get_ydata(), [3, *[3] * 88, 2.5])
    table = pd.DataFrame({"task": "factuality", "label": ["F-ERR", "O"], "count": [1, 3]})
    assert [bar.get_width() for bar in label_counts(table).panels[0].patches] == [0.25, 0.75]


def test_accuracies_have_a_panel_a_task_and_a_line_a_trajectory():
    rows = [(seed, step, 0.5 + 0.1 * seed + step / 100) for seed in (0, 1) for step in (0, 10)]
    made = pd.DataFrame(rows, columns=["id", "step", "accuracy"]).assign(task="factuality", accuracy_noisy=0.5, majority=0.65)
    (axis,) = accuracies_by_step(made).panels
    assert [line.get_ydata().tolist() for line in axis.lines[:2]] == [pytest.approx([0.5, 0.6]), pytest.approx([0.6, 0.7])]
    assert axis.lines[2].get_ydata() == pytest.approx([0.65] * 2)


def test_one_run_from_start_to_end_rings_its_checkpoint_and_its_point():
    models = pd.DataFrame({"step": [0, 10, 20], "accuracy": [0.5, 0.7, 0.9], "accuracy_noisy": 0.6, "majority": 0.55})
    curve = pd.DataFrame({"update": [0, 1, 2], "reward_mean": [0.1, 0.2, 0.3], "true_reward_mean": [0.1, 0.0, -0.1], "kl": 0.0})
    curve["lm_performance"] = [0.5, np.nan, 0.4]
    run = pd.Series({"task": "relevance", "rm_step": 10, "rm_accuracy": 0.7, "lm_performance_final": 0.4})
    run["lm_performance_start"] = 0.5
    trained, paid, _, performed = start_to_end(models, curve, run).panels
    assert trained.lines[1].get_xydata().tolist() == [[10, 0.7]]
    assert [line.get_ydata()[-1] for line in paid.lines] == [0.3, -0.1]
    assert performed.lines[0].get_ydata().tolist() == [0.5, 0.4]
    others = pd.DataFrame({"rm_accuracy": [0.6, 0.7], "lm_performance_final": [0.3, 0.4]})
    assert landed(others, run, "rm_accuracy").panels[0].lines[1].get_xydata().tolist() == [[0.7, 0.4]]
    assert len(start_to_end(models.head(0), curve, run).panels) == 4  # a reward that was not learned


def test_a_piece_has_the_kinds_of_the_spans_that_reach_into_it():
    class Marked(NamedTuple):
        start: int
        end: int
        kind: str

    spans = [Marked(0, 3, "wrong-grounding"), Marked(2, 5, "redundant"), Marked(5, 6, "irrelevant")]
    made = pieces("ab,cd.", [(0, 3), (3, 5), (5, 6)], {"annotator": spans, "oracle": None})
    assert list(made) == ["text", "annotator"]
    assert made["text"].tolist() == ["ab,", "cd", "."]
    assert made["annotator"].tolist() == ["redundant, wrong grounding", "redundant", "irrelevant"]


def test_an_annotated_answer_says_who_marked_what_and_escapes_it():
    judged = [("a <b", "", ""), ("c", "Irrelevant", ""), ("d", "", "Redundant"), ("e", "Incoherent", "Incoherent")]
    made = pd.DataFrame(judged, columns=["text", "annotator", "oracle"])
    given = ("what is the color?", [("isle", ["color red.", "stone grey."])], made, ["Missing-Answer: fort"], ("color",))
    text = annotated(*given, name="one", caption="**Which.**").html
    assert "<strong>color red.</strong> stone grey." in text
    assert "a &lt;b</span>" in text
    said = ["irrelevant (the oracle: no error)", "no error (the oracle: redundant)", "incoherent"]
    assert re.findall(r'class="pay">([^<]*)<', text) == said
    assert (text.count("segment good"), text.count("segment bad")) == (2, 3)
    assert (
        "oracle:" not in annotated(*given[:2], made[["text", "annotator"]], [], name="one", caption="").html
    )  # people's marks


def test_answers_side_by_side_say_what_is_good_and_what_is_paid():
    said = pd.DataFrame({"text": ["a <b", "c"], "paid": [0.3, -0.3], "judged": [-1, 1]})
    text = before_and_after("what & why?", {"Before": said.head(0), "After": said})
    assert "what &amp; why?" in text
    assert re.findall(r'class="segment ([\w ]+)"', text) == ["bad rewarded", "good docked"]
    assert re.findall(r'class="aloud">([^<]*)<', text) == ["an error: ", "good: "]
    assert re.findall(r'class="pay">([^<]*)<', text) == ["+0.3", "−0.3"]
    assert "a &lt;b</span>" in text


def test_style_leaves_nothing_behind():
    before = dict(mpl.rcParams)
    with style.style():
        assert mpl.rcParams["figure.dpi"] == 110
    assert dict(mpl.rcParams) == before
