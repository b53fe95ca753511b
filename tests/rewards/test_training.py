"""Training of reward models: that both trainers learn, what their checkpoints hold, and what is refused."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paradox_utils import config
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import DataError, Feedback, PairExample, SegmentExample, prefer
from paradox_utils.data.tasks import LABELS, TASKS
from paradox_utils.policies.models import ModelError, atlas_policy_tokenizer
from paradox_utils.policies.supervised import NonFiniteLossError, shuffled
from paradox_utils.rewards import judges, training
from paradox_utils.rewards.encoders import atlas_reward_tokenizer, load_encoder, load_reward_model
from paradox_utils.rewards.examples import context_of, training_examples
from paradox_utils.rewards.model import IGNORED, NonFiniteScoresError, RewardScorer, features, load_scorer, pair_scores
from tests.rewards.test_model import CLAUSES, CONTEXT, F_ERR, NF_ERR, OK, ids, llama, scorer_of  # noqa: F401 (llama is a fixture)

# --- training -----------------------------------------------------------------------------------------------------------------


def parameters(task="relevance", **changes):
    common = {"backbone": "atlas-bert-32", "batch_size": 16, "learning_rate": 2e-3, "device": "cpu"}
    return config.RewardModel(task=task, **(common | changes))


def fit(folder, feedback, task="relevance", **changes):
    folder.mkdir(exist_ok=True)
    return training.train(parameters(task, **changes), feedback, folder)


@pytest.fixture(scope="module")
def few(judged):
    """Enough feedback for a few steps."""
    return {"train": judged["train"][:40], "heldout": judged["heldout"][:4], "evaluator": judged["evaluator"][:10]}


@pytest.fixture(scope="module")
def pairs(question):
    """Comparisons that are easy: two full answers, two halves."""
    records = {"train": [], "heldout": []}
    for index in range(60):
        topic = atlas.draw_topic(random.Random(index))
        asked = atlas.to_question(topic, str(index))
        full = asked.references[0]
        half = full.split(". ")[0] + "."
        responses, scores = (full, half, full, half), (1.0, 0.5, 1.0, 0.5)
        preference = prefer(scores)
        record = Feedback(asked, responses, (), (), "", preference, (), scores)
        records["train" if index < 40 else "heldout"].append(record)
    return records


@pytest.fixture(scope="module")
def relevance(judged, tmp_path_factory):
    """A trained relevance model: (folder, metrics, losses, truncated)."""
    folder = tmp_path_factory.mktemp("relevance")
    return folder, *fit(folder, judged, checkpoint_steps=[0, 5, 40])


@pytest.fixture(scope="module")
def completeness(pairs, tmp_path_factory):
    """A trained completeness model."""
    folder = tmp_path_factory.mktemp("completeness")
    return folder, *fit(folder, pairs, "completeness", checkpoint_steps=[0, 30])


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


@pytest.mark.parametrize(("bad", "third"), [(NF_ERR, F_ERR), (F_ERR, NF_ERR)])
def test_smoothed_labels_give_the_other_class_of_the_task_its_share(bad, third):
    """Probabilities 1/6 (third class), 2/6 (bad) and 3/6 (good); of three tokens one good, one bad, one without a label."""

    class Outputs:
        logits = torch.zeros(1, 3, 3)

    Outputs.logits[..., [third, bad, OK]] = torch.tensor([1.0, 2, 3]).log()
    labels = torch.tensor([[OK, IGNORED, bad]])
    plain, smoothed = (training._token_loss(Outputs, labels, 2, bad, share).item() for share in (0.0, 0.1))
    good, error = -math.log(3 / 6), -math.log(2 / 6)
    assert plain == pytest.approx((good + error) / 2)
    assert smoothed == pytest.approx((0.9 * good + 0.1 * error + 0.9 * error + 0.1 * good) / 2)
    alone = training._token_loss(Outputs, torch.where(labels == bad, IGNORED, labels), 1, bad, 0.1)
    assert alone.item() == pytest.approx(0.9 * good + 0.1 * error)


def test_a_smoothed_token_model_is_less_certain(relevance, judged, tmp_path):
    fit(tmp_path, judged, checkpoint_steps=[40], label_smoothing=0.3)
    examples = training_examples(parameters(), judged["train"][:20], "relevance")
    given = [e.context for e in examples], [e.segments for e in examples]
    plain, smoothed = (
        torch.cat(load_scorer(folder / "checkpoint-40", "relevance", parameters()).segment_logits(*given)).softmax(-1).amax(1)
        for folder in (relevance[0], tmp_path)
    )
    assert 0.5 < smoothed.mean() < plain.mean() - 0.05
    assert smoothed.max() < 0.8  # the optimum is 0.7
    assert plain.max() > 0.8


def test_smoothed_pairs_give_the_other_order_its_share(completeness, pairs, tmp_path):
    """The loss of the last step by hand, from the checkpoint before it; and the model is less certain."""
    _, losses, _ = fit(tmp_path, pairs, "completeness", checkpoint_steps=[29, 30], label_smoothing=0.3)
    p, examples = parameters("completeness"), training_examples(parameters(), pairs["train"], "completeness")

    def right(folder, step, chosen):
        scores = pair_scores(load_scorer(folder / f"checkpoint-{step}", "completeness", p), chosen)
        return 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))

    last = [examples[i] for i in shuffled(len(examples), 30 * p.batch_size, p.seed)[29 * p.batch_size :]]
    sigma = right(tmp_path, 29, last)
    assert losses["loss"].iloc[-1] == pytest.approx((-0.7 * np.log(sigma) - 0.3 * np.log(1 - sigma)).mean(), rel=1e-4)
    assert 0.6 < right(tmp_path, 30, examples).mean() < 0.75 < right(completeness[0], 30, examples).mean()


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


# --- noise and corruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_label_noise_flips_the_stated_share(task):
    bad = NF_ERR if task == "relevance" else F_ERR
    examples = [SegmentExample("c", ("s",) * 4, (bad, OK, None, OK), (bad, OK, OK, OK)) for _ in range(1000)]
    flipped = training.noisy(examples, parameters(task, label_noise=0.2), random.Random(0))
    assert all(e.labels[2] is None and e.clean == (bad, OK, OK, OK) for e in flipped)
    assert {label for e in flipped for label in e.labels} == {bad, OK, None}
    share = np.mean([[a != b for a, b in zip(e.labels, (bad, OK, None, OK), strict=True)] for e in flipped], axis=0)
    assert share[2] == 0
    assert share[[0, 1, 3]] == pytest.approx([0.2] * 3, abs=4.5 * 0.4 / math.sqrt(1000))
    assert training.noisy(examples, parameters(task), random.Random(0)) == examples
    opposite = training.noisy(examples[:2], parameters(task, label_noise=1.0), random.Random(0))
    assert [e.labels for e in opposite] == [(OK, bad, None, bad)] * 2


def test_label_noise_swaps_the_stated_share_of_pairs():
    examples = [PairExample("c", "good", "bad", True)] * 3000
    noisy = training.noisy(examples, parameters("completeness", label_noise=0.3), random.Random(0))
    swapped = [e.chosen == "bad" and e.rejected == "good" for e in noisy]
    assert np.mean(swapped) == pytest.approx(0.3, abs=4.5 * math.sqrt(0.21 / 3000))


def test_label_noise_leaves_the_measurement_alone(few, tmp_path):
    small = {"train": few["train"][:20], "heldout": few["heldout"]}
    plain, noisy = (fit(tmp_path / str(noise), small, checkpoint_steps=[0, 3], label_noise=noise) for noise in (0.0, 1.0))
    assert plain[0][0] == noisy[0][0]  # untrained: the same, since held-out labels are the same
    assert not plain[1].equals(noisy[1])


@pytest.mark.parametrize("task", TASKS)
def test_corrupted_answers_are_labelled_by_the_oracle(task):
    p = parameters(task, corruption_steps=1, train_questions=50, validation_questions=5, test_questions=5)
    examples = training._corrupted(p, 10, random.Random(0))
    asked = {context_of(q, task): q for q in atlas.load_splits(p).train}
    assert len(examples) >= 1000  # too few would be learnt by heart
    assert {example.context for example in examples} <= asked.keys()
    tally = []
    for example in examples[:300]:
        question = asked[example.context]
        if task == "completeness":
            good, bad = (oracle.judge(question, text).completeness for text in (example.chosen, example.rejected))
            assert good > bad
            assert example.clean is True
        else:
            assert example.labels == example.clean
            text = " ".join(example.segments)
            places = list(itertools.accumulate((len(s) + 1 for s in example.segments), initial=0))
            spans = [(place, place + len(s)) for place, s in zip(places, example.segments, strict=False)]
            values = oracle.oracle_judge(task)([question], [text], [spans])[0]
            bad = NF_ERR if task == "relevance" else F_ERR
            assert list(example.labels) == [OK if value > 0 else bad for value in values]
            tally += values
    assert task == "completeness" or 0.2 < np.mean(np.array(tally) > 0) < 0.9


def test_replaced_words_are_labelled_where_the_passages_lack_them(question):
    context = context_of(question, "factuality")
    clauses = ("the founder of zodor isle is dane,", "and its color is surely kane.")  # wrong, right
    scorer = scorer_of("atlas-bert-32")
    (one,) = scorer.encode_segments([context], [clauses])
    row = features(one, (F_ERR, OK))
    training._label_replaced_tokens([row], scorer.tokenizer, F_ERR)
    words = scorer.tokenizer.convert_ids_to_tokens(row["ids"])
    labelled = [(word, label) for word, label in zip(words, row["labels"], strict=True) if label != IGNORED]
    assert labelled == [("</s>", F_ERR), ("dane", F_ERR), ("</s>", OK), ("kane", OK)]


def test_corruption_comes_first(few, tmp_path):
    small = {"train": few["train"][:20], "heldout": few["heldout"][:5]}
    settings = {"train_questions": 50, "validation_questions": 5, "test_questions": 5, "checkpoint_steps": [0, 4]}
    plain = fit(tmp_path / "a", small, "factuality", **settings)
    early = fit(tmp_path / "b", small, "factuality", corruption_steps=2, **settings)
    longer = fit(tmp_path / "c", small, "factuality", corruption_steps=3, **settings)
    assert early[0][0]["accuracy"] == plain[0][0]["accuracy"]
    losses = [run[1]["loss"].tolist() for run in (plain, early, longer)]
    assert losses[0][0] != losses[1][0] == losses[2][0]
    assert losses[1][2] != losses[2][2]


# --- what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
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
