"""How well labels and scores agree with the truth. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15


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
    against_noisy = _known(noisy)
    measured = against_noisy if clean is None else _known(clean)
    truth = np.array([label for label in (noisy if clean is None else clean) if label is not None])
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


def _known(labels: Sequence[int | None]) -> np.ndarray:
    return np.array([label is not None for label in labels])


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
