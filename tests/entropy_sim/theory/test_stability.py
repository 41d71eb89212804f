"""Stability limits and time scales against the spectra of the iterations."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_learning_rates_beyond_the_stability_limit_diverge(beta, heavy_ball):
    limit = theory.stability_limit(3.0, beta)
    radius = [np.max(np.abs(linalg.eigvals(heavy_ball(3.0, f * limit, beta)))) for f in (0.999, 1.001)]
    assert radius[0] < 1 < radius[1]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_nesterov_beyond_its_stability_limit_diverges(beta, nesterov):
    limit = theory.stability_limit(2.5, beta, 0.5, nesterov=True)
    radius = [np.max(np.abs(linalg.eigvals(nesterov(3.0, f * limit, beta)[0]))) for f in (0.999, 1.001)]
    assert radius[0] < 1 < radius[1]
    if beta:  # the heavy ball's limit is another
        assert theory.stability_limit(3.0, beta) > 1.3 * limit


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("eta", [1e-9, 1e-3, 0.1, 0.5, 0.7])
def test_relaxation_steps_are_the_spectral_radius(beta, eta, heavy_ball, nesterov):
    k = 2.2

    def steps(matrix):
        return -1 / np.log(np.max(np.abs(linalg.eigvals(matrix))))

    tolerance = 1e-6 if eta < 1e-6 else 1e-10  # of the eigenvalues, close to 1
    assert theory.relaxation_steps(k - 0.2, eta, beta, 0.2) == pytest.approx(
        steps(heavy_ball(k, eta, beta)), rel=tolerance
    )
    if eta < theory.stability_limit(k, beta, nesterov=True):
        assert theory.relaxation_steps(k, eta, beta, nesterov=True) == pytest.approx(
            steps(nesterov(k, eta, beta)[0]), rel=tolerance
        )
    if eta < 1e-6:
        assert theory.relaxation_steps(k, eta, beta) == pytest.approx((1 - beta) / (eta * k), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_edge_of_stability(beta):
    """Variance and relaxation time diverge alike; the relaxation in steps as (1-beta) / (2(1+beta) - eta k)."""
    k, noise = 3.0, 1.4
    limit = theory.stability_limit(k, beta)
    for gap in (0.3, 1e-2, 1e-4):
        eta = (1 - gap) * limit
        small = theory.effective_temperature(noise, eta, beta) / k
        assert theory.edge_enhancement(k, eta, beta) == pytest.approx(1 / gap, rel=1e-9)
        exact = theory.variance_sgd(k, noise, eta, beta)
        assert small * theory.edge_enhancement(k, eta, beta) == pytest.approx(exact, rel=1e-12)
        assert theory.edge_enhancement(k - 1, eta, beta, 1.0) == pytest.approx(1 / gap, rel=1e-9)
    steps = theory.relaxation_steps(k, (1 - 1e-6) * limit, beta)
    assert steps == pytest.approx((1 - beta) / (2 * (1 + beta) * 1e-6), rel=1e-3)


def test_timescale_ratio():
    k, slope = np.array([2.0, 5.0]), np.array([1.0, -3.0])
    found = theory.timescale_ratio(k, slope, 0.1)
    assert found == pytest.approx([0.1 * 0.25 / 2, 0.1 * 0.36 / 5])
    # It has no unit: on a clock that runs 7 times slower rates and diffusion are 7 times as large.
    assert theory.timescale_ratio(7 * k, 7 * slope, 0.7) == pytest.approx(found)
    steps = theory.relaxation_steps(k, 1e-6, 0.5)
    assert theory.timescale_ratio(k, slope, 0.1, steps * 1e-6 / 0.5) == pytest.approx(found, rel=1e-4)
    assert theory.timescale_ratio(np.ones((4, 2)), 1.0, np.full(4, 0.1)).shape == (4, 2)


def test_absorbing_level_seen_by_discrete_steps():
    """A walk of N(0, 2 D h) steps, level at distance 1: the mean position at the first step beyond it overshoots it by
    the shift (Siegmund). 40000 walkers, relative standard error of the overshoot 0.5 %."""
    rng = np.random.default_rng(1)
    step = 0.02
    deviation = np.sqrt(2 * 1.0 * step)
    x, over = np.zeros(40_000), []
    for _ in range(4000):
        x = x + deviation * rng.normal(size=x.size)
        over.append(x[x >= 1.0] - 1.0)
        x = x[x < 1.0]
        if over[-1].size and x.size < 4000:
            break
    over = np.concatenate(over)
    error = over.std(ddof=1) / np.sqrt(over.size)
    shift = theory.absorbing_level_shift(1.0, step)
    assert error < 0.01 * shift
    assert abs(over.mean() - shift) < 3.5 * error
    for mutant in (0.0, 0.5 * deviation, theory.absorbing_level_shift(0.5, step)):
        assert abs(over.mean() - mutant) > 5 * error


def test_discrete_barrier_constant_is_a_zeta_function():
    """By Euler-Maclaurin: zeta(1/2) = lim sum_1^n m^-1/2 - 2 sqrt(n) - 1/(2 sqrt(n)) + 1/(24 n^1.5)."""
    n = 10_000
    zeta = np.sum(np.arange(1, n + 1) ** -0.5) - 2 * np.sqrt(n) - 0.5 / np.sqrt(n) + 1 / (24 * n**1.5)
    assert pytest.approx(-zeta / np.sqrt(2 * np.pi), rel=1e-11) == theory.DISCRETE_BARRIER_CONSTANT
