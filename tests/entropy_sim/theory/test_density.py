"""Stationary densities and free energies of the slow coordinate."""

import numpy as np
import pytest

from entropy_sim import theory
from entropy_sim.errors import UserError

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


@pytest.mark.parametrize(("interpretation", "weight"), [("ito", 0.0), ("stratonovich", 0.5), ("anti_ito", 1.0)])
def test_interpretations_of_state_dependent_noise(interpretation, weight):
    """Simulated on a ring, y in 0…1, by the rule that defines each: D at the beginning, the middle (Heun) or the end of
    the step (its own predictor). 20000 walkers; the mean of cos(2πy), standard error 0.004."""
    rng = np.random.default_rng(9)
    walkers, h = 20_000, 2e-3

    def diffusion(y):
        return 0.4 * np.exp(0.8 * np.cos(2 * np.pi * y))

    def force(y):
        return 0.8 * np.sin(2 * np.pi * y) + 0 * y

    y = rng.uniform(size=walkers)
    for _ in range(400):
        kick = np.sqrt(h) * rng.normal(size=walkers)
        guess = y + kick * np.sqrt(2 * diffusion(y))
        root = (1 - weight) * np.sqrt(2 * diffusion(y)) + weight * np.sqrt(2 * diffusion(guess))
        y = y + force(y) * h + kick * root
    grid = np.linspace(0, 1, 2001)
    wave = np.cos(2 * np.pi * grid)

    def mean(name):
        return np.trapezoid(wave * theory.stationary_density(grid, force(grid), diffusion(grid), name), grid)

    sample = np.cos(2 * np.pi * y)
    error = sample.std() / np.sqrt(walkers)
    assert error < 0.006
    assert abs(sample.mean() - mean(interpretation)) < 4 * error
    for other in {"ito", "stratonovich", "anti_ito"} - {interpretation}:
        assert abs(sample.mean() - mean(other)) > 5 * error


@pytest.mark.parametrize("interpretation", ["ito", "stratonovich", "anti_ito"])
def test_named_drift_makes_every_interpretation_an_ito_equation(interpretation, slope):
    y = np.linspace(-2.0, 2.0, 4001)

    def d(y):
        return 0.5 + 0.2 * np.sin(2 * y)

    f = -y
    with_drift = f + theory.interpretation_drift(slope(d, y), interpretation)
    expected = theory.stationary_density(y, with_drift, d(y))
    assert theory.stationary_density(y, f, d(y), interpretation) == pytest.approx(expected, rel=1e-6)


def test_free_energy_is_not_the_effective_potential():
    y = np.linspace(0.0, 1.0, 1001)
    f, d = -2 * y, 0.3 * (1 + y)
    p = theory.stationary_density(y, f, d)
    assert theory.free_energy(y, f, d) == pytest.approx(-np.log(p / p[0]), abs=1e-12)
    assert theory.free_energy(y, f, 0.3) == pytest.approx(theory.mean_force_work(y, f) / 0.3, abs=1e-12)
    assert abs(theory.free_energy(y, f, d)[-1] - theory.mean_force_work(y, f / d)[-1] - np.log(2)) < 1e-12
    with pytest.raises(
        UserError, match="interpretation: expected one of ito, stratonovich, anti_ito, found 'isothermal'"
    ):
        theory.free_energy(y, f, d, "isothermal")
