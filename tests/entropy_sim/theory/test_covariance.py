"""Covariances against Lyapunov equations."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory


def random_symmetric(rng, n):
    a = rng.normal(size=(n, n))
    return a @ a.T


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_covariances_of_many_modes(beta, heavy_ball, kick_covariance):
    rng = np.random.default_rng(3)
    k, noise, eta = np.array([0.5, 1.0, 6.0]), random_symmetric(rng, 3), 0.25
    exact = linalg.solve_discrete_lyapunov(heavy_ball(k, eta, beta), kick_covariance(noise, eta))[:3, :3]
    assert np.allclose(theory.covariance_sgd(k, noise, eta, beta), exact, rtol=1e-11)
    assert np.allclose(np.diag(exact), theory.variance_sgd(k, np.diag(noise), eta, beta), rtol=1e-11)
    continuous = linalg.solve_continuous_lyapunov(np.diag(k), eta * noise / (1 - beta))
    assert np.allclose(theory.covariance_lyapunov(k, noise, eta, beta), continuous, rtol=1e-12)


def test_exact_covariance_tends_to_the_lyapunov_form_at_first_order():
    k, noise = np.array([0.5, 6.0]), np.array([[1.0, 0.4], [0.4, 2.0]])

    def error(eta):
        return np.max(
            np.abs(theory.covariance_sgd(k, noise, eta, 0.9) / theory.covariance_lyapunov(k, noise, eta, 0.9) - 1)
        )

    assert -0.1 < np.log2(error(1e-6) / error(5e-7)) - 1 < 0.1
    assert error(1e-11) < 1e-8  # no cancellation
