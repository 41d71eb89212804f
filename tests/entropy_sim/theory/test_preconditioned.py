"""Preconditioned updates against their recursions, limits, numerical derivatives and simulation."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory
from entropy_sim.errors import UserError

Y = 0.4


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [0.3, 4.0])
def test_variance_solves_the_discrete_lyapunov_equation(k, a, beta):
    eta, noise, p = 0.3, 1.7, k**-a
    step = np.array([[1 - eta * p * k, beta], [-eta * p * k, beta]])
    exact = linalg.solve_discrete_lyapunov(step, (eta * p) ** 2 * noise * np.ones((2, 2)))[0, 0]
    assert theory.variance_preconditioned(k, noise, eta, a, beta) == pytest.approx(exact, rel=1e-11)
    if a == 1 and beta == 0:
        assert exact == pytest.approx(eta * noise / (k**2 * (2 - eta)), rel=1e-12)


def test_natural_gradient_has_the_thermal_force_at_any_learning_rate(stiffness, stiffness_slope):
    k, dk, eta, ratio, beta = stiffness(Y), stiffness_slope(Y), 1.2, 0.4, 0.3
    found = theory.mean_force_preconditioned(k, dk, ratio, eta, momentum=beta)
    thermal = ratio * eta * (1 + beta) / ((1 - beta) * (2 * (1 + beta) - eta))
    assert found == pytest.approx(theory.mean_force_thermal(k, dk, thermal), rel=1e-12)
    assert theory.mean_force_preconditioned(9 * k, 9 * dk, ratio, eta, momentum=beta) == pytest.approx(found)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.0, 1.0), (0.0, 0.0), (1.5, 0.7)])
def test_potentials_are_the_work_against_the_force(a, b, stiffness, stiffness_slope, slope):
    eta, ratio, beta = 0.25, 0.6, 0.4

    def v(y):
        return theory.effective_potential_preconditioned(stiffness(y), ratio, eta, a, b, beta, 0.1 * np.cos(2 * y))

    force = theory.mean_force_preconditioned(
        stiffness(Y), stiffness_slope(Y), ratio, eta, a, b, beta, -0.2 * np.sin(2 * Y)
    )
    assert force == pytest.approx(-slope(v, Y), rel=1e-7)
    k = stiffness(np.array([0.1, 0.9]))
    if a == 0 and b == 1:
        plain = theory.effective_potential_curvature_proportional(k, ratio, eta, beta)
    elif a == 0:
        plain = theory.effective_potential_constant_noise(k, np.full(3, ratio), eta, beta)
    else:  # the alpha family at small learning rates
        eta = 1e-7
        temperature = theory.effective_temperature(ratio, eta, beta)
        plain = theory.effective_potential_curvature_power(k, temperature, b - a)
    found = theory.effective_potential_preconditioned(k, ratio, eta, a, b, beta)
    assert np.diff(found) == pytest.approx(np.diff(plain), rel=1e-5 if eta == 1e-7 else 1e-9)


def test_refusal_beyond_the_edge():
    with pytest.raises(UserError, match="learning_rate: expected less than 2, the stability limit at curvature 1"):
        theory.variance_preconditioned([1e6, 1e-6], 1.0, 2.1, 1.0)


@pytest.mark.parametrize(("beta", "eta"), [(0.0, 0.02), (0.0, 0.8), (0.9, 0.3)])
def test_adam_with_slow_second_moments(beta, eta):
    """Adam written out, beta2 = 0.999, skewed noise, 1000 walkers, averaged over 3000 steps after 5000; each wrong
    formula at least 5 standard errors away."""
    rng = np.random.default_rng(14)
    k, noise, walkers, beta2 = 2.0, 1.5, 1000, 0.999
    exact = theory.variance_adam(k, noise, eta, beta)
    x = rng.normal(size=walkers) * np.sqrt(exact)
    m, second, total = np.zeros(walkers), np.full(walkers, noise + k**2 * exact), np.zeros(walkers)
    burn, steps = (3000, 3000) if eta > 0.1 else (1500, 4000)
    for step in range(burn + steps):
        g = k * x + np.sqrt(noise) * (rng.exponential(size=walkers) - 1.0)
        m = beta * m + (1 - beta) * g
        second = beta2 * second + (1 - beta2) * g * g
        x = x - eta * m / np.sqrt(second)
        if step >= burn:
            total += x * x
    total /= steps
    error = total.std(ddof=1) / np.sqrt(walkers)
    assert error < 0.01 * exact
    assert abs(total.mean() - exact) < 3.5 * error + 3e-3 * exact  # 1 - beta2 is not 0
    small = eta * np.sqrt(noise) / (2 * k)
    mutants = [theory.variance_sgd(k, noise, eta), 2 * exact, small / np.sqrt(k)]
    if eta > 0.1:
        mutants.append(small)
    for mutant in mutants:
        assert abs(total.mean() - mutant) > 5 * error + 3e-3 * exact


def test_adam_limits():
    k, noise = np.array([0.1, 1.0, 30.0]), 1.5
    for eta in (1e-6, 0.1, 10.0):
        rms = eta**2 / 8 + np.sqrt(eta**4 / 64 + eta**2 * noise / (4 * k**2))
        assert theory.variance_adam(k, noise, eta) == pytest.approx(rms, rel=1e-12)
    small = 1e-6 * np.sqrt(noise) / (2 * k)
    assert theory.variance_adam(k, noise, 1e-6, 0.9) == pytest.approx(small, rel=1e-4)
    # c H: half the variance times the slope of k integrates to the square-root potential.
    ratio, eta = 0.3, 1e-6
    grid = np.linspace(1.0, 9.0, 4001)
    work = np.trapezoid(0.5 * theory.variance_adam(grid, ratio * grid, eta), grid)
    found = theory.effective_potential_square_root([9.0], ratio, eta)
    assert found == pytest.approx(0.5 * eta * np.sqrt(ratio) * (3 - 1), rel=1e-12)
    assert found == pytest.approx(work, rel=1e-5)


def test_sign_descent():
    """20000 walkers, 400 steps; relative standard error 1 %."""
    rng = np.random.default_rng(15)
    k, noise, eta, walkers = 2.0, 0.5, 0.02, 20_000
    exact = theory.variance_sign_descent(k, noise, eta)
    x = np.zeros(walkers)
    for _ in range(400):
        x -= eta * np.sign(k * x + np.sqrt(noise) * rng.normal(size=walkers))
    error = np.sqrt(2 / walkers)
    assert abs(np.mean(x**2) / exact - 1) < 3.5 * error + 0.01  # eta k / sqrt(C) = 0.06
    for mutant in (theory.variance_adam(k, noise, eta), theory.variance_sgd(k, noise, eta)):
        assert abs(np.mean(x**2) / mutant - 1) > 5 * error + 0.01
