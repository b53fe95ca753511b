"""The verdict: a rule written down before the results, applied to a study's comparisons and put in words.

The rule is :data:`RULE`, the text the book prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.comparison import ACCURACY_RESOLUTION, ALL, Comparison, Family, compare, families
from paradox_utils.analysis.outcomes import LEAST, Reading, usable
from paradox_utils.analysis.phrases import count, listed
from paradox_utils.analysis.statistics import Interval

Status = Literal["supported", "not supported", "undecided"]

# The regret that matters, in LM performance (a share between 0 and 1); a smaller one does not. About the median gap of all
# published comparisons, which is after the fact and so overstated.
MARGIN = 0.04
ALPHA = 0.025  # on each side, over all comparisons of one kind: with 95 % intervals
MIN_ACCURACIES = 5  # reward models of distinct accuracy in each trajectory
MIN_RM_SEEDS = 3
MIN_PPO_SEEDS = 3
PRIMARY = "steps"
ENDINGS = {2: "nd", 3: "rd"}

RULE = f"""\
*Reward models* are compared within their trajectory (`rm_seed`): the checkpoints of one training, or the models trained (or
dials set) with one seed along another route. They are ranked by accuracy, and each rank's LM performance is compared with that
of the most accurate one, at the same PPO seed. Trajectories are the independent units.

- *Regret* is the LM performance with the best rank minus that with the most accurate one. The largest of several noisy means
  is too large, so the best rank is selected on the validation questions of all other trajectories and paid on the test
  questions of the one left out. The interval is a 95 % Student interval over trajectories: its lower end belongs to these
  payments, its upper end is the largest upper end of any rank's difference from the most accurate one. It is for new
  trajectories, given what all runs share: the questions, the sample of feedback, and one supervised policy of each size.
- A comparison needs at least {MIN_ACCURACIES} reward models of distinct accuracy (to {ACCURACY_RESOLUTION}) a trajectory,
  {MIN_RM_SEEDS} trajectories and {MIN_PPO_SEEDS} PPO seeds in all. With less it is *undecided*. Trajectories with a reward
  model that was not measured, or has no finished PPO run, are left out. A diverged run counts with the performance it ended
  with, if it has one. While planned runs have not ended, every comparison they belong to is *undecided*.
- It is *supported* if the regret is larger than {MARGIN} (one-sided p ≤ {ALPHA}), *not supported* if the regret is
  smaller than {MARGIN} (the same way), else *undecided*.
- **The verdict** is that of one comparison, named beforehand: the route `{PRIMARY}` over all tasks and policies together. A
  unit is a trajectory of a task, averaged over the policies it trained. The comparisons of single tasks, policies and routes
  are shown with p-values corrected for their number (Holm). The rank it speaks of is one for all tasks. Shown beside it, and
  deciding nothing: a regret with a rank of its own for each task, and the comparison for each task alone and for each policy
  alone, the p-values of either corrected for their number. With a rank for each task, the lower end of the interval belongs to
  what trajectories are paid for the rank that the others of their task select, the upper end is the largest of any combination
  of ranks, one a task; units are those of each task (Welch's degrees of freedom), and its status is read off that interval.
- *Shape*: an inverted U is called present if both slopes of the two-lines test (Simonsohn 2018; up, then down) have a
  one-sided p ≤ {ALPHA}, corrected in the same way. The quadratic of Lind & Mehlum (2010), with the interval of its turning
  point, is shown but decides nothing: it calls a curve that only levels off an inverted U far too often. The shape explains a
  verdict; it does not make one.
- *Readings*: *as measured* takes the score of greedy answers after the last update, on test questions. *As published* takes
  the maximum over logged evaluations, on validation questions, the initial policy's included: noise can only raise a maximum;
  it selects and pays on the same questions. Shown beside them: the update that validation chose, sampled answers, the true
  return, both at matched KL (the largest that all runs of a task, policy and route reach), best-of-n, and a brevity-robust
  reading, in which an answer counts as at least {LEAST} segments: a share alone rewards saying less. Each selects by its own
  score on validation questions (sampled answers and the brevity-robust reading by those of greedy answers, *as measured*). No
  status is given to true returns, which are in each task's own units, nor at matched KL, where scores are interpolated.
"""


@dataclass(frozen=True)
class Finding:
    """A comparison with its status, the p-values after Holm's correction, and what the rule needs and the study lacks.

    ``p_above``, ``p_below``: that the regret is not larger, not smaller than what matters; ``p_two_lines``: no inverted U.
    ``within``: the status with a rank for each task, which decides nothing.
    """

    of: Comparison
    status: Status
    missing: tuple[str, ...]
    p_above: float
    p_below: float
    p_two_lines: float
    inverted_u: bool
    within: Status = "undecided"


@dataclass(frozen=True)
class Verdict:
    """The study's verdict in one reading: ``headline`` is one sentence, ``primary`` decides (None where the study has no run of
    an arm ``steps``), ``findings`` are of each task, policy and arm."""

    status: Status
    headline: str
    primary: Finding | None
    findings: tuple[Finding, ...]


def verdict(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> Verdict:
    """The verdict by :data:`RULE`; ``resamples`` and ``seed`` are for Spearman's interval, which decides nothing."""
    together = pooled(summary[summary["arm"] == PRIMARY], reading, resamples=resamples, seed=seed)
    first = together[0] if together else None
    found = _decided([_compared([family], reading, resamples, seed) for family in families(summary)])
    return Verdict(first.status if first else "undecided", _headline(first), first, tuple(found))


def pooled(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> list[Finding]:
    """One finding an arm, over its tasks and policies together; the primary one alone, the others decided together."""
    by_arm: dict[str, list[Family]] = {}
    for family in families(summary):
        by_arm.setdefault(family[0][2], []).append(family)
    measured = {arm: _compared(own, reading, resamples, seed) for arm, own in by_arm.items()}
    first = _decided([c for arm, c in measured.items() if arm == PRIMARY])
    return first + _decided([c for arm, c in measured.items() if arm != PRIMARY])


def alone(runs: pd.DataFrame, by: Literal["task", "policy"], reading: Reading = "as measured") -> dict[str, Finding]:
    """The comparison of each task, or of each policy, alone and pooled over the other, by name; decided together (Holm). Those
    without an interval are left out."""
    groups: dict[str, list[Family]] = {}
    for family in families(runs):
        groups.setdefault(family[0][0 if by == "task" else 1], []).append(family)
    compared = {name: _compared(own, reading, resamples=1, seed=0) for name, own in groups.items()}
    measured = {name: comparison for name, comparison in compared.items() if np.isfinite(comparison.regret.low)}
    return dict(zip(measured, _decided(list(measured.values())), strict=True))


def decided(runs: pd.DataFrame, reading: Reading = "as measured") -> pd.DataFrame:
    """The runs of one arm by the rule: regret with interval and status of all of them together, each policy and each task."""
    together = pooled(runs, reading, resamples=1)
    found = ({"all": together[0]} if together else {}) | alone(runs, "policy", reading) | alone(runs, "task", reading)
    rows = {name: (f.of.regret.estimate, f.of.regret.low, f.of.regret.high, f.status) for name, f in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["regret", "low", "high", "status"])


def known_truths(summary: pd.DataFrame) -> dict[str, Verdict]:
    """The verdict on each family of reward models whose truth was built in, by name, as if it were a study's primary route."""
    names = [arm for arm in dict.fromkeys(summary["arm"]) if arm.startswith("known-")]
    blind = {name: summary[summary["arm"] == name].assign(arm=PRIMARY) for name in names}
    return {name: verdict(runs, resamples=200) for name, runs in blind.items() if usable(runs).any()}


def _compared(own: Sequence[Family], reading: Reading, resamples: int, seed: int) -> Comparison:
    return compare(own, reading, margin=MARGIN, resamples=resamples, seed=seed)


def _decided(comparisons: Sequence[Comparison]) -> list[Finding]:
    """Findings on comparisons of one kind, the p-values of those that have what the rule needs corrected together."""
    lacks = [_missing(comparison) for comparison in comparisons]
    raw = [(c.p_above, c.p_below, c.p_two_lines) for c, lacking in zip(comparisons, lacks, strict=True) if not lacking]
    corrected = zip(*(statistics.holm([1.0 if np.isnan(p) else p for p in ps]) for ps in zip(*raw, strict=True)), strict=True)
    found = []
    for comparison, lacking in zip(comparisons, lacks, strict=True):
        above, below, bent = (float("nan"),) * 3 if lacking else next(corrected)
        status: Status = "supported" if above <= ALPHA else "not supported" if below <= ALPHA else "undecided"
        apart = "undecided" if lacking else _read_off(comparison.further.within)
        found.append(Finding(comparison, status, lacking, above, below, bent, bent <= ALPHA, apart))
    return found


def _read_off(of: Interval) -> Status:
    """The status by a 95 % interval, which is that by one-sided p-values at :data:`ALPHA`."""
    return "supported" if of.low > MARGIN else "not supported" if of.high < MARGIN else "undecided"


def _missing(comparison: Comparison) -> tuple[str, ...]:
    c = comparison.counts
    wanted = (
        (c.accuracies, MIN_ACCURACIES, "distinct reward-model accuracy", "distinct reward-model accuracies"),
        (c.rm_seeds, MIN_RM_SEEDS, "complete reward-model trajectory", "complete reward-model trajectories"),
        (c.ppo_seeds, MIN_PPO_SEEDS, "PPO seed", "PPO seeds"),
    )
    missing = [f"{n or 'no'} {few if n == 1 else many} ({least} are needed)" for n, least, few, many in wanted if n < least]
    if c.unfinished:
        open_ = count(c.unfinished, "planned run has", "planned runs have")
        missing.insert(0, f"{open_} not ended, so this is an interim state")
    if c.uneven:
        missing.append("the same number of reward models in every task and policy (the rule compares rank with rank)")
    return tuple(missing)


# --- words -------------------------------------------------------------------------------------------------------------------


def _headline(first: Finding | None) -> str:
    if first is None:
        return f"Undecided: the study has no PPO runs of an arm called {PRIMARY}, and the verdict is about that arm alone."
    common = "one rank common to all tasks" if first.of.task == ALL else ""
    where = f"on average over {count(first.of.counts.rm_seeds, 'trajectory', 'trajectories')} of reward models"
    if first.status == "supported":
        which = f" ({common})" if common else ""
        return f"Supported: a less accurate reward model{which} trained policies better by more than {MARGIN} {where}."
    if first.status == "not supported":
        return f"Not supported: {where}, the most accurate one cost less than {MARGIN} against any {common or 'other rank'}."
    undecided = "these runs do not tell whether a less accurate reward model trains a better policy than the most accurate one."
    return " ".join([f"Undecided: {undecided}", *_lacks(first)])


def sentence(finding: Finding) -> str:
    """One finding in words: whose it is, its status, regret, correlation and shape, and what the rule needs beside them."""
    f, counts = finding.of, finding.of.counts
    name = f"{f.task} ({f.policy}{'' if f.arm == PRIMARY else f', {f.arm}'})"
    if not counts.reward_models:
        return f"{name}: undecided; no run against a measured reward model finished."
    said = [f"{name}: {finding.status}."]
    if np.isfinite(f.regret.estimate):
        best = "none is better than the most accurate"
        if f.best_rank > 1:
            best = f"the {f.best_rank}{ENDINGS.get(f.best_rank, 'th')} most accurate is best"
        over = count(counts.rm_seeds, "trajectory", "trajectories")
        said.append(f"The regret is {_number(f.regret, 3)} over {over}; on average {best}.")
        if f.task == ALL:
            said.append(f"With a rank for each task it is {_number(f.further.within, 3)}: {finding.within}.")
    pairs = count(counts.reward_models, "pair of reward model and policy", "pairs of reward model and policy")
    left_out = f" of {counts.planned} (the others are not measured or have no finished run)"
    pairs += left_out if counts.reward_models < counts.planned else ""
    said.append(f"Spearman's correlation of accuracy and LM performance over {pairs} is {_number(f.spearman, 2)}.")
    if np.isfinite(f.p_two_lines) and not finding.missing:
        finds = "finds" if finding.inverted_u else "does not find"
        said.append(f"The two-lines test {finds} an inverted U (p = {finding.p_two_lines:.3f}).")
    return " ".join([*said, *_lacks(finding)])


def _lacks(finding: Finding) -> list[str]:
    """What keeps a comparison from a decision, and the trajectories left out of it."""
    said = [f"Too little for a decision: {listed(finding.missing)}."] if finding.missing else []
    if lost := finding.of.counts.lost:
        said.append(f"{count(lost, 'trajectory is', 'trajectories are')} left out as incomplete.")
    return said


def _number(of: Interval, digits: int) -> str:
    if not np.isfinite(of.estimate):
        return "not defined"
    interval = f" (95 % interval {of.low:.{digits}f} to {of.high:.{digits}f})" if np.isfinite(of.low) else ""
    return f"{of.estimate:.{digits}f}{interval}"
