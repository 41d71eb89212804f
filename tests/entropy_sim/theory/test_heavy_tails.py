"""Stable noise: the Gaussian case, and simulation with scipy's stable numbers."""

import numpy as np
import pytest
from scipy import stats

from entropy_sim import theory
from entropy_sim.errors import UserError


@pytest.mark.parametrize("step", [1e-9, 0.1, 0.4, 0.5, 0.9])
def test_gaussian_noise_is_the_case_of_index_2(step):
    k, sigma = 2.0, 0.8
    euler = 2 * theory.scale_levy_euler(k, sigma, step, 2.0) ** 2
    assert euler == pytest.approx(theory.variance_euler_maruyama(k, sigma**2, step), rel=1e-12)
    sgd = 2 * theory.scale_levy_sgd(k, sigma, step, 2.0) ** 2
    assert sgd == pytest.approx(theory.variance_sgd(k, 2 * sigma**2, step), rel=1e-12)


@pytest.mark.parametrize("alpha", [1.2, 1.7])
def test_stationary_law_of_simulated_walkers(alpha):
    """30000 walkers of each scheme; <cos u x> at three frequencies against exp(-|scale u|^alpha), standard error 0.004;
    the continuous-time scale is rejected."""
    rng = np.random.default_rng(16)
    k, step, sigma, walkers = 2.0, 0.4, 0.7, 30_000
    x, y = np.zeros((2, walkers))
    for _ in range(20):
        draws = stats.levy_stable.rvs(alpha, 0.0, size=walkers, random_state=rng)
        x = (1 - step * k) * x + sigma * step ** (1 / alpha) * draws
        y = y - step * (k * y + sigma * draws)
    for samples, scale in (
        (x, theory.scale_levy_euler(k, sigma, step, alpha)),
        (y, theory.scale_levy_sgd(k, sigma, step, alpha)),
    ):
        for u in (0.5, 1.5, 4.0):
            wave = np.cos(u * samples)
            error = wave.std() / np.sqrt(walkers)
            assert abs(wave.mean() - theory.stable_characteristic(u, scale, alpha)) < 4 * error
        u = 1 / scale
        wave = np.cos(u * samples)
        continuous = sigma / (alpha * k) ** (1 / alpha) * (1 if samples is x else step ** (1 - 1 / alpha))
        wrong = theory.stable_characteristic(u, continuous, alpha)
        assert abs(wave.mean() - wrong) > 5 * wave.std() / np.sqrt(walkers)


def test_continuous_time_limit():
    found = theory.scale_levy_euler([1.0, 3.0], 0.5, 1e-9, 1.3)
    assert found == pytest.approx(0.5 / (1.3 * np.array([1.0, 3.0])) ** (1 / 1.3), rel=1e-8)


def test_refusals():
    with pytest.raises(UserError, match=r"tail_index: expected 0 < alpha <= 2, found 2\.5"):
        theory.scale_levy_euler(1.0, 1.0, 0.1, 2.5)
    with pytest.raises(UserError, match=r"learning_rate: expected less than 2, the stability limit"):
        theory.scale_levy_sgd(1.0, 1.0, 2.0, 1.5)
