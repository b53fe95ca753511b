"""Where rewards lead along a run and along best-of-n, and the forms fitted to it."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import overoptimisation, tables, teachers
from tests.worlds import best_of_n_of, curves_of, flat, nested, world

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
    found = overoptimisation.paths(pd.concat([made, other]), pd.concat([curves, curves.assign(id="x" + curves["id"])]))
    assert found.groupby("id")["third"].first().tolist() == [2, 0, 1]  # by accuracy
    true = np.array([0, 1.5, 2, 2.5, 3])  # means of 5 updates, fewer at the ends; the start is exact
    scale = np.std(np.tile(true, 3), ddof=1)  # of the task and policy
    assert len(found) == 15
    for _, own in found.groupby("id"):
        assert own["update"].tolist() == list(range(5))
        assert own["true"].tolist() == pytest.approx(list(true / scale))
        assert own["proxy"].tolist() == pytest.approx(list(np.array([0, 1.5, 3, 19 / 4 - 1, 17 / 3 - 1]) / scale))
        assert own["distance"].tolist() == pytest.approx(list(np.sqrt([0, 1.5, 4, 5, 19 / 3])))


def test_paths_leave_out_what_did_not_finish():
    made, curves = walked()
    made.loc[0, "status"] = "failed"
    assert overoptimisation.paths(made, curves)["id"].unique().tolist() == made["id"].tolist()[1:]


def test_a_reward_model_is_in_one_third():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.7, 0.8, 0.9), tasks=("relevance",))
    found = overoptimisation.paths(made, curves_of(made)).merge(made[["id", "rm_step"]], on="id")
    assert (found.groupby("rm_step")["third"].nunique() == 1).all()


def test_older_curves_give_empty_tables(tmp_path):
    made, curves = walked()
    found = overoptimisation.paths(made, curves.drop(columns="true_reward_mean"))
    assert found.empty
    assert {"third", "distance", "proxy", "true"} <= set(found)
    assert overoptimisation.fits_by_third(found, resamples=50).empty
    none = tables.load_curves(tmp_path)
    assert overoptimisation.paths(made, none).empty
    assert teachers.teacher_table(made, none)["reward_level"].isna().all()


def fitted_world(alpha=0.2, beta=0.1):  # peaks at e
    random, rows = np.random.default_rng(3), []
    for third in range(3):
        for cluster in range(4):
            d = np.append(np.linspace(0, 6, 30), 5.5)  # the last update comes back a little
            true = overoptimisation.gain(d, alpha + random.normal(0, 0.005), beta, "rl")
            part = {"task": "relevance", "policy": "t5", "third": third, "cluster": f"relevance {cluster}", "distance": d}
            rows.append(pd.DataFrame(part | {"update": range(d.size), "true": true, "proxy": d}))
    return pd.concat(rows, ignore_index=True)


def test_fits_recover_a_made_curve():
    table = fitted_world()
    found = overoptimisation.fits_by_third(table, resamples=100)
    assert found["third"].tolist() == [1, 2, 3]
    assert found["alpha"].tolist() == pytest.approx([0.2] * 3, abs=0.01)
    assert found["beta"].tolist() == pytest.approx([0.1] * 3, abs=0.005)
    assert found["peak"].tolist() == pytest.approx([np.e] * 3, rel=0.06)
    assert (found["peak low"] < np.e).all()
    assert (found["peak high"] > np.e).all()
    assert (found["beta low"] > 0).all()
    assert found["located"].all()
    assert found["nearest"].tolist() == pytest.approx([6 / 29] * 3)
    assert found["highest"].tolist() == pytest.approx([0.1 * np.e] * 3, abs=0.02)
    assert found["farthest"].tolist() == [6] * 3
    assert found["end distance"].tolist() == [5.5] * 3
    first = table[table["third"] == 0]
    assert found["end"][0] == pytest.approx(first.loc[first["update"] == 30, "true"].mean())
    beyond = overoptimisation.fits_by_third(fitted_world(alpha=0.35), resamples=100)  # peaks at exp(2.5) = 12
    assert not beyond["located"].any()
    counted = overoptimisation.turned(pd.concat([found, beyond]))
    assert (counted["groups"], counted["peak located"]) == (6, 3)
    assert counted["end ÷ farthest √KL"] == pytest.approx(5.5 / 6)


def test_a_peak_is_located_only_with_a_fall_and_within_the_mean_run_s_distances():
    table = fitted_world()
    far = table["cluster"] == "relevance 0"
    single = table.assign(distance=table["distance"].where(~far | (table["update"] != 29), 20.0))
    assert overoptimisation.fits_by_third(single, resamples=100)["farthest"].tolist() == [9.5] * 3  # not 20: it is one of four
    early = table[table["update"] < 12]  # ends before the peak
    assert not overoptimisation.fits_by_third(early, resamples=100)[["inside", "located"]].any(axis=None)
    late = table[(table["update"] == 0) | (table["update"] >= 24)]  # nothing is known between the start and 5
    found = overoptimisation.fits_by_third(late, resamples=100)
    assert (found["beta low"] > 0).all()
    assert not found[["inside", "located"]].any(axis=None)
    risen = table.assign(true=table["true"].where(table["update"] < 30, 1.0))  # the last update is the highest
    assert overoptimisation.fits_by_third(risen, resamples=100)["fall"].tolist() == [0] * 3
    assert not overoptimisation.fits_by_third(risen, resamples=100)["located"].any()


def test_a_fall_is_what_a_trajectory_loses_from_where_the_others_are_highest():
    path = pd.DataFrame({0: [0.0, 0, 0], 1: [3.0, 2, 5], 2: [4.0, 0, 1], 3: [1.0, 1, 2]}, index=list("abc"))
    found = overoptimisation._fall(path)  # the others of each are highest at 1, though a is so at 2
    assert (found.estimate, found.units) == (pytest.approx(((3 - 1) + (2 - 1) + (5 - 2)) / 3), 3)
    assert np.isnan(overoptimisation._fall(path.head(1)).low)
    assert overoptimisation._fall(path.assign(**{"4": np.nan})).estimate == found.estimate  # where not all of them were


def test_policies_are_fitted_apart():
    small, large = fitted_world(), fitted_world(alpha=0.1).assign(policy="large")  # peaks at e and 1
    found = overoptimisation.fits_by_third(pd.concat([small, large], ignore_index=True), resamples=50).set_index("policy")
    assert found.loc["t5", "peak"].tolist() == pytest.approx([np.e] * 3, rel=0.06)
    assert found.loc["large", "peak"].tolist() == pytest.approx([1] * 3, rel=0.06)
    made, curves = walked()
    alone = overoptimisation.paths(made, curves)
    both = overoptimisation.paths(
        pd.concat([made, made.assign(policy="large", id="l" + made["id"])]),
        pd.concat([curves, curves.assign(id="l" + curves["id"], true_reward_mean=curves["true_reward_mean"] * 100)]),
    )
    assert both.loc[both["policy"] == "atlas-t5", "true"].tolist() == pytest.approx(alone["true"].tolist())


def test_a_single_trajectory_is_fitted_without_an_interval():
    table = fitted_world()
    table = table[(table["third"] > 0) | (table["cluster"] == "relevance 0")]
    found = overoptimisation.fits_by_third(table, resamples=50)
    assert len(found) == 3
    assert found["located"].tolist() == [False, True, True]
    assert found[["beta low", "peak high", "fall low"]].isna().all(axis=1).tolist() == [True, False, False]


# --- best of n ---


def test_best_of_n_paths_by_hand():
    made, _ = walked()
    found = overoptimisation.best_of_n_paths(pd.concat([made, made.assign(arm="dial", id="x")]), best_of_n_of(made))
    assert found.groupby("id")["third"].first().tolist() == [2, 0, 1]
    assert found["n"].tolist() == [1, 2, 4] * 3
    assert found["distance"].tolist()[:3] == pytest.approx([0, np.sqrt(np.log(2) - 0.5), np.sqrt(np.log(4) - 0.75)])
    failed = overoptimisation.best_of_n_paths(made.assign(status=["ok", "failed", "ok"]), best_of_n_of(made))
    assert failed["id"].unique().tolist() == [made["id"][0], made["id"][2]]


def chosen_of(made, alpha=0.3, beta=0.1):
    """Best-of-n whose true return is a curve of Gao et al., a little different for each run, and whose reward is a line."""
    random, table = np.random.default_rng(2), pd.concat([best_of_n_of(made).assign(n=2.0**k) for k in range(8)])
    table = table.drop_duplicates(["id", "n"]).assign(kl=lambda t: np.log(t["n"]) - (t["n"] - 1) / t["n"])
    own = table["id"].map({run: alpha + random.normal(0, 0.005) for run in made["id"]})
    d = np.sqrt(table["kl"])
    return table.assign(reward=5 + d, true_return=-1 + overoptimisation.gain(d, own, beta, "best-of-n"))


def test_best_of_n_is_fitted_with_its_own_form():
    made = nested(flat, rm_seeds=4, accuracies=(0.6, 0.7, 0.8), tasks=("relevance",))
    paths = overoptimisation.best_of_n_paths(made, chosen_of(made))
    first = paths["n"] == 1
    assert (paths.loc[first, ["proxy", "true"]] == 0).all(axis=None)
    np.testing.assert_allclose(paths["proxy"], paths["distance"], atol=1e-12)
    found = overoptimisation.fits_by_third(paths, "best-of-n", resamples=100)
    assert found[["task", "policy", "third"]].to_numpy().tolist() == [["relevance", "atlas-t5", n] for n in (1, 2, 3)]
    assert found["beta"].tolist() == pytest.approx([0.1] * 3, abs=0.005)
    assert found["peak"].tolist() == pytest.approx([1.5] * 3, rel=0.05)  # α / 2β
    assert found["farthest"].tolist() == pytest.approx([np.sqrt(np.log(128) - 127 / 128)] * 3)
    assert found["located"].all()
    own = overoptimisation.fits_by_third(paths, "best-of-n", "proxy", resamples=100)
    assert own["alpha"].tolist() == pytest.approx([1] * 3)
    assert own["beta"].tolist() == pytest.approx([0] * 3, abs=1e-9)
    assert not own["located"].any()
    assert overoptimisation.fits_by_third(
        paths[paths["n"] <= 2], "best-of-n", resamples=9
    ).empty  # one distance tells no α from β
    older = overoptimisation.best_of_n_paths(made, best_of_n_of(made))  # without rewards
    assert overoptimisation.fits_by_third(older, "best-of-n", resamples=9).empty


def test_without_best_of_n_there_is_an_empty_table(tmp_path):
    assert overoptimisation.best_of_n_paths(walked()[0], tables.load_best_of_n(tmp_path)).empty
