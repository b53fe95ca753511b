"""The paper's regime in words."""

import pandas as pd

from paradox_utils.analysis import regime_findings


def test_a_study_in_the_papers_regime_is_told_by_both_readings():
    rows = {"regret": [0.01, 0.02], "low": [-0.01, 0.0], "high": [0.03, 0.035], "trajectories": [45, 45], "lacking": ["", ""]}
    tests = {"p zero": [0.3, 0.2], "p margin": [1.0, 1.0], "p below": [0.01, 0.02]}
    regrets = pd.DataFrame(rows | tests, index=["as measured", "brevity-robust"])
    said = regime_findings.regime(regrets, pd.Series([0.51, 0.77]))
    assert "accuracy 0.51 to 0.77" in said
    assert "over 45 trajectories" in said
    assert said.endswith("By both readings it is below 0.04.")
    neither = regime_findings.regime(regrets.assign(**{"p below": 0.2}), pd.Series([0.5]))
    assert neither.endswith("undecided: it may be 0, or more than 0.04.")
    one = regime_findings.regime(regrets.assign(**{"p zero": [0.01, 0.2]}), pd.Series([0.5]))
    assert one.endswith("By both readings it is below 0.04; above 0 *as measured* alone.")
    assert regime_findings.regime(regrets.assign(lacking="2 runs"), pd.Series([0.5])) == "Undecided: this takes 2 runs."
