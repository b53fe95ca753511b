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

from paradox_utils import statistics
from paradox_utils.analysis import READING_WORDS, READINGS, Reading, count, run_counts, usable
from paradox_utils.comparison import ACCURACY_RESOLUTION, ALL, Comparison, Family, compare, families
from paradox_utils.data.records import TASKS

Status = Literal["supported", "not supported", "undecided"]

# The regret that matters, in LM performance (a share between 0 and 1), and the one that does not: about the median gap of the
# published comparisons, which is after the fact and so overstated. The design page has the power that goes with it.
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
  are shown with p-values corrected for their number (Holm). The rank it speaks of is one for all tasks; a regret with a rank
  of its own for each task is shown beside it, and decides nothing.
- *Shape*: an inverted U is called present if both slopes of the two-lines test (Simonsohn 2018; up, then down) have a
  one-sided p ≤ {ALPHA}, corrected in the same way. The quadratic of Lind & Mehlum (2010), with the interval of its turning
  point, is shown but decides nothing: it calls a curve that only levels off an inverted U far too often. The shape explains a
  verdict; it does not make one.
- *Readings*: *as measured* takes {READING_WORDS["as measured"]}. *As published* takes {READING_WORDS["as published"]}, the
  initial policy's included: noise can only raise a maximum; it selects and pays on the same questions. Shown beside them: the
  update that validation chose, sampled answers, the true return, both at matched KL (the largest that all runs of a
  comparison reach), and best-of-n. Each selects by its own score on validation questions (sampled answers by greedy ones).
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
    """The study's verdict in one reading: a sentence (``headline``, plain text), and all of it with the findings (Markdown).

    ``primary`` decides; None where the study has no run of the route ``steps``.
    """

    status: Status
    reading: Reading
    primary: Finding | None
    findings: tuple[Finding, ...]
    headline: str
    text: str

    @property
    def plain(self) -> str:
        """``text`` without Markdown's marks, for a terminal."""
        return re.sub(r"\*\*|(?<=^- )\*|\*(?= \()", "", self.text, flags=re.MULTILINE)


def verdict(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> Verdict:
    """The verdict by :data:`RULE`; ``resamples`` and ``seed`` are for Spearman's interval, which decides nothing."""
    found = findings(summary, reading, resamples=resamples, seed=seed)
    first = next((f for f in pooled(summary, reading, resamples=resamples, seed=seed) if f.of.arm == PRIMARY), None)
    status: Status = first.status if first else "undecided"
    headline = _headline(first)
    steps = summary[summary["arm"] == PRIMARY]
    basis = f"LM performance here is {READING_WORDS[reading]}. {run_counts(steps if len(steps) else summary)}"
    own = [finding for finding in found if finding.of.arm == PRIMARY]
    lines = [f"{sentence(first)} {by_task(steps, reading)}".strip()] if first and first.of.task == ALL else []
    lines += [sentence(finding) for finding in own]
    text = "\n".join([f"**{headline}** {basis}", "", *(f"- {line}" for line in lines)]).strip()
    return Verdict(status, reading, first, tuple(found), headline, text)


def by_task(runs: pd.DataFrame, reading: Reading = "as measured") -> str:
    """The regret of each task alone, its policies together, in words; empty without intervals. One rank for all tasks can hide
    what one of them has."""
    parts = []
    for task in TASKS:
        own = [family for family in families(runs) if family[0][0] == task]
        if own and np.isfinite((c := _compared(own, reading, resamples=1, seed=0)).low):
            parts.append(f"{task} {c.regret:.3f} ({c.low:.3f} to {c.high:.3f})")
    together = ", policies together" if runs["policy"].nunique() > 1 else ""
    return f"By task{together}: {', '.join(parts)}." if len(parts) > 1 else ""


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
    lacks = f" Too little for a decision: {_join(first.missing)}." if first.missing else ""
    lacks += f" {_lost(first.of)}".rstrip() if first.of.lost else ""
    return (
        "Undecided: these runs do not tell whether a less accurate reward model trains a better policy than the most accurate "
        f"one.{lacks}"
    )


def sentence(finding: Finding) -> str:
    """One finding in words (Markdown)."""
    f = finding.of
    arm = "" if f.arm == PRIMARY else f.arm
    where = ", ".join(filter(None, (f.policy, arm)))
    if not f.reward_models:
        return f"*{f.task}* ({where}): **undecided**; no run against a measured reward model finished."
    several, pool = f.rm_seeds > 1, f.task == ALL
    models = count(f.reward_models, "pair of reward model and policy", "pairs of reward model and policy")
    models = models if pool else count(f.reward_models, "reward model")
    if f.reward_models < f.planned:
        models += f" of {f.planned} (the others have no accuracy or no finished run, and are left out of what follows)"
    kind = "accuracy" if f.accuracy_kind == "rm_accuracy" else "accuracy against the annotators' labels"
    if pool:
        kind += " (ranked within its task and policy)"
    interval = f" (95 % interval {f.spearman_low:.2f} to {f.spearman_high:.2f})" if np.isfinite(f.spearman_low) else ""
    rho = f"is {f.spearman:.2f}{interval}" if np.isfinite(f.spearman) else "is not defined"
    text = (
        f"*{f.task}* ({where}): **{finding.status}**. Spearman's correlation of {kind} and LM performance over {models} {rho}. "
    )
    text += "" if pool else f"{_top_and_best(f)} "
    if several and np.isfinite(f.regret):
        where = "validation questions" if f.separate else "scores"
        best = "none is better than the most accurate"
        if f.best_rank > 1:
            best = f"the {f.best_rank}{ENDINGS.get(f.best_rank, 'th')} most accurate is best"
        below = ", below 0 as the rank that the others select did worse than the most accurate" if f.regret < -0.0005 else ""
        text += (
            f"With the rank selected on other trajectories' {where}, the regret is {f.regret:.3f} (95 % interval {f.low:.3f} "
            f"to {f.high:.3f}, over {count(f.rm_seeds, 'trajectory', 'trajectories')}{below}); on average {best}. "
        )
        if pool and f.odd:
            text += (
                f"Without the trajectory that changes it most ({f.odd}) it is {f.without:.3f} ({f.without_low:.3f} to "
                f"{f.without_high:.3f}). "
            )
        if pool and np.isfinite(f.within):
            text += f"With a rank for each task it is {f.within:.3f} ({f.within_low:.3f} to {f.within_high:.3f}). "
        if np.isfinite(f.chosen):
            text += (
                f"Whoever trains against all of a trajectory and keeps what validates best gains {f.chosen:.3f} "
                f"({f.chosen_low:.3f} to {f.chosen_high:.3f}) on the most accurate. "
            )
    if np.isfinite(f.p_two_lines):
        p = "" if np.isnan(finding.p_two_lines) else f" (p = {finding.p_two_lines:.3f})"
        text += f"The two-lines test {'finds' if finding.inverted_u else 'does not find'} an inverted U{p}. "
    text += _lost(f) if f.lost else ""
    return text.strip() + (f" Too little for a decision: {_join(finding.missing)}." if finding.missing else "")


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
    return f"{which} left out as incomplete. "


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def table(found: Sequence[Finding]) -> pd.DataFrame:
    """One row a finding, one column a field of its :class:`~paradox_utils.comparison.Comparison`, and its decision."""
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
    """The pooled primary comparison in every reading the runs have: Spearman, regret with interval, and its status."""
    rows = []
    for reading in READINGS:
        own = summary[summary["arm"] == PRIMARY]
        if READINGS[reading] in own and own[READINGS[reading]].notna().any():
            finding = next(iter(pooled(own, reading, resamples=200)), None)
            if finding:
                c = finding.of
                # a true return is in its own units, where the margin says nothing
                status = finding.status if not reading.startswith("true return") else ""
                values = (reading, c.spearman, c.regret, c.low, c.high, c.p_two_lines, status)
                rows.append(values)
    return pd.DataFrame(rows, columns=["reading", "spearman", "regret", "low", "high", "p two lines", "status"])


def numbers(decision: Verdict, summary: pd.DataFrame) -> dict[str, float | int | str]:
    """Values for the book's sentences, under names every study has; means over a task's findings; NaN where not measured."""
    values: dict[str, float | int | str] = {
        "verdict": decision.headline,
        "status": decision.status,
        "runs": f"{count(summary['id'].nunique(), 'PPO run')} of the study {', '.join(sorted(set(summary['study'])))}",
        "runs-finished": int((summary.drop_duplicates("id")["status"] == "ok").sum()),
    }
    for task in TASKS:
        own = [finding.of for finding in decision.findings if finding.of.task == task and finding.of.arm == PRIMARY]
        for name, field in (("regret", "regret_after_the_fact"), ("regret-cross-fitted", "regret"), ("spearman", "spearman")):
            values[f"{name}-{task}"] = float(np.mean([getattr(c, field) for c in own])) if own else float("nan")
    return values
