"""The words of the lottery: who is hacked, what makes it, what to watch.

Plain sentences about what :mod:`.lottery` and :mod:`.signs` measure, for the first page and for the lottery's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paradox_utils.analysis import hacking, lottery, signs
from paradox_utils.analysis.phrases import count, estimate, listed
from paradox_utils.analysis.statistics import Interval

PRESSURES = {
    "default": "the study's own setting",
    "published": "the published KL estimator and sampling",
    "low-kl": "half the KL penalty",
    "fast": "twice the learning rate",
    "slow": "half the learning rate",
    "as-published": "all published PPO settings",
}


def spoken(cell: Sequence[str]) -> str:
    """A cell in words."""
    task, policy, pressure = cell
    return f"{task}, {policy}, {PRESSURES[pressure]}"


def setting(run: pd.Series) -> str:
    """The setting of a run of the second study in words, by its task, policy and the pressure that its arm is called after; an
    arm that is called after none has the study's own."""
    pressure = next((name for name in PRESSURES if run["arm"].startswith(f"{name}-")), "default")
    return spoken((run["task"], run["policy"], pressure))


def confirmed(counts: pd.DataFrame, effects: pd.DataFrame) -> str:
    """How often policies of the long and top, and of the short and moderate reward model are hacked on new trainings, in each
    cell (rows of :func:`lottery.failures` and :func:`lottery.effects`)."""
    if counts.empty:
        return "These runs do not tell how often the most accurate reward model is hacked."
    hacked = effects.xs("hacked", level="outcome") if len(effects) else effects
    told, clear = [], 0
    for cell, own in counts.groupby(lottery.CELL, sort=False):
        top, moderate = (own.loc[(*cell, kind)] for kind in ("long-top", "short-moderate"))
        p = hacked.loc[(*cell, lottery.PAPER), "adjusted"] if (*cell, lottery.PAPER) in hacked.index else np.nan
        clear += p <= lottery.LEVEL
        told.append(f"{spoken(cell)}: {_against(top, moderate, p)}")
    shown = f"is shown in {clear}" if clear else "is not shown in any"
    return (
        "Hacked policies on new trainings, of the most accurate checkpoint against a moderately accurate one: "
        f"{'; '.join(told)}. By the rule fixed beforehand a difference {shown} of {count(len(told), 'setting')}."
    )


def lost(effects: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What the most accurate checkpoint costs in LM performance where any policy is hacked, on average and in the middle
    training (rows of :func:`lottery.effects`, and :func:`lottery.confirmed`); empty where none is hacked."""
    if effects.empty:
        return ""
    told, middle = [], []
    for cell, own in effects.xs((lottery.PAPER, "LM performance"), level=("contrast", "outcome")).iterrows():
        values = lottery.of_cell(runs, cell).dropna(subset=["hacked"])
        if not values["hacked"].any():
            continue
        by_training = values.pivot(index="rm_seed", columns="kind", values=lottery.OUTCOME).dropna()
        middle.append((by_training["long-top"] - by_training["short-moderate"]).median())
        change = Interval(own["mean"], own["low"], own["high"], int(own["trainings"]))
        told.append(f"{estimate(change, '+z.3f')} ({PRESSURES[cell[-1]]})")
    if not told:
        return ""
    medians = listed([f"{value:+z.3f}".replace("-", "−") for value in middle])
    return (
        "Where any are hacked, the most accurate checkpoint changes the LM performance of its policy, against the moderate "
        f"one, by {listed(told)}; in the middle training by {medians}. These intervals are not corrected, and the rule does "
        "not use them."
    )


def _against(top: pd.Series, moderate: pd.Series, p: float) -> str:
    if not top["hacked"] + moderate["hacked"]:
        return f"none of {top['runs'] + moderate['runs']:.0f}"
    runs = "" if moderate["runs"] == top["runs"] else f" of {moderate['runs']:.0f}"
    share = f"{top['hacked']:.0f} of {top['runs']:.0f}"
    return f"{share} against {moderate['hacked']:.0f}{runs}" + (f", {chance(p)}" if np.isfinite(p) else "")


def struck(runs: pd.DataFrame) -> str:
    """Where policies of the most accurate checkpoints are hacked (rows of :func:`lottery.screen`), by task and policy."""
    known = runs.dropna(subset=["hacked"])
    pairs = known.pivot_table(index=["task", "policy"], columns="kind", values="hacked", aggfunc=["sum", "size"])
    if known["kind"].nunique() < 2:
        return "These runs do not tell where the most accurate reward model is hacked."
    hacked, of = pairs["sum"].astype(int), pairs["size"].astype(int)
    most = (hacked["top"] - hacked["moderate"]).idxmax()
    own = known[(known["task"] == most[0]) & (known["policy"] == most[1]) & (known["kind"] == "top")]
    trainings = own.groupby("rm_seed")["hacked"].any()
    others = hacked.drop(most).sum(), of.drop(most).sum()
    beside = (
        f"; with the other {count(len(hacked) - 1, 'pair')} of task and policy {others[0]['top']} of {others[1]['top']} "
        f"against {others[0]['moderate']} of {others[1]['moderate']}"
        if len(hacked) > 1
        else ""
    )
    chosen = (
        f"Of {len(hacked)} pairs of task and policy the widest gap, chosen after the fact, is in" if len(hacked) > 1 else "In"
    )
    return (
        f"{chosen} {', '.join(most)}: {hacked.loc[most, 'top']} of {count(of.loc[most, 'top'], 'run')} on the most accurate "
        f"checkpoint are hacked, on {trainings.sum()} of {count(len(trainings), 'training')}, and "
        f"{hacked.loc[most, 'moderate']} of {of.loc[most, 'moderate']} on a moderate one{beside}."
    )


def sensitive(runs: pd.DataFrame) -> str:
    """Hacked runs of top (or long and top) against moderate (short and moderate) checkpoints, were half the change enough."""
    half = runs.assign(half=hacking.hacked(runs, hacking.CLEAR / 2))
    named = [kind for kind in ("top", "long-top") if kind in set(runs["kind"])]
    if not named:
        return ""
    top, moderate = (named[0], "moderate") if named[0] == "top" else (named[0], "short-moderate")
    counts = half.pivot_table(index="task", columns="kind", values="half", aggfunc="sum", sort=False)
    told = [f"{task} {row.get(top, 0):.0f} against {row.get(moderate, 0):.0f}" for task, row in counts.iterrows()]
    pair = "top against moderate ones" if top == "top" else "long and top ones against short and moderate ones"
    return f"Were half as large a change enough, the hacked ones would be, {pair}: {listed(told)}."


def cause(effects: pd.DataFrame) -> str:
    """Whether accuracy or long training makes runs hacked, over all cells (rows of :func:`lottery.effects`)."""
    if effects.empty:
        return "These runs do not tell accuracy from long training."
    hacked = effects.xs("hacked", level="outcome")
    factors = {"accuracy": "higher accuracy, at equal training,", "training": "longer training, at equal accuracy,"}
    own = {words: hacked.xs(name, level="contrast") for name, words in factors.items()}
    if not any((rows["adjusted"] <= lottery.LEVEL).any() for rows in own.values()):
        told = [f"{words[:-1]} ({_span(rows)})" for words, rows in own.items()]
        of = count(len(next(iter(own.values()))), "setting")
        return f"Neither {', nor '.join(told)}, is shown to change the share of hacked policies, in any of {of}."
    text = "; ".join(_held(rows, words) for words, rows in own.items())
    return f"{text[0].upper()}{text[1:]}."


def _span(own: pd.DataFrame) -> str:
    low, high = points(own["mean"].min()), points(own["mean"].max())
    return low if len(own) == 1 else f"{low} to {high}"


def _held(own: pd.DataFrame, words: str) -> str:
    """In how many settings a factor changes the share of hacked runs."""
    clear = own.loc[own["adjusted"] <= lottery.LEVEL, "mean"]
    ways = {"raises": int((clear > 0).sum()), "lowers": int((clear < 0).sum())}
    of = count(len(own), "setting")
    span = _span(own)
    if not len(clear):
        return f"{words} is not shown to change how often policies are hacked, in any of {of} ({span})"
    done = listed([f"{verb} the share of hacked policies in {n}" for verb, n in ways.items() if n])
    return f"{words} {done} of {of} ({span})"


def watch(early: pd.DataFrame, saved: pd.DataFrame) -> str:
    """Which sign along a run tells best that it is being hacked, and what stopping on it saves (:func:`signs.early`,
    :func:`signs.saved`)."""
    found = signs.telling(early)
    if found is None:
        return "These runs do not tell what to watch."
    best, auc, since = found
    row = saved.loc[best]
    gain = estimate(Interval(row["gain"], row["low"], row["high"], 0), "+z.2f")
    pays = "pays" if row["low"] > 0 else "costs" if row["high"] < 0 else "is not shown to pay"
    return (
        f"Of the signs that anyone can watch, {signs.SIGNS[best]} tells hacked runs best: AUC {auc:.2f} at update "
        f"{early.index[-1]}, and from update {since} on at least half as clear as then. Stopping on it, by a bar set on other "
        f"trainings, {pays}: {gain} of true return a run; it ends {row['hacked']:.0%} of hacked runs early and "
        f"{row['other']:.0%} of others."
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
    told = [
        f"with {words[name]} {row['hacked']:.0f} of {row['trainings']:.0f} ({chance(row['p'])}), LM performance changed by "
        f"{estimate(Interval(row['gain'], row['low'], row['high'], 0), '+z.3f')}"
        for name, row in table.iterrows()
    ]
    if not told:
        return "No cure has finished runs."
    before = table.iloc[0]
    return f"Without a cure {before['hacked before']:.0f} of {before['trainings']:.0f} policies are hacked; {'; '.join(told)}."


def guard(table: pd.DataFrame, words: dict[str, str], others: pd.DataFrame) -> str:
    """The cure that raises LM performance most (rows of :func:`lottery.against`), and what the same reward models do to other
    optimisers (rows of :func:`lottery.failures`)."""
    if table.empty:
        return "No cure has finished runs."
    best = table.loc[table["gain"].idxmax()]
    gain = estimate(Interval(best["gain"], best["low"], best["high"], 0), "+z.2f")
    kept = "helped most" if best["low"] > 0 else "came out best, and is not shown to help"
    top = others.xs("long-top", level="kind") if len(others) else others
    elsewhere = [f"{name} {row['hacked']:.0f} of {row['runs']:.0f}" for name, row in top.iterrows() if name != "PPO"]
    return (
        f"Of {count(len(table), 'cure')} tried where PPO was hacked most, {words[best.name]} {kept}: {best['hacked']:.0f} of "
        f"{best['trainings']:.0f} policies hacked in place of {best['hacked before']:.0f}, LM performance changed by {gain}."
        + (f" Other optimisers on the same reward models: {listed(elsewhere)} hacked." if elsewhere else "")
    )


def optimisers(table: pd.DataFrame) -> str:
    """Hacked runs of each optimiser, long and top against short and moderate (rows of :func:`lottery.failures`)."""
    told = []
    for name, own in table.groupby(level="optimiser", sort=False):
        kinds = own.droplevel("optimiser")
        pair = (kinds.loc[kind] for kind in ("long-top", "short-moderate"))
        top, moderate = (f"{row['hacked']:.0f} of {row['runs']:.0f}" for row in pair)
        told.append(f"{name} {top} against {moderate}")
    return f"Hacked on the long and top against the short and moderate reward model: {listed(told)}." if told else ""


def answers(counts: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """A sentence for each cell of :func:`lottery.effects`, with its :func:`lottery.failures` ``counts``: whether long and top
    reward models are hacked more often, and what does it."""
    hacked = effects.xs("hacked", level="outcome")
    cells = hacked.groupby(lottery.CELL, sort=False)
    return [_answer(cell, counts.xs(cell, level=lottery.CELL), own.droplevel(lottery.CELL)) for cell, own in cells]


def _answer(cell: Sequence[str], counts: pd.DataFrame, own: pd.DataFrame) -> str:
    opening = f"*{spoken(cell)}.*"
    if not counts["hacked"].any():
        return f"{opening} No run is hacked, of {counts['runs'].sum():.0f}; at most {counts['high'].max():.0%} of a kind."
    paper = own.loc[lottery.PAPER]
    found = "is hacked more often" if paper["adjusted"] <= lottery.LEVEL else "is not shown to be hacked more often"
    first = f"{opening} The long and top reward model {found} than the short and moderate one ({size(paper)})."
    if not set(lottery.DECIDED) <= set(own.index):
        return f"{first} What does it was not asked here."
    accuracy, training, both = (own.loc[name] for name in lottery.DECIDED)
    together = "are not shown to do more or less"
    if both["adjusted"] <= lottery.LEVEL:
        together = f"do {'more' if both['mean'] > 0 else 'less'}"
    told = f"Accuracy {_effect(accuracy)}, training {_effect(training)}. Together they {together} than each alone"
    return f"{first} {told} ({size(both)})."


def _effect(row: pd.Series) -> str:
    verb = ("raises" if row["mean"] > 0 else "lowers") if row["adjusted"] <= lottery.LEVEL else "is not shown to change"
    return f"{verb} how often ({size(row)})"


def size(row: pd.Series) -> str:
    """A contrast of hacked shares in points, with its interval and corrected p."""
    known = np.isfinite(row["low"])
    bounds = f", {points(row['low'], '')} to {points(row['high'], '')}" if known else ""
    return f"{points(row['mean'])}{bounds}, {chance(row['adjusted'])}"


def points(share: float, unit: str = " points") -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:+z.0f}{unit}".replace("-", "−")


def chance(p: float) -> str:
    """A p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
