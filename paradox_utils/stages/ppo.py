"""The stage ``ppo``, from its parameters to its results: what notebook 04 calls."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data, files, hashes, states
from paradox_utils.data.records import DataError, Question
from paradox_utils.data.tasks import TASKS
from paradox_utils.files import resolve
from paradox_utils.policies.models import ModelError, device_of, load_policy, load_value_model
from paradox_utils.policies.prompts import Prompts, Responses, choose, encode_prompts
from paradox_utils.ppo import loop, processes, state
from paradox_utils.ppo.evaluate import Scores, evaluation
from paradox_utils.ppo.probe import Rewards, probe
from paradox_utils.rewards.judges import REWARDS, RewardFunction, evaluator_of, reward_of, true_reward
from paradox_utils.rewards.measures import agreement

transformers_logging.disable_progress_bar()


def run_ppo(p: config.PPO, folder: Path, report: Callable[[dict], None] = lambda row: None) -> tuple[loop.Outcome, dict]:
    """Stage ``ppo``: how the run ended, and its results on validation and test questions. Killed and called again with the same
    folder, it goes on from its last state in ``folder/resume`` and ends with the same numbers.

    ``lm_performance_start``, ``_final`` and ``_best`` (the policy that validation chose) are on test questions; a policy whose
    own numbers broke has no final ones, and its best is what is left in ``folder/model``. ``sampled_*``: the same of responses
    sampled at the training temperature. ``lm_performance_best_logged`` is the published reading: the maximum over logged
    validation evaluations. ``folder/questions.csv`` has the scores of each test question, ``folder/best_of_n.csv`` what
    choosing among the starting policy's responses reaches.
    """
    if p.processes > 1 and processes.count() == 1:
        return _shared(p, folder)
    splits = data.load_splits(p)
    if len(splits.train) < p.processes:
        raise DataError(f"{len(splits.train)} questions to train on: raise train_questions ({p.train_questions})")
    actors = load_actors(p)
    judged = data.load_feedback(p, resolve(p.feedback)) if data.oracle_of(p, p.task) else {}
    reward, metrics, cut = reward_of(p, actors.tokenizer, judged)
    truth = true_reward(p, actors.tokenizer, judged)
    evaluator = evaluator_of(p)
    score = evaluation(actors.policy, actors.tokenizer, evaluator, truth, p)
    validation = encode_prompts(actors.policy, actors.tokenizer, splits.validation, p.prompt_limit)
    test = encode_prompts(actors.policy, actors.tokenizer, splits.test, p.prompt_limit)
    start = processes.agreed(lambda: [score(test), score(test, sampled=True)])
    probed, best_of = {}, []
    if p.probe_prompts and truth is not None:
        soft = None
        if p.reward == "model" and not TASKS[p.task].pairwise:
            soft = reward_of(p.model_copy(update={"reward_form": "probability"}), actors.tokenizer, judged)[0]
        asked = choose(validation, list(range(min(p.probe_prompts, len(splits.validation)))))
        rewards = Rewards(reward, soft, truth, evaluator)
        probed, best_of = processes.agreed(lambda: probe(actors.policy, actors.tokenizer, asked, rewards, p))

    def prompts(update: int) -> Prompts:
        rng = random.Random(f"prompts {p.seed} {update}")  # no state to keep for a run that goes on after it was killed
        chosen: list[Question] = rng.sample(splits.train, min(p.prompts_per_update, len(splits.train)))
        mine = chosen[processes.rank() :: processes.count()]
        return encode_prompts(actors.policy, actors.tokenizer, mine, p.prompt_limit)

    if processes.rank() == 0:
        states.claim(folder / "resume", hashes.made_by(p, "paradox_utils.stages.ppo"))

    def evaluate() -> dict[str, float]:
        reported = score(test).measures
        return named(score(validation)) | {f"test_{name}": reported[name] for name in ("lm_performance", "true_return")}

    observe = functools.partial(compared, p, truth) if truth is not None else None
    outcome = loop.train(p, actors, prompts, reward, evaluate, report, folder / "resume", cut, observe)
    final = processes.agreed(lambda: [score(test), score(test, sampled=True)]) if outcome.finite else [None, None]
    if not outcome.finite:
        state.restore(actors.policy, outcome.best)
    if processes.rank() == 0:
        actors.policy.save_pretrained(folder / "model")
        actors.tokenizer.save_pretrained(folder / "model")
    state.restore(actors.policy, outcome.best)
    best = processes.agreed(lambda: score(test))
    logged = outcome.curve["lm_performance"].dropna()
    known = dict.fromkeys(named(start[0]))  # names of what a broken policy has not
    results = {
        f"rm_{name}": metrics.get(name)
        for name in (*("accuracy", "accuracy_noisy", "balanced_accuracy", "majority", "f1"), "calibration_error")
    }
    for when, greedy in (("start", start[0]), ("final", final[0]), ("best", best)):
        results |= {f"{name}_{when}": value for name, value in (named(greedy) if greedy else known).items()}
    for when, sampled in (("start", start[1]), ("final", final[1])):
        results |= {f"sampled_{name}_{when}": sampled.measures[name] if sampled else None for name in SAMPLED}
    results |= {name: None if math.isnan(value) else value for name, value in probed.items()}
    results |= {
        "lm_performance_best_logged": float(logged.max()),
        "kl_final": float(outcome.curve["kl"].iloc[-1]),
        "updates": int(outcome.curve["update"].iloc[-1]),
        "truncated_prompts": int(outcome.curve["truncated_prompts"].sum()),
        "truncated_evaluation_prompts": validation.truncated + test.truncated,
        "truncated_rm_inputs": int(outcome.curve["truncated_rm_inputs"].sum()),
    }
    if processes.rank() == 0:
        files.write_table(folder / "curve.csv", outcome.curve)
        files.write_table(folder / "questions.csv", questions_table({"start": start[0], "final": final[0], "best": best}))
        if best_of:
            files.write_table(folder / "best_of_n.csv", pd.DataFrame(best_of))
    return outcome, results


SAMPLED = ("lm_performance", "true_return", "length", "segments", "distinct_2", "rouge_l")


def named(scores: Scores) -> dict[str, float]:
    """Measures of greedy responses under the names of results and curves, where ``length`` is that of a rollout."""
    return {f"greedy_{name}" if name in ("length", "segments") else name: value for name, value in scores.measures.items()}


def questions_table(scores: dict[str, Scores | None]) -> pd.DataFrame:
    """One row an evaluation of the test questions: ``good`` and ``segments`` of each, in order, parted by spaces."""
    rows = [
        {"when": when, "good": " ".join(f"{v:g}" for v in s.good), "segments": " ".join(map(str, s.segments))}
        for when, s in scores.items()
        if s is not None
    ]
    return pd.DataFrame(rows)


def compared(p: config.PPO, truth: RewardFunction, responses: Responses, rewards: torch.Tensor) -> torch.Tensor:
    """The truth about rewards [B, T]: the true return of each response, and its agreeing and compared items, [B, 3]."""
    true = truth(responses)
    agreeing, counted = agreement(rewards.cpu().numpy(), true.cpu().numpy(), p.samples_per_prompt, TASKS[p.task].pairwise)
    if REWARDS[p.reward].blind:
        agreeing, counted = agreeing * 0, counted * 0  # nothing in them to agree with: no number, not an infinite one
    return torch.stack([true.sum(1).double().cpu(), torch.tensor(agreeing).double(), torch.tensor(counted).double()], 1)


def _shared(p: config.PPO, folder: Path) -> tuple[loop.Outcome, dict]:
    """The same run by ``p.processes`` processes that ``accelerate launch`` starts."""
    files.write_json(folder / "parameters.json", p.model_dump())
    # --multi_gpu: several processes by torch's launcher, on CPU cores as well (--cpu would want MPI); port 0: any that is free
    options = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(p.processes), "--main_process_port", "0"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "paradox_utils.stages.ppo", str(folder)]
    reason = folder / "error.txt"
    reason.unlink(missing_ok=True)
    done = subprocess.run(
        [*command, str(os.getpid())], cwd=files.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        first = reason.read_text(encoding="utf-8") if reason.is_file() else "killed, or crashed; its output has more"
        raise RuntimeError(f"one of the run's {p.processes} processes ended with an error: {first}")
    ended = files.read_json(folder / "outcome.json")
    curve = pd.read_csv(folder / "curve.csv", float_precision="round_trip")
    return loop.Outcome(curve, ended["status"], ended["reason"], {}, ended["finite"]), ended["results"]


def main(folder: Path, owner: int) -> None:
    """One of the processes that share a run of the process ``owner``. Parameters are in ``folder``, where process 0 leaves how
    it ended, and the first to fail its reason."""
    processes.end_with(owner)
    try:
        _take_part(folder)
    except Exception as error:
        with contextlib.suppress(OSError), (folder / "error.txt").open("x", encoding="utf-8") as sink:
            sink.write(f"{type(error).__name__}: {error}")
        raise


def _take_part(folder: Path) -> None:
    p = config.check(config.PPO, files.read_json(folder / "parameters.json"))
    processes.join(cpu=device_of(p.device).type == "cpu")
    if processes.count() != p.processes:
        raise RuntimeError(
            f"{processes.count()} processes met where processes = {p.processes}; start them with accelerate launch"
        )
    outcome, results = run_ppo(p, folder)
    if processes.rank() == 0:
        ended = {"status": outcome.status, "reason": outcome.reason, "finite": outcome.finite, "results": results}
        files.write_json(folder / "outcome.json", ended)


def load_actors(p: config.PPO) -> loop.Actors:
    """Policy, reference and value model on their device."""
    device = device_of(p.device)
    policy, tokenizer = load_policy(p.policy)
    shared = p.value_model == "shared"
    value = load_value_model(p.policy if shared else p.value_weights or p.policy, shared, p.seed)
    mine, its = policy.config, value.body.config if value.body is not None else policy.config
    if (its.is_encoder_decoder, its.vocab_size) != (mine.is_encoder_decoder, mine.vocab_size):
        raise ModelError(
            f"value_weights = {p.value_weights!r}: a model of another kind or vocabulary than the policy {p.policy!r}, whose "
            "tokens it would read; name one of the same family"
        )
    return loop.Actors(policy.to(device), loop.frozen_copy(policy).to(device), value.to(device), tokenizer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
