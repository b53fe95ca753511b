"""Is LM performance an inverted U of reward-model accuracy? Two tests that respect the trajectories.

Both take one row a reward model: accuracy ``x``, LM performance ``y``, and trajectory (``clusters``, the independent units).
Every trajectory has its own intercept, in each stratum (task, policy, route) its own, so only differences within a trajectory
count. Clusters are told apart by their label alone: trajectories of different strata that share a label (one reward model used
with two policies) stay together as one independent unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.interpolate import CubicSpline

from paradox_utils.analysis.statistics import Array, Interval, jackknife, p_positive, student

SPLINE_KNOTS = 5  # four degrees of freedom: enough for a rise, a bend and a fall, and few enough for two trajectories
RANK = 1e-5  # a design whose smallest singular value is a smaller share of the largest does not identify its coefficients


@dataclass(frozen=True)
class TwoLines:
    """Result of :func:`two_lines`. Slopes are in performance per unit of x; NaN (and p = 1) where a line is not identified.

    ``p_supported``, the larger p-value of first slope ≤ 0 and second slope ≥ 0, each one-sided, tests "no inverted U".
    """

    first: Interval
    second: Interval
    p_supported: float


@dataclass(frozen=True)
class Quadratic:
    """Result of :func:`quadratic`.

    ``p_supported`` is Lind and Mehlum's. The ``turning_point`` is NaN for a straight line; its Fieller interval is (−inf, inf)
    where the curvature is not significant. ``turns_inside``: a maximum whose whole interval lies within the data.
    """

    p_supported: float
    turning_point: float
    turning_low: float
    turning_high: float
    turns_inside: bool


def two_lines(x: ArrayLike, y: ArrayLike, clusters: ArrayLike, *, strata: ArrayLike | None = None) -> TwoLines:
    """Simonsohn's two-lines test of an inverted U; arrays of shape (N,), x and y finite, at least 3 clusters and 4 distinct x.

    *Test* (Simonsohn 2018, *Advances in Methods and Practices in Psychological Science* 1:538–555): a line left and a line
    right of a breakpoint, with a jump between them (a joint would bend the lines of a concave curve), y = a + β₁ (x − c)⁻
    + β₂ (x − c)⁺ + δ [right], one intercept a trajectory and stratum. A point on the breakpoint belongs to whichever line is
    tested. There is an inverted U if β₁ > 0 and β₂ < 0, each at one-sided level 2.5 %, as his two-sided 5 %. Errors are
    jackknifed over clusters (:func:`paradox_utils.analysis.statistics.jackknife`) with t(clusters − 1).

    *Breakpoint* ("Robin Hood"): a natural cubic spline finds the points of the middle 80 % of x whose curve plus one standard
    error reaches its maximum; lines are fitted at their median; with t-values t₁ and t₂, the breakpoint is their quantile
    |t₂| / (|t₁| + |t₂|), which takes points from the stronger line. His spline is penalised (mgcv); this one has 5 knots at
    quantiles of x and no penalty, for about 30 points.

    *Cross-fitted* (not in his paper): a breakpoint near the highest of noisy points makes what lies right of it fall. So each
    cluster's rows are cut at the breakpoint of all **other** clusters, as ``statistics.cross_fitted_regret`` selects.

    In simulated studies of 5 trajectories × 6 reward models p_supported ≤ 0.025 in at most 1.6 % of straight and saturating
    truths and in 2.7 % of plateaus (not cross-fitted 4.1 %), and in 71 to 86 % of symmetric inverted Us of height 0.2.
    """
    x, y, labels, cells = _data(x, y, clusters, strata, distinct=4)
    cuts = np.empty(x.size)
    for name in np.unique(labels):
        rest = labels != name
        cuts[~rest] = _robin_hood(x[rest], y[rest], labels[rest], cells[rest])
    (first, error_1), (second, error_2) = _lines(x, y, labels, cells, cuts)
    n = np.unique(labels).size
    p_supported = max(p_positive(first, error_1, n), p_positive(-second, error_2, n))
    return TwoLines(student(first, error_1, n), student(second, error_2, n), p_supported)


def quadratic(x: ArrayLike, y: ArrayLike, clusters: ArrayLike, *, strata: ArrayLike | None = None) -> Quadratic:
    """Lind and Mehlum's test of an inverted U in a quadratic; arrays of shape (N,), at least 3 clusters and 3 distinct x.

    y = a + b x + c x², one intercept a trajectory and stratum, errors jackknifed over clusters with t(clusters − 1). NaN (p 1)
    where it is not identified: with fewer than 3 distinct x within trajectories, or without one of the clusters. An
    inverted U rises at the lowest x and falls at the highest: the p-value is the larger of the two one-sided ones (Lind and
    Mehlum 2010, *Oxford Bulletin of Economics and Statistics* 72:109–118). The turning point −b / 2c has Fieller's interval:
    that of 95 % lies within the data exactly where their test rejects at 2.5 %.

    It tests the parabola, not the data: a rising curve that flattens is best fitted by a parabola that falls at its end. In the
    simulations of :func:`two_lines` it finds an inverted U in 22 to 47 % of saturating truths, and more with more data.
    """
    x, y, labels, cells = _data(x, y, clusters, strata, distinct=3)
    n, middle = np.unique(labels).size, float(x.mean())
    z = x - middle  # x and x² are nearly collinear far from zero
    (b, c), covariance = _fit(_within(np.column_stack([z, z**2]), cells), _within(y, cells), labels)
    # rise at the lowest x, fall at the highest
    sides = np.array([[1.0, 2 * (x.min() - middle)], [-1.0, 2 * (middle - x.max())]])
    errors = np.sqrt(np.diag(sides @ covariance @ sides.T))
    p_supported = max(p_positive(slope, error, n) for slope, error in zip(sides @ (b, c), errors, strict=True))
    ratio = np.array([[-1.0, 0.0], [0.0, 2.0]])  # (b, c) → numerator and denominator of the turning point
    ends = fieller(-b, 2 * c, ratio @ covariance @ ratio, float(stats.t.ppf(0.975, n - 1)))
    low, high = (float(middle + end) for end in ends)
    inside = bool(c < 0 and x.min() <= low and high <= x.max())
    return Quadratic(p_supported, float(middle - b / (2 * c)) if c != 0 else float("nan"), low, high, inside)


def fieller(numerator: float, denominator: float, covariance: ArrayLike, quantile: float) -> tuple[float, float]:
    """Fieller's interval of numerator / denominator, given their (2, 2) covariance and the quantile of their t distribution.

    All ratios θ with (numerator − θ denominator)² ≤ quantile² · its variance (Fieller 1954, *Journal of the Royal Statistical
    Society B* 16:175–185). (−inf, inf) where the denominator is not significantly different from 0: the set is then unbounded.
    """
    (v, vc), (_, w) = np.asarray(covariance, dtype=float) * quantile**2
    square = denominator**2 - w
    if square <= 0:
        return -float("inf"), float("inf")
    cross = numerator * denominator - vc
    root = np.sqrt(max(cross**2 - square * (numerator**2 - v), 0.0))
    return float((cross - root) / square), float((cross + root) / square)


def _data(x: ArrayLike, y: ArrayLike, clusters: ArrayLike, strata: ArrayLike | None, distinct: int) -> tuple[Array, ...]:
    """x, y, cluster labels and cells (stratum × cluster) as arrays of shape (N,); raises ValueError for unusable data."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    labels, groups = np.asarray(clusters), np.zeros(a.shape, dtype=int) if strata is None else np.asarray(strata)
    if a.ndim != 1 or not a.shape == b.shape == labels.shape == groups.shape:
        raise ValueError("x, y, clusters and strata need one value a row each")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("x or y holds a value that is not finite; leave out reward models that were not measured")
    names, numbers = np.unique(labels, return_inverse=True)
    if names.size < 3 or np.unique(a).size < distinct:
        raise ValueError(f"the test needs at least 3 clusters and {distinct} distinct values of x")
    cells = np.unique(groups, return_inverse=True)[1] * names.size + numbers
    return a, b, numbers, np.unique(cells, return_inverse=True)[1]


def _within(values: Array, cells: Array) -> Array:
    """Columns (N, …) minus their cell's mean, which is the same as an intercept a cell (Frisch–Waugh–Lovell)."""
    indicator = (cells == np.unique(cells)[:, None]).astype(float)  # (cells, N)
    return values - indicator.T @ (indicator @ values / indicator.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1)))


def _fit(design: Array, y: Array, labels: Array) -> tuple[Array, Array]:
    """Least squares of y on the design's columns (cells' means removed), and the jackknife covariance over clusters.

    NaN where the coefficients, or those without one of the clusters, are not identified.
    """
    scale = np.sqrt((design**2).sum(axis=0))
    unit = design / np.where(scale > 0, scale, 1.0)

    def slopes(kept: NDArray[np.bool_]) -> Array:
        found, _, rank, _ = np.linalg.lstsq(unit[kept], y[kept], rcond=RANK)
        return found / scale if rank == len(scale) else np.full(len(scale), np.nan)

    found, covariance = jackknife(slopes, labels)
    return (found, covariance) if np.isfinite(covariance).all() else (found * np.nan, covariance * np.nan)


def _lines(x: Array, y: Array, labels: Array, cells: Array, cuts: Array) -> tuple[tuple[float, float], ...]:
    """Slope and error of the lines left and right of ``cuts`` (shape (N,), the same in a cluster); NaN if not identified."""
    found = []
    for line, left in enumerate((x <= cuts, x < cuts)):
        design = np.column_stack([np.where(left, x - cuts, 0), np.where(left, 0, x - cuts), ~left])
        slopes, covariance = _fit(_within(design, cells), _within(y, cells), labels)
        found.append((float(slopes[line]), float(np.sqrt(covariance[line, line]))))
    return tuple(found)


def _robin_hood(x: Array, y: Array, labels: Array, cells: Array) -> float:
    """The breakpoint of :func:`two_lines`."""
    low, high = np.quantile(x, [0.1, 0.9])
    middle = (x > low) & (x < high)
    if not middle.any():
        return float(np.median(x))
    curve, error = (values[middle] for values in _smooth(x, y, cells))
    flat = x[middle][curve + error >= curve.max()]
    (slope_1, error_1), (slope_2, error_2) = _lines(x, y, labels, cells, np.full(x.size, np.median(flat)))
    if not (error_1 > 0 and error_2 > 0):  # a line that is not identified, or without noise
        return float(np.median(flat))
    t_1, t_2 = abs(slope_1) / error_1, abs(slope_2) / error_2
    return float(np.quantile(flat, t_2 / (t_1 + t_2)))


def _smooth(x: Array, y: Array, cells: Array) -> tuple[Array, Array]:
    """Natural cubic spline of y in x beside an intercept a cell: the curve at x up to a constant, its standard error (N,)."""
    knots = np.unique(np.quantile(x, np.linspace(0, 1, SPLINE_KNOTS)))
    basis = CubicSpline(knots, np.eye(knots.size), bc_type="natural")(x)
    design, centred = _within(basis, cells), _within(y, cells)
    inverse = np.linalg.pinv(design.T @ design)  # the basis sums to 1, which the intercepts take up: one rank short
    coefficients = inverse @ design.T @ centred
    free = x.size - np.unique(cells).size - (knots.size - 1)
    noise = float(np.sum((centred - design @ coefficients) ** 2)) / max(free, 1)
    shape = basis - basis.mean(axis=0)
    variance = ((shape @ inverse) * shape).sum(axis=1) + 1 / x.size
    return shape @ coefficients, np.sqrt(noise * variance)
