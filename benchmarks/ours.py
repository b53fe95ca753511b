"""The project's engine as a side of the comparison, and what is counted on it: tokens, operations, where the time goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers.models.t5.modeling_t5 import T5LayerFF

from benchmarks import matmul, workload
from benchmarks.plain import Clock
from benchmarks.worker import peak_memory
from benchmarks.workload import PASS_TOKENS
from paradox_utils import config
from paradox_utils.data.records import Feedback
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.prompts import Responses, encode_prompts
from paradox_utils.ppo import loop, ppo
from paradox_utils.rewards.judges import Centre, RewardFunction, model_judge, reward_function
from paradox_utils.rewards.model import load_scorer
from paradox_utils.stages.ppo import load_actors


@dataclass
class Engine:
    """A run's parameters, networks, optimizer and reward."""

    p: config.PPO
    actors: loop.Actors
    optimizer: torch.optim.Optimizer
    reward: RewardFunction


def load(folder: Path, p: config.PPO) -> Engine:
    """The engine on the models of a workload's folder."""
    actors = load_actors(p)
    scorer = load_scorer(folder / "reward", p.task, p, p.rm_micro_batch)
    reward = reward_function(actors.tokenizer, model_judge(scorer, p), Centre(), p)
    return Engine(p, actors, ppo.optimizer_of(p, actors), reward)


def sample(engine: Engine, chosen: list[Feedback], lengths: torch.Tensor, seed: int) -> Responses:
    """Responses of imposed ``lengths`` [B]."""
    p, actors = engine.p, engine.actors
    prompts = encode_prompts(actors.policy, actors.tokenizer, [record.question for record in chosen], p.prompt_limit)
    how: dict[str, Any] = {"samples": p.samples_per_prompt, "temperature": p.temperature, "top_k": p.top_k}
    how |= {"seed": seed, "lengths": lengths.to(prompts.ids.device)}
    with loop.precision(p, prompts.ids.device):
        return generate(actors.policy, actors.tokenizer, prompts, p.response_limit, **how)


class Loop:
    """The engine as a side of the comparison."""

    def __init__(self, folder: str, device: str, precision: str, **more: Any) -> None:
        self.size, self.records = workload.load(Path(folder))
        p = workload.parameters(Path(folder), self.size, device, precision, **{"pass_tokens": PASS_TOKENS[device]} | more)
        self.engine, self.device = load(Path(folder), p), device

    def chosen(self, index: int, prompts: int = 0) -> tuple[list[Feedback], torch.Tensor]:
        """Questions of a rollout and the lengths of its responses."""
        chosen = workload.batch(self.records, self.size, index)[: prompts or None]
        return chosen, torch.tensor(workload.lengths(self.engine.actors.tokenizer, chosen, self.size))

    def rollout(self, index: int, prompts: int = 0) -> dict[str, float]:
        """Seconds of each phase of rollout ``index`` (of its first ``prompts`` questions; 0: all), and what it was made of."""
        engine, (chosen, lengths) = self.engine, self.chosen(index, prompts)
        clock = Clock(self.device)
        responses = sample(engine, chosen, lengths, seed=index)
        clock.lap("generation")
        rollout = loop.score(engine.p, engine.actors, responses, engine.reward)
        clock.lap("scoring")
        ppo.optimise(engine.p, engine.actors, engine.optimizer, rollout, 1)
        clock.lap("updates")
        self.last = rollout
        tokens = {"prompt_tokens": float(responses.prompts.mask.sum(1).float().mean())}
        tokens |= {"response_tokens": float(responses.mask.sum(1).float().mean()), "cut": responses.prompts.truncated}
        return clock.laps | {"episodes": len(lengths)} | tokens

    def update_work(self) -> float:
        """Floating-point operations of the updates on the last rollout, counted while they run."""
        p = self.engine.p.model_copy(update={"epochs": 1})
        with FlopCounterMode(display=False, custom_mapping=_on_cpu()) as counter:
            ppo.optimise(p, self.engine.actors, self.engine.optimizer, self.last, 1)
        return float(counter.get_total_flops() * self.engine.p.epochs)

    def rate(self) -> float:
        """Operations per second of the machine's matrix multiplication, in the precision of the updates."""
        return matmul.rate(self.device, self.engine.p.precision)

    def peak(self) -> int:
        """Peak memory in bytes."""
        return peak_memory(self.device)

    def compiled(self, index: int, repeats: int) -> dict[str, float]:
        """Median seconds of one epoch of updates as the layers are (``eager``) and with compiled feed-forward layers
        (``compiled``), and of the ``first`` after compiling, which compiles."""
        engine, (chosen, lengths) = self.engine, self.chosen(index)
        rollout = loop.score(engine.p, engine.actors, sample(engine, chosen, lengths, seed=index), engine.reward)
        once = engine.p.model_copy(update={"epochs": 1})

        def epoch() -> float:
            clock = Clock(self.device)
            ppo.optimise(once, engine.actors, engine.optimizer, rollout, 1)
            clock.lap("epoch")
            return clock.laps["epoch"]

        epoch()  # warms up
        eager = median(epoch() for _ in range(repeats))
        for module in (*engine.actors.policy.modules(), *engine.actors.value.modules()):
            if isinstance(module, T5LayerFF):
                module.compile(dynamic=True)
        first = epoch()
        return {"eager": eager, "first": first, "compiled": median(epoch() for _ in range(repeats))}

    def profile(self, index: int) -> list[dict[str, Any]]:
        """Where each phase of a rollout spends its time: share of its operators' own time, the largest first."""
        engine, (chosen, lengths) = self.engine, self.chosen(index)
        made: dict[str, Any] = {}
        phases: dict[str, Callable[[], Any]] = {
            "generation": lambda: made.update(responses=sample(engine, chosen, lengths, seed=index)),
            "scoring": lambda: made.update(rollout=loop.score(engine.p, engine.actors, made["responses"], engine.reward)),
            "updates": lambda: ppo.optimise(engine.p, engine.actors, engine.optimizer, made["rollout"], 1),
        }
        return [row for phase, work in phases.items() for row in operators(phase, work, self.device)]


def operators(phase: str, work: Callable[[], Any], device: str, shown: int = 6) -> list[dict[str, Any]]:
    """The operators that take most of ``work``: name, share of the time that all take themselves, calls."""
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as profile:
        work()
    name = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events) or 1
    return [
        {"phase": phase, "operator": event.key, "share": getattr(event, name) / total, "calls": event.count}
        for event in events[:shown]
    ]


def _on_cpu() -> dict[Any, Any]:
    """Attention's fused kernels on a CPU, which torch's counter leaves out."""

    def forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    operators = torch.ops.aten
    return {
        operators._scaled_dot_product_flash_attention_for_cpu: forward,
        operators._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
