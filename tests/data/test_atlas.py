"""Atlas from a question to feedback: its questions, the systematic errors of demonstrations, annotators and what they leave."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given

from paradox_utils import config
from paradox_utils.data import atlas, oracle
from paradox_utils.data.records import Span, read_feedback, write_feedback
from paradox_utils.data.tasks import FACTUAL_ERRORS, RELEVANCE_ERRORS, segment
from paradox_utils.policies.models import atlas_policy_tokenizer, load_policy
from paradox_utils.stages import feedback
from tests.data.test_oracle import ISLE, NOT_PARSABLE, TOPICS, in_order


def topics(count, seed=0):
    rng = random.Random(seed)
    return [atlas.draw_topic(rng) for _ in range(count)]


def within(successes, trials, probability, sigmas=4.5):
    """Whether a binomial count is credible (false alarm: under 1 in 100,000)."""
    return abs(successes - trials * probability) <= sigmas * math.sqrt(trials * probability * (1 - probability)) + 1e-9


# --- questions ----------------------------------------------------------------------------------------------------------------


@given(TOPICS)
def test_question_and_topic_are_inverse(topic):
    back = atlas.to_topic(atlas.to_question(topic, "q"))
    assert back == topic
    assert [list(r.facts) for r in back.readings] == [list(r.facts) for r in topic.readings]  # dictionaries forget order


@given(TOPICS)
def test_a_topic_asks_what_its_passages_hold(topic):
    assert topic.readings[0].kind != topic.readings[1].kind
    for reading in topic.readings:
        assert set(topic.asked) < set(reading.facts)
        assert len(reading.facts) == 3  # the two asked for and a distractor
        assert all(value in atlas.VALUES[reading.kind, attribute] for attribute, value in reading.facts.items())


def test_the_text_of_a_question(question):
    assert question.text == "what are the founder and the color of zodor?"
    assert [p.title for p in question.passages] == ["zodor isle", "zodor fort"]
    assert [p.sentences for p in question.passages] == [
        ("color kane.", "founder bane.", "stone mane."),
        ("founder melo.", "trade dusk.", "color selo."),
    ]
    assert question.prompt == (
        "question: what are the founder and the color of zodor? context: wikipage: zodor isle text: color kane. founder bane. "
        "stone mane. | wikipage: zodor fort text: founder melo. trade dusk. color selo."
    )
    assert question.references == (
        "the founder of zodor isle is bane, and its color is surely kane. "
        "the founder of zodor fort is melo, and its color is surely selo.",
    )


def test_a_value_word_tells_its_kind():
    words = [word for values in atlas.VALUES.values() for word in values]
    assert len(words) == len(set(words)) == 3 * len(atlas.KINDS) * len(atlas.ATTRIBUTES)
    assert len(atlas.VOCABULARY) == len(set(atlas.VOCABULARY))


def small(**changes):
    return config.Source(train_questions=120, validation_questions=30, test_questions=40, **changes)


def test_seeds_fix_everything():
    first, again = atlas.load_splits(small()), atlas.load_splits(small())
    assert first == again
    assert atlas.load_splits(small(world_seed=1)) != first
    assert atlas.demonstrations(first.train, 5) == atlas.demonstrations(again.train, 5)
    assert atlas.demonstrations(first.train, 5) != atlas.demonstrations(first.train, 6)
    corrupted = [atlas.corrupt(first.train[0], random.Random(seed)) for seed in (1, 1, 2)]
    assert corrupted[0] == corrupted[1] != corrupted[2]


def test_splits_share_no_prompt_and_do_not_move_with_each_other():
    splits = atlas.load_splits(small())
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [120, 30, 40]
    everything = [*splits.train, *splits.validation, *splits.test]
    assert len({q.prompt for q in everything}) == len({q.id for q in everything}) == 190
    more = atlas.load_splits(small().model_copy(update={"train_questions": 200}))
    assert more.train[:120] == splits.train
    assert (more.validation, more.test) == (splits.validation, splits.test)


def test_a_question_drawn_twice_is_used_once(monkeypatch):
    world = topics(100, seed=4)
    monkeypatch.setattr(atlas, "draw_topic", lambda rng: rng.choice(world))
    splits = atlas.load_splits(config.Source(train_questions=60, validation_questions=15, test_questions=15))
    prompts = [q.prompt for q in (*splits.train, *splits.validation, *splits.test)]
    assert len(prompts) == len(set(prompts)) == 90


@pytest.mark.heavy
def test_prompts_and_demonstrations_fit_the_default_limits():
    tokenizer, rng, limits = atlas_policy_tokenizer(), random.Random(8), config.Source()
    drawn = topics(2000, seed=8)
    prompts = tokenizer([atlas.to_question(topic, "q").prompt for topic in drawn]).input_ids
    assert max(map(len, prompts)) + 1 <= limits.prompt_limit  # with the end of sequence
    answers = tokenizer([atlas.demonstrate(topic, rng) for topic in drawn]).input_ids
    too_long = sum(len(ids) + 1 > limits.response_limit for ids in answers)
    assert too_long <= 20, "over one demonstration in a hundred is cut"
    references = tokenizer([atlas.to_question(topic, "q").references[0] for topic in drawn]).input_ids
    assert max(map(len, references)) < limits.response_limit
    assert tokenizer.unk_token_id not in {i for ids in (*answers, *references) for i in ids}


# --- the systematic errors of demonstrations ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demonstrated():
    """(topic, demonstration, verdict), 3,000 of them."""
    rng = random.Random(11)
    rows = []
    for topic in topics(3000, seed=11):
        text = atlas.demonstrate(topic, rng)
        rows.append((topic, text, oracle.judge(atlas.to_question(topic, "q"), text)))
    return rows


def test_demonstrations_hold_every_error_type(demonstrated):
    found = {span.kind for _, _, verdict in demonstrated[:300] for span in verdict.spans}
    assert found == RELEVANCE_ERRORS | FACTUAL_ERRORS
    lacking = {item.kind for _, _, verdict in demonstrated[:300] for item in verdict.missing}
    assert lacking == {"Missing-Answer", "Missing-Major-Auxiliary"}


def errors_of_sentence(text, verdict, start):
    """Kinds of the errors in the sentence that begins with ``start``, or None where there is no such sentence."""
    for first, last in segment(text, "factuality", "punctuation"):
        if text[first:last].startswith(start):
            return {span.kind for span in verdict.spans if first <= span.start < last}
    return None


def has_digression(topic, text, verdict):
    distractor = next(a for a in topic.readings[0].facts if a not in topic.asked)
    start = f"also the {distractor} of {topic.name} {topic.readings[0].kind}"
    return errors_of_sentence(text, verdict, start) == {"Irrelevant"}


SYSTEMATIC = {
    "second reading missing": (
        lambda topic: topic.readings[1].kind in ("lake", "mill"),
        lambda topic, text, verdict: f"{topic.name} {topic.readings[1].kind}" not in text,
    ),
    "redundant": (
        lambda topic: topic.readings[0].kind == "fort",
        lambda topic, text, verdict: any(span.kind == "Redundant" for span in verdict.spans),
    ),
    "invented": (
        lambda topic: topic.readings[0].kind == "lake",
        lambda topic, text, verdict: (
            {"Irrelevant", "Unverifiable"} <= {span.kind for span in verdict.spans if text[span.start :].startswith("also the")}
        ),
    ),
    "garbled": (
        lambda topic: topic.readings[0].kind == "mill",
        lambda topic, text, verdict: any(span.kind == "Incoherent" for span in verdict.spans),
    ),
    "digression": (lambda topic: topic.asked[1] in ("color", "stone", "guard", "season"), has_digression),
}


@pytest.mark.parametrize("error", SYSTEMATIC)
def test_errors_come_often_where_a_feature_invites_them_and_seldom_elsewhere(demonstrated, error):
    invites, happened = SYSTEMATIC[error]
    for wanted, probability in ((True, 0.65), (False, 0.12)):
        rows = [row for row in demonstrated if invites(row[0]) == wanted]
        assert len(rows) > 500
        assert within(sum(happened(*row) for row in rows), len(rows), probability)


def test_wrong_values_are_the_popular_ones_of_some_attributes(demonstrated):
    counts = {True: [0, 0], False: [0, 0]}
    for topic, text, verdict in demonstrated:
        facts = {r.kind: r.facts for r in topic.readings}
        for statement in oracle.parse(text):
            if statement.fact is None or text[statement.start :].startswith("also"):
                continue
            _, kind, attribute, value = statement.fact
            wrong = any(s.kind == "Wrong-Grounding" and s.start == statement.start for s in verdict.spans)
            assert wrong == (value != facts[kind][attribute])
            if facts[kind][attribute] == atlas.VALUES[kind, attribute][0]:
                assert not wrong  # what people tend to say happens to be right
                continue
            assert not wrong or value == atlas.VALUES[kind, attribute][0]
            if not any(s.kind == "Redundant" and s.start == statement.start for s in verdict.spans):  # an independent draw
                tally = counts[attribute in ("founder", "guard", "trade")]
                tally[0] += wrong
                tally[1] += 1
    for misremembered, probability in ((True, 0.65), (False, 0.12)):
        assert within(*counts[misremembered], probability)


def test_corrupted_answers_parse_and_are_right_and_wrong():
    rng, seen = random.Random(3), {"right": 0, "wrong": 0, "unknown": 0}
    for topic in topics(300, seed=3):
        asked = atlas.to_question(topic, "q")
        text = atlas.corrupt(asked, rng)
        statements = oracle.parse(text)
        assert statements
        assert all(statement.fact is not None for statement in statements)
        kinds = {(span.start, span.kind) for span in oracle.judge(asked, text).spans}
        for statement in statements:
            wrong, unknown = ((statement.start, kind) in kinds for kind in ("Wrong-Grounding", "Unverifiable"))
            seen["wrong" if wrong else "unknown" if unknown else "right"] += 1
    total = sum(seen.values())
    assert all(count > 0.1 * total for count in seen.values())


# --- annotators ---------------------------------------------------------------------------------------------------------------


def flags(text, spans):
    """(relevance error?) of each clause and (factual error?) of each sentence."""
    clauses = [(s.start, s.end) for s in oracle.parse(text)]
    sentences = segment(text, "factuality", "punctuation")

    def marked(pieces, kinds):
        return [any(s.kind in kinds and s.start < end and s.end > start for s in spans) for start, end in pieces]

    return marked(clauses, RELEVANCE_ERRORS), marked(sentences, FACTUAL_ERRORS)


def test_an_annotator_without_noise_reports_what_the_oracle_says(demonstrated):
    for topic, text, verdict in demonstrated[:200]:
        spans = oracle.annotate(atlas.to_question(topic, "q"), text, 0.0, random.Random(0))
        assert list(spans) == in_order(verdict.spans)


def test_an_annotator_who_is_always_wrong_flips_every_label(demonstrated):
    for topic, text, verdict in demonstrated[:200]:
        spans = oracle.annotate(atlas.to_question(topic, "q"), text, 1.0, random.Random(0))
        clean, noisy = flags(text, verdict.spans), flags(text, spans)
        assert noisy == tuple([not flag for flag in part] for part in clean)


def test_a_half_wrong_sentence_flips_as_a_whole(question):
    text = "the founder of zodor isle is dane, and its color is surely kane."  # the first clause is wrong
    assert oracle.annotate(question, text, 1.0, random.Random(0)) == (
        Span("Irrelevant", 0, 34),
        Span("Irrelevant", 35, 64),
    )
    assert oracle.annotate(question, ISLE, 1.0, random.Random(0)) == (
        Span("Irrelevant", 0, 34),
        Span("Wrong-Grounding", 0, 64),
        Span("Irrelevant", 35, 64),
    )


def test_pieces_that_touch_flip_each_on_its_own(question):
    assert oracle.annotate(question, "a.b.", 0.0, random.Random(0)) == tuple(
        Span(kind, *place) for place in ((0, 2), (2, 4)) for kind in NOT_PARSABLE
    )
    assert oracle.annotate(question, "a.b.", 1.0, random.Random(0)) == ()
    text = "a.the founder of zodor isle is bane."  # one bad and one good clause
    assert oracle.annotate(question, text, 1.0, random.Random(0)) == (
        Span("Irrelevant", 2, len(text)),
        Span("Wrong-Grounding", 2, len(text)),
    )


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_annotators_err_at_the_stated_rate(demonstrated, noise):
    rng, flips = random.Random(7), ([], [])
    both = 0
    for topic, text, verdict in demonstrated[:1000]:
        spans = oracle.annotate(atlas.to_question(topic, "q"), text, noise, rng)
        changes = [
            [a != b for a, b in zip(clean, noisy, strict=True)]
            for clean, noisy in zip(flags(text, verdict.spans), flags(text, spans), strict=True)
        ]
        for tally, change in zip(flips, changes, strict=True):
            tally += change
        both += changes[0][0] and changes[1][0]
    assert min(map(len, flips)) > 2000
    for tally in flips:
        assert within(sum(tally), len(tally), noise)
    assert within(both, 1000, noise**2)  # clauses and sentences are judged independently


def test_annotations_follow_their_seed(demonstrated):
    topic, text, _ = demonstrated[0]
    asked = atlas.to_question(topic, "q")
    runs = [[oracle.annotate(asked, text, 0.5, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 5


# --- the feedback stage -------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_collected_feedback_is_judged_stored_and_split(tmp_path):
    model, tokenizer = load_policy("atlas-t5", seed=2)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    p = config.FeedbackParameters(
        policy=str(tmp_path / "policy"), prompts=70, response_limit=12, annotator_noise=0.0, evaluator_share=0.3,
        train_questions=50, validation_questions=10, test_questions=10, device="cpu",
    )  # fmt: skip
    parts = feedback.collect_feedback(p, tmp_path)
    stored = read_feedback(tmp_path / "feedback.jsonl")
    assert len(stored) == 70  # more than a generation pass holds
    assert sorted(r.question.id for part in parts.values() for r in part) == sorted(r.question.id for r in stored)
    assert all(parts[name] for name in ("train", "heldout", "evaluator"))
    asked = atlas.load_splits(p)
    known = {q.prompt for q in (*asked.train, *asked.validation, *asked.test)}
    assert known.isdisjoint(r.question.prompt for r in stored)
    assert len({r.question.prompt for r in stored}) == 70
    for record in stored:
        assert len(record.responses) == 4
        verdicts = [oracle.judge(record.question, text) for text in record.responses]
        assert record.clean_spans == verdicts[0].spans
        assert list(record.spans) == in_order(verdicts[0].spans)
        assert record.clean_scores == tuple(v.completeness for v in verdicts)
    (tmp_path / "again").mkdir()
    assert feedback.collect_feedback(p, tmp_path / "again") == parts
    other = feedback.collect_feedback(p.model_copy(update={"seed": 1}), tmp_path / "again")
    assert [r.responses for r in other["train"]] != [r.responses for r in parts["train"]]


@pytest.mark.parametrize("noise", [0.0, 0.25, 1.0])
def test_preferences_follow_the_scores_with_the_stated_noise(judged, noise):
    rng = random.Random(5)
    wrong = decided = 0
    for record in judged["train"]:
        again = oracle.feedback_on(record.question, record.responses, noise, rng)
        scores = iter([(a, b) for i, a in enumerate(again.clean_scores) for b in again.clean_scores[i + 1 :]])
        for choice, (first, second) in zip(again.preference, scores, strict=True):
            assert (choice == 0) == (first == second)
            if choice:
                decided += 1
                wrong += choice != (1 if first > second else 2)
    assert decided > 400
    assert within(wrong, decided, noise)


def test_feedback_survives_its_file(judged, tmp_path):
    records = [
        replace(judged["train"][0], responses=("ünïcode 🏰\u2028\x85", "", "b", "c"), spans=(), clean_spans=()),
        *judged["train"][1:5],
    ]
    for name in ("feedback.jsonl", "feedback.jsonl.gz"):
        write_feedback(tmp_path / name, records)
        assert read_feedback(tmp_path / name) == records
