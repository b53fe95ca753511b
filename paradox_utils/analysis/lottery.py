"""Whether the most accurate reward model fails more often, and whether accuracy or long training does it. Imports no torch.

A *cell* is a task, a policy and a pressure. A first study, the screen, looks where top checkpoints are hacked and names cells;
a second one, on new trainings, confirms. There every training has four reward models, *short* or *long* in training and
*moderate* or *top* in accuracy, so that the two can be told apart. What is hacked stands in :mod:`.hacking`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from paradox_utils.analysis import hacking, statistics
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.tables import READINGS, usable

OUTCOME = READINGS["as measured"]
CELL = ["task", "policy", "pressure"]
PRESSURES = ("default", "published", "low-kl", "fast", "slow")

# --- the screen -----------------------------------------------------------------------------------------------------------

LEAST = 2  # hacked runs by which top checkpoints must exceed moderate ones for a cell to be named
MOST_CELLS = 3


def screened(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of the screen, whose arms are called by its pressures: hacked runs of the ``top`` checkpoints (each
    task's last) and of the ``moderate`` ones (its first), of so many ``trainings`` in which neither run is unknown; the
    ``difference`` of the two; and how much better the moderate ones' LM performance is, on average (``gap``)."""
    runs = hacking.ends(summary[usable(summary)], curves).rename(columns={"arm": "pressure"})
    ends = runs.groupby("task")["rm_step"]
    ends = runs.assign(kind=np.where(runs["rm_step"] == ends.transform("max"), "top", "moderate")).dropna(subset=["hacked"])
    table = ends.pivot_table(index=[*CELL, "rm_seed"], columns="kind", values=["hacked", OUTCOME], aggfunc="mean").dropna()
    by_cell = table["hacked"].groupby(CELL, sort=False)
    found = by_cell.sum().astype(int)[["top", "moderate"]].assign(trainings=by_cell.size())
    found["difference"] = found["top"] - found["moderate"]
    return found.assign(gap=(table[OUTCOME]["moderate"] - table[OUTCOME]["top"]).groupby(CELL).mean())


def named(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The cells of :func:`screened` that the second study takes: from the highest ``difference`` down (of equals the larger
    ``gap``), those of at least :data:`LEAST`, at most :data:`MOST_CELLS` and one a task and policy; if none, the highest."""
    ranked = cells.sort_values(["difference", "gap"], ascending=False, kind="stable")
    once = ranked[~ranked.index.droplevel("pressure").duplicated()]
    chosen = once[once["difference"] >= LEAST].head(MOST_CELLS)
    return list(chosen.index) or list(once.head(1).index)


def control(cells: pd.DataFrame) -> tuple[str, str, str] | None:
    """The cell at the default pressure, of the first task and policy of which none is :func:`named`, and whose top checkpoints
    had the fewest hacked runs over all pressures; None if every one has a named cell."""
    taken = {cell[:2] for cell in named(cells)}
    free = cells[[pair not in taken for pair in cells.index.droplevel("pressure")]]
    if free.empty:
        return None
    return (*free.groupby(CELL[:2], sort=False)["top"].sum().idxmin(), "default")


# --- four reward models a training ------------------------------------------------------------------------------------------

MATCHED = 0.01  # accuracies that count as equal
KINDS = ("short-moderate", "short-top", "long-moderate", "long-top")


@dataclass(frozen=True)
class Design:
    """Of one task: the last step that is ``short`` and the first that is ``long``, and the accuracies wanted."""

    short: int
    long: int
    moderate: float
    top: float


# Set by trainings of other seeds (48 to 50), by their accuracies alone.
DESIGNS = {"relevance": Design(short=80, long=160, moderate=0.865, top=0.995)}
# The arms whose trainings give each kind: at the usual rate, at a higher one, and with noisy labels or little data, whose
# accuracy stays moderate however long they train.
TRAININGS = {
    "short-moderate": ("models-base",),
    "short-top": ("models-fast",),
    "long-moderate": ("models-noisy", "models-few"),
    "long-top": ("models-base",),
}


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
            rows.append(
                {"task": task, "rm_seed": int(seed), "kind": kind, "arm": one.arm, "step": step, "accuracy": one.accuracy}
            )
    return pd.DataFrame(rows, columns=["task", "rm_seed", "kind", "arm", "step", "accuracy"])


def matched(checkpoints: Mapping[str, pd.DataFrame], targets: Mapping[str, float]) -> dict[str, int]:
    """The step of one training's checkpoint for each of :data:`KINDS`, by accuracy on held-out feedback alone; empty where none
    match.

    ``checkpoints``: of each kind those that may be it (``step``, ``accuracy``); ``targets``: the accuracy wanted of
    ``moderate`` and ``top``. Short and long have accuracies within :data:`MATCHED`; of such pairs that whose mean is nearest
    the target is taken, of equals the closer pair, then the shorter trainings.
    """
    chosen: dict[str, int] = {}
    for accuracy, target in targets.items():
        kinds = [f"{length}-{accuracy}" for length in ("short", "long")]
        pairs = itertools.product(*(checkpoints[kind][["step", "accuracy"]].itertuples(index=False) for kind in kinds))
        # rounded: 0.905 − 0.895 is no more than 0.01
        close = [pair for pair in pairs if round(abs(pair[0].accuracy - pair[1].accuracy), 6) <= MATCHED]
        if not close:
            return {}
        best = min(
            close,
            key=lambda pair: (
                round(abs((pair[0].accuracy + pair[1].accuracy) / 2 - target), 6),
                round(abs(pair[0].accuracy - pair[1].accuracy), 6),
                pair[0].step + pair[1].step,
            ),
        )
        chosen |= {kind: int(one.step) for kind, one in zip(kinds, best, strict=True)}
    return {kind: chosen[kind] for kind in KINDS}


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


# --- what the second study says -----------------------------------------------------------------------------------------------

LEVEL = 0.05
# A contrast's weight of each kind. The first is the paper's design: checkpoints of one training, in which the two go together.
CONTRASTS: dict[str, dict[str, float]] = {
    "long and top − short and moderate": {"long-top": 1, "short-moderate": -1},
    "accuracy": {"short-top": 0.5, "short-moderate": -0.5, "long-top": 0.5, "long-moderate": -0.5},
    "training": {"long-moderate": 0.5, "short-moderate": -0.5, "long-top": 0.5, "short-top": -0.5},
    "both together": {"long-top": 1, "long-moderate": -1, "short-top": -1, "short-moderate": 1},
}
PAPER = next(iter(CONTRASTS))
DECIDED = ("accuracy", "training")


def confirmed(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The runs of the second study whose arm is called ``PRESSURE-KIND``, with their ``pressure`` and ``kind``, and whether
    each is ``hacked``."""
    runs = summary[usable(summary)].copy()
    parts = runs["arm"].str.extract(rf"^(?P<pressure>.+)-(?P<kind>{'|'.join(KINDS)})$")
    runs = runs.assign(**parts).dropna(subset=["kind"])
    return hacking.ends(runs, curves)


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every cell and kind of :func:`confirmed`: ``hacked`` of so many ``runs``, the share with Wilson's 95 % interval
    (Wilson 1927), and the mean ``accuracy`` and LM ``performance``."""
    rows = []
    for (*cell, kind), own in runs.dropna(subset=["hacked"]).groupby([*CELL, "kind"], sort=False):
        hacked = int(own["hacked"].sum())
        bounds = stats.binomtest(hacked, len(own)).proportion_ci(method="wilson")
        means = {"accuracy": own["rm_accuracy"].mean(), "performance": own[OUTCOME].mean()}
        counts = {"hacked": hacked, "runs": len(own), "share": hacked / len(own), "low": bounds.low, "high": bounds.high}
        rows.append(dict(zip([*CELL, "kind"], [*cell, kind], strict=True)) | counts | means)
    return pd.DataFrame(rows).set_index([*CELL, "kind"])


def effects(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every cell, each of :data:`CONTRASTS` within trainings that have all four runs: the mean over ``trainings`` for hacked
    runs (a difference of shares) and for LM performance, with Student's 95 % intervals.

    ``p`` of hacked runs is exact, by flipping the signs of trainings (:func:`sign_flip`): one-sided for the paper's design,
    where it is McNemar's exact test, two-sided for the others; that of LM performance is Student's, two-sided. ``adjusted`` is
    by Holm over cells, of hacked runs alone.
    """
    rows = []
    for cell, own in runs.dropna(subset=["hacked"]).groupby(CELL, sort=False):
        for outcome, column in (("hacked", "hacked"), ("LM performance", OUTCOME)):
            values = own.pivot(index="rm_seed", columns="kind", values=column).reindex(columns=KINDS).astype(float).dropna()
            for name, weights in CONTRASTS.items():
                contrast = sum(values[kind] * weight for kind, weight in weights.items())
                interval, p = _tested(contrast, name, outcome)
                row = {"contrast": name, "outcome": outcome, "mean": interval.estimate, "low": interval.low}
                rows.append(
                    dict(zip(CELL, cell, strict=True)) | row | {"high": interval.high, "p": p, "trainings": len(values)}
                )
    table = pd.DataFrame(rows)
    for _, own in table[table["outcome"] == "hacked"].groupby("contrast"):
        table.loc[own.index, "adjusted"] = statistics.holm(own["p"].tolist())
    return table.set_index([*CELL, "contrast", "outcome"])


def _tested(contrast: pd.Series, name: str, outcome: str) -> tuple[Interval, float]:
    interval = statistics.mean_interval(contrast)
    if outcome == "hacked":
        return interval, sign_flip((2 * contrast).round().astype(int), two_sided=name != PAPER)
    error = float(contrast.std(ddof=1) / np.sqrt(len(contrast)))
    sides = [statistics.p_positive(sign * interval.estimate, error, len(contrast)) for sign in (1, -1)]
    return interval, statistics.two_sided(*sides)


def sign_flip(values: ArrayLike, two_sided: bool) -> float:
    """Exact p-value of a sum of whole numbers (N,), were each as likely to have the other sign: P(Σ ± v ≥ Σ v), or with
    ``two_sided`` P(|Σ ± v| ≥ |Σ v|). Of differences in {−1, 0, 1} the first is McNemar's exact one-sided test."""
    v = np.asarray(values, dtype=int)
    return _flipped(tuple(np.sort(np.abs(v[v != 0])).tolist()), int(v.sum()), two_sided)


@functools.cache  # simulated studies come to the same few
def _flipped(sizes: tuple[int, ...], observed: int, two_sided: bool) -> float:
    chances = np.ones(1)  # of the sums from −Σ to Σ
    for size in sizes:
        wider = np.zeros(chances.size + 2 * size)
        wider[: chances.size] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    sums = np.arange(-sum(sizes), sum(sizes) + 1)
    extreme = np.abs(sums) >= abs(observed) if two_sided else sums >= observed
    return float(min(1.0, chances[extreme].sum()))


def against(runs: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """What a cure changes: ``others`` (rows of :func:`hacking.ends`, an ``arm`` a cure) against ``runs`` of the same cell and
    training, a row a cure: hacked runs of both, the difference of LM performance with Student's interval, and the exact
    two-sided p of hacked runs (McNemar's)."""
    rows = []
    base = runs.set_index("rm_seed")
    for arm, own in others.dropna(subset=["hacked"]).groupby("arm", sort=False):
        pairs = own.set_index("rm_seed")[["hacked", OUTCOME, "rm_accuracy"]].join(base, rsuffix="_base", how="inner")
        pairs = pairs.dropna(subset=["hacked_base"])
        gain = statistics.mean_interval(pairs[OUTCOME] - pairs[f"{OUTCOME}_base"])
        flips = (pairs["hacked"].astype(int) - pairs["hacked_base"].astype(int)).to_numpy()
        counts = {
            "trainings": len(pairs),
            "hacked": int(pairs["hacked"].sum()),
            "hacked before": int(pairs["hacked_base"].sum()),
        }
        means = {"accuracy": pairs["rm_accuracy"].mean(), "gain": gain.estimate, "low": gain.low, "high": gain.high}
        rows.append({"cure": arm} | counts | {"p": sign_flip(flips, two_sided=True)} | means)
    return pd.DataFrame(rows).set_index("cure")


def power(top: float, moderate: float, trainings: int, level: float = LEVEL) -> float:
    """How often the one-sided McNemar test of so many trainings finds a lottery: P(p ≤ ``level``) where top checkpoints are
    hacked with probability ``top`` and moderate ones with ``moderate``, independently (which errs on the low side where
    failures of one training go together)."""
    only_top, only_moderate = top * (1 - moderate), moderate * (1 - top)
    found = 0.0
    for discordant in range(trainings + 1):
        least = int(stats.binom.isf(level, discordant, 0.5)) + 1  # the fewest of them that must be the top one's
        chance = stats.binom.pmf(discordant, trainings, only_top + only_moderate)
        share = only_top / (only_top + only_moderate) if only_top + only_moderate else 0.0
        found += float(chance * stats.binom.sf(least - 1, discordant, share))
    return found


SIZE = (7 / 24, 0.0)  # how often top and moderate checkpoints failed in a pilot, at the default pressure


def trainings(cells: int) -> int:
    """The fewest trainings, in fours and at least 24, with which a lottery of :data:`SIZE` in one of so many cells is found
    with a power of 0.8, whatever the others do (Holm's smallest level)."""
    return next(n for n in itertools.count(24, 4) if power(*SIZE, n, LEVEL / cells) >= 0.8)


def rates(cells: Sequence[Mapping[str, float]], trainings: int, studies: int = 2000, seed: int = 0) -> dict[str, float]:
    """Shares of simulated second studies that find, in at least one cell, each of the contrasts that are decided.

    ``cells``: of each the probability that a run of a kind is hacked; runs are independent.
    """
    random = np.random.default_rng(seed)
    chances = np.array([[cell[kind] for kind in KINDS] for cell in cells])
    found = dict.fromkeys((PAPER, *DECIDED), 0)
    for _ in range(studies):
        hacked = random.random((trainings, *chances.shape)) < chances
        for name in found:
            doubled = hacked @ np.array([2 * CONTRASTS[name].get(kind, 0) for kind in KINDS])
            least = min(sign_flip(own, two_sided=name != PAPER) for own in doubled.T.round().astype(int))
            found[name] += least * len(cells) <= LEVEL  # Holm's first step, on which all others wait
    return {name: count / studies for name, count in found.items()}


def answers(table: pd.DataFrame) -> list[str]:
    """A sentence for each cell of :func:`effects`: whether the long and top one fails more often, and what does it."""
    hacked = table.xs("hacked", level="outcome")
    return [_answer(" / ".join(cell), own.droplevel(CELL)) for cell, own in hacked.groupby(CELL, sort=False)]


def _answer(cell: str, own: pd.DataFrame) -> str:
    paper = own.loc[PAPER]
    found = "is hacked more often" if paper["adjusted"] <= LEVEL else "is not shown to be hacked more often"
    size = f"{paper['mean']:+.0%} of runs, {paper['low']:.0%} to {paper['high']:.0%}, p {paper['adjusted']:.3f}"
    causes = [_cause(name, own.loc[name]) for name in DECIDED]
    return f"{cell}: the long-trained, most accurate reward model {found} ({size}); {' and '.join(causes)}."


def _cause(name: str, row: pd.Series) -> str:
    told = {True: "raises", False: "lowers"}[bool(row["mean"] > 0)] if row["adjusted"] <= LEVEL else "is not shown to change"
    return f"{name} alone {told} it ({row['mean']:+.0%}, {row['low']:.0%} to {row['high']:.0%})"
