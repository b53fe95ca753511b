"""How well labels and scores agree with the truth. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BINS = 15
ROUNDING = 1e-6  # relative to their size, two sums of float32 rewards differ by so much though they mean the same


def segment_metrics(
    probabilities: np.ndarray, noisy: Sequence[int | None], clean: Sequence[int | None] | None, error: int
) -> dict[str, float | None]:
    """Metrics of class probabilities [segments, 3] (NaN rows: segments the model could not read, counted as wrong).

    ``accuracy`` is the arg-max against the oracle's labels (None without an oracle), ``accuracy_noisy`` against the
    annotators'; segments labelled None are left out. ``majority`` is the share of the commonest label, ``f1`` that of the class
    ``error``. Balanced accuracy, F1, majority and calibration error use the oracle's labels where they exist.
    """
    from sklearn.metrics import f1_score  # takes most of a second: only where it is used

    predicted = np.where(np.isnan(probabilities).any(1), -1, np.nan_to_num(probabilities, nan=-1.0).argmax(1))
    labels = noisy if clean is None else clean
    against_noisy, measured = (np.array([label is not None for label in some]) for some in (noisy, labels))
    truth = np.array([label for label in labels if label is not None])
    guess, certainty = predicted[measured], np.nan_to_num(probabilities[measured].max(1), nan=0.0)
    noisy_right = predicted[against_noisy] == [label for label in noisy if label is not None]
    classes = np.unique(truth)
    return {
        "accuracy": None if clean is None else float((guess == truth).mean()),
        "accuracy_noisy": float(noisy_right.mean()) if len(noisy_right) else None,
        "balanced_accuracy": float(np.mean([(guess == truth)[truth == c].mean() for c in classes])),
        "majority": float(np.unique(truth, return_counts=True)[1].max() / len(truth)),
        "f1": float(f1_score(truth == error, guess == error, zero_division=0.0)),
        "calibration_error": calibration_error(certainty, guess == truth),
        "error_share": float((guess == error).mean()),
        "segments": len(truth),
    }


def pair_metrics(margins: np.ndarray, clean: Sequence[bool | None]) -> dict[str, float | None]:
    """Metrics of score margins (chosen − rejected) [pairs]: the share of pairs ordered right, an equal score
    counting half (as in the area under the ROC curve).

    Against the annotators every pair counts; against the oracle those it has an opinion on. F1 has no meaning here (None).
    """
    right = (np.sign(margins) + 1) / 2
    opinions = np.array([verdict is not None for verdict in clean])
    agrees = np.array([bool(verdict) for verdict in clean])
    against_clean = np.where(agrees, right, 1 - right)[opinions]
    truth = against_clean if opinions.any() else right
    certainty = 1 / (1 + np.exp(-np.abs(margins[opinions] if opinions.any() else margins)))
    return {
        "accuracy": float(against_clean.mean()) if opinions.any() else None,
        "accuracy_noisy": float(right.mean()),
        "balanced_accuracy": float(truth.mean()),
        "majority": 0.5,
        "f1": None,
        "calibration_error": calibration_error(certainty, truth),
        "segments": len(truth),
    }


def calibration_error(certainty: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017): the mean gap between certainty and accuracy over 15 equal-width bins."""
    bins = np.clip((certainty * BINS).astype(int), 0, BINS - 1)
    gaps = [abs(certainty[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of a and b [groups, members], their ranks taken within each group; NaN where one of them is
    constant within every group."""
    from scipy.stats import rankdata

    a, b = (rankdata(rows, axis=1) for rows in (a, b))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


# --- texts --------------------------------------------------------------------------------------------------------------------


def distinct(texts: Sequence[str], n: int) -> float:
    """Different word n-grams of all texts together, divided by the number of n-grams (Li et al. 2016); 0 without any."""
    grams = [gram for text in texts for gram in zip(*(text.split()[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str) -> float:
    """Share of a text's word bigrams that stood in it before; 0 for fewer than 2 words."""
    return 1 - distinct([text], 2) if len(text.split()) > 1 else 0.0


def rouge_l(text: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words with a reference; the best over the references."""
    return max((_rouge_l(text.lower().split(), reference.lower().split()) for reference in references), default=0.0)


def _rouge_l(a: list[str], b: list[str]) -> float:
    longest = [0] * (len(b) + 1)  # of the words of a read so far with each beginning of b
    for word in a:
        before = longest[:]
        for j, other in enumerate(b):
            longest[j + 1] = before[j] + 1 if word == other else max(before[j + 1], longest[j])
    return 2 * longest[-1] / (len(a) + len(b)) if a and b else 0.0


# --- rewards ------------------------------------------------------------------------------------------------------------------


def agreement(proxy: np.ndarray, truth: np.ndarray, samples: int, pairwise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where rewards and true rewards [B, T] agree: numbers of agreeing and of compared items for each response, [B] each.

    Items are the rewarded segments, which agree with equal signs; ``pairwise``, they are the non-tied pairs among a prompt's
    ``samples`` responses, whose sums are ordered alike (an equal sum counts half), counted at the first of the responses.
    """
    if not pairwise:
        places = truth != 0
        return ((np.sign(proxy) == np.sign(truth)) & places).sum(1), places.sum(1)
    first, second = np.triu_indices(samples, 1)
    given, true = (grid.sum(1).reshape(-1, samples) for grid in (proxy, truth))
    gaps, opinions = given[:, first] - given[:, second], true[:, first] - true[:, second]
    right = np.where(opinions != 0, (np.sign(gaps * opinions) + 1) / 2, 0.0).sum(1)
    agreeing, compared = np.zeros(len(proxy)), np.zeros(len(proxy))
    agreeing[::samples], compared[::samples] = right, (opinions != 0).sum(1)
    return agreeing, compared


def disagreement(each: np.ndarray, size: float, pairwise: bool) -> tuple[np.ndarray, np.ndarray]:
    """How far the rewards of several models [models, B, T] lie apart, and the number of items they were compared on, [B] each.

    Items are the rewarded segments, and what is counted are those on which not all models give the same sign; ``pairwise``, an
    item is the response, and it counts by the distance of its largest reward from its smallest, in units of ``size``. NaN for a
    response with a reward that is not finite.
    """
    broken = ~np.isfinite(each).all((0, 2))
    if pairwise:
        apart, items = np.ptp(each.sum(2), axis=0) / size, np.ones(each.shape[1])
    else:
        signs, places = np.sign(each), (each != 0).any(0)
        apart, items = ((signs.min(0) != signs.max(0)) & places).sum(1), places.sum(1)
    return np.where(broken, np.nan, apart), items


def best_of_n(proxy: np.ndarray, outcome: np.ndarray, n: int) -> float:
    """Expected ``outcome`` [prompts, N] of the best of n responses by ``proxy`` [prompts, N], over all subsets of n ≤ N (the
    unbiased estimator of Nakano et al. 2021, eq. 1, that Gao et al. 2023 use); equal proxies share their weight."""
    order = np.argsort(proxy, axis=1, kind="stable")
    total = proxy.shape[1]
    # of C(N, n) subsets, C(i, n−1) have the (i+1)-th smallest as their best: w_{N−1} = n / N, w_{i−1} = w_i · (i − n + 1) / i,
    # from the largest down, as the way up overflows for many responses
    weights = np.zeros(total)
    weights[-1] = n / total
    for i in range(total - 1, n - 1, -1):
        weights[i - 1] = weights[i] * (i - n + 1) / i
    ranked = np.take_along_axis(proxy, order, axis=1)
    results = np.take_along_axis(outcome, order, axis=1)
    means = []
    for given, own in zip(ranked, results, strict=True):
        _, group = np.unique(given, return_inverse=True)
        shared = np.bincount(group, own) / np.bincount(group)
        means.append(float(weights @ shared[group]))
    return float(np.mean(means))
