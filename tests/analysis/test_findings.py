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
    assert findings.sensitive(runs).endswith("top against moderate ones: relevance 3 of 4 against 1 of 4.")
    small = runs.assign(fall=0.6, lost=1.0)  # too little for a whole, enough for a half
    assert findings.sensitive(small).endswith("relevance 4 of 4 against 4 of 4.")


@pytest.mark.heavy
def test_new_trainings_are_told_by_setting():
    counts, effects = told([[0] * 8, [0] * 8, [0] * 8, [1] * 6 + [0] * 2])
    said = findings.confirmed(counts, effects)
    assert said.endswith("\n- relevance, small, half the KL penalty: 6 of 8 against 0, corrected p = 0.016")
    assert "is shown in 1 of 1 setting." in said
    none = findings.confirmed(*told([[0] * 8] * 4))
    assert none.endswith(": none of 16")
    assert "is not shown in any of 1 setting." in none
    assert "do not tell" in findings.confirmed(counts.head(0), effects.head(0))
    assert "real" not in said  # what is shown needs no power


@pytest.mark.heavy
def test_the_first_page_leaves_out_the_control():
    rows = [
        row
        for task in ("relevance", "factuality")
        for row in second([[0] * 8, [0] * 8, [1] + [0] * 7, [1] * 6 + [0] * 2], task)
    ]
    runs = lottery.confirmed(*study(rows))
    counts, effects = lottery.failures(runs), lottery.effects(runs)
    said = findings.brief(counts, effects, ("factuality", "small", "low-kl"))
    assert said.startswith("In 1 more setting (relevance, small: half the KL penalty, chosen for its failures) policies ")
    assert "are hacked in 6 of 8 trainings, those of a moderately accurate one in 0 of 8; LM performance" in said
    assert "is shown in 1 of them" in said
    change = effects.loc[("relevance", "small", "low-kl", lottery.PAPER, "LM performance"), "mean"]
    assert f"is changed by {change:+.3f} (95 % interval ".replace("-", "−") in said
    assert "In 2 more settings" in findings.brief(counts, effects)
    assert "do not tell" in findings.brief(counts.head(0), effects.head(0))


@pytest.mark.heavy
def test_what_is_not_shown_is_told_with_its_power():
    """3 of 8 against 0 are shown if five of eight trainings differ: 56 · 0.375⁵ · 0.625³ + … = 0.137."""
    counts, effects = told([[0] * 8, [0] * 8, [0] * 8, [1] * 3 + [0] * 5])
    said = findings.confirmed(counts, effects, control=SETTING)
    assert said.endswith("a study of this size would show it in 14% of cases.")
    assert "half the KL penalty (the control, " in said
    assert "control" not in findings.confirmed(counts, effects, control=("factuality", "small", "low-kl"))


@pytest.mark.heavy
def test_what_is_padded_is_told_with_what_it_decides():
    """Of six trainings that all differ p is 2 / 2⁶ = 0.031, two-sided: twice that is too much."""
    pair = [row for row in second([[0] * 6] * 4, "completeness") if row["arm"].endswith(("short-moderate", "long-top"))]
    rows = second([[0] * 6, [1] * 6, [0] * 6, [1] * 6])
    said = findings.padded(lottery.effects(lottery.confirmed(*study(rows + pair))))
    assert said.startswith("In completeness, small, half the KL penalty, few trainings")
    assert "accuracy, training and both together were tested in the other 1 of 2 settings" in said
    assert said.endswith("alone, accuracy in relevance, small, half the KL penalty would be p = 0.031 in place of 0.062.")
    none = findings.padded(lottery.effects(lottery.confirmed(*study(second([[0] * 6] * 4) + pair))))
    assert none.endswith("alone, none would be shown either.")
    assert findings.padded(lottery.effects(lottery.confirmed(*study(rows)))) == ""


def test_treatments_that_are_mixed_are_told_apart():
    runs = lottery.confirmed(*study(second([[0] * 4, [0] * 4, [1, 0, 1, 0], [0] * 4])))
    runs["route"] = ["data-size" if seed % 2 == 0 else "label-noise" for seed in runs["rm_seed"]]
    said = findings.mixed(runs)
    assert "half the KL penalty: 2 of 2 with scarce feedback and 0 of 2 with noisy labels." in said
    assert "All hacked ones had scarce feedback" in said
    assert "All hacked" not in findings.mixed(runs.assign(hacked=True))
    assert findings.mixed(runs.assign(route="steps")) == ""


def test_reward_models_that_are_nearly_the_same_are_counted():
    runs = lottery.confirmed(*study(second([[0] * 4] * 4)))
    same = {"rm_accuracy": 0.862, "rm_error_share": 0.2, "rm_majority": 0.7}
    runs = runs.assign(**same)
    runs.loc[(runs["kind"] == "short-moderate") & (runs["rm_seed"] == 1), "rm_error_share"] = 0.4  # as accurate, otherwise
    said = findings.alike(pd.concat([runs, runs.assign(pressure="default")]))  # one reward model in two settings
    assert said.startswith("In relevance 3 of 4 short and moderate reward models are nearly one and the same: ")
    assert "accuracies are 0.862 to 0.862, and the shares of segments that they call errors 0.200 to 0.200, where 0.300" in said
    assert findings.alike(runs.assign(rm_error_share=runs["rm_seed"] / 4)) == ""  # one of four in the middle, or two
    assert findings.alike(runs.assign(rm_error_share=float("nan"))) == ""


@pytest.mark.heavy
def test_made_studies_are_told_by_what_they_find():
    counts, _ = told([[0] * 8, [0] * 8, [0] * 8, [1] * 8])
    worlds = {truth: dict.fromkeys(lottery.CONTRASTS, 0.5) for truth in lottery.worlds(counts)}
    worlds[lottery.NOTHING] = dict.fromkeys(lottery.CONTRASTS, 0.01) | {"training": 0.03}
    worlds["each adds half"][lottery.PAPER] = 0.4
    worlds[lottery.FOUND][lottery.PAPER] = 0.9
    said = findings.made(pd.DataFrame.from_dict(worlds, orient="index"))
    assert "in at most 3% of studies; 5% are allowed" in said
    assert "in one setting alone, is found in 40% to 50%." in said
    assert said.endswith("in at least one setting in 90%, accuracy in 50%, training in 50% and both together in 50%.")


@pytest.mark.heavy
def test_other_optimisers_have_an_exact_p_that_was_not_planned():
    counts, effects = told([[0] * 8, [0] * 8, [0] * 8, [1] * 6 + [0] * 2])
    own = counts.droplevel(["task", "policy", "pressure"])
    table = pd.concat({"PPO": own, "RLOO": own}, names=["optimiser"])
    said = findings.optimisers(table, {"PPO": effects, "RLOO": effects})
    assert "PPO 6 of 8 against 0; RLOO 6 of 8 against 0, p = 0.016. " in said  # 1 / 2⁶
    assert said.endswith("not planned and are not corrected.")
    assert "planned" not in findings.optimisers(table.loc[["PPO"]], {"PPO": effects})
    assert findings.optimisers(table.head(0), {}) == ""


@pytest.mark.heavy
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


@pytest.mark.heavy
def test_accuracy_and_training_are_told_apart_in_lm_performance():
    runs = lottery.confirmed(*study(second([[0] * 8, [0] * 8, [0] * 8, [1] * 8])))
    effects = lottery.effects(runs)
    means = runs.groupby("kind")[lottery.OUTCOME].mean()
    by_accuracy = (means["long-top"] + means["short-top"] - means["long-moderate"] - means["short-moderate"]) / 2
    said = findings.parted(effects)
    assert (
        f"Higher accuracy at equal training changes LM performance by {by_accuracy:+.3f} (95 % interval ".replace("-", "−")
        in said
    )
    assert "; longer training at equal accuracy changes LM performance by " in said
    assert said.count("(half the KL penalty)") == 2
    pair = effects[effects.index.get_level_values("contrast") == lottery.PAPER]  # a setting with the paper's own pair alone
    assert findings.parted(pair) == findings.parted(effects.head(0)) == ""


def test_the_cause_is_told_over_settings():
    rows = [(*cell, name, "hacked", mean, p) for cell, name, mean, p in (
        (SETTING, "accuracy", 0.3, 0.01),
        (SETTING, "training", -0.2, 0.02),
        (("factuality", "small", "fast"), "accuracy", -0.05, 1.0),
        (("factuality", "small", "fast"), "training", 0.1, 1.0),
    )]  # fmt: skip
    names = ["task", "policy", "pressure", "contrast", "outcome", "mean", "adjusted"]
    effects = pd.DataFrame(rows, columns=names).set_index(names[:5])
    said = findings.cause(effects)
    assert said.startswith("The most accurate checkpoint is also the longest trained")  # it stands alone on the first page
    assert said.endswith(
        " Higher accuracy, at equal training, raises the share of hacked policies in 1 of 2 settings (+30 and −5 percentage "
        "points); longer training, at equal accuracy, lowers the share of hacked policies in 1 of 2 settings (−20 and +10 "
        "percentage points)."
    )
    nothing = findings.cause(effects.assign(adjusted=1.0))
    assert " Neither higher accuracy, at equal training (+30 and −5 percentage points), nor longer training, at " in nothing
    assert "do not tell" in findings.cause(effects.head(0))
