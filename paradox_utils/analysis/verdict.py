"""The verdict: a rule written down before the results, applied to a study's comparisons and put in words.

The rule is :data:`RULE`, the text the book prints.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
import pandas as pd

from paradox_utils.analysis import statistics
from paradox_utils.analysis.comparison import ACCURACY_RESOLUTION, ALL, Comparison, Family, compare, families
from paradox_utils.analysis.tables import READING_WORDS, READINGS, Reading, count, listed, run_counts, usable
from paradox_utils.data.tasks import TASKS

Status = Literal["supported", "not supported", "undecided"]

# The regret that matters, in LM performance (a share between 0 and 1), and the one that does not: about the median gap of all
# published comparisons, which is after the fact and so overstated. (Of those of shares alone it is smaller, and on the design
# page, with the power.)
SMALLEST_EFFECT = 0.04
EQUIVALENCE_MARGIN = 0.04
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
- It is *supported* if the regret is larger than {SMALLEST_EFFECT} (one-sided p ≤ {ALPHA}), *not supported* if the regret is
  smaller than {EQUIVALENCE_MARGIN} (the same way), else *undecided*.
- **The verdict** is that of one comparison, named beforehand: the route `{PRIMARY}` over all tasks and policies together. A
  unit is a trajectory of a task, averaged over the policies it trained. The comparisons of single tasks, policies and routes
  are shown with p-values corrected for their number (Holm). The rank it speaks of is one for all tasks. Shown beside it, and
  deciding nothing: a regret with a rank of its own for each task, and the comparison for each task alone and for each policy
  alone, the p-values of either corrected for their number.
- *Shape*: an inverted U is called present if both slopes of the two-lines test (Simonsohn 2018; up, then down) have a
  one-sided p ≤ {ALPHA}, corrected in the same way. The quadratic of Lind & Mehlum (2010), with the interval of its turning
  point, is shown but decides nothing: it calls a curve that only levels off an inverted U far too often. The shape explains a
  verdict; it does not make one.
- *Readings*: *as measured* takes {READING_WORDS["as measured"]}. *As published* takes {READING_WORDS["as published"]}, the
  initial policy's included: noise can only raise a maximum; it selects and pays on the same questions. Shown beside them: the
  update that validation chose, sampled answers, the true return, both at matched KL (the largest that all runs of a task,
  policy and route reach), and best-of-n. Each selects by its own score on validation questions (sampled answers by greedy
  ones). No status is given to true returns, which are in each task's own units, nor at matched KL, where scores are
  interpolated.
"""


@dataclass(frozen=True)
class Finding:
    """A comparison with its status, the p-values after Holm's correction, and what the rule needs and the study lacks.

    ``p_above``, ``p_below``: that the regret is not larger, not smaller than what matters; ``p_two_lines``: no inverted U.
    """

    of: Comparison
    status: Status
    missing: tuple[str, ...]
    p_above: float
    p_below: float
    p_two_lines: float
    inverted_u: bool


@dataclass(frozen=True)
class Verdict:
    """The study's verdict in one reading.

    ``primary`` decides; None where the study has no run of the route ``steps``. ``headline``: one sentence, plain text;
    ``text``: it, with what the comparison over tasks rests on; ``singles``: each task and policy, a list (both Markdown).
    """

    status: Status
    reading: Reading
    primary: Finding | None
    findings: tuple[Finding, ...]
    headline: str
    text: str
    singles: str

    @property
    def plain(self) -> str:
        """``text`` and ``singles`` without Markdown's marks, for a terminal."""
        whole = "\n\n".join(filter(None, [self.text, self.singles]))
        return re.sub(r"\*\*|(?<=^- )\*|\*(?= \()", "", whole, flags=re.MULTILINE)


def verdict(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> Verdict:
    """The verdict by :data:`RULE`; ``resamples`` and ``seed`` are for Spearman's interval, which decides nothing."""
    found = findings(summary, reading, resamples=resamples, seed=seed)
    first = next((f for f in pooled(summary, reading, resamples=resamples, seed=seed) if f.of.arm == PRIMARY), None)
    status: Status = first.status if first else "undecided"
    headline = _headline(first)
    steps = summary[summary["arm"] == PRIMARY]
    basis = f"LM performance here is {READING_WORDS[reading]}. {run_counts(steps if len(steps) else summary)}"
    lines = [f"**{headline}** {basis}"]
    if first and first.of.task == ALL:
        main, *further = [*points(first), _each(steps, "task", reading), _each(steps, "policy", reading)]
        lines += ["", f"- {main}", *(f"  - {point}" for point in further if point)]
    singles = "\n".join(f"- {sentence(finding)}" for finding in found if finding.of.arm == PRIMARY)
    return Verdict(status, reading, first, tuple(found), headline, "\n".join(lines), singles)


def alone(runs: pd.DataFrame, by: Literal["task", "policy"], reading: Reading = "as measured") -> dict[str, Finding]:
    """The comparison of each task, or of each policy, alone and pooled over the other, by name; decided together (Holm).

    The verdict is on the average of all of them, which one of them may not share. Those without an interval are left out.
    """
    groups: dict[str, list[Family]] = {}
    for family in families(runs):
        groups.setdefault(family[0][0 if by == "task" else 1], []).append(family)
    compared = {name: _compared(own, reading, resamples=1, seed=0) for name, own in groups.items()}
    measured = {name: comparison for name, comparison in compared.items() if np.isfinite(comparison.low)}
    return dict(zip(measured, _decided(list(measured.values())), strict=True))


def _each(runs: pd.DataFrame, by: Literal["task", "policy"], reading: Reading) -> str:
    """:func:`alone` in words; empty if there is but one."""
    found, other = alone(runs, by, reading), "policy" if by == "task" else "task"
    parts = [
        f"{name} {f.of.regret:.3f} ({f.of.low:.3f} to {f.of.high:.3f}, {f.status}{': too little' if f.missing else ''})"
        for name, f in found.items()
    ]
    together = {"policy": ", policies together", "task": ", tasks together"}[other] if runs[other].nunique() > 1 else ""
    able = sum(not f.missing for f in found.values())
    corrected = f" Each status is corrected for there being {able}, the intervals are not." if able > 1 else ""
    return f"By {by}{together}: {', '.join(parts)}.{corrected}" if len(parts) > 1 else ""


def findings(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> list[Finding]:
    """One finding a task, policy and arm in which accuracy varies, decided together (Holm)."""
    return _decided([_compared([family], reading, resamples, seed) for family in families(summary)])


def pooled(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> list[Finding]:
    """One finding an arm, over its tasks and policies together; the primary one alone, the others decided together."""
    by_arm: dict[str, list[Family]] = {}
    for family in families(summary):
        by_arm.setdefault(family[0][2], []).append(family)
    measured = {arm: _compared(own, reading, resamples, seed) for arm, own in by_arm.items()}
    first = _decided([c for arm, c in measured.items() if arm == PRIMARY])
    return first + _decided([c for arm, c in measured.items() if arm != PRIMARY])


def _compared(own: Sequence[Family], reading: Reading, resamples: int, seed: int) -> Comparison:
    return compare(own, reading, smallest=SMALLEST_EFFECT, margin=EQUIVALENCE_MARGIN, resamples=resamples, seed=seed)


def _decided(comparisons: Sequence[Comparison]) -> list[Finding]:
    lacks = [_missing(comparison) for comparison in comparisons]
    able = [index for index, lacking in enumerate(lacks) if not lacking]
    adjusted = {}
    for name in ("p_above", "p_below", "p_two_lines"):
        raw = [getattr(comparisons[i], name) for i in able]
        adjusted[name] = dict(zip(able, statistics.holm([1.0 if np.isnan(p) else p for p in raw]), strict=True))
    found = []
    for index, (comparison, lacking) in enumerate(zip(comparisons, lacks, strict=True)):
        above, below = (adjusted[name].get(index, float("nan")) for name in ("p_above", "p_below"))
        status: Status = "supported" if above <= ALPHA else "not supported" if below <= ALPHA else "undecided"
        bent = adjusted["p_two_lines"].get(index, float("nan"))
        found.append(Finding(comparison, status, lacking, above, below, bent, bent <= ALPHA))
    return found


def _missing(c: Comparison) -> tuple[str, ...]:
    wanted = (
        (c.accuracies, MIN_ACCURACIES, "distinct reward-model accuracy", "distinct reward-model accuracies"),
        (c.rm_seeds, MIN_RM_SEEDS, "complete reward-model trajectory", "complete reward-model trajectories"),
        (c.ppo_seeds, MIN_PPO_SEEDS, "PPO seed", "PPO seeds"),
    )
    missing = [f"{n or 'no'} {few if n == 1 else many} ({least} are needed)" for n, least, few, many in wanted if n < least]
    if c.unfinished:
        missing.insert(
            0, f"{count(c.unfinished, 'planned run has', 'planned runs have')} not ended, so this is an interim state"
        )
    if c.uneven:
        missing.append("the same number of reward models in every task and policy (the rule compares rank with rank)")
    return tuple(missing)


def known_truths(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 200) -> dict[str, Verdict]:
    """The verdict on each family of reward models whose truth was built in, by name. The analysis sees each as a study of its
    own under the name of the primary route, so nothing tells it which is which."""
    names = [arm for arm in dict.fromkeys(summary["arm"]) if arm.startswith("known-")]
    blind = {name: summary[summary["arm"] == name].assign(arm=PRIMARY) for name in names}
    return {name: verdict(runs, reading, resamples=resamples) for name, runs in blind.items() if usable(runs, reading).any()}


# --- words and tables --------------------------------------------------------------------------------------------------------


def _headline(first: Finding | None) -> str:
    if first is None:
        return "Undecided: the study has no PPO runs against the checkpoints of a reward model (route steps)."
    where = f"on average over {count(first.of.rm_seeds, 'trajectory', 'trajectories')} of reward models"
    if first.status == "supported":
        return f"Supported: a less accurate reward model trained policies better by more than {SMALLEST_EFFECT} {where}."
    if first.status == "not supported":
        return f"Not supported: {where}, the most accurate one cost less than {EQUIVALENCE_MARGIN} against any other rank."
    lacks = f" Too little for a decision: {listed(first.missing)}." if first.missing else ""
    lacks += f" {_lost(first.of)}" if first.of.lost else ""
    return (
        "Undecided: these runs do not tell whether a less accurate reward model trains a better policy than the most accurate "
        f"one.{lacks}"
    )


def sentence(finding: Finding) -> str:
    """One finding in words (Markdown)."""
    return " ".join(points(finding))


def points(finding: Finding) -> list[str]:
    """One finding in words (Markdown), a point an item; the first names it, its status and, pooled, its regret."""
    f = finding.of
    where = ", ".join(filter(None, (f.policy, "" if f.arm == PRIMARY else f.arm)))
    if not f.reward_models:
        return [f"*{f.task}* ({where}): **undecided**; no run against a measured reward model finished."]
    name, pool = f"*{f.task}* ({where}): **{finding.status}**.", f.task == ALL
    regret = _regret(f) if f.rm_seeds > 1 and np.isfinite(f.regret) else []
    found = [" ".join([name, *regret[:1]]), *regret[1:]] if pool else [name, _top_and_best(f), *regret]
    found.append(_correlation(f))
    if np.isfinite(f.p_two_lines):
        p = "" if np.isnan(finding.p_two_lines) else f" (p = {finding.p_two_lines:.3f})"
        found.append(f"The two-lines test {'finds' if finding.inverted_u else 'does not find'} an inverted U{p}.")
    found += [_lost(f)] if f.lost else []
    return found + ([f"Too little for a decision: {listed(finding.missing)}."] if finding.missing else [])


def _regret(f: Comparison) -> list[str]:
    """The regret, then what tells how much hangs on one trajectory, on one rank for all tasks, and on having to choose."""
    by = "validation questions" if f.separate else "scores"
    best = "none is better than the most accurate"
    if f.best_rank > 1:
        best = f"the {f.best_rank}{ENDINGS.get(f.best_rank, 'th')} most accurate is best"
    below = ", below 0 as the rank that the others select did worse than the most accurate" if f.regret < -0.0005 else ""
    found = [
        f"With the rank selected on other trajectories' {by}, the regret is {f.regret:.3f} (95 % interval {f.low:.3f} "
        f"to {f.high:.3f}, over {count(f.rm_seeds, 'trajectory', 'trajectories')}{below}); on average {best}."
    ]
    pool = f.task == ALL
    if pool and f.odd:
        interval = f"{f.without_low:.3f} to {f.without_high:.3f}"
        found.append(f"Without the trajectory that changes it most ({f.odd}) it is {f.without:.3f} ({interval}).")
    if pool and np.isfinite(f.within):
        found.append(f"With a rank for each task it is {f.within:.3f} ({f.within_low:.3f} to {f.within_high:.3f}).")
    if np.isfinite(f.chosen):
        found.append(
            f"Whoever trains against all of a trajectory and keeps what validates best gains {f.chosen:.3f} "
            f"({f.chosen_low:.3f} to {f.chosen_high:.3f}) on the most accurate."
        )
    return found


def _correlation(f: Comparison) -> str:
    pool = f.task == ALL
    pairs = count(f.reward_models, "pair of reward model and policy", "pairs of reward model and policy")
    models = pairs if pool else count(f.reward_models, "reward model")
    if f.reward_models < f.planned:
        models += f" of {f.planned} (the others have no accuracy or no finished run, and are left out)"
    kind = "accuracy" if f.accuracy_kind == "rm_accuracy" else "accuracy against the annotators' labels"
    kind += " (ranked within its task and policy)" if pool else ""
    interval = f" (95 % interval {f.spearman_low:.2f} to {f.spearman_high:.2f})" if np.isfinite(f.spearman_low) else ""
    rho = f"is {f.spearman:.2f}{interval}" if np.isfinite(f.spearman) else "is not defined"
    return f"Spearman's correlation of {kind} and LM performance over {models} {rho}."


def _top_and_best(f: Comparison) -> str:
    mean = " on average" if f.rm_seeds > 1 else ""

    def named(accuracy: float, step: str) -> str:
        return f"{accuracy:.3f}{mean}" + (f", step {step}" if step else "")

    same = f.regret_after_the_fact < 0.0005  # what is printed as nothing
    most = f"The most accurate one ({named(f.accuracy_top, f.step_top)}) led to an LM performance of {f.performance_top:.3f}"
    best = (
        ", the best of all"
        if same
        else f", the best one after the fact ({named(f.accuracy_best, f.step_best)}) to {f.performance_best:.3f}: "
        f"a regret of {f.regret_after_the_fact:.3f}, which being a maximum of noisy values overstates"
    )
    low = f" {'Their' if mean else 'Its'} accuracy is not above the majority class ({f.majority:.3f})."
    weak = low if not same and f.accuracy_best <= f.majority else ""
    return f"{most}{best} (initial policy: {f.start:.3f}).{weak}"


def _lost(f: Comparison) -> str:
    which = count(f.lost, "trajectory is", "trajectories are")
    return f"{which} left out as incomplete."


def table(found: Sequence[Finding]) -> pd.DataFrame:
    """One row a finding, one column a field of its :class:`~paradox_utils.analysis.comparison.Comparison`, and its decision."""
    rows = [
        asdict(f.of)
        | {
            "status": f.status,
            "p_above": f.p_above,
            "p_below": f.p_below,
            "p_two_lines": f.p_two_lines,
            "inverted_u": f.inverted_u,
        }
        | {"missing": ", ".join(f.missing)}
        for f in found
    ]
    names = [field.name for field in fields(Comparison)]
    return pd.DataFrame(rows, columns=[*names, "status", "inverted_u", "missing"])


def readings_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The pooled primary comparison in every reading the runs have: Spearman, regret with interval, and its status.

    True returns are in each task's own units, so they have a row a task. Neither they nor what is read at matched KL have a
    status (:data:`RULE` says why).
    """
    own, rows = summary[summary["arm"] == PRIMARY], []
    for reading in READINGS:
        if READINGS[reading] not in own or own[READINGS[reading]].isna().all():
            continue
        tasks = [task for task in TASKS if (own["task"] == task).any()]
        for task in tasks if reading.startswith("true return") else [ALL]:
            finding = next(iter(pooled(own if task == ALL else own[own["task"] == task], reading, resamples=200)), None)
            if finding:
                c = finding.of
                status = "" if reading.startswith("true return") or reading.endswith("matched KL") else finding.status
                rows.append((reading, task, c.spearman, c.regret, c.low, c.high, c.p_two_lines, status))
    return pd.DataFrame(rows, columns=["reading", "task", "spearman", "regret", "low", "high", "p two lines", "status"])


def numbers(decision: Verdict, summary: pd.DataFrame) -> dict[str, float | int | str]:
    """Values for the book's sentences and for a study's record; the regret is NaN where none was measured."""
    of = decision.primary.of if decision.primary else None
    return {
        "verdict": decision.headline,
        "status": decision.status,
        "runs": f"{count(summary['id'].nunique(), 'PPO run')} of the study {', '.join(sorted(set(summary['study'])))}",
        "runs-finished": int((summary.drop_duplicates("id")["status"] == "ok").sum()),
        **{
            name: getattr(of, field) if of else float("nan")
            for name, field in {"regret": "regret", "regret-low": "low", "regret-high": "high"}.items()
        },
    }
