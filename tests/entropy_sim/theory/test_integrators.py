"""BAOAB on a quadratic as a matrix on (x, v)."""

import numpy as np
import pytest
from scipy import linalg

from entropy_sim import theory
from entropy_sim.errors import UserError


@pytest.mark.parametrize("friction", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("step", [0.05, 0.9])
def test_baoab_solves_the_discrete_lyapunov_equation(friction, step):
    k, mass, temperature = 2.0, 0.7, 0.3
    kick = np.array([[1.0, 0.0], [-0.5 * step * k / mass, 1.0]])
    drift = np.array([[1.0, 0.5 * step], [0.0, 1.0]])
    keep = np.exp(-friction * step)
    after = kick @ drift
    matrix = after @ np.diag([1.0, keep]) @ drift @ kick
    noise = after @ np.array([0.0, np.sqrt(temperature / mass * (1 - keep**2))])
    exact = linalg.solve_discrete_lyapunov(matrix, np.outer(noise, noise))
    assert theory.variance_baoab(k, temperature, step, mass) == pytest.approx(exact[0, 0], rel=1e-9)
    assert theory.velocity_variance_baoab(k, temperature, step, mass) == pytest.approx(exact[1, 1], rel=1e-9)
    if step > 0.5:
        assert abs(exact[1, 1] / (temperature / mass) - 1) > 0.3


def test_refusals():
    with pytest.raises(UserError, match="step: expected less than 1, the stability limit of BAOAB, found 1.01"):
        theory.variance_baoab([1.0, 4.0], 1.0, 1.01)
