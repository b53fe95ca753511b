"""Recorded answers: read whole or refused, and what they say of what is taught, counted by hand."""

import gzip
import math

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


def test_each_run_counts_as_much_however_much_it_says():
    """One run says 4 segments of which none is good, the other 1, which is: a half."""
    made = world(rising, rm_seeds=2, ppo_seeds=1, accuracies=(0.6, 0.9), tasks=("relevance",))
    long = set(made.loc[made["rm_seed"] == 0, "id"])
    rows = [
        answer(run, "final", (0.3,) * 4, (-1,) * 4) if run in long else answer(run, "final", (0.3,), (1,)) for run in made["id"]
    ]
    assert text.taught(pd.DataFrame(rows), made)["good final"].tolist() == [0.5, 0.5]


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
    assert "against 90%, in the answers of 1 training" in said
    assert text.lessons(ends().head(0)) == []


@given(st.lists(st.tuples(st.sampled_from((-1, 1)), st.sampled_from((-0.3, 0.3))), max_size=6))
def test_shares_are_those_of_the_segments(segments):
    made = world(rising, rm_seeds=1, ppo_seeds=1, accuracies=(0.6, 0.9), tasks=("factuality",))
    judged, paid = (tuple(values) for values in zip(*segments, strict=True)) if segments else ((), ())
    found = text.taught(pd.DataFrame([answer(run, "final", paid, judged) for run in made["id"]]), made)
    assert found["good final"].tolist() == pytest.approx([sum(j > 0 for j in judged) / max(1, len(judged))] * 2)
    assert found["paid final"].tolist() == pytest.approx([sum(p > 0 for p in paid) / max(1, len(paid))] * 2)


def test_segments_are_cut_where_the_answer_says():
    row = pd.Series({"text": "one, two. thr", "ends": (4.0, 9.0), "paid": (0.3, -0.3), "judged": (1, -1)})
    found = text.segments(row)
    assert found.to_dict("list") == {"text": ["one,", "two."], "paid": [0.3, -0.3], "judged": [1, -1]}
    assert text.segments(pd.Series({"text": "", "ends": (), "paid": (), "judged": ()})).empty


def test_what_is_wrongly_paid_for_and_said_before_is_counted_within_an_answer():
    """Wrongly paid for: the second "a." (said before), "b." (new) and the "a." of another answer (new there): 1 of 3."""
    rows = [
        {"text": "a.a.b.a.", "ends": (2, 4, 6, 8), "paid": (0.3, 0.3, 0.3, -0.3), "judged": (1, -1, -1, -1)},
        {"text": "a.", "ends": (2,), "paid": (0.3,), "judged": (-1,)},
    ]
    assert text.repeated(pd.DataFrame(rows)) == pytest.approx(1 / 3)
    assert math.isnan(text.repeated(pd.DataFrame(rows).head(0)))


def test_hacked_are_the_most_accurate_ones_whose_truth_fell():
    """Of trainings 0 and 1 both runs are hacked, the more accurate ones' truth falls by 1.5 and by 0.9; training 2's is not."""
    made = world(rising, rm_seeds=3, ppo_seeds=1, accuracies=(0.6, 0.9), tasks=("relevance",))
    falls = {(0, 0.6): 1.0, (0, 0.9): 1.5, (1, 0.6): 1.2, (1, 0.9): 0.9, (2, 0.6): 1.0, (2, 0.9): 0.0}
    rows = []
    for run in made.itertuples():
        fall = falls[run.rm_seed, round(run.rm_accuracy, 1)]
        ends = [(0.0, 0.0)] * 6 + [(1.0, -fall)] * 6
        rows += [{"id": run.id, "update": n, "reward_mean": p, "true_reward_mean": t} for n, (p, t) in enumerate(ends)]
    said = pd.DataFrame([answer(run, "final", (0.3,), (-1,)) for run in made["id"]])
    found = text.most_accurate(said, made, pd.DataFrame(rows))
    assert found["rm_accuracy"].round(1).tolist() == [0.9, 0.9, 0.9]
    assert found["rm_seed"].tolist() == [2, 1, 0]  # those that fell less come first
    assert found["hacked"].tolist() == [False, True, True]
    assert text.most_accurate(said.head(0), made, pd.DataFrame(rows)).empty


def test_the_failure_is_told_with_its_numbers():
    run = pd.Series({"rm_accuracy": 0.9949, "lm_performance_start": 0.684, "lm_performance_final": 0.445})
    said = text.failure(run, 0.714, 10, 28, "relevance, small")
    parts = ("99.5%", "from 0.68 to 0.45", "setting: relevance, small.", "10 of 28 policies", "71% says")
    assert [part in said for part in parts] == [True] * 5


@pytest.mark.heavy
def test_the_page_says_so_where_a_study_has_no_answers(tmp_path):
    names = run_page("13", study(world(rising, rm_seeds=1, ppo_seeds=1), tmp_path), tmp_path / "out", arms=[])
    assert names["taught"].empty
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.heavy
def test_the_page_reads_the_recorded_answers(tmp_path):
    names = run_page("13", "results/recorded/quick", tmp_path, arms=[])
    assert set(names["taught"]["task"]) == {"relevance", "factuality"}
    assert names["responses"].groupby(["id", "when"]).size().eq(12).all()


def test_an_arm_that_the_study_lacks_is_refused():
    made = world(rising, rm_seeds=1, ppo_seeds=1)
    assert len(tables.of_arms(made, [])) == len(made) == len(tables.of_arms(made, ["steps"]))
    with pytest.raises(tables.AnalysisError, match="'later' is no arm of this study; it has steps"):
        tables.of_arms(made, ["steps", "later"])


@pytest.mark.heavy
def test_the_page_shows_the_hacked_answer_in_the_middle(tmp_path):
    names = run_page("13", None, tmp_path)
    assert names["row"]["status"] in ("ok", "diverged")
    assert names["hacked"]["id"].tolist().index(names["chosen"]) == (len(names["hacked"]) - 1) // 2
    assert set(names["sides"]) == {"Before PPO", "After PPO"}
    assert names["sides"]["After PPO"]["paid"].sum() > names["sides"]["Before PPO"]["paid"].sum()
