"""Cooling an entropic barrier and an energetic one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis import agreement
from analysis.arrhenius import Climb, arrhenius, climb, measured_height
from analysis.compare import compare
from entropy_sim import Channel, Escape, Overdamped, Profile, Thermal, schema
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Barrier, Bump
from entropy_sim.scan import Scan


def times(slope, temperatures=(0.05, 0.1, 0.2), error=0.05, seed=0):
    """τ D = exp(slope / T), D = T."""
    t = np.array(temperatures)
    tau = np.exp(slope / t) / t * np.exp(error * np.random.default_rng(seed).standard_normal(len(t)))
    axis, units = ("temperature",), {"units": "loss"}
    return xr.Dataset(
        {
            "rate": (axis, 1 / tau),
            "mean_first_passage_time": (axis, tau),
            "mean_first_passage_time_stderr": (axis, error * tau),
            "diffusion_along_path": (axis, t),
        },
        {"temperature": (axis, t, units)},
    )


def test_an_entropic_escape_is_not_arrhenius_and_an_energetic_one_is():
    flat, steep = arrhenius(times(0.0), 0.5), arrhenius(times(0.4), 0.5)
    assert flat.attrs["verdict"] == "not Arrhenius"
    assert abs(float(flat["slope"])) < 3 * float(flat["slope_stderr"])
    assert steep.attrs["verdict"] == "Arrhenius"
    assert float(steep["slope"]) == pytest.approx(0.4, abs=3 * float(steep["slope_stderr"]))
    assert arrhenius(times(0.0, error=5.0), 0.5).attrs["verdict"] == "not determined"
    assert arrhenius(times(0.0)).attrs["verdict"] == "no slope"
    small = arrhenius(times(0.0), 0.1)
    assert small.attrs["verdict"] == "not determined"
    assert small.attrs["statement"].endswith("is none to speak of: it is below 2 T")
    with pytest.raises(UserError, match="expected a scan of two or more temperatures, found no scan"):
        arrhenius(times(0.0).isel(temperature=0))


def escapes(channel, temperatures, duration=200.0, replicas=256, step=2e-3):
    return Escape(
        channel, Thermal(), Overdamped(step=step), replicas=replicas, duration=duration,
        scan=Scan("temperature", temperatures),
    )  # fmt: skip


def test_what_has_to_be_climbed_is_read_from_the_run():
    """Heights in closed form; the reduced times are those that the simulator stores, an integral of its own but for the
    shift of the level by discrete steps."""
    channel = Channel(Bump(1.0, 8.0), Barrier(0.4), transverse_directions=3)
    tree = escapes(channel, (0.2, 0.4), duration=1e-3, replicas=8, step=1e-5).run(threads=1)
    assert climb(tree) is None
    tree["profile"] = Profile(channel, Thermal(), Overdamped(), points=201).run()["profile"].to_dataset()
    way = climb(tree)
    assert way is not None
    assert way.absorbing == "right"
    assert way.height() == pytest.approx(0.4, rel=1e-4)
    assert way.height(0.2) == pytest.approx(0.4 + 0.2 * 1.5 * np.log(8), rel=1e-4)
    stored = tree["escape"]["mean_first_passage_time_reduced"].values * np.array([0.2, 0.4])
    np.testing.assert_allclose(np.exp(way.log_times(np.array([0.2, 0.4]))), stored, rtol=0.02)
    y = np.linspace(0, 1, 401)
    flat = Climb(y, 0 * y, 0 * y, 0.25, "both")
    np.testing.assert_allclose(flat.log_times(np.array([0.1, 3.0])), np.log(0.25 * 0.75 / 2), rtol=1e-6)


def test_a_run_is_told_the_height_of_the_same_landscape(tmp_path):
    """By its own configuration, or, where this tells nothing, by measured barriers; without either the slope alone."""
    entropic = escapes(Channel(), (0.05, 0.1, 0.2)).run(threads=2)
    said = {r.quantity: r.statement for r in agreement.rows(compare([("a", entropic)])["table"].to_dataset())}
    assert said["escape times against 1/T"].startswith("not Arrhenius: ln(τ D) has slope")
    bare = xr.DataTree.from_dict({"escape": entropic["escape"].to_dataset()})
    bare.attrs = {"source": "entropy_sim", "config": "{}"}
    alone = compare([("a", bare)])["arrhenius/a"]
    assert alone.attrs["verdict"] == "no slope"
    bare["barrier"] = schema.make(
        "barrier",
        {
            "temperature": (("temperature",), np.array([0.05, 0.2])),
            "energy_barrier": (("temperature",), np.zeros(2)),
            "entropic_barrier": (("temperature",), np.array([0.05, 0.2]) * 2 * np.log(16)),
        },
    )
    measured = compare([("a", bare)])["arrhenius/a"]
    assert measured.attrs["verdict"] == "not Arrhenius"
    assert measured.attrs["heights_from"] == "the measured barriers"
    assert measured_height(bare["barrier"].to_dataset(), 0.1) == pytest.approx(0.2 * np.log(16))
    assert measured_height(bare["barrier"].to_dataset(), 0.3) is None


@pytest.mark.slow
def test_the_simulator_s_escapes_over_an_entropic_barrier_are_not_arrhenius():
    """A flat channel that stiffens 16-fold in 4 directions, three temperatures: the slope is that of no barrier, and 3
    standard errors away from that of an energetic one of the same height at the middle temperature."""
    channel = Channel(transverse_directions=4)
    temperatures = (0.02, 0.04, 0.08)
    run = Escape(
        channel, Thermal(), Overdamped(step=2e-3), replicas=400, duration=2000.0, scan=Scan("temperature", temperatures)
    ).run(threads=2)
    height = 0.04 / 2 * float(np.log(channel.curvature([0.5]) / channel.curvature([0.0])).sum())
    found = arrhenius(run["escape"].to_dataset(), height + 0.04)
    assert found.attrs["verdict"] == "not Arrhenius"
    assert abs(float(found["fraction"])) < 0.15


def test_only_a_scan_of_the_temperature_tells_a_height_at_a_temperature():
    def heights(parameter, values):
        dims, each = (parameter,), np.ones(len(values))
        variables = {parameter: (dims, np.array(values)), "energy_barrier": (dims, each)}
        variables |= {"entropic_barrier": (dims, each)}
        return schema.make("barrier", variables)

    assert measured_height(heights("temperature", [0.1, 0.3]), 0.2) == 2.0
    assert measured_height(heights("temperature", [0.1, 0.3]), 0.4) is None
    assert measured_height(heights("optimizer", ["sgd", "muon"]), 0.2) is None
