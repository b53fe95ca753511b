import dataclasses

import numpy as np
import pandas as pd
import pytest

from paradox_utils import config
from paradox_utils.analysis import comparison, tables, verdict
from paradox_utils.figures import study as draw
from paradox_utils.figures import style
from paradox_utils.figures.run import accuracies_by_step, accuracy_by_step, label_counts, ppo_curves, training_loss
from tests.worlds import (
    ACCURACIES,
    TASKS,
    curves_of,
    flat,
    inverted_u,
    lost,
    named,
    nested,
    offsets,
    probed,
    questions_of,
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
    assert found[tables.VALIDATION].isna().all()  # there are no curves


def test_load_says_what_is_wrong_and_what_to_do(tmp_path):
    with pytest.raises(tables.AnalysisError, match=r"summary.csv: cannot be read .* make study CONFIG="):
        tables.load_summary(tmp_path)
    (tmp_path / "summary.csv").write_text("")
    with pytest.raises(tables.AnalysisError, match="is no table"):
        tables.load_summary(tmp_path)
    made = world(flat, rm_seeds=1, ppo_seeds=1)
    with pytest.raises(tables.AnalysisError, match="lacks rm_accuracy, kl_final"):
        tables.load_summary(written(made.drop(columns=["kl_final", "rm_accuracy"]), tmp_path))
    with pytest.raises(tables.AnalysisError, match=r"no finished run \(18 failed\)"):
        tables.load_summary(written(made.assign(status="failed"), tmp_path))
    with pytest.raises(tables.AnalysisError, match=r"no finished run \(no rows\)"):
        tables.load_summary(written(made.head(0), tmp_path))
    with pytest.raises(tables.AnalysisError, match="line 4: kl_final = 'high' is no number"):
        tables.load_summary(written(made.assign(kl_final=[0.1, 0.1, "high", *[0.1] * 15]), tmp_path))


def test_known_truths_and_ablations_are_kept_apart():
    made = pd.concat([world(rising, rm_seeds=1), world(flat, rm_seeds=1).assign(arm="known-paradox")])
    assert set(tables.main_arms(made)["arm"]) == {"steps"}


def test_contrasts_pair_ppo_seeds_and_rank_by_accuracy():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.9, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.1, 0.2, 0.5, 0.7, 0.9, np.nan]  # steps 0, 40 (most accurate), 80; seeds 0 and 1
    found = tables.contrasts(made)
    np.testing.assert_allclose(found.loc[0], [0, 0.9 - 0.5, (0.1 - 0.5 + 0.2 - 0.7) / 2])


def test_curves_are_read_packed_or_not(tmp_path):
    assert tables.load_curves(tmp_path).empty
    made = pd.DataFrame({"id": ["01", "01"], "update": [0, 1], "rm_agreement": [0.5, np.inf]})
    made.to_csv(tmp_path / "curves.csv.gz", index=False)
    packed = tables.load_curves(tmp_path)
    assert packed["id"].tolist() == ["01", "01"]
    assert np.isnan(packed["rm_agreement"][1])  # what has nothing to agree in
    made.head(1).to_csv(tmp_path / "curves.csv", index=False)
    assert len(tables.load_curves(tmp_path)) == 1  # a study's own table, not the recorded one


# --- what curves add ---


def test_what_the_exact_reward_reaches_is_told_by_policy():
    made = world(flat, rm_seeds=1, tasks=TASKS[:2]).assign(arm="exact", lm_performance_final=0.9)
    other = made.assign(policy="large", lm_performance_final=0.75).query("task == 'relevance'")
    said = tables.exact_reached(pd.concat([made, other], ignore_index=True))
    assert "atlas-t5 0.90 in relevance, 0.90 in factuality; large 0.75 in relevance." in said
    assert tables.exact_reached(made.assign(arm="steps")) == ""


def test_at_no_distance_nothing_is_matched():
    made = world(flat, rm_seeds=1, tasks=("relevance",))
    curves = curves_of(made)
    curves.loc[curves["id"] == made["id"].iloc[0], "kl"] = -0.01  # an estimate may be; then this run gets nowhere
    found = tables.with_curves(made, curves.assign(test_lm_performance=0.5, test_true_return=0.5))
    assert found[["kl_matched", "lm_performance_matched", "true_return_matched"]].isna().all(axis=None)


def test_room_is_told_where_accuracies_or_seeds_are_missing():
    made = world(flat, rm_seeds=3, tasks=("relevance",))
    tops = made.loc[made.groupby("rm_seed")["rm_accuracy"].idxmax(), "lm_performance_final"]
    assert tables.room(made) == f"Above the most accurate reward models' policies is left: relevance {1 - tops.mean():.2f}."
    unmeasured = made.assign(rm_accuracy=made["rm_accuracy"].where(made["rm_seed"] > 0))
    assert tables.room(unmeasured).endswith(f"relevance {1 - tops.iloc[1:].mean():.2f}.")
    best = made.loc[made["rm_accuracy"].idxmax(), "lm_performance_final"]
    assert tables.room(made.assign(rm_seed=np.nan)).endswith(f"relevance {1 - best:.2f}.")
    assert tables.room(made.assign(rm_accuracy=np.nan, rm_accuracy_noisy=np.nan)) == ""


def test_matched_kl_interpolates_along_the_distance():
    made = world(flat, rm_seeds=1, ppo_seeds=1, accuracies=(0.7, 0.9), tasks=("relevance",))
    curves = []
    for run, kls, scores in zip(
        made["id"], ([0.0, 4.0, 4.0], [0.0, 1.0, 1.0]), ([0.5, 0.7, 0.7], [0.5, 0.9, 0.9]), strict=True
    ):
        curves.append(
            pd.DataFrame({"id": run, "update": [0, 10, 11], "kl": kls, "lm_performance": scores, "test_lm_performance": scores})
        )
    found = tables.with_curves(made, pd.concat(curves))
    assert found[tables.VALIDATION].tolist() == [0.7, 0.9]
    smooth = [np.sqrt([np.mean([0, 4, 4]), 4]), np.sqrt([np.mean([0, 1, 1]), 1])]  # a KL is averaged with its neighbours'
    assert found["kl_matched"].tolist() == [1, 1]  # the largest that both reach
    assert found["lm_performance_matched"].tolist() == pytest.approx([0.5 + 0.2 / smooth[0][0], 0.9])
    assert found["matched_early"].tolist() == [1, 0]  # before the evaluation after the start
    apart = tables.with_curves(made.assign(arm=["steps", "dial"]), pd.concat(curves))
    assert apart["kl_matched"].tolist() == pytest.approx([4, 1])  # another arm's runs are no part of the comparison


# --- figures and the page ---


def test_main_figure_shows_every_checkpoint_and_the_most_accurate():
    made = world(inverted_u, rm_seeds=2, ppo_seeds=2)
    figure = draw.accuracy_and_performance(made)
    assert [axis.get_title("left") for axis in figure.axes] == ["Relevance", "Factuality", "Completeness"]
    rings = [c for c in figure.axes[0].collections if c.get_sizes()[0] == 110]
    models = tables.reward_models(made[made["task"] == "relevance"])
    tops = models.loc[models.groupby("rm_seed")["accuracy"].idxmax(), ["accuracy", "performance"]].to_numpy()
    np.testing.assert_allclose(np.concatenate([ring.get_offsets() for ring in rings]), tops)
    with pytest.raises(ValueError, match="no run of the routes"):
        draw.accuracy_and_performance(made.assign(status="failed"))


def test_other_figures_draw_their_columns():
    steps = pd.DataFrame({"step": [0, 10], "accuracy": np.nan, "accuracy_noisy": [0.4, 0.8], "balanced_accuracy": [0.5, 0.7]})
    steps = steps.assign(majority=0.6, f1=[0.1, 0.6], calibration_error=[0.3, 0.1])
    labels = [line.get_label() for line in accuracy_by_step(steps).axes[0].lines]
    assert labels == ["annotators' labels", "balanced over classes", "majority class"]
    curve = pd.DataFrame({"update": [0, 1, 2], "reward_mean": [0.1, 0.2, 0.3], "kl": 0.0, "length": 9.0})
    curve["lm_performance"] = [0.5, np.nan, 0.7]
    np.testing.assert_allclose(ppo_curves(curve, "factuality").axes[2].lines[0].get_ydata(), [0.5, 0.7])
    losses = pd.DataFrame({"step": range(4), "loss": [4.0, 2.0, 3.0, 1.0]})
    np.testing.assert_allclose(training_loss(losses, window=3).axes[0].lines[1].get_ydata(), [3, 3, 2, 2])
    table = pd.DataFrame({"task": "factuality", "label": ["F-ERR", "O"], "count": [1, 3]})
    assert [bar.get_width() for bar in label_counts(table).axes[0].patches] == [0.25, 0.75]


def test_style_leaves_nothing_behind():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style.style():
        assert mpl.rcParams["figure.dpi"] == 110
    assert dict(mpl.rcParams) == before


def checkpoints(accuracy: list[float | None]) -> pd.DataFrame:
    rows = [
        {"id": "a", "task": "relevance", "setting": None, "step": step, "accuracy": value, "accuracy_noisy": 0.6 + step / 100}
        for step, value in zip((0, 10), accuracy, strict=True)
    ]
    return pd.DataFrame(rows).assign(route="steps", majority=0.65, segments=200, rm_seed=0)


def test_checkpoint_findings_compare_the_best_with_the_constant_answer(tmp_path):
    (clean,) = tables.checkpoint_findings(checkpoints([0.5, 0.9]))
    assert "step 10) agrees with the true labels on 90.0% of 200" in clean
    assert "beats the constant answer's 65.0% (+25.0%; one standard error is 2.1%)" in clean
    (noisy,) = tables.checkpoint_findings(checkpoints([None, None]).query("step == 0"))
    assert "the annotators' labels on 60.0%" in noisy
    assert "does not beat" in noisy
    checkpoints([0.5, 0.9]).to_csv(tmp_path / "reward_models.csv", index=False)
    assert list(tables.load_checkpoints(tmp_path)["step"]) == [0, 10]
    assert len(accuracies_by_step(tables.load_checkpoints(tmp_path)).axes) == 1
    with pytest.raises(tables.AnalysisError, match="run its study"):
        tables.load_checkpoints(tmp_path / "none")


# --- figures of a whole study ---


def test_levels_average_ranks_over_trajectories():
    made = world(flat, rm_seeds=2, ppo_seeds=1, accuracies=(0.9, 0.6, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.9, 0.1, 0.5, 0.7, 0.3, np.nan]  # steps 0 (most accurate), 40 (least), 80; seeds 0 and 1
    made.loc[5, "status"] = "failed"
    asked = pd.DataFrame({"good": ["9 9", "0 2", "5 5", "7 7", "3 3"], "segments": "10 10"}, index=made["id"][:5])
    found = draw.levels(made, asked, resamples=50, seed=0)
    assert found["performance"].tolist() == pytest.approx([(0.1 + 0.3) / 2, 0.5, (0.9 + 0.7) / 2])
    assert found["runs"].tolist() == [2, 1, 2]
    np.testing.assert_allclose(
        found["accuracy"], [made["rm_accuracy"][[1, 4]].mean(), *made["rm_accuracy"][[2]], 0.9], atol=0.01
    )
    assert found["low"].isna().tolist() == [False, True, False]  # one trajectory has no interval
    assert (found["low"] <= found["performance"])[[0, 2]].all()
    assert (found["high"] >= found["performance"])[[0, 2]].all()
    three = nested(flat, rm_seeds=3, accuracies=(0.7,), tasks=("relevance",))
    asked = asked.set_axis([*three["id"], "x", "y"])
    assert draw.levels(three, asked, resamples=50, seed=0)["low"].notna().all()
    unasked = draw.levels(three, asked[1:], resamples=50, seed=0)  # not all runs of the rank have questions
    assert unasked["low"].isna().all()
    assert unasked["performance"].notna().all()
    assert draw.levels(made.head(0), asked, resamples=50, seed=0).empty


def test_routes_draw_a_line_an_arm_in_the_panels_of_its_task_and_policy():
    steps = nested(rising, rm_seeds=2)
    large = nested(flat, rm_seeds=2, tasks=TASKS[:1]).assign(policy="large", id=lambda t: "l" + t["id"])
    dial = named(nested(rising, rm_seeds=2, tasks=TASKS[1:2]), "dial")
    exact = named(nested(flat, rm_seeds=2, accuracies=(1.0,)), "exact")  # does not vary: a dotted line
    waiting = steps.assign(policy="waiting", status="not started", id=lambda t: "w" + t["id"])  # has no panels yet
    summary = pd.concat([steps, large, dial, exact, waiting])
    figure = draw.routes(summary, questions_of(summary).set_index("id"), resamples=20)
    assert [axis.get_title("left") for axis in figure.axes] == [
        f"{task.capitalize()}\n{policy}" for policy in ("atlas-t5", "large") for task in TASKS
    ]
    assert [len(axis.containers) for axis in figure.axes] == [1, 2, 1, 1, 0, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["steps", "dial"]
    line = figure.axes[0].containers[0].lines[0]
    table = draw.levels(steps[steps["task"] == TASKS[0]], pd.DataFrame(), resamples=20, seed=0)
    np.testing.assert_allclose(line.get_xydata(), table[["accuracy", "performance"]])
    rules = [[one.get_linestyle() for one in axis.lines if len(one.get_xdata()) == 2] for axis in figure.axes]
    assert rules == [["--", ":"]] * 3 + [["--"]] * 3


def test_routes_of_a_pilot_are_refused():
    with pytest.raises(ValueError, match="no family of reward models"):
        draw.routes(nested(flat, rm_seeds=2, accuracies=(0.7,)), pd.DataFrame())


def finding(regret, status="undecided", missing=(), **changes):
    names = [field.name for field in dataclasses.fields(comparison.Comparison)]
    values = {"task": "relevance", "policy": "t5", "arm": "steps", "regret": regret, "low": regret - 0.1, "high": regret + 0.2}
    of = comparison.Comparison(**(dict.fromkeys(names, np.nan) | values | changes))
    return verdict.Finding(of, status, missing, 0.5, 0.5, 0.5, False)


def test_forest_draws_what_the_rule_can_decide():
    found = [
        finding(0.3, "supported", task=comparison.ALL),
        finding(0.0, "not supported"),
        finding(0.1, arm="dial"),
        finding(0.9, missing=("seeds",)),
        finding(0.9, low=np.nan),
    ]
    figure = draw.forest(found, 0.04)
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["dial · relevance · t5", "steps · relevance · t5", "steps · all tasks · t5"]
    bars = axis.lines[1:]
    np.testing.assert_allclose([bar.get_xdata() for bar in bars], [[0.0, 0.3], [-0.1, 0.2], [0.2, 0.5]])
    assert [bar.get_color() for bar in bars] == [draw.STATUS_COLORS[s] for s in ("undecided", "not supported", "supported")]
    np.testing.assert_allclose(offsets(axis), [[0.1, 0], [0.0, 1], [0.3, 2]])
    with pytest.raises(ValueError, match="no comparison has"):
        draw.forest(found[3:], 0.04)


@pytest.mark.parametrize(("seeds", "outcome"), [(5, "not supported"), (2, "undecided")])
def test_the_picture_in_brief_says_what_the_rule_says(seeds, outcome):
    summary = pd.concat([nested(rising, rm_seeds=seeds), named(nested(inverted_u, rm_seeds=5), "known-paradox")])
    figure, decision = draw.in_brief(summary), verdict.verdict(tables.main_arms(summary))
    title = " ".join(figure.get_suptitle().split())
    assert decision.status == outcome
    assert title.startswith(decision.headline)
    assert f"Regret {decision.primary.of.regret:.3f} (95 % interval {decision.primary.of.low:.3f} to" in title
    assert [axis.get_title("left") for axis in figure.axes] == [task.capitalize() for task in TASKS]


# --- tables beside the verdict ---


def test_controls_are_means_beside_the_policy_before_ppo():
    made = nested(flat, rm_seeds=2, accuracies=(0.6,), tasks=("relevance",))
    made["lm_performance_final"], made["lm_performance_start"] = [0.6, 0.8], 0.4
    lost = named(made, "length").assign(status="failed")
    found = tables.controls(pd.concat([made, named(made, "exact"), lost]))
    assert found.index.get_level_values("arm").tolist() == ["before PPO", "exact"]
    assert found["LM performance"].tolist() == pytest.approx([0.4, 0.7])


def test_beside_the_score_ranks_within_a_trajectory():
    made = probed(nested(rising, rm_seeds=2, accuracies=(0.9, 0.6, 0.75), tasks=("relevance",)))
    made["greedy_length_final"] = [30, 10, 20, 34, 12, 24]
    found = tables.beside_the_score(made)
    assert found.index.tolist() == [("relevance", 1), ("relevance", 2), ("relevance", 3)]
    assert found["greedy length"].tolist() == [11, 22, 32]


# --- the page ---


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


def test_the_page_runs_on_a_whole_study(tmp_path):
    one = {"rm_seeds": 3, "tasks": TASKS[:1]}
    arms = [nested(rising, **one), named(nested(flat, **one, accuracies=(1.0,)), "exact")]
    arms += [named(nested(inverted_u, **one), "known-paradox"), named(nested(rising, **one), "known-monotone")]
    made = probed(pd.concat(arms, ignore_index=True))
    names = run_page("05", study(made, tmp_path), tmp_path / "out")
    assert names["decision"].status == "not supported"
    assert {name: v.status for name, v in names["known"].items()} == names["truths"]
    assert set(names["summary"]["arm"]) == {"steps", "exact"}
    assert "known-paradox" in (tmp_path / "out" / "result.json").read_text()


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
