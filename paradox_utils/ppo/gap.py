"""What the reward model and the evaluator say of answers that people graded and of the policy's own, before any PPO.

Accuracy is measured on people's answers, and PPO asks about the policy's: a reward model that is right about those may still
prefer the best of a few bad ones to an answer that people call good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paradox_utils import config
from paradox_utils.data import segments_of
from paradox_utils.data.records import BAD, GOOD, Judge, JudgedSet, Question
from paradox_utils.files import for_task
from paradox_utils.ppo.best_of_n import Drawn
from paradox_utils.rewards.judges import standardised

PEOPLE = {"good": GOOD, "bad": BAD}  # people's answers, by what they were called


def gap(p: config.PPO, sets: Sequence[JudgedSet], evaluator: Judge, drawn: Drawn) -> pd.DataFrame:
    """A row a question and ``kind`` of answer: what the reward model that pays says (``reward``, in deviations of its scores
    from the mean of those on what it learnt from, see :func:`~paradox_utils.rewards.judges.standardised`), what the
    ``evaluator`` says, and how many ``words`` there are.

    Kinds: ``good`` and ``bad``, the first answer of a judged set (which a key shuffles) that people call so, if there is one;
    ``sampled``, the mean of those the policy drew; ``best``, the one of these with the highest reward; and ``evaluator``, the
    one that the evaluator scores highest. Of equals the first. No text is in it.
    """
    questions, known = drawn.responses.prompts.questions, {one.question.id: one for one in sets}
    texts = np.array(drawn.responses.texts, dtype=object).reshape(len(questions), -1)
    asked = [(question, text) for question, own in zip(questions, texts, strict=True) for text in own]
    kinds = ["sampled"] * len(asked)
    for question in questions:
        one = known.get(question.id)
        for kind, grade in PEOPLE.items():
            if one and grade in one.grades:
                asked.append((question, one.responses[one.grades.index(grade)]))
                kinds.append(kind)
    said = {"reward": standardised(for_task(p.reward_model, p.task), p), "evaluator": evaluator}
    table = pd.DataFrame(
        {"question": [question.id for question, _ in asked], "kind": kinds}
        | {name: _scores(p, judge, asked) for name, judge in said.items()}
        | {"words": [len(text.split()) for _, text in asked]}
    )
    drawn_rows = table[table["kind"] == "sampled"].groupby("question", sort=False)
    by = {"best": "reward", "evaluator": "evaluator"}
    best = [table.loc[drawn_rows[name].idxmax()].assign(kind=kind) for kind, name in by.items()]
    means = drawn_rows[["reward", "evaluator", "words"]].mean().reset_index().assign(kind="sampled")
    return pd.concat([table[table["kind"] != "sampled"], means, *best], ignore_index=True)


def _scores(p: config.PPO, judge: Judge, asked: Sequence[tuple[Question, str]]) -> list[float]:
    questions, texts = zip(*asked, strict=True)
    return [row[0] for row in judge(questions, texts, segments_of(p, texts, p.task))]
