"""What a task is, and what the values of its segments say. A new task: its name in ``config.TaskName``, its entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paradox_utils.config import TaskName
from paradox_utils.data.segments import Spans, sentences, sub_sentences, whole

# Three classes, in this order, for every token reward model (the paper's; accuracy is the arg-max over all three).
LABELS: tuple[str, ...] = ("F-ERR", "NF-ERR", "O")
GOOD = LABELS.index("O")

RELEVANCE_ERRORS = frozenset({"Irrelevant", "Redundant", "Incoherent"})
FACTUAL_ERRORS = frozenset({"Wrong-Grounding", "Unverifiable"})


@dataclass(frozen=True)
class Task:
    """What is rewarded, by what, and what it is called. ``segment`` takes a text and a sentence splitter."""

    segment: Callable[[str, str], Spans]
    reward_size: float  # of a good segment, or of a deviation of the score (Chen et al.'s released configs)
    performance: str  # what LM performance is, on an axis
    errors: frozenset[str] = frozenset()  # the kinds of marked errors that make a segment bad; none: no segment has a label
    error_label: str = ""  # of :data:`LABELS`, what a bad segment is called
    one_error_each: bool = False  # annotators stopped at a piece's first error: a segment with only others is unchecked
    reads_passages: bool = True  # whether its reward models do
    graded: bool = False  # learnt from graded responses, not from what is marked and compared

    @property
    def pairwise(self) -> bool:
        """Whether a response gets one score, learnt from pairs of responses, instead of a label on each segment."""
        return not self.errors

    @property
    def bad(self) -> int:
        """The index of the error label in :data:`LABELS`."""
        return LABELS.index(self.error_label)


TASKS: dict[TaskName, Task] = {
    "relevance": Task(sub_sentences, 0.3, "relevant sub-sentences (share)", RELEVANCE_ERRORS, "NF-ERR", reads_passages=False),
    "factuality": Task(sentences, 0.5, "factual sentences (share)", FACTUAL_ERRORS, "F-ERR", one_error_each=True),
    "completeness": Task(whole, 0.3, "completeness (mean score)"),
    "preference": Task(whole, 0.3, "preference (mean score)", reads_passages=False, graded=True),
}
MARKED = tuple(name for name, task in TASKS.items() if not task.graded)  # of Wu et al.'s feedback, the paper and Atlas


def among(names: Iterable[str]) -> list[TaskName]:
    """The tasks that are named, in the order of :data:`TASKS`."""
    known = set(names)
    return [task for task in TASKS if task in known]


def segment(text: str, task: TaskName, splitter: str) -> Spans:
    """The segments that ``task`` rewards."""
    return TASKS[task].segment(text, splitter)


def lm_performance(values: list[list[float]], task: TaskName) -> float:
    """The pooled share of good segments (a response without any counts as one bad one); for pairwise tasks the mean score."""
    good, segments = counts(values, task)
    return sum(good) / sum(segments)


def counts(values: list[list[float]], task: TaskName) -> tuple[list[float], list[int]]:
    """Good segments and all segments of each response; for pairwise tasks its score, and 1."""
    if TASKS[task].pairwise:
        return [float(v[0]) for v in values], [1] * len(values)
    return [float(sum(value > 0 for value in row)) for row in values], [max(1, len(row)) for row in values]
