"""The paper's own points: redrawn as recorded, counted by hand, and set against worlds whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paradox_utils import files
from paradox_utils.analysis import published
from paradox_utils.figures import published as plots

BOOK = files.ROOT / "book"
TASKS = ["relevance", "factuality", "completeness"]
DRAWS = 2000


@pytest.fixture(scope="module")
def data():
    return published.load_published(BOOK / "published")


@pytest.fixture(scope="module")
def chance(data):
    return published.chance(data.markers, DRAWS, seed=1)


def markers(accuracy, performance, steps=None, task="relevance", policy="T5-small"):
    steps = range(len(accuracy)) if steps is None else steps
    table = {"policy": policy, "task": task, "rm_step": steps, "rm_accuracy": accuracy, "lm_performance": performance}
    return pd.DataFrame(table)


# --- the tables and the book --------------------------------------------------------------------------------------------


def test_all_points_are_there_in_the_paper_s_order(data):
    pairs = [(policy, task) for policy in ("T5-small", "T5-base", "T5-large") for task in TASKS]
    for table in (data.markers, data.headline, data.training, data.curves):
        assert list(table[published.PAIR].drop_duplicates().itertuples(index=False, name=None)) == pairs
    assert (len(data.markers), len(data.headline), len(data.training), len(data.curves)) == (192, 9, 36, 16_260)
    models = data.markers.pivot(index=["task", "rm_step"], columns="policy", values="rm_accuracy")
    assert models.groupby("task").size().to_dict() == {"relevance": 24, "factuality": 20, "completeness": 20}
    assert (models.nunique(axis=1) == 1).all()  # the policies of a task share its RMs
    assert np.isfinite(pd.concat([data.markers, data.curves])[["lm_performance", "value"]].sum()).all()


def test_what_the_tables_say_of_themselves(data):
    standing, peaks = published.standing(data.markers), published.peaks(data.markers)
    assert [list(standing["top_rank"]), list(standing["models"])] == [[11, 11, 5, 2, 17, 1, 7, 7, 5], [24, 20, 20] * 3]
    exceeding = peaks[(peaks["peak"] > 1) & (peaks["task"] != "completeness")]
    assert exceeding[published.PAIR].to_numpy().tolist() == [["T5-large", "factuality"]]
    lowest = data.curves[data.curves["metric"] == "kl"].groupby([*published.PAIR, "rm_role"])["value"].min()
    assert ((lowest < 0).sum(), len(lowest)) == (15, 18)


# --- the most accurate RM among its peers -------------------------------------------------------------------------------


def test_standing_by_hand():
    found = published.standing(markers([0.5, 0.6, 0.65, 0.7, 0.8, 0.9], [1.0, 4.0, 6.0, 5.0, 2.0, 3.0])).iloc[0]
    assert (found["top_rank"], found["best_accuracy_rank"], found["regret"]) == (4, 4, 3.0)
    assert (found["low_third"], found["middle_third"], found["top_third"]) == (2.5, 5.5, 2.5)
    assert (found["top_accuracy"], found["best_accuracy"]) == (0.9, 0.65)
    assert found["thirds_apart"] == pytest.approx(0.175)


def test_standing_is_that_of_the_headline_table(data):
    found = published.standing(data.markers).set_index(published.PAIR)
    recorded = data.headline.set_index(published.PAIR).loc[found.index]
    names = {"models": "n_rm", "top_accuracy": "most_acc_rm_accuracy", "top_rank": "most_acc_rank"}
    names |= {"best_accuracy": "best_rm_accuracy", "best_accuracy_rank": "best_acc_rank"}
    for mine, theirs in names.items():
        assert (found[mine] == recorded[theirs]).all(), mine
    assert np.allclose(found["regret"], recorded["gap"], atol=1e-9)
    # in two pairs the two least accurate RMs have the same LM performance to ten digits: a tie here, an order there
    assert np.allclose(found["spearman"], recorded["spearman_acc_lm"], atol=1e-3)


def test_thirds_of_a_number_that_three_does_not_divide():
    assert [list(third) for third in published.thirds(np.array([0.9, 0.1, 0.5, 0.6, 0.7]))] == [[1, 2], [3, 4], [0]]


# --- surfaces -----------------------------------------------------------------------------------------------------------


def test_redrawn_surfaces_peak_where_the_figures_say(data):
    found = published.peaks(data.markers).set_index(published.PAIR)
    recorded = data.headline.set_index(published.PAIR).loc[found.index]
    assert np.allclose(found["peak"], recorded["surface_max"], atol=1e-8)
    assert np.allclose(found["peak_step"], recorded["surface_max_step"], atol=1e-5)
    assert np.allclose(found["peak_accuracy"], recorded["surface_max_accuracy"], atol=1e-8)
    lowest = [np.nanmin(published.surface(rows).values) for _, rows in data.markers.groupby(published.PAIR, sort=False)]
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
    error_surface, error_mean = published.left_out_errors(plane)
    assert error_surface < 1e-6 < 0.03 < error_mean


def test_a_surface_over_noise_rises_above_it_and_foretells_nothing():
    random = np.random.default_rng(2)
    noise = markers(random.uniform(0.5, 0.7, 30), random.normal(size=30), random.uniform(0, 1000, 30))
    found = published.peaks(noise).iloc[0]
    assert found["peak"] > found["highest_marker"]
    assert found["error_surface"] > found["error_mean"]


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


@pytest.mark.heavy
def test_without_an_effect_the_probabilities_are_the_textbook_ones(data, chance):
    for pair, models in data.markers.groupby(published.PAIR, sort=False):
        k, y, row = len(models), models["lm_performance"], chance.pairs.loc[("irrelevant", *pair)]
        assert row["not_first"] == pytest.approx(1 - 1 / k, abs=0.02)
        assert row["rank_mean"] == pytest.approx((k + 1) / 2, abs=0.6)
        assert row["regret_sd_mean"] == pytest.approx((y.max() - y.mean()) / y.std(), rel=0.06)


@pytest.mark.heavy
def test_the_copula_has_the_measured_correlations(data):
    random = np.random.default_rng(3)
    for task in TASKS:
        wide = data.markers[data.markers["task"] == task].pivot(
            index=["rm_step", "rm_accuracy"], columns="policy", values="lm_performance"
        )
        accuracy = wide.index.get_level_values("rm_accuracy").to_numpy()
        world = published.copula(accuracy, wide.to_numpy(), 800, random)
        drawn = np.mean([stats.spearmanr(np.column_stack([accuracy, draw])).statistic for draw in world], axis=0)
        measured = stats.spearmanr(np.column_stack([accuracy, wide])).statistic
        assert np.abs(drawn - measured).max() < 0.06


def test_an_effect_makes_the_most_accurate_first_more_often():
    missed = published.misses([-0.5, 0, 0.5, 0.9, 1], 20, 4000, seed=0)
    assert missed[1] == pytest.approx(0.95, abs=0.015)
    assert (np.diff(missed) < 0).all()
    assert missed[-1] == 0
    assert published.misses([0], 3, 4000, seed=0)[0] == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.heavy
def test_joint_evidence_is_reproducible_and_counts_pairs(data, chance):
    again = published.chance(data.markers, DRAWS, seed=1)
    pd.testing.assert_frame_equal(again.joint, chance.joint)
    observed, mean, rho = chance.joint["observed"], chance.joint["mean"], published.standing(data.markers)["spearman"].mean()
    assert (observed["irrelevant", "not_first"], len(chance.pairs)) == (8, 18)
    assert mean["irrelevant", "not_first"] == pytest.approx(3 * (1 - 1 / 24) + 6 * (1 - 1 / 20), abs=0.05)
    assert mean["irrelevant", "thirds_sd"] == pytest.approx(0, abs=0.03)
    assert observed["irrelevant", "spearman"] == pytest.approx(rho)
    assert mean["as measured", "spearman"] == pytest.approx(rho, abs=0.02)
    assert 0.0005 < chance.joint["p"]["irrelevant", "spearman"] < 0.01
    assert (chance.joint["p"] + chance.joint["p_low"] >= 1).all()


def test_correlations_by_hand():
    accuracy = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    found = published.outcomes(accuracy, np.array([[9.0, 8, 1, 2, 4, 3], [9.0, 8, 1, 1, 1, 1]])[:, :, None])
    assert found["spearman"][0].item() == pytest.approx(1 - 6 * 52 / 210)
    assert found["spearman_upper"][0].item() == pytest.approx(0.8)  # of the last four
    assert found["spearman_upper"][1].item() == 0  # no spread


@pytest.mark.heavy
def test_policies_that_agree_count_once():
    place, noise = np.linspace(0.5, 0.7, 21), np.random.default_rng(0).normal(size=21)
    same = pd.concat(markers(place, noise, policy=policy) for policy in ("T5-small", "T5-base", "T5-large"))
    row = published.chance(same, DRAWS, 0).joint.loc[("irrelevant", "spearman")]
    half = (row["high"] - row["low"]) / 2
    assert half == pytest.approx(1.96 / np.sqrt(20), rel=0.1)  # of one correlation, not of the mean of three


def simulated(shape, seed, noise=0.3, models=20):
    """Three policies on three tasks; LM performance is ``shape`` of the place by accuracy (0 to 1), and noise."""
    random, place = np.random.default_rng(seed), np.linspace(0, 1, models)
    return pd.concat(
        markers(0.5 + 0.2 * place, shape(place) + noise * random.normal(size=models), task=task, policy=policy)
        for task in TASKS
        for policy in ("T5-small", "T5-base", "T5-large")
    )


@pytest.mark.heavy
def test_a_true_paradox_is_found():
    joint = published.chance(simulated(lambda x: 1 - 8 * (x - 0.5) ** 2, 0), 500, 0).joint
    assert joint["p"]["irrelevant", "thirds_sd"] <= 0.01
    assert joint["p"]["irrelevant", "regret_sd"] <= 0.01
    assert joint["observed"]["irrelevant", "thirds_sd"] > 0
    assert "more than noise of single runs" in published.conclusion(joint)
    assert "evidence that less accuracy can be better" in published.conclusion(joint)


@pytest.mark.slow
def test_no_effect_is_not_found_more_often_than_by_chance():
    worlds = [published.chance(simulated(np.zeros_like, seed), 200, 0).joint for seed in range(20)]
    assert np.mean([joint["p"]["irrelevant", "thirds_sd"] <= 0.1 for joint in worlds]) <= 0.25
    assert 0.3 < np.mean([joint["p"]["irrelevant", "place"] for joint in worlds]) < 0.7
    for names in (published.FAILURE, published.ASSOCIATION):
        smallest = [joint.loc[pd.IndexSlice[:, names], "corrected"].min() for joint in worlds]
        assert np.mean(np.array(smallest) <= 0.1) <= 0.25


@pytest.mark.heavy
def test_accuracy_that_always_helps_is_no_paradox():
    joint = published.chance(simulated(lambda x: x, 0), 500, 0).joint
    assert joint["p_low"]["irrelevant", "place"] <= 0.01
    assert joint["p"]["as measured", "place"] > 0.05
    assert "no evidence that less accuracy is better, and evidence against it" in published.conclusion(joint)


@pytest.mark.heavy
def test_low_accuracy_alone_that_harms_says_nothing_of_the_top():
    joint = published.chance(simulated(lambda x: np.minimum(x, 0.3), 3, noise=0.05), 500, 0).joint
    assert joint["corrected"]["irrelevant"][published.FAILURE].min() > 0.05 >= joint["corrected"]["as measured"].min()
    assert "unless it levels off" in published.conclusion(joint)
    assert published.conclusion(joint).endswith("little evidence, either way, on moderate against high accuracy.")


def judged(**p):
    "Two worlds with p = 0.5 throughout, except the given one-sided p in the world where accuracy is irrelevant."
    names = (*published.FAILURE, *published.ASSOCIATION)
    joint = pd.DataFrame({"p": 0.5, "p_low": 0.5, "observed": 1.0}, pd.MultiIndex.from_product([published.NULLS, names]))
    for name, value in p.items():
        key = "irrelevant", name.removesuffix("_low")
        low = name.endswith("_low")
        joint.loc[key] = (1 - value, value, -1.0) if low else (value, 1 - value, 1.0)
    return joint.assign(corrected=published.corrected(joint))


@pytest.mark.heavy
def test_the_task_that_carries_an_association_is_named():
    carried = published.carried(published.load_published("book/published").markers, 500, 0)
    assert carried["alone"].to_dict() == pytest.approx(
        {"relevance": 0.543, "factuality": 0.066, "completeness": 0.211}, abs=1e-3
    )
    assert carried.loc["relevance", "without"] == pytest.approx(carried["alone"][["factuality", "completeness"]].mean())
    assert "relevance alone" in published.carrier(carried)
    everywhere = published.carried(simulated(lambda x: x, 0), 500, 0)
    assert (everywhere[["p alone", "p without"]] <= 0.05).all(axis=None)
    assert "No single task" in published.carrier(everywhere)


NO, YES, AGAINST = "are no evidence that less", "are evidence that less accuracy can be better", "evidence against it."


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({}, [NO, "is within", "little evidence against it."]),
        ({"regret_sd": 0.01}, [NO, "is within"]),  # the smallest of six
        ({"regret_sd": 0.008}, [YES, "noise of single runs"]),
        ({"spearman": 0.015}, [NO, "whole range of accuracy no association"]),  # both sides, and the smaller of two
        ({"spearman": 0.002}, [NO, "some evidence that low accuracy is worse, and little evidence, either way"]),
        ({"spearman": 0.002, "spearman_upper": 0.02}, [NO, AGAINST]),
        ({"spearman_low": 0.002}, [YES, "whole range of accuracy less accurate RMs"]),
        ({"spearman": 0.002, "spearman_upper_low": 0.02}, [YES, "third less accurate RMs", AGAINST]),
        ({"thirds_sd": 0.001, "spearman": 0.001}, [YES, AGAINST]),
    ],
)
def test_the_conclusion_follows_from_corrected_p(p, said):
    text = published.conclusion(judged(**p))
    assert all(words in text for words in said)


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


def test_curves_give_the_paper_s_bars(data):
    found = published.curve_variances(data.curves, data.training)
    assert len(found) == 36
    assert np.allclose(found[["trend", "slow", "noise"]].sum(axis=1), 1)
    assert (found[["trend", "slow", "noise"]] >= -1e-12).all(axis=None)
    larger = found[found["policy"] != "T5-small"]  # whose bars are of another sample than its points
    assert np.allclose(larger["variance"], larger["variance_bar"], rtol=1e-6)
    assert np.allclose(larger["mean"], larger["mean_bar"], atol=1e-6)


# --- figures ------------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_figures_have_a_panel_a_pair(data, chance):
    assert len(plots.points(data.markers).panels) == 9
    assert len(plots.clusters(data.markers).panels) == 3
    assert len(plots.ranks(chance.pairs).panels) == 2
    few = data.curves.groupby(["policy", "task", "rm_role", "metric"]).head(50)
    assert len(plots.curves(few, "raw_reward").panels) == 9
    assert len(plots.variance_parts(published.curve_variances(few, data.training)).panels) == 2


@pytest.mark.parametrize(
    ("policy", "task", "size", "rollouts"),
    [
        ("T5-small", "relevance", 0.3, {128}),
        ("T5-small", "factuality", 0.5, {32}),
        ("T5-base", "relevance", 0.3, {16}),
        ("T5-base", "factuality", 0.5, {16, 32}),
        ("T5-large", "relevance", 0.3, {8}),
        ("T5-large", "factuality", 0.5, {8}),
    ],
)
def test_the_steps_of_mean_rewards_tell_the_size_of_a_rollout(data, policy, task, size, rollouts):
    """Segments earn plus or minus ``size``, so the mean of n responses is a multiple of size / n; most are of no smaller n."""
    curves = data.curves
    rewards = curves[(curves["policy"] == policy) & (curves["task"] == task) & (curves["metric"] == "raw_reward")]
    found = set()
    for _, values in rewards.groupby("rm_role")["value"]:
        steps = {n: values * n / size for n in (2, 4, 8, 16, 32, 64, 128)}
        found.add(next(n for n, step in steps.items() if ((step - step.round()).abs() < 1e-3).all()))
    assert found == rollouts


# --- chance bands -------------------------------------------------------------------------------------------------------


def test_bands_of_three_rms_by_hand():
    """Thirds of one RM each: s = 1, error √(2/3), and in every order the farthest mean is 1 away: bands are 1 ± 1."""
    found = published.bands(markers([0.5, 0.6, 0.7], [2.0, 0.0, 1.0]), 200, seed=0)
    assert found["mean"].tolist() == [2, 0, 1]
    assert found["error"].to_numpy() == pytest.approx(np.sqrt(2 / 3))
    assert found["low"].to_numpy() == pytest.approx(0)
    assert found["high"].to_numpy() == pytest.approx(2)


@pytest.mark.heavy
def test_all_means_lie_in_their_bands_as_often_as_they_should():
    """Two policies, whose values follow no accuracy: of 400 worlds, about 20 have a mean outside."""
    random, outside = np.random.default_rng(0), 0
    accuracy = np.linspace(0.5, 0.7, 12)
    for world in range(400):
        tables = [markers(accuracy, random.normal(size=12), policy=policy) for policy in "ab"]
        found = published.bands(pd.concat(tables), 400, seed=world)
        outside += not found["mean"].between(found["low"], found["high"]).all()
    assert stats.binom.cdf(outside, 400, 0.05) > 0.001
    assert stats.binom.sf(outside - 1, 400, 0.05) > 0.001


def test_bands_do_not_depend_on_unit_or_zero():
    made = markers(np.linspace(0.5, 0.7, 9), np.random.default_rng(1).normal(size=9))
    scaled = made.assign(lm_performance=3 * made["lm_performance"] + 10)
    one, other = published.bands(made, 300, seed=2), published.bands(scaled, 300, seed=2)
    assert other["low"].to_numpy() == pytest.approx(3 * one["low"].to_numpy() + 10)
    assert one["models"].tolist() == [3, 3, 3]
