"""A user's shapes: exact for cubics, the same as scipy's splines, close to the function they stand for, or refused."""

import json

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, FromFile, Interpolated
from entropy_sim.run_files import from_jsonable, to_jsonable

S = np.linspace(0.0, 1.0, 501)
STIFF = """import numpy as np


def shape(s):
    return 1 + 15 * np.sin(np.pi * s) ** 2


def soft(s):
    return 1.0
"""


def test_a_cubic_is_reproduced_also_beyond_uneven_knots_in_value_slope_and_curvature():
    def cubic(s):
        return 2.0 + s - 3.0 * s**2 + 4.0 * s**3

    knots = np.array([-0.2, 0.1, 0.15, 0.7, 1.3])
    shape = Interpolated(tuple(cubic(knots)), tuple(knots))
    inside = np.linspace(-0.2, 1.3, 301)
    np.testing.assert_allclose(shape.value(inside), cubic(inside), rtol=1e-12)
    np.testing.assert_allclose(shape.slope(inside), 1 - 6 * inside + 12 * inside**2, rtol=1e-10, atol=1e-11)
    beyond, at = 2.0, 1.3
    parabola = cubic(at) + (1 - 6 * at + 12 * at**2) * 0.7 + 0.5 * (-6 + 24 * at) * 0.49
    np.testing.assert_allclose(shape.value(np.array(beyond)), parabola)


@pytest.mark.parametrize(("ends", "kind"), [("free", "not-a-knot"), ("flat", "clamped"), ("periodic", "periodic")])
@pytest.mark.parametrize("knots", [(), (0.0, 0.1, 0.15, 0.6, 0.9, 1.0)])
def test_between_the_knots_it_is_the_spline_of_scipy(ends, kind, knots):
    values = (1.0, 3.0, 2.0, 5.0, 4.0, 1.0)
    spline = CubicSpline(knots or np.linspace(0, 1, 6), values, bc_type=kind)
    shape = Interpolated(values, knots, ends)
    np.testing.assert_allclose(shape.value(S), spline(S), rtol=1e-13)
    np.testing.assert_allclose(shape.slope(S), spline(S, 1), rtol=1e-11, atol=1e-11)
    if ends == "flat":
        np.testing.assert_allclose(shape.value(np.array([-3.0, 7.0])), [1.0, 1.0])
        np.testing.assert_allclose(shape.slope(np.array([0.0, 1.0, 2.0])), 0.0, atol=1e-12)


def test_a_function_is_met_within_the_tolerance_and_only_numbers_are_kept():
    shape = Interpolated.from_function(lambda s: 1 + 15 * np.sin(np.pi * s) ** 2)
    assert np.abs(shape.value(S) - (1 + 15 * np.sin(np.pi * S) ** 2)).max() < 16e-6
    assert from_jsonable(Interpolated, json.loads(json.dumps(to_jsonable(shape)))) == shape
    assert Interpolated.from_function(lambda s: 2.0, points=2).values == (2.0, 2.0)
    wave = Interpolated.from_function(lambda s: np.sin(2 * np.pi * s), ends="periodic")
    assert wave.values[0] == wave.values[-1]
    wide = Interpolated.from_function(lambda s: s**2, 11, -1.0, 2.0)
    np.testing.assert_allclose(wide.value(np.array([-5.0, 0.3, 7.0])), [25.0, 0.09, 49.0])


def test_the_lowest_value_lies_between_the_knots():
    shape = Interpolated((2.0, 0.1, 0.1, 2.0))
    value, place = shape.lowest(0.0, 1.0)
    fine = np.linspace(0.0, 1.0, 1_000_001)
    assert value == pytest.approx(shape.value(fine).min(), rel=1e-9)
    assert place == pytest.approx(0.5)
    assert value < -0.05
    with pytest.raises(
        UserError, match=r"stiffness: expected a positive stiffness for s in 0…1, found -0\.\d+ at s = 0\.5"
    ):
        Channel(shape)
    assert Interpolated((1.0, 2.0)).lowest(-np.inf, np.inf) == (-np.inf, -np.inf)
    with pytest.raises(UserError, match=r"expected a positive stiffness on the open line, found -inf at s = -inf"):
        Channel(Interpolated((1.0, 2.0)), boundary="open")


def test_a_file_is_a_shape_and_its_text_survives_it(tmp_path):
    file = tmp_path / "my_shape.py"
    file.write_text(STIFF)
    shape = FromFile(str(file))
    np.testing.assert_allclose(shape.value(S), 1 + 15 * np.sin(np.pi * S) ** 2, atol=16e-6)
    assert (FromFile(f"{file}:soft", points=3).value(S) == 1.0).all()
    channel = Channel(shape, FromFile(f"{file}:soft"))
    kept = json.loads(json.dumps(to_jsonable(channel)))
    assert kept["stiffness"]["text"] == STIFF
    file.write_text(STIFF.replace("15", "14"))
    with pytest.raises(UserError, match=r"file: expected .*my_shape\.py as the configuration knows it"):
        from_jsonable(Channel, kept)
    file.unlink()
    again = from_jsonable(Channel, kept)
    assert again == channel
    np.testing.assert_array_equal(again.params(), channel.params())


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "", r"file: expected a Python file, found no file .*shape\.py"),
        ("def other(s):\n    return s\n", "", r"file: expected a function shape in .*shape\.py, found other"),
        ("def f(s:\n", ":f", r"file: expected Python in .*shape\.py, found a syntax error in line 1"),
        ("def f(s):\n    return 1 / (s - s)\n", ":f", r"file: expected finite numbers from .*:f, found (inf|nan)"),
        ("def f(s):\n    return s[:3]\n", ":f", r"file: expected one number for each s from .*:f .*, found \(3,\)"),
        ("def f(s):\n    return abs(s - 0.37)\n", ":f", r"points: expected enough for the spline to be within .* 201"),
        (
            "def f(s):\n    return undefined\n",
            ":f",
            r"file: expected f of .*shape\.py to work, found NameError in line 2",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, name, message):
    file = tmp_path / "shape.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        FromFile(f"{file}{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interpolated((1.0,)), r"values: expected two or more, found 1"),
        (lambda: Interpolated((1.0, float("nan"))), r"values: expected finite numbers, found"),
        (
            lambda: Interpolated((1.0, 2.0), (0.0, 0.5, 1.0)),
            r"knots: expected one for each of the 2 values, or none, fou",
        ),
        (lambda: Interpolated((1.0, 2.0), (0.1, 1.0)), r"knots: expected increasing positions that include 0…1, found"),
        (lambda: Interpolated((1.0, 2.0, 3.0), (0.0, 0.0, 1.0)), r"knots: expected increasing positions"),
        (lambda: Interpolated((1.0, 2.0), ends="open"), r"ends: expected free, flat or periodic, found 'open'"),
        (lambda: Interpolated((1.0, 2.0, 3.0), ends="periodic"), r"values: expected the same first and last value"),
        (
            lambda: Interpolated((1.0, 2.0, 1.0), (0.0, 0.5, 2.0), "periodic"),
            r"knots: expected three or more from 0 to 1",
        ),
        (lambda: Interpolated.from_function(np.sin, points=1), r"points: expected 2…100001, found 1"),
        (lambda: Interpolated.from_function(np.sin, low=0.5), r"low: expected a number <= 0, found 0\.5"),
        (lambda: Interpolated.from_function(np.sin, high=0.5), r"high: expected a number >= 1, found 0\.5"),
        (
            lambda: Interpolated.from_function(np.exp, points=4),
            r"points: expected enough .* of exp, found 4, with an err",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message):
        make()
