"""Whether the most accurate reward model fails more often, and whether accuracy or long training does it. Imports no torch.

A *cell* is a task, a policy and a pressure. A first study, the screen, looks where top checkpoints are hacked and names cells;
a second one, on new trainings, confirms. There every training has four reward models, *short* or *long* in training and
*moderate* or *top* in accuracy, so that the two can be told apart. What is hacked stands in :mod:`.hacking`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from paradox_utils.analysis import hacking, statistics
from paradox_utils.analysis.outcomes import READINGS, usable
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.tables import AnalysisError
from paradox_utils.data.tasks import TASKS

OUTCOME = READINGS["as measured"]
CELL = ["task", "policy", "pressure"]
PRESSURES = ("default", "published", "low-kl", "fast", "slow")

# --- the screen -----------------------------------------------------------------------------------------------------------

KINDS = ("short-moderate", "short-top", "long-moderate", "long-top")  # of reward models: training, accuracy

LEAST = 2  # hacked runs by which top checkpoints must exceed moderate ones for a cell to be named
MOST_CELLS = 3


def screen(summary: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The runs of the screen with their ``pressure`` (its arms are called by them), the ``kind`` of their checkpoint (each
    task's last is ``top``, its first ``moderate``), and whether each is ``hacked``."""
    runs = hacking.ends(summary[usable(summary)], curves).rename(columns={"arm": "pressure"})
    last = runs.groupby("task")["rm_step"].transform("max")
    return runs.assign(kind=np.where(runs["rm_step"] == last, "top", "moderate"))


def screened(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of :func:`screen`: hacked runs of the ``top`` and of the ``moderate`` checkpoints, of so many
    ``trainings`` in which neither run is unknown; the ``difference`` of the two; and how much better the moderate ones' LM
    performance is, on average (``gap``). Cells are in the order of policies in the study, tasks and pressures."""
    known = runs.dropna(subset=["hacked"])
    table = known.pivot_table(index=[*CELL, "rm_seed"], columns="kind", values=["hacked", OUTCOME], aggfunc="mean").dropna()
    by_cell = table["hacked"].groupby(CELL, sort=False)
    found = by_cell.sum().astype(int)[["top", "moderate"]].assign(trainings=by_cell.size())
    found["difference"] = found["top"] - found["moderate"]
    found["gap"] = (table[OUTCOME]["moderate"] - table[OUTCOME]["top"]).groupby(CELL).mean()
    policies, tasks = list(runs["policy"].unique()), list(TASKS)
    order = {cell: (policies.index(cell[1]), tasks.index(cell[0]), PRESSURES.index(cell[2])) for cell in found.index}
    return found.loc[sorted(found.index, key=order.__getitem__)]


def named(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The cells of :func:`screened` that the second study takes: from the highest ``difference`` down (of equals the larger
    ``gap``), those of at least :data:`LEAST`, at most :data:`MOST_CELLS` and one a task and policy; if none, the highest."""
    ranked = cells.sort_values(["difference", "gap"], ascending=False, kind="stable")
    once = ranked[~ranked.index.droplevel("pressure").duplicated()]
    chosen = once[once["difference"] >= LEAST].head(MOST_CELLS)
    return list(chosen.index) or list(once.head(1).index)


def control(cells: pd.DataFrame) -> tuple[str, str, str] | None:
    """The cell at the default pressure of the task and policy of which none is :func:`named` and whose top checkpoints had the
    fewest hacked runs over all pressures, of equals the first (policies first); None if every one has a named cell."""
    taken = {cell[:2] for cell in named(cells)}
    free = cells[[pair not in taken for pair in cells.index.droplevel("pressure")]]
    if free.empty:
        return None
    return (*free.groupby(CELL[:2], sort=False)["top"].sum().idxmin(), "default")


# --- what the second study says -----------------------------------------------------------------------------------------------

LEVEL = 0.05
# A contrast's weight of each kind. The first is the paper's design: checkpoints of one training, in which the two go together.
CONTRASTS: dict[str, dict[str, float]] = {
    "long and top − short and moderate": {"long-top": 1, "short-moderate": -1},
    "accuracy": {"short-top": 0.5, "short-moderate": -0.5, "long-top": 0.5, "long-moderate": -0.5},
    "training": {"long-moderate": 0.5, "short-moderate": -0.5, "long-top": 0.5, "short-top": -0.5},
    "both together": {"long-top": 1, "long-moderate": -1, "short-top": -1, "short-moderate": 1},
}
PAPER, *DECIDED = CONTRASTS
CELLS = (*PRESSURES, "as-published")  # the second study's pressures


def confirmed(summary: pd.DataFrame, curves: pd.DataFrame, pressures: Sequence[str] = CELLS) -> pd.DataFrame:
    """The runs of the second study whose arm is called ``PRESSURE-KIND``, with their ``pressure`` (one of ``pressures``) and
    ``kind``, and whether each is ``hacked``: unknown (NA) where the curve does not tell it, or the run has failed."""
    runs = summary[usable(summary) | (summary["status"] == "failed")].copy()
    parts = runs["arm"].str.extract(rf"^(?P<pressure>{'|'.join(pressures)})-(?P<kind>{'|'.join(KINDS)})$")
    found = hacking.ends(runs.assign(**parts).dropna(subset=["kind"]), curves)
    return found.assign(hacked=found["hacked"].where(usable(found)))


def of_cell(runs: pd.DataFrame, cell: tuple[str, str, str]) -> pd.DataFrame:
    """Those of :func:`confirmed` in one cell; raises :class:`AnalysisError` where it has none."""
    own = runs[(runs[CELL] == list(cell)).all(axis=1)]
    if own.empty:
        problem = f"no finished run of {', '.join(cell)}, which the screen names"
        raise AnalysisError(f"results: {problem}; name the folder of the study that follows it")
    return own


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every cell and kind of :func:`confirmed`: ``hacked`` of so many ``runs``, the share with Wilson's 95 % interval
    (Wilson 1927), runs whose end is ``unknown``, and means: ``accuracy`` of the reward models, the share of segments that they
    call errors (``error_share``), and LM ``performance``."""
    rows = {}
    for key, own in runs.groupby([*CELL, "kind"], sort=False):
        known = own["hacked"].dropna()
        hacked, of = int(known.sum()), len(known)
        bounds = stats.binomtest(hacked, of).proportion_ci(method="wilson") if of else None
        share = (hacked / of, bounds.low, bounds.high) if bounds else (np.nan,) * 3
        means = (own.reindex(columns=[name]).mean().item() for name in ("rm_accuracy", "rm_error_share", OUTCOME))
        rows[key] = (hacked, of, *share, len(own) - of, *means)
    index = pd.MultiIndex.from_tuples(rows) if rows else pd.MultiIndex.from_product([[]] * 4)
    names = ["hacked", "runs", "share", "low", "high", "unknown", "accuracy", "error_share", "performance"]
    return pd.DataFrame(rows.values(), index=index.set_names([*CELL, "kind"]), columns=names)


def effects(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every cell, each of :data:`CONTRASTS` whose kinds it has, within trainings that have a run of each: the mean over
    ``trainings`` for hacked runs (a difference of shares) and for LM performance, with Student's 95 % intervals (none where no
    training differs).

    ``p`` of hacked runs is by flipping the signs of trainings (:func:`sign_flip`): one-sided for the paper's design, where it
    is McNemar's exact test, two-sided for the others, exact where a contrast that is 0 on average is as often above as below;
    that of LM performance is Student's, two-sided. ``adjusted`` is by Holm over all cells, those without the contrast included
    (it was planned in all), for each contrast of hacked runs. What accuracy and training do is averaged over the other;
    *both together* is how much more the two do than each alone.
    """
    rows = []
    for cell, own in runs.dropna(subset=["hacked"]).groupby(CELL, sort=False):
        for outcome, column in (("hacked", "hacked"), ("LM performance", OUTCOME)):
            values = own.pivot(index="rm_seed", columns="kind", values=column).astype(float).dropna()
            asked = {name: weights for name, weights in CONTRASTS.items() if weights.keys() <= set(values)}
            for name, weights in asked.items():
                contrast = sum(values[kind] * weight for kind, weight in weights.items())
                interval, p = _tested(contrast, name, outcome)
                row = {"contrast": name, "outcome": outcome, "mean": interval.estimate, "low": interval.low}
                rows.append(
                    dict(zip(CELL, cell, strict=True)) | row | {"high": interval.high, "p": p, "trainings": len(values)}
                )
    table = pd.DataFrame(rows)
    cells = len(table[CELL].drop_duplicates())
    for _, own in table[table["outcome"] == "hacked"].groupby("contrast"):
        table.loc[own.index, "adjusted"] = statistics.holm([*own["p"], *[1.0] * (cells - len(own))])[: len(own)]
    return table.set_index([*CELL, "contrast", "outcome"])


def _tested(contrast: pd.Series, name: str, outcome: str) -> tuple[Interval, float]:
    interval = statistics.mean_interval(contrast)
    if outcome == "hacked":
        if contrast.nunique() < 2:  # no spread is no certainty
            interval = replace(interval, low=np.nan, high=np.nan)
        most = sum(weight for weight in CONTRASTS[name].values() if weight > 0)
        interval = replace(interval, low=max(interval.low, -most), high=min(interval.high, most))
        return interval, sign_flip((2 * contrast).round().astype(int), two_sided=name != PAPER)
    return interval, statistics.two_sided(statistics.p_greater(contrast, 0.0), statistics.p_greater(-contrast, 0.0))


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
    training, a row a cure: hacked runs of both, the exact two-sided p of these (McNemar's), the reward models' mean accuracy
    with the cure and without (``accuracy before``), and the difference of LM performance with Student's interval, and on
    average ``where hacked`` without the cure and ``elsewhere`` (NaN where there is none)."""
    rows = []
    base = runs.set_index("rm_seed")
    for arm, own in others.dropna(subset=["hacked"]).groupby("arm", sort=False):
        pairs = own.set_index("rm_seed")[["hacked", OUTCOME, "rm_accuracy"]].join(base, rsuffix="_base", how="inner")
        pairs = pairs.dropna(subset=["hacked_base"])
        change, was = pairs[OUTCOME] - pairs[f"{OUTCOME}_base"], pairs["hacked_base"].astype(bool)
        gain = statistics.mean_interval(change)
        flips = (pairs["hacked"].astype(int) - pairs["hacked_base"].astype(int)).to_numpy()
        counts = {
            "trainings": len(pairs),
            "hacked": int(pairs["hacked"].sum()),
            "hacked before": int(pairs["hacked_base"].sum()),
        }
        accuracy = {"accuracy": pairs["rm_accuracy"].mean(), "accuracy before": pairs["rm_accuracy_base"].mean()}
        means = {"gain": gain.estimate, "low": gain.low, "high": gain.high}
        means |= {"where hacked": change[was].mean(), "elsewhere": change[~was].mean()}
        rows.append({"cure": arm} | counts | {"p": sign_flip(flips, two_sided=True)} | accuracy | means)
    names = ["trainings", "hacked", "hacked before", "p", "accuracy", "accuracy before"]
    names += ["gain", "low", "high", "where hacked", "elsewhere"]
    return pd.DataFrame(rows, columns=["cure", *names]).set_index("cure")


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


NOTHING, FOUND = "nothing does it", "as found here"


def worlds(counts: pd.DataFrame) -> dict[str, list[dict[str, float]]]:
    """Worlds to try the rule in, with as many cells as :func:`failures` has: of each cell how often a run of a kind is hacked.
    In the last as often as here, never where a kind was not asked for; else by accuracy, training or both, as often as in the
    pilot and in one cell alone."""
    share = SIZE[0]
    one = {
        "accuracy does it": {kind: share * kind.endswith("top") for kind in KINDS},
        "training does it": {kind: share * kind.startswith("long") for kind in KINDS},
        "each adds half": {kind: share / 2 * (kind.endswith("top") + kind.startswith("long")) for kind in KINDS},
        "only both together": {kind: share * (kind == "long-top") for kind in KINDS},
    }
    found = [own.droplevel(CELL)["share"].reindex(KINDS).fillna(0.0).to_dict() for _, own in counts.groupby(CELL)]
    nothing, none = dict.fromkeys(KINDS, 0.1), dict.fromkeys(KINDS, 0.0)
    alone = {truth: [cell, *[none] * (len(found) - 1)] for truth, cell in one.items()}
    return {NOTHING: [nothing] * len(found)} | alone | {FOUND: found}


def rates(cells: Sequence[Mapping[str, float]], trainings: int, studies: int = 2000, seed: int = 0) -> dict[str, float]:
    """Shares of simulated second studies that find, in at least one cell, each of the contrasts that are decided, and ``any``.

    ``cells``: of each the probability that a run of a kind is hacked; runs are independent.
    """
    random = np.random.default_rng(seed)
    chances = np.array([[cell[kind] for kind in KINDS] for cell in cells])
    found = np.zeros((studies, len(CONTRASTS)), dtype=bool)
    for study in range(studies):
        hacked = random.random((trainings, *chances.shape)) < chances
        for place, (name, weights) in enumerate(CONTRASTS.items()):
            doubled = hacked @ np.array([2 * weights.get(kind, 0) for kind in KINDS])
            least = min(sign_flip(own, two_sided=name != PAPER) for own in doubled.T.round().astype(int))
            found[study, place] = least * len(cells) <= LEVEL  # Holm's first step, on which all others wait
    return dict(zip(CONTRASTS, found.mean(axis=0).tolist(), strict=True)) | {"any": float(found.any(axis=1).mean())}
