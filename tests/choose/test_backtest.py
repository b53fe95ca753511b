"""The back-test: rewards as PPO was paid, joined with what was recorded, and regrets by hand."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import config, data, files
from paradox_utils.choose import backtest
from paradox_utils.choose.backtest import FITTED, TOOL
from paradox_utils.choose.gain import Reading
from paradox_utils.config.study import load_study
from paradox_utils.data.records import DataError
from paradox_utils.policies.prompts import encode_prompts, prompt_room
from paradox_utils.study.plan import plan


def ppo(**values):
    return config.PPO(policy=config.FIXTURE_POLICY, device="cpu", **values)


@pytest.fixture(scope="module")
def shared():
    return backtest.respond(ppo(), 3, 4)


@pytest.mark.parametrize(
    "values",
    [
        {"task": "relevance", "reward_model": "fixtures/atlas/reward-relevance-32"},
        {"task": "completeness", "reward_model": "fixtures/atlas/reward-completeness"},
        {
            "task": "factuality",
            "reward": "dial",
            "dial_accuracy": 0.8,
            "dial_kind": "noise",
            "scale_matched": True,
            "reward_size": 0.05,
        },
    ],
)
def test_responses_are_paid_what_ppo_pays_them(values, shared):
    """Of the policy's own tokens, as a rollout has them."""
    from paradox_utils.policies.decoding import generate
    from paradox_utils.policies.models import load_policy
    from paradox_utils.rewards.judges import reward_of

    p = ppo(**values)
    policy, tokenizer = load_policy(p.policy)
    questions = data.load_splits(p.model_copy(update={"validation_questions": 3})).validation
    asked = encode_prompts(policy, tokenizer, questions, prompt_room(policy, tokenizer, p))
    made = generate(policy, tokenizer, asked, p.response_limit, 4, p.temperature, 0, seed="back-test")
    feedback = data.load_feedback(p, files.resolve(p.feedback))
    some = {name: part[:20] for name, part in feedback.items()}
    by_hand = reward_of(p, tokenizer, some).function(made).sum(1).numpy().reshape(3, 4)
    assert backtest.paid(p, shared, some) == pytest.approx(by_hand, abs=1e-5)


def test_the_config_trains_every_recorded_reward_model_again():
    study = load_study(files.resolve("configs/choose-backtest.yaml"))
    runs = plan(study)
    models = backtest._models(runs, study.study)
    recorded = {
        values["reward_model"].split("/")[-2] for _, _, values in backtest.recorded_runs() if values["reward"] == "model"
    }
    assert recorded <= models.keys()
    assert len(set(models.values())) == sum(run.stage == "reward_model" for run in runs)
    assert not any(run.stage == "ppo" for run in runs)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(backtest, "POOLS", 60)


def table(**columns):
    rows = pd.DataFrame({"task": "relevance", "policy": "p", "arm": "steps", "rm_seed": 0} | columns)
    wanted = [*backtest.BASELINES.values(), *backtest.READINGS, "variance"]
    return rows.assign(**{name: rows["gain"] for name in wanted if name not in rows}, id=[f"r{i}" for i in range(len(rows))])


def test_regrets_by_hand():
    """One pool of six: the tool takes the best, the most accurate loses 0.2, at random 0.25 is lost."""
    final = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    rows = table(final=final, gain=final, rm_accuracy=[0, 0, 0, 9, 0, 0])
    found = backtest.regrets(rows)
    assert found["mean"].loc[TOOL] == 0
    assert found["mean"].loc["most accurate"] == pytest.approx(0.2)
    assert found["mean"].loc["random"] == pytest.approx(0.25)


def test_what_is_fitted_is_fitted_elsewhere():
    """In the one task the recipe's reading loses nothing and the tool's 0.5, in the other it is the other way round."""
    final = np.tile([1.0, 0.5, 0.5, 0.5, 0.5, 0.5], 2)
    right, wrong = np.array([9.0, 0, 0, 0, 0, 0]), np.array([0, 9.0, 0, 0, 0, 0])
    rows = table(
        task=["relevance"] * 6 + ["factuality"] * 6, final=final, gain=np.r_[wrong, right], rm_accuracy=np.r_[wrong, right]
    )
    rows["recipe"] = np.r_[right, wrong]
    for name in ("gain/2", "gain/4", "gain/16"):
        rows[name] = np.r_[wrong, wrong]
    found = backtest.regrets(rows)
    assert found["mean"].loc[FITTED] == pytest.approx(0.5)
    assert found["mean"].loc["recipe"] == pytest.approx(0.25)


def test_families_of_known_truth_by_hand():
    rows = table(arm="known-paradox", final=[0.9, 0.8, 0.5], gain=[0.1, 0.4, 0.2], rm_accuracy=[0.6, 0.7, 0.9])
    found = backtest.known(rows).loc["known-paradox, relevance"]
    assert found[TOOL] == pytest.approx(0.1)
    assert found["rank"] == 2
    assert found["most accurate"] == pytest.approx(0.4)


def test_judged_prompts_are_taken_from_those_there_are():
    rng, found, gains = np.random.default_rng(0), [], np.linspace(0, 0.3, 8)
    for i, gain in enumerate(gains):
        good = 0.5 + gain + rng.normal(0, 0.3, 120)
        row = {"id": f"r{i}", "task": "relevance", "policy": "p", "arm": "steps", "final": 0.5 + gain, "gain": gain}
        found.append(backtest.Predicted(Reading(0.1, *np.ones((2, 120)), good, np.ones(120)), row))
    rows = backtest.judged_prompts(found, {("p", "relevance"): (np.full(120, 0.5), np.ones(120))}).set_index("judged prompts")
    assert list(rows.index) == [50, 100]
    assert rows["regret"].loc[100] < rows["regret"].loc[50] < 0.1
    assert rows["contains"].min() > 0.7


def test_what_is_kept_is_joined_with_the_record(tmp_path, shared):
    """Rewards of two recorded dials; the rest is not there."""
    known = [(run, labels, values) for run, labels, values in backtest.recorded_runs() if labels["arm"] == "known-paradox"]
    good, size = shared.judged["relevance"]
    (tmp_path / "rewards").mkdir()
    backtest._keep(tmp_path / "judged-atlas-t5-relevance.npz", good=good, size=size)
    chosen = [one for one in known if one[1]["task"] == "relevance"][:2]
    for run, _, values in chosen:
        p = config.check(config.PPO, values | {"policy": config.FIXTURE_POLICY}, run)
        backtest._keep(tmp_path / "rewards" / f"{run}.npz", rewards=backtest.paid(p, shared, {"train": []}))
    found, judged = backtest.predictions(tmp_path)
    assert [one.row["id"] for one in found] == [run for run, *_ in chosen]
    assert set(judged) == {("atlas-t5", "relevance")}
    assert all(
        np.isfinite([one.row[name] for name in ("gain", "recipe", "gain/2", "reached", "rm_accuracy")]).all() for one in found
    )
    with pytest.raises(DataError, match="backtest"):
        backtest.predictions(tmp_path / "nowhere")
