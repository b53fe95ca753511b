"""Signs of a hacked run: by hand, and on made runs."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import signs

CELL = ["task"]


def made(trainings=8, updates=12):
    """Runs of even and odd trainings, half of each hacked: those grow long from update 4 on and lose what they gained."""
    runs = pd.DataFrame({"id": [f"r{n:02d}" for n in range(trainings)], "task": "relevance", "rm_seed": range(trainings)})
    runs["hacked"] = pd.array([n % 4 < 2 for n in range(trainings)], dtype="boolean")
    curves = []
    for run, hacked in zip(runs["id"], runs["hacked"], strict=True):
        update = np.arange(updates)
        long = 20 + (np.clip(update - 3, 0, None) * 10.0 if hacked else update % 2)
        true = np.where((update > 5) & hacked, 1 - 0.5 * (update - 5), np.minimum(update / 5, 1))
        curve = {
            "id": run,
            "update": update,
            "length": long,
            "reward_mean": update + 1.0,
            "segments": 2.0,
            "disagreement": np.nan,
        }
        curves.append(pd.DataFrame(curve | {"true_reward_mean": true}))
    return runs, pd.concat(curves)


def test_changes_are_since_the_start_over_the_last_updates():
    _, curves = made()
    moved = signs.changes(curves)
    assert "disagreement" not in moved  # no second reward model looked on
    one = moved[moved["id"] == "r00"].set_index("update")
    assert one.loc[5, "length"] == pytest.approx((0 + 0 + 0 + 10 + 20) / 5)  # updates 1 to 5
    assert one.loc[1, "reward_per_segment"] == pytest.approx((0 + 0.5) / 2)
    assert one.loc[0, "true"] == 0


def test_auc_by_hand():
    values, positive = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])
    assert signs.auc(values, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert np.isnan(signs.auc(values, np.zeros(4, bool)))


def test_when_a_sign_begins_to_tell():
    runs, curves = made()
    found = signs.early(runs, signs.changes(curves), CELL)
    assert found.loc[0, "length"] == 0.5
    assert found.loc[8, "length"] == 1.0
    assert (found["reward_mean"] == 0.5).all()  # all are paid alike


def test_pairs_are_within_a_cell():
    runs, curves = made()
    others = runs.assign(task="factuality", id="x" + runs["id"], hacked=~runs["hacked"])
    both = pd.concat([runs, others])
    curves = pd.concat([curves, curves.assign(id="x" + curves["id"])])
    # in the second cell the same lengths are those of runs that are not hacked
    assert signs.early(both, signs.changes(curves), CELL).loc[11, "length"] == pytest.approx(0.5)


def test_signs_are_compared_as_far_as_every_cell_goes():
    runs, curves = made()
    longer = runs.assign(task="factuality", id="x" + runs["id"], hacked=~runs["hacked"])
    more = curves.assign(id="x" + curves["id"])
    more = pd.concat([more, more.assign(update=more["update"] + 12)])
    found = signs.early(pd.concat([runs, longer]), signs.changes(pd.concat([curves, more])), CELL)
    assert found.index.max() == curves["update"].max()
    alone = signs.early(pd.concat([runs, longer.assign(hacked=False)]), signs.changes(pd.concat([curves, more])), CELL)
    assert alone.loc[11, "length"] == 1.0  # a cell in which all end alike is no pair


def test_what_tells_at_the_end_and_a_quarter_of_the_way():
    early = pd.DataFrame({"length": [0.5, 0.6, 0.8, 0.9], "kl": [0.5, 0.3, 0.5, 0.3]}, index=[0, 1, 2, 4])
    assert signs.telling(early) == (["length"], 0.9, "kl", 0.3, 1)
    early["entropy"] = [0.5, 0.5, 0.5, 0.105]  # 0.395 from a half in place of 0.4
    assert signs.telling(early).alike == ["length", "entropy"]
    assert signs.telling(early.assign(entropy=0.12)).alike == ["length"]
    assert signs.telling(early[["length"]].rename(columns={"length": "disagreement"})) is None
    assert signs.telling(early.head(0)) is None


def test_stopping_by_hand():
    paths, true = np.array([[0.0, 2.0, 5.0], [0.0, 1.0, 1.0]]), np.array([[0.0, 3.0, -1.0], [0.0, 1.0, 2.0]])
    assert signs.stopped(paths, true, 1.5).tolist() == [3.0, 2.0]
    assert signs.stopped(paths, true, np.inf).tolist() == [-1.0, 2.0]
    assert 1.0 <= signs.best_threshold(paths, true) < 2.0
    assert signs.best_threshold(paths[1:], true[1:]) == np.inf  # never, where stopping only costs


def test_a_stop_rule_saves_what_hacked_runs_lose_and_spares_the_others():
    runs, curves = made()
    found = signs.saved(runs, signs.changes(curves), CELL).loc["length"]
    assert (found["hacked"], found["other"]) == (1.0, 0.0)
    assert found["low"] <= found["gain"] <= found["high"]
    assert found["gain"] > 0.5
    nothing = signs.saved(runs.assign(hacked=pd.NA), signs.changes(curves), CELL)
    assert nothing["gain"].isna().all()


def short(task="relevance", hacked=(True, True, False, False, True, False)):
    """Three updates a run, trainings 0, 2, 4 and so on. Hacked ones grow by 10 at once, and their return goes 0, 3, −3; the
    others never grow, and go 0, 0, 0.6. Averaged so far: 0, 5, 6.7 and 0, 1.5, 0; 0, 0, 0.2 for the others."""
    runs = pd.DataFrame({"id": [f"{task}{n}" for n in range(len(hacked))], "task": task})
    runs = runs.assign(rm_seed=2 * runs.index, hacked=pd.array(hacked, dtype="boolean"))
    curves = [
        pd.DataFrame({"id": run, "update": range(3), "length": [0, 10 * bad, 10 * bad], "true_reward_mean": true})
        for run, bad in zip(runs["id"], hacked, strict=True)
        for true in [[0, 3, -3] if bad else [0, 0, 0.6]]
    ]
    return runs, pd.concat(curves).astype({"true_reward_mean": float})


def test_a_stop_rule_by_hand():
    """Stopped at the second update a hacked run has 1.5 in place of 0: 5 segments of 0.3."""
    runs, curves = short()
    found = signs.saved(runs, signs.changes(curves), CELL).loc["length"]
    assert found[["on hacked", "on other", "hacked", "other"]].tolist() == [pytest.approx(5), 0, 1, 0]
    assert found["gain"] == pytest.approx(2.5)
    idle, more = short("factuality", (False,) * 6)  # nothing to learn from, and no weight
    beside = signs.saved(pd.concat([runs, idle]), signs.changes(pd.concat([curves, more])), CELL).loc["length"]
    assert beside["gain"] == pytest.approx(2.5)


def test_halves_are_the_first_and_the_second_trainings():
    """Hacked runs of the first half alone: the second half has learnt from them and the first has nothing to learn from."""
    runs, curves = short(hacked=(True, True, False, False, False, False))
    found = signs.saved(runs, signs.changes(curves), CELL).loc["length"]
    assert (found["hacked"], found["gain"]) == (0, 0)


def test_a_cell_with_more_updates_leaves_no_run_of_another_out():
    runs, curves = made()
    longer = runs.assign(task="factuality", id="x" + runs["id"])
    more = curves.assign(id="x" + curves["id"])
    more = pd.concat([more, more.assign(update=more["update"] + 12)])
    found = signs.saved(pd.concat([runs, longer]), signs.changes(pd.concat([curves, more])), CELL).loc["length"]
    assert found["hacked"] == 1.0


def test_what_is_measured_before_is_chosen_in_one_half_and_tested_in_the_other():
    runs, _ = made(trainings=16)
    hacked = runs["hacked"].astype(float)
    first = runs["rm_seed"] < 8
    runs["stress_confidence"] = np.where(first, hacked, -hacked) + runs["rm_seed"] * 1e-3  # turns round in the second half
    runs["rm_error_share"] = hacked + np.where(runs["rm_seed"] == 0, -2, 0) + runs["rm_seed"] * 1e-3
    runs["stress_error_share"] = 0.1
    runs["stress_long_excess"] = np.where(runs["rm_seed"] % 2 == 0, hacked, np.nan)  # known of every other run
    found = signs.before(runs)
    assert found.index.tolist() == ["stress_confidence", "stress_long_excess", "rm_error_share", "stress_error_share"]
    assert found.loc["stress_confidence"].tolist() == [1.0, 0.0, pytest.approx(1.0)]  # a reversal confirms nothing
    assert found.loc["rm_error_share", "first"] == pytest.approx(12 / 16)
    assert found.loc["rm_error_share", ["second", "p"]].tolist() == [1.0, pytest.approx(1 / 70)]  # one of C(8, 4)
    assert found.loc["stress_long_excess", "second"] == 1.0
    assert found.loc["stress_error_share", "second"] == 0.5
    assert signs.before(runs.assign(hacked=pd.array([False] * 8 + [True] * 8, dtype="boolean"))).empty
