"""Heights of barriers against the exact ones, along every parameter, and what they must not contain."""

import dataclasses

import numpy as np
import pytest

from entropy_sim import schema, theory
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump, Channel, DoubleWell, MullerBrown, Quadratic
from entropy_sim.measurements import BarrierHeights, barrier
from entropy_sim.noise import CurvatureCovariance, GradientCovariance, Thermal
from entropy_sim.scan import Scan

#: Cheap to measure: slow modes of rate 1 are seen for 10 times 1 by 128 walkers at each of 17 places.
BRIEF = {"points": 17, "replicas": 2, "walkers": 64, "burn_in": 4.0, "duration": 10.0, "stride": 2}
STEP = Overdamped(0.02)


def z_scores(group, expected):
    """Distance from what is expected in standard errors, and their size relative to it."""
    error = group["entropic_barrier_stderr"].values
    return (group["entropic_barrier"].values - expected) / error, error / expected


@pytest.mark.parametrize(
    ("scan", "factor"),
    [
        (Scan("temperature", (0.01, 0.1, 1.0)), lambda t: 0.5 * t * 2 * np.log(8.0)),
        (Scan("dimension", (1, 10, 100)), lambda d: 0.5 * 0.05 * d * np.log(8.0)),
        (Scan("stiffness_ratio", (2.0, 8.0, 32.0)), lambda r: 0.5 * 0.05 * 2 * np.log(r)),
    ],
)
def test_thermal_heights_are_half_t_times_the_logarithms(scan, factor):
    """To 0.3 to 1.2 %. What the step adds (T h (k_top - k_well) / 4 or so for each mode) and the error of the trapezoid
    are known and taken out. Mutants: half the height, T ln k without the 1/2."""
    channel = Channel(Bump(1.0, 8.0), transverse_directions=2)
    tree = barrier(channel, Thermal(0.05), STEP, scan=scan, seed=1, **BRIEF)
    assert schema.faults(tree) == []
    group = tree["barrier"]
    x = group[scan.parameter].values
    assert list(x) == list(scan.values)
    exact = group["entropic_barrier_exact"].values
    temperature = x if scan.parameter == "temperature" else 0.05
    top = x if scan.parameter == "stiffness_ratio" else 8.0
    modes = x if scan.parameter == "dimension" else 2
    step = [  # int k' / (2 k (1 - h k / 2)) dy
        np.log(k / (1 - 0.01 * k)) - np.log(1 / (1 - 0.01)) for k in np.broadcast_to(top, x.shape)
    ]
    np.testing.assert_allclose(exact, 0.5 * temperature * modes * np.array(step), rtol=1e-6)
    np.testing.assert_allclose(exact, factor(x), rtol=0.15)
    quadrature = group["quadrature_error"].values
    assert np.abs(quadrature / exact).max() < 0.02
    z, relative = z_scores(group, exact + quadrature)
    assert relative.max() < 0.02
    assert np.abs(z).max() < 4
    for wrong in (0.5, 2.0):
        assert np.abs(z_scores(group, wrong * exact)[0]).min() > 5
    np.testing.assert_array_equal(group["energy_barrier"], 0.0)
    np.testing.assert_array_equal(group["top"], 0.5)
    assert tree["mean_force"]["effective_potential"].dims == (scan.parameter, "s")
    slowest = tree["mean_force"]["position_autocorrelation_time"].max("s")
    np.testing.assert_array_equal(group.attrs["autocorrelation_time"], slowest)
    assert 0.5 < float(slowest.min()) < float(slowest.max()) < 1.5  # that of x² is 1 / k, and k nearly 1 at the ends


def test_the_energetic_part_is_apart():
    """U of height 0.4 beside an entropic 0.05 ln 8 at T = 0.05 with 2 modes. Mutant: the control is not subtracted."""
    channel = Channel(Bump(1.0, 8.0), Barrier(0.4), transverse_directions=2)
    group = barrier(channel, Thermal(0.05), STEP, scan=Scan(), **BRIEF)["barrier"]
    assert group["entropic_barrier"].dims == ()
    assert float(group["energy_barrier"]) == pytest.approx(0.4, rel=1e-3)
    exact = float(group["entropic_barrier_exact"] + group["quadrature_error"])
    assert abs(z_scores(group, exact)[0]) < 4
    assert abs(z_scores(group, exact + 0.4)[0]) > 5


def test_heights_against_the_learning_rate_hold_at_its_edge():
    """C = c k, c = 0.1: ``-c (1+beta) / (2 (1-beta)) ln(1 - eta k / (2 (1+beta)))``, top less well.
    Mutant: its small-eta limit, eta c dk / 4 / (1 - beta), 2.1 times too small at eta k = 2.4."""
    channel = Channel(Bump(1.0, 8.0), transverse_directions=1)
    noise, beta = CurvatureCovariance(0.1, 1.0, 0.0), 0.5
    scan = Scan("learning_rate", (0.04, 0.2, 0.3))
    options = BRIEF | {"burn_in": 30.0, "duration": 60.0, "points": 33, "stride": 1}
    group = barrier(channel, noise, SGD(0.05, beta), scan=scan, **options)["barrier"]
    eta = np.array(scan.values)

    def height(k):
        return theory.effective_potential_curvature_proportional(np.full((3, 1), k), 0.1, eta, beta)

    exact = height(8.0) - height(1.0)
    np.testing.assert_allclose(group["entropic_barrier_exact"], exact, rtol=1e-5)
    z, relative = z_scores(group, exact + group["quadrature_error"].values)
    assert np.abs(z).max() < 4
    assert relative.max() < 0.05
    limit = eta * 0.1 * 7 / 4 / (1 - beta)
    assert z_scores(group, limit)[0][-1] > 5


def test_wells_may_lie_anywhere_and_the_top_between_them():
    channel = Channel(DoubleWell(1.0, 8.0, 0.6), transverse_directions=1)
    measurement = BarrierHeights(channel, Thermal(0.05), STEP, wells=(0.2, 0.8), scan=Scan(), **BRIEF)
    group = measurement.run()["barrier"]
    assert float(group["top"]) == 0.5
    assert group.attrs["well"] == 0.2
    exact = float(group["entropic_barrier_exact"] + group["quadrature_error"])
    assert float(group["entropic_barrier_exact"]) == pytest.approx(0.025 * np.log(8.0), rel=0.1)
    assert abs(z_scores(group, exact)[0]) < 4
    # From the top downwards there is none.
    down = dataclasses.replace(measurement, wells=(0.5, 0.8)).run()["barrier"]
    assert (float(down["top"]), float(down["entropic_barrier"])) == (0.5, 0.0)


def test_in_one_dimension_there_is_only_the_energetic_part():
    well = Quadratic(((1.0,),))
    tree = barrier(well, Thermal(0.05), STEP, wells=(0.5, 1.0), scan=Scan(), **BRIEF)
    assert schema.faults(tree) == []
    assert float(tree["barrier"]["energy_barrier"]) == pytest.approx(0.5)
    for name in ("entropic_barrier", "entropic_barrier_exact", "entropic_barrier_stderr"):
        assert float(tree["barrier"][name]) == pytest.approx(0.0, abs=1e-12)


def test_no_exact_height_where_the_valley_is_not_quadratic():
    options = BRIEF | {"burn_in": 0.05, "duration": 0.2, "points": 9}
    group = barrier(MullerBrown(scale=0.01), Thermal(0.05), Overdamped(1e-3), scan=Scan(), **options)["barrier"]
    assert "entropic_barrier_exact" not in group
    assert group.attrs["top_from"] == "the measured potential"
    assert np.isfinite(float(group["entropic_barrier"]))


def test_diverged_walkers_leave_no_height_and_no_warning():
    saddle = Quadratic(((1.0, -30.0),), start=(0.0, 0.0), end=(1.0, 0.0))
    tree = barrier(saddle, Thermal(0.05), Overdamped(0.05), scan=Scan(), **BRIEF)
    assert schema.faults(tree) == []
    assert np.isnan(float(tree["barrier"]["entropic_barrier"]))
    assert float(tree["mean_force"]["diverged"].min()) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wells": ()}, "wells: expected two positions s in 0…1 in rising order"),
        ({"wells": (0.5, 0.5)}, "wells: expected two positions s in 0…1 in rising order"),
        ({"wells": (0.2, 1.5)}, "wells: expected two positions s"),
        ({"points": 2}, "points: expected at least 3"),
        ({"walkers": 0}, "walkers: expected at least 1"),
        ({"noise": GradientCovariance(), "dynamics": SGD()}, "scan.parameter: expected one that the noise has"),
        ({"scan": Scan("temperature", (0.1,)), "duration": 0.0}, "duration: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        BarrierHeights(**options)
