"""The quadratic bowl against linear algebra."""

import numpy as np
import pytest

from entropy_sim import schema
from entropy_sim.dynamics import SGD, Adam, Overdamped, Underdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Quadratic
from entropy_sim.measurements import BarrierHeights, Escape, MeanForce, Profile, Relaxation, Stationary
from entropy_sim.noise import GradientCovariance, Thermal
from entropy_sim.scan import Scan

_R = np.random.default_rng(3).normal(size=(5, 5))
_H = _R @ _R.T
DENSE = Quadratic(
    tuple(map(tuple, _H)), centre=(1.0, 2.0, 0.0, -1.0, 0.5), start=(1.0,) * 5, end=(0.0, 1.0, 2.0, 3.0, 4.0)
)
BOWLS = [DENSE, Quadratic(((1.0, 4.0, 9.0),), centre=(0.5, 0.0, 1.0)), Quadratic(((-1.0, 0.0),))]


def matrix(bowl):
    return np.array(bowl.hessian) if len(bowl.hessian) > 1 else np.diag(bowl.hessian[0])


@pytest.mark.parametrize("bowl", BOWLS)
def test_energy_and_gradient_are_those_of_the_matrix(bowl):
    theta = np.random.default_rng(0).normal(size=(50, bowl.dimension))
    offset = theta - np.array(bowl.centre or np.zeros(bowl.dimension))
    np.testing.assert_allclose(bowl.gradient_at(theta), offset @ matrix(bowl), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(bowl.energy(theta), 0.5 * ((offset @ matrix(bowl)) * offset).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("bowl", BOWLS)
def test_modes_are_the_eigenvectors_normal_to_the_path(bowl):
    t, modes, k = bowl.tangent(0.3)[0], bowl.mode_directions(0.3)[0], bowl.curvature(0.3)[0]
    np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=1e-12)
    np.testing.assert_allclose(modes @ t, 0.0, atol=1e-12)
    q = np.eye(len(t)) - np.outer(t, t)
    np.testing.assert_allclose(q @ matrix(bowl) @ q @ modes.T, modes.T * k, atol=1e-10)
    trace = k.sum() + bowl.tangential_curvature(0.3)[0]
    np.testing.assert_allclose(trace, np.trace(matrix(bowl)), rtol=1e-6, atol=1e-6)


def test_positions_are_those_of_the_line_also_beyond_its_ends():
    s = np.array([-0.5, 0.0, 0.25, 1.0, 2.0])
    points = DENSE.path(s)
    np.testing.assert_allclose(points[[1, 3]], [DENSE.start, DENSE.end], atol=1e-14)
    off = DENSE.mode_directions(0.0)[0, 1] * 0.7
    np.testing.assert_allclose(DENSE.position(points + off), s, atol=1e-12)
    np.testing.assert_allclose(DENSE.distance(points + off), 0.7, rtol=1e-9)
    assert DENSE.arc_length == pytest.approx(np.linalg.norm(np.subtract(DENSE.end, DENSE.start)))


def test_only_a_positive_definite_bowl_has_a_stationary_density():
    assert DENSE.stationary_obstacle() is None
    assert "lowest eigenvalue of H -1" in (BOWLS[2].stationary_obstacle() or "")
    assert Quadratic(((1.0, 0.0),)).stationary_obstacle() is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(()), r"landscape\.hessian: expected one row"),
        (lambda: Quadratic(((1.0, 2.0), (2.0,))), r"landscape\.hessian: expected one row"),
        (lambda: Quadratic(((1.0, 2.0), (3.0, 1.0))), r"landscape\.hessian: expected a symmetric matrix, found .* = 1"),
        (lambda: Quadratic(((1.0, float("nan")),)), r"landscape\.hessian: expected finite numbers"),
        (lambda: Quadratic(centre=(1.0,)), r"landscape\.centre: expected 2 finite numbers, or none"),
        (lambda: Quadratic(start=(1.0, 1.0), end=(1.0, 1.0)), r"landscape\.end: expected a point other than the start"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("noise", "dynamics"),
    [
        (Thermal(0.1), Overdamped(0.01)),
        (Thermal(0.1), Underdamped()),
        (GradientCovariance(), SGD(0.01, 0.5, weight_decay=0.1)),
        (GradientCovariance(), Adam()),
    ],
)
def test_every_measurement_takes_a_bowl_without_transverse_directions(noise, dynamics):
    system = Quadratic(((1.0,),)), noise, dynamics
    for measurement in (
        Profile(*system),
        Stationary(*system, walkers=64, burn_in=0.1, duration=0.5),
        MeanForce(*system, walkers=4, burn_in=0.1, duration=0.5),
        Relaxation(*system, replicas=4, duration=0.5, records=5),
        Escape(*system, start=0.5, lower=0.3, upper=0.7, replicas=4, duration=0.5, thermalise=0.1),
        BarrierHeights(*system, walkers=4, burn_in=0.1, duration=0.5, scan=Scan()),
    ):
        assert schema.faults(measurement.run()) == []
