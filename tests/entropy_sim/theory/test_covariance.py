"""Covariances against Lyapunov equations."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory
from entropy_sim.errors import UserError


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


def rotated(rng, k):
    modes = linalg.qr(rng.normal(size=(len(k), len(k))))[0]
    return modes @ np.diag(k) @ modes.T


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_covariance_across_a_path_is_that_of_projected_dynamics(beta, decay):
    """H and C with everything along t too; the iteration with its final update projected, as a matrix on (x, v)."""
    rng = np.random.default_rng(8)
    h, noise, eta = rotated(rng, [0.5, 1.0, 3.0, -2.0]), random_symmetric(rng, 4), 0.2
    t = rng.normal(size=4)
    across = np.eye(4) - np.outer(t, t) / (t @ t)
    h = across @ rotated(rng, [0.5, 1.0, 3.0, 0.9]) @ across + 0.3 * (np.outer(t, t) @ h + h @ np.outer(t, t))
    a = eta * across @ (h + decay * np.eye(4)) @ across
    step = np.block([[across - a, beta * across], [-a, beta * across]])
    kick = eta**2 * np.kron(np.ones((2, 2)), across @ noise @ across)
    exact = linalg.solve_discrete_lyapunov(step, kick)[:4, :4]
    found = theory.covariance_transverse(h, noise, eta, beta, t, decay)
    assert np.allclose(found, exact, rtol=1e-10, atol=1e-13)
    assert np.allclose(found @ t, 0, atol=1e-12)
    small = theory.covariance_transverse(h, noise, eta, beta, t, decay, exact=False)
    h = across @ (h + decay * np.eye(4)) @ across
    assert np.allclose(h @ small + small @ h, eta * across @ noise @ across / (1 - beta), atol=1e-12)
    # In its own eigenbasis it is the diagonal form.
    k = np.array([0.5, 2.0])
    assert np.allclose(
        theory.covariance_transverse(np.diag(k), noise[:2, :2], eta, beta, None, decay),
        theory.covariance_sgd(k, noise[:2, :2], eta, beta, decay),
        rtol=1e-12,
    )
    assert np.allclose(
        theory.covariance_transverse(np.diag(k), noise[:2, :2], eta, beta, None, decay, exact=False),
        theory.covariance_lyapunov(k, noise[:2, :2], eta, beta, decay),
        rtol=1e-12,
    )


def test_covariance_across_broadcasts_over_points_and_learning_rates():
    rng = np.random.default_rng(2)
    h = np.stack([rotated(rng, [1.0, 2.0, 3.0]) for _ in range(5)])
    t, noise, eta = rng.normal(size=(5, 3)), random_symmetric(rng, 3), np.linspace(0.1, 0.3, 5)
    found = theory.covariance_transverse(h, noise, eta, 0.3, t)
    one = theory.covariance_transverse(h[2], noise, eta[2], 0.3, t[2])
    assert found.shape == (5, 3, 3)
    assert np.allclose(found[2], one, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.diag([1.0, -0.5]), np.eye(2), 0.1), "hessian: expected no negative curvature .* found an eigenvalue -0.5"),
        ((np.diag([1.0, 0.0]), np.eye(2), 0.1), "noise: expected none along null directions of the Hessian, found 1"),
        ((np.diag([1.0, 30.0]), np.eye(2), 0.1), r"learning_rate: expected less than 0\.0666667, .* curvature 30"),
        (([[1.0, 0.5], [0.0, 1.0]], np.eye(2), 0.1), "hessian: expected a symmetric matrix"),
        ((np.eye(3), np.eye(2), 0.1), "noise: expected a matrix of 3 rows, as the Hessian, found 2"),
        ((np.eye(2), np.eye(2), 0.1, 0.0, [0.0, 0.0]), "tangent: expected a vector longer than 0"),
        ((np.eye(2), np.eye(2), 0.1, 0.0, [0.0, 0.0, 1.0]), "tangent: expected 2 components, found 3"),
    ],
)
def test_refused_matrices(arguments, message):
    with pytest.raises(UserError, match=message):
        theory.covariance_transverse(*arguments)
