"""Reward models: how their inputs are laid out, and how they score. :mod:`paradox_utils.rewards.training` trains them.

Token models read ``context </s> segment </s> segment …``: the label of a segment sits on the mark ``</s>`` before it, or after
it for a causal backbone, which sees nothing to its right. Pairwise models read ``context response`` and give one score.

What a token model reads is words with a space before each, segments split on white space, as in the released code: a byte-level
tokenizer (RoBERTa's, Longformer's) spells a word without one differently. A pairwise input is the text as it is. Where the
tokenizer puts a space before a text itself (Llama 2's), it gets none from here.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paradox_utils import config, files
from paradox_utils.data.records import PairExample, SegmentExample
from paradox_utils.data.tasks import GOOD, LABELS, TASKS
from paradox_utils.policies.models import ModelError, beside, device_of, positions_of
from paradox_utils.rewards.encoders import is_causal, load_reward_model
from paradox_utils.rewards.measures import pair_metrics, segment_metrics

IGNORED = -100  # the label that cross-entropy skips
KEPT_CONTEXTS = 8192  # tokenised contexts a scorer keeps: 64 MB where each fills 2048 tokens

SPACES = ("▁", "Ġ")  # how tokens spell the space before a word
SHORTEST = 4  # tokens of an input: the opening, a token of text, its mark, the end

TokenIds = Sequence[int]


class NonFiniteScoresError(RuntimeError):
    """A reward model gave a score that is not a number."""


@dataclass(frozen=True)
class Input:
    """One tokenised input: ids, segment ids (1: the judged text), and the position of each segment's mark (−1: cut off)."""

    ids: list[int]
    types: list[int]
    marks: list[int]
    truncated: bool


@dataclass
class RewardScorer:
    """A reward model ready to score texts, ``batch`` of them a pass.

    ``truncated`` counts the inputs that were longer than ``max_length`` so far; ``known`` holds the token ids of contexts:
    every rollout and evaluation comes back to the same questions. ``passage_bars``: whether it learnt from passages parted by
    bars, and ``known_answer``: from inputs that name the known answer, so that it is measured on such; ``task``: what its
    checkpoint says it is for.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    global_attention: bool = True
    batch: int = 64
    truncated: int = 0
    passage_bars: bool = True
    known_answer: bool = False
    task: config.TaskName | None = None
    known: dict[str, TokenIds] = field(default_factory=dict, init=False, repr=False)

    def segment_logits(self, contexts: Sequence[str], segments: Sequence[Sequence[str]]) -> list[Tensor]:
        """Logits [segments, 3] in the order of :data:`LABELS` for each text; NaN for a segment that was cut off."""
        inputs = self.encode_segments(contexts, segments)
        rows: list[Tensor] = [torch.empty(0)] * len(inputs)
        for chosen, logits in self._passes(inputs):
            for index, row in zip(chosen, logits, strict=True):
                marks = torch.tensor(inputs[index].marks, dtype=torch.long)
                rows[index] = row[marks].masked_fill((marks < 0)[:, None], torch.nan)
        return rows

    def scores(self, contexts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """One score a response, [responses]."""
        inputs = self.encode_wholes(contexts, responses)
        scores = torch.empty(len(inputs))
        for chosen, logits in self._passes(inputs):
            scores[chosen] = logits[:, 0]
        return scores

    @property
    def limit(self) -> int:
        """Tokens the model can read: ``max_length``, or its positions where those are fewer."""
        limit = min(self.max_length, positions_of(self.model) or self.max_length)
        if limit < SHORTEST:
            name = f"{self.model.name_or_path}: " if self.model.name_or_path else ""
            raise ModelError(f"{name}max_length = {limit}: leaves nothing to read; allow {SHORTEST} tokens or more")
        return limit

    @cached_property
    def space(self) -> str:
        """What stands before a text, so that its first word is spelt as any other: nothing where the tokenizer adds it."""
        return "" if "".join(self.tokenizer.tokenize("a")).startswith(SPACES) else " "

    def encode_segments(self, contexts: Sequence[str], segments: Sequence[Sequence[str]]) -> list[Input]:
        """Token-model inputs within the limit. The context is cut first, from its end; then the last segments."""
        heads, (mark,) = _special(self.tokenizer)
        before, room = not is_causal(self.model), self.limit - len(heads) - 1
        flat = iter(self._ids([f"{self.space}{' '.join(piece.split())}" for pieces in segments for piece in pieces]))
        inputs = []
        for context, pieces in zip(
            self._context_ids([f"{self.space}{context}" for context in contexts]), segments, strict=True
        ):
            body: list[int] = []
            marks: list[int] = []
            for piece in itertools.islice(flat, len(pieces)):
                marks.append(len(body) if before else len(body) + len(piece))
                body += [mark, *piece] if before else [*piece, mark]
            kept, cut = [*heads, *context[: max(0, room - len(body))]], body[:room]
            inputs.append(
                Input(
                    ids=[*kept, *cut, mark],
                    types=[0] * len(kept) + [1] * (len(cut) + 1),
                    marks=[len(kept) + m if m < len(cut) else -1 for m in marks],
                    truncated=len(context) + len(body) > room,
                )
            )
        return inputs

    def encode_wholes(self, contexts: Sequence[str], responses: Sequence[str]) -> list[Input]:
        """Pairwise-model inputs within the limit; the context is cut first, from its end."""
        heads, ends = _special(self.tokenizer)
        room, inputs = self.limit - len(heads) - 1, []
        answers = self._ids([f"{self.space}{response}" for response in responses])
        for context, response in zip(self._context_ids(contexts), answers, strict=True):
            kept, cut = [*heads, *context[: max(0, room - len(response))]], response[:room]
            types = [0] * len(kept) + [1] * (len(cut) + 1)
            inputs.append(Input([*kept, *cut, *ends], types, [0], len(context) + len(response) > room))
        return inputs

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []

    def _context_ids(self, contexts: Sequence[str]) -> list[TokenIds]:
        if len(self.known) > KEPT_CONTEXTS:
            self.known.clear()
        new = [context for context in dict.fromkeys(contexts) if context not in self.known]
        self.known.update((context, array("i", ids)) for context, ids in zip(new, self._ids(new), strict=True))
        return [self.known[context] for context in contexts]

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Rows of :func:`features` to padded tensors [rows, longest], with what this kind of model takes."""
        longest = max(len(row["ids"]) for row in rows)

        def padded(name: str, filler: int) -> Tensor:
            return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

        tensors = {"input_ids": padded("ids", self.model.config.pad_token_id)}
        tensors["attention_mask"] = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in rows])
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            tensors["token_type_ids"] = padded("types", 0)
        if self.model.config.model_type == "longformer":
            attends = torch.zeros_like(tensors["input_ids"])
            # a score is always read from a token that sees all
            if self.global_attention or self.model.config.num_labels == 1:
                for index, row in enumerate(rows):
                    attends[index, row["marks"]] = 1
            tensors["global_attention_mask"] = attends
        if "labels" in rows[0]:
            tensors["labels"] = padded("labels", IGNORED)
        return tensors

    @torch.inference_mode()
    def _passes(self, inputs: Sequence[Input]):  # noqa: ANN202 (a generator of index lists and logits)
        """Passes over inputs of similar length, so that little is padded."""
        self.truncated += sum(one.truncated for one in inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i].ids))
        parts = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        queued: list[tuple[list[int], Tensor]] = []
        for chosen in parts:
            tensors = self.collate([features(inputs[i]) for i in chosen])
            queued.append((chosen, self.model(**self._moved(tensors)).logits.float()))
            if len(queued) > 1:  # a GPU works on this pass while the one before is fetched and the next is laid out
                yield _fetched(*queued.pop(0))
        for last in queued:
            yield _fetched(*last)

    def _moved(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the model's device; to a GPU from pinned memory, without waiting."""
        device = self.model.device
        if device.type == "cuda":
            return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
        return {name: tensor.to(device) for name, tensor in tensors.items()}


def _fetched(chosen: list[int], logits: Tensor) -> tuple[list[int], Tensor]:
    if not torch.isfinite(logits).all():
        raise NonFiniteScoresError(
            "the reward model's scores are not finite: lower its learning_rate, or name another checkpoint"
        )
    return chosen, logits.cpu()


class Settings(config.Parameters):
    """``settings.json`` of a checkpoint: how its inputs are laid out, and its task (unset: not written down)."""

    model_config = ConfigDict(extra="ignore")
    max_length: config.Count = 2048
    global_attention: bool = True
    passage_bars: bool = True
    known_answer: bool = False
    task: config.TaskName | None = None


class TrainingScores(config.Parameters):
    """What centres a pairwise reward, of a checkpoint's ``metrics.json``: the model's scores on its training responses."""

    model_config = ConfigDict(extra="ignore")
    score_mean: float = Field(description="mean of the scores")
    score_std: config.Positive = Field(description="their standard deviation")


def saved(checkpoint: str | Path, file: str) -> dict:
    """A JSON object of a checkpoint, empty where it has no such file; raises :class:`files.FileError` for another content."""
    path = beside(str(checkpoint), file)
    return files.read_json(path, way_out="mend it, or name another reward model") if path else {}


def load_scorer(checkpoint: str | Path, task: config.TaskName, p: config.Source, batch: int = 64) -> RewardScorer:
    """The reward model of a directory or hub id, with the input limits it was trained with; raises :class:`ModelError` where
    it cannot be one of the task, and :class:`~paradox_utils.config.ParameterError` for settings that cannot be."""
    settings = config.check(Settings, saved(checkpoint, "settings.json"), f"{checkpoint}/settings.json")
    if settings.task not in (None, task):
        raise ModelError(f"{checkpoint}: is for task = {settings.task!r} (settings.json), not for {task!r}; name another")
    model, tokenizer = load_reward_model(checkpoint, TASKS[task].pairwise)
    model.to(device_of(p.device))
    return RewardScorer(model, tokenizer, batch=batch, **settings.model_dump())


# --- measuring ----------------------------------------------------------------------------------------------------------------


def measured(scorer: RewardScorer, task: config.TaskName, heldout: Sequence[SegmentExample] | Sequence[PairExample]) -> dict:
    """Metrics on held-out feedback (see :mod:`paradox_utils.rewards.measures`), empty without an example.

    Raises :class:`ModelError` for a token model that gives another task's error label and never its own, unless its checkpoint
    says that it is for this one.
    """
    if not heldout:
        return {}
    if TASKS[task].pairwise:
        scores = pair_scores(scorer, heldout)
        return pair_metrics(scores[:, 0] - scores[:, 1], [e.clean for e in heldout])
    logits = torch.cat(scorer.segment_logits([e.context for e in heldout], [e.segments for e in heldout]))
    given = {LABELS[index] for index in logits[~logits.isnan().any(1)].argmax(1).tolist()} - {LABELS[GOOD]}
    if given and TASKS[task].error_label not in given and scorer.task is None:
        raise ModelError(
            f"{scorer.model.name_or_path}: calls held-out segments {' or '.join(sorted(given))}, and none "
            f"{TASKS[task].error_label}, as a model for {task} does; name another, or write its task into settings.json"
        )
    noisy = [label for e in heldout for label in e.labels]
    clean = [label for e in heldout for label in e.clean] if heldout[0].clean is not None else None
    return segment_metrics(logits.softmax(-1).numpy(), noisy, clean, TASKS[task].bad)


def pair_scores(
    scorer: RewardScorer, pairs: Sequence[PairExample], known: dict[tuple[str, str], float] | None = None
) -> np.ndarray:
    """Scores [pairs, 2] of the chosen and the rejected responses; ``known`` as in :func:`text_scores`."""
    return text_scores(scorer, [(e.context, text) for e in pairs for text in (e.chosen, e.rejected)], known).reshape(-1, 2)


def text_scores(
    scorer: RewardScorer, texts: Sequence[tuple[str, str]], known: dict[tuple[str, str], float] | None = None
) -> np.ndarray:
    """Scores [texts] of (context, response); those in ``known``, which they join, and equal ones are not scored again."""
    known = {} if known is None else known
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known.update(zip(new, scorer.scores(*zip(*new, strict=True)).tolist(), strict=True))
    return np.array([known[text] for text in texts])


def margins(
    scorer: RewardScorer, task: config.TaskName, contexts: Sequence[str], pieces: Sequence[Sequence[str]]
) -> list[Tensor]:
    """Of each text's segments, log P(good) − log P(error) of the task's two classes; NaN for one that was cut off."""
    bad, every = TASKS[task].bad, scorer.segment_logits(contexts, pieces)
    return [logits[:, GOOD] - logits[:, bad] if len(logits) else logits.flatten() for logits in every]


# --- inputs -------------------------------------------------------------------------------------------------------------------


def _special(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """What opens and what ends an input; the end is also the mark of a segment."""
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return ([] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]), [end]


def features(one: Input, labels: Sequence[int | None] | None = None) -> dict:
    """What :meth:`RewardScorer.collate` takes; ``labels`` one a segment, None: not trained on."""
    row = {"ids": one.ids, "types": one.types, "marks": [m for m in one.marks if m >= 0]}
    if labels is not None:
        row["labels"] = [IGNORED] * len(one.ids)
        for mark, label in zip(one.marks, labels, strict=True):
            if mark >= 0 and label is not None:
                row["labels"][mark] = label
    return row
