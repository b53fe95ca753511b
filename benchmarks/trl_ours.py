"""The engine's side of the comparison with TRL."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import terminal
from benchmarks.plain import Clock
from benchmarks.worker import peak_memory
from paradox_utils import config
from paradox_utils.data.records import Question
from paradox_utils.policies.models import device_of, load_value_model, load_weights
from paradox_utils.policies.prompts import Responses, encode_prompts
from paradox_utils.ppo import loop, ppo
from paradox_utils.ppo.loop import Actors


class Loop:
    """The engine as a side of the comparison."""

    def __init__(self, folder: str, device: str, precision: str) -> None:
        self.folder, self.device, self.precision = Path(folder), device, precision
        self.size, self.prompts = terminal.load(self.folder)

    def parameters(self, seed: int) -> config.PPO:
        """What :mod:`benchmarks.trl_theirs` tells TRL, in the engine's words."""
        size = self.size
        return config.PPO(
            policy=str(self.folder / "policy"), prompts_per_update=size.prompts, samples_per_prompt=size.samples,
            prompt_limit=size.longest, response_limit=size.response, updates=size.updates, epochs=size.epochs,
            learning_rate=size.learning_rate, adam_epsilon=size.adam_epsilon, decay=True, max_gradient_norm=None,
            temperature=size.temperature, kl_coefficient=size.kl_coefficient, clip=size.clip, value_clip=size.clip,
            value_weight=size.value_weight, discount=1.0, gae_lambda=size.gae_lambda, whitening="standard-deviation",
            precision=self.precision, device=self.device, seed=seed,
        )  # fmt: skip

    def reward(self, responses: Responses) -> Tensor:
        """The terminal reward on the last token, [B, T]."""
        grid = torch.zeros(responses.ids.shape, device=responses.ids.device)
        grid[:, -1] = terminal.score(responses.ids, self.size)
        return grid

    def actors(self, p: config.PPO) -> Actors:
        """Without :func:`~paradox_utils.stages.ppo.load_actors`, which refuses a policy that cannot say its end of sequence."""
        policy, device = load_weights(AutoModelForCausalLM, p.policy).eval(), device_of(p.device)
        reference, value = copy.deepcopy(policy).requires_grad_(False), load_value_model(p.policy, False, p.seed)
        return Actors(policy.to(device), reference.to(device), value.to(device), terminal.tokenizer(self.size))

    def run(self, seed: int) -> list[dict[str, float]]:
        """One training: reward, KL and seconds of each update."""
        p = self.parameters(seed)
        actors = self.actors(p)
        actors.value.load_state_dict(load_file(self.folder / "value.safetensors"))
        optimizer, rows = ppo.optimizer_of(p, actors), []
        for update, words in enumerate(self.prompts):
            clock = Clock(self.device)
            questions = [Question(str(i), "", (), terminal.text(one), ("",)) for i, one in enumerate(words)]
            prompts = encode_prompts(actors.policy, actors.tokenizer, questions, p.prompt_limit)
            rollout = loop.score(p, actors, loop.sample(p, actors, prompts, update), self.reward)
            found = loop.measure(rollout)
            ppo.optimise(p, actors, optimizer, rollout, update + 1)
            clock.lap("seconds")
            rows.append({"reward": found["reward_mean"], "kl": found["kl"]} | clock.laps)
        return rows

    def peak(self) -> int:
        """Peak memory in bytes."""
        return peak_memory(self.device)
