"""The channel: its derivatives, folds and shapes, against finite differences and hand-made values."""

import numpy as np
import pytest

from entropy_sim._kernels import evaluate
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, DoubleWell, Exponential

CHANNELS = [
    Channel(),
    Channel(Bump(9.0, 0.5, 0.2), Barrier(0.7), 3, (1.0, 2.0, 0.5), 2.5, "periodic"),
    Channel(DoubleWell(0.5, 6.0, 0.5), Barrier(-0.3), 2, length=0.7),
    Channel(Exponential(3.0, 0.2), transverse_directions=1),
]


def finite_differences(function, theta, h=1e-5):
    steps = h * np.eye(theta.shape[1])
    return np.stack([(function(theta + e) - function(theta - e)) / (2 * h) for e in steps], axis=1)


@pytest.mark.parametrize("channel", CHANNELS)
def test_gradient_is_the_derivative_of_the_energy(channel):
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(400, channel.dimension)) * 2  # y on the unwrapped line, far beyond both ends
    expected = finite_differences(channel.energy, theta)
    kink = np.abs(np.mod(theta[:, 0] / channel.length + 0.5, 1.0) - 0.5) < 1e-4
    assert kink.sum() < 5
    np.testing.assert_allclose(channel.gradient_at(theta)[~kink], expected[~kink], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channel", CHANNELS)
def test_curvature_and_slopes_are_derivatives_along_the_path(channel):
    s = np.linspace(0.05, 0.95, 13)
    h = 1e-5
    change = (channel.curvature(s + h) - channel.curvature(s - h)) / (2 * h * channel.length)
    np.testing.assert_allclose(channel.curvature_slope(s), change, rtol=1e-5, atol=1e-6)
    rise = (channel.path_energy(s + h) - channel.path_energy(s - h)) / (2 * h * channel.length)
    np.testing.assert_allclose(channel.path_slope(s), rise, rtol=1e-5, atol=1e-7)
    shift = np.zeros((1, channel.dimension))
    shift[0, 1:] = 1.0
    along = 2 * (channel.energy(channel.path(s) + shift) - channel.path_energy(s))
    np.testing.assert_allclose(channel.curvature(s).sum(axis=1), along, rtol=1e-10)
    points = channel.path(s)
    points[:, 1:] = 3.0
    stiffness = evaluate(channel.transverse_stiffness, points, channel.params())[:, 1:]
    np.testing.assert_allclose(stiffness, channel.curvature(s), rtol=1e-10)


def test_the_default_is_soft_at_the_ends_and_stiff_in_the_middle():
    np.testing.assert_allclose(Channel().curvature([0.0, 0.5, 1.0]), [[1.0] * 4, [16.0] * 4, [1.0] * 4])
    assert np.all(Channel().path_energy([0.0, 0.3, 1.0]) == 0)


@pytest.mark.parametrize(
    ("shape", "s", "expected"),
    [
        (Bump(2.0, 10.0, 0.25), [0.0, 0.25, 0.5, 0.625, 0.75, 1.0], [2, 2, 10, 2 + 8 * 0.75**3, 2, 2]),
        (DoubleWell(1.0, 5.0, 0.5), [0.25, 0.5, 0.75, 1.0], [1, 5, 1, 1 + 4 * 9]),
        (Exponential(2.0, 8.0), [0.0, 0.5, 1.0], [2, 4, 8]),
    ],
)
def test_shapes_have_the_values_of_their_formulas(shape, s, expected):
    np.testing.assert_allclose(Channel(shape).curvature(s)[:, 0], expected, rtol=1e-12)


def test_barrier_has_its_height_in_the_middle_and_flat_ends():
    channel = Channel(along=Barrier(0.4))
    np.testing.assert_allclose(channel.path_energy([0.0, 0.5, 1.0]), [0.0, 0.4, 0.0], atol=1e-15)
    np.testing.assert_allclose(channel.path_slope([0.0, 0.5, 1.0]), 0.0, atol=1e-15)


@pytest.mark.parametrize(
    ("boundary", "y", "s"),
    [
        ("reflecting", [-0.5, 2.0, 2.5, 4.0, 4.5], [0.25, 1.0, 0.75, 0.0, 0.25]),
        ("periodic", [-0.5, 2.5, 4.5], [0.75, 0.25, 0.25]),
    ],
)
def test_positions_fold_at_the_boundaries(boundary, y, s):
    channel = Channel(transverse_directions=2, length=2.0, boundary=boundary)
    theta = np.column_stack([y, np.full(len(y), 3.0), np.full(len(y), 4.0)])
    np.testing.assert_allclose(channel.position(theta), s, atol=1e-12)
    np.testing.assert_allclose(channel.distance(theta), 5.0)


def test_force_at_the_exact_end_is_the_one_sided_one():
    """y = length must not be taken for its mirror image because of rounding, whatever the length."""
    for length in (0.7, 1.0, 1.1, 2.5, 3.3):
        channel = Channel(Exponential(1.0, 4.0), transverse_directions=1, length=length)
        theta = np.array([[channel.path(1.0)[0, 0], 1.0]])
        expected = 0.5 * 4.0 * np.log(4.0) / length
        np.testing.assert_allclose(channel.gradient_at(theta)[0, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bump(end=0.0), r"stiffness\.end: expected a positive number, found 0\.0"),
        (lambda: Bump(middle=-1.0), r"stiffness\.middle: expected a positive number"),
        (lambda: Bump(width=0.6), r"stiffness\.width: expected 0 < width <= 0\.5, found 0\.6"),
        (lambda: DoubleWell(well=2.0, middle=1.0), r"stiffness\.middle: expected at least the well's 2"),
        (lambda: DoubleWell(separation=0.1), r"stiffness\.separation: expected 0\.4…1, found 0\.1"),
        (lambda: Exponential(start=float("nan")), r"stiffness\.start: expected a positive number, found nan"),
        (lambda: Barrier(float("inf")), r"along\.height: expected a finite number"),
        (lambda: Channel(length=-1.0), r"landscape\.length: expected a positive number"),
        (lambda: Channel(transverse_directions=0), r"landscape\.transverse_directions: expected at least 1"),
        (lambda: Channel(amplitudes=(1.0,)), r"landscape\.amplitudes: expected one for each of the 4"),
        (lambda: Channel(transverse_directions=1, amplitudes=(-1.0,)), r"landscape\.amplitudes: expected positive"),
        (lambda: Channel(boundary="absorbing"), r"landscape\.boundary: expected reflecting, periodic or open, found"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
