"""Candidates at work: how each kind of reward model is loaded and scores responses, and whether its scores can be believed.

Each is scored in a process of its own: the code that some repositories bring changes libraries for those that come after.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from paradox_utils import config, files, threads
from paradox_utils.choose import inputs
from paradox_utils.choose.inputs import Asked, Key
from paradox_utils.choose.scorers import ELSE, Item, Scorer, described, in_a_line, load_scorer
from paradox_utils.config.choose import TABLES
from paradox_utils.data.records import DataError
from paradox_utils.policies.models import ModelError, beside
from paradox_utils.rewards.measures import ROUNDING
from paradox_utils.rewards.model import NonFiniteScoresError, saved
from paradox_utils.rewards.stress import ALTERATIONS

TOLERANCE = 1e-4  # of a score in float32, from one batch to another
TRIED = 16  # responses that the checks score again
ALTERED = 50  # prompts whose first response is altered

Result = TypeVar("Result")


@dataclass
class Scored:
    """What a candidate says: ``scores`` of responses as its model gives them, and of those ``held_out``; the mean change of the
    score of ``altered`` responses, in deviations of the scores; what ``checks`` found, and why some could not (``unchecked``);
    ``blocked``: why its scores cannot be believed. ``layout``: as of a :class:`Scorer`, or ``file``; ``metrics``: what its
    training left beside it; ``pairwise``: a difference of scores is a log-odds; ``labels``: a score below 0 says that something
    is bad."""

    scores: dict[Key, float] = field(default_factory=dict)
    held_out: dict[Key, float] = field(default_factory=dict)
    altered: dict[str, float] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    unchecked: str = ""
    blocked: str = ""
    layout: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    pairwise: bool = False
    labels: bool = False
    seconds: float = 0.0


def check(p: config.Choose) -> None:
    """Raises :class:`DataError` or :class:`ModelError` for a file of scores that is not there or cannot be read, and a model
    without a config that can be, before any time goes into responses. Runs no code that a model brings."""
    for one in filter(None, [*p.candidates.values(), p.judge]):
        brings_code = one.trust_remote_code and any(beside(one.model, f"{of}config.json") for of in ("", "adapter_"))
        if one.scores:
            inputs.read_scores(one.scores)
        elif not brings_code:
            described(one)
    if p.judgement.endswith(TABLES):
        inputs.read_scores(p.judgement)


def score(
    candidate: config.Candidate,
    p: config.Choose,
    asked: Sequence[Asked],
    held_out: Sequence[Asked] = (),
    ids: Container[Key] | None = None,
) -> Scored:
    """Score all responses by a candidate; a file of scores must have one for each, and none beside those of ``ids``.

    Raises :class:`DataError` for a file of scores that does not fit. What is wrong with a model stands in ``blocked``.
    """
    started = time.perf_counter()
    if candidate.scores:
        found = _from_file(candidate.scores, asked, ids)
    else:
        try:
            found = apart(_by_model, candidate, p, list(asked), list(held_out))
        except ModelError as error:
            found = Scored(blocked=str(error))
    values = np.array(list(found.scores.values()))
    if not found.blocked and not np.isfinite(values).all():
        found.blocked = f"{np.mean(~np.isfinite(values)):.0%} of its scores are not finite; try float32 weights, or another"
    if not found.blocked and np.ptp(values) <= ROUNDING * np.abs(values).max():
        found.blocked = f"it scores all responses alike ({values[0]:g}): nothing can be learned from it"
    found.seconds = time.perf_counter() - started
    return found


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result, from a process of its own, forked from one that has loaded the libraries and nothing else.

    Raises :class:`ModelError` where that process dies.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["paradox_utils.choose.candidates", "paradox_utils.choose.sampling"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ModelError("the process at work was killed, or crashed; it may need more memory than there is") from error


def _from_file(path: str, asked: Sequence[Asked], ids: Container[Key] | None) -> Scored:
    scores, keys = inputs.read_scores(path, ids), [(one.id, name) for one in asked for name in one.responses]
    if lacking := [key for key in keys if key not in scores]:
        raise DataError(
            f"{path}: lacks the score of prompt_id = {lacking[0][0]!r}, response_id = {lacking[0][1]!r} ({len(lacking)} in "
            "all); score every response of responses.jsonl"
        )
    return Scored({key: scores[key] for key in keys}, layout="file")


def _by_model(candidate: config.Candidate, p: config.Choose, asked: list[Asked], held_out: list[Asked]) -> Scored:
    """In the candidate's process."""
    threads.use({"reward_model": candidate.model})
    try:
        scorer = load_scorer(candidate, p)
        metrics = saved(candidate.model, "metrics.json")
        found = Scored(pairwise=scorer.pairwise, labels=scorer.labels, metrics=metrics, layout=scorer.layout)
        some = tried(asked)
        alone = scorer(some, 1)
        found.checks["batch"] = max(_change(scorer(some, by), alone) for by in (2, p.batch))
        if found.checks["batch"] > TOLERANCE:
            found.blocked = (
                f"its scores change with the batch by up to {found.checks['batch']:.2g}: padding is read as text; set the "
                "tokenizer's pad_token and padding_side, or give a file of its scores one by one"
            )
            return found
        found.scores = by_key(scorer, asked, p.batch)
        found.checks["cut"] = scorer.cut
        if scorer.cut == 1:
            found.blocked = f"every input is over its limit of {scorer.limit} tokens; raise max_length, or give shorter texts"
        found.held_out = by_key(scorer, held_out, p.batch) if held_out else {}
        _try_more(found, scorer, asked, p.batch, alone)
        return found
    except (ModelError, DataError, config.ParameterError, files.FileError, NonFiniteScoresError) as error:
        return Scored(blocked=str(error))
    except torch.OutOfMemoryError:
        return Scored(blocked=f"does not fit the GPU's memory with batch = {p.batch}; lower it, or set device = 'cpu'")
    except Exception as error:
        if not candidate.trust_remote_code:
            raise
        return Scored(blocked=f"its own code failed ({in_a_line(error)}); {ELSE}")


def items(asked: Sequence[Asked]) -> list[Item]:
    """Every different response, with its prompt."""
    return [Item(one.prompt, one.question, text) for one in asked for text in dict.fromkeys(one.responses.values())]


def by_key(scorer: Scorer, asked: Sequence[Asked], batch: int) -> dict[Key, float]:
    """A score a response; equal responses to a prompt are scored once, and passes hold texts of similar length."""
    given = sorted(items(asked), key=lambda item: len(item.question.prompt) + len(item.text))
    known = {(item.question.id, item.text): score for item, score in zip(given, scorer(given, batch).tolist(), strict=True)}
    return {(one.id, name): known[one.question.id, text] for one in asked for name, text in one.responses.items()}


def tried(asked: Sequence[Asked]) -> list[Item]:
    """A few responses of all lengths, short beside long."""
    ordered = sorted(items(asked), key=lambda item: len(item.text))
    some = [ordered[i] for i in np.linspace(0, len(ordered) - 1, min(TRIED, len(ordered))).astype(int)]
    return some[::2] + some[1::2][::-1]


def _try_more(found: Scored, scorer: Scorer, asked: Sequence[Asked], batch: int, alone: np.ndarray) -> None:
    """What altered responses are paid, and by how much scores change with padding on the other side, which positions counted
    from the first token cannot bear, and in bfloat16. What fails here costs no score: ``unchecked`` names it."""
    some, spread, failed = tried(asked), float(np.std(list(found.scores.values()))), []

    def in_bfloat16() -> np.ndarray:
        scorer.network.to(torch.bfloat16)  # the last thing, as it loses digits
        return scorer(some, batch)

    moves: dict[str, tuple[str, Callable[[], np.ndarray]]] = {"bfloat16": ("bfloat16", in_bfloat16)}
    if scorer.pads_either_side:
        padded = "padding on the other side", lambda: scorer(some, batch, other_side=True)
        moves = {"other_side": padded} | moves
    try:
        found.altered = altered(scorer, asked, batch, spread)
    except Exception as error:  # a network may raise anything at what it was not made for
        failed.append(f"altered responses ({in_a_line(error)})")
    for name, (words, scores) in moves.items():
        found.checks[name] = float("nan")
        try:
            found.checks[name] = _change(scores(), alone)
        except Exception as error:
            failed.append(f"{words} ({in_a_line(error)})")
        else:
            failed += [f"{words} (scores that are not finite)"] if np.isnan(found.checks[name]) else []
    found.unchecked = "; ".join(failed)


def _change(scores: np.ndarray, alone: np.ndarray) -> float:
    """The largest change, in units of the score, or of the largest one where that is above 1."""
    return float(np.abs(scores - alone).max() / max(1.0, np.abs(alone).max()))


def altered(scorer: Scorer, asked: Sequence[Asked], batch: int, spread: float) -> dict[str, float]:
    """Mean change of the score of a response when it is repeated, longer, or unfinished, in deviations of all scores."""
    some = [one for one in asked[:ALTERED] if any(text.strip() for text in one.responses.values())]
    found = {}
    for name, alter in ALTERATIONS.items():
        texts = [list(dict.fromkeys(one.responses.values())) for one in some]
        made = [alter(own, [(0, len(own[0]))] if own[0].strip() else []) for own in texts]
        given = [Item(one.prompt, one.question, text) for one, text in zip(some, made, strict=True)]
        found[name] = float(scorer(given, batch).mean()) if given else float("nan")
    plain = found.pop("plain")
    return {name: (value - plain) / spread if spread else float("nan") for name, value in found.items()}
