"""What people think of picks: tables by hand, worlds whose truth is known, the page, and folders that cannot be read."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis import people, published
from paradox_utils.analysis.tables import AnalysisError
from paradox_utils.figures import people as draw
from tests.analysis import test_real_ppo
from tests.worlds import flat, inverted_u, rising, run_page

ACCURACIES = (0.55, 0.60, 0.66, 0.72, 0.78, 0.84, 0.88, 0.92)
PARTS = {"heldout": 120, "evaluator": 160}


def tables(curve, trainings=5, accuracies=ACCURACIES, parts=PARTS, own=False, seed=0, **labels):
    """The tables of a study whose picks are good with probability ``curve(accuracy)``; ``own``: questions of each training."""
    random, models, picks = np.random.default_rng(seed), [], []
    questions = [(part, f"{part}-{i}") for part, count in parts.items() for i in range(count)]
    for training in range(trainings):
        level = random.random(len(questions))
        for step, wanted in enumerate(accuracies):
            accuracy = wanted + random.uniform(-0.01, 0.01)
            model = {"study": "made", "id": f"model-{training}", "task": "preference", "route": "steps", "arm": "steps"}
            model |= {"setting": "", "rm_seed": training, "step": step, "accuracy": np.nan, "accuracy_noisy": accuracy}
            models.append(model | {"majority": 0.5, "segments": 100, "calibration_error": random.random()} | labels)
            for (part, question), place in zip(questions, (level + random.random(len(questions)) / 20) % 1, strict=True):
                pick = int(place < curve(accuracy))
                row = {"id": f"model-{training}", "step": step, "part": part, "pick": pick, "average_precision": pick / 2}
                row |= {"question": f"{training} {question}" if own else question, "length_correlation": random.random()}
                picks.append(row | dict.fromkeys(people.tables.PAIRS, 4) | {"right": 3, "near_right": 2, "alike_right": 1})
    names = dict.fromkeys(row["question"] for row in picks)
    said = {"responses": 10, "good": 4, "between": 2, "longest": 1, "place": 0, "copies": 1, "regraded": 10, "same": 9}
    sets = pd.DataFrame([{"id": "model-0", "question": name, "part": "train"} | said for name in names])
    return {"reward_models": pd.DataFrame(models), "picks": pd.DataFrame(picks), "sets": sets}


def written(folder, made):
    folder.mkdir(exist_ok=True)
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def loaded(folder, *args, name="forum", **options):
    return people.load({name: written(folder, tables(*args, **options))})


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(tmp_path):
    """Two trainings of three steps, four questions held out; picks as given."""
    made = tables(flat, trainings=2, accuracies=(0.6, 0.7, 0.8), parts={"heldout": 4})
    made["reward_models"]["accuracy_noisy"] = [0.6, 0.7, 0.8, 0.6, 0.8, 0.7]
    made["picks"]["pick"] = [0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0]
    said = {"good": [0, 5, 10, 5], "longest": [0, 1, 1, 0], "place": [0, 0, 1, 0], "regraded": [10, 0, 0, 0]}
    made["sets"] = made["sets"].assign(**said)
    return people.load({"forum": written(tmp_path / "forum", made)})


def test_checkpoints_in_the_form_of_a_summary(by_hand):
    models = by_hand.models
    assert models[people.OUTCOME].tolist() == [0, 0.75, 0.75, 0.25, 0.25, 0.75]
    assert models["rm_accuracy"].isna().all()
    assert models["lm_performance_validation"].isna().all()  # no questions besides
    assert models["ppo_seed"].tolist() == models["rm_seed"].tolist()
    assert models["alike"].tolist() == [0.25] * 6
    assert models["near"].tolist() == [0.5] * 6
    # with the other training of the same step: 0000 0010, 1110 1000, 1101 1110
    assert models["agreement"].tolist() == [0.75, 0.5, 0.5] * 2


def test_baselines_are_of_the_questions_that_count(by_hand):
    (row,) = people.baselines(by_hand).to_dict("records")
    assert row == pytest.approx({"random": 0.5, "longest": 0.5, "place": 0.25, "best": 0.75, "questions": 4})


@pytest.mark.heavy
def test_the_most_accurate_against_the_middle_rank(by_hand):
    # training 0: step 2 (1101) against step 1 (1110): as good; training 1: step 1 (1000) against step 2 (1110)
    (row,) = people.worse(by_hand).to_dict("records")
    assert (row["trainings"], row["worse"], row["beyond chance"], row["better"]) == (2, 1, 0, 0)
    assert row["gap"] == pytest.approx(-0.25)


def test_what_people_said(by_hand):
    said = people.judged(by_hand).loc["forum"]
    assert said["responses"] == 40
    assert said["good"] == pytest.approx(0.5)
    assert said["no good one"] == pytest.approx(0.25)
    assert said["graded twice"] == 10
    assert "10 answers" in people.noise(people.judged(by_hand))


@pytest.mark.heavy
def test_a_share_beyond_chance_is_told_from_one_within(tmp_path):
    found = people.worse(loaded(tmp_path / "a", inverted_u)).iloc[0]
    assert found["worse"] == found["trainings"] == found["beyond chance"] == 5
    assert found["gap high"] < 0
    found = people.worse(loaded(tmp_path / "b", rising)).iloc[0]
    assert (found["worse"], found["beyond chance"], found["better"]) == (0, 0, 5)


# --- worlds -----------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(("curve", "status"), [(inverted_u, "supported"), (rising, "not supported"), (flat, "not supported")])
@pytest.mark.parametrize("own", [False, True])
def test_the_books_rule_finds_what_is_there(curve, status, own, tmp_path):
    parts = {"heldout": 120} if own else PARTS
    (found,) = people.findings(loaded(tmp_path / "a", curve, own=own, parts=parts))
    assert found.status == status
    assert (found.of.counts.accuracies >= 7, found.of.counts.rm_seeds, found.missing) == (True, 5, ())


@pytest.mark.parametrize("own", [False, True])
def test_intervals_are_for_new_trainings_and_questions(own, tmp_path):
    found = people.shares(loaded(tmp_path / "a", flat, own=own), resamples=200, seed=0)
    assert len(found) == len(ACCURACIES)
    assert ((found["low"] < found["share"]) & (found["share"] < found["high"])).all()
    assert found["share"].between(0.65, 0.95).all()
    assert found["trainings"].eq(5).all()


@pytest.mark.heavy
def test_accuracy_goes_with_picks_that_rise_with_it(tmp_path):
    found = people.why(loaded(tmp_path / "a", rising), resamples=50, seed=0)
    assert found.loc["accuracy", "correlation"] > 0.9
    assert found.loc["accuracy", "low"] > 0.5
    assert abs(found.loc["expected calibration error", "correlation"]) < 0.5
    assert "accuracy on pairs alike in length" not in found.index  # it is constant
    assert np.isnan(found.loc["accuracy", "coefficient"])


@pytest.mark.heavy
def test_data_sets_are_told_apart(tmp_path):
    folders = {"forum": written(tmp_path / "a", tables(rising)), "facts": written(tmp_path / "b", tables(inverted_u, seed=1))}
    judged = people.load(folders)
    found = people.findings(judged)
    assert {one.of.policy: one.status for one in found} == {"forum": "not supported", "facts": "supported"}
    said = people.answer(found)
    assert "2 comparisons" in said
    assert said.endswith("disagree: a less accurate one picks better on facts, and none does on forum.")
    assert "(forum and facts), of 2 comparisons 1 finds" in people.brief(found)
    assert people.compared(found)["data"].tolist() == ["forum", "facts"]
    shares, lines = people.shares(judged, resamples=20, seed=0), people.baselines(judged)
    markers = published.load_published(files.resolve("book/published")).markers
    drawing = draw.picks(shares, lines, markers)
    assert [axis.get_title("left") for axis in drawing.panels] == ["forum", "facts"]
    assert [mark.get_label() for mark in drawing.legend][:-1] == ["steps"]
    drawing = draw.picks(shares.assign(task="relevance"), lines, markers)
    assert [axis.get_title("left") for axis in drawing.panels][2:] == ["The paper's relevance"]
    drawn = [x for one in drawing.panels[2].lines for x in one.get_xdata()]
    assert sorted(drawn) == sorted(markers.loc[markers["task"] == "relevance", "rm_accuracy"])
    reached = people.reached(shares, lines)
    assert reached["accuracy"].to_numpy() == pytest.approx(0.92, abs=0.01)
    assert reached["share"].tolist() == shares.loc[shares["rm_step"] == len(ACCURACIES) - 1, "share"].tolist()
    assert reached["random"].tolist() == pytest.approx([0.4, 0.4])


@pytest.mark.heavy
def test_a_made_up_sample_is_called_so_and_people_are_not(tmp_path):
    assert not people.made_up(loaded(tmp_path / "a", rising))
    folders = {
        "forum": written(tmp_path / "b", tables(rising)),
        "sample": written(tmp_path / "c", tables(flat, study=people.MADE_UP)),
    }
    said = people.made_up(people.load(folders))
    assert said.startswith("sample ")
    assert str(sum(PARTS.values())) in said


@pytest.mark.parametrize(("longest", "words"), [(0.1, "better on forum"), (0.99, "worse on forum"), (0.7, "neither")])
def test_picks_beside_the_longest_answer(longest, words):
    assert words in people.beside_longest(pd.DataFrame({"low": [0.6], "high": [0.8], "longest": [longest]}, index=["forum"]))


def test_folds_are_trainings_of_one_recipe(tmp_path):
    made = tables(flat, own=True, parts={"heldout": 40})
    models = made["reward_models"]
    models["setting"] = "label_noise=0.5, fold=" + models["rm_seed"].astype(str) + ", checkpoint_steps=[60]"
    judged = people.load({"forum": written(tmp_path / "a", made)})
    assert set(judged.models["setting"]) == {"label_noise=0.5"}
    assert people.shares(judged, resamples=20, seed=0)["trainings"].tolist() == [5] * len(ACCURACIES)


def test_data_sets_of_several_tasks_name_them():
    assert people.named("SemEval", "preference") == "SemEval"
    assert people.named("QA-FEEDBACK", "relevance") == "QA-FEEDBACK (relevance)"


# --- folders that cannot be read --------------------------------------------------------------------------------------

FAULTS = {
    "no picks": (lambda made: made.pop("picks"), "a"),
    "no sets": (lambda made: made.pop("sets"), "a"),
    "picks without part": (lambda made: made.update(picks=made["picks"].drop(columns="part")), "part"),
    "a pick in words": (lambda made: made.update(picks=made["picks"].assign(pick="good")), "pick"),
    "a checkpoint without picks": (lambda made: made.update(picks=made["picks"].query("step > 0")), "model-0-0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_study_of_picks_is_refused(fault, tmp_path):
    made = tables(flat, trainings=2, parts={"heldout": 3})
    change, named = FAULTS[fault]
    change(made)
    with pytest.raises(AnalysisError, match=named):
        people.load({"forum": written(tmp_path / "a", made)})


# --- the page ---------------------------------------------------------------------------------------------------------


TASKS = ("relevance", "factuality")


@pytest.mark.slow
def test_the_page_on_studies_of_every_kind(tmp_path):
    folders = {
        name: str(written(tmp_path / name, tables(curve))) for name, curve in (("semeval", rising), ("evouna", inverted_u))
    }
    parts = [tables(flat, own=True, parts={"heldout": 40}, task=task) for task in TASKS]
    several = {name: pd.concat([part[name].assign(id=task + part[name]["id"]) for part, task in zip(parts, TASKS, strict=True)])
               for name in parts[0]}  # fmt: skip
    several["sets"] = several["sets"].drop_duplicates("question")
    folders["qa_feedback"] = str(written(tmp_path / "qa_feedback", several))
    folders["semeval_t5"] = str(written(tmp_path / "t5", test_real_ppo.tables(rising)))
    names = run_page("15-people", None, tmp_path / "out", bootstrap=20, evouna_known="", **folders)
    assert names["compared"]["data"].tolist() == [*(f"QA-FEEDBACK ({task})" for task in TASKS), "SemEval", "EVOUNA"]
    assert "disagree: a less accurate one picks better on EVOUNA" in names["answer"]
    assert "*not supported*" in names["learned"]
    assert not names["waiting"]
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.heavy
def test_the_page_says_what_is_not_recorded_yet(tmp_path):
    nowhere = {name: f"results/recorded/none-{name}" for name in ("semeval", "evouna", "qa_feedback", "semeval_t5", "marks")}
    names = run_page("15-people", None, tmp_path / "out", bootstrap=20, evouna_known="", **nowhere)
    assert names["waiting"].endswith("SemEval, EVOUNA and QA-FEEDBACK.")
    assert (tmp_path / "out" / "result.json").is_file()
    with pytest.raises(files.FileError, match="results/none"):  # of one's own, a name that is wrong
        run_page("15-people", None, tmp_path / "out", semeval="results/none")
