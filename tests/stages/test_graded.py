"""The stages on answers that people graded, from the made-up sample: what a policy learns, PPO by preference, evaluators."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import config, data
from paradox_utils.analysis.tables import load_gap, load_responses
from paradox_utils.files import write_table
from paradox_utils.ppo import loop
from paradox_utils.rewards.judges import evaluator_of, standardised
from paradox_utils.stages import ppo, supervised
from paradox_utils.stages.reward_model import train_reward_model

pytestmark = pytest.mark.heavy

SMALL = {"source": "semeval", "heldout_share": 0.4, "evaluator_share": 0.25, "device": "cpu", "train_questions": 0}
SMALL |= {"validation_questions": 2, "test_questions": 3, "prompt_limit": 12, "response_limit": 8}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A reward model, and three evaluators."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(4):
        small = {"backbone": "atlas-bert-8", "checkpoint_steps": [2], "batch_size": 4, "max_length": 64}
        p = config.RewardModel(task="preference", split="evaluator" if seed else "train", seed=seed, **small | SMALL)
        train_reward_model(p, folder / str(seed))
    return [str(folder / str(seed) / "checkpoint-2") for seed in range(4)]


@pytest.fixture(scope="module")
def parameters(models):
    reward, first, *others = models
    few = {"updates": 1, "evaluate_every": 1, "prompts_per_update": 2, "samples_per_prompt": 2, "epochs": 1}
    few |= {"probe_prompts": 2, "probe_samples": 4}
    return config.PPO(task="preference", reward_model=reward, evaluator=first, other_evaluators=others, **few | SMALL)


@pytest.fixture(scope="module")
def run(parameters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *ppo.run_ppo(parameters, folder)


def test_a_policy_learns_from_good_answers_and_what_is_cut_is_counted(tmp_path):
    p = config.Supervised(policy=config.FIXTURE_POLICY, steps=2, batch_size=2, **SMALL)
    _, results, responses = supervised.supervised_policy(p, tmp_path)
    assert len(responses.texts) == 2
    demonstrations = data.demonstrations(p)
    assert results["truncated_prompts"] <= 2
    # its tokens are words and punctuation, so that words are the least there can be
    for name, column, room in (("demonstration_prompts", 0, 11), ("demonstrations", 1, 7)):
        long = sum(len(pair[column].split()) > room for pair in demonstrations)
        assert 0 < long <= results[f"truncated_{name}"] <= len(demonstrations)
    longer = p.model_copy(update={"prompt_limit": 500, "response_limit": 500})
    _, results, _ = supervised.supervised_policy(longer, tmp_path / "longer")
    assert (results["truncated_demonstration_prompts"], results["truncated_demonstrations"]) == (0, 0)


def test_several_evaluators_say_the_mean_of_their_standardised_scores(parameters, models):
    heldout = data.load_sets(parameters)["heldout"]
    asked = [(one.question, text) for one in heldout for text in one.responses]
    questions, texts = zip(*asked, strict=True)
    said = [np.array(standardised(name, parameters)(questions, texts, [[]] * len(texts))) for name in models[1:]]
    together = evaluator_of(parameters, {})(questions, texts, [[]] * len(texts))
    assert np.array(together) == pytest.approx(np.mean(said, axis=0))
    assert not np.allclose(said[0], said[1])
    alone = parameters.model_copy(update={"other_evaluators": []})
    raw = np.array(evaluator_of(alone, {})(questions, texts, [[]] * len(texts)))
    assert np.corrcoef(raw[:, 0], said[0][:, 0])[0, 1] == pytest.approx(1.0)  # the same scores, not in deviations


def test_a_text_that_an_evaluator_has_scored_it_knows(parameters, models, monkeypatch):
    judge, question = standardised(models[1], parameters), data.load_splits(parameters).test[0]
    first = judge([question] * 2, ["yes", "no"], [[]] * 2)
    monkeypatch.setattr("paradox_utils.rewards.model.RewardScorer.scores", None)
    assert judge([question] * 3, ["no", "yes", "no"], [[]] * 3) == [first[1], first[0], first[1]]


def test_ppo_by_preference_runs_whole(run, parameters):
    folder, outcome, results = run
    assert (outcome.status, results["updates"]) == ("ok", 1)
    assert results["rm_accuracy"] is None
    assert 0 <= results["rm_accuracy_noisy"] <= 1
    assert results["probe_accuracy"] is None
    assert results["probe_variance_raw"] >= 0
    finite = ("lm_performance", "sampled_lm_performance", "greedy_repetition", "sampled_repetition", "rouge_l", "distinct_2")
    assert all(np.isfinite(results[f"{name}_final"]) for name in finite)
    asked = pd.read_csv(folder / "questions.csv").set_index("when")
    scores = np.array(asked.loc["final", "good"].split(), dtype=float)
    assert len(scores) == parameters.test_questions
    assert scores.mean() == pytest.approx(results["lm_performance_final"], abs=1e-4)


def test_the_gap_is_of_validation_questions_and_of_the_samples_that_best_of_n_chose_among(run, parameters):
    folder, _, _ = run
    table, asked = pd.read_csv(folder / "gap.csv"), data.load_splits(parameters).validation
    assert set(table["question"]) == {question.id for question in asked}
    means = table.groupby("kind")[["reward", "evaluator"]].mean()
    chosen = pd.read_csv(folder / "best_of_n.csv").set_index("n")
    reward = means["reward"] * 0.3  # as paid
    assert reward["sampled"] == pytest.approx(chosen.loc[1, "reward"], abs=1e-3)  # one pass of a batch rounds as another
    assert reward["best"] == pytest.approx(chosen.loc[4, "reward"], abs=1e-3)
    assert means.loc["sampled", "evaluator"] == pytest.approx(chosen.loc[1, "lm_performance"], abs=1e-3)
    assert means.loc["evaluator", "evaluator"] >= means.loc["best", "evaluator"]
    assert means.loc["best", "reward"] >= means.loc["evaluator", "reward"]


def test_no_text_of_a_source_that_is_not_to_be_passed_on_is_left(run, parameters):
    folder, _, _ = run
    sets = [one for part in data.load_sets(parameters).values() for one in part]
    texts = {text for one in sets for text in (one.question.text, *one.responses)}
    written = "".join(path.read_text() for path in folder.glob("*.csv"))
    assert not any(text in written for text in texts)
    answers = pd.read_csv(folder / "responses.csv")
    assert set(answers["question"]) == {question.id for question in data.load_splits(parameters).test}


def test_readers_read_what_it_leaves_blank_answers_too(run, parameters, tmp_path, monkeypatch):
    folder, _, _ = run
    for name in ("responses", "gap"):
        table = pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
        write_table(tmp_path / f"{name}.csv", table.assign(id="ppo-0"))
    assert len(load_responses(tmp_path)) == 6
    assert len(load_gap(tmp_path)) == len(pd.read_csv(folder / "gap.csv"))
    actors = ppo.load_actors(parameters)
    asked = ppo.encode(parameters, actors, data.load_splits(parameters).test)
    rewards = loop.Rewards(lambda some: some.mask.float(), None, None, evaluator_of(parameters, {}))
    generate = ppo.transcript.__globals__["generate"]

    def blank(*how, **options):
        responses = generate(*how, **options)
        responses.texts[0] = ""
        return responses

    monkeypatch.setitem(ppo.transcript.__globals__, "generate", blank)
    table = ppo.transcript(parameters, actors, asked, rewards)
    write_table(tmp_path / "responses.csv", table.assign(id="ppo-0", when="final"))
    assert load_responses(tmp_path).loc[0, "ends"] == (0.0,)
