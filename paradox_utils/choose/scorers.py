"""The kinds of reward models, and one way to score by all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BatchEncoding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data, files
from paradox_utils.choose.inputs import Messages, templated
from paradox_utils.data.records import Question
from paradox_utils.data.tasks import TASKS
from paradox_utils.policies.models import (
    LFS,
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

transformers_logging.disable_progress_bar()
WRITERS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")  # kinds of models that write
ELSE = "score the responses with its own code, and give a file of scores in its place"


class Item(NamedTuple):
    """A response to score: its prompt as the user gave it, the same as a question, and its text."""

    prompt: str | Messages
    question: Question
    text: str


@dataclass
class Scorer:
    """A reward model ready to score: ``run(items, batch, other_side)`` gives scores [items] and the share of inputs longer than
    ``limit`` tokens, which is kept in ``cut``. ``pairwise``: one learnt score a text; ``labels``: below 0 for what is bad;
    ``pads_either_side``: whether it can; ``layout``: how it reads prompt and response: ``chat``, ``pair`` or ``joined``, as of
    a :class:`config.Candidate`, or as a stage of this ``project``."""

    run: Callable[[Sequence[Item], int, bool], tuple[np.ndarray, float]]
    network: PreTrainedModel
    limit: int
    pairwise: bool = True
    labels: bool = False
    pads_either_side: bool = False
    layout: str = "project"
    cut: float = 0.0

    def __call__(self, items: Sequence[Item], batch: int, other_side: bool = False) -> np.ndarray:
        """One score an item, [items]."""
        scores, self.cut = self.run(items, batch, other_side)
        return scores


class Described(NamedTuple):
    """What a candidate's files say of it: the model's ``name``, which is the base's where there is an ``adapter`` (its
    adapter_config.json), and its ``config``."""

    name: str
    adapter: Path | None
    config: PretrainedConfig


def described(candidate: config.Candidate) -> Described:
    """Raises :class:`ModelError` for a model that is not there, or gives no score to a response by itself."""
    adapter = beside(candidate.model, "adapter_config.json")
    name = str(files.read_json(adapter).get("base_model_name_or_path")) if adapter else candidate.model
    try:
        known = load_pretrained(AutoConfig, name, trust_remote_code=candidate.trust_remote_code)
    except ModelError as error:
        if adapter:
            raise ModelError(
                f"{candidate.model!r}: is an adapter of {name!r}, which is not here: {error}; mend base_model_name_or_path in "
                "its adapter_config.json"
            ) from error
        if "custom code" in str(error):  # as transformers says it
            raise ModelError(
                f"{candidate.model!r}: brings code of its own; read it and set trust_remote_code: true here, or {ELSE}"
            ) from error
        raise
    _refuse_others(candidate, known.architectures or [], has_adapter=bool(adapter))
    return Described(name, adapter, known)


def load_scorer(candidate: config.Candidate, p: config.Choose) -> Scorer:
    """The reward model of a candidate; raises :class:`ModelError` for one that gives no score to a response by itself."""
    if beside(candidate.model, "metrics.json"):
        return _of_project(candidate, p)
    name, adapter, known = described(candidate)
    classifies_tokens = any(kind.endswith("ForTokenClassification") for kind in known.architectures or [])
    if classifies_tokens and not candidate.labels:
        raise ModelError(
            f"{candidate.model!r}: labels tokens {', '.join(known.id2label.values())}; say what each is worth in `labels`"
        )
    if candidate.labels and not classifies_tokens:
        raise ModelError(f"{candidate.model!r}: labels no tokens, so `labels` has no effect; leave it out")
    column, options = 0, {"trust_remote_code": candidate.trust_remote_code}
    if not classifies_tokens:
        column = _output(candidate, _labels(known, candidate.model) if adapter else known.id2label)
    kind = AutoModelForTokenClassification if classifies_tokens else AutoModelForSequenceClassification
    network = _adapted(adapter.parent, candidate.model, name, kind, options) if adapter else load_weights(kind, name, **options)
    tokenizer = load_tokenizer(
        candidate.model if adapter and beside(candidate.model, "tokenizer_config.json") else name, network
    )
    network.config.pad_token_id = _padding(network, tokenizer)
    values = _values(candidate, known.id2label) if classifies_tokens else None
    network.to(device_of(p.device)).eval()
    limit = min(p.max_length, positions_of(network) or p.max_length)
    reader = Reader(candidate, network, tokenizer, limit, column, values)
    labels_bad = min(candidate.labels.values(), default=0.0) < 0
    return Scorer(reader, network, limit, not classifies_tokens, labels_bad, pads_either_side=True, layout=reader.layout)


def _refuse_others(candidate: config.Candidate, kinds: Sequence[str], has_adapter: bool) -> None:
    if any("pair" in kind.lower() for kind in kinds) or "pairrm" in Path(candidate.model).name.lower():
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


def _outputs(name: str) -> int:
    """Outputs of the head that an adapter brings; 0 where it brings none."""
    path = beside(name, "adapter_model.safetensors")
    if path is None:
        raise ModelError(f"{name!r}: holds no adapter_model.safetensors; save the adapter again, with its head")
    try:
        with safe_open(path, "pt") as saved:
            whole = [key for key in saved.keys() if key.endswith(".weight") and "lora_" not in key]  # noqa: SIM118
            heads = [key for key in whole if {"score", "classifier"} & set(key.split("."))]
            return min((saved.get_slice(key).get_shape()[0] for key in heads), default=0)  # the last layer is the smallest
    except SafetensorError as error:
        with path.open("rb") as opened:
            is_pointer = opened.read(len(LFS)) == LFS
        reason = "cut or damaged; fetch or save the adapter again"
        if is_pointer:
            reason = "a Git LFS pointer in place of the file: run `git lfs pull` in its repository"
        raise ModelError(f"{name!r}: its {path.name} is {reason}") from error


def _labels(base: PretrainedConfig, name: str) -> dict[int, str]:
    """What the outputs of an adapter's head are called: as the base's, where these are as many."""
    known, outputs = base.id2label, _outputs(name)
    if not outputs and not any(kind.endswith("ForSequenceClassification") for kind in base.architectures or []):
        raise ModelError(f"{name!r}: neither this adapter nor its base has a head; save it with modules_to_save=['score']")
    return known if outputs in (0, len(known)) else {column: f"LABEL_{column}" for column in range(outputs)}


def _adapted(folder: Path, name: str, base: str, kind: Any, options: dict[str, Any]) -> PreTrainedModel:
    """The base with the changes of the adapter in ``folder`` in it, and the head of whichever has one."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            f"{name!r}: is an adapter, which needs peft: run `pip install -e '.[adapters]'`, or save the merged model"
        ) from error
    outputs = _outputs(name)
    try:
        network = load_weights(kind, base, new_head=outputs > 0, **options, **({"num_labels": outputs} if outputs else {}))
    except ModelError as error:
        raise ModelError(
            f"{name!r}: neither this adapter nor its base has a head ({error}); save it with modules_to_save=['score']"
        ) from error
    try:
        return PeftModel.from_pretrained(network, str(folder)).merge_and_unload()
    except Exception as error:  # peft raises anything at an adapter of another model
        raise ModelError(f"{name!r}: does not fit its base {base!r} ({in_a_line(error)}); save the merged model") from error


def in_a_line(error: Exception) -> str:
    """An error's kind, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"


# --- reading texts ------------------------------------------------------------------------------------------------------------


class Laid(NamedTuple):
    """What a tokenizer is given: a text or two, in the last of which the response stands from character ``start`` to ``stop``;
    ``specials``: it adds its special tokens."""

    texts: tuple[str, ...]
    start: int
    stop: int
    specials: bool


class Encoded(NamedTuple):
    """An input: token ids and what goes with them by name, which tokens are the response's, and whether it was cut."""

    fields: dict[str, list[int]]
    judged: list[bool]
    cut: bool


@dataclass
class Reader:
    """How a classifier of transformers reads a prompt with a response, and what of its output is the score: the logits' column
    ``column``, or with ``values`` the sum over the response's tokens of what their likeliest label is worth."""

    candidate: config.Candidate
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    limit: int
    column: int
    values: torch.Tensor | None

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item], batch: int, other_side: bool) -> tuple[np.ndarray, float]:
        """Scores [items], and the share of inputs that were cut: from a prompt's beginning, as what is judged is at the end."""
        encoded, scores = [self._encode(item) for item in items], np.empty(len(items))
        side = {"left": "right", "right": "left"}[self.tokenizer.padding_side] if other_side else self.tokenizer.padding_side
        for start in range(0, len(items), batch):
            part = encoded[start : start + batch]
            output = self.network(**self._padded([row.fields for row in part], side))
            logits = (output.logits if getattr(output, "logits", None) is not None else output.score).float().cpu()
            if self.values is None:
                scores[start : start + batch] = logits.reshape(len(part), -1)[:, self.column].numpy()
                continue
            for place, (row, own) in enumerate(zip(part, logits, strict=True), start):
                own = own[-len(row.judged) :] if side == "left" else own[: len(row.judged)]
                labels = own[torch.tensor(row.judged, dtype=torch.bool)].argmax(-1)
                scores[place] = float(self.values[labels].sum())
        return scores, float(np.mean([row.cut for row in encoded]))

    def _padded(self, fields: Sequence[dict[str, list[int]]], side: str) -> dict[str, torch.Tensor]:
        longest, fillers = max(len(one["input_ids"]) for one in fields), {"input_ids": self.network.config.pad_token_id}
        tensors = {}
        for name in fields[0]:
            padding = [[fillers.get(name, 0)] * (longest - len(one[name])) for one in fields]
            rows = [add + one[name] if side == "left" else one[name] + add for one, add in zip(fields, padding, strict=True)]
            tensors[name] = torch.tensor(rows, device=self.network.device)
        return tensors

    @property
    def layout(self) -> str:
        """How prompt and response are read: as the candidate says, or by what its tokenizer has."""
        if self.candidate.layout != "auto":
            return self.candidate.layout
        return "chat" if self._has_template else "pair" if self.tokenizer.sep_token is not None else "joined"

    @property
    def _has_template(self) -> bool:
        return getattr(self.tokenizer, "chat_template", None) is not None

    def _encode(self, item: Item) -> Encoded:
        laid = self._laid_out(item)
        whole = self.tokenizer(*laid.texts, add_special_tokens=laid.specials, return_offsets_mapping=True, verbose=False)
        self._refuse_two_starts(whole["input_ids"])
        return self._cut(whole, _of_response(whole, laid))

    def _laid_out(self, item: Item) -> Laid:
        if not isinstance(item.prompt, str) and not self._has_template and self.candidate.layout == "auto":
            raise ModelError(
                f"{self.candidate.model!r}: prompts are messages, and its tokenizer has no chat template; add it, or set "
                f"layout: {self.layout} to read them as plain text"
            )
        if self.layout == "chat":
            if not self._has_template:
                raise ModelError(f"{self.candidate.model!r}: layout = 'chat': its tokenizer has no chat template; set another")
            whole = templated(self.tokenizer, item.prompt, item.text)
            return Laid((whole,), *_span(whole, templated(self.tokenizer, item.prompt), item.text), specials=False)
        if self.layout == "pair":
            return Laid((item.question.prompt, item.text), 0, len(item.text), specials=True)
        between = "" if item.question.prompt[-1:].isspace() or item.text[:1].isspace() else " "
        before = f"{item.question.prompt}{between}"
        return Laid((f"{before}{item.text}",), len(before), len(before) + len(item.text), specials=True)

    def _refuse_two_starts(self, ids: Sequence[int]) -> None:
        start = self.tokenizer.bos_token_id
        if start is not None and ids[:2] == [start, start]:
            raise ModelError(
                f"{self.candidate.model!r}: its inputs begin with two start tokens ({self.tokenizer.bos_token}); take one out "
                "of its chat template, or set another layout"
            )

    def _cut(self, whole: BatchEncoding, judged: list[bool]) -> Encoded:
        """An input of ``limit`` tokens at most: those after the one that opens it are left out."""
        ids, over = whole["input_ids"], max(0, len(judged) - self.limit)
        opening = int(bool(ids) and ids[0] in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id))
        names = [name for name in self.tokenizer.model_input_names if name in whole]
        fields = {name: whole[name][:opening] + whole[name][opening + over :] for name in names}
        fields.setdefault("attention_mask", [1] * len(fields["input_ids"]))
        return Encoded(fields, judged[:opening] + judged[opening + over :], over > 0)


def _span(whole: str, before: str, answer: str) -> tuple[int, int]:
    """Where the answer stands in what a chat template made ``whole``, after what it writes ``before`` one. A template may take
    off spaces around it; where it writes an answer otherwise, all that follows is taken for it."""
    differs = (place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b)
    first, texts = next(differs, min(len(before), len(whole))), (answer, answer.strip())
    places = [(whole.find(said, first), said) for said in texts] + [(whole.rfind(said), said) for said in texts]
    return next(((start, start + len(said)) for start, said in places if start >= 0), (first, len(whole)))


def _of_response(whole: BatchEncoding, laid: Laid) -> list[bool]:
    """Which tokens hold a character of the response."""
    spans = zip(whole.sequence_ids(0), whole["offset_mapping"], strict=True)
    return [part == len(laid.texts) - 1 and begin < laid.stop and end > laid.start for part, (begin, end) in spans]


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
) -> tuple[np.ndarray, float]:
    scorer.batch, before = batch, scorer.truncated
    questions, texts = [item.question for item in items], [item.text for item in items]
    values = model_judge(scorer, p)(questions, texts, data.segments_of(p, texts, p.task))
    paid = [size_of(p) * (sum(row) - mean) / deviation for row in values]
    return np.array(paid), (scorer.truncated - before) / max(1, len(items))
