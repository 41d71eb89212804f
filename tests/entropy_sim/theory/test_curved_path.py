"""The annulus ½ k(s) (r - R)² against two-dimensional quadrature."""

import numpy as np
import pytest
from scipy import integrate

from entropy_sim import theory
from entropy_sim.errors import UserError

R, T = 1.4, 0.04


def stiffness(s):
    return 3.0 + 1.5 * np.cos(s / R)


def stiffness_slope(s):
    return -1.5 / R * np.sin(s / R)


def boltzmann(s, power=0, weight=lambda r: 1.0):
    """int r^power weight(r) exp(-L/T) dr along the ray at s."""
    k = stiffness(s)
    value, _ = integrate.quad(
        lambda r: r**power * weight(r) * np.exp(-0.5 * k * (r - R) ** 2 / T),
        0.1,
        4.0,
        points=[R],
        epsabs=0,
        epsrel=1e-11,
    )
    return value


@pytest.mark.parametrize("s", [0.6, 2.5])
def test_annulus_averages(s, slope):
    exact = theory.annulus(stiffness(s), stiffness_slope(s), R, T, 0.1)
    z = boltzmann(s)
    variance = boltzmann(s, 0, lambda r: (r - R) ** 2) / z
    assert exact.variance == pytest.approx(variance, rel=1e-9)
    assert exact.crowding == pytest.approx(boltzmann(s, 1) / z / R, rel=1e-9)
    # t · grad L = (1/r) dL/d angle
    force = -0.5 * stiffness_slope(s) * R * boltzmann(s, -1, lambda r: (r - R) ** 2) / z
    assert exact.mean_force == pytest.approx(force, rel=1e-9)
    assert exact.plane_free_energy == pytest.approx(-T * np.log(z), rel=1e-9)
    # dA/ds and -T ln p(s), p(s) = int exp(-L/T) r dr
    assert exact.mean_force_curved == pytest.approx(T * slope(lambda a: np.log(boltzmann(a)), s), rel=1e-7)
    assert exact.free_energy == pytest.approx(-T * np.log(boltzmann(s, 1) / R), rel=1e-9)
    assert abs(exact.mean_force / exact.mean_force_curved - 1 - 3 * T / (stiffness(s) * R**2)) < 5e-3
    assert abs(exact.mean_force / exact.mean_force_curved - 1) > 0.01


@pytest.mark.parametrize("hot", [T, 1.0])
def test_free_energy_of_position_from_recorded_averages(hot):
    """At T = 1 the wall at r = 0.1 makes the crowding depend on s; a harmonic valley far from it has <J> = 1."""
    s = np.linspace(0, 2 * np.pi * R, 4001)
    exact = theory.annulus(stiffness(s), stiffness_slope(s), R, hot, 0.1)
    found = theory.free_energy_of_position(s, exact.mean_force_curved, exact.crowding, hot)
    assert found == pytest.approx(exact.free_energy - exact.free_energy[0], abs=1e-6 * hot)
    plane = theory.mean_force_work(s, exact.mean_force_curved)
    assert plane == pytest.approx(exact.plane_free_energy - exact.plane_free_energy[0], abs=1e-6 * hot)
    assert np.max(np.abs(theory.mean_force_work(s, exact.mean_force) - plane)) > 1e-4 * hot
    if hot == 1.0:
        assert np.ptp(exact.crowding) > 0.01
        assert np.max(np.abs(found - plane)) > 0.01


def test_a_hot_annulus_needs_a_wall_at_the_centre():
    with pytest.raises(UserError, match="inner_radius: expected a number > 0: this hot, the force diverges"):
        theory.annulus(3.0, 1.0, 1.0, 0.1)
    with pytest.raises(UserError, match="inner_radius: expected 0 <= inner_radius < radius, found 2"):
        theory.annulus(3.0, 1.0, 1.0, 0.1, 2.0)
    assert theory.annulus(3.0, np.ones(4), 1.0, 0.1, 0.01).mean_force.shape == (4,)
