"""Orders of the integrators, quick sample, and their invariant measures against those of the exact discrete chains."""

import numpy as np
import pytest

from benchmarks.physics import integrator_orders as claim
from entropy_sim.dynamics import Overdamped


@pytest.mark.parametrize("part", [claim.pathwise_orders, claim.invariant_orders])
def test_every_order_is_the_theoretical_one(part):
    """Within 0.4, as what is left is the next order in h; the other order is 5 statistical errors off."""
    for row in part(quick=True):
        assert -0.4 < row.measured - row.expected < 0.4, row.line()
        assert abs(row.measured - row.rejected) > 5 * row.stderr, row.line()


X = np.linspace(-8.0, 8.0, 1201)


def slope(x):
    return x - 2 * claim._DEPTH * x / (1 + x**2) ** 2


def iterated(transition, h):
    """The law that the chain keeps, from exp(-L / T), after a time of 60."""
    p = np.exp(-claim.DoubleWells().energy(X[:, None]) / claim._TEMPERATURE)
    for _ in range(round(60 / h)):
        p = transition @ (p / p.sum())
    return p / p.sum()


def averages(x, weight):
    return np.array([(weight * (0.5 * x**2 + claim._DEPTH / (1 + x**2))).sum(), (weight / (1 + x**2)).sum()])


def spread(to, weight):
    """Transition matrix (to, from) that spreads weight over the grid with cubic interpolation; to, weight (from, k)."""
    matrix, at = np.zeros((X.size, X.size)), (np.clip(to, X[2], X[-3]) - X[0]) / (X[1] - X[0])
    i, f = np.floor(at).astype(int), at - np.floor(at)
    shares = (
        -f * (f - 1) * (f - 2) / 6,
        (f + 1) * (f - 1) * (f - 2) / 2,
        -(f + 1) * f * (f - 2) / 2,
        (f + 1) * f * (f - 1) / 6,
    )
    source = np.broadcast_to(np.arange(X.size)[:, None], to.shape)
    for shift, share in zip((-1, 0, 1, 2), shares, strict=True):
        np.add.at(matrix, (i + shift, source), share * weight)
    return matrix


@pytest.mark.parametrize(("scheme", "h"), [("euler_maruyama", 0.2), ("leimkuhler_matthews", 0.4)])
def test_invariant_measure_of_the_discrete_chain(scheme, h):
    """The whole error at one step size, not only its order. Mutants: no error, the other scheme's error."""
    r, weight = np.polynomial.hermite_e.hermegauss(48)
    weight, size = np.broadcast_to(weight / weight.sum(), (X.size, 48)), np.sqrt(2 * claim._TEMPERATURE * h)
    from_euler = iterated(spread((X - h * slope(X))[:, None] + size * r, weight), h)
    # Leimkuhler-Matthews is a chain in y = x - size R_n / 2, which the next step starts from.
    x = X[:, None] + 0.5 * size * r
    from_matthews = iterated(spread(x - h * slope(x) + 0.5 * size * r, weight), h)
    exact = {
        "euler_maruyama": averages(X, from_euler) - claim.exact_averages(),
        "leimkuhler_matthews": averages(x, from_matthews[:, None] * weight) - claim.exact_averages(),
    }
    errors = claim.invariant_errors(Overdamped(h, scheme), 1500, seed=9)
    mean, stderr = errors.mean(axis=0), errors.std(axis=0, ddof=1) / np.sqrt(claim.GROUPS)
    assert np.abs((mean - exact.pop(scheme)) / stderr).max() < 4
    assert np.abs(mean / stderr).max() > 5
    (other,) = exact.values()
    assert np.abs((mean - other) / stderr).max() > 5
