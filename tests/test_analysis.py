import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from paradox_utils import analysis, comparison, config, plots, verdict
from paradox_utils.data.records import TASKS

ACCURACIES = (0.60, 0.68, 0.74, 0.80, 0.86, 0.92)
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "05-accuracy-and-performance.ipynb"


def flat(accuracy):
    return 0.8


def rising(accuracy):
    return 0.4 + 1.4 * (accuracy - 0.6)


def inverted_u(accuracy):  # best at 0.78, 0.2 worse at 0.92
    return 0.9 - 0.2 * ((accuracy - 0.78) / 0.14) ** 2


def world(curve, rm_seeds=4, ppo_seeds=3, accuracies=ACCURACIES, tasks=TASKS, noise=0.01, seed=0):
    """A summary of a world in which LM performance is ``curve(accuracy)`` plus noise of the reward model and of the PPO run."""
    random, rows = np.random.default_rng(seed), []
    for task in tasks:
        for rm_seed in range(rm_seeds):
            for index, wanted in enumerate(accuracies):
                accuracy = wanted + random.uniform(-0.01, 0.01)
                level = curve(accuracy) + random.normal(0, noise)
                for ppo_seed in range(ppo_seeds):
                    final = level + random.normal(0, noise)
                    logged = final + abs(random.normal(0, noise))
                    row = dict.fromkeys(analysis.NUMBERS, 0.5) | dict.fromkeys(analysis.LABELS, "")
                    row |= {"study": "made", "id": f"{len(rows):04d}", "task": task, "policy": "atlas-t5", "route": "steps"}
                    row |= {
                        "rm_step": 40 * index,
                        "rm_seed": rm_seed,
                        "ppo_seed": ppo_seed,
                        "rm_majority": 0.65,
                        "status": "ok",
                    }
                    row |= {"rm_accuracy": accuracy, "rm_accuracy_noisy": accuracy - 0.05}
                    rows.append(row | {"lm_performance_final": final, "lm_performance_best_logged": logged})
    return pd.DataFrame(rows).assign(arm="steps", lm_performance_validation=np.nan)


def decide(summary, reading="as measured"):
    return verdict.verdict(summary, reading, resamples=30)


def written(summary, folder):
    summary.to_csv(folder / "summary.csv", index=False)
    return folder


# --- reading ---


def test_load_returns_the_table(tmp_path):
    made = world(flat, rm_seeds=1, ppo_seeds=1)
    found = analysis.load(written(made, tmp_path))
    pd.testing.assert_frame_equal(found[made.columns], made, check_dtype=False)
    assert found[analysis.VALIDATION].isna().all()  # there are no curves


def test_load_says_what_is_wrong_and_what_to_do(tmp_path):
    with pytest.raises(analysis.AnalysisError, match=r"summary.csv: cannot be read .* make study CONFIG="):
        analysis.load(tmp_path)
    (tmp_path / "summary.csv").write_text("")
    with pytest.raises(analysis.AnalysisError, match="is no table"):
        analysis.load(tmp_path)
    made = world(flat, rm_seeds=1, ppo_seeds=1)
    with pytest.raises(analysis.AnalysisError, match="lacks rm_accuracy, kl_final"):
        analysis.load(written(made.drop(columns=["kl_final", "rm_accuracy"]), tmp_path))
    with pytest.raises(analysis.AnalysisError, match=r"no finished run \(18 failed\)"):
        analysis.load(written(made.assign(status="failed"), tmp_path))
    with pytest.raises(analysis.AnalysisError, match=r"no finished run \(no rows\)"):
        analysis.load(written(made.head(0), tmp_path))
    with pytest.raises(analysis.AnalysisError, match="line 4: kl_final = 'high' is no number"):
        analysis.load(written(made.assign(kl_final=[0.1, 0.1, "high", *[0.1] * 15]), tmp_path))


# --- the rule ---


@pytest.mark.parametrize("reading", ["as measured", "as published"])
@pytest.mark.parametrize(("curve", "status"), [(inverted_u, "supported"), (rising, "not supported")])
def test_known_worlds_get_the_right_verdict(curve, status, reading):
    found = decide(world(curve, rm_seeds=5), reading)
    assert found.status == status
    assert [finding.status for finding in found.findings] == [status] * 3
    assert [finding.of.task for finding in found.findings] == list(TASKS)
    assert found.headline.lower().startswith(status)
    assert found.primary.of.task == comparison.ALL
    assert found.primary.of.rm_seeds == 15
    assert {finding.inverted_u for finding in found.findings} == {found.primary.inverted_u} == {curve is inverted_u}


def test_a_flat_world_is_not_supported_where_noise_is_small_and_undecided_where_it_is_not():
    assert decide(world(flat, rm_seeds=5, noise=0.01)).status == "not supported"
    assert decide(world(flat, rm_seeds=5, noise=0.12)).status == "undecided"


@pytest.mark.parametrize("curve", [flat, rising])
def test_no_false_alarm_in_repeated_studies(curve):
    statuses = [decide(world(curve, rm_seeds=3, noise=0.05, seed=seed)).status for seed in range(2)]
    assert "supported" not in statuses


def test_one_seed_is_undecided_and_says_what_is_missing():
    quick = world(inverted_u, rm_seeds=1, ppo_seeds=1, accuracies=(0.50, 0.70, 0.80, 0.92), noise=0.001)
    found = decide(quick)
    first = found.findings[0]
    assert {finding.status for finding in found.findings} == {found.status} == {"undecided"}
    assert first.missing == (
        "4 distinct reward-model accuracies (5 are needed)",
        "1 complete reward-model trajectory (3 are needed)",
        "1 PPO seed (3 are needed)",
    )
    assert all(part in found.text for part in first.missing)
    first = first.of
    rows = quick[quick["task"] == first.task]
    assert first.step_best == "80"
    assert first.regret_after_the_fact == pytest.approx(
        rows["lm_performance_final"].max() - rows["lm_performance_final"].iloc[-1]
    )
    assert f"a regret of {first.regret_after_the_fact:.3f}" in found.text
    assert f"{first.spearman:.2f}" in found.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ppo_seeds": 2}, "2 PPO seeds"),
        ({"rm_seeds": 2}, "2 complete reward-model trajectories"),
        ({"accuracies": (0.6, 0.7, 0.8, 0.9)}, "4 distinct reward-model accuracies"),
    ],
)
def test_each_minimum_alone_withholds_the_verdict(change, words):
    found = decide(world(inverted_u, noise=0.001, **change))
    assert found.findings[0].status == "undecided"
    assert found.findings[0].missing == (f"{words} ({5 if 'accuracies' in change else 3} are needed)",)


def test_bunched_accuracies_do_not_count_as_distinct():
    bunched = world(flat).assign(rm_accuracy=lambda t: 0.9 + t["rm_step"] / 1e5)
    assert decide(bunched).findings[0].of.accuracies == 1


def test_the_verdict_is_that_of_all_tasks_together():
    mixed = pd.concat([world(inverted_u, rm_seeds=5, tasks=TASKS[:1]), world(rising, rm_seeds=5, tasks=TASKS[1:])])
    found = decide(mixed)
    assert [finding.status for finding in found.findings] == ["supported", "not supported", "not supported"]
    assert found.status == found.primary.status == "undecided"


def test_policies_that_share_reward_models_are_one_unit():
    small = world(rising, rm_seeds=5, tasks=TASKS[:1])
    both = pd.concat([small, small.assign(policy="large", lm_performance_final=small["lm_performance_final"] + 0.1)])
    found = decide(both)
    assert len(found.findings) == 2
    assert found.primary.of.rm_seeds == 5
    assert found.primary.of.policy == "atlas-t5, large"
    assert found.primary.of.regret == pytest.approx(decide(small).primary.of.regret)


def test_nested_seeds_are_compared_within_a_trajectory():
    made = world(inverted_u, rm_seeds=5, ppo_seeds=1)
    nested = made.assign(ppo_seed=made["rm_seed"])
    found = decide(nested)
    assert found.status == "supported"
    assert found.primary.of.ppo_seeds == 5


def test_other_routes_are_compared_by_their_settings_and_do_not_decide():
    steps, other = world(rising, rm_seeds=5), world(inverted_u, rm_seeds=5)
    noise = other.assign(
        route="label-noise", arm="label-noise", setting=other["rm_step"].map("label_noise={}".format), rm_step=160
    )
    found = decide(pd.concat([steps, noise]))
    assert found.status == "not supported"
    assert {(f.of.arm, f.status) for f in found.findings} == {("steps", "not supported"), ("label-noise", "supported")}
    assert {f.of.arm: f.status for f in verdict.pooled(pd.concat([steps, noise]), resamples=30)} == {
        "steps": "not supported",
        "label-noise": "supported",
    }


def test_known_truths_and_ablations_are_kept_apart():
    made = pd.concat([world(rising, rm_seeds=1), world(flat, rm_seeds=1).assign(arm="known-paradox")])
    assert set(analysis.main_arms(made)["arm"]) == {"steps"}


def test_selection_is_on_validation_questions_and_payment_on_test_questions():
    made = world(flat, rm_seeds=4, ppo_seeds=1, noise=0.0, tasks=("relevance",))
    made["lm_performance_final"] = 0.5 + (made["rm_step"] == 80) * 0.3
    made[analysis.VALIDATION] = 0.5 + (made["rm_step"] == 40) * 0.3  # validation prefers another
    found = decide(made).primary.of
    assert (found.regret, found.chosen, found.regret_after_the_fact) == (0, 0, pytest.approx(0.3))


def test_holm_withholds_what_one_test_alone_would_grant():
    several = [decide(world(lambda a: inverted_u(a) * 0.5 + 0.4, rm_seeds=3, noise=0.018, seed=s)) for s in range(3)]
    findings = [f for found in several for f in found.findings]
    assert any(f.of.p_above <= verdict.ALPHA and f.status == "undecided" for f in findings)
    supported = [f for f in findings if f.status == "supported"]
    assert all(f.p_above <= verdict.ALPHA and f.of.low > verdict.SMALLEST_EFFECT for f in supported)


def test_controls_do_not_enter():
    made = world(rising, rm_seeds=3)
    dial = made.head(5).assign(route="dial", arm="dial", rm_step=np.nan, rm_seed=np.nan, lm_performance_final=1.0)
    assert decide(pd.concat([made, dial])).findings == decide(made).findings
    alone = decide(dial)
    assert (alone.status, alone.findings) == ("undecided", ())
    assert "no PPO runs against the checkpoints" in alone.text


# --- what did not finish ---


def test_contrasts_pair_ppo_seeds_and_rank_by_accuracy():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.9, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.1, 0.2, 0.5, 0.7, 0.9, np.nan]  # steps 0, 40 (most accurate), 80; seeds 0 and 1
    found = analysis.contrasts(made)
    np.testing.assert_allclose(found.loc[0], [0, 0.9 - 0.5, (0.1 - 0.5 + 0.2 - 0.7) / 2])


def test_of_equal_accuracies_the_later_step_is_the_most_accurate():
    made = world(flat, rm_seeds=1, ppo_seeds=1, tasks=("relevance",)).assign(rm_accuracy=0.7)
    assert decide(made).findings[0].of.step_top == "200"


def test_failed_diverged_and_blocked_runs_are_counted_and_said():
    made = world(inverted_u, rm_seeds=4, tasks=("relevance",))
    made.loc[0, ["status", "reason"]] = ["diverged", "KL"]  # keeps its performance
    lost = made.index[(made["rm_seed"] == 3) & (made["rm_step"] == 200)]
    made.loc[lost, "status"] = ["failed", "blocked", "diverged"]
    made.loc[lost, ["lm_performance_final", "rm_accuracy"]] = np.nan
    found = decide(made)
    assert (
        "68 of 72 PPO runs finished; 2 diverged (1 with a performance at its end, which counts), 1 failed, 1 not started"
        in found.text
    )
    finding = found.findings[0]
    assert (finding.of.rm_seeds, finding.of.reward_models, finding.of.planned) == (3, 23, 24)
    assert "23 reward models of 24" in found.text
    assert finding.missing == ()


def test_failed_rows_with_a_number_do_not_count():
    made = world(flat, rm_seeds=3, tasks=("relevance",))
    assert not analysis.usable(made.assign(status="failed")).any()
    assert not analysis.usable(made.assign(lm_performance_final=np.inf)).any()
    nothing = decide(pd.concat([made.assign(status="failed"), made.assign(task="factuality", rm_step=0.0)]))
    assert "no run against a measured reward model finished" in nothing.text


def test_without_clean_labels_the_noisy_accuracy_stands_in_and_is_named():
    found = decide(world(rising, rm_seeds=3).assign(rm_accuracy=np.nan))
    assert found.findings[0].of.accuracy_kind == "rm_accuracy_noisy"
    assert "accuracy against the annotators' labels" in found.text


# --- words and tables ---


@pytest.mark.parametrize("curve", [inverted_u, rising, flat])
def test_texts_are_plain(curve):
    found = decide(world(curve, rm_seeds=3))
    assert not re.search(r"np\.|nan|float64|inf\b", found.text)
    assert "*" not in found.plain
    assert found.plain.startswith(found.headline)


def test_table_and_numbers_repeat_the_findings():
    made = world(inverted_u, tasks=("relevance", "factuality"), rm_seeds=3)
    found = decide(made)
    table = verdict.table(found.findings)
    assert list(table["regret"]) == [finding.of.regret for finding in found.findings]
    assert list(table["status"]) == [finding.status for finding in found.findings]
    values = verdict.numbers(found, made)
    assert values["regret-cross-fitted-relevance"] == found.findings[0].of.regret
    assert np.isnan(values["regret-completeness"])
    assert (values["status"], values["verdict"]) == (found.status, found.headline)
    assert values["runs"] == "108 PPO runs of the study made"
    assert {type(value) for value in values.values()} <= {float, int, str}


def test_every_reading_the_runs_have_is_tabled():
    made = world(inverted_u, rm_seeds=3).assign(lm_performance_matched=lambda t: t["lm_performance_final"])
    assert list(verdict.readings_table(made)["reading"]) == [
        "as measured",
        "as published",
        "best on validation",
        "at matched KL",
        "true return",
    ]


# --- what curves add ---


def test_matched_kl_interpolates_along_the_distance():
    made = world(flat, rm_seeds=1, ppo_seeds=1, accuracies=(0.7, 0.9), tasks=("relevance",))
    curves = []
    for run, kls, scores in zip(
        made["id"], ([0.0, 4.0, 4.0], [0.0, 1.0, 1.0]), ([0.5, 0.7, 0.7], [0.5, 0.9, 0.9]), strict=True
    ):
        curves.append(
            pd.DataFrame({"id": run, "update": [0, 10, 11], "kl": kls, "lm_performance": scores, "test_lm_performance": scores})
        )
    found = analysis.with_curves(made, pd.concat(curves))
    assert found[analysis.VALIDATION].tolist() == [0.7, 0.9]
    smooth = [np.sqrt([np.mean([0, 4, 4]), 4]), np.sqrt([np.mean([0, 1, 1]), 1])]  # a KL is averaged with its neighbours'
    target = np.quantile([smooth[0].max(), smooth[1].max()], analysis.MATCHED_SHARE)
    assert found["kl_matched"].tolist() == pytest.approx([target**2] * 2)
    assert found["lm_performance_matched"].tolist() == pytest.approx([0.5 + 0.2 * target / smooth[0][0], 0.9])


def test_rule_names_its_constants():
    for constant in (verdict.SMALLEST_EFFECT, verdict.MIN_ACCURACIES, verdict.MIN_RM_SEEDS, verdict.ALPHA):
        assert str(constant) in verdict.RULE


# --- figures and the page ---


def test_main_figure_shows_every_checkpoint_and_the_most_accurate():
    made = world(inverted_u, rm_seeds=2, ppo_seeds=2)
    figure = plots.accuracy_and_performance(made)
    assert [axis.get_title("left") for axis in figure.axes] == ["Relevance", "Factuality", "Completeness"]
    rings = [c for c in figure.axes[0].collections if c.get_sizes()[0] == 110]
    models = analysis.reward_models(made[made["task"] == "relevance"])
    tops = models.loc[models.groupby("rm_seed")["accuracy"].idxmax(), ["accuracy", "performance"]].to_numpy()
    np.testing.assert_allclose(np.concatenate([ring.get_offsets() for ring in rings]), tops)
    with pytest.raises(ValueError, match="no run of the routes"):
        plots.accuracy_and_performance(made.assign(status="failed"))


def test_other_figures_draw_their_columns():
    steps = pd.DataFrame({"step": [0, 10], "accuracy": np.nan, "accuracy_noisy": [0.4, 0.8], "balanced_accuracy": [0.5, 0.7]})
    steps = steps.assign(majority=0.6, f1=[0.1, 0.6], calibration_error=[0.3, 0.1])
    labels = [line.get_label() for line in plots.accuracy_by_step(steps).axes[0].lines]
    assert labels == ["annotators' labels", "balanced over classes", "majority class"]
    curve = pd.DataFrame({"update": [0, 1, 2], "reward_mean": [0.1, 0.2, 0.3], "kl": 0.0, "length": 9.0})
    curve["lm_performance"] = [0.5, np.nan, 0.7]
    np.testing.assert_allclose(plots.ppo_curves(curve, "factuality").axes[2].lines[0].get_ydata(), [0.5, 0.7])
    losses = pd.DataFrame({"step": range(4), "loss": [4.0, 2.0, 3.0, 1.0]})
    np.testing.assert_allclose(plots.training_loss(losses, window=3).axes[0].lines[1].get_ydata(), [3, 3, 2, 2])
    table = pd.DataFrame({"task": "factuality", "label": ["F-ERR", "O"], "count": [1, 3]})
    assert [bar.get_width() for bar in plots.label_counts(table).axes[0].patches] == [0.25, 0.75]


def test_style_leaves_nothing_behind():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with plots.style():
        assert mpl.rcParams["figure.dpi"] == 110
    assert dict(mpl.rcParams) == before


def checkpoints(accuracy: list[float | None]) -> pd.DataFrame:
    rows = [
        {"id": "a", "task": "relevance", "setting": None, "step": step, "accuracy": value, "accuracy_noisy": 0.6 + step / 100}
        for step, value in zip((0, 10), accuracy, strict=True)
    ]
    return pd.DataFrame(rows).assign(route="steps", majority=0.65, segments=200, rm_seed=0)


def test_checkpoint_findings_compare_the_best_with_the_constant_answer(tmp_path):
    (clean,) = analysis.checkpoint_findings(checkpoints([0.5, 0.9]))
    assert "step 10) agrees with the true labels on 90.0% of 200" in clean
    assert "beats the constant answer's 65.0% (+25.0%; one standard error is 2.1%)" in clean
    (noisy,) = analysis.checkpoint_findings(checkpoints([None, None]).query("step == 0"))
    assert "the annotators' labels on 60.0%" in noisy
    assert "does not beat" in noisy
    checkpoints([0.5, 0.9]).to_csv(tmp_path / "reward_models.csv", index=False)
    assert list(analysis.load_checkpoints(tmp_path)["step"]) == [0, 10]
    assert len(plots.accuracies_by_step(analysis.load_checkpoints(tmp_path)).axes) == 1
    with pytest.raises(analysis.AnalysisError, match="run its study"):
        analysis.load_checkpoints(tmp_path / "none")


def test_the_page_runs_on_a_summary_with_failures(tmp_path, monkeypatch):
    made = world(inverted_u, rm_seeds=1, ppo_seeds=1, accuracies=ACCURACIES[:4])
    made.loc[[1, 6], "status"] = ["failed", "blocked"]
    made.loc[[1, 6], ["lm_performance_final", "lm_performance_best_logged"]] = np.nan
    written(made, tmp_path)
    checkpoints([0.5, 0.9]).to_csv(tmp_path / "reward_models.csv", index=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    names: dict = {}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"results": str(written(made, tmp_path)), "out": str(tmp_path / "out"), "bootstrap": 50}
    assert (tmp_path / "out" / "verdict.txt").read_text().startswith("Undecided")
    assert (tmp_path / "out" / "result.json").is_file()
    assert isinstance(names["p"], config.Analysis)
