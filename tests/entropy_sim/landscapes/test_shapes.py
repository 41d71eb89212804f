"""Shapes along a path: their formulas, slopes, compiled twins, positivity and behaviour far away."""

import numpy as np
import pytest

from entropy_sim.errors import UserError
from entropy_sim.landscapes import (
    Barrier,
    Bump,
    Confining,
    DoubleWell,
    Exponential,
    Flat,
    Interpolated,
    Power,
    Tilted,
)
from entropy_sim.landscapes._shapes import shape_into

STIFFNESSES = [
    Bump(2.0, 10.0, 0.3),
    Bump(5.0, 0.1, 0.2),
    DoubleWell(0.5, 6.0, 0.5),
    Exponential(3.0, 0.2),
    Power(0.5, 3.0, 0.2, 0.1),
    Power(4.0, -1.5, 0.6, 0.3),
    Interpolated((1.0, 2.0, 5.0, 2.0, 1.0), ends="flat"),
    Interpolated((2.0, 1.0, 3.0, 2.0), (-0.3, 0.2, 0.9, 1.4), "flat"),
    Interpolated((2.0, 1.0, 2.0), (-1.0, 0.3, 1.5)),
]
ENERGIES = [
    Flat(),
    Barrier(-0.3),
    Confining(3.0, 0.4),
    Confining(2.0, 0.0, 4),
    Tilted(0.7),
    Interpolated((0.0, 1.0, 4.0)),
    Interpolated((3.0, 1.0, 2.0, 4.0, 3.0), ends="periodic"),
    Interpolated((0.4, -1.0, 1.0, 0.0, 2.0), (-1.0, -0.1, 0.5, 0.6, 2.0)),
]


def compiled(shape, s):
    """Value and slope of the compiled function; the record stands anywhere in the params."""
    value, slope = np.empty_like(s), np.empty_like(s)
    shape_into(np.concatenate([[np.nan] * 3, shape.record(), [np.nan]]), 3, s, value, slope)
    return value, slope


@pytest.mark.parametrize("shape", STIFFNESSES + ENERGIES, ids=repr)
def test_slopes_are_derivatives_and_the_compiled_code_is_the_same_function(shape):
    s = np.random.default_rng(2).uniform(-2.0, 3.0, 500)
    h = 1e-6
    slope = shape.slope(s)
    np.testing.assert_allclose(slope, (shape.value(s + h) - shape.value(s - h)) / (2 * h), rtol=2e-6, atol=2e-5)
    size = np.abs(shape.value(s)).max() + np.abs(slope).max()
    for found, expected in zip(compiled(shape, s), (shape.value(s), slope), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13 * size)


@pytest.mark.parametrize("shape", STIFFNESSES, ids=repr)
def test_stiffnesses_are_positive_and_continuous_on_the_whole_line(shape):
    s = np.linspace(-20.0, 20.0, 400_001)
    for function in (shape.value, shape.slope):
        change, coarse = (np.abs(np.diff(function(points))).max() for points in (s, s[::2]))
        assert change < 0.6 * coarse or coarse < 1e-9  # halved with the distance: there is no step in it
    assert shape.value(s).min() > 0
    least = shape.lowest(-np.inf, np.inf)
    if least is not None:
        np.testing.assert_allclose(least[0], shape.value(s).min(), rtol=1e-6)
        np.testing.assert_allclose(shape.value(np.array(least[1])), least[0])


@pytest.mark.parametrize("shape", STIFFNESSES + ENERGIES, ids=repr)
def test_tails_are_the_growth_far_away(shape):
    far = 1e4
    for (power, coefficient), side in zip(shape.tails(), (-1.0, 1.0), strict=True):
        if np.isinf(power):
            s = side * np.array([20.0, 21.0])
            rate = np.diff(np.log(shape.value(s)))[0]
            np.testing.assert_allclose(rate, coefficient, rtol=1e-9)
            assert np.sign(power) == np.sign(rate)
            continue
        one, two = shape.value(side * far * np.array([1.0, 2.0]))
        if power == 0 or coefficient == 0:
            assert one == two
        else:
            np.testing.assert_allclose(np.log(two / one) / np.log(2.0), power, rtol=1e-3)
            assert np.sign(one) == np.sign(coefficient)


@pytest.mark.parametrize("shape", [*STIFFNESSES, *ENERGIES], ids=repr)
def test_a_diverged_walker_is_harmless(shape):
    value, slope = compiled(shape, np.array([np.nan, np.inf, -np.inf, 1e300, 0.5]))
    np.testing.assert_allclose([value[4], slope[4]], [shape.value(np.array(0.5)), shape.slope(np.array(0.5))])


def test_power_is_a_power_law_and_a_parabola():
    np.testing.assert_allclose(Power(2.0, 2.0, 0.3, 0.5).value(np.array([0.3, 0.8, 1.3])), [2.0, 4.0, 10.0])
    np.testing.assert_allclose(Power(1.0, 4.0, 0.5, 0.1).value(np.array([0.5, 0.6, 10.5])), [1.0, 4.0, 10_001.0**2])
    far = Power(3.0, -1.5, 0.5, 0.1)
    force = far.slope(np.array([100.5])) / far.value(np.array([100.5]))
    np.testing.assert_allclose(force, -1.5 / 100.0, rtol=1e-5)


def test_walls_and_slopes_have_the_values_of_their_formulas():
    s = np.array([-1.0, 0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(Confining(8.0).value(s), [8.0, 0, 0, 0, 2.0])
    np.testing.assert_allclose(Confining(8.0, 0.0).value(s), [18.0, 2.0, 0, 2.0, 8.0])
    np.testing.assert_allclose(Confining(8.0, 1.0, 4).value(s), [8.0, 0, 0, 0, 0.5])
    np.testing.assert_allclose(Tilted(0.4).value(s), [0.4, 0.0, -0.2, -0.4, -0.6])
    np.testing.assert_allclose(Barrier(0.4).value(s), [0.4 * 64, 0.0, 0.4, 0.0, 0.4 * 9])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Power(floor=0.0), r"stiffness\.floor: expected a positive number, found 0\.0"),
        (lambda: Power(exponent=float("nan")), r"stiffness\.exponent: expected a finite number, found nan"),
        (lambda: Power(centre=float("inf")), r"stiffness\.centre: expected a finite number, found inf"),
        (lambda: Power(width=0.0), r"stiffness\.width: expected at least 1e-6, found 0\.0"),
        (lambda: Confining(strength=-1.0), r"along\.strength: expected a positive number, found -1\.0"),
        (lambda: Confining(flat=-0.1), r"along\.flat: expected a number >= 0, found -0\.1"),
        (lambda: Confining(order=3), r"along\.order: expected 2 or 4, found 3"),
        (lambda: Tilted(float("nan")), r"along\.drop: expected a finite number, found nan"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
