"""The words of the paper's regime: what accuracy costs where none is high, what the side of errors does, what sets in later.

Plain sentences about what :mod:`.regime` measures, for the first page and for its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis import lottery, statistics
from paradox_utils.analysis.comparison import ALL
from paradox_utils.analysis.outcomes import READINGS, measured
from paradox_utils.analysis.phrases import count, estimate, listed
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.verdict import ALPHA, MARGIN


def regime(regrets: pd.DataFrame, accuracies: pd.Series) -> str:
    """Whether the most accurate reward model loses where none is very accurate (rows of :func:`regime.regrets`);
    ``accuracies``: those of the reward models."""
    lacking = next((text for text in regrets["lacking"] if text), "")
    if lacking:
        return f"Undecided: this takes {lacking}."
    said = [f"{estimate(Interval(row['regret'], row['low'], row['high'], 0))} *{name}*" for name, row in regrets.iterrows()]
    bounds = {"p below": f"below {MARGIN}", "p margin": f"above {MARGIN}", "p zero": "above 0"}
    passed = {words: regrets.index[regrets[name] <= ALPHA] for name, words in bounds.items()}
    both = [words for words, readings in passed.items() if len(readings) == len(regrets)]
    single = [f"{words} *{readings[0]}* alone" for words, readings in passed.items() if 0 < len(readings) < len(regrets)]
    units = count(int(regrets["trajectories"].max()), "trajectory", "trajectories")
    shown = "By both readings it is " + (listed(both) if both else f"undecided: it may be 0, or more than {MARGIN}")
    return (
        f"With reward models of accuracy {accuracies.min():.2f} to {accuracies.max():.2f}, choosing the most accurate costs "
        f"{listed(said)}, over {units}. {shown}" + (f"; {listed(single)}." if single else ".")
    )


def apart(steps: pd.DataFrame) -> str:
    """How accuracy and LM performance go together in each task alone, over all its reward models; intervals resample
    trajectories. It decides nothing."""
    told = []
    for task, own in steps[measured(steps)].groupby("task", sort=False):
        found = statistics.spearman(own["rm_accuracy"], own[READINGS["as measured"]], own["rm_seed"], resamples=1000, seed=0)
        told.append(f"{estimate(found, '+z.2f')} in {task}")
    if not told:
        return ""
    return "Task by task, which decides nothing, Spearman's correlation of accuracy and LM performance is " + listed(told) + "."


def sides(contrasts: pd.DataFrame) -> str:
    """What accuracy and errors on one side do to LM performance (rows of :func:`regime.crossed`)."""
    own = contrasts.xs(ALL, level="task").xs(READINGS["as measured"], level="outcome")
    rows = {name: estimate(Interval(row["mean"], row["low"], row["high"], 0), "+z.3f") for name, row in own.iterrows()}
    spelt = {"accuracy": "accuracy", "accuracy, one-sided": "accuracy where errors lie on one side"}
    clear = [spelt.get(name, f"the side ({name})") for name in own.index if own.loc[name, "adjusted"] <= lottery.LEVEL]
    return (
        f"Of dials, 0.1 more accuracy changes LM performance by {rows['accuracy']}; errors mostly on good segments, against "
        f"both sides, by {rows['good called errors']}; mostly on bad ones by {rows['errors called good']}. "
        f"Clear after correction: {listed(clear) if clear else 'none'}."
    )


def longer(runs: pd.DataFrame) -> str:
    """What four times the updates change (rows of :func:`regime.later`)."""
    if runs.empty:
        return "What sets in with four times the updates waits for its runs."
    told = []
    for kind, own in runs.groupby(level="kind", sort=False):
        usual, later = (np.average(own[name], weights=own["runs"]) for name in ("usual", "longer"))
        struck = f"{own['hacked_usual'].sum():.0f} and {own['hacked_longer'].sum():.0f} of {own['runs'].sum()} are hacked"
        told.append(f"with the {kind} checkpoint LM performance goes from {usual:.2f} to {later:.2f}, and {struck}")
    return f"With four times the updates: {'; '.join(told)}."
