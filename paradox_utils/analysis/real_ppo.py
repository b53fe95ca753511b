"""PPO of a pretrained policy against reward models of answers that people graded, by the rule of ``configs/semeval-t5.yaml``.

Scores are an evaluator's on the scale of people: 0 where it puts answers that they call bad, 1 where it puts those they call
good (:mod:`.gap`, which has the rule's third part). Nobody judged what the policies wrote. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from paradox_utils.analysis import gap, lottery, outcomes, statistics, tables
from paradox_utils.analysis.comparison import UNKNOWN
from paradox_utils.analysis.phrases import count, estimate
from paradox_utils.analysis.statistics import Interval
from paradox_utils.analysis.verdict import Status
from paradox_utils.data.tasks import TASKS

STEPS, PAIR = (
    "steps",
    ("early", "late"),
)  # arms: what is decided on, and two reward models of equal accuracy, which is described
MATTERS = 0.1  # a regret, of people's distance from bad to good
TRAININGS = 3  # whose mean decides; fewer decide nothing
START, FINAL = "lm_performance_start", outcomes.READINGS["as measured"]
SCORES = (START, FINAL, outcomes.VALIDATION)
# What is measured of a policy's greedy answers, by column of a summary without its ending.
SHAPES = {
    "lm_performance": "score",
    "greedy_length": "length",
    "greedy_repetition": "repetition",
    "distinct_2": "word pairs",
    "rouge_l": "ROUGE-L",
    "unfinished": "unfinished",
}
BEFORE = "before PPO"
NOT_YET = "PPO of a pretrained policy on answers that people graded waits for its runs."


@dataclass(frozen=True)
class RealPPO:
    """``runs``: a row a PPO run and arm, as in a summary, with ``accuracy`` by people's labels, how much more a response was
    paid in the end (``reward``, in deviations), and :data:`SCORES` on the scale of people; ``said``: rows of :func:`gap.means`;
    ``responses``: answers to a few test questions."""

    runs: pd.DataFrame
    said: pd.DataFrame
    responses: pd.DataFrame


def load(folder: Path | str) -> RealPPO:
    """A study of PPO on answers that people graded; raises as :func:`tables.load_summary`, :func:`gap.means` and
    :func:`gap.people`."""
    summary, curves = tables.load_summary(folder), tables.load_curves(folder, "reward_mean").sort_values("update")
    said = gap.means(tables.load_gap(folder), summary)
    scores = {column: gap.on_peoples_scale(summary[column], said) for column in SCORES}
    paid = curves.groupby("id")["reward_mean"].agg(["first", "last"])
    rise = summary["id"].map(paid["last"] - paid["first"]) / summary["task"].map(lambda task: TASKS[task].reward_size)
    scores |= {"reward": rise, "accuracy": summary["rm_accuracy_noisy"].astype(float)}
    return RealPPO(summary.assign(**scores), said, tables.load_responses(folder))


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the arm that the rule is about."""
    return table[table["arm"] == STEPS]


# --- the rule -----------------------------------------------------------------------------------------------------------------


def regret(runs: pd.DataFrame) -> tuple[Interval, Status]:
    """The test score of the rank of accuracy that did best on validation in the other trainings, less that of the most accurate
    one: mean and Student's interval over trainings; and what it decides.

    Above 0 is *supported* if the interval is above 0 and its estimate above :data:`MATTERS`, *not supported* if the interval is
    below that; else, and with fewer than :data:`TRAININGS` whole trainings, *undecided*.
    """
    own = steps(runs)
    paid, validated = outcomes.contrasts(own), outcomes.contrasts(own, column=outcomes.VALIDATION)
    whole = paid.index.intersection(validated.index)
    if len(whole) < 2:
        return UNKNOWN, "undecided"
    found = statistics.mean_interval(statistics.payments(paid.loc[whole], validated.loc[whole]))
    if found.units < TRAININGS:
        return found, "undecided"
    if found.low > 0 and found.estimate > MATTERS:
        return found, "supported"
    return found, "not supported" if found.high < MATTERS else "undecided"


def correlation(runs: pd.DataFrame) -> tuple[float, float, int]:
    """Spearman's correlation of accuracy and the change of the test score over all runs, its exact one-sided p by permuting
    accuracies within trainings, and the number of runs."""
    own = _done(runs)
    change = own[FINAL] - own[START]
    rho = statistics.rank_correlation(own["accuracy"], change)
    return rho, statistics.p_rank_correlation(own["accuracy"], change, own["rm_seed"]), len(own)


def _done(runs: pd.DataFrame) -> pd.DataFrame:
    own = steps(runs)
    return own[outcomes.usable(own)].dropna(subset=["accuracy", START])


# --- what is described --------------------------------------------------------------------------------------------------------


def by_rank(runs: pd.DataFrame) -> pd.DataFrame:
    """The policy before PPO, then a row a rank of accuracy from the lowest up, averaged over trainings: ``accuracy``, ``KL``,
    ``reward`` and :data:`SHAPES` of greedy answers to test questions."""
    own = _done(runs).sort_values(["accuracy", "rm_step"])
    own = own.assign(rank=own.groupby("rm_seed").cumcount() + 1)
    first, ends = own[[f"{name}_start" for name in SHAPES]].mean(), _ends(own).groupby(own["rank"]).mean()
    before = first.set_axis(list(SHAPES.values())).rename(BEFORE).to_frame().T
    return pd.concat([before, ends]).reindex(columns=ends.columns).rename_axis("reward model")


def pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a training and reward model of :data:`PAIR`: its ``step``, and what :func:`by_rank` has; of trainings with both."""
    own = runs[runs["arm"].isin(PAIR) & outcomes.usable(runs)].sort_values(["rm_seed", "arm"])
    own = own[own.groupby("rm_seed")["arm"].transform("nunique") == len(PAIR)]
    return _ends(own).assign(step=own["rm_step"]).set_index([own["rm_seed"].rename("training"), own["arm"].rename("kind")])


def _ends(runs: pd.DataFrame) -> pd.DataFrame:
    known = {"accuracy": runs["accuracy"], "reward": runs["reward"], "KL": runs["kl_final"]}
    return pd.DataFrame(known | {words: runs[f"{name}_final"] for name, words in SHAPES.items()}).astype(float)


def drawn(study: RealPPO, questions: int = 3) -> pd.DataFrame:
    """Answers for the reader's own eyes, chosen by no one: those to the first ``questions`` test questions, in an order by
    hash, of the first training, before PPO and after it against the least and the most accurate reward model; a row an
    ``answer``, with the evaluator's ``score``, the question's number and its ``id``."""
    own = _done(study.runs)
    own = own[own["rm_seed"] == own["rm_seed"].min()].sort_values(["accuracy", "rm_step"])["id"]
    who = [(BEFORE, own.head(1), "start"), ("least accurate", own.head(1), "final"), ("most accurate", own.tail(1), "final")]
    told, rows = study.responses, []
    for number, question in enumerate(told["question"].unique()[:questions], 1):
        for name, run, when in who:
            said = told[told["id"].isin(run) & (told["when"] == when) & (told["question"] == question)]
            score = gap.on_peoples_scale(said["judged"].map(lambda scores: scores[0]), study.said)
            named = {"question": number, "id": question, "reward model": name}
            rows += [named | {"answer": text, "score": of} for text, of in zip(said["text"], score, strict=True)]
    return pd.DataFrame(rows, columns=["question", "id", "reward model", "answer", "score"])


# --- words --------------------------------------------------------------------------------------------------------------------


def answer(runs: pd.DataFrame) -> str:
    """What the first two parts of the rule come to, in words."""
    (found, status), (rho, p, number), own = regret(runs), correlation(runs), _done(runs)
    rose = int((own[FINAL] > own[START]).sum())
    shown = "is shown" if p <= lottery.LEVEL and rho > 0 else "is not shown"
    return (
        f"In PPO of a pretrained policy {_cost(found)}, over {count(found.units, 'training')}: *{status}*. The unit is the "
        "distance from answers that people call bad to those they call good, of which a "
        f"cost of {MATTERS} was fixed beforehand as what matters. "
        f"That the score rises more with more accuracy {shown} (Spearman's ρ {rho:+.2f}, exact one-sided p {_p(p)}). Of "
        f"{count(number, 'policy', 'policies')} {rose} end above where they began."
    )


def brief(runs: pd.DataFrame) -> str:
    """The same for the first page, in a sentence."""
    found, status = regret(runs)
    return f"In PPO of a pretrained policy {_cost(found)} of the distance from bad to good answers: {status}."


def _cost(of: Interval) -> str:
    return "choosing the most accurate reward model cost " + (estimate(of) if of.units else "what these runs cannot tell")


def _p(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def described(table: pd.DataFrame) -> str:
    """What differs between early and late reward models of equal accuracy (rows of :func:`pairs`), in words."""
    if table.empty:
        return "No policy was trained on an early and a late reward model of equal accuracy."
    apart = table.xs("late", level="kind") - table.xs("early", level="kind")
    higher = int((apart["score"] > 0).sum())
    means = apart.mean()
    return (
        "Of two reward models of equal accuracy, one early in its training and one late in its own, the late one's policy ends "
        f"higher in {higher} of {count(len(apart), 'training')} (on average {means['score']:+z.2f}; {means['reward']:+z.2f} in "
        f"reward, {means['KL']:+z.1f} nats, {means['length']:+z.1f} tokens, {means['repetition']:+z.3f} in repetition). This "
        "decides nothing."
    )
