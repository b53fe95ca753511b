"""TRL's side of the comparison: its last ``PPOTrainer`` at its fastest (one pass a phase, no checkpointing).

It runs in an environment of its own, beside the same transformers and torch.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithPadding,
    LlamaModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks import terminal
from benchmarks.worker import peak_memory


class Critic(nn.Module):
    """The value model, in the form TRL calls it."""

    base_model_prefix = "body"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.body = LlamaModel.from_pretrained(folder / "policy")
        width = self.body.config.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        weights = load_file(folder / "value.safetensors")
        self.load_state_dict({name.replace("head.", "score."): weight for name, weight in weights.items()})


class Judge(nn.Module):
    """The reward, in the form TRL calls it: a backbone that hands the tokens on, and a head that scores the last position."""

    base_model_prefix = "body"

    def __init__(self, size: terminal.Size) -> None:
        super().__init__()
        self.size, self.body = size, _Ids()

    def score(self, ids: Tensor) -> Tensor:
        """[B, S + T] token ids to [B, S + T, 1]; only the last position is read."""
        return terminal.score(ids[:, -self.size.response :], self.size)[:, None, None].expand(*ids.shape, 1)


class _Ids(nn.Module):
    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[input_ids])


class _Notes(TrainerCallback):
    """Each update's reward, KL and seconds."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.last = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = time.perf_counter()

    def on_log(self, _arguments: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        if "objective/kl" in logs:
            self.rows.append({"reward": logs["objective/scores"], "kl": logs["objective/kl"]})

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.rows[-1]["seconds"] = now - self.last
        self.last = now


class Loop:
    """TRL as a side of the comparison."""

    def __init__(self, folder: str, device: str, precision: str) -> None:
        self.folder, self.device, self.precision = Path(folder), device, precision
        self.size, self.prompts = terminal.load(self.folder)

    def run(self, seed: int) -> list[dict[str, float]]:
        """One training: reward, KL and seconds of each update."""
        size = self.size
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.folder / "policy", padding_side="left")
        tokenizer.pad_token = "<outside>"
        policy, reference = (AutoModelForCausalLM.from_pretrained(self.folder / "policy") for _ in range(2))
        cue = tokenizer.convert_tokens_to_ids(list(terminal.CUE))
        rows = [words + cue for rollout in self.prompts for words in rollout for _ in range(size.samples)]
        episodes, notes = size.prompts * size.samples, _Notes()
        with tempfile.TemporaryDirectory() as scratch:
            arguments = PPOConfig(
                output_dir=scratch, seed=seed, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=1,
                use_cpu=self.device == "cpu", bf16=self.precision == "bfloat16", gradient_checkpointing=False,
                per_device_train_batch_size=episodes, gradient_accumulation_steps=1, num_mini_batches=1,
                local_rollout_forward_batch_size=episodes, total_episodes=size.updates * episodes, num_sample_generations=0,
                response_length=size.response, stop_token=None, temperature=size.temperature, num_ppo_epochs=size.epochs,
                learning_rate=size.learning_rate, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0,
                adam_epsilon=size.adam_epsilon, kl_coef=size.kl_coefficient, kl_estimator="k1", whiten_rewards=False,
                cliprange=size.clip, cliprange_value=size.clip, vf_coef=size.value_weight, gamma=1.0, lam=size.gae_lambda,
            )  # fmt: skip
            data = Dataset.from_dict({"input_ids": rows})
            trainer = PPOTrainer(
                args=arguments, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=Judge(size),
                value_model=Critic(self.folder), train_dataset=data, eval_dataset=data.select(range(1)), callbacks=[notes],
            )  # fmt: skip
            # TRL shuffles its prompts; here every rollout must have those of the engine
            trainer.dataloader = DataLoader(data, batch_size=episodes, collate_fn=DataCollatorWithPadding(tokenizer))
            trainer.remove_callback(PrinterCallback)
            torch.manual_seed(seed)
            trainer.train()
        return notes.rows

    def peak(self) -> int:
        """Peak memory in bytes."""
        return peak_memory(self.device)
