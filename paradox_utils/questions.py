"""The scores of single test questions, and intervals that count questions and trajectories. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from paradox_utils import statistics
from paradox_utils.statistics import Interval


def load(folder: Path | str, when: str = "final") -> pd.DataFrame:
    """The rows of a study's ``questions.csv`` at ``when`` (start, final or best), by run id; empty where there is none."""
    path = Path(folder) / "questions.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["good", "segments"])
    table = pd.read_csv(path, dtype={"id": str, "good": str, "segments": str})
    return table[table["when"] == when].drop_duplicates("id").set_index("id")[["good", "segments"]]


def scores(table: pd.DataFrame, runs: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Good segments and segments of every test question, [runs, questions]; all runs have the same questions."""
    good, segments = (np.array([table.loc[run, name].split() for run in runs], dtype=float) for name in ("good", "segments"))
    return good, segments


def interval(table: pd.DataFrame, runs: Sequence[str], clusters: Sequence[object], *, resamples: int, seed: int) -> Interval:
    """LM performance of some runs of a task (the pooled share of good segments of each, averaged), with an interval that
    resamples trajectories (``clusters``, one a run) and questions; NaN bounds for a single trajectory."""
    good, segments = scores(table, runs)
    return statistics.two_way_bootstrap(
        good / segments, clusters, weights=segments, resamples=resamples, seed=seed, bounds=(0.0, 1.0)
    )
