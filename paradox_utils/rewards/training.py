"""How reward models train, and how accurate each of their checkpoints is."""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import TokenClassifierOutput

from paradox_utils import config, data, states
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import DataError, Feedback, JudgedSet, PairExample, SegmentExample
from paradox_utils.data.tasks import GOOD, TASKS
from paradox_utils.files import read_json, write_table
from paradox_utils.policies.models import device_of
from paradox_utils.policies.supervised import fit, shuffled, training_arguments
from paradox_utils.rewards.encoders import load_encoder
from paradox_utils.rewards.examples import context_of, training_examples
from paradox_utils.rewards.measures import pair_metrics
from paradox_utils.rewards.model import (
    IGNORED,
    RewardScorer,
    Settings,
    features,
    margins,
    measured,
    pair_scores,
    text_scores,
)
from paradox_utils.rewards.picks import picks

Sets = dict[str, list[JudgedSet]]


class Checkpoints(TrainerCallback):
    """Measures and saves the model at each of the wanted steps, then ends the training.

    A training that goes on from a state reads back what was measured before it.
    """

    def __init__(
        self, p: config.RewardModel, scorer: RewardScorer, heldout: list, train: list, folder: Path, sets: Sets
    ) -> None:
        self.p, self.scorer, self.heldout, self.train, self.folder, self.sets = p, scorer, heldout, train, folder, sets
        self.metrics: list[dict] = []

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102
        if state.global_step == 0:
            return self._at(0, control)
        done = [step for step in self.p.checkpoint_steps if step <= state.global_step]
        self.metrics = [read_metrics(self.folder / f"checkpoint-{step}") for step in done]

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102
        self._at(state.global_step, control)

    def _at(self, step: int, control: TrainerControl) -> None:
        if step in self.p.checkpoint_steps:
            self.scorer.model.eval()
            known: dict[tuple[str, str], float] = {}
            metrics = {"step": step, **measure(self.scorer, self.p, self.heldout, self.train, known)}
            self.metrics.append({name: None if v is None or np.isnan(v) else v for name, v in metrics.items()})
            picked = picks_of(self.scorer, self.p, self.sets, known).assign(step=step) if self.sets else None
            save_checkpoint(self.scorer, self.metrics[-1], self.folder / f"checkpoint-{step}", picked)
            self.scorer.model.train()
        control.should_training_stop = step >= self.p.checkpoint_steps[-1]


def train(
    p: config.RewardModel, feedback: dict[str, list[Feedback]] | Sets, folder: Path, sets: Sets | None = None
) -> tuple[list[dict], pd.DataFrame, int]:
    """Train on ``feedback[p.split]``, measure on ``feedback["heldout"]``, leave ``checkpoint-STEP`` folders, with the model's
    picks among ``sets`` in ``picks.csv`` (see :func:`~paradox_utils.rewards.picks.picks`). Killed and called again with the
    same folder, it goes on from its last state (see :func:`~paradox_utils.policies.supervised.fit`).

    Returns the metrics of each checkpoint (see :mod:`paradox_utils.rewards.measures`), the losses (step, loss), and how many
    training inputs were over the length limit.
    """
    pairwise = TASKS[p.task].pairwise
    records = feedback[p.split][: p.feedback_limit or None]
    rng = random.Random(f"reward model {p.seed}")
    layout = (p.passage_bars, p.known_answer)
    examples = noisy(training_examples(p, records, p.task, *layout), p, rng)
    heldout = training_examples(p, feedback["heldout"], p.task, *layout)
    if not examples or not heldout:
        raise DataError(f"{p.task}: {len(examples)} examples to train on, {len(heldout)} held out; give more feedback")
    _forget_broken(p, folder)
    model, tokenizer = load_encoder(p.backbone, pairwise, p.seed)
    batch = 4 * p.micro_batch or 64  # without gradients, four times as many fit
    scorer = RewardScorer(
        model, tokenizer, p.max_length, p.global_attention, batch,
        passage_bars=p.passage_bars, known_answer=p.known_answer, task=p.task,
    )  # fmt: skip
    callback = Checkpoints(p, scorer, heldout, examples, folder, sets or {})
    steps = max(p.schedule_steps, p.checkpoint_steps[-1])
    if p.checkpoint_steps[-1] == 0:
        scorer.model.to(device_of(p.device))
        callback.on_train_begin(None, TrainerState(), TrainerControl())
        return callback.metrics, pd.DataFrame(columns=["step", "loss"]), 0
    early = _corrupted(p, len(records), rng) if p.corruption_steps else []
    rows, truncated = (_pair_rows if pairwise else _token_rows)(scorer, [*early, *examples])
    if TASKS[p.task].reads_passages and not pairwise:
        _label_replaced_tokens(rows[: len(early)], tokenizer, TASKS[p.task].bad)
    order = shuffled(len(early), p.corruption_steps * p.batch_size, p.seed)
    order += [len(early) + i for i in shuffled(len(examples), (steps - p.corruption_steps) * p.batch_size, p.seed)]
    micro = p.micro_batch or p.batch_size
    arguments = training_arguments(
        folder, steps, p, p.seed, weight_decay=p.weight_decay,
        per_device_train_batch_size=micro, gradient_accumulation_steps=max(1, p.batch_size // micro),
    )  # fmt: skip
    common = {
        "model": model,
        "train_dataset": Dataset.from_list(rows).select(order),
        "processing_class": tokenizer,
        "callbacks": [callback],
    }
    if pairwise:
        from trl import RewardConfig  # takes a second, and token models need none of it

        # TRL's defaults, bfloat16 and gradient checkpointing, would measure checkpoints in a precision they are not used in
        settings = RewardConfig(**arguments, max_length=None, disable_dropout=False, bf16=False, gradient_checkpointing=None)
        collate = functools.partial(_collate_pairs, scorer=scorer)
        trainer = _pair_trainer(p.label_smoothing)(args=settings, data_collator=collate, **common)
    else:
        settings = TrainingArguments(**arguments)
        loss = functools.partial(_token_loss, bad=TASKS[p.task].bad, smoothing=p.label_smoothing)
        trainer = Trainer(args=settings, data_collator=scorer.collate, compute_loss_func=loss, **common)
    losses = fit(trainer, p)
    return callback.metrics, losses, truncated


def _forget_broken(p: config.RewardModel, folder: Path) -> None:
    """A training whose earlier checkpoints are lost or damaged cannot go on: it starts again."""
    state = states.newest(folder / "resume", states.TRAINER)
    done = [step for step in p.checkpoint_steps if state and step <= int(state.name.removeprefix(states.TRAINER))]
    broken = [step for step in done if not states.is_complete(folder / f"checkpoint-{step}")]
    if broken:
        warnings.warn(f"{folder / f'checkpoint-{broken[0]}'}: is not whole, so the training starts again", stacklevel=2)
        shutil.rmtree(folder / "resume")


def _token_loss(
    outputs: TokenClassifierOutput, labels: Tensor, num_items_in_batch: Tensor | int, bad: int, smoothing: float
) -> Tensor:
    """Cross-entropy over the labels of the whole batch (their number is ``num_items_in_batch``), however it is cut in passes:
    −(1 − ε) log p(label) − ε log p(other) with ε = ``smoothing``, the other of the task's two classes (GOOD and ``bad``) and p
    over all three.

    Models take the mean over one pass instead, which ``Trainer`` then sums over the passes of a batch.
    """
    entropy = functools.partial(cross_entropy, outputs.logits.flatten(0, 1), ignore_index=IGNORED, reduction="sum")
    labels = labels.flatten()
    total = entropy(labels)
    if smoothing:
        total = (1 - smoothing) * total + smoothing * entropy(torch.where(labels == IGNORED, IGNORED, GOOD + bad - labels))
    return total / max(1, num_items_in_batch)


def _pair_trainer(smoothing: float) -> type[Trainer]:
    """TRL's ``RewardTrainer``, which knows no label smoothing, with it: −(1 − ε) log σ(Δ) − ε log σ(−Δ) of a margin Δ (as in
    Mitchell 2023), which is its own −log σ(Δ), and ε Δ."""
    from trl import RewardTrainer

    class Smoothed(RewardTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ANN001, ANN202
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
            loss = loss + smoothing * (chosen - rejected).mean()
            return (loss, outputs) if return_outputs else loss

    return Smoothed if smoothing else RewardTrainer


def _token_rows(scorer: RewardScorer, examples: Sequence[SegmentExample]) -> tuple[list[dict], int]:
    contexts, segments = [e.context for e in examples], [e.segments for e in examples]
    inputs = scorer.encode_segments(contexts, segments)
    return [features(i, e.labels) for i, e in zip(inputs, examples, strict=True)], sum(i.truncated for i in inputs)


def _pair_rows(scorer: RewardScorer, examples: Sequence[PairExample]) -> tuple[list[dict], int]:
    texts = [e.chosen for e in examples] + [e.rejected for e in examples]
    inputs = scorer.encode_wholes([e.context for e in examples] * 2, texts)
    chosen, rejected = inputs[: len(examples)], inputs[len(examples) :]
    rows = [
        {"chosen_ids": c.ids, "rejected_ids": r.ids, "chosen_types": c.types, "rejected_types": r.types}
        for c, r in zip(chosen, rejected, strict=True)
    ]
    return rows, sum(one.truncated for one in inputs)


def _collate_pairs(rows: list[dict], scorer: RewardScorer) -> dict:
    """The chosen half, then the rejected half: the layout TRL's loss expects."""
    sides = [(row, side) for side in ("chosen", "rejected") for row in rows]
    return scorer.collate([{"ids": row[f"{s}_ids"], "types": row[f"{s}_types"], "marks": [0]} for row, s in sides])


def noisy(examples: Sequence, p: config.RewardModel, rng: random.Random) -> list:
    """The examples with labels (or preferences) flipped with probability ``p.label_noise``: the label-noise route."""
    if p.label_noise == 0:
        return list(examples)
    task = TASKS[p.task]
    if task.pairwise:
        return [replace(e, chosen=e.rejected, rejected=e.chosen) if rng.random() < p.label_noise else e for e in examples]

    def flip(label: int | None) -> int | None:
        return label if label is None or rng.random() >= p.label_noise else (GOOD if label == task.bad else task.bad)

    return [replace(e, labels=tuple(flip(label) for label in e.labels)) for e in examples]


def _corrupted(p: config.RewardModel, count: int, rng: random.Random) -> list:
    """Answers with values right or wrong at random, labelled by the oracle."""
    questions = atlas.load_splits(p).train
    records = []
    for question in rng.choices(questions, k=max(count, 1000)):
        responses = tuple(atlas.corrupt(question, rng) for _ in range(4))
        records.append(oracle.feedback_on(question, responses, 0.0, random.Random(0)))
    return training_examples(p, records, p.task, p.passage_bars)


def _label_replaced_tokens(rows: list[dict], tokenizer: PreTrainedTokenizerFast, bad: int) -> None:
    """Replaced-token detection (Clark et al. 2020) on corrupted answers: every value word is labelled too, O where the context
    holds it, else ``bad``. It teaches a small model to read the passages, as pretraining does for a large one."""
    values = set(tokenizer.convert_tokens_to_ids([*itertools.chain(*atlas.VALUES.values())]))
    for row in rows:
        context = {token for token, kind in zip(row["ids"], row["types"], strict=True) if kind == 0}
        for place, (token, kind) in enumerate(zip(row["ids"], row["types"], strict=True)):
            if kind == 1 and token in values:
                row["labels"][place] = GOOD if token in context else bad


# --- measuring ----------------------------------------------------------------------------------------------------------------


def measure(
    scorer: RewardScorer,
    p: config.RewardModel,
    heldout: list,
    train: list,
    known: dict[tuple[str, str], float] | None = None,
) -> dict:
    """Accuracy and its companions on held-out feedback; for pairwise models also mean and deviation of training scores. Scores
    of texts join the ``known`` ones."""
    if not TASKS[p.task].pairwise:
        return measured(scorer, p.task, heldout)
    scores = pair_scores(scorer, [*heldout, *train[:: max(1, 2 * len(train) // p.centre_sample)]], known)
    margins, centring = scores[: len(heldout), 0] - scores[: len(heldout), 1], scores[len(heldout) :]
    return pair_metrics(margins, [e.clean for e in heldout]) | {
        "score_mean": float(centring.mean()),
        "score_std": float(centring.std(ddof=1)),
    }


def picks_of(
    scorer: RewardScorer, p: config.RewardModel, sets: Sets, known: dict[tuple[str, str], float] | None = None
) -> pd.DataFrame:
    """What the model picks among the judged sets of each ``part``, with the scores of texts that are ``known``.

    A model of whole responses picks by its score, one of segments by the mean of P(good) − P(error) over a response's segments:
    0 for one that was cut off, −1 for a response without any.
    """
    asked = [(part, one) for part, some in sets.items() for one in some]
    layout = (p.task, p.passage_sentences, p.passage_bars, p.known_answer)
    texts = [(context_of(one.question, *layout), text) for _, one in asked for text in one.responses]
    if TASKS[p.task].pairwise:
        scores = text_scores(scorer, texts, known)
    else:
        contexts, responses = zip(*texts, strict=True)
        spans = data.segments_of(p, responses, p.task)
        pieces = [[text[a:b] for a, b in own] for text, own in zip(responses, spans, strict=True)]
        values = [torch.tanh(margin / 2).nan_to_num(0.0) for margin in margins(scorer, p.task, contexts, pieces)]
        scores = np.array([float(value.mean()) if len(value) else -1.0 for value in values])
    ends = np.cumsum([len(one.responses) for _, one in asked])
    table = picks([one for _, one in asked], np.split(scores, ends[:-1]))
    return table.assign(part=[part for part, _ in asked])


def save_checkpoint(scorer: RewardScorer, metrics: dict, folder: Path, picked: pd.DataFrame | None = None) -> None:
    """Weights (safetensors), tokenizer, input limits, metrics and picks, all or none of them."""
    with states.whole_folder(folder) as part:
        scorer.model.save_pretrained(part)
        scorer.tokenizer.save_pretrained(part)
        settings = Settings(**{name: getattr(scorer, name) for name in Settings.model_fields})
        (part / "settings.json").write_text(settings.model_dump_json())
        (part / "metrics.json").write_text(json.dumps(metrics))
        if picked is not None:
            write_table(part / "picks.csv", picked)
        states.complete(part)


def read_metrics(checkpoint: Path) -> dict:
    """What :func:`measure` said of a checkpoint; raises :class:`~paradox_utils.files.FileError` where that is gone."""
    return read_json(checkpoint / "metrics.json")
