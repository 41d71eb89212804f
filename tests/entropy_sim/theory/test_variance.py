"""Variances against discrete Lyapunov equations, iterated recursions and simulation."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory

GRID = [
    (0.3, 0.05, 0.0),
    (2.0, 0.9, 0.0),
    (1.0, 0.1, 0.9),
    (30.0, 0.1, 0.6),
    (2.4, 1.0, 0.3),
]  # k, eta, beta: all stable


Y, T, ETA, BETA = 0.4, 0.3, 0.2, 0.5


def potential(y):
    return 0.1 * np.cos(2 * y)


POTENTIAL_SLOPE = -0.2 * np.sin(2 * Y)


@pytest.mark.parametrize(("k", "h", "_"), [g for g in GRID if g[0] * g[1] < 2])
def test_langevin_variances_solve_the_discrete_lyapunov_equation(k, h, _):
    temperature = 0.7
    euler = linalg.solve_discrete_lyapunov([[1 - h * k]], [[2 * temperature * h]])
    assert theory.variance_euler_maruyama(k, temperature, h) == pytest.approx(euler[0, 0], rel=1e-12)
    # Leimkuhler-Matthews on (x, the random number that the next step uses again).
    half = np.sqrt(2 * temperature * h) / 2
    step, kick = np.array([[1 - h * k, half], [0.0, 0.0]]), np.array([half, 1.0])
    both = linalg.solve_discrete_lyapunov(step, np.outer(kick, kick))
    assert theory.variance_leimkuhler_matthews(k, temperature, h) == pytest.approx(both[0, 0], rel=1e-12)


@pytest.mark.parametrize(("k", "eta", "beta"), GRID)
def test_sgd_variance_solves_the_discrete_lyapunov_equation(k, eta, beta, heavy_ball, kick_covariance):
    exact = linalg.solve_discrete_lyapunov(heavy_ball(k, eta, beta), kick_covariance(1.7, eta))[0, 0]
    assert theory.variance_sgd(k, 1.7, eta, beta) == pytest.approx(exact, rel=1e-10)
    assert theory.variance_sgd_curvature_proportional(k, 1.7 / k, eta, beta) == pytest.approx(exact, rel=1e-10)


def test_simulated_variances_reject_the_common_mistakes():
    """40000 walkers: relative standard error 0.7 %; every wrong formula lies at least 5 standard errors away."""
    rng = np.random.default_rng(7)
    walkers, k, eta, beta, noise, temperature = 40_000, 2.0, 0.15, 0.8, 1.5, 0.4
    x, v, y = np.zeros((3, walkers))
    for _ in range(120):
        v = beta * v - eta * (k * x + np.sqrt(noise) * rng.normal(size=walkers))
        x += v
        y += -eta * k * y + np.sqrt(2 * temperature * eta) * rng.normal(size=walkers)
    error = np.sqrt(2 / walkers)

    def z(samples, variance):
        return (np.mean(samples**2) / variance - 1) / error

    assert abs(z(x, theory.variance_sgd(k, noise, eta, beta))) < 3.5
    assert abs(z(y, theory.variance_euler_maruyama(k, temperature, eta))) < 3.5
    mutants = {
        "missing 1/(1-beta)": z(x, (1 - beta) * theory.variance_sgd(k, noise, eta, beta)),
        "T_eff / k": z(x, theory.effective_temperature(noise, eta, beta) / k),
        "momentum in the limit only": z(x, theory.variance_sgd(k, noise, eta / (1 - beta))),
        "T / k for Euler-Maruyama": z(y, temperature / k),
    }
    assert {name for name, score in mutants.items() if abs(score) < 5} == set()


@pytest.mark.parametrize(("k", "beta"), [(2.0, 0.0), (2.0, 0.9), (0.0, 0.5), (-0.3, 0.4)])
@pytest.mark.parametrize("steps", [0, 1, 7, 60])
def test_transient_variance_is_the_iterated_moment_recursion(k, beta, steps, heavy_ball, kick_covariance):
    eta, noise = 0.1, 1.3
    step, kick, moments = heavy_ball(k, eta, beta), kick_covariance(noise, eta), np.zeros((2, 2))
    for _ in range(steps):
        moments = step @ moments @ step.T + kick
    found = theory.variance_sgd_transient([k, 1.0], noise, eta, steps, beta)
    assert found.shape == (2,)
    assert found[0] == pytest.approx(moments[0, 0], rel=1e-11)
    if beta == 0.0 and k > 0:
        closed = theory.variance_sgd(k, noise, eta) * (1 - (1 - eta * k) ** (2 * steps))
        assert found[0] == pytest.approx(closed, rel=1e-11)


@pytest.mark.parametrize(("k", "eta", "beta"), [g for g in GRID if g[0] * g[1] < 2 * (1 + g[2]) / (1 + 2 * g[2])])
def test_nesterov_variance_solves_the_discrete_lyapunov_equation(k, eta, beta, nesterov):
    step, kick = nesterov(k, eta, beta)
    exact = linalg.solve_discrete_lyapunov(step, 1.7 * np.outer(kick, kick))[0, 0]
    assert theory.variance_sgd_nesterov(k, 1.7, eta, beta) == pytest.approx(exact, rel=1e-10)
    assert theory.variance_sgd_nesterov(0.4 * k, 1.7, eta, beta, 0.6 * k) == pytest.approx(exact, rel=1e-10)
    if beta == 0:
        assert theory.variance_sgd(k, 1.7, eta) == pytest.approx(exact, rel=1e-12)


def test_nesterov_as_torch_updates_it():
    """The update written out, 40000 walkers: relative standard error 0.7 %; the heavy ball's variance is rejected."""
    rng = np.random.default_rng(12)
    walkers, k, eta, beta, noise = 40_000, 2.0, 0.35, 0.6, 1.5
    x, buffer = np.zeros((2, walkers))
    for _ in range(120):
        g = k * x + np.sqrt(noise) * rng.normal(size=walkers)
        buffer = beta * buffer + g
        x -= eta * (g + beta * buffer)
    error = np.sqrt(2 / walkers)
    exact = theory.variance_sgd_nesterov(k, noise, eta, beta)
    assert abs(np.mean(x**2) / exact - 1) < 3.5 * error
    for mutant in (theory.variance_sgd(k, noise, eta, beta), theory.effective_temperature(noise, eta, beta) / k):
        assert abs(np.mean(x**2) / mutant - 1) > 5 * error


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_weight_decay_stiffens_the_iteration_only(beta, heavy_ball, kick_covariance):
    k, decay, eta = 2.0, 0.7, 0.2
    exact = linalg.solve_discrete_lyapunov(heavy_ball(k + decay, eta, beta), kick_covariance(1.3, eta))
    assert theory.variance_sgd(k, 1.3, eta, beta, decay) == pytest.approx(exact[0, 0], rel=1e-11)
    found = theory.variance_sgd_curvature_proportional(k, 1.3 / k, eta, beta, decay)
    assert found == pytest.approx(exact[0, 0], rel=1e-11)
    assert theory.velocity_variance_sgd(k, 1.3, eta, beta, decay) == pytest.approx(exact[1, 1], rel=1e-11)
    long = theory.variance_sgd_transient(k, 1.3, eta, 2000, beta, decay)
    assert long == pytest.approx(exact[0, 0], rel=1e-11)
    assert theory.variance_sgd_curvature_proportional([0.0, 0.0], 1.0, eta, beta, [0.0, decay])[1] == 0.0


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_heating_balances_in_any_stationary_state(beta):
    """Quartic well, skewed noise: far from Gaussian. Stationary after 150 steps, averaged over 20000 walkers x 150."""
    rng = np.random.default_rng(4)
    eta, walkers = 0.1, 20_000
    x, v = np.zeros((2, walkers))
    work, square = np.zeros((2, walkers))
    for step in range(300):
        slope = x**3 + 0.3 * x
        if step >= 150:
            work += x * slope
            square += v * v
        elif step == 2:
            early = theory.heating_ratio(np.mean(x * slope), np.mean(v * v), eta, beta)
        v = beta * v - eta * (slope + rng.exponential(size=walkers) - 1.0)
        x = x + v
    balance = (1 + beta) * square - 2 * eta * work
    error = balance.std(ddof=1) / np.sqrt(walkers) / (2 * eta * work.mean())
    ratio = theory.heating_ratio(work.mean(), square.mean(), eta, beta)
    assert error < 0.01
    assert abs(ratio - 1) < 3.5 * error
    assert early > 3  # not equilibrated
    assert abs(theory.heating_ratio(work.mean(), square.mean(), eta, 0.0 if beta else 0.5) - 1) > 5 * error


@pytest.mark.parametrize(("k", "eta", "beta"), GRID)
def test_heating_of_gaussian_fluctuations(k, eta, beta):
    work = k * theory.variance_sgd(k, 1.7, eta, beta)
    assert theory.heating_ratio(work, theory.velocity_variance_sgd(k, 1.7, eta, beta), eta, beta) == pytest.approx(1)
    if beta == 0:  # <g_B²> = k² <x²> + C
        square = eta**2 * (k * work + 1.7)
        assert theory.heating_ratio(work, square, eta) == pytest.approx(1, rel=1e-12)
