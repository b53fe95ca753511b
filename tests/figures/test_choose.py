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
    assert [mark.get_label() for mark in drawing.legend][:2] == ["a", "b"]


def test_in_one_picture_the_legend_stands_below(measured):
    figure = choose.in_brief(*measured)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["a", "b"]
