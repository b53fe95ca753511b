"""The plain loop: PPO as the paper's released code runs it, written to be compared with.

Prompts are padded to the prompt limit and responses to the response limit. Scoring and training take micro-batches of four
samples, each sample with its own encoder pass, and a log-softmax over the whole vocabulary at every position. Gradients
accumulate over the micro-batches, with one optimizer step an epoch. Every reward segments its text and tokenises it anew.

It shares no engine code: the objective stands here once more, in torch's own words, so that the engine can be tested against
it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    BertForTokenClassification,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
    T5Model,
)

from benchmarks import workload
from benchmarks.worker import peak_memory
from paradox_utils import config
from paradox_utils.data.records import Question
from paradox_utils.data.segments import resolve_splitter
from paradox_utils.data.tasks import LABELS, segment
from paradox_utils.rewards.examples import context_of

MICRO_BATCH = 4  # samples a pass
REWARD = 0.3  # of a good segment, relevance
EPSILON = 1e-8


@dataclass
class Batch:
    """A rollout, padded to the limits: prompts [B, S], responses [B, T], and what the updates need, [B, T]."""

    questions: list[Question]
    prompt_ids: Tensor
    prompt_mask: Tensor
    ids: Tensor
    mask: Tensor
    log_p: Tensor | None = None
    values: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None


@dataclass
class Plain:
    """Policy, reference and value model, and the rewards' model, of one run."""

    p: config.PPO
    policy: PreTrainedModel
    reference: PreTrainedModel
    value_body: PreTrainedModel
    value_head: nn.Module
    tokenizer: PreTrainedTokenizerFast
    reward_model: PreTrainedModel
    reward_tokenizer: PreTrainedTokenizerFast

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.policy.parameters(), *self.value_body.parameters(), *self.value_head.parameters()]


class Lengths(LogitsProcessor):
    """Lets each sequence end exactly at its imposed length (tokens, end of sequence included)."""

    def __init__(self, lengths: Tensor, end: int) -> None:
        self.lengths, self.end = lengths, end

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Rule out the end of sequence before a row's length, and all else at it."""
        ends = self.lengths == ids.shape[1]  # the start token stands for the one that is about to come
        scores = scores.masked_fill(ends[:, None], -torch.inf)
        scores[:, self.end] = torch.where(ends, 0.0, -torch.inf)
        return scores


def sample(plain: Plain, questions: Sequence[Question], lengths: Tensor) -> Batch:
    """Responses of imposed ``lengths`` [B], with prompts and responses padded to their limits."""
    p, tokenizer = plain.p, plain.tokenizer
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [[*tokenizer(q.prompt, add_special_tokens=False).input_ids[: p.prompt_limit - 1], end] for q in questions]
    device = plain.policy.device
    ids = torch.tensor([row + [pad] * (p.prompt_limit - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (p.prompt_limit - len(row)) for row in rows], device=device)
    plain.policy.eval()
    with torch.no_grad(), precision(p, device):
        output = plain.policy.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=p.response_limit, num_return_sequences=p.samples_per_prompt,
            do_sample=True, temperature=p.temperature, top_k=0,
            logits_processor=LogitsProcessorList([Lengths(lengths.to(device), end)]),
        )[:, 1:]  # fmt: skip
    padded = torch.nn.functional.pad(output, (0, p.response_limit - output.shape[1]), value=pad)
    taken = torch.arange(p.response_limit, device=device) < lengths.to(device)[:, None]
    repeated = [q for q in questions for _ in range(p.samples_per_prompt)]
    repeat = (ids.repeat_interleave(p.samples_per_prompt, 0), mask.repeat_interleave(p.samples_per_prompt, 0))
    return Batch(repeated, *repeat, torch.where(taken, padded, pad), taken.long())


def logits_of(model: PreTrainedModel, batch: Batch, rows: slice) -> Tensor:
    """Logits [b, T, V] of every position, padding too; the prompt of each sample is encoded for it."""
    return model(**_inputs(model, batch, rows), use_cache=False).logits


def values_of(plain: Plain, batch: Batch, rows: slice) -> Tensor:
    """Values [b, T]."""
    states = plain.value_body(**_inputs(plain.value_body, batch, rows), use_cache=False).last_hidden_state
    return plain.value_head(states).squeeze(-1)


def _inputs(model: PreTrainedModel, batch: Batch, rows: slice) -> dict[str, Tensor]:
    start = torch.full_like(batch.ids[rows, :1], model.config.decoder_start_token_id)
    shifted = torch.cat([start, batch.ids[rows, :-1]], 1)
    return {"input_ids": batch.prompt_ids[rows], "attention_mask": batch.prompt_mask[rows], "decoder_input_ids": shifted}


def log_probabilities(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log π of the taken tokens [b, T], and log π of all [b, T, V]."""
    every = (logits.float() / temperature).log_softmax(-1)
    return every.gather(-1, ids[..., None]).squeeze(-1), every


@torch.no_grad()
def score(plain: Plain, batch: Batch, rewards: Tensor | None = None) -> Batch:
    """Fill in log-probabilities, values and advantages; ``rewards`` [B, T] default to the reward model's."""
    p = plain.p
    old, reference, values = [], [], []
    for rows in micro_batches(batch):
        with precision(p, batch.ids.device):
            logits, theirs = logits_of(plain.policy, batch, rows), logits_of(plain.reference, batch, rows)
            value = values_of(plain, batch, rows)
        taken, every = log_probabilities(logits, batch.ids[rows], p.temperature)
        _ = -(every.exp() * every).sum(-1)  # the entropy, which a run logs
        old.append(taken)
        reference.append(log_probabilities(theirs, batch.ids[rows], p.temperature)[0])
        values.append(value.float())
    mask = batch.mask.float()
    batch.log_p, batch.values = torch.cat(old), torch.cat(values) * mask
    raw = segment_rewards(plain, batch) if rewards is None else rewards
    penalised = (raw - p.kl_coefficient * (batch.log_p - torch.cat(reference))) * mask
    estimate, following, next_value = torch.zeros_like(penalised), 0.0, 0.0
    for t in reversed(range(penalised.shape[1])):
        delta = penalised[:, t] + p.discount * next_value - batch.values[:, t]
        following = delta + p.discount * p.gae_lambda * following
        next_value = batch.values[:, t]
        estimate[:, t] = following
    batch.returns = estimate + batch.values
    mean = (estimate * mask).sum() / mask.sum()
    variance = ((estimate - mean) ** 2 * mask).sum() / mask.sum()
    batch.advantages = (estimate - mean) / variance.clamp_min(EPSILON).sqrt() * mask
    return batch


def segment_rewards(plain: Plain, batch: Batch) -> Tensor:
    """Relevance rewards [B, T]: each segment's on the token where its re-tokenised text ends."""
    texts = [
        plain.tokenizer.decode(ids[: int(n)], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids, n in zip(batch.ids, batch.mask.sum(1), strict=True)
    ]
    splitter = resolve_splitter(plain.p.sentence_splitter)
    grid = torch.zeros(batch.ids.shape)
    good, bad = LABELS.index("O"), LABELS.index("NF-ERR")
    for rows in micro_batches(batch):
        spans = [segment(text, "relevance", splitter) for text in texts[rows]]
        inputs, marks = reward_inputs(plain, batch.questions[rows], texts[rows], spans)
        logits = plain.reward_model(**inputs).logits.float().cpu()
        for index, (row, text) in enumerate(zip(range(rows.start, rows.stop), texts[rows], strict=True)):
            for (_, end), mark in zip(spans[index], marks[index], strict=True):
                place = len(plain.tokenizer(text[:end], add_special_tokens=False).input_ids) - 1
                value = 0.0 if mark < 0 else 1.0 if logits[index, mark, good] > logits[index, mark, bad] else -1.0
                grid[row, min(place, int(batch.mask[row].sum()) - 1)] = REWARD * value
    return grid.to(batch.ids.device)


def reward_inputs(
    plain: Plain, questions: Sequence[Question], texts: Sequence[str], spans: Sequence[list[tuple[int, int]]]
) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Padded inputs ``[CLS] context [SEP] segment [SEP] segment … [SEP]``, and the place of each segment's mark (−1: cut)."""
    tokenizer, limit = plain.reward_tokenizer, plain.reward_model.config.max_position_embeddings
    rows, marks, starts = [], [], []
    for question, text, pieces in zip(questions, texts, spans, strict=True):
        context = tokenizer(f" {context_of(question, 'relevance')}", add_special_tokens=False).input_ids
        body, places = [], []
        for start, end in pieces:
            places.append(len(body))
            words = " ".join(text[start:end].split())  # each with a space before it
            body += [tokenizer.sep_token_id, *tokenizer(f" {words}", add_special_tokens=False).input_ids]
        context, body = context[: max(0, limit - 2 - len(body))], body[: limit - 2]
        rows.append([tokenizer.cls_token_id, *context, *body, tokenizer.sep_token_id])
        starts.append(1 + len(context))
        marks.append([starts[-1] + place if place < len(body) else -1 for place in places])
    longest, device = max(map(len, rows)), plain.reward_model.device
    ids = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    types = [[int(start <= place < len(row)) for place in range(longest)] for row, start in zip(rows, starts, strict=True)]
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: torch.tensor(value, device=device) for name, value in named.items()}, marks


def update(plain: Plain, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """``epochs`` optimizer steps on the whole rollout; the losses of the last."""
    p, tokens = plain.p, batch.mask.sum()
    for _ in range(p.epochs):
        optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(2, device=tokens.device)
        for rows in micro_batches(batch):
            losses += accumulate(plain, batch, rows, tokens)
        if p.max_gradient_norm:
            nn.utils.clip_grad_norm_([w for g in optimizer.param_groups[:1] for w in g["params"]], p.max_gradient_norm)
            nn.utils.clip_grad_norm_([w for g in optimizer.param_groups[1:] for w in g["params"]], p.max_gradient_norm)
        optimizer.step()
    return dict(zip(("policy_loss", "value_loss"), losses.tolist(), strict=True))


def accumulate(plain: Plain, batch: Batch, rows: slice, tokens: Tensor) -> Tensor:
    """Add the gradients of one micro-batch; returns its share of the policy's and the value model's loss, [2]."""
    p = plain.p
    with precision(p, batch.ids.device):
        logits, values = logits_of(plain.policy, batch, rows), values_of(plain, batch, rows).float()
    log_p, _ = log_probabilities(logits, batch.ids[rows], p.temperature)
    mask, advantage = batch.mask[rows].float(), batch.advantages[rows]
    ratio = (log_p - batch.log_p[rows]).exp()
    policy = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - p.clip, 1 + p.clip))
    value = (values - batch.returns[rows]) ** 2
    if p.value_clip is not None:
        old = batch.values[rows]
        value = torch.maximum(value, (old + (values - old).clamp(-p.value_clip, p.value_clip) - batch.returns[rows]) ** 2)
    terms = torch.stack([(policy * mask).sum(), 0.5 * (value * mask).sum()]) / tokens
    (terms[0] + p.value_weight * terms[1]).backward()
    return terms.detach()


def micro_batches(batch: Batch) -> Iterator[slice]:
    """Rows of four samples each."""
    count = len(batch.ids)
    yield from (slice(first, min(first + MICRO_BATCH, count)) for first in range(0, count, MICRO_BATCH))


def precision(p: config.PPO, device: torch.device) -> torch.autocast:
    """bfloat16 autocast, if asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=p.precision == "bfloat16")


def optimizer_of(plain: Plain) -> torch.optim.Optimizer:
    """Adam over the policy's weights and the value model's, as two groups."""
    value = [*plain.value_body.parameters(), *plain.value_head.parameters()]
    groups = [{"params": list(plain.policy.parameters())}, {"params": value}]
    return torch.optim.Adam(groups, lr=plain.p.learning_rate, eps=plain.p.adam_epsilon)


def load(folder: Path, p: config.PPO) -> Plain:
    """The loop on the models of a workload's folder; the value model starts from the policy's weights with a new head."""
    policy = T5ForConditionalGeneration.from_pretrained(folder / "policy").to(p.device)
    width = policy.config.d_model
    torch.manual_seed(p.seed)
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)).to(p.device)
    reward_model = BertForTokenClassification.from_pretrained(folder / "reward").to(p.device).eval()
    return Plain(
        p, policy.eval(), copy.deepcopy(policy).eval().requires_grad_(False),
        T5Model.from_pretrained(folder / "policy").to(p.device).eval(), head,
        PreTrainedTokenizerFast.from_pretrained(folder / "policy"),
        reward_model, PreTrainedTokenizerFast.from_pretrained(folder / "reward"),
    )  # fmt: skip


class Loop:
    """The loop as a side of the comparison."""

    def __init__(self, folder: str, device: str, precision: str) -> None:
        self.size, self.records = workload.load(Path(folder))
        p = workload.parameters(Path(folder), self.size, device, precision)
        self.plain, self.device = load(Path(folder), p), device
        self.optimizer = optimizer_of(self.plain)

    def rollout(self, index: int, prompts: int = 0) -> dict[str, float]:
        """Seconds of each phase of rollout ``index`` (of its first ``prompts`` questions; 0: all)."""
        chosen = workload.batch(self.records, self.size, index)[: prompts or None]
        lengths = torch.tensor(workload.lengths(self.plain.tokenizer, chosen, self.size))
        torch.manual_seed(index)
        clock = Clock(self.device)
        batch = sample(self.plain, [record.question for record in chosen], lengths)
        clock.lap("generation")
        score(self.plain, batch)
        clock.lap("scoring")
        update(self.plain, self.optimizer, batch)
        clock.lap("updates")
        return clock.laps | {"episodes": len(lengths)}

    def peak(self) -> int:
        """Peak memory in bytes."""
        return peak_memory(self.device)


class Clock:
    """Seconds between laps, by name; waits for a GPU to finish."""

    def __init__(self, device: str) -> None:
        self.device, self.laps, self.last = device, {}, 0.0
        self.last = self.now()

    def now(self) -> float:
        """Seconds on a clock that nothing turns back."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the time since the last lap under ``name``."""
        now = self.now()
        self.laps[name] = now - self.last
        self.last = now
