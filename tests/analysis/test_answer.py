"""The first page says in plain words what a study decides and measures."""

import pandas as pd
import pytest

from paradox_utils.analysis import answer
from tests.worlds import TASKS, decide, flat, inverted_u, nested, rising


@pytest.mark.parametrize(
    ("curve", "seeds", "opening"),
    [(rising, 5, "Yes, on"), (inverted_u, 5, "No, on"), (flat, 2, "Undecided")],
)
def test_the_answer_follows_the_verdict(curve, seeds, opening):
    decision = decide(nested(curve, rm_seeds=seeds))
    said = answer.answer(decision, 90)
    assert said.startswith(opening)
    if seeds == 5:
        regret = decision.primary.of.regret
        assert "In 90 PPO runs on 15 trainings of reward models, " in said
        assert f"{abs(regret.low):.3f} to {abs(regret.high):.3f}" in said.replace("−", "")
    else:
        assert said == decision.headline


def test_the_caveat_has_the_cost_with_a_rank_for_each_task():
    decision = decide(nested(rising, rm_seeds=5))
    within = decision.primary.of.further.within
    assert f"to {abs(within.high):.3f}): {decision.primary.within}." in answer.caveat(decision).replace("to −", "to ")
    assert "average" in answer.caveat(decide(nested(flat).assign(arm="other")))


def test_accuracy_is_worth_what_the_most_accurate_adds_to_the_least():
    made = nested(rising, rm_seeds=3, tasks=TASKS[:1], noise=0)
    ends = made.sort_values("rm_accuracy").groupby("rm_seed")["lm_performance_final"]
    gain = (ends.last() - ends.first()).mean()
    assert f"changes by +{gain:.3f} (95 % interval +" in answer.worth(made)
    assert "over 3 trainings" in answer.worth(made)
    assert f"changes by −{gain:.3f}" in answer.worth(made.assign(lm_performance_final=1 - made["lm_performance_final"]))
    assert "do not tell" in answer.worth(made.head(0))


def test_what_is_known_before_ppo_is_compared_with_accuracy():
    rows = [("all", "rm_accuracy", 0.6, 0.5, 0.7), ("all", "best_of_n", -0.8, -0.9, -0.7)]
    rows += [("relevance", "rm_f1", 0.9, 0.8, 1.0), ("all", "kl_level", 0.99, 0.9, 1.0)]  # one task; along the run
    found = pd.DataFrame(rows, columns=["task", "measure", "correlation", "low", "high"])
    said = answer.foreknown(found)
    assert said.startswith("Of 2 measures known before PPO, LM performance of best-of-n")
    assert "−0.80 (95 % interval −0.90 to −0.70); accuracy on held-out feedback has +0.60" in said
    assert ";" not in answer.foreknown(found.head(1))
    assert "do not tell" in answer.foreknown(found.head(0))


def test_what_the_lottery_found_is_told_by_cell():
    cells = pd.DataFrame(
        {"top": [3, 0], "moderate": [0, 1], "trainings": [8, 8]},
        index=pd.MultiIndex.from_tuples([("relevance", "small", "low-kl"), ("factuality", "small", "fast")]),
    )
    said = answer.struck(cells)
    assert "Of 16 runs on the most accurate checkpoint of a training 3 are hacked, of as many on a moderate one 1" in said
    assert "relevance, small, low-kl: 3 of 8 against 0" in said
    assert "do not tell" in answer.struck(cells.head(0))
    rows = [(*cell, name, "hacked", mean, p) for cell, name, mean, p in (
        (("relevance", "small", "low-kl"), "accuracy", 0.3, 0.01),
        (("relevance", "small", "low-kl"), "training", -0.2, 0.02),
        (("factuality", "small", "fast"), "accuracy", -0.05, 1.0),
        (("factuality", "small", "fast"), "training", 0.1, 1.0),
    )]  # fmt: skip
    names = ["task", "policy", "pressure", "contrast", "outcome", "mean", "adjusted"]
    effects = pd.DataFrame(rows, columns=names).set_index(names[:5])
    assert answer.cause(effects) == (
        "In 2 cells on new trainings, higher accuracy, at equal training, lets runs be hacked more often in 1 (−5% to +30% of "
        "runs); longer training, at equal accuracy, lets runs be hacked less often in 1 (−20% to +10% of runs)."
    )
    assert "clearly more or less often in none" in answer.cause(effects.assign(adjusted=1.0))
    assert "do not tell" in answer.cause(effects.head(0))


def test_the_best_sign_is_told_with_what_stopping_on_it_saves():
    early = pd.DataFrame({"length": [0.5, 0.8, 0.9], "entropy": [0.5, 0.3, 0.4]}, index=[0, 10, 20])
    saved = pd.DataFrame({"gain": [0.2], "low": [0.1], "high": [0.3], "hacked": [0.75], "other": [0.1]}, index=["length"])
    said = answer.watch(early, saved)
    assert "Of 2 signs that need no truth, length tells hacked runs best: AUC 0.90 at the end" in said
    assert "from update 10 on" in said  # 0.3 from a half, of 0.4 at the end
    assert "75% of hacked runs early and 10% of the others" in said
    assert "+0.20 (95 % interval +0.10 to +0.30)" in said
    assert "do not tell" in answer.watch(early.head(0), saved)


def test_a_study_in_the_papers_regime_is_told_by_both_readings():
    rows = {"regret": [0.01, 0.02], "low": [-0.01, 0.0], "high": [0.03, 0.035], "trajectories": [45, 45]}
    tests = {"p zero": [0.3, 0.2], "p margin": [1.0, 1.0], "p below": [0.01, 0.02]}
    regrets = pd.DataFrame(rows | tests, index=["as measured", "brevity-robust"])
    said = answer.regime(regrets, pd.Series([0.51, 0.77]))
    assert "accuracy 0.51 to 0.77" in said
    assert "over 45 trajectories" in said
    assert said.endswith("By both readings it is below 0.04.")
    assert answer.regime(regrets.assign(**{"p below": 0.2}), pd.Series([0.5])).endswith("shown neither above 0 nor below 0.04.")
