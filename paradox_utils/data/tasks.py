"""What a task is, and what its segments' values say of a response."""

from __future__ import annotations

from paradox_utils.config import TaskName

TASKS: tuple[TaskName, ...] = ("relevance", "factuality", "completeness")

# Three classes, in this order, for every token reward model (the paper's; accuracy is the arg-max over all three).
LABELS: tuple[str, ...] = ("F-ERR", "NF-ERR", "O")
ERROR_LABEL: dict[str, str] = {"relevance": "NF-ERR", "factuality": "F-ERR"}

RELEVANCE_ERRORS = frozenset({"Irrelevant", "Redundant", "Incoherent"})
FACTUAL_ERRORS = frozenset({"Wrong-Grounding", "Unverifiable"})


def lm_performance(values: list[list[float]], task: TaskName) -> float:
    """The pooled share of good segments (a response without any counts as one bad one); for completeness the mean score."""
    good, segments = counts(values, task)
    return sum(good) / sum(segments)


def counts(values: list[list[float]], task: TaskName) -> tuple[list[float], list[int]]:
    """Good segments and all segments of each response; for completeness its score, and 1."""
    if task == "completeness":
        return [float(v[0]) for v in values], [1] * len(values)
    return [float(sum(value > 0 for value in row)) for row in values], [max(1, len(row)) for row in values]
