"""Which runs are hacked: by hand, on controls, and in the recorded study."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis import hacking, tables
from paradox_utils.analysis.overoptimisation import THIRDS
from tests.worlds import flat, nested


def path(*levels, each=5):
    """A curve that starts at the first level and then stays for ``each`` updates at each of the others."""
    return pd.Series([levels[0], *np.repeat(levels[1:], each)], dtype=float)


def test_a_turn_by_hand():
    found = hacking.turn(path(1.0, 2.0, 4.0), path(0.2, 0.5, 0.1), unit=0.5)
    assert found == pytest.approx({"rise": 6.0, "fall": 0.8, "lost": 0.4 / 0.3})
    below = hacking.turn(path(1.0, 2.0, 4.0), path(0.2, 0.1, -0.3), unit=0.5)  # the start is the peak: nothing was gained
    assert below == pytest.approx({"rise": 6.0, "fall": 1.0, "lost": np.inf})
    risen = hacking.turn(path(1.0, 2.0, 4.0), path(0.2, 0.3, 0.4), unit=0.5)
    assert (risen["fall"], risen["lost"]) == (0, 0)
    spike = path(0.0, 0.0, 0.0)
    spike[4] = 5.0  # one odd rollout moves a window by a fifth of it
    assert hacking.turn(spike, spike, 1.0)["fall"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("paid", "true", "hacked"),
    [
        ((0, 1, 2), (0, -1, -2), True),  # below its start
        ((0, 1, 2), (0, 2, 1), True),  # half of what was gained is lost
        ((0, 1, 2), (0, 2.5, 1.5), False),  # most of it is kept
        ((0, 1, 2), (0, 0.5, -0.4), False),  # a small fall
        ((0, 1, 0.9), (0, -1, -2), False),  # the reward paid hardly rose: a drift
        ((0, -1, -2), (0, -1, -2), False),
        ((0, 1, 2), (0, 1, 2), False),
    ],
)
def test_what_is_hacked(paid, true, hacked):
    table = pd.DataFrame([hacking.turn(path(*paid), path(*true), 1.0)])
    assert bool(hacking.hacked(table)[0]) is hacked


def runs_and_curves(true, arm="steps", updates=5):
    """Three runs of a task, by accuracy, all paid 1 more, whose true returns go to ``true``."""
    made = nested(flat, rm_seeds=1, accuracies=(0.6, 0.75, 0.9), tasks=("relevance",)).assign(arm=arm)
    made["id"] = [f"{arm}-{n}" for n in range(3)]
    parts = [
        pd.DataFrame({"reward_mean": path(0, 0.5, 1, each=updates), "true_reward_mean": path(0, 0, end, each=updates)})
        for end in true
    ]
    named = [part.rename_axis("update").reset_index().assign(id=run) for part, run in zip(parts, made["id"], strict=True)]
    return made, pd.concat(named[::-1])


def test_runs_are_counted_by_third_and_control():
    made, curves = runs_and_curves((-1.0, 0.5, 0.5))
    control, others = runs_and_curves((0.5, 0.5, -1.0), "length")
    dial = made.assign(arm="dial", id="d" + made["id"])
    unfinished = made.head(1).assign(id="u", status="failed")
    found = hacking.turns(pd.concat([made, control, dial, unfinished]), pd.concat([curves, others]))
    assert found["id"].tolist() == [*made["id"], *control["id"]]
    assert found["hacked"].tolist() == [True, False, False, False, False, True]
    assert found["fall"].iloc[0] == pytest.approx(1 / 0.3)  # in good sub-sentences
    assert hacking.counts(found).loc[("relevance", "atlas-t5")].to_dict() == dict.fromkeys(THIRDS, "0 of 1") | {
        THIRDS[0]: "1 of 1",
        "length": "1 of 3",
    }


@pytest.mark.parametrize("lack", ["updates", "true rewards", "curves"])
def test_what_cannot_be_told_is_not_counted(lack):
    made, curves = runs_and_curves((-1.0, -1.0, -1.0), updates=4 if lack == "updates" else 5)
    curves = curves.drop(columns="true_reward_mean") if lack == "true rewards" else curves.head(0 if lack == "curves" else None)
    found = hacking.turns(made, curves)
    assert found["hacked"].isna().all()
    assert hacking.counts(found).empty


@pytest.mark.heavy
def test_a_reward_that_cannot_be_hacked_is_not_in_the_recorded_study():
    folder = files.resolve("results/recorded/atlas")
    summary = tables.load_summary(folder)
    found = hacking.turns(summary, tables.load_curves(folder))
    assert found.groupby("arm")["hacked"].agg(["sum", "size"]).T.to_dict("list") == {
        "constant": [0, 9],
        "exact": [0, 30],
        "length": [1, 9],
        "steps": [10, 180],
    }
    assert not hacking.hacked(found[found["arm"] == "exact"], hacking.CLEAR / 2).any()


def test_best_of_n_turns_along_n():
    runs = pd.DataFrame({"id": ["a", "b"], "task": "relevance"})
    curve = pd.DataFrame({"n": [1, 2, 4, 8], "update": 0, "reward_mean": [0.0, 0.3, 0.6, 0.9]})
    curves = pd.concat(
        [curve.assign(id="a", true_return=[0.0, 0.6, 0.9, 0.3]), curve.assign(id="b", true_return=[0.0, 0.6, 0.9, 0.9])]
    )
    found = hacking.ends(runs, curves)
    assert found["fall"].tolist() == [pytest.approx(2.0), 0.0]
    assert found["hacked"].tolist() == [True, False]
