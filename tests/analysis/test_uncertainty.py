from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from analysis.agreement import formula_row
from analysis.uncertainty import (
    Estimate,
    agreement,
    chi2_verdict,
    propagate,
    ratio,
    ratio_verdict,
)
from entropy_sim import statistics


def test_propagation_of_a_linear_map_is_exact():
    matrix = np.random.default_rng(0).normal(size=(3, 4))
    errors = np.array([0.1, 0.2, 0.3, 0.0])
    found = propagate(lambda v: matrix @ v["x"], {"x": np.arange(4.0)}, {"x": errors})
    np.testing.assert_allclose(found.covariance, matrix @ np.diag(errors**2) @ matrix.T, rtol=1e-9)
    np.testing.assert_allclose(found.value, matrix @ np.arange(4.0))


def test_propagation_agrees_with_sampling():
    random = np.random.default_rng(1)
    values, errors = {"a": np.array([2.0, 3.0]), "b": np.array([5.0, 4.0])}, {"a": np.array([0.04, 0.03]), "b": 0.05}
    found = propagate(lambda v: v["a"] ** 2 / v["b"], values, errors)
    n = 400_000
    a = values["a"] + errors["a"] * random.standard_normal((n, 2))
    b = values["b"] + errors["b"] * random.standard_normal((n, 2))
    np.testing.assert_allclose(found.stderr, (a**2 / b).std(0), rtol=0.01)


def test_propagation_keeps_the_caller_s_inputs_and_treats_missing_errors_as_exact():
    x = np.array([1.0, 2.0])
    found = propagate(lambda v: v["x"] * v["y"], {"x": x, "y": np.ones(2)}, {"x": np.array([0.1, np.nan])})
    np.testing.assert_allclose(found.stderr, [0.1, 0.0], rtol=1e-9)
    np.testing.assert_array_equal(x, [1.0, 2.0])


def test_ratio_of_one_point_is_fieller_s_interval():
    found = ratio(Estimate.independent([0.5], [0.1]), Estimate.independent([2.0], [0.3]))
    expected = statistics.ratio(0.5, 0.1, 2.0, 0.3, level=0.682689492)
    np.testing.assert_allclose([found.value, found.low, found.high], [0.25, expected.low, expected.high], rtol=1e-5)


def test_ratio_of_an_exact_prediction_is_weighted_least_squares():
    p, m, e = np.array([1.0, -2.0, 3.0]), np.array([0.52, -0.95, 1.6]), np.array([0.1, 0.1, 0.2])
    found = ratio(Estimate.independent(m, e), Estimate.independent(p, np.zeros(3)))
    w = e**-2
    assert found.value == pytest.approx((w * m * p).sum() / (w * p * p).sum(), rel=1e-6)
    assert found.stderr == pytest.approx((w * p * p).sum() ** -0.5, rel=1e-4)


def test_ratio_is_unbiased_and_its_interval_covers_where_ordinary_least_squares_is_attenuated():
    """100 draws of 8 points with 30 % errors on the prediction, true ratio 0.5: the mean is right within 3 standard
    errors and 68 % of the intervals hold the truth; the mutant, least squares that ignores the prediction's errors, is
    off by more than 5 of its standard errors."""
    random = np.random.default_rng(2)
    true = np.array([-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0])
    error_p, error_m = 0.6 * np.ones(8), 0.1 * np.ones(8)
    found, naive = [], []
    for _ in range(100):
        p, m = true + error_p * random.standard_normal(8), 0.5 * true + error_m * random.standard_normal(8)
        found.append(ratio(Estimate.independent(m, error_m), Estimate.independent(p, error_p)))
        naive.append((m * p).sum() / (p * p).sum())
    values = np.array([f.value for f in found])
    assert abs(np.median(values) - 0.5) < 3 * 1.25 * values.std() / np.sqrt(100)
    assert (np.mean(naive) - 0.5) / (np.std(naive) / np.sqrt(100)) < -5
    # Birge's factor widens some intervals, so coverage is at least 68 %: 68 ± 5 of 100.
    assert sum(f.low <= 0.5 <= f.high for f in found) > 68 - 3 * 5


def test_a_prediction_that_may_be_zero_leaves_the_ratio_open():
    found = ratio(Estimate.independent([1.0], [0.1]), Estimate.independent([0.1], [1.0]))
    assert np.isinf(found.high) or np.isinf(found.low)
    assert ratio_verdict(found) == "not determined"


@pytest.mark.parametrize("shift", [np.nan, np.inf])
def test_points_without_value_or_error_are_left_out(shift):
    measured = Estimate.independent([1.0, shift, 3.0], [0.1, 0.1, 0.0])
    found = ratio(measured, Estimate.independent([2.0, 2.0, 2.0], [0.0, 0.0, 0.0]))
    assert found.value == pytest.approx(0.5)
    assert found.degrees_of_freedom == 0


def test_nothing_usable_gives_not_determined():
    nothing = Estimate.independent([np.nan, 1.0], [0.1, 0.0])
    predicted = Estimate.independent([1.0, 1.0], [0.1, 0.1])
    assert ratio_verdict(ratio(nothing, predicted)) == "not determined"
    assert chi2_verdict(agreement(nothing, predicted)) == "not determined"


@pytest.mark.parametrize(
    ("measured", "error", "verdict"),
    [
        (1.0, 0.1, "agrees"),
        (1.2, 0.1, "agrees"),
        (1.4, 0.1, "disagrees"),
        (0.21, 0.05, "disagrees"),
        (2.0, 0.1, "disagrees"),
        (-1.0, 0.1, "disagrees"),
        (0.8, 0.9, "not determined"),
        (8.9, 3.1, "not determined"),
        (1.8, 0.35, "not determined"),
    ],
)
def test_verdicts(measured, error, verdict):
    found = ratio(Estimate.independent([measured], [error]), Estimate.independent([1.0], [0.0]))
    assert ratio_verdict(found) == verdict


def test_a_rejected_prediction_disagrees_even_where_no_factor_is_determined():
    """Points that swap their sign against the prediction: the ratio is open, chi2 at the prediction's own size is not;
    with errors ten times larger neither is."""
    p = np.array([1.0, -1.0, 1.0, -1.0])
    m = np.array([1.2, 1.0, 0.9, -1.1])
    predicted = Estimate.independent(p, 0.01 * np.ones(4))
    for error, verdict in ((0.1, "disagrees"), (1.5, "not determined")):
        measured = Estimate.independent(m, error * np.ones(4))
        fit, test = ratio(measured, predicted), agreement(measured, predicted)
        assert ratio_verdict(fit) == "not determined"
        assert ratio_verdict(fit, test) == verdict
    row, *_ = formula_row("network", "mean_force", "x", Estimate.independent(m, 0.1 * np.ones(4)), predicted)
    assert row.verdict == "disagrees"
    assert "no single factor fits (χ² " in row.statement
    assert "too large" not in row.statement


def test_points_that_scatter_more_than_their_errors_widen_the_interval():
    p = np.ones(4)
    m = np.array([0.5, 1.5, 0.4, 1.6])
    found = ratio(Estimate.independent(m, 0.05 * p), Estimate.independent(p, 0 * p))
    assert found.stderr == pytest.approx(0.025 * np.sqrt(found.chi_squared / 3), rel=1e-3)


def test_chi2_is_uniform_in_p_under_the_truth_and_uses_the_covariance():
    """1000 draws with strongly correlated errors: p is uniform (Kolmogorov distance); without the covariance, not."""
    random = np.random.default_rng(3)
    covariance = 0.9 * np.ones((5, 5)) + 0.1 * np.eye(5)
    draws = random.multivariate_normal(np.zeros(5), covariance, size=1000)
    zero = Estimate(np.zeros(5), np.zeros((5, 5)))
    p = np.sort([agreement(Estimate(d, covariance), zero).p_value for d in draws])
    wrong = np.sort([agreement(Estimate(d, np.diag(np.diag(covariance))), zero).p_value for d in draws])
    even = (np.arange(1000) + 0.5) / 1000
    assert np.abs(p - even).max() < 1.63 / np.sqrt(1000)  # 1 % level
    assert np.abs(wrong - even).max() > 5 * 1.63 / np.sqrt(1000)


def test_values_that_others_determine_are_no_degrees_of_freedom():
    """1000 integrals over 8 steps, of which 4 are known exactly: p is uniform for 4 degrees of freedom; counting the 8
    places, it is off by more than 5 of Kolmogorov's 1 % level."""
    random, steps = np.random.default_rng(4), np.array([1.0, 0.0, 2.0, 0.0, 0.0, 0.5, 1.0, 0.0])
    rule, zero = np.tril(np.ones((8, 8))), Estimate(np.zeros(8), np.zeros((8, 8)))
    draws = (steps * random.standard_normal((1000, 8))) @ rule.T
    found = [agreement(Estimate(d, rule @ np.diag(steps**2) @ rule.T), zero) for d in draws]
    assert {f.degrees_of_freedom for f in found} == {4}
    even, level = (np.arange(1000) + 0.5) / 1000, 1.63 / np.sqrt(1000)
    wrong = scipy.stats.chi2.sf([f.chi_squared for f in found], 8)
    assert np.abs(np.sort([f.p_value for f in found]) - even).max() < level
    assert np.abs(np.sort(wrong) - even).max() > 5 * level


def test_a_place_known_far_better_than_the_others_counts():
    """Errors of 1e-9 and 1: each difference of two of its errors."""
    found = agreement(Estimate.independent([2e-9, 2.0], [1e-9, 1.0]), Estimate.independent(*np.zeros((2, 2))))
    assert (found.chi_squared, found.degrees_of_freedom) == (pytest.approx(8), 2)


@pytest.mark.parametrize("z", [2.0, 30.0, 1000.0])
def test_one_point_s_z_is_its_own_however_far_out(z):
    far = agreement(Estimate.independent([z], [1.0]), Estimate.independent([0.0], [0.0]))
    assert far.z == pytest.approx(z, rel=1e-4)


def test_z_is_continuous_where_p_underflows():
    def z(size):
        return agreement(Estimate.independent(size * np.ones(9), np.ones(9)), Estimate.independent(*np.zeros((2, 9)))).z

    below, above = z(12.3), z(12.4)  # p = 4e-289 and 1e-293 … 0
    assert 0 < z(12.6) - above < 3 * (above - below)
