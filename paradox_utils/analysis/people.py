"""What reward models pick among responses that people graded: people are the truth here, and no policy is trained.

A *pick* is a reward model's best-scored response to a question; the outcome is the share of questions whose pick people call
good. Reads the tables ``reward_models``, ``picks`` and ``sets`` of a study; imports no torch. The measures of accuracy and
outcome are those of PPO studies: :func:`load` puts the checkpoints in the form of their summary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from paradox_utils import config
from paradox_utils.analysis import lottery, outcomes, statistics, tables, teachers, verdict
from paradox_utils.analysis.phrases import count, listed
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.tables import AnalysisError
from paradox_utils.analysis.verdict import Finding, Status

OUTCOME, ACCURACY = outcomes.READINGS["as measured"], "rm_accuracy_noisy"
HELDOUT, OTHER = "heldout", "evaluator"  # parts of the questions: accuracy is measured on the first, picks on the other if any
MODEL = ["policy", "task", "arm", "setting", "rm_step"]  # what trainings of one recipe share; the policy is the data set
FAMILY = MODEL[:3]
MADE_UP = "people-quick"  # the study of the made-up samples
OFFICIAL = "official"  # the arm that learns from the official training questions of SemEval-2016 alone
# What may predict the picks besides accuracy, all of held-out questions.
WHY = {
    ACCURACY: "accuracy",
    "alike": "accuracy on pairs alike in length",
    "near": "accuracy, good against in between",
    "top": "picks on held-out questions",
    "rm_calibration_error": "expected calibration error",
    "length_correlation": "correlation of score and length",
    "agreement": "agreement with other trainings",
}
# What of a setting is no part of a recipe: which questions are held out, and at which steps it is looked at.
APART = re.compile(r"(?:fold|checkpoint_steps)=(?:\[.*?\]|\w+)(?:, )?")
BASELINES = ("random", "longest", "place", "best", "questions")


@dataclass(frozen=True)
class People:
    """Studies of judged sets, by data set. ``models``: a row a checkpoint, in the form of a PPO study's summary; ``picks``: a
    row a checkpoint and question; ``sets``: a row a question."""

    models: pd.DataFrame
    picks: pd.DataFrame
    sets: pd.DataFrame


COLUMNS = (*tables.LABELS, *tables.NUMBERS, "arm", "model", outcomes.VALIDATION, *WHY)
NOTHING = People(
    pd.DataFrame(columns=list(dict.fromkeys(COLUMNS))),
    *(pd.DataFrame(columns=["id", "policy", "model", *names]) for names in (tables.PICKS, tables.SETS)),
)


def load(folders: Mapping[str, Path | str]) -> People:
    """The studies of the named data sets; without any, tables without rows.

    Raises as :func:`tables.read_table`, and where a checkpoint has no picks, or there is no checkpoint at all.
    """
    parts = [_load(name, Path(folder)) for name, folder in folders.items()] or [NOTHING]
    return People(
        *(pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in ("models", "picks", "sets"))
    )


def _load(name: str, folder: Path) -> People:
    checkpoints = tables.load_checkpoints(folder).dropna(subset=["arm"])  # an evaluator has none
    picks, sets = tables.load_picks(folder), tables.load_sets(folder)
    if checkpoints.empty or picks.empty or sets.empty:
        raise AnalysisError(f"{folder}: holds no picks of reward models among judged sets; {tables.AGAIN}")
    checkpoints, picks = (table.assign(model=_model(name, table)) for table in (checkpoints, picks))
    if lost := sorted(set(checkpoints["model"]) - set(picks["model"])):
        raise AnalysisError(f"{folder}: picks.csv lacks {lost[0]}, which reward_models.csv has; {tables.AGAIN}")
    picks = picks[picks["model"].isin(checkpoints["model"])]
    return People(_models(name, checkpoints, picks), picks.assign(policy=name), sets.assign(policy=name))


def _model(name: str, table: pd.DataFrame) -> pd.Series:
    return name + " " + table["id"] + "-" + table["step"].astype(int).astype(str)


def _models(name: str, checkpoints: pd.DataFrame, picks: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints in the form of a summary: LM performance is the share of good picks, on held-out questions (validation) and,
    where there are any, on others. A pick has no seed of its own, so its training's stands for a PPO seed."""
    heldout = picks[picks["part"] == HELDOUT].groupby("model")
    outcome = picks[picks["part"] == outcome_part(picks)].groupby("model")
    apart = outcome_part(picks) != HELDOUT
    counted, measured = heldout[list(tables.PAIRS)].sum(), pd.DataFrame({"top": heldout["pick"].mean()})
    for kind in ("alike", "near"):
        measured[kind] = counted[f"{kind}_right"] / counted[f"{kind}_compared"].replace(0, np.nan)
    measured["length_correlation"] = heldout["length_correlation"].mean()
    measured[OUTCOME] = outcome["pick"].mean()
    measured[outcomes.VALIDATION] = heldout["pick"].mean() if apart else np.nan
    measured["average_precision"] = heldout["average_precision"].mean()
    known = checkpoints.rename(columns={"step": "rm_step"}).assign(
        policy=name, status="ok", reason="", ended=True, ppo_seed=checkpoints["rm_seed"], id=checkpoints["model"]
    )
    known = known.rename(columns={one: f"rm_{one}" for one in ("accuracy", "accuracy_noisy", "majority", "calibration_error")})
    known = known.join(measured, on="model").fillna({"setting": ""})
    known["setting"] = known["setting"].str.replace(APART, "", regex=True).str.rstrip(", ")
    known["agreement"] = _agreement(known, picks)
    return known.reindex(columns=list(dict.fromkeys((*COLUMNS, *known))))


def outcome_part(picks: pd.DataFrame) -> str:
    """The part of the questions on which picks count: another than accuracy is measured on, where there is one."""
    return OTHER if (picks["part"] == OTHER).any() else HELDOUT


def _agreement(models: pd.DataFrame, picks: pd.DataFrame) -> pd.Series:
    """The share of held-out questions on which a checkpoint's pick is good if and only if that of another training of the same
    recipe is, averaged over those trainings; NaN where none has the same questions."""
    heldout = picks[picks["part"] == HELDOUT].pivot(index="model", columns="question", values="pick")
    found = pd.Series(np.nan, index=models.index)
    for _, own in models.groupby(MODEL, dropna=False):
        rows = heldout.loc[own["model"]].dropna(axis=1).to_numpy()
        if len(rows) > 1 and rows.shape[1]:
            same = (rows[:, None] == rows[None]).mean(axis=2)
            found[own.index] = (same.sum(axis=1) - 1) / (len(rows) - 1)
    return found


def named(policy: str, task: str) -> str:
    """What a data set with a task is called: its tasks are told apart where it has several."""
    return policy if task in config.GRADED else f"{policy} ({task})"


def made_up(people: People) -> str:
    """Which data sets are made-up samples, in words; empty if none is."""
    names = list(people.models.loc[people.models["study"] == MADE_UP, "policy"].unique())
    if not names:
        return ""
    questions = people.sets["policy"].isin(names).sum()
    return (
        f"{listed(names)} here is a made-up file of {questions} questions, read by encoders that know few of its words: what "
        "it shows is no result about people."
    )


def main(models: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints that the question is asked of: without those for the comparison with published scores."""
    return models[models["arm"] != OFFICIAL]


# --- what they pick -----------------------------------------------------------------------------------------------------------


def baselines(people: People) -> pd.DataFrame:
    """One row a data set: the share of questions whose pick is good at ``random``, of the ``longest`` response, of the one at
    the best ``place`` of the source (a place of the thread, or one system), and at ``best`` possible; over the ``questions`` on
    which picks count."""
    rows = {}
    for name, picks in people.picks.groupby("policy", sort=False):
        asked = picks.loc[picks["part"] == outcome_part(picks), "question"].unique()
        own = people.sets[people.sets["policy"] == name].set_index("question").loc[asked]
        random, best = own["good"] / own["responses"], own["good"] > 0
        rows[name] = {"random": random.mean(), "longest": own["longest"].mean(), "place": own["place"].mean()}
        rows[name] |= {"best": best.mean(), "questions": len(own)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*BASELINES])


def shares(people: People, *, resamples: int, seed: int) -> pd.DataFrame:
    """One row a recipe (:data:`MODEL`): mean ``accuracy`` of its trainings, and the ``share`` of good picks with a 95 %
    interval for new trainings and new questions. Where trainings have questions of their own (folds), they carry them along."""
    rows = []
    for key, own in main(people.models).groupby(MODEL, sort=False, dropna=False):
        scores = _scores(people, own)
        if scores.isna().any(axis=None):
            found = statistics.mean_interval(own[OUTCOME])
        else:
            weights = np.ones(scores.shape)
            found = statistics.two_way_bootstrap(
                scores, own["rm_seed"], weights=weights, resamples=resamples, seed=seed, bounds=(0.0, 1.0)
            )
        names = dict(zip(MODEL, key, strict=True)) | {"route": own["route"].iloc[0], "accuracy": own[ACCURACY].mean()}
        rows.append(names | {"share": found.estimate, "low": found.low, "high": found.high, "trainings": len(own)})
    return pd.DataFrame(rows, columns=[*MODEL, "route", "accuracy", "share", "low", "high", "trainings"])


def _scores(people: People, models: pd.DataFrame) -> pd.DataFrame:
    """Whether each pick is good, [models, questions], in the order of ``models``."""
    picks = people.picks[people.picks["model"].isin(models["model"])]
    table = picks[picks["part"] == outcome_part(picks)].pivot(index="model", columns="question", values="pick")
    return table.loc[models["model"]]


def findings(people: People) -> tuple[Finding, ...]:
    """The book's rule (:data:`verdict.RULE`) on each data set, task and route; decided together."""
    return verdict.verdict(main(people.models), resamples=200).findings


def answer(found: Sequence[Finding]) -> str:
    """What the comparisons say together, and whether data sets disagree, in words."""
    if not found:
        return "No study tells yet what people think of the answers that reward models pick."
    supported, against, _ = counts = _counts(found)
    opening = "Yes" if supported == len(found) else "In part" if supported else "No" if against == len(found) else ""
    opening = opening or ("No, as far as these studies can tell" if against else "These studies cannot tell")
    bent = sum(one.inverted_u for one in found)
    return (
        f"{opening}. Of {count(len(found), 'comparison')} by data set, task and route, {_told(*counts)}. "
        f"{bent or 'None'} {'has' if bent < 2 else 'have'} an inverted U. {_apart(found)}"
    ).strip()


def brief(found: Sequence[Finding]) -> str:
    """The same for the first page, in a sentence."""
    if not found:
        return "Studies of what people think of reward models' picks were designed before any result, and are not recorded yet."
    names = listed(list(dict.fromkeys(one.of.policy for one in found)))
    told = _told(*_counts(found))
    return f"Where people judge the answers that reward models pick ({names}), of {count(len(found), 'comparison')} {told}."


def _counts(found: Sequence[Finding]) -> tuple[int, int, int]:
    """How many are supported, not supported, undecided."""
    supported, against, undecided = (sum(one.status == status for one in found) for status in get_args(Status))
    return supported, against, undecided


def _told(supported: int, against: int, undecided: int) -> str:
    found = [count(n, "finds", "find") if n else "none finds" for n in (supported, against)]
    return (
        f"{found[0]} that a less accurate reward model picks better than the most accurate one (by "
        f"more than {verdict.MARGIN} of the questions), {found[1]} that none does, and "
        f"{count(undecided, 'is', 'are') if undecided else 'none is'} undecided"
    )


def _apart(found: Sequence[Finding]) -> str:
    """Which data sets disagree: on one a route supports the paper, on another one route speaks against it and none for it."""
    statuses: dict[str, set[str]] = {}
    for one in found:
        statuses.setdefault(one.of.policy, set()).add(one.status)
    for_it = [name for name, known in statuses.items() if "supported" in known]
    against = [name for name, known in statuses.items() if name not in for_it and "not supported" in known]
    if len(statuses) < 2:
        return ""
    if for_it and against:
        return (
            f"The data sets disagree: a less accurate one picks better on {listed(for_it)}, and none does on {listed(against)}."
        )
    return "The data sets do not contradict each other."


def compared(found: Sequence[Finding]) -> pd.DataFrame:
    """The comparisons as a table: regret, correlation, shape and status."""
    columns = ["data", "route", *_names("regret"), *_names("ρ"), "p, two lines", "accuracies", "trainings", "status"]
    rows = [
        {
            "data": named(one.of.policy, one.of.task),
            "route": one.of.arm,
            **_ends("regret", one.of.regret),
            **_ends("ρ", one.of.spearman),
            "p, two lines": one.p_two_lines,
            "accuracies": one.of.counts.accuracies,
            "trainings": one.of.counts.rm_seeds,
            "status": one.status,
        }
        for one in found
    ]
    return pd.DataFrame(rows, columns=columns)


def _ends(name: str, of: Interval) -> dict[str, float]:
    return dict(zip(_names(name), (of.estimate, of.low, of.high), strict=True))


def _names(name: str) -> tuple[str, str, str]:
    return name, f"{name} low", f"{name} high"


def reached(shares: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """What the most accurate recipe of each data set and task picks (rows of :func:`shares`), beside the :func:`baselines`."""
    own = shares.loc[shares.groupby(["policy", "task"], sort=False)["accuracy"].idxmax()]
    table = own.join(baselines, on="policy").assign(data=list(map(named, own["policy"], own["task"])))
    return table.set_index("data")[["accuracy", "share", "low", "high", *BASELINES]]


def beside_longest(found: pd.DataFrame) -> str:
    """Whether the picks of :func:`reached` are better than a rule that reads nothing, in words."""
    if found.empty:
        return ""
    sides = {"better": found["low"] > found["longest"], "worse": found["high"] < found["longest"]}
    words = [f"{side} on {listed(list(found.index[of]))}" for side, of in sides.items() if of.any()]
    return "Beside always taking the longest answer, the picks of the most accurate reward models are " + (
        f"{', and '.join(words)}, beyond chance." if words else "neither clearly better nor clearly worse."
    )


# --- the lottery --------------------------------------------------------------------------------------------------------------


def worse(people: People) -> pd.DataFrame:
    """In how many trainings the most accurate reward model picks worse than a moderate one, a row a family (:data:`FAMILY`).

    Moderate is the middle rank of the training's accuracies. ``worse``: trainings in which its picks are good more often;
    ``beyond chance``: those with an exact one-sided McNemar test, paired by question, at p ≤ 0.05 corrected (Holm) for the
    trainings of the family; ``better``: the same the other way round. ``gap``: mean share of the most accurate less that of the
    moderate, with Student's interval over trainings.
    """
    rows = []
    for key, own in main(people.models).groupby(FAMILY, sort=False):
        pairs = [_ends_of(models) for _, models in own.groupby("rm_seed") if len(models) > 2]
        if not pairs:
            continue
        gaps = [_scores(people, pair).diff().iloc[-1].to_numpy(dtype=int) for pair in pairs]
        p = {sign: statistics.holm([lottery.sign_flip(sign * gap, two_sided=False) for gap in gaps]) for sign in (-1, 1)}
        gap = statistics.mean_interval([values.mean() for values in gaps])
        rows.append(
            {"data": named(*key[:2]), "route": key[2]}
            | {"trainings": len(gaps), "worse": sum(values.sum() < 0 for values in gaps)}
            | {"beyond chance": sum(one <= lottery.LEVEL for one in p[-1]), "better": sum(one <= lottery.LEVEL for one in p[1])}
            | _ends("gap", gap)
        )
    return pd.DataFrame(rows, columns=["data", "route", "trainings", "worse", "beyond chance", "better", *_names("gap")])


def _ends_of(models: pd.DataFrame) -> pd.DataFrame:
    """The moderate and the most accurate reward model of a training; of equals the later step is the more accurate."""
    ranked = models.sort_values([ACCURACY, "rm_step"])
    return ranked.iloc[[len(ranked) // 2, -1]] if len(ranked) % 2 else ranked.iloc[[len(ranked) // 2 - 1, -1]]


# --- why ----------------------------------------------------------------------------------------------------------------------


def why(people: People, *, resamples: int, seed: int) -> pd.DataFrame:
    """What of a reward model goes with good picks, a row a measure of :data:`WHY`: Pearson's ``correlation`` with the share,
    and its ``coefficient`` beside accuracy in least squares, with 95 % intervals over trainings; all standardised within data
    set and task."""
    models = main(people.models)
    group = models["policy"] + ", " + models["task"]
    table = models.assign(gain=models[OUTCOME], group=group, cluster=group + " " + models["rm_seed"].astype(str))
    found = teachers.correlations(table, resamples=resamples, seed=seed, measures=tuple(WHY))
    found = found[found["task"] == "all"].set_index("measure")[["correlation", "low", "high", "pairs"]]
    beside = {}
    for name in [name for name in found.index if name != ACCURACY]:
        z = teachers.standardised(table, [ACCURACY, name, "gain"]).join(table[["group", "cluster"]]).dropna()
        if z["cluster"].nunique() > 3 and (z[[ACCURACY, name]].std() > 0).all():
            row = teachers.regression(z, name, [ACCURACY, name]).iloc[-1]
            beside[name] = row[["coefficient", "low", "high"]].to_list()
    columns = ["coefficient", "its low", "its high"]
    return found.join(pd.DataFrame.from_dict(beside, "index", columns=columns).astype(float)).rename(index=WHY)


# --- what people said ---------------------------------------------------------------------------------------------------------


def judged(people: People) -> pd.DataFrame:
    """What people said, a row a data set: counts, shares, biases, and how often a second grading says the same."""
    columns = ["questions", "responses", "good", "in between", "no good one", "longest good", "best place good", "repeated"]
    rows = {}
    for name, own in people.sets.groupby("policy", sort=False):
        responses, twice = own["responses"].sum(), own["regraded"].sum()
        rows[name] = {
            "questions": len(own),
            "responses": responses,
            "good": own["good"].sum() / responses,
            "in between": own["between"].sum() / responses,
            "no good one": (own["good"] == 0).mean(),
            "longest good": own["longest"].mean(),
            "best place good": own["place"].mean(),
            "repeated": (own["copies"] > 1).sum(),
            "graded twice": twice,
            "the same way": own["same"].sum() / twice if twice else np.nan,
        }
    columns += ["graded twice", "the same way"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("data")


def noise(said: pd.DataFrame) -> str:
    """Repeated questions and second grades (rows of :func:`judged`), in words."""
    words = [
        f"{row['repeated']:.0f} questions of {name} stand in its files more than once; of {row['graded twice']:,.0f} answers "
        f"that were graded there twice {row['the same way']:.1%} got the same grade."
        for name, row in said[said["graded twice"] > 0].iterrows()
    ]
    return " ".join(words)
