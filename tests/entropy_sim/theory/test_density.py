"""Stationary densities and free energies of the slow coordinate."""

import numpy as np

from entropy_sim import theory

Y, T, ETA, BETA = 0.4, 0.3, 0.2, 0.5


def potential(y):
    return 0.1 * np.cos(2 * y)


POTENTIAL_SLOPE = -0.2 * np.sin(2 * Y)


def test_stationary_density_is_the_null_vector_of_the_fokker_planck_operator():
    """Finite volumes for ∂(D p) − f p = 0 flux with state-dependent D; without 1/D the density is another one."""
    y = np.linspace(-3.0, 3.0, 1201)
    d, f = 0.5 * (1 + y**2) ** 0.7, -np.sin(y)
    h = y[1] - y[0]
    # Zero Itô flux f p - d(D p)/dy = 0 between neighbours, midpoint rule: a recursion for p.
    p = np.ones_like(y)
    for i in range(len(y) - 1):
        p[i + 1] = p[i] * (d[i] / h + f[i] / 2) / (d[i + 1] / h - f[i + 1] / 2)
    p /= np.trapezoid(p, y)
    found = theory.stationary_density(y, f, d)
    assert np.allclose(found, p, rtol=2e-5)
    assert np.max(np.abs(theory.stationary_density(y, f, d) * d / np.trapezoid(found * d, y) / p - 1)) > 0.1


def test_stationary_density_of_thermal_noise(stiffness, stiffness_slope):
    y = np.linspace(-1, 1, 2001)
    force = theory.mean_force_thermal(stiffness(y), stiffness_slope(y), T)
    product = np.prod(stiffness(y), axis=-1) ** -0.5
    found = theory.stationary_density(y, force, T)
    assert np.allclose(found, product / np.trapezoid(product, y), rtol=1e-6)
