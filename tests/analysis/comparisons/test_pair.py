from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis.comparisons._pair import Alignment, common_points, onto, pair, ratio_of
from analysis.uncertainty import Estimate
from entropy_sim.errors import UserError


def along(s):
    return {"s": xr.DataArray(s, dims="s", attrs={"units": "1", "long_name": "s"})}


def of(first, second, **options):
    s = np.linspace(0, 1, len(first.value))
    return pair((first, second), along(s), units="loss", long_name="x", alignment=Alignment(), **options)


def test_every_unit_follows_from_length_and_loss():
    """length 2, loss 3: a force 3/2, a stiffness 3/4, a time 4/3, a noise variance 9/4."""
    alignment = Alignment(length=2.0, loss=3.0)
    expected = {
        "1": 1,
        "loss": 3,
        "loss / parameter": 3 / 2,
        "loss / parameter^2": 3 / 4,
        "parameter^2 / loss": 4 / 3,
        "loss^2 / parameter^2": 9 / 4,
    }
    for units, factor in expected.items():
        assert alignment.factor(units) == pytest.approx(factor), units
    assert Alignment(time=5.0).factor("parameter^2 / loss") == 5
    assert Alignment(time=5.0).factor("loss / parameter^2") == 0.2
    with pytest.raises(UserError, match="units: expected powers of loss and parameter, found 'kelvin'"):
        alignment.factor("kelvin")
    with pytest.raises(UserError, match=r"alignment\.length: expected a positive number, found 0"):
        Alignment(length=0.0)


def test_applying_an_alignment_changes_variables_coordinates_and_lengths():
    time = xr.DataArray([1.0, 2.0], dims="time", attrs={"units": "parameter^2 / loss"})
    ds = xr.Dataset({"f": ("time", [1.0, 1.0], {"units": "loss / parameter"})}, {"time": time}, {"arc_length": 3.0})
    found = Alignment(length=2.0, loss=3.0).apply(ds)
    np.testing.assert_allclose(found["f"], 1.5)
    np.testing.assert_allclose(found["time"], [4 / 3, 8 / 3])
    assert found.attrs["arc_length"] == 6
    assert ds.attrs["arc_length"] == 3


def test_chi_squared_is_that_of_the_full_covariance_of_both_sides():
    random = np.random.default_rng(0)
    a, b = (m @ m.T for m in random.normal(size=(2, 5, 5)))
    first, second = random.normal(size=(2, 5))
    found = of(Estimate(first, a), Estimate(second, b))
    d = first - second
    assert float(found["chi_squared"]) == pytest.approx(d @ np.linalg.inv(a + b) @ d)
    assert float(found["chi_squared"]) != pytest.approx((d**2 / np.diag(a + b)).sum(), rel=0.1)
    np.testing.assert_allclose(found["covariance"], a + b)


def test_difference_z_and_ratio_of_each_place():
    found = of(Estimate.independent([2.0, 1.0], [0.3, 0.1]), Estimate.independent([1.0, 1.0], [0.4, 0.0]))
    np.testing.assert_allclose(found["difference"], [1, 0])
    np.testing.assert_allclose(found["z"], [2, 0])
    np.testing.assert_allclose(found["ratio"], [2, 1])
    assert found["ratio_low"][1] == pytest.approx(0.9, abs=1e-3)
    assert float(found["chi_squared"]) == pytest.approx(4)
    assert found.attrs["verdict"] == "agrees"
    assert {v.attrs["units"] for v in found.data_vars.values()} == {"1", "loss", "(loss)^2"}


@pytest.mark.parametrize("values", [(np.nan, np.nan), (1.0, 2.0)])
def test_without_values_or_errors_nothing_is_determined(values):
    one = Estimate.independent(np.array(values), np.zeros(2))
    found = of(one, Estimate.independent([1.0, 1.0], [0.0, 0.0]))
    assert found.attrs["verdict"] == "not determined"
    assert np.isnan(float(found["p_value"]))
    assert int(found["degrees_of_freedom"]) == 0


def test_a_nan_in_the_middle_leaves_the_others_alone():
    s = np.linspace(0, 1, 9)
    value = s**2
    value[4] = np.nan
    found = onto(np.array([0.1, 0.25, 0.45, 0.5, 0.9]), s, Estimate.independent(value, 0.1 * np.ones(9)))
    np.testing.assert_array_equal(np.isnan(found.value), [False, False, True, True, False])
    assert found.value[1] == 0.0625
    assert found.value[0] == pytest.approx(0.01, abs=1e-6)
    assert found.stderr[1] == pytest.approx(0.1)


def test_interpolation_carries_its_own_error_and_the_covariance():
    """sin on 7 points: the cubic spline is within its stated error of the truth; two targets between the same points
    have correlated errors."""
    s = np.linspace(0, 1, 7)
    at = np.array([0.24, 0.26, 0.75])
    found = onto(at, s, Estimate.independent(np.sin(4 * s), np.zeros(7)))
    assert (abs(found.value - np.sin(4 * at)) < found.stderr).all()
    noisy = onto(at, s, Estimate.independent(np.zeros(7), np.ones(7)))
    assert noisy.covariance[0, 1] > 0.9 * noisy.stderr[0] * noisy.stderr[1]
    assert noisy.covariance[0, 1] > 5 * abs(noisy.covariance[0, 2])


def test_points_in_common_are_those_of_the_coarser_grid():
    np.testing.assert_allclose(common_points(np.linspace(0, 1, 11), np.array([-0.1, 0.3, 0.6, 2])), [0.3, 0.6])
    with pytest.raises(UserError, match="s: expected ranges that overlap, found 0…0.4 and 0.5…1"):
        common_points(np.linspace(0, 0.4, 5), np.linspace(0.5, 1, 5))


def test_the_ratio_is_the_same_from_either_side():
    exact, noisy = Estimate.independent([2.0, 4.0], [0.0, 0.0]), Estimate.independent([1.0, 2.1], [0.1, 0.1])
    one, other = ratio_of(noisy, exact), ratio_of(exact, noisy)
    assert other.value == pytest.approx(1 / one.value, rel=1e-6)
    assert (other.low, other.high) == pytest.approx((1 / one.high, 1 / one.low), rel=1e-6)
