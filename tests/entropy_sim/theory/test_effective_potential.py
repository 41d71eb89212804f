"""Effective potentials against quadrature and numerical derivatives."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory
from entropy_sim.errors import UserError

Y, T, ETA, BETA = 0.4, 0.3, 0.2, 0.5


def potential(y):
    return 0.1 * np.cos(2 * y)


POTENTIAL_SLOPE = -0.2 * np.sin(2 * Y)


def test_thermal_potential_is_minus_t_log_of_the_boltzmann_integral(slope, stiffness, stiffness_slope):
    """Quadrature of exp(-L/T) over each transverse coordinate."""
    x = np.linspace(-12, 12, 4001)

    def free_energy(y):
        integrals = np.trapezoid(np.exp(-0.5 * stiffness(y)[:, None] * x**2 / T), x, axis=-1)
        return potential(y) - T * np.log(integrals).sum()

    found = theory.effective_potential_thermal(stiffness(np.array([0.0, 1.2])), T, potential(np.array([0.0, 1.2])))
    assert found[1] - found[0] == pytest.approx(free_energy(1.2) - free_energy(0.0), rel=1e-10)
    force = theory.mean_force_thermal(stiffness(Y), stiffness_slope(Y), T, POTENTIAL_SLOPE)
    assert force == pytest.approx(-slope(free_energy, Y), rel=1e-8)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_curvature_power_potential_and_force_agree_with_the_variances(alpha, slope, stiffness, stiffness_slope):
    def v(y):
        return theory.effective_potential_curvature_power(stiffness(y), T, alpha, potential(y))

    force = theory.mean_force_curvature_power(stiffness(Y), stiffness_slope(Y), T, alpha, POTENTIAL_SLOPE)
    assert force == pytest.approx(-slope(v, Y), rel=1e-9)
    # <x²> = D / k solves the continuous Lyapunov equation 2 k <x²> = 2 D.
    k = stiffness(Y)
    sigma = linalg.solve_continuous_lyapunov(np.diag(k), 2 * T * np.diag(k**alpha))
    assert force == pytest.approx(
        theory.mean_force_general(np.diag(stiffness_slope(Y)), sigma, POTENTIAL_SLOPE), rel=1e-12
    )


def test_curvature_power_is_continuous_at_thermal_noise():
    k = np.array([1e-8, 2.0, 1e8])
    near = theory.effective_potential_curvature_power(k, T, 1e-13)
    assert near == pytest.approx(theory.effective_potential_thermal(k, T), rel=1e-10)
    label = theory.effective_potential_curvature_power([2.0, 3.0], T, 1.0)
    assert label == pytest.approx(0.5 * T * (1.0 + 2.0), rel=1e-14)


def test_finite_learning_rate_potentials_are_the_work_against_the_force(slope, stiffness, stiffness_slope):
    ratio, noise = 0.6, np.array([1.0, 0.3, 2.0])

    def proportional(y):
        return theory.effective_potential_curvature_proportional(stiffness(y), ratio, ETA, BETA, potential(y))

    def constant(y):
        return theory.effective_potential_constant_noise(stiffness(y), noise, ETA, BETA, potential(y))

    arguments = (stiffness(Y), stiffness_slope(Y), ETA, BETA, POTENTIAL_SLOPE)
    assert theory.mean_force_covariance(ratio * stiffness(Y), *arguments) == pytest.approx(
        -slope(proportional, Y), rel=1e-9
    )
    assert theory.mean_force_covariance(noise, *arguments) == pytest.approx(-slope(constant, Y), rel=1e-9)


def test_constant_noise_potential_contains_euler_maruyama(slope, stiffness, stiffness_slope):
    h = 0.3

    def v(y):
        return theory.effective_potential_constant_noise(stiffness(y), np.full(3, 2 * T / h), h)

    variance = theory.variance_euler_maruyama(stiffness(Y), T, h)
    assert theory.mean_force(stiffness_slope(Y), variance) == pytest.approx(-slope(v, Y), rel=1e-9)


def test_weight_decay_in_the_potentials(stiffness, stiffness_slope, slope):
    ratio, noise, decay = 0.6, np.array([1.0, 0.3, 2.0]), 0.25

    def proportional(y):
        return theory.effective_potential_curvature_proportional(stiffness(y), ratio, ETA, BETA, potential(y), decay)

    def constant(y):
        return theory.effective_potential_constant_noise(stiffness(y), noise, ETA, BETA, potential(y), decay)

    arguments = (stiffness(Y), stiffness_slope(Y), ETA, BETA, POTENTIAL_SLOPE, decay)
    assert theory.mean_force_covariance(ratio * stiffness(Y), *arguments) == pytest.approx(
        -slope(proportional, Y), rel=1e-9
    )
    assert theory.mean_force_covariance(noise, *arguments) == pytest.approx(-slope(constant, Y), rel=1e-9)
    assert theory.effective_potential_curvature_proportional([0.0], 1.0, ETA, BETA, 0.2, decay) == pytest.approx(0.2)


def test_thermal_barrier_is_extensive():
    top, end = np.array([9.0, 4.0, 2.0]), np.array([1.0, 2.0, 4.0])
    difference = theory.effective_potential_thermal(top, T, 0.5) - theory.effective_potential_thermal(end, T, 0.2)
    assert theory.barrier_height_thermal(top, end, T, 0.3) == pytest.approx(difference, rel=1e-13)
    many = theory.barrier_height_thermal(np.full((2, 100), 9.0), np.full(100, 1.0), [T, 2 * T])
    assert many == pytest.approx([100 * T * np.log(3), 200 * T * np.log(3)], rel=1e-13)


def test_work_against_a_force():
    y = np.linspace(0, 2, 2001)
    assert theory.mean_force_work(y, -np.cos(y)) == pytest.approx(np.sin(y), abs=1e-6)
    assert theory.mean_force_work(y, np.stack([y, -y])).shape == (2, 2001)
    with pytest.raises(UserError, match="force: expected 2001 values along its last axis, found "):
        theory.mean_force_work(y, [1.0, 2.0])
