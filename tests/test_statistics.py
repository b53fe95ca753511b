import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paradox_utils import statistics

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


def test_bootstrap_of_a_mean_is_student_s_interval_over_clusters():
    x, clusters = np.array([1.0, 3.0, 2.0, 6.0, 5.0, 7.0, 0.0, 2.0]), [0, 0, 1, 1, 2, 2, 3, 3]
    expected = statistics.mean_interval([2.0, 4.0, 6.0, 1.0])
    found = statistics.cluster_bootstrap([x], clusters, np.mean, resamples=20_000)
    assert (found.estimate, found.units) == (pytest.approx(expected.estimate), 4)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.03)
    rows = statistics.cluster_bootstrap([x], range(8), np.mean)  # as if runs were independent: far too short
    assert found.high - found.low > 1.5 * (rows.high - rows.low)


def test_bootstrap_is_reproducible_and_silent_about_one_cluster():
    x = np.arange(6.0)
    again = [statistics.cluster_bootstrap([x], [0, 0, 1, 1, 2, 2], np.mean, resamples=50, seed=4) for _ in range(2)]
    assert again[0] == again[1]
    alone = statistics.cluster_bootstrap([x], np.zeros(6), np.mean)
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


def test_spearman_interval_stays_within_one():
    x = np.arange(9.0)
    interval = statistics.spearman(x, x, [0, 0, 0, 1, 1, 1, 2, 2, 2], resamples=200)
    assert (interval.estimate, interval.high) == (pytest.approx(1), pytest.approx(1))
    noisy = statistics.spearman(x, [0, 3, 1, 2, 6, 4, 8, 5, 7], [0, 0, 0, 1, 1, 1, 2, 2, 2], resamples=200)
    assert -1 <= noisy.low < noisy.estimate < noisy.high <= 1


def test_regret_by_hand():
    assert statistics.regret([0.6, 0.9, 0.8], [0.5, 0.7, 0.75]) == pytest.approx(0.05)
    assert statistics.regret([0.6, 0.9, 0.8], [0.5, 0.8, 0.75]) == 0


def test_cross_fitted_regret_by_hand():
    # best rank of the other two: rows 0 and 1 → column 1 (means .05, .02 against .01), row 2 → column 1 as well
    contrasts = [[0, 0.06, 0.01], [0, 0.00, 0.01], [0, 0.10, 0.01]]
    found = statistics.cross_fitted_regret(contrasts, margin=MARGIN)
    assert found.interval.estimate == pytest.approx((0.06 + 0.00 + 0.10) / 3)
    assert found.interval.low == pytest.approx(statistics.mean_interval([0.06, 0, 0.10]).low)
    assert found.interval.high == pytest.approx(statistics.mean_interval([0.06, 0, 0.10]).high)


def test_selection_never_sees_what_it_is_paid():
    # each trajectory has its own best rank: the maximum says 0.3, the others' choice pays nothing
    contrasts = np.zeros((3, 4))
    contrasts[range(3), [1, 2, 3]] = 0.3
    assert statistics.cross_fitted_regret(contrasts, margin=MARGIN).interval.estimate == 0


@pytest.mark.parametrize("bad", [[[0, 1.0]], [[0, np.nan], [0, 1]], [[1, 2.0], [0, 1]], [0, 1]])
def test_impossible_contrasts_are_refused(bad):
    with pytest.raises(ValueError, match="contrasts of shape"):
        statistics.cross_fitted_regret(bad, margin=MARGIN)


def rates(truth, trajectories, margin=MARGIN, studies=400, sd=0.02):
    """Shares of simulated studies that find a regret above, below the margin, and whose interval covers the true one.

    ``truth``: LM performance by rank of accuracy; the noise of a reward model and of its mean over PPO seeds is ``sd``.
    """
    random = np.random.default_rng(7)
    true, counts = max(truth) - truth[0], np.zeros(3)
    for _ in range(studies):
        performance = np.asarray(truth) + random.normal(0, sd, (trajectories, len(truth)))
        found = statistics.cross_fitted_regret(performance - performance[:, :1], margin=margin)
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


def test_power_on_a_true_inverted_u():
    inverted_u = [0.75, 0.83, 0.85, 0.80, 0.70, 0.60]  # regret 0.10
    assert rates(inverted_u, 3)[0] > 0.4
    assert rates(inverted_u, 6)[0] > 0.9
    assert rates(inverted_u, 6)[1] == 0


def test_monotone_world_is_recognised():
    monotone = [0.9, 0.82, 0.74, 0.66, 0.58, 0.50]
    assert rates(monotone, 3)[1] > 0.5
    above, below, _ = rates(monotone, 6)
    assert above == 0
    assert below > 0.95


def test_the_maximum_of_noisy_means_is_not_evidence():
    random = np.random.default_rng(3)
    performance = 0.8 + random.normal(0, 0.02, (300, 3, 6))
    naive = [statistics.regret(range(6, 0, -1), study.mean(axis=0)) for study in performance]
    fair = [statistics.cross_fitted_regret(s - s[:, :1], margin=MARGIN).interval.estimate for s in performance]
    assert np.mean(naive) > 0.012
    assert abs(np.mean(fair)) < 0.003


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
