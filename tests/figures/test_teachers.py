"""Figures of why some reward models teach better."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import overoptimisation, teachers
from paradox_utils.figures import teachers as draw
from tests.analysis.test_paths import chosen_of, fitted_world, walked
from tests.analysis.test_teachers import taught
from tests.worlds import TASKS, flat, nested, offsets


def test_predictors_show_every_measure_with_its_interval():
    table = teachers.correlations(taught(), resamples=50, seed=0)
    words = {name: teachers.BEFORE[name] for name in ("rm_accuracy", "rm_f1", "probe_variance", "probe_margin")}
    axis = draw.predictors(table, words).panels[0]
    shown = [name for name in words if name != "rm_f1"]  # constant: no correlation
    labels = [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()]
    assert labels == [words[name] for name in reversed(shown)]
    bars = axis.lines[1:]  # no line parts them: nothing was measured along the runs
    pooled = table[table["task"] == "all"].set_index("measure")
    assert [list(bar.get_xdata()) for bar in bars] == pooled.loc[reversed(shown), ["low", "high"]].to_numpy().tolist()
    assert len(offsets(axis)) == 4 * len(shown)  # pooled, and three tasks
    np.testing.assert_allclose(np.sort(offsets(axis)[:, 0]), np.sort(table.loc[table["measure"].isin(shown), "correlation"]))


def test_a_line_parts_what_is_known_before_from_what_is_measured_along():
    table = teachers.correlations(taught().assign(kl_level=lambda t: t["gain"]), resamples=20, seed=0)
    axis = draw.predictors(table, teachers.BEFORE | teachers.ALONG).panels[0]
    labels = [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()]
    assert labels[0] == teachers.ALONG["kl_level"]
    (line,) = [line for line in axis.lines if list(line.get_ydata()) == [0.5, 0.5]]
    assert list(line.get_xdata()) == [0, 1]  # in shares of the axis


@pytest.mark.heavy
def test_variance_and_gain_shows_every_teacher_and_marks_policies():
    table = taught()
    both = pd.concat([table, table.assign(policy="large", gain=0.0)], ignore_index=True)
    drawing = draw.variance_and_gain(both)
    assert [mark.get_label() for mark in drawing.legend] == ["t5", "large"]
    small, large = drawing.panels[0].collections
    assert small.get_paths()[0].vertices.shape != large.get_paths()[0].vertices.shape
    assert (large.get_offsets()[:, 1] == 0).all()
    drawing = draw.variance_and_gain(table)
    assert not drawing.legend
    assert [axis.get_title("left") for axis in drawing.panels[:3]] == ["Relevance", "Factuality", "Completeness"]
    shown = [(name, task) for name in ("probe_accuracy", "probe_variance") for task in TASKS]
    for axis, (name, task) in zip(drawing.panels, shown, strict=True):
        np.testing.assert_allclose(offsets(axis), table.loc[table["task"] == task, [name, "gain"]])


def test_overoptimised_draws_means_and_fits():
    table = fitted_world()
    fits = overoptimisation.fits_by_third(table, resamples=50, seed=0)
    by_update, by_distance = draw.overoptimised(table), draw.gained_by_distance(table, fits.head(1))
    first, second = by_update.panels[0], by_distance.panels[0]
    assert (len(first.lines), len(second.lines)) == (6, 7)  # a proxy and a true reward a third; one fit
    x, y = second.lines[2].get_data()
    np.testing.assert_allclose(y, overoptimisation.gain(x, fits["alpha"][0], fits["beta"][0], "rl"))
    own = table[table["third"] == 0].groupby("update")["true"].mean()
    np.testing.assert_allclose(first.lines[1].get_ydata(), own)
    np.testing.assert_allclose(offsets(second)[0], [5.5, own.iloc[-1]])
    assert len(by_update.panels) == 1  # of tasks without runs there is none
    assert [mark.get_label() for mark in by_update.legend][:3] == list(draw.THIRDS)
    empty = draw.overoptimised(overoptimisation.paths(*walked()).head(0))
    assert not any(axis.lines for axis in empty.panels)
    two = pd.concat([table, table.assign(policy="large", true=0.0)])
    both = draw.overoptimised(two).panels
    assert [axis.get_title("left") for axis in both] == ["Relevance\nt5", "Relevance\nlarge"]
    assert (both[1].lines[1].get_ydata() == 0).all()
    assert len(draw.gained_by_distance(two, fits).panels[1].lines) == 6  # no fit of this policy was handed over


def test_best_of_n_draws_performance_rewards_and_fits():
    made = nested(flat, rm_seeds=4, accuracies=(0.6, 0.7, 0.8), tasks=("relevance",))
    paths = overoptimisation.best_of_n_paths(made, chosen_of(made))
    fits = overoptimisation.fits_by_third(paths, "best-of-n", resamples=20, seed=0)
    scores, rewards = draw.best_of_n(paths).panels[0], draw.best_of_n_rewards(paths, fits.head(1)).panels[0]
    expected = [paths[paths["third"] == third].groupby("n")["lm_performance"].mean().tolist() for third in range(3)]
    assert [list(line.get_ydata()) for line in scores.lines] == expected
    assert len(rewards.lines) == 7  # a proxy and a true reward a third; one fit
    np.testing.assert_allclose(rewards.lines[1].get_ydata(), paths[paths["third"] == 0].groupby("n")["true"].mean())
    x, y = rewards.lines[2].get_data()
    np.testing.assert_allclose(y, overoptimisation.gain(x, fits["alpha"][0], fits["beta"][0], "best-of-n"))
    large = paths.assign(policy="large", lm_performance=0.0)
    both = draw.best_of_n(pd.concat([paths, large])).panels
    assert (both[1].lines[0].get_ydata() == 0).all()
    assert not any(axis.lines for axis in draw.best_of_n(paths.head(0)).panels)
