"""What every run reports beside its numbers: how adiabatic it was, and how much its averages are worth."""

import math
from itertools import pairwise

import numpy as np
import pytest

from entropy_sim import (
    SGD,
    Channel,
    CurvatureCovariance,
    MeanForce,
    Overdamped,
    Profile,
    Relaxation,
    Stationary,
    Thermal,
)
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Exponential, Quadratic
from entropy_sim.measurements import Escape
from entropy_sim.measurements.base import path_group, timescale_ratio
from entropy_sim.scan import Scan


def test_timescale_ratio_is_that_of_the_softest_steepest_place():
    channel = Channel(Exponential(2.0, 32.0), length=0.5)
    # k'/k = ln(16) / 0.5 everywhere, so D (k'/k)² / k is largest at k = 2
    expected = 0.03 * (math.log(16.0) / 0.5) ** 2 / 2.0
    assert timescale_ratio(channel, Thermal(0.03), Overdamped(0.001)) == pytest.approx(expected, rel=1e-12)
    noise, sgd = CurvatureCovariance(along_path=0.2), SGD(0.01)
    # one clock for both: D_y = eta C_y / (2 (1 - beta)); a mode falls by 1 - eta k per step
    expected = 0.01 * 0.2 / 2 * (math.log(16.0) / 0.5) ** 2 / (-math.log1p(-0.01 * 2.0) / 0.01)
    assert timescale_ratio(channel, noise, sgd) == pytest.approx(expected, rel=1e-9)
    # with this momentum every mode oscillates, and its amplitude falls by sqrt(beta) per step
    expected = 0.01 * 0.2 / (2 * 0.1) * (math.log(16.0) / 0.5) ** 2 / (-0.5 * math.log(0.9) / (0.01 / 0.1))
    assert timescale_ratio(channel, noise, SGD(0.01, 0.9)) == pytest.approx(expected, rel=1e-9)


def test_a_burn_in_is_told_in_relaxation_times():
    channel = Channel(Exponential(2.0, 8.0), transverse_directions=1)
    small = {"positions": (0.5, 1.0), "burn_in": 5.0, "duration": 5.0, "walkers": 4, "replicas": 1, "time_windows": 1}
    told = MeanForce(channel, Thermal(0.01), Overdamped(0.005), **small).run()["mean_force"].attrs
    assert told["burn_in_relaxation_times"] == pytest.approx(5.0 * 4.0)
    told = MeanForce(channel, CurvatureCovariance(), SGD(0.05, 0.9), **small).run()["mean_force"].attrs
    assert told["burn_in_relaxation_times"] == pytest.approx(10 * -0.5 * math.log(0.9))


def test_every_run_reports_its_timescale_ratio():
    channel = Channel(Exponential(2.0, 32.0))
    for kind in (Profile, MeanForce, Relaxation, Stationary):
        small = {"duration": 0.5} if kind is not Profile else {}
        small |= {"burn_in": 0.0} if kind in (MeanForce, Stationary) else {}
        small |= {"records": 10} if kind is Relaxation else {}
        attrs = kind(channel, Thermal(0.03), Overdamped(0.005), **small).run().attrs
        assert attrs["timescale_ratio"] == pytest.approx(0.03 * math.log(16.0) ** 2 / 2.0, rel=1e-12)


def test_a_landscape_of_constant_stiffness_is_adiabatic():
    assert timescale_ratio(Quadratic(((1.0, 2.0),)), Thermal(0.1), Overdamped(0.01)) == 0.0


def test_autocorrelation_time_of_a_stationary_run_is_that_of_reflected_diffusion():
    # Reflected Brownian motion on (0, 1): rho(t) = sum over odd n of 96/(pi n)^4 exp(-D (n pi)² t), whose integral over
    # all t is 1/(5 D). 32 groups know it to 25 %; the mean of 8 runs to 9 %.
    diffusion = 0.1
    flat = Channel(Exponential(1.0, 1.0), transverse_directions=1)
    found = [
        Stationary(flat, Thermal(diffusion), Overdamped(0.02), walkers=128, burn_in=6.0, duration=200.0, seed=seed)
        .run()["stationary"]
        .attrs
        for seed in range(8)
    ]
    rates = np.array([1.0 / attrs["autocorrelation_time"] for attrs in found])
    z = (rates.mean() - 5.0 * diffusion) / (0.25 * 5.0 * diffusion / math.sqrt(8))
    assert abs(z) < 4
    one_sided = (rates.mean() - 10.0 * diffusion) / (0.25 * 5.0 * diffusion / math.sqrt(8))
    assert one_sided < -5
    for attrs in found:
        counts = 128 * 200.0 / (10 * 0.02)
        assert attrs["effective_sample_size"] * attrs["autocorrelation_time"] == pytest.approx(counts * 0.2, rel=1e-9)


def test_autocorrelation_time_of_a_relaxation_is_that_of_the_distance():
    # |x| of an Ornstein-Uhlenbeck process with rho = exp(-k t): the correlation of |x| is that of the two quadrants,
    # (2/pi)(sqrt(1 - rho²) + rho asin(rho) - 1) / (1 - 2/pi), integrated numerically.
    k = 4.0
    t = np.linspace(0.0, 5.0, 200001)
    rho = np.exp(-k * t)
    correlation = (2 / math.pi) * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho) - 1) / (1 - 2 / math.pi)
    expected = 2.0 * np.trapezoid(correlation, t)
    flat = Channel(Exponential(k, k), transverse_directions=1)
    run = Relaxation(
        flat, Thermal(0.01), Overdamped(0.01), starts=(0.5,), replicas=64, duration=100.0, records=2000, control=False
    ).run()
    assert run["relaxation"].attrs["autocorrelation_time"] == pytest.approx(expected, rel=0.1)
    assert run["relaxation"].attrs["effective_sample_size"] == 64


def test_threads_are_checked():
    with pytest.raises(UserError, match="threads: expected a positive number, found 0"):
        Profile().run(threads=0)


def test_a_scan_reports_the_largest_timescale_ratio_that_is_defined(monkeypatch):
    ratios = iter([math.nan, 0.1])
    monkeypatch.setattr("entropy_sim.measurements.base.timescale_ratio", lambda *system: next(ratios))
    scan = Scan("temperature", (0.01, 0.02))
    run = Escape(replicas=4, duration=1.0, scan=scan).run()
    assert run.attrs["timescale_ratio"] == 0.1


def test_the_highest_loss_between_the_points_of_a_path_is_that_of_each_interval():
    channel, s = Channel(along=Barrier(0.4)), np.array([0.0, 0.1, 0.4, 0.7, 1.0])
    highest = [channel.path_energy(np.linspace(a, b, 1001)).max() for a, b in pairwise(s)]
    found = path_group(channel, s)["loss_between"].values
    np.testing.assert_allclose(found[:-1], highest, rtol=1e-2)
    assert np.ptp(highest) > 0.1
    assert np.isnan(found[-1])
