"""A study's config file: common parameters by stage, and the arms to run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field

from paradox_utils.config import CountOrZero, ParameterError, Parameters, TaskName, check

# How a reward model comes to its accuracy. Controls train none: each is a reward form of its own.
Route = Literal["steps", "label-noise", "data-size", "model-size", "dial", "constant", "length"]
CONTROLS = ("dial", "constant", "length")
TRAINED: tuple[str, ...] = tuple(route for route in get_args(Route) if route not in CONTROLS)


class Arm(Parameters):
    """A family of PPO runs of a study: a route, and what varies along it.

    ``name``: what the analysis calls the family (arms of one name are analysed together). ``reward_model``, ``ppo``: parameters
    fixed in this arm. ``vary``: parameter names and their values, several of them changing together. ``checkpoints``: which
    reward-model checkpoints get PPO runs (all, the last, or a list of steps). ``seeds``: every reward model meets every PPO
    seed, or the seeds of the same place in both lists go together.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = Field("", description="unset: the route")
    route: Route
    tasks: list[TaskName] = ["relevance", "factuality", "completeness"]
    policies: list[str] | None = Field(None, description="names from `policies`; unset: all")
    vary: dict[str, list[Any]] = {}
    checkpoints: Literal["all", "last"] | list[CountOrZero] = "all"
    rm_seeds: list[CountOrZero] = [0]
    ppo_seeds: list[CountOrZero] = [0]
    seeds: Literal["crossed", "nested"] = "crossed"
    reward_model: dict[str, Any] = {}
    ppo: dict[str, Any] = {}


class Study(Parameters):
    """A config file: common parameters by stage, changes by task, and the arms to run."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    about: str = ""
    source: dict[str, Any] = {}
    policies: dict[str, dict[str, Any]] = Field(
        {"atlas-t5": {}}, description="name → parameters of `supervised`, and under `ppo` what differs in its PPO runs"
    )
    feedback: dict[str, Any] = {}
    reward_model: dict[str, Any] = {}
    evaluator: dict[str, Any] | None = Field(None, description="qa-feedback: the reward model that scores the policies")
    ppo: dict[str, Any] = {}
    tasks: dict[TaskName, dict[Literal["reward_model", "evaluator", "ppo"], dict[str, Any]]] = {}
    arms: list[Arm]


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: mappings are merged name by name, everything else is replaced."""
    both = {name: _merged(base[name], changes[name]) for name in base if isinstance(base[name], dict) and name in changes}
    return base | dict(changes) | both


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as a string; people who write learning rates do not expect it."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load_study(path: Path) -> Study:
    """The study of a config file; raises :class:`ParameterError` for an unreadable file or an impossible parameter.

    ``extends: OTHER.yaml`` in the file starts from a config beside it and states only what differs; its `policies` and
    `arms` replace those of the other.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        known = ", ".join(sorted(p.as_posix() for p in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"{path}: cannot be read ({error.strerror}); configs in that folder: {known}") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise ParameterError(f"{path}: must hold a mapping with `study:` and `arms:`")
    if "extends" in raw:
        base = load_study(path.parent / str(raw.pop("extends"))).model_dump(exclude_unset=True)
        raw = _merged({name: value for name, value in base.items() if name not in {"policies", "arms"} & raw.keys()}, raw)
    return check(Study, raw, where=str(path))
