"""Whole stages on the committed fixtures: what a PPO run leaves behind, for every task, reward and way to end."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_rollout import tiny_model

from paradox_utils import config, experiment, ppo, preparation
from paradox_utils.data.records import TASKS, DataError
from paradox_utils.models import ModelError, atlas_policy_tokenizer, load_policy
from paradox_utils.store import resolve

SMALL = {"updates": 2, "evaluate_every": 2, "prompts_per_update": 4, "samples_per_prompt": 2}
SMALL |= {"train_questions": 40, "validation_questions": 5, "test_questions": 7}
RESULTS = {
    *("rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "truncated_prompts"),
}
CURVE = {
    *("update", "reward_mean", "reward_variance", "kl", "entropy", "length", "policy_loss", "value_loss", "clip_share"),
    *("gradient_norm", "learning_rate", "lm_performance", "true_return", "seconds"),
}


def parameters(**changes):
    return config.PPO(**SMALL | changes)


@pytest.mark.parametrize("reward", ["model", "dial"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_its_results_and_its_curve(task, reward, tmp_path):
    p = parameters(task=task, reward=reward, dial_accuracy=0.8)
    reported = []
    outcome, results = experiment.run_ppo(p, tmp_path, reported.append)
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert set(results) >= RESULTS
    no_meaning = {"rm_f1"} if task == "completeness" else set()
    assert {name for name, value in results.items() if value is None} == no_meaning
    assert all(math.isfinite(value) for value in results.values() if value is not None)
    assert json.loads(json.dumps(results)) == results  # plain numbers
    assert results["updates"] == 2
    assert results["kl_final"] == outcome.curve["kl"].iloc[-1]
    assert all(0 <= results[f"lm_performance_{when}"] <= 1 for when in ("start", "final", "best", "best_logged"))
    assert results["lm_performance_best_logged"] == outcome.curve["lm_performance"].max()
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "questions.csv", "model", "resume"}
    asked = pd.read_csv(tmp_path / "questions.csv").set_index("when")
    for when in ("start", "final", "best"):  # a row an evaluation, whose questions add up to what is reported
        good, segments = (np.array(asked.loc[when, name].split(), dtype=float) for name in ("good", "segments"))
        assert len(good) == len(segments) == p.test_questions
        assert good.sum() / segments.sum() == pytest.approx(results[f"lm_performance_{when}"], abs=1e-5)
    trained, _ = load_policy(str(tmp_path / "model"))  # the policy as it was after the last update
    before, _ = load_policy(p.policy)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))
    assert set(curve) >= CURVE
    assert curve["update"].tolist() == [0, 1, 2] == [row["update"] for row in reported]
    assert curve["lm_performance"].notna().tolist() == [True, False, True]
    losses = ["policy_loss", "value_loss", "clip_share", "gradient_norm", "steps", "learning_rate"]
    assert curve[losses].notna().all(axis=1).tolist() == [True, True, False]  # nothing follows the last rollout
    assert curve.drop(columns=losses).iloc[2].notna().all()
    assert abs(curve["kl"].iloc[0]) < 1e-5 < abs(curve["kl"].iloc[2])
    if reward == "dial":
        assert 0.7 < results["rm_accuracy"] < 0.9
    else:
        stored = json.loads((resolve(p.reward_model.format(task=task)) / "metrics.json").read_text())
        assert results["rm_accuracy"] == stored["accuracy"]


def test_the_start_does_not_depend_on_the_seed_and_the_rest_does(tmp_path):
    runs = [experiment.run_ppo(parameters(reward="dial", updates=1, seed=seed), tmp_path) for seed in (0, 1, 0)]
    starts = [{name: value for name, value in results.items() if name.endswith("_start")} for _, results in runs]
    assert starts[0] == starts[1] == starts[2]
    curves = [outcome.curve.drop(columns="seconds") for outcome, _ in runs]
    assert (curves[0]["reward_mean"] != curves[1]["reward_mean"]).iloc[1:].all()
    pd.testing.assert_frame_equal(curves[0], curves[2], check_exact=True)


def test_no_updates_report_the_start_three_times(tmp_path):
    outcome, results = experiment.run_ppo(parameters(updates=0), tmp_path)
    assert (outcome.status, results["updates"], results["kl_final"]) == ("ok", 0, pytest.approx(0.0, abs=1e-5))
    assert results["lm_performance_start"] == results["lm_performance_final"] == results["lm_performance_best"]
    assert set(pd.read_csv(tmp_path / "curve.csv")) >= CURVE
    assert outcome.curve["greedy_length"].iloc[0] != results["greedy_length_start"]  # validation questions, and test questions
    assert outcome.curve["lm_performance"].iloc[0] == results["lm_performance_best_logged"]


def test_as_published_runs(tmp_path):
    outcome, results = experiment.run_ppo(parameters(preset="as-published", kl_coefficient=0.3, warmup_updates=1), tmp_path)
    assert outcome.status == "ok"
    assert all(math.isfinite(value) for value in results.values())


def test_a_reward_model_may_be_the_evaluator(tmp_path):
    judged = config.FIXTURE_REWARD_MODEL.format(task="completeness")
    p = parameters(task="completeness", reward="dial", evaluator=judged, updates=1)
    _, results = experiment.run_ppo(p, tmp_path)
    scores = [results[f"lm_performance_{when}"] for when in ("start", "final", "best")]
    assert all(math.isfinite(score) for score in scores)
    by_oracle = experiment.run_ppo(p.model_copy(update={"evaluator": "oracle", "updates": 0}), tmp_path)[1]
    assert results["lm_performance_start"] != by_oracle["lm_performance_start"]
    assert results["true_return_start"] == by_oracle["true_return_start"]  # the truth stays the oracle's


def test_the_final_policy_is_reported_beside_the_one_validation_chose(tmp_path, monkeypatch):
    """The best on validation is put back before it is measured on test questions."""
    real = ppo.train

    def train(p, actors, *more):
        chosen = {name: weight.detach().clone() for name, weight in actors.policy.named_parameters()}
        outcome = real(p, actors, *more)
        outcome.best = chosen  # as if nothing had beaten the start
        return outcome

    monkeypatch.setattr(ppo, "train", train)
    _, results = experiment.run_ppo(parameters(learning_rate=1e-2), tmp_path)
    assert results["true_return_best"] == results["true_return_start"] != results["true_return_final"]


def test_long_prompts_are_counted(tmp_path):
    _, results = experiment.run_ppo(parameters(prompt_limit=20, response_limit=8, reward="dial"), tmp_path)
    assert results["truncated_prompts"] == 3 * 4  # every prompt of every rollout
    assert results["truncated_evaluation_prompts"] == 5 + 7


@pytest.mark.parametrize(
    ("changes", "words"), [({"learning_rate": 1e30}, "not finite"), ({"kl_stop": 1e-6, "kl_stop_count": 1}, "KL")]
)
def test_a_diverged_run_has_its_results_and_its_reason(changes, words, tmp_path):
    outcome, results = experiment.run_ppo(parameters(reward="dial", updates=4, epochs=2, **changes), tmp_path)
    assert outcome.status == "diverged"
    assert words in outcome.reason
    assert set(results) >= RESULTS
    assert math.isfinite(results["lm_performance_best"])
    assert (results["lm_performance_final"] is None) == (words == "not finite")  # nothing to measure in a broken policy
    left, _ = load_policy(str(tmp_path / "model"))
    assert all(torch.isfinite(weight).all() for weight in left.parameters())
    assert results["updates"] == (0 if words == "not finite" else 1)
    assert len(pd.read_csv(tmp_path / "curve.csv")) == results["updates"] + 1


def test_no_questions_to_train_on_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(DataError, match="0 questions to train on: raise train_questions"):
        experiment.run_ppo(parameters(train_questions=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_only_policy_runs_the_whole_stage(tmp_path):
    tokenizer = atlas_policy_tokenizer()
    tiny_model("decoder-only", len(tokenizer)).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    p = parameters(policy=str(tmp_path / "policy"), response_limit=12, pass_tokens=60)
    outcome, results = experiment.run_ppo(p, tmp_path)
    assert outcome.status == "ok"
    assert results["lm_performance_start"] < 0.2  # it says anything
    assert outcome.curve["kl"].iloc[2] != 0


def test_a_separate_value_model_may_start_from_other_weights(tmp_path):
    tiny_model("encoder-decoder", len(atlas_policy_tokenizer())).save_pretrained(tmp_path)
    actors = experiment.load_actors(parameters(value_weights=str(tmp_path)))
    assert (actors.value.head[0].in_features, actors.value.body is None) == (16, False)
    shared = experiment.load_actors(parameters(value_model="shared"))  # reads the policy's states
    assert (shared.value.head[0].in_features, shared.value.body is None) == (48, True)
    with pytest.raises(config.ParameterError, match="no effect on a shared value model"):
        config.check(config.PPO, {"value_model": "shared", "value_weights": str(tmp_path)})
    tiny_model("encoder-decoder", 7).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="another kind or vocabulary"):
        experiment.load_actors(parameters(value_weights=str(tmp_path / "other")))


def test_the_supervised_stage_leaves_room_on_every_task(tmp_path):
    p = config.Supervised(policy=config.FIXTURE_POLICY, steps=0, validation_questions=60)
    losses, results, responses = preparation.supervised_policy(p, tmp_path)
    assert losses.empty
    assert results["final_loss"] is None
    assert results["truncated_prompts"] == 0
    assert len(responses.texts) == 60
    for task in TASKS:
        assert 0.3 < results[f"lm_performance_{task}"] < 0.8
    assert load_policy(str(tmp_path / "model"))[0].config.is_encoder_decoder
