"""The words of the paper's regime: what accuracy costs where none is high, what the side of errors does, what sets in later.

Plain sentences about what :mod:`.regime` measures, for the first page and for its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis import lottery, statistics
from paradox_utils.analysis.comparison import ALL
from paradox_utils.analysis.outcomes import READINGS, measured
from paradox_utils.analysis.phrases import count, digits, estimate, listed
from paradox_utils.analysis.regime import PRIMARY
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.verdict import ALPHA, MARGIN


def regime(regrets: pd.DataFrame, accuracies: pd.Series) -> str:
    """Whether the most accurate reward model loses where none is very accurate (rows of :func:`regime.regrets`);
    ``accuracies``: those of the reward models."""
    lacking = next((text for text in regrets["lacking"] if text), "")
    if lacking:
        return f"Undecided: this takes {lacking}."
    units = count(int(regrets["trajectories"].max()), "trajectory", "trajectories")
    among = f"With reward models of accuracy {accuracies.min():.2f} to {accuracies.max():.2f}, over {units},"
    if (regrets["high"] <= 0).all():
        cost = (
            f"{among} no rank of accuracy common to all tasks is better than the most accurate, neither by LM performance as "
            "measured nor with short answers not favoured."
        )
    else:
        rows = regrets.iterrows()
        said = [f"{estimate(Interval(row['regret'], row['low'], row['high'], 0))} {name}" for name, row in rows]
        cost = f"{among} choosing the most accurate costs {listed(said)}."
    return f"{cost} {_bounded(regrets)}"


def _bounded(regrets: pd.DataFrame) -> str:
    """Which of the rule's bounds are shown, by both readings or by one."""
    bounds = {"p below": f"below {MARGIN}", "p margin": f"above {MARGIN}", "p zero": "above 0"}
    passed = {words: regrets.index[regrets[name] <= ALPHA] for name, words in bounds.items()}
    both = [words for words, readings in passed.items() if len(readings) == len(regrets)]
    single = [f"{words} {readings[0]} alone" for words, readings in passed.items() if 0 < len(readings) < len(regrets)]
    if both:
        return f"By both readings the cost is {listed(both)}" + (f"; it is {listed(single)}." if single else ".")
    if single:
        return f"By both readings together nothing is shown; the cost is {listed(single)}."
    return f"By both readings it is undecided: the cost may be 0, or more than {MARGIN}."


def kept(chosen: Interval) -> str:
    """What choosing by the trained policies' validation score gains (``Further.chosen`` of a comparison)."""
    return (
        "Training a policy with each reward model of a trajectory, and keeping the one that does best on validation questions, "
        f"gains {estimate(chosen)} on the most accurate one's."
    )


def powered(known: pd.DataFrame, noise: float) -> str:
    """What such a study would see; ``known``: rows of :func:`regime.rates` in worlds named ``the published gap`` and ``twice
    the margin``, with their ``regret``; ``noise`` of a unit."""
    if not np.isfinite(noise):
        return "These runs do not tell what a study like this would see."
    gap, large = known.loc["the published gap"], known.loc["twice the margin"]
    return (
        f"Of simulated studies like this one in which the most accurate is worse by the published gap ({gap['regret']:.3f}), "
        f"{gap['above 0']:.0%} show a cost above 0; of those in which it is worse by {large['regret']:.2f}, "
        f"{large['above 0']:.0%}."
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


def informed(models: pd.DataFrame) -> str:
    """In which tasks accuracy hides how little reward models tell (rows of :func:`regime.informative`): those where more than a
    tenth of them are no more accurate than a constant answer."""
    told = [
        f"In {task}, {row['constant']:.0f} of {count(int(row['models']), 'reward model')} are no more accurate than one that "
        f"always gives the more frequent answer ({row['accuracy']:.2f}), so accuracy does not order them by what they tell: "
        f"with balanced accuracy the correlation is {estimate(Interval(row['balanced'], row['low'], row['high'], 0), '+z.2f')}."
        for task, row in models.iterrows()
        if row["constant"] > row["models"] / 10
    ]
    return " ".join(told)


def struck(counts: pd.DataFrame) -> str:
    """Where policies are hacked (rows of :func:`regime.struck`)."""
    ranks = [name for name in counts if name != "runs"]
    told = [
        f"{row[ranks].sum()} of {row['runs']} in {task}"
        + (f" (from the most to the least accurate {listed([str(n) for n in row[ranks]])})" if row[ranks].any() else "")
        for task, row in counts.iterrows()
    ]
    return f"Hacked are {'; '.join(told)}." if told else ""


def below(steps: pd.DataFrame) -> str:
    """How many policies PPO left worse than they were, over all and with the most accurate reward models."""
    known = steps[measured(steps)].dropna(subset=["lm_performance_start", "rm_accuracy"])
    if known.empty:
        return ""
    worse = known[READINGS["as measured"]] < known["lm_performance_start"]
    top = known.groupby(["task", "policy", "rm_seed"])["rm_accuracy"].idxmax()
    return (
        f"{worse.sum()} of {len(known)} policies end below where they started, {worse[top].sum()} of {len(top)} with the most "
        "accurate reward model of their training."
    )


CONTRASTS = {
    "accuracy": "0.1 more accuracy",
    "good called errors": "errors mostly on good segments, against both sides",
    "errors called good": "errors mostly on bad segments, against both sides",
    "accuracy, one-sided": "0.1 more accuracy where errors lie on one side, beyond what it does where they lie on both",
}
TOLD = {**{READINGS[name]: f"LM performance {name}" for name in PRIMARY}, "hacked": "the share of hacked policies"}


def sides(contrasts: pd.DataFrame) -> str:
    """What accuracy and errors on one side do (rows of :func:`regime.crossed`), in each outcome where it is clear."""
    if contrasts.empty:
        return "The crossed dials wait for their runs."
    together, clear, rest = contrasts.xs(ALL, level="task"), [], []
    for name, words in CONTRASTS.items():
        own = together.xs(name, level="contrast")
        shown = own[own["adjusted"] <= lottery.LEVEL]
        changes = [f"{TOLD[outcome]} {_change(row)}" for outcome, row in shown.iterrows()]
        if changes:
            clear.append(f"- {words[0].upper()}{words[1:]}: {listed(changes)}.")
        else:
            rest.append(words)
    unclear = [f"- Not shown to change anything: {'; '.join(rest)}."] if rest else []
    return "\n".join(["What dials change, all tasks together:\n", *clear, *unclear])


def sides_brief(contrasts: pd.DataFrame) -> str:
    """:func:`sides` in a sentence: what changes LM performance, where it is clear."""
    if contrasts.empty:
        return sides(contrasts)
    own = contrasts.xs(ALL, level="task").xs(READINGS["as measured"], level="outcome")
    clear = own[own["adjusted"] <= lottery.LEVEL]["mean"]
    told = [f"{words} {digits(clear[name])}" for name, words in CONTRASTS.items() if name in clear.index]
    return f"What dials change in LM performance: {'; '.join(told or ['nothing is shown'])}."


def sides_apart(contrasts: pd.DataFrame) -> str:
    """What the side of errors does to LM performance in each task alone (rows of :func:`regime.crossed`)."""
    if contrasts.empty:
        return ""
    own = contrasts.xs(READINGS["as measured"], level="outcome").drop(ALL, level="task")["mean"].unstack("contrast", sort=False)
    told = [
        f"{digits(row['good called errors'])} and {digits(row['errors called good'])} in {task}" for task, row in own.iterrows()
    ]
    return (
        "Task by task, errors mostly on good segments and errors mostly on bad ones change LM performance, against both sides, "
        f"by {listed(told)}."
    )


def _change(row: pd.Series) -> str:
    known = np.isfinite(row["low"])
    return estimate(Interval(row["mean"], row["low"], row["high"], 0), "+z.3f") if known else digits(row["mean"])


def longer(runs: pd.DataFrame) -> str:
    """What four times the updates change (rows of :func:`regime.later`)."""
    if runs.empty:
        return "What sets in with four times the updates waits for its runs."
    told = []
    for kind, own in runs.groupby(level="kind", sort=False):
        usual, later = (np.average(own[name], weights=own["runs"]) for name in ("usual", "longer"))
        struck = f"{own['hacked_usual'].sum():.0f}, then {own['hacked_longer'].sum():.0f} of {own['runs'].sum()} are hacked"
        called = {"top": "most accurate", "moderate": "moderate"}[kind]
        told.append(f"with the {called} checkpoint LM performance ends at {later:.2f} in place of {usual:.2f}, and {struck}")
    return f"With four times the updates: {'; '.join(told)}."
