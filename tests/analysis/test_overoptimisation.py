import numpy as np
import pytest

from paradox_utils.analysis.overoptimisation import fit, gain, peak_of

D = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])


def fitted(d, y, form="rl"):
    """A fit of points of one trajectory."""
    return fit(d, y, np.zeros(len(d)), form, resamples=1)


def test_gain_by_hand():
    assert gain([0, 1, np.e], 0.5, 0.2) == pytest.approx([0, 0.5, np.e * 0.3])
    assert gain([0, 1, 2], 0.5, 0.2, "best-of-n") == pytest.approx([0, 0.3, 0.2])


@pytest.mark.parametrize("form", ["rl", "best-of-n"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.15), (0.4, 0.02), (0.2, -0.1), (-0.1, 0.2)])
def test_exact_curves_are_recovered(form, alpha, beta):
    found = fitted(D, gain(D, alpha, beta, form), form)
    assert (found.alpha, found.beta.estimate) == (pytest.approx(alpha), pytest.approx(beta))


def test_peak_by_hand():
    assert peak_of(0.2, 0.1) == pytest.approx(np.e)  # exp(2 − 1)
    assert peak_of(0.2, 0.05, "best-of-n") == pytest.approx(2)  # 0.2 / 0.1
    assert peak_of(1.0, 1e-6) == np.inf  # no warning, no error


@pytest.mark.parametrize("form", ["rl", "best-of-n"])
def test_peak_is_the_curve_s_maximum(form):
    d = np.linspace(0, 10, 100_001)
    assert peak_of(0.25, 0.1, form) == pytest.approx(d[gain(d, 0.25, 0.1, form).argmax()], abs=1e-3)


@pytest.mark.parametrize(
    ("alpha", "beta", "form"), [(0.2, 0, "rl"), (0.2, -0.1, "rl"), (0.2, -0.1, "best-of-n"), (-0.2, 0.1, "best-of-n")]
)
def test_without_a_peak_it_is_nan(alpha, beta, form):
    assert np.isnan(peak_of(alpha, beta, form))
    assert np.isnan(fitted(D, gain(D, alpha, beta - 1e-9, form), form).peak.estimate)


def trajectories(random, alpha, beta, form, clusters=5, spread=0.02):
    """Points of trajectories that differ in α and β, with noise: d, gains and labels of shape (clusters · 12,)."""
    d = random.uniform(0.1, 5, (clusters, 12))
    own = [random.normal(mean, sd, (clusters, 1)) for mean, sd in ((alpha, spread), (beta, spread / 4))]
    y = gain(d, *own, form) + random.normal(0, 0.04, d.shape)
    return d.ravel(), y.ravel(), np.repeat(np.arange(clusters), 12)


@pytest.mark.parametrize(("form", "alpha", "beta"), [("rl", 0.2, 0.1), ("best-of-n", 0.2, 0.04)])
def test_intervals_cover_the_truth(form, alpha, beta):
    random, covered, true = np.random.default_rng(1), [], peak_of(alpha, beta, form)
    for seed in range(300):
        found = fit(*trajectories(random, alpha, beta, form), form, resamples=300, seed=seed)
        covered.append((found.beta.low <= beta <= found.beta.high, found.peak.low <= true <= found.peak.high))
    assert (np.mean(covered, axis=0) >= 0.90).all()  # nominal 0.95


def test_a_straight_line_has_no_finite_peak():
    random = np.random.default_rng(2)
    found = [fit(*trajectories(random, 0.1, 0.0, "rl"), resamples=300) for _ in range(200)]
    assert np.mean([f.beta.low > 0 for f in found]) <= 0.05
    peaks = [f.peak for f in found if np.isfinite(f.peak.estimate)]
    assert 40 < len(peaks) < 160  # half of the fits bend downwards by chance …
    assert np.mean([peak.high == np.inf for peak in peaks]) >= 0.9  # … and their intervals say that this is chance


def test_intervals_are_reproducible_and_widen_with_clusters_taken_seriously():
    d, y, clusters = (np.tile(column, 4) for column in trajectories(np.random.default_rng(3), 0.2, 0.1, "rl", spread=0.05))
    again = [fit(d, y, clusters, resamples=2000, seed=4) for _ in range(2)]
    assert again[0] == again[1]
    points = fit(d, y, np.arange(d.size) // 2, resamples=2000)  # as if pairs of points were trajectories
    assert points.beta.high - points.beta.low < again[0].beta.high - again[0].beta.low
    assert again[0].peak.low < again[0].peak.estimate < again[0].peak.high
    assert again[0].beta.units == 5


def test_covariance_is_the_bootstrap_of_refitted_resamples():
    d, y, clusters = trajectories(np.random.default_rng(5), 0.2, 0.1, "rl")
    random, betas = np.random.default_rng(6), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in random.integers(5, size=5)])
        betas.append(fitted(d[rows], y[rows]).beta.estimate)
    found = fit(d, y, clusters, resamples=2000).beta
    expected = 2.776445 * np.sqrt(5 / 4) * np.std(betas, ddof=1)  # t(4)
    assert found.high - found.estimate == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("clusters", [np.zeros(6), [0, 0, 0, 1, 1, 2]])
def test_too_few_clusters_and_points_have_no_interval(clusters):
    found = fit(D, gain(D, 0.2, 0.1), clusters, resamples=50)
    assert (found.beta.estimate, found.peak.estimate) == pytest.approx((0.1, np.e))
    assert np.isnan([found.beta.low, found.beta.high, found.peak.low, found.peak.high]).all()
