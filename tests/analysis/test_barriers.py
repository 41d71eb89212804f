from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis.barriers import arrhenius, decay_below, first_below, scaling, vanishing
from entropy_sim import Channel, Escape, Overdamped, Thermal, schema
from entropy_sim.errors import UserError
from entropy_sim.scan import Scan

K = np.array([0.0, 50, 100, 200, 400, 800, 1600])


def shared(lengths=(80.0, 400.0), sizes=(1.0, 0.2), error=0.02, seed=0, replicas=0):
    """Heights that decay as exp(−k/length): they fall to a tenth at k = length ln 10."""
    random = np.random.default_rng(seed)
    shape = (len(K), replicas) if replicas else (len(K),)
    dims = ("shared_iterations", "replica")[: len(shape)]
    variables = {"shared_iterations": (("shared_iterations",), K)}
    for name, length, size in zip(("energy_barrier", "entropic_barrier"), lengths, sizes, strict=True):
        height = size * np.exp(-K / length).reshape(-1, *[1] * (len(shape) - 1))
        scatter = error * size * (np.sqrt(replicas) if replicas else 1)
        variables[name] = (dims, height + scatter * random.standard_normal(shape))
        if not replicas:
            variables[f"{name}_stderr"] = (dims, np.full(shape, error * size))
    return schema.make("barrier", variables)


def test_crossings_of_straight_lines_are_exact():
    x = np.array([0.0, 1, 3, 4])
    curves = np.array([[4, 3, 1, 0], [1, 2, 3, 4.0], [5, 5, 5, 5], [4, np.nan, 1, 0]])
    np.testing.assert_allclose(first_below(x, curves, [2.0, 2, 2, 2]), [2, 0, np.inf, 2])
    assert np.isnan(first_below(x, np.full(4, np.nan), 1.0))
    at, length = decay_below(K, 3 * np.exp(-K / 80), np.zeros(7), 0.3)
    assert float(at) == pytest.approx(80 * np.log(10))
    assert float(length) == pytest.approx(80)
    assert np.isinf(decay_below(K, 1 + K, np.zeros(7), 0.3)[0])
    bad, error = 3 * np.exp(-K / 80), 1e-6 * np.exp(-K / 80)
    bad[2], error[2] = 9.0, 1.0  # known badly: of no weight
    assert float(decay_below(K, bad, error, 0.3)[0]) == pytest.approx(80 * np.log(10), rel=1e-6)


@pytest.mark.parametrize("replicas", [0, 40])
def test_the_energetic_barrier_vanishes_first_and_by_how_much(replicas):
    found = vanishing(shared(replicas=replicas))
    fits, errors = found["decay_crossing"].values, found["decay_crossing_stderr"].values
    assert (abs(fits - np.array([80, 400]) * np.log(10)) < 3 * errors).all()
    assert found.attrs["verdict"] == "energetic first"
    assert float(found["lag_low"]) < float(found["lag"]) < float(found["lag_high"])
    assert "energetic barrier falls to 0.1 of the first height at shared iterations = " in found.attrs["statement"]
    assert found.attrs["resampling"].startswith("bootstrap over 40 replicas" if replicas else "heights drawn")
    assert vanishing(shared((400.0, 80.0), replicas=replicas)).attrs["verdict"] == "entropic first"
    assert vanishing(shared((200.0, 200.0), error=0.05)).attrs["verdict"] == "not determined"


def test_the_interval_of_the_decay_covers():
    """100 scans: 68 % of the intervals hold the truth, within 3 standard errors of that count."""
    held = 0
    for seed in range(100):
        one = vanishing(shared(seed=seed), resamples=200).sel(kind="entropic")
        held += float(one["decay_crossing_low"]) <= 400 * np.log(10) <= float(one["decay_crossing_high"])
    assert abs(held - 100 * 0.6827) < 3 * np.sqrt(100 * 0.6827 * 0.3173)


def test_what_does_not_vanish_in_the_scan_is_told():
    found = vanishing(shared((80.0, 1e5)))
    assert np.isinf(found["crossing"].sel(kind="entropic"))
    assert float(found["never"].sel(kind="entropic")) == 1
    assert found.attrs["verdict"] == "energetic first"
    assert (
        "entropic barrier still above 0.1 of the first height at shared iterations = 1600" in found.attrs["statement"]
    )
    both = vanishing(shared((1e5, 1e5)))
    assert both.attrs["verdict"] == "not determined"
    absolute = vanishing(shared(), threshold=0.05)
    assert "falls to 0.05 loss" in absolute.attrs["statement"].replace("0.0500", "0.05")


def test_bad_scans_are_one_line():
    with pytest.raises(UserError, match="barrier: expected a scan of 3 or more values, found fewer"):
        vanishing(shared().isel(shared_iterations=slice(2)))
    with pytest.raises(UserError, match="barrier: expected a scan of 3 or more values, found none"):
        vanishing(shared().isel(shared_iterations=0))
    with pytest.raises(UserError, match="fraction: expected a number between 0 and 1, found 2"):
        vanishing(shared(), fraction=2)
    nothing = vanishing(shared() * np.nan)
    assert nothing.attrs["verdict"] == "not determined"


def test_exponents_of_known_power_laws():
    x = np.array([1.0, 2, 4, 8])
    ds = schema.make(
        "barrier",
        {
            "dimension": (("dimension",), x),
            "energy_barrier": (("dimension",), 0.3 * np.ones(4)),
            "energy_barrier_stderr": (("dimension",), 0.01 * np.ones(4)),
            "entropic_barrier": (("dimension",), 0.1 * x),
            "entropic_barrier_stderr": (("dimension",), 0.01 * x),
        },
    )
    assert float(scaling(ds)["exponent"]) == pytest.approx(1)
    assert float(scaling(ds)["exponent_stderr"]) == pytest.approx(
        0.1 / np.sqrt((np.log(x) - np.log(x).mean()) @ np.log(x))
    )
    assert float(scaling(ds, "energy_barrier")["exponent"]) == pytest.approx(0, abs=1e-12)


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
    with pytest.raises(UserError, match="expected a scan of two or more temperatures, found no scan"):
        arrhenius(times(0.0).isel(temperature=0))


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


def test_scans_are_lines_of_a_comparison(channel):
    """Of either side; a comparison needs nothing else."""
    from analysis import agreement
    from analysis.compare import compare

    tree = channel(groups=("profile",)).tree()
    tree["barrier"], tree["escape"] = shared(), times(0.0)
    found = compare([("sim", tree)])
    said = {r.quantity: r.statement for r in agreement.rows(found["table"].to_dataset())}
    assert "energetic first" in said["which barrier vanishes first"]
    assert said["escape times against 1/T"].startswith("no slope")
    assert float(found["vanishing/sim"]["decay_crossing"].sel(kind="entropic")) > 500
