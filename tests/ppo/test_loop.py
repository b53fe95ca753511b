"""PPO runs on policies of a few thousand weights: that they learn and repeat themselves, and how they end."""
# ruff: noqa: F811 (the fixture `settings` is imported)

import math

import numpy as np
import pandas as pd
import pytest
import torch

from paradox_utils import config, files
from paradox_utils.policies.passes import forward, grid
from paradox_utils.ppo import loop, objective, ppo
from paradox_utils.rewards.judges import Centre, Ensemble, model_judge, reward_function
from paradox_utils.rewards.model import load_scorer
from paradox_utils.stages.ppo import load_actors
from tests.policies.test_prompts import KINDS
from tests.ppo.test_ppo import (  # noqa: F401 (folders and settings are fixtures)
    LLAMA,
    NEVER,
    T5,
    count,
    flatten,
    folders,
    rolled_out,
    run,
    settings,
    unchanged,
    weights,
)
from tests.rewards.test_placement import RIGHT, atlas_tokenizer, respond, tokens

# --- the run ------------------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_another(settings):
    p = settings(preset="as-published", max_gradient_norm=1.0)  # with dropout, which draws random numbers too
    first, again, other = (run(p.model_copy(update={"seed": seed})) for seed in (0, 0, 1))
    columns = [column for column in first.curve if column != "seconds"]
    pd.testing.assert_frame_equal(first.curve[columns], again.curve[columns], check_exact=True)
    assert all(torch.equal(weight, again.best[name]) for name, weight in first.best.items())
    assert (first.curve["reward_mean"].dropna() != other.curve["reward_mean"].dropna()).any()


@pytest.mark.heavy
def test_how_often_the_run_is_evaluated_changes_nothing_else(settings):
    often, seldom = (run(settings(updates=4, dropout_in_updates=0.3, evaluate_every=every)) for every in (1, 4))
    columns = ["reward_mean", "kl", "policy_loss", "value_loss", "gradient_norm"]
    pd.testing.assert_frame_equal(often.curve[columns], seldom.curve[columns], check_exact=True)
    assert often.curve["lm_performance"].notna().tolist() == [True] * 5
    assert seldom.curve["lm_performance"].notna().tolist() == [True, False, False, False, True]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (T5, {}),
        (T5, {"preset": "as-published"}),
        (T5, {"value_model": "shared", "precision": "bfloat16"}),
        (LLAMA, {"precision": "bfloat16"}),
        (LLAMA, {"value_model": "shared"}),
    ],
)
def test_it_learns_what_is_rewarded(settings, kind, changes):
    p = settings(kind, updates=8, evaluate_every=NEVER, learning_rate=2e-2, decay=False, samples_per_prompt=8, **changes)
    actors = load_actors(p)
    outcome = run(p, actors)
    earned = outcome.curve["reward_mean"]
    assert outcome.status == "ok"
    assert earned.iloc[0] < 0.5
    assert earned.iloc[-2:].mean() > 2.0
    assert {weight.dtype for weight in actors.policy.parameters()} == {torch.float32}
    assert outcome.curve["kl"].iloc[-1] > 0.1
    some = outcome.curve.drop(columns=["lm_performance", "disagreement"])  # one evaluation, and one reward model
    assert np.isfinite(some.iloc[:-1].to_numpy()).all()


@pytest.mark.heavy
def test_without_a_reward_the_penalty_leads_a_strayed_policy_back(settings):
    p = settings(updates=10, samples_per_prompt=8, evaluate_every=NEVER, kl_coefficient=1.0)
    actors = load_actors(p)
    flatten(actors.policy)
    kl = run(p, actors, reward=lambda responses: torch.zeros(responses.ids.shape)).curve["kl"]
    assert kl.iloc[-3:].mean() < 0.5 * kl.iloc[0]


@pytest.mark.heavy
def test_no_updates_report_the_start(settings):
    p = settings(updates=0)
    actors = load_actors(p)
    before = weights(actors.policy)
    outcome = run(p, actors, evaluate=lambda: {"lm_performance": 0.25})
    assert (outcome.status, outcome.reason, outcome.finite) == ("ok", "", True)
    assert outcome.curve["lm_performance"].tolist() == [0.25]
    assert outcome.curve["reward_mean"].notna().tolist() == [True]
    assert outcome.curve[["policy_loss", "value_loss", "gradient_norm", "learning_rate"]].isna().all().all()
    assert unchanged(actors.policy, before)
    assert all(torch.equal(weight, before[name]) for name, weight in outcome.best.items())


def shifted(by, start=-1):
    """Pays one for every `c`, less ``by`` at the ends of responses from the row ``start`` on."""

    def reward(responses):
        ends = torch.nn.functional.one_hot(responses.mask.sum(1) - 1, responses.ids.shape[1])
        return count(responses) - by * ends * (torch.arange(len(ends)) >= start)[:, None]

    return reward


@pytest.mark.heavy
def test_reward_models_that_only_watch_change_nothing_but_the_disagreement(settings):
    plain = run(settings())
    watched = run(settings(), reward=Ensemble((count, shifted(2.0), shifted(math.nan)), least=False))
    apart = watched.curve.drop(columns=["seconds", "disagreement"])
    pd.testing.assert_frame_equal(plain.curve[list(apart)], apart, check_exact=True)
    assert plain.curve["disagreement"].isna().all()
    assert watched.curve["disagreement"].isna().all()  # one that broke says nothing, and ends no run that it does not pay
    agreed = run(settings(), reward=Ensemble((count, count), least=False)).curve["disagreement"]
    assert agreed.tolist() == [0.0] * 4


@pytest.mark.heavy
def test_reward_models_that_pay_together_pay_the_least_and_their_range_is_recorded(settings):
    p = settings(task="completeness", reward_size=0.5)
    members = (count, shifted(1.0), shifted(-2.0, start=2))  # the last pays two more, from the third response on
    rollout = rolled_out(p, load_actors(p), Ensemble(members, least=True))
    assert torch.equal(rollout.rewards, shifted(1.0)(rollout.responses))
    assert torch.equal(rollout.each, torch.stack([member(rollout.responses) for member in members]))
    rows = len(rollout.rewards)
    seen = loop.observe(p, load_actors(p).tokenizer, rollout)
    assert seen["disagreement"] == pytest.approx((2 * 1 + (rows - 2) * 3) / rows / 0.5)
    curve = run(p, reward=Ensemble(members, least=True)).curve
    assert curve["disagreement"].iloc[0] == pytest.approx(seen["disagreement"])
    assert curve["reward_mean"].iloc[0] == pytest.approx(float(rollout.rewards.sum(1).mean()))
    broken = run(p, reward=Ensemble((count, shifted(math.nan)), least=True))
    assert (broken.status, broken.curve["disagreement"].isna().all()) == ("diverged", True)


def test_what_is_seen_of_a_rollout_by_hand():
    tokenizer = atlas_tokenizer()
    texts = [f"{RIGHT} {RIGHT}", "the founder of the founder", "of", ""]  # segments: 4, 1, 1, 0; repeated: 12 of 25, 1 of 4
    rows = [tokens(tokenizer, text, end=text != "of") for text in texts]
    responses = respond(tokenizer, None, rows)
    mask = responses.mask.float()
    seen = loop.observe(config.PPO(), tokenizer, loop.Rollout(responses, *[mask] * 6))
    assert seen == pytest.approx({"segments": 6 / 4, "repetition": (12 / 25 + 1 / 4) / 4, "sampled_unfinished": 1 / 4})


def test_the_best_weights_are_those_of_the_best_evaluation(settings):
    p = settings(updates=5, evaluate_every=2)
    actors = load_actors(p)
    scores, stages = iter([0.1, 0.9, 0.9, 0.4]), []

    def evaluate():
        stages.append(weights(actors.policy))
        return {"lm_performance": next(scores)}

    outcome = run(p, actors, evaluate=evaluate)
    assert outcome.curve.dropna(subset=["lm_performance"])["update"].tolist() == [0, 2, 4, 5]  # every second, and the last
    assert all(torch.equal(weight, stages[1][name]) for name, weight in outcome.best.items())  # of equals the earlier
    assert not unchanged(actors.policy, outcome.best)
    assert outcome.curve["update"].tolist() == list(range(6))
    assert list(outcome.curve) == [*loop.BEFORE, *ppo.COLUMNS, *loop.AFTER]


# --- divergence ---------------------------------------------------------------------------------------------------------------


def test_the_kl_rule_counts_rollouts_in_all_and_stops_after_the_last(settings, monkeypatch):
    kls = iter([3.0, 1.0, 3.0, 1.0, 3.0, 3.0])  # exactly 1.0 does not exceed it
    real = loop.measure
    monkeypatch.setattr(loop, "measure", lambda rollout: real(rollout) | {"kl": next(kls)})
    outcome = run(settings(updates=8, kl_stop=1.0, kl_stop_count=3, evaluate_every=NEVER))
    assert outcome.status == "diverged"
    assert outcome.reason == "the summed KL exceeded 1 in 3 rollouts, the last at update 4"
    assert outcome.curve["update"].tolist() == [0, 1, 2, 3, 4]
    assert outcome.curve["lm_performance"].notna().tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(("count", "status"), [(3, "diverged"), (4, "ok")])
def test_the_kl_rule_needs_its_count(settings, count, status):
    outcome = run(settings(kl_stop=1e-6, kl_stop_count=count))  # the first rollout's KL is 0, the other three exceed it
    assert outcome.status == status


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_ends_the_run_and_spares_the_weights(settings, broken):
    p = settings(updates=4)
    actors = load_actors(p)
    calls = []

    def reward(responses):
        calls.append(weights(actors.policy))
        return torch.full(responses.ids.shape, broken) if len(calls) == 2 else count(responses)

    outcome = run(p, actors, reward)
    assert outcome.status == "diverged"
    assert outcome.reason == "the reward is not finite at update 1; check the reward model"
    assert outcome.finite
    assert outcome.curve["update"].tolist() == [0, 1]
    assert np.isfinite(outcome.curve["policy_loss"]).tolist() == [True, False]
    assert unchanged(actors.policy, calls[1])  # as they were when the reward broke
    assert set(outcome.best) == set(dict(actors.policy.named_parameters()))


def test_a_reward_model_whose_scores_are_not_finite_ends_the_run(settings):
    p = settings(updates=4)
    actors = load_actors(p)
    scorer = load_scorer(files.resolve(config.FIXTURE_REWARD_MODEL.format(task=p.task)), p.task, p)
    with torch.no_grad():
        scorer.model.classifier.bias[0] = math.nan
    before = weights(actors.policy)
    outcome = run(p, actors, reward_function(actors.tokenizer, model_judge(scorer, p), Centre(), p))
    assert (outcome.status, outcome.reason) == ("diverged", "the reward is not finite at update 0; check the reward model")
    assert unchanged(actors.policy, before)


def test_a_policy_that_is_broken_from_the_start_ends_the_run(settings):
    p = settings(updates=4)
    actors = load_actors(p)
    with torch.no_grad():
        next(actors.policy.parameters()).fill_(math.nan)
    outcome = run(p, actors, count)
    assert (outcome.status, outcome.finite) == ("diverged", False)
    assert outcome.reason.startswith("the policy's logits are not finite at update 0")
    assert outcome.curve["lm_performance"].isna().all()
    assert set(outcome.best) == set(dict(actors.policy.named_parameters()))


@pytest.mark.parametrize(("optimiser", "network"), [("ppo", "policy"), ("ppo", "value"), ("rloo", "policy")])
def test_a_gradient_that_is_not_finite_under_a_finite_loss_spares_the_weights(settings, optimiser, network):
    p = settings(learning_rate=1e-3, optimiser=optimiser)
    actors = load_actors(p)
    before = weights(actors.policy), weights(actors.value)
    next(getattr(actors, network).parameters()).register_hook(lambda gradient: gradient * math.nan)
    outcome = run(p, actors)
    assert outcome.status == "diverged"
    assert "gradient is not finite at update 0; lower learning_rate (0.001)" in outcome.reason
    assert unchanged(actors.policy, before[0])
    assert unchanged(actors.value, before[1])


@pytest.mark.parametrize("optimiser", ["ppo", "rloo"])
@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_an_absurd_learning_rate_ends_the_run_with_a_reason(settings, kind, epochs, optimiser):
    p = settings(kind, learning_rate=1e30, epochs=epochs, optimiser=optimiser)
    actors = load_actors(p)
    before = weights(actors.policy)
    outcome = run(p, actors)
    assert outcome.status == "diverged"
    assert "not finite at update" in outcome.reason
    assert outcome.reason.endswith("lower learning_rate (1e+30)")
    assert outcome.curve["lm_performance"].iloc[0] == 0.0
    assert all(torch.equal(weight, before[name]) for name, weight in outcome.best.items())


def test_the_published_settings_are_those_of_the_released_code(settings):
    p = settings(preset="as-published")
    assert loop.temperature_of(p) == 1.0
    assert loop.temperature_of(settings()) == 0.7
    assert (p.top_k, p.whiten_rewards, p.whiten_padding, p.value_clip, p.max_gradient_norm) == (20, True, True, 0.2, None)
    assert settings(preset="as-published", top_k=5).top_k == 5  # what is said outright counts
    rollout = rolled_out(p, load_actors(p))
    logits = forward(load_actors(p).policy, rollout.responses)[0]
    real = rollout.mask.bool()
    log_p = objective.log_probabilities(logits, rollout.responses.ids[real], 1.0)
    torch.testing.assert_close(rollout.log_p, grid(log_p, rollout.mask))
