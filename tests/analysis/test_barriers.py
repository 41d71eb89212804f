from __future__ import annotations

import numpy as np
import pytest

from analysis.barriers import decay_below, first_below, scaling, vanishing
from entropy_sim import BarrierHeights, Channel, Overdamped, Thermal, schema
from entropy_sim.errors import UserError
from entropy_sim.scan import Scan
from tests.analysis.test_arrhenius import times

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


def test_a_barrier_that_is_not_there_cannot_vanish():
    """An entropic height of 0.01 ± 0.02 at the first value does not fall to a tenth of itself at once."""
    found = vanishing(
        shared(sizes=(1.0, 1e-9), error=0.02).assign(entropic_barrier_stderr=shared()["energy_barrier_stderr"])
    )
    assert np.isnan(found["crossing"].sel(kind="entropic"))
    assert np.isfinite(found["crossing"].sel(kind="energetic"))
    assert found.attrs["verdict"] == "not determined"
    assert "entropic barrier: none established at the first value" in found.attrs["statement"]


def test_heights_without_an_error_are_said_to_be_taken_as_exact():
    found = vanishing(shared().drop_vars("energy_barrier_stderr"))
    assert found.attrs["statement"].endswith("the energetic heights, whose error is not known, taken as exact")
    assert "taken as exact" not in vanishing(shared()).attrs["statement"]


def test_the_simulator_s_scan_of_barriers_is_held_against_the_exact_heights(tmp_path):
    """Its file also holds the scanned mean force, which no comparison of one setting can use. A wrong height, 5 % too
    large, is rejected at 5 standard errors."""
    from analysis import agreement
    from analysis.compare import compare
    from analysis.comparisons.barrier import against_theory

    tree = BarrierHeights(
        Channel(), Thermal(), Overdamped(step=2e-3), points=17, replicas=4, walkers=64, burn_in=4.0, duration=20.0,
        scan=Scan("temperature", (0.05, 0.1)),
    ).run(threads=1)  # fmt: skip
    rows = agreement.rows(compare([("sim", tree)])["table"].to_dataset())
    assert {r.quantity: r.verdict for r in rows}["entropic barrier, exact"] == "agrees"
    assert all("select one" not in r.statement for r in rows)
    wrong = tree["barrier"].to_dataset()
    found, (line,) = against_theory("sim", wrong.assign(entropic_barrier=1.05 * wrong["entropic_barrier"]))
    assert line.verdict == "disagrees"
    assert line.z > 5
    assert found is not None
    assert float(found["overall_z"]) == pytest.approx(line.z)


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
