"""A study: from a config file to its runs, their ids and what each needs. Plans only; :mod:`paradox_utils.study.run` runs.

A run's id is a hash over its stage, its resolved parameters (dependencies by their ids), the code of the makers its stage
declares (:mod:`paradox_utils.identity`), and its data. So a changed PPO parameter gives new ids to PPO runs alone, and an edit
to a plot to none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paradox_utils import config, identity
from paradox_utils.config import ParameterError
from paradox_utils.config.study import CONTROLS, Arm, Study
from paradox_utils.identity import NOTEBOOKS

# Parameters that the plan fills in, and what to write instead.
FILLED: dict[str, dict[str, str]] = {
    "supervised": {},
    "feedback": {},
    "reward_model": {
        "task": "list it in the arm's `tasks`",
        "feedback": "the plan fills it in",
        "split": "the plan fills it in",
        "seed": "list it in the arm's `rm_seeds`",
    },
    "ppo": {
        "task": "list it in the arm's `tasks`",
        "policy": "name it under `policies`",
        "feedback": "the plan fills it in",
        "reward": "the arm's `route` decides",
        "seed": "list it in the arm's `ppo_seeds`",
        "dial_seed": "list it in the arm's `rm_seeds`",
    },
}
EVERYWHERE = {"out": "the plan fills it in", "source": "one study has one source: set it in `source`"}


@dataclass(frozen=True)
class Run:
    """One notebook execution of a study.

    ``parameters``: every parameter of the stage, with folders relative to the project root. ``needs``: ids of the runs whose
    folders it reads. ``labels``: task, policy, route, arm (its name), setting, rm_step, rm_seed, ppo_seed (None where it has
    none); ``also``: those of further arms that ask for the same run. ``code``: the digest of each file that can change its
    numbers, ``data``: that of its data; both are part of the id.
    """

    id: str
    stage: str
    notebook: str
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
    planner = _Planner(study, where)
    for number, arm in enumerate(study.arms, 1):
        for task in arm.tasks:
            for policy in arm.policies if arm.policies is not None else study.policies:
                planner.add_arm(arm, f"{where}, arm {number}", task, policy)
    return sorted(planner.runs.values(), key=lambda run: list(NOTEBOOKS).index(run.stage))


# --- checks of the layers -------------------------------------------------------------------------------------------


def _check_layers(study: Study, where: str) -> None:
    """Every layer on its own, used by an arm or not, so that a message names the place where the mistake stands."""
    _check_layer("source", study.source, f"{where}, source")
    for name in study.policies:
        _check_layer("supervised", _supervised_layer(study, name), f"{where}, policies, {name}")
        if not isinstance(own := _ppo_layer(study, name), Mapping):
            raise ParameterError(
                f"{where}, policies, {name}: ppo = {own!r}: must be parameters of the stage, each with its value"
            )
        if "reward_model" in own:
            raise ParameterError(f"{where}, policies, {name}, ppo: reward_model: cannot be set here; set it in an arm's `ppo`")
        _check_layer("ppo", own, f"{where}, policies, {name}, ppo")
    _check_layer("feedback", {key: value for key, value in study.feedback.items() if key != "policy"}, f"{where}, feedback")
    if "policy" in study.feedback:
        _check_policy(study, study.feedback["policy"], f"{where}, feedback: policy")
    _check_layer("reward_model", study.reward_model, f"{where}, reward_model")
    _check_layer("reward_model", study.evaluator or {}, f"{where}, evaluator")
    _check_layer("ppo", study.ppo, f"{where}, ppo")
    ppo_layers = [study.ppo, *(task.get("ppo", {}) for task in study.tasks.values()), *(arm.ppo for arm in study.arms)]
    ppo_layers += [_ppo_layer(study, name) for name in study.policies]
    if study.evaluator is not None and any("evaluator" in layer for layer in ppo_layers):
        raise ParameterError(f"{where}: has both `evaluator:`, which trains one, and a PPO parameter `evaluator`; keep one")
    for task, stages in study.tasks.items():
        for stage, values in stages.items():
            place = f"{where}, tasks, {task}, {stage}"
            if stage == "evaluator" and study.evaluator is None:
                raise ParameterError(f"{place}: the study trains no evaluator; add `evaluator:` (it may be empty: {{}})")
            _check_layer("ppo" if stage == "ppo" else "reward_model", values, place)
    if not study.arms:
        raise ParameterError(f"{where}: arms: must list at least one arm")
    for number, arm in enumerate(study.arms, 1):
        _check_arm(study, arm, f"{where}, arm {number}")


def _supervised_layer(study: Study, policy: str) -> dict[str, Any]:
    return {name: value for name, value in study.policies[policy].items() if name != "ppo"}


def _ppo_layer(study: Study, policy: str) -> dict[str, Any]:
    """What differs in the PPO runs of one policy, in every task; an arm's own `ppo` goes before it."""
    return study.policies[policy].get("ppo", {})


def _check_layer(stage: str, values: Mapping[str, Any], where: str) -> None:
    """One parameter at a time, as the others may stand in another layer; :meth:`_Planner.add` checks them together."""
    schema = config.Source if stage == "source" else config.STAGES[stage]
    filled = FILLED[stage] | EVERYWHERE if stage != "source" else {"out": EVERYWHERE["out"]}
    for name, value in values.items():
        if name in filled:
            raise ParameterError(f"{where}: {name} = {value!r}: cannot be set here; {filled[name]}")
        config.check_alone(schema, name, value, where)


def _check_arm(study: Study, arm: Arm, where: str) -> None:
    """What an arm says beyond the parameters of its stages."""
    _check_layer("reward_model", arm.reward_model, f"{where}, reward_model")
    _check_layer("ppo", arm.ppo, f"{where}, ppo")
    if not study.policies:
        raise ParameterError(f"{where}: no policy; add one under `policies`")
    for policy in arm.policies or []:
        _check_policy(study, policy, f"{where}: policies")
    for name in ("tasks", "rm_seeds", "ppo_seeds", *([] if arm.policies is None else ["policies"])):
        values = getattr(arm, name)
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{where}: {name} = {values!r}: must hold at least one value, each once")
    if len(sizes := {name: len(values) for name, values in arm.vary.items()}) > 1 and len(set(sizes.values())) > 1:
        raise ParameterError(f"{where}, vary: {sizes} values: parameters that change together need equally many")
    if arm.seeds == "nested" and len(arm.rm_seeds) != len(arm.ppo_seeds):
        raise ParameterError(
            f"{where}: seeds = 'nested' pairs {len(arm.rm_seeds)} rm_seeds with {len(arm.ppo_seeds)} ppo_seeds; list as many"
        )
    trains = any(_trains_reward_model(study, arm, task) for task in arm.tasks)
    if arm.seeds == "nested" and arm.route != "dial" and not trains:
        raise ParameterError(f"{where}: seeds = 'nested': has no effect, as this arm's rewards have no seed; leave it out")
    if "reward_model" in arm.vary and (vain := set(arm.vary) & set(config.RewardModel.model_fields)):
        raise ParameterError(
            f"{where}, vary: {min(vain)!r} has no effect beside reward_model, which is not trained here; leave it out"
        )
    for name, values in arm.vary.items():
        stage = _varied_stage(arm, name, f"{where}, vary")
        if not values:
            raise ParameterError(f"{where}, vary: {name} = []: give it at least one value")
        for value in values:
            _check_layer(stage, {name: value}, f"{where}, vary")
    keyed = ["rm_seeds"] if arm.route != "dial" and arm.seeds == "crossed" else []
    useless = sorted({"checkpoints", "reward_model", *keyed} & arm.model_fields_set)
    if useless and not trains:
        raise ParameterError(f"{where}: {useless[0]}: has no effect, as this arm trains no reward model; leave it out")


def _varied_stage(arm: Arm, name: str, where: str) -> str:
    """The stage whose parameter an arm varies: ``ppo`` for controls and the user's own reward models, else ``reward_model``."""
    stage = "ppo" if arm.route in CONTROLS or name == "reward_model" else "reward_model"
    schema = config.STAGES[stage]
    if name in config.Source.model_fields:
        raise ParameterError(f"{where}: {name!r} concerns every stage, so it cannot vary in an arm; set it in `source`")
    if name not in schema.model_fields:
        other = config.STAGES["reward_model" if stage == "ppo" else "ppo"]
        if name in other.model_fields:
            raise ParameterError(f"{where}: route {arm.route!r} varies a parameter of `{stage}`; {name!r} is not one of them")
        config.check(schema, {name: arm.vary[name]}, where)  # raises, naming the nearest
    return stage


def _trains_reward_model(study: Study, arm: Arm, task: str) -> bool:
    """False for controls, and where the config names the user's own reward model."""
    layers = (study.ppo, study.tasks.get(task, {}).get("ppo", {}), arm.ppo, arm.vary)
    return arm.route not in CONTROLS and not any("reward_model" in layer for layer in layers)


def _check_policy(study: Study, name: str, where: str) -> None:
    if name not in study.policies:
        raise ParameterError(f"{where} = {name!r}: must be one of the names under `policies` ({', '.join(study.policies)})")


# --- the runs -------------------------------------------------------------------------------------------------------


@dataclass
class _Planner:
    """The runs planned so far, by id; the same parameters asked for twice are one run with both labels."""

    study: Study
    where: str
    runs: dict[str, Run] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    digests: dict[Path, bytes] = field(default_factory=dict)

    def add_arm(self, arm: Arm, where: str, task: str, policy: str) -> None:
        """The PPO runs of one arm for one task and policy, and everything they need."""
        for values in zip(*arm.vary.values(), strict=True) if arm.vary else [()]:
            varied = dict(zip(arm.vary, values, strict=True))
            setting = ", ".join(f"{key}={value}" for key, value in (varied | arm.reward_model | arm.ppo).items())
            labels = _labels(task=task, policy=policy, route=arm.route, arm=arm.name or arm.route, setting=setting)
            stages = {name: _varied_stage(arm, name, where) for name in varied}
            if _trains_reward_model(self.study, arm, task):
                rewards = self.trained_rewards(arm, where, labels, varied)
            else:
                rewards = self.fixed_reward(arm, labels)
            supervised = self.supervised(policy)
            for reward, marks in rewards:
                for ppo_seed in _ppo_seeds(arm, marks):
                    values = self.layers("ppo", task) | _ppo_layer(self.study, policy) | arm.ppo
                    values |= {name: value for name, value in varied.items() if stages[name] == "ppo"}
                    values |= (
                        reward
                        | (EXACT if _never_errs(values | reward) else {})
                        | {"task": task, "policy": Link(supervised, "model"), "seed": ppo_seed}
                    )
                    if self.study.evaluator is not None:
                        values["evaluator"] = self.evaluator(task)
                    self.add("ppo", values, labels | marks | {"ppo_seed": ppo_seed}, f"{where}, ppo")

    def fixed_reward(self, arm: Arm, labels: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Controls (a dial for each key), or the user's own reward model: nothing to train."""
        values = self.exact_feedback(labels["policy"])
        if arm.route not in CONTROLS:
            return [({"reward": "model"} | values, {})]
        if arm.route != "dial":
            return [({"reward": arm.route} | values, {})]
        return [({"reward": "dial", "dial_seed": seed} | values, {"rm_seed": seed}) for seed in arm.rm_seeds]

    def exact_feedback(self, policy: str) -> dict[str, Any]:
        """Where there is an oracle: the feedback that measures dials and centres exact scores."""
        if self.study.source.get("source", "atlas") != "atlas":
            return {}
        return {"feedback": Link(self.feedback(policy), "feedback.jsonl")}

    def trained_rewards(
        self, arm: Arm, where: str, labels: dict[str, Any], varied: dict[str, Any]
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The PPO parameters and labels of every checkpoint this arm uses, of every reward-model seed."""
        rewards = []
        for rm_seed in arm.rm_seeds:
            values = self.layers("reward_model", labels["task"]) | arm.reward_model | varied
            values |= {"task": labels["task"], "split": "train", "seed": rm_seed}
            run = self.reward_model(values, labels | {"policy": None, "rm_seed": rm_seed}, f"{where}, reward_model")
            saved = run.parameters["checkpoint_steps"]
            for step in {"all": saved, "last": saved[-1:]}.get(str(arm.checkpoints), arm.checkpoints):
                if step not in saved:
                    raise ParameterError(
                        f"{where}: checkpoints = {arm.checkpoints}: the {labels['task']} reward model saves no step {step}; "
                        f"it saves checkpoint_steps = {saved}"
                    )
                reward = {"reward": "model", "reward_model": Link(run, f"checkpoint-{step}")}
                reward |= self.exact_feedback(self.annotated_policy())
                rewards.append((reward, {"rm_step": step, "rm_seed": rm_seed}))
        return rewards

    def supervised(self, policy: str) -> Run:
        values = self.study.source | _supervised_layer(self.study, policy)
        return self.add("supervised", values, _labels(policy=policy), f"{self.where}, policies, {policy}")

    def feedback(self, policy: str) -> Run:
        values = self.study.source | self.study.feedback | {"policy": Link(self.supervised(policy), "model")}
        return self.add("feedback", values, _labels(policy=policy), f"{self.where}, feedback")

    def reward_model(self, values: dict[str, Any], labels: dict[str, Any], where: str) -> Run:
        """Atlas: from responses of one policy, the first unless `feedback: {policy: NAME}` says another, for all policies."""
        if self.study.source.get("source", "atlas") == "atlas":
            values = values | self.exact_feedback(self.annotated_policy())
        return self.add("reward_model", values, labels, where)

    def annotated_policy(self) -> str:
        return self.study.feedback.get("policy", next(iter(self.study.policies)))

    def evaluator(self, task: str) -> Link:
        values = self.study.source | (self.study.evaluator or {}) | self.study.tasks.get(task, {}).get("evaluator", {})
        values |= {"task": task, "split": "evaluator"}
        run = self.reward_model(values, _labels(task=task, setting="evaluator"), f"{self.where}, evaluator")
        return Link(run, f"checkpoint-{run.parameters['checkpoint_steps'][-1]}")

    def layers(self, stage: str, task: str) -> dict[str, Any]:
        return self.study.source | getattr(self.study, stage) | self.study.tasks.get(task, {}).get(stage, {})

    def add(self, stage: str, values: dict[str, Any], labels: dict[str, Any], where: str) -> Run:
        """The run of these parameters, in which a :class:`Link` stands for a file of another run."""
        links = {name: value for name, value in values.items() if isinstance(value, Link)}
        by_id = values | {name: f"{link.run.id}/{link.file}" for name, link in links.items()}
        checked = config.check(config.STAGES[stage], by_id, where)
        notebook = NOTEBOOKS[stage]
        if stage not in self.codes:
            self.codes[stage] = identity.code_of(stage)
        code, data = self.codes[stage], identity.data_hash(checked, self.digests)
        whole = [stage, checked.model_dump(exclude={"out"}), identity.total(code), data]
        name = f"{stage}-{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:10]}"
        paths = {key: f"{work_folder(self.study.study, link.run.id)}/{link.file}" for key, link in links.items()}
        parameters = checked.model_dump() | paths | {"out": work_folder(self.study.study, name)}
        needs = tuple(dict.fromkeys(link.run.id for link in links.values()))
        run = Run(name, stage, notebook, parameters, needs, labels, code, data)
        known = self.runs.setdefault(name, run)
        if stage == "ppo" and labels not in known.all_labels:
            self.runs[name] = replace(known, also=(*known.also, labels))
        return known


@dataclass(frozen=True)
class Link:
    """A file or folder that another run leaves in its work folder."""

    run: Run
    file: str


def _labels(**known: Any) -> dict[str, Any]:
    return dict.fromkeys(("task", "policy", "route", "arm", "setting", "rm_step", "rm_seed", "ppo_seed")) | known


# What a dial that never errs does not depend on, so that arms of any kind and key share its runs.
EXACT = {"dial_kind": "prejudice", "dial_seed": 0, "scale_matched": False}


def _never_errs(values: Mapping[str, Any]) -> bool:
    return values["reward"] == "dial" and values.get("dial_accuracy", 1.0) == 1.0


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
