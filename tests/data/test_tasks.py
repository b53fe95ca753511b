"""The registry of tasks, and what the values of segments say."""

from typing import get_args

import pytest

from paradox_utils import config
from paradox_utils.data.tasks import GOOD, LABELS, MARKED, TASKS, counts, lm_performance


def test_config_and_the_registry_name_the_same_tasks():
    assert tuple(TASKS) == get_args(config.TaskName)
    assert tuple(name for name, task in TASKS.items() if task.pairwise) == config.PAIRWISE
    assert tuple(name for name, task in TASKS.items() if task.graded) == config.GRADED
    assert {*MARKED, *config.GRADED} == set(TASKS)


def test_labels_are_in_the_order_of_the_paper():
    assert LABELS == ("F-ERR", "NF-ERR", "O")
    assert (GOOD, TASKS["relevance"].bad, TASKS["factuality"].bad) == (2, 1, 0)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.pairwise])
def test_a_task_that_labels_segments_can_name_a_bad_one(name):
    assert TASKS[name].errors
    assert TASKS[name].bad != GOOD


def test_performance_pools_segments_and_averages_scores():
    values = [[1.0, -1.0, 1.0], [], [-1.0]]
    assert counts(values, "relevance") == ([2.0, 0.0, 0.0], [3, 1, 1])
    assert lm_performance(values, "relevance") == pytest.approx(2 / 5)
    assert counts([[0.25], [0.75]], "completeness") == ([0.25, 0.75], [1, 1])
    assert lm_performance([[0.25], [0.75]], "completeness") == pytest.approx(0.5)
