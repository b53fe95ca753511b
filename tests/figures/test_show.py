"""What a page shows of a figure or a table: two themes, few bytes, and what stands behind it."""

import io
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from paradox_utils.figures import style, svg
from paradox_utils.figures.show import show
from paradox_utils.figures.table import column, interval, table


@style.style()
def drawn(columns=3, panels=1):
    axes = [style.panel(columns, 2.0) for _ in range(panels)]
    for axis in axes:
        axis.scatter([0, 1], [0, 1], color=style.COLORS[0])
        axis.set(title="A\ntitle", xlabel="x")
    return style.Drawing(axes, [style.dot("a point"), style.line("a line")])


def shown(drawing, **more):
    return show(drawing, name="one", caption="**What** it shows & more.", alt='A "point" at 0', **more)


def bundle(made):
    data, about = made._repr_mimebundle_()
    return ElementTree.fromstring(data["text/html"]), data, about["paradox"]


def test_a_figure_has_a_name_a_caption_and_a_description():
    figure, data, about = bundle(shown(drawn(panels=2)))
    assert (figure.tag, figure.get("id"), about["kind"], about["name"]) == ("figure", "one", "Figure", "one")
    panels = figure.find("div")
    assert (panels.get("role"), panels.get("aria-label")) == ("img", 'A "point" at 0')
    assert len(panels.findall("svg")) == 2
    assert "".join(figure.find("figcaption").itertext()) == "What it shows & more."
    assert [entry.tail or "".join(entry.itertext()) for entry in figure.findall("ul/li")] == ["a point", "a line"]
    assert set(data) == {"text/html", "text/plain"}


def test_its_ids_are_its_own_and_each_is_used():
    figure, _, _ = bundle(shown(drawn(panels=2)))
    ids = [node.get("id") for node in figure.iter() if node.get("id")]
    used = {node.get("href", "#")[1:] for node in figure.iter()}
    used |= {node.get("clip-path", "url(#)")[5:-1] for node in figure.iter()}
    assert len(ids) == len(set(ids))
    assert set(ids[1:]) == used - {""}
    assert all(name.startswith("one-") for name in ids[1:])


def test_its_colours_follow_the_theme_and_its_font_the_page():
    text = shown(drawn()).html
    assert f"var(--figure-ink, {style.INK})" in text
    assert not any(text.count(f"{color}") > text.count(f", {color})") for color in style.THEME)
    assert style.COLORS[0] in text
    assert "font-family" not in text


def test_the_same_drawing_gives_the_same_bytes():
    assert shown(drawn()).html == shown(drawn()).html


def test_its_data_and_its_runs_go_along():
    data = pd.DataFrame({"id": ["b", "a"], "value": [1 / 3, np.nan]})
    _, kept, about = bundle(shown(drawn(), data=data, runs=["b", "a", "b"]))
    assert kept["text/csv"] == "id,value\nb,0.333333\na,\n"
    assert about["runs"] == "a b"


def test_a_path_by_its_steps_goes_where_it_went():
    steps = svg._relative("M1 2L1.5 2L1.5 0.5zM4 4L4 4M5 3.2L5 3.2")
    assert steps == "m1 2l.5 0l0-1.5zm3 2h0m1-.8h0"
    assert svg._relative("M0 3C0.8 3 1.6 2.7 2.1 2.1z") == "M0 3C0.8 3 1.6 2.7 2.1 2.1z"


@style.style()
def test_specks_are_dots_where_the_points_are():
    axis = style.panel(3, 2.0)
    style.specks(axis, [1, 2, 3], [4, 5, 6], size=2)
    (patch,) = axis.patches
    np.testing.assert_allclose(patch.get_path().vertices[::2], [[1, 4], [2, 5], [3, 6]])
    assert axis.get_xlim()[1] >= 3
    assert svg.inline(axis.figure, "x").count("h0") == 3


@pytest.mark.parametrize("background", ["#ffffff", "#14181e"])
def test_data_colours_stand_out_from_either_page(background):
    def light(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    for color in (*style.COLORS, style.FAINT):
        pair = sorted((light(color), light(background)))
        assert pair[1] / pair[0] >= 3, color


# --- tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([24.0, 2000, np.nan], ["24", "2,000", "–"]),
        ([0.0005, 0.002], ["0.0005", "0.0020"]),
        ([0.0004, 0.9123, 0.0], ["0.0004", "0.912", "0"]),
        ([12.345, 1.2, -0.5], ["12.3", "1.2", "−0.5"]),
        ([0.0726, -0.0009], ["0.073", "−0.001"]),
        ([0.5234, 1.0], ["0.523", "1.000"]),
        ([1e-12, 0.25], ["1 × 10⁻¹²", "0.25"]),
        ([True, False], ["yes", "no"]),
        (["a<b", None, ""], ["a&lt;b", "–", "–"]),
        (["word", 3, 0.123456, 24.0], ["word", "3", "0.123", "24"]),
        ([np.inf, 1.0], ["∞", "1"]),
    ],
)
def test_a_column_has_the_digits_that_mean_something(values, cells):
    assert column(pd.Series(values)) == cells


def test_an_interval_is_one_column():
    assert interval(pd.Series([0.0123, np.nan]), pd.Series([0.5, 1.0])) == ["0.012 to 0.500", ""]


def test_a_table_names_its_rows_and_aligns_its_numbers():
    index = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")], names=["task", "policy"])
    frame = pd.DataFrame({"KL": [1.5, 2.25, 3.0], "status": "ok"}, index=index)
    made = table(frame, name="one", caption="*All* of it", units={"KL": "nats"})
    figure, data, about = bundle(made)
    head = figure.find("div/table/thead/tr")
    assert ["".join(cell.itertext()) for cell in head] == ["task", "policy", "KL nats", "status"]
    rows = figure.findall("div/table/tbody/tr")
    assert [[cell.text for cell in row] for row in rows] == [
        ["a", "x", "1.50", "ok"],
        ["y", "2.25", "ok"],
        ["b", "x", "3.00", "ok"],
    ]
    assert rows[0][0].get("rowspan") == "2"
    assert [cell.get("class") for cell in rows[2]] == ["short", "short", "number", "short"]
    assert figure.find("div").get("aria-label") == "All of it"
    assert about["kind"] == "Table"
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(data["text/csv"])), frame.reset_index())


def test_numbers_of_equal_steps_name_rows_too():
    made = table(pd.DataFrame({"update": [0, 5, 10], "KL": 1.0}).set_index("update"), name="one", caption="")
    assert [cell.text for cell in bundle(made)[0].find("div/table/thead/tr")] == ["update", "KL"]


def test_a_table_wider_than_a_page_is_refused_and_its_csv_may_be_wider():
    wide = pd.DataFrame([range(9)], columns=[*"abcdefghi"])
    with pytest.raises(ValueError, match="9 columns"):
        table(wide, name="one", caption="")
    _, data, _ = bundle(table(wide[["a"]], name="one", caption="", data=wide))
    assert data["text/csv"].startswith("a,b,c,d,e,f,g,h,i\n")
