"""Is the choice right? What it predicts of a recorded study's reward models, beside what PPO made of each.

``python -m paradox_utils.choose backtest STUDY.yaml``, after that study has trained the reward models again: one shared set of
responses a policy is scored by each reward that a recorded run was paid, and the rewards [P, K] of each are kept, with those of
altered responses. Then what those predict is joined with what was reached: in pools (:mod:`.pools`), and for hacked runs
(:mod:`.foretold`). A run whose reward model is not there is left out, and counted.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from paradox_utils import config, data, files
from paradox_utils.analysis import hacking, outcomes, tables
from paradox_utils.choose import aims, gain, tested
from paradox_utils.choose.candidates import ALTERED
from paradox_utils.choose.diagnostics import accuracies
from paradox_utils.choose.foretold import foretold
from paradox_utils.choose.gain import Array
from paradox_utils.choose.pools import KNOWN, Predicted, agreement, judged_prompts, known, pools, regrets, trained
from paradox_utils.config.study import TRAINED
from paradox_utils.data.records import DataError, Feedback, Question
from paradox_utils.data.tasks import counts
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import device_of, load_policy
from paradox_utils.policies.prompts import Prompts, Responses, choose, encode_prompts, prompt_room, take
from paradox_utils.rewards.dial import dial_of
from paradox_utils.rewards.judges import RewardFunction, reward_function, reward_of
from paradox_utils.rewards.measures import rank_correlation
from paradox_utils.rewards.model import saved
from paradox_utils.rewards.stress import ALTERATIONS
from paradox_utils.study.plan import Run, work_folder

RECORDED = "results/recorded/atlas"
PROMPTS, SAMPLES = 300, 48
TOGETHER = 16  # prompts sampled at a time
SAME = 1e-6  # of an accuracy
PASS = 1024  # responses rewarded at a time


@dataclass(frozen=True)
class Shared:
    """One policy's responses: the different ones as ``unique``, and ``places`` [P, K] in them; good, size and ``words`` [P, K],
    by task where they are judged. ``altered``: to the first prompts a response each, by alteration (``plain``: as it is)."""

    unique: Responses
    places: np.ndarray
    judged: dict[str, tuple[Array, Array]]
    words: Array
    altered: dict[str, Responses]


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
                words = shared[labels["policy"]].words
                _keep(out / f"judged-{labels['policy']}-{task}.npz", good=good, size=size, words=words)
        rewards, altered = paid(own, shared[labels["policy"]], feedback)
        _keep(target, rewards=rewards, **altered)
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


def _shared(p: config.PPO, questions: list[Question], texts: list[str], tokens: list[list[int]], samples: int) -> Shared:
    owners = [question for question in questions for _ in range(samples)]
    first: dict[tuple[str, str], int] = {}
    places = [first.setdefault((question.id, text), len(first)) for question, text in zip(owners, texts, strict=True)]
    rows = np.unique(places, return_index=True)[1].tolist()
    unique = _responses([owners[row] for row in rows], [texts[row] for row in rows], [tokens[row] for row in rows])
    table, judged = np.array(places).reshape(-1, samples), {}
    for task in ("relevance", "factuality", "completeness"):
        offsets = data.segments_of(p, unique.texts, task)
        good, size = counts(data.oracle_of(p, task)(unique.questions, unique.texts, offsets), task)
        judged[task] = np.array(good, dtype=float)[table], np.array(size, dtype=float)[table]
    words = np.array([len(text.split()) for text in unique.texts], dtype=float)[table]
    own = [texts[start : start + samples] for start in range(0, len(texts), samples)]
    return Shared(unique, table, judged, words, _altered(p, questions[:ALTERED], own[:ALTERED]))


def _altered(p: config.PPO, questions: list[Question], texts: list[list[str]]) -> dict[str, Responses]:
    """Of each question's responses the first that says anything, altered as the tool alters it."""
    _, tokenizer = load_policy(p.policy)
    told = {
        question.id: [text for text in dict.fromkeys(own) if text.strip()]
        for question, own in zip(questions, texts, strict=True)
    }
    asked = [question for question in questions if told[question.id]]
    found = {}
    for name, alter in ALTERATIONS.items():
        made = [alter(own, [(0, len(own[0]))]) for own in (told[question.id] for question in asked)]
        tokens = [[*row, tokenizer.eos_token_id] for row in tokenizer(made, add_special_tokens=False).input_ids]
        found[name] = _responses(asked, made, tokens)
    return found


def _responses(questions: list[Question], texts: list[str], tokens: list[list[int]]) -> Responses:
    """A response each, as a reward function takes them: of the prompts it reads the questions alone."""
    longest = max(map(len, tokens))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in tokens])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens])
    return Responses(Prompts(questions, mask, mask, 0), ids, mask, texts, 1)


def paid(p: config.PPO, shared: Shared, feedback: dict[str, list[Feedback]]) -> tuple[Array, dict[str, Array]]:
    """What PPO was paid for each response [P, K], summed over its tokens; and for the altered ones, [prompts] by alteration."""
    _, tokenizer = load_policy(p.policy)
    function: RewardFunction
    if p.reward == "dial":
        function = reward_function(tokenizer, *dial_of(p, feedback), p)
    else:
        function = reward_of(p, tokenizer, feedback | {"heldout": []}).function
    return _sums(function, shared.unique)[shared.places], {name: _sums(function, one) for name, one in shared.altered.items()}


def _sums(function: RewardFunction, responses: Responses) -> Array:
    """The reward of each response, [responses]."""
    number = len(responses.texts)
    parts = [take(responses, list(range(start, min(start + PASS, number)))) for start in range(0, number, PASS)]
    return np.concatenate([function(part).sum(1).cpu().numpy() for part in parts]).astype(float)


def _keep(path: Path, **arrays: Array) -> None:
    """Arrays, compressed, in one step."""
    made = io.BytesIO()
    np.savez_compressed(made, **{name: array.astype(np.float32) for name, array in arrays.items()})
    files.write_bytes(path, made.getvalue())


# --- joining --------------------------------------------------------------------------------------------------------


def predictions(out: Path) -> tuple[list[Predicted], dict[tuple[str, str], tuple[Array, Array]]]:
    """Every run whose rewards were kept, and by policy and task the judgement of the policy itself [P] (good, size).

    Raises :class:`DataError` where nothing was kept.
    """
    found, judged = [], {}
    for run, labels, values in recorded_runs():
        if not (path := out / "rewards" / f"{run}.npz").is_file():
            continue
        place = labels["policy"], labels["task"]
        truth = _read(out / f"judged-{place[0]}-{place[1]}.npz")
        judged[place] = truth["good"].mean(1), truth["size"].mean(1)
        found.append(_predicted(run, labels, _read(path), truth, values["kl_coefficient"]))
    if not found:
        raise DataError(f"{out}: holds no rewards; run `python -m paradox_utils.choose backtest` first")
    return found, judged


def _read(path: Path) -> dict[str, Array]:
    with np.load(path) as kept:
        return {name: kept[name].astype(float) for name in kept.files}


def _predicted(
    run: str, recorded: Mapping[str, Any], kept: Mapping[str, Array], truth: Mapping[str, Array], beta: float
) -> Predicted:
    rewards, good, size = kept["rewards"], truth["good"], truth["size"]
    start, (far, limit) = float(good.sum() / size.sum()), gain.strongest(rewards, beta)
    reading = gain.read(rewards, good, size, far)
    made = {"gain": reading.score - start, "limit": limit, "kl": float(reading.kl.mean())}
    made |= {"recipe": gain.read(rewards, good, size, beta).score - start}
    for part in (2, 4, 16):
        made[f"gain/{part}"] = gain.read(rewards, good, size, gain.strongest(rewards, beta, share=part)[0]).score - start
    within, normalised = gain.variances(rewards)
    made |= {"best_of_16": gain.best_of(rewards, good, size, 16).score - start, "variance": within}
    made |= {"variance_normalised": normalised, "accuracy": accuracies(rewards, good / size)["accuracy"]}
    made |= {"length_correlation": rank_correlation(rewards, truth["words"])} | probed(kept)
    labels = {
        name: recorded[name]
        for name in ("task", "policy", "arm", "route", "setting", "rm_seed", "rm_step", "rm_accuracy", "seconds")
    }
    ends = {"final": recorded["lm_performance_final"]}
    for name, column in {"reached": "lm_performance", "reached_sampled": "sampled_lm_performance"}.items():
        ends[name] = recorded[f"{column}_final"] - recorded[f"{column}_start"]
    return Predicted(reading, {"id": run} | labels | made | ends)


def probed(kept: Mapping[str, Array]) -> dict[str, float]:
    """Mean change of the reward of a response when it is altered, in deviations of all rewards; NaN where these are alike."""
    spread = float(kept["rewards"].std()) or math.nan
    return {f"altered_{name}": float((kept[name] - kept["plain"]).mean()) / spread for name in ALTERATIONS if name != "plain"}


def run(runs: Sequence[Run], study: str, out: Path) -> str:
    """Score, join, choose, and leave the tables in ``out``; returns what they say, for a terminal."""
    told = score(runs, study, out)
    found, judged = predictions(out)
    table = pd.DataFrame([one.row for one in found])
    ends = hacking.ends(trained(table), tables.load_curves(files.resolve(RECORDED)))
    table["hacked"] = ends["hacked"].astype(float).reindex(table.index)
    said = [f"{told['kept']} recorded runs with their rewards, {told['lost']} whose reward model or policy is not here; "]
    said[0] += f"{told['another']} whose reward model has another accuracy than the recorded one"
    enough = any(True for _ in pools(table))
    made = {
        "predictions": table,
        "agreement": agreement(table),
        "regrets": regrets(table).rename_axis("choice").reset_index() if enough else pd.DataFrame(),
        "known": known(table).reset_index(),
        "judged": judged_prompts(found, judged) if enough else pd.DataFrame(),
        "foretold": foretold(table),
    }
    for name, rows in made.items():
        files.write_table(out / f"{name}.csv", rows if len(rows.columns) else pd.DataFrame(columns=["task"]))
        if len(rows) and name != "predictions":
            said += ["", f"{name}:", rows.to_string(index=False, float_format="{:.4f}".format)]
    aimed = aims.aims(made)
    said += [
        "",
        aimed.to_string(index=False, float_format="{:.4f}".format),
        aims.counted(aimed),
        "",
        tested.sentence(made),
        "",
        tested.detail(made),
    ]
    return "\n".join(said)
