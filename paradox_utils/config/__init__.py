"""The parameters of every stage (:mod:`.stages`, :mod:`.pages`), checked before a notebook pays for torch. Imports little."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from paradox_utils import threads
from paradox_utils.config.choose import Candidate, Choose
from paradox_utils.config.pages import Analysis, Cost, Design, Lottery, OneRun, People, Published, Regime, Text
from paradox_utils.config.stages import (
    AS_PUBLISHED,
    FIXTURE_FEEDBACK,
    FIXTURE_POLICY,
    FIXTURE_REWARD_MODEL,
    GRADED,
    PAIRWISE,
    PPO,
    SETS,
    WITH_ORACLE,
    Count,
    CountOrZero,
    FeedbackParameters,
    Parameters,
    Positive,
    RewardModel,
    Seed,
    Source,
    Stage,
    Supervised,
    TaskName,
)
from paradox_utils.config.words import explain

__all__ = [
    "AS_PUBLISHED",
    "FIXTURE_FEEDBACK",
    "FIXTURE_POLICY",
    "FIXTURE_REWARD_MODEL",
    "GRADED",
    "PAIRWISE",
    "PPO",
    "SETS",
    "STAGES",
    "WITH_ORACLE",
    "Analysis",
    "Candidate",
    "Choose",
    "Cost",
    "Count",
    "CountOrZero",
    "Design",
    "FeedbackParameters",
    "Lottery",
    "OneRun",
    "ParameterError",
    "Parameters",
    "People",
    "Positive",
    "Published",
    "Regime",
    "RewardModel",
    "Seed",
    "Source",
    "Stage",
    "Supervised",
    "TaskName",
    "Text",
    "check",
    "check_alone",
    "check_notebook",
]


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type, or impossible; the message says which, and what is allowed."""


STAGES: dict[str, type[Stage]] = {
    "supervised": Supervised,
    "feedback": FeedbackParameters,
    "reward_model": RewardModel,
    "ppo": PPO,
    "analysis": Analysis,
    "one-run": OneRun,
    "lottery": Lottery,
    "regime": Regime,
    "text": Text,
    "design": Design,
    "people": People,
    "published": Published,
    "cost": Cost,
    "choose": Choose,
}
Model = TypeVar("Model", bound=Parameters)
NOTEBOOK = "parameters"  # where the values of a notebook stand


def check(schema: type[Model], values: Mapping[str, Any], where: str = NOTEBOOK) -> Model:
    """``values`` as a ``schema``; raises :class:`ParameterError` with one line a problem."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        lines = [explain(schema, problem, papermill=where == NOTEBOOK) for problem in error.errors()]
        raise ParameterError("\n".join(f"{where}: {line}" for line in lines)) from None


def check_alone(schema: type[Parameters], name: str, value: Any, where: str) -> None:
    """Refuse a value that no other parameter could make right; what depends on others is :func:`check`'s to judge."""
    try:
        schema.model_validate({name: value})
    except ValidationError as error:
        lines = [explain(schema, problem, papermill=False) for problem in error.errors() if problem["loc"]]
        if lines:
            raise ParameterError("\n".join(f"{where}: {line}" for line in lines)) from None


def check_notebook(schema: type[Model], namespace: Mapping[str, Any]) -> Model:
    """The parameters among a notebook's globals, checked, and the run's threads set from them.

    Call it in the cell after ``parameters``, before heavy imports. Refuses what papermill was given and the notebook then
    overwrote: without a cell tagged ``parameters``, papermill puts its own first.
    """
    for name, given in _injected_first(namespace).items():
        if namespace.get(name) != given:
            raise ParameterError(
                f"{name} = {given!r}: was given, but a later cell sets {namespace.get(name)!r}, as no cell of this notebook is "
                "tagged `parameters`; tag the cell that sets its parameters, or restore the notebook from the repository"
            )
    parameters = check(schema, {name: value for name, value in namespace.items() if _is_parameter(name, value)})
    threads.use(parameters.model_dump())
    return parameters


def _injected_first(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What papermill's cell sets, where it is the first that this kernel has run."""
    first = next((cell for cell in namespace.get("In", []) if cell), "")
    if not first.startswith("# Parameters\n"):  # papermill's heading
        return {}
    set_by = [node for node in ast.parse(first).body if isinstance(node, ast.Assign)]
    with contextlib.suppress(ValueError):  # float("nan") is no literal; the schema takes none
        return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in set_by}
    return {}


def _is_parameter(name: str, value: Any) -> bool:
    ipython = {"In", "Out", "get_ipython", "exit", "quit", "open"}
    return not (name.startswith("_") or name in ipython or isinstance(value, ModuleType | type) or callable(value))
