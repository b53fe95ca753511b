"""Supervised training: what a demonstration becomes, that the loss falls, and how a run ends."""

import math
import shutil

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, TrainerState, TrainingArguments

from paradox_utils import config
from paradox_utils.data.records import DataError
from paradox_utils.policies import supervised
from paradox_utils.policies.models import load_policy
from tests.policies.test_prompts import EOS, KINDS, ask, tiny_model, tiny_tokenizer

T5, LLAMA = KINDS
PAIRS = [("a b c d e f", "g h g"), ("a", "b c d e f g h")]


@pytest.fixture(scope="module")
def policies():
    return {kind: (tiny_model(kind), tiny_tokenizer()) for kind in KINDS}


def ids(text):
    return tiny_tokenizer()(text, add_special_tokens=False).input_ids


def parameters(**changes):
    return config.Supervised(**{"steps": 4, "batch_size": 4, "train_questions": 40} | changes)


# --- examples -----------------------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_learns_the_answer_and_its_end(policies):
    examples = supervised.encode_demonstrations(*policies[T5], PAIRS, parameters())
    assert examples[0] == {"input_ids": [*ids("a b c d e f"), EOS], "attention_mask": [1] * 7, "labels": [*ids("g h g"), EOS]}


def test_a_decoder_only_model_is_not_trained_on_the_prompt(policies):
    examples = supervised.encode_demonstrations(*policies[LLAMA], PAIRS, parameters())
    prompt, answer = ids("a answer:"), [*ids("b c d e f g h"), EOS]
    assert examples[1]["input_ids"] == prompt + answer
    assert examples[1]["attention_mask"] == [1] * len(prompt + answer)
    assert examples[1]["labels"] == [-100] * len(prompt) + answer


@pytest.mark.parametrize("kind", KINDS)
def test_long_demonstrations_are_cut_to_the_limits_and_keep_their_ends(policies, kind):
    p = parameters(prompt_limit=5, response_limit=3)
    example = supervised.encode_demonstrations(*policies[kind], PAIRS, p)[0]
    target = [*ids("g h"), EOS]
    prompt = [*ids("a b c d"), EOS] if kind == T5 else ids("a b c answer:")
    assert example["input_ids"] == (prompt if kind == T5 else prompt + target)
    assert example["labels"] == (target if kind == T5 else [-100] * 5 + target)


@pytest.mark.parametrize("limit", [5, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_generation_show_the_policy_the_same_prompt(policies, kind, limit):
    prompts = [prompt for prompt, _ in PAIRS]
    asked = ask(policies[kind], prompts, limit)
    examples = supervised.encode_demonstrations(*policies[kind], PAIRS, parameters(prompt_limit=limit))
    for index, example in enumerate(examples):
        shown = asked.ids[index][asked.mask[index].bool()].tolist()
        assert example["input_ids"][: len(shown)] == shown


@pytest.mark.parametrize("kind", KINDS)
def test_padding_takes_no_part_in_the_loss(policies, kind):
    model, tokenizer = policies[kind]
    examples = supervised.encode_demonstrations(model, tokenizer, PAIRS, parameters())
    collate = DataCollatorForSeq2Seq(tokenizer, model=model if kind == T5 else None)

    def loss(rows):
        with torch.no_grad():
            return float(model.eval()(**collate([dict(row) for row in rows])).loss)

    words = [sum(label != -100 for label in row["labels"]) for row in examples]
    apart = sum(loss([row]) * count for row, count in zip(examples, words, strict=True)) / sum(words)
    assert loss(examples) == pytest.approx(apart, abs=1e-5)


def test_the_order_is_a_fresh_shuffle_each_epoch():
    order = supervised.shuffled(5, 12, seed=3)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert len(order) == 12
    assert order == supervised.shuffled(5, 12, seed=3) != supervised.shuffled(5, 12, seed=4)
    assert supervised.shuffled(0, 0, seed=0) == []
    with pytest.raises(DataError, match="nothing to train on"):
        supervised.shuffled(0, 3, seed=0)


# --- training -----------------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_the_loss_falls_and_the_model_is_saved_without_files_of_the_trainer(tmp_path):
    losses = supervised.train(parameters(steps=60, batch_size=8, train_questions=100), tmp_path)
    assert losses["step"].tolist() == list(range(1, 61))
    assert losses["loss"].iloc[-10:].mean() < 0.6 * losses["loss"].iloc[0]
    assert losses["loss"].iloc[0] == pytest.approx(math.log(133), rel=0.25)  # knowing nothing: near uniform over the words
    shutil.rmtree(tmp_path / "resume")  # the states, which go once the result is stored
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"model"}
    model, tokenizer = load_policy(str(tmp_path / "model"))
    assert tokenizer.decode(tokenizer("the founder of zodor").input_ids) == "the founder of zodor"
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.heavy
def test_a_seed_fixes_the_run(tmp_path):
    runs = []
    for index, seed in enumerate((0, 0, 1)):
        losses = supervised.train(parameters(seed=seed), tmp_path / str(index))
        weights = load_policy(str(tmp_path / str(index) / "model"))[0].state_dict()
        runs.append((losses["loss"].tolist(), weights))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())


@pytest.mark.heavy
def test_without_steps_the_policy_is_saved_as_it_came(tmp_path):
    losses = supervised.train(parameters(steps=0, policy=config.FIXTURE_POLICY), tmp_path)
    assert losses.empty
    assert list(losses) == ["step", "loss"]
    came, saved = (load_policy(name)[0].state_dict() for name in (config.FIXTURE_POLICY, str(tmp_path / "model")))
    assert all(torch.equal(weight, saved[name]) for name, weight in came.items())


@pytest.mark.heavy
def test_the_seed_draws_the_weights_of_a_preset(tmp_path):
    embeddings = []
    for index, seed in enumerate((0, 0, 1)):
        supervised.train(parameters(steps=0, seed=seed), tmp_path / str(index))
        embeddings.append(load_policy(str(tmp_path / str(index) / "model"))[0].get_input_embeddings().weight)
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])


@pytest.mark.heavy
def test_a_decoder_only_policy_trains_too(tmp_path):
    tiny_model(LLAMA).save_pretrained(tmp_path / "start")
    tiny_tokenizer().save_pretrained(tmp_path / "start")
    p = parameters(policy=str(tmp_path / "start"), steps=6, learning_rate=3e-2)
    losses = supervised.train(p, tmp_path)
    assert losses["loss"].iloc[-1] < losses["loss"].iloc[0]
    assert not load_policy(str(tmp_path / "model"))[0].config.is_encoder_decoder


@pytest.mark.heavy
def test_a_loss_that_is_not_finite_ends_training_with_the_way_out_and_saves_nothing(tmp_path):
    with pytest.raises(supervised.NonFiniteLossError, match=r"the loss is nan at step \d+: lower learning_rate \(1e\+30\)"):
        supervised.train(parameters(learning_rate=1e30, steps=8), tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_loss_that_breaks_after_the_last_report_is_noticed_too():
    stop = supervised.StopOnNonFinite()
    arguments, state = TrainingArguments(learning_rate=0.5), TrainerState(global_step=7)
    stop.on_log(arguments, state, None, {"loss": 1.0})
    stop.on_log(arguments, state, None, {"train_loss": 1.0, "epoch": 1.0})
    for logs in ({"loss": math.nan}, {"loss": math.inf}, {"train_loss": math.nan}):  # the last is the mean over the whole run
        with pytest.raises(supervised.NonFiniteLossError, match="at step 7"):
            stop.on_log(arguments, state, None, logs)


def test_more_examples_than_memory_holds_are_refused_before_any_is_drawn():
    with pytest.raises(DataError, match=r"steps .* batch_size = 100000001: "):
        supervised.shuffled(10, 10**8 + 1, seed=0)


@pytest.mark.heavy
def test_no_questions_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to train on"):
        supervised.train(parameters().model_copy(update={"train_questions": 0}), tmp_path)
