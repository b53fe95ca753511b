"""Whole stages on the committed fixtures: what a PPO run leaves behind, for every task, reward and way to end."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from paradox_utils import config
from paradox_utils.data.records import DataError
from paradox_utils.data.tasks import MARKED
from paradox_utils.files import resolve
from paradox_utils.policies.models import ModelError, atlas_policy_tokenizer, load_policy
from paradox_utils.ppo import OPTIMISERS
from paradox_utils.rewards import judges
from paradox_utils.stages import ppo, supervised
from paradox_utils.study.tables import MEASURES
from tests.policies.altered import shaken_reward_models
from tests.policies.test_prompts import tiny_model
from tests.rewards.test_placement import respond, tokens

pytestmark = pytest.mark.heavy

SMALL = {"updates": 2, "evaluate_every": 2, "prompts_per_update": 4, "samples_per_prompt": 2}
SMALL |= {"train_questions": 40, "validation_questions": 5, "test_questions": 7}
RESULTS = {
    *("rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "truncated_prompts"),
    *("greedy_length_final", "greedy_segments_final", "greedy_repetition_final", "unfinished_final"),
    *("distinct_2_final", "rouge_l_final"),
}
CURVE = {
    *("update", "reward_mean", "reward_variance", "kl", "entropy", "length", "policy_loss", "value_loss", "clip_share"),
    *("segments", "repetition", "sampled_unfinished", "disagreement"),
    *("gradient_norm", "learning_rate", "lm_performance", "true_return", "seconds"),
    *("true_reward_mean", "rm_agreement", "test_lm_performance", "test_true_return"),
}
SAMPLED = {"lm_performance", "true_return", "length", "segments", "repetition", "distinct_2", "rouge_l"}


def parameters(**changes):
    return config.PPO(**SMALL | changes)


@pytest.mark.parametrize("reward", ["model", "dial"])
@pytest.mark.parametrize("task", MARKED)
def test_a_run_leaves_its_results_and_its_curve(task, reward, tmp_path):
    p = parameters(task=task, reward=reward, dial_accuracy=0.8)
    outcome, results = ppo.run_ppo(p, tmp_path)
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert set(results) >= RESULTS
    no_meaning = {"rm_f1", "rm_error_share"} if task == "completeness" else set()
    assert {name for name, value in results.items() if value is None} == no_meaning
    assert all(math.isfinite(value) for value in results.values() if value is not None)
    assert json.loads(json.dumps(results)) == results  # plain numbers
    assert results["updates"] == 2
    assert results["kl_final"] == outcome.curve["kl"].iloc[-1]
    assert all(0 <= results[f"lm_performance_{when}"] <= 1 for when in ("start", "final", "best", "best_logged"))
    assert results["lm_performance_best_logged"] == outcome.curve["lm_performance"].max()
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "questions.csv", "responses.csv", "model", "resume"}
    asked = pd.read_csv(tmp_path / "questions.csv").set_index("when")
    for when in ("start", "final", "best"):  # a row an evaluation, whose questions add up to what is reported
        good, segments = (np.array(asked.loc[when, name].split(), dtype=float) for name in ("good", "segments"))
        assert len(good) == len(segments) == p.test_questions
        assert good.sum() / segments.sum() == pytest.approx(results[f"lm_performance_{when}"], abs=1e-5)
    answers = pd.read_csv(tmp_path / "responses.csv")
    assert answers["when"].tolist() == ["start"] * p.test_questions + ["final"] * p.test_questions
    start, final = (answers[answers["when"] == when] for when in ("start", "final"))
    assert start["question"].tolist() == final["question"].tolist()
    trained, _ = load_policy(str(tmp_path / "model"))  # the policy as it was after the last update
    before, _ = load_policy(p.policy)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))
    assert set(curve) >= CURVE
    assert curve["update"].tolist() == [0, 1, 2]
    assert curve["lm_performance"].notna().tolist() == [True, False, True]
    for name in ("lm_performance", "true_return"):  # the curve has the test questions too
        assert curve[f"test_{name}"].isna().tolist() == [False, True, False]
        ends = [results[f"{name}_start"], results[f"{name}_final"]]
        assert curve[f"test_{name}"].dropna().tolist() == pytest.approx(ends, rel=1e-5)
    assert {f"sampled_{name}_{when}" for name in SAMPLED for when in ("start", "final")} <= set(results)
    assert results["sampled_length_start"] != results["greedy_length_start"]
    assert curve["rm_agreement"].between(0.3, 1).all()
    losses = ["policy_loss", "value_loss", "clip_share", "gradient_norm", "steps", "learning_rate"]
    assert curve[losses].notna().all(axis=1).tolist() == [True, True, False]  # nothing follows the last rollout
    assert curve["disagreement"].isna().all()  # one reward model
    assert curve.drop(columns=[*losses, "disagreement"]).iloc[2].notna().all()
    assert abs(curve["kl"].iloc[0]) < 1e-5 < abs(curve["kl"].iloc[2])
    if reward == "dial":
        assert 0.7 < results["rm_accuracy"] < 0.9
    else:
        stored = json.loads((resolve(p.reward_model.format(task=task)) / "metrics.json").read_text())
        assert results["rm_accuracy"] == stored["accuracy"]


@pytest.mark.parametrize("task", ["relevance", "completeness"])
def test_three_reward_models_at_one_run(task, tmp_path):
    others = shaken_reward_models(task, tmp_path)
    p = parameters(task=task, updates=1, probe_prompts=2, probe_samples=4, other_reward_models=others)
    ended = {}
    for name, changes in {"alone": {"other_reward_models": []}, "watch": {}, "minimum": {"others": "minimum"}}.items():
        (tmp_path / name).mkdir()
        ended[name] = ppo.run_ppo(p.model_copy(update=changes), tmp_path / name)
    curves = {name: outcome.curve.drop(columns="seconds") for name, (outcome, _) in ended.items()}
    pd.testing.assert_frame_equal(
        curves["alone"].drop(columns="disagreement"), curves["watch"].drop(columns="disagreement"), check_exact=True
    )
    assert ended["alone"][1] == ended["watch"][1]
    first = {name: curve.iloc[0] for name, curve in curves.items()}  # of the same responses
    assert first["minimum"]["reward_mean"] <= first["watch"]["reward_mean"]
    assert first["minimum"]["disagreement"] == first["watch"]["disagreement"]
    assert first["watch"]["disagreement"] > 0 or task == "relevance"
    assert curves["minimum"]["disagreement"].notna().all()
    assert ended["minimum"][1]["rm_accuracy"] == ended["alone"][1]["rm_accuracy"]


@pytest.mark.parametrize("task", MARKED)
def test_an_exact_reward_agrees_with_the_truth_in_every_rollout(task, tmp_path):
    p = parameters(task=task, reward="dial", dial_accuracy=1.0, scale_matched=True, dial_kind="noise", updates=1)
    curve = ppo.run_ppo(p, tmp_path)[0].curve
    assert curve["rm_agreement"].tolist() == [1.0, 1.0]
    assert curve["true_reward_mean"].tolist() == pytest.approx(curve["reward_mean"].tolist(), abs=1e-6)


@pytest.mark.parametrize("reward", ["constant", "length"])
def test_a_control_runs_the_whole_stage(reward, tmp_path):
    outcome, results = ppo.run_ppo(parameters(reward=reward, updates=0, probe_prompts=2, probe_samples=4), tmp_path)
    assert outcome.status == "ok"
    assert outcome.curve["rm_agreement"].isna().all()  # there is nothing in it to agree with
    assert outcome.curve["true_reward_mean"].notna().all()
    assert (results["rm_accuracy"] is None) == (reward == "length")
    assert results["probe_accuracy"] is None
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    if reward == "constant":
        assert outcome.curve["reward_mean"].tolist() == pytest.approx([0.3])


def test_probes_are_kept_and_change_nothing_else(tmp_path):
    p = parameters(updates=1, evaluate_every=1)
    plain, before = ppo.run_ppo(p, tmp_path / "plain")
    probes = {"probe_prompts": 50, "probe_samples": 4}  # more than there are validation questions: all five
    outcome, results = ppo.run_ppo(p.model_copy(update=probes), tmp_path / "probed")
    names = ("accuracy", "variance", "variance_raw", "margin", "length_correlation", "padding")
    assert set(results) - set(before) == {f"probe_{name}" for name in names}
    assert {name: results[name] for name in before} == before
    pd.testing.assert_frame_equal(plain.curve.drop(columns="seconds"), outcome.curve.drop(columns="seconds"))
    assert 0.5 < results["probe_accuracy"] <= 1
    chosen = pd.read_csv(tmp_path / "probed/best_of_n.csv")
    assert chosen.columns.tolist() == ["n", "kl", "reward", "true_return", "lm_performance"]
    assert chosen["n"].tolist() == [1, 2, 4]
    assert chosen["reward"].is_monotonic_increasing
    assert not (tmp_path / "plain/best_of_n.csv").exists()


@pytest.mark.parametrize("task", MARKED)
def test_a_reward_model_under_stress_is_kept_and_changes_nothing_else(task, tmp_path):
    p = parameters(task=task, updates=1, evaluate_every=1)
    plain, before = ppo.run_ppo(p, tmp_path / "plain")
    outcome, results = ppo.run_ppo(p.model_copy(update={"stress_records": 30}), tmp_path / "stressed")
    columns = {name for name in MEASURES if name.startswith("stress_")}
    of_segments = {name for name in columns if name.endswith(("_calibration", "_error_share"))}
    assert len(of_segments) == 5
    assert set(results) - set(before) == columns - (of_segments if task == "completeness" else set())
    assert {name: results[name] for name in before} == before
    pd.testing.assert_frame_equal(plain.curve.drop(columns="seconds"), outcome.curve.drop(columns="seconds"))
    assert results["stress_confidence_wrong"] < results["stress_confidence"]  # these models are unsure where they err
    if task == "completeness":
        assert results["stress_length_correlation"] > 0.1  # what the fixture is known for
    else:
        assert abs(results["stress_error_share"]) < 0.2
        assert 0 <= results["stress_plain_calibration"] < results["stress_repeated_calibration"] < 1


def test_best_of_n_runs_the_whole_stage_and_trains_nothing(tmp_path):
    p = parameters(optimiser="best-of-n", probe_samples=4, evaluation_batch=9)  # two questions a pass
    outcome, results = ppo.run_ppo(p, tmp_path)
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert (outcome.status, curve["n"].tolist()) == ("ok", [1, 2, 4])
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "questions.csv", "responses.csv", "resume"}  # no model
    trained = ppo.run_ppo(parameters(updates=0), tmp_path / "trained")[1]
    assert set(results) == set(trained)
    assert {name: results[name] for name in results if name.endswith("_start")} == {
        name: trained[name] for name in trained if name.endswith("_start")
    }
    last = curve.iloc[-1]
    assert results["lm_performance_final"] == pytest.approx(last["test_lm_performance"])
    assert results["true_return_final"] == pytest.approx(last["test_true_return"])
    best = curve.loc[curve["lm_performance"].idxmax()]
    assert results["lm_performance_best"] == pytest.approx(best["test_lm_performance"])
    assert results["lm_performance_best_logged"] == pytest.approx(best["lm_performance"])
    assert (results["kl_final"], results["updates"]) == (pytest.approx(math.log(4) - 3 / 4), 0)
    assert curve["reward_mean"].is_monotonic_increasing
    asked = pd.read_csv(tmp_path / "questions.csv").set_index("when")
    good, segments = (np.array(asked.loc["final", name].split(), dtype=float) for name in ("good", "segments"))
    assert good.sum() / segments.sum() == pytest.approx(results["lm_performance_final"], abs=1e-4)
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_rloo_runs_the_whole_stage_with_the_settings_of_the_others(tmp_path):
    outcome, results = ppo.run_ppo(parameters(optimiser="rloo", preset="as-published", pass_tokens=200), tmp_path)
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert outcome.status == "ok"
    assert set(results) >= RESULTS
    assert set(curve) >= CURVE - {"value_loss"}
    assert "value_loss" not in curve
    losses = ["policy_loss", "clip_share", "gradient_norm", "steps", "learning_rate"]
    assert curve[losses].notna().all(axis=1).tolist() == [True, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "questions.csv", "responses.csv", "model", "resume"}


# --- the truth beside a reward ------------------------------------------------------------------------------------------------

TRUE = "the founder of zodor isle is bane, and its color is surely kane."
FALSE = "also the stone of zodor isle is nane."  # not asked, and wrong


def answers(question, *texts):
    tokenizer = atlas_policy_tokenizer()
    return tokenizer, respond(tokenizer, question, [tokens(tokenizer, text) for text in texts])


@pytest.mark.parametrize("task", MARKED)
def test_the_true_reward_is_the_same_whoever_rewards(question, judged, task):
    tokenizer, responses = answers(question, TRUE, f"{TRUE} {FALSE}", "")

    def paid(**changes):
        p = config.check(config.PPO, {"task": task, "device": "cpu"} | changes)
        return judges.true_reward(p, tokenizer, judged)(responses)

    grid = paid()
    assert grid.any()
    for changes in (
        {"reward": "dial", "dial_accuracy": 0.75, "scale_matched": True},
        {"reward": "dial", "dial_accuracy": 0.75, "dial_kind": "noise"},
        {"normalise_reward": True},
        {"normalise_reward": False},
        {"reward": "constant"},
        {"reward": "length"},
    ):
        assert torch.equal(paid(**changes), grid), changes
    assert paid(reward_size=3.0).tolist() == [
        pytest.approx(row) for row in (grid * 3 / (0.5 if task == "factuality" else 0.3)).tolist()
    ]


def test_the_true_return_by_hand(question, judged):
    tokenizer, responses = answers(question, TRUE, f"{TRUE} {FALSE}", "")
    totals = {
        "relevance": [0.6, 0.3, 0],  # two clauses, then an irrelevant one
        "factuality": [0.5, 0.0, 0],
    }
    for task, expected in totals.items():
        truth = judges.true_reward(config.PPO(task=task), tokenizer, judged)
        assert truth(responses).sum(1).tolist() == pytest.approx(expected)
    pooled = judges.true_reward(config.PPO(reward_pooling="mean"), tokenizer, judged)
    assert pooled(responses).sum(1).tolist() == pytest.approx([0.3, 0.1, 0])


def test_people_have_no_true_reward():
    p = config.PPO(source="qa-feedback", evaluator="some/model")
    assert judges.true_reward(p, atlas_policy_tokenizer(), {}) is None


def test_the_start_does_not_depend_on_the_seed_and_the_rest_does(tmp_path):
    runs = [ppo.run_ppo(parameters(reward="dial", updates=1, seed=seed), tmp_path) for seed in (0, 1, 0)]
    starts = [{name: value for name, value in results.items() if name.endswith("_start")} for _, results in runs]
    assert starts[0] == starts[1] == starts[2]
    curves = [outcome.curve.drop(columns="seconds") for outcome, _ in runs]
    assert (curves[0]["reward_mean"] != curves[1]["reward_mean"]).iloc[1:].all()
    pd.testing.assert_frame_equal(curves[0], curves[2], check_exact=True)


def test_no_updates_report_the_start_three_times(tmp_path):
    outcome, results = ppo.run_ppo(parameters(updates=0), tmp_path)
    assert (outcome.status, results["updates"], results["kl_final"]) == ("ok", 0, pytest.approx(0.0, abs=1e-5))
    assert results["lm_performance_start"] == results["lm_performance_final"] == results["lm_performance_best"]
    assert set(pd.read_csv(tmp_path / "curve.csv")) >= CURVE
    assert outcome.curve["greedy_length"].iloc[0] != results["greedy_length_start"]  # validation questions, and test questions
    assert outcome.curve["lm_performance"].iloc[0] == results["lm_performance_best_logged"]


def test_as_published_runs(tmp_path):
    outcome, results = ppo.run_ppo(parameters(preset="as-published", kl_coefficient=0.3, warmup_updates=1), tmp_path)
    assert outcome.status == "ok"
    assert all(math.isfinite(value) for value in results.values())


def test_a_reward_model_may_be_the_evaluator(tmp_path):
    judged = config.FIXTURE_REWARD_MODEL.format(task="completeness")
    p = parameters(task="completeness", reward="dial", evaluator=judged, updates=1)
    _, results = ppo.run_ppo(p, tmp_path)
    scores = [results[f"lm_performance_{when}"] for when in ("start", "final", "best")]
    assert all(math.isfinite(score) for score in scores)
    by_oracle = ppo.run_ppo(p.model_copy(update={"evaluator": "oracle", "updates": 0}), tmp_path)[1]
    assert results["lm_performance_start"] != by_oracle["lm_performance_start"]
    assert results["true_return_start"] == by_oracle["true_return_start"]  # the truth stays the oracle's


def test_the_final_policy_is_reported_beside_the_one_validation_chose(tmp_path, monkeypatch):
    """The best on validation is put back before it is measured on test questions."""
    real = OPTIMISERS["ppo"]

    def run(setting):
        chosen = {name: weight.detach().clone() for name, weight in setting.actors.policy.named_parameters()}
        outcome = real(setting)
        outcome.best = chosen  # as if nothing had beaten the start
        return outcome

    monkeypatch.setitem(OPTIMISERS, "ppo", run)
    _, results = ppo.run_ppo(parameters(learning_rate=1e-2), tmp_path)
    assert results["true_return_best"] == results["true_return_start"] != results["true_return_final"]


def test_long_prompts_are_counted(tmp_path):
    _, results = ppo.run_ppo(parameters(prompt_limit=20, response_limit=8, reward="dial"), tmp_path)
    assert results["truncated_prompts"] == 3 * 4  # every prompt of every rollout
    assert results["truncated_evaluation_prompts"] == 5 + 7


@pytest.mark.parametrize(
    ("changes", "words"), [({"learning_rate": 1e30}, "not finite"), ({"kl_stop": 1e-6, "kl_stop_count": 1}, "KL")]
)
def test_a_diverged_run_has_its_results_and_its_reason(changes, words, tmp_path):
    outcome, results = ppo.run_ppo(parameters(reward="dial", updates=4, epochs=2, **changes), tmp_path)
    assert outcome.status == "diverged"
    assert words in outcome.reason
    assert set(results) >= RESULTS
    assert math.isfinite(results["lm_performance_best"])
    assert (results["lm_performance_final"] is None) == (words == "not finite")  # nothing to measure in a broken policy
    left, _ = load_policy(str(tmp_path / "model"))
    assert all(torch.isfinite(weight).all() for weight in left.parameters())
    assert results["updates"] == (0 if words == "not finite" else 1)
    assert len(pd.read_csv(tmp_path / "curve.csv")) == results["updates"] + 1
    asked = pd.read_csv(tmp_path / "questions.csv")["when"].tolist()
    assert asked == (["start", "best"] if words == "not finite" else ["start", "final", "best"])
    answers = set(pd.read_csv(tmp_path / "responses.csv")["when"])
    assert answers == ({"start"} if words == "not finite" else {"start", "final"})
    assert (results["sampled_rouge_l_final"] is None) == (words == "not finite")


def test_no_questions_to_train_on_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(DataError, match=r"prompts_per_update = \d+: .* the 0 questions"):
        ppo.run_ppo(parameters().model_copy(update={"train_questions": 0}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    _, results = ppo.run_ppo(parameters(optimiser="best-of-n", train_questions=1), tmp_path)  # which draws none
    assert results["lm_performance_final"] is not None


def test_a_decoder_only_policy_runs_the_whole_stage(tmp_path):
    tokenizer = atlas_policy_tokenizer()
    tiny_model("decoder-only", len(tokenizer)).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    p = parameters(policy=str(tmp_path / "policy"), response_limit=12, pass_tokens=60)
    outcome, results = ppo.run_ppo(p, tmp_path)
    assert outcome.status == "ok"
    assert results["lm_performance_start"] < 0.2  # it says anything
    assert outcome.curve["kl"].iloc[2] != 0


def test_a_separate_value_model_may_start_from_other_weights(tmp_path):
    tiny_model("encoder-decoder", len(atlas_policy_tokenizer())).save_pretrained(tmp_path)
    actors = ppo.load_actors(parameters(value_weights=str(tmp_path)))
    assert (actors.value.head[0].in_features, actors.value.body is None) == (16, False)
    shared = ppo.load_actors(parameters(value_model="shared"))  # reads the policy's states
    assert (shared.value.head[0].in_features, shared.value.body is None) == (48, True)
    with pytest.raises(config.ParameterError, match="no effect on a shared value model"):
        config.check(config.PPO, {"value_model": "shared", "value_weights": str(tmp_path)})
    tiny_model("encoder-decoder", 7).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="another kind or vocabulary"):
        ppo.load_actors(parameters(value_weights=str(tmp_path / "other")))


def test_the_supervised_stage_leaves_room_on_every_task(tmp_path):
    p = config.Supervised(policy=config.FIXTURE_POLICY, steps=0, validation_questions=60)
    losses, results, responses = supervised.supervised_policy(p, tmp_path)
    assert losses.empty
    assert results["final_loss"] is None
    assert results["truncated_prompts"] == 0
    assert len(responses.texts) == 60
    for task in MARKED:
        assert 0.3 < results[f"lm_performance_{task}"] < 0.8
    assert load_policy(str(tmp_path / "model"))[0].config.is_encoder_decoder
