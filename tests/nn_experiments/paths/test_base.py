"""What every path finder refuses, and what it makes of a chain to start from."""

import numpy as np
import pytest

from entropy_sim import path_geometry
from entropy_sim.errors import UserError
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.curves import BezierCurve, PolygonalChain
from nn_experiments.paths.linear import StraightLine

ENDS = np.array([[-1.0, 0.0], [1.0, 0.0]])
FINDERS = [AutoNEB(pivots=5, cycles=((0.01, 3),)), BezierCurve(steps=5), PolygonalChain(steps=5), StraightLine()]


def flat(points):
    return 0 * points[:, 0], 0 * points


def named(finder):
    return type(finder).__name__


@pytest.mark.parametrize("finder", FINDERS, ids=named)
@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (np.ones((2, 3)), r"ends: expected two different, finite points, found 'a distance of 0'"),
        (
            np.array([[0.0, 1.0], [np.nan, 0.0]]),
            r"ends: expected two different, finite points, found 'a distance of nan'",
        ),
        (np.ones((1, 3)), r"ends: expected two points \(2, D\) or a chain \(n, D\), found \(1, 3\)"),
        (np.ones(3), r"ends: expected two points \(2, D\) or a chain \(n, D\), found \(3,\)"),
        (np.eye(3)[[0, 1, 1, 2]], r"points: expected finite, distinct successive points, found a fault after points"),
    ],
)
def test_bad_ends_are_refused(finder, ends, message):
    with pytest.raises(UserError, match=message):
        finder.run(flat, ends)


@pytest.mark.parametrize("finder", FINDERS, ids=named)
def test_losses_that_are_no_numbers_are_refused(finder):
    def values_at_an_end(points):
        return np.where(points[:, 0] > 0.99, np.nan, 0.0), 0 * points

    def values_between(points):
        return np.where(np.abs(points[:, 0] - 0.05) < 0.051, np.inf, 0.0), 0 * points

    with pytest.raises(UserError, match=r"ends: .* found nan at point 2 of 2"):
        finder.run(values_at_an_end, ENDS)
    with pytest.raises(UserError, match=r"path: expected a finite loss between its points, found inf at point \d+ of"):
        finder.run(values_between, ENDS)


@pytest.mark.parametrize("finder", FINDERS[:3], ids=named)
def test_a_chain_is_started_from(finder):
    """On flat ground nothing moves: what comes out is what was started from."""
    turned = np.linspace(np.pi, 0, 201)
    arc = np.column_stack([np.cos(turned), np.sin(turned)])
    arc[[0, -1]] = ENDS
    found = finder.run(flat, arc)
    straight = finder.run(flat, ENDS)
    assert np.allclose(straight.points[:, 1], 0, atol=1e-15)
    assert found.points[:, 1].max() > 0.6
    assert np.array_equal(found.points[[0, -1]], ENDS)


def test_straight_line_is_judged_as_any_path():
    def bowl(points):
        x, y = points.T
        return (y - 1) ** 2 + x**2, np.stack([2 * x, 2 * (y - 1)], axis=1)

    result = StraightLine(points=5, samples_between=1).run(bowl, ENDS)
    assert result.finder == "StraightLine"
    assert result.converged
    assert np.allclose(result.points, np.column_stack([np.linspace(-1, 1, 5), np.zeros(5)]))
    assert np.allclose(result.perpendicular_gradient_norm, 2)
    assert np.allclose(result.arc_length, [0, 0.5, 1, 1.5, 2])
    assert np.allclose(result.losses, 1 + np.linspace(-1, 1, 5) ** 2)
    assert np.allclose(result.loss_between, [2, 1.25, 1.25, 2, 2])
    assert result.highest_loss == result.history.highest_loss[0] == 2
    ends_only = StraightLine(points=5).run(bowl, np.array([[-1.0, 0], [0, 9], [1, 0]]))
    assert np.array_equal(ends_only.points, result.points)


def test_the_scale_of_insertion_is_that_of_the_straight_line():
    """Whatever chain a search starts from: with the chain's own scale, ten thousand times larger, nothing is added."""

    def bump(points):
        x, y = points.T
        hill = np.exp(-0.5 * (x / 0.03) ** 2)
        return hill + 100 * y**2, np.stack([-hill * x / 0.03**2, 200 * y], axis=1)

    chain = np.array([[-1.0, 0.0], [0.1, 10.0], [1.0, 0.0]])
    config = AutoNEB(pivots=4, cycles=((1e-3, 100), (1e-3, 5)), momentum=0.5, samples_between=9)
    assert len(config.run(bump, chain).points) > 4
    assert len(config.run(bump, ENDS).points) > 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 2}, "points: expected at least 3, found 2"),
        ({"samples_between": 0}, "samples_between: expected at least 1, found 0"),
        ({"batch_size": 0}, "batch_size: expected a number of samples > 0, found 0"),
        ({"seed": -1}, "seed: expected a number >= 0, found -1"),
    ],
)
def test_refusals_of_the_straight_line(options, message):
    with pytest.raises(UserError, match=message):
        StraightLine(**options)


def test_arc_length_is_that_of_the_points():
    result = BezierCurve(steps=3).run(flat, ENDS)
    assert np.array_equal(result.arc_length, path_geometry.arc_length(result.points))
