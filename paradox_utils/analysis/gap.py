"""How far what a reward model says of the policy's best samples lies from what it says of people's answers, before any PPO.

Reads a study's ``gap.csv`` beside its summary; imports no torch. A run's reward model is *fooled* if it scores the best of its
policy's samples above answers that people call good while the evaluator scores these same samples below them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils.analysis.phrases import count
from paradox_utils.analysis.tables import KINDS, AnalysisError

JUDGES = ("reward", "evaluator")  # who says something of an answer
MODEL = ("id", "arm", "rm_seed", "rm_step", "accuracy")
TOP = 3  # ranks of accuracy of a training, from the highest down, that the hypothesis is about
EXPECTED = 7  # fooled ones of them, at the least, over three trainings


def means(gap: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """What each judge says on average of each kind of answer: a row a run in an arm (:data:`MODEL`) and ``kind``, with
    ``reward``, ``evaluator`` and ``words`` over the questions that have an answer of every kind.

    ``gap``, ``summary``: a study's tables. Raises :class:`AnalysisError` where no question has all kinds.
    """
    whole = gap[gap.groupby(["id", "question"])["kind"].transform("nunique") == len(KINDS)]
    found = whole.groupby(["id", "kind"])[[*JUDGES, "words"]].mean()
    runs = summary.assign(accuracy=summary["rm_accuracy_noisy"].astype(float))[list(MODEL)]
    table = runs.merge(found.reset_index(), on="id")
    if table.empty:
        raise AnalysisError("gap.csv: has no question with answers of every kind; raise probe_prompts, and run the study again")
    return table


def people(table: pd.DataFrame) -> tuple[float, float]:
    """Where the evaluator puts answers called bad, and where those called good (rows of :func:`means`); 0 and 1 of their scale.

    Raises :class:`AnalysisError` where the first is not below the second: there is no such scale.
    """
    bad, good = (float(table.loc[table["kind"] == kind, "evaluator"].mean()) for kind in ("bad", "good"))
    if not bad < good:
        raise AnalysisError(
            f"gap.csv: the evaluator puts answers called good at {good:.2f} and those called bad at {bad:.2f}, so it cannot "
            "tell them; train it longer, or name another"
        )
    return bad, good


def on_peoples_scale(scores: pd.Series, table: pd.DataFrame) -> pd.Series:
    """The evaluator's ``scores`` where 0 is an answer that people call bad and 1 one that they call good."""
    bad, good = people(table)
    return (scores.astype(float) - bad) / (good - bad)


def fooled(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run in an arm (:data:`MODEL`): ``over``, by how much its reward model scores the best samples above good answers
    (deviations); ``under``, by how much the evaluator scores the same samples below them; and whether it is ``fooled``."""
    wide = table.pivot(index=list(MODEL), columns="kind", values=list(JUDGES))
    over = wide["reward", "best"] - wide["reward", "good"]
    under = wide["evaluator", "good"] - wide["evaluator", "best"]
    return pd.DataFrame({"over": over, "under": under, "fooled": (over > 0) & (under > 0)}).reset_index()


def top_fooled(runs: pd.DataFrame) -> tuple[int, int]:
    """How many of the :data:`TOP` most accurate reward models of each training are fooled, and of how many (rows of
    :func:`fooled`, one arm); of equals the later step is the more accurate. No test: checkpoints of one training are alike."""
    top = runs.sort_values(["accuracy", "rm_step"]).groupby("rm_seed").tail(TOP)
    return int(top["fooled"].sum()), len(top)


def answer(runs: pd.DataFrame) -> str:
    """What :func:`fooled` and :func:`top_fooled` come to, in words."""
    hits, number = top_fooled(runs)
    over, under = (np.median(runs[name]) for name in ("over", "under"))
    return (
        f"Before any PPO, {hits} of the {count(number, 'reward model')} that are the {TOP} most accurate of a training score "
        "the best samples of the policy above answers that people call good, while the evaluator scores the same samples "
        f"below them; at least {EXPECTED} were expected. In the median of all {len(runs)}, the best sample lies "
        f"{abs(over):.2f} deviations {'above' if over > 0 else 'below'} a good answer to the reward model, and "
        f"{abs(under):.2f} {'below' if under > 0 else 'above'} it to the evaluator."
    )
