"""The verdict's rule on worlds whose truth is known, and what it says of them."""

import re

import numpy as np
import pandas as pd
import pytest

from paradox_utils import results
from paradox_utils.analysis import comparison, tables, verdict
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
    assert found.primary.of.task == comparison.ALL
    assert found.primary.of.rm_seeds == 15
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
    assert all(part in found.plain for part in first.missing)
    first = first.of
    rows = quick[quick["task"] == first.task]
    assert first.step_best == "80"
    assert first.regret_after_the_fact == pytest.approx(
        rows["lm_performance_final"].max() - rows["lm_performance_final"].iloc[-1]
    )
    assert f"a regret of {first.regret_after_the_fact:.3f}" in found.plain
    assert f"{first.spearman:.2f}" in found.plain


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
    assert decide(bunched).findings[0].of.accuracies == 1


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
    assert found.primary.of.rm_seeds == 5
    assert found.primary.of.policy == "atlas-t5, large"
    assert found.primary.of.regret == pytest.approx(decide(small).primary.of.regret)


def test_nested_seeds_are_compared_within_a_trajectory():
    made = world(inverted_u, rm_seeds=5, ppo_seeds=1)
    nested = made.assign(ppo_seed=made["rm_seed"])
    found = decide(nested)
    assert found.status == "supported"
    assert found.primary.of.ppo_seeds == 5


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
    found = verdict.known_truths(pd.concat([others, paradox, monotone]), resamples=30)
    assert {name: v.status for name, v in found.items()} == {"known-paradox": "supported", "known-monotone": "not supported"}
    renamed = {"known-paradox": "known-monotone", "known-monotone": "known-paradox"}
    swapped = verdict.known_truths(pd.concat([t.replace({"arm": renamed}) for t in (paradox, monotone)]), resamples=30)
    assert {name: repr(v) for name, v in swapped.items()} == {renamed[name]: repr(v) for name, v in found.items()}
    assert {f.of.arm for v in found.values() for f in (v.primary, *v.findings)} == {verdict.PRIMARY}
    assert not any("known" in v.plain for v in found.values())


def test_a_known_truth_without_a_finished_run_is_left_out():
    runs = [known(rising, "known-monotone", 2).assign(status="failed"), nested(flat, rm_seeds=1)]
    assert verdict.known_truths(pd.concat(runs)) == {}


def test_selection_is_on_validation_questions_and_payment_on_test_questions():
    made = world(flat, rm_seeds=4, ppo_seeds=1, noise=0.0, tasks=("relevance",))
    made["lm_performance_final"] = 0.5 + (made["rm_step"] == 80) * 0.3
    made[tables.VALIDATION] = 0.5 + (made["rm_step"] == 40) * 0.3  # validation prefers another
    found = decide(made).primary.of
    assert (found.regret, found.chosen, found.regret_after_the_fact) == (0, 0, pytest.approx(0.3))


def test_holm_withholds_what_one_test_alone_would_grant():
    several = [decide(world(lambda a: inverted_u(a) * 0.5 + 0.4, rm_seeds=3, noise=0.018, seed=s)) for s in range(3)]
    findings = [f for found in several for f in found.findings]
    assert any(f.of.p_above <= verdict.ALPHA and f.status == "undecided" for f in findings)
    supported = [f for f in findings if f.status == "supported"]
    assert all(f.p_above <= verdict.ALPHA and f.of.low > verdict.SMALLEST_EFFECT for f in supported)


def test_controls_do_not_enter():
    made = world(rising, rm_seeds=3)
    dial = made.head(5).assign(route="dial", arm="dial", rm_step=np.nan, rm_seed=np.nan, lm_performance_final=1.0)
    assert repr(decide(pd.concat([made, dial])).findings) == repr(decide(made).findings)
    alone = decide(dial)
    assert (alone.status, alone.findings) == ("undecided", ())
    assert "no PPO runs against the checkpoints" in alone.text


# --- what did not finish ---


def test_of_equal_accuracies_the_later_step_is_the_most_accurate():
    made = world(flat, rm_seeds=1, ppo_seeds=1, tasks=("relevance",)).assign(rm_accuracy=0.7)
    assert decide(made).findings[0].of.step_top == "200"


def test_failed_diverged_and_blocked_runs_are_counted_and_said():
    made = world(inverted_u, rm_seeds=4, tasks=("relevance",))
    made.loc[0, ["status", "reason"]] = ["diverged", "KL"]  # keeps its performance
    lost = made.index[(made["rm_seed"] == 3) & (made["rm_step"] == 200)]
    made.loc[lost, "status"] = ["failed", "blocked", "diverged"]
    made.loc[lost, ["lm_performance_final", "rm_accuracy"]] = np.nan
    found = decide(made)
    assert (
        "68 of 72 PPO runs finished; 2 diverged (1 with a performance at its end, which counts), 1 failed, 1 not started"
        in found.text
    )
    finding = found.findings[0]
    assert (finding.of.rm_seeds, finding.of.reward_models, finding.of.planned) == (3, 23, 24)
    assert "23 reward models of 24" in found.plain
    assert [missing[:29] for missing in finding.missing] == ["1 planned run has not ended, "]
    ended = decide(made.replace({"status": {"blocked": "failed"}}))
    assert ended.findings[0].missing == ()
    for text in (found.plain, found.headline, ended.plain):
        assert "1 trajectory is left out as incomplete." in text


@pytest.mark.parametrize(
    ("status", "reason", "open_end"),
    [
        ("blocked", "was not started", True),
        ("blocked", "needs reward_model-1 (reward model relevance)", True),
        ("blocked", f"needs reward_model-1 (reward model relevance), {results.NEED_FAILED}", False),
        ("running", "a job is still at it", True),
        ("failed", f"{results.KILLED}; see log.txt", True),
        ("failed", "ValueError: nothing to learn from", False),
        ("diverged", "KL", False),
    ],
)
def test_a_run_that_the_next_call_would_go_on_with_leaves_its_comparison_open(status, reason, open_end):
    made = world(flat, rm_seeds=4, tasks=("relevance",))
    made.loc[0, ["status", "reason", "lm_performance_final"]] = [status, reason, np.nan]
    finding = decide(made).findings[0]
    assert tables.unended(made).sum() == finding.of.unfinished == int(open_end)
    assert any("interim state" in missing for missing in finding.missing) == open_end


def test_the_pooled_sentence_tells_each_task_and_the_trajectory_that_weighs_most():
    made = nested(inverted_u, rm_seeds=5)
    odd = made.index[(made["task"] == "factuality") & (made["rm_seed"] == 2) & (made["rm_step"] < 200)]
    made.loc[odd, "lm_performance_final"] += 0.6
    first, *points = decide(made).text.splitlines()[2:]
    c = decide(made).primary.of
    assert first.startswith("- *all tasks* (atlas-t5): **")
    assert f"the regret is {c.regret:.3f} (95 % interval {c.low:.3f} to {c.high:.3f}, over 15 trajectories)" in first
    assert c.odd == "factuality 2"
    assert points[0].startswith(f"  - Without the trajectory that changes it most (factuality 2) it is {c.without:.3f} (")
    own = [(f.of, f.status) for f in decide(made).findings]
    each = (f"{c.task} {c.regret:.3f} ({c.low:.3f} to {c.high:.3f}, {status})" for c, status in own)
    assert points[-1].startswith(f"  - By task: {', '.join(each)}. Each status is corrected for there being 3")  # one policy
    alone = decide(made.drop(made.index[(made["task"] == "factuality") & (made["rm_seed"] == 2)])).primary.of
    assert (c.without, c.without_low, c.without_high) == pytest.approx((alone.regret, alone.low, alone.high))


def test_each_policy_alone_is_told_where_there_are_several():
    bent = nested(inverted_u, rm_seeds=5)
    straight = nested(rising, rm_seeds=5).assign(policy="second", id=lambda rows: rows["id"] + "-second")
    *_, by_task, by_policy = decide(pd.concat([bent, straight], ignore_index=True)).text.splitlines()
    assert by_task.startswith("  - By task, policies together: relevance ")
    assert by_policy.startswith("  - By policy, tasks together: ")
    first, second = (decide(own).primary for own in (bent, straight))
    for found, policy in ((first, bent["policy"].iloc[0]), (second, "second")):
        assert f"{policy} {found.of.regret:.3f} ({found.of.low:.3f} to {found.of.high:.3f}, {found.status})" in by_policy
    assert [first.status, second.status] == ["supported", "not supported"]


def test_what_is_too_little_alone_says_so_and_is_not_counted():
    few = world(rising, rm_seeds=4, tasks=TASKS[:1], accuracies=ACCURACIES[:4])
    made = pd.concat([few, world(rising, rm_seeds=4, tasks=TASKS[1:])], ignore_index=True)
    assert verdict.alone(made, "task")[TASKS[0]].missing
    said = verdict._each(made, "task", "as measured")
    assert "undecided: too little), factuality" in said
    assert said.endswith("Each status is corrected for there being 2, the intervals are not.")


def test_tasks_with_other_numbers_of_reward_models_are_not_pooled_and_the_sentence_says_so():
    few = world(rising, rm_seeds=4, tasks=TASKS[:1], accuracies=(0.6, 0.68, 0.74, 0.8, 0.86))
    made = pd.concat([few, world(rising, rm_seeds=4, tasks=TASKS[1:])], ignore_index=True)
    found = decide(made)
    assert found.primary.of.uneven
    assert found.status == "undecided"
    assert "the same number of reward models in every task and policy" in found.headline


def test_trajectories_with_few_finished_reward_models_have_no_shape():
    made = nested(rising, rm_seeds=3, tasks=TASKS[:1])
    made.loc[made.index[(made["rm_seed"] > 0) & (made["rm_step"] > 0)], "lm_performance_final"] = np.nan
    c = decide(made).findings[0].of
    assert np.isnan(c.turning_point)
    assert not c.turns_inside


def test_failed_rows_with_a_number_do_not_count():
    made = world(flat, rm_seeds=3, tasks=("relevance",))
    assert not tables.usable(made.assign(status="failed")).any()
    assert not tables.usable(made.assign(lm_performance_final=np.inf)).any()
    nothing = decide(pd.concat([made.assign(status="failed"), made.assign(task="factuality", rm_step=0.0)]))
    assert "no run against a measured reward model finished" in nothing.plain


def test_without_clean_labels_the_noisy_accuracy_stands_in_and_is_named():
    found = decide(world(rising, rm_seeds=3).assign(rm_accuracy=np.nan))
    assert found.findings[0].of.accuracy_kind == "rm_accuracy_noisy"
    assert "accuracy against the annotators' labels" in found.plain


# --- words and tables ---


@pytest.mark.parametrize("curve", [inverted_u, rising, flat])
def test_texts_are_plain(curve):
    found = decide(world(curve, rm_seeds=3))
    assert not re.search(r"np\.|nan|float64|inf\b", found.plain)
    assert "*" not in found.plain
    assert found.plain.startswith(found.headline)


def test_table_and_numbers_repeat_the_findings():
    made = world(inverted_u, tasks=("relevance", "factuality"), rm_seeds=3)
    found = decide(made)
    table = verdict.table(found.findings)
    assert list(table["regret"]) == [finding.of.regret for finding in found.findings]
    assert list(table["status"]) == [finding.status for finding in found.findings]
    values = verdict.numbers(found, made)
    of = found.primary.of
    assert [values["regret"], values["regret-low"], values["regret-high"]] == [of.regret, of.low, of.high]
    assert np.isnan(verdict.numbers(decide(made.assign(arm="exact")), made)["regret"])
    assert (values["status"], values["verdict"]) == (found.status, found.headline)
    assert values["runs"] == "108 PPO runs of the study made"
    assert {type(value) for value in values.values()} <= {float, int, str}


def test_every_reading_the_runs_have_is_tabled():
    made = world(inverted_u, rm_seeds=3, tasks=TASKS[:1]).assign(lm_performance_matched=lambda t: t["lm_performance_final"])
    table = verdict.readings_table(made)
    named = ["as measured", "as published", "best on validation", "at matched KL", "true return"]
    assert table["reading"].tolist() == named
    assert table["task"].tolist() == ["all tasks"] * 4 + ["relevance"]
    assert (table["status"] == "").tolist() == [False, False, False, True, True]  # no margin for them, or too coarse
    both = world(inverted_u, rm_seeds=3, tasks=TASKS[:2])
    returns = verdict.readings_table(both).set_index("reading").loc[["true return"], "task"]
    assert returns.tolist() == list(TASKS[:2])  # each in its own units


def test_rule_names_its_constants():
    for constant in (verdict.SMALLEST_EFFECT, verdict.MIN_ACCURACIES, verdict.MIN_RM_SEEDS, verdict.ALPHA):
        assert str(constant) in verdict.RULE
