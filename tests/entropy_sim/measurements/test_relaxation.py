"""Released walkers: exact contraction without noise, exact spreading with it, the way to the soft ends."""

import sys

import numpy as np
import pytest

from entropy_sim import schema, theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Channel, MullerBrown, Quadratic, Tabulated
from entropy_sim.measurements import Relaxation, relaxation
from entropy_sim.noise import CurvaturePower, GradientCovariance, TabulatedCovariance, Thermal

MODULE = sys.modules["entropy_sim.measurements.relaxation"]


def test_noise_free_relaxation_contracts_exactly_to_the_centre():
    bowl = Quadratic(((1.0, 4.0),), start=(0.0, 0.0), end=(1.0, 1.0))
    tree = relaxation(bowl, Thermal(0.0), Overdamped(0.1), starts=(1.0,), replicas=1, duration=2.0, records=4)
    group = tree["relaxation"]
    np.testing.assert_allclose(group["time"], [0.0, 0.5, 1.0, 1.5, 2.0])
    n = np.arange(0, 21, 5)
    x, y = 0.9**n, 0.6**n
    for control in (0, 1):
        one = group.isel(control=control, start=0, replica=0)
        np.testing.assert_allclose(one["loss"], 0.5 * x**2 + 2.0 * y**2, rtol=1e-12)
        np.testing.assert_allclose(one["position"], (x + y) / 2, rtol=1e-12)
        np.testing.assert_allclose(one["distance"], np.abs(x - y) / np.sqrt(2), atol=1e-8)


def test_variance_grows_as_the_transient_formula_says():
    """SGD with momentum from a cold start. Mutant: the stationary variance already at the first record."""
    bowl = Quadratic(((0.5, 3.0),))
    tree = relaxation(
        bowl,
        GradientCovariance(((1.0, 2.0),)),
        SGD(0.1, 0.7),
        starts=(0.5,),
        replicas=20_000,
        duration=5.0,
        records=5,
        control=False,
    )
    group = tree["relaxation"].isel(start=0)
    x = 2.0 * (group["position"].values - 0.5)  # the path runs from -1 to 1 along the first coordinate
    steps = np.round(group["time"].values / (0.1 / 0.3)).astype(int)
    assert list(steps) == [0, 3, 6, 9, 12, 15]
    for i in range(1, 6):
        variance = (x[:, i] ** 2).mean()
        stderr = variance * np.sqrt(2 / len(x))
        assert abs(variance - theory.variance_sgd_transient(0.5, 1.0, 0.1, steps[i], 0.7)) / stderr < 4
        square = (group["distance"].values[:, i] ** 2).mean()
        exact = theory.variance_sgd_transient(3.0, 2.0, 0.1, steps[i], 0.7)
        assert abs(square - exact) / (square * np.sqrt(2 / len(x))) < 4
    assert abs((x[:, 1] ** 2).mean() - theory.variance_sgd(0.5, 1.0, 0.1, 0.7)) / stderr > 5


@pytest.mark.parametrize("at_once", [1, 5, 23, 100])
@pytest.mark.parametrize("stride", [1, 4])
def test_records_are_those_of_walkers_that_are_stopped_and_looked_at(at_once, stride, monkeypatch):
    saddle = Quadratic(((2.0, -2.0),), start=(-1.0, 0.0), end=(1.0, 0.0))
    noise, dynamics, starts = Thermal(0.5), Overdamped(0.2), (0.1, 0.6)  # some reach the bound within the run
    monkeypatch.setattr(MODULE, "_POINTS_AT_ONCE", 80 * at_once)
    found = Relaxation(saddle, noise, dynamics, starts, 40, 23 * stride * 0.2, 23, control=False, seed=3)
    assert found._records_at_once(80) == min(at_once, 23)
    group = found.run()["relaxation"]
    ensemble = Ensemble(saddle, noise, dynamics, np.repeat(saddle.path(np.array(starts)), 40, axis=0), seed=3)
    for record in range(24):
        theta = np.where(ensemble.diverged[:, None], np.nan, ensemble.theta)
        for name, values in (
            ("position", saddle.position(theta)),
            ("distance", saddle.distance(theta)),
            ("loss", saddle.energy(theta)),
        ):
            values = np.where(ensemble.diverged, np.nan, values)
            np.testing.assert_allclose(group[name].values[..., record].ravel(), values, rtol=1e-14)
        ensemble.advance(stride)
    assert np.isnan(group["position"].values).any() == (stride == 4)


def test_records_kept_at_once_are_bounded_in_memory():
    """A block keeps 32 walkers at least: one in a thousand dimensions would otherwise take 2 GB."""
    for walkers, directions in ((1, 1), (1, 999), (40, 99), (20_000, 9)):
        found = Relaxation(Channel(transverse_directions=directions), duration=500.0, records=100_000)
        records = found._records_at_once(walkers)
        assert records == 1 or 8 * records * max(walkers, 32) * (directions + 1) <= 2**24
        assert records > 1 or walkers == 20_000


def test_default_run_goes_to_its_own_soft_end_and_the_control_stays():
    group = Relaxation().run()["relaxation"]
    start, final = group["start"].values, group["position"].values[..., -1]
    assert list(group["control"]) == [0, 1]
    moved = final[0] - start[:, None]
    z = moved.mean(axis=1) / (moved.std(axis=1, ddof=1) / np.sqrt(moved.shape[1]))
    off = (np.abs(start - 0.5) > 0.05) & (np.abs(start - 0.5) < 0.25)  # off the middle, not at an end already
    assert off.sum() == 2
    assert np.all(np.sign(z[off]) == np.sign(start - 0.5)[off])
    assert np.abs(z[off]).min() > 3
    assert abs(z[np.argmin(np.abs(start - 0.5))]) < 4
    np.testing.assert_allclose(final[1], np.repeat(start[:, None], final.shape[2], axis=1), atol=1e-12)


def test_constant_noise_proportional_curvature_does_the_same():
    group = Relaxation(noise=CurvaturePower(0.02, 1.0, 0.0), starts=(0.3, 0.7), duration=20.0).run()["relaxation"]
    final = group["position"].values[0, :, :, -1].mean(axis=1)
    assert final[0] < 0.2
    assert final[1] > 0.8


def test_walkers_that_fall_off_are_flagged_and_the_control_on_the_saddle_is_not():
    saddle = Quadratic(((2.0, -2.0),))
    tree = relaxation(saddle, Thermal(0.01), Overdamped(0.1), starts=(0.25, 0.5), replicas=8, duration=20.0, records=10)
    group = tree["relaxation"]
    assert schema.faults(tree) == []
    np.testing.assert_array_equal(group["diverged"].values[0], 1)
    np.testing.assert_array_equal(group["diverged"].values[1], 0)
    assert np.isnan(group["position"].values[0, :, :, -1]).all()
    assert np.isfinite(group["position"].values[0, :, :, 0]).all()
    np.testing.assert_allclose(group["position"].values[1, 1], 0.5, atol=1e-12)


@pytest.mark.parametrize(
    ("landscape", "noise", "dynamics"),
    [
        (Tabulated(), TabulatedCovariance(), SGD(0.01, 0.9)),
        (MullerBrown(scale=0.01), Thermal(0.1), Overdamped(1e-3)),
    ],
)
def test_other_landscapes_give_valid_datasets_that_do_not_depend_on_threads(landscape, noise, dynamics):
    measurement = Relaxation(landscape, noise, dynamics, (0.2, 0.9), 70, 1.0, 5, control=False)
    one, two = measurement.run(threads=1), measurement.run(threads=2)
    assert schema.faults(one) == []
    np.testing.assert_array_equal(one["relaxation"]["position"], two["relaxation"]["position"])
    assert "control" not in one["relaxation"].dims


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": (0.5, 0.5)}, r"starts: expected distinct positions"),
        ({"starts": (-0.1,)}, r"starts: expected positions s in 0…1"),
        ({"records": 10**6}, r"records: expected at most one for each step of the duration, found 1000000"),
        ({"replicas": 0}, r"replicas: expected at least 1"),
        ({"duration": 0.0}, r"duration: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        Relaxation(**options)
