"""Mean forces against Lyapunov equations, limits and simulation."""

import numpy as np
import pytest

from entropy_sim import theory

Y, T, ETA, BETA = 0.4, 0.3, 0.2, 0.5


def potential(y):
    return 0.1 * np.cos(2 * y)


POTENTIAL_SLOPE = -0.2 * np.sin(2 * Y)


def test_curvature_proportional_force_is_the_small_learning_rate_limit(stiffness, stiffness_slope):
    def difference(eta):
        exact = theory.mean_force_covariance(0.6 * stiffness(Y), stiffness(Y), stiffness_slope(Y), eta, BETA)
        limit = theory.mean_force_curvature_proportional(stiffness_slope(Y).sum(), 0.6, eta, BETA)
        return float(exact / limit - 1)

    assert abs(difference(1e-6)) < 1e-5
    assert -0.1 < np.log2(difference(1e-3) / difference(5e-4)) - 1 < 0.1


@pytest.mark.parametrize("rank", [5, 3])
def test_curvature_proportional_force_in_a_rotating_frame(rank):
    """H = J J^T with J(y) arbitrary, so eigenvectors rotate (and null directions change) along y: for C = c H only the
    slope of the trace remains. Sigma is the minimum-norm solution of the Lyapunov equation, by least squares."""
    rng = np.random.default_rng(11)
    j, dj = rng.normal(size=(2, 5, rank))
    h, dh = j @ j.T, dj @ j.T + j @ dj.T
    ratio, one = 0.8, np.eye(5)
    operator = np.kron(h, one) + np.kron(one, h)
    sigma = np.linalg.lstsq(operator, (ETA * ratio * h / (1 - BETA)).ravel(), rcond=1e-10)[0].reshape(5, 5)
    expected = theory.mean_force_general(dh, sigma)
    found = theory.mean_force_curvature_proportional(np.trace(dh), ratio, ETA, BETA)
    assert found == pytest.approx(expected, rel=1e-9)


def test_simulated_drift_of_sgd():
    """L = ½ k(y) x² with k = 2 + y/50, noise on x alone; the drift of y in the 400 steps after the first 200."""
    rng = np.random.default_rng(5)
    walkers, eta, beta, noise, rate = 10_000, 0.1, 0.6, 1.0, 0.02
    x, y, vx, vy = np.zeros((4, walkers))
    for step in range(600):
        if step == 200:
            start = y.copy()
        k = 2.0 + rate * y
        vx, vy = (
            beta * vx - eta * (k * x + np.sqrt(noise) * rng.normal(size=walkers)),
            beta * vy - eta * 0.5 * rate * x * x,
        )
        x, y = x + vx, y + vy
    per_step = (y - start) / 400
    error = per_step.std(ddof=1) / np.sqrt(walkers)
    stiff = 2.0 + rate * 0.5 * (start.mean() + y.mean())
    expected = theory.drift_sgd([rate], theory.variance_sgd([stiff], noise, eta, beta), eta, beta)
    assert error / abs(expected) < 0.01
    assert abs(per_step.mean() - expected) < 3.5 * error
    for mutant in (expected * (1 - beta), -expected, expected * 2, expected * (1 - eta * stiff / (2 * (1 + beta)))):
        assert abs(per_step.mean() - mutant) > 5 * error
