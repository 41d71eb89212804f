"""What holds for every update rule: the same numbers however it is run, divergence, the default relaxation rate."""

import numpy as np
import pytest

from entropy_sim._ensemble import Ensemble
from entropy_sim.dynamics import SGD, Adam, Overdamped, Preconditioned, Underdamped
from entropy_sim.landscapes import Channel, DoubleWell, Exponential
from entropy_sim.measurements import Relaxation
from entropy_sim.measurements.base import timescale_ratio
from entropy_sim.noise import CurvatureCovariance, Thermal

CHANNEL = Channel(DoubleWell(), transverse_directions=2)
RULES = [
    pytest.param(Thermal(0.1), Overdamped(), id="euler-maruyama"),
    pytest.param(Thermal(0.1), Overdamped(scheme="leimkuhler_matthews"), id="leimkuhler-matthews"),
    pytest.param(Thermal(0.1), Underdamped(), id="baoab"),
    pytest.param(CurvatureCovariance(), SGD(0.01, 0.9, True, 0.1), id="nesterov"),
    pytest.param(CurvatureCovariance(), Adam(weight_decay=0.1), id="adam"),
    pytest.param(CurvatureCovariance(), Adam(weight_decay=0.1, decoupled=True), id="adamw"),
    pytest.param(CurvatureCovariance(), Preconditioned(momentum=0.5), id="natural-gradient"),
    pytest.param(CurvatureCovariance(), Preconditioned(exponent=0.3), id="preconditioned"),
]


def ensemble(noise, dynamics, start, **options):
    return Ensemble(CHANNEL, noise, dynamics, start, seed=5, **options)


@pytest.mark.parametrize(("noise", "dynamics"), RULES)
def test_numbers_do_not_depend_on_threads_blocks_chunks_or_an_interruption(noise, dynamics):
    start = CHANNEL.path(np.linspace(0.1, 0.9, 150))
    reference = ensemble(noise, dynamics, start, threads=1, block=192)
    reference.advance(40)
    for pieces, options in (((40,), {"threads": 2, "block": 64}), ((1, 2, 37), {"threads": 1})):
        other = ensemble(noise, dynamics, start, **options)
        for steps in pieces:
            other.advance(steps)
        np.testing.assert_array_equal(other.theta, reference.theta)
    # 70 walkers of 128: the last block is filled up with walkers that are not there, also in the memory.
    first = ensemble(noise, dynamics, start[:70], block=64)
    first.advance(13)
    later = ensemble(noise, dynamics, start[:70], threads=1, block=128)
    later.restore(first.state())
    later.advance(27)
    np.testing.assert_array_equal(later.theta, reference.theta[:70])
    assert np.isfinite(reference.theta).all()


@pytest.mark.parametrize(("noise", "dynamics"), RULES)
def test_a_diverged_walker_leaves_the_others_alone(noise, dynamics):
    start = np.repeat(CHANNEL.path([0.3]), 8, axis=0)
    alone = ensemble(noise, dynamics, start)
    start[1], start[2, 0], start[3, -1] = np.nan, np.inf, 1e300
    mixed = ensemble(noise, dynamics, start)
    for each in (alone, mixed):
        each.advance(10)
    np.testing.assert_array_equal(mixed.diverged, [False, True, True, True, False, False, False, False])
    np.testing.assert_array_equal(mixed.theta[[0, 4, 5, 6, 7]], alone.theta[[0, 4, 5, 6, 7]])


@pytest.mark.parametrize(("noise", "dynamics"), RULES)
def test_a_measurement_takes_it_and_names_its_clock(noise, dynamics):
    tree = Relaxation(CHANNEL, noise, dynamics, (0.3, 0.6), 4, 20 * dynamics.time_step, 4).run()
    assert tree.attrs["time_step"] == pytest.approx(dynamics.time_step)
    assert tree.attrs["dynamics"] == type(dynamics).__name__
    assert tree.attrs["clock"] == dynamics.clock
    assert tree["relaxation"]["time"].values[-1] == pytest.approx(20 * dynamics.time_step)
    assert np.isfinite(tree["relaxation"]["position"]).all()


def test_timescale_ratio_of_rules_that_relax_at_the_rate_of_the_stiffness_and_of_others():
    """D_y (k'/k)² / rate, largest where k is smallest; weight decay adds to the rate, inertia can limit it."""
    channel = Channel(Exponential(2.0, 8.0), transverse_directions=1)
    slope2 = np.log(4.0) ** 2
    assert timescale_ratio(channel, Thermal(0.1), Overdamped()) == pytest.approx(0.1 * slope2 / 2)
    noise = CurvatureCovariance(0.1, 1.0, 0.6)
    rate = 0.02 / (1 - 0.5)
    # The slowest root of the recursion; for small steps its rate is 2, and 5 with the weight decay.
    heavy = -np.log(np.abs(np.roots([1.0, -(1.5 - 0.02 * 2), 0.5])).max()) / rate
    assert heavy == pytest.approx(2.0, rel=0.4)
    assert timescale_ratio(channel, noise, SGD(0.02, 0.5)) == pytest.approx(0.5 * rate * 0.6 * slope2 / heavy)
    decayed = timescale_ratio(channel, noise, SGD(0.02, 0.5, True, 3.0))
    nesterov = -np.log(np.abs(np.roots([1.0, -1.5 * (1 - 0.02 * 5), 0.5 * (1 - 0.02 * 5)])).max()) / rate
    assert nesterov == pytest.approx(5.0, rel=0.5)
    assert decayed == pytest.approx(0.5 * rate * 0.6 * slope2 / nesterov)
    slow = timescale_ratio(channel, Thermal(0.1), Underdamped(1e-3, 0.5))  # rate gamma² / 2 in t = tau / gamma
    assert slow == pytest.approx(0.1 * slope2 / 0.125, rel=1e-3)
