"""The main job: the twin keeps temperatures and clock, and a small job runs end to end, again, and is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analysis import reproduce, twin
from analysis.agreement import rows
from analysis.reproduce import Reproduce
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree

REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "quick_network.nc"


@pytest.fixture
def network():
    return read_tree(REFERENCE)


@pytest.mark.parametrize("learning_rate", [0.01, 0.3, 20.0])
def test_the_twin_keeps_every_effective_temperature_and_the_clock(network, learning_rate):
    config = json.loads(network.attrs["config"])
    config["mean_force"]["learning_rate"] = learning_rate
    network.attrs["config"] = json.dumps(config)
    measurement = twin.measurements(network)["mean_force"]
    sgd, s = measurement.dynamics, np.linspace(0, 1, 7)
    measurement.dynamics.check(measurement.landscape, measurement.noise)  # stable
    assert sgd.learning_rate <= learning_rate
    noise = measurement.noise.transverse(measurement.landscape, s)
    table = measurement.landscape.noise_variance_at(s)[:, 1:]
    np.testing.assert_allclose(sgd.learning_rate * noise, learning_rate * table, rtol=1e-12)
    total = measurement.duration / sgd.time_step * sgd.learning_rate
    assert total == pytest.approx(config["mean_force"]["duration"])


def test_a_smaller_batch_than_the_profile_was_measured_with_has_as_much_more_noise(network):
    config = json.loads(network.attrs["config"])
    config["mean_force"]["noise"]["batch_size"] *= 2
    config["mean_force"]["learning_rate"] = 0.01
    network.attrs["config"] = json.dumps(config)
    assert twin.measurements(network)["mean_force"].noise.scale == pytest.approx(0.5)


def test_a_foreign_comparison_is_refused_before_any_work(tmp_path):
    (tmp_path / "comparison.nc").write_text("a letter")
    with pytest.raises(UserError, match=r"--out: expected a run of ours, found another file at .*comparison\.nc"):
        Reproduce(out=tmp_path).run()
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.nc"]


@pytest.mark.slow
def test_a_small_job_end_to_end_and_again(tmp_path, monkeypatch):
    from nn_experiments import presets
    from tests.nn_experiments.test_run import TINY

    lines: list[str] = []
    monkeypatch.setattr(presets, "quick", lambda: TINY)
    monkeypatch.setattr(reproduce, "say", lines.append)
    Reproduce(out=tmp_path, processes=1).run()
    for name in ("simulation.nc", "simulation_sgd.nc", "twin.nc", "network.nc", "comparison.nc", "report.html"):
        assert (tmp_path / name).stat().st_size > 1000
    table = rows(read_tree(tmp_path / "comparison.nc")["table"].to_dataset())
    both = "network and twin"
    assert {r.run for r in table} == {"simulation", "simulation_sgd", "twin", "network", both}
    exact = [r for r in table if r.run.startswith("simulation") and re.search("thermal|finite learning", r.quantity)]
    assert {r.verdict for r in exact} == {"agrees"}
    before = (tmp_path / "network.nc").read_bytes()
    lines.clear()
    Reproduce(out=tmp_path, processes=1).run()
    assert sum("already done" in line for line in lines) == 6 + 3
    assert (tmp_path / "network.nc").read_bytes() == before
