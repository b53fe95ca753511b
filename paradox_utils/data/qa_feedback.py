"""QA-FEEDBACK (Wu et al. 2023): human feedback on answers to ambiguous questions, read, checked and split by question.

``data`` is a directory of the original JSON files or a hub id; the hub holds the feedback files alone, so prompts and
references are then made from the feedback records, in the original's form. In the files passages and sentences are counted
from 1, and sentence 0 is the passage's title; in :mod:`paradox_utils.data.records` both count from 0, and titles are left out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from paradox_utils import config, files
from paradox_utils.data import segments
from paradox_utils.data.records import (
    BAD,
    GOOD,
    DataError,
    ErrorKind,
    Feedback,
    JudgedSet,
    Missing,
    MissingKind,
    Passage,
    Preference,
    Question,
    Span,
    Splits,
    malformed,
    question_id,
    shared,
)
from paradox_utils.data.sets import shuffled

FILES = ("train.json", "dev.json", "test.json", "train_feedback.json", "dev_feedback.json")  # of the originals, those read
MEND = "restore the original file or mend the record"
WAY_OUT = "set data to a directory with dev.json and dev_feedback.json (or the train files too), or to a hub id"


# --- the files' records -------------------------------------------------------------------------------------------------------


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)


_Text = Annotated[str, Field(pattern="")]  # a pattern, if only the empty one, refuses half a surrogate pair
_Words = Annotated[str, Field(pattern=r"\S")]


class _Error(_Record):
    kind: ErrorKind = Field(alias="error type")
    start: int
    end: int


class _MissingInfo(_Record):
    kind: MissingKind = Field(alias="error type")
    passage_id: int
    sentence_id: list[int]


class _Judgement(_Record):
    errors: list[_Error]
    missing: list[_MissingInfo] = Field(alias="missing-info")
    corrected: _Text = Field(alias="corrected-prediction")


class _FeedbackRecord(_Record):
    question: _Words
    passages: list[Annotated[list[_Text], Field(min_length=1)]]
    gold: _Text
    prediction_1: _Text = Field(alias="prediction 1")
    prediction_2: _Text = Field(alias="prediction 2")
    prediction_3: _Text = Field(alias="prediction 3")
    prediction_4: _Text = Field(alias="prediction 4")
    feedback: _Judgement
    preference: Annotated[list[Preference], Field(min_length=6, max_length=6)]


class _Page(_Record):
    content: _Text
    wikipage: _Text


def _list_in_string(value: Any) -> Any:
    """Some copies hold the list of answers as JSON in a string."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except RecursionError as error:
        raise ValueError("is nested too deep for a list of answers") from error


class _QuestionRecord(_Record):
    question: _Words
    text: _Words
    answer: Annotated[list[_Text], Field(min_length=1), BeforeValidator(_list_in_string)]
    passages: list[_Page]


Form = TypeVar("Form", bound=_Record)


def _parse(form: type[Form], raw: Iterable[Any], where: str) -> list[Form]:
    """``raw`` in the given form; raises :class:`DataError` naming ``where``, index and field of the first that is not."""
    parsed = []
    for index, item in enumerate(raw):
        try:
            parsed.append(form.model_validate(item))
        except ValidationError as error:
            raise malformed(f"{where}, record {index} (counted from 0)", error, MEND) from error
    return parsed


def _malformed(where: str, index: int, field: str, problem: str) -> DataError:
    return DataError(f"{where}, record {index} (counted from 0): field {field!r}: {problem}; {MEND}")


def _question_id(text: str) -> str:
    return question_id(text, "QA-FEEDBACK")


def _from_feedback(record: _FeedbackRecord, index: int, where: str, original: _QuestionRecord | None) -> Feedback:
    """The record in the project's form, its offsets and indices checked; ``original`` knows the prompt and all references."""
    length = len(record.prediction_1)
    for i, error in enumerate(record.feedback.errors):
        field = f"feedback.errors[{i}]"
        if not 0 <= error.start < length:
            raise _malformed(where, index, f"{field}.start", f"is {error.start}, outside 'prediction 1' ({length} characters)")
        if not error.start < error.end <= length:
            problem = f"is {error.end}, must be after start ({error.start}) and within 'prediction 1' ({length} characters)"
            raise _malformed(where, index, f"{field}.end", problem)
    for i, item in enumerate(record.feedback.missing):
        field = f"feedback.missing-info[{i}]"
        if not 1 <= item.passage_id <= len(record.passages):
            problem = f"is {item.passage_id}, but there are {len(record.passages)} passages (counted from 1)"
            raise _malformed(where, index, f"{field}.passage_id", problem)
        last = len(record.passages[item.passage_id - 1]) - 1
        for j, sentence in enumerate(item.sentence_id):
            if not 0 <= sentence <= last:
                problem = f"is {sentence}, but passage {item.passage_id} has {last} sentences (counted from 1; 0: its title)"
                raise _malformed(where, index, f"{field}.sentence_id[{j}]", problem)
    passages = tuple(Passage(title, tuple(sentences)) for title, *sentences in record.passages)
    pages = [f"wikipage: {passage.title} text: {' '.join(passage.sentences)}" for passage in passages]
    return Feedback(
        question=Question(
            id=_question_id(record.question),
            text=record.question,
            passages=passages,
            prompt=original.text if original else f"question: {record.question} context: {' | '.join(pages)}",
            references=tuple(original.answer) if original else (record.gold,),
        ),
        responses=(record.prediction_1, record.prediction_2, record.prediction_3, record.prediction_4),
        spans=tuple(Span(error.kind, error.start, error.end) for error in record.feedback.errors),
        missing=tuple(
            Missing(item.kind, item.passage_id - 1, tuple(sentence - 1 for sentence in item.sentence_id if sentence > 0))
            for item in record.feedback.missing
        ),
        corrected=record.feedback.corrected,
        preference=tuple(record.preference),
    )


def _from_question(record: _QuestionRecord) -> Question:
    passages = []
    for page in record.passages:
        cuts = segments.sentences(page.content, "punctuation")
        passages.append(Passage(page.wikipage, tuple(page.content[start:end] for start, end in cuts)))
    return Question(_question_id(record.question), record.question, tuple(passages), record.text, tuple(record.answer))


# --- reading ------------------------------------------------------------------------------------------------------------------


def _read(data: str) -> tuple[dict[str, list[Question]], dict[str, list[Feedback]]]:
    """What was found: questions of train / dev / test.json, feedback of train_ / dev_feedback.json."""
    folder = files.resolve(data)
    if folder.is_dir():
        present = {path.name for path in folder.glob("*.json")}
        forms = {name: _parse_file(folder / name) for name in FILES if name in present}
    elif folder.exists():
        raise DataError(f"data = {data!r}: is a file; {WAY_OUT}")
    elif re.fullmatch(r"\w[\w.-]*/[\w.-]+", data):
        forms = _parse_hub(data)
    else:
        raise DataError(f"data = {data!r}: no such directory; {WAY_OUT}")
    if not {"train_feedback.json", "dev_feedback.json"} & forms.keys():
        raise DataError(f"data = {data!r}: holds neither train_feedback.json nor dev_feedback.json; {WAY_OUT}")
    originals = {_question_id(r.question): r for records in forms.values() for r in records if isinstance(r, _QuestionRecord)}
    feedback = {
        name.removesuffix("_feedback.json"): [
            _from_feedback(record, index, name, originals.get(_question_id(record.question)))
            for index, record in enumerate(records)
        ]
        for name, records in forms.items()
        if name.endswith("_feedback.json")
    }
    # a question with feedback keeps the passage sentences its feedback counts
    judged = {record.question.id: record.question for records in feedback.values() for record in records}
    questions = {
        name.removesuffix(".json"): [judged.get(_question_id(r.question)) or _from_question(r) for r in records]
        for name, records in forms.items()
        if not name.endswith("_feedback.json")
    }
    return questions, feedback


def _form(name: str) -> type[_Record]:
    return _FeedbackRecord if name.endswith("_feedback.json") else _QuestionRecord


def _parse_file(path: Path) -> list[_Record]:
    raw = files.read_json(path, list, "fetch the original file again")
    if not raw:
        raise DataError(f"{path}: must be a JSON list of at least one record; fetch the original file again")
    return _parse(_form(path.name), raw, path.name)


def _parse_hub(name: str) -> dict[str, list[_Record]]:
    """The feedback files of a hub dataset: split `train`, and `validation` (or `dev`, or `test`) as dev."""
    try:
        import datasets

        splits = datasets.load_dataset(name)
    except Exception as error:  # whatever the network, the hub, or a cache on the way may raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"data = {name!r}: neither a directory here nor to be had from the hub ({reason}); {WAY_OUT}"
        ) from error
    dev = next((split for split in ("validation", "dev", "test") if split in splits), None)
    found = {"train_feedback.json": "train" if "train" in splits else None, "dev_feedback.json": dev}
    return {
        file: _parse(_form(file), splits[split], f"{name} ({split})")
        for file, split in found.items()
        if split and splits[split]
    }


# --- splitting ----------------------------------------------------------------------------------------------------------------


def load_splits(parameters: config.Source) -> Splits:
    """Questions for the policy; no question (nor its duplicate) is in two parts, nor in the evaluator's feedback.

    With both feedback files: train.json, dev.json and test.json, or, for a missing one, the questions of that feedback file;
    without test.json, dev is shared between validation and test. With one feedback file: the questions of its parts ``train``
    and ``heldout`` (see :func:`load_feedback`); the held-out ones are shared between validation and test. Shared means
    validation first, up to ``validation_questions``; where both limits cannot be met, in the limits' proportion.
    Raises :class:`DataError` for data that cannot be used, or a part left empty.
    """
    return _split(parameters)[0]


def load_feedback(parameters: config.Source) -> dict[str, list[Feedback]]:
    """Feedback by use: ``train``, ``heldout`` (measures reward models) and ``evaluator``; split by question.

    With both feedback files, ``heldout`` is dev_feedback.json, and ``evaluator_share`` of the other's questions go to the
    evaluator. With one file, its questions are split in three by ``evaluator_share`` and ``heldout_share``. A keyed hash of the
    question decides, so shares are approximate and a question's part depends on nothing else.
    Raises :class:`DataError` for data that cannot be used, or a part left empty.
    """
    return _split(parameters)[1]


def load_sets(parameters: config.Source) -> dict[str, list[JudgedSet]]:
    """The four responses to each question of :func:`load_feedback`, as judged sets: good are those that people preferred no
    other to, bad the rest."""
    return {part: [_set_of(record) for record in records] for part, records in load_feedback(parameters).items()}


def _set_of(record: Feedback) -> JudgedSet:
    pairs = zip(itertools.combinations(range(len(record.responses)), 2), record.preference, strict=True)
    beaten = {pair[2 - choice] for pair, choice in pairs if choice}
    graded = ((place, text, BAD if place in beaten else GOOD) for place, text in enumerate(record.responses))
    return shuffled(record.question, graded)


def demonstrations(questions: Sequence[Question], _seed: int) -> list[str]:
    """The gold answer to each question."""
    return [question.references[0] for question in questions]


def _split(parameters: config.Source) -> tuple[Splits, dict[str, list[Feedback]]]:
    questions, found = _read(parameters.data)
    if len(found) == 2:
        test = questions.get("test", [])
        dev = _without(questions.get("dev") or _questions(found["dev"]), test)
        kept_apart = {question.id for question in [*dev, *test, *_questions(found["dev"])]}
        pool = [record for record in found["train"] if record.question.id not in kept_apart]
        feedback = _parts(pool, lambda place: "evaluator" if place < parameters.evaluator_share else "train")
        feedback["heldout"] = found["dev"]
        train = questions.get("train") or _questions(feedback["train"])
    else:
        (pool,) = found.values()
        evaluator, heldout = parameters.evaluator_share, parameters.evaluator_share + parameters.heldout_share

        def part(place: float) -> str:
            place = (place - parameters.fold * parameters.heldout_share) % 1
            return "evaluator" if place < evaluator else "heldout" if place < heldout else "train"

        feedback = _parts(pool, part)
        train, dev, test = _questions(feedback["train"]), _questions(feedback["heldout"]), []
    train = _without(train, [*dev, *test, *_questions(feedback["evaluator"])])
    first, second = parameters.validation_questions, parameters.test_questions
    dev, test = (dev[:first], test[:second]) if test else shared(dev, first, second)
    splits = Splits(train[: parameters.train_questions or None], dev, test)
    needed = {"train": feedback["train"] and splits.train, "heldout": feedback["heldout"] and splits.validation and splits.test}
    if parameters.evaluator_share > 0:
        needed["evaluator"] = feedback["evaluator"]
    for part, members in needed.items():
        if not members:
            raise DataError(
                f"data = {parameters.data!r}: too few questions for the part {part!r} with heldout_share = "
                f"{parameters.heldout_share} and evaluator_share = {parameters.evaluator_share}; change the shares or add data"
            )
    return splits, feedback


def _parts(records: list[Feedback], part: Callable[[float], str]) -> dict[str, list[Feedback]]:
    """Records by part; each question has its place in [0, 1), which decides."""
    parts: dict[str, list[Feedback]] = {"train": [], "heldout": [], "evaluator": []}
    for record in records:
        parts[part(int(record.question.id, 16) / 16 ** len(record.question.id))].append(record)
    return parts


def _questions(records: Iterable[Feedback]) -> list[Question]:
    return _without((record.question for record in records), [])


def _without(questions: Iterable[Question], others: Iterable[Question]) -> list[Question]:
    """Each question once, those among ``others`` left out."""
    seen = {question.id for question in others}
    return [question for question in questions if not (question.id in seen or seen.add(question.id))]
