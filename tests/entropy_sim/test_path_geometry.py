"""Path geometry against circles, straight lines and brute force, for numpy and torch alike."""

import numpy as np
import pytest

from entropy_sim import path_geometry
from entropy_sim.errors import UserError

RADIUS = 3.0


def circle(angles):
    """Points of a circle of radius 3, in a tilted plane of a 5-dimensional space."""
    frame, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 2)))
    return RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1) @ frame.T, frame


def helix(angles):
    """Points of a helix (whose third derivative, unlike a circle's, is not along the tangent) and its unit tangents."""
    slope = np.stack([-np.sin(angles), np.cos(angles), np.full_like(angles, 0.7)], axis=-1)
    return np.stack([np.cos(angles), np.sin(angles), 0.7 * angles], axis=-1), slope / np.sqrt(1.49)


def uneven(count):
    u = np.linspace(0.0, 1.0, count)
    return 2.0 * (u + 0.15 * np.sin(2 * np.pi * u))


@pytest.fixture(params=["numpy", "torch"])
def kind(request):
    """Turns a numpy array into one of the kind under test; the result goes back through np.asarray."""
    if request.param == "numpy":
        return np.asarray
    return pytest.importorskip("torch").from_numpy


def test_arc_length_of_a_known_polyline(kind):
    points = kind(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]]))
    assert path_geometry.arc_length(points).tolist() == [0.0, 5.0, 11.0]
    assert path_geometry.normalised_arc_length(points).tolist() == [0.0, 5 / 11, 1.0]


@pytest.mark.parametrize("repeated", [0, 2])
def test_coinciding_points_are_refused(repeated):
    points = np.arange(8.0).reshape(4, 2)
    points[repeated + 1] = points[repeated]
    with pytest.raises(UserError, match=rf"distinct successive points, found a fault after points \[{repeated}\]"):
        path_geometry.arc_length(points)


def test_a_single_point_is_no_path():
    with pytest.raises(UserError, match=r"at least two, as an array \(P, D\), found the shape \(1, 2\)"):
        path_geometry.tangents(np.zeros((1, 2)))


def test_tangents_converge_at_second_order_on_uneven_points(kind):
    def error(count):
        points, exact = helix(uneven(count))
        found = np.asarray(path_geometry.tangents(kind(points)))
        assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-14)
        return np.max(np.linalg.norm(found - exact, axis=1))

    order = np.log2(error(81) / error(161))
    assert -0.2 < order - 2.0 < 0.2


def test_tangents_mutant_bisector_is_first_order():
    """The plain bisector of the two segments, a common shortcut, is first order where spacing alternates."""
    points, exact = helix(np.cumsum(np.tile([0.005, 0.02], 80)))
    units = np.diff(points, axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    bisector = units[:-1] + units[1:]
    bisector /= np.linalg.norm(bisector, axis=1, keepdims=True)
    mine = path_geometry.tangents(points)[1:-1]
    wrong, right = (np.max(np.linalg.norm(t - exact[1:-1], axis=1)) for t in (bisector, mine))
    assert right < wrong / 10


def test_tangents_and_second_derivative_of_a_straight_line(kind):
    points = kind(np.outer([0.0, 1.0, 4.0, 5.0], [3.0, 4.0]))
    assert np.allclose(np.asarray(path_geometry.tangents(points)), [[0.6, 0.8]] * 4, atol=1e-15)
    assert np.allclose(np.asarray(path_geometry.second_derivative(points)), 0.0, atol=1e-15)
    assert np.allclose(np.asarray(path_geometry.tangents(points[:2])), [[0.6, 0.8]] * 2, atol=1e-15)
    assert np.asarray(path_geometry.second_derivative(points[:2])).tolist() == [[0.0, 0.0]] * 2


def test_second_derivative_points_at_the_centre_of_a_circle(kind):
    points, _ = circle(np.linspace(0.0, 2.0, 101))
    found = np.asarray(path_geometry.second_derivative(kind(points)))
    assert np.allclose(found[1:-1], -points[1:-1] / RADIUS**2, atol=2e-5)


def test_interpolation_is_exact_at_points_and_linear_between(kind):
    points = np.random.default_rng(2).normal(size=(6, 7))
    s = path_geometry.normalised_arc_length(kind(points))
    assert np.array_equal(np.asarray(path_geometry.interpolate(kind(points), s)), points)
    middle = np.asarray(path_geometry.interpolate(kind(points), (s[2] + s[3]) / 2))
    assert middle.shape == (7,)
    assert np.allclose(middle, (points[2] + points[3]) / 2, atol=1e-14)


@pytest.mark.parametrize("s", [-0.01, 1.01, float("nan")])
def test_positions_off_the_path_are_refused(s):
    with pytest.raises(UserError, match=r"s: expected 0…1, found"):
        path_geometry.interpolate(np.eye(3), s)


def test_redistribution_makes_spacing_equal_and_keeps_the_ends(kind):
    points, _ = circle(uneven(41))
    spread = np.diff(path_geometry.arc_length(points))
    assert spread.max() / spread.min() > 5
    for count in (None, 23):
        found = np.asarray(path_geometry.redistribute(kind(points), count))
        assert len(found) == (count or 41)
        assert np.array_equal(found[[0, -1]], points[[0, -1]])
        lengths = np.diff(path_geometry.arc_length(found))
        assert lengths.max() / lengths.min() < 1.002


def test_insertion_adds_midpoints_and_keeps_the_rest(kind):
    points = np.random.default_rng(3).normal(size=(5, 4))
    found = np.asarray(path_geometry.insert(kind(points), [3, 1]))
    assert np.array_equal(found[[0, 1, 3, 4, 6]], points)
    assert np.allclose(found[2], points[1:3].mean(axis=0), atol=1e-14)
    assert np.allclose(found[5], points[3:5].mean(axis=0), atol=1e-14)


def test_insertion_outside_the_path_is_refused():
    with pytest.raises(UserError, match=r"segments: expected 0…1, found \[2\]"):
        path_geometry.insert(np.eye(3), [2])


def test_projection_against_brute_force(kind):
    rng = np.random.default_rng(4)
    points = rng.normal(size=(7, 3)).cumsum(axis=0)
    theta = rng.normal(size=(50, 3)) * 3
    fine = np.union1d(np.linspace(0.0, 1.0, 100_001), path_geometry.normalised_arc_length(points))
    dense = path_geometry.interpolate(points, fine)
    s, distance = path_geometry.project(kind(points), kind(theta))
    for i in range(len(theta)):
        squares = ((theta[i] - dense) ** 2).sum(-1)
        assert distance[i] == pytest.approx(np.sqrt(squares.min()), abs=1e-7)
        assert s[i] == pytest.approx(fine[squares.argmin()], abs=2e-4)


def test_projection_of_one_vector_gives_numbers(kind):
    points = kind(np.array([[0.0, 0.0], [4.0, 0.0]]))
    assert path_geometry.project(points, kind(np.array([1.0, 2.0]))) == (0.25, 2.0)


def test_projection_near_the_previous_position_does_not_jump():
    """A hairpin: the nearest leg is the wrong one for the first two, and only the window keeps to the leg we are on."""
    points = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 1.0], [0.0, 1.0]])
    theta = np.array([[2.0, 0.6], [3.0, 0.6], [9.0, 0.6]])
    jumped, _ = path_geometry.project(points, theta)
    assert np.allclose(jumped, [19 / 21, 18 / 21, 12 / 21])
    followed, distance = path_geometry.project(points, theta, near=[1.8 / 21, 3.3 / 21, 12.1 / 21], window=0.03)
    assert np.allclose(followed, [2 / 21, 3 / 21, 12 / 21])
    assert np.allclose(distance, [0.6, 0.6, 0.4])


def test_projection_stays_within_the_window():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    s, distance = path_geometry.project(points, np.array([2.0, 0.0]), near=0.25, window=0.35)
    assert (s, distance) == (pytest.approx(0.6), pytest.approx(0.8))
    both, _ = path_geometry.project(points, np.array([[2.0, 0.0], [2.0, 0.0]]), near=[0.25, 0.9], window=0.1)
    assert np.allclose(both, [0.35, 1.0])


def test_projection_of_a_diverged_vector_is_not_a_number():
    s, distance = path_geometry.project(np.eye(3), np.array([[np.inf, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert np.isnan([s[0], distance[0]]).all()
    assert (s[1], distance[1]) == (0.0, 0.0)


def test_window_without_position_is_refused():
    with pytest.raises(UserError, match=r"window: expected near and window together, found 0\.1"):
        path_geometry.project(np.eye(3), np.ones(3), window=0.1)


def test_single_precision_keeps_its_digits_far_from_the_origin():
    """|theta|² − 2 theta·gamma + |gamma|² would lose the small distance here; the difference itself does not."""
    rng = np.random.default_rng(5)
    origin = rng.normal(size=20_000)
    points = np.stack([origin, origin + rng.normal(size=20_000) * 1e-2])
    theta = points.mean(axis=0) + rng.normal(size=20_000) * 1e-4
    exact = path_geometry.project(points, theta)
    assert path_geometry.project(points.astype(np.float32), theta.astype(np.float32)) == pytest.approx(exact, rel=1e-3)
