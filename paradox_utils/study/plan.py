"""A study: from a config file to its runs, their ids and what each needs. Plans only; :mod:`paradox_utils.study.run` runs.

A run's id is a hash over its stage, its resolved parameters (dependencies by their ids), the code of the makers its stage
declares (:mod:`paradox_utils.identity`), and its data. So a changed PPO parameter gives new ids to PPO runs alone, and an edit
to a plot to none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paradox_utils import config, identity
from paradox_utils.config import ParameterError
from paradox_utils.config.study import CONTROLS, Arm, Study
from paradox_utils.identity import NOTEBOOKS
from paradox_utils.threads import listed

# Parameters that no layer of a stage may set, and what to write instead.
FILLED_IN = "the plan fills it in"
FILLED: dict[str, dict[str, str]] = {
    "reward_model": {
        "task": "list it in the arm's `tasks`",
        "feedback": FILLED_IN,
        "split": FILLED_IN,
        "seed": "list it in the arm's `rm_seeds` (an evaluator's in `evaluator_seeds`)",
    },
    "ppo": {
        "task": "list it in the arm's `tasks`",
        "policy": "name it under `policies`",
        "feedback": FILLED_IN,
        "reward": "the arm's `route` decides",
        "seed": "list it in the arm's `ppo_seeds`",
        "dial_seed": "list it in the arm's `rm_seeds`",
    },
}
# What a dial that never errs does not depend on, so that arms of any kind and key share its runs.
EXACT = {"dial_kind": "prejudice", "dial_bias": 0.0, "dial_seed": 0, "scale_matched": False}
BETWEEN = 1000  # from the seed of one of an arm's reward models to that of the next that stands beside it


@dataclass(frozen=True)
class Run:
    """One execution of a stage's notebook.

    ``parameters``: every parameter of the stage, with folders relative to the project root. ``needs``: ids of the runs whose
    folders it reads. ``labels``: task, policy, route, arm (its name), setting, rm_step, rm_seed, ppo_seed (None where it has
    none); ``also``: those of further arms that ask for the same run. ``code``: the digest of each file that can change its
    numbers, ``data``: that of its data; both are part of the id.
    """

    id: str
    stage: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    labels: dict[str, Any]
    code: dict[str, str]
    data: str
    also: tuple[dict[str, Any], ...] = ()

    @property
    def all_labels(self) -> tuple[dict[str, Any], ...]:
        """The labels of every arm that asks for the run."""
        return (self.labels, *self.also)


def results_folder(study: str) -> str:
    """Where a study's results go, relative to the project root."""
    return f"results/{study}"


def work_folder(study: str, run: str) -> str:
    """Where a run keeps its models, relative to the project root."""
    return f"{results_folder(study)}/.work/{run}"


def plan(study: Study, where: str = "study") -> list[Run]:
    """The runs of a study, each after the runs it needs; ``where`` (the config file) opens every error message.

    Raises :class:`ParameterError` before anything is planned if any parameter of any layer is unknown or impossible.
    """
    _check_layers(study, where)
    arms = {f"{where}, arm {number}": arm for number, arm in enumerate(study.arms, 1)}
    for place, arm in arms.items():
        _check_arm(study, arm, place)
    planner = _Planner(study, where)
    for place, arm in arms.items():
        for task in arm.tasks:
            for policy in arm.policies or list(study.policies) or [None]:
                planner.add_arm(arm, place, task, policy)
    return sorted(planner.runs.values(), key=lambda run: list(NOTEBOOKS).index(run.stage))


# --- checks of the layers -------------------------------------------------------------------------------------------


def _check_layers(study: Study, where: str) -> None:
    """Every layer on its own, used by an arm or not, so that a message names the place where the mistake stands."""
    if not study.arms:
        raise ParameterError(f"{where}: arms: must list at least one arm")
    _check_layer("source", study.source, f"{where}, source")
    for name, policy in study.policies.items():
        place, own = f"{where}, policies, {name}", policy.get("ppo", {})
        _check_layer("supervised", _supervised_layer(policy), place)
        if not isinstance(own, Mapping):
            raise ParameterError(f"{place}: ppo = {own!r}: must be parameters of the stage, each with its value")
        if "reward_model" in own:
            raise ParameterError(f"{place}, ppo: reward_model: cannot be set here; set it in an arm's `ppo`")
        _check_layer("ppo", own, f"{place}, ppo")
    _check_layer("feedback", {key: value for key, value in study.feedback.items() if key != "policy"}, f"{where}, feedback")
    if "policy" in study.feedback:
        _check_policy(study, study.feedback["policy"], f"{where}, feedback: policy")
    _check_layer("reward_model", study.reward_model, f"{where}, reward_model")
    _check_layer("reward_model", study.evaluator or {}, f"{where}, evaluator")
    _check_layer("ppo", study.ppo, f"{where}, ppo")
    for task, stages in study.tasks.items():
        for stage, values in stages.items():
            place = f"{where}, tasks, {task}, {stage}"
            if stage == "evaluator" and study.evaluator is None:
                raise ParameterError(f"{place}: the study trains no evaluator; add `evaluator:` (it may be empty: {{}})")
            _check_layer("ppo" if stage == "ppo" else "reward_model", values, place)
    layers = [*study.policies.values(), *study.tasks.values()]
    ppo_layers = [study.ppo, *(layer.get("ppo", {}) for layer in layers), *(arm.ppo for arm in study.arms)]
    for name in ("evaluator", "other_evaluators"):
        if study.evaluator is not None and any(name in layer for layer in ppo_layers):
            raise ParameterError(f"{where}: has both `evaluator:`, which trains one, and a PPO parameter `{name}`; keep one")
    seeds = study.evaluator_seeds
    if "evaluator_seeds" in study.model_fields_set and study.evaluator is None:
        raise ParameterError(f"{where}: evaluator_seeds = {seeds}: the study trains no evaluator; add `evaluator:` as well")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ParameterError(f"{where}: evaluator_seeds = {seeds}: must hold at least one value, each once")


def _supervised_layer(policy: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's own parameters; what its PPO runs have of their own stands among them, under ``ppo``."""
    return {name: value for name, value in policy.items() if name != "ppo"}


def _check_layer(stage: str, values: Mapping[str, Any], where: str) -> None:
    """One parameter at a time, as the others may stand in another layer; :meth:`_Planner.add` checks them together."""
    filled = {"out": FILLED_IN} | FILLED.get(stage, {})
    if stage != "source":
        filled["source"] = "one study has one source: set it in `source`"
    for name, value in values.items():
        if name in filled:
            raise ParameterError(f"{where}: {name} = {value!r}: cannot be set here; {filled[name]}")
        config.check_alone(config.STAGES.get(stage, config.Source), name, value, where)


def _check_arm(study: Study, arm: Arm, where: str) -> None:
    """What an arm says beyond the parameters of its stages."""
    _check_layer("reward_model", arm.reward_model, f"{where}, reward_model")
    _check_layer("ppo", arm.ppo, f"{where}, ppo")
    if not study.policies and arm.checkpoints != []:
        raise ParameterError(f"{where}: no policy; add one under `policies`, or train none: checkpoints: []")
    for policy in arm.policies or []:
        _check_policy(study, policy, f"{where}: policies")
    for name in ("tasks", "rm_seeds", "ppo_seeds", "policies"):
        values = getattr(arm, name)
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ParameterError(f"{where}: {name} = {values!r}: must hold at least one value, each once")
    _check_vary(arm, f"{where}, vary")
    if isinstance(arm.checkpoints, dict) and (wrong := sorted(arm.checkpoints.keys() ^ set(arm.rm_seeds))):
        raise ParameterError(f"{where}: checkpoints: has other seeds than rm_seeds ({wrong[0]}); give each of them its steps")
    nested, trains = arm.seeds == "nested", any(_trains_reward_model(study, arm, task) for task in arm.tasks)
    if nested and len(arm.rm_seeds) != len(arm.ppo_seeds):
        raise ParameterError(
            f"{where}: seeds = 'nested' pairs {len(arm.rm_seeds)} rm_seeds with {len(arm.ppo_seeds)} ppo_seeds; list as many"
        )
    if trains:
        return
    if nested and arm.route != "dial":
        raise ParameterError(f"{where}: seeds = 'nested': has no effect, as this arm's rewards have no seed; leave it out")
    useless = {"checkpoints", "reward_model", "others"} | (set() if arm.route == "dial" else {"rm_seeds"})
    if given := sorted(useless & arm.model_fields_set):
        raise ParameterError(f"{where}: {given[0]}: has no effect, as this arm trains no reward model; leave it out")


def _check_vary(arm: Arm, where: str) -> None:
    if len({len(values) for values in arm.vary.values()}) > 1:
        sizes = {name: len(values) for name, values in arm.vary.items()}
        raise ParameterError(f"{where}: {sizes} values: parameters that change together need equally many")
    for name, values in arm.vary.items():
        stage = _varied_stage(arm, name)
        other = "reward_model" if stage == "ppo" else "ppo"
        if name in config.Source.model_fields:
            raise ParameterError(f"{where}: {name!r} concerns every stage, so it cannot vary in an arm; set it in `source`")
        if name in config.STAGES[other].model_fields.keys() - config.STAGES[stage].model_fields.keys():
            raise ParameterError(f"{where}: route {arm.route!r} varies a parameter of `{stage}`; {name!r} is not one of them")
        if not values:
            raise ParameterError(f"{where}: {name} = []: give it at least one value")
        for value in values:
            _check_layer(stage, {name: value}, where)
        if stage == "reward_model" and "reward_model" in arm.vary:
            raise ParameterError(f"{where}: {name!r} has no effect, as the reward_model beside it is not trained; leave it out")


def _varied_stage(arm: Arm, name: str) -> str:
    """The stage whose parameter an arm varies: ``ppo`` for controls and the user's own reward models, else ``reward_model``."""
    return "ppo" if arm.route in CONTROLS or name == "reward_model" else "reward_model"


def _trains_reward_model(study: Study, arm: Arm, task: str) -> bool:
    """False for controls, and where the config names the user's own reward model."""
    layers = (study.ppo, study.tasks.get(task, {}).get("ppo", {}), arm.ppo, arm.vary)
    return arm.route not in CONTROLS and not any("reward_model" in layer for layer in layers)


def _check_policy(study: Study, name: str, where: str) -> None:
    if name not in study.policies:
        raise ParameterError(f"{where} = {name!r}: must be one of the names under `policies` ({', '.join(study.policies)})")


# --- the runs -------------------------------------------------------------------------------------------------------


Rewards = list[tuple[dict[str, Any], dict[str, Any]]]  # the PPO parameters and the labels of each


@dataclass
class _Planner:
    """The runs planned so far, by id; the same parameters asked for twice are one run with both labels."""

    study: Study
    where: str
    runs: dict[str, Run] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    digests: dict[Path, bytes] = field(default_factory=dict)

    def add_arm(self, arm: Arm, where: str, task: str, policy: str | None) -> None:
        """The PPO runs of one arm for one task and policy, and everything they need; ``policy`` is None in a study without."""
        for values in zip(*arm.vary.values(), strict=True) if arm.vary else [()]:
            varied = dict(zip(arm.vary, values, strict=True))
            beside = {"other_reward_models": arm.others} if arm.others else {}
            setting = ", ".join(f"{key}={value}" for key, value in (varied | arm.reward_model | beside | arm.ppo).items())
            labels = _labels(task=task, policy=policy, route=arm.route, arm=arm.name or arm.route, setting=setting)
            fixed = self.layers("ppo", task) | self.study.policies.get(policy, {}).get("ppo", {}) | arm.ppo
            fixed |= {name: value for name, value in varied.items() if _varied_stage(arm, name) == "ppo"}
            if arm.others and "other_reward_models" in fixed:
                raise ParameterError(f"{where}: others = {arm.others}: fills in other_reward_models, which is set; keep one")
            if _trains_reward_model(self.study, arm, task):
                rewards = self.trained_rewards(arm, where, labels, varied)
            else:
                rewards = self.fixed_reward(arm, policy)
            supervised = self.supervised(policy) if policy else None
            for reward, marks in rewards:
                values = fixed | reward | {"task": task, "policy": Link(supervised, "model")}
                if values["reward"] == "dial" and values.get("dial_accuracy", 1.0) == 1.0:
                    values |= EXACT
                if self.study.evaluator is not None:
                    values |= self.evaluators(task)
                for seed in _ppo_seeds(arm, marks):
                    self.add("ppo", values | {"seed": seed}, labels | marks | {"ppo_seed": seed}, f"{where}, ppo")

    def fixed_reward(self, arm: Arm, policy: str) -> Rewards:
        """Those of controls (a dial for each key), or of the user's own reward model."""
        values = {"reward": arm.route if arm.route in CONTROLS else "model"} | self.exact_feedback(policy)
        if arm.route != "dial":
            return [(values, {})]
        return [(values | {"dial_seed": seed}, {"rm_seed": seed}) for seed in arm.rm_seeds]

    def trained_rewards(self, arm: Arm, where: str, labels: dict[str, Any], varied: dict[str, Any]) -> Rewards:
        """Those of every checkpoint this arm uses, of every reward-model seed."""
        rewards = []
        for rm_seed in arm.rm_seeds:
            values = self.layers("reward_model", labels["task"]) | arm.reward_model | varied
            run, *others = [
                self.reward_model(
                    values | {"task": labels["task"], "split": "train", "seed": seed},
                    labels | {"policy": None, "rm_seed": seed},
                    f"{where}, reward_model",
                )
                for seed in range(rm_seed, rm_seed + BETWEEN * arm.others + 1, BETWEEN)
            ]
            saved = run.parameters["checkpoint_steps"]
            for step in _steps(arm, rm_seed, saved):
                if step not in saved:
                    raise ParameterError(
                        f"{where}: checkpoints = {arm.checkpoints}: the {labels['task']} reward model saves no step {step}; "
                        f"it saves checkpoint_steps = {saved}"
                    )
                reward = {"reward": "model", "reward_model": Link(run, f"checkpoint-{step}")} | self.exact_feedback()
                if others:
                    reward["other_reward_models"] = [Link(other, f"checkpoint-{step}") for other in others]
                rewards.append((reward, {"rm_step": step, "rm_seed": rm_seed}))
        return rewards

    def supervised(self, policy: str) -> Run:
        values = self.study.source | _supervised_layer(self.study.policies[policy])
        return self.add("supervised", values, _labels(policy=policy), f"{self.where}, policies, {policy}")

    def exact_feedback(self, policy: str | None = None) -> dict[str, Any]:
        """Where there is an oracle: the feedback on a policy's responses, which trains, measures dials and centres scores.

        ``policy``: None: the one that ``feedback: {policy: NAME}`` names, else the first, whose responses train reward models.
        """
        if self.study.source.get("source", "atlas") not in config.WITH_ORACLE:
            return {}
        policy = policy or self.study.feedback.get("policy", next(iter(self.study.policies)))
        values = self.study.source | self.study.feedback | {"policy": Link(self.supervised(policy), "model")}
        run = self.add("feedback", values, _labels(policy=policy), f"{self.where}, feedback")
        return {"feedback": Link(run, "feedback.jsonl")}

    def reward_model(self, values: dict[str, Any], labels: dict[str, Any], where: str) -> Run:
        return self.add("reward_model", values | self.exact_feedback(), labels, where)

    def evaluators(self, task: str) -> dict[str, Any]:
        """The PPO parameters of who scores the policies: the last checkpoints of one training, or of several."""
        values = self.layers("evaluator", task) | {"task": task, "split": "evaluator"}
        last = []
        for seed in self.study.evaluator_seeds:
            told_apart = {"rm_seed": seed} if len(self.study.evaluator_seeds) > 1 else {}
            labels = _labels(task=task, setting="evaluator", **told_apart)
            run = self.reward_model(values | {"seed": seed}, labels, f"{self.where}, evaluator")
            last.append(Link(run, f"checkpoint-{run.parameters['checkpoint_steps'][-1]}"))
        return {"evaluator": last[0]} | ({"other_evaluators": last[1:]} if last[1:] else {})

    def layers(self, stage: str, task: str) -> dict[str, Any]:
        return self.study.source | getattr(self.study, stage) | self.study.tasks.get(task, {}).get(stage, {})

    def add(self, stage: str, values: dict[str, Any], labels: dict[str, Any], where: str) -> Run:
        """The run of these parameters, in which a :class:`Link`, or a list of them, stands for files of other runs."""
        links = {name: value for name, value in values.items() if any(isinstance(one, Link) for one in listed(value))}

        def filled(folder: Callable[[str], str]) -> dict[str, Any]:
            paths = {name: [f"{folder(one.run.id)}/{one.file}" for one in listed(value)] for name, value in links.items()}
            return {name: many if isinstance(links[name], list) else many[0] for name, many in paths.items()}

        checked = config.check(config.STAGES[stage], values | filled(lambda run: run), where)
        _refuse_absent({name: value for name, value in values.items() if name not in links}, where)
        if stage not in self.codes:
            self.codes[stage] = identity.code_of(stage)
        code, data = self.codes[stage], identity.data_hash(checked, self.digests)
        whole = [stage, checked.model_dump(exclude={"out", "resume_every"}), identity.total(code), data]
        name = f"{stage}-{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:10]}"
        parameters = checked.model_dump() | filled(lambda run: work_folder(self.study.study, run))
        parameters["out"] = work_folder(self.study.study, name)
        needs = tuple(dict.fromkeys(one.run.id for value in links.values() for one in listed(value)))
        known = self.runs.setdefault(name, Run(name, stage, parameters, needs, labels, code, data))
        if stage == "ppo" and labels not in known.all_labels:
            self.runs[name] = replace(known, also=(*known.also, labels))
        return known


def _refuse_absent(given: Mapping[str, Any], where: str) -> None:
    """Refuse a model that a config names and that is not there, before hours of runs that it does not concern.

    ``given``: what the config says of a run, without defaults and links.
    """
    for name, value, model in identity.named(dict(given)):
        if name in identity.MODELS and value != "oracle" and (problem := identity.absent(name, model)):
            raise ParameterError(f"{where}: {name} = {value!r}: {problem}")


@dataclass(frozen=True)
class Link:
    """A file or folder that another run leaves in its work folder."""

    run: Run
    file: str


def _labels(**known: Any) -> dict[str, Any]:
    return dict.fromkeys(("task", "policy", "route", "arm", "setting", "rm_step", "rm_seed", "ppo_seed")) | known


def _steps(arm: Arm, rm_seed: int, saved: list[int]) -> list[int]:
    """Of the steps that a reward model saves, those of the checkpoints that get PPO runs."""
    if isinstance(arm.checkpoints, dict):
        return arm.checkpoints[rm_seed]
    return {"all": saved, "last": saved[-1:]}.get(str(arm.checkpoints), arm.checkpoints)


def _ppo_seeds(arm: Arm, marks: Mapping[str, Any]) -> list[int]:
    """The PPO seeds that meet the reward of these marks: all, or the one of the same place."""
    if arm.seeds == "crossed" or marks.get("rm_seed") is None:
        return arm.ppo_seeds
    return [arm.ppo_seeds[arm.rm_seeds.index(marks["rm_seed"])]]


def describe(run: Run) -> str:
    """A run in a few words, for progress lines and lists of failures."""
    labels = run.labels
    words = [run.stage, labels["task"], labels["policy"], labels["route"], labels["setting"]]
    numbers = {"step": labels["rm_step"], "RM seed": labels["rm_seed"], "seed": labels["ppo_seed"]}
    return " ".join([str(word) for word in words if word] + [f"{name} {n}" for name, n in numbers.items() if n is not None])


def gpus(run: Run) -> int:
    """How many GPUs a run takes where there are any: one for each of its processes, none for one that stays on the CPU."""
    return 0 if run.parameters.get("device") == "cpu" else run.parameters.get("processes", 1)
