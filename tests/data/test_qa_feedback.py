"""QA-FEEDBACK: reading, refusing and splitting; on the real files too where PARADOX_QA_FEEDBACK names their folder."""

import copy
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from paradox_utils import config
from paradox_utils.data import qa_feedback
from paradox_utils.data.records import DataError, Missing, Span
from paradox_utils.files import FileError
from paradox_utils.rewards import examples

RECORDS = Path(__file__).parent / "qa_feedback"
DEV = json.loads((RECORDS / "dev.json").read_text(encoding="utf-8"))
FEEDBACK = json.loads((RECORDS / "dev_feedback.json").read_text(encoding="utf-8"))


def source(data=RECORDS, **more):
    shares = {"heldout_share": 0.4, "evaluator_share": 0.15, "train_questions": 0}
    return config.Source(source="qa-feedback", data=str(data), **(shares | more))


def directory(path, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{name}.json").write_text(text, encoding="utf-8")
    return path


def ids(questions):
    return {question.id for question in questions}


def asked(records):
    return {record.question.id for record in records}


def retitled(records, name):
    """The same records under other questions."""
    return [record | {"question": f"{name}: {record['question']}"} for record in records]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_record_in_the_projects_form():
    feedback = qa_feedback.load_feedback(source())
    (record,) = [r for part in feedback.values() for r in part if "grey point" in r.question.text]
    assert [passage.title for passage in record.question.passages] == ["Grey Point Lighthouse", "Grey Point Light (novel)"]
    assert record.question.passages[1].sentences[1] == "It tells the story of a keeper who stays behind."
    assert [record.responses[0][span.start : span.end] for span in record.spans] == [
        "The novel won a prize in Norway,",
        "and it tells the story of a keeper who stays behind.",
    ]
    assert record.spans[0] == Span("Unverifiable", 77, 109)
    # counted from 0, the title (0 in the file) left out
    assert record.missing == (Missing("Missing-Answer", 1, (0,)), Missing("Missing-Minor-Auxiliary", 0, (1,)))
    assert record.preference == (2, 1, 1, 1, 1, 1)
    assert (record.clean_spans, record.clean_scores) == (None, None)


def test_dev_json_gives_prompt_and_references(tmp_path):
    mended = copy.deepcopy(DEV)
    mended[0]["text"] = "question: the original prompt context: "
    mended[0]["answer"] = json.dumps(["one", "two"])  # a list as JSON in a string
    folder = directory(tmp_path, dev=mended, dev_feedback=FEEDBACK)
    records = [record for part in qa_feedback.load_feedback(source(folder)).values() for record in part]
    (question,) = [record.question for record in records if record.question.text == DEV[0]["question"]]
    assert (question.prompt, question.references) == ("question: the original prompt context: ", ("one", "two"))


def test_feedback_alone_gives_the_original_prompt_and_the_gold_answer(tmp_path):
    folder = directory(tmp_path, dev_feedback=FEEDBACK)
    prompts = {r.question.text: r.question for part in qa_feedback.load_feedback(source(folder)).values() for r in part}
    assert len(prompts) == len(DEV) == 8
    for original in DEV:
        assert prompts[original["question"]].prompt == original["text"]
    golds = {record["question"]: record["gold"] for record in FEEDBACK}
    assert all(question.references == (golds[text],) for text, question in prompts.items())


def test_a_question_without_feedback_has_its_passages_cut_in_sentences(tmp_path):
    folder = directory(
        tmp_path,
        train=retitled(DEV, "train"),
        test=retitled(DEV, "test"),
        train_feedback=retitled(FEEDBACK, "other"),
        dev_feedback=FEEDBACK[:2],
    )
    splits = qa_feedback.load_splits(source(folder, evaluator_share=0.0))
    (question,) = [q for q in splits.train if "lighthouse" in q.prompt.lower()]
    assert question.passages[1].sentences == (
        "Grey Point Light is a novel published in 1978 by the small house of Arden and Moss.",
        "It tells the story of a keeper who stays behind.",
    )


# --- bad input --------------------------------------------------------------------------------------------------------


def put(record, path, value):
    for step in path[:-1]:
        record = record[step]
    if value is KeyError:
        del record[path[-1]]
    else:
        record[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        (["feedback"], KeyError, "feedback", "required"),
        (["feedback", "errors", 1, "end"], KeyError, "feedback.errors[1].end", "required"),
        (["prediction 3"], KeyError, "prediction 3", "required"),
        (["gold"], 7, "gold", "string"),
        (["prediction 1"], "half a pair \udfff", "prediction 1", "unicode"),
        (["passages", 1, 1], "half a pair \ud800", "passages[1][1]", "unicode"),
        (["question"], " ", "question", "match"),
        (["passages", 0], "a string", "passages[0]", "list"),
        (["passages", 1, 2], None, "passages[1][2]", "string"),
        (["passages", 0], [], "passages[0]", "at least 1"),
        (["feedback", "errors", 0, "start"], "3", "feedback.errors[0].start", "integer"),
        (["feedback", "errors", 0, "start"], -1, "feedback.errors[0].start", "is -1, outside 'prediction 1' (162 characters)"),
        (["feedback", "errors", 1, "end"], 163, "feedback.errors[1].end", "is 163"),
        (["feedback", "errors", 1, "end"], 110, "feedback.errors[1].end", "must be after start (110)"),
        (["feedback", "errors", 0, "error type"], "Rude", "feedback.errors[0].error type", "'Irrelevant'"),
        (["feedback", "missing-info", 0, "passage_id"], 0, "feedback.missing-info[0].passage_id", "there are 2 passages"),
        (["feedback", "missing-info", 0, "passage_id"], 3, "feedback.missing-info[0].passage_id", "there are 2 passages"),
        (["feedback", "missing-info", 1, "sentence_id", 1], 4, "feedback.missing-info[1].sentence_id[1]", "has 3 sentences"),
        (["feedback", "missing-info", 1, "sentence_id", 0], -1, "feedback.missing-info[1].sentence_id[0]", "is -1"),
        (["feedback", "missing-info", 1, "sentence_id"], 2, "feedback.missing-info[1].sentence_id", "list"),
        (["feedback", "corrected-prediction"], None, "feedback.corrected-prediction", "string"),
        (["preference"], [1, 2, 0, 1, 2], "preference", "at least 6"),
        (["preference"], [1, 2, 0, 1, 2, 0, 1], "preference", "at most 6"),
        (["preference", 4], 3, "preference[4]", "less than or equal to 2"),
    ],
)
def test_a_malformed_record_is_refused_with_file_index_and_field(tmp_path, path, value, field, words):
    broken = FEEDBACK[1:] + copy.deepcopy(FEEDBACK[:1])
    put(broken[7], path, value)
    with pytest.raises(DataError) as caught:
        qa_feedback.load_feedback(source(directory(tmp_path, dev=DEV, dev_feedback=broken)))
    message = str(caught.value)
    assert message.startswith("dev_feedback.json, record 7 (counted from 0): ")
    assert f"field {field!r}" in message
    assert words in message


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["text"], KeyError, "text"),
        (["answer"], "no JSON", "answer"),
        (["answer"], "[" * 200_000, "answer"),
        (["answer"], [], "answer"),
        (["answer", 0], 3, "answer[0]"),
        (["passages", 0, "content"], KeyError, "passages[0].content"),
    ],
)
def test_a_malformed_question_is_refused_likewise(tmp_path, path, value, field):
    broken = copy.deepcopy(DEV)
    put(broken[2], path, value)
    with pytest.raises(DataError, match=r"^dev\.json, record 2 .*field ") as caught:
        qa_feedback.load_splits(source(directory(tmp_path, dev=broken, dev_feedback=FEEDBACK)))
    assert f"field {field!r}" in str(caught.value)


def test_a_record_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"^dev_feedback\.json, record 1 .*dictionary"):
        qa_feedback.load_feedback(source(directory(tmp_path, dev_feedback=[FEEDBACK[0], "text"])))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("[{", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ("[]", "at least one record"),
        ("{}", "JSON list"),
    ],
)
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path, content, words):
    with pytest.raises((DataError, FileError), match=words) as caught:
        qa_feedback.load_feedback(source(directory(tmp_path, dev=DEV, dev_feedback=content)))
    assert str(caught.value).startswith(str(tmp_path / "dev_feedback.json"))
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    folder = directory(tmp_path, dev_feedback=FEEDBACK)
    (folder / "dev.json").write_bytes(b"[\xff]")
    with pytest.raises(FileError, match=r"dev\.json: is not UTF-8"):
        qa_feedback.load_feedback(source(folder))
    (folder / "dev.json").unlink()
    (folder / "dev.json").mkdir()
    with pytest.raises(FileError, match=r"dev\.json: cannot be read \(Is a directory\)"):
        qa_feedback.load_feedback(source(folder))


def test_directories_without_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such directory; set data to"):
        qa_feedback.load_feedback(source(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"holds neither train_feedback\.json nor dev_feedback\.json; set data to"):
        qa_feedback.load_feedback(source(directory(tmp_path, dev=DEV)))
    with pytest.raises(DataError, match="is a file; set data to"):
        qa_feedback.load_feedback(source(tmp_path / "dev.json"))


def test_an_unreachable_hub_is_refused_in_one_sentence(monkeypatch):
    def unreachable(name):
        raise ConnectionError(f"Couldn't reach {name}\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"'tasksource/QA-Feedback'.*Couldn't reach.*set data to") as caught:
        qa_feedback.load_feedback(source("tasksource/QA-Feedback"))
    assert "\n" not in str(caught.value)


def test_a_hub_dataset_gives_what_the_files_give(monkeypatch, tmp_path):
    other = retitled(FEEDBACK, "other")
    splits = {"train": datasets.Dataset.from_list(other), "validation": datasets.Dataset.from_list(FEEDBACK)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
    folder = directory(tmp_path, train_feedback=other, dev_feedback=FEEDBACK)
    assert qa_feedback.load_feedback(source("some/name")) == qa_feedback.load_feedback(source(folder))
    assert qa_feedback.load_splits(source("some/name")) == qa_feedback.load_splits(source(folder))
    splits["validation"] = datasets.Dataset.from_list([FEEDBACK[0] | {"gold": None}])
    with pytest.raises(DataError, match=r"^some/name \(validation\), record 0 .*field 'gold'"):
        qa_feedback.load_feedback(source("some/name"))


# --- splitting --------------------------------------------------------------------------------------------------------


def test_dev_files_alone_are_split_by_question():
    feedback, splits = qa_feedback.load_feedback(source()), qa_feedback.load_splits(source())
    parts = [asked(feedback[part]) for part in ("train", "heldout", "evaluator")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 8
    assert ids(splits.train) == parts[0]
    assert ids(splits.validation) | ids(splits.test) == parts[1]
    assert not ids(splits.validation) & ids(splits.test)


def test_a_questions_part_does_not_depend_on_order_or_company(tmp_path):
    whole = qa_feedback.load_feedback(source())
    fewer = qa_feedback.load_feedback(source(directory(tmp_path, dev=DEV, dev_feedback=FEEDBACK[:0:-1])))
    for part, records in fewer.items():
        assert asked(records) <= asked(whole[part])


def test_duplicated_questions_stay_together(tmp_path):
    again = [record | {"question": f" {record['question'].upper()} ", "gold": "again"} for record in FEEDBACK]
    folder = directory(tmp_path, dev=DEV, dev_feedback=FEEDBACK + again)
    feedback, splits = qa_feedback.load_feedback(source(folder)), qa_feedback.load_splits(source(folder))
    assert {part: len(records) for part, records in feedback.items()} == {
        part: 2 * len(records) for part, records in qa_feedback.load_feedback(source()).items()
    }
    assert not asked(feedback["train"]) & asked(feedback["heldout"])
    questions = [*splits.train, *splits.validation, *splits.test]
    assert len(questions) == len(ids(questions))


def test_limits_cap_the_parts(tmp_path):
    folder = directory(tmp_path, dev_feedback=[*FEEDBACK, *retitled(FEEDBACK, "second"), *retitled(FEEDBACK, "third")])
    everything = qa_feedback.load_splits(source(folder, validation_questions=2, test_questions=1000))
    heldout = len(qa_feedback.load_feedback(source(folder))["heldout"])
    assert len(everything.validation) == 1  # both limits cannot be met: in their proportion, at least one
    assert len(everything.test) == heldout - 1
    capped = qa_feedback.load_splits(source(folder, train_questions=3, validation_questions=2, test_questions=1))
    assert [len(capped.train), len(capped.validation), len(capped.test)] == [3, 2, 1]
    assert capped.train == everything.train[:3]


@pytest.mark.parametrize(
    ("shares", "part"),
    [
        ({"heldout_share": 0.01}, "heldout"),
        ({"heldout_share": 0.98, "evaluator_share": 0.01}, "train"),
        ({"evaluator_share": 0.01}, "evaluator"),
    ],
)
def test_an_empty_part_is_refused(shares, part):
    for load in (qa_feedback.load_feedback, qa_feedback.load_splits):
        with pytest.raises(DataError, match=f"too few questions for the part '{part}'.*change the shares"):
            load(source(**shares))


def test_the_full_files_keep_their_own_splits(tmp_path):
    train, test = retitled(DEV, "train"), retitled(DEV, "test")
    folder = directory(
        tmp_path,
        train=[*train, DEV[0], test[0]],  # two questions that other files hold too
        dev=DEV,
        test=test,
        train_feedback=[*retitled(FEEDBACK, "train"), FEEDBACK[0]],
        dev_feedback=FEEDBACK,
    )
    parameters = source(folder, evaluator_share=0.3)
    splits, feedback = qa_feedback.load_splits(parameters), qa_feedback.load_feedback(parameters)
    assert {q.text for q in splits.validation} == {record["question"] for record in DEV}
    assert {q.text for q in splits.test} == {record["question"] for record in test}
    assert asked(feedback["heldout"]) == ids(splits.validation)
    assert feedback["train"]
    assert feedback["evaluator"]
    assert asked(feedback["train"]) | asked(feedback["evaluator"]) == {qa_feedback._question_id(r["question"]) for r in train}
    assert not asked(feedback["train"]) & asked(feedback["evaluator"])
    assert ids(splits.train) == asked(feedback["train"])  # the policy never trains on the evaluator's questions


# --- the real files ---------------------------------------------------------------------------------------------------

REAL = os.environ.get("PARADOX_QA_FEEDBACK", "")
real = pytest.mark.skipif(
    not REAL, reason="PARADOX_QA_FEEDBACK does not name the folder of the real dev.json, dev_feedback.json"
)


@pytest.fixture(scope="module")
def real_records():
    parts = qa_feedback.load_feedback(source(REAL, heldout_share=0.2, evaluator_share=0.3))
    return [record for part in parts.values() for record in part]


@real
def test_real_questions_are_all_there_and_joined(real_records):
    originals = {record["question"]: record for record in json.loads((Path(REAL) / "dev.json").read_text(encoding="utf-8"))}
    assert len(real_records) == len(originals) == 500
    for record in real_records:
        original = originals[record.question.text]
        assert (record.question.prompt, list(record.question.references)) == (original["text"], original["answer"])
    assert sum(not record.question.passages for record in real_records) == 2


@real
def test_real_label_shares_are_the_published_ones(real_records):
    for task, published in (("relevance", 0.50), ("factuality", 0.65)):
        found = examples.segment_examples(real_records, task, "pysbd")
        labels = Counter(label for example in found for label in example.labels if label is not None)
        assert max(labels.values()) / labels.total() == pytest.approx(published, abs=0.01)


@real
def test_real_completeness_examples_are_441(real_records):
    """442 by the sentences of spaCy's model, which the published files were made with."""
    scores = [examples.completeness_scores(record, "pysbd") for record in real_records]
    assert sum(score is not None for score in scores) == 441
    few = real_records[:50]
    unequal = [a != b for score in scores[:50] if score is not None for a, b in itertools.combinations(score, 2)]
    assert len(examples.pair_examples(few, "completeness", "pysbd")) == sum(unequal)
