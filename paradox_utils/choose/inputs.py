"""What a choice rests on: prompts, the policy's responses to them, and what is judged of these.

Rows come from a JSONL file or a data set of the hub, in the names people give them: ``prompt`` (``question``, ``input``,
``instruction``) as text or as a list of messages, with one ``response`` (``completion``) or several ``responses``; or as
preferences, ``chosen`` over ``rejected`` (TRL's four layouts: text or messages, the prompt named or only begun with by both),
each one response or a list of them, or ``response_1`` and ``response_2`` with a ``winner``. Rows of one ``prompt_id``, or of
one prompt where there are no ids, belong together. Responses without ids are each a response of its own, also where two have
one text, as a policy that says something twice says it twice as often; in preferences one text is one response.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from paradox_utils import config, data, files
from paradox_utils.config import ParameterError
from paradox_utils.config.choose import TABLES
from paradox_utils.data.records import DataError, Question
from paradox_utils.data.tasks import counts

Messages = list[dict[str, str]]
Key = tuple[str, str]  # of a response: prompt_id, response_id

PROMPT = ("prompt", "question", "input", "instruction", "messages")
RESPONSE = ("response", "completion", "answer", "output")
JUDGED = ("score", "label", "reward", "rating")  # columns that are taken for a judgement
WINNERS = {"1": 0, "2": 1, "response_1": 0, "response_2": 1, "a": 0, "b": 1, "tie": None}
WAY_OUT = "mend the line, or leave it out"
LFS = "version https://git-lfs.github.com/spec/"  # opens what Git LFS leaves in place of a file that was not fetched


@dataclass
class Asked:
    """A prompt and the responses to it by id. ``judged``: of some of them, good and size (see :mod:`.gain`)."""

    id: str
    prompt: str | Messages
    question: Question
    responses: dict[str, str] = field(default_factory=dict)
    judged: dict[str, tuple[float, float]] = field(default_factory=dict)


def load(p: config.Choose) -> list[Asked]:
    """The prompts, also those beyond the ``limit``, with the responses of the user's file where there is one, judged as far as
    that is known without a model.

    Raises :class:`DataError` naming file, line and field of what cannot be used.
    """
    asked = read_responses(p.responses, p.judgement) if p.responses else _prompts(p)
    if p.responses and not any(len(prompt.responses) > 1 for prompt in asked[: p.limit or None]):
        raise DataError(
            f"{p.responses}: no prompt has two responses, and a choice compares those to one prompt: add responses, or name "
            "the file as `prompts`, and the policy's own are sampled"
        )
    return asked


def read_responses(path: str, judgement: str = "auto") -> list[Asked]:
    """Prompts with responses, of a file or data set, judged by its preferences or by a column of it."""
    asked, wins = _grouped(rows(path), judgement)
    if judgement == "auto":
        for prompt in asked:
            own = wins.get(prompt.id, {})
            prompt.judged |= {name: (float(np.mean(won)), 1.0) for name, won in own.items() if won}
    if lone := next((prompt for prompt in asked if not prompt.responses), None):
        raise DataError(f"{path}: prompt {lone.id!r} has no response; name the file as `prompts`, or add responses")
    return asked


def _prompts(p: config.Choose) -> list[Asked]:
    if p.prompts:
        return [Asked(one.id, one.prompt, one.question) for one in _grouped(rows(p.prompts), "none")[0]]
    return [Asked(question.id, question.prompt, question) for question in data.load_splits(p).validation]


# --- rows ---------------------------------------------------------------------------------------------------------------------


def rows(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row, of a JSONL file or a data set of the hub (``NAME`` or ``NAME:SPLIT``)."""
    path = files.resolve(source)
    if files.lies(path) == "file":
        yield from _lines(path)
        return
    name, _, split = source.partition(":")
    if not files.HUB_ID.fullmatch(name) or source.endswith(TABLES):
        raise DataError(f"{source}: there is no such file; mend the path, which starts at the project's folder")
    try:
        import datasets

        table = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # whatever the network, the hub, or a cache on the way may raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{source}: neither a file here nor to be had from the hub ({reason}); save it as JSONL here"
        ) from error
    yield from ((f"{source}, row {number}", dict(row)) for number, row in enumerate(table, 1))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = files.read_text(path, "name another file")
    if text.startswith(LFS):
        raise DataError(f"{path}: is a Git LFS pointer in place of the file: run `git lfs pull` in its repository")
    if ".csv" in path.suffixes:
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
            yield f"{path}, line {number}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line, object_pairs_hook=files.each_once)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: is not JSON ({error}); {WAY_OUT}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: must hold a JSON object, but holds {type(row).__name__}; {WAY_OUT}")
            yield where, row


def _grouped(
    source: Iterable[tuple[str, dict[str, Any]]], judgement: str
) -> tuple[list[Asked], dict[str, dict[str, list[float]]]]:
    """Prompts with their responses, and what each response has won (1), lost (0) or tied (½) in comparisons."""
    found: dict[str, Asked] = {}
    owners: dict[str, str] = {}  # of an id: the prompt that has it
    wins: dict[str, dict[str, list[float]]] = {}
    column = judgement if judgement not in ("auto", "none", "oracle") and not judgement.endswith(TABLES) else ""
    lacking = ""  # where a judgement was asked for and not found
    for where, row in source:
        prompt, responses, outcome = _parsed(where, row)
        key = str(row["prompt_id"]) if row.get("prompt_id") is not None else json.dumps(prompt)
        if key not in found:
            name = key if row.get("prompt_id") is not None else str(len(found))
            found[key] = Asked(name, prompt, _question(name, prompt))
        asked = found[key]
        if asked.prompt != prompt or owners.setdefault(asked.id, key) != key:
            raise DataError(f"{where}: prompt_id = {asked.id!r}: stands for another prompt before; give each prompt one id")
        names = _named(where, row, asked, responses, one_of_a_text=outcome is not None)
        if outcome is not None:
            for response, won in zip(names, outcome, strict=True):
                wins.setdefault(asked.id, {}).setdefault(response, []).extend(won)
        if column or judgement == "auto":
            named = next((one for one in ((column,) if column else JUDGED) if row.get(one) not in (None, "")), None)
            if named:
                asked.judged |= dict(zip(names, _scores(where, row[named], named, len(names)), strict=True))
            else:
                lacking = where
    if not found:
        raise DataError("no prompt: the file holds no line; name another")
    if column and not any(asked.judged for asked in found.values()):
        raise DataError(
            f"{lacking}: judgement = {column!r}: has no such column, or nothing in it; name one of its columns, or a file of "
            "scores"
        )
    return list(found.values()), wins


def _parsed(where: str, row: Mapping[str, Any]) -> tuple[str | Messages, list[str], list[list[float]] | None]:
    """The prompt, responses, and what each of them won in comparisons with the others of the row; None of a row that compares
    nothing."""
    if "chosen" in row and "rejected" in row:
        return _preference(where, row)
    prompt = _prompt(where, _first(row, PROMPT))
    if "response_1" in row and "response_2" in row:
        winner = str(row.get("winner")).lower()
        if winner not in WINNERS:
            raise DataError(f"{where}: winner = {row.get('winner')!r}: must be 1, 2 or tie; {WAY_OUT}")
        first = WINNERS[winner]
        texts = [_text(where, row[name], name) for name in ("response_1", "response_2")]
        return prompt, texts, [[0.5 if first is None else float(first == place)] for place in range(2)]
    several = row.get("responses")
    if several is not None and not isinstance(several, list):
        raise DataError(f"{where}: responses = {several!r}: must be a list of texts; {WAY_OUT}")
    given = several if several is not None else [one for one in [_first(row, RESPONSE)] if one is not None]
    return prompt, [_text(where, one, "response") for one in given], None


def _preference(where: str, row: Mapping[str, Any]) -> tuple[str | Messages, list[str], list[list[float]]]:
    """Chosen over rejected, each one response or a list of them; without a prompt, what both begin with is it."""
    from trl.data_utils import maybe_extract_prompt

    prompt, sides = _first(row, PROMPT), [row["chosen"], row["rejected"]]
    many = [isinstance(side, list) and all(isinstance(one, str) for one in side) for side in sides]
    if not all(many):
        try:
            named = {} if prompt is None else {"prompt": prompt}
            parted = maybe_extract_prompt(named | {"chosen": sides[0], "rejected": sides[1]})
        except (TypeError, IndexError, KeyError, UnboundLocalError) as error:
            raise DataError(f"{where}: chosen and rejected must be two texts, or two lists of messages; {WAY_OUT}") from error
        prompt, sides = parted["prompt"], [[parted["chosen"]], [parted["rejected"]]]
    chosen, rejected = (
        [_text(where, one, name) for one in side] for side, name in zip(sides, ("chosen", "rejected"), strict=True)
    )
    outcome = [[1.0] * len(rejected)] * len(chosen) + [[0.0] * len(chosen)] * len(rejected)
    return _prompt(where, prompt), [*chosen, *rejected], outcome


def _prompt(where: str, value: Any) -> str | Messages:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(_is_message(one) for one in value):
        return [{"role": one["role"], "content": one["content"]} for one in value]
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}…"
    raise DataError(
        f"{where}: prompt = {shown}: must be text, or a list of messages with role and content; name it prompt, {WAY_OUT}"
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _text(where: str, value: Any, name: str) -> str:
    """A response: text, or the message of an assistant."""
    if isinstance(value, list) and len(value) == 1 and _is_message(value[0]):
        return value[0]["content"]
    if not isinstance(value, str):
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}…"
        raise DataError(f"{where}: {name} = {shown}: must be text, or one message with role and content; {WAY_OUT}")
    return value


def _named(where: str, row: Mapping[str, Any], asked: Asked, texts: Sequence[str], one_of_a_text: bool) -> list[str]:
    """The ids of the row's responses, which are added to the prompt's; without ids each gets its own, or with
    ``one_of_a_text`` that of the same text before."""
    given = row.get("response_ids") or ([row["response_id"]] if row.get("response_id") is not None else None)
    if given is not None:
        if len(given) != len(texts):
            raise DataError(f"{where}: response_ids = {given!r}: must name each of the {len(texts)} responses; {WAY_OUT}")
        names = [str(one) for one in given]
        if twice := next((one for i, one in enumerate(names) if one in asked.responses or one in names[:i]), None):
            raise DataError(f"{where}: response_id = {twice!r}: stands twice for prompt {asked.id!r}; give each its own")
    else:
        known = {text: name for name, text in asked.responses.items()}
        free, names = (name for name in map(str, count(len(asked.responses))) if name not in asked.responses), []
        for text in texts:
            names.append(known[text] if one_of_a_text and text in known else next(free))
            known[text] = names[-1]
    asked.responses |= dict(zip(names, texts, strict=True))
    return names


def _scores(where: str, value: Any, name: str, number: int) -> list[tuple[float, float]]:
    values = value if isinstance(value, list) else [value]
    if len(values) != number:
        raise DataError(f"{where}: {name}: {len(values)} scores for {number} responses; give one to each")
    return [(_number(where, one, name), 1.0) for one in values]


def _number(where: str, value: Any, name: str) -> float:
    try:
        number = float(value)  # true and false count as 1 and 0
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise DataError(f"{where}: {name} = {value!r}: must be a finite number; {WAY_OUT}")
    return number


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _question(name: str, prompt: str | Messages) -> Question:
    """A prompt as the project's own models read it."""
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    return Question(name, text, (), text, ())


# --- judgements and scores ----------------------------------------------------------------------------------------------------


def read_scores(path: str, ids: Container[Key] | None = None) -> dict[Key, float]:
    """Scores by prompt and response id, of a JSONL or CSV file, without those whose cell is empty; raises :class:`DataError`
    for one of a response that there is not (``ids``: those that there are), one given twice, and one that is no number."""
    found: dict[Key, float] = {}
    if files.lies(files.resolve(path)) != "file":
        raise DataError(f"{path}: there is no such file of scores; mend the path, which starts at the project's folder")
    for where, row in _lines(files.resolve(path)):
        if absent := [name for name in ("prompt_id", "response_id", "score") if row.get(name) is None]:
            raise DataError(f"{where}: lacks {absent[0]}; a line holds prompt_id, response_id and score")
        key = str(row["prompt_id"]), str(row["response_id"])
        named = f"{where}: prompt_id = {key[0]!r}, response_id = {key[1]!r}:"
        if ids is not None and key not in ids:
            raise DataError(f"{named} there is no such response; take the ids of responses.jsonl")
        if key in found:
            raise DataError(f"{named} is scored twice; keep one line")
        if row["score"] != "":  # what a CSV leaves empty is not judged
            found[key] = _number(where, row["score"], "score")
    return found


def judge(p: config.Choose, asked: Sequence[Asked], scores: Mapping[Key, float] | None) -> None:
    """Fill in what the oracle, or a file or a model by ``scores``, says of the responses."""
    if p.judgement == "oracle" or (p.judgement == "auto" and p.has_oracle and p.judge is None):
        exact = data.oracle_of(p, p.task)
        for prompt in asked:
            texts = list(prompt.responses.values())
            good, size = counts(exact([prompt.question] * len(texts), texts, data.segments_of(p, texts, p.task)), p.task)
            prompt.judged = dict(zip(prompt.responses, zip(good, map(float, size), strict=True), strict=True))
    elif scores is not None:
        for prompt in asked:
            own = {name: (scores[prompt.id, name], 1.0) for name in prompt.responses if (prompt.id, name) in scores}
            prompt.judged = own
    several = sum(len(prompt.judged) > 1 for prompt in asked)
    if several < 2 and (scores is not None or any(prompt.judged for prompt in asked)):
        raise ParameterError(
            f"judgement = {p.judgement!r}: {several or 'no'} prompt has two judged responses, and how sure a choice is shows "
            "between prompts, two or more; judge more, or set judgement = 'none'"
        )


def templated(tokenizer: Any, prompt: str | Messages, answer: str | None = None) -> str:
    """Prompt and answer by a tokenizer's chat template; without an answer, up to where it begins.

    Raises :class:`DataError` where the template takes no such messages.
    """
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    whole = said if answer is None else [*said, {"role": "assistant", "content": answer}]
    try:
        return tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=answer is None)
    except TemplateError as error:
        raise DataError(f"its chat template refuses these messages ({error}); give prompts in roles that it knows") from error


def grid(asked: Sequence[Asked], values: Mapping[Key, float]) -> np.ndarray:
    """Values by prompt and response [P, K]; NaN where there is none."""
    widest = max(len(prompt.responses) for prompt in asked)
    table = np.full((len(asked), widest), np.nan)
    for row, prompt in zip(table, asked, strict=True):
        row[: len(prompt.responses)] = [values.get((prompt.id, name), np.nan) for name in prompt.responses]
    return table


def judged(asked: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
    """Good and size of the responses [P, K] each; NaN where unjudged."""
    parts = [{(one.id, name): part[which] for one in asked for name, part in one.judged.items()} for which in range(2)]
    return grid(asked, parts[0]), grid(asked, parts[1])


def write_responses(path: Path, asked: Iterable[Asked]) -> None:
    """Leave prompts and responses with their ids, a response a line, for others to score."""
    write_lines(
        path,
        (
            {"prompt_id": one.id, "response_id": name, "prompt": one.prompt, "response": text}
            for one in asked
            for name, text in one.responses.items()
        ),
    )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Leave a JSON object a line."""
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
