"""What the runs of a study say together: read a summary, state the verdict by a rule written down beforehand.

Reads ``summary.csv`` (one row a PPO run, failed ones included); imports no torch. The rule is :data:`RULE`, the text the book
prints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from paradox_utils import statistics
from paradox_utils.data.records import TASKS

Reading = Literal["as measured", "as published"]
Status = Literal["supported", "not supported", "undecided"]

# What counts as LM performance: on test questions after the last update, or the maximum over logged validation evaluations.
READINGS: dict[Reading, str] = {"as measured": "lm_performance_final", "as published": "lm_performance_best_logged"}
READING_WORDS: dict[Reading, str] = {
    "as measured": "the score after the last update, on test questions",
    "as published": "the maximum over logged evaluations, on validation questions",
}

SMALLEST_EFFECT = 0.02  # regret that matters, in LM performance (a share between 0 and 1)
EQUIVALENCE_MARGIN = 0.02  # regret that does not matter
ALPHA = 0.025  # on each side, over all findings: with 95 % intervals
MIN_ACCURACIES = 5  # reward-model checkpoints of distinct accuracy in each trajectory
MIN_RM_SEEDS = 3
MIN_PPO_SEEDS = 3
ACCURACY_RESOLUTION = 0.01  # accuracies are distinct if they differ after rounding to this

RULE = f"""\
For each task and policy, over the reward-model checkpoints of the route `steps` (controls apart):

- *Regret* is the LM performance with the best reward model minus that with the most accurate one. Reward models are ranked
  by accuracy within their trajectory (`rm_seed`). A rank's performance is compared with the most accurate reward model's at
  the same PPO seed and averaged over PPO seeds; trajectories are the independent units.
- The largest of several noisy means is too large, so the best rank is selected on all other trajectories and paid on the
  one left out. The interval is a 95 % Student interval over trajectories: its lower end belongs to these payments, its
  upper end is the largest upper end of any rank's difference from the most accurate one.
- A finding needs at least {MIN_ACCURACIES} checkpoints of distinct accuracy (to {ACCURACY_RESOLUTION}), {MIN_RM_SEEDS}
  trajectories and {MIN_PPO_SEEDS} PPO seeds for each reward model. With less it is *undecided*. Trajectories with a reward
  model that was not measured, or has no finished PPO run, are left out. A diverged run counts with the performance it ended
  with, if it has one.
- It is *supported* if the regret is larger than {SMALLEST_EFFECT} (one-sided p ≤ {ALPHA} after Holm's correction for the
  number of findings), *not supported* if the regret is smaller than {EQUIVALENCE_MARGIN} (the same way), else *undecided*.
- The verdict is what more than half of all findings agree on, else *undecided*.
"""

LABELS = ("study", "id", "task", "policy", "route", "setting", "status", "reason")
NUMBERS = (
    *("rm_step", "rm_seed", "ppo_seed", "rm_accuracy", "rm_accuracy_noisy", "rm_balanced_accuracy", "rm_majority", "rm_f1"),
    *("lm_performance_start", "lm_performance_final", "lm_performance_best", "lm_performance_best_logged"),
    *("true_return_start", "true_return_final", "kl_final", "updates", "seconds"),
)


class AnalysisError(ValueError):
    """A results folder that cannot be analysed; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Finding:
    """One task and policy (and setting).

    ``*_top``: the most accurate reward model; ``*_best``: the one with the best policy, after the fact; both averaged over
    trajectories. ``regret``, ``low``, ``high``, ``p_*``: cross-fitted over complete trajectories, NaN below two of them.
    """

    task: str
    policy: str
    setting: str
    status: Status
    missing: tuple[str, ...]  # what the rule needs and the study lacks
    planned: int  # reward models of the study
    reward_models: int  # with an accuracy and a finished PPO run
    accuracies: int  # distinct ones, in the trajectory with the fewest
    rm_seeds: int  # complete trajectories
    ppo_seeds: int  # finished, at the reward model with the fewest
    accuracy_kind: str  # rm_accuracy, or rm_accuracy_noisy where no clean labels exist
    majority: float
    start: float  # LM performance of the initial policy
    spearman: float
    spearman_low: float
    spearman_high: float
    accuracy_top: float
    performance_top: float
    step_top: str
    accuracy_best: float
    performance_best: float
    step_best: str
    regret_after_the_fact: float
    regret: float
    low: float
    high: float
    p_above: float
    p_below: float


@dataclass(frozen=True)
class Verdict:
    """The study's verdict in one reading: a sentence (``headline``, plain text), and all of it with the findings (Markdown)."""

    status: Status
    reading: Reading
    findings: tuple[Finding, ...]
    headline: str
    text: str

    @property
    def plain(self) -> str:
        """``text`` without Markdown's marks, for a terminal."""
        return re.sub(r"\*\*|(?<=^- )\*|\*(?= \()", "", self.text, flags=re.MULTILINE)


def load(folder: Path | str) -> pd.DataFrame:
    """The study's ``summary.csv``, one row a PPO run; raises :class:`AnalysisError` where there is nothing to analyse."""
    path = Path(folder) / "summary.csv"
    again = "run the study: make study CONFIG=configs/NAME.yaml"
    try:
        text = {"study": str, "id": str, "setting": str, "reason": str}
        table = pd.read_csv(path, dtype=text, keep_default_na=True)
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be read ({error.strerror}); {again}, or name another results folder") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path}: is no table ({' '.join(str(error).split())}); {again}") from error
    if absent := [column for column in (*LABELS, *NUMBERS) if column not in table]:
        raise AnalysisError(f"{path}: lacks {', '.join(absent)}; it was written by another version: {again}")
    for column in NUMBERS:
        values = pd.to_numeric(table[column], errors="coerce")
        if len(bad := table.index[values.isna() & table[column].notna()]):
            value = table.loc[bad[0], column]
            raise AnalysisError(f"{path}: line {bad[0] + 2}: {column} = {value!r} is no number; {again}")
        table[column] = values
    if not usable(table).any():
        counts = ", ".join(f"{n} {status}" for status, n in Counter(table["status"]).items()) or "no rows"
        raise AnalysisError(f"{path}: no finished run ({counts}); see its column `reason`, then {again}")
    for column in ("setting", "reason"):
        table[column] = table[column].fillna("")
    return table


def load_checkpoints(folder: Path | str) -> pd.DataFrame:
    """The study's ``reward_models.csv``, one row a checkpoint; raises :class:`AnalysisError` where there is none."""
    path = Path(folder) / "reward_models.csv"
    try:
        return pd.read_csv(path, dtype={"setting": str})
    except (OSError, pd.errors.EmptyDataError) as error:
        raise AnalysisError(f"{path}: cannot be read ({error}); run its study: make study CONFIG=configs/NAME.yaml") from error


def checkpoint_findings(checkpoints: pd.DataFrame) -> list[str]:
    """A sentence a reward model: its best checkpoint, chosen on the same questions, against the majority class.

    The standard error is that of independent judgements; those of one response are not, so it is a lower bound.
    """
    kind = "accuracy" if checkpoints["accuracy"].notna().any() else "accuracy_noisy"
    truth = {"accuracy": "the true labels", "accuracy_noisy": "the annotators' labels"}[kind]
    sentences = []
    for (task, setting), rows in checkpoints.fillna({"setting": ""}).groupby(["task", "setting"], sort=False):
        best = rows.sort_values(kind).iloc[-1]
        gap = float(best[kind]) - float(best["majority"])
        error = float(np.sqrt(best[kind] * (1 - best[kind]) / best["segments"]))
        verdict = "beats" if gap > 0 else "does not beat"
        name = f"{task} ({setting})" if setting else task
        sentences.append(
            f"{name}: the best checkpoint (step {best['step']:.0f}) agrees with {truth} on {best[kind]:.1%} of "
            f"{best['segments']:.0f} held-out judgements and {verdict} the constant answer's {best['majority']:.1%} "
            f"({gap:+.1%}; one standard error is {error:.1%})."
        )
    return sentences


def usable(summary: pd.DataFrame, reading: Reading = "as measured") -> pd.Series:
    """Which runs have a performance to count (boolean, one a row)."""
    return summary["status"].isin(("ok", "diverged")) & np.isfinite(summary[READINGS[reading]])


def run_counts(summary: pd.DataFrame) -> str:
    """How the study's runs ended, in words."""
    counts = Counter(summary["status"])
    kept = int((usable(summary) & (summary["status"] == "diverged")).sum())
    words = {
        "diverged": f"{counts['diverged']} diverged ({kept} with a performance at its end, which counts)",
        "failed": f"{counts['failed']} failed",
        "blocked": f"{counts['blocked']} not started",
        "running": f"{counts['running']} still running",
    }
    lost = [text for status, text in words.items() if counts[status]]
    return f"{counts['ok']} of {_count(len(summary), 'PPO run')} finished" + (f"; {', '.join(lost)}" if lost else "") + "."


def verdict(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> Verdict:
    """The verdict by :data:`RULE`; ``resamples`` and ``seed`` are for Spearman's interval, which decides nothing."""
    found = findings(summary, reading, resamples=resamples, seed=seed)
    status: Status = "undecided"
    for candidate in ("supported", "not supported"):
        if 2 * sum(finding.status == candidate for finding in found) > len(found):
            status = candidate
    headline = _headline(status, found)
    basis = f"LM performance here is {READING_WORDS[reading]}. {run_counts(summary)}"
    text = "\n".join([f"**{headline}** {basis}", "", *(f"- {_sentence(finding)}" for finding in found)]).strip()
    return Verdict(status, reading, tuple(found), headline, text)


def findings(summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0) -> list[Finding]:
    """One finding a task, policy and setting of the route ``steps``, decided together (Holm); the order is :data:`TASKS`'."""
    arm = summary[summary["route"] == "steps"]
    groups = arm.groupby(["task", "policy", "setting"], sort=False, dropna=False)
    found = [_measure(group, reading, resamples, seed) for _, group in groups]
    found.sort(key=lambda f: TASKS.index(f.task) if f.task in TASKS else len(TASKS))
    able = [finding for finding in found if not finding.missing]
    above = statistics.holm([finding.p_above for finding in able])
    below = statistics.holm([finding.p_below for finding in able])
    decided: dict[int, Status] = {}
    for finding, p_above, p_below in zip(able, above, below, strict=True):
        decided[id(finding)] = "supported" if p_above <= ALPHA else "not supported" if p_below <= ALPHA else "undecided"
    return [replace(finding, status=decided.get(id(finding), "undecided")) for finding in found]


def findings_table(
    summary: pd.DataFrame, reading: Reading = "as measured", *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """:func:`findings` as a table: one row a finding, one column a field of :class:`Finding` (``missing`` as one text)."""
    found = findings(summary, reading, resamples=resamples, seed=seed)
    names = [field.name for field in fields(Finding)]
    rows = [[getattr(finding, name) for name in names] for finding in found]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(missing=[", ".join(finding.missing) for finding in found])


def numbers(decision: Verdict, summary: pd.DataFrame) -> dict[str, float | int | str]:
    """Values for the book's sentences, under names every study has; means over a task's findings; NaN where not measured."""
    values: dict[str, float | int | str] = {
        "verdict": decision.headline,
        "status": decision.status,
        "runs": f"{_count(len(summary), 'PPO run')} of the study {', '.join(sorted(set(summary['study'])))}",
        "runs-finished": int((summary["status"] == "ok").sum()),
    }
    for task in TASKS:
        own = [finding for finding in decision.findings if finding.task == task]
        for name, field in (("regret", "regret_after_the_fact"), ("regret-cross-fitted", "regret"), ("spearman", "spearman")):
            values[f"{name}-{task}"] = float(np.mean([getattr(f, field) for f in own])) if own else float("nan")
    return values


def reward_models(runs: pd.DataFrame, reading: Reading = "as measured") -> pd.DataFrame:
    """One row a reward model: rm_seed, rm_step, accuracy, performance (mean over PPO seeds; NaN: no finished run), runs."""
    kind = _accuracy_kind(runs)
    outcome = runs[READINGS[reading]].where(usable(runs, reading))
    table = runs.assign(accuracy=runs[kind], performance=outcome, runs=outcome.notna())
    keep = {"accuracy": "mean", "performance": "mean", "runs": "sum"}
    return table.groupby(["rm_seed", "rm_step"], as_index=False).agg(keep)


def contrasts(runs: pd.DataFrame, reading: Reading = "as measured") -> pd.DataFrame:
    """LM performance minus that with the trajectory's most accurate reward model at the same PPO seed, averaged over PPO seeds.

    One row a complete trajectory (index ``rm_seed``), one column a rank by accuracy: 0 is the most accurate; of equals, the
    later step comes first.
    """
    steps, rows = runs["rm_step"].nunique(), {}
    outcome = runs.assign(outcome=runs[READINGS[reading]].where(usable(runs, reading)))
    for rm_seed, models in reward_models(runs, reading).groupby("rm_seed"):
        models = models.sort_values(["accuracy", "rm_step"], ascending=False)
        own = outcome[outcome["rm_seed"] == rm_seed].pivot_table(
            index="rm_step", columns="ppo_seed", values="outcome", aggfunc="mean"
        )
        paired = own.reindex(models["rm_step"])
        difference = (paired - paired.iloc[0]).mean(axis=1).to_numpy()
        if len(models) == steps and models["accuracy"].notna().all() and np.isfinite(difference).all():
            rows[rm_seed] = difference
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(steps))


def _accuracy_kind(runs: pd.DataFrame) -> str:
    return "rm_accuracy" if runs["rm_accuracy"].notna().any() else "rm_accuracy_noisy"


def _measure(runs: pd.DataFrame, reading: Reading, resamples: int, seed: int) -> Finding:
    """The finding of one task, policy and setting, not decided yet."""
    models = reward_models(runs, reading)
    known = models.dropna(subset=["accuracy", "performance"])
    difference = contrasts(runs, reading)
    counted = models[models["rm_seed"].isin(difference.index)] if len(difference) else known
    accuracies = (counted["accuracy"] / ACCURACY_RESOLUTION).round().groupby(counted["rm_seed"]).nunique()
    rm_seeds, ppo_seeds = len(difference), int(counted["runs"].min()) if len(counted) else 0
    distinct = int(accuracies.min()) if len(accuracies) else 0
    lost = runs["rm_seed"].nunique() - rm_seeds
    wanted = (
        (distinct, MIN_ACCURACIES, "distinct reward-model accuracy", "distinct reward-model accuracies"),
        (rm_seeds, MIN_RM_SEEDS, "complete reward-model trajectory", "complete reward-model trajectories"),
        (ppo_seeds, MIN_PPO_SEEDS, "PPO seed for each reward model", "PPO seeds for each reward model"),
    )
    missing = [f"{n or 'no'} {few if n == 1 else many} ({least} are needed)" for n, least, few, many in wanted if n < least]
    if lost and missing:
        missing.append(f"{_count(lost, 'trajectory', 'trajectories')} left out as incomplete")
    correlation = statistics.spearman(known["accuracy"], known["performance"], known["rm_seed"], resamples=resamples, seed=seed)
    ordered = [group.sort_values(["accuracy", "rm_step"], ascending=False) for _, group in known.groupby("rm_seed")]
    top = pd.DataFrame([group.iloc[0] for group in ordered], columns=known.columns)
    best = pd.DataFrame([group.iloc[int(group["performance"].argmax())] for group in ordered], columns=known.columns)
    nothing = statistics.Regret(statistics.Interval(np.nan, np.nan, np.nan, rm_seeds), np.nan, np.nan)
    fitted = statistics.cross_fitted_regret(difference, margin=SMALLEST_EFFECT) if rm_seeds > 1 else nothing
    p_below = statistics.cross_fitted_regret(difference, margin=EQUIVALENCE_MARGIN).p_below if rm_seeds > 1 else np.nan
    first = runs.iloc[0]
    return Finding(
        task=str(first["task"]),
        policy=str(first["policy"]),
        setting=str(first["setting"]),
        status="undecided",
        missing=tuple(missing),
        planned=len(models),
        reward_models=len(known),
        accuracies=distinct,
        rm_seeds=rm_seeds,
        ppo_seeds=ppo_seeds,
        accuracy_kind=_accuracy_kind(runs),
        majority=float(runs["rm_majority"].mean()),
        start=float(runs["lm_performance_start"].mean()),
        spearman=correlation.estimate,
        spearman_low=correlation.low,
        spearman_high=correlation.high,
        accuracy_top=float(top["accuracy"].mean()),
        performance_top=float(top["performance"].mean()),
        step_top=_steps(top["rm_step"]),
        accuracy_best=float(best["accuracy"].mean()),
        performance_best=float(best["performance"].mean()),
        step_best=_steps(best["rm_step"]),
        regret_after_the_fact=float(np.mean([statistics.regret(g["accuracy"], g["performance"]) for g in ordered] or [np.nan])),
        regret=fitted.interval.estimate,
        low=fitted.interval.low,
        high=fitted.interval.high,
        p_above=fitted.p_above,
        p_below=p_below,
    )


def _steps(steps: pd.Series) -> str:
    return ", ".join(f"{step:.0f}" for step in sorted(set(steps)))


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _headline(status: Status, found: Sequence[Finding]) -> str:
    if not found:
        return "Undecided: the study has no PPO runs against the checkpoints of a reward model (route steps)."
    counts = Counter(finding.status for finding in found)
    share = f"in {counts[status]} of {_count(len(found), 'comparison')} (task and policy)"
    if status == "supported":
        return f"Supported: a less accurate reward model trained a policy better by more than {SMALLEST_EFFECT} {share}."
    if status == "not supported":
        return f"Not supported: choosing the most accurate reward model cost less than {EQUIVALENCE_MARGIN} {share}."
    small = sum(bool(finding.missing) for finding in found)
    tally = f"{counts['supported']} supported, {counts['not supported']} not supported, {counts['undecided']} undecided"
    lacks = f"; {small} {'lacks' if small == 1 else 'lack'} the reward models or seeds that a decision needs" if small else ""
    return (
        "Undecided: these runs do not tell whether a less accurate reward model trains a better policy than the most accurate "
        f"one ({_count(len(found), 'comparison')} of task and policy: {tally}{lacks})."
    )


def _sentence(f: Finding) -> str:
    where = ", ".join(filter(None, (f.policy, f.setting)))
    if not f.reward_models:
        return f"*{f.task}* ({where}): **undecided**; no run against a measured reward model finished."
    several = f.rm_seeds > 1
    models = _count(f.reward_models, "reward model")
    if f.reward_models < f.planned:
        models += f" of {f.planned} (the others have no accuracy or no finished run, and are left out of what follows)"
    kind = "accuracy" if f.accuracy_kind == "rm_accuracy" else "accuracy against the annotators' labels"
    interval = f" (95 % interval {f.spearman_low:.2f} to {f.spearman_high:.2f})" if np.isfinite(f.spearman_low) else ""
    rho = f"is {f.spearman:.2f}{interval}" if np.isfinite(f.spearman) else "is not defined"
    mean = " on average" if several else ""
    same = f.step_best == f.step_top and f.regret_after_the_fact == 0
    top = f"{f.accuracy_top:.3f}{mean}, step {f.step_top}"
    most = f"The most accurate one ({top}) led to an LM performance of {f.performance_top:.3f}"
    best = (
        ", the best of all"
        if same
        else f", the best one after the fact ({f.accuracy_best:.3f}{mean}, step {f.step_best}) to {f.performance_best:.3f}: "
        f"a regret of {f.regret_after_the_fact:.3f}, which being a maximum of noisy values overstates"
    )
    low = f" {'Their' if several else 'Its'} accuracy is not above the majority class ({f.majority:.3f})."
    weak = low if not same and f.accuracy_best <= f.majority else ""
    fitted = (
        f" Selected on other trajectories, the regret is {f.regret:.3f} (95 % interval {f.low:.3f} to {f.high:.3f})."
        if several
        else ""
    )
    lacks = f" Too little for a decision: {_join(f.missing)}." if f.missing else ""
    return (
        f"*{f.task}* ({where}): **{f.status}**. Spearman's correlation of {kind} and LM performance over "
        f"{models} {rho}. {most}{best} (initial policy: {f.start:.3f}).{weak}{fitted}{lacks}"
    )


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
