"""Training of reward models: that both trainers learn, what their checkpoints hold, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paradox_utils import config
from paradox_utils.data.records import DataError, prefer
from paradox_utils.data.tasks import LABELS, MARKED
from paradox_utils.policies.models import ModelError, atlas_policy_tokenizer
from paradox_utils.policies.supervised import NonFiniteLossError, shuffled
from paradox_utils.rewards import judges, training
from paradox_utils.rewards.encoders import atlas_reward_tokenizer, load_encoder, load_reward_model
from paradox_utils.rewards.examples import context_of, training_examples
from paradox_utils.rewards.model import IGNORED, NonFiniteScoresError, RewardScorer, load_scorer
from tests.rewards.conftest import fit, parameters
from tests.rewards.test_model import CLAUSES, CONTEXT, F_ERR, NF_ERR, OK, ids, llama, scorer_of  # noqa: F401 (llama is a fixture)

pytestmark = pytest.mark.heavy

# --- training -----------------------------------------------------------------------------------------------------------------


def test_preferences_by_hand():
    assert prefer((0.5, 1.0, 0.5, 0.0)) == (2, 0, 1, 1, 1, 1)


def test_the_token_trainer_learns(relevance):
    _, metrics, losses, truncated = relevance
    assert [row["step"] for row in metrics] == [0, 5, 40]
    assert losses["step"].tolist() == list(range(1, 41))
    assert losses["loss"].iloc[-5:].mean() < 0.6 * losses["loss"].iloc[0]
    assert metrics[-1]["accuracy"] > metrics[-1]["majority"] + 0.08
    assert metrics[-1]["balanced_accuracy"] > 0.75
    assert metrics[-1]["f1"] > 0.6
    assert metrics[0]["balanced_accuracy"] < 0.6
    assert metrics[-1]["accuracy"] == metrics[-1]["accuracy_noisy"]  # the annotator made no mistake
    assert truncated == 0


def test_the_pairwise_trainer_learns(completeness):
    _, metrics, losses, _ = completeness
    assert losses["loss"].iloc[0] == pytest.approx(math.log(2), abs=0.02)
    assert losses["loss"].iloc[-3:].mean() < 0.2
    assert metrics[-1]["accuracy"] > 0.95
    assert metrics[-1]["segments"] == 20 * 4  # four of six pairs of a question differ
    assert metrics[-1]["f1"] is None


@pytest.mark.parametrize("step", [0, 5, 40])
def test_checkpoints_reload_to_the_same_scores(relevance, judged, step):
    folder, metrics, *_ = relevance
    row = next(row for row in metrics if row["step"] == step)
    checkpoint = folder / f"checkpoint-{step}"
    assert json.loads((checkpoint / "metrics.json").read_text()) == row
    scorer = load_scorer(checkpoint, "relevance", parameters())
    heldout = training_examples(parameters(), judged["heldout"], "relevance")
    again = training.measure(scorer, parameters(), heldout, [])
    assert {"step": step, **again} == pytest.approx(row)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in checkpoint.iterdir())


def test_a_pairwise_checkpoint_carries_the_scale_of_its_scores(completeness, pairs):
    folder, metrics, *_ = completeness
    p = parameters("completeness")
    scorer = load_scorer(folder / "checkpoint-30", "completeness", p)
    train = training_examples(p, pairs["train"], "completeness")
    assert len(train) == 160
    contexts = [example.context for example in train] * 2
    scores = scorer.scores(contexts, [e.chosen for e in train] + [e.rejected for e in train])
    assert metrics[-1]["score_mean"] == pytest.approx(scores.mean().item(), abs=1e-4)
    assert metrics[-1]["score_std"] == pytest.approx(scores.std().item(), rel=1e-4)


def test_the_start_is_the_untrained_model(relevance):
    folder, *_ = relevance
    fresh = load_encoder("atlas-bert-32", False, seed=0)[0].state_dict()
    stored = load_file(folder / "checkpoint-0" / "model.safetensors")
    assert stored.keys() == fresh.keys()
    assert all(torch.equal(stored[name], fresh[name]) for name in fresh)
    trained = load_file(folder / "checkpoint-40" / "model.safetensors")
    assert not all(torch.equal(stored[name], trained[name]) for name in stored)


def test_only_the_start(judged, relevance, tmp_path):
    _, metrics, *_ = relevance
    only, losses, _ = fit(tmp_path, judged, checkpoint_steps=[0])
    assert only == metrics[:1]
    assert losses.empty
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0"]


def test_limits_travel_with_a_checkpoint(few, tmp_path):
    fit(tmp_path, few, checkpoint_steps=[0], max_length=40, global_attention=False)
    scorer = load_scorer(tmp_path / "checkpoint-0", "relevance", parameters(), batch=7)
    assert (scorer.limit, scorer.global_attention, scorer.batch) == (40, False, 7)


@pytest.mark.parametrize("task", ["relevance", "completeness"])
def test_a_seed_fixes_a_training(task, judged, pairs, tmp_path):
    data = pairs if task == "completeness" else judged
    small = {"train": data["train"][:20], "heldout": data["heldout"][:5]}

    def trained(name, seed):
        metrics, losses, _ = fit(tmp_path / name, small, task, checkpoint_steps=[6], seed=seed, label_noise=0.2)
        return metrics, losses.to_dict("list")

    first = trained("a", 1)
    assert trained("b", 1) == first
    assert trained("c", 2) != first


def test_passes_of_a_batch_add_up_to_the_batch(few, tmp_path):
    """``Trainer`` sums what a model takes the mean of: without our own loss, 4 passes would count 4-fold."""
    runs = []
    for micro in (0, 4, 1):
        folder = tmp_path / str(micro)
        _, losses, _ = fit(folder, few, checkpoint_steps=[3], micro_batch=micro)
        scorer = load_scorer(folder / "checkpoint-3", "relevance", parameters())
        runs.append((losses["loss"].to_numpy(), scorer.segment_logits([CONTEXT], [CLAUSES])[0]))
    for losses, logits in runs[1:]:
        np.testing.assert_allclose(losses, runs[0][0], rtol=1e-5)
        torch.testing.assert_close(logits, runs[0][1], atol=1e-3, rtol=0)


def test_passes_of_pairs_add_up_too(pairs, tmp_path):
    runs = [
        fit(tmp_path / str(micro), pairs, "completeness", checkpoint_steps=[3], micro_batch=micro)[1]["loss"]
        for micro in (0, 4)
    ]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-5)


def test_the_first_loss_is_the_mean_over_labelled_segments(few, tmp_path):
    """By hand, with the untrained model on the first batch."""
    p = parameters(checkpoint_steps=[1])
    _, losses, _ = fit(tmp_path, few, checkpoint_steps=[1])
    examples = training_examples(p, few["train"], "relevance")
    first = [examples[i] for i in shuffled(len(examples), p.batch_size, p.seed)]
    model, tokenizer = load_encoder(p.backbone, False, p.seed)
    logits = torch.cat(
        RewardScorer(model, tokenizer, 2048).segment_logits([e.context for e in first], [e.segments for e in first])
    )
    labels = torch.tensor([label for e in first for label in e.labels])
    expected = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    assert losses["loss"][0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_a_label_is_no_accident():
    class Outputs:
        logits = torch.zeros(2, 3, 3)

    labels = torch.full((2, 3), IGNORED)
    assert training._token_loss(Outputs, labels, 0, NF_ERR, 0.1) == 0.0
    labels[0, 1] = OK
    assert training._token_loss(Outputs, labels, 1, NF_ERR, 0.0).item() == pytest.approx(math.log(3))
    one_of_four = training._token_loss(Outputs, labels, 4, NF_ERR, 0.0)
    assert one_of_four.item() == pytest.approx(math.log(3) / 4)


def test_training_stops_at_the_last_checkpoint_of_a_longer_schedule(few, tmp_path):
    metrics, losses, _ = fit(tmp_path, few, checkpoint_steps=[2], schedule_steps=50)
    assert [row["step"] for row in metrics] == [2]
    assert losses["step"].max() == 2


def test_a_limit_takes_the_first_records(few, tmp_path):
    cut = {"train": few["train"][:5], "heldout": few["heldout"]}
    whole = fit(tmp_path / "a", cut, checkpoint_steps=[2])
    limited = fit(tmp_path / "b", few, checkpoint_steps=[2], feedback_limit=5)
    assert limited[1].equals(whole[1])
    assert limited[0] == whole[0]
    other = fit(tmp_path / "c", few, checkpoint_steps=[2], split="evaluator")
    assert not other[1].equals(whole[1])


@pytest.mark.parametrize("task", ["factuality", "completeness"])
@pytest.mark.parametrize("name", ["atlas-longformer", "llama"])
def test_other_backbones_train(task, name, judged, pairs, tmp_path, request):
    backbone = request.getfixturevalue("llama") if name == "llama" else name
    data = pairs if task == "completeness" else judged
    small = {"train": data["train"][:8], "heldout": data["heldout"][:3]}
    metrics, losses, _ = fit(tmp_path, small, task, backbone=backbone, checkpoint_steps=[0, 12], batch_size=4)
    assert np.isfinite(losses["loss"]).all()
    assert losses["loss"].iloc[-3:].mean() < losses["loss"].iloc[:3].mean()
    scorer = load_scorer(tmp_path / "checkpoint-12", task, parameters())
    heldout = training_examples(parameters(), small["heldout"], task)
    train = training_examples(parameters(), small["train"], task)
    assert {"step": 12, **training.measure(scorer, parameters(task), heldout, train)} == pytest.approx(metrics[-1])


@pytest.mark.parametrize("bars", [True, False])
def test_models_train_and_are_measured_with_bars_between_passages_or_without(few, tmp_path, bars, monkeypatch):
    read = []
    encode = RewardScorer.encode_segments
    monkeypatch.setattr(RewardScorer, "encode_segments", lambda scorer, *given: read.extend(given[0]) or encode(scorer, *given))
    fit(tmp_path, few, "factuality", checkpoint_steps=[1], passage_bars=bars, corruption_steps=0)
    assert len(read) == len(few["train"]) + len(few["heldout"])
    assert {" | wikipage:" in context for context in read} == {bars}
    read.clear()  # and by who loads it
    p = config.PPO(task="factuality", reward_model=str(tmp_path / "checkpoint-1"), device="cpu")
    judges.reward_of(p, atlas_policy_tokenizer(), few)
    assert {" | wikipage:" in context for context in read} == {bars}


def test_over_long_training_inputs_are_counted(few, tmp_path):
    *_, truncated = fit(tmp_path, few, checkpoint_steps=[1], max_length=60)
    limit, tokenizer = 60, atlas_reward_tokenizer()
    examples = training_examples(parameters(), few["train"], "relevance")
    lengths = [2 + len(ids(e.context)) + sum(1 + len(tokenizer(s).input_ids) for s in e.segments) for e in examples]
    assert truncated == sum(length > limit for length in lengths)
    assert 0 < truncated < len(examples)


# --- what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", MARKED)
@pytest.mark.parametrize("lacking", ["train", "heldout"])
def test_no_feedback_is_refused(task, lacking, few, tmp_path):
    with pytest.raises(DataError, match=rf"{task}: \d+ examples to train on, \d+ held out; give more feedback"):
        fit(tmp_path, few | {lacking: []}, task)
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_the_training(few, tmp_path):
    with pytest.raises((NonFiniteLossError, NonFiniteScoresError), match=r"lower learning_rate|scores are not finite"):
        fit(tmp_path / "early", few, checkpoint_steps=[8], learning_rate=1e38)
    with pytest.raises(
        (NonFiniteLossError, NonFiniteScoresError), match="lower its learning_rate"
    ):  # the last update breaks the weights
        fit(tmp_path / "late", few, checkpoint_steps=[2], learning_rate=1e38)
    assert not list(tmp_path.glob("*/checkpoint-*"))


def test_a_checkpoint_whose_labels_do_not_fit_is_refused(relevance, completeness, tmp_path):
    tokens, pairwise = relevance[0] / "checkpoint-40", completeness[0] / "checkpoint-30"
    with pytest.raises(ModelError, match="BertForTokenClassification") as error:
        load_reward_model(tokens, pairwise=True)
    assert str(tokens) in str(error.value)
    assert "\n" not in str(error.value)
    for checkpoint, its in ((pairwise, "completeness"), (tokens, "relevance")):  # a checkpoint says what it is for
        with pytest.raises(ModelError, match=f"task = '{its}'") as error:
            load_scorer(checkpoint, "factuality", parameters())
        assert "\n" not in str(error.value)
    other, tokenizer = load_encoder("atlas-bert-32", False, 0)
    other.config.id2label = dict(enumerate(reversed(LABELS)))  # the same classes in another order mean other things
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"id2label = \{0: 'O', 1: 'NF-ERR', 2: 'F-ERR'\}"):
        load_reward_model(tmp_path, pairwise=False)


# --- the stage of PPO that takes a reward model -------------------------------------------------------------------------------


def test_ppo_takes_a_checkpoint_with_its_metrics_and_its_scale(completeness, pairs):
    from tests.rewards.test_placement import respond, tokens

    folder, metrics, *_ = completeness
    p = config.PPO(task="completeness", reward_model=str(folder / "checkpoint-30"), device="cpu")
    policy = atlas_policy_tokenizer()
    reward, measured, cut = judges.reward_of(p, policy, pairs)
    assert measured == {name: value for name, value in metrics[-1].items() if name in measured}  # bit for bit
    assert set(metrics[-1]) - set(measured) == {"step", "score_mean", "score_std"}
    record = pairs["heldout"][0]
    responses = respond(policy, record.question, [tokens(policy, text) for text in record.responses[:2]])
    grid = reward(responses)
    scorer = load_scorer(folder / "checkpoint-30", "completeness", p)
    context = context_of(record.question, "completeness")
    scores = scorer.scores([context] * 2, record.responses[:2])
    for row, length, score in zip(grid, responses.mask.sum(1), scores, strict=True):
        expected = 0.3 * (score.item() - metrics[-1]["score_mean"]) / metrics[-1]["score_std"]
        assert row.nonzero().flatten().tolist() == [length - 1]
        assert row[length - 1].item() == pytest.approx(expected, rel=1e-4)
    assert grid[0].sum() > 0 > grid[1].sum()  # the full answer, and the half
    assert cut() == 0


def test_ppo_rewards_segments_by_a_checkpoint_named_by_task(relevance, judged, tmp_path):
    from tests.rewards.test_placement import respond, tokens

    folder, metrics, *_ = relevance
    (tmp_path / "rm-relevance").symlink_to(folder / "checkpoint-40")
    p = config.PPO(task="relevance", reward_model=str(tmp_path / "rm-{task}"), device="cpu")
    policy = atlas_policy_tokenizer()
    reward, measured, _ = judges.reward_of(p, policy, judged)
    assert {"step": 40} | measured == metrics[-1]
    scorer = load_scorer(folder / "checkpoint-40", "relevance", p)
    assert judges.measure_judge(judges.model_judge(scorer, p), p, judged["heldout"])["accuracy"] == pytest.approx(
        metrics[-1]["accuracy"],
        abs=0.05,  # over two classes here, over three there
    )
    record = judged["heldout"][0]
    responses = respond(policy, record.question, [tokens(policy, record.responses[0])])
    grid = reward(responses)
    assert {round(value, 6) for value in grid.flatten().tolist()} <= {0.0, 0.3, -0.3}
    example = training_examples(p, [record], "relevance")[0]
    assert grid.count_nonzero() == len(example.segments)
