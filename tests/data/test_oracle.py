"""Atlas's oracle: verdicts by hand, an independent account of generated text, and any text at all."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paradox_utils.data import atlas, oracle
from paradox_utils.data.oracle import oracle_judge
from paradox_utils.data.records import Missing, Span
from paradox_utils.data.tasks import FACTUAL_ERRORS, MARKED, RELEVANCE_ERRORS, lm_performance, segment

TOPICS = st.integers(0, 2**32).map(lambda seed: atlas.draw_topic(random.Random(seed)))
NOT_PARSABLE = ("Incoherent", "Unverifiable")


# --- verdicts by hand ---------------------------------------------------------------------------------------------------------

ISLE = "the founder of zodor isle is bane, and its color is surely kane."
FORT = "the founder of zodor fort is melo, and its color is surely selo."
# sentence numbers: founder and color are sentences 1 and 0 of the isle's passage, 0 and 2 of the fort's
NO_ISLE = [("Missing-Answer", 0, 1), ("Missing-Major-Auxiliary", 0, 0)]
NO_FORT = [("Missing-Answer", 1, 0), ("Missing-Major-Auxiliary", 1, 2)]

BY_HAND = {
    "reference": (f"{ISLE} {FORT}", [], [], 1.0),
    "other wording, other order": (
        "zodor fort has selo as its color, and melo is surely its founder. also zodor isle has bane as its founder, "
        "and kane is surely its color.",
        [],
        [],
        1.0,
    ),
    "one reading": (ISLE, [], NO_FORT, 0.5),
    "the other reading": (FORT, [], NO_ISLE, 0.5),
    "first attribute missing": (
        f"zodor isle has kane as its color. {FORT}",
        [],
        [("Missing-Answer", 0, 1)],
        0.75,
    ),
    "irrelevant": (
        f"{ISLE} also the stone of zodor isle is mane. {FORT}",
        [("Irrelevant", "also the stone of zodor isle is mane.")],
        [],
        1.0,
    ),
    "irrelevant and wrong": (
        f"{ISLE} {FORT} also the trade of zodor fort is tusk.",
        [("Irrelevant", "also the trade of zodor fort is tusk."), ("Wrong-Grounding", "also the trade of zodor fort is tusk.")],
        [],
        1.0,
    ),
    "irrelevant and unverifiable": (
        f"{ISLE} {FORT} also the season of zodor isle is belo.",
        [
            ("Irrelevant", "also the season of zodor isle is belo."),
            ("Unverifiable", "also the season of zodor isle is belo."),
        ],
        [],
        1.0,
    ),
    "another place of the name": (
        f"the founder of zodor lake is pirk, and its color is surely birk. {ISLE} {FORT}",
        [
            (kind, part)
            for part in ("the founder of zodor lake is pirk,", "and its color is surely birk.")
            for kind in ("Irrelevant", "Unverifiable")
        ],
        [],
        1.0,
    ),
    "another name": (
        f"{ISLE} {FORT} the founder of midor isle is bane.",
        [("Irrelevant", "the founder of midor isle is bane."), ("Unverifiable", "the founder of midor isle is bane.")],
        [],
        1.0,
    ),
    "redundant": (
        "the founder of zodor isle is bane, and its color is surely kane, and its founder is surely bane. " + FORT,
        [("Redundant", "and its founder is surely bane.")],
        [],
        1.0,
    ),
    "wrong": (
        f"the founder of zodor isle is dane, and its color is surely kane. {FORT}",
        [("Wrong-Grounding", "the founder of zodor isle is dane,")],
        [("Missing-Answer", 0, 1)],
        0.75,
    ),
    "wrong auxiliary": (
        f"{ISLE} the founder of zodor fort is melo, and its color is surely telo.",
        [("Wrong-Grounding", "and its color is surely telo.")],
        [("Missing-Major-Auxiliary", 1, 2)],
        0.75,
    ),
    "right, then contradicted": (
        f"{ISLE} {FORT} zodor isle has dane as its founder.",
        [("Redundant", "zodor isle has dane as its founder."), ("Wrong-Grounding", "zodor isle has dane as its founder.")],
        [],
        1.0,
    ),
    "wrong, then corrected": (
        f"zodor isle has dane as its founder. {ISLE} {FORT}",
        [("Wrong-Grounding", "zodor isle has dane as its founder."), ("Redundant", "the founder of zodor isle is bane,")],
        [("Missing-Answer", 0, 1)],
        0.75,
    ),
    "garbled": (
        f"{ISLE} also zodor isle is of the its surely. {FORT}",
        [(kind, "also zodor isle is of the its surely.") for kind in NOT_PARSABLE],
        [],
        1.0,
    ),
    "garble leaves the place of the sentence": (
        f"the founder of zodor isle is bane, of of, and its color is surely kane. {FORT}",
        [(kind, "of of,") for kind in NOT_PARSABLE],
        [],
        1.0,
    ),
    "its, of nothing": (
        f"and its color is surely kane. {FORT}",
        [(kind, "and its color is surely kane.") for kind in NOT_PARSABLE],
        NO_ISLE,
        0.5,
    ),
    "its, across a full stop": (
        f"the founder of zodor isle is bane. and its color is surely kane. {FORT}",
        [(kind, "and its color is surely kane.") for kind in NOT_PARSABLE],
        [("Missing-Major-Auxiliary", 0, 0)],
        0.75,
    ),
    "a question and a cry": (
        f"the founder of zodor isle is bane? {FORT[:-1]}!",
        [(kind, "the founder of zodor isle is bane?") for kind in NOT_PARSABLE]
        + [(kind, "and its color is surely selo!") for kind in NOT_PARSABLE],
        [*NO_ISLE, ("Missing-Major-Auxiliary", 1, 2)],
        0.25,
    ),
    "cut off": (
        f"{ISLE} the founder of zodor fort is melo, and its color is",
        [(kind, "and its color is") for kind in NOT_PARSABLE],
        [("Missing-Major-Auxiliary", 1, 2)],
        0.75,
    ),
    "cut off after a word": (f"{ISLE} {FORT[:-1]}", [], [], 1.0),
    "nothing": ("", [], NO_ISLE + NO_FORT, 0.0),
    "white space": (" \n\t ", [], NO_ISLE + NO_FORT, 0.0),
    "only stops": (". ,", [(kind, part) for part in ".," for kind in NOT_PARSABLE], NO_ISLE + NO_FORT, 0.0),
    "another language": (
        "Founded by 莎士比亚 🏰!",
        [(kind, "Founded by 莎士比亚 🏰!") for kind in NOT_PARSABLE],
        NO_ISLE + NO_FORT,
        0.0,
    ),
}


def in_order(spans):
    return sorted(spans, key=lambda span: (span.start, span.end, span.kind))


@pytest.mark.parametrize("case", BY_HAND)
def test_verdicts_by_hand(question, case):
    text, errors, missing, completeness = BY_HAND[case]
    expected = [Span(kind, text.rindex(part), text.rindex(part) + len(part)) for kind, part in errors]
    verdict = oracle.judge(question, text)
    assert in_order(verdict.spans) == in_order(expected)
    assert list(verdict.missing) == [Missing(kind, passage, (sentence,)) for kind, passage, sentence in missing]
    assert verdict.completeness == completeness


def test_the_cases_by_hand_hold_every_kind_of_error():
    kinds = {kind for _, errors, _, _ in BY_HAND.values() for kind, _ in errors}
    assert kinds == RELEVANCE_ERRORS | FACTUAL_ERRORS
    assert {kind for _, _, missing, _ in BY_HAND.values() for kind, _, _ in missing} == {
        "Missing-Answer",
        "Missing-Major-Auxiliary",
    }


@given(TOPICS)
def test_references_are_perfect(topic):
    asked = atlas.to_question(topic, "q")
    assert oracle.judge(asked, asked.references[0]) == oracle.Judgement((), (), 1.0)


def performance(question, text, task):
    return lm_performance(oracle_judge(task)([question], [text], [segment(text, task, "punctuation")]), task)


@pytest.mark.parametrize("task", MARKED)
@pytest.mark.parametrize("text", ["", "  \n", "莎士比亚", "of of the.", "?!"])
def test_nothing_and_nonsense_score_zero_on_every_task(question, task, text):
    assert performance(question, text, task) == 0.0


@pytest.mark.parametrize("task", MARKED)
def test_an_empty_response_counts_as_one_bad_segment(question, task):
    texts = ["", f"{ISLE} {FORT}"]
    values = oracle_judge(task)([question] * 2, texts, [segment(text, task, "punctuation") for text in texts])
    # the reference: 4 relevant sub-sentences, 2 true sentences, completeness 1
    assert lm_performance(values, task) == pytest.approx({"relevance": 4 / 5, "factuality": 2 / 3, "completeness": 1 / 2}[task])


# --- an independent account of generated text ---------------------------------------------------------------------------------


@st.composite
def answers_with_known_errors(draw):
    """A topic, an answer built clause by clause in words written here, its error spans, and what it states right."""
    topic = draw(TOPICS)
    holds = {r.kind: r.facts for r in topic.readings}
    text, spans, said = "", [], {}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from([topic.name] * 5 + list(atlas.NAMES)))
        kind = draw(st.sampled_from([*holds] * 3 + list(atlas.KINDS)))
        clauses = draw(st.integers(1, 3))
        for clause in range(clauses):
            attribute = draw(st.sampled_from([*topic.asked] * 2 + list(atlas.ATTRIBUTES)))
            right = holds.get(kind, {}).get(attribute)
            value = draw(st.sampled_from([right] * 3 + list(atlas.VALUES[kind, attribute])))
            value = value or "zzz"  # no such fact: any word
            plain = draw(st.booleans())
            garbles = ["and surely", "of the its", f"and its {attribute} is {value}", f"{name} {kind}"]
            garbled = clause > 0 and draw(st.integers(0, 7)) == 0
            if garbled:
                words = draw(st.sampled_from(garbles))
            elif clause == 0:
                forms = (f"{name} {kind} has {value} as its {attribute}", f"the {attribute} of {name} {kind} is {value}")
                words = draw(st.sampled_from(["", "also "])) + forms[plain]
            else:
                words = f"and its {attribute} is surely {value}" if plain else f"and {value} is surely its {attribute}"
            text += (" " if text else "") + words + ("." if clause == clauses - 1 else ",")
            span = (len(text) - len(words) - 1, len(text))
            about, errors = (name, kind, attribute), set()
            if garbled:
                errors = {"Incoherent", "Unverifiable"}
            else:
                topical = name == topic.name and kind in holds and attribute in topic.asked
                if not topical:
                    errors.add("Irrelevant")
                elif about in said:
                    errors.add("Redundant")
                if name != topic.name or right is None:
                    errors.add("Unverifiable")
                elif value != right:
                    errors.add("Wrong-Grounding")
                said.setdefault(about, value)
            spans += [Span(error, *span) for error in errors]
    wanted = [(topic.name, r.kind, a) for r in topic.readings for a in topic.asked]
    complete = [said.get(about) == holds[about[1]][about[2]] for about in wanted]
    return topic, text, spans, complete


@settings(max_examples=300, deadline=None)
@pytest.mark.heavy
@given(answers_with_known_errors())
def test_the_oracle_is_exact_on_generated_text(case):
    topic, text, spans, complete = case
    verdict = oracle.judge(atlas.to_question(topic, "q"), text)
    assert in_order(verdict.spans) == in_order(spans)
    assert verdict.completeness == sum(complete) / 4
    lacking = [(passage, error) for passage in (0, 1) for error in ("Missing-Answer", "Missing-Major-Auxiliary")]
    assert [(m.passage, m.kind) for m in verdict.missing] == [
        key for key, right in zip(lacking, complete, strict=True) if not right
    ]
    for item in verdict.missing:
        attribute = topic.asked[item.kind == "Missing-Major-Auxiliary"]
        facts = topic.readings[item.passage].facts
        assert item.sentences == ([*facts].index(attribute),)


# --- any text at all ----------------------------------------------------------------------------------------------------------

SHUFFLED = st.lists(st.sampled_from([*atlas.VOCABULARY, "\n", "bane", "kane", "melo", "isle", "zodor"]), max_size=40).map(
    " ".join
)
PATCHED = st.tuples(st.sampled_from([ISLE, FORT]), st.text(max_size=10), st.integers(0, 60)).map(
    lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), SHUFFLED, PATCHED))
@pytest.mark.heavy
def test_the_oracle_is_total(question, text):
    statements, verdict = oracle.parse(text), oracle.judge(question, text)
    covered = set()
    for statement in statements:
        assert 0 <= statement.start < statement.end <= len(text)
        piece = range(statement.start, statement.end)
        assert covered.isdisjoint(piece)
        covered |= set(piece)
        assert text[statement.start : statement.end] == text[statement.start : statement.end].strip()
        kinds = {span.kind for span in verdict.spans if (span.start, span.end) == (statement.start, statement.end)}
        if statement.fact is None:
            assert kinds == set(NOT_PARSABLE)
        else:
            assert len(kinds & RELEVANCE_ERRORS) <= 1
            assert len(kinds & FACTUAL_ERRORS) <= 1
            assert "Incoherent" not in kinds
    assert {i for i, character in enumerate(text) if not character.isspace()} <= covered
    assert {(span.start, span.end) for span in verdict.spans} <= {(s.start, s.end) for s in statements}
    assert verdict.completeness == 1 - len(verdict.missing) / 4
    for task in MARKED:
        score = performance(question, text, task)
        assert 0 <= score <= 1
        assert text.strip() or score == 0
