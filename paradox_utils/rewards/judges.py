"""Rewards by name: who judges responses, and on which policy token each reward lands.

A judge maps questions, responses and their segments to one value a segment: in [−1, 1] (its sign is the label), or the raw
score of the whole answer for pairwise tasks. A new reward form: its name in ``config.PPO.reward``, its entry in ``REWARDS``.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from paradox_utils import config, data
from paradox_utils.data.records import DataError, Feedback, Judge, Offsets, Question
from paradox_utils.data.tasks import GOOD, LABELS, TASKS
from paradox_utils.files import for_task
from paradox_utils.policies.prompts import Responses, decode
from paradox_utils.rewards import model
from paradox_utils.rewards.dial import Centre, dial_of, exact_centre
from paradox_utils.rewards.examples import context_of, training_examples
from paradox_utils.rewards.measures import ROUNDING, pair_metrics, segment_metrics

RewardFunction = Callable[[Responses], Tensor]  # to rewards [B, T]


# --- judges -------------------------------------------------------------------------------------------------------------------


def model_judge(scorer: model.RewardScorer, p: config.PPO) -> Judge:
    """A reward model: arg-max label as ±1, or P(good) − P(error), over the task's two classes. A segment that the model could
    not read (over its input limit) gets 0."""
    task = TASKS[p.task]

    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        contexts = _contexts(scorer, questions, p)
        if task.pairwise:
            return [[score] for score in scorer.scores(contexts, texts).tolist()]
        pieces = [[text[a:b] for a, b in spans] for text, spans in zip(texts, offsets, strict=True)]
        values = []
        for margin in model.margins(scorer, p.task, contexts, pieces):
            # P(good) − P(error) of two classes is tanh of half their logit difference
            value = torch.where(margin > 0, 1.0, -1.0) if p.reward_form == "arg-max" else torch.tanh(margin / 2)
            values.append(torch.where(margin.isnan(), 0.0, value).tolist())
        return values

    return judge


def _contexts(scorer: model.RewardScorer, questions: Sequence[Question], p: config.PPO) -> list[str]:
    return [context_of(question, p.task, p.passage_sentences, known_answer=scorer.known_answer) for question in questions]


def standardised(checkpoint: str, p: config.PPO) -> Judge:
    """A pairwise reward model by its score, less the mean and divided by the deviation of its own scores on what it learnt
    from. A text that it has scored it knows."""
    scorer = model.load_scorer(checkpoint, p.task, p, p.rm_micro_batch)
    centre = _own_centre(checkpoint, model.saved(checkpoint, "metrics.json"), p)
    known: dict[tuple[str, str], float] = {}

    def judge(questions: Sequence[Question], texts: Sequence[str], _offsets: Sequence[Offsets]) -> list[list[float]]:
        contexts = _contexts(scorer, questions, p)
        scores = model.text_scores(scorer, list(zip(contexts, texts, strict=True)), known)
        return ((scores - centre.mean) / centre.std)[:, None].tolist()

    return judge


def spread_of(judge: Judge, p: config.PPO, records: Sequence[Feedback]) -> float:
    """Standard deviation of the summed (or mean) segment values of whole responses, over the feedback of 100 questions."""
    texts = [text for record in records[:100] for text in record.responses]
    questions = [record.question for record in records[:100] for _ in record.responses]
    values = judge(questions, texts, data.segments_of(p, texts, p.task))
    totals = [sum(v) / (max(1, len(v)) if p.reward_pooling == "mean" else 1) for v in values]
    if (spread := float(np.std(totals))) <= ROUNDING * float(np.abs(totals).max()):
        raise DataError("normalise_reward: the reward model values all responses alike; leave it unset, or name another model")
    return spread


def measure_judge(judge: Judge, p: config.PPO, records: Sequence[Feedback]) -> dict:
    """The metrics a reward model's checkpoint carries, for any judge, on held-out feedback."""
    # a response without a segment to measure on gives no example, nor do two responses that are equally good
    measured = [(record, example) for record in records for example in training_examples(p, [record], p.task)]
    questions, examples = [record.question for record, _ in measured], [example for _, example in measured]

    def values(texts: list[str]) -> np.ndarray:
        return np.concatenate(judge(questions, texts, data.segments_of(p, texts, p.task)))

    task = TASKS[p.task]
    if task.pairwise:
        if not examples:
            raise DataError(f"{p.task}: no two held-out responses differ; give more feedback, or of a better policy")
        margins = values([e.chosen for e in examples]) - values([e.rejected for e in examples])
        return pair_metrics(margins, [example.clean for example in examples])
    labels = np.where(values([record.responses[0] for record, _ in measured]) > 0, GOOD, task.bad)
    noisy, clean = [label for e in examples for label in e.labels], [label for e in examples for label in e.clean]
    return segment_metrics(np.eye(len(LABELS))[labels], noisy, clean, task.bad)


# --- rewards on tokens --------------------------------------------------------------------------------------------------------


def reward_function(tokenizer: PreTrainedTokenizerFast, judge: Judge, centre: Centre, p: config.PPO) -> RewardFunction:
    """Responses to rewards [B, T]: each segment's reward on its last text token, a pairwise task's score on the last token.

    Of two segments that end on one token the later is paid, as in the released code: a token has one label. All are divided by
    the deviation of ``centre``. ``reward_pooling = "mean"`` divides by the number of segments. All rewards are NaN where the
    judge's scores are not finite: PPO ends at that.
    """
    size, pairwise = size_of(p), TASKS[p.task].pairwise
    places_of = functools.lru_cache(maxsize=4096)(functools.partial(last_tokens, tokenizer))  # responses come back

    def rewards(responses: Responses) -> Tensor:
        offsets = data.segments_of(p, responses.texts, p.task)
        try:
            values = judge(responses.questions, responses.texts, offsets)
        except model.NonFiniteScoresError:
            return torch.full(responses.ids.shape, torch.nan, device=responses.ids.device)
        grid = torch.zeros(responses.ids.shape)
        for row, (ids, text) in enumerate(zip(responses.tokens(), responses.texts, strict=True)):
            if pairwise:
                grid[row, len(ids) - 1] = size * (values[row][0] - centre.mean) / centre.std
                continue
            places = places_of(tuple(ids), text, tuple(end for _, end in offsets[row]))
            share = len(places) if p.reward_pooling == "mean" else 1
            for place, value in zip(places, values[row], strict=True):
                grid[row, place] = size * value / (share * centre.std)
        return grid.to(responses.ids.device)

    return rewards


def size_of(p: config.PPO) -> float:
    """The reward of a good segment, or of a deviation of the score."""
    return p.reward_size or TASKS[p.task].reward_size


def last_tokens(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], text: str, ends: Sequence[int]) -> list[int]:
    """The token that completes each segment: the first after which the decoded prefix reaches the segment's end (exclusive
    character offset into ``text``, which is what ``ids`` decode to).

    Prefixes are decoded rather than the text tokenised again: a sampled response need not be spelt the way the tokenizer would
    spell it. A character whose bytes are spread over several tokens counts from the last of them. A longer prefix may decode to
    less of the text (a byte-fallback decoder drops a whole run of bytes until its last character is complete), so the furthest
    reach so far counts.
    """

    def reach(prefix: str) -> int:
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prefix, text, strict=False))
        return len(prefix) if text.startswith(prefix) else sum(1 for _ in same)

    prefixes = decode(tokenizer, [ids[:count] for count in range(1, len(ids) + 1)])
    reached = list(itertools.accumulate(map(reach, prefixes), max))
    return [min(bisect_left(reached, end), len(ids) - 1) for end in ends]


# --- rewards by name ----------------------------------------------------------------------------------------------------------


class Reward(NamedTuple):
    """A reward at work: the function, the metrics of who gives it, and a count of its truncated inputs."""

    function: RewardFunction
    metrics: dict
    truncated: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Ensemble:
    """Several reward models as one reward function: the first pays, or (``least``) a token is paid the least that any of them
    gives it (the worst-case optimisation of Coste et al. 2024). Their rewards lie on the same tokens, as the text alone says
    where a segment ends. Not finite rewards of one that pays stay so."""

    members: tuple[RewardFunction, ...]
    least: bool

    def __call__(self, responses: Responses) -> Tensor:
        """What is paid, [B, T]."""
        return self.paid(self.each(responses))

    def each(self, responses: Responses) -> Tensor:
        """What each of them gives, [models, B, T]."""
        return torch.stack([reward(responses) for reward in self.members])

    def paid(self, each: Tensor) -> Tensor:
        """What is paid where ``each`` gives this."""
        return each.amin(0) if self.least else each[0]


def _model(p: config.PPO, tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]) -> Reward:
    """A trained reward model, and the others beside it; the metrics are those of the first."""
    names = [for_task(name, p.task) for name in (p.reward_model, *p.other_reward_models)]
    parts = [_one_model(name, p, tokenizer, feedback) for name in names]
    if len(parts) == 1:
        return parts[0]
    function = Ensemble(tuple(part.function for part in parts), p.others == "minimum")
    return Reward(function, parts[0].metrics, lambda: sum(part.truncated() for part in parts))


def _one_model(
    checkpoint: str, p: config.PPO, tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]
) -> Reward:
    """A trained reward model, its metrics measured on held-out feedback as it was loaded."""
    pairwise = TASKS[p.task].pairwise
    scorer = model.load_scorer(checkpoint, p.task, p, p.rm_micro_batch)  # first: what is no model has no scores either
    stored = model.saved(checkpoint, "metrics.json")
    centre = _own_centre(checkpoint, stored, p) if pairwise and p.normalise_reward is not False else Centre()
    judge, metrics = model_judge(scorer, p), model.measured(scorer, p.task, _heldout(p, scorer, feedback))
    if p.normalise_reward and not pairwise:
        centre = Centre(0.0, spread_of(judge, p, feedback["train"]))
    return Reward(reward_function(tokenizer, judge, centre, p), _as_stored(metrics, stored), lambda: scorer.truncated)


def _own_centre(checkpoint: str, stored: dict, p: config.PPO) -> Centre:
    """Mean and deviation of a pairwise reward model's scores on what it learnt from, of its ``stored`` metrics."""
    scores = config.check(model.TrainingScores, stored, f"{checkpoint}/metrics.json (scales a {p.task} reward)")
    return Centre(scores.score_mean, scores.score_std)


def _heldout(p: config.PPO, scorer: model.RewardScorer, feedback: dict[str, list[Feedback]]) -> list:
    """Held-out examples, laid out as those that the model learnt from."""
    return training_examples(p, feedback["heldout"], p.task, scorer.passage_bars, scorer.known_answer)


def _as_stored(metrics: dict, stored: dict) -> dict:
    """The metrics, in the digits of the ``stored`` ones that they confirm: among other texts a pass rounds otherwise."""

    def confirmed(name: str, value: float | None) -> bool:
        other = stored.get(name)
        return isinstance(value, float) and isinstance(other, float) and math.isclose(value, other, rel_tol=ROUNDING)

    return {name: stored[name] if confirmed(name, value) else value for name, value in metrics.items()}


def _dial(p: config.PPO, tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]) -> Reward:
    """A control whose accuracy is set."""
    judge, centre = dial_of(p, feedback)
    return Reward(reward_function(tokenizer, judge, centre, p), measure_judge(judge, p, feedback["heldout"]))


def _constant(p: config.PPO, _tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]) -> Reward:
    """A control that pays every response the same."""
    return Reward(_on_last_token(lambda _text: 1.0, p), measure_judge(_judge_of(lambda _text: 1.0, p), p, feedback["heldout"]))


def _length(p: config.PPO, _tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]) -> Reward:
    """A control that pays words, centred and scaled on training responses. It labels no segments: without pairs, no metrics."""
    words = [_words(text) for record in feedback["train"] for text in record.responses]
    mean, deviation = float(np.mean(words)), float(np.std(words))
    if not deviation:
        raise DataError(f"length: every training response has {words[0]:g} words, so there is no scale; use reward=constant")
    metrics = measure_judge(_judge_of(_words, p), p, feedback["heldout"]) if TASKS[p.task].pairwise else {}
    return Reward(_on_last_token(lambda text: (_words(text) - mean) / deviation, p), metrics)


def _words(text: str) -> float:
    return float(len(text.split()))


def _on_last_token(value: Callable[[str], float], p: config.PPO) -> RewardFunction:
    def rewards(responses: Responses) -> Tensor:
        grid = torch.zeros(responses.ids.shape)
        paid = size_of(p) * torch.tensor([value(text) for text in responses.texts])
        grid[torch.arange(len(paid)), responses.mask.sum(1).cpu() - 1] = paid
        return grid.to(responses.ids.device)

    return rewards


def _judge_of(value: Callable[[str], float], p: config.PPO) -> Judge:
    def judge(questions: Sequence[Question], texts: Sequence[str], offsets: Sequence[Offsets]) -> list[list[float]]:
        return [[value(t)] * (1 if TASKS[p.task].pairwise else len(o)) for t, o in zip(texts, offsets, strict=True)]

    return judge


@dataclass(frozen=True)
class Form:
    """A form of reward. ``blind``: it knows nothing of the truth, so there is nothing in it to agree with."""

    make: Callable[[config.PPO, PreTrainedTokenizerFast, dict[str, list[Feedback]]], Reward]
    blind: bool = False


REWARDS: dict[str, Form] = {
    "model": Form(_model),
    "dial": Form(_dial),
    "constant": Form(_constant, blind=True),
    "length": Form(_length, blind=True),
}


def reward_of(p: config.PPO, tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]) -> Reward:
    """The reward that ``p`` asks for."""
    return REWARDS[p.reward].make(p, tokenizer, feedback)


def true_reward(
    p: config.PPO, tokenizer: PreTrainedTokenizerFast, feedback: dict[str, list[Feedback]]
) -> RewardFunction | None:
    """The oracle's labels put through the reward function that PPO maximises; None without an oracle."""
    exact = data.oracle_of(p, p.task)
    return exact and reward_function(tokenizer, exact, exact_centre(p.task, feedback), p)


def evaluator_of(p: config.PPO, feedback: dict[str, list[Feedback]]) -> Judge:
    """Who scores the policy: the oracle, a reward model by its arg-max labels or its score, or several by the mean of their
    scores, each in deviations (see :func:`standardised`)."""
    if p.evaluator == "oracle":
        return data.oracle_of(p, p.task)
    if p.other_evaluators:
        judges = [standardised(for_task(name, p.task), p) for name in (p.evaluator, *p.other_evaluators)]
        return lambda *asked: np.mean([judge(*asked) for judge in judges], axis=0).tolist()
    scorer = model.load_scorer(for_task(p.evaluator, p.task), p.task, p, p.rm_micro_batch)
    if scorer.task is None and not TASKS[p.task].pairwise:  # its labels say whose they are
        model.measured(scorer, p.task, _heldout(p, scorer, feedback))
    return model_judge(scorer, p.model_copy(update={"reward_form": "arg-max"}))
