"""Error bars against processes whose autocorrelation time is exactly known, and against brute-force simulation."""

import numpy as np
import pytest
from scipy import signal, special, stats

from entropy_sim import statistics
from entropy_sim.errors import UserError


def autoregression(coefficient, shape, seed):
    """x_{n+1} = a x_n + noise, stationary from the start, unit variance; tau = (1 + a) / (1 - a)."""
    noise = np.random.default_rng(seed).normal(size=shape)
    noise[..., 1:] *= np.sqrt(1 - coefficient**2)
    return signal.lfilter([1.0], [1.0, -coefficient], noise, axis=-1)


# --- one correlated series ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9, -0.3])
def test_autocorrelation_time_of_an_autoregression(coefficient):
    """100 series of 20000 (more than 1000 tau); the mean of the estimates is good to 1 %."""
    tau = (1 + coefficient) / (1 - coefficient)
    found = statistics.autocorrelation_time(autoregression(coefficient, (100, 20_000), 1))
    assert found.shape == (100,)
    # The window of 5 tau leaves out e^-5 or so of the sum, and the sample mean costs tau / n.
    assert found.mean() == pytest.approx(tau, rel=0.04)
    assert found.mean() == pytest.approx(tau, abs=0.015 + 5 * found.std() / 10)
    assert abs(found.mean() - 1) > 5 * found.std() / 10 or coefficient == 0.0  # mutant: independent samples


def test_autocorrelation_function_of_an_autoregression():
    rho = statistics.autocorrelation(autoregression(0.8, (200, 4000), 2)).mean(axis=0)
    assert np.allclose(rho[:10], 0.8 ** np.arange(10), atol=0.01)


def test_effective_sample_size_and_axes():
    series = autoregression(0.5, (3, 2, 3000), 3)
    along_last = statistics.effective_sample_size(series)
    assert along_last.shape == (3, 2)
    assert np.allclose(along_last, 3000 / statistics.autocorrelation_time(series))
    assert np.array_equal(statistics.effective_sample_size(np.moveaxis(series, -1, 0), axis=0), along_last)
    assert np.all(np.abs(along_last / 1000 - 1) < 0.25)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
def test_block_averages_cover_the_true_mean(coefficient):
    """z of 1000 series' means against the true mean 0: variance 1, rejecting the naive error bar."""
    series = autoregression(coefficient, (1000, 8192), 4)
    found = statistics.block_average(series)
    assert found.plateau.all()
    z = found.mean / found.stderr
    tau = (1 + coefficient) / (1 - coefficient)
    # Variance of z, standard error sqrt(2 / 1000): a few per cent above 1 for Student's t, a few for the block choice.
    assert 0.87 < np.mean(z**2) < 1.2
    exact = np.sqrt(tau / 8192)
    assert found.stderr.mean() == pytest.approx(exact, rel=0.06)
    naive = found.mean / (series.std(axis=-1) / np.sqrt(8192))
    score = (np.mean(naive**2) - 1) / np.sqrt(2 / 1000)
    assert (score > 5) == (coefficient > 0)


def test_series_too_short_for_a_plateau_says_so():
    short = statistics.block_average(autoregression(0.99, (50, 200), 5))
    assert not short.plateau.any()
    long = statistics.block_average(autoregression(0.99, (50, 100_000), 5))
    assert long.plateau.all()


def test_block_average_with_a_given_size_and_axis():
    series = np.arange(10.0)
    found = statistics.block_average(np.stack([series, series**2], axis=1), axis=0, block_size=2)
    means = series.reshape(5, 2).mean(axis=1)
    assert found.mean.tolist() == [4.5, 28.5]
    assert found.stderr[0] == pytest.approx(means.std(ddof=1) / np.sqrt(5), rel=1e-14)
    assert (found.block_size, found.blocks) == (pytest.approx([2, 2]), pytest.approx([5, 5]))


# --- few replicas ---------------------------------------------------------------------------------------------------


def test_student_interval_of_three_replicas_covers_as_it_says():
    """20000 experiments: coverage 0.95 ± 0.0015; the Gaussian interval covers 0.81."""
    values = np.random.default_rng(6).normal(1.0, 2.0, size=(20_000, 3))
    found = statistics.replica_mean(values, axis=1)
    assert found.degrees_of_freedom == 2
    low, high = statistics.confidence_interval(found.mean, found.stderr, found.degrees_of_freedom)
    error = np.sqrt(0.95 * 0.05 / 20_000)
    assert abs(np.mean((low < 1) & (high > 1)) - 0.95) < 3.5 * error
    low, high = statistics.confidence_interval(found.mean, found.stderr)
    assert np.mean((low < 1) & (high > 1)) < 0.95 - 5 * error


def test_student_quantile_and_significance_against_scipy():
    assert statistics.student_quantile(0.9, [1, 4, np.inf]) == pytest.approx([*stats.t.ppf(0.95, [1, 4]), 1.6448536])
    z = np.array([3.0, -3.0, 12.0])
    found = statistics.gaussian_significance(z, [2, 2, 5])
    assert found == pytest.approx(np.sign(z) * stats.norm.isf(stats.t.sf(abs(z), [2, 2, 5])), rel=1e-10)
    assert found[0] == pytest.approx(1.667, abs=1e-3)
    assert statistics.gaussian_significance(40.0, np.inf) == 40.0


def test_z_score():
    assert statistics.z_score([1.0, 2.0], 3.0, 6.0, 4.0).tolist() == [-1.0, -0.8]
    assert statistics.z_score([1.0, 2.0, 0.0], 0.0, 1.0).tolist() == [0.0, np.inf, -np.inf]


# --- combining ------------------------------------------------------------------------------------------------------


def test_weighted_mean_minimises_chi2_and_its_p_value_is_uniform():
    rng = np.random.default_rng(8)
    stderr = np.array([0.1, 0.3, 1.0, 0.2])
    found = statistics.weighted_mean(5.0 + stderr * rng.normal(size=(5000, 4)), stderr)
    assert found.degrees_of_freedom == 3
    z = (found.mean - 5.0) / found.stderr
    assert abs(np.mean(z**2) - 1) < 3.5 * np.sqrt(2 / 5000)
    assert stats.kstest(found.p_value, "uniform").pvalue > 1e-3
    exact = np.polynomial.polynomial.polyfit(np.zeros(4), [1.0, 2.0, 3.0, 4.0], 0, w=1 / stderr)[0]
    assert statistics.weighted_mean([1.0, 2.0, 3.0, 4.0], stderr).mean == pytest.approx(exact, rel=1e-12)


def test_integral_and_its_errors_against_resampling():
    """Values with correlated errors, integrated 20000 times: the propagated covariance and the error of a part."""
    rng = np.random.default_rng(9)
    x = np.array([0.0, 0.1, 0.4, 0.5, 1.0])
    root = rng.normal(size=(5, 5)) * 0.2
    covariance, values = root @ root.T, np.cos(x)
    found = statistics.cumulative_integral(x, values, covariance=covariance)
    assert found.value == pytest.approx([np.trapezoid(values[: i + 1], x[: i + 1]) for i in range(5)], abs=1e-14)
    draws = values + rng.normal(size=(20_000, 5)) @ root.T
    integrals = np.array([np.trapezoid(draws[:, : i + 1], x[: i + 1], axis=1) for i in range(5)])
    assert np.allclose(np.cov(integrals), found.covariance, atol=4 * found.covariance.max() * np.sqrt(2 / 20_000))
    assert found.stderr == pytest.approx(np.sqrt(np.diag(found.covariance)))
    value, error = found.between(1, 3)
    difference = integrals[3] - integrals[1]
    assert value == pytest.approx(np.trapezoid(values[1:4], x[1:4]), rel=1e-12)
    assert error == pytest.approx(difference.std(), rel=4 / np.sqrt(2 * 20_000))
    # Mutant: adding the errors of the two ends as if independent.
    assert abs(np.hypot(found.stderr[1], found.stderr[3]) / difference.std() - 1) > 5 / np.sqrt(2 * 20_000)


def test_integral_with_independent_errors():
    found = statistics.cumulative_integral([0.0, 1.0, 3.0], [2.0, 2.0, 2.0], stderr=[0.1, 0.2, 0.3])
    assert found.value.tolist() == [0.0, 2.0, 6.0]
    assert found.stderr == pytest.approx([0.0, np.hypot(0.05, 0.1), np.sqrt(0.05**2 + 0.3**2 + 0.3**2)])
    assert statistics.cumulative_integral([0.0, 1.0], [1.0, 1.0]).stderr.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("covariance", [0.0, 0.03])
def test_ratio_interval_covers_and_the_delta_method_is_lopsided(covariance):
    """Denominator known to 30 %, 40000 experiments: Fieller's interval covers 95 %, the delta method's is lopsided."""
    rng = np.random.default_rng(10)
    truth, sa, sb = np.array([0.4, 1.0]), 0.2, 0.3
    draws = rng.multivariate_normal(truth, [[sa**2, covariance], [covariance, sb**2]], size=40_000)
    found = statistics.ratio(draws[:, 0], sa, draws[:, 1], sb, covariance)
    covered = (found.low <= 0.4) & (found.high >= 0.4)
    error = np.sqrt(0.95 * 0.05 / 40_000)
    bounded = np.isfinite(found.low)
    assert bounded.mean() > 0.8
    # An unbounded Fieller set (a complement of an interval, or everything) is reported as everything: never too narrow.
    assert covered.mean() > 0.95 - 3.5 * error
    assert covered.mean() < 0.96
    # Mutant: the delta method's interval misses on one side only; each side should miss 2.5 %.
    below = np.mean(found.value + 1.96 * found.stderr < 0.4)
    above = np.mean(found.value - 1.96 * found.stderr > 0.4)
    assert min(below, above) < 0.025 - 5 * np.sqrt(0.025 * 0.975 / 40_000)


def test_ratio_of_precise_numbers_is_the_delta_method():
    found = statistics.ratio([1.0, -3.0], 1e-4, 2.0, 2e-4, covariance=1e-8)
    exact = np.abs(found.value) * np.sqrt(
        (1e-4 / np.array([1.0, 3.0])) ** 2 + 1e-8 - 2e-8 / (np.array([1.0, -3.0]) * 2.0)
    )
    assert found.value.tolist() == [0.5, -1.5]
    assert found.stderr == pytest.approx(exact, rel=1e-10)
    assert (found.high - found.low) / 2 == pytest.approx(special.ndtri(0.975) * exact, rel=1e-4)


def test_ratio_by_what_may_be_zero_is_unbounded():
    found = statistics.ratio(1.0, 0.1, 0.1, 0.1)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isfinite(statistics.ratio(1.0, 0.1, 0.5, 0.1).high)
    assert np.isinf(statistics.ratio(1.0, 0.1, 0.5, 0.1, degrees_of_freedom=1).high)


def test_bootstrap_of_the_median():
    """Standard error of the median of n Gaussians, sqrt(pi / 2n); reproducible by its seed."""
    samples = np.random.default_rng(11).normal(size=(2001, 20))
    found = statistics.bootstrap(samples, lambda x: np.median(x, axis=0), seed=1, resamples=200)
    assert found.stderr.mean() == pytest.approx(np.sqrt(np.pi / 2 / 2001), rel=0.1)
    again = statistics.bootstrap(samples, lambda x: np.median(x, axis=0), seed=1, resamples=200)
    assert np.array_equal(found.low, again.low)
    other = statistics.bootstrap(samples, lambda x: np.median(x, axis=0), seed=2, resamples=200)
    assert not np.array_equal(found.low, other.low)
    assert np.all((found.low < np.median(samples, axis=0)) & (np.median(samples, axis=0) < found.high))


def test_bootstrap_interval_of_the_mean_is_gaussian():
    samples = np.random.default_rng(12).normal(3.0, 2.0, size=400)
    found = statistics.bootstrap(samples, seed=1, resamples=4000)
    error = samples.std(ddof=1) / 20
    assert found.stderr == pytest.approx(error, rel=0.06)
    assert [found.low, found.high] == pytest.approx(
        [samples.mean() - 1.96 * error, samples.mean() + 1.96 * error], abs=0.03
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.block_average([1.0, 2.0]), "series: expected at least 4 samples, found 2"),
        (lambda: statistics.block_average(np.ones(10), block_size=3), r"block_size: expected 1…2, found 3"),
        (lambda: statistics.replica_mean([1.0]), "replicas: expected at least 2, found 1"),
        (lambda: statistics.student_quantile(1.0), r"level: expected a number between 0 and 1, found 1\.0"),
        (lambda: statistics.weighted_mean([1.0, 2.0], [1.0, 0.0]), "stderr: expected positive numbers"),
        (lambda: statistics.cumulative_integral([0, 2, 1], [1, 1, 1]), "x: expected two or more increasing values"),
        (lambda: statistics.cumulative_integral([0, 1], [1, 1, 1]), r"values: expected the shape \(2,\), found \(3,\)"),
        (lambda: statistics.cumulative_integral([0, 1], [1, 1], stderr=[1.0]), r"stderr: expected the shape \(2,\)"),
        (
            lambda: statistics.cumulative_integral([0, 1], [1, 1], covariance=np.eye(3)),
            r"covariance: expected the shape \(2, 2\), found \(3, 3\)",
        ),
        (
            lambda: statistics.cumulative_integral([0, 1], [1, 1], stderr=[0.1, 0.1], covariance=np.eye(2)),
            "covariance: expected either stderr or covariance, found both",
        ),
        (lambda: statistics.bootstrap([1.0], seed=1), "samples: expected at least 2, found 1"),
        (lambda: statistics.bootstrap([1.0, 2.0], seed=1, resamples=1), "resamples: expected at least 2, found 1"),
        (lambda: statistics.bootstrap([1.0, 2.0], seed=1, level=0.0), r"level: expected a number between 0 and 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
