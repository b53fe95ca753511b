"""The first page says in plain words what a study decides and measures."""

import pandas as pd
import pytest

from paradox_utils.analysis import answer
from tests.worlds import TASKS, decide, flat, inverted_u, nested, rising


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("curve", "seeds", "opening", "advice"),
    [
        (rising, 5, "Yes, on", "On average, prefer"),
        (inverted_u, 5, "No, on", "Compare"),
        (flat, 2, "Undecided", "Choose by more"),
    ],
)
def test_the_answer_follows_the_verdict(curve, seeds, opening, advice):
    decision = decide(nested(curve, rm_seeds=seeds))
    said = answer.answer(decision, 90)
    assert said.startswith(opening)
    assert answer.advice(decision).startswith(advice)
    if seeds == 5:
        regret = decision.primary.of.regret
        assert "In 90 PPO runs on 15 trainings of reward models, " in said
        assert f"{regret.high:.3f}" in said
    else:
        assert said == decision.headline


@pytest.mark.heavy
def test_the_caveat_has_the_cost_with_a_rank_for_each_task():
    decision = decide(nested(rising, rm_seeds=5))
    within = decision.primary.of.further.within
    assert f"to {abs(within.high):.3f}): {decision.primary.within}." in answer.caveat(decision).replace("to −", "to ")
    assert "average" in answer.caveat(decide(nested(flat).assign(arm="other")))


@pytest.mark.heavy
def test_what_the_study_would_have_seen():
    rates = {"supported": 0.123, "not supported": 0.04}
    found = decide(nested(rising, rm_seeds=3))
    high = found.primary.of.regret.high
    inside = answer.powered(found, 0.033, rates, 0.042)
    assert "in 4% of studies" in inside
    assert inside.endswith(f"{'below' if high < 0.033 else 'above'} it, at {high:.3f}.")
    assert "supported in 12.3% of studies" in answer.powered(found, 0.1, rates, 0.042)
    assert "supported in 12.3% of studies" in answer.powered(decide(nested(inverted_u, rm_seeds=3)), 0.033, rates, 0.042)
    assert "do not tell" in answer.powered(found, 0.033, dict.fromkeys(rates, float("nan")), 0.042)


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


def test_hacked_policies_of_the_study_are_told_by_third_of_accuracies():
    rows = [("steps", 0, True), ("steps", 0, True), ("steps", 2, True), ("steps", 1, False), ("constant", 0, True)]
    turns = pd.DataFrame([*rows, ("steps", 1, None)], columns=["arm", "third", "hacked"])
    said = answer.struck(turns)
    assert said.startswith("Of these 4 policies 3 are hacked: 2 with reward models of the least accurate third and 1 with")
    assert answer.struck(turns.assign(hacked=False)) == "Of these 5 policies none are hacked."
    assert answer.struck(turns.assign(hacked=None)) == ""
