"""Mean forces against Lyapunov equations, limits and simulation."""

import numpy as np
import pytest
from scipy import linalg

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


@pytest.mark.parametrize("exact", [False, True])
def test_lyapunov_force_of_a_rotating_frame(exact):
    """Full matrices with parts along the tangent, against a Kronecker solution on the hyperplane."""
    rng = np.random.default_rng(21)
    j, dj = rng.normal(size=(2, 4, 4))
    h, dh, noise = j @ j.T, dj @ j.T + j @ dj.T, np.cov(rng.normal(size=(4, 40)))
    t = linalg.orth(rng.normal(size=(4, 1)))[:, 0]
    plane = linalg.null_space(t[None])
    h3, c3, eta = plane.T @ h @ plane, plane.T @ noise @ plane, 0.02
    if exact:
        one = np.eye(3)
        step = np.block([[one - eta * h3, BETA * one], [-eta * h3, BETA * one]])
        kick = eta**2 * np.kron(np.ones((2, 2)), c3)
        sigma = linalg.solve_discrete_lyapunov(step, kick)[:3, :3]
    else:
        sigma = linalg.solve_continuous_lyapunov(h3, eta * c3 / (1 - BETA))
    expected = -0.7 - 0.5 * np.trace(plane.T @ dh @ plane @ sigma)
    found = theory.mean_force_lyapunov(h, noise, dh, eta, BETA, t, 0.7, exact=exact)
    assert found == pytest.approx(expected, rel=1e-10)
    if not exact:
        proportional = theory.mean_force_lyapunov(h, 0.4 * h, dh, eta, BETA, t)
        trace = theory.transverse_trace_slope(dh, t)
        assert trace == pytest.approx(np.trace(plane.T @ dh @ plane), rel=1e-12)
        assert abs(trace - np.trace(dh)) > 0.1
        closed = theory.mean_force_curvature_proportional(trace, 0.4, eta, BETA)
        assert proportional == pytest.approx(closed, rel=1e-10)


def test_weight_decay_narrows_but_the_force_keeps_the_slope_of_the_loss(stiffness, stiffness_slope):
    k, dk, decay = stiffness(Y), stiffness_slope(Y), 0.5
    variance = theory.variance_sgd(k + decay, 0.6, ETA, BETA)
    found = theory.mean_force_covariance(np.full(3, 0.6), k, dk, ETA, BETA, 0.3, decay)
    assert found == pytest.approx(-0.3 - 0.5 * np.sum(dk * variance), rel=1e-12)


def test_free_drift_of_tangent_normal_noise_on_a_ring():
    """SGD on ½ k (r - R)², noise of covariance C in the local frame (tangent, outward normal), correlated; the angle
    gained in 300 steps after the first 50, 30000 walkers: relative standard error 4 %."""
    rng = np.random.default_rng(3)
    walkers, k, radius, eta, rho = 30_000, 4.0, 1.0, 0.1, 0.9
    theta = np.stack([np.full(walkers, radius), np.zeros(walkers)])
    turned, kept = np.zeros(walkers), 0.0
    for step in range(350):
        r = np.hypot(*theta)
        normal = theta / r
        tangent = np.stack([-normal[1], normal[0]])
        a, b = rng.normal(size=(2, walkers))
        noise = 0.5 * (a * tangent + (rho * a + np.sqrt(1 - rho**2) * b) * normal)
        old = theta
        theta = theta - eta * (k * (r - radius) * normal + noise)
        turned += np.arctan2(old[0] * theta[1] - old[1] * theta[0], np.sum(old * theta, 0)) * radius
        if step == 49:
            kept = turned.copy()
    per_step = (turned - kept) / 300
    error = per_step.std(ddof=1) / np.sqrt(walkers)
    t, n = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    c = 0.25 * (np.outer(t, t) + np.outer(n, n) + rho * (np.outer(t, n) + np.outer(n, t)))
    expected = theory.tangent_normal_drift(-n / radius, c, t, eta)
    assert expected == pytest.approx(-(eta**2) * 0.25 * rho / radius)
    assert abs(per_step.mean() - expected) < 4 * error + 0.03 * abs(expected)  # next order in the width: T / (k R²)
    for mutant in (0.0, -expected, expected / 2, expected * 2):
        assert abs(per_step.mean() - mutant) > 5 * error
