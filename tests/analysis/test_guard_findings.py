"""What guards against a hacked run, in words: what to watch, what foretells, which cures help."""

import pandas as pd
import pytest

from paradox_utils.analysis import guard_findings
from tests.analysis.test_findings import told


def test_what_to_watch_is_told_with_what_stopping_on_it_saves():
    early = pd.DataFrame(
        {"length": [0.5, 0.6, 0.9], "kl": [0.5, 0.8, 0.895], "entropy": [0.5, 0.3, 0.4], "reward_mean": [0.5, 1.0, 1.0]},
        index=[0, 10, 40],
    )
    row = {"gain": 0.2, "low": 0.1, "high": 0.3, "on hacked": 1.25, "on other": -0.5, "hacked": 0.75, "other": 0.1}
    saved = pd.DataFrame([row], index=["kl"])
    said = guard_findings.watch(early, saved)
    assert said.startswith("Watch KL from the reference policy along PPO: at update 10 it tells ")
    assert "(AUC 0.80; 0.5 tells nothing). At the last, 40, length and KL from the reference policy do (0.90)." in said
    assert "ends 75% of hacked runs and 10% of others early" in said
    assert "a hacked run by +1.25 good segments and of another by −0.50, and on the whole pays: " in said
    assert said.endswith("pays: +0.20 (95 % interval +0.10 to +0.30) a run.")
    assert "costs: " in guard_findings.watch(early, saved.assign(low=-0.3, high=-0.1))
    assert "is not shown to pay" in guard_findings.watch(early, saved.assign(low=-0.3))
    assert "do not tell" in guard_findings.watch(early.head(0), saved)


def test_what_foretells_is_tested_on_the_other_half():
    before = pd.DataFrame({"first": [0.9], "second": [0.7], "p": [0.04]}, index=["rm_error_share"])
    assert guard_findings.foretold(before).endswith("(AUC 0.90). On the other half: AUC 0.70, p = 0.040.")
    assert "all end alike" in guard_findings.foretold(before.assign(second=float("nan")))
    assert "no measure" in guard_findings.foretold(before.head(0))


@pytest.mark.heavy
def test_the_best_cure_is_told_beside_other_optimisers():
    columns = ["trainings", "hacked", "hacked before", "gain", "low", "high"]
    table = pd.DataFrame([(8, 3, 6, 0.1, 0.0, 0.2), (8, 1, 6, 0.18, 0.09, 0.27)], index=["early", "minimum"], columns=columns)
    words = {"early": "stopping", "minimum": "three models"}
    counts, _ = told([[0] * 8, [0] * 8, [0] * 8, [1] * 6 + [0] * 2])
    own = counts.droplevel(["task", "policy", "pressure"])
    said = guard_findings.guard(table, words, pd.concat({"PPO": own, "RLOO": own}, names=["optimiser"]))
    assert "three models helped most (picked after the fact): 1 of 8 policies hacked in place of 6" in said
    assert "0.18 (95 % interval" in said
    assert said.endswith("RLOO 6 of 8 hacked.")
    unsure = guard_findings.guard(table.assign(low=-0.1), words, pd.DataFrame())
    assert "is not shown to help" in unsure
    assert "optimisers" not in unsure
    assert guard_findings.guard(table.head(0), words, pd.DataFrame()) == "No cure has finished runs."


def test_cures_are_told_with_what_they_cost():
    row = {"trainings": 8, "hacked": 1, "hacked before": 4, "p": 0.25, "accuracy": 0.9, "accuracy before": 0.99}
    row |= {"gain": 0.15, "low": 0.05, "high": 0.25, "where hacked": 0.4, "elsewhere": -0.1}
    table = pd.DataFrame([row], index=["stopped-early"])
    words = {"stopped-early": "early stopping"}
    said = guard_findings.cures(table, words)
    assert said.startswith("Without a cure 4 of 8 policies are hacked, at an accuracy of 0.990 of their reward models.")
    assert "With early stopping 1 of 8 (p = 0.250), at an accuracy of 0.900; " in said
    assert ": +0.400 where the policy was hacked without the cure, −0.100 elsewhere." in said
    assert said.endswith(
        "a less accurate checkpoint of the same training: that it does better is the paper's own claim, in this setting."
    )
    assert guard_findings.cures(table.assign(low=-0.1), words).endswith("a less accurate checkpoint of the same training.")
    assert "less accurate" not in guard_findings.cures(table.assign(accuracy=0.99), words)
    assert "– elsewhere" in guard_findings.cures(table.assign(elsewhere=float("nan")), words)
    assert guard_findings.cures(table.head(0), words) == "No cure has finished runs."
