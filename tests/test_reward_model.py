"""Reward models: what they read, that scores do not shift, that both trainers learn, and what is refused."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from conftest import answered
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from paradox_utils import config, experiment, reward_model, rewards, sources
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import LABELS, TASKS, DataError, Feedback, PairExample, SegmentExample, prefer
from paradox_utils.models import ModelError, atlas_policy_tokenizer, atlas_reward_tokenizer, load_encoder, load_reward_model
from paradox_utils.reward_model import IGNORED, RewardScorer, encode_segments, encode_wholes, load_scorer
from paradox_utils.supervised import NonFiniteLossError

F_ERR, NF_ERR, OK = range(3)
PAD, HEAD, MARK = 0, 1, 2  # <pad>, <s>, </s> of the Atlas reward tokenizer
CONTEXT, CLAUSES = "question: what of zodor? answer:", ("the color of zodor isle is kane,", "and its stone is surely mane.")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Directory of a tiny decoder-only model with random weights."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), atlas_reward_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=PAD, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def scorer_of(backbone, pairwise=False, max_length=2048, **options):
    """A scorer with weights so random that its outputs, of the order of 1, depend on all they read."""
    model, tokenizer = load_encoder(backbone, pairwise, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.15)
    return RewardScorer(model, tokenizer, max_length, **options)


BACKBONES = ["atlas-bert-small", "atlas-longformer", "llama"]


@pytest.fixture
def backbone(request, llama):
    return llama if request.param == "llama" else request.param


@pytest.fixture(scope="module")
def batch():
    """Contexts of very different length, with none to many segments."""
    contexts, segments = [], []
    for index, record in enumerate(answered(7, seed=5)):
        example = sources.training_examples(config.Source(), [record], ("relevance", "factuality")[index % 2])
        contexts.append(example[0].context)
        segments.append(example[0].segments)
    return [*contexts, contexts[0], CONTEXT], [*segments, (), ("kane.",)]


# --- inputs -------------------------------------------------------------------------------------------------------------------


def ids(text):
    return atlas_reward_tokenizer()(text, add_special_tokens=False).input_ids


def test_marks_stand_before_the_segments_of_an_encoder():
    scorer = scorer_of("atlas-bert-small")
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    one, empty = encode_segments(scorer.model, scorer.tokenizer, [CONTEXT, CONTEXT], [CLAUSES, ()], 512)
    assert one.ids == [HEAD, *context, MARK, *first, MARK, *second, MARK]
    assert one.marks == [1 + len(context), 2 + len(context) + len(first)]
    assert one.types == [0] * (1 + len(context)) + [1] * (len(first) + len(second) + 3)
    assert not one.truncated
    assert (empty.ids, empty.marks) == ([HEAD, *context, MARK], [])


def test_marks_stand_after_the_segments_of_a_causal_backbone(llama):
    scorer = scorer_of(llama)
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    (one,) = encode_segments(scorer.model, scorer.tokenizer, [CONTEXT], [CLAUSES], 512)
    assert one.ids == [HEAD, *context, *first, MARK, *second, MARK, MARK]
    assert one.marks == [1 + len(context) + len(first), 2 + len(context) + len(first) + len(second)]
    assert [one.ids[mark] for mark in one.marks] == [MARK, MARK]


def test_over_long_inputs_lose_the_end_of_the_context_first():
    scorer = scorer_of("atlas-bert-small")
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    whole = 2 + len(context) + 2 + len(first) + len(second)

    def encoded(limit):
        (one,) = encode_segments(scorer.model, scorer.tokenizer, [CONTEXT], [CLAUSES], limit)
        assert len(one.ids) == len(one.types) == min(limit, whole)
        assert (one.ids[0], one.ids[-1]) == (HEAD, MARK)
        assert one.truncated == (limit < whole)
        return one

    assert encoded(whole).ids[1 : 1 + len(context)] == context  # it fits to the token, and is not counted
    cut = encoded(whole - 3)
    assert cut.ids == [HEAD, *context[:-3], MARK, *first, MARK, *second, MARK]
    assert cut.marks == [len(context) - 2, len(context) - 1 + len(first)]
    bare = encoded(4 + len(first) + len(second))
    assert bare.ids == [HEAD, MARK, *first, MARK, *second, MARK]
    shorter = encoded(4 + len(first) + 1)  # no context, the second segment cut: its mark is there, so it still counts
    assert (shorter.ids, shorter.marks) == ([HEAD, MARK, *first, MARK, second[0], MARK], [1, 2 + len(first)])
    assert encoded(3 + len(first)).marks == [1, -1]
    assert encoded(2).marks == [-1, -1]


def test_a_causal_mark_is_lost_with_the_end_of_its_segment(llama):
    scorer = scorer_of(llama)
    first, second = map(ids, CLAUSES)
    limit = 2 + len(first) + 1 + len(second)  # one token short of the second mark
    (one,) = encode_segments(scorer.model, scorer.tokenizer, [CONTEXT], [CLAUSES], limit)
    assert one.marks == [1 + len(first), -1]
    assert one.truncated


def test_pairs_read_context_and_response():
    tokenizer = atlas_reward_tokenizer()
    context, response = ids(CONTEXT), ids(CLAUSES[0])
    one, empty = encode_wholes(tokenizer, [CONTEXT, CONTEXT], [CLAUSES[0], ""], 512)
    assert one.ids == [HEAD, *context, *response, MARK]
    assert one.types == [0] * (1 + len(context)) + [1] * (len(response) + 1)
    assert (one.truncated, empty.truncated) == (False, False)
    assert empty.ids == [HEAD, *context, MARK]
    whole = len(context) + len(response) + 2
    for limit, kept in ((whole, len(context)), (whole - 1, len(context) - 1), (len(response) + 2, 0)):
        (one,) = encode_wholes(tokenizer, [CONTEXT], [CLAUSES[0]], limit)
        assert one.ids == [HEAD, *context[:kept], *response, MARK]
        assert one.truncated == (limit < whole)
    (one,) = encode_wholes(tokenizer, [CONTEXT], [CLAUSES[0]], 5)
    assert one.ids == [HEAD, *response[:3], MARK]


def test_labels_sit_on_the_marks_and_padding_is_ignored():
    scorer = scorer_of("atlas-longformer")
    inputs = encode_segments(scorer.model, scorer.tokenizer, [CONTEXT, "a"], [CLAUSES, (*CLAUSES, CLAUSES[0])], 20)
    assert inputs[1].marks[2] == -1  # cut off: no label to learn
    labels = [(NF_ERR, None), (OK, F_ERR, NF_ERR)]
    rows = [reward_model.features(one, row) for one, row in zip(inputs, labels, strict=True)]
    tensors = reward_model.collate(rows, scorer.model, scorer.tokenizer, True)
    longest = max(len(one.ids) for one in inputs)
    assert tensors["labels"].shape == tensors["input_ids"].shape == (2, longest)
    for index, (one, row) in enumerate(zip(inputs, labels, strict=True)):
        expected = {mark: label for mark, label in zip(one.marks, row, strict=True) if label is not None and mark >= 0}
        found = {i: v for i, v in enumerate(tensors["labels"][index].tolist()) if v != IGNORED}
        assert found == expected
        assert tensors["attention_mask"][index].tolist() == [1] * len(one.ids) + [0] * (longest - len(one.ids))
        globally = tensors["global_attention_mask"][index].nonzero().flatten().tolist()
        assert globally == [mark for mark in one.marks if mark >= 0]
    assert not reward_model.collate(rows, scorer.model, scorer.tokenizer, False)["global_attention_mask"].any()
    assert "token_type_ids" not in tensors  # this Longformer has one type
    bert = scorer_of("atlas-bert-small")
    tensors = reward_model.collate(rows, bert.model, bert.tokenizer, True)
    assert tensors["token_type_ids"][0].tolist() == inputs[0].types + [0] * (longest - len(inputs[0].ids))
    assert "global_attention_mask" not in tensors


# --- scores -------------------------------------------------------------------------------------------------------------------


def together(scorer, contexts, segments, batch):
    scorer.batch = batch
    return scorer.segment_logits(contexts, segments)


@pytest.mark.parametrize(
    ("backbone", "attention"), [*((name, True) for name in BACKBONES), ("atlas-longformer", False)], indirect=["backbone"]
)
def test_segment_scores_do_not_shift(backbone, attention, batch):
    """Padding, batch size, what else is in the batch, and the order: all without effect."""
    contexts, segments = batch
    scorer = scorer_of(backbone, global_attention=attention)
    alone = [scorer.segment_logits([c], [s])[0] for c, s in zip(contexts, segments, strict=True)]
    assert [row.shape for row in alone] == [(len(s), 3) for s in segments]
    assert torch.cat(alone).std() > 0.1
    for size in (1, 2, 64):
        for row, expected in zip(together(scorer, contexts, segments, size), alone, strict=True):
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    backwards = together(scorer, contexts[::-1], segments[::-1], 64)
    for row, expected in zip(backwards[::-1], alone, strict=True):
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    company = together(scorer, [contexts[0], " ".join([contexts[1]] * 4)], [segments[0], segments[1] * 3], 64)
    torch.testing.assert_close(company[0], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES, indirect=True)
def test_pairwise_scores_do_not_shift(backbone, batch):
    contexts, segments = batch
    responses = [" ".join(s) for s in segments]
    scorer = scorer_of(backbone, pairwise=True)
    alone = torch.cat([scorer.scores([c], [r]) for c, r in zip(contexts, responses, strict=True)])
    assert alone.shape == (9,)
    assert alone.std() > 0.05
    order = random.Random(0).sample(range(9), 9)
    for size in (1, 2, 64):
        scorer.batch = size
        torch.testing.assert_close(scorer.scores(contexts, responses), alone, atol=1e-5, rtol=0)
        shuffled = scorer.scores([contexts[i] for i in order], [responses[i] for i in order])
        torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["atlas-bert-small", "atlas-longformer"], indirect=True)
def test_scores_in_half_precision_stay_near(backbone, batch):
    contexts, segments = batch
    scorer = scorer_of(backbone)
    exact = torch.cat(scorer.segment_logits(contexts, segments))
    scorer.model.to(torch.bfloat16)
    alone = torch.cat(together(scorer, contexts, segments, 1))
    assert alone.dtype == torch.float32
    # bfloat16 keeps 8 bits: a relative error of 0.4 % in each of a few layers
    near = {"atol": 0.1 * exact.std().item(), "rtol": 0.1}
    torch.testing.assert_close(alone, exact, **near)
    torch.testing.assert_close(torch.cat(together(scorer, contexts, segments, 64)), alone, **near)


def test_global_attention_lets_a_mark_see_a_distant_passage():
    """Window 32 and two layers: ± 32 tokens. The changed word stands 150 tokens before the mark."""
    near, far = (f"{word} {'stone of lake . ' * 37} answer:" for word in ("kane", "mane"))
    moved = {}
    for attention in (True, False):
        scorer = scorer_of("atlas-longformer", global_attention=attention)
        first, second = (scorer.segment_logits([context], [CLAUSES])[0] for context in (near, far))
        moved[attention] = (first - second).abs().max().item()
    assert moved[True] > 1e-3
    assert moved[False] == 0.0


def test_a_causal_label_depends_on_its_segment_and_nothing_after_it(llama):
    scorer = scorer_of(llama)
    first, second = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    other = scorer.segment_logits([CONTEXT], [(CLAUSES[0], "and its founder is surely bane.")])[0]
    torch.testing.assert_close(other[0], first, atol=1e-5, rtol=0)
    assert (other[1] - second).abs().max() > 1e-3
    changed = scorer.segment_logits([CONTEXT], [("the color of zodor isle is gane,", CLAUSES[1])])[0]
    assert (changed[0] - first).abs().max() > 1e-3


def test_an_encoder_reads_both_ways():
    scorer = scorer_of("atlas-bert-small")
    first, second = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    other = scorer.segment_logits([CONTEXT], [(CLAUSES[0], "and its founder is surely bane.")])[0]
    assert (other[0] - first).abs().max() > 1e-4
    assert (second - first).abs().max() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES, indirect=True)
@pytest.mark.parametrize("words", [510, 520, 2000])
def test_inputs_over_the_position_table_are_cut_and_counted(backbone, words):
    scorer = scorer_of(backbone)
    assert scorer.limit == {"bert": 514, "longformer": 512, "llama": 512}[scorer.model.config.model_type]
    context = "stone " * words
    logits = scorer.segment_logits([context, CONTEXT], [CLAUSES, CLAUSES])
    assert torch.isfinite(torch.cat(logits)).all()
    assert scorer.truncated == 1  # the second fits
    scores = scorer_of(backbone, pairwise=True)
    assert torch.isfinite(scores.scores([context, CONTEXT], [CLAUSES[0], "kane"])).all()
    assert scores.truncated == 1


def test_segments_that_cannot_be_read_are_nan_and_earn_nothing(question):
    scorer = scorer_of("atlas-bert-small", max_length=12)
    logits = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    assert logits.isnan().tolist() == [[False] * 3, [True] * 3]
    assert scorer.truncated == 1
    judge = rewards.model_judge(scorer, config.PPO(task="relevance"))
    values = judge([question], [" ".join(CLAUSES)], [[(0, 32), (33, 62)]])[0]
    assert abs(values[0]) == 1.0
    assert values[1] == 0.0


def test_broken_weights_are_no_silent_zero():
    """Without this a model that blew up in its last steps would look like one that is always wrong, or pay nothing."""
    scorer = scorer_of("atlas-bert-small")
    with torch.no_grad():
        scorer.model.classifier.bias[1] = float("nan")
    with pytest.raises(NonFiniteLossError, match="scores are not finite"):
        scorer.segment_logits([CONTEXT], [CLAUSES])


# --- training -----------------------------------------------------------------------------------------------------------------


def parameters(task="relevance", **changes):
    common = {"backbone": "atlas-bert-small", "batch_size": 16, "learning_rate": 2e-3, "device": "cpu"}
    return config.RewardModel(task=task, **(common | changes))


def fit(folder, feedback, task="relevance", **changes):
    folder.mkdir(exist_ok=True)
    return reward_model.train(parameters(task, **changes), feedback, folder)


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
    heldout = sources.training_examples(parameters(), judged["heldout"], "relevance")
    again = reward_model.measure(scorer, parameters(), heldout, [])
    assert {"step": step, **again} == pytest.approx(row)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in checkpoint.iterdir())


def test_a_pairwise_checkpoint_carries_the_scale_of_its_scores(completeness, pairs):
    folder, metrics, *_ = completeness
    p = parameters("completeness")
    scorer = load_scorer(folder / "checkpoint-30", "completeness", p)
    train = sources.training_examples(p, pairs["train"], "completeness")
    assert len(train) == 160
    contexts = [example.context for example in train] * 2
    scores = scorer.scores(contexts, [e.chosen for e in train] + [e.rejected for e in train])
    assert metrics[-1]["score_mean"] == pytest.approx(scores.mean().item(), abs=1e-4)
    assert metrics[-1]["score_std"] == pytest.approx(scores.std().item(), rel=1e-4)


def test_the_start_is_the_untrained_model(relevance):
    folder, *_ = relevance
    fresh = load_encoder("atlas-bert-small", False, seed=0)[0].state_dict()
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
    examples = sources.training_examples(p, few["train"], "relevance")
    first = [examples[i] for i in reward_model.shuffled(len(examples), p.batch_size, p.seed)]
    model, tokenizer = load_encoder(p.backbone, False, p.seed)
    logits = torch.cat(
        RewardScorer(model, tokenizer, 2048).segment_logits([e.context for e in first], [e.segments for e in first])
    )
    labels = torch.tensor([label for e in first for label in e.labels])
    expected = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    assert losses["loss"][0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_a_label_is_no_accident():
    from paradox_utils.reward_model import _token_loss

    class Outputs:
        logits = torch.zeros(2, 3, 3)

    labels = torch.full((2, 3), IGNORED)
    assert _token_loss(Outputs, labels, 0) == 0.0
    labels[0, 1] = OK
    assert _token_loss(Outputs, labels, 1).item() == pytest.approx(math.log(3))
    assert _token_loss(Outputs, labels, 4).item() == pytest.approx(math.log(3) / 4)  # one of four labels of the batch


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
@pytest.mark.parametrize("backbone", ["atlas-longformer", "llama"], indirect=True)
def test_other_backbones_train(task, backbone, judged, pairs, tmp_path):
    data = pairs if task == "completeness" else judged
    small = {"train": data["train"][:8], "heldout": data["heldout"][:3]}
    metrics, losses, _ = fit(tmp_path, small, task, backbone=backbone, checkpoint_steps=[0, 12], batch_size=4)
    assert np.isfinite(losses["loss"]).all()
    assert losses["loss"].iloc[-3:].mean() < losses["loss"].iloc[:3].mean()
    scorer = load_scorer(tmp_path / "checkpoint-12", task, parameters())
    heldout = sources.training_examples(parameters(), small["heldout"], task)
    train = sources.training_examples(parameters(), small["train"], task)
    assert {"step": 12, **reward_model.measure(scorer, parameters(task), heldout, train)} == pytest.approx(metrics[-1])


def test_over_long_training_inputs_are_counted(few, tmp_path):
    *_, truncated = fit(tmp_path, few, checkpoint_steps=[1], max_length=60)
    limit, tokenizer = 60, atlas_reward_tokenizer()
    examples = sources.training_examples(parameters(), few["train"], "relevance")
    lengths = [2 + len(ids(e.context)) + sum(1 + len(tokenizer(s).input_ids) for s in e.segments) for e in examples]
    assert truncated == sum(length > limit for length in lengths)
    assert 0 < truncated < len(examples)


# --- noise and corruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["relevance", "factuality"])
def test_label_noise_flips_the_stated_share(task):
    bad = NF_ERR if task == "relevance" else F_ERR
    examples = [SegmentExample("c", ("s",) * 4, (bad, OK, None, OK), (bad, OK, OK, OK)) for _ in range(1000)]
    flipped = reward_model.noisy(examples, parameters(task, label_noise=0.2), random.Random(0))
    assert all(e.labels[2] is None and e.clean == (bad, OK, OK, OK) for e in flipped)
    assert {label for e in flipped for label in e.labels} == {bad, OK, None}
    share = np.mean([[a != b for a, b in zip(e.labels, (bad, OK, None, OK), strict=True)] for e in flipped], axis=0)
    assert share[2] == 0
    assert share[[0, 1, 3]] == pytest.approx([0.2] * 3, abs=4.5 * 0.4 / math.sqrt(1000))
    assert reward_model.noisy(examples, parameters(task), random.Random(0)) == examples
    opposite = reward_model.noisy(examples[:2], parameters(task, label_noise=1.0), random.Random(0))
    assert [e.labels for e in opposite] == [(OK, bad, None, bad)] * 2


def test_label_noise_swaps_the_stated_share_of_pairs():
    examples = [PairExample("c", "good", "bad", True)] * 3000
    noisy = reward_model.noisy(examples, parameters("completeness", label_noise=0.3), random.Random(0))
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
    examples = reward_model._corrupted(p, 10, random.Random(0))
    asked = {sources.reward_context(p, q, task): q for q in atlas.load_splits(p).train}
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
            values = rewards.oracle_judge(task)([question], [text], [spans])[0]
            bad = NF_ERR if task == "relevance" else F_ERR
            assert list(example.labels) == [OK if value > 0 else bad for value in values]
            tally += values
    assert task == "completeness" or 0.2 < np.mean(np.array(tally) > 0) < 0.9


def test_replaced_words_are_labelled_where_the_passages_lack_them(question):
    context = sources.reward_context(config.Source(), question, "factuality")
    clauses = ("the founder of zodor isle is dane,", "and its color is surely kane.")  # wrong, right
    scorer = scorer_of("atlas-bert-small")
    (one,) = encode_segments(scorer.model, scorer.tokenizer, [context], [clauses], 512)
    row = reward_model.features(one, (F_ERR, OK))
    reward_model._label_replaced_tokens([row], scorer.tokenizer)
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
    with pytest.raises(NonFiniteLossError, match=r"lower learning_rate|scores are not finite"):
        fit(tmp_path / "early", few, checkpoint_steps=[8], learning_rate=1e38)
    with pytest.raises(NonFiniteLossError, match="lower its learning_rate"):  # the last update breaks the weights
        fit(tmp_path / "late", few, checkpoint_steps=[2], learning_rate=1e38)
    assert not list(tmp_path.glob("*/checkpoint-*"))


def test_a_checkpoint_whose_labels_do_not_fit_is_refused(relevance, completeness, tmp_path):
    tokens, pairwise = relevance[0] / "checkpoint-40", completeness[0] / "checkpoint-30"
    with pytest.raises(
        ModelError, match=r"has the classes \('F-ERR', 'NF-ERR', 'O'\), but completeness needs one score; "
    ) as error:
        load_reward_model(tokens, pairwise=True)
    assert str(tokens) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="but relevance and factuality need") as error:
        load_scorer(pairwise, "factuality", parameters())
    assert "\n" not in str(error.value)
    other, tokenizer = load_encoder("atlas-bert-small", False, 0)
    other.config.id2label = dict(enumerate(reversed(LABELS)))  # the same classes in another order mean other things
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"its labels are \('O', 'NF-ERR', 'F-ERR'\)"):
        load_reward_model(tmp_path, pairwise=False)


# --- the stage of PPO that takes a reward model -------------------------------------------------------------------------------


def test_ppo_takes_a_checkpoint_with_its_metrics_and_its_scale(completeness, pairs):
    from test_rewards import respond, tokens

    folder, metrics, *_ = completeness
    p = config.PPO(task="completeness", reward_model=str(folder / "checkpoint-30"), device="cpu")
    policy = atlas_policy_tokenizer()
    reward, stored, cut = experiment.reward_of(p, policy, {})
    assert stored["accuracy"] == metrics[-1]["accuracy"]
    record = pairs["heldout"][0]
    responses = respond(policy, record.question, [tokens(policy, text) for text in record.responses[:2]])
    grid = reward(responses)
    scorer = load_scorer(folder / "checkpoint-30", "completeness", p)
    context = sources.reward_context(p, record.question, "completeness")
    scores = scorer.scores([context] * 2, record.responses[:2])
    for row, length, score in zip(grid, responses.mask.sum(1), scores, strict=True):
        expected = 0.3 * (score.item() - metrics[-1]["score_mean"]) / metrics[-1]["score_std"]
        assert row.nonzero().flatten().tolist() == [length - 1]
        assert row[length - 1].item() == pytest.approx(expected, rel=1e-4)
    assert grid[0].sum() > 0 > grid[1].sum()  # the full answer, and the half
    assert cut() == 0


def test_ppo_rewards_segments_by_a_checkpoint_named_by_task(relevance, judged, tmp_path):
    from test_rewards import respond, tokens

    folder, metrics, *_ = relevance
    (tmp_path / "rm-relevance").symlink_to(folder / "checkpoint-40")
    p = config.PPO(task="relevance", reward_model=str(tmp_path / "rm-{task}"), device="cpu")
    policy = atlas_policy_tokenizer()
    reward, stored, _ = experiment.reward_of(p, policy, {})
    assert stored["balanced_accuracy"] == metrics[-1]["balanced_accuracy"]
    scorer = load_scorer(folder / "checkpoint-40", "relevance", p)
    assert rewards.measure_judge(rewards.model_judge(scorer, p), p, judged["heldout"])["accuracy"] == pytest.approx(
        metrics[-1]["accuracy"],
        abs=0.05,  # over two classes here, over three there
    )
    record = judged["heldout"][0]
    responses = respond(policy, record.question, [tokens(policy, record.responses[0])])
    grid = reward(responses)
    assert {round(value, 6) for value in grid.flatten().tolist()} <= {0.0, 0.3, -0.3}
    example = sources.training_examples(p, [record], "relevance")[0]
    assert grid.count_nonzero() == len(example.segments)
