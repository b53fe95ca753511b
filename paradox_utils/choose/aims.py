"""What the back-test was to reach, beside what it reached, in the tables that it leaves."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from paradox_utils import files
from paradox_utils.analysis import tables
from paradox_utils.choose import gain
from paradox_utils.choose.decision import LEVEL, SPREAD, contains_best, standing
from paradox_utils.choose.gain import Array, Reading
from paradox_utils.choose.pools import ACCURATE, KNOWN, POOL, TOOL, answers
from paradox_utils.study.tables import BACKTEST, RECORDED

KEPT, MEASURED = f"{RECORDED}/choose-backtest", f"{RECORDED}/benchmarks.csv"
REGRET, TAIL = 0.025, 0.15  # in pools: mean, and 95th percentile
WORSE = 0.005  # than the most accurate, on average
LOST = 0.05  # in the families where the most accurate are worse teachers
HOLD = (0.75, 0.90)  # of the sets of 80 % contain the best
WORLDS, ABSTAIN = 200, 0.92  # made up, and what so many show, in all but one of forty cases, of a rate of 95 %
CHEAPER = 20.0  # PPO on every candidate, in costs of a choice
TEXT = ("id", "task", "policy", "arm", "route", "setting", "limit", "choice", "family", "measure", "of")

Tables = Mapping[str, pd.DataFrame]
Aim = tuple[str, float, float | None, float | None]  # what, found, and the bounds


def load(folder: str = KEPT) -> dict[str, pd.DataFrame]:
    """The tables of a recorded back-test by name; none where it is not recorded."""
    path = files.resolve(folder)
    if not (path / "regrets.csv").is_file():
        return {}
    return {name: tables.read_table(path / f"{name}.csv", text=TEXT) for name in BACKTEST}


def answered(made: Tables) -> pd.DataFrame:
    """What the tool would answer (:func:`~paradox_utils.choose.pools.answers`); empty where nothing is predicted."""
    rows = made["predictions"] if made else pd.DataFrame()
    return answers(rows) if {"gain", "final", "policy"} <= {*rows} else pd.DataFrame()


def aims(made: Tables) -> pd.DataFrame:
    """Each aim with what was ``found``, the ``target`` in words, and whether it is ``met``; without those of empty tables."""
    rows = []
    sets = *_of_own_sets(answered(made)), *_of_fitted_sets(made["judged"])
    tested = (_of_pools(made["regrets"]), _of_families(made["known"]), sets, _of_worlds(), _of_cost())
    for what, found, low, high in (aim for part in tested for aim in part):
        target = f"≤ {high:g}" if low is None else f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
        met = (low is None or found >= low) and (high is None or found <= high)
        said = "not measured yet" if math.isnan(found) else "met" if met else "missed"
        rows.append({"aim": what, "found": found, "target": target, "met": said})
    return pd.DataFrame(rows, columns=["aim", "found", "target", "met"])


def counted(aimed: pd.DataFrame) -> str:
    """How many aims are met."""
    open_ones = (aimed["met"] == "not measured yet").sum()
    unknown = f" ({open_ones} is not measured yet)" if open_ones else ""
    return f"{(aimed['met'] == 'met').sum()} of {len(aimed)} aims are met{unknown}."


def _of_pools(regrets: pd.DataFrame) -> Iterator[Aim]:
    if regrets.empty or "choice" not in regrets:
        return
    by = regrets.set_index("choice")
    yield f"mean regret in pools of {POOL}", by.loc[TOOL, "mean"], None, REGRET
    yield "its 95th percentile", by.loc[TOOL, "95 %"], None, TAIL
    yield f"mean regret above that of the {ACCURATE}", by.loc[ACCURATE, "tool less"], None, WORSE


def _of_families(known: pd.DataFrame) -> Iterator[Aim]:
    for _, row in known.iterrows() if "family" in known else ():
        if row["family"].startswith(KNOWN[0]):
            yield f"regret in {row['family']}", row[TOOL], None, LOST
        else:
            yield f"choices of one of the best two in {row['family']}", row["in two"], 1.0, None


def _of_own_sets(told: pd.DataFrame) -> Iterator[Aim]:
    if "all" in told.index:
        yield f"sets of 80 % that contain the best by PPO, deviation {SPREAD:g}", told.loc["all", "set_holds"], *HOLD


def _of_fitted_sets(judged: pd.DataFrame) -> Iterator[Aim]:
    for _, row in judged.iterrows() if "contains" in judged else ():
        prompts = f"{row['judged prompts']:.0f} judged prompts"
        yield f"the same, {prompts}, deviation fitted on the other tasks", row["contains_fitted"], *HOLD


def _of_worlds() -> Iterator[Aim]:
    what = f"choices between two equally good ones that abstain, in {WORLDS} made-up worlds (all that shows of 95 %)"
    yield what, _abstained(), ABSTAIN, None


@functools.cache  # the same for all tables
def _abstained() -> float:
    """The share of made-up worlds in which neither of two candidates is named alone whose trainings end equally well.

    Of 16 responses to each of 60 prompts their rewards follow the share of good segments, each with errors of its own, and each
    prediction deviates from where training ends as the tool allows.
    """
    rng, undecided = np.random.default_rng(0), 0
    for seed in range(WORLDS):
        size = np.full((60, 16), 5.0)
        good = rng.binomial(5, rng.beta(4, 2, (60, 1)), size.shape).astype(float)
        readings = [_deviating(good, size, rng) for _ in range(2)]
        known = standing(readings, good.mean(1), size.mean(1), resamples=1000, seed=seed, spread=SPREAD)
        undecided += len(contains_best(known.probability.tolist(), LEVEL)) > 1
    return undecided / WORLDS


def _deviating(good: Array, size: Array, rng: np.random.Generator) -> Reading:
    own = gain.read(good / size + 0.3 * rng.normal(size=size.shape), good, size, beta=0.3)
    return replace(own, good=own.good + SPREAD * rng.normal() * own.size)


def _of_cost() -> Iterator[Aim]:
    """By the recorded benchmark of a choice; NaN where there is none."""
    path, found = files.resolve(MEASURED), math.nan
    if path.is_file():
        rows = tables.read_table(path, ("part", "ratio", "target"), numbers=("ratio",))
        own = rows[(rows["part"] == "choose") & rows["ratio"].notna() & rows["target"].notna()]
        found = float(own["ratio"].iloc[0]) if len(own) else found
    yield "PPO on every candidate, in costs of a choice", found, CHEAPER, None
