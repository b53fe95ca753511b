"""Feedback files: every record is read, or the file is refused with line and field."""

import gzip
import json
from dataclasses import asdict, replace

import pytest

from paradox_utils.data.records import DataError, Feedback, Missing, Span, read_feedback, write_feedback
from paradox_utils.files import FileError


@pytest.fixture
def records(question):
    answers = ("a b c d e f", "", "g", "h")
    one = Feedback(question, answers, (Span("Redundant", 2, 5),), (Missing("Missing-Answer", 0, (0,)),), "", (1, 2, 0, 1, 2, 0))
    return [replace(one, clean_spans=(Span("Unverifiable", 0, 11),), clean_scores=(0.5, 0.0, 1.0, 0.25)), one]


def text_of(records):
    return "\n".join(json.dumps(asdict(record)) for record in records) + "\n"


@pytest.mark.parametrize(
    "change",
    [
        str.encode,
        lambda text: text.rstrip().encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\n\n").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text.rstrip().encode("utf-8-sig")),
    ],
    ids=["whole", "no final newline", "mark", "crlf", "blank lines", "packed", "packed, mark, no final newline"],
)
@pytest.mark.parametrize("name", ["feedback.jsonl", "feedback.jsonl.gz"])
def test_the_same_records_are_read_however_they_are_written(tmp_path, records, change, name):
    (tmp_path / name).write_bytes(change(text_of(records)))
    assert read_feedback(tmp_path / name) == records


def test_a_single_record_without_a_newline_is_read(tmp_path, records):
    (tmp_path / "feedback.jsonl").write_text(text_of(records[:1]).rstrip())
    assert read_feedback(tmp_path / "feedback.jsonl") == records[:1]


def put(record, path, value):
    for step in path[:-1]:
        record = record[step]
    record[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["question"], [], "'question' = []"),
        (["responses"], [], "'responses' = []"),
        (["responses"], "abcd", "'responses' = 'abcd'"),
        (["responses"], [1, 2, 3, 4], "'responses[0]' = 1"),
        (["spans", 0, "kind"], "irrelevant", "'spans[0].kind' = 'irrelevant'"),
        (["spans", 0, "start"], "2", "'spans[0].start' = '2'"),
        (["spans", 0, "start"], 2.5, "'spans[0].start' = 2.5"),
        (["spans", 0, "start"], -1, "spans[0] = -1 to 5"),
        (["spans", 0, "end"], 2, "spans[0] = 2 to 2"),
        (["spans", 0, "end"], 12, "spans[0] = 2 to 12"),
        (["clean_spans", 0, "end"], 99999, "clean_spans[0] = 0 to 99999"),
        (["missing", 0, "kind"], "Irrelevant", "'missing[0].kind' = 'Irrelevant'"),
        (["missing", 0, "passage"], 7, "missing[0].passage = 7"),
        (["missing", 0, "sentences"], [0, -1], "missing[0].sentences = [0, -1]"),
        (["preference"], [1, 2], "preference = [1, 2]"),
        (["preference", 3], 7, "'preference[3]' = 7"),
        (["clean_scores", 1], float("nan"), "'clean_scores[1]' = nan"),
        (["clean_scores"], [0.5], "clean_scores = [0.5]"),
        (["corrected"], None, "'corrected' = None"),
        (["cleanspans"], [], "'cleanspans' = []"),
        (["spans", 0, "of"], "x", "'spans[0].of' = 'x'"),
    ],
)
def test_a_record_that_is_none_is_refused_with_file_line_and_field(tmp_path, records, path, value, field):
    broken = json.loads(json.dumps([asdict(record) for record in (records[1], records[0])]))
    put(broken[1], path, value)
    (tmp_path / "feedback.jsonl").write_text("\n".join(map(json.dumps, broken)))
    with pytest.raises(DataError) as caught:
        read_feedback(tmp_path / "feedback.jsonl")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'feedback.jsonl'}, line 2: ")
    assert field in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda text: text[:-40].encode(), ", line 2: "),
        (lambda text: f"[{text.strip().replace(chr(10), ',')}]".encode(), ", line 1: "),
        (lambda text: text.replace("a b c", r"\ud800", 1).encode(), ", line 1: "),
        (lambda text: (text + "[" * 200_000).encode(), ", line 3: "),
        (lambda text: text.replace('"preference"', '"preference": [], "preference"', 1).encode(), ", line 1: 'preference' is"),
        (lambda text: text.replace("a b c", "ï", 1).encode("latin-1"), ": is not UTF-8 (line 1"),
        (lambda text: text.encode("utf-16"), ": is not UTF-8 (line 1"),
        (lambda text: gzip.compress(text.encode())[:-9], ": is a gzip file cut"),
        (lambda text: gzip.compress(text.encode())[:40] + b"damaged" * 9, ": is a gzip file cut"),
        (lambda _: b"", ": holds no feedback"),
        (lambda _: b"\n \n", ": holds no feedback"),
    ],
    ids=[
        "cut",
        "list",
        "surrogate",
        "deep",
        "doubled",
        "latin-1",
        "utf-16",
        "packed and cut",
        "packed and damaged",
        "empty",
        "blank",
    ],
)
def test_a_file_that_is_none_is_refused_with_its_name(tmp_path, records, change, where):
    (tmp_path / "feedback.jsonl").write_bytes(change(text_of(records)))
    with pytest.raises((DataError, FileError)) as caught:
        read_feedback(tmp_path / "feedback.jsonl")
    assert str(caught.value).startswith(f"{tmp_path / 'feedback.jsonl'}{where}")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_feedback_file(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        read_feedback(tmp_path)


def test_one_answer_alone_needs_no_preference(tmp_path, records):
    alone = [replace(records[1], responses=("a b c d e f",), preference=())]
    write_feedback(tmp_path / "feedback.jsonl", alone)
    assert read_feedback(tmp_path / "feedback.jsonl") == alone
