"""The figure of a choice: a curve a candidate, and a mark where its recipe goes."""

import pandas as pd
import pytest

from paradox_utils.figures import choose


@pytest.fixture
def measured():
    paths = pd.DataFrame({"candidate": ["a", "a", "b", "b"], "kl": [0, 1, 0, 2], "score": [0.5, 0.7, 0.5, 0.4]})
    best = pd.DataFrame({"candidate": ["a", "b"], "n": [2, 2], "kl": [0.19, 0.19], "score": [0.6, 0.45]})
    table = pd.DataFrame({"candidate": ["a", "b", "blocked"], "kl": [1, 2, None], "score": [0.7, 0.4, None]})
    return paths, best, table.assign(gain=table["score"] - 0.5, low=table["score"] - 0.6, high=table["score"] - 0.4), 0.5


def test_curves_and_marks(measured):
    drawing = choose.curves(*measured)
    (axis,) = drawing.panels
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 2}
    assert lines[0, 1] == (0.5, 0.7)
    assert lines[0, 2] == (0.5, 0.4)
    (first, _) = axis.containers
    assert first.lines[0].get_xydata()[0] == pytest.approx([1, 0.7])
    assert [mark.get_label() for mark in drawing.legend][:3] == ["a", "b", "the policy"]
    assert not axis.texts  # a name among the curves would lie on one of them


def test_of_the_best_of_n_its_own_points_are_the_curve(measured):
    """Through n = 2 to where n is 4, and no further."""
    _, _, table, start = measured
    best = pd.DataFrame({"candidate": "a", "n": [1, 2, 4, 8], "kl": [0, 0.19, 0.64, 1.2], "score": [0.5, 0.6, 0.65, 0.66]})
    (axis,) = choose.curves(best, best, table[:1].assign(kl=0.64, score=0.65), start).panels
    drawn = [line.get_xydata().tolist() for line in axis.lines if len(line.get_xdata()) == 3]
    assert drawn == [[[0, 0.5], [0.19, 0.6], [0.64, 0.65]]]


def test_in_one_picture_the_legend_stands_below(measured):
    figure = choose.in_brief(*measured)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["a", "b"]


@pytest.mark.parametrize("length", [1, 24, 70])
def test_no_name_reaches_over_the_pictures_edges(measured, length):
    paths, best, table, start = measured
    names = {"a": "a" * length, "b": "b" * length}
    figure = choose.in_brief(*(part.replace({"candidate": names}) for part in (paths, best, table)), start)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_predicted_stands_beside_reached_by_task_and_policy():
    rows = pd.DataFrame({"task": ["relevance", "relevance", "factuality"], "policy": ["p", "q", "p"]})
    drawing = choose.backtest(rows.assign(gain=[0.1, 0.2, 0.3], reached_sampled=[0.0, 0.1, 0.2]))
    relevance, factuality = drawing.panels
    assert [one.get_offsets().tolist() for one in relevance.collections] == [[[0.1, 0.0]], [[0.2, 0.1]]]
    assert next(one.get_offsets().tolist() for one in factuality.collections) == [[0.3, 0.2]]
    assert [mark.get_label() for mark in drawing.legend] == ["p", "q"]
