"""What else can be said of a candidate: accuracy, calibration, variance, length, agreement, and what is worth judging."""

from __future__ import annotations

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

JUDGE_FIRST = 50  # prompts, of those whose responses are most worth judging
JUDGE_EACH = 4  # responses to each of them


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
        "length_correlation": rank_correlation(*_complete(good / size, words)),
        "algorithm": p.algorithm,
    }


def worth_judging(asked: Sequence[Asked], weights: Array, good: Array) -> list[dict[str, Any]]:
    """Unjudged responses whose judgement would tell candidates apart, the most telling prompts first.

    A response's judgement counts in the difference of two predicted gains with the difference of its ``weights`` [C, P, K], so
    it is worth the largest weight that a candidate gives it less the smallest.
    """
    worth, rows = np.where(np.isfinite(good), 0.0, np.ptp(weights, axis=0)), []
    for place in np.argsort(-worth.sum(1), kind="stable")[:JUDGE_FIRST]:
        one, names = asked[place], list(asked[place].responses)
        for k in np.argsort(-worth[place], kind="stable")[:JUDGE_EACH]:
            if worth[place, k] > 0:
                named = {
                    "prompt_id": one.id,
                    "response_id": names[k],
                    "prompt": one.prompt,
                    "response": one.responses[names[k]],
                }
                rows.append(named | {"worth": round(float(worth[place, k]), 4)})
    return rows
