"""What goes with a good teacher, and where the true reward leaves the proxy: by hand, and in worlds whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from worlds import best_of_n_of, curves_of, flat, lost, nested, offsets, probed, rising, run_page, study, world

from paradox_utils import analysis, overoptimisation, why
from paradox_utils.data.records import TASKS
from paradox_utils.plots import why as draw

# --- measures ---


def test_along_by_hand():
    agreement = [0.9, 0.8, 0.7, 0.5]
    tiny = pd.DataFrame(
        {"id": "a", "reward_mean": [1.0, 2, 3, 6], "reward_variance": [0.1, 0.3, 0.2, 0.2], "kl": [0.0, 1, 2, 1]}
    )
    long = pd.DataFrame({"id": "b", "reward_mean": 1.0, "reward_variance": 0.0, "kl": 0.0, "rm_agreement": np.arange(20.0)})
    found = why.along(pd.concat([tiny.assign(rm_agreement=agreement), long]))
    assert list(found) == list(why.ALONG)
    assert found.loc["a"].tolist() == pytest.approx([3, 14 / 3, 0.2, 1, 0.5, 0.4])  # squares from 3: 4 + 1 + 0 + 9
    assert found.loc["b", ["agreement_end", "agreement_lost"]].tolist() == [18.5, 0.5 - 18.5]  # a tenth: two updates
    older = why.along(tiny)
    assert older.loc["a", "reward_level"] == 3
    assert older.loc["a", ["agreement_end", "agreement_lost"]].isna().all()
    assert why.along(tiny.head(0)).empty


def test_standardised_by_hand():
    table = pd.DataFrame(
        {"group": list("aaabbb"), "x": [1.0, 2, 3, 100, 100, 400], "same": [7.0] * 6, "part": [1, 3, np.nan] * 2}
    )
    found = why.standardised(table, ["x", "same", "part"])
    assert found["x"].tolist() == pytest.approx([-1, 0, 1, -1 / np.sqrt(3), -1 / np.sqrt(3), 2 / np.sqrt(3)])
    assert (found["same"] == 0).all()
    assert found["part"].tolist()[:2] == pytest.approx([-1 / np.sqrt(2), 1 / np.sqrt(2)])
    assert np.isnan(found["part"][2])
    means, deviations = (found["x"].groupby(table["group"]).agg(how) for how in ("mean", "std"))
    assert means.tolist() == pytest.approx([0, 0])
    assert deviations.tolist() == pytest.approx([1, 1])


def test_what_was_not_measured_stays_so_beside_constants():
    found = why.standardised(pd.DataFrame({"group": ["a"] * 3, "x": [1.0, 1.0, np.nan]}), ["x"])
    assert np.isnan(found["x"][2])


def test_teachers_average_runs_of_a_reward_model_and_keep_policies_apart():
    made = world(flat, rm_seeds=2, ppo_seeds=2, accuracies=(0.6, 0.9), tasks=("relevance",))
    made["lm_performance_final"] = [0.6, 0.8, 0.5, np.nan, 0.9, 0.9, 0.4, 0.6]
    made.loc[5, "status"] = "failed"  # its number does not count
    other = made.assign(policy="large", id="l" + made["id"], lm_performance_final=1.0, status="ok")
    dials = made.assign(arm="dial", id="d" + made["id"])
    again = made.assign(arm="label-noise").head(1)  # the same run, asked for by a second arm
    route = made.assign(arm="label-noise", id="n" + made["id"])
    summary = pd.concat([made, other, dials, again])
    curves = pd.DataFrame({"id": made["id"], "reward_mean": [1.0, 3, 5, 0, 7, 0, 0, 0], "reward_variance": 0.0, "kl": 0.0})
    found = why.teachers(summary, curves)
    assert found["policy"].value_counts().to_dict() == {"atlas-t5": 4, "large": 4}
    assert set(found["arm"]) == {"steps"}
    small = found[found["policy"] == "atlas-t5"]
    assert small["gain"].tolist() == pytest.approx([0.2, 0.0, 0.4, 0.0])  # start: 0.5
    assert small["reward_level"].tolist() == pytest.approx([2, 5, 7, 0])
    assert found.loc[found["policy"] == "large", "reward_level"].isna().all()  # no curves
    assert found["group"].unique().tolist() == ["relevance, atlas-t5", "relevance, large"]
    assert found.groupby("cluster")["group"].nunique().tolist() == [2, 2]  # both policies met the same trajectories
    assert set(why.teachers(summary, curves, ("dial",))["arm"]) == {"dial"}
    routes = why.teachers(pd.concat([summary, route]), curves)
    assert routes["arm"].value_counts().to_dict() == {"steps": 8, "label-noise": 4}
    assert routes["cluster"].nunique() == 2  # one seed of reward models is one trajectory, whatever its route
    noisy = why.teachers(made.assign(rm_accuracy=np.nan), curves)
    assert noisy["accuracy"].notna().all()


# --- correlations ---

SCALES = {"relevance": 1.0, "factuality": 1000.0, "completeness": 0.001}


def taught(seed=0, trajectories=8):
    """Reward models of three tasks on very different scales: ``probe_variance`` drives the gain, ``probe_margin`` opposes it,
    ``rm_accuracy`` is noise, ``rm_f1`` does not vary."""
    random, parts = np.random.default_rng(seed), []
    for task, scale in SCALES.items():
        gain = random.normal(0, 1, trajectories * 4)
        part = {"task": task, "group": f"{task}, t5", "cluster": np.repeat([f"{task} {n}" for n in range(trajectories)], 4)}
        part |= {"gain": 3 + gain * scale, "probe_variance": 5 / scale + gain / scale, "probe_margin": -gain * scale - 100}
        part |= {"rm_accuracy": random.normal(0.8, 0.1, gain.size), "rm_f1": 0.5}
        part |= {"probe_accuracy": random.normal(0.8, 0.1, gain.size) + gain * 0.05}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def test_correlations_find_what_drives_the_gain_and_not_what_does_not():
    table = taught()
    assert abs(why.pearson(table["probe_variance"], table["gain"])) < 0.3  # what scales alone would say
    found = why.correlations(table, resamples=200).set_index(["task", "measure"])
    assert found.index.get_level_values("task").unique().tolist() == ["all", *TASKS]
    assert "rm_f1" not in found.index.get_level_values("measure")
    for task in ("all", *TASKS):
        drives, opposes = found.loc[(task, "probe_variance")], found.loc[(task, "probe_margin")]
        assert (drives["correlation"], drives["high"]) == (pytest.approx(1), pytest.approx(1))
        assert drives["low"] > 0.99
        assert opposes["high"] < -0.99
    noise = found.loc[("all", "rm_accuracy")]
    assert noise["low"] < 0 < noise["high"]
    assert noise["reward models"] == len(table)
    own = table[table["task"] == "factuality"]
    assert found.loc[("factuality", "rm_accuracy"), "correlation"] == pytest.approx(
        why.pearson(own["rm_accuracy"], own["gain"])
    )


def test_a_second_policy_is_no_second_trajectory():
    table = taught()[["task", "group", "cluster", "gain", "rm_accuracy"]]
    twice = pd.concat([table, table.assign(group=table["group"] + " large")], ignore_index=True)
    one, two = (why.correlations(t, resamples=100).iloc[0] for t in (table, twice))
    assert two[["correlation", "low", "high"]].tolist() == pytest.approx(one[["correlation", "low", "high"]].tolist())
    alone = why.correlations(twice.assign(cluster=range(len(twice))), resamples=100).iloc[0]
    assert alone["high"] - alone["low"] < 0.9 * (two["high"] - two["low"])


def test_too_little_for_a_correlation_is_left_out():
    assert why.correlations(taught().head(3)).empty
    assert why.correlations(taught().assign(rm_accuracy=np.nan)).query("measure == 'rm_accuracy'").empty


def test_pearson_by_hand():
    assert why.pearson(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)
    assert np.isnan(why.pearson(np.ones(3), np.arange(3.0)))


def test_against_razin_has_the_signs_of_a_made_world():
    table = taught()
    table["rm_accuracy"] = -table["gain"] / table["task"].map(SCALES) + table["rm_accuracy"]
    table["probe_variance_raw"] = table["probe_margin"]
    unmeasured = table.head(4).assign(gain=1e9, probe_variance=np.nan)  # must not count
    found = why.against_razin(pd.concat([table, unmeasured], ignore_index=True))
    assert found["Razin et al. 2025"].dropna().to_dict() == why.RAZIN
    here = found["here"]
    assert found.loc["reward variance", "raw"] == pytest.approx(-1)
    assert found.loc["accuracy on-policy", "raw"] == here["accuracy on-policy"]
    assert here["reward variance"] == pytest.approx(1)
    assert here["accuracy off-policy"] < -0.9
    assert 0.2 < here["accuracy on-policy"] < 0.8
    assert here["regression"] == pytest.approx(1)
    own = table[table["task"] == "relevance"]
    both = own["probe_variance"] + (own["probe_accuracy"] + own["rm_accuracy"]) / 2
    found = why.against_razin(own)["here"]
    assert found["variance and accuracy"] == pytest.approx(why.pearson(both, own["gain"]))


# --- over-optimisation ---


def walked():
    """Three reward models of one trajectory, steps out of the order of accuracy, and their curves of 5 updates."""
    made = nested(flat, rm_seeds=1, accuracies=(0.8, 0.6, 0.7), tasks=("relevance",))
    parts = [
        pd.DataFrame(
            {
                "id": run,
                "update": range(5),
                "kl": [0.0, 1, 2, 3, 14],
                "reward_mean": np.array([1.0, 2, 3, 4, 10]) + shift,
                "true_reward_mean": np.arange(5.0) + shift,
            }
        )
        for run, shift in zip(made["id"], (0, 100, -50), strict=True)
    ]
    return made, pd.concat(parts, ignore_index=True)


def test_paths_by_hand():
    made, curves = walked()
    other = made.assign(arm="dial", id="x" + made["id"])
    found = why.paths(pd.concat([made, other]), pd.concat([curves, curves.assign(id="x" + curves["id"])]))
    assert found.groupby("id")["third"].first().tolist() == [2, 0, 1]  # by accuracy
    true = np.array([0, 1.5, 2, 2.5, 3])  # means of 5 updates, fewer at the ends; the start is exact
    scale = np.std(np.tile(true, 3), ddof=1)
    assert len(found) == 15
    for _, own in found.groupby("id"):
        assert own["update"].tolist() == list(range(5))
        assert own["true"].tolist() == pytest.approx(list(true / scale))
        assert own["proxy"].tolist() == pytest.approx(list(np.array([0, 1.5, 3, 19 / 4 - 1, 17 / 3 - 1]) / scale))
        assert own["distance"].tolist() == pytest.approx(list(np.sqrt([0, 1.5, 4, 5, 19 / 3])))


def test_paths_leave_out_what_did_not_finish():
    made, curves = walked()
    made.loc[0, "status"] = "failed"
    assert why.paths(made, curves)["id"].unique().tolist() == made["id"].tolist()[1:]


def test_a_reward_model_is_in_one_third():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.7, 0.8, 0.9), tasks=("relevance",))
    found = why.paths(made, curves_of(made)).merge(made[["id", "rm_step"]], on="id")
    assert (found.groupby("rm_step")["third"].nunique() == 1).all()


def test_older_curves_give_empty_tables(tmp_path):
    made, curves = walked()
    found = why.paths(made, curves.drop(columns="true_reward_mean"))
    assert found.empty
    assert {"third", "distance", "proxy", "true"} <= set(found)
    assert why.fits(found).empty
    none = analysis.load_curves(tmp_path)
    assert why.paths(made, none).empty
    assert why.teachers(made, none)["reward_level"].isna().all()


def fitted_world(alpha=0.2, beta=0.1):  # peaks at e
    random, rows = np.random.default_rng(3), []
    for third in range(3):
        for cluster in range(4):
            d = np.append(np.linspace(0, 4, 30), 3.5)  # the last update comes back a little
            true = overoptimisation.gain(d, alpha + random.normal(0, 0.005), beta, "rl")
            part = {"task": "relevance", "third": third, "cluster": f"relevance {cluster}", "distance": d}
            rows.append(pd.DataFrame(part | {"update": range(d.size), "true": true, "proxy": d}))
    return pd.concat(rows, ignore_index=True)


def test_fits_recover_a_made_curve():
    table = fitted_world()
    found = why.fits(table, resamples=100)
    assert found["third"].tolist() == [1, 2, 3]
    assert found["alpha"].tolist() == pytest.approx([0.2] * 3, abs=0.01)
    assert found["beta"].tolist() == pytest.approx([0.1] * 3, abs=0.005)
    assert found["peak"].tolist() == pytest.approx([np.e] * 3, rel=0.06)
    assert (found["peak low"] < np.e).all()
    assert (found["peak high"] > np.e).all()
    assert (found["inside"] & (found["beta low"] > 0)).all()
    assert found["highest"].tolist() == pytest.approx([0.1 * np.e] * 3, abs=0.02)
    assert found["farthest"].tolist() == [4] * 3
    assert found["end distance"].tolist() == [3.5] * 3
    first = table[table["third"] == 0]
    assert found["end"][0] == pytest.approx(first.loc[first["update"] == 30, "true"].mean())
    beyond = why.fits(fitted_world(alpha=0.35), resamples=100)  # peaks at exp(2.5) = 12
    assert not beyond["inside"].any()


def test_a_single_trajectory_is_fitted_without_an_interval():
    table = fitted_world()
    table = table[(table["third"] > 0) | (table["cluster"] == "relevance 0")]
    assert len(why.fits(table, resamples=50)) == 3


# --- best of n ---


def test_best_of_n_paths_by_hand():
    made, _ = walked()
    found = why.best_of_n_paths(pd.concat([made, made.assign(arm="dial", id="x")]), best_of_n_of(made))
    assert found.groupby("id")["third"].first().tolist() == [2, 0, 1]
    assert found["n"].tolist() == [1, 2, 4] * 3
    assert found["distance"].tolist()[:3] == pytest.approx([0, np.sqrt(np.log(2) - 0.5), np.sqrt(np.log(4) - 0.75)])
    failed = why.best_of_n_paths(made.assign(status=["ok", "failed", "ok"]), best_of_n_of(made))
    assert failed["id"].unique().tolist() == [made["id"][0], made["id"][2]]


def test_without_best_of_n_there_is_an_empty_table(tmp_path):
    assert why.best_of_n_paths(walked()[0], analysis.load_best_of_n(tmp_path)).empty


# --- figures ---


def test_predictors_show_every_measure_with_its_interval():
    table = why.correlations(taught(), resamples=50)
    words = {name: why.BEFORE[name] for name in ("rm_accuracy", "rm_f1", "probe_variance", "probe_margin")}
    axis = draw.predictors(table, words).axes[0]
    shown = [name for name in words if name != "rm_f1"]  # constant: no correlation
    assert [label.get_text() for label in axis.get_yticklabels()] == [words[name] for name in reversed(shown)]
    bars = axis.lines[1:]
    pooled = table[table["task"] == "all"].set_index("measure")
    assert [list(bar.get_xdata()) for bar in bars] == pooled.loc[reversed(shown), ["low", "high"]].to_numpy().tolist()
    assert len(offsets(axis)) == 4 * len(shown)
    np.testing.assert_allclose(np.sort(offsets(axis)[:, 0]), np.sort(table.loc[table["measure"].isin(shown), "correlation"]))


def test_variance_and_gain_shows_every_teacher():
    figure = draw.variance_and_gain(table := taught())
    assert [axis.get_title("left") for axis in figure.axes[:3]] == ["Relevance", "Factuality", "Completeness"]
    for axis, (name, task) in zip(
        figure.axes, [(n, t) for n in ("probe_accuracy", "probe_variance") for t in TASKS], strict=True
    ):
        np.testing.assert_allclose(offsets(axis), table.loc[table["task"] == task, [name, "gain"]])


def test_overoptimised_draws_means_and_fits():
    table = fitted_world()
    fits = why.fits(table, resamples=50)
    figure = draw.overoptimised(table, fits.head(1))
    top, bottom = figure.axes[0], figure.axes[3]
    assert (len(top.lines), len(bottom.lines)) == (6, 7)  # a proxy and a true reward a third; one fit
    x, y = bottom.lines[2].get_data()
    np.testing.assert_allclose(y, overoptimisation.gain(x, fits["alpha"][0], fits["beta"][0], "rl"))
    own = table[table["third"] == 0].groupby("update")["true"].mean()
    np.testing.assert_allclose(top.lines[1].get_ydata(), own)
    np.testing.assert_allclose(offsets(bottom)[0], [3.5, own.iloc[-1]])
    assert not figure.axes[1].lines
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == list(draw.THIRDS)
    empty = draw.overoptimised(why.paths(*walked()).head(0), pd.DataFrame())
    assert not any(axis.lines for axis in empty.axes)


def test_best_of_n_draws_a_line_a_third():
    made, _ = walked()
    paths = why.best_of_n_paths(made, best_of_n_of(made))
    lines = draw.best_of_n(paths).axes[0].lines
    expected = [paths.loc[paths["third"] == third, "lm_performance"].tolist() for third in range(3)]
    assert [list(line.get_ydata()) for line in lines] == expected


# --- the page ---

FIVE = (0.60, 0.70, 0.78, 0.86, 0.94)


def small(**options):
    return probed(nested(rising, **({"rm_seeds": 3, "accuracies": FIVE} | options)))


def test_the_page_runs_and_finds_what_was_made(tmp_path):
    made = small()
    names = run_page("07", study(made, tmp_path), tmp_path / "out")
    assert len(names["teachers"]) == 45
    assert "F1 of the error class" not in names["found"]  # it does not vary
    assert f"{why.BEFORE['rm_accuracy']} (+" in names["found"]
    assert "goes with the gain at +1.00 here, -0.51 there" in names["compared"]
    assert f"In {len(names['past'])} of 9 groups of runs" in names["over"]
    assert (tmp_path / "out" / "result.json").is_file()


def test_the_page_runs_where_runs_failed_and_a_task_has_not_started(tmp_path):
    made = lost(small(), [1], "failed")
    made = lost(made, [7, *made.index[made["task"] == "completeness"]])
    names = run_page("07", study(made, tmp_path))
    assert len(names["teachers"]) == 28
    assert "28 of 45 PPO runs finished; 1 failed, 16 not started" in analysis.run_counts(names["summary"])
    assert set(names["fitted"]["task"]) == {"relevance", "factuality"}


def change(folder, table, how):
    how(pd.read_csv(folder / f"{table}.csv", dtype={"id": str})).to_csv(folder / f"{table}.csv", index=False)


FAULTS = {
    "nothing": lambda folder: None,
    "no curves": lambda folder: (folder / "curves.csv").unlink(),
    "no true rewards": lambda folder: change(folder, "curves", lambda t: t.drop(columns=["true_reward_mean", "rm_agreement"])),
    "no best of n": lambda folder: (folder / "best_of_n.csv").unlink(),
    "no probes": lambda folder: change(folder, "summary", lambda t: t.filter(regex="^(?!probe_)")),
    "none trained": lambda folder: change(folder, "summary", lambda t: t.assign(arm="dial")),
    "one trajectory": lambda folder: change(folder, "summary", lambda t: t[t["rm_seed"] == 0]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_page_runs_on_what_there_is(fault, tmp_path):
    FAULTS[fault](study(small(tasks=TASKS[:1]), tmp_path))
    run_page("07", tmp_path)
