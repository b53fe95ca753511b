"""Recorded answers: read whole or refused, and what they say of what is taught, counted by hand."""

import gzip

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import files
from paradox_utils.analysis import tables, text
from tests.worlds import rising, run_page, study, world

HEAD = "id,when,question,text,ends,paid,judged\n"
ROW = 'a,start,who?,"one, two.",4 9,0.3 -0.3,1 -1\n'


def read(folder, content, name="responses.csv"):
    packed = gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
    (folder / name).write_bytes(packed)
    return tables.load_responses(folder)


@pytest.mark.parametrize("name", ["responses.csv", "responses.csv.gz"])
def test_answers_have_a_number_for_each_segment(tmp_path, name):
    found = read(tmp_path, HEAD + ROW, name)
    assert found.loc[0, "text"] == "one, two."
    assert found.loc[0, ["ends", "paid", "judged"]].tolist() == [(4, 9), (0.3, -0.3), (1, -1)]


def test_a_study_without_answers_and_answers_without_words(tmp_path):
    assert tables.load_responses(tmp_path).empty
    found = read(tmp_path, HEAD + "a,final,who?,,,,\nb,final,who?,None,4,0.3,1\n")
    assert found["text"].tolist() == ["", "None"]  # a word, and not what pandas takes it for
    assert found["ends"].tolist() == [(), (4,)]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("start", "later", "when = 'later'"),
        ("4 9,", "4 x,", "ends = '4 x'"),
        ("4 9,", "9 4,", "ends = '9 4'"),
        ("4 9,", "4 4,", "ends = '4 4'"),
        ("4 9,", "-1 9,", "ends = '-1 9'"),
        ("4 9,", "4 10,", "ends = '4 10'"),
        ("0.3 -0.3", "0.3", "paid = '0.3'"),
        ("1 -1", "1 -1 1", "judged = '1 -1 1'"),
        (",paid", ",given", "lacks paid"),
        (ROW, ROW + ROW, "twice"),
    ],
)
def test_damaged_answers_are_refused_in_one_sentence(tmp_path, old, new, named):
    with pytest.raises(files.FileError, match=rf"responses\.csv: .*{named}") as caught:
        read(tmp_path, (HEAD + ROW).replace(old, new, 1))
    assert "\n" not in str(caught.value)


def answer(run, when, paid, judged):
    ends = tuple(range(1, len(judged) + 1))
    return {
        "id": run,
        "when": when,
        "question": "who?",
        "text": "x" * len(judged),
        "ends": ends,
        "paid": paid,
        "judged": judged,
    }


def test_what_the_two_ends_of_a_training_teach():
    """Reward models of 0.6, 0.9, 0.75 and their runs; the middling one's answers do not count."""
    made = world(rising, rm_seeds=1, ppo_seeds=1, accuracies=(0.6, 0.9, 0.75), tasks=("relevance",))
    least, most, middling = made["id"]
    rows = [answer(run, "start", (0.3, 0.3), (1, -1)) for run in (least, most, middling)]
    rows += [answer(least, "final", (0.3, 0.3, 0.3, -0.3), (1, -1, -1, -1)), answer(most, "final", (0.3, 0.3), (1, 1))]
    rows += [answer(middling, "final", (-0.3,), (-1,))]
    found = text.taught(pd.DataFrame(rows), made)
    assert found["model"].tolist() == list(text.ENDS)
    assert (found["majority"] == 0.65).all()
    assert (found["trainings"] == 1).all()
    assert found["accuracy"].tolist() == [made["rm_accuracy"].min(), made["rm_accuracy"].max()]
    shares = found[["good start", "good final", "paid start", "paid final"]].to_numpy().tolist()
    assert shares == [[0.5, 0.25, 1.0, 0.75], [0.5, 1.0, 1.0, 1.0]]


def test_nothing_is_taught_where_there_is_nothing_to_compare():
    made = world(rising, rm_seeds=1, ppo_seeds=1, accuracies=(0.6,), tasks=("relevance", "completeness"))
    rows = [answer(run, "final", (0.3,), (1,)) for run in made["id"]]
    assert text.taught(pd.DataFrame(rows), made).empty  # one reward model, and a task without labels
    assert text.taught(pd.DataFrame(rows).head(0), made).columns.tolist() == list(text.COLUMNS)


def ends(**least):
    row = {"task": "relevance", "model": text.ENDS[1], "accuracy": 0.9, "majority": 0.7, "good start": 0.5, "good final": 0.9}
    row |= {"paid start": 0.5, "paid final": 0.9, "trainings": 1}
    return pd.DataFrame([row | {"model": text.ENDS[0], "accuracy": 0.8} | least, row])


def test_what_is_told_first_is_of_reward_models_that_know_something():
    """The widest gap is of one that calls every segment good; it does not lead."""
    idle, learned = text.lessons(ends(accuracy=0.72, **{"good final": 0.3, "paid final": 1.0}))[::-1]
    assert "with the most accurate" in learned
    assert "50% of the segments were good before PPO and 90% are after it, when 90% are paid for" in learned
    assert "its accuracy is 0.720, that of calling every segment the same 0.700" in idle
    assert "from 50% to 30%" in idle
    (deceived,) = text.lessons(ends(**{"good final": 0.3, "paid final": 1.0}))
    assert deceived.startswith("**An error can be paid for")
    assert "30% are after it, when 100% are paid for" in deceived


def test_a_less_accurate_one_that_ends_better_is_told():
    *_, said = text.lessons(ends(**{"good final": 0.96}))
    assert "In relevance the less accurate one ends better, with 96%" in said
    assert "against 90%; over 1 training" in said
    assert text.lessons(ends().head(0)) == []


@given(st.lists(st.tuples(st.sampled_from((-1, 1)), st.sampled_from((-0.3, 0.3))), max_size=6))
def test_shares_are_those_of_the_segments(segments):
    made = world(rising, rm_seeds=1, ppo_seeds=1, accuracies=(0.6, 0.9), tasks=("factuality",))
    judged, paid = (tuple(values) for values in zip(*segments, strict=True)) if segments else ((), ())
    found = text.taught(pd.DataFrame([answer(run, "final", paid, judged) for run in made["id"]]), made)
    assert found["good final"].tolist() == pytest.approx([sum(j > 0 for j in judged) / max(1, len(judged))] * 2)
    assert found["paid final"].tolist() == pytest.approx([sum(p > 0 for p in paid) / max(1, len(paid))] * 2)


def test_the_page_says_so_where_a_study_has_no_answers(tmp_path):
    names = run_page("13", study(world(rising, rm_seeds=1, ppo_seeds=1), tmp_path), tmp_path / "out")
    assert names["taught"].empty
    assert (tmp_path / "out" / "result.json").is_file()


def test_the_page_reads_the_recorded_answers(tmp_path):
    names = run_page("13", "results/recorded/quick", tmp_path)
    assert set(names["taught"]["task"]) == {"relevance", "factuality"}
    assert names["responses"].groupby(["id", "when"]).size().eq(12).all()
