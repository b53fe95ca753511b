"""The paper's own points: redrawn as recorded, counted by hand, and set against worlds whose answers are known."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paradox_utils import files
from paradox_utils.analysis import published, published_text
from paradox_utils.figures import published as plots

FOLDER = files.ROOT / "book" / "published"
DRAWS = 2000


@pytest.fixture(scope="module")
def data():
    return published.load_published(FOLDER)


@pytest.fixture(scope="module")
def chance(data):
    return published.chance(data.markers, DRAWS, seed=1)


def markers(accuracy, performance, steps=None, task="relevance", policy="T5-small"):
    steps = range(len(accuracy)) if steps is None else steps
    table = {"policy": policy, "task": task, "rm_step": steps, "rm_accuracy": accuracy, "lm_performance": performance}
    return pd.DataFrame(table)


# --- loading ------------------------------------------------------------------------------------------------------------


def test_all_points_are_there(data):
    counts = data.markers.groupby(["policy", "task"]).size().unstack()
    assert len(data.markers) == 192
    assert (counts["relevance"] == 24).all()
    assert (counts[["factuality", "completeness"]] == 20).all(axis=None)
    assert len(data.curves) == 16_260
    assert [(policy, task) for policy, task, _ in published.pairs(data.markers)][:4] == [
        *(("T5-small", task) for task in ("relevance", "factuality", "completeness")),
        ("T5-base", "relevance"),
    ]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda file: file.unlink(), r"published_lm_performance\.csv: cannot be read \(No such file or directory\)"),
        (lambda file: file.write_text(""), r"published_lm_performance\.csv: is no table"),
        (lambda file: edit(file, "rm_accuracy", "accuracy"), r"performance\.csv: lacks the column rm_accuracy; restore it"),
        (lambda file: edit(file, "0.496", "high"), r"performance\.csv: line 3: rm_accuracy = 'high' is no number"),
        (lambda file: edit(file, "0.496", "0.497"), "markers of relevance name other RMs for one policy than for another"),
        (
            lambda file: keep(file, lambda rows: rows["rm_step"] < 100),
            "factuality: 2 RMs; what is said of them needs at least 4",
        ),
        (lambda file: keep(file, lambda rows: rows["rm_accuracy"] == 0.682), "needs at least 4 RMs, of different accuracy"),
    ],
)
def test_a_faulty_table_is_refused_in_one_sentence(tmp_path, fault, said):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    fault(tmp_path / "published_lm_performance.csv")
    with pytest.raises(published.PublishedError, match=said) as error:
        published.load_published(tmp_path)
    assert "\n" not in str(error.value)


def edit(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))


def keep(file, which):
    table = pd.read_csv(file)
    table[which(table)].to_csv(file, index=False)


# --- accuracies and ranks -----------------------------------------------------------------------------------------------


def test_clusters_by_hand():
    found = published.clusters(markers([0.5, 0.6, 0.66, 0.693, 0.7, 0.699], range(6))).iloc[0]
    assert (found["models"], found["low"], found["high"]) == (6, 0.5, 0.7)
    assert found["distinct"] == 5  # 50 60 66 69 70 70
    assert found["top_quarter"] == pytest.approx(4 / 6)  # from 0.65
    assert found["middle_half"] == pytest.approx(1 / 6)  # 0.55 to 0.65
    assert (found["gap_low"], found["gap_high"], found["top_low"]) == (0.5, 0.6, 0.66)


def test_standing_by_hand():
    found = published.standing(markers([0.5, 0.6, 0.65, 0.7, 0.8, 0.9], [1.0, 4.0, 6.0, 5.0, 2.0, 3.0])).iloc[0]
    assert (found["top_rank"], found["best_accuracy_rank"], found["regret"]) == (4, 4, 3.0)
    assert (found["low_third"], found["middle_third"], found["top_third"]) == (2.5, 5.5, 2.5)
    assert (found["top_step"], found["best_step"]) == (5, 2)


def test_standing_is_that_of_the_headline_table(data):
    found = published.standing(data.markers).set_index(["policy", "task"])
    recorded = data.headline.set_index(["policy", "task"]).loc[found.index]
    names = {"models": "n_rm", "top_step": "most_acc_rm_step", "top_rank": "most_acc_rank", "best_step": "best_rm_step"}
    for mine, theirs in (names | {"best_accuracy_rank": "best_acc_rank"}).items():
        assert (found[mine] == recorded[theirs]).all(), mine
    assert np.allclose(found["regret"], recorded["gap"], atol=1e-9)
    # in two pairs the two least accurate RMs have the same LM performance to ten digits: a tie here, an order there
    assert np.allclose(found["spearman"], recorded["spearman_acc_lm"], atol=1e-3)


def test_thirds_of_a_number_that_three_does_not_divide():
    assert [list(third) for third in published.thirds(np.array([0.9, 0.1, 0.5, 0.6, 0.7]))] == [[1, 2], [3, 4], [0]]


# --- surfaces -----------------------------------------------------------------------------------------------------------


def test_redrawn_surfaces_peak_where_the_figures_say(data):
    found = published.peaks(data.markers, data.headline).set_index(["policy", "task"])
    recorded = data.headline.set_index(["policy", "task"]).loc[found.index]
    assert np.allclose(found["peak"], recorded["surface_max"], atol=1e-8)
    assert np.allclose(found["peak_step"], recorded["surface_max_step"], atol=1e-5)
    assert np.allclose(found["peak_accuracy"], recorded["surface_max_accuracy"], atol=1e-8)
    assert list(found.index[found["impossible"]]) == [("T5-large", "factuality")]
    lowest = [np.nanmin(published.surface(models).values) for _, _, models in published.pairs(data.markers)]
    assert np.allclose(lowest, recorded["surface_min"], atol=1e-8)


def test_a_surface_goes_through_a_plane_and_foretells_it():
    random = np.random.default_rng(0)
    steps, accuracy = random.uniform(0, 1, 30), random.uniform(0.5, 0.7, 30)
    plane = markers(accuracy, 0.2 * steps + accuracy, steps)
    drawn = published.surface(plane)
    inside = np.isfinite(drawn.values)
    expected = 0.2 * drawn.steps[None, :] + drawn.accuracies[:, None]
    assert 0.5 < inside.mean() < 1
    assert np.allclose(drawn.values[inside], expected[inside], atol=1e-6)
    error_surface, error_mean, foretold = published.left_out_errors(plane)
    assert error_surface < 1e-6 < 0.03 < error_mean
    assert 15 < foretold < 30  # without the corners


def test_a_surface_over_noise_rises_above_it_and_foretells_nothing():
    random = np.random.default_rng(2)
    noise = markers(random.uniform(0.5, 0.7, 30), random.normal(size=30), random.uniform(0, 1000, 30))
    found = published.peaks(noise, pd.DataFrame(columns=["policy", "task", "surface_max"])).iloc[0]
    assert found["overshoot"] > 0
    assert found["error_surface"] > found["error_mean"]
    assert np.isnan(found["difference"])


# --- chance -------------------------------------------------------------------------------------------------------------


def test_dealing_anew_keeps_the_values_and_what_policies_share():
    performance = np.column_stack([np.arange(5.0), np.arange(5.0) ** 2, -np.arange(5.0)])
    random = np.random.default_rng(0)
    for world in (
        published.permuted(performance, 50, random),
        published.copula(np.arange(5.0), performance[:, :2], 50, random),
    ):
        assert (np.sort(world, axis=1) == np.sort(performance[:, : world.shape[2]], axis=0)).all()
    shuffled = published.permuted(performance, 50, random)
    assert (shuffled[..., 1] == shuffled[..., 0] ** 2).all()
    assert (shuffled[..., 2] == -shuffled[..., 0]).all()
    assert len({tuple(draw) for draw in shuffled[..., 0]}) > 25


def test_without_an_effect_the_probabilities_are_the_textbook_ones(data, chance):
    rows = chance.pairs[chance.pairs["null"] == "irrelevant"].set_index(["policy", "task"])
    for policy, task, models in published.pairs(data.markers):
        k, y, row = len(models), models["lm_performance"], rows.loc[(policy, task)]
        assert row["not_first"] == pytest.approx(1 - 1 / k, abs=0.02)
        assert row["rank_mean"] == pytest.approx((k + 1) / 2, abs=0.6)
        assert row["regret_mean"] == pytest.approx(y.max() - y.mean(), rel=0.06)


def test_the_copula_has_the_measured_correlations(data):
    random = np.random.default_rng(3)
    for task in ("relevance", "factuality", "completeness"):
        wide = data.markers[data.markers["task"] == task].pivot(
            index=["rm_step", "rm_accuracy"], columns="policy", values="lm_performance"
        )
        accuracy = wide.index.get_level_values("rm_accuracy").to_numpy()
        world = published.copula(accuracy, wide.to_numpy(), 800, random)
        drawn = np.mean([stats.spearmanr(np.column_stack([accuracy, draw])).statistic for draw in world], axis=0)
        measured = stats.spearmanr(np.column_stack([accuracy, wide])).statistic
        assert np.abs(drawn - measured).max() < 0.06


def test_an_effect_makes_the_most_accurate_first_more_often():
    missed = published.misses([-0.5, 0, 0.5, 0.9, 1], 20, 4000)
    assert missed[1] == pytest.approx(0.95, abs=0.015)
    assert (np.diff(missed) < 0).all()
    assert missed[-1] == 0
    assert published.misses([0], 3, 4000)[0] == pytest.approx(2 / 3, abs=0.03)


def test_joint_evidence_is_reproducible_and_counts_pairs(data, chance):
    again = published.chance(data.markers, DRAWS, seed=1)
    pd.testing.assert_frame_equal(again.joint, chance.joint)
    joint = chance.joint.set_index(["null", "statistic"])
    assert (joint["observed"].loc[("irrelevant", "not_first")], len(chance.pairs)) == (8, 18)
    assert joint["mean"].loc[("irrelevant", "not_first")] == pytest.approx(3 * (1 - 1 / 24) + 6 * (1 - 1 / 20), abs=0.05)
    assert joint["mean"].loc[("irrelevant", "thirds_sd")] == pytest.approx(0, abs=0.03)
    assert (joint["p"] + joint["p_low"] >= 1).all()


def test_correlations_by_hand():
    accuracy = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    found = published.outcomes(accuracy, np.array([[9.0, 8, 1, 2, 4, 3], [9.0, 8, 1, 1, 1, 1]])[:, :, None])
    assert found["spearman"][0].item() == pytest.approx(1 - 6 * 52 / 210)
    assert found["spearman_upper"][0].item() == pytest.approx(0.8)  # of the last four
    assert found["spearman_upper"][1].item() == 0  # no spread


def test_the_mean_correlation_is_set_against_whole_models_dealt_anew(data, chance):
    joint, random = chance.joint.set_index(["null", "statistic"]), np.random.default_rng(5)
    wide = [
        rows.pivot(index=["rm_step", "rm_accuracy"], columns="policy", values="lm_performance").reset_index("rm_accuracy")
        for _, rows in data.markers.groupby("task")
    ]

    def mean_rho(shuffle):
        return np.mean(
            [task.drop(columns="rm_accuracy").corrwith(shuffle(task["rm_accuracy"]), method="spearman") for task in wide]
        )

    dealt = [mean_rho(lambda a: pd.Series(random.permutation(a), a.index)) for _ in range(400)]
    row = joint.loc[("irrelevant", "spearman")]
    assert row["observed"] == pytest.approx(published.standing(data.markers)["spearman"].mean())
    assert row["observed"] == pytest.approx(mean_rho(lambda a: a))
    assert row[["low", "high"]].to_numpy(float) == pytest.approx(np.quantile(dealt, (0.025, 0.975)), abs=0.04)
    assert 0.0005 < row["p"] < 0.01
    assert joint.loc[("as measured", "spearman"), "mean"] == pytest.approx(row["observed"], abs=0.02)


def test_policies_that_agree_count_once():
    place, noise = np.linspace(0.5, 0.7, 21), np.random.default_rng(0).normal(size=21)
    same = pd.concat(markers(place, noise, policy=policy) for policy in published.POLICIES)
    row = published.chance(same, DRAWS, 0).joint.set_index(["null", "statistic"]).loc[("irrelevant", "spearman")]
    assert (row["high"] - row["low"]) / 2 == pytest.approx(
        1.96 / np.sqrt(20), rel=0.1
    )  # one correlation, not the mean of three


def simulated(shape, seed, noise=0.3, models=20):
    """Three policies on three tasks; LM performance is ``shape`` of the place by accuracy (0 to 1), and noise."""
    random, place = np.random.default_rng(seed), np.linspace(0, 1, models)
    return pd.concat(
        markers(0.5 + 0.2 * place, shape(place) + noise * random.normal(size=models), task=task, policy=policy)
        for task in ("relevance", "factuality", "completeness")
        for policy in published.POLICIES
    )


def test_a_true_paradox_is_found():
    paradox = published.chance(simulated(lambda x: 1 - 8 * (x - 0.5) ** 2, 0), 500, 0)
    joint = paradox.joint.set_index(["null", "statistic"])["p"]
    assert joint["irrelevant", "thirds_sd"] <= 0.01
    assert joint["irrelevant", "regret_sd"] <= 0.01
    assert "more than expected where accuracy does not matter" in published_text.conclusion(paradox)
    assert "evidence that less accuracy can be better" in published_text.conclusion(paradox)
    assert "middle third is better" in published_text.thirds(paradox)


def test_no_effect_is_not_found_more_often_than_by_chance():
    worlds = [published.chance(simulated(np.zeros_like, seed), 200, 0) for seed in range(30)]
    p = [world.joint.set_index(["null", "statistic"])["p"] for world in worlds]
    assert np.mean([values["irrelevant", "thirds_sd"] <= 0.1 for values in p]) <= 0.25
    assert 0.3 < np.mean([values["irrelevant", "place"] for values in p]) < 0.7
    assert np.mean([min(published_text.associated(world).values()) <= 0.1 for world in worlds]) <= 0.25
    assert np.mean([min(published_text.beyond(world).values()) <= 0.1 for world in worlds]) <= 0.25


def test_accuracy_that_always_helps_is_no_paradox():
    helps = published.chance(simulated(lambda x: x, 0), 500, 0)
    joint = helps.joint.set_index(["null", "statistic"])
    assert joint["p_low"]["irrelevant", "place"] <= 0.01
    assert joint["p"]["as measured", "place"] > 0.05
    assert "no evidence that less accuracy is better, and evidence against it" in published_text.conclusion(helps)


def test_accuracy_that_always_harms_is_said():
    harms = published.chance(simulated(lambda x: -x, 0), 500, 0)
    assert "Over the whole range of accuracy less accurate RMs tend to have better policies" in published_text.conclusion(harms)
    assert "So the points are evidence that less accuracy can be better." in published_text.conclusion(harms)


def test_low_accuracy_alone_that_harms_says_nothing_of_the_top():
    floor = published.chance(simulated(lambda x: np.minimum(x, 0.3), 3, noise=0.05), 500, 0)
    assert "than expected where accuracy does not matter" not in published_text.conclusion(floor)
    assert "matters as much as measured, which an effect that levels off explains as well" in published_text.conclusion(floor)
    assert published_text.conclusion(floor).endswith("little evidence, either way, on moderate against high accuracy.")


# --- training curves ----------------------------------------------------------------------------------------------------


def test_variance_parts_by_hand():
    parts = published.variance_parts(np.array([0, 1, 2, 3]), np.array([1.0, -1.0, 1.0, -1.0]))
    assert (parts["mean"], parts["variance"]) == (0, 1)
    assert parts["trend"] == pytest.approx(0.2)  # r = −2 / √5 · ½
    assert parts["noise"] == pytest.approx(0.8)  # ½ · 4 would be 2: no more than what the line leaves
    assert parts["slow"] == pytest.approx(0)


def test_variance_parts_find_what_was_put_in():
    random, x = np.random.default_rng(0), np.arange(4000.0)
    line, wave, noise = np.sqrt(12) * x / 4000, np.sqrt(2) * np.cos(8 * np.pi * x / 4000), random.normal(0, np.sqrt(2), 4000)
    parts = published.variance_parts(x, line + wave + noise)  # variances 1, 1, 2
    assert parts["variance"] == pytest.approx(4, rel=0.05)
    assert [parts[name] for name in ("trend", "slow", "noise")] == pytest.approx([0.25, 0.25, 0.5], abs=0.03)
    part = random.choice(4000, 500, replace=False)  # a sample of the batches, as the figures have
    part.sort()
    parts = published.variance_parts(x[part], (line + wave + noise)[part])
    assert [parts[name] for name in ("trend", "slow", "noise")] == pytest.approx([0.25, 0.25, 0.5], abs=0.08)
    assert np.abs(published.smooth(x, line) - line)[400:-400].max() < 0.01


@pytest.mark.parametrize(
    ("step", "value"), [([0, 1], [0, 1]), ([0, 2, 1], [0, 1, 2]), ([0, 1, 2], [1, 1, 1]), ([1, 1, 1], [0, 1, 2])]
)
def test_a_curve_without_course_is_refused(step, value):
    with pytest.raises(ValueError, match=r"a curve of [23] points: need at least 3"):
        published.variance_parts(np.array(step), np.array(value))


def test_curves_give_the_paper_s_bars(data):
    found = published.curve_variances(data.curves, data.training)
    assert len(found) == 36
    assert np.allclose(found[["trend", "slow", "noise"]].sum(axis=1), 1)
    assert (found[["trend", "slow", "noise"]] >= -1e-12).all(axis=None)
    larger = found[found["policy"] != "T5-small"]  # whose bars are of another sample than its points
    assert np.allclose(larger["variance"], larger["variance_bar"], rtol=1e-6)
    assert np.allclose(larger["mean"], larger["mean_bar"], atol=1e-6)


# --- words and figures --------------------------------------------------------------------------------------------------


def test_sentences_say_what_the_tables_say(data, chance):
    standing, peaks = published.standing(data.markers), published.peaks(data.markers, data.headline)
    assert "has the best policy in 1 of 9 pairs; its rank goes from 1 to 17" in published_text.standing(standing)
    assert "(T5-large, factuality: 1.029)" in published_text.peaks(peaks)
    assert "**Factuality**: 20 RMs from 0.638 to 0.773" in published_text.clusters(published.clusters(data.markers))
    assert published_text.chance(chance).count("\n") == 1
    numbers = published_text.numbers(standing, peaks, chance)
    assert (numbers["pairs"], numbers["missed"], numbers["missed_by_chance"]) == (9, 8, pytest.approx(8.6, abs=0.11))
    assert all(type(value) in (int, float) for value in numbers.values())
    first = standing.assign(top_rank=1, regret=0.0)
    assert published_text.shown(first) == "In all 9 pairs the most accurate RM has the best policy."


def judged(**p):
    "Two worlds with p = 0.5 throughout, except the given one-sided p in the world where accuracy is irrelevant."
    rows = [
        {"null": null, "statistic": name, "observed": -1.0 if low else 1.0, "mean": 0.0, "low": -0.1, "high": 0.1}
        | {"p": 1 - low if low else high, "p_low": low or 1 - high}
        for null in published.NULLS
        for name in published.JOINT
        for high, low in [(p.get(name, 0.5) if null == "irrelevant" else 0.5, p.get(f"{name}_low", 0) * (null == "irrelevant"))]
    ]
    return published.Chance(pd.DataFrame({"null": published.NULLS}), pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({}, "no evidence that less accuracy is better. They are little evidence against it either."),
        ({"regret_sd": 0.03}, "are within what one run for each RM shows anyway"),  # the smallest of six
        ({"regret_sd": 0.003}, "Its regret is more than expected where accuracy does not matter, which noise of single runs"),
        ({"regret_sd": 0.003, "thirds_sd": 0.001}, "Its regret and the lead of the middle third on the top third are more"),
        ({"spearman": 0.02}, "no association with accuracy is clear (mean ρ = +1.00, two-sided p = 0.080)"),
        ({"spearman": 0.002}, "some evidence that low accuracy is worse, and little evidence, either way, on moderate"),
        ({"spearman": 0.002, "spearman_upper": 0.02}, "no evidence that less accuracy is better, and evidence against it."),
        ({"spearman_low": 0.002}, "whole range of accuracy less accurate RMs tend to have better policies (mean ρ = −1.00"),
        ({"spearman": 0.002, "spearman_upper_low": 0.02}, "less accuracy can be better, and evidence against it."),
        ({"thirds_sd": 0.001, "spearman": 0.001}, "less accuracy can be better, and evidence against it."),
    ],
)
def test_the_conclusion_follows_from_corrected_p(p, said):
    text = published_text.conclusion(judged(**p))
    assert said in text
    assert "1 pair." in text  # of one, not of "1 pairs"


def test_sentences_about_one_pair_and_about_nothing(data):
    one = published.standing(data.markers).query("policy == 'T5-base' and task == 'completeness'")
    assert "in 1 of 1 pair; its rank is 1." in published_text.standing(one)
    assert published_text.shown(one) == "In the one pair the most accurate RM has the best policy."
    plain = published.peaks(data.markers, data.headline).head(1).assign(near=0, impossible=False, rescaled=lambda t: t["peak"])
    text = published_text.peaks(plain.assign(overshoot=-0.1, difference=np.nan, error_surface=np.nan))
    assert text.startswith("No maxima were read from the figures. 0 of 1 surface rise above every marker, and 1 peaks where")
    assert "No surface of a share exceeds 1. No surface can be drawn without one of its markers." in text
    assert text.endswith("change by up to 0.00.")
    assert "nan" not in text
    two = plain.assign(impossible=True).loc[[0, 0]]
    assert "but 2 surfaces do (" in published_text.impossible(two)
    curves = published.curve_variances(data.curves, data.training)
    assert "curve" not in published_text.variances(curves[curves["metric"] == "none"])
    lone = curves[(curves["rm_role"] == "most_accurate") & (curves["policy"] == "T5-large")].head(1)
    assert "in 0 of 0 pairs" in published_text.variances(lone)
    assert published_text.bars(lone) == "The points of 1 of 1 curve give the paper's mean and variance to a millionth."
    assert published_text.bars(lone.assign(variance_bar=np.nan)).startswith("The points of 0 of 0 curves")
    off = published_text.bars(lone.assign(variance_bar=lone["variance"] / 1.5))
    assert "1 curve of T5-large is off by up to 0.00 in the mean and 50 % in the variance" in off
    aside = published_text.bars(lone.assign(mean_bar=lone["mean"] + 0.2))
    assert "1 curve of T5-large is off by up to 0.20 in the mean and 0 % in the variance" in aside
    rewards = curves[curves["metric"] == "raw_reward"].pivot(index=["policy", "task"], columns="rm_role", values="mean")
    higher = (rewards["best_performing"] > rewards["most_accurate"]).sum()
    assert f"the best-performing RM's curve has the higher mean in {higher} of 9 pairs" in published_text.variances(curves)


@pytest.mark.parametrize(("value", "text"), [(-0.001, "+0.00"), (-0.5, "−0.50"), (0.27, "+0.27")])
def test_signed_numbers(value, text):
    assert published_text._signed(value) == text


def test_figures_have_a_panel_a_pair(data, chance):
    assert len(plots.points(data.markers).axes) == 9
    assert len(plots.clusters(data.markers).axes) == 3
    assert len(plots.ranks(chance).axes) == 2
    few = data.curves.groupby(["policy", "task", "rm_role", "metric"]).head(50)
    assert len(plots.curves(few).axes) == 9
    assert len(plots.variance_parts(published.curve_variances(few, data.training)).axes) == 2
