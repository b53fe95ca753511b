"""What a study of a given size can find: the pilot's variance split, and the power of the verdict's rule. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from paradox_utils.analysis import verdict
from paradox_utils.analysis.comparison import families, unit_contrasts
from paradox_utils.analysis.outcomes import READINGS, usable
from paradox_utils.analysis.statistics import Array
from paradox_utils.analysis.tables import AnalysisError, scores
from paradox_utils.data.tasks import among

# Crossed or nested, reward-model seeds, PPO seeds for each of them.
DESIGNS = {"3 × 3 crossed": (3, 3, False), "5 × 1 nested": (5, 1, True), "9 × 1 nested": (9, 1, True)}
RANKS = 6
FALL = 0.03  # in the simulated truths: LM performance lost from one rank to the next


def split(summary: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """One row a task of a crossed pilot: standard deviations by source (``prompts`` is part of ``rest``), and of one run.

    A component estimated below 0 counts as 0. Seeds with an unfinished run are left out, and tasks with fewer than two of each;
    raises :class:`AnalysisError` where no task is left.
    """
    rows = []
    outcome = READINGS["as measured"]
    for task in among(summary["task"]):
        own = summary[(summary["task"] == task) & usable(summary)].drop_duplicates(["rm_seed", "ppo_seed"])
        cells = own.pivot(index="rm_seed", columns="ppo_seed", values="id").dropna()
        if min(cells.shape) < 2:
            continue
        good, segments = scores(questions, [run for row in cells.to_numpy() for run in row])
        shares = (good / segments.mean(axis=1, keepdims=True)).reshape(*cells.shape, -1)
        performance = own.set_index("id")[outcome].reindex(cells.to_numpy().ravel()).to_numpy().reshape(cells.shape)
        rm, ppo, rest, prompts = (max(part, 0.0) for part in variance_components(performance, shares))
        variances = {"rm seed": rm, "ppo seed": ppo, "rest": rest, "prompts": prompts, "one run": rm + ppo + rest}
        variances |= {name: design_variance(rm, ppo, rest, *design) for name, design in DESIGNS.items()}
        rows.append({"task": task} | {name: math.sqrt(variance) for name, variance in variances.items()})
    if not rows:
        problem = "no task has finished runs of two reward-model seeds, each with the same two PPO seeds"
        raise AnalysisError(f"results: {problem}; name the folder of a crossed pilot")
    names = ["rm seed", "ppo seed", "rest", "prompts", "one run", *DESIGNS]
    return pd.DataFrame(rows, columns=["task", *names]).set_index("task")


def variance_components(performance: ArrayLike, scores: ArrayLike) -> tuple[float, float, float, float]:
    """Variances of one run of a crossed pilot: between RM seeds, between PPO seeds, of the rest, and the prompts' part of it.

    ``performance`` (S RM seeds, P PPO seeds), each seed at least twice; ``scores`` (S, P, Q), those of the same Q prompts in
    every run; ValueError for other shapes and values not finite. Unbiased, so one may come out below 0.

    Mean squares of the two-way random-effects layout with one run a cell (Searle, Casella & McCulloch 1992, *Variance
    Components*, chapter 4): E[MS_rm] = residual + P · rm, E[MS_ppo] = residual + S · ppo, E[MS_rest] = residual. One run a cell
    cannot tell an interaction of the seeds from the noise of a run. The prompts' share of the residual is the mean square of
    what is left of the scores after all two-way means, divided by Q.
    """
    y, s = np.asarray(performance, dtype=float), np.asarray(scores, dtype=float)
    if y.ndim != 2 or min(y.shape) < 2 or not np.isfinite(y).all():
        raise ValueError(f"performance of shape {y.shape}: need at least 2 RM seeds × 2 PPO seeds, every value finite")
    if s.ndim != 3 or s.shape[:2] != y.shape or s.shape[2] < 2 or not np.isfinite(s).all():
        raise ValueError(f"scores of shape {s.shape}: need {y.shape} runs × at least 2 prompts, every value finite")
    S, P, Q = s.shape
    residual = float((_doubly_centred(y) ** 2).sum() / ((S - 1) * (P - 1)))
    rm = float(y.mean(axis=1).var(ddof=1) - residual / P)
    ppo = float(y.mean(axis=0).var(ddof=1) - residual / S)
    left = _doubly_centred(s - s.mean(axis=2, keepdims=True))
    return rm, ppo, residual, float((left**2).sum() / ((S - 1) * (P - 1) * (Q - 1)) / Q)


def _doubly_centred(values: Array) -> Array:
    """Values (S, P, …) minus row and column means over the first two axes, plus the grand mean."""
    return values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean(axis=(0, 1))


def design_variance(rm: float, ppo: float, rest: float, rm_seeds: int, ppo_seeds: int, nested: bool) -> float:
    """Variance of the mean over S RM seeds · P PPO seeds; noise that all runs share is not counted.

    Crossed (every RM seed with the same PPO seeds): rm / S + ppo / P + rest / (S P). Nested (every RM seed with PPO seeds of
    its own): rm / S + (ppo + rest) / (S P).
    """
    runs = rm_seeds * ppo_seeds
    return rm / rm_seeds + ppo / (runs if nested else ppo_seeds) + rest / runs


def truths(regret: float, best: int = 3, ranks: int = RANKS) -> dict[str, list[float]]:
    """LM performance by rank (the most accurate first) in three worlds: the rank ``best`` (from 2) better by
    ``regret`` and a fall on both sides of it; a steady fall with accuracy; no difference among the upper half."""
    rise = [0.9 - regret * (1 - rank / (best - 1)) for rank in range(best)]
    fall = [0.9 - FALL * rank for rank in range(1, ranks)]
    return {
        "inverted U": rise + fall[: ranks - best],
        "rising": [0.9, *fall],
        "plateau": [0.9] * (ranks // 2) + fall[: ranks - ranks // 2],
    }


def simulated_power(deviation: float, units: Sequence[int], regrets: Sequence[float], studies: int = 4000) -> pd.DataFrame:
    """How often the rule gives the right verdict: one row a number of ``units`` and a world.

    ``right``: share *supported* in the worlds of an inverted U (one for each of ``regrets``), *not supported* in the others;
    ``wrong``: share of the opposite verdict. In *ranks apart* the best rank is the 2nd, 3rd or 4th, by task, so that no common
    one has the whole regret (the largest of ``regrets``). In *one task* an inverted U in one meets a plateau in two, in
    *one task, others rising* performance rises with accuracy in those two, so that on average no regret is left.
    """
    most = max(regrets)
    worlds = [("inverted U", regret, [truths(regret)["inverted U"]]) for regret in regrets]
    worlds.append(("ranks apart", most, [truths(most, best=best)["inverted U"] for best in (2, 3, 4)]))
    for name, others in (("one task", "plateau"), ("one task, others rising", "rising")):
        worlds.append((name, most, [truths(most)["inverted U"], *[truths(0.0)[others]] * 2]))
    worlds += [(name, 0.0, [truths(0.0)[name]]) for name in ("rising", "plateau")]
    rows = []
    for n in units:
        for world, regret, truth in worlds:
            means = np.array([truth[unit % len(truth)] for unit in range(n)])
            rates = verdict_rates(means, deviation, studies)
            right, wrong = ("supported", "not supported") if regret else ("not supported", "supported")
            rows.append({"units": n, "world": world, "regret": regret, "right": rates[right], "wrong": rates[wrong]})
    return pd.DataFrame(rows)


def verdict_rates(
    truth: ArrayLike, deviation: float, studies: int, margin: float = verdict.MARGIN, level: float = verdict.ALPHA
) -> dict[str, float]:
    """Shares of simulated studies that the rule calls ``supported`` and ``not supported``, at its ``margin`` and ``level``.

    ``truth`` (units, K): LM performance by rank, the most accurate first. Every run adds independent normal noise of standard
    ``deviation`` (of reward-model seed, PPO seed and the rest together). Each study is decided as by
    :func:`paradox_utils.analysis.statistics.cross_fitted_regret`, all of them at once.
    """
    means = np.asarray(truth, dtype=float)
    d = means + np.random.default_rng(0).normal(0, deviation, (studies, *means.shape))
    d = d - d[..., :1]
    others = d.sum(axis=1, keepdims=True) - d
    paid = np.take_along_axis(d, others.argmax(axis=2)[..., None], axis=2)[..., 0]
    t = float(stats.t.ppf(1 - level, len(means) - 1)) / np.sqrt(len(means))
    above = paid.mean(axis=1) - t * paid.std(axis=1, ddof=1) > margin
    below = (d.mean(axis=1) + t * d.std(axis=1, ddof=1) < margin).all(axis=1)
    return {"supported": float(above.mean()), "not supported": float((below & ~above).mean())}


def unit_noise(table: pd.DataFrame, policies: int) -> pd.Series:
    """Variance of a unit of the pooled comparison (a trajectory averaged over ``policies``) in each task of :func:`split`."""
    return table["rm seed"] ** 2 + (table["ppo seed"] ** 2 + table["rest"] ** 2) / policies


def noise_by_rank(runs: pd.DataFrame) -> pd.Series:
    """A study's own noise of a unit at each rank of accuracy (1: the next to the most accurate), within tasks.

    From the spread of the rank's difference from the most accurate one, taken to hold the noise of both in equal parts, and
    whatever trajectories really differ in. Raises :class:`AnalysisError` where there is nothing to compare.
    """
    contrasts = _contrasts(runs)
    if contrasts.empty:
        raise AnalysisError(
            "study: no trajectory has all its reward models of the arm steps; name the folder of a study that has"
        )
    return _noise(contrasts)


def own_power(runs: pd.DataFrame, regret: float, studies: int = 4000) -> tuple[int, float, dict[str, float]]:
    """A study's number of units, its own noise next to the most accurate rank, and how often the rule would call as large a
    study with that noise *supported* and *not supported* where an inverted U has this ``regret`` (:func:`verdict_rates`);
    NaN where its runs do not tell the noise."""
    contrasts = _contrasts(runs)
    noise = float(_noise(contrasts).iloc[0]) if len(contrasts) else float("nan")
    if not np.isfinite(noise):
        return len(contrasts), noise, dict.fromkeys(("supported", "not supported"), float("nan"))
    truth = [truths(regret)["inverted U"]] * len(contrasts)
    return len(contrasts), noise, verdict_rates(truth, noise, studies)


def _contrasts(runs: pd.DataFrame) -> pd.DataFrame:
    """Of units, every rank's outcome minus that of the most accurate, from the next one on; empty where there are none."""
    found = families(runs)
    return unit_contrasts(found).iloc[:, 1:].astype(float) if found else pd.DataFrame()


def _noise(contrasts: pd.DataFrame) -> pd.Series:
    tasks = [name.rpartition(" ")[0] for name in contrasts.index]
    return np.sqrt(contrasts.groupby(tasks).var().mean() / 2)
