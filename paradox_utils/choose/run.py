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
from paradox_utils.choose.candidates import Scored, apart, check, score
from paradox_utils.choose.decision import SPREAD, Decision, Standing, decide
from paradox_utils.choose.diagnostics import about, agreement, measures, off_policy, to_judge
from paradox_utils.choose.gain import Array, Reading
from paradox_utils.choose.inputs import Asked, Key
from paradox_utils.choose.sampling import sample
from paradox_utils.config.choose import TABLES
from paradox_utils.data.records import DataError
from paradox_utils.policies.models import ModelError

LABELS = 10  # whole numbers over so wide a range, or less, are labels
# What a choice leaves in its folder.
RESPONSES, RECORD, FRAMES = "responses.jsonl", "choice.json", ("candidates", "curves", "best_of")
PRODUCTS = (RESPONSES, "to_judge.jsonl", *(f"{name}.csv" for name in FRAMES), "page.html", "curves.png", RECORD)


@dataclass(frozen=True)
class Choice:
    """What a choice found. ``table``: a row a candidate, the best first; ``curves``: the judged score of each along the KL;
    ``best_of``: along n; ``agreement``: rank correlation of scores within prompts, candidate by candidate; ``to_judge``: the
    responses to judge next; ``facts``: numbers of prompts and responses, and the policy's own score (``start``)."""

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


def responses_of(p: config.Choose, tell: Tell = nobody) -> tuple[list[Asked], set[Key]]:
    """The prompts with the responses that all candidates score: the user's, or the policy's; and the ids of those beyond the
    ``limit`` too, for which files may have scores."""
    everyone = inputs.load(p)
    asked = everyone[: p.limit or None]
    ids = {(one.id, name) for one in everyone for name in (one.responses or map(str, range(p.samples)))}
    if not p.responses:
        tell(f"sampling {p.samples} responses to each of {len(asked)} prompts from {p.policy}")
        texts, cut = apart(sample, p, asked)
        for one, own in zip(asked, texts, strict=True):
            one.responses = {str(place): text for place, text in enumerate(own)}
        if cut:
            tell(f"{cut} prompts are longer than the policy reads (prompt_limit = {p.prompt_limit}) and were cut")
    return asked, ids


def leave_responses(p: config.Choose, folder: Path, asked: Sequence[Asked]) -> Path:
    """Leave the responses for others to score; not in the place of the file that they were read from, which may hold more."""
    path = folder / RESPONSES
    if files.resolve(p.responses).resolve() != path.resolve():
        inputs.write_responses(path, asked)
    return path


def choose(p: config.Choose, folder: Path | None = None, tell: Tell = nobody) -> Choice:
    """Which candidate to train with. The responses are left in ``folder``; ``tell`` is told what is being done.

    Raises :class:`ModelError` where fewer than two candidates can be compared, with the first one's reason; and, before
    anything is sampled or scored, for what is not there.
    """
    held_out = _held_out(p)
    check(p)
    asked, ids = responses_of(p, tell)
    if folder:
        leave_responses(p, folder, asked)
    scored = {name: score(one, p, asked, ids=ids) for name, one in p.candidates.items() if one.scores}  # they take no time
    _judge(p, asked, ids)
    for name, candidate in p.candidates.items():
        found = scored[name] = scored.get(name) or score(candidate, p, asked, held_out)
        tell(f"{name}: {'blocked' if found.blocked else 'scored'} in {found.seconds:.1f} s")
    usable = [name for name in p.candidates if not scored[name].blocked]
    if len(usable) < 2:
        name = next(name for name in p.candidates if scored[name].blocked)
        raise ModelError(f"candidates: fewer than two can be compared; {name}: {scored[name].blocked}")
    return _weighed(p, asked, held_out, scored, usable)


def _held_out(p: config.Choose) -> list[Asked]:
    """Judged responses that are not the policy's."""
    held_out = inputs.read_responses(p.held_out) if p.held_out else []
    if p.held_out and not any(one.judged for one in held_out):
        raise DataError(f"{p.held_out}: held_out: none of its responses is judged; add their scores or preferences")
    return held_out


def _judge(p: config.Choose, asked: Sequence[Asked], ids: set[Key]) -> None:
    """Judge the responses, as the parameters say."""
    scores = inputs.read_scores(p.judgement, ids) if p.judgement.endswith(TABLES) else None
    if p.judge:
        by = score(p.judge, p, asked, ids=ids)
        if by.blocked:
            raise ModelError(f"judge: {by.blocked}")
        scores = by.scores
    inputs.judge(p, asked, scores)


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
    for column in ("layout", "unchecked", "blocked", "seconds"):
        table[column] = [getattr(scored[name], column) for name in table.index]
    if told.any():
        table = table.sort_values("gain", ascending=False, kind="stable", na_position="last")
    weights = [read(p, one, good, size)[0].weights for one in rewards.values()]  # of unjudged responses too
    next_ones = to_judge(asked, np.array(weights), good)
    return Choice(decision, table.reset_index(), curves, best_of, agreement(raw), next_ones, facts)


def spread_of(p: config.Choose, judged: Array) -> float:
    """The deviation of its own that each training is allowed, in units of the judgement. It is known of PPO where the judgement
    is a share in [0, 1], and taken for other labels, two values or few whole numbers, from their least to their largest. 0 on
    a scale without ends; the best of n is no training."""
    known = np.unique(judged[np.isfinite(judged)])
    if p.algorithm == "best-of-n" or not len(known):
        return 0.0
    if known[0] >= 0 and known[-1] <= 1:
        return SPREAD
    width = float(known[-1] - known[0])
    are_labels = len(known) == 2 or (width <= LABELS and bool((known == known.round()).all()))
    return SPREAD * width if are_labels else 0.0


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
        enough = (np.isfinite(rewards).sum(1) >= p.n).all()
        return gain.best_of(rewards, good, size, p.n), "recipe" if enough else "samples"
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
    for name, table in zip(FRAMES, (choice.table, choice.curves, choice.best_of), strict=True):
        files.write_table(folder / f"{name}.csv", table)
    inputs.write_lines(folder / "to_judge.jsonl", choice.to_judge)
    record = {
        "decision": choice.decision.kind,
        "names": choice.decision.names,
        "more": choice.decision.more,
        "by_training": choice.decision.by_training,
        "candidates": choice.table.to_dict("records"),
        "agreement": choice.agreement.to_dict(),
        "facts": choice.facts,
    }
    files.write_json(folder / RECORD, record | dict(more))
