import gzip

import numpy as np
import pandas as pd
import pytest

from paradox_utils import config, files
from paradox_utils.analysis import cost, outcomes, published, tables, verdict
from tests.worlds import (
    ACCURACIES,
    TASKS,
    flat,
    inverted_u,
    lost,
    named,
    nested,
    probed,
    rising,
    run_page,
    study,
    world,
    written,
)

# --- reading ---


def test_load_returns_the_table(tmp_path):
    made = world(flat, rm_seeds=1, ppo_seeds=1)
    found = tables.load_summary(written(made, tmp_path))
    pd.testing.assert_frame_equal(found[made.columns], made, check_dtype=False)
    assert found[outcomes.VALIDATION].isna().all()  # there are no curves


def test_load_says_what_is_wrong_and_what_to_do(tmp_path):
    with pytest.raises(files.FileError, match=r"summary.csv: does not exist; .*make study CONFIG="):
        tables.load_summary(tmp_path)
    made = world(flat, rm_seeds=1, ppo_seeds=1)
    with pytest.raises(tables.AnalysisError, match=r"no finished run \(18 failed\)"):
        tables.load_summary(written(made.assign(status="failed"), tmp_path))
    with pytest.raises(tables.AnalysisError, match=r"no finished run \(no rows\)"):
        tables.load_summary(written(made.head(0), tmp_path))
    with pytest.raises(tables.AnalysisError, match=r"no finished run \(no rows\)"):
        tables.load_summary(written(made.head(0).drop(columns="ended"), tmp_path))


READ = {
    "whole": str.encode,
    "mark": lambda text: text.encode("utf-8-sig"),
    "crlf": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "old line ends": lambda text: text.replace("\n", "\r").encode(),
    "no final newline": lambda text: text.rstrip().encode(),
    "packed": lambda text: gzip.compress(text.encode()),
    "loud": lambda text: text.replace("True", "TRUE").encode(),
}
REFUSED = {  # and what the sentence must name
    "empty": (lambda _: b"", ""),
    "blank": (lambda _: b"\n\n", ""),
    "semicolons": (lambda text: text.replace(",", ";").encode(), "';'"),
    "tabs": (lambda text: text.replace(",", "\t").encode(), r"'\\t'"),
    "utf-16": (lambda text: text.encode("utf-16"), "UTF-8"),
    "latin-1": (lambda text: text.replace("made", "möde").encode("latin-1"), "UTF-8 .line 2"),
    "binary": (lambda _: bytes(range(256)), ""),
    "damaged": (lambda text: gzip.compress(text.encode())[:-20], "gzip"),
    "columns gone": (
        lambda text: text.replace("kl_final", "KL").replace("rm_accuracy,", "accuracy,").encode(),
        "rm_accuracy, kl",
    ),
    "a field too many": (lambda text: text.replace("\n", ",1\n").replace(",1\n", "\n", 1).encode(), "fields"),
    "cut": (lambda text: text[:-60].encode(), "fields"),
    "text for a number": (lambda text: text.replace("0.5", "high", 1).encode(), r"= 'high' \(row 1\)"),
    "a comma in a number": (lambda text: text.replace("0.5", '"0,5"', 1).encode(), r"= '0,5' \(row 1\)"),
    "another status": (lambda text: text.replace(",ok,", ",OK,", 1).encode(), r"status = 'OK' \(row 1\)"),
    "another task": (lambda text: text.replace("factuality", "truth", 1).encode(), r"task = 'truth' \(row 2\)"),
    "infinity": (lambda text: text.replace("0.5", "inf", 1).encode(), r"= inf \(row 1\)"),
    "a row twice": (lambda text: (text + text.split("\n", 1)[1]).encode(), r"id = '.*' \(row \d+\): .*twice"),
    "not ended": (lambda text: text.replace("True", "maybe").encode(), r"ended = 'maybe' \(row 1\)"),
}


@pytest.fixture
def text():
    return world(flat, rm_seeds=1, ppo_seeds=1, accuracies=(0.7,)).to_csv(index=False)


@pytest.mark.parametrize("change", READ.values(), ids=READ)
def test_a_table_is_the_same_however_it_was_saved(change, text, tmp_path):
    (tmp_path / "summary.csv").write_bytes(text.encode())
    expected = tables.load_summary(tmp_path)
    (tmp_path / "summary.csv").write_bytes(change(text))
    pd.testing.assert_frame_equal(tables.load_summary(tmp_path), expected)


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_refused_in_one_sentence(change, named, text, tmp_path):
    (tmp_path / "summary.csv").write_bytes(change(text))
    with pytest.raises(files.FileError, match=rf"summary\.csv: .*{named}") as caught:
        tables.load_summary(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("load", "name", "text"),
    [
        (tables.load_curves, "curves.csv", "id,update\na,0\n"),
        (tables.load_curves, "curves.csv.gz", "id,update,kl,reward_mean,lm_performance\na,0,x,0,0\n"),
        (tables.load_best_of_n, "best_of_n.csv", "id,n\na,1\n"),
        (tables.load_parameters, "parameters.csv.gz", "learning_rate\n1\n"),
        (lambda folder: tables.load_parameters(folder, "learning_rate"), "parameters.csv", "id,learning_rate\na,fast\n"),
        (lambda folder: tables.load_parameters(folder, "learning_rate"), "parameters.csv", "id\na\n"),
        (lambda folder: tables.load_parameters(folder, "learning_rate"), "parameters.csv", None),
        (lambda folder: tables.load_curves(folder, "learning_rate"), "curves.csv", None),
        (tables.load_questions, "questions.csv", "id\na\n"),
        (tables.load_checkpoints, "reward_models.csv", "id,step\na,1\n"),
        (tables.load_checkpoints, "reward_models.csv", None),
        (published.load_published, "published_lm_performance.csv", "policy,task\nT5,relevance\n"),
        (published.load_published, "published_lm_performance.csv", "policy,task,rm_step,rm_accuracy,lm_performance\n"),
        (lambda folder: cost.load_benchmarks(config.Cost(benchmarks=str(folder / "b.csv"))), "b.csv", "part,measure\na,b\n"),
    ],
)
def test_every_reader_refuses_through_the_same_door(load, name, text, tmp_path):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(files.FileError, match=name.removesuffix(".gz")):
        load(tmp_path)


def test_curves_are_read_packed_or_not(tmp_path):
    assert tables.load_curves(tmp_path).empty
    made = pd.DataFrame({"id": ["01", "01"], "update": [0, 1], "rm_agreement": [0.5, np.inf]})
    made = made.assign(kl=0.0, reward_mean=0.0, lm_performance=0.5)
    made.to_csv(tmp_path / "curves.csv.gz", index=False)
    packed = tables.load_curves(tmp_path)
    assert packed["id"].tolist() == ["01", "01"]
    assert np.isnan(packed["rm_agreement"][1])  # what has nothing to agree in
    made.head(1).to_csv(tmp_path / "curves.csv", index=False)
    assert len(tables.load_curves(tmp_path)) == 1  # a study's own table, not the recorded one


# --- checkpoints ---


def checkpoints(accuracy: list[float | None]) -> pd.DataFrame:
    rows = [
        {"id": "a", "task": "relevance", "setting": None, "step": step, "accuracy": value, "accuracy_noisy": 0.6 + step / 100}
        for step, value in zip((0, 10), accuracy, strict=True)
    ]
    return pd.DataFrame(rows).assign(route="steps", majority=0.65, segments=200, rm_seed=0)


def test_checkpoints_are_read(tmp_path):
    checkpoints([0.5, 0.9]).to_csv(tmp_path / "reward_models.csv", index=False)
    assert list(tables.load_checkpoints(tmp_path)["step"]) == [0, 10]


def test_runs_know_what_their_other_tables_say(tmp_path):
    made = world(flat, rm_seeds=1, ppo_seeds=1, accuracies=(0.6, 0.9), tasks=("factuality", "completeness"))
    written(made, tmp_path)
    rows = {
        "id": made["id"],
        "when": "final",
        "good": ["1 2 0", "3 0 1", "0.5 0.5 0.2", "1 1 1"],
        "segments": ["1 2 1", "4 4 1", *["1 1 1"] * 2],
    }
    pd.DataFrame(rows).head(3).to_csv(tmp_path / "questions.csv", index=False)
    shares = checkpoints([0.5, 0.9]).assign(id="rm", error_share=[0.8, 0.3])
    shares.to_csv(tmp_path / "reward_models.csv", index=False)
    paths = ["results/x/.work/rm/checkpoint-10", "elsewhere/rm/checkpoint-3", "hub/name", np.nan]
    pd.DataFrame({"id": made["id"], "reward_model": paths}).to_csv(tmp_path / "parameters.csv", index=False)
    found = tables.load_summary(tmp_path)
    np.testing.assert_allclose(found["lm_performance_floored"], [3 / 6, 4 / 10, 1.2 / 3, np.nan])
    np.testing.assert_allclose(found["rm_error_share"], [0.3, np.nan, np.nan, np.nan])
    assert outcomes.usable(found, "brevity-robust").tolist() == [True, True, True, False]


# --- the page ---


@pytest.mark.heavy
def test_the_page_runs_on_a_summary_with_failures(tmp_path):
    made = world(inverted_u, rm_seeds=1, ppo_seeds=1, accuracies=ACCURACIES[:4])
    made.loc[[1, 6], "status"] = ["failed", "blocked"]
    made.loc[[1, 6], ["lm_performance_final", "lm_performance_best_logged"]] = np.nan
    written(made, tmp_path)
    checkpoints([0.5, 0.9]).to_csv(tmp_path / "reward_models.csv", index=False)
    names = run_page("05", tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "verdict.txt").read_text().startswith("Undecided")
    assert (tmp_path / "out" / "result.json").is_file()
    assert isinstance(names["p"], config.Analysis)
    assert names["known"] == {}
    assert len(names["controls"]) == len(names["exact"]) == 0


@pytest.mark.heavy
def test_the_page_runs_on_a_whole_study(tmp_path):
    one = {"rm_seeds": 3, "tasks": TASKS[:1]}
    arms = [nested(rising, **one), named(nested(flat, **one, accuracies=(1.0,)), "exact")]
    arms += [named(nested(inverted_u, **one), "known-paradox"), named(nested(rising, **one), "known-monotone")]
    made = probed(pd.concat(arms, ignore_index=True))
    made["greedy_length_final"] = 30 + made.groupby("rm_seed")["rm_accuracy"].rank()
    names = run_page("05", study(made, tmp_path), tmp_path / "out")
    decision, steps = names["decision"], made[made["arm"] == "steps"]
    assert decision.status == "not supported"
    told = (tmp_path / "out" / "verdict.txt").read_text()
    assert told.startswith(decision.headline)
    assert verdict.sentence(decision.findings[0]) in told
    regret = decision.primary.of.regret
    assert [names["numbers"][name] for name in ("regret", "regret-low", "regret-high")] == [
        regret.estimate,
        regret.low,
        regret.high,
    ]
    assert names["numbers"]["runs"] == "57 PPO runs of the study made"
    # what is left above the most accurate; the spacing of accuracies; controls beside the policy before PPO; the ranks
    tops = steps.loc[steps.groupby("rm_seed")["rm_accuracy"].idxmax(), "lm_performance_final"]
    assert names["left"]["relevance"] == pytest.approx(1 - tops.mean())
    ordered = steps.groupby("rm_seed")["rm_accuracy"].apply(lambda own: np.diff(np.sort(own)))
    spaced = names["spaced"].loc["relevance"]
    assert spaced["largest step"] == pytest.approx(np.mean([own.max() for own in ordered]))
    assert spaced["even step"] == pytest.approx(np.mean([own.mean() for own in ordered]))
    controls = names["both"]["lm_performance"].droplevel(["task", "policy"])
    exact = made.loc[made["arm"] == "exact", "lm_performance_final"].mean()
    assert controls.to_dict() == pytest.approx({"before PPO": 0.5, "exact": exact}, abs=1e-3)
    assert names["exact"].loc["relevance", "atlas-t5"] == pytest.approx(exact)
    assert names["above"].loc[("relevance", "atlas-t5"), "above"] == (steps["lm_performance_final"] > exact).sum()
    assert names["numbers"]["power"] == names["powered"]
    assert names["units"] == 3
    assert f"{names['rates']['not supported']:.0%} of studies" in names["powered"]  # the published gap is inside the margin
    by_rank = names["by_rank"].loc["relevance"]
    assert by_rank.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert by_rank["rm_accuracy"].is_monotonic_decreasing  # the first is the most accurate
    assert by_rank["greedy_length"].is_monotonic_decreasing
    assert {name: v.status for name, v in names["known"].items()} == names["truths"]
    assert set(names["summary"]["arm"]) == {"steps", "exact"}
    assert "known-paradox" in (tmp_path / "out" / "result.json").read_text()


@pytest.mark.heavy
@pytest.mark.parametrize("route", ["steps", "label-noise", "dial", "constant"])
@pytest.mark.parametrize("page", ["05", "07", "11"])
def test_pages_run_on_a_study_whose_arms_all_have_names_of_their_own(page, route, tmp_path):
    made = nested(rising, rm_seeds=2, tasks=TASKS[:1], accuracies=ACCURACIES[:3])
    first = made.assign(arm="wide") if route == "steps" else named(made, "wide", route)
    second = first.assign(arm="narrow", id="n" + first["id"])
    summary = pd.concat([first, second], ignore_index=True)
    if route == "constant":
        summary = summary.assign(rm_accuracy=np.nan, rm_accuracy_noisy=np.nan)
    names = run_page(page, study(summary, tmp_path))
    if page == "05":
        assert names["decision"].status == "undecided"
        assert {f.of.arm for f in names["decision"].findings} == {"wide", "narrow"}
    if page == "07":
        assert len(names["known"]) == (len(summary) if route in ("steps", "label-noise") else 0)
        assert len(names["chosen"]) == (3 * len(summary) if route == "steps" else 0)


@pytest.mark.heavy
@pytest.mark.parametrize("fault", ["no reward model", "no run against one", "nothing varies"])
def test_the_page_runs_before_there_is_anything_to_compare(fault, tmp_path):
    made = nested(rising, rm_seeds=2, tasks=TASKS[:1], accuracies=(0.7,) if fault == "nothing varies" else ACCURACIES)
    exact = named(nested(flat, rm_seeds=2, tasks=TASKS[:1], accuracies=(1.0,)), "exact")
    if fault != "nothing varies":
        made = lost(made, made.index)
    study(pd.concat([made, exact], ignore_index=True), tmp_path)
    if fault == "no reward model":
        (tmp_path / "reward_models.csv").write_text("task\n")  # as a study writes it
    run_page("05", tmp_path)
