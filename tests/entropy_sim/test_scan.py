"""Scans: every value as if it had been run alone, joined, with seeds of its own, and gone on from."""

import numpy as np
import pytest
import xarray as xr

from entropy_sim import (
    SGD,
    Channel,
    CurvatureCovariance,
    CurvaturePower,
    CurvedChannel,
    Exponential,
    GradientCovariance,
    StateDependent,
    schema,
)
from entropy_sim.checkpoint import Checkpoint
from entropy_sim.errors import UserError
from entropy_sim.landscapes import Bump, DoubleWell, Quadratic
from entropy_sim.measurements import BarrierHeights, Escape, Relaxation
from entropy_sim.scan import Scan, derived_seed, replaced, run_each


@pytest.mark.parametrize(
    ("config", "parameter", "values", "found"),
    [
        (Escape(), "temperature", (0.1, 0.2), lambda c: c.noise.temperature),
        (Escape(noise=CurvaturePower()), "along_path", (0.1, 0.2), lambda c: c.noise.along_path),
        (Escape(), "step", (0.001, 0.002), lambda c: c.dynamics.step),
        (Escape(), "dimension", (1.0, 7.0), lambda c: c.landscape.transverse_directions),
        (Relaxation(Channel(Bump(2.0))), "stiffness_ratio", (1.5, 4.0), lambda c: c.landscape.stiffness.middle / 2.0),
        (Relaxation(Channel(DoubleWell(2.0))), "stiffness_ratio", (4.0,), lambda c: c.landscape.stiffness.middle / 2.0),
        (
            Relaxation(noise=CurvatureCovariance(), dynamics=SGD()),
            "learning_rate",
            (0.01, 0.02),
            lambda c: c.dynamics.learning_rate,
        ),
    ],
)
def test_every_parameter_sets_its_own_field_and_nothing_else(config, parameter, values, found):
    each = Scan(parameter, values).of(config)
    assert [found(c) for c in each] == list(values)
    assert len({c.seed for c in each} | {config.seed}) == len(values) + 1
    for one in each:
        back = Scan(parameter, (found(config),)).of(one)[0]
        assert replaced(back, "seed", config.seed) == config


def test_only_the_values_need_to_be_possible():
    """Stiffness 16 in the middle is unstable at this step; the values of the scan are not."""
    with pytest.raises(UserError, match="stability limit"):
        replaced(Escape(), "dynamics.step", 0.15)
    scan = Scan("stiffness_ratio", (2.0, 3.0))
    Escape(dynamics=replaced(Escape().dynamics, "step", 0.15), scan=scan)
    with pytest.raises(UserError, match="stability limit"):
        Escape(dynamics=replaced(Escape().dynamics, "step", 0.15), scan=Scan("stiffness_ratio", (2.0, 30.0)))


def test_seeds_of_different_parts_are_unrelated():
    seeds = {derived_seed(seed, "temperature", value) for seed in range(50) for value in (0.1, 0.2, 1)}
    assert len(seeds) == 150
    assert all(0 <= s < 2**63 for s in seeds)
    assert derived_seed(3, "a") == derived_seed(3, "a")


def group(values, attr=0):
    variables = {
        "rate": ((), float(values.mean())),
        "first_passage_time": (("replica",), values),
        "escaped": (("replica",), np.ones(values.size, dtype=np.int8)),
        "replica": (("replica",), np.arange(values.size)),
    }
    return {"escape": schema.make("escape", variables, {"same": "text", "each": attr, "nan": np.nan})}


def test_groups_are_joined_and_finished_values_not_repeated(tmp_path):
    scan = Scan("temperature", (0.1, 0.2, 0.4))
    arrays = [np.random.default_rng(i).random(4) for i in range(3)]
    done = []

    def run(i, stop=False):
        def one(checkpoint):
            if stop:
                checkpoint.save("escape", {"step": np.array(7)})
                raise KeyboardInterrupt
            done.append(i)
            return group(arrays[i], attr=i)

        return one

    whole = run_each(scan, [run(i) for i in range(3)], None)["escape"]
    assert dict(whole.sizes) == {"temperature": 3, "replica": 4}
    np.testing.assert_array_equal(whole["first_passage_time"], arrays)
    np.testing.assert_array_equal(whole["temperature"], scan.values)
    assert whole["temperature"].attrs["units"] == "loss"
    assert whole["replica"].dims == ("replica",)
    assert schema.group_faults("escape", whole) == []
    assert (whole.attrs["same"], whole.attrs["each"]) == ("text", [0, 1, 2])
    assert np.isnan(whole.attrs["nan"])

    done.clear()
    with pytest.raises(KeyboardInterrupt):
        run_each(scan, [run(0), run(1, stop=True), run(2)], Checkpoint(tmp_path / "c.npz", scan))
    again = Checkpoint(tmp_path / "c.npz", scan)
    assert int(again.load("scan1/escape")["step"]) == 7
    resumed = run_each(scan, [run(0), run(1), run(2)], again)["escape"]
    assert done == [0, 1, 2]  # the first one once
    xr.testing.assert_identical(resumed.drop_attrs(deep=False), whole.drop_attrs(deep=False))
    assert str(resumed.attrs) == str(whole.attrs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scan("temperature"), "scan.values: expected one or more values of temperature"),
        (lambda: Scan("none", (1.0,)), "scan.values: expected none without a scan.parameter"),
        (lambda: Scan("speed", (1.0,)), "scan.parameter: expected one of none, temperature"),
        (lambda: Scan("temperature", (0.2, 0.1)), "scan.values: expected positive numbers in rising order"),
        (lambda: Scan("temperature", (0.1, 0.1)), "scan.values: expected positive numbers in rising order"),
        (lambda: Scan("temperature", (0.0, 0.1)), "scan.values: expected positive numbers in rising order"),
        (lambda: Scan("temperature", (float("nan"),)), "scan.values: expected positive numbers in rising order"),
        (lambda: Scan("dimension", (1.5,)), "scan.values: expected whole numbers of dimensions"),
        (
            lambda: Escape(noise=GradientCovariance(), dynamics=SGD(), scan=Scan("temperature", (0.1,))),
            "scan.parameter: expected one that the noise has, found 'temperature', which GradientCovariance has not",
        ),
        (lambda: Escape(scan=Scan("learning_rate", (0.1,))), "expected one that the dynamics has.*Overdamped has not"),
        (
            lambda: Escape(noise=CurvatureCovariance(), dynamics=SGD(), scan=Scan("along_path", (0.1,))),
            "expected one that the noise has.*CurvatureCovariance has not",
        ),
        (
            lambda: Escape(noise=StateDependent(), scan=Scan("along_path", (0.01, 0.02))),
            "expected one that the noise has, found 'along_path', which StateDependent has not",
        ),
        (
            lambda: BarrierHeights(Channel(profiles=(Bump(),) * 4), scan=Scan("stiffness_ratio", (2.0, 8.0))),
            "found 'stiffness_ratio', though landscape.profiles take the place of landscape.stiffness",
        ),
        (
            lambda: Scan("stiffness_ratio", (2.0,)).of(Relaxation(CurvedChannel(profiles=(Bump(),)))),
            "found 'stiffness_ratio', though landscape.profiles take the place of landscape.stiffness",
        ),
        (
            lambda: Escape(Channel(profiles=(Bump(),) * 4), scan=Scan("dimension", (2.0, 4.0))),
            "landscape.profiles: expected one for each of the 2 transverse directions, or none, found 4",
        ),
        (
            lambda: Escape(Channel(amplitudes=(1.0,) * 4), scan=Scan("dimension", (2.0, 4.0))),
            "landscape.amplitudes: expected one for each of the 2 transverse directions, or none, found 4",
        ),
        (lambda: Scan("dimension", (2,)).of(Relaxation(Quadratic())), "the landscape has.*Quadratic has not"),
        (
            lambda: Escape(Channel(Exponential()), scan=Scan("stiffness_ratio", (2.0,))),
            "the landscape has.*Channel has",
        ),
        (lambda: Escape(scan=Scan("step", (0.001, 0.2))), "dynamics.step: expected less than 0.125, the stability"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
