"""The lottery in words: what is said where something is found, and where nothing is."""

import pandas as pd
import pytest

from paradox_utils.analysis import findings, lottery
from tests.analysis.test_lottery import screen, second, study

SETTING = ("relevance", "small", "low-kl")


def told(hacked, task="relevance"):
    runs = lottery.confirmed(*study(second(hacked, task)))
    return lottery.failures(runs), lottery.effects(runs)


def test_the_screen_is_told_by_task_and_policy():
    rows = screen({"default": (1, 0), "low-kl": (3, 0)}, trainings=8) + screen({"low-kl": (0, 2)}, "factuality", trainings=8)
    said = findings.struck(lottery.screen(*study(rows)))
    assert "in relevance, small: 4 of 16 runs on the most accurate checkpoint are hacked, on 3 of 8 trainings, " in said
    assert said.endswith("with the other 1 pair of task and policy 0 of 8 against 2 of 8.")
    assert "do not tell" in findings.struck(lottery.screen(*study([row for row in rows if row["rm_step"] == 160])))


def test_half_as_large_a_change_makes_more_runs_hacked():
    runs = lottery.screen(*study(screen({"low-kl": (3, 1)})))
    assert findings.sensitive(runs).endswith("top against moderate ones: relevance 3 against 1.")
    small = runs.assign(fall=0.6, lost=1.0)  # too little for a whole, enough for a half
    assert findings.sensitive(small).endswith("relevance 4 against 4.")


def test_new_trainings_are_told_by_setting():
    counts, effects = told([[0] * 8, [0] * 8, [0] * 8, [1] * 6 + [0] * 2])
    said = findings.confirmed(counts, effects)
    assert "relevance, small, half the KL penalty: 6 of 8 against 0, p = 0.016. By the rule" in said
    assert said.endswith("is shown in 1 of 1 setting.")
    assert findings.confirmed(*told([[0] * 8] * 4)).endswith(
        "none of 16. By the rule fixed beforehand a difference is not shown in any of 1 setting."
    )
    assert "do not tell" in findings.confirmed(counts.head(0), effects.head(0))


def test_the_loss_is_told_where_any_are_hacked():
    """The top one ends at 0.5 where it is hacked, else at 0.9; so do the moderate ones: 3 of 8 lose 0.4."""
    runs = lottery.confirmed(*study(second([[0] * 8, [0] * 8, [0] * 8, [1] * 3 + [0] * 5])))
    change = runs.pivot(index="rm_seed", columns="kind", values=lottery.OUTCOME)
    change = change["long-top"] - change["short-moderate"]
    said = findings.lost(lottery.effects(runs), runs)
    assert f"by {change.mean():+.3f} (95 % interval ".replace("-", "−") in said
    assert f"in the middle training by {change.median():+.3f}".replace("-", "−") in said
    none = lottery.confirmed(*study(second([[0] * 8] * 4)))
    assert findings.lost(lottery.effects(none), none) == ""
    assert findings.lost(lottery.effects(none).head(0), none) == ""


def test_a_run_has_the_setting_that_its_arm_is_called_after():
    run = {"task": "relevance", "policy": "small"}
    assert findings.setting(pd.Series(run | {"arm": "low-kl-long-top"})) == "relevance, small, half the KL penalty"
    assert findings.setting(pd.Series(run | {"arm": "steps"})) == "relevance, small, the study's own setting"


@pytest.mark.parametrize(
    ("hacked", "parts"),
    [
        ([[0] * 8] * 4, ["No run is hacked, of 32; at most 32% of a kind"]),  # Wilson's end of 0 of 8
        ([[0] * 8, [0] * 8, [0] * 8, [1] * 8], ["is hacked more often", "+100 points, p = 0.004", "they do more than each"]),
        ([[0] * 8, [1] * 8, [1] * 8, [1] * 8], ["they do less than each alone (−100 points"]),
        ([[0] * 8, [1] * 8, [0] * 8, [1] * 8], ["Accuracy raises how often (+100 points, p = 0.008)", "training is not shown"]),
        ([[1] * 8, [1] * 8, [0] * 8, [0] * 8], ["is not shown to be hacked more often", "training lowers how often"]),
    ],
)
def test_a_setting_is_told_whatever_is_found(hacked, parts):
    (said,) = findings.answers(*told(hacked))
    assert said.startswith("*relevance, small, half the KL penalty.*")
    for part in parts:
        assert part in said


def test_a_setting_with_the_papers_pair_alone():
    hacked = [[0] * 8, [0] * 8, [0] * 8, [1] * 8]
    rows = [row for row in second(hacked) if row["arm"].endswith(("short-moderate", "long-top"))]
    runs = lottery.confirmed(*study(rows))
    (said,) = findings.answers(lottery.failures(runs), lottery.effects(runs))
    assert "is hacked more often" in said
    assert "Accuracy" not in said


def test_the_best_cure_is_told_beside_other_optimisers():
    columns = ["trainings", "hacked", "hacked before", "gain", "low", "high"]
    table = pd.DataFrame([(8, 3, 6, 0.1, 0.0, 0.2), (8, 1, 6, 0.18, 0.09, 0.27)], index=["early", "minimum"], columns=columns)
    words = {"early": "stopping", "minimum": "three models"}
    counts, _ = told([[0] * 8, [0] * 8, [0] * 8, [1] * 6 + [0] * 2])
    own = counts.droplevel(["task", "policy", "pressure"])
    said = findings.guard(table, words, pd.concat({"PPO": own, "RLOO": own}, names=["optimiser"]))
    assert "three models helped most: 1 of 8 policies hacked in place of 6" in said
    assert "0.18 (95 % interval" in said
    assert said.endswith("RLOO 6 of 8 hacked.")
    unsure = findings.guard(table.assign(low=-0.1), words, pd.DataFrame())
    assert "is not shown to help" in unsure
    assert "optimisers" not in unsure
    assert findings.guard(table.head(0), words, pd.DataFrame()) == "No cure has finished runs."


def test_the_cause_is_told_over_settings():
    rows = [(*cell, name, "hacked", mean, p) for cell, name, mean, p in (
        (SETTING, "accuracy", 0.3, 0.01),
        (SETTING, "training", -0.2, 0.02),
        (("factuality", "small", "fast"), "accuracy", -0.05, 1.0),
        (("factuality", "small", "fast"), "training", 0.1, 1.0),
    )]  # fmt: skip
    names = ["task", "policy", "pressure", "contrast", "outcome", "mean", "adjusted"]
    effects = pd.DataFrame(rows, columns=names).set_index(names[:5])
    assert findings.cause(effects) == (
        "Higher accuracy, at equal training, raises the share of hacked policies in 1 of 2 settings (−5 points to +30 points); "
        "longer training, at equal accuracy, lowers the share of hacked policies in 1 of 2 settings (−20 points to +10 points)."
    )
    nothing = findings.cause(effects.assign(adjusted=1.0))
    assert nothing.startswith("Neither higher accuracy, at equal training (−5 points to +30 points), nor longer training, at ")
    assert "do not tell" in findings.cause(effects.head(0))


def test_the_best_sign_is_told_with_what_stopping_on_it_saves():
    early = pd.DataFrame(
        {"length": [0.1, 0.8, 0.9], "entropy": [0.5, 0.3, 0.4], "reward_mean": [0.5, 1.0, 1.0]}, index=[0, 10, 20]
    )
    saved = pd.DataFrame({"gain": [0.2], "low": [0.1], "high": [0.3], "hacked": [0.75], "other": [0.1]}, index=["length"])
    said = findings.watch(early, saved)
    assert "length tells hacked runs best: AUC 0.90 at update 20" in said  # the reward paid is part of what hacked means
    assert "from update 10 on" in said  # at 0 it is as far from a half, on the other side
    assert "75% of hacked runs early and 10% of others" in said
    assert "pays: +0.20 (95 % interval +0.10 to +0.30)" in said
    assert "costs: " in findings.watch(early, saved.assign(low=-0.3, high=-0.1))
    assert "is not shown to pay" in findings.watch(early, saved.assign(low=-0.3))
    assert "do not tell" in findings.watch(early.head(0), saved)


def test_what_foretells_is_tested_on_the_other_half():
    before = pd.DataFrame({"first": [0.9], "second": [0.7], "p": [0.04]}, index=["rm_error_share"])
    assert findings.foretold(before).endswith("(AUC 0.90). On the other half: AUC 0.70, p = 0.040.")
    assert "all end alike" in findings.foretold(before.assign(second=float("nan")))
    assert "no measure" in findings.foretold(before.head(0))
