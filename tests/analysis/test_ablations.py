"""Ablations against the study's own setting, run by run: by hand, and on made studies."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paradox_utils.analysis import ablations, statistics
from paradox_utils.analysis.ablations import ABLATIONS, BASE
from paradox_utils.analysis.verdict import MARGIN
from paradox_utils.figures import study as draw
from tests.worlds import curves_of, flat, lost, nested, offsets, probed, run_page, written

THREE = (0.60, 0.75, 0.90)
KL = {BASE: 0.3, "ablation-kl-low": 0.1, "ablation-kl-high": 0.7}
HAND = [[0.5, 0.6, 0.7], [0.9, 0.6, 0.7], [0.6, 0.7, 0.7]]  # the most accurate is first, second, tied
OTHER = [[0.5, 0.9, 0.8], [0.9, 0.6, 0.8], [0.6, 0.7, 0.75]]  # and here second, second, first


def base(outcome=None):
    """Three trajectories of three reward models; outcomes [trajectory, rank of accuracy] where given."""
    made = probed(nested(flat, rm_seeds=3, accuracies=THREE, tasks=("relevance",), noise=0.05))
    made["rm_step"] += 7 * made["rm_seed"]  # the steps of a study differ between trajectories
    if outcome is not None:
        made["lm_performance_final"] = np.ravel(outcome)
    return made.assign(arm=BASE, id="b" + made["id"])


def changed(of, arm, shifts):
    """Runs of an ablation: each trajectory's LM performance is that of the base plus its own shift."""
    final = of["lm_performance_final"] + of["rm_seed"].map(dict(enumerate(shifts)))
    return of.assign(arm=arm, id=arm + of["id"], lm_performance_final=final)


def tilted(of, arm, outcome):
    """Runs of an ablation with LM performances of their own [trajectory, rank of accuracy]."""
    return changed(of, arm, (0, 0, 0)).assign(lm_performance_final=np.ravel(outcome))


def parameters_of(summary):
    """What PPO was run with, by run id."""
    arms, published = summary.set_index("id")["arm"], ("ablation-kl-estimator", "ablation-published-sampling")
    estimator = np.where(arms.isin(published), "full-softmax", "sampling")
    return pd.DataFrame({"kl_coefficient": arms.map(KL).fillna(0.3), "log_probabilities": estimator})


def effects(*parts):
    return ablations.effects(ablations.pairs(pd.concat(parts)))


def test_pairs_are_of_the_same_reward_model_and_seed():
    own = base()
    other = changed(own, "ablation-mean", (0.1, 0.1, 0.1)).sample(frac=1, random_state=0)
    steps = own.assign(arm="steps", lm_performance_final=0.0)  # no base, though the reward models are the same
    found = ablations.pairs(pd.concat([other, steps, own]))
    assert found["arm"].value_counts().to_dict() == {"ablation-mean": 9, BASE: 9}
    shift = (found["lm_performance_final"] - found["base"]).to_numpy()
    np.testing.assert_allclose(shift, np.where(found["arm"] == BASE, 0, 0.1), atol=1e-12)
    np.testing.assert_allclose(found["accuracy"], found["rm_accuracy"])


@pytest.mark.parametrize("key", ["policy", "rm_seed", "rm_step", "ppo_seed", "task"])
def test_what_has_no_partner_is_left_out(key):
    own = base()
    other = changed(own, "ablation-mean", (0.1, 0.1, 0.1))
    other.loc[0, key] = "large" if key in ("policy", "task") else 99
    assert ablations.pairs(pd.concat([own, other]))["arm"].value_counts()["ablation-mean"] == 8


def test_failed_runs_have_no_pair():
    own, other = base(), changed(base(), "ablation-mean", (0.1, 0.1, 0.1))
    own.loc[0, "status"], other.loc[[3, 4], "status"] = "failed", "blocked"
    found = ablations.pairs(pd.concat([own, other]))
    assert found["arm"].value_counts().to_dict() == {BASE: 8, "ablation-mean": 6}
    noisy = ablations.pairs(own.assign(rm_accuracy=np.nan))
    assert noisy["accuracy"].notna().all()


@pytest.mark.heavy
def test_a_known_shift_is_recovered_with_its_interval():
    own = base()
    found = effects(own, changed(own, "ablation-mean", (0.08, 0.10, 0.12))).loc["ablation-mean"]
    row, half = found.loc["LM performance"], 4.302653 * 0.02 / np.sqrt(3)  # t(2), over trajectories
    assert row[["change", "low", "high"]].tolist() == pytest.approx([0.1, 0.1 - half, 0.1 + half], abs=1e-6)
    assert row[["base", "value"]].tolist() == pytest.approx(own["lm_performance_final"].mean() + np.array([0, 0.1]))
    assert row["trajectories"] == 3


def test_what_accuracy_does_is_contrasted_by_hand():
    own = base(HAND).sample(frac=1, random_state=0)
    found = ablations.contrasts(ablations.pairs(pd.concat([tilted(base(HAND), "ablation-mean", OTHER), own])))
    found = found.set_index(["arm", "measure", "rm_seed"]).sort_index()[["value", "base"]]
    np.testing.assert_allclose(found.loc["ablation-mean", "slope"], [[0.3, 0.2], [-0.1, -0.2], [0.15, 0.1]], atol=1e-12)
    np.testing.assert_allclose(found.loc["ablation-mean", "lead"], [[-0.1, 0.1], [-0.1, -0.2], [0.05, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.loc[BASE]["value"], found.loc[BASE]["base"])


@pytest.mark.heavy
def test_a_known_change_of_what_accuracy_does_is_recovered_with_its_interval_and_p():
    """It is added to the most accurate runs, and differs by trajectory; the mean shift is left at zero."""
    own = base(np.full((3, 3), 0.5))
    tilt = np.outer([0.16, 0.20, 0.24], [-0.5, 0.0, 0.5])
    found = effects(own, tilted(own, "ablation-mean", 0.5 + tilt)).loc["ablation-mean"]
    half = 4.302653 * 0.04 / np.sqrt(3)  # t(2), over trajectories
    assert found.loc["slope", ["change", "low", "high"]].tolist() == pytest.approx([0.2, 0.2 - half, 0.2 + half])
    assert found.loc["lead", ["change", "low", "high"]].tolist() == pytest.approx([0.1, 0.1 - half / 2, 0.1 + half / 2])
    p = 2 * stats.t.sf(0.2 / (0.04 / np.sqrt(3)), 2)
    assert found["p"].tolist() == pytest.approx([1, 2 * p, 2 * p])  # Holm's, of two tests
    assert found.loc["LM performance", "change"] == pytest.approx(0)


@pytest.mark.heavy
def test_p_values_are_corrected_for_the_tests_of_their_question():
    own, random = base(), np.random.default_rng(0)
    arms = ["ablation-mean", "ablation-normalised", "ablation-kl-low"]
    parts = [tilted(own, arm, own["lm_performance_final"] + random.normal(0.1, 0.05, 9)) for arm in arms]
    found, raw = effects(own, *parts)["p"], {}
    for key, rows in ablations.contrasts(ablations.pairs(pd.concat([own, *parts]))).groupby(["arm", "measure"], sort=False):
        raw[key] = stats.ttest_1samp(rows["value"] - rows["base"], 0).pvalue if key[0] != BASE else np.nan
    for measures in (["LM performance"], ["slope", "lead"]):
        keys = [(arm, measure) for arm in arms for measure in measures]
        assert found.loc[keys].tolist() == pytest.approx(statistics.holm([raw[key] for key in keys]))


@pytest.mark.heavy
def test_rounding_is_no_change():
    """A shift that is the same everywhere leaves differences of the last digit, which must not pass for a certain change."""
    found = effects(base(HAND), changed(base(HAND), "ablation-mean", (0.1, 0.1, 0.1))).loc["ablation-mean"]
    assert found.loc[["slope", "lead"], "change"].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found.loc[["slope", "lead"], "p"].tolist() == [1, 1]


@pytest.mark.heavy
def test_trajectories_without_all_their_reward_models_say_nothing_of_accuracy():
    own, other = base(HAND), changed(base(HAND), "ablation-mean", (0.1, 0.2, 0.3))
    own.loc[2, "status"], other.loc[3, "status"] = "failed", "blocked"  # the most accurate's base, and a least accurate
    found = effects(own, other).loc["ablation-mean"]
    assert found["trajectories"].tolist() == [3, 1, 1]
    assert found.loc[["slope", "lead"], ["low", "high", "p"]].isna().all(axis=None)
    made = pd.concat([own, other])
    runs = ablations.described(ablations.pairs(made), parameters_of(made))
    assert runs.loc["ablation-mean", ["runs", "models", "planned"]].tolist() == [7, 7, 9]
    other.loc[6, "status"] = "blocked"
    assert effects(own, other).loc["ablation-mean"].index.tolist() == ["LM performance"]


@pytest.mark.heavy
def test_one_reward_model_a_trajectory_has_nothing_to_be_compared_with():
    own = base(HAND).iloc[[2, 5, 8]]
    assert effects(own, changed(own, "ablation-mean", (0.1, 0.1, 0.1))).loc["ablation-mean"].index.tolist() == [
        "LM performance"
    ]


def test_the_most_accurate_is_counted_by_hand():
    made = pd.concat([base(HAND), tilted(base(HAND), "ablation-mean", OTHER)])
    found = ablations.described(ablations.pairs(made.assign(greedy_length_final=20.0)), parameters_of(made))
    assert found["first"].to_dict() == {BASE: 2, "ablation-mean": 1}
    assert found.loc["ablation-mean", ["runs", "length"]].tolist() == [9, 20]
    gap = base([[0.9, 0.6, 0.7]] * 3)
    gap.loc[[1, 2], "status"] = "failed"  # of the first trajectory, the least accurate is left: it is not counted
    assert ablations.described(ablations.pairs(gap), parameters_of(gap)).loc[BASE, "first"] == 0


def test_the_kl_of_another_estimator_is_left_blank():
    own = base().assign(kl_final=2.0)
    made = pd.concat([own, *(changed(own, arm, (0, 0, 0)) for arm in ("ablation-kl-low", "ablation-kl-estimator"))])
    found = ablations.described(ablations.pairs(made), parameters_of(made))["KL"]
    assert found[[BASE, "ablation-kl-low"]].tolist() == [2, 2]
    assert np.isnan(found["ablation-kl-estimator"])
    unknown = ablations.described(ablations.pairs(made), pd.DataFrame())["KL"]
    assert unknown.notna().tolist() == [True, False, False]


def test_values_are_read_from_the_parameters_of_a_study():
    own = base()
    made = pd.concat([own, *(changed(own, arm, (0, 0, 0)) for arm in ("ablation-kl-low", "ablation-mean"))])
    found = ablations.named(made, parameters_of(made))
    assert (found[3].base, found[3].arms) == ("0.3", {"ablation-kl-low": "0.1", "ablation-kl-high": "kl high"})
    assert [one.arms for one in found[:3]] == [one.arms for one in ABLATIONS[:3]]
    unknown = ablations.named(made, pd.DataFrame())[3]
    assert (unknown.base, unknown.arms["ablation-kl-low"]) == ("the study's own", "kl low")


# --- the figure and the page ---


def test_the_figure_draws_runs_and_means_of_ranks():
    own = base(HAND)
    made = pd.concat([own, changed(own, "ablation-kl-high", (0.1, 0.1, 0.1))])
    pairs, of = ablations.pairs(made), ablations.named(made, parameters_of(made))[3]
    drawing = draw.ablation(pairs, of)
    (axis,) = drawing.panels
    assert [mark.get_label() for mark in drawing.legend] == ["0.3", "kl low", "0.7"]
    grey, missing, high = axis.lines
    means = np.array([(0.5 + 0.9 + 0.6) / 3, (0.6 + 0.6 + 0.7) / 3, 0.7])
    np.testing.assert_allclose(grey.get_ydata(), means)
    np.testing.assert_allclose(high.get_ydata(), means + 0.1)
    assert len(missing.get_xdata()) == 0
    np.testing.assert_allclose(offsets(axis), pairs[["accuracy", ablations.OUTCOME]])


def every_ablation(shifts=(0.1, 0.11, 0.12)):
    own = base()
    arms = [arm for one in ABLATIONS for arm in one.arms]
    return pd.concat([own, *(changed(own, arm, shifts) for arm in arms)], ignore_index=True)


@pytest.mark.heavy
def test_the_page_runs_on_every_ablation(tmp_path):
    made = every_ablation()
    parameters_of(made).to_csv(written(made, tmp_path) / "parameters.csv.gz")
    names = run_page("11", tmp_path, tmp_path / "out")
    assert (len(names["pairs"]), len(names["effects"])) == (72, 21)
    assert {"KL coefficient: 0.1", "KL coefficient: 0.7"} < set(names["words"].values())
    assert names["finding"].startswith("Of 7 changes of LM performance 7 are clear; of 14 changes of what accuracy does 0 are")
    assert f"and 14 are smaller than {MARGIN}" in names["finding"]
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.heavy
def test_the_page_runs_where_arms_are_missing_and_runs_have_failed(tmp_path):
    made = every_ablation()
    made = made[~made["arm"].isin(["ablation-mean", "ablation-kl-low"])]
    made = lost(lost(made, made.index[made["arm"] == "ablation-normalised"]), made.index[:1], "failed")
    curves_of(made).to_csv(written(made, tmp_path) / "curves.csv", index=False)
    names = run_page("11", tmp_path)
    assert set(names["effects"].index.get_level_values("arm")) == {
        *("ablation-probability", "ablation-kl-high", "ablation-kl-estimator", "ablation-published-sampling")
    }
    assert names["effects"].loc["ablation-probability", "trajectories"].tolist() == [3, 2, 2]


@pytest.mark.heavy
@pytest.mark.parametrize("kept", ["steps", "ablation-mean"])
def test_the_page_runs_where_no_ablation_or_no_base_has_finished(kept, tmp_path):
    assert "Of 0 changes" in run_page("11", written(base().assign(arm=kept), tmp_path))["finding"]
