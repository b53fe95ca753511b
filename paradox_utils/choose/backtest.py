"""Is the choice right? What it predicts of a recorded study's reward models, beside what PPO made of each.

First ``python -m paradox_utils.choose backtest STUDY.yaml``, after that study has trained the reward models again: one shared
set of responses a policy is scored by each reward that a recorded run was paid, and the rewards [P, K] of each are kept. Then
what those predict is joined with what was reached, and choices are made in pools of :data:`POOL` reward models. A run whose
reward model is not there is left out, and counted.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from paradox_utils import config, data, files
from paradox_utils.analysis import outcomes, tables
from paradox_utils.choose import gain
from paradox_utils.choose.decision import SET_LEVEL, contains_best, gains_of, standing
from paradox_utils.choose.diagnostics import accuracies
from paradox_utils.choose.gain import Array, Reading
from paradox_utils.config.study import TRAINED
from paradox_utils.data.records import DataError, Feedback
from paradox_utils.data.tasks import counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import device_of, load_policy
from paradox_utils.policies.prompts import Prompts, Responses, choose, encode_prompts, prompt_room, take
from paradox_utils.rewards.dial import dial_of
from paradox_utils.rewards.judges import RewardFunction, reward_function, reward_of
from paradox_utils.rewards.model import saved
from paradox_utils.study.plan import Run, work_folder

RECORDED = "results/recorded/atlas"
KNOWN = ("known-paradox", "known-monotone")  # families of dials whose truth is known
PROMPTS, SAMPLES = 300, 48
TOGETHER = 16  # prompts sampled at a time
SAME = 1e-6  # of an accuracy
PASS = 1024  # responses rewarded at a time
POOL, POOLS = 6, 500  # reward models to choose among, and how often from those of a task and policy
JUDGED = (50, 100, 300)  # prompts whose responses are judged
RESAMPLES = 200
# What a choice can go by. `recipe`: the recipe's β whatever the samples show; a number: read where the effective sample size is
# that part of the samples, as the tool does with 8.
READINGS = ("gain", "gain/2", "gain/4", "gain/16", "recipe")
BASELINES = {
    "most accurate": "rm_accuracy",
    "best of 16": "best_of_16",
    "normalised variance": "variance_normalised",
    "accuracy on the policy's responses": "accuracy",
}
TOOL = "predicted gain"
FITTED = "fitted on the other tasks"


@dataclass(frozen=True)
class Shared:
    """One policy's responses: the different ones as ``unique``, and ``places`` [P, K] in them; good and size [P, K] by task."""

    unique: Responses
    places: np.ndarray
    judged: dict[str, tuple[Array, Array]]


# --- scoring --------------------------------------------------------------------------------------------------------


def score(runs: Sequence[Run], study: str, out: Path, prompts: int = PROMPTS, samples: int = SAMPLES) -> dict[str, int]:
    """Keep the rewards of every recorded run whose reward can be had; returns how many are ``kept``, ``lost`` as their model or
    policy is not here, and of a model that is ``another`` than the recorded one by its accuracy.

    ``runs``: of the study that trained the reward models again. What is kept already is not scored again.
    """
    wanted, models = recorded_runs(), _models(runs, study)
    (out / "rewards").mkdir(parents=True, exist_ok=True)
    feedback, shared, told = None, {}, {"kept": 0, "lost": 0, "another": 0}
    for run, labels, values in wanted:
        target, place = out / "rewards" / f"{run}.npz", _model_of(values, labels, models)
        policy = _policy(runs, study, labels["policy"])
        if place is None or policy is None:
            told["lost"] += 1
            continue
        told["kept"] += 1
        again = saved(place["reward_model"], "metrics.json").get("accuracy") if "reward_model" in place else None
        told["another"] += again is not None and not math.isclose(again, labels["rm_accuracy"], abs_tol=SAME)
        if target.is_file():
            continue
        own = config.check(config.PPO, values | place | {"policy": policy}, run)
        feedback = feedback or data.load_feedback(own, files.resolve(own.feedback))
        if labels["policy"] not in shared:
            shared[labels["policy"]] = respond(own, prompts, samples)
            for task, (good, size) in shared[labels["policy"]].judged.items():
                _keep(out / f"judged-{labels['policy']}-{task}.npz", good=good, size=size)
        _keep(target, rewards=paid(own, shared[labels["policy"]], feedback))
        files.say(f"{told['kept']} of {len(wanted)}: {run} ({labels['task']}, {labels['arm']})")
    return told


@functools.cache  # the record is read once
def recorded_runs() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Id, labels and PPO parameters of the recorded runs that a back-test is about: of trained reward models, and the families
    of known truth."""
    summary = tables.load_summary(files.resolve(RECORDED))
    summary = summary[outcomes.usable(summary) & summary["arm"].isin((*TRAINED, *KNOWN))].drop_duplicates("id").set_index("id")
    parameters = tables.load_parameters(files.resolve(RECORDED), "reward_model").loc[summary.index]
    fields = config.PPO.model_fields.keys() - {"policy", "feedback", "device", "out"}
    rows = []
    for run, row in parameters.iterrows():
        given = {name: _plain(name, value) for name, value in row.items() if name in fields and value == value}
        rows.append((str(run), summary.loc[run].to_dict(), given))
    return rows


def _plain(name: str, value: Any) -> Any:
    """A value of a table in the type that its parameter has."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer() and "float" not in str(config.PPO.model_fields[name].annotation):
        return int(value)
    return value


Place = tuple[str, str, str, int]  # task, route, setting, seed


def _models(runs: Sequence[Run], study: str) -> dict[str, str]:
    """Recorded id → folder of the model that was trained again, by what the two have in common."""
    names = ("task", "route", "setting", "rm_seed")
    again: dict[Place, str] = {
        tuple(run.labels[name] or "" if name != "rm_seed" else run.labels[name] for name in names): work_folder(study, run.id)
        for run in runs
        if run.stage == "reward_model"
    }
    known = tables.load_checkpoints(files.resolve(RECORDED)).fillna({"setting": ""}).drop_duplicates("id")
    return {row.id: again[key] for row in known.itertuples() if (key := tuple(getattr(row, name) for name in names)) in again}


def _model_of(values: Mapping[str, Any], labels: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any] | None:
    """Parameters that name the run's reward model here; None where it is not here."""
    feedback = {"feedback": config.FIXTURE_FEEDBACK}
    if values["reward"] != "model":
        return feedback  # dials of segments need none of it
    run, checkpoint = Path(values["reward_model"]).parts[-2:]
    folder = f"{models.get(run, '')}/{checkpoint}"
    return feedback | {"reward_model": folder} if files.resolve(folder).joinpath("config.json").is_file() else None


def _policy(runs: Sequence[Run], study: str, name: str) -> str | None:
    """The folder of a policy of the study, where it is there."""
    found = next((run for run in runs if run.stage == "supervised" and run.labels["policy"] == name), None)
    folder = found and f"{work_folder(study, found.id)}/model"
    return folder if folder and files.resolve(folder).is_dir() else None


def respond(p: config.PPO, prompts: int, samples: int) -> Shared:
    """The policy's responses to validation questions, judged by the oracle for every task."""
    policy, tokenizer = load_policy(p.policy)
    policy.to(device_of(p.device))
    questions = data.load_splits(p.model_copy(update={"validation_questions": prompts})).validation
    asked = encode_prompts(policy, tokenizer, questions, prompt_room(policy, tokenizer, p))
    texts, parts = [], []
    for start in range(0, len(questions), TOGETHER):
        some = choose(asked, list(range(start, min(start + TOGETHER, len(questions)))))
        made = generate(policy, tokenizer, some, p.response_limit, samples, p.temperature, p.top_k, seed="back-test")
        texts += made.texts
        parts += made.tokens()
    return _shared(p, questions, texts, parts, samples)


def _shared(p: config.PPO, questions: list, texts: list[str], tokens: list[list[int]], samples: int) -> Shared:
    owners = [question for question in questions for _ in range(samples)]
    first: dict[tuple[str, str], int] = {}
    places = [first.setdefault((question.id, text), len(first)) for question, text in zip(owners, texts, strict=True)]
    rows = np.unique(places, return_index=True)[1].tolist()
    longest = max(len(tokens[row]) for row in rows)
    ids = torch.tensor([tokens[row] + [0] * (longest - len(tokens[row])) for row in rows])
    mask = torch.tensor([[1] * len(tokens[row]) + [0] * (longest - len(tokens[row])) for row in rows])
    asked = Prompts([owners[row] for row in rows], mask, mask, 0)  # of the prompts, rewards read the questions alone
    unique = Responses(asked, ids, mask, [texts[row] for row in rows], 1)
    table, judged = np.array(places).reshape(-1, samples), {}
    for task in ("relevance", "factuality", "completeness"):
        offsets = data.segments_of(p, unique.texts, task)
        good, size = counts(data.oracle_of(p, task)(unique.questions, unique.texts, offsets), task)
        judged[task] = np.array(good, dtype=float)[table], np.array(size, dtype=float)[table]
    return Shared(unique, table, judged)


def paid(p: config.PPO, shared: Shared, feedback: dict[str, list[Feedback]]) -> Array:
    """What PPO was paid for each response [P, K], summed over its tokens."""
    _, tokenizer = load_policy(p.policy)
    function: RewardFunction
    if p.reward == "dial":
        function = reward_function(tokenizer, *dial_of(p, feedback), p)
    else:
        function = reward_of(p, tokenizer, feedback | {"heldout": []}).function
    number, rewards = len(shared.unique.texts), []
    for start in range(0, number, PASS):
        part = take(shared.unique, list(range(start, min(start + PASS, number))))
        rewards.append(function(part).sum(1).cpu().numpy())
    return np.concatenate(rewards).astype(float)[shared.places]


def _keep(path: Path, **arrays: Array) -> None:
    """Arrays, compressed, in one step."""
    made = io.BytesIO()
    np.savez_compressed(made, **{name: array.astype(np.float32) for name, array in arrays.items()})
    files.write_bytes(path, made.getvalue())


# --- joining --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predicted:
    """One recorded run: its labels, and the ``reading`` of its reward; ``row``: what is known of it before and after PPO."""

    reading: Reading
    row: dict[str, Any]


def predictions(out: Path) -> tuple[list[Predicted], dict[tuple[str, str], tuple[Array, Array]]]:
    """Every run whose rewards were kept, and by policy and task the judgement of the policy itself [P] (good, size).

    Raises :class:`DataError` where nothing was kept.
    """
    found, judged = [], {}
    for run, labels, values in recorded_runs():
        if not (path := out / "rewards" / f"{run}.npz").is_file():
            continue
        place = labels["policy"], labels["task"]
        good, size = (_read(out / f"judged-{place[0]}-{place[1]}.npz", name) for name in ("good", "size"))
        judged[place] = good.mean(1), size.mean(1)
        found.append(_predicted(run, labels, _read(path, "rewards"), good, size, values))
    if not found:
        raise DataError(f"{out}: holds no rewards; run `python -m paradox_utils.choose backtest` first")
    return found, judged


def _read(path: Path, name: str) -> Array:
    with np.load(path) as kept:
        return kept[name].astype(float)


def _predicted(
    run: str, recorded: Mapping[str, Any], rewards: Array, good: Array, size: Array, values: Mapping[str, Any]
) -> Predicted:
    beta, start = values["kl_coefficient"], float(good.sum() / size.sum())
    far, limit = gain.strongest(rewards, beta)
    reading = gain.read(rewards, good, size, far)
    made = {"gain": reading.score - start, "limit": limit, "kl": float(reading.kl.mean())}
    made |= {"recipe": gain.read(rewards, good, size, beta).score - start}
    for part in (2, 4, 16):
        made[f"gain/{part}"] = gain.read(rewards, good, size, gain.strongest(rewards, beta, share=part)[0]).score - start
    within, normalised = gain.variances(rewards)
    made |= {"best_of_16": gain.best_of(rewards, good, size, 16).score - start, "variance": within}
    made |= {"variance_normalised": normalised, "accuracy": accuracies(rewards, good / size)["accuracy"]}
    labels = {
        name: recorded[name]
        for name in ("task", "policy", "arm", "route", "setting", "rm_seed", "rm_step", "rm_accuracy", "seconds")
    }
    reached = recorded["lm_performance_final"]
    return Predicted(
        reading, {"id": run} | labels | made | {"reached": reached - recorded["lm_performance_start"], "final": reached}
    )


# --- choosing -------------------------------------------------------------------------------------------------------


def pools(table: pd.DataFrame, seed: int = 0) -> Iterator[tuple[str, pd.DataFrame]]:
    """Task, and rows of :data:`POOL` trained reward models of one task and policy, :data:`POOLS` times for each of these; fewer
    than that many reward models make none."""
    rng = np.random.default_rng(seed)
    trained = table[~table["arm"].isin(KNOWN)]
    for (task, _), own in trained.groupby(["task", "policy"], sort=True):
        for _ in range(POOLS if len(own) >= POOL else 0):
            yield task, own.iloc[rng.choice(len(own), POOL, replace=False)]


def families(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each family of known truth, by task and seed."""
    known = table[table["arm"].isin(KNOWN)]
    for (arm, task, _), own in known.groupby(["arm", "task", "rm_seed"], sort=True):
        yield f"{arm}, {task}", own


def regret(pool: pd.DataFrame, measure: str) -> float:
    """What choosing by a measure loses in final performance; the first of equals is chosen."""
    return float(pool["final"].max() - pool.loc[pool[measure].fillna(-math.inf).idxmax(), "final"])


def regrets(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean and 95th percentile of the regret in all pools, a row a way to choose. :data:`FITTED`: the reading, or its mean rank
    with accuracy, that lost least in the pools of the other tasks."""
    made = [(task, pool) for task, pool in pools(table, seed)]
    ways = {TOOL: "gain"} | BASELINES | {name: name for name in READINGS[1:]}
    lost = {name: [regret(pool, column) for _, pool in made] for name, column in ways.items()}
    mixed = [pool.assign(mixed=pool[["gain", "rm_accuracy"]].rank().mean(axis=1)) for _, pool in made]
    lost["gain and accuracy"] = [regret(pool, "mixed") for pool in mixed]
    lost["random"] = [float(pool["final"].max() - pool["final"].mean()) for _, pool in made]
    tasks = np.array([task for task, _ in made])
    lost[FITTED] = _fitted({name: np.array(lost[name]) for name in (TOOL, *READINGS[1:], "gain and accuracy")}, tasks)
    rows = {
        name: {"mean": np.mean(own), "95 %": np.quantile(own, 0.95), "pools": len(own)}
        for name, own in lost.items()
        if len(own)
    }
    by_task = {name: {task: np.array(own)[tasks == task].mean() for task in np.unique(tasks)} for name, own in lost.items()}
    return pd.DataFrame.from_dict({name: row | by_task[name] for name, row in rows.items()}, orient="index")


def _fitted(lost: Mapping[str, Array], tasks: np.ndarray) -> Array:
    """The regret of the way that lost least elsewhere, pool by pool."""
    found = np.full(len(tasks), np.nan)
    for task in np.unique(tasks):
        own = tasks == task
        best = min(lost, key=lambda name: lost[name][~own].mean() if (~own).any() else lost[name].mean())
        found[own] = lost[best][own]
    return found


def known(table: pd.DataFrame) -> pd.DataFrame:
    """Mean regret in the families of known truth, a row a family and a column a way to choose; ``rank``: the mean place, by
    final performance, of what the tool chose (1: the best)."""
    ways, rows = {TOOL: "gain"} | BASELINES | {"variance": "variance"}, []
    for name, own in families(table):
        places = own["final"].rank(ascending=False)
        rows.append({"family": name} | {way: regret(own, column) for way, column in ways.items()})
        rows[-1]["rank"] = float(places[own["gain"].idxmax()])
    return pd.DataFrame(rows).groupby("family").mean() if rows else pd.DataFrame()


def judged_prompts(
    found: Sequence[Predicted], judged: Mapping[tuple[str, str], tuple[Array, Array]], seed: int = 0
) -> pd.DataFrame:
    """What so many judged prompts make of it: mean regret, and how often the set of 80 % contains the best by PPO
    (``contains``) and by the reading on all prompts (``contains_reading``)."""
    table, by_id = pd.DataFrame([one.row for one in found]), {one.row["id"]: one for one in found}
    rng, rows = np.random.default_rng(seed), []
    for number in JUDGED:
        lost, contains, predicted = [], [], []
        for place, (_, pool) in enumerate(pools(table, seed)):
            start = judged[pool["policy"].iloc[0], pool["task"].iloc[0]]
            if number > len(start[0]) or place % 5:
                continue
            some = rng.choice(len(start[0]), number, replace=False)
            readings = [_at(by_id[run].reading, some) for run in pool["id"]]
            good, size = (part[some] for part in start)
            best = int(np.argmax(gains_of(readings, good, size, np.ones((1, number)))[0]))
            likely = contains_best(standing(readings, good, size, resamples=RESAMPLES, seed=place).probability, SET_LEVEL)
            lost.append(float(pool["final"].max() - pool["final"].iloc[best]))
            contains.append(int(pool["final"].to_numpy().argmax()) in likely)
            predicted.append(int(pool["gain"].to_numpy().argmax()) in likely)
        if lost:
            rows.append({"judged prompts": number, "regret": np.mean(lost), "contains": np.mean(contains)})
            rows[-1] |= {"contains_reading": np.mean(predicted), "pools": len(lost)}
    return pd.DataFrame(rows)


def _at(reading: Reading, some: np.ndarray) -> Reading:
    parts: dict[str, Callable[[], Array]] = {name: getattr(reading, name)[some] for name in ("kl", "effective", "good", "size")}
    return Reading(reading.beta, **parts)


def run(runs: Sequence[Run], study: str, out: Path) -> str:
    """Score, join, choose, and leave the tables in ``out``; returns what they say, for a terminal."""
    told = score(runs, study, out)
    found, judged = predictions(out)
    table = pd.DataFrame([one.row for one in found])
    files.write_table(out / "predictions.csv", table)
    said = [f"{told['kept']} recorded runs with their rewards, {told['lost']} whose reward model or policy is not here; "]
    said[0] += f"{told['another']} whose reward model has another accuracy than the recorded one"
    trained = table[~table["arm"].isin(KNOWN)]
    made = {
        "regrets": regrets(table).rename_axis("choice").reset_index() if any(True for _ in pools(table)) else pd.DataFrame(),
        "known": known(table).reset_index(),
        "judged": judged_prompts(found, judged) if len(trained) >= POOL else pd.DataFrame(),
    }
    for name, rows in made.items():
        if len(rows):
            files.write_table(out / f"{name}.csv", rows)
            said += ["", f"{name}:", rows.to_string(index=False, float_format="{:.4f}".format)]
    return "\n".join(said)
