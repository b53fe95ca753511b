"""Training sets: contexts, labels and pairs by hand; the matching against difflib itself."""

from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paradox_utils import config
from paradox_utils.data.records import Feedback, Missing, Passage, Question, Span
from paradox_utils.rewards import examples

F_ERR, NF_ERR, OK = range(3)
QUESTION = Question(
    id="q",
    text="Which  river crosses Velm?",
    passages=(
        Passage("Velm", ("Velm\n\nVelm is a town.", "The river Ost crosses Velm.", "It has a market.")),
        Passage("Noss", ("Noss is an island.",)),
        Passage("Ost", ("A river crosses it, the river Ost.",)),
    ),
    prompt="",
    references=("The Ost.",),
)


def feedback(responses=("a b c d e.",), spans=(), **more):
    return Feedback(QUESTION, tuple(responses), tuple(spans), **more)


def span(text, part, kind):
    return Span(kind, text.index(part), text.index(part) + len(part))


def test_contexts_by_task():
    assert examples.context_of(QUESTION, "relevance") == "question: Which river crosses Velm? answer:"
    expected = (
        "question: Which river crosses Velm? context: wikipage: Velm text: Velm Velm is a town. The river Ost crosses Velm. "
        "It has a market. | wikipage: Noss text: Noss is an island. | wikipage: Ost text: A river crosses it, the river Ost. "
        "answer:"
    )
    assert examples.context_of(QUESTION, "factuality") == expected
    assert examples.context_of(QUESTION, "completeness") == expected
    bare = Question("q", "Who?", (), "", ())
    assert examples.context_of(bare, "factuality") == "question: Who? answer:"
    assert examples.context_of(bare, "factuality", 3) == "question: Who? answer:"
    assert examples.context_of(QUESTION, "factuality", bars=False) == expected.replace(" | ", " ")


@pytest.mark.parametrize(("bars", "joint"), [(True, "It has a market. | wikipage:"), (False, "It has a market. wikipage:")])
@pytest.mark.parametrize("task", ["factuality", "completeness"])
def test_training_inputs_have_their_passages_parted_or_not(task, bars, joint):
    record = feedback(RESPONSES, corrected=CORRECTED)
    p = config.Source(source="qa-feedback", sentence_splitter="punctuation")
    for example in examples.training_examples(p, [record], task, bars):
        assert example.context.count(joint) == 1


def test_selected_sentences_keep_their_order_and_drop_empty_passages():
    # "crosses", "river" (twice), "velm" and ever fewer words of the question: sentences 1 of Velm and 0 of Ost lead
    assert examples.context_of(QUESTION, "factuality", 2) == (
        "question: Which river crosses Velm? context: wikipage: Velm text: The river Ost crosses Velm. "
        "| wikipage: Ost text: A river crosses it, the river Ost. answer:"
    )
    assert examples.context_of(QUESTION, "factuality", 5) == examples.context_of(QUESTION, "factuality")
    twins = Question("q", "Where?", (Passage("T", ("One two.", "One two.", "One two.")), Passage("U", ("Three.",))), "", ())
    assert examples.context_of(twins, "factuality", 2).count("One two.") == 2  # a tie: the earlier ones
    assert "Three" not in examples.context_of(twins, "factuality", 3)


TEXT = "a b c d e, f g h i j k. l m n o p q. r s."


@pytest.mark.parametrize(
    ("part", "kind", "relevance", "factuality"),
    [
        ("f g h i j", "Irrelevant", [OK, NF_ERR, OK, OK], [None, OK, OK]),  # 5 words count
        ("f g h i", "Irrelevant", [OK, OK, OK, OK], [OK, OK, OK]),  # 4 do not
        ("e, f g h i", "Redundant", [NF_ERR, NF_ERR, OK, OK], [None, OK, OK]),  # both sides of a break
        ("o p q. r s.", "Incoherent", [OK, OK, NF_ERR, NF_ERR], [OK, None, None]),
        ("r", "Wrong-Grounding", [OK, OK, OK, OK], [OK, OK, F_ERR]),  # facts have no minimum
        ("k. l", "Unverifiable", [OK, OK, OK, OK], [F_ERR, F_ERR, OK]),
    ],
)
def test_labels(part, kind, relevance, factuality):
    spans = [span(TEXT, part, kind)]
    assert examples.segment_labels(TEXT, spans, "relevance", "punctuation") == relevance
    assert examples.segment_labels(TEXT, spans, "factuality", "punctuation") == factuality


def test_a_factual_error_outweighs_others():
    spans = [span(TEXT, "l m n o p", "Irrelevant"), span(TEXT, "q.", "Unverifiable")]
    assert examples.segment_labels(TEXT, spans, "factuality", "punctuation") == [OK, F_ERR, OK]
    assert examples.segment_labels(TEXT, spans, "relevance", "punctuation") == [OK, OK, NF_ERR, OK]


def test_a_span_that_only_touches_does_not_overlap():
    text = "a b c d e. f g h i j."
    assert examples.segment_labels(text, [Span("Unverifiable", 10, 11)], "factuality", "punctuation") == [OK, OK]
    assert examples.segment_labels(text, [Span("Unverifiable", 9, 11)], "factuality", "punctuation") == [F_ERR, OK]


def test_atlas_feedback_judges_facts_everywhere_and_has_no_minimum():
    truth = (span(TEXT, "r s.", "Redundant"), span(TEXT, "q.", "Wrong-Grounding"))
    record = feedback([TEXT], [span(TEXT, "l m n o p q.", "Irrelevant")], clean_spans=truth)
    (relevance,) = examples.segment_examples([record], "relevance", "punctuation")
    assert relevance.segments == ("a b c d e,", "f g h i j k.", "l m n o p q.", "r s.")
    assert (relevance.labels, relevance.clean) == ((OK, OK, NF_ERR, OK), (OK, OK, OK, NF_ERR))
    (factuality,) = examples.segment_examples([record], "factuality", "punctuation")
    assert (factuality.labels, factuality.clean) == ((OK, OK, OK), (OK, F_ERR, OK))


def test_examples_without_a_label_are_left_out():
    ignored = feedback(["a b c d e."], [Span("Irrelevant", 0, 10)])
    assert examples.segment_examples([ignored, feedback([""])], "factuality", "punctuation") == []
    (example,) = examples.segment_examples([ignored], "relevance", "punctuation")
    assert (example.labels, example.clean) == ((NF_ERR,), None)


def test_pairs_of_the_annotators_beside_the_oracle():
    record = feedback("ABCD", preference=(1, 2, 0, 2, 1, 1), clean_scores=(0.5, 0.5, 1.0, 0.25))
    pairs = [(p.chosen, p.rejected, p.clean) for p in examples.pair_examples([record], "completeness", "punctuation")]
    assert pairs == [("A", "B", None), ("C", "A", True), ("C", "B", True), ("B", "D", True), ("C", "D", True)]
    wrong = feedback("ABCD", preference=(0, 1, 0, 0, 0, 0), clean_scores=(0.5, 0.5, 1.0, 0.25))
    (pair,) = examples.pair_examples([wrong], "completeness", "punctuation")
    assert (pair.chosen, pair.rejected, pair.clean) == ("A", "C", False)


RESPONSES = (
    "Noss is an island.",
    "The river Ost crosses Velm. Noss is an island.",
    "The river Ost crosses Velm. Noss is an island. It has a market.",
    "",
)
CORRECTED = "The river Ost crosses Velm. Noss is an island. It has a market."


@pytest.mark.parametrize(
    ("one", "last", "second"),
    [("It has a market.", "It has a markes.", 0.0), ("It has a markes.", "It has a market.", 0.5)],
)
def test_of_several_pieces_that_match_a_minor_sentence_the_last_decides(one, last, second):
    """Both pieces match "It has a market."; it is needed where the last of them stands in the first response."""
    minor = (Missing("Missing-Minor-Auxiliary", 0, (2,)),)
    responses = ("Noss is an island. It has a market.", "It has a market.", "", "")
    record = feedback(responses, corrected=f"{one} Noss is an island. {last}", missing=minor)
    assert examples.completeness_scores(record, "punctuation") == [1.0, second, 0.0, 0.0]


@pytest.mark.parametrize(
    ("missing", "scores"),
    [
        ((), [1 / 3, 2 / 3, 1.0, 0.0]),
        ((Missing("Missing-Minor-Auxiliary", 0, (2,)),), [0.5, 1.0, 1.0, 0.0]),  # "It has a market." is not needed
        ((Missing("Missing-Major-Auxiliary", 0, (2,)),), [1 / 3, 2 / 3, 1.0, 0.0]),
        ((Missing("Missing-Minor-Auxiliary", 1, (0,)),), [1 / 3, 2 / 3, 1.0, 0.0]),  # stands in the first response
        ((Missing("Missing-Minor-Auxiliary", 0, ()),), [1 / 3, 2 / 3, 1.0, 0.0]),
    ],
)
def test_completeness_scores(missing, scores):
    record = feedback(RESPONSES, corrected=CORRECTED, missing=missing)
    assert examples.completeness_scores(record, "punctuation") == pytest.approx(scores)


def test_pairs_follow_completeness_and_ties_are_none():
    record = feedback(RESPONSES, corrected="Noss is an island.", preference=(2, 2, 2, 2, 2, 2))
    assert examples.completeness_scores(record, "punctuation") == [1.0, 1.0, 1.0, 0.0]
    pairs = examples.pair_examples([record], "completeness", "punctuation")
    assert [(p.chosen, p.rejected, p.clean) for p in pairs] == [(r, "", None) for r in RESPONSES[:3]]


@pytest.mark.parametrize("corrected", ["", "Nothing of this kind is said anywhere, as far as anybody knows."])
def test_nothing_needed_gives_no_pairs(corrected):
    record = feedback(RESPONSES, corrected=corrected)
    assert examples.completeness_scores(record, "punctuation") is None
    assert examples.pair_examples([record], "completeness", "punctuation") == []


def by_difflib(piece: str, sentence: str) -> float:
    """The similarity as defined, window by window."""
    sentence = " ".join(sentence.split())
    if piece in sentence:
        return 1.0
    size = len(piece.split()) + int(0.05 * len(piece.split()))
    words = sentence.split()
    words += ["#"] * (size + 1 - len(words))
    windows = [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]
    return max(SequenceMatcher(None, window, piece).quick_ratio() for window in windows)


WORDS = st.lists(st.sampled_from(["ab", "ba", "a", "b,", "#", "cé", "abba", "😀"]), min_size=1, max_size=28).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.lists(st.one_of(WORDS, st.just(" ")), min_size=1, max_size=4))
@pytest.mark.heavy
def test_similarities_are_exactly_those_of_difflib(piece, sentences):
    got = examples._Matcher(sentences).similarities(piece).tolist()
    assert got == [by_difflib(piece, sentence) for sentence in sentences]


def test_a_match_counts_from_085_and_the_first_sentence_wins_a_tie():
    letters = "abcdefghijklmnopqrst"
    matcher = examples._Matcher(["0123456789", letters, letters])
    assert matcher.similarities(letters[:17] + "XYZ").tolist() == [0.0, 0.85, 0.85]  # 2 · 17 / (20 + 20)
    assert matcher.matches(letters[:17] + "XYZ", "punctuation") == [(letters[:17] + "XYZ", 1)]
    assert matcher.matches(letters[:16] + "WXYZ", "punctuation") == []
