"""Choices among reward models whose PPO outcome is known: what each way to choose loses, and how sure it may be.

A table has a row a recorded run: what is predicted of its reward model, what that is known by before PPO, and its ``final``
LM performance. Pools are of one task and policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import comb, ndtr

from paradox_utils.analysis import statistics
from paradox_utils.choose.decision import LEVEL, SET_LEVEL, SPREAD, chances, contains_best, gains_of, standing
from paradox_utils.choose.gain import Array, Reading

KNOWN = ("known-paradox", "known-monotone")  # families of dials whose truth is known
POOL, POOLS = 6, 500  # reward models to choose among, and how often from those of a task and policy
SOME = 5  # of so many pools one is resampled
JUDGED = (50, 100, 300)  # prompts whose responses are judged
RESAMPLES = 200
# Deviation of what PPO reaches from what is predicted, in LM performance: tried to make sets of 80 % hold.
SPREADS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
# What a choice can go by. `recipe`: the recipe's β whatever the samples show; a number: read where the effective sample size is
# that part of the samples, as the tool does with 8.
READINGS = ("gain", "gain/2", "gain/4", "gain/16", "recipe")
ACCURATE = "most accurate"
BASELINES = {
    ACCURATE: "rm_accuracy",
    "best of 16": "best_of_16",
    "normalised variance": "variance_normalised",
    "accuracy on the policy's responses": "accuracy",
}
TOOL = "predicted gain"
FITTED = "fitted on the other tasks"
FAMILIES = "families of known truth"


@dataclass(frozen=True)
class Predicted:
    """One recorded run: its labels, and the ``reading`` of its reward; ``row``: what is known of it before and after PPO."""

    reading: Reading
    row: dict[str, Any]


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of trained reward models: those of no family of known truth."""
    return table[~table["arm"].isin(KNOWN)]


def pools(table: pd.DataFrame, seed: int = 0) -> Iterator[tuple[str, pd.DataFrame]]:
    """Task, and rows of :data:`POOL` trained reward models of one task and policy, :data:`POOLS` times for each of these; fewer
    than that many reward models make none."""
    for task, own, places in _places(table, seed):
        for some in places:
            yield task, own.iloc[some]


def _places(table: pd.DataFrame, seed: int) -> Iterator[tuple[str, pd.DataFrame, np.ndarray]]:
    """Task and rows of each task and policy that has a pool, and the places of its pools in these rows [POOLS, POOL]."""
    rng = np.random.default_rng(seed)
    for (task, _), own in trained(table).groupby(["task", "policy"], sort=True):
        if len(own) >= POOL:
            yield task, own, np.array([rng.choice(len(own), POOL, replace=False) for _ in range(POOLS)])


def families(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each family of known truth, by task and seed."""
    known = table[table["arm"].isin(KNOWN)]
    for (arm, task, _), own in known.groupby(["arm", "task", "rm_seed"], sort=True):
        yield f"{arm}, {task}", own


def agreement(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Predicted beside reached gain, a row a task and policy: Spearman's correlation over trained reward models with a 95 %
    interval that resamples trajectories, the same for their accuracy (``accurate``), and what was reached less what was
    predicted, of sampled responses: its mean (``beyond``) and mean size (``away``). ``short``: the share that samples cut."""
    rows = []
    for (task, policy), own in trained(table).groupby(["task", "policy"], sort=True):
        found = statistics.spearman(own["gain"], own["reached"], own["rm_seed"], resamples=RESAMPLES, seed=seed)
        away = own["reached_sampled"] - own["gain"]
        row = {"task": task, "policy": policy, "runs": len(own), "spearman": found.estimate, "low": found.low}
        row |= {"high": found.high, "accurate": statistics.rank_correlation(own["rm_accuracy"], own["reached"])}
        rows.append(row | {"beyond": away.mean(), "away": away.abs().mean(), "short": (own["limit"] == "samples").mean()})
    return pd.DataFrame(rows)


# --- regret -------------------------------------------------------------------------------------------------------------------


def regret(pool: pd.DataFrame, measure: str) -> float:
    """What choosing by a measure loses in final performance; the first of equals is chosen."""
    return float(pool["final"].max() - pool.loc[pool[measure].fillna(-math.inf).idxmax(), "final"])


def regrets(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean and 95th percentile of the regret in all pools, and the mean ``performance`` of what is chosen, a row a way to
    choose; the tool's mean regret less that of each baseline (``tool less``), with its 95 % interval (``low``, ``high``, see
    :func:`half_width`); then the mean regret by task. :data:`FITTED`: the reading, or its mean rank with accuracy, that lost
    least in the pools of the other tasks."""
    made = [(task, pool) for task, pool in pools(table, seed)]
    ways = {TOOL: "gain"} | BASELINES | {name: name for name in READINGS[1:]}
    lost = {name: [regret(pool, column) for _, pool in made] for name, column in ways.items()}
    mixed = [pool.assign(mixed=pool[["gain", "rm_accuracy"]].rank().mean(axis=1)) for _, pool in made]
    lost["gain and accuracy"] = [regret(pool, "mixed") for pool in mixed]
    lost["random"] = [float(pool["final"].max() - pool["final"].mean()) for _, pool in made]
    lost["best after the fact"] = [0.0 for _ in made]
    tasks, best = np.array([task for task, _ in made]), np.array([pool["final"].max() for _, pool in made])
    lost[FITTED] = list(_fitted({name: np.array(lost[name]) for name in (TOOL, *READINGS[1:], "gain and accuracy")}, tasks))
    rows = {}
    for name, own in ((name, np.array(own)) for name, own in lost.items() if made):
        rows[name] = {"mean": own.mean(), "95 %": np.quantile(own, 0.95), "performance": (best - own).mean(), "pools": len(own)}
        if name in BASELINES:
            gap, half = float(np.mean(lost[TOOL]) - own.mean()), half_width(table, BASELINES[name], seed)
            rows[name] |= {"tool less": gap, "low": gap - half, "high": gap + half}
        rows[name] |= {task: own[tasks == task].mean() for task in np.unique(tasks)}
    return pd.DataFrame.from_dict(rows, orient="index")


def half_width(table: pd.DataFrame, measure: str, seed: int = 0, beside: str = "gain") -> float:
    """Half the 95 % interval of how much less choosing by predicted gain loses than by a ``measure``, on average; or by what
    else stands ``beside`` it.

    Pools of the same reward models are not independent, so trajectories are resampled: all reward models of a task's seed
    together, with either policy, as the same ones train both. In each resample the mean is that over all its pools, not over
    some drawn ones.
    """
    rows = trained(table).reset_index(drop=True)
    groups = [own for _, own in rows.groupby(["task", "policy"]) if len(own) >= POOL]

    def gaps(times: Array, *_: Array) -> Array:
        both = ([expected_best(times[:, own.index], own[name], own["final"]) for own in groups] for name in (measure, beside))
        other, own = (np.mean(one, axis=0) for one in both)
        return other - own

    labels = rows["task"] + rows["rm_seed"].astype(str)
    found = statistics.cluster_bootstrap([rows.index], labels, gaps, resamples=RESAMPLES, seed=seed)
    return found.high - found.estimate


def expected_best(times: Array, measure: pd.Series, final: pd.Series) -> Array:
    """Mean ``final`` of the row with the largest ``measure`` in a pool (equals share), over all pools of B tables that have
    each of N rows so often (``times`` [B, N]); [B], NaN for a table of fewer rows than a pool has."""
    _, place = np.unique(measure.fillna(-math.inf), return_inverse=True)
    equal = np.eye(place.max() + 1)[place]  # [N, values]: which rows have each value
    number, total = times @ equal, (times * final.to_numpy()) @ equal
    upto = number.cumsum(1)
    with np.errstate(invalid="ignore"):
        chance = np.diff(comb(upto, POOL) / comb(upto[:, -1:], POOL), axis=1, prepend=0)  # that a value is a pool's largest
        return (chance * np.divide(total, number, out=np.zeros_like(total), where=number > 0)).sum(1)


def _fitted(lost: Mapping[str, Array], tasks: np.ndarray) -> Array:
    """The regret of the way that lost least elsewhere, pool by pool; NaN where there is no other task."""
    found = np.full(len(tasks), np.nan)
    for task in np.unique(tasks):
        own = tasks == task
        if not own.all():
            found[own] = lost[min(lost, key=lambda name: lost[name][~own].mean())][own]
    return found


def known(table: pd.DataFrame) -> pd.DataFrame:
    """Mean regret in the families of known truth, a row a family and a column a way to choose; ``rank``: the mean place, by
    final performance, of what the tool chose (1: the best); ``in two``: how often it was one of the best two, of ``seeds``."""
    ways, rows = {TOOL: "gain"} | BASELINES | {"variance": "variance"}, []
    for name, own in families(table):
        place = float(own["final"].rank(ascending=False, method="min")[own["gain"].idxmax()])
        rows.append({"family": name} | {way: regret(own, column) for way, column in ways.items()})
        rows[-1] |= {"rank": place, "in two": float(place <= 2), "seeds": 1}
    if not rows:
        return pd.DataFrame()
    by_family = pd.DataFrame(rows).groupby("family")
    return by_family.mean().assign(seeds=by_family["seeds"].sum())


# --- how sure -----------------------------------------------------------------------------------------------------------------


def answers(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What the tool would answer of each pool: a row for all, for each task, and for the families of known truth, means over
    their ``pools``. It names the fewest that hold the best with :data:`~paradox_utils.choose.decision.LEVEL`, how many
    (``named``), ``one`` alone or more, and whether the best by PPO is among them (``holds``); ``surest``: the largest
    probability of any pool; ``regret`` of the first named; the same of the sets of 80 % (``set``, ``set_holds``).

    Predictions are taken as they are, each training its deviation away from them; what other prompts would add is left out.
    Of equals by PPO the first is the best. Empty where there is no pool.
    """
    told = [_answered(own["gain"].to_numpy()[at], own["final"].to_numpy()[at], task) for task, own, at in _places(table, seed)]
    rows = []
    if told:
        every = pd.concat(told)
        rows += [("all", every), *every.groupby("task")]
    known = [_answered(*own[["gain", "final"]].to_numpy().T[:, None], "") for _, own in families(table)]
    rows += [(FAMILIES, pd.concat(known))] if known else []
    means = {name: own.drop(columns="task").mean() for name, own in rows}
    more = pd.DataFrame({name: {"surest": own["surest"].max(), "pools": len(own)} for name, own in rows}).T
    return pd.DataFrame(means).T.drop(columns="surest").join(more) if rows else pd.DataFrame()


def _answered(gains: Array, final: Array, task: str) -> pd.DataFrame:
    """Of N pools of C reward models [N, C], a row each."""
    probability = chances_of(gains, SPREAD)
    order = np.argsort(-probability, axis=1, kind="stable")
    reached = np.take_along_axis(probability, order, axis=1).cumsum(1)
    place = (order == final.argmax(1)[:, None]).argmax(1)  # of the best by PPO, the likeliest first
    named, likely = ((reached < level - 1e-9).sum(1) + 1 for level in (LEVEL, SET_LEVEL))
    lost = final.max(1) - np.take_along_axis(final, order[:, :1], axis=1)[:, 0]
    made = {"named": named, "one": named == 1, "holds": place < named, "surest": probability.max(1), "regret": lost}
    return pd.DataFrame(made | {"set": likely, "set_holds": place < likely, "task": task})


def chances_of(gains: Array, spread: float) -> Array:
    """The probability of each of C to be the largest [N, C] where each ends a normal deviation (``spread``, on its own) away
    from its gain [N, C]: ∫ φ(z) Π Φ(z + (gain − another's) / spread) dz over the C − 1 others."""
    z = np.linspace(-8, 8, 65)[:, None, None]  # equal steps are exact to rounding for so smooth a bell
    below = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (16 / 64) * np.ones(gains.shape)
    for other in range(gains.shape[1]):
        larger = ndtr(z + (gains - gains[:, [other]]) / spread)
        larger[:, :, other] = 1.0
        below *= larger
    return below.sum(0)


def judged_prompts(
    found: Sequence[Predicted], judged: Mapping[tuple[str, str], tuple[Array, Array]], seed: int = 0
) -> pd.DataFrame:
    """What so many judged prompts make of it, a row a number of them: the mean ``regret``, and how often the set of 80 %,
    which allows for other prompts alone, contains the best by PPO (``contains``) and by the reading on all prompts
    (``contains_reading``), with the mean ``size`` of the sets. ``fitted``: the same for sets that allow PPO a deviation from
    what is predicted, the smallest of :data:`SPREADS` by which they hold in the pools of the other tasks (else the largest);
    ``spread`` is its mean."""
    table, by_id = pd.DataFrame([one.row for one in found]), {one.row["id"]: one for one in found}
    rng, rows = np.random.default_rng(seed), []
    drawn = [(place, task, pool) for place, (task, pool) in enumerate(pools(table, seed)) if not place % SOME]
    for number in JUDGED:
        tasks, told = [], []
        for place, task, pool in drawn:
            start = judged[pool["policy"].iloc[0], task]
            if number <= len(start[0]):
                some = rng.choice(len(start[0]), number, replace=False)
                readings = [_at(by_id[run].reading, some) for run in pool["id"]]
                tasks.append(task)
                told.append(_sure(pool, readings, [part[some] for part in start], place))
        if told:
            rows.append({"judged prompts": number} | _held(np.array(tasks), told) | {"pools": len(told)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Sure:
    """Of one pool: the ``regret``; whether the best by PPO is in the set (``hits``), and how large that is (``sizes``), by
    spread; whether the best by the reading is, without."""

    regret: float
    hits: list[bool]
    sizes: list[int]
    predicted: bool


def _sure(pool: pd.DataFrame, readings: Sequence[Reading], start: Sequence[Array], seed: int) -> _Sure:
    final, best = pool["final"].to_numpy(), int(pool["final"].to_numpy().argmax())
    chosen = int(np.argmax(gains_of(readings, *start, np.ones((1, len(start[0]))))[0]))
    gains = standing(readings, *start, resamples=RESAMPLES, seed=seed).drawn
    noise = np.random.default_rng(seed).standard_normal(gains.shape)
    sets = [contains_best(chances(gains + spread * noise), SET_LEVEL) for spread in SPREADS]
    predicted = int(pool["gain"].to_numpy().argmax()) in sets[0]
    return _Sure(float(final[best] - final[chosen]), [best in one for one in sets], [len(one) for one in sets], predicted)


def _held(tasks: np.ndarray, told: Sequence[_Sure]) -> dict[str, float]:
    hits, sizes = (np.array([getattr(one, name) for one in told], dtype=float) for name in ("hits", "sizes"))
    fitted = []  # hit, size and spread of each pool of a task that others tell of
    for task in np.unique(tasks):
        own = tasks == task
        if not own.all():
            holds = hits[~own].mean(0) >= SET_LEVEL
            place = int(holds.argmax()) if holds.any() else len(SPREADS) - 1
            fitted += [(hit, size, SPREADS[place]) for hit, size in zip(hits[own, place], sizes[own, place], strict=True)]
    row = {"regret": np.mean([one.regret for one in told]), "contains": hits[:, 0].mean(), "size": sizes[:, 0].mean()}
    row |= {"contains_reading": np.mean([one.predicted for one in told])}
    means = np.mean(fitted, axis=0) if fitted else np.full(3, np.nan)
    return row | dict(zip(("contains_fitted", "size_fitted", "spread"), means, strict=True))


def _at(reading: Reading, some: np.ndarray) -> Reading:
    return replace(reading, **{name: getattr(reading, name)[some] for name in ("kl", "effective", "good", "size", "weights")})
