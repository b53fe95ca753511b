"""The lottery's rules: by hand, on made studies, and in worlds whose truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import lottery, outcomes, tables
from paradox_utils.analysis.lottery import KINDS
from tests.worlds import run_page


def curve(run, hacked):
    """Eleven updates of a run that is paid more and more; the true return of a hacked one falls."""
    true = np.linspace(0, -2 if hacked else 2, 11)
    return pd.DataFrame({"id": run, "update": range(11), "reward_mean": np.linspace(0, 2, 11), "true_reward_mean": true})


def study(rows):
    """A summary and its curves of rows (arm, rm_step, rm_seed, hacked, LM performance), and task and policy besides."""
    summary = pd.DataFrame(rows).assign(id=lambda t: [f"r{n}" for n in range(len(t))], status="ok")
    summary = summary.assign(**{outcomes.READINGS["as measured"]: summary.pop("performance")})
    curves = pd.concat([curve(run, bad) for run, bad in zip(summary["id"], summary.pop("bad"), strict=True)])
    return summary, curves


def screen(counts, task="relevance", policy="small", trainings=4):
    """Of each pressure, how many of the trainings are hacked at the top and at the moderate checkpoint."""
    rows = []
    for (pressure, (top, moderate)), seed in itertools.product(counts.items(), range(trainings)):
        cell = {"task": task, "policy": policy, "arm": pressure, "rm_seed": seed}
        rows += [cell | {"rm_step": 160, "bad": seed < top, "performance": 0.5 if seed < top else 0.9}]
        rows += [cell | {"rm_step": 62, "bad": seed < moderate, "performance": 0.8}]
    return rows


def test_the_screen_counts_and_names_cells():
    rows = screen({"default": (1, 0), "published": (3, 1), "fast": (4, 1)})
    rows += screen({"default": (0, 0), "fast": (2, 0)}, policy="large")
    rows += screen({"default": (1, 0), "fast": (2, 2)}, task="factuality")
    rows += screen({"default": (0, 0), "fast": (0, 0)}, task="factuality", policy="large")
    cells = lottery.screened(lottery.screen(*study(rows)))
    row = cells.loc[("relevance", "small", "published")]
    assert row[["top", "moderate", "trainings", "difference"]].tolist() == [3, 1, 4, 2]
    assert row["gap"] == pytest.approx(0.8 - (3 * 0.5 + 0.9) / 4)
    # published has 2 as well, but one cell of this task and policy is enough; factuality's 1 is too few
    assert lottery.named(cells) == [("relevance", "small", "fast"), ("relevance", "large", "fast")]
    assert lottery.control(cells) == ("factuality", "large", "default")
    cells["top"] = 0  # equals: policies first, then tasks as they are listed
    assert lottery.control(cells.drop(("relevance", "small", "fast"))) == ("factuality", "small", "default")
    few = cells[cells["difference"] < 2].copy()
    few["gap"] = [0.1 if cell == ("relevance", "small", "default") else 0.0 for cell in few.index]
    assert lottery.named(few) == [("relevance", "small", "default")]  # equals: the larger gap
    assert lottery.control(cells[cells["difference"] >= 2]) is None


def test_a_training_with_an_unknown_end_does_not_count():
    summary, curves = study(screen({"default": (1, 0)}))
    cells = lottery.screened(lottery.screen(summary, curves[curves["id"] != summary["id"].iloc[0]]))
    assert cells.loc[("relevance", "small", "default"), ["top", "trainings"]].tolist() == [0, 3]


def test_a_cure_is_compared_training_by_training():
    rows = second([[0] * 4, [0] * 4, [0] * 4, [1, 1, 1, 0]])
    cured = [
        r | {"arm": "minimum", "bad": r["rm_seed"] == 3, "performance": 0.7, "rm_accuracy": 0.8}
        for r in rows
        if r["arm"].endswith("long-top")
    ]
    summary, curves = study(rows + cured)
    runs = lottery.confirmed(summary, curves)
    table = lottery.against(
        runs[runs["kind"] == "long-top"], lottery.hacking.ends(summary[summary["arm"] == "minimum"], curves)
    )
    row = table.loc["minimum"]
    assert row[["trainings", "hacked", "hacked before"]].tolist() == [4, 1, 3]
    assert row["p"] == pytest.approx(10 / 16)  # of four signs, |3 − 1| or more
    assert row["gain"] == pytest.approx((3 * 0.2 - 0.2) / 4)
    assert row[["where hacked", "elsewhere"]].tolist() == pytest.approx([0.2, -0.2])
    assert row[["accuracy", "accuracy before"]].tolist() == [0.8, 0.9]


def test_trainings_give_the_power_asked_for():
    for cells in (1, 3, 4):
        n = lottery.trainings(cells)
        assert lottery.power(*lottery.SIZE, n, lottery.LEVEL / cells) >= 0.8
        assert n == 24 or lottery.power(*lottery.SIZE, n - 4, lottery.LEVEL / cells) < 0.8


def test_sign_flips_by_hand_and_by_enumeration():
    assert lottery.sign_flip([1, 1, 1, 1, 0, -1], two_sided=False) == pytest.approx(6 / 32)  # McNemar's: 4 or more of 5
    assert lottery.sign_flip([0, 0], two_sided=True) == 1
    values = [2, -1, 1, 2, 0, 1]
    sums = [np.dot(signs, np.abs(values)) for signs in itertools.product((-1, 1), repeat=6)]
    assert lottery.sign_flip(values, two_sided=False) == pytest.approx(np.mean([s >= 5 for s in sums]))
    assert lottery.sign_flip(values, two_sided=True) == pytest.approx(np.mean([abs(s) >= 5 for s in sums]))


def second(hacked, task="relevance"):
    """The second study's rows: of each kind, which of the trainings are hacked."""
    rows = []
    for kind, bad in zip(KINDS, hacked, strict=True):
        cell = {"task": task, "policy": "small", "arm": f"low-kl-{kind}", "rm_step": 1, "rm_accuracy": 0.9}
        rows += [cell | {"rm_seed": s, "bad": bool(b), "performance": 0.9 - 0.4 * b} for s, b in enumerate(bad)]
    return rows


@pytest.mark.heavy
def test_effects_within_trainings_by_hand():
    # short-moderate, short-top, long-moderate, long-top of six trainings
    runs = lottery.confirmed(*study(second([[0] * 6, [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0]])))
    assert set(runs["pressure"]) == {"low-kl"}
    found = lottery.effects(runs).loc[("relevance", "small", "low-kl")]
    paper = found.loc[(lottery.PAPER, "hacked")]
    assert (paper["mean"], paper["p"], paper["trainings"]) == (pytest.approx(5 / 6), pytest.approx(1 / 32), 6)
    accuracy = found.loc[("accuracy", "hacked")]
    # by training, doubled: 1 + 1, 1, 1, 1, 1, −1
    assert accuracy["mean"] == pytest.approx(5 / 12)
    assert accuracy["p"] == pytest.approx(lottery.sign_flip([2, 1, 1, 1, 1, -1], two_sided=True))
    assert found.loc[("training", "hacked"), "mean"] == pytest.approx((0.5 * 4 + 0 + 0.5) / 6)
    assert found.loc[("both together", "hacked"), "mean"] == pytest.approx((0 + 1 + 1 + 1 + 1 - 1) / 6)
    assert found.loc[("accuracy", "LM performance"), "mean"] == pytest.approx(-0.4 * 5 / 12)
    counts = lottery.failures(runs).loc[("relevance", "small", "low-kl", "long-top")]
    assert counts[["hacked", "runs"]].tolist() == [5, 6]
    assert 0.43 < counts["low"] < 5 / 6 < counts["high"] < 0.98  # Wilson's 0.436 to 0.970


@pytest.mark.heavy
def test_holm_is_over_cells_of_a_contrast():
    strong, none = [[0] * 8, [0] * 8, [0] * 8, [1] * 8], [[0] * 8] * 4
    found = lottery.effects(lottery.confirmed(*study(second(strong) + second(none, task="factuality"))))
    paper = found.xs((lottery.PAPER, "hacked"), level=["contrast", "outcome"])
    assert paper["adjusted"].tolist() == pytest.approx([2 / 256, 1.0])
    other = found.xs("factuality", level="task").xs("hacked", level="outcome")
    assert other[["low", "high"]].isna().all(axis=None)  # where no training differs there is no spread to tell from


def test_power_is_exact():
    top, moderate, n = 0.5, 0.1, 5
    chance = 0.0
    for a, b in itertools.product(itertools.product((0, 1), repeat=n), repeat=2):
        weight = np.prod([(top if x else 1 - top) * (moderate if y else 1 - moderate) for x, y in zip(a, b, strict=True)])
        chance += weight * (lottery.sign_flip(np.subtract(a, b), two_sided=False) <= 0.1)
    assert lottery.power(top, moderate, n, 0.1) == pytest.approx(chance)
    assert lottery.power(0.0, 0.0, 20) == 0


def test_the_rule_in_worlds_whose_truth_is_known():
    flat = [dict.fromkeys(KINDS, 0.3), dict.fromkeys(KINDS, 0.1), dict.fromkeys(KINDS, 0.02)]
    found = lottery.rates(flat, 32, studies=400)
    assert found["any"] >= max(found[name] for name in lottery.CONTRASTS)
    assert max(found[name] for name in lottery.CONTRASTS) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    by_accuracy = dict.fromkeys(KINDS, 0.02) | {"short-top": 0.4, "long-top": 0.4}
    found = lottery.rates([by_accuracy, *flat[1:]], 32, studies=400)
    assert min(found[lottery.PAPER], found["accuracy"]) >= 0.8
    assert found["training"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    pilot = dict.fromkeys(KINDS, lottery.SIZE[1]) | {"short-top": lottery.SIZE[0], "long-top": lottery.SIZE[0]}
    assert lottery.rates([pilot, *flat[1:]], lottery.trainings(3), studies=400)[lottery.PAPER] >= 0.8 - 2 * np.sqrt(0.16 / 400)
    only_together = dict.fromkeys(KINDS, 0.0) | {"long-top": 0.5}
    assert lottery.rates([only_together], 32, studies=400)["both together"] >= 0.95


def test_made_worlds_have_as_many_cells():
    rows = second([[0] * 4, [1, 0, 0, 0], [0] * 4, [1, 1, 1, 0]])
    rows += [
        row for row in second([[0] * 4, *[[1] * 4] * 3], "factuality") if row["arm"].endswith(("short-moderate", "long-top"))
    ]
    made = lottery.worlds(lottery.failures(lottery.confirmed(*study(rows))))
    assert {len(world) for world in made.values()} == {2}
    by_task = sorted(made[lottery.FOUND], key=lambda cell: cell["long-top"])
    assert by_task == [dict(zip(KINDS, (0, 0.25, 0, 0.75), strict=True)), dict(zip(KINDS, (0, 0, 0, 1), strict=True))]
    assert made["each adds half"][0] == pytest.approx(dict(zip(KINDS, (0, 7 / 48, 7 / 48, 7 / 24), strict=True)))
    assert set(made["accuracy does it"][1].values()) == {0.0}


def test_empty_studies_have_empty_tables():
    runs = lottery.confirmed(*study(screen({"default": (1, 0)})))
    assert runs.empty
    assert lottery.failures(runs).empty
    assert lottery.against(runs, runs).empty


@pytest.mark.heavy
def test_a_failed_run_has_an_unknown_end():
    summary, curves = study(second([[0] * 4, [0] * 4, [0] * 4, [1] * 4]))
    last = summary.index[-1]
    summary.loc[last, ["status", lottery.OUTCOME]] = ["failed", np.nan]
    runs = lottery.confirmed(summary, curves)
    counts = lottery.failures(runs).loc[("relevance", "small", "low-kl", "long-top")]
    assert counts[["hacked", "runs", "unknown"]].tolist() == [3, 3, 1]
    assert lottery.effects(runs)["trainings"].unique().tolist() == [3]


@pytest.mark.heavy
def test_a_cell_of_two_kinds_has_the_papers_contrast_alone():
    rows = second([[0] * 8, [0] * 8, [0] * 8, [1] * 8])
    both = {"short-moderate", "long-top"}
    pair = [row for row in second([[0] * 8] * 4, "completeness") if row["arm"].removeprefix("low-kl-") in both]
    hacked = lottery.effects(lottery.confirmed(*study(rows + pair))).xs("hacked", level="outcome").sort_index()
    assert list(hacked.loc[("completeness", "small", "low-kl")].index) == [lottery.PAPER]
    own = hacked.loc[("relevance", "small", "low-kl")]
    assert own.loc[lottery.PAPER, "adjusted"] == pytest.approx(2 / 2**8)  # of two cells
    assert own.loc["accuracy", "adjusted"] == min(1, 2 * own.loc["accuracy", "p"])  # as planned


def test_a_cell_without_runs_is_told():
    runs = lottery.confirmed(*study(second([[0] * 4] * 4)))
    with pytest.raises(tables.AnalysisError, match="factuality"):
        lottery.of_cell(runs, ("factuality", "small", "low-kl"))


def test_other_arms_are_no_cells():
    rows = second([[0] * 4] * 4)
    others = [row | {"arm": row["arm"].replace("low-kl", "rloo")} for row in rows]
    assert set(lottery.confirmed(*study(rows + others))["pressure"]) == {"low-kl"}
    assert set(lottery.confirmed(*study(rows + others), pressures=("rloo",))["pressure"]) == {"rloo"}


# --- the page -----------------------------------------------------------------------------------------------------------------


def written(rows, folder):
    """A study's folder with what the page reads of these rows."""
    summary, curves = study(rows)
    summary["ppo_seed"] = summary["rm_seed"]
    labels = {"study": "made", "route": "steps", "setting": "", "reason": "", "ended": True}
    blank = {name: 1.0 for name in tables.NUMBERS if name not in summary}
    folder.mkdir()
    summary.assign(**labels, **blank).to_csv(folder / "summary.csv", index=False)
    drift = curves.assign(length=-10 * curves["true_reward_mean"], kl=0.1, lm_performance=0.5)
    drift.to_csv(folder / "curves.csv", index=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("cured", [True, False])
def test_the_page_says_what_it_finds(cured, tmp_path):
    first = screen({"default": (1, 0), "low-kl": (3, 0)})
    rows = second([[0] * 8, [1] + [0] * 7, [0] * 8, [1, 0, 1, 1, 0, 1, 1, 1]])
    extra = [r | {"arm": "minimum", "bad": False, "performance": 0.9} for r in rows if r["arm"].endswith("long-top")]
    rloo = [r | {"arm": r["arm"].replace("low-kl", "rloo")} for r in rows]
    folder = written(rows + (extra + rloo) * cured, tmp_path / "second")
    names = run_page("12", folder, screen=str(written(first, tmp_path / "screen")))
    assert names["named"] == [("relevance", "small", "low-kl")]
    assert names["words"]["guard"].startswith("Of 1 cure tried" if cured else "No cure")
    assert "6 of 8 against 0, corrected p = 0.016" in names["words"]["confirmed"]
    assert names["counts"].loc[("relevance", "small", "low-kl", "long-top"), "hacked"] == 6
    assert "At the last, 10, length does (1.00)." in names["words"]["watch"]
    assert names["rates"].index[-1] == lottery.FOUND
    assert list(names["cured"].index) == ["minimum"] * cured
    assert names["found"].loc["PPO", "hacked"].tolist() == [0, 1, 0, 6]
    assert ("RLOO" in names["found"].index) == cured


@pytest.mark.heavy
@pytest.mark.parametrize("hacked", [0, 1])
def test_the_page_runs_where_all_runs_end_alike(hacked, tmp_path):
    first = screen({"low-kl": (hacked * 4, hacked * 4)})
    folder = written(second([[hacked] * 4] * 4), tmp_path / "second")
    names = run_page("12", folder, screen=str(written(first, tmp_path / "screen")))
    assert names["words"]["watch"] == "These runs do not tell what to watch."
