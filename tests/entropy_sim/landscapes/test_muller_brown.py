"""Müller–Brown: its published stationary points, and derivatives by finite differences."""

import numpy as np
import pytest

from entropy_sim.errors import UserError
from entropy_sim.landscapes import MullerBrown
from entropy_sim.landscapes.muller_brown import MINIMA_AND_SADDLES

SURFACE = MullerBrown(scale=0.5)
POINTS = np.random.default_rng(0).uniform([-1.5, -0.2], [1.1, 2.0], size=(300, 2))


def differences(function, theta, h=1e-5):
    return np.stack([(function(theta + e) - function(theta - e)) / (2 * h) for e in h * np.eye(2)], axis=-1)


def test_minima_and_saddles_have_the_published_energies():
    points = np.array(MINIMA_AND_SADDLES)
    surface = MullerBrown()
    np.testing.assert_allclose(surface.energy(points), [-146.700, -40.665, -80.768, -72.249, -108.167], atol=6e-4)
    np.testing.assert_allclose(surface.gradient_at(points), 0.0, atol=1e-5)
    lowest = np.linalg.eigvalsh(surface.hessian(points))[:, 0]
    np.testing.assert_array_equal(lowest < 0, [False, True, False, True, False])


def test_gradient_and_hessian_are_derivatives_of_the_energy():
    np.testing.assert_allclose(SURFACE.gradient_at(POINTS), differences(SURFACE.energy, POINTS), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(SURFACE.hessian(POINTS), differences(SURFACE.gradient_at, POINTS), rtol=1e-5, atol=1e-2)


def test_the_path_is_measured_by_its_arc_length():
    s = np.linspace(0.01, 0.99, 25)
    h = 1e-4 / SURFACE.arc_length
    velocity = (SURFACE.path(s + h) - SURFACE.path(s - h)) / 2e-4
    np.testing.assert_allclose(np.linalg.norm(velocity, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(SURFACE.tangent(s), velocity, atol=1e-6)
    bend = (SURFACE.tangent(s + h) - SURFACE.tangent(s - h)) / 2e-4
    np.testing.assert_allclose(SURFACE.path_curvature(s), bend, atol=2e-3)
    np.testing.assert_allclose(SURFACE.path([0.0, 1.0]), np.array(MINIMA_AND_SADDLES)[[0, -1]], atol=1e-9)


def test_points_of_the_path_lie_at_their_s_and_points_beside_it_at_their_distance():
    s = np.linspace(0.02, 0.98, 40)
    np.testing.assert_allclose(SURFACE.position(SURFACE.path(s)), s, atol=1e-5)
    beside = SURFACE.path(s) + 0.01 * SURFACE.mode_directions(s)[:, 0]
    np.testing.assert_allclose(SURFACE.distance(beside), 0.01, rtol=0.02)
    assert np.isnan(SURFACE.position(np.array([[np.nan, 0.0]]))).all()


def test_stiffness_and_its_slope_are_those_along_the_fixed_normal():
    s = np.array([0.1, 0.35, 0.6, 0.9])
    t, normal, base = SURFACE.tangent(s), SURFACE.mode_directions(s)[:, 0], SURFACE.path(s)

    def stiffness(shift, h=1e-3):
        at = base + shift * t
        second = SURFACE.energy(at + h * normal) - 2 * SURFACE.energy(at) + SURFACE.energy(at - h * normal)
        return second / h**2

    np.testing.assert_allclose(SURFACE.curvature(s)[:, 0], stiffness(0.0), rtol=1e-4)
    slope = (stiffness(1e-3) - stiffness(-1e-3)) / 2e-3
    np.testing.assert_allclose(SURFACE.curvature_slope(s)[:, 0], slope, rtol=1e-3, atol=1.0)
    trace = np.trace(SURFACE.hessian(base), axis1=1, axis2=2)
    np.testing.assert_allclose(SURFACE.curvature(s)[:, 0] + SURFACE.tangential_curvature(s), trace, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MullerBrown(points=((0.0, 0.0), (1.0,))), r"landscape\.points: expected two or more points"),
        (lambda: MullerBrown(points=((0.0, 0.0), (1e300, 1.0))), r"landscape\.points: expected numbers between -1e6"),
        (lambda: MullerBrown(points=((0.0, 0.0),)), r"landscape\.points: expected two or more points"),
        (lambda: MullerBrown(points=((0.0, 0.0), (0.0, 0.0))), r"landscape\.points: expected successive points"),
        (lambda: MullerBrown(scale=0.0), r"landscape\.scale: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_beyond_the_ends_the_position_goes_on():
    """Walkers there are outside the path, and must not pile up in the first and last bin of a histogram."""
    landscape = MullerBrown()
    ends, t = landscape.path([0.0, 1.0]), landscape.tangent([0.0, 1.0])
    s = landscape.position(ends + 0.1 * np.array([[-1.0], [1.0]]) * t)
    np.testing.assert_allclose(s, [-0.1 / landscape.arc_length, 1.0 + 0.1 / landscape.arc_length], rtol=1e-2)
