"""Which checkpoints of reward models policies are trained on, by accuracy on held-out feedback alone, before any policy is.

Four of each training for the second study of :mod:`.lottery`: short or long, moderate or top; five that lie evenly for the
regime; an early and a late one of equal accuracy for the T5. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from paradox_utils.analysis.lottery import KINDS

MATCHED = 0.01  # accuracies that count as equal
NEAR = 0.025  # how far a pair's mean accuracy may be from the one wanted


@dataclass(frozen=True)
class Design:
    """Of one task: the last step that is ``short`` and the first that is ``long``, and the accuracies wanted."""

    short: int
    long: int
    moderate: float
    top: float


# Set by trainings of other seeds (48 to 50), by their accuracies alone.
DESIGNS = {
    "relevance": Design(short=80, long=160, moderate=0.865, top=0.995),
    "completeness": Design(short=150, long=240, moderate=0.775, top=0.88),
}
# The arms whose trainings give each kind: at one rate, at a higher one, and with noisy labels or little data, whose accuracy
# stays moderate however long they train.
TRAININGS = {
    "short-moderate": ("models-base",),
    "short-top": ("models-fast",),
    "long-moderate": ("models-noisy", "models-few"),
    "long-top": ("models-base",),
}

CHOSEN = ["task", "rm_seed", "kind", "arm", "step", "accuracy"]


def chosen(models: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints of each task's trainings that :func:`matched` takes, by the arms of :data:`TRAININGS`: a row a kind
    (``task``, ``rm_seed``, ``kind``, ``arm``, ``step``, ``accuracy``); none of a training without a match.

    ``models``: a study's ``reward_models.csv``.
    """
    rows = []
    for (task, seed), own in models.groupby(["task", "rm_seed"], sort=False):
        design = DESIGNS[task]
        length = {"short": own["step"] <= design.short, "long": own["step"] >= design.long}
        options = {kind: own[own["arm"].isin(arms) & length[kind.split("-")[0]]] for kind, arms in TRAININGS.items()}
        steps = matched(options, {"moderate": design.moderate, "top": design.top})
        for kind, step in steps.items():
            (one,) = options[kind][options[kind]["step"] == step].itertuples()
            rows.append((task, int(seed), kind, one.arm, step, one.accuracy))
    return pd.DataFrame(rows, columns=CHOSEN)


def pairs(models: pd.DataFrame) -> pd.DataFrame:
    """The paper's own pair alone, where four do not match: of each training of the arm ``models-base`` the short checkpoint
    nearest to the accuracy wanted of a moderate one, within :data:`NEAR` (of equals the shorter), and its last checkpoint, if
    that lacks no more of the accuracy wanted of a top one; rows as of :func:`chosen`, none of a training without both."""
    rows = []
    base = models[models["arm"] == "models-base"]
    for (task, seed), own in base.sort_values("step").groupby(["task", "rm_seed"], sort=False):
        design, last = DESIGNS[task], own.iloc[-1]
        far = (own.loc[own["step"] <= design.short, "accuracy"] - design.moderate).abs().round(6)
        if far.empty or far.min() > NEAR or last["step"] < design.long or last["accuracy"] < design.top - NEAR:
            continue
        for kind, one in (("short-moderate", own.loc[far.idxmin()]), ("long-top", last)):
            rows.append((task, int(seed), kind, one["arm"], int(one["step"]), one["accuracy"]))
    return pd.DataFrame(rows, columns=CHOSEN)


def first(picked: pd.DataFrame, count: int) -> pd.DataFrame:
    """The rows of :func:`chosen` or :func:`pairs` of each task's first ``count`` trainings, by their seeds."""
    order = picked.groupby("task")["rm_seed"].rank(method="dense")
    return picked[order <= count]


def matched(checkpoints: Mapping[str, pd.DataFrame], targets: Mapping[str, float]) -> dict[str, int]:
    """The step of one training's checkpoint for each of :data:`KINDS`, by accuracy on held-out feedback alone; empty where none
    match.

    ``checkpoints``: of each kind those that may be it (``step``, ``accuracy``); ``targets``: the accuracy wanted of
    ``moderate`` and ``top``. Short and long have accuracies within :data:`MATCHED`, and their mean is within :data:`NEAR` of
    the target; of such pairs the nearest to it is taken, of equals the closer pair, then the shorter trainings.
    """
    chosen: dict[str, int] = {}
    for accuracy, target in targets.items():
        kinds = [f"{length}-{accuracy}" for length in ("short", "long")]
        pairs = itertools.product(*(checkpoints[kind][["step", "accuracy"]].itertuples(index=False) for kind in kinds))
        # place → (distance from the target, difference, steps); rounded, as 0.905 − 0.895 is no more than 0.01
        ranked = {
            pair: (
                round(abs((pair[0].accuracy + pair[1].accuracy) / 2 - target), 6),
                round(abs(pair[0].accuracy - pair[1].accuracy), 6),
                pair[0].step + pair[1].step,
            )
            for pair in pairs
        }
        close = [pair for pair, (far, apart, _) in ranked.items() if far <= NEAR and apart <= MATCHED]
        if not close:
            return {}
        best = min(close, key=ranked.__getitem__)
        chosen |= {kind: int(one.step) for kind, one in zip(kinds, best, strict=True)}
    return {kind: chosen[kind] for kind in KINDS}


PAPER = (0.5, 0.775)  # of the published reward models but few are less accurate, and none is more
RANKS = 5


def spaced(models: pd.DataFrame) -> pd.DataFrame:
    """Of each task's and seed's checkpoints of the arm ``models`` the :data:`RANKS` that lie most evenly between the least and
    the most accurate in :data:`PAPER` (``task``, ``rm_seed``, ``step``, ``accuracy``): those with the least sum of distances
    from even steps. Of accuracies that agree to 0.01 the earliest is taken; none of a training with fewer.

    ``models``: a study's ``reward_models.csv``.
    """
    rows = []
    own = models[(models["arm"] == "models") & models["accuracy"].between(*PAPER)]
    for (task, seed), training in own.sort_values("step").groupby(["task", "rm_seed"], sort=False):
        distinct = training.loc[~(training["accuracy"] / MATCHED).round().duplicated()].sort_values("accuracy")
        if len(distinct) < RANKS:
            continue
        even = np.linspace(distinct["accuracy"].iloc[0], distinct["accuracy"].iloc[-1], RANKS)
        sets = itertools.combinations(distinct[["step", "accuracy"]].itertuples(index=False), RANKS)
        best = min(sets, key=lambda some: round(sum(abs(one.accuracy - at) for one, at in zip(some, even, strict=True)), 6))
        rows += [{"task": task, "rm_seed": int(seed), "step": int(one.step), "accuracy": one.accuracy} for one in best]
    return pd.DataFrame(rows, columns=["task", "rm_seed", "step", "accuracy"])


PATIENCE, GAIN = 2, 0.005  # checkpoints without a gain in accuracy of more than so much, after which a training is stopped


def stopped_early(models: pd.DataFrame) -> pd.Series:
    """Of each training of the arm ``models-base`` the step at which early stopping keeps it: the first checkpoint that none of
    the next :data:`PATIENCE` beats by more than :data:`GAIN`, by the annotators' labels; by (task, rm_seed)."""

    def kept(own: pd.DataFrame) -> int:
        own = own.sort_values("step")
        found = own["accuracy_noisy"].to_numpy()
        still = [found[i + 1 : i + 1 + PATIENCE].max(initial=0.0) <= found[i] + GAIN for i in range(len(found))]
        return int(own["step"].iloc[still.index(True)])

    base = models[models["arm"] == "models-base"]
    return pd.Series({key: kept(own) for key, own in base.groupby(["task", "rm_seed"])}, dtype=int)


def smoothed(models: pd.DataFrame, picked: pd.DataFrame) -> pd.Series:
    """Of each training with smoothed labels (arm ``models-smoothed``) the first step within :data:`MATCHED` of the accuracy of
    the long and top model that :func:`chosen` ``picked``, else the last; by (task, rm_seed)."""
    wanted = picked[picked["kind"] == "long-top"].set_index(["task", "rm_seed"])["accuracy"]
    own = models[models["arm"] == "models-smoothed"].sort_values("step")
    steps = {}
    for key, accuracy in wanted.items():
        training = own[(own["task"] == key[0]) & (own["rm_seed"] == key[1])]
        near = training[(training["accuracy"] - accuracy).abs().round(6) <= MATCHED]
        if len(training):
            steps[key] = int(near["step"].iloc[0] if len(near) else training["step"].iloc[-1])
    return pd.Series(steps, dtype=int)


EARLY, MODERATE = 60, 0.7  # the last step that is early; the accuracy that a pair should be near


def early_and_late(models: pd.DataFrame) -> pd.DataFrame:
    """Of each training the checkpoints ``early`` (of the arm ``steps``, trained, up to step :data:`EARLY`) and ``late`` (of the
    arm ``late-models``) whose accuracies by people's labels are within :data:`MATCHED`: of such pairs that with its mean
    nearest to :data:`MODERATE`, of equals the closer one, then the earlier (``rm_seed``, ``kind``, ``setting``, ``step``,
    ``accuracy``); none of a training without.

    ``models``: a study's ``reward_models.csv``.
    """
    rows, columns = [], ["rm_seed", "kind", "setting", "step", "accuracy"]
    models = models.assign(accuracy=models["accuracy_noisy"]).dropna(subset=["arm"])
    for seed, own in models.groupby("rm_seed"):
        early = own[(own["arm"] == "steps") & own["step"].between(1, EARLY)]
        pairs = itertools.product(*(some.itertuples() for some in (early, own[own["arm"] == "late-models"])))
        ranked = [
            (round(abs((a.accuracy + b.accuracy) / 2 - MODERATE), 6), round(abs(a.accuracy - b.accuracy), 6), a.step, a, b)
            for a, b in pairs
        ]
        if close := [pair for pair in ranked if pair[1] <= MATCHED]:
            *_, a, b = min(close, key=lambda pair: pair[:3])
            rows += [(int(seed), kind, one.setting, int(one.step), one.accuracy) for kind, one in (("early", a), ("late", b))]
    return pd.DataFrame(rows, columns=columns)
