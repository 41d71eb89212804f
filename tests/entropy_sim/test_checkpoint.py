"""An interrupted run goes on to the same numbers; files that are not ours are refused."""

import numpy as np
import pytest
import xarray as xr

from entropy_sim import (
    SGD,
    BarrierHeights,
    Channel,
    CurvatureCovariance,
    Escape,
    MeanForce,
    Overdamped,
    Relaxation,
    Stationary,
    Thermal,
    checkpoint,
)
from entropy_sim._ensemble import Ensemble
from entropy_sim.checkpoint import Checkpoint
from entropy_sim.errors import UserError
from entropy_sim.scan import Scan

LEIMKUHLER = {"noise": Thermal(), "dynamics": Overdamped(scheme="leimkuhler_matthews")}
MOMENTUM = {"landscape": Channel(), "noise": CurvatureCovariance(), "dynamics": SGD(0.01, 0.9)}
HOT = {"noise": Thermal(0.1), "dynamics": Overdamped()}
RUNS = [
    pytest.param(MeanForce(**MOMENTUM, positions=(0.2, 0.5), walkers=70, replicas=2, duration=5.0), id="mean_force"),
    pytest.param(Relaxation(**LEIMKUHLER, starts=(0.2, 0.5), replicas=70, duration=5.0, records=7), id="relaxation"),
    pytest.param(Stationary(**LEIMKUHLER, walkers=200, burn_in=1.0, duration=5.0), id="stationary"),
    pytest.param(Escape(**HOT, upper=0.3, replicas=70, duration=8.0, thermalise=0.3), id="escape"),
    pytest.param(Escape(**HOT, replicas=60, duration=0.9, scan=Scan("temperature", (0.1, 0.3))), id="escape-scan"),
    pytest.param(
        BarrierHeights(
            **MOMENTUM, points=3, replicas=1, duration=9.0, stride=1, scan=Scan("learning_rate", (0.005, 0.01))
        ),
        id="barrier",
    ),
]


def interrupt(monkeypatch, call):
    """Ctrl-C during the given piece of the ensemble loop, after some of its blocks; pieces are made short."""
    whole, calls = Ensemble._piece, []

    def piece(self, target):
        calls.append(target)
        if len(calls) == call:
            self._work(np.array([len(self._done) - 1]), target)  # the last block alone
            raise KeyboardInterrupt
        whole(self, target)

    monkeypatch.setattr(Ensemble, "_piece", piece)
    monkeypatch.setattr("entropy_sim._ensemble._SECONDS_PER_PIECE", 2e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("measurement", RUNS)
def test_an_interrupted_run_goes_on_to_the_same_numbers(measurement, threads, tmp_path, monkeypatch):
    reference = measurement.run(threads=1)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            measurement.run(threads=threads, checkpoint=Checkpoint.beside(tmp_path / "run.nc", measurement))
    again = Checkpoint.beside(tmp_path / "run.nc", measurement)
    assert any(int(part.get("step", 0)) > 0 for part in again._parts.values())
    resumed = measurement.run(threads=3 - threads, checkpoint=again)
    for name, node in reference.children.items():
        xr.testing.assert_identical(resumed[name].to_dataset(), node.to_dataset())
    again.discard()
    assert not list(tmp_path.iterdir())


def test_unfinished_runs_of_others_are_refused_and_kept(tmp_path):
    mine = Stationary(walkers=64)
    Checkpoint.beside(tmp_path / "run.nc", Stationary(walkers=128)).save("ensemble", {"theta": np.zeros(3)})
    before = (tmp_path / "run.nc.unfinished.npz").read_bytes()
    with pytest.raises(UserError, match="expected an unfinished run of this configuration, found one of another"):
        Checkpoint.beside(tmp_path / "run.nc", mine)
    assert (tmp_path / "run.nc.unfinished.npz").read_bytes() == before
    assert Checkpoint.beside(tmp_path / "run.nc", mine, overwrite=True).load("ensemble") is None


@pytest.mark.parametrize(("name", "older"), [("GENERATOR", "philox-4x32-10"), ("_FORM", 1)])
def test_an_unfinished_run_of_an_older_version_is_refused(tmp_path, monkeypatch, name, older):
    mine = Stationary(walkers=64)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, older)
        Checkpoint.beside(tmp_path / "run.nc", mine).save("ensemble", {"theta": np.zeros(3)})
    with pytest.raises(UserError, match="with other random numbers"):
        Checkpoint.beside(tmp_path / "run.nc", mine)


@pytest.mark.parametrize("content", [b"", b"PK broken", b"no archive at all"])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "run.nc.unfinished.npz").write_bytes(content)
    with pytest.raises(UserError, match="found a damaged file .*run.nc.unfinished.npz"):
        Checkpoint.beside(tmp_path / "run.nc", Stationary())


def test_parts_are_kept_side_by_side(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "run.nc", "configuration")
    checkpoint.save("scan/0", {"a": np.arange(3)})
    checkpoint.save("scan/1", {"a": np.arange(4)})
    found = Checkpoint.beside(tmp_path / "run.nc", "configuration")
    np.testing.assert_array_equal(found.load("scan/1")["a"], np.arange(4))
    np.testing.assert_array_equal(found.load("scan/0")["a"], np.arange(3))
    assert found.load("scan/2") is None
