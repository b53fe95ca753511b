"""A study's config file: common parameters by stage, and the arms to run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import Field, field_validator

from paradox_utils.config import CountOrZero, ParameterError, Parameters, Seed, TaskName, check

# How a reward model comes to its accuracy. Controls train none: each is a reward form of its own.
Route = Literal["steps", "label-noise", "data-size", "model-size", "dial", "constant", "length"]
CONTROLS = ("dial", "constant", "length")
TRAINED: tuple[str, ...] = tuple(route for route in get_args(Route) if route not in CONTROLS)


class Arm(Parameters):
    """A family of PPO runs of a study: a route, and what varies along it.

    ``name``: what the analysis calls the family (arms of one name are analysed together). ``reward_model``, ``ppo``: parameters
    fixed in this arm. ``vary``: parameter names and their values, several of them changing together. ``checkpoints``: which
    reward-model checkpoints get PPO runs (all, the last, a list of steps, or such a list for each of ``rm_seeds``).
    ``seeds``: every reward model meets every PPO seed, or the seeds of the same place in both lists go together. ``others``:
    how many further trainings stand beside each reward model, as the run's ``other_reward_models``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = Field("", description="unset: the route")
    route: Route
    tasks: list[TaskName] = ["relevance", "factuality", "completeness"]
    policies: list[str] | None = Field(None, description="names from `policies`; unset: all")
    vary: dict[str, list[Any]] = {}
    checkpoints: Literal["all", "last"] | list[CountOrZero] | dict[Seed, list[CountOrZero]] = "all"
    rm_seeds: list[Seed] = [0]
    ppo_seeds: list[Seed] = [0]
    seeds: Literal["crossed", "nested"] = "crossed"
    others: Annotated[int, Field(ge=0, le=8)] = Field(
        0,
        description="further trainings of each reward model, by rm_seed + 1000, + 2000, …, whose checkpoints of the same step "
        "stand beside the one that pays",
    )
    reward_model: dict[str, Any] = {}
    ppo: dict[str, Any] = {}


class Study(Parameters):
    """A config file: common parameters by stage, changes by task, and the arms to run."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    about: str = ""
    source: dict[str, Any] = {}
    policies: dict[str, dict[str, Any]] = Field(
        {"atlas-t5": {}}, description="name → parameters of `supervised`, and under `ppo` what differs in its PPO runs"
    )
    feedback: dict[str, Any] = {}
    reward_model: dict[str, Any] = {}
    evaluator: dict[str, Any] | None = Field(
        None, description="where there is no oracle: the reward model that scores the policies"
    )
    evaluator_seeds: list[Seed] = Field(
        [0], description="seeds of its trainings; of several the mean of their scores counts (tasks of one score a response)"
    )
    ppo: dict[str, Any] = {}
    tasks: dict[TaskName, dict[Literal["reward_model", "evaluator", "ppo"], dict[str, Any]]] = {}
    arms: list[Arm]

    @field_validator("study")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name == "recorded":
            raise ValueError("its folder, results/recorded, keeps the tables of finished studies; choose another name")
        return name


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: mappings are merged name by name, everything else is replaced."""
    both = {name: value for name, value in changes.items() if isinstance(value, dict) and isinstance(base.get(name), dict)}
    return base | dict(changes) | {name: _merged(base[name], value) for name, value in both.items()}


LARGEST_FILE = 100_000  # values of a config file, each alias written out


class _Loader(yaml.SafeLoader):
    """A word is a number, true, false or null only where it looks like one to everybody (YAML 1.2, and ``1e-4`` besides).

    YAML 1.1 reads ``no`` as false, ``010`` as 8, ``1:30`` as 90, ``1_000`` as 1000 and a date as no text: all stay text here,
    which the schema then takes or refuses. A name given twice, and aliases without end, are refused.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice; keep one", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_document(self, node: yaml.Node) -> Any:
        if sum(1 for _ in itertools.islice(_nodes(node), LARGEST_FILE + 1)) > LARGEST_FILE:
            raise yaml.YAMLError(f"holds more than {LARGEST_FILE} values")
        return super().construct_document(node)


for _kind, _pattern, _first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9]\d*)?\.\d+|(0|[1-9]\d*)\.)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first)


def _nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    """A node and all that stand in it, those that aliases repeat as often as they do."""
    yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            yield from _nodes(part)


def read_config(path: Path) -> Any:
    """What a YAML file holds; raises :class:`ParameterError` for one that cannot be read."""
    try:
        content = path.read_bytes()
        return yaml.load(content, Loader=_Loader)
    except OSError as error:
        known = ", ".join(sorted(p.as_posix() for p in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"{path}: cannot be read ({error.strerror}); configs in that folder: {known}") from error
    except yaml.reader.ReaderError as error:
        line = content[: error.position].count(b"\n") + 1
        raise ParameterError(
            f"{path}, line {line}: is no text in UTF-8 ({error.reason}); save the file as UTF-8, without control characters"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
            problem = f"is not YAML ({problem}); indent by spaces, and put text with any of {{ }} [ ] , : # in quotes"
        raise ParameterError(f"{path}{line}: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        problem = "is nested too deep, or without end" if isinstance(error, RecursionError) else str(error)
        raise ParameterError(f"{path}: {problem}; take levels out, or write out what aliases (*name) stand for") from error


def studies(folder: Path) -> list[Path]:
    """The config files of a folder that are studies; others are of a choice among reward models."""
    return [path for path in sorted(folder.glob("*.yaml")) if "study" in (read_config(path) or ())]


def load_study(path: Path, extended_by: tuple[Path, ...] = ()) -> Study:
    """The study of a config file; raises :class:`ParameterError` for an unreadable file or an impossible parameter.

    ``extends: OTHER.yaml`` in the file starts from a config beside it and states only what differs; its `policies` and
    `arms` replace those of the other. ``extended_by``: the files on the way here, which cannot be extended again.
    """
    raw = read_config(path)
    if not isinstance(raw, dict):
        raise ParameterError(f"{path}: must hold a mapping with `study:` and `arms:`")
    if "extends" in raw:
        name, chain = raw.pop("extends"), (*extended_by, path.resolve())
        if not isinstance(name, str) or not (other := path.parent / name).is_file():
            raise ParameterError(f"{path}: extends = {name!r}: must name a config file beside this one, such as quick.yaml")
        if other.resolve() in chain:
            raise ParameterError(f"{path}: extends = {name!r}: comes back to a file that extends this one; take one out")
        base = load_study(other, chain).model_dump(exclude_unset=True)
        raw = _merged({name: value for name, value in base.items() if name not in {"policies", "arms"} & raw.keys()}, raw)
    return check(Study, raw, where=str(path))
