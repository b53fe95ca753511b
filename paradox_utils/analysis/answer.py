"""The words of the first page: a study's answer, what it says of choosing a reward model, and how far it can be trusted.

Plain sentences for practitioners about what :mod:`paradox_utils.analysis.verdict` decides and the other analyses measure.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis import lottery, signs, statistics
from paradox_utils.analysis.comparison import ALL, families, unit_contrasts
from paradox_utils.analysis.outcomes import READINGS
from paradox_utils.analysis.phrases import count, estimate, listed
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.teachers import BEFORE
from paradox_utils.analysis.verdict import ALPHA, MARGIN, Verdict


def answer(decision: Verdict, runs: int) -> str:
    """Whether to train against the most accurate reward model, by a study's verdict; ``runs``: those that decide."""
    if decision.primary is None or decision.status == "undecided":
        return decision.headline
    regret, opening = decision.primary.of.regret, {"supported": "No", "not supported": "Yes"}[decision.status]
    trainings = f"{count(runs, 'PPO run')} on {count(regret.units, 'training')} of reward models"
    return (
        f"{opening}, on average over tasks. In {trainings}, choosing the most accurate checkpoint over a less accurate one "
        f"cost {estimate(regret)} of LM performance; {MARGIN} was fixed beforehand as what matters."
    )


def caveat(decision: Verdict) -> str:
    """What the answer does not cover: a rank of accuracy for each task, instead of one for all."""
    within = decision.primary.of.further.within if decision.primary else None
    if decision.primary is None or within is None or not np.isfinite(within.low):
        return "The answer is an average over tasks and policies."
    return (
        "The answer is an average over tasks and policies, for one rank of accuracy common to all tasks. With a rank of its "
        f"own for each task the cost is {estimate(within)}: {decision.primary.within}."
    )


def worth(runs: pd.DataFrame) -> str:
    """What the most accurate reward model of a training is worth beside the least accurate one, from the runs of one arm."""
    units = unit_contrasts(families(runs))
    if len(units) < 2:
        return "These runs do not tell what accuracy is worth."
    gain = statistics.mean_interval(-units.iloc[:, -1].to_numpy(dtype=float))
    return (
        "From the least to the most accurate checkpoint of a training, the LM performance that they teach changes by "
        f"{estimate(gain, '+z.3f')}, over {count(gain.units, 'training')}."
    )


def foreknown(correlations: pd.DataFrame) -> str:
    """Which measure of a reward model before PPO goes best with the gain (rows of :func:`teachers.correlations`)."""
    found = correlations[(correlations["task"] == "all") & correlations["measure"].isin(BEFORE)]
    found = found.dropna(subset=["low"]).set_index("measure")
    if found.empty:
        return "These runs do not tell what else can be known of a reward model before PPO."
    best = found["correlation"].abs().idxmax()
    said = (
        f"Of {count(len(found), 'measure')} known before PPO, {BEFORE[best]} goes best with what PPO gains: correlation "
        f"{_related(found.loc[best])}"
    )
    if "rm_accuracy" in found.index and best != "rm_accuracy":
        said += f"; {BEFORE['rm_accuracy']} has {_related(found.loc['rm_accuracy'])}"
    if best == "best_of_n":
        said += ". It takes judgements of the responses chosen, as accuracy takes labels"
    return f"{said}."


def struck(cells: pd.DataFrame) -> str:
    """How often policies of the most accurate checkpoints are hacked, and where most (rows of :func:`lottery.screened`)."""
    if cells.empty:
        return "These runs do not tell how often the most accurate reward model is hacked."
    runs, worst = int(cells["trainings"].sum()), cells["top"].idxmax()
    most = cells.loc[worst, ["top", "moderate", "trainings"]].astype(int)
    return (
        f"Of {count(runs, 'run')} on the most accurate checkpoint of a training {cells['top'].sum()} are hacked, of as many on "
        f"a moderate one {cells['moderate'].sum()}; most in the cell {', '.join(worst)}: {most['top']} of {most['trainings']} "
        f"against {most['moderate']}."
    )


def cause(effects: pd.DataFrame) -> str:
    """Whether accuracy or long training makes runs hacked, over all cells (rows of :func:`lottery.effects`)."""
    if effects.empty:
        return "These runs do not tell accuracy from long training."
    hacked = effects.xs("hacked", level="outcome")
    told = [_held(hacked.xs(name, level="contrast"), words) for name, words in LOTTERY.items()]
    cells = hacked.groupby(level=lottery.CELL).ngroups
    return f"In {count(cells, 'cell')} on new trainings, {'; '.join(told)}."


LOTTERY = {"accuracy": "higher accuracy, at equal training,", "training": "longer training, at equal accuracy,"}


def _held(own: pd.DataFrame, words: str) -> str:
    """In how many cells a contrast changes how often runs are hacked."""
    clear = own.loc[own["adjusted"] <= lottery.LEVEL, "mean"]
    ways = {"more": int((clear > 0).sum()), "less": int((clear < 0).sum())}
    where = (
        listed([f"{way} often in {n}" for way, n in ways.items() if n]) if len(clear) else "clearly more or less often in none"
    )
    span = f"{own['mean'].min():+.0%} to {own['mean'].max():+.0%}".replace("-", "−")
    return f"{words} lets runs be hacked {where} ({span} of runs)"


def watch(early: pd.DataFrame, saved: pd.DataFrame) -> str:
    """Which sign along a run tells best that it is being hacked, and what stopping on it saves (:func:`signs.early`,
    :func:`signs.saved`)."""
    last = early.ffill().iloc[-1].dropna() if len(early) else pd.Series(dtype=float)
    if last.empty:
        return "These runs do not tell what to watch."
    best = (last - 0.5).abs().idxmax()
    clear = (early[best] - 0.5).abs() >= abs(last[best] - 0.5) / 2
    row = saved.loc[best]
    gain = estimate(Interval(row["gain"], row["low"], row["high"], 0), "+z.2f")
    return (
        f"Of {count(len(last), 'sign')} that need no truth, {signs.SIGNS[best]} tells hacked runs best: AUC {last[best]:.2f} "
        f"at the end, half as clear from update {clear.idxmax()} on. A stop rule on it, set on other trainings, ends "
        f"{row['hacked']:.0%} of hacked runs early and {row['other']:.0%} of the others; it changes the true return by {gain}."
    )


def regime(regrets: pd.DataFrame, accuracies: pd.Series) -> str:
    """Whether the most accurate reward model loses where none is very accurate (rows of :func:`regime.regrets`);
    ``accuracies``: those of the reward models."""
    said = [f"{estimate(Interval(row['regret'], row['low'], row['high'], 0))} *{name}*" for name, row in regrets.iterrows()]
    bounds = {"p below": f"below {MARGIN}", "p margin": f"above {MARGIN}", "p zero": "above 0"}
    shown = [words for name, words in bounds.items() if (regrets[name] <= ALPHA).all()]
    units = count(int(regrets["trajectories"].max()), "trajectory", "trajectories")
    return (
        f"With reward models of accuracy {accuracies.min():.2f} to {accuracies.max():.2f}, choosing the most accurate costs "
        f"{listed(said)}, over {units}. By both readings it is "
        + (f"{listed(shown)}." if shown else f"shown neither above 0 nor below {MARGIN}.")
    )


def sides(contrasts: pd.DataFrame) -> str:
    """What accuracy and errors on one side do to LM performance (rows of :func:`regime.crossed`)."""
    own = contrasts.xs(ALL, level="task").xs(READINGS["as measured"], level="outcome")
    rows = {name: estimate(Interval(row["mean"], row["low"], row["high"], 0), "+z.3f") for name, row in own.iterrows()}
    clear = [name for name in own.index if own.loc[name, "adjusted"] <= lottery.LEVEL]
    return (
        f"Of dials, 0.1 more accuracy changes LM performance by {rows['accuracy']}; errors on good segments alone, against "
        f"both sides, by {rows['good called errors']}; errors on bad ones alone by {rows['errors called good']}. "
        f"Clear after correction: {listed(clear) if clear else 'none'}."
    )


def longer(runs: pd.DataFrame) -> str:
    """What four times the updates change (rows of :func:`regime.later`)."""
    if runs.empty:
        return "These runs do not tell what sets in later."
    told = []
    for kind, own in runs.groupby(level="kind", sort=False):
        usual, later = (np.average(own[name], weights=own["runs"]) for name in ("usual", "longer"))
        struck = f"{own['hacked_usual'].sum():.0f} and {own['hacked_longer'].sum():.0f} of {own['runs'].sum()} are hacked"
        told.append(f"with the {kind} checkpoint LM performance goes from {usual:.2f} to {later:.2f}, and {struck}")
    return f"With four times the updates: {'; '.join(told)}."


def _related(row: pd.Series) -> str:
    return estimate(Interval(row["correlation"], row["low"], row["high"], 0), "+z.2f")
