"""The back-test: rewards as PPO was paid, of responses and of altered ones, joined with what was recorded."""

import numpy as np
import pytest

from paradox_utils import config, data, files
from paradox_utils.choose import backtest
from paradox_utils.config.study import load_study
from paradox_utils.data.records import DataError
from paradox_utils.policies.prompts import encode_prompts, prompt_room
from paradox_utils.study.plan import plan

pytestmark = pytest.mark.heavy


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
    paid, altered = backtest.paid(p, shared, some)
    assert paid == pytest.approx(by_hand, abs=1e-5)
    assert altered["plain"] == pytest.approx(paid[:, 0], abs=1e-5)  # though tokenised again
    assert altered["repeated"] != pytest.approx(altered["plain"])


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


def test_what_is_kept_is_joined_with_the_record(tmp_path, shared):
    """Rewards of two recorded dials; the rest is not there."""
    known = [(run, labels, values) for run, labels, values in backtest.recorded_runs() if labels["arm"] == "known-paradox"]
    good, size = shared.judged["relevance"]
    (tmp_path / "rewards").mkdir()
    backtest._keep(tmp_path / "judged-atlas-t5-relevance.npz", good=good, size=size, words=shared.words)
    chosen = [one for one in known if one[1]["task"] == "relevance"][:2]
    for run, _, values in chosen:
        p = config.check(config.PPO, values | {"policy": config.FIXTURE_POLICY}, run)
        rewards, altered = backtest.paid(p, shared, {"train": []})
        backtest._keep(tmp_path / "rewards" / f"{run}.npz", rewards=rewards, **altered)
    found, judged = backtest.predictions(tmp_path)
    assert [one.row["id"] for one in found] == [run for run, *_ in chosen]
    assert set(judged) == {("atlas-t5", "relevance")}
    assert all(
        np.isfinite(
            [one.row[name] for name in ("gain", "recipe", "gain/2", "reached", "reached_sampled", "length_correlation")]
        ).all()
        for one in found
    )
    assert all(np.isfinite(one.row["altered_repeated"]) for one in found)
    with pytest.raises(DataError, match="backtest"):
        backtest.predictions(tmp_path / "nowhere")


def test_probes_are_in_deviations_of_all_rewards():
    kept = {"rewards": np.array([[0.0, 2.0]]), "plain": np.array([1.0, 2.0]), "repeated": np.array([2.0, 5.0])}
    kept |= {"long": kept["plain"], "unfinished": kept["plain"] - 1}
    assert backtest.probed(kept) == {"altered_repeated": 2.0, "altered_long": 0.0, "altered_unfinished": -1.0}
