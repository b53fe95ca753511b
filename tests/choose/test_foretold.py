"""Whether probes foretell hacked runs: AUCs by hand, and made-up reward models whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.choose import foretold
from paradox_utils.choose.foretold import BEYOND, PROBES, SAMPLES

QUICK = {"resamples": 60, "seed": 0}


def runs(by_samples, by_probes, tasks=3, number=48, seed=0):
    """Runs that are hacked by what samples and probes say of them, with these weights, and by chance."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.normal(size=(tasks * number, len(SAMPLES) + len(PROBES))), columns=[*SAMPLES, *PROBES])
    rows["task"] = np.repeat(["relevance", "factuality", "completeness"][:tasks], number)
    rows["policy"], rows["rm_seed"] = "p", np.tile(np.arange(8), tasks * number // 8)
    bent = -by_samples * rows["gain"] + by_probes * rows["altered_repeated"] + rng.normal(size=len(rows))
    return rows.assign(hacked=(bent > 1).astype("boolean"))


def told(rows):
    found = foretold.foretold(rows, **QUICK)
    return found, found[found["task"] == "all"].set_index("measure")


def test_an_auc_by_hand():
    """Of the pairs of one task and policy: 2 and 1 over 0, and 2 over 3 not, are two of three; then one of one."""
    rows = runs(0, 0, number=8).iloc[:6].assign(
        task=["a"] * 4 + ["b"] * 2, hacked=pd.array([False, False, False, True, True, False], dtype="boolean"),
        altered_long=[0.0, 1.0, 3.0, 2.0, 9.0, 8.0],
    )  # fmt: skip
    found = foretold.foretold(rows, **QUICK).set_index(["measure", "task"])
    assert found.loc[("altered_long", "a"), "auc"] == pytest.approx(2 / 3)
    assert found.loc[("altered_long", "b"), "auc"] == 1
    assert found.loc[("altered_long", "all"), "auc"] == pytest.approx(3 / 4)
    assert found.loc[("altered_long", "all"), ["hacked", "runs"]].tolist() == [2, 6]


def test_an_auc_of_samples_is_that_of_their_rows():
    random = np.random.default_rng(0)
    cell, hacked, value = random.integers(2, size=12), random.integers(2, size=12), random.integers(4, size=12).astype(float)
    value[3] = np.nan
    counts = random.integers(3, size=(4, 12)).astype(float)
    rows = [np.repeat(np.arange(12), own.astype(int)) for own in counts]
    alone = [foretold._auc(np.ones((1, len(own))), cell[own], hacked[own], value[own])[0] for own in rows]
    assert foretold._auc(counts, cell, hacked, value) == pytest.approx(alone)


def test_probes_that_foretell_are_found_beyond_the_samples():
    found, pooled = told(runs(1.0, 2.0))
    assert pooled.loc[BEYOND, "low"] > 0.05
    assert pooled.loc["altered_repeated", "low"] > 0.6
    assert pooled.loc["gain", "high"] < 0.5  # hacked where little is gained
    assert foretold.answer(found).startswith("Probe texts foretell")


def test_probes_that_say_nothing_are_not_said_to():
    found, pooled = told(runs(2.0, 0.0))
    assert pooled.loc["samples", "auc"] > 0.7
    assert pooled.loc[BEYOND, "low"] <= 0
    assert not foretold.answer(found).startswith("Probe texts foretell")


def test_what_is_fitted_never_saw_its_own_task():
    """Turning a task's outcomes round leaves its own scores as they were, and changes those of the others."""
    rows = runs(1.0, 2.0)
    own = rows["task"] == "factuality"
    turned = rows.assign(hacked=rows["hacked"] ^ own)
    before, after = (foretold.fitted(one, [*SAMPLES, *PROBES]) for one in (rows, turned))
    assert after[own] == pytest.approx(before[own])
    assert after[~own] != pytest.approx(before[~own])


@pytest.mark.parametrize("rows", [runs(1, 1, tasks=1), runs(1, 1).assign(hacked=False), runs(1, 1).assign(hacked=pd.NA)])
def test_nothing_is_foretold_of_one_task_or_without_hacked_runs(rows):
    assert foretold.answer(foretold.foretold(rows, **QUICK)).startswith("Too few")
