"""The verdict's rule on worlds whose truth is known, and what it says of them."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import comparison, outcomes, phrases, statistics, verdict
from tests.worlds import ACCURACIES, TASKS, decide, flat, inverted_u, named, nested, rising, world

# --- the rule ---


@pytest.mark.parametrize("reading", ["as measured", "as published"])
@pytest.mark.parametrize(("curve", "status"), [(inverted_u, "supported"), (rising, "not supported")])
def test_known_worlds_get_the_right_verdict(curve, status, reading):
    found = decide(world(curve, rm_seeds=5), reading)
    assert found.status == status
    assert [finding.status for finding in found.findings] == [status] * 3
    assert [finding.of.task for finding in found.findings] == list(TASKS)
    assert found.headline.lower().startswith(status)
    assert "one rank common to all tasks" in found.headline
    assert found.primary.within == status
    assert "common" not in decide(world(curve, rm_seeds=5, tasks=TASKS[:1]), reading).headline
    assert found.primary.of.task == comparison.ALL
    assert found.primary.of.counts.rm_seeds == 15
    assert {finding.inverted_u for finding in found.findings} == {found.primary.inverted_u} == {curve is inverted_u}


def test_a_flat_world_is_not_supported_where_noise_is_small_and_undecided_where_it_is_not():
    assert decide(world(flat, rm_seeds=5, noise=0.01)).status == "not supported"
    assert decide(world(flat, rm_seeds=5, noise=0.12)).status == "undecided"


@pytest.mark.parametrize("curve", [flat, rising])
def test_no_false_alarm_in_repeated_studies(curve):
    summaries = [world(curve, rm_seeds=3, noise=0.05, seed=seed) for seed in range(12)]
    statuses = [verdict.pooled(summary, resamples=1)[0].status for summary in summaries]
    assert statuses.count("supported") <= 1  # at the nominal 2.5 %, 2 or more come in 4 % of the cases


def test_one_seed_is_undecided_and_says_what_is_missing():
    quick = world(inverted_u, rm_seeds=1, ppo_seeds=1, accuracies=(0.50, 0.70, 0.80, 0.92), noise=0.001)
    found = decide(quick)
    first = found.findings[0]
    assert {finding.status for finding in found.findings} == {found.status} == {"undecided"}
    assert first.missing == (
        "4 distinct reward-model accuracies (5 are needed)",
        "1 complete reward-model trajectory (3 are needed)",
        "1 PPO seed (3 are needed)",
    )
    said = verdict.sentence(first)
    assert all(part in said for part in first.missing)
    assert f"{first.of.spearman.estimate:.2f}" in said
    assert "nan" not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ppo_seeds": 2}, "2 PPO seeds"),
        ({"rm_seeds": 2}, "2 complete reward-model trajectories"),
        ({"accuracies": (0.6, 0.7, 0.8, 0.9)}, "4 distinct reward-model accuracies"),
    ],
)
def test_each_minimum_alone_withholds_the_verdict(change, words):
    found = decide(world(inverted_u, noise=0.001, **change))
    assert found.findings[0].status == "undecided"
    assert found.findings[0].missing == (f"{words} ({5 if 'accuracies' in change else 3} are needed)",)


def test_bunched_accuracies_do_not_count_as_distinct():
    bunched = world(flat).assign(rm_accuracy=lambda t: 0.9 + t["rm_step"] / 1e5)
    assert decide(bunched).findings[0].of.counts.accuracies == 1


def test_the_verdict_is_that_of_all_tasks_together():
    mixed = pd.concat([world(inverted_u, rm_seeds=5, tasks=TASKS[:1]), world(rising, rm_seeds=5, tasks=TASKS[1:])])
    found = decide(mixed)
    assert [finding.status for finding in found.findings] == ["supported", "not supported", "not supported"]
    assert found.status == found.primary.status == "undecided"


def test_policies_that_share_reward_models_are_one_unit():
    small = world(rising, rm_seeds=5, tasks=TASKS[:1])
    both = pd.concat([small, small.assign(policy="large", lm_performance_final=small["lm_performance_final"] + 0.1)])
    found = decide(both)
    assert len(found.findings) == 2
    assert found.primary.of.counts.rm_seeds == 5
    assert found.primary.of.policy == "atlas-t5, large"
    assert found.primary.of.regret.estimate == pytest.approx(decide(small).primary.of.regret.estimate)


def test_nested_seeds_are_compared_within_a_trajectory():
    made = world(inverted_u, rm_seeds=5, ppo_seeds=1)
    nested = made.assign(ppo_seed=made["rm_seed"])
    found = decide(nested)
    assert found.status == "supported"
    assert found.primary.of.counts.ppo_seeds == 5


def test_other_routes_are_compared_by_their_settings_and_do_not_decide():
    steps, other = (world(curve, rm_seeds=5, tasks=TASKS[:1]) for curve in (rising, inverted_u))
    noise = other.assign(
        route="label-noise", arm="label-noise", setting=other["rm_step"].map("label_noise={}".format), rm_step=160
    )
    found = decide(pd.concat([steps, noise]))
    assert found.status == "not supported"
    assert {(f.of.arm, f.status) for f in found.findings} == {("steps", "not supported"), ("label-noise", "supported")}
    assert {f.of.arm: f.status for f in verdict.pooled(pd.concat([steps, noise]), resamples=30)} == {
        "steps": "not supported",
        "label-noise": "supported",
    }


def known(curve, arm, seed):
    return named(nested(curve, rm_seeds=4, tasks=TASKS[:1], seed=seed), arm)


def test_known_truths_are_told_by_their_runs_and_not_by_their_names():
    paradox, monotone = known(inverted_u, "known-paradox", 1), known(rising, "known-monotone", 2)
    others = pd.concat([nested(flat, rm_seeds=3), paradox.assign(arm="dial")])
    found = verdict.known_truths(pd.concat([others, paradox, monotone]))
    assert {name: v.status for name, v in found.items()} == {"known-paradox": "supported", "known-monotone": "not supported"}
    renamed = {"known-paradox": "known-monotone", "known-monotone": "known-paradox"}
    swapped = verdict.known_truths(pd.concat([t.replace({"arm": renamed}) for t in (paradox, monotone)]))
    assert {name: repr(v) for name, v in swapped.items()} == {renamed[name]: repr(v) for name, v in found.items()}
    assert {f.of.arm for v in found.values() for f in (v.primary, *v.findings)} == {verdict.PRIMARY}
    assert not any("known" in v.headline + verdict.sentence(v.primary) for v in found.values())


def test_a_known_truth_without_a_finished_run_is_left_out():
    runs = [known(rising, "known-monotone", 2).assign(status="failed"), nested(flat, rm_seeds=1)]
    assert verdict.known_truths(pd.concat(runs)) == {}


def test_selection_is_on_validation_questions_and_payment_on_test_questions():
    made = world(flat, rm_seeds=4, ppo_seeds=1, noise=0.0, tasks=("relevance",))
    made["lm_performance_final"] = 0.5 + (made["rm_step"] == 80) * 0.3
    made[outcomes.VALIDATION] = 0.5 + (made["rm_step"] == 40) * 0.3  # validation prefers another
    found = decide(made).primary.of
    assert (found.regret.estimate, found.further.chosen.estimate) == (0, 0)
    assert found.regret.high == pytest.approx(0.3)


def test_holm_withholds_what_one_test_alone_would_grant():
    several = [decide(world(lambda a: inverted_u(a) * 0.5 + 0.4, rm_seeds=3, noise=0.018, seed=s)) for s in range(3)]
    findings = [f for found in several for f in found.findings]
    assert any(f.of.p_above <= verdict.ALPHA and f.status == "undecided" for f in findings)
    supported = [f for f in findings if f.status == "supported"]
    assert all(f.p_above <= verdict.ALPHA and f.of.regret.low > verdict.MARGIN for f in supported)


def test_controls_do_not_enter():
    made = world(rising, rm_seeds=3)
    dial = made.head(5).assign(route="dial", arm="dial", rm_step=np.nan, rm_seed=np.nan, lm_performance_final=1.0)
    assert repr(decide(pd.concat([made, dial])).findings) == repr(decide(made).findings)
    alone = decide(dial)
    assert (alone.status, alone.findings) == ("undecided", ())
    assert "no PPO runs of an arm called steps" in alone.headline


# --- what did not finish ---


def test_of_equal_accuracies_the_later_step_is_the_most_accurate():
    made = world(flat, rm_seeds=1, ppo_seeds=1, tasks=("relevance",)).assign(rm_accuracy=0.7)
    made["lm_performance_final"] = 0.5 + made["rm_step"] / 1000  # the last step is the best, and counts as the most accurate
    assert outcomes.contrasts(made).loc[0].max() == 0


def test_failed_diverged_and_blocked_runs_are_counted_and_said():
    made = world(inverted_u, rm_seeds=4, tasks=("relevance",))
    made.loc[0, ["status", "reason"]] = ["diverged", "KL"]  # keeps its performance
    lost = made.index[(made["rm_seed"] == 3) & (made["rm_step"] == 200)]
    made.loc[lost, "status"] = ["failed", "blocked", "diverged"]
    made.loc[lost, "ended"] = [True, False, True]
    made.loc[lost, ["lm_performance_final", "rm_accuracy"]] = np.nan
    found = decide(made)
    assert phrases.run_counts(made) == (
        "68 of 72 PPO runs finished; 2 diverged (1 with a performance at its end, which counts), 1 failed, 1 not started."
    )
    finding = found.findings[0]
    counts = finding.of.counts
    assert (counts.rm_seeds, counts.reward_models, counts.planned, counts.lost) == (3, 23, 24, 1)
    assert "23 pairs of reward model and policy of 24" in verdict.sentence(finding)
    assert [missing[:29] for missing in finding.missing] == ["1 planned run has not ended, "]
    ended = decide(made.assign(ended=True))
    assert ended.findings[0].missing == ()
    for text in (verdict.sentence(finding), found.headline, verdict.sentence(ended.findings[0])):
        assert "1 trajectory is left out as incomplete." in text


@pytest.mark.parametrize(
    ("status", "ended"),
    [("blocked", False), ("blocked", True), ("running", False), ("failed", False), ("failed", True), ("diverged", True)],
)
def test_a_run_that_the_next_call_would_go_on_with_leaves_its_comparison_open(status, ended):
    made = world(flat, rm_seeds=4, tasks=("relevance",))
    made.loc[0, ["status", "ended", "lm_performance_final"]] = [status, ended, np.nan]
    finding = decide(made).findings[0]
    assert finding.of.counts.unfinished == int(not ended)
    assert any("interim state" in missing for missing in finding.missing) is not ended


def test_the_regret_is_told_without_the_trajectory_that_weighs_most():
    made = nested(inverted_u, rm_seeds=5)
    odd = made.index[(made["task"] == "factuality") & (made["rm_seed"] == 2) & (made["rm_step"] < 200)]
    made.loc[odd, "lm_performance_final"] += 0.6
    of = decide(made).primary.of
    assert of.further.odd == "factuality 2"
    of_one = decide(made[made["task"] == "relevance"]).primary
    assert of_one.within == of_one.status == "supported"
    rest = made.drop(made.index[(made["task"] == "factuality") & (made["rm_seed"] == 2)])
    assert of.further.without == decide(rest).primary.of.regret
    said = f"The regret is {of.regret.estimate:.3f} (95 % interval {of.regret.low:.3f} to {of.regret.high:.3f}) over 15 "
    assert said in verdict.sentence(decide(made).primary)


def test_runs_are_decided_together_and_by_policy_and_task():
    bent, straight = nested(inverted_u, rm_seeds=5), nested(rising, rm_seeds=5)
    runs = pd.concat([bent, straight.assign(policy="second", id=straight["id"] + "-second")], ignore_index=True)
    found = verdict.decided(runs)
    assert found.index.tolist() == ["all", "atlas-t5", "second", *TASKS]
    alone = verdict.alone(runs, "policy") | verdict.alone(runs, "task")
    assert found["status"].to_dict() == {"all": decide(runs).status} | {name: f.status for name, f in alone.items()}
    own = {"atlas-t5": decide(bent).primary, "second": decide(straight).primary}
    for policy, first in own.items():
        regret = first.of.regret
        assert found.loc[policy].tolist() == [regret.estimate, regret.low, regret.high, first.status]
    assert [first.status for first in own.values()] == ["supported", "not supported"]
    assert verdict.decided(runs.assign(rm_seed=np.nan)).empty


def test_what_is_too_little_alone_is_not_counted():
    few = world(rising, rm_seeds=4, tasks=TASKS[:1], accuracies=ACCURACIES[:4])
    made = pd.concat([few, world(rising, rm_seeds=4, tasks=TASKS[1:])], ignore_index=True)
    first, *others = verdict.alone(made, "task").values()
    assert first.missing
    assert [f.p_below for f in others] == statistics.holm([f.of.p_below for f in others])


def test_tasks_with_other_numbers_of_reward_models_are_not_pooled_and_the_sentence_says_so():
    few = world(rising, rm_seeds=4, tasks=TASKS[:1], accuracies=(0.6, 0.68, 0.74, 0.8, 0.86))
    made = pd.concat([few, world(rising, rm_seeds=4, tasks=TASKS[1:])], ignore_index=True)
    found = decide(made)
    assert found.primary.of.counts.uneven
    assert found.status == "undecided"
    assert "the same number of reward models in every task and policy" in found.headline


def test_trajectories_with_few_finished_reward_models_have_no_shape():
    made = nested(rising, rm_seeds=3, tasks=TASKS[:1])
    made.loc[made.index[(made["rm_seed"] > 0) & (made["rm_step"] > 0)], "lm_performance_final"] = np.nan
    c = decide(made).findings[0].of
    assert np.isnan(c.quadratic.turning_point)
    assert not c.quadratic.turns_inside


def test_failed_rows_with_a_number_do_not_count():
    made = world(flat, rm_seeds=3, tasks=("relevance",))
    assert not outcomes.usable(made.assign(status="failed")).any()
    assert not outcomes.usable(made.assign(lm_performance_final=np.inf)).any()
    nothing = decide(pd.concat([made.assign(status="failed"), made.assign(task="factuality", rm_step=0.0)]))
    assert all("no run against a measured reward model finished" in verdict.sentence(f) for f in nothing.findings)


def test_without_clean_labels_the_noisy_accuracy_stands_in():
    made = world(rising, rm_seeds=3)
    found = decide(made.assign(rm_accuracy=np.nan))
    assert outcomes.accuracy_kind(made.assign(rm_accuracy=np.nan)) == "rm_accuracy_noisy"
    assert found.primary.of.regret == decide(made).primary.of.regret


def test_rule_names_its_constants():
    for constant in (verdict.MARGIN, verdict.MIN_ACCURACIES, verdict.MIN_RM_SEEDS, verdict.ALPHA):
        assert str(constant) in verdict.RULE
