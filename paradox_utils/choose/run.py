"""A choice from its parameters to what it says: responses, scores, judgement, readings, decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paradox_utils import config, files, identity
from paradox_utils.analysis.statistics import Interval
from paradox_utils.choose import gain, inputs
from paradox_utils.choose.candidates import Scored, apart, score
from paradox_utils.choose.decision import SPREAD, Decision, Standing, decide
from paradox_utils.choose.diagnostics import about, agreement, measures, off_policy, worth_judging
from paradox_utils.choose.gain import Array, Reading
from paradox_utils.choose.inputs import Asked
from paradox_utils.choose.sampling import sample
from paradox_utils.data.records import DataError
from paradox_utils.policies.models import ModelError


@dataclass(frozen=True)
class Choice:
    """What a choice found. ``table``: a row a candidate, the best first; ``curves``: the judged score of each along the KL;
    ``best_of``: along n; ``agreement``: rank correlation of scores within prompts, candidate by candidate; ``to_judge``: the
    responses most worth judging; ``facts``: numbers of prompts and responses, and the policy's own score (``start``)."""

    decision: Decision
    table: pd.DataFrame
    curves: pd.DataFrame
    best_of: pd.DataFrame
    agreement: pd.DataFrame
    to_judge: list[dict[str, Any]]
    facts: dict[str, Any]


def stamp(p: config.Choose) -> str:
    """What fixes the answer: parameters, the files and models they name, the code, and versions. Of weights, too large to read
    whole, the time of the last change counts, as a training may leave what stands at a file's ends."""
    folders = [files.resolve(name) for _, _, name in identity.named(p.model_dump())]
    times = {str(file): file.stat().st_mtime_ns for one in folders for file in one.rglob("*") if file.is_file()}
    parts = {
        "parameters": p.model_dump_json(exclude={"out"}),
        "data": identity.data_hash(p),
        "times": str(sorted(times.items())),
        "code": identity.total(identity.reached("import paradox_utils.choose.__main__", "choose")),
        "versions": str(identity.versions()),
    }
    return identity.total(parts)


Tell = Callable[[str], None]


def nobody(_line: str) -> None:
    """Tell nobody what is being done."""


def responses_of(p: config.Choose, tell: Tell = nobody) -> list[Asked]:
    """The prompts with the responses that all candidates score: the user's, or the policy's."""
    asked = inputs.load(p)
    if not p.responses:
        tell(f"sampling {p.samples} responses to each of {len(asked)} prompts from {p.policy}")
        texts, cut = apart(sample, p, asked)
        for one, own in zip(asked, texts, strict=True):
            one.responses = {str(place): text for place, text in enumerate(own)}
        if cut:
            tell(f"{cut} prompts are longer than the policy reads (prompt_limit = {p.prompt_limit}) and were cut")
    return asked


def choose(p: config.Choose, folder: Path | None = None, tell: Tell = nobody) -> Choice:
    """Which candidate to train with. The responses are left in ``folder``; ``tell`` is told what is being done.

    Raises :class:`ModelError` where fewer than two candidates can be compared, with the first one's reason.
    """
    asked = responses_of(p, tell)
    if folder:
        inputs.write_responses(folder / "responses.jsonl", asked)
    held_out = inputs.read_responses(p.held_out) if p.held_out else []
    if p.held_out and not any(one.judged for one in held_out):
        raise DataError(f"{p.held_out}: held_out: none of its responses is judged; add their scores or preferences")
    by = score(p.judge, p, asked) if p.judge else None
    if by and by.blocked:
        raise ModelError(f"judge: {by.blocked}")
    inputs.judge(p, asked, by and by.scores)
    scored = {}
    for name, candidate in p.candidates.items():
        found = scored[name] = score(candidate, p, asked, held_out)
        tell(f"{name}: {'blocked' if found.blocked else 'scored'} in {found.seconds:.1f} s")
    usable = [name for name, found in scored.items() if not found.blocked]
    if len(usable) < 2:
        name, found = next((name, found) for name, found in scored.items() if found.blocked)
        raise ModelError(f"candidates: fewer than two can be compared; {name}: {found.blocked}")
    return _weighed(p, asked, held_out, scored, usable)


def _weighed(
    p: config.Choose, asked: list[Asked], held_out: list[Asked], scored: Mapping[str, Scored], usable: Sequence[str]
) -> Choice:
    """What the scores of the candidates say together."""
    good, size = inputs.judged(asked)
    raw = {name: inputs.grid(asked, scored[name].scores) for name in usable}
    rewards = {name: rewarded(p, raw[name] * p.candidates[name].scale) for name in usable}
    told = np.isfinite(good).sum(1) > 1  # prompts with responses to compare
    rows = {}
    for name in usable:
        rows[name] = measures(scored[name], raw[name], good / size, asked, p.candidates[name].scale)
        rows[name] |= off_policy(scored[name], held_out)
    facts = about(p, asked, good, size, told) | {"spread": spread_of(p, good / size)}
    decision, curves, best_of = Decision("unjudged"), pd.DataFrame(), pd.DataFrame()
    if told.any():
        parts = {name: _parts(rewards[name], good, size, told) for name in usable}
        readings = {name: read(p, *parts[name]) for name in usable}
        start_good, start_size = (np.nanmean(part, axis=1) for part in next(iter(parts.values()))[1:])
        drawing = {"resamples": p.bootstrap, "seed": p.seed, "spread": facts["spread"]}
        decision, known = decide(usable, [reading for reading, _ in readings.values()], start_good, start_size, **drawing)
        for place, name in enumerate(usable):
            rows[name] |= _standing(known, place, *readings[name])
        facts["start"] = float(start_good.sum() / start_size.sum())
        curves, best_of = _curves(parts), _best_of(parts)
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(p.candidates).rename_axis("candidate")
    table["unchecked"] = [scored[name].unchecked for name in table.index]
    table["blocked"] = [scored[name].blocked for name in table.index]
    table["seconds"] = [scored[name].seconds for name in table.index]
    if told.any():
        table = table.sort_values("gain", ascending=False, kind="stable", na_position="last")
    weights = [read(p, one, good, size)[0].weights for one in rewards.values()]  # of unjudged responses too
    to_judge = worth_judging(asked, np.array(weights), good)
    return Choice(decision, table.reset_index(), curves, best_of, agreement(raw), to_judge, facts)


def spread_of(p: config.Choose, judged: Array) -> float:
    """How far a training may end from what is predicted. It is known of PPO where the judgement is a share in [0, 1]; the best
    of n is no training."""
    known = judged[np.isfinite(judged)]
    is_share = bool(((known >= 0) & (known <= 1)).all())
    return SPREAD if is_share and p.algorithm != "best-of-n" else 0.0


def rewarded(p: config.Choose, scores: Array) -> Array:
    """Scores as the recipe's algorithm sees them."""
    if p.algorithm == "grpo":
        return gain.group_normalised(scores)
    return gain.standardised(scores) if p.reward_scaling == "standardise" else scores


def _parts(rewards: Array, good: Array, size: Array, told: Array) -> tuple[Array, Array, Array]:
    """Rewards, good and size of the judged responses to the prompts that have two or more."""
    unknown = ~np.isfinite(good)
    return tuple(np.where(unknown, np.nan, part)[told] for part in (rewards, good, size))


def read(p: config.Choose, rewards: Array, good: Array, size: Array) -> tuple[Reading, str]:
    """The policy that the recipe makes, and what set how far it goes."""
    if p.algorithm == "best-of-n":
        return gain.best_of(rewards, good, size, p.n), "recipe"
    beta, limit = gain.strongest(rewards, p.kl_coefficient, p.kl_budget)
    return gain.read(rewards, good, size, beta), limit


def _standing(known: Standing, place: int, reading: Reading, limit: str) -> dict[str, Any]:
    interval: Interval = known.gain[place]
    return {
        "gain": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "score": reading.score,
        "probability": float(known.probability[place]),
        "regret": float(known.regret[place]),
        "kl": float(reading.kl.mean()),
        "beta": reading.beta,
        "effective": float(reading.effective.mean()),
        "limit": limit,
    }


def _curves(parts: Mapping[str, tuple[Array, Array, Array]]) -> pd.DataFrame:
    rows = [
        {"candidate": name, "kl": one.kl.mean(), "score": one.score, "effective": one.effective.mean(), "beta": one.beta}
        for name, own in parts.items()
        for one in gain.path(*own)
    ]
    return pd.DataFrame(rows)


def _best_of(parts: Mapping[str, tuple[Array, Array, Array]]) -> pd.DataFrame:
    """For n = 1, 2, 4, … and the largest number of responses that all prompts have."""
    rows = []
    for name, own in parts.items():
        most = int(np.isfinite(own[0]).sum(1).min())
        for n in sorted({2**k for k in range(most.bit_length())} | {most}):
            one = gain.best_of(*own, n)
            rows.append({"candidate": name, "n": n, "kl": one.kl.mean(), "score": one.score})
    return pd.DataFrame(rows)


def write(folder: Path, choice: Choice, more: Mapping[str, Any]) -> None:
    """Leave the tables of a choice, and last ``choice.json``."""
    for name, table in {"candidates": choice.table, "curves": choice.curves, "best_of": choice.best_of}.items():
        files.write_table(folder / f"{name}.csv", table)
    inputs.write_lines(folder / "to_judge.jsonl", choice.to_judge)
    record = {
        "decision": choice.decision.kind,
        "names": choice.decision.names,
        "more": choice.decision.more,
        "lucky": choice.decision.lucky,
        "candidates": choice.table.to_dict("records"),
        "agreement": choice.agreement.to_dict(),
        "facts": choice.facts,
    }
    files.write_json(folder / "choice.json", record | dict(more))
