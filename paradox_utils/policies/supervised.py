"""The supervised policy: learn to answer from demonstrations (the start of PPO, and its frozen reference)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from paradox_utils import config, data, identity, states
from paradox_utils.data.records import DataError
from paradox_utils.policies.models import device_of, load_policy
from paradox_utils.policies.prompts import prompt_room, tail_of

MOST_EXAMPLES = 100_000_000  # their order is held in memory: some 4 GB


class NonFiniteLossError(RuntimeError):
    """Training produced a loss that is not a number."""


class StopOnNonFinite(TrainerCallback):
    """Ends training at the first loss that is NaN or infinite: nothing after it means anything."""

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102 (transformers' signature)
        broken = [logs[name] for name in ("loss", "train_loss") if name in (logs or {}) and not math.isfinite(logs[name])]
        if broken:
            raise NonFiniteLossError(
                f"the loss is {broken[0]} at step {state.global_step}: lower learning_rate ({args.learning_rate:g}), "
                "or check the data"
            )


def training_arguments(folder: Path, steps: int, p: config.Supervised | config.RewardModel, seed: int, **more: object) -> dict:
    """What every ``Trainer`` here shares: order fixed by us, states in ``folder/resume``, no other files or reports."""
    report_every = max(1, steps // 50)
    return {
        "output_dir": str(folder / "resume"),
        "max_steps": steps,
        "learning_rate": p.learning_rate,
        "warmup_steps": math.ceil(p.warmup_share * steps),
        "train_sampling_strategy": "sequential",  # the stream of examples below is already in its random order
        "logging_steps": report_every,
        "logging_nan_inf_filter": False,
        # between two reports Trainer holds a sum of losses that it does not store: states are kept at reports
        "save_strategy": "steps" if p.resume_every else "no",
        "save_steps": max(1, math.ceil(p.resume_every / report_every)) * report_every,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "use_cpu": device_of(p.device).type == "cpu",
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        **more,
    }


def fit(trainer: Trainer, p: config.Supervised | config.RewardModel) -> pd.DataFrame:
    """Train to the end; returns step and loss.

    Every ``p.resume_every`` steps (at the next report of the loss) the state goes to the folder ``resume``: weights, optimizer,
    schedule, random numbers and losses so far. Called again with the same folder, parameters and data, it goes on from there
    (see :func:`~paradox_utils.states.train`). Whoever stores the result deletes the folder after it.
    """
    trainer.remove_callback(PrinterCallback)  # a page shows the losses as a figure
    trainer.add_callback(StopOnNonFinite())
    states.train(trainer, identity.made_by(p) if p.resume_every else None)
    rows = [(row["step"], float(row["loss"])) for row in trainer.state.log_history if "loss" in row]
    return pd.DataFrame(rows, columns=["step", "loss"])


def shuffled(examples: int, count: int, seed: int) -> list[int]:
    """``count`` indices of examples: a fresh shuffle each epoch, drawn from ``seed``."""
    if count and not examples:
        raise DataError("nothing to train on: the data holds no usable example; give more questions or feedback")
    if count > MOST_EXAMPLES:
        raise DataError(f"steps × batch_size = {count}: more than {MOST_EXAMPLES} examples of a training; lower one of them")
    rng, order = random.Random(seed), []
    while len(order) < count:
        order += rng.sample(range(examples), examples)
    return order[:count]


def encode_demonstrations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], p: config.Supervised
) -> list[dict]:
    """(prompt, answer) texts to training examples; a decoder-only model is trained on the answer alone."""
    examples: list[dict] = []
    room = prompt_room(model, tokenizer, p)
    tail = tail_of(model, tokenizer, room)
    prompts = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False).input_ids
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False).input_ids
    for prompt, answer in zip(prompts, answers, strict=True):
        target = [*answer[: p.response_limit - 1], tokenizer.eos_token_id]
        ids, labels = [*prompt[: room - len(tail)], *tail], target
        if not model.config.is_encoder_decoder:
            ids, labels = ids + target, [-100] * len(ids) + target
        examples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return examples


def cut(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, p: config.Supervised) -> dict[str, int]:
    """How many demonstrations are longer than what the policy learns of them: prompts, and answers."""
    prompts, answers = zip(*data.demonstrations(p), strict=True)
    room = prompt_room(model, tokenizer, p) - len(tail_of(model, tokenizer, p.prompt_limit))
    limits = {"truncated_demonstration_prompts": (prompts, room), "truncated_demonstrations": (answers, p.response_limit - 1)}
    return {
        name: sum(len(ids) > most for ids in tokenizer(list(texts), add_special_tokens=False).input_ids)
        for name, (texts, most) in limits.items()
    }


def train(p: config.Supervised, folder: Path) -> pd.DataFrame:
    """Train the policy and save it with its tokenizer in ``folder/model``; returns step and loss (nats a token). Killed and
    called again with the same folder, it goes on from its last state (see :func:`fit`).

    Raises :class:`NonFiniteLossError`, :class:`~paradox_utils.policies.models.ModelError` or
    :class:`~paradox_utils.data.records.DataError`.
    """
    model, tokenizer = load_policy(p.policy, p.seed)
    losses = pd.DataFrame(columns=["step", "loss"])
    if p.steps:
        pairs = data.demonstrations(p)
        order = shuffled(len(pairs), p.steps * p.batch_size, p.seed)
        examples = encode_demonstrations(model, tokenizer, pairs, p)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                **training_arguments(folder, p.steps, p, p.seed, per_device_train_batch_size=p.batch_size, weight_decay=0.0)
            ),
            train_dataset=Dataset.from_list(examples).select(order),
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model if model.config.is_encoder_decoder else None),
        )
        losses = fit(trainer, p)
    with states.whole_folder(folder / "model") as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return losses
