"""What labels a reward model learns from: noisy, smoothed, and of corrupted answers."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import PairExample, SegmentExample
from paradox_utils.data.tasks import MARKED
from paradox_utils.policies.supervised import shuffled
from paradox_utils.rewards import training
from paradox_utils.rewards.examples import context_of, training_examples
from paradox_utils.rewards.model import IGNORED, features, load_scorer, pair_scores
from tests.rewards.conftest import fit, parameters
from tests.rewards.test_model import CLAUSES, CONTEXT, F_ERR, NF_ERR, OK, ids, llama, scorer_of  # noqa: F401 (llama is a fixture)

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


@pytest.mark.heavy
def test_label_noise_leaves_the_measurement_alone(few, tmp_path):
    small = {"train": few["train"][:20], "heldout": few["heldout"]}
    plain, noisy = (fit(tmp_path / str(noise), small, checkpoint_steps=[0, 3], label_noise=noise) for noise in (0.0, 1.0))
    assert plain[0][0] == noisy[0][0]  # untrained: the same, since held-out labels are the same
    assert not plain[1].equals(noisy[1])


@pytest.mark.parametrize("task", MARKED)
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


@pytest.mark.heavy
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


# --- smoothing ----------------------------------------------------------------------------------------------------------------


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


@pytest.mark.heavy
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


@pytest.mark.heavy
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
