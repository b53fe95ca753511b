import numpy as np
import pandas as pd
import pytest
from worlds import ACCURACIES, flat, inverted_u, rising, world, written

from paradox_utils import analysis, config, plots

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


def test_known_truths_and_ablations_are_kept_apart():
    made = pd.concat([world(rising, rm_seeds=1), world(flat, rm_seeds=1).assign(arm="known-paradox")])
    assert set(analysis.main_arms(made)["arm"]) == {"steps"}


def test_contrasts_pair_ppo_seeds_and_rank_by_accuracy():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.9, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.1, 0.2, 0.5, 0.7, 0.9, np.nan]  # steps 0, 40 (most accurate), 80; seeds 0 and 1
    found = analysis.contrasts(made)
    np.testing.assert_allclose(found.loc[0], [0, 0.9 - 0.5, (0.1 - 0.5 + 0.2 - 0.7) / 2])


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
