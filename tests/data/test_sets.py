"""Judged sets: SemEval's XML, EVOUNA's JSON, QA-FEEDBACK's preferences; on the real files too where PARADOX_SEMEVAL and
PARADOX_EVOUNA name their folders."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config, data
from paradox_utils.data import sets
from paradox_utils.data.records import BAD, BETWEEN, GOOD, DataError, JudgedSet, Question
from paradox_utils.files import FileError, resolve

SEMEVAL, EVOUNA = (resolve(config.SETS[name]) for name in ("semeval", "evouna"))
DEV, TEST, TRAIN = (f"SemEval2016-Task3-CQA-QL-{part}.xml" for part in ("dev", "test", "train-part2"))


def source(name="semeval", **changes):
    return config.Source(source=name, **({"heldout_share": 0.25} | changes))


def every(p):
    return {one.question.text: one for part in data.load_sets(p).values() for one in part}


def asked(identity):
    return Question(str(identity), "why", (), "question: why", ("so",))


# --- any set ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([BAD, BETWEEN, GOOD]), min_size=1, max_size=10), st.text(max_size=4))
def test_a_key_shuffles_and_places_lead_back(grades, identity):
    one = sets.shuffled(asked(identity), [(place, f"answer {place}", grade) for place, grade in enumerate(grades)])
    assert sorted(one.places) == list(range(len(grades)))
    assert [grades[place] for place in one.places] == list(one.grades)
    assert [f"answer {place}" for place in one.places] == list(one.responses)


def test_the_first_place_is_not_favoured():
    first = [sets.shuffled(asked(i), [(place, "", BAD) for place in range(4)]).places[0] for i in range(2000)]
    assert all(440 < first.count(place) < 560 for place in range(4))


def test_pairs_are_of_good_and_bad_responses():
    one = JudgedSet(asked(0), ("a", "b", "c", "d"), (BAD, GOOD, BETWEEN, GOOD), (0, 1, 2, 3))
    assert one.pairs() == [(1, 0), (3, 0)]
    assert one.pairs(worse=BETWEEN) == [(1, 2), (3, 2)]


@pytest.mark.parametrize(("heldout", "evaluator", "sizes"), [(0.2, 0.0, (80, 20, 0)), (0.25, 0.3, (45, 25, 30))])
def test_parts_are_of_exactly_their_shares_and_folds_hold_out_every_question_once(heldout, evaluator, sizes):
    some = [JudgedSet(asked(i), ("a",), (GOOD,), (0,)) for i in range(100)]
    held = []
    for fold in range(round(1 / heldout)):
        p = config.Source(heldout_share=heldout, evaluator_share=evaluator, fold=fold)
        parts = sets.split(p, reversed(some))
        assert tuple(map(len, parts.values())) == sizes
        assert {one.question.id for part in parts.values() for one in part} == {str(i) for i in range(100)}
        held += [one.question.id for one in parts["heldout"]]
    assert sorted(held) == sorted(str(i) for i in range(100))


# --- SemEval ----------------------------------------------------------------------------------------------------------


def test_a_question_that_returns_is_joined_and_the_most_reliable_label_stands():
    found = every(source())
    assert len(found) == 12  # of 14 threads
    bus, bread, cat, licence = (
        found[next(text for text in found if text.startswith(name))] for name in ("Bus", "Bread", "Cat", "Ren")
    )
    assert (bus.copies, bus.regraded, bus.same) == (2, 10, 9)  # in dev and, with one other label, in test
    assert bus.grades.count(GOOD) == 4
    assert (cat.copies, cat.regraded) == (2, 0)  # twice in test
    assert (licence.copies, bread.copies) == (1, 1)
    assert found["Old computer What can I do with an old computer that still works?"].question.prompt.startswith(
        "question: Old"
    )
    assert all(len(one.responses) == 10 for one in found.values())


def test_the_official_split_holds_out_the_threads_of_the_test_file_that_count():
    parts = data.load_sets(source(official_split=True))
    assert len(parts["heldout"]) == 4  # the fifth is marked as one to skip
    held, learnt = ({one.question.id for one in parts[part]} for part in ("heldout", "train"))
    assert len(learnt) == 8
    assert not held & learnt
    (bus,) = [one for one in parts["heldout"] if one.question.text.startswith("Bus")]
    assert bus.grades.count(GOOD) == 5  # with the test file's own label, whatever dev says


def test_what_a_policy_asks_and_learns():
    p = source(validation_questions=1, test_questions=5)
    splits = data.load_splits(p)
    parts = data.load_sets(p)
    assert (len(splits.validation), len(splits.test)) == (1, 2)
    assert all(question.references for question in splits.train)
    assert len(splits.train) == sum(GOOD in one.grades for one in parts["train"])
    for (prompt, answer), question in zip(data.demonstrations(config.Supervised(**p.model_dump())), splits.train, strict=True):
        assert prompt == question.prompt
        assert answer in question.references


def damaged(folder, *changes, name=DEV):
    """A copy of a file of the sample with (old, new) texts exchanged, alone in a folder."""
    text = (SEMEVAL / name).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / name).write_text(text, encoding="utf-8")
    return source(data=str(folder))


NIGHT = "The petrol station at the north bridge sells bread all night; it comes from the harbour bakery."
ANSWER = f"\t\t\t<RelCText>{NIGHT}</RelCText>\n"
ASKED = "Where can I buy fresh bread after nine in the evening?"
BROKEN = {
    "an unknown label": ([('2RELQ="Good"', '2RELQ="Fine"')], ("RELC_RELEVANCE2RELQ", "'Fine'", "Q1_R1_C")),
    "an empty text": ([(NIGHT, " ")], ("RelCText", "empty", "Q1_R1_C")),
    "no text": ([(ANSWER, "")], ("RelCText", "Q1_R1_C")),
    "an empty question": ([("RelQSubject>Bread at night", "RelQSubject>"), (f"RelQBody>{ASKED}", "RelQBody>")], ("RelQBody",)),
    "nine answers": ([("<RelComment", "<Other"), ("</RelComment>", "</Other>")], ("RelComment", "9 times", "Q1_R1")),
    "the layout of 2017": ([("<OrgQuestion", "<Other"), ("</OrgQuestion>", "</Other>")] * 3, ("OrgQuestion", "Other")),
    "a file cut in half": ([("</xml>", "")], ("no whole XML", "line")),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_file_that_is_not_the_organisers_is_refused_with_its_place(fault, tmp_path):
    changes, named = BROKEN[fault]
    with pytest.raises(DataError) as raised:
        data.load_sets(damaged(tmp_path, *changes))
    said = str(raised.value)
    assert "\n" not in said
    for word in (DEV, *named):
        assert word in said
    if fault in ("an unknown label", "an empty text", "nine answers"):
        line = int(said.split("line ")[1].split(",")[0])
        identity = next(word for word in said.replace(",", " ").replace(":", " ").split() if word.startswith("Q1_R1"))
        assert f'"{identity}"' in (tmp_path / DEV).read_text(encoding="utf-8").split("\n")[line - 1]


@pytest.mark.parametrize("name", ["semeval", "evouna"])
@pytest.mark.parametrize("lies", ["nothing", "a file", "other files"])
def test_a_directory_without_the_files_is_refused(name, lies, tmp_path):
    folder = tmp_path / "data"
    if lies == "a file":
        folder.touch()
    elif lies == "other files":
        folder.mkdir()
        (folder / "SemEval2017-task3-English-test.xml").touch()
    with pytest.raises(DataError, match=r"data = .*(dev\.xml|NQ\.json)"):
        data.load_sets(source(name, data=str(folder)))


def test_the_official_split_needs_the_test_file(tmp_path):
    p = damaged(tmp_path).model_copy(update={"official_split": True})
    with pytest.raises(DataError, match=f"official_split.*{TEST}"):
        data.load_sets(p)


def test_a_part_that_gets_no_question_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"evaluator.*evaluator_share = 0\.01"):
        data.load_sets(damaged(tmp_path).model_copy(update={"heldout_share": 0.4, "evaluator_share": 0.01}))


# --- EVOUNA -----------------------------------------------------------------------------------------------------------


def test_answers_that_people_called_right_are_good():
    found = every(source("evouna"))
    assert len(found) == 11  # without the improper one
    one = found["who painted the blue gate of the old harbour"]
    assert dict(zip(one.places, one.grades, strict=True)) == {0: GOOD, 1: BAD, 2: GOOD, 3: GOOD, 4: GOOD}
    assert found["when did the ferry to the lake island begin"].question.references == ("1887", "in 1887")


def records(folder, change, name="NQ.json"):
    raw = json.loads((EVOUNA / name).read_text(encoding="utf-8"))
    change(raw)
    (folder / name).write_text(json.dumps(raw), encoding="utf-8")
    return source("evouna", data=str(folder))


@pytest.mark.parametrize(
    "missing", [{"answer_fid": None}, {"answer_fid": " "}, {"judge_fid": None}, {"judge_fid": "nan"}], ids=str
)
def test_an_answer_without_text_or_verdict_is_left_out(missing, tmp_path):
    found = every(records(tmp_path, lambda raw: raw[0].update(missing)))
    assert sorted(found["who painted the blue gate of the old harbour"].places) == [1, 2, 3, 4]


def test_a_question_that_stands_twice_counts_once(tmp_path):
    found = every(records(tmp_path, lambda raw: raw.append(raw[0] | {"judge_fid": False})))
    one = found["who painted the blue gate of the old harbour"]
    assert (one.copies, one.grades[one.places.index(0)]) == (2, GOOD)


BAD_RECORDS = {
    "a question without words": (lambda raw: raw[1].update(question=" "), "question"),
    "a verdict in words": (lambda raw: raw[1].update(judge_gpt4="yes"), "judge_gpt4"),
    "a number for a text": (lambda raw: raw[1].update(answer_gpt4=3), "answer_gpt4"),
    "a missing field": (lambda raw: raw[1].pop("improper"), "improper"),
    "an unknown field": (lambda raw: raw[1].update(judge_gpt9=True), "judge_gpt9"),
    "no golden answer": (lambda raw: raw[1].update(golden_answer=None), "golden_answer"),
}


@pytest.mark.parametrize("fault", BAD_RECORDS)
def test_a_record_that_is_none_is_refused_with_its_place(fault, tmp_path):
    change, field = BAD_RECORDS[fault]
    with pytest.raises(DataError, match=rf"NQ\.json, record 1 .*{field}"):
        data.load_sets(records(tmp_path, change))


def test_a_file_cut_in_half_is_refused(tmp_path):
    text = (EVOUNA / "NQ.json").read_text(encoding="utf-8")
    (tmp_path / "NQ.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(FileError, match=r"NQ\.json"):
        data.load_sets(source("evouna", data=str(tmp_path)))


# --- QA-FEEDBACK ------------------------------------------------------------------------------------------------------


def test_a_response_to_which_none_was_preferred_is_good():
    folder = Path(__file__).parent / "qa_feedback"
    p = config.Source(source="qa-feedback", data=str(folder), heldout_share=0.4, train_questions=0)
    (one,) = [s for part in data.load_sets(p).values() for s in part if "grey point" in s.question.text]
    # 2 1 1 1 1 1: the second beats the first, and both beat the others
    assert {place for place, grade in zip(one.places, one.grades, strict=True) if grade == GOOD} == {1}


def test_folds_hold_out_every_question_of_one_feedback_file_once():
    folder = Path(__file__).parent / "qa_feedback"
    held = []
    for fold in range(2):
        p = config.Source(source="qa-feedback", data=str(folder), heldout_share=0.5, train_questions=0, fold=fold)
        held += [record.question.id for record in data.load_feedback(p, Path())["heldout"]]
    assert len(held) == len(set(held)) == 8


# --- the real files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif("PARADOX_SEMEVAL" not in os.environ, reason="PARADOX_SEMEVAL names no folder with the official files")
def test_the_official_files_hold_what_their_readme_says():
    p = source(data=os.environ["PARADOX_SEMEVAL"])
    found = [one for part in data.load_sets(p).values() for one in part]
    assert len(found) == 1375
    assert [sum(one.grades.count(grade) for one in found) for grade in (GOOD, BETWEEN, BAD)] == [5193, 2294, 6263]
    assert (sum(len(one.pairs()) for one in found), sum(len(one.pairs(worse=BETWEEN)) for one in found)) == (17541, 6830)
    assert sum(one.regraded > 0 for one in found) == 208
    assert len(data.load_sets(p.model_copy(update={"official_split": True}))["heldout"]) == 327


@pytest.mark.skipif("PARADOX_EVOUNA" not in os.environ, reason="PARADOX_EVOUNA names no folder with the published files")
def test_the_published_files_are_read():
    found = [one for part in data.load_sets(source("evouna", data=os.environ["PARADOX_EVOUNA"])).values() for one in part]
    assert len(found) == 4957
