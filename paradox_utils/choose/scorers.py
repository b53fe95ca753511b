"""The kinds of reward models, and one way to score by all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from paradox_utils import config, data, files
from paradox_utils.choose.inputs import Messages
from paradox_utils.data.records import Question
from paradox_utils.data.tasks import TASKS
from paradox_utils.policies.models import (
    ModelError,
    beside,
    device_of,
    load_pretrained,
    load_tokenizer,
    load_weights,
    positions_of,
)
from paradox_utils.rewards import model as project
from paradox_utils.rewards.encoders import _padding
from paradox_utils.rewards.judges import model_judge, size_of

WRITERS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")  # kinds of models that write
ELSE = "score the responses with its own code, and give a file of scores in its place"


class Item(NamedTuple):
    """A response to score: its prompt as the user gave it, the same as a question, and its text."""

    prompt: str | Messages
    question: Question
    text: str


@dataclass
class Scorer:
    """A reward model ready to score. ``run(items, batch, other_side)`` gives scores and marks inputs that were cut;
    ``seen``: what was scored so far, ``cut`` of it were longer than ``limit`` tokens. ``pairwise``: one learnt score a text."""

    run: Callable[[Sequence[Item], int, bool], tuple[np.ndarray, np.ndarray]]
    network: PreTrainedModel
    limit: int
    pairwise: bool = True
    pads_either_side: bool = False
    seen: dict[Any, bool] = field(default_factory=dict)

    def __call__(self, items: Sequence[Item], batch: int, other_side: bool = False) -> np.ndarray:
        """One score an item, [items]."""
        if not items:
            return np.empty(0)
        scores, cut = self.run(items, batch, other_side)
        self.seen |= {(item.question.id, item.text): bool(one) for item, one in zip(items, cut, strict=True)}
        return scores

    @property
    def cut(self) -> int:
        """How many of the inputs seen were cut."""
        return sum(self.seen.values())

    def forget(self) -> None:
        """Begin to count anew."""
        self.seen.clear()

    def to(self, dtype: torch.dtype) -> None:
        """Turn the weights into another type (from float32 and back loses digits: see :func:`load_scorer`)."""
        if dtype is torch.bfloat16:
            self._kept = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.network.to(dtype)
        else:
            self.network.to(dtype).load_state_dict(self._kept)
            del self._kept


def load_scorer(candidate: config.Candidate, p: config.Choose) -> Scorer:
    """The reward model of a candidate; raises :class:`ModelError` for one that gives no score to a response by itself."""
    if beside(candidate.model, "metrics.json"):
        return _of_project(candidate, p)
    adapter = beside(candidate.model, "adapter_config.json")
    name = str(files.read_json(adapter).get("base_model_name_or_path")) if adapter else candidate.model
    try:
        described = load_pretrained(AutoConfig, name, trust_remote_code=candidate.trust_remote_code)
    except ModelError as error:
        if adapter:
            raise ModelError(
                f"{candidate.model!r}: is an adapter of {name!r}, which is not here: {error}; mend base_model_name_or_path in "
                "its adapter_config.json"
            ) from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{candidate.model!r}: brings code of its own; read it, then set trust_remote_code: true for this candidate, or "
                f"{ELSE}"
            ) from error
        raise
    kinds = described.architectures or []
    _refuse_others(candidate, kinds, has_adapter=bool(adapter))
    classifies_tokens = any(kind.endswith("ForTokenClassification") for kind in kinds)
    if classifies_tokens and not candidate.labels:
        raise ModelError(
            f"{candidate.model!r}: labels tokens as {', '.join(described.id2label.values())}; say what each is worth in `labels`"
        )
    if candidate.labels and not classifies_tokens:
        raise ModelError(f"{candidate.model!r}: labels no tokens, so `labels` has no effect; leave it out")
    column, options = 0, {"trust_remote_code": candidate.trust_remote_code}
    if not classifies_tokens:
        column = _output(candidate, described.id2label if not adapter or _has_head(candidate.model) is False else {0: "score"})
    kind = AutoModelForTokenClassification if classifies_tokens else AutoModelForSequenceClassification
    network = _adapted(candidate.model, name, kind) if adapter else load_weights(kind, name, **options)
    tokenizer = load_tokenizer(
        candidate.model if adapter and beside(candidate.model, "tokenizer_config.json") else name, network
    )
    network.config.pad_token_id = _padding(network, tokenizer)
    values = _values(candidate, described.id2label) if classifies_tokens else None
    network.to(device_of(p.device)).eval()
    limit = min(p.max_length, positions_of(network) or p.max_length)
    reader = Reader(candidate, network, tokenizer, limit, column, values)
    return Scorer(reader, network, limit, pairwise=not classifies_tokens, pads_either_side=True)


def _refuse_others(candidate: config.Candidate, kinds: Sequence[str], has_adapter: bool) -> None:
    if any("pair" in kind.lower() for kind in [*kinds, Path(candidate.model).name]):
        raise ModelError(f"{candidate.model!r}: compares two responses and scores none by itself; {ELSE}")
    if not has_adapter and (writes := [kind for kind in kinds if kind.endswith(WRITERS)]):
        raise ModelError(
            f"{candidate.model!r}: is a {writes[0]}, which writes: a generative judge, or a policy whose log-probabilities are "
            f"the reward (DPO); {ELSE}"
        )


def _output(candidate: config.Candidate, labels: dict[int, str]) -> int:
    """The column of the output that is the score."""
    if candidate.output:
        if candidate.output not in labels.values():
            raise ModelError(
                f"{candidate.model!r}: output = {candidate.output!r}: its outputs are {', '.join(labels.values())}; name one"
            )
        return next(int(column) for column, label in labels.items() if label == candidate.output)
    if len(labels) > 1:
        raise ModelError(
            f"{candidate.model!r}: has the outputs {', '.join(labels.values())}, and one score is needed; name it as `output`"
        )
    return 0


def _values(candidate: config.Candidate, labels: dict[int, str]) -> torch.Tensor:
    """What each label of a token is worth; nothing where it is not declared."""
    if unknown := sorted(set(candidate.labels) - set(labels.values())):
        raise ModelError(f"{candidate.model!r}: labels: {unknown[0]!r}: it has {', '.join(labels.values())}; name those")
    return torch.tensor([candidate.labels.get(labels[column], 0.0) for column in sorted(labels)])


# --- adapters -----------------------------------------------------------------------------------------------------------------


def _has_head(name: str) -> bool:
    """Whether an adapter brings the head of a classifier with it."""
    from safetensors import safe_open

    path = beside(name, "adapter_model.safetensors")
    if path is None:
        raise ModelError(f"{name!r}: holds no adapter_model.safetensors; save the adapter again, with its head")
    with safe_open(path, "pt") as saved:
        return any(part in key.split(".") for key in saved.keys() for part in ("score", "classifier"))  # noqa: SIM118


def _adapted(name: str, base: str, kind: Any) -> PreTrainedModel:
    """The base with the adapter's changes in it, and the head of whichever has one."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            f"{name!r}: is an adapter, which needs peft: run `pip install peft`, or save the merged model"
        ) from error
    with_head = _has_head(name)
    try:
        network = load_weights(kind, base, new_head=with_head, **({"num_labels": 1} if with_head else {}))
    except ModelError as error:
        raise ModelError(
            f"{name!r}: neither this adapter nor its base has a head ({error}); save it with modules_to_save=['score']"
        ) from error
    return PeftModel.from_pretrained(network, str(files.resolve(name))).merge_and_unload()


# --- reading texts ------------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """How a classifier of transformers reads a prompt with a response, and what of its output is the score: column ``column`` of
    the logits, or with ``values`` the mean over the response's tokens of what their likeliest label is worth."""

    candidate: config.Candidate
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    limit: int
    column: int
    values: torch.Tensor | None

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item], batch: int, other_side: bool) -> tuple[np.ndarray, np.ndarray]:
        """Scores [items], and whether each was cut. A prompt is cut from its beginning: what is judged is at the end."""
        encoded = [self._encode(item) for item in items]
        order = (
            sorted(range(len(items)), key=lambda i: len(encoded[i]["input_ids"]))
            if batch > TRIED_TOGETHER
            else range(len(items))
        )
        scores = np.empty(len(items))
        sides = {"left": "right", "right": "left"}
        side = sides[self.tokenizer.padding_side] if other_side else self.tokenizer.padding_side
        for start in range(0, len(items), batch):
            rows = list(order)[start : start + batch]
            fields = [{k: v for k, v in encoded[row].items() if k in self.tokenizer.model_input_names} for row in rows]
            for one in fields:
                one.setdefault("attention_mask", [1] * len(one["input_ids"]))
            tensors = self._padded(fields, side)
            output = self.network(**tensors)
            logits = (output.logits if getattr(output, "logits", None) is not None else output.score).float().cpu()
            if self.values is None:
                scores[rows] = logits.reshape(len(rows), -1)[:, self.column].numpy()
                continue
            for row, own in zip(rows, logits, strict=True):
                width = len(encoded[row]["input_ids"])
                own = own[-width:] if side == "left" else own[:width]
                judged = own[torch.tensor(encoded[row]["judged"], dtype=torch.bool)].argmax(-1)
                scores[row] = float(self.values[judged].mean()) if len(judged) else 0.0
        return scores, np.array([one["was_cut"] for one in encoded])

    def _padded(self, fields: Sequence[dict[str, list[int]]], side: str) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in fields)
        fillers = {"input_ids": self.network.config.pad_token_id}
        tensors = {}
        for name in fields[0]:
            rows = []
            for one in fields:
                padding = [fillers.get(name, 0)] * (longest - len(one[name]))
                rows.append(padding + one[name] if side == "left" else one[name] + padding)
            tensors[name] = torch.tensor(rows, device=self.network.device)
        return tensors

    def _encode(self, item: Item) -> dict[str, Any]:
        """Token ids and what goes with them, ``judged``: which tokens are the response's, ``was_cut``."""
        before, after, specials = self._texts(item)
        pair = (before, after) if after is not None else (before,)
        whole = self.tokenizer(
            *pair, add_special_tokens=specials, return_offsets_mapping=self.values is not None, verbose=False
        )
        made = dict(whole)
        if self.values is not None:
            first = len(self._texts(item._replace(text=""))[0].rstrip()) if after is None else 0
            parts, offsets = whole.sequence_ids(0), made.pop("offset_mapping")
            of_response = int(after is not None)
            made["judged"] = [part == of_response and end > first for part, (_, end) in zip(parts, offsets, strict=True)]
        made["was_cut"] = len(made["input_ids"]) > self.limit
        if made["was_cut"]:
            opening = int(specials and made["input_ids"][0] in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id))
            drop = slice(opening, opening + len(made["input_ids"]) - self.limit)
            for name, values in made.items():
                if isinstance(values, list):
                    made[name] = values[: drop.start] + values[drop.stop :]
        start = self.tokenizer.bos_token_id
        if start is not None and made["input_ids"][:2] == [start, start]:
            raise ModelError(
                f"{self.candidate.model!r}: its inputs begin with two start tokens ({self.tokenizer.bos_token}); take one out of "
                "its chat template, or set another layout"
            )
        return made

    def _texts(self, item: Item) -> tuple[str, str | None, bool]:
        """The text or two that are read, and whether the tokenizer adds its special tokens."""
        has_template, layout = getattr(self.tokenizer, "chat_template", None) is not None, self.candidate.layout
        if layout == "auto":
            layout = "chat" if has_template else "pair" if self.tokenizer.sep_token is not None else "joined"
            if not isinstance(item.prompt, str) and not has_template:
                raise ModelError(
                    f"{self.candidate.model!r}: prompts are messages, and its tokenizer has no chat template; add it, or set "
                    f"layout: {layout} to read them as plain text"
                )
        if layout == "chat":
            if not has_template:
                raise ModelError(f"{self.candidate.model!r}: layout = 'chat': its tokenizer has no chat template; set another")
            said = [{"role": "user", "content": item.prompt}] if isinstance(item.prompt, str) else item.prompt
            whole = [*said, {"role": "assistant", "content": item.text}]
            return self.tokenizer.apply_chat_template(whole, tokenize=False), None, False
        if layout == "pair":
            return item.question.prompt, item.text, True
        between = "" if item.question.prompt[-1:].isspace() or item.text[:1].isspace() else " "
        return f"{item.question.prompt}{between}{item.text}", None, True


TRIED_TOGETHER = 2  # batches of so many are as they come, to mix lengths


# --- the project's own --------------------------------------------------------------------------------------------------------


def _of_project(candidate: config.Candidate, p: config.Choose) -> Scorer:
    """A checkpoint of the stage ``reward_model``: what PPO pays a whole response, summed over its task's segments."""
    kinds = load_pretrained(AutoConfig, candidate.model).architectures or []
    pairwise = [task for task in TASKS if TASKS[task].pairwise]
    written = project.saved(candidate.model, "settings.json").get("task")
    task = written or (pairwise[0] if any(kind.endswith("ForSequenceClassification") for kind in kinds) else p.task)
    shared = {name: getattr(p, name) for name in config.Source.model_fields if name != "out"}
    own = config.check(config.PPO, shared | {"task": task, "evaluator": candidate.model}, candidate.model)
    scorer = project.load_scorer(candidate.model, task, own, p.batch)
    scorer.max_length = min(scorer.max_length, p.max_length)
    stored, mean, deviation = project.saved(candidate.model, "metrics.json"), 0.0, 1.0
    if TASKS[task].pairwise and "score_mean" in stored:
        scores = config.check(project.TrainingScores, stored, f"{candidate.model}/metrics.json")
        mean, deviation = scores.score_mean, scores.score_std
    return Scorer(partial(_paid, scorer, own, mean, deviation), scorer.model, scorer.limit, pairwise=False)


def _paid(
    scorer: project.RewardScorer, p: config.PPO, mean: float, deviation: float, items: Sequence[Item], batch: int, _side: bool
) -> tuple[np.ndarray, np.ndarray]:
    scorer.batch = batch
    questions, texts = [item.question for item in items], [item.text for item in items]
    before, cut = scorer.truncated, np.zeros(len(items), bool)
    values = model_judge(scorer, p)(questions, texts, data.segments_of(p, texts, p.task))
    cut[: scorer.truncated - before] = True  # how many, whichever they are
    return np.array([size_of(p) * (sum(row) - mean) / deviation for row in values]), cut
