import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from paradox_utils.analysis import statistics

MARGIN = 0.02


def test_mean_interval_is_the_textbook_one():
    interval = statistics.mean_interval([1.0, 2.0, 3.0])  # s = 1, t(2) = 4.302653
    assert interval.estimate == 2
    assert interval.low == pytest.approx(2 - 4.302653 / np.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(2 + 4.302653 / np.sqrt(3), abs=1e-6)
    assert np.isnan(statistics.mean_interval([1.0]).low)


def test_p_greater_agrees_with_scipy_and_needs_two_values():
    x = [0.03, 0.08, 0.01, 0.05]
    assert statistics.p_greater(x, 0.02) == pytest.approx(stats.ttest_1samp(x, 0.02, alternative="greater").pvalue)
    assert statistics.p_greater([9.0], 0) == 1
    assert [statistics.p_greater([0.5, 0.5], bound) for bound in (0.4, 0.5, 0.6)] == [0, 1, 1]


def test_jackknife_of_a_mean_is_student_s_error():
    x, clusters = np.array([1.0, 3.0, 2.0, 6.0, 5.0, 7.0]), np.array([0, 0, 1, 1, 2, 2])
    found, covariance = statistics.jackknife(lambda kept: x[kept][:, None].mean(axis=0), clusters)
    assert found == pytest.approx([4])
    assert covariance == pytest.approx(np.array([[np.var([2, 4, 6], ddof=1) / 3]]))


def test_jackknife_leaves_out_whole_clusters():
    random, clusters = np.random.default_rng(3), np.repeat(range(5), 6)
    x = np.column_stack([np.ones(30), random.normal(size=30)])
    y = x @ [1.0, 2.0] + random.normal(size=5)[clusters] + random.normal(size=30)
    found, covariance = statistics.jackknife(lambda kept: sm.OLS(y[kept], x[kept]).fit().params, clusters)
    left = np.array([sm.OLS(y[clusters != c], x[clusters != c]).fit().params for c in range(5)])
    assert found == pytest.approx(sm.OLS(y, x).fit().params)
    assert np.diag(covariance) == pytest.approx(4 / 5 * ((left - found) ** 2).sum(axis=0))


def mean(counts, x):
    return counts @ x / counts.sum(axis=1)


def test_bootstrap_of_a_mean_is_student_s_interval_over_clusters():
    x, clusters = np.array([1.0, 3.0, 2.0, 6.0, 5.0, 7.0, 0.0, 2.0]), [0, 0, 1, 1, 2, 2, 3, 3]
    expected = statistics.mean_interval([2.0, 4.0, 6.0, 1.0])
    found = statistics.cluster_bootstrap([x], clusters, mean, resamples=20_000, seed=0)
    assert (found.estimate, found.units) == (pytest.approx(expected.estimate), 4)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.03)
    rows = statistics.cluster_bootstrap(
        [x], range(8), mean, resamples=2000, seed=0
    )  # as if runs were independent: far too short
    assert found.high - found.low > 1.5 * (rows.high - rows.low)


def test_bootstrap_is_reproducible_and_silent_about_one_cluster():
    x = np.arange(6.0)
    again = [statistics.cluster_bootstrap([x], [0, 0, 1, 1, 2, 2], mean, resamples=50, seed=4) for _ in range(2)]
    assert again[0] == again[1]
    alone = statistics.cluster_bootstrap([x], np.zeros(6), mean, resamples=50, seed=0)
    assert alone.estimate == 2.5
    assert np.isnan([alone.low, alone.high]).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
@settings(max_examples=60, deadline=None)
def test_rank_correlation_is_scipy_s_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    found = statistics.rank_correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic)
        assert statistics.correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_correlations_of_samples_are_those_of_their_rows(rows):
    """The last number of each is how often the first sample has the pair; the second has all of them once."""
    x, y, often = np.array(rows, dtype=float).T
    counts = np.stack([often, np.ones_like(often)])
    for statistic, expected in ((statistics.pearson, stats.pearsonr), (statistics.ranked, stats.spearmanr)):
        for count, found in zip(counts, statistic(counts, x, y), strict=True):
            a, b = (np.repeat(value, count.astype(int)) for value in (x, y))
            if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
                assert np.isnan(found)
            else:
                assert found == pytest.approx(expected(a, b).statistic, abs=1e-12)


def test_spearman_interval_stays_within_one():
    x = np.arange(9.0)
    interval = statistics.spearman(x, x, [0, 0, 0, 1, 1, 1, 2, 2, 2], resamples=200, seed=0)
    assert (interval.estimate, interval.high) == (pytest.approx(1), pytest.approx(1))
    noisy = statistics.spearman(x, [0, 3, 1, 2, 6, 4, 8, 5, 7], [0, 0, 0, 1, 1, 1, 2, 2, 2], resamples=200, seed=0)
    assert -1 <= noisy.low < noisy.estimate < noisy.high <= 1


def test_cross_fitted_regret_by_hand():
    # best rank of the other two: rows 0 and 1 → column 1 (means .05, .02 against .01), row 2 → column 1 as well
    contrasts = [[0, 0.06, 0.01], [0, 0.00, 0.01], [0, 0.10, 0.01]]
    found = statistics.cross_fitted_regret(contrasts, margin=MARGIN)
    assert found.interval.estimate == pytest.approx((0.06 + 0.00 + 0.10) / 3)
    assert found.interval.low == pytest.approx(statistics.mean_interval([0.06, 0, 0.10]).low)
    assert found.interval.high == pytest.approx(statistics.mean_interval([0.06, 0, 0.10]).high)


def test_a_regret_with_a_rank_for_each_group_by_hand():
    up, down = np.array([[0, 0.1], [0, 0.3]]), np.array([[0, -0.1], [0, -0.2], [0, -0.3]])
    found = statistics.stratified_regret([(up, up), (down, down)])
    assert (found.estimate, found.units) == (pytest.approx((0.1 + 0.3) / 5), 5)  # the second group keeps its first rank
    half = 12.706205 * np.sqrt(2 * 0.02 / 25)  # t(1): all variance is the first group's, of 2
    assert (found.low, found.high) == (pytest.approx(0.08 - half), pytest.approx(0.08 + half))
    # what is paid says nothing of the upper end: each group's second rank is 0 on average, but few units know it
    loose = np.array([[0, 0.1], [0, -0.1], [0, 0.0]])
    found = statistics.stratified_regret([(loose, loose), (loose, loose)])
    one, both = (stats.t.ppf(0.975, 2 * n) * np.sqrt(n * 3 * 0.01 / 36) for n in (1, 2))  # of two like groups: 2 · (3 − 1)
    assert found.estimate == pytest.approx(2 * -0.1 / 6)
    assert found.high == pytest.approx(max(one, both))


def test_a_regret_of_one_group_is_the_common_one():
    one = np.random.default_rng(0).normal(size=(6, 4))
    one -= one[:, :1]
    common, found = statistics.cross_fitted_regret(one, margin=MARGIN).interval, statistics.stratified_regret([(one, one)])
    assert (found.estimate, found.low, found.high) == pytest.approx((common.estimate, common.low, common.high))
    still = np.zeros((3, 2))
    assert statistics.stratified_regret([(still, still)]) == statistics.Interval(0, 0, 0, 3)


def test_selection_never_sees_what_it_is_paid():
    # each trajectory has its own best rank: the maximum says 0.3, the others' choice pays nothing
    contrasts = np.zeros((3, 4))
    contrasts[range(3), [1, 2, 3]] = 0.3
    assert statistics.cross_fitted_regret(contrasts, margin=MARGIN).interval.estimate == 0


@pytest.mark.parametrize("bad", [[[0, 1.0]], [[0, np.nan], [0, 1]], [[1, 2.0], [0, 1]], [0, 1]])
def test_impossible_contrasts_are_refused(bad):
    with pytest.raises(ValueError, match="contrasts of shape"):
        statistics.cross_fitted_regret(bad, margin=MARGIN)


def rates(truth, trajectories, margin=MARGIN, studies=400, sd=0.02, questions=None):
    """Shares of simulated studies that find a regret above, below the margin, and whose interval covers the true one.

    ``truth``: LM performance by rank of accuracy; the noise of a reward model and of its mean over PPO seeds is ``sd`` (a
    number, or one by rank). ``questions``: what validation questions add to the performance they select by.
    """
    random = np.random.default_rng(7)
    true, counts = max(truth) - truth[0], np.zeros(3)
    for _ in range(studies):
        performance = np.asarray(truth) + random.normal(0, sd, (trajectories, len(truth)))
        selecting = performance if questions is None else performance + random.normal(0, questions, performance.shape)
        found = statistics.cross_fitted_regret(
            performance - performance[:, :1], margin=margin, selecting=selecting - selecting[:, :1]
        )
        counts += (found.p_above <= 0.025, found.p_below <= 0.025, found.interval.low <= true <= found.interval.high)
    return counts / studies


@pytest.mark.parametrize("trajectories", [3, 5, 10])
def test_false_positive_rate_is_near_nominal_where_all_are_equally_good(trajectories):
    above, below, covered = rates([0.8] * 6, trajectories, margin=0.0)
    assert above <= 0.075  # nominal 0.025; 20,000 studies give 0.038, 0.044, 0.054: payments share their selection data
    assert below <= 0.025  # the truth is on the margin
    assert covered >= 0.92
    assert rates([0.8] * 6, trajectories)[0] <= 0.01  # with the smallest effect of interest


@pytest.mark.parametrize("trajectories", [3, 5])
def test_error_rates_where_the_regret_equals_the_margin(trajectories):
    above, below, covered = rates([0.8, 0.81, 0.82, 0.80, 0.75, 0.70], trajectories)
    assert above <= 0.045
    assert below <= 0.025
    assert covered >= 0.93


@pytest.mark.parametrize("truth", [[0.8, 0.81, 0.8 + MARGIN, 0.80, 0.75, 0.70], [0.8, 0.8, 0.8, 0.8, 0.8, 0.8 + MARGIN]])
def test_error_rates_where_validation_selects_and_noise_grows_with_the_rank(truth):
    above, below, covered = rates(truth, 15, sd=np.array([0.04, 0.04, 0.05, 0.08, 0.08, 0.14]), questions=0.03)
    assert above <= 0.045
    assert below <= 0.045
    assert covered >= 0.93


def test_power_on_an_inverted_u_and_on_a_monotone_world():
    inverted_u, monotone = [0.75, 0.83, 0.85, 0.80, 0.70, 0.60], [0.9, 0.82, 0.74, 0.66, 0.58, 0.50]
    assert rates(inverted_u, 3)[0] > 0.4  # a regret of 0.10
    above, below, _ = rates(inverted_u, 6)
    assert (above > 0.9, below) == (True, 0)
    above, below, _ = rates(monotone, 6)
    assert (above, below > 0.95) == (0, True)


def test_the_maximum_of_noisy_means_is_not_evidence():
    random = np.random.default_rng(3)
    performance = 0.8 + random.normal(0, 0.02, (300, 3, 6))
    means = performance.mean(axis=1)
    naive = means.max(axis=1) - means[:, 0]
    fair = [statistics.cross_fitted_regret(s - s[:, :1], margin=MARGIN).interval.estimate for s in performance]
    assert np.mean(naive) > 0.012
    assert abs(np.mean(fair)) < 0.003


def test_selection_is_by_the_other_table():
    # by itself each row would pay column 2 (0.2 or 0.3); the other table prefers column 1, but for row 2, whose others tie at 0
    contrasts = np.array([[0, 0.01, 0.3], [0, 0.02, 0.2], [0, 0.06, 0.3]])
    selecting = np.array([[0, 0.5, -1], [0, -0.5, -1], [0, 0.9, -1]])
    found = statistics.cross_fitted_regret(contrasts, margin=MARGIN, selecting=selecting)
    assert found.interval.estimate == pytest.approx((0.01 + 0.02 + 0) / 3)
    assert found.p_above == pytest.approx(statistics.p_greater([0.01, 0.02, 0], MARGIN))
    itself = statistics.cross_fitted_regret(contrasts, margin=MARGIN)
    assert itself.interval.estimate == pytest.approx(0.8 / 3)
    assert found.interval.high == itself.interval.high  # the upper end does not select
    assert found.p_below == itself.p_below
    assert statistics.cross_fitted_regret(contrasts, margin=MARGIN, selecting=contrasts) == itself


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), np.zeros((2, 3)), np.full((3, 3), np.nan)])
def test_impossible_selections_are_refused(bad):
    with pytest.raises(ValueError, match="selecting of shape"):
        statistics.cross_fitted_regret(np.zeros((3, 3)), margin=MARGIN, selecting=bad)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


@settings(max_examples=10)  # each collects the process's garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(p_values):
    assert statistics.holm(p_values) == multipletests(p_values, method="holm")[1].tolist()


def crossed(random, questions=60, trajectories=5, models=3, sd=(0.05, 0.03, 0.3, 0.3)):
    """Scores (runs, questions) of R · K runs with noise of trajectories, reward models, questions, and each score."""
    shape = (trajectories, models, questions)
    parts = [(trajectories, 1, 1), (trajectories, models, 1), (1, 1, questions), shape]
    scores = 0.6 + sum(random.normal(0, s, part) for s, part in zip(sd, parts, strict=True))
    return scores.reshape(-1, questions), np.repeat(np.arange(trajectories), models)


def two_way(scores, clusters, weights=1, resamples=2000, seed=0, bounds=(-np.inf, np.inf)):
    weights = np.broadcast_to(weights, np.shape(scores))
    return statistics.two_way_bootstrap(scores, clusters, weights=weights, resamples=resamples, seed=seed, bounds=bounds)


def test_two_way_bootstrap_covers_new_trajectories_and_new_questions():
    random, covered = np.random.default_rng(5), []
    for seed in range(120):
        scores, trajectory = crossed(random)
        both = two_way(scores, trajectory, resamples=150, seed=seed)
        runs = statistics.mean_interval(scores.reshape(5, -1).mean(axis=1))  # the same questions every time: too short
        covered.append((both.low <= 0.6 <= both.high, runs.low <= 0.6 <= runs.high))
    both, runs = np.mean(covered, axis=0)
    assert both >= 0.94
    assert runs < both - 0.03


def test_two_way_bootstrap_is_the_cluster_bootstrap_where_questions_are_alike():
    values, clusters = np.array([1.0, 3.0, 2.0, 6.0, 5.0, 7.0]), [0, 0, 1, 1, 2, 2]
    two = two_way(np.repeat(values[:, None], 4, axis=1), clusters, resamples=20_000)
    one = statistics.cluster_bootstrap([values], clusters, mean, resamples=20_000, seed=0)
    assert two.estimate == pytest.approx(one.estimate)
    assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.03)
    assert two.units == 3


def test_two_way_bootstrap_of_noise_in_questions_alone():
    scores = np.tile([0.0, 1.0, 0.0, 1.0, 1.0], (4, 1))  # every run the same: all variance is the questions'
    found = two_way(scores, range(4), resamples=20_000)
    error = np.sqrt(0.6 * 0.4 / 5)
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 3) * np.sqrt(4 / 3) * error, rel=0.03)


def test_two_way_bootstrap_pools_weighted_scores_and_stays_in_bounds():
    scores, weights = np.array([[1.0, 0.0], [0.5, 1.0]]), np.array([[3, 1], [2, 2]])
    found = two_way(scores, [0, 1], weights, bounds=(0, 1))
    assert found.estimate == pytest.approx((0.75 + 0.75) / 2)
    assert 0 <= found.low <= found.high <= 1
    again = two_way(scores, [0, 1], weights, bounds=(0, 1))
    assert found == again
    assert np.isnan(two_way(scores, [0, 0]).low)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(4)}, "runs × questions"),
        ({"scores": np.zeros((4, 0))}, "runs × questions"),
        ({"clusters": [0, 1]}, "a cluster a run"),
        ({"scores": np.full((4, 3), np.nan)}, "finite"),
        ({"weights": np.full((4, 3), -1)}, "not negative"),
        ({"weights": np.zeros((4, 3))}, "one above 0"),
    ],
)
def test_two_way_bootstrap_refuses_unusable_data(changes, message):
    with pytest.raises(ValueError, match=message):
        two_way(**({"scores": np.zeros((4, 3)), "clusters": [0, 0, 1, 1]} | changes))


def test_spearman_s_p_within_clusters_counts_every_permutation():
    # of the four ways to order 1, 2 and 3, 4 within their clusters one alone reaches ρ = 1
    assert statistics.p_rank_correlation([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx(1 / 4)
    assert statistics.p_rank_correlation([2, 1, 4, 3], [1, 2, 3, 4], [0, 0, 1, 1]) == 1
    # Σ xy of 1, 2, 3 in all orders with 1, 3, 2: 13, 14, 11, 13, 10, 11; three of six reach 13
    assert statistics.p_rank_correlation([1, 2, 3], [1, 3, 2], [0, 0, 0]) == pytest.approx(1 / 2)
    assert statistics.p_rank_correlation([1, 1, 2], [5, 6, 7], ["a"] * 3) == pytest.approx(1 / 3)  # equal ones share a rank
    assert statistics.p_rank_correlation([], [], []) == 1


def test_spearman_s_p_within_clusters_is_uniform_without_a_relation_and_small_with_one():
    random, clusters = np.random.default_rng(0), np.repeat(range(3), 6)
    p = [statistics.p_rank_correlation(random.random(18), random.random(18), clusters) for _ in range(60)]
    assert 0.35 < np.mean(p) < 0.65
    x = random.random(18) + clusters  # clusters far apart say nothing of what is within them
    assert statistics.p_rank_correlation(x, clusters + 0.0, clusters) == 1
    assert statistics.p_rank_correlation(x, x, clusters) == pytest.approx(720.0**-3)
