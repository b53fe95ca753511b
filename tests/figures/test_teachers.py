"""Figures of why some reward models teach better."""

import numpy as np
import pandas as pd

from paradox_utils.analysis import overoptimisation, teachers
from paradox_utils.figures import teachers as draw
from tests.analysis.test_paths import chosen_of, fitted_world, walked
from tests.analysis.test_teachers import taught
from tests.worlds import TASKS, flat, nested, offsets


def test_predictors_show_every_measure_with_its_interval():
    table = teachers.correlations(taught(), resamples=50, seed=0)
    words = {name: teachers.BEFORE[name] for name in ("rm_accuracy", "rm_f1", "probe_variance", "probe_margin")}
    axis = draw.predictors(table, words).axes[0]
    shown = [name for name in words if name != "rm_f1"]  # constant: no correlation
    assert [label.get_text() for label in axis.get_yticklabels()] == [words[name] for name in reversed(shown)]
    bars = axis.lines[1:]  # no line parts them: nothing was measured along the runs
    pooled = table[table["task"] == "all"].set_index("measure")
    assert [list(bar.get_xdata()) for bar in bars] == pooled.loc[reversed(shown), ["low", "high"]].to_numpy().tolist()
    assert len(offsets(axis)) == 5 * len(shown)  # pooled, its Spearman's, and three tasks
    np.testing.assert_allclose(
        np.sort(offsets(axis)[:, 0]),
        np.sort([*table.loc[table["measure"].isin(shown), "correlation"], *pooled.loc[shown, "spearman"]]),
    )


def test_a_line_parts_what_is_known_before_from_what_is_measured_along():
    table = teachers.correlations(taught().assign(kl_level=lambda t: t["gain"]), resamples=20, seed=0)
    axis = draw.predictors(table, teachers.BEFORE | teachers.ALONG).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == teachers.ALONG["kl_level"]
    (line,) = [line for line in axis.lines if list(line.get_ydata()) == [0.5, 0.5]]
    assert list(line.get_xdata()) == [0, 1]  # in shares of the axis


def test_variance_and_gain_shows_every_teacher_and_marks_policies():
    table = taught()
    both = pd.concat([table, table.assign(policy="large", gain=0.0)], ignore_index=True)
    figure = draw.variance_and_gain(both)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["t5", "large"]
    small, large = figure.axes[0].collections
    assert small.get_paths()[0].vertices.shape != large.get_paths()[0].vertices.shape
    assert (large.get_offsets()[:, 1] == 0).all()
    figure = draw.variance_and_gain(table)
    assert not figure.legends
    assert [axis.get_title("left") for axis in figure.axes[:3]] == ["Relevance", "Factuality", "Completeness"]
    shown = [(name, task) for name in ("probe_accuracy", "probe_variance") for task in TASKS]
    for axis, (name, task) in zip(figure.axes, shown, strict=True):
        np.testing.assert_allclose(offsets(axis), table.loc[table["task"] == task, [name, "gain"]])


def test_overoptimised_draws_means_and_fits():
    table = fitted_world()
    fits = overoptimisation.fits_by_third(table, resamples=50, seed=0)
    figure = draw.overoptimised(table, fits.head(1))
    top, bottom = figure.axes[0], figure.axes[3]
    assert (len(top.lines), len(bottom.lines)) == (6, 7)  # a proxy and a true reward a third; one fit
    x, y = bottom.lines[2].get_data()
    np.testing.assert_allclose(y, overoptimisation.gain(x, fits["alpha"][0], fits["beta"][0], "rl"))
    own = table[table["third"] == 0].groupby("update")["true"].mean()
    np.testing.assert_allclose(top.lines[1].get_ydata(), own)
    np.testing.assert_allclose(offsets(bottom)[0], [5.5, own.iloc[-1]])
    assert not figure.axes[1].lines
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == list(draw.THIRDS)
    empty = draw.overoptimised(overoptimisation.paths(*walked()).head(0), pd.DataFrame())
    assert not any(axis.lines for axis in empty.axes)
    both = draw.overoptimised(pd.concat([table, table.assign(policy="large", true=0.0)]), fits)
    assert len(both.axes) == 12
    assert [both.axes[i].get_title("left") for i in (0, 6)] == ["Relevance\nt5", "Relevance\nlarge"]
    assert (both.axes[6].lines[1].get_ydata() == 0).all()
    assert len(both.axes[9].lines) == 6  # no fit of this policy was handed over


def test_best_of_n_draws_performance_rewards_and_fits():
    made = nested(flat, rm_seeds=4, accuracies=(0.6, 0.7, 0.8), tasks=("relevance",))
    paths = overoptimisation.best_of_n_paths(made, chosen_of(made))
    fits = overoptimisation.fits_by_third(paths, "best-of-n", resamples=20, seed=0)
    figure = draw.best_of_n(paths, fits.head(1))
    top, bottom = figure.axes[0], figure.axes[3]
    expected = [paths[paths["third"] == third].groupby("n")["lm_performance"].mean().tolist() for third in range(3)]
    assert [list(line.get_ydata()) for line in top.lines] == expected
    assert len(bottom.lines) == 7  # a proxy and a true reward a third; one fit
    np.testing.assert_allclose(bottom.lines[1].get_ydata(), paths[paths["third"] == 0].groupby("n")["true"].mean())
    x, y = bottom.lines[2].get_data()
    np.testing.assert_allclose(y, overoptimisation.gain(x, fits["alpha"][0], fits["beta"][0], "best-of-n"))
    large = paths.assign(policy="large", lm_performance=0.0)
    both = draw.best_of_n(pd.concat([paths, large]), fits)
    assert (both.axes[6].lines[0].get_ydata() == 0).all()
    assert not any(axis.lines for axis in draw.best_of_n(paths.head(0), fits.head(0)).axes)
