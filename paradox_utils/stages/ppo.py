"""The stage ``ppo``, from its parameters to its results: what notebook 04 calls."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data, files, identity, states
from paradox_utils.data.records import DataError, Feedback, JudgedSet, Question
from paradox_utils.data.tasks import TASKS
from paradox_utils.files import resolve
from paradox_utils.policies.models import ModelError, device_of, load_policy, load_value_model
from paradox_utils.policies.prompts import Prompts, choose, encode_prompts, prompt_room
from paradox_utils.ppo import OPTIMISERS, best_of_n, processes, state
from paradox_utils.ppo.evaluate import Scores, evaluation, named, questions_table, results_of
from paradox_utils.ppo.gap import gap
from paradox_utils.ppo.loop import Actors, Outcome, Rewards, Setting
from paradox_utils.ppo.probe import probe
from paradox_utils.ppo.transcript import transcript
from paradox_utils.rewards.judges import evaluator_of, reward_of, true_reward
from paradox_utils.rewards.stress import stress

transformers_logging.disable_progress_bar()


def run_ppo(p: config.PPO, folder: Path) -> tuple[Outcome, dict]:
    """Stage ``ppo``: how the run ended, and its results on validation and test questions. Killed and called again with the same
    folder, it goes on from its last state in ``folder/resume`` and ends with the same numbers.

    Left in ``folder``: ``curve.csv``; ``questions.csv``, the scores of each test question; ``responses.csv``, the answers to a
    few of them before and after; where the reward was probed, ``best_of_n.csv``, what choosing among the starting policy's
    responses reaches, and, where people graded answers, ``gap.csv``, what is said of those and of the policy's own; and the
    trained policy, ``model``.
    """
    if p.processes > 1 and processes.count() == 1:
        return _shared(p, folder)
    splits = data.load_splits(p)
    if p.optimiser != "best-of-n" and len(splits.train) < p.prompts_per_update:
        problem = f"more than the {len(splits.train)} questions to train on"
        raise DataError(f"prompts_per_update = {p.prompts_per_update}: {problem}; lower it, or name more data")
    actors = load_actors(p)
    feedback = data.load_feedback(p, resolve(p.feedback))
    rewards, metrics = _rewards(p, actors.tokenizer, feedback)
    score = evaluation(actors.policy, actors.tokenizer, rewards.evaluator, rewards.true, p)
    asked = {"validation": encode(p, actors, splits.validation), "test": encode(p, actors, splits.test)}
    scores = processes.agreed(lambda: {"start": score(asked["test"]), "sampled_start": score(asked["test"], sampled=True)})
    read = functools.partial(processes.agreed, lambda: transcript(p, actors, asked["test"], rewards))
    answers, probed, tables = {"start": read()}, {}, {}
    if p.probe_prompts:
        some = choose(asked["validation"], list(range(min(p.probe_prompts, len(splits.validation)))))
        probed, tables = processes.agreed(lambda: _probed(p, actors, some, rewards, data.load_sets(p).get("heldout", [])))
    if p.stress_records:
        probed = probed | processes.agreed(lambda: stress(p, feedback["heldout"]))

    def prompts(update: int) -> Prompts:
        rng = random.Random(f"prompts {p.seed} {update}")  # no state to keep for a run that goes on after it was killed
        chosen: list[Question] = rng.sample(splits.train, p.prompts_per_update)
        return encode(p, actors, chosen[processes.rank() :: processes.count()])

    def evaluate() -> dict[str, float]:
        reported, names = score(asked["test"]).measures, ("lm_performance", "true_return")
        return named(score(asked["validation"])) | {f"test_{name}": reported[name] for name in names}

    if processes.rank() == 0:
        states.claim(folder / "resume", identity.made_by(p))
    setting = Setting(p, actors, rewards, prompts, asked, evaluate, folder / "resume")
    outcome = OPTIMISERS[p.optimiser](setting)
    if outcome.finite and not outcome.scores:
        answers["final"] = read()
    scores |= outcome.scores or _ends(actors, outcome, functools.partial(score, asked["test"]), folder / "model")
    results = results_of(metrics, scores, probed, outcome.curve)
    results["truncated_evaluation_prompts"] = sum(part.truncated for part in asked.values())
    if processes.rank() == 0:
        files.write_table(folder / "curve.csv", outcome.curve)
        files.write_table(folder / "questions.csv", questions_table(scores))
        files.write_table(folder / "responses.csv", pd.concat(answers, names=["when"]).droplevel(1).reset_index())
        for name, table in tables.items():
            files.write_table(folder / f"{name}.csv", table)
    return outcome, results


def _probed(
    p: config.PPO, actors: Actors, some: Prompts, rewards: Rewards, graded: Sequence[JudgedSet]
) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    """What can be said of the reward before any update: measures, and tables by name; ``graded``: what people said of answers
    to the same questions, if they did."""
    drawn = best_of_n.draw(p, actors, some, rewards)
    tables = {"best_of_n": pd.DataFrame(best_of_n.table(drawn.earned))}
    if graded and TASKS[p.task].pairwise:
        tables["gap"] = gap(p, graded, rewards.evaluator, drawn)
    return probe(p, rewards, drawn), tables


def _rewards(p: config.PPO, tokenizer: PreTrainedTokenizerFast, judged: dict[str, list[Feedback]]) -> tuple[Rewards, dict]:
    """Who judges, and the metrics of who gives the reward."""
    (given, metrics, cut), true, soft = reward_of(p, tokenizer, judged), true_reward(p, tokenizer, judged), None
    if p.probe_prompts and p.reward == "model" and not TASKS[p.task].pairwise:
        unmeasured = judged | {"heldout": []}
        soft = reward_of(p.model_copy(update={"reward_form": "probability"}), tokenizer, unmeasured)[0]
    return Rewards(given, soft, true, evaluator_of(p, judged), cut), metrics


def _ends(actors: Actors, outcome: Outcome, score: Callable[..., Scores], model: Path) -> dict[str, Scores | None]:
    """Scores of the policy after its last update, which is left in the folder ``model``, and of the one that validation chose.

    A policy whose own numbers broke has no final ones, and its best is what is left.
    """
    final = processes.agreed(lambda: [score(), score(sampled=True)]) if outcome.finite else [None, None]
    if not outcome.finite:
        state.restore(actors.policy, outcome.best)
    if processes.rank() == 0:
        actors.policy.save_pretrained(model)
        actors.tokenizer.save_pretrained(model)
    state.restore(actors.policy, outcome.best)
    return {"final": final[0], "sampled_final": final[1], "best": processes.agreed(score)}


def encode(p: config.PPO, actors: Actors, questions: Sequence[Question]) -> Prompts:
    """Questions as the policy reads them, and a value model of its own."""
    networks = [actors.policy] if actors.value.body is None else [actors.policy, actors.value.body]
    room = min(prompt_room(network, actors.tokenizer, p) for network in networks)
    return encode_prompts(actors.policy, actors.tokenizer, questions, room)


def _shared(p: config.PPO, folder: Path) -> tuple[Outcome, dict]:
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
    return Outcome(curve, ended["status"], ended["reason"]), ended["results"]


def main(folder: Path, owner: int) -> None:
    """One of the processes that share a run of the process ``owner``. Parameters are in ``folder``, where process 0 leaves how
    it ended, and the first to fail its reason."""
    processes.end_with(owner)
    try:
        p = config.check(config.PPO, files.read_json(folder / "parameters.json"))
        processes.join(cpu=device_of(p.device).type == "cpu")
        if processes.count() != p.processes:
            raise RuntimeError(f"{processes.count()} processes met where processes = {p.processes}: use accelerate launch")
        outcome, results = run_ppo(p, folder)
        if processes.rank() == 0:
            ended = {"status": outcome.status, "reason": outcome.reason, "results": results}
            files.write_json(folder / "outcome.json", ended)
    except Exception as error:
        with contextlib.suppress(OSError), (folder / "error.txt").open("x", encoding="utf-8") as sink:
            sink.write(f"{type(error).__name__}: {error}")
        raise


def load_actors(p: config.PPO) -> Actors:
    """Policy, reference and value model on their device; of an optimiser that reads no values, the latter is a head alone."""
    device = device_of(p.device)
    policy, tokenizer = load_policy(p.policy)
    shared = p.value_model == "shared" or p.optimiser != "ppo"
    value = load_value_model(p.policy if shared else p.value_weights or p.policy, shared, p.seed, p.value_head)
    mine, its = policy.config, value.body.config if value.body is not None else policy.config
    if (its.is_encoder_decoder, its.vocab_size) != (mine.is_encoder_decoder, mine.vocab_size):
        raise ModelError(
            f"value_weights = {p.value_weights!r}: a model of another kind or vocabulary than the policy {p.policy!r}, whose "
            "tokens it would read; name one of the same family"
        )
    its.decoder_start_token_id = getattr(mine, "decoder_start_token_id", None)
    reference = copy.deepcopy(policy).requires_grad_(False)
    return Actors(policy.to(device), reference.to(device), value.to(device), tokenizer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
