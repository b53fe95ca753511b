"""The paper's regime in words."""

import numpy as np
import pandas as pd

from paradox_utils.analysis import outcomes, regime_findings
from paradox_utils.analysis.comparison import ALL
from paradox_utils.analysis.regime import PRIMARY
from paradox_utils.analysis.statistics import Interval

FINAL, ROBUST = (outcomes.READINGS[name] for name in PRIMARY)


def regrets(**columns):
    rows = {"regret": [0.01, 0.02], "low": [-0.01, 0.0], "high": [0.03, 0.035], "trajectories": [45, 45], "lacking": ["", ""]}
    tests = {"p zero": [0.3, 0.2], "p margin": [1.0, 1.0], "p below": [0.01, 0.02]}
    return pd.DataFrame(rows | tests | columns, index=list(PRIMARY))


def test_a_study_in_the_papers_regime_is_told_by_both_readings():
    def said(**columns):
        return regime_findings.regime(regrets(**columns), pd.Series([0.51, 0.77]))

    assert "accuracy 0.51 to 0.77" in said()
    assert "over 45 trajectories" in said()
    assert "costs 0.010 (95 % interval −0.010 to 0.030) as measured and 0.020" in said()
    assert said().endswith("By both readings the cost is below 0.04.")
    assert said(**{"p below": [0.2, 0.2]}).endswith("undecided: the cost may be 0, or more than 0.04.")
    assert said(**{"p zero": [0.01, 0.2]}).endswith("the cost is below 0.04; it is above 0 as measured alone.")
    assert said(**{"p below": [0.01, 0.2]}).endswith("nothing is shown; the cost is below 0.04 as measured alone.")
    assert said(lacking="2 runs") == "Undecided: this takes 2 runs."
    same = said(regret=[0.0, 0.0], low=[0.0, 0.0], high=[0.0, 0.0])
    assert "no rank of accuracy common to all tasks is better than the most accurate" in same
    assert "interval" not in same  # one without width says nothing


def test_what_choosing_by_validation_gains_and_what_the_study_would_see_are_told():
    assert regime_findings.kept(Interval(0.1, 0.06, 0.14, 45)).endswith(
        "gains 0.100 (95 % interval 0.060 to 0.140) on the most accurate one's."
    )
    known = pd.DataFrame({"regret": [0.033, 0.08], "above 0": [0.21, 0.83]}, index=["the published gap", "twice the margin"])
    assert "gap (0.033), 21% show" in regime_findings.powered(known, 0.1)
    assert "by 0.08, 83%." in regime_findings.powered(known, 0.1)
    assert "do not tell" in regime_findings.powered(known, np.nan)


def test_balanced_accuracy_is_told_where_accuracy_hides_what_reward_models_tell():
    rows = {"models": [75, 75], "constant": [53, 1], "accuracy": [0.7, 0.5], "balanced": [0.61, 0.57]}
    models = pd.DataFrame(rows | {"low": 0.4, "high": 0.8}, index=["relevance", "factuality"])
    said = regime_findings.informed(models)
    assert "In relevance, 53 of 75 reward models" in said
    assert "+0.61 (95 % interval +0.40 to +0.80)" in said
    assert "factuality" not in said
    assert regime_findings.informed(models.tail(1)) == ""


def test_hacked_runs_are_told_by_rank():
    counts = pd.DataFrame({1: [4, 0], 2: [10, 0], "runs": [30, 28]}, index=["relevance", "completeness"])
    said = regime_findings.struck(counts)
    assert said == "Hacked are 14 of 30 in relevance (from the most to the least accurate 4 and 10); 0 of 28 in completeness."


def contrasts(clear):
    """Of two outcomes; ``clear`` are adjusted to 0.01, the others to 1."""
    rows = [
        {"outcome": outcome, "task": task, "contrast": name, "mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        | {"adjusted": 0.01 if (outcome, name) in clear and task == ALL else 1.0}
        for outcome, mean in ((FINAL, 0.1), ("hacked", -0.2))
        for task in (ALL, "relevance")
        for name in regime_findings.CONTRASTS
    ]
    return pd.DataFrame(rows).set_index(["outcome", "task", "contrast"])


def test_each_clear_contrast_is_told_with_its_outcomes():
    said = regime_findings.sides(contrasts({(FINAL, "accuracy"), ("hacked", "accuracy")}))
    change = "LM performance as measured +0.100 (95 % interval +0.090 to +0.110) and the share of hacked policies −0.200"
    assert f"0.1 more accuracy: {change}" in said
    assert said.count("; ") == 2  # the three others are not shown
    assert said.count("\n- ") == 2
    assert "\n- Not shown to change anything: 0.1 more accuracy;" in regime_findings.sides(contrasts(set()))
    assert "wait" in regime_findings.sides(pd.DataFrame())
    clear = contrasts({(FINAL, "accuracy"), ("hacked", "errors called good")})
    assert regime_findings.sides_brief(clear) == "What dials change in LM performance: 0.1 more accuracy +0.100."
    assert regime_findings.sides_brief(contrasts(set())).endswith(": nothing is shown.")
    assert "wait" in regime_findings.sides_brief(pd.DataFrame())
    assert "by +0.100 and +0.100 in relevance." in regime_findings.sides_apart(contrasts(set()))
    assert regime_findings.sides_apart(pd.DataFrame()) == ""
