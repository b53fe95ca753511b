"""What a reward model picks among responses that people graded: how often people call the pick good, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from paradox_utils.data.records import BETWEEN, GOOD, JudgedSet
from paradox_utils.rewards.measures import best_of_n, rank_correlation

AMONG = (2, 4, 8)  # of so many random responses, where there are more
ALIKE = 0.8  # two responses are alike in length if the shorter has at least this share of the longer one's words
DIGITS = 6


def picks(sets: Sequence[JudgedSet], scores: Sequence[np.ndarray]) -> pd.DataFrame:
    """One row a judged set, from the scores [responses] of each: nothing of a single response but whether the pick is good.

    ``pick``: 1 if people call the best-scored response good (the first of equals, in the set's shuffled order). ``best_N``: the
    probability that they do, of the best-scored of N random ones, over all subsets (equals share it). ``average_precision``: of
    the good ones, in the order of scores; 0 without any, as in the official scores of SemEval-2016. ``right`` of ``compared``
    pairs of a good and a bad response, ``alike_…``: those alike in length (:data:`ALIKE`), ``near_…``: pairs of a good one and
    one between (equal scores count half). ``length_correlation``: Spearman's of score and words.
    """
    return pd.DataFrame(map(_row, sets, scores)).round(DIGITS)


def _row(one: JudgedSet, scores: np.ndarray) -> dict[str, str | float]:
    good, words = np.array(one.grades) == GOOD, np.array([len(text.split()) for text in one.responses])
    order = np.argsort(-scores, kind="stable")
    row: dict[str, str | float] = {"question": one.question.id, "pick": int(good[order[0]])}
    for n in AMONG:
        row[f"best_{n}"] = best_of_n(scores[None], good[None].astype(float), n) if n < len(good) else np.nan
    row["average_precision"] = average_precision(good[order])
    pairs, near = (np.array(found, dtype=int).reshape(-1, 2) for found in (one.pairs(), one.pairs(worse=BETWEEN)))
    lengths = words[pairs]
    alike = pairs[lengths.min(axis=1) >= ALIKE * lengths.max(axis=1)]
    for name, some in {"": pairs, "alike_": alike, "near_": near}.items():
        gaps = scores[some[:, 0]] - scores[some[:, 1]]
        row |= {f"{name}right": float(((np.sign(gaps) + 1) / 2).sum()), f"{name}compared": len(some)}
    return row | {"length_correlation": rank_correlation(scores[None], words[None])}


def average_precision(good: np.ndarray) -> float:
    """Mean, over the good ones of a ranking (boolean [responses]), of the share of good ones down to there; 0 without any."""
    found = np.flatnonzero(good)
    return float(np.mean(np.arange(1, len(found) + 1) / (found + 1))) if len(found) else 0.0


def described(sets: Mapping[str, Iterable[JudgedSet]]) -> pd.DataFrame:
    """One row a judged set of each part: what people said of its ``responses``, so many of them ``good`` and ``between``, how
    often the question stands in the source (``copies``), how many responses were graded again there (``regraded``), and how
    many the ``same`` way. And whether two rules that read nothing pick a good one: ``longest`` (most characters), and
    ``place``, which always takes what stands at the place of the source where most are good.
    """
    every = [(part, one) for part, some in sets.items() for one in some]
    places = pd.DataFrame(
        [(place, grade == GOOD) for _, one in every for place, grade in zip(one.places, one.grades, strict=True)],
        columns=["place", "good"],
    )
    best = places.groupby("place")["good"].mean().idxmax()
    return pd.DataFrame([{"part": part} | _description(one, best) for part, one in every])


def _description(one: JudgedSet, best: int) -> dict[str, str | int]:
    longest = max(range(len(one.responses)), key=lambda i: len(one.responses[i]))
    here = one.places.index(best) if best in one.places else 0
    return {
        "question": one.question.id,
        "responses": len(one.responses),
        "good": one.grades.count(GOOD),
        "between": one.grades.count(BETWEEN),
        "longest": int(one.grades[longest] == GOOD),
        "place": int(one.grades[here] == GOOD),
        "copies": one.copies,
        "regraded": one.regraded,
        "same": one.same,
    }
