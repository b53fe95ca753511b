"""What the published setting leaves open: each choice against the study's own, run by run. Imports no torch.

Two questions are kept apart. Does a choice raise or lower LM performance? And does it change what accuracy does, that is, how
the most accurate reward model of a trajectory stands to its others? Only the second bears on the paradox.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from paradox_utils import config, files
from paradox_utils.analysis import statistics
from paradox_utils.analysis.tables import READINGS, accuracy_kind, count, settings_of, usable
from paradox_utils.analysis.verdict import EQUIVALENCE_MARGIN
from paradox_utils.study import plan

BASE = "ablation-base"
LEVEL = 0.05  # of a change called clear, over all tests of one question
OUTCOME = READINGS["as measured"]
TRAJECTORY = ["task", "policy", "rm_seed"]
CONTRASTS = {"slope": "the least accurate", "lead": "the best of the others"}  # the most accurate, minus this
OWN = "the study's own"  # of the base, where no plan says its value


@dataclass(frozen=True)
class Ablation:
    """A question, and the arms that answer it beside :data:`BASE` (arm → its setting in words).

    Empty words are values of ``parameter``, which :func:`named` reads from a study.
    """

    title: str
    base: str
    arms: dict[str, str]
    parameter: str = ""


ABLATIONS = (
    Ablation("Arg-max or probability rewards", "arg-max", {"ablation-probability": "probability"}),
    Ablation("Sum or mean over segments", "sum", {"ablation-mean": "mean"}),
    Ablation("Rewards normalised for each reward model", "not normalised", {"ablation-normalised": "normalised"}),
    Ablation("KL coefficient", "", {"ablation-kl-low": "", "ablation-kl-high": ""}, "kl_coefficient"),
    Ablation(
        "KL estimator",
        "of the distribution sampled",
        {
            "ablation-kl-estimator": "of the untempered softmax, as published",
            "ablation-published-sampling": "as published, with its sampling from the likeliest tokens",
        },
    ),
)


def named(summary: pd.DataFrame) -> tuple[Ablation, ...]:
    """:data:`ABLATIONS` with the words that are values: an arm's from its ``setting``, the base's from the study's plan."""
    settings = summary.drop_duplicates("arm").set_index("arm")["setting"]

    def words(arm: str, parameter: str) -> str:
        return settings_of(settings.get(arm, "")).get(parameter, arm.removeprefix("ablation-").replace("-", " "))

    found = []
    for one in ABLATIONS:
        arms = {arm: text or words(arm, one.parameter) for arm, text in one.arms.items()}
        found.append(replace(one, base=one.base or _planned(str(summary["study"].iloc[0]), one.parameter), arms=arms))
    return tuple(found)


def _planned(name: str, parameter: str) -> str:
    """The base's value of a parameter in the study of this name; :data:`OWN` where the project has no such study."""
    path = files.resolve(f"configs/{name}.yaml")
    runs = plan.plan(config.load_study(path)) if path.is_file() else []
    base = (run for run in runs if run.stage == "ppo" and any(labels["arm"] == BASE for labels in run.all_labels))
    return next((str(run.parameters[parameter]) for run in base), OWN)


def pairs(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a run of an ablation: its ``difference`` in LM performance from the base run of its reward model and seed.

    ``planned``: how many reward models the base is to have in the run's trajectory; ``total``: in all trajectories.
    """
    keys = [*TRAJECTORY, "rm_step", "ppo_seed"]
    planned = summary[summary["arm"].str.startswith("ablation-")]
    kind = accuracy_kind(planned)
    steps = planned[planned["arm"] == BASE].groupby(TRAJECTORY)["rm_step"].nunique().rename("planned").reset_index()
    runs = planned[usable(planned)]
    base = runs[runs["arm"] == BASE][[*keys, OUTCOME]].rename(columns={OUTCOME: "base"})
    table = runs.merge(base, on=keys).merge(steps, on=TRAJECTORY, how="left")
    return table.assign(difference=table[OUTCOME] - table["base"], accuracy=table[kind], total=steps["planned"].sum())


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and trajectory (rows of :func:`pairs`) whose planned reward models, two or more, all have a pair.

    ``slope``: LM performance with the most accurate reward model minus that with the least accurate one; ``lead``: minus the
    best of all others, chosen after the fact, and so too low by what a maximum of noisy runs adds, in the arm and in its base.
    ``base slope`` and ``base lead`` are those of the base, ``slope change`` and ``lead change`` what the arm adds to them.
    ``first``, ``base first``: whether no other reward model trained a better policy.
    """
    rows: list[dict[str, object]] = []
    for (arm, *trajectory), runs in table.dropna(subset=["accuracy"]).groupby(["arm", *TRAJECTORY], sort=False):
        models = runs.groupby("rm_step")[["accuracy", OUTCOME, "base", "planned"]].mean().sort_values("accuracy", kind="stable")
        if len(models) < max(2, models["planned"].iloc[0]):
            continue
        row: dict[str, object] = {"arm": arm} | dict(zip(TRAJECTORY, trajectory, strict=True))
        for prefix, column in (("", OUTCOME), ("base ", "base")):
            *others, top = models[column]
            row |= {f"{prefix}slope": top - others[0], f"{prefix}lead": top - max(others)}
            row[f"{prefix}first"] = bool(top - max(others) >= -1e-12)
        rows.append(row | {f"{name} change": float(row[name]) - float(row[f"base {name}"]) for name in CONTRASTS})
    sides = [f"{prefix}{name}" for prefix in ("", "base ") for name in (*CONTRASTS, "first")]
    return pd.DataFrame(rows, columns=["arm", *TRAJECTORY, *sides, *(f"{name} change" for name in CONTRASTS)])


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm. Of LM performance: its mean, the mean ``difference`` from the base, its Student 95 % interval over
    trajectories, and ``p`` of no difference. Of what accuracy does (see :func:`contrasts`): mean ``slope`` and ``lead``, their
    ``change`` from the base with interval and p, and in how many of the ``trajectories`` the most accurate one came first.

    p is two-sided, corrected (Holm) for all tests of its question: one an arm for LM performance, two an arm for what accuracy
    does. It is NaN where fewer than two trajectories can be compared. ``KL`` is NaN where an arm's estimator is not the base's:
    the two estimate different quantities.
    """
    table = table.dropna(subset=["accuracy"])
    traced = contrasts(table)
    rows: list[dict[str, object]] = []
    for arm, own in table.groupby("arm", sort=False):
        shift = _tested(own.groupby(TRAJECTORY)["difference"].mean())
        models = own.groupby(TRAJECTORY)["rm_step"].nunique().sum()
        row = {"arm": arm, "runs": len(own), "models": models, "planned": own["total"].iloc[0]}
        row |= {"LM performance": own[OUTCOME].mean(), "difference": shift[0], "low": shift[1], "high": shift[2], "p": shift[3]}
        full = traced[traced["arm"] == arm]
        for name in CONTRASTS:
            change = dict(zip(("", " low", " high", " p"), _tested(full[f"{name} change"]), strict=True))
            row |= {name: full[name].mean(), f"base {name}": full[f"base {name}"].mean()}
            row |= {f"{name} change{end}": value for end, value in change.items()}
        row |= {"most accurate first": int(full["first"].sum()), "base first": int(full["base first"].sum())}
        biased = "log_probabilities" in settings_of(str(own["setting"].iloc[0]))
        row |= {"trajectories": len(full), "KL": np.nan if biased else own["kl_final"].mean()}
        rows.append(row | {"length": own["greedy_length_final"].mean()})
    changes = [f"{name} change{end}" for name in CONTRASTS for end in ("", " low", " high", " p")]
    levels = [f"{prefix}{name}" for name in CONTRASTS for prefix in ("", "base ")]
    names = ["arm", "runs", "models", "planned", "LM performance", "difference", "low", "high", "p", *levels, *changes]
    names += ["most accurate first", "base first", "trajectories", "KL", "length"]
    found = pd.DataFrame(rows, columns=names).set_index("arm")
    of_changes = [f"{name} change p" for name in CONTRASTS]
    found.loc[found.index == BASE, ["p", *of_changes]] = np.nan
    for question in (["p"], of_changes):
        tests = [(arm, name) for arm in found.index for name in question if np.isfinite(found.loc[arm, name])]
        for test, p in zip(tests, statistics.holm([float(found.loc[test]) for test in tests]), strict=True):
            found.loc[test] = p
    return found


def _tested(values: pd.Series) -> tuple[float, float, float, float]:
    """Mean of independent values, its Student 95 % interval, and the two-sided p of 0; NaN where they are too few."""
    x = np.round(np.asarray(values, dtype=float), 12)  # differences of equal scores leave rounding, which is no spread
    if not len(x):
        return (float("nan"),) * 4
    mean = statistics.mean_interval(x)
    p = statistics.two_sided(statistics.p_greater(x, 0.0), statistics.p_greater(-x, 0.0)) if len(x) > 1 else float("nan")
    return mean.estimate, mean.low, mean.high, p


def sentence(ablation: Ablation, found: pd.DataFrame) -> str:
    """What one ablation changed, and what cannot be told, in words (Markdown); ``found`` as from :func:`effects`."""
    parts = []
    for arm, words in ablation.arms.items():
        if arm not in found.index:
            parts.append(f"*{words}* has no finished run to compare.")
            continue
        row = found.loc[arm]
        change = ("raises" if row["difference"] > 0 else "lowers") if row["p"] <= LEVEL else "does not clearly change"
        some = f"; {row['models']:.0f} of {row['planned']:.0f} reward models" if row["models"] < row["planned"] else ""
        by = f"by {row['difference']:+.3f}, {_interval(row['low'], row['high']) or 'one trajectory'}{some}"
        parts.append(f"*{words}* {change} LM performance ({by}). {_accuracy(row, ablation)}")
    return f"**{ablation.title}.** Against *{ablation.base}*: {' '.join(parts)}"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {low:+.3f} to {high:+.3f}" if np.isfinite(low) else ""


def _accuracy(row: pd.Series, ablation: Ablation) -> str:
    """Whether an arm (a row of :func:`effects`) changes what accuracy does: what is told, then the numbers."""
    n = int(row["trajectories"])
    if not n:
        return "What accuracy does cannot be compared: in no trajectory has every reward model a finished run."
    clear = {name: row[f"{name} change p"] <= LEVEL for name in CONTRASTS}
    ends = {name: (row[f"{name} change low"], row[f"{name} change high"]) for name in CONTRASTS}
    small = {name: max(-low, high) < EQUIVALENCE_MARGIN for name, (low, high) in ends.items()}
    if any(clear.values()):
        told = "It changes what accuracy does"
    elif all(small.values()):
        told = f"It does not change what accuracy does by {EQUIVALENCE_MARGIN} or more"
    else:
        told = f"Whether it changes what accuracy does cannot be told from {count(n, 'trajectory', 'trajectories')}"
    parts = []
    for name, other in CONTRASTS.items():
        low, high = ends[name]
        if clear[name]:
            says = "clear"
        elif small[name]:
            says = f"smaller than {EQUIVALENCE_MARGIN}"
        elif low > 0 or high < 0:
            says = "not clear among so many comparisons"
        else:
            says = "either sign is possible" if np.isfinite(low) else ""
        notes = ", ".join(filter(None, [_interval(low, high), says])) or "no interval"
        was = f"from {row[f'base {name}']:+.3f} to {row[name]:+.3f}"
        parts.append(f"lead over {other} goes {was}, a change of {row[f'{name} change']:+.3f} ({notes})")
    return (
        f"{told}: the most accurate reward model's {', and its '.join(parts)}. It trains the best policy in "
        f"{row['most accurate first']:.0f} of {count(n, 'trajectory', 'trajectories')} "
        f"(*{ablation.base}*: {row['base first']:.0f})."
    )
