"""The paper's regime: contrasts of crossed dials by hand, both bounds of a regret, and runs that go on."""

import itertools

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import outcomes, regime, tables
from paradox_utils.analysis.comparison import ALL
from tests.worlds import run_page

FINAL, ROBUST = (outcomes.READINGS[reading] for reading in regime.PRIMARY)
UPDATES = 11


def curves_of(runs, hacked):
    """Every run is paid more and more; the true return of a hacked one falls."""
    ends = [(run, -2 if bad else 2) for run, bad in zip(runs, hacked, strict=True)]
    update, reward = range(UPDATES), np.linspace(0, 2, UPDATES)
    parts = [
        pd.DataFrame({"id": run, "update": update, "reward_mean": reward, "true_reward_mean": np.linspace(0, end, UPDATES)})
        for run, end in ends
    ]
    return pd.concat(parts)


def dials(value, hacked=lambda **_: False, seeds=3):
    """Crossed dials of two tasks: summary, curves and parameters; ``value`` of a cell is its LM performance."""
    grid = itertools.product(("relevance", "factuality"), range(seeds), (-0.5, 0.0, 0.5), (0.6, 0.7, 0.8))
    cells = [dict(zip(("task", "seed", "bias", "accuracy"), cell, strict=True)) for cell in grid]
    ids = [f"r{n}" for n in range(len(cells))]
    summary = pd.DataFrame(
        {
            "id": ids,
            "arm": "crossed",
            "status": "ok",
            "ended": True,
            "rm_balanced_accuracy": [cell["accuracy"] for cell in cells],
            "task": [cell["task"] for cell in cells],
            "ppo_seed": [cell["seed"] for cell in cells],
            FINAL: [value(**cell) for cell in cells],
            ROBUST: 0.5,
        }
    )
    parameters = pd.DataFrame(
        {"dial_bias": [cell["bias"] for cell in cells], "dial_accuracy": [cell["accuracy"] for cell in cells]}, index=ids
    )
    return summary, curves_of(ids, [hacked(**cell) for cell in cells]), parameters


@pytest.mark.heavy
def test_contrasts_of_crossed_dials_by_hand():
    def value(task, seed, bias, accuracy):
        slope = {-0.5: 3, 0.0: 1, 0.5: 2}[bias]  # a unit of accuracy
        return slope * (accuracy - 0.7) + {-0.5: -0.2, 0.0: 0.1, 0.5: 0.15}[bias] + 0.01 * seed * bias + (task == "factuality")

    table = regime.crossed(*dials(value, hacked=lambda accuracy, bias, **_: accuracy == 0.6 and bias > 0))
    one = table.xs((FINAL, ALL), level=("outcome", "task"))
    assert one.loc["accuracy", "mean"] == pytest.approx(0.2)
    assert one.loc["good called errors", "mean"] == pytest.approx(0.05 + 0.005)  # seeds 0, 1, 2 times 0.005
    assert one.loc["errors called good", "mean"] == pytest.approx(-0.3 - 0.005)
    assert one.loc["accuracy, one-sided", "mean"] == pytest.approx(0.15)
    assert one["units"].tolist() == [6] * 4
    assert one.loc["good called errors", ["low", "high"]].tolist() == pytest.approx(
        [0.055 - 2.570582 * 0.004472136 / 6**0.5, 0.055 + 2.570582 * 0.004472136 / 6**0.5], abs=1e-6
    )
    assert table.xs((FINAL, "relevance"), level=("outcome", "task"))["units"].tolist() == [3] * 4
    hacked = table.xs(("hacked", ALL), level=("outcome", "task"))["mean"]
    assert hacked["good called errors"] == pytest.approx(1 / 3)
    assert hacked["accuracy"] == pytest.approx(-0.5 / 3)  # at one of three biases 0.6 against 0.8: a half for every 0.1


@pytest.mark.heavy
def test_a_unit_without_all_its_cells_and_runs_that_failed_have_no_part():
    summary, curves, parameters = dials(lambda **_: 0.5)
    summary.loc[0, "status"] = "failed"
    table = regime.crossed(summary, curves, parameters)
    assert table.xs((FINAL, ALL), level=("outcome", "task"))["units"].tolist() == [5] * 4
    assert table.xs(("hacked", ALL), level=("outcome", "task"))["low"].isna().all()  # none differs: no spread is no certainty
    assert not len(regime.crossed(summary.assign(status="failed"), curves, parameters))


def test_nothing_is_said_of_dials_before_all_have_ended():
    summary, curves, parameters = dials(lambda **_: 0.5)
    summary.loc[0, "ended"] = False
    assert not len(regime.crossed(summary, curves, parameters))


def trajectories(top, others, seeds=8):
    """A study of one task whose five reward models teach so well; noise is the same for all of a trajectory but one."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        noise = random.normal(0, 0.01, 5)
        for rank, (accuracy, performance) in enumerate(zip((0.60, 0.64, 0.68, 0.72, 0.76), [*others, top], strict=True)):
            score = performance + noise[rank]
            row = {"task": "relevance", "policy": "small", "arm": "steps", "route": "steps", "setting": "", "rm_seed": seed}
            row |= {"ppo_seed": seed, "rm_step": rank, "rm_accuracy": accuracy, "status": "ok", "ended": True}
            row |= {"id": f"r{seed}-{rank}", FINAL: score, ROBUST: 0.5 + noise[rank], outcomes.VALIDATION: score}
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("gap", "above_zero", "above_margin", "below_margin"),
    [(0.0, False, False, True), (0.035, True, False, False), (0.1, True, True, False)],
)
def test_both_bounds_of_the_regret(gap, above_zero, above_margin, below_margin):
    table = regime.regrets(trajectories(0.7, [0.5, 0.6, 0.7 + gap, 0.6]))
    row = table.loc["as measured"]
    assert row["regret"] == pytest.approx(gap, abs=0.015)
    assert row["trajectories"] == 8
    assert (row["p zero"] < 0.025, row["p margin"] < 0.025, row["p below"] < 0.025) == (above_zero, above_margin, below_margin)
    assert table.loc["brevity-robust", "p zero"] > 0.025  # all ranks alike there


@pytest.mark.heavy
def test_p_values_are_corrected_for_the_two_readings():
    runs = trajectories(0.7, [0.5, 0.6, 0.712, 0.6])
    one = regime.compare(regime.families(runs), margin=0.0, resamples=1)
    other = regime.compare(regime.families(runs), "brevity-robust", margin=0.0, resamples=1)
    assert one.p_above < other.p_above
    assert regime.regrets(runs).loc["as measured", "p zero"] == pytest.approx(min(1, 2 * one.p_above))


def test_hacked_runs_are_counted_by_rank():
    runs = trajectories(0.7, [0.5, 0.6, 0.7, 0.6], seeds=3)
    second = runs["rm_step"] == 3  # the more accurate, the later
    bad = second & (runs["rm_seed"] < 2) | (runs["rm_accuracy"] == 0.60)
    counts = regime.struck(runs, curves_of(runs["id"], bad))
    assert counts.loc["relevance"].to_dict() == {1: 0, 2: 2, 3: 0, 4: 0, 5: 3, "runs": 15}
    runs.loc[runs["rm_seed"] == 0, "rm_accuracy"] = 0.7  # of equals the later step is the more accurate
    assert regime.struck(runs, curves_of(runs["id"], bad)).loc["relevance"].to_dict()[2] == 2
    runs.loc[runs["id"] == "r0-3", "status"] = "failed"
    assert regime.struck(runs, curves_of(runs["id"], bad)).loc["relevance"].to_dict()[2] == 1


def test_reward_models_no_better_than_a_constant_are_counted():
    runs = trajectories(0.7, [0.5, 0.6, 0.65, 0.6], seeds=2)
    runs = runs.assign(rm_majority=0.64, rm_balanced_accuracy=runs[FINAL])
    runs = pd.concat([runs, runs.assign(task="completeness")])
    found = regime.informative(runs)
    assert found.index.tolist() == ["relevance"]  # pairs have no class that is the more frequent
    assert found.loc["relevance", ["models", "constant", "accuracy", "balanced"]].tolist() == pytest.approx([10, 4, 0.64, 1.0])


def test_longer_runs_stand_beside_the_usual_ones():
    rows = []
    for arm, seed, (step, accuracy) in itertools.product(("steps", "longer"), (0, 1), ((5, 0.65), (9, 0.75))):
        performance = 0.8 if arm == "steps" else 0.9 if step == 5 else 0.4
        row = {"task": "relevance", "policy": "small", "arm": arm, "rm_seed": seed, "ppo_seed": seed, "rm_step": step}
        row |= {"rm_accuracy": accuracy, "status": "ok", "lm_performance_start": 0.6, FINAL: performance}
        rows.append(row | {"id": f"{arm}{seed}{step}"})
    rows.append(rows[0] | {"id": "alone", "rm_step": 7})  # no longer run of it
    summary = pd.DataFrame(rows)
    bad = [(arm == "longer") & (step == 9) for arm, step in zip(summary["arm"], summary["rm_step"], strict=True)]
    table = regime.later(summary, curves_of(summary["id"], bad))
    top, moderate = table.loc[("relevance", "top")], table.loc[("relevance", "moderate")]
    assert top.tolist() == pytest.approx([2, 0.6, 0.8, 0.4, 0, 2])
    assert moderate.tolist() == pytest.approx([2, 0.6, 0.8, 0.9, 0, 0])
    summary.loc[summary["id"] == "longer09", "status"] = "failed"  # its partner does not become the top one
    table = regime.later(summary, curves_of(summary["id"], bad))
    assert table["runs"].tolist() == [1, 1]
    assert table.loc[("relevance", "top")].tolist() == pytest.approx([1, 0.6, 0.8, 0.4, 0, 1])


# --- the page -----------------------------------------------------------------------------------------------------------------


def recorded(folder, summary, curves):
    """A folder that a page can read."""
    folder.mkdir()
    for name in (*tables.LABELS, *tables.NUMBERS):
        if name not in summary:
            summary = summary.assign(**{name: "" if name in tables.LABELS else 1.0})
    summary = summary.assign(study="made", ended=True)
    summary.to_csv(folder / "summary.csv", index=False)
    curves.assign(kl=0.1, lm_performance=0.5).to_csv(folder / "curves.csv", index=False)
    return summary


def test_the_page_says_what_it_finds(tmp_path):
    teach, (turned, rewards, asked) = trajectories(0.7, [0.5, 0.6, 0.7, 0.6]), dials(lambda accuracy, **_: accuracy)
    longer = teach[teach["rm_step"].isin([2, 4])].assign(arm="longer", id=lambda t: "l" + t["id"])
    both = pd.concat([teach, longer], ignore_index=True)
    recorded(tmp_path / "regime", both, curves_of(both["id"], both["id"].str.startswith("l")))
    scored = pd.DataFrame({"id": teach["id"], "when": "final", "good": [f"{4 * x} {4 * x}" for x in teach[FINAL]]})
    scored.assign(segments="4 4").to_csv(tmp_path / "regime" / "questions.csv", index=False)
    recorded(tmp_path / "dials", turned.assign(policy="small", route="dial"), rewards)
    asked.rename_axis("id").reset_index().to_csv(tmp_path / "dials" / "parameters.csv", index=False)
    names = run_page("17", tmp_path / "regime", dials=str(tmp_path / "dials"))
    assert "accuracy 0.60 to 0.76" in names["words"]["regime"]
    assert "By both readings the cost is below 0.04." in names["words"]["regime"]
    assert names["hacked"].loc["relevance"].tolist() == [0, 0, 0, 0, 0, 40]
    rho = teach[["rm_accuracy", FINAL]].corr("spearman").iloc[0, 1]
    assert f"LM performance is {rho:+.2f} (95 % interval" in names["words"]["apart"]
    assert names["words"]["apart"].endswith("in relevance.")
    assert names["known"].loc["all alike", "above 0"] < 0.05
    assert names["known"].loc["twice the margin", "above 0.04"] > 0.9 > 0.05 > names["known"].loc["the margin", "above 0.04"]
    assert "0.1 more accuracy +0.100" in names["words"]["sides"]
    assert names["tells"].loc[("relevance", "errors called good")].tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert "0, then 8 of 8 are hacked" in names["words"]["longer"]
    assert names["later"]["runs"].tolist() == [8, 8]


def test_the_page_waits_for_what_has_not_run(tmp_path):
    teach = trajectories(0.7, [0.5, 0.6, 0.7, 0.6])
    recorded(tmp_path / "regime", teach, curves_of(teach["id"], [False] * len(teach)))
    names = run_page("17", tmp_path / "regime", dials="")
    assert [name for name, said in names["words"].items() if "wait" in said] == ["sides", "longer"]
