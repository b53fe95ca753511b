"""Atlas: a generated question-answering world in which every statement can be checked.

A name is shared by two places of different kind ("zodor isle", "zodor fort"), so every question is ambiguous: a complete answer
gives both readings. Two passages hold the facts asked for, and one distractor each. Demonstrations carry *systematic* errors:
each fires often where a simple visible feature of the question holds and seldom elsewhere (random errors vanish under greedy
decoding, and would leave PPO nothing to do). :mod:`paradox_utils.data.oracle` judges any text.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paradox_utils.config import Source
from paradox_utils.data.records import Feedback, Passage, Question, Splits, read_feedback, unit_interval

KINDS = ("isle", "fort", "lake", "mill")
ATTRIBUTES = ("founder", "color", "stone", "guard", "season", "trade")
NAMES = tuple(a + b for a, b in itertools.product(("zo", "mi", "ka", "ru"), ("dor", "reth", "lum", "vash")))


def _value_words() -> dict[tuple[str, str], tuple[str, ...]]:
    """Three value words for each kind and attribute. Typed by kind: a value tells which reading it belongs to, else a tiny
    policy never learns to bind the two."""
    onsets, ends = "bdfgklmnprst", ("ane", "elo", "irk", "oma", "usk", "ynd")
    words = iter(onset + end for end in ends for onset in onsets)
    return {(kind, attribute): tuple(itertools.islice(words, 3)) for kind in KINDS for attribute in ATTRIBUTES}


VALUES = _value_words()
GRAMMAR_WORDS = ("the", "of", "is", "has", "as", "its", "and", "surely", "also", "what", "are")
PROMPT_WORDS = ("question", "context", "wikipage", "text", "answer")
PUNCTUATION = (".", ",", "?", ":", "|")
VOCABULARY = (*PUNCTUATION, *GRAMMAR_WORDS, *PROMPT_WORDS, *KINDS, *ATTRIBUTES, *NAMES, *itertools.chain(*VALUES.values()))

# Systematic errors of the demonstrations: which feature of a question provokes them, and how often.
OFTEN, SELDOM = 0.65, 0.12
POPULAR = {pair: words[0] for pair, words in VALUES.items()}  # the value people tend to give, right or wrong
MISREMEMBERED = frozenset({"founder", "guard", "trade"})  # attributes whose value people get wrong
FORGOTTEN = frozenset({"lake", "mill"})  # second readings people leave out
DIGRESSIVE = frozenset({"color", "stone", "guard", "season"})  # last asked attributes that invite a true but unasked fact
REPEATING, INVENTING, GARBLING = "fort", "lake", "mill"  # first kinds with a redundant clause, an invented fact, garble


@dataclass(frozen=True)
class Reading:
    """One place of the shared name, with the facts its passage holds (attribute → value)."""

    kind: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Topic:
    """What a question is about: a name, two readings, and the two attributes asked for, in order."""

    name: str
    readings: tuple[Reading, Reading]
    asked: tuple[str, str]


def draw_topic(rng: random.Random) -> Topic:
    """A random topic: ordered kinds, ordered attributes, facts, and one distractor a reading."""
    kinds = rng.sample(KINDS, 2)
    asked = tuple(rng.sample(ATTRIBUTES, 2))
    readings = []
    for kind in kinds:
        distractor = rng.choice([a for a in ATTRIBUTES if a not in asked])
        attributes = rng.sample((*asked, distractor), 3)
        readings.append(Reading(kind, {a: rng.choice(VALUES[kind, a]) for a in attributes}))
    return Topic(rng.choice(NAMES), (readings[0], readings[1]), (asked[0], asked[1]))


def to_question(topic: Topic, identity: str) -> Question:
    """The topic as a question record; its reference answer gives both readings, in the plain wording."""
    text = f"what are the {topic.asked[0]} and the {topic.asked[1]} of {topic.name}?"
    passages = tuple(Passage(f"{topic.name} {r.kind}", tuple(f"{a} {v}." for a, v in r.facts.items())) for r in topic.readings)
    context = " | ".join(f"wikipage: {p.title} text: {' '.join(p.sentences)}" for p in passages)
    reference = " ".join(
        f"{_opening(topic.name, r.kind, topic.asked[0], r.facts[topic.asked[0]], 0)}, "
        f"{_continuing(topic.asked[1], r.facts[topic.asked[1]], 0)}."
        for r in topic.readings
    )
    return Question(identity, text, passages, f"question: {text} context: {context}", (reference,))


def to_topic(question: Question) -> Topic:
    """The inverse of :func:`to_question`, read from the question's text and passages."""
    words = question.text.rstrip("?").split()
    readings = [
        Reading(p.title.split()[1], dict(sentence.rstrip(".").split() for sentence in p.sentences)) for p in question.passages
    ]
    return Topic(words[-1], (readings[0], readings[1]), (words[3], words[6]))


def _opening(name: str, kind: str, attribute: str, value: str, form: int) -> str:
    forms = (f"the {attribute} of {name} {kind} is {value}", f"{name} {kind} has {value} as its {attribute}")
    return forms[form]


def _continuing(attribute: str, value: str, form: int) -> str:
    return (f"and its {attribute} is surely {value}", f"and {value} is surely its {attribute}")[form]


def demonstrate(topic: Topic, rng: random.Random) -> str:
    """An answer as a fallible person would write it: varied wording and the systematic errors above."""

    def happens(provoked: bool) -> bool:
        return rng.random() < (OFTEN if provoked else SELDOM)

    def stated(reading: Reading, attribute: str) -> str:
        return POPULAR[reading.kind, attribute] if happens(attribute in MISREMEMBERED) else reading.facts[attribute]

    def form() -> int:
        return int(rng.random() < 0.25)  # uneven, so that greedy decoding has a favourite wording

    first, second = topic.readings
    readings = [first] if happens(second.kind in FORGOTTEN) else [first, second]
    sentences = []
    for reading in readings:
        clauses = [
            _opening(topic.name, reading.kind, topic.asked[0], (value := stated(reading, topic.asked[0])), form()),
            _continuing(topic.asked[1], stated(reading, topic.asked[1]), form()),
        ]
        if reading is first and happens(first.kind == REPEATING):
            clauses.append(_continuing(topic.asked[0], value, 0))
        sentences.append(", ".join(clauses) + ".")
    unasked = next(a for a in first.facts if a not in topic.asked)
    if happens(topic.asked[1] in DIGRESSIVE):
        sentences.append(f"also {_opening(topic.name, first.kind, unasked, first.facts[unasked], 0)}.")
    if happens(first.kind == INVENTING):
        unknown = next(a for a in ATTRIBUTES if a not in first.facts)
        sentences.append(f"also {_opening(topic.name, first.kind, unknown, POPULAR[first.kind, unknown], 0)}.")
    if happens(first.kind == GARBLING):
        sentences.append(f"also {topic.name} {first.kind} is of the its surely.")
    return " ".join(sentences)


def load_splits(parameters: Source) -> Splits:
    """Questions of the three splits, all different; ``world_seed`` fixes them."""
    test = new_questions(parameters, "test", parameters.test_questions, [])
    validation = new_questions(parameters, "validation", parameters.validation_questions, test)
    return Splits(new_questions(parameters, "train", parameters.train_questions, [*test, *validation]), validation, test)


def new_questions(parameters: Source, use: str, count: int, others: Iterable[Question]) -> list[Question]:
    """``count`` questions for a use, all different from each other and from ``others``."""
    rng, seen = random.Random(f"atlas {parameters.world_seed} {use}"), {question.prompt for question in others}
    questions: list[Question] = []
    while len(questions) < count:
        question = to_question(draw_topic(rng), f"{use}-{len(questions)}")
        if question.prompt not in seen:
            seen.add(question.prompt)
            questions.append(question)
    return questions


def load_feedback(parameters: Source, path: Path) -> dict[str, list[Feedback]]:
    """The feedback that the stage ``feedback`` left at ``path``, by use; a hash of its prompt gives a question its use."""
    parts: dict[str, list[Feedback]] = {"train": [], "heldout": [], "evaluator": []}
    heldout, evaluator = parameters.heldout_share, parameters.evaluator_share
    for record in read_feedback(path):
        place = unit_interval(record.question.prompt)
        parts["heldout" if place < heldout else "evaluator" if place > 1 - evaluator else "train"].append(record)
    return parts


def demonstrations(questions: Sequence[Question], seed: int) -> list[str]:
    """One demonstration a question, errors and all."""
    rng = random.Random(f"demonstrations {seed}")
    return [demonstrate(to_topic(question), rng) for question in questions]


def corrupt(question: Question, rng: random.Random) -> str:
    """An answer whose values are right or wrong at random: what a factuality model learns to read the passages from."""
    topic = to_topic(question)
    sentences = []
    for reading in rng.sample(topic.readings, rng.choice((1, 2))):
        attributes = rng.sample(ATTRIBUTES, 2) if rng.random() < 0.3 else topic.asked

        def value(attribute: str, reading: Reading = reading) -> str:
            right = reading.facts.get(attribute)
            return right if right and rng.random() < 0.7 else rng.choice(VALUES[reading.kind, attribute])

        opening = _opening(topic.name, reading.kind, attributes[0], value(attributes[0]), rng.randrange(2))
        ending = f", {_continuing(attributes[1], value(attributes[1]), rng.randrange(2))}" if rng.random() < 0.8 else ""
        sentences.append(f"{opening}{ending}.")
    return " ".join(sentences)
