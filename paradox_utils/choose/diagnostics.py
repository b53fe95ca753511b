"""What else can be said of a candidate: accuracy, calibration, variance, length, agreement; and what to judge next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from paradox_utils import config
from paradox_utils.choose import gain, inputs
from paradox_utils.choose.candidates import Scored
from paradox_utils.choose.gain import Array
from paradox_utils.choose.inputs import Asked
from paradox_utils.rewards.measures import calibration_error, rank_correlation

JUDGE_NEXT = 50  # prompts


def measures(found: Scored, scores: Array, judged: Array, asked: Sequence[Asked], scale: float = 1.0) -> dict[str, float]:
    """Of scores [P, K] beside the gain: accuracy on these responses, variance of the reward (score times ``scale``) within
    prompts, raw and normalised, and rank correlation with words within prompts. ``calibration_error`` of a model that learnt
    one score a text, of σ(difference); ``f1`` of responses labelled bad (0, not 1), of a model that labels and whose score is
    below 0 for them, or as its training measured it."""
    within, normalised = gain.variances(scores * scale)
    row = accuracies(scores, judged) | {"variance": within, "variance_normalised": normalised}
    if not np.isfinite(judged).any():
        row["tied"] = accuracies(scores, _texts(asked))["tied"]  # of all pairs of different responses
    row["length_correlation"] = rank_correlation(*_complete(scores, lengths(asked)))
    row["calibration_error"] = calibration(scores, judged) if found.pairwise else np.nan
    measured, known = found.metrics.get("f1"), np.isfinite(judged)
    row["f1"] = np.nan if measured is None else measured
    if found.labels and known.any() and set(np.unique(judged[known])) <= {0.0, 1.0}:
        hits = float(((scores < 0) & (judged == 0)).sum())
        row["f1"] = 2 * hits / max(1.0, float(((scores < 0) & known).sum() + (judged == 0).sum()))
    return row


def _texts(asked: Sequence[Asked]) -> Array:
    """A number a response [P, K], the same for the same text to a prompt."""
    places = [{text: float(place) for place, text in enumerate(one.responses.values())} for one in asked]
    own = zip(asked, places, strict=True)
    return inputs.grid(asked, {(one.id, k): of[text] for one, of in own for k, text in one.responses.items()})


def lengths(asked: Sequence[Asked]) -> Array:
    """Words of each response [P, K]."""
    return inputs.grid(asked, {(one.id, k): float(len(text.split())) for one in asked for k, text in one.responses.items()})


def accuracies(scores: Array, judged: Array) -> dict[str, float]:
    """Shares of the pairs of responses judged different that scores order ``right``, call equal (``tied``) and order wrong; and
    the accuracy, where a tie counts half."""
    parts = [float(part.sum()) for part in gain.pairs(scores, judged)]
    right, tied, wrong = (part / sum(parts) if sum(parts) else np.nan for part in parts)
    return {"right": right, "tied": tied, "wrong": wrong, "accuracy": right + tied / 2}


def agreement(scores: Mapping[str, Array]) -> pd.DataFrame:
    """Rank correlation of scores within prompts, candidate by candidate."""
    table = {a: {b: rank_correlation(*_complete(scores[a], scores[b])) for b in scores} for a in scores}
    return pd.DataFrame(table, index=list(scores))


def _complete(a: Array, b: Array) -> tuple[Array, Array]:
    """The prompts that have all responses: ranks are among as many."""
    whole = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return (a[whole], b[whole]) if whole.any() else (np.zeros((1, 2)), np.zeros((1, 2)))


def off_policy(found: Scored, held_out: Sequence[Asked]) -> dict[str, float]:
    """What its training left beside it, or responses that are not the policy's say; altered answers; and the checks."""
    row: dict[str, float] = {f"altered_{name}": value for name, value in found.altered.items()}
    row |= {f"check_{name}": value for name, value in found.checks.items()}
    known = found.metrics.get("accuracy")
    row["held_out_accuracy"] = known if known is not None else found.metrics.get("accuracy_noisy", np.nan)
    if held_out and found.held_out:
        good, size = inputs.judged(held_out)
        row["held_out_accuracy"] = accuracies(inputs.grid(held_out, found.held_out), good / size)["accuracy"]
    return row


def calibration(scores: Array, judged: Array) -> float:
    """Expected calibration error of σ(difference of scores) over pairs that are judged different."""
    paid, truth, told = gain.gaps(scores, judged)
    right = (np.sign(paid * truth)[told] + 1) / 2
    return calibration_error(1 / (1 + np.exp(-np.abs(paid[told]))), right) if told.any() else np.nan


def about(p: config.Choose, asked: Sequence[Asked], good: Array, size: Array, told: Array) -> dict[str, Any]:
    """Counts, and what the recipe is."""
    known, words = np.isfinite(good), lengths(asked)
    return {
        "prompts": len(asked),
        "responses": sum(len(one.responses) for one in asked),
        "judged_prompts": int(told.sum()),
        "judged_responses": int(known[told].sum()),
        "told_nothing": int((known.sum(1) == 1).sum()),  # one judged response alone compares with nothing
        "fewest": int(known[told].sum(1).min(initial=known.shape[1])),  # judged responses to a prompt that is told of
        "length_correlation": rank_correlation(*_complete(good / size, words)),
        "algorithm": p.algorithm,
        "n": p.n if p.algorithm == "best-of-n" else None,
    }


def to_judge(asked: Sequence[Asked], weights: Array, good: Array) -> list[dict[str, Any]]:
    """The unjudged responses to prompts drawn at random, whole prompts one after the other; none where no judgement would tell
    candidates apart, as all give all responses the same ``weights`` [C, P, K].

    Drawn by neither their prompt's nor their own weights: a gain is a weighted mean over the policy's samples to its prompts,
    and those where candidates differ most are no sample of either. Judged from the top, any number of prompts is one.
    ``worth``: the largest weight that a candidate gives a response less the smallest, which is how far its judgement moves two
    gains apart.
    """
    worth, rows = np.ptp(weights, axis=0), []
    if not (np.isnan(good) & (worth > 0)).any():
        return []
    several = [place for place, one in enumerate(asked) if len(one.responses) > 1]
    unjudged = [place for place in several if np.isnan(good[place, : len(asked[place].responses)]).any()]
    for place in sorted(unjudged, key=lambda place: hashlib.sha256(asked[place].id.encode()).digest())[:JUDGE_NEXT]:
        one = asked[place]
        for k, (name, text) in enumerate(one.responses.items()):
            if np.isnan(good[place, k]):
                named = {"prompt_id": one.id, "response_id": name, "prompt": one.prompt, "response": text}
                rows.append(named | {"worth": round(float(worth[place, k]), 4)})
    return rows
