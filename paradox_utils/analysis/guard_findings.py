"""The words of what guards against a hacked run: what to watch, what foretells one, which cures help.

Plain sentences about what :mod:`.signs` and :mod:`.lottery` measure, for the first page and for the lottery's own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis import signs
from paradox_utils.analysis.findings import chance
from paradox_utils.analysis.matching import MATCHED
from paradox_utils.analysis.phrases import count, digits, estimate, listed
from paradox_utils.analysis.statistics import Interval

STOPPED = "stopped-early"  # the cure that takes another checkpoint of the same training


def watch(early: pd.DataFrame, saved: pd.DataFrame) -> str:
    """What to watch along a run, by which signs tell best that it is being hacked, and what stopping on the earliest saves
    (:func:`signs.early`, :func:`signs.saved`)."""
    found = signs.telling(early)
    if found is None:
        return "These runs do not tell what to watch."
    row = saved.loc[found.first]
    whole = estimate(Interval(row["gain"], row["low"], row["high"], 0), "+z.2f")
    pays = "pays" if row["low"] > 0 else "costs" if row["high"] < 0 else "is not shown to pay"
    hacked, other = (digits(row[name], "+z.2f") for name in ("on hacked", "on other"))
    first, last = signs.SIGNS[found.first], listed([signs.SIGNS[sign] for sign in found.alike])
    return (
        f"Watch {first} along PPO: at update {found.quarter} it tells hacked runs from others best (AUC {found.early:.2f}; 0.5 "
        f"tells nothing). At the last, {early.index[-1]}, {last} {'do' if len(found.alike) > 1 else 'does'} "
        f"({found.at_end:.2f}). A stop on {first}, by a bar set on other trainings, ends {row['hacked']:.0%} of hacked runs "
        f"and {row['other']:.0%} of others early: that changes the true return of a hacked run by {hacked} good segments and "
        f"of another by {other}, and on the whole {pays}: {whole} a run."
    )


def foretold(before: pd.DataFrame) -> str:
    """Whether a measure before PPO tells which reward models let their policy be hacked (rows of :func:`signs.before`)."""
    if before.empty:
        return "In the first half of trainings all policies end alike, so no measure can be chosen."
    name, row = str(before.index[0]), before.iloc[0]
    other = (
        f"AUC {row['second']:.2f}, {chance(row['p'])}" if np.isfinite(row["second"]) else "nothing to tell, as all end alike"
    )
    return (
        f"In the first half of trainings {signs.BEFORE[name]} tells the hacked ones best (AUC {row['first']:.2f}). "
        f"On the other half: {other}."
    )


def cures(table: pd.DataFrame, words: dict[str, str]) -> str:
    """What each cure does to hacked runs and to LM performance (rows of :func:`lottery.against`)."""
    if table.empty:
        return "No cure has finished runs."
    told = [
        f"With {words[name]} {row['hacked']:.0f} of {row['trainings']:.0f} ({chance(row['p'])}), at an accuracy of "
        f"{row['accuracy']:.3f}; LM performance changed by "
        f"{estimate(Interval(row['gain'], row['low'], row['high'], 0), '+z.3f')}: {signed(row['where hacked'])} where the "
        f"policy was hacked without the cure, {signed(row['elsewhere'])} elsewhere."
        for name, row in table.iterrows()
    ]
    before = table.iloc[0]
    opening = (
        f"Without a cure {before['hacked before']:.0f} of {before['trainings']:.0f} policies are hacked, at an accuracy of "
        f"{before['accuracy before']:.3f} of their reward models."
    )
    told.append("Some of either change is chance, as what was hacked once need not be again.")
    if STOPPED in table.index:
        row = table.loc[STOPPED]
        if row["accuracy"] < row["accuracy before"] - MATCHED:
            claim = ": that it does better is the paper's own claim, in this setting" if row["low"] > 0 else ""
            told.append(f"Early stopping is a less accurate checkpoint of the same training{claim}.")
    return " ".join([opening, *told])


def guard(table: pd.DataFrame, words: dict[str, str], others: pd.DataFrame) -> str:
    """The cure that raises LM performance most (rows of :func:`lottery.against`), and what the same reward models do to other
    optimisers (rows of :func:`lottery.failures`)."""
    if table.empty:
        return "No cure has finished runs."
    best = table.loc[table["gain"].idxmax()]
    gain = estimate(Interval(best["gain"], best["low"], best["high"], 0), "+z.2f")
    kept = "helped most" if best["low"] > 0 else "came out best, and is not shown to help"
    picked = " (picked after the fact)" if len(table) > 1 else ""
    top = others.xs("long-top", level="kind") if len(others) else others
    elsewhere = [f"{name} {row['hacked']:.0f} of {row['runs']:.0f}" for name, row in top.iterrows() if name != "PPO"]
    return (
        f"Of {count(len(table), 'cure')} tried where PPO was hacked most, {words[best.name]} {kept}{picked}: "
        f"{best['hacked']:.0f} of {best['trainings']:.0f} policies hacked in place of {best['hacked before']:.0f}, LM "
        f"performance changed by {gain}."
        + (f" Other optimisers on the same reward models: {listed(elsewhere)} hacked." if elsewhere else "")
    )


def signed(value: float) -> str:
    """A difference of LM performance; a dash where it is not known."""
    return digits(value) if np.isfinite(value) else "–"
