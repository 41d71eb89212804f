"""First-passage times: the exact discrete chain, a slow reimplementation, censoring, divergence, what is refused."""

import numpy as np
import pytest
from scipy.special import ndtr

from entropy_sim import schema, theory
from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Overdamped
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Bump, Channel, CurvedChannel, Interpolated, MullerBrown, Quadratic
from entropy_sim.measurements import Escape, escape
from entropy_sim.measurements.base import Execution
from entropy_sim.noise import CurvatureCovariance, CurvaturePower, GradientCovariance, Thermal
from entropy_sim.scan import Scan
from entropy_sim.survival import exponential_rate, kaplan_meier, mean_time

FLAT = Channel(Bump(1.0, 1.0), transverse_directions=1)
NARROWING = Channel(Bump(1.0, 16.0), transverse_directions=1)


def random_walk_time(start, lower, upper, width, nodes=400):
    """Mean number of steps of a Gaussian walk until it leaves (lower, upper), by its integral equation (Nyström);
    lower = None: reflected at 0. Also the probability to leave by the upper level."""
    left = 0.0 if lower is None else lower
    x, w = np.polynomial.legendre.leggauss(nodes)
    y, w = left + 0.5 * (upper - left) * (x + 1), 0.5 * (upper - left) * w

    def kernel(at, to):
        one = np.exp(-0.5 * ((to - at) / width) ** 2)
        both = one + (np.exp(-0.5 * ((to + at) / width) ** 2) if lower is None else 0.0)
        return both / (width * np.sqrt(2 * np.pi))

    def up(at):
        return 1 - ndtr((upper - at) / width) + (ndtr(-(upper + at) / width) if lower is None else 0.0)

    matrix = np.eye(nodes) - kernel(y[:, None], y) * w
    inside = kernel(start, y) * w
    return 1 + inside @ np.linalg.solve(matrix, np.ones(nodes)), up(start) + inside @ np.linalg.solve(matrix, up(y))


def test_a_flat_channel_against_the_exact_random_walk():
    """No force along the path: the walk is that of the integral equation, to 0.6 %. Mutant: levels where they are."""
    measurement = Escape(FLAT, Thermal(0.1), Overdamped(0.002), replicas=20_000, duration=100.0)
    group = measurement.run()["escape"]
    mean, stderr = float(group["mean_first_passage_time"]), float(group["mean_first_passage_time_stderr"])
    steps, _ = random_walk_time(0.0, None, 0.5, np.sqrt(2 * 0.1 * 0.002))
    assert abs(mean - 0.002 * steps) / stderr < 3
    reduced, diffusion = measurement.reduced()
    assert reduced == pytest.approx(0.002 * steps, rel=1e-3)
    assert reduced == pytest.approx((0.5 + theory.absorbing_level_shift(0.1, 0.002)) ** 2 / 0.2, rel=1e-8)
    assert (float(group["mean_first_passage_time_reduced"]), float(group["diffusion_along_path"])) == (
        reduced,
        diffusion,
    )
    unshifted, _ = measurement.reduced(shifted=False)
    assert unshifted == pytest.approx(0.5**2 / 0.2, rel=1e-8)
    assert (mean - unshifted) / stderr > 5


def test_two_levels_and_the_side_of_the_escape():
    """From 0.4 between 0.2 and 0.8: up with probability 1/3 nearly. Mutant: 2/3, sides exchanged."""
    noise, dynamics = GradientCovariance(((100.0,),)), SGD(0.002)  # C_y = 100: diffusion eta C / 2 = 0.1
    measurement = Escape(FLAT, noise, dynamics, start=0.4, lower=0.2, upper=0.8, replicas=10_000, duration=50.0)
    group = measurement.run()["escape"]
    steps, up = random_walk_time(0.4, 0.2, 0.8, np.sqrt(2 * 0.1 * 0.002))
    mean, stderr = float(group["mean_first_passage_time"]), float(group["mean_first_passage_time_stderr"])
    assert abs(mean - 0.002 * steps) / stderr < 3
    assert measurement.reduced()[0] == pytest.approx(0.002 * steps, rel=2e-3)
    side = group["side"].values
    assert set(np.unique(side)) == {-1, 1}
    share, error = np.mean(side == 1), np.sqrt(up * (1 - up) / side.size)
    assert abs(share - up) / error < 3
    assert abs(share - (1 - up)) / error > 5


def slow(measurement, position=None):
    """First-passage steps with their sign, one step of the ensemble at a time, looked at from outside."""
    position = position or measurement.landscape.position
    start = np.repeat(measurement.landscape.path([measurement.start]), measurement.replicas, axis=0)
    ensemble = Ensemble(
        measurement.landscape, measurement.noise, measurement.dynamics, start, seed=measurement.seed, threads=1
    )
    found = np.zeros(measurement.replicas)
    steps = round(measurement.duration / measurement.dynamics.time_step)
    for step in range(1, steps + 1):
        ensemble.advance(1)
        s = position(ensemble.theta)
        sign = np.where(s >= measurement.upper, 1.0, np.where(s <= measurement.lower, -1.0, 0.0))
        found = np.where(found == 0.0, sign * step, found)
    return found


@pytest.mark.parametrize(
    ("start", "steps", "landscape", "noise", "dynamics"),
    [
        (0.3, 20, NARROWING, Thermal(0.3), Overdamped(0.002)),
        (0.3, 20, NARROWING, CurvatureCovariance(5.0, 1.0, 60.0), SGD(0.005, 0.6)),
        (0.35, 100, MullerBrown(scale=0.05), Thermal(1.0), Overdamped(2e-4)),
    ],
)
def test_every_passage_is_seen_at_its_step(start, steps, landscape, noise, dynamics):
    """Against a slow reimplementation, the last step included. A mutant that looks every second step differs."""
    options = {"lower": 0.2, "upper": 0.5, "replicas": 200}
    found = slow(Escape(landscape, noise, dynamics, start, duration=steps * dynamics.time_step, **options))
    last = np.abs(found).max()
    assert 0 < np.sum(found > 0) < 150
    assert 0 < np.sum(found < 0) < 150
    assert np.any(found % 2 == 1)
    group = Escape(landscape, noise, dynamics, start, duration=last * dynamics.time_step, **options).run()["escape"]
    expected = np.where(found != 0, np.abs(found) * dynamics.time_step, np.nan)
    np.testing.assert_allclose(group["first_passage_time"], expected, rtol=1e-12)
    np.testing.assert_array_equal(group["side"], np.sign(found))
    np.testing.assert_array_equal(group["escaped"], found != 0)


SEAM = {"start": 0.02, "lower": 0.01, "upper": 0.9}


def test_beyond_the_seam_of_a_periodic_path_is_beyond_the_nearer_level():
    """The first step mostly jumps over s = 0. On a flat ring the splitting probability is that of the walk on the line,
    to 4 %. Mutant: s = 0.99 is above the upper level, two thirds go up."""
    ring = Channel(Bump(1.0, 1.0), transverse_directions=1, boundary="periodic")
    measurement = Escape(ring, Thermal(0.1), Overdamped(0.005), **SEAM, replicas=20_000, duration=50.0)
    group = measurement.run()["escape"]
    steps, up = random_walk_time(0.02, 0.01, 0.9, np.sqrt(2 * 0.1 * 0.005))
    share, error = np.mean(group["side"].values == 1), np.sqrt(up * (1 - up) / 20_000)
    assert error < 0.05 * up
    assert abs(share - up) / error < 3
    assert abs(share - 0.66) / error > 5
    mean, stderr = float(group["mean_first_passage_time"]), float(group["mean_first_passage_time_stderr"])
    assert abs(mean - 0.005 * steps) / stderr < 3


def test_a_periodic_path_is_followed_step_by_step():
    """Against the coordinate of the ring that is never folded. Mutant: a level is crossed at the other end of s."""
    ring = Channel(Bump(1.0, 4.0), transverse_directions=2, boundary="periodic")
    measurement = Escape(ring, Thermal(0.1), Overdamped(0.005), **SEAM, replicas=300, duration=2.0)
    found = slow(measurement, lambda theta: theta[:, 0])
    group = measurement.run()["escape"]
    np.testing.assert_array_equal(group["side"], np.sign(found))
    expected = np.where(found != 0, np.abs(found) * 0.005, np.nan)
    np.testing.assert_allclose(group["first_passage_time"], expected, rtol=1e-12)
    assert np.any(found > 0)
    assert np.sum(slow(measurement) != found) > 100


@pytest.mark.parametrize(
    ("ring", "noise", "dynamics"),
    [
        (lambda k: Channel(k, transverse_directions=1, boundary="periodic"), Thermal(0.01), Overdamped(0.01)),
        (CurvedChannel, Thermal(0.05), Overdamped(0.08)),
    ],
)
def test_where_a_periodic_path_begins_does_not_matter(ring, noise, dynamics):
    """All turned by a quarter, as many go up, to 7 %; on the straight ring each walk is the same. Mutant: half and more
    of those that jump over s = 0 go up."""
    values, walkers = 1.0 + np.sin(np.pi * np.arange(8) / 4 + 0.3) ** 2, 20_000

    def sides(quarters):
        turned = np.roll(values, 2 * quarters)
        levels = (np.array([0.006, 0.001, 0.6]) + 0.25 * quarters).tolist()
        landscape = ring(Interpolated((*turned, turned[0]), ends="periodic"))
        measurement = Escape(
            landscape, noise, dynamics, *levels, replicas=walkers, duration=60.0 * dynamics.step / 0.01
        )
        return measurement.run()["escape"]["side"].values

    first, second = sides(0), sides(1)
    if ring is not CurvedChannel:
        assert np.mean(first != second) < 1e-3  # but for rounding
    up = np.array([np.mean(side == 1) for side in (first, second)])
    error = np.sqrt((up * (1 - up)).sum() / walkers)
    assert abs(up[0] - up[1]) / error < 3
    assert (0.5 - up[0]) / error > 5
    assert error < 0.07 * up[1]


def test_numbers_do_not_depend_on_when_it_stops_nor_on_threads(monkeypatch):
    measurement = Escape(NARROWING, Thermal(0.3), Overdamped(0.002), replicas=300, duration=20.0)
    first = measurement.run(threads=1)["escape"]
    assert first.attrs["censored"] == 0
    monkeypatch.setattr("entropy_sim._ensemble._SECONDS_PER_PIECE", 2e-4)
    steps = []
    whole = Ensemble._piece
    monkeypatch.setattr(Ensemble, "_piece", lambda self, target: (steps.append(target), whole(self, target)))
    second = measurement.run(threads=2)["escape"]
    for name in first.data_vars:
        np.testing.assert_array_equal(first[name], second[name])
    assert max(steps) < 20.0 / 0.002  # it ended when all had escaped
    assert max(steps) * 0.002 >= float(first["first_passage_time"].max())


def test_censored_walkers_are_counted_and_their_time_is_used():
    measurement = Escape(NARROWING, Thermal(0.3), Overdamped(0.002), replicas=2000, duration=1.5, transient=0.8)
    group = measurement.run()["escape"]
    assert schema.group_faults("escape", group.to_dataset()) == []
    escaped, times = group["escaped"].values == 1, group["first_passage_time"].values
    assert 200 < group.attrs["censored"] < 1800
    assert group.attrs["censored"] + escaped.sum() == 2000
    assert group.attrs["effective_sample_size"] == np.sum(times[escaped] > 0.8)  # those that the rate is made of
    assert group.attrs["autocorrelation_time_of"].startswith("none: one time from each replica")
    np.testing.assert_array_equal(np.isnan(times), ~escaped)
    assert np.nanmax(times) <= 1.5
    observed = np.where(escaped, times, 1.5)
    rate, mean = exponential_rate(observed, escaped, after=0.8), mean_time(observed, escaped, after=0.8)
    for name in ("rate", "rate_stderr", "rate_low", "rate_high"):
        short = name.removeprefix("rate_")
        assert float(group[name]) == getattr(rate, short)
    assert float(group["mean_first_passage_time"]) == mean.mean
    assert float(group["restricted_mean_time"]) == mean.restricted
    curve, stderr = kaplan_meier(observed, escaped).at(group["survival_time"].values)
    np.testing.assert_array_equal(group["survival"], curve)
    np.testing.assert_array_equal(group["survival_stderr"], stderr)
    # Later, everybody has: the tail was rightly added. Before 0.8 it is not yet exponential.
    late = Escape(NARROWING, Thermal(0.3), Overdamped(0.002), replicas=8000, duration=50.0, seed=1).run()["escape"]
    z = (mean.mean - float(late["mean_first_passage_time"])) / np.hypot(
        mean.mean_stderr, float(late["mean_first_passage_time_stderr"])
    )
    assert abs(z) < 3
    assert (float(late["mean_first_passage_time"]) - mean.restricted) / mean.restricted_stderr > 5


def test_diverged_walkers_are_neither_escaped_nor_censored():
    """A saddle: walkers leave along the path, or fall off across it first."""
    saddle = Quadratic(((-0.5, -2.0),), start=(0.0, 0.0), end=(1.0, 0.0))
    options = {"start": 0.0, "lower": -40.0, "upper": 40.0, "replicas": 500, "duration": 8.0}
    group = escape(saddle, Thermal(1.0), Overdamped(0.05), **options)["escape"]
    diverged, escaped = group["diverged"].values == 1, group["escaped"].values == 1
    assert not np.any(diverged & escaped)
    assert diverged.sum() + escaped.sum() + group.attrs["censored"] == 500
    times = group["first_passage_time"].values
    np.testing.assert_array_equal(np.isfinite(times), escaped)
    # The escape itself is far from the bound: who escapes and diverges later has escaped.
    longer = escape(saddle, Thermal(1.0), Overdamped(0.05), **(options | {"duration": 60.0}))["escape"]
    np.testing.assert_array_equal(longer["first_passage_time"].values[escaped], times[escaped])
    assert int(longer["diverged"].sum()) > 0
    assert int(longer["escaped"].sum()) > escaped.sum()
    observed = longer["first_passage_time"].values[longer["escaped"].values == 1]
    assert float(longer["rate"]) == pytest.approx(observed.size / observed.sum())


def test_nobody_left_to_count_is_a_valid_dataset():
    fall = Quadratic(((1.0, -30.0),), start=(0.0, 0.0), end=(1.0, 0.0))
    group = escape(fall, Thermal(0.01), Overdamped(0.05), lower=-50.0, upper=50.0, replicas=64)["escape"]
    assert schema.group_faults("escape", group.to_dataset()) == []
    np.testing.assert_array_equal(group["diverged"], 1)
    assert "rate" not in group


def test_thermalised_walkers_start_spread_across_the_path_and_on_their_plane():
    """Variance T / (k (1 - h k / 2)) across. Mutant: all on the path."""
    measurement = Escape(NARROWING, Thermal(0.1), Overdamped(0.02), 0.5, 0.2, 0.8, replicas=20_000, thermalise=3.0)
    theta = measurement._released(Execution())
    np.testing.assert_array_equal(theta[:, 0], 0.5)
    exact = theory.variance_euler_maruyama(16.0, 0.1, 0.02)
    assert abs(theta[:, 1].var() / exact - 1) / np.sqrt(2 / 20_000) < 3
    cold = Escape(NARROWING, Thermal(0.1), Overdamped(0.02), 0.5, 0.2, 0.8, replicas=10)._released(Execution())
    np.testing.assert_array_equal(cold[:, 1], 0.0)


def test_reduced_dynamics_is_the_double_integral_of_the_exact_free_energy():
    """tau = int_a^b dy e^F/T int_0^y e^-F/T / T with e^-F/T = k^-1/2, for tiny steps. Mutant: without the entropy."""
    measurement = Escape(NARROWING, Thermal(0.2), Overdamped(1e-9), duration=0.1)
    y = np.linspace(0.0, 0.5, 20_001)
    weight = NARROWING.curvature(y)[:, 0] ** -0.5
    inner = np.concatenate([[0.0], np.cumsum(0.5 * (weight[1:] + weight[:-1]) * np.diff(y))])
    exact = np.trapezoid(inner / weight, y) / 0.2
    assert measurement.reduced(shifted=False)[0] == pytest.approx(exact, rel=1e-6)
    assert exact > 1.5 * 0.5**2 / 0.4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dynamics": Overdamped(0.005, "leimkuhler_matthews")}, "independent Gaussian steps"),
        ({"noise": CurvatureCovariance(), "dynamics": SGD(0.01, 0.9)}, "independent Gaussian steps"),
        ({"noise": CurvaturePower(0.1, 1.0, 0.0)}, "no noise along the path"),
        ({"landscape": Quadratic(((1.0, 4.0),))}, "an open end"),
        ({"landscape": MullerBrown(scale=0.01), "noise": Thermal(0.1), "dynamics": Overdamped(1e-4)}, "curved"),
        ({"landscape": Quadratic(((1.0, -4.0),)), "lower": -0.2}, "not stiff"),
        ({"upper": 0.999}, "off the path"),
    ],
)
def test_theory_says_why_it_is_silent(change, words):
    measurement = Escape(**({"landscape": NARROWING, "duration": 0.2, "replicas": 4} | change))
    assert words in measurement.reduced()
    group = measurement.run()["escape"]
    assert words in group.attrs["reduced"]
    assert "mean_first_passage_time_reduced" not in group


def test_an_escape_in_one_dimension_is_that_of_the_reduced_dynamics():
    """1/2 theta² from its centre to ±0.4: no transverse modes, so that the double integral is exact, to 0.6 %. Mutant:
    without U."""
    well = Quadratic(((1.0,),))
    measurement = Escape(well, Thermal(0.05), Overdamped(1e-3), 0.5, 0.3, 0.7, replicas=20_000, duration=60.0)
    group = measurement.run()["escape"]
    mean, stderr = float(group["mean_first_passage_time"]), float(group["mean_first_passage_time_stderr"])
    assert abs(mean - float(group["mean_first_passage_time_reduced"])) / stderr < 3
    assert (mean - (0.4 + theory.absorbing_level_shift(0.05, 1e-3)) ** 2 / 0.1) / stderr > 5
    assert np.isnan(float(group["timescale_ratio"]))


def test_a_scan_is_each_value_alone():
    measurement = Escape(
        NARROWING, Thermal(0.3), Overdamped(0.002), replicas=100, duration=2.0, scan=Scan("temperature", (0.2, 0.4))
    )
    tree = measurement.run(threads=2)
    assert schema.faults(tree) == []
    group = tree["escape"]
    assert group["first_passage_time"].dims == ("temperature", "replica")
    for i, one in enumerate(measurement.scan.of(measurement)):
        alone = one.run(threads=1)["escape"]
        for name in alone.data_vars:
            np.testing.assert_array_equal(group[name].values[i], alone[name].values)
    assert tree.attrs["timescale_ratio"] == pytest.approx(float(group["timescale_ratio"][1]))
    both = group["first_passage_time"].values
    assert abs(np.corrcoef(np.nan_to_num(both, nan=2.0))[0, 1]) < 0.4  # random numbers of their own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.6}, "start: expected less than the upper level 0.5, found 0.6"),
        ({"start": 0.5}, "start: expected less than the upper level"),
        ({"start": 0.1, "lower": 0.2}, "start: expected more than the lower level 0.2, found 0.1"),
        ({"start": -0.1}, "start: expected a position s of the path, found -0.1"),
        ({"start": float("nan")}, "start: expected a position s of the path"),
        ({"upper": None}, "upper: expected a level to leave by, found neither"),
        ({"upper": 1.0}, "upper: expected a level that s can cross, found 1.0"),
        ({"upper": 1.5}, "upper: expected a level that s can cross, found 1.5"),
        ({"lower": -0.1}, "lower: expected a level that s can cross, found -0.1"),
        (
            {"landscape": Channel(boundary="periodic"), "start": 0.1},
            "lower: expected a level .an interval of a periodic",
        ),
        (
            {"landscape": Channel(boundary="periodic"), "start": 1.0, "lower": 0.1, "upper": 0.9},
            r"start: expected 0 <= s < 1 \(s = 1 of a periodic path is s = 0\), found 1.0",
        ),
        ({"duration": -1.0}, "duration: expected a positive number"),
        ({"duration": 1e9}, "duration: expected 1 to 10⁹ steps"),
        ({"transient": 3000.0}, "transient: expected less than the duration 2000"),
        ({"thermalise": -1.0}, "thermalise: expected a number >= 0"),
        ({"thermalise": 1e12}, "thermalise: expected 1 to 10⁹ steps of 0.005, found 1e.12"),
        ({"thermalise": 1e-3}, "thermalise: expected 1 to 10⁹ steps of 0.005, found 0.001"),
        ({"thermalise": 1e12, "scan": Scan("temperature", (0.1,))}, "thermalise: expected 1 to 10⁹ steps"),
        ({"replicas": 0}, "replicas: expected at least 1"),
        ({"dynamics": Overdamped(0.5)}, "dynamics.step: expected less than 0.125"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(UserError, match=message):
        Escape(**options)


def test_levels_beyond_the_ends_are_allowed_where_walkers_can_go_there():
    Escape(Quadratic(((1.0, 4.0),)), start=0.5, lower=-0.5, upper=1.5)
    Escape(Channel(boundary="periodic"), start=0.5, lower=0.1, upper=0.9)
