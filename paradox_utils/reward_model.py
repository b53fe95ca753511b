"""Reward models: how their inputs are laid out, how they score, how they train, and how accurate each checkpoint is.

Token models read ``context </s> segment </s> segment …``: the label of a segment sits on the mark ``</s>`` before it, or after
it for a causal backbone, which sees nothing to its right. Pairwise models read ``context response`` and give one score.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)
from transformers.modeling_outputs import TokenClassifierOutput
from trl import RewardConfig, RewardTrainer

from paradox_utils import config, sources
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import ERROR_LABEL, LABELS, DataError, Feedback, PairExample, SegmentExample, prefer
from paradox_utils.measures import pair_metrics, segment_metrics
from paradox_utils.models import device_of, is_causal, load_encoder, load_reward_model
from paradox_utils.supervised import NonFiniteLossError, StopOnNonFinite, shuffled, training_arguments

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class Input:
    """One tokenised input: ids, segment ids (1: the judged text), and the position of each segment's mark (−1: cut off)."""

    ids: list[int]
    types: list[int]
    marks: list[int]
    truncated: bool


@dataclass
class RewardScorer:
    """A reward model ready to score texts. ``truncated`` counts the inputs that were longer than ``max_length`` so far."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    global_attention: bool = True
    batch: int = 64
    truncated: int = 0

    def segment_logits(self, contexts: Sequence[str], segments: Sequence[Sequence[str]]) -> list[Tensor]:
        """Logits [segments, 3] in the order of :data:`LABELS` for each text; NaN for a segment that was cut off."""
        inputs = encode_segments(self.model, self.tokenizer, contexts, segments, self.limit)
        rows: list[Tensor] = [torch.empty(0)] * len(inputs)
        for chosen, logits in self._passes(inputs):
            for index, row in zip(chosen, logits, strict=True):
                marks = torch.tensor(inputs[index].marks, dtype=torch.long)
                rows[index] = row[marks].masked_fill((marks < 0)[:, None], torch.nan)
        return rows

    def scores(self, contexts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """One score a response, [responses]."""
        inputs = encode_wholes(self.tokenizer, contexts, responses, self.limit)
        scores = torch.empty(len(inputs))
        for chosen, logits in self._passes(inputs):
            scores[chosen] = logits[:, 0]
        return scores

    @property
    def limit(self) -> int:
        """Tokens the model can read: ``max_length``, or its position table where that is shorter."""
        positions = getattr(self.model.config, "max_position_embeddings", self.max_length)
        offset = 2 if self.model.config.model_type in {"longformer", "roberta", "mpnet", "xlm-roberta"} else 0
        return min(self.max_length, positions - offset)

    @torch.inference_mode()
    def _passes(self, inputs: Sequence[Input]):  # noqa: ANN202 (a generator of index lists and logits)
        """Passes over inputs of similar length, so that little is padded."""
        self.truncated += sum(one.truncated for one in inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i].ids))
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            tensors = collate([features(inputs[i]) for i in chosen], self.model, self.tokenizer, self.global_attention)
            logits = self.model(**{name: tensor.to(self.model.device) for name, tensor in tensors.items()}).logits
            if not torch.isfinite(logits).all():
                raise NonFiniteLossError(
                    "the reward model's scores are not finite: lower its learning_rate, or name another checkpoint"
                )
            yield chosen, logits.float().cpu()


def load_scorer(checkpoint: Path, task: str, p: config.Source, batch: int = 64) -> RewardScorer:
    """The reward model of a checkpoint folder, with the input limits it was trained with."""
    pairwise = task == "completeness"
    model, tokenizer = load_reward_model(checkpoint, pairwise)
    settings = checkpoint / "settings.json"
    saved = json.loads(settings.read_text()) if settings.is_file() else {}
    return RewardScorer(
        model.to(device_of(p.device)), tokenizer, saved.get("max_length", 2048), saved.get("global_attention", True), batch
    )


# --- inputs -------------------------------------------------------------------------------------------------------------------


def encode_segments(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    contexts: Sequence[str],
    segments: Sequence[Sequence[str]],
    limit: int,
) -> list[Input]:
    """Token-model inputs of at most ``limit`` tokens. The context is cut first, from its end; then the last segments."""
    mark = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    before = not is_causal(model)
    heads, ends = _special(tokenizer)
    flat = _ids(tokenizer, [piece for pieces in segments for piece in pieces])
    inputs, position = [], 0
    for context, pieces in zip(_ids(tokenizer, contexts), segments, strict=True):
        body: list[int] = []
        marks: list[int] = []
        for piece in flat[position : position + len(pieces)]:
            marks.append(len(body) if before else len(body) + len(piece))
            body += [mark, *piece] if before else [*piece, mark]
        position += len(pieces)
        room = limit - len(heads) - len(ends) - len(body)
        kept, body_kept = context[: max(0, room)], body[: limit - len(heads) - len(ends)]
        start = len(heads) + len(kept)
        inputs.append(
            Input(
                ids=[*heads, *kept, *body_kept, *ends],
                types=[0] * start + [1] * (len(body_kept) + len(ends)),
                marks=[start + m if m < len(body_kept) else -1 for m in marks],
                truncated=len(context) > room,
            )
        )
    return inputs


def encode_wholes(
    tokenizer: PreTrainedTokenizerFast, contexts: Sequence[str], responses: Sequence[str], limit: int
) -> list[Input]:
    """Pairwise-model inputs of at most ``limit`` tokens; the context is cut first, from its end."""
    heads, ends = _special(tokenizer)
    inputs = []
    for context, response in zip(_ids(tokenizer, contexts), _ids(tokenizer, [f" {r}" for r in responses]), strict=True):
        room = limit - len(heads) - len(ends)
        kept = context[: max(0, room - len(response))]
        body = response[:room]
        types = [0] * (len(heads) + len(kept)) + [1] * (len(body) + len(ends))
        inputs.append(Input([*heads, *kept, *body, *ends], types, [0], len(kept) + len(body) < len(context) + len(response)))
    return inputs


def _ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []


def _special(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    head = tokenizer.cls_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return ([] if head is None else [head]), [end]


def features(one: Input, labels: Sequence[int | None] | None = None) -> dict:
    """What :func:`collate` takes; ``labels`` one a segment, None: not trained on."""
    row = {"ids": one.ids, "types": one.types, "marks": [m for m in one.marks if m >= 0]}
    if labels is not None:
        row["labels"] = [IGNORED] * len(one.ids)
        for mark, label in zip(one.marks, labels, strict=True):
            if mark >= 0 and label is not None:
                row["labels"][mark] = label
    return row


def collate(rows: Sequence[dict], model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, global_attention: bool) -> dict:
    """Rows of :func:`features` to padded tensors [rows, longest], with what this kind of model takes."""
    longest = max(len(row["ids"]) for row in rows)

    def padded(name: str, filler: int) -> Tensor:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    tensors = {"input_ids": padded("ids", tokenizer.pad_token_id)}
    tensors["attention_mask"] = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in rows])
    if getattr(model.config, "type_vocab_size", 0) > 1:
        tensors["token_type_ids"] = padded("types", 0)
    if model.config.model_type == "longformer":
        attends = torch.zeros_like(tensors["input_ids"])
        if global_attention:
            for index, row in enumerate(rows):
                attends[index, row["marks"]] = 1
        tensors["global_attention_mask"] = attends
    if "labels" in rows[0]:
        tensors["labels"] = padded("labels", IGNORED)
    return tensors


# --- training -----------------------------------------------------------------------------------------------------------------


class Checkpoints(TrainerCallback):
    """Measures and saves the model at each of the wanted steps, then ends the training."""

    def __init__(self, p: config.RewardModel, scorer: RewardScorer, heldout: list, train: list, folder: Path) -> None:
        self.p, self.scorer, self.heldout, self.train, self.folder = p, scorer, heldout, train, folder
        self.metrics: list[dict] = []

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102
        self._at(0, control)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ANN001, ANN003, ANN201, D102
        self._at(state.global_step, control)

    def _at(self, step: int, control) -> None:  # noqa: ANN001
        if step in self.p.checkpoint_steps:
            self.scorer.model.eval()
            self.metrics.append({"step": step, **measure(self.scorer, self.p, self.heldout, self.train)})
            save_checkpoint(self.scorer, self.metrics[-1], self.folder / f"checkpoint-{step}")
            self.scorer.model.train()
        control.should_training_stop = step >= self.p.checkpoint_steps[-1]


def train(p: config.RewardModel, feedback: dict[str, list[Feedback]], folder: Path) -> tuple[list[dict], pd.DataFrame, int]:
    """Train on ``feedback[p.split]``, measure on ``feedback["heldout"]``, leave ``checkpoint-STEP`` folders.

    Returns the metrics of each checkpoint (see :mod:`paradox_utils.measures`), the losses (step, loss), and how many training
    inputs were over the length limit.
    """
    pairwise = p.task == "completeness"
    records = feedback[p.split][: p.feedback_limit or None]
    rng = random.Random(f"reward model {p.seed}")
    examples = noisy(sources.training_examples(p, records, p.task), p, rng)
    heldout = sources.training_examples(p, feedback["heldout"], p.task)
    if not examples or not heldout:
        raise DataError(f"{p.task}: {len(examples)} examples to train on, {len(heldout)} held out; give more feedback")
    model, tokenizer = load_encoder(p.backbone, pairwise, p.seed)
    scorer = RewardScorer(model, tokenizer, p.max_length, p.global_attention)
    callback = Checkpoints(p, scorer, heldout, examples, folder)
    steps = max(p.schedule_steps, p.checkpoint_steps[-1])
    if p.checkpoint_steps[-1] == 0:
        scorer.model.to(device_of(p.device))
        callback.on_train_begin(None, None, TrainerControl())
        return callback.metrics, pd.DataFrame(columns=["step", "loss"]), 0
    early = _corrupted(p, len(records), rng) if p.corruption_steps else []
    rows, truncated = (_pair_rows if pairwise else _token_rows)(scorer, [*early, *examples])
    if p.task == "factuality":
        _label_replaced_tokens(rows[: len(early)], tokenizer)
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
        "callbacks": [callback, StopOnNonFinite()],
    }
    if pairwise:
        # TRL's defaults, bfloat16 and gradient checkpointing, would measure checkpoints in a precision they are not used in
        settings = RewardConfig(**arguments, max_length=None, disable_dropout=False, bf16=False, gradient_checkpointing=None)
        trainer = RewardTrainer(args=settings, data_collator=lambda batch: _collate_pairs(batch, scorer), **common)
    else:
        settings = TrainingArguments(**arguments)
        trainer = Trainer(
            args=settings, data_collator=lambda batch: _collate(batch, scorer), compute_loss_func=_token_loss, **common
        )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = pd.DataFrame([{"step": r["step"], "loss": float(r["loss"])} for r in trainer.state.log_history if "loss" in r])
    return callback.metrics, losses, truncated


def _token_loss(outputs: TokenClassifierOutput, labels: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
    """Cross-entropy over the labels of the whole batch (their number is ``num_items_in_batch``), however it is cut in passes.

    Models take the mean over one pass instead, which ``Trainer`` then sums over the passes of a batch.
    """
    total = cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / max(1, num_items_in_batch)


def _token_rows(scorer: RewardScorer, examples: Sequence[SegmentExample]) -> tuple[list[dict], int]:
    contexts, segments = [e.context for e in examples], [e.segments for e in examples]
    inputs = encode_segments(scorer.model, scorer.tokenizer, contexts, segments, scorer.limit)
    return [features(i, e.labels) for i, e in zip(inputs, examples, strict=True)], sum(i.truncated for i in inputs)


def _pair_rows(scorer: RewardScorer, examples: Sequence[PairExample]) -> tuple[list[dict], int]:
    contexts = [e.context for e in examples]
    chosen = encode_wholes(scorer.tokenizer, contexts, [e.chosen for e in examples], scorer.limit)
    rejected = encode_wholes(scorer.tokenizer, contexts, [e.rejected for e in examples], scorer.limit)
    rows = [
        {"chosen_ids": c.ids, "rejected_ids": r.ids, "chosen_types": c.types, "rejected_types": r.types}
        for c, r in zip(chosen, rejected, strict=True)
    ]
    return rows, sum(one.truncated for one in (*chosen, *rejected))


def _collate(rows: list[dict], scorer: RewardScorer) -> dict:
    return collate(rows, scorer.model, scorer.tokenizer, scorer.global_attention)


def _collate_pairs(rows: list[dict], scorer: RewardScorer) -> dict:
    """The chosen half, then the rejected half: the layout TRL's loss expects."""
    sides = [(row, side) for side in ("chosen", "rejected") for row in rows]
    return _collate([{"ids": row[f"{s}_ids"], "types": row[f"{s}_types"], "marks": [0]} for row, s in sides], scorer)


def noisy(examples: Sequence, p: config.RewardModel, rng: random.Random) -> list:
    """The examples with labels (or preferences) flipped with probability ``p.label_noise``: the label-noise route."""
    if p.label_noise == 0:
        return list(examples)
    if p.task == "completeness":
        return [replace(e, chosen=e.rejected, rejected=e.chosen) if rng.random() < p.label_noise else e for e in examples]
    good, bad = LABELS.index("O"), LABELS.index(ERROR_LABEL[p.task])

    def flip(label: int | None) -> int | None:
        return label if label is None or rng.random() >= p.label_noise else (good if label == bad else bad)

    return [replace(e, labels=tuple(flip(label) for label in e.labels)) for e in examples]


def _corrupted(p: config.RewardModel, count: int, rng: random.Random) -> list:
    """Answers with values right or wrong at random, labelled by the oracle."""
    questions = atlas.load_splits(p).train
    records = []
    for question in rng.choices(questions, k=max(count, 1000)):
        responses = tuple(atlas.corrupt(question, rng) for _ in range(4))
        verdicts = [oracle.judge(question, response) for response in responses]
        scores = tuple(v.completeness for v in verdicts)
        records.append(Feedback(question, responses, verdicts[0].spans, (), "", prefer(scores), verdicts[0].spans, scores))
    return sources.training_examples(p, records, p.task)


def _label_replaced_tokens(rows: list[dict], tokenizer: PreTrainedTokenizerFast) -> None:
    """Replaced-token detection (Clark et al. 2020) on corrupted answers: every value word is labelled too, O where the context
    holds it, else F-ERR. It teaches a small model to read the passages, as pretraining does for a large one."""
    values = set(tokenizer.convert_tokens_to_ids([word for words in atlas.VALUES.values() for word in words]))
    for row in rows:
        context = {token for token, kind in zip(row["ids"], row["types"], strict=True) if kind == 0}
        for place, (token, kind) in enumerate(zip(row["ids"], row["types"], strict=True)):
            if kind == 1 and token in values:
                row["labels"][place] = LABELS.index("O" if token in context else "F-ERR")


# --- measuring ----------------------------------------------------------------------------------------------------------------


def measure(scorer: RewardScorer, p: config.RewardModel, heldout: list, train: list) -> dict:
    """Accuracy and its companions on held-out feedback; for pairwise models also mean and deviation of training scores."""
    if p.task != "completeness":
        logits = scorer.segment_logits([e.context for e in heldout], [e.segments for e in heldout])
        probabilities = torch.cat(logits).softmax(-1).numpy()
        noisy_labels = [label for e in heldout for label in e.labels]
        clean = [label for e in heldout for label in e.clean] if heldout[0].clean is not None else None
        return segment_metrics(probabilities, noisy_labels, clean, LABELS.index(ERROR_LABEL[p.task]))
    sample = train[:: max(1, 2 * len(train) // p.centre_sample)]
    texts = [(e.context, text) for e in (*heldout, *sample) for text in (e.chosen, e.rejected)]
    unique = list(dict.fromkeys(texts))  # a response stands in up to three pairs
    known = dict(zip(unique, scorer.scores(*zip(*unique, strict=True)).tolist(), strict=True))
    scores = np.array([known[text] for text in texts]).reshape(-1, 2)
    margins, centring = scores[: len(heldout), 0] - scores[: len(heldout), 1], scores[len(heldout) :]
    return pair_metrics(margins, [e.clean for e in heldout]) | {
        "score_mean": float(centring.mean()),
        "score_std": float(centring.std(ddof=1)),
    }


def save_checkpoint(scorer: RewardScorer, metrics: dict, folder: Path) -> None:
    """Weights (safetensors), tokenizer, input limits and metrics."""
    scorer.model.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    (folder / "settings.json").write_text(
        json.dumps({"max_length": scorer.max_length, "global_attention": scorer.global_attention})
    )
    (folder / "metrics.json").write_text(json.dumps({k: None if v is None or np.isnan(v) else v for k, v in metrics.items()}))
