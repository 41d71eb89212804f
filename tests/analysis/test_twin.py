from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis import cli, twin
from analysis.compare import compare
from entropy_sim.errors import UserError
from entropy_sim.run_files import config_hash, read_tree, write_tree

REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "quick_network.nc"


@pytest.fixture
def network():
    return read_tree(REFERENCE)


def with_noise(network, **noise):
    config = json.loads(network.attrs["config"])
    config["mean_force"] |= {"noise": noise, "learning_rate": 0.01, "momentum": 0.5}
    network.attrs["config"] = json.dumps(config)
    return twin.measurement(network, "mean_force")


def test_every_measurement_has_the_network_s_settings(network):
    config = json.loads(network.attrs["config"])
    found = {name: twin.measurement(network, name) for name in twin.NAMES}
    assert found["mean_force"].positions == tuple(config["mean_force"]["positions"])
    assert found["relaxation"].starts == tuple(config["relaxation"]["starts"])
    assert found["relaxation"].duration == config["relaxation"]["duration"]
    knots = np.array(found["escape"].landscape.knots)
    s = network["profile"]["s"].values
    np.testing.assert_allclose(knots / knots[-1], s, atol=1e-12)
    assert set(twin.measurements(network)) == {"profile", "mean_force", "relaxation"}


def test_label_and_thermal_noise_have_the_covariance_of_theory(network):
    """η C/(1 − β) of the network: label (σ²/B) H, thermal 2T per clock; in the twin's own step the same."""
    label = with_noise(network, type="Label", strength=0.2, batch_size=64)
    k, rate = label.landscape.curvature([0.3]), 0.01 / 0.5
    found = label.dynamics.learning_rate * label.noise.transverse(label.landscape, [0.3])
    np.testing.assert_allclose(found, rate * 0.2**2 / 64 * k, rtol=1e-12)
    thermal = with_noise(network, type="Thermal", temperature=1e-4)
    found = thermal.dynamics.learning_rate * thermal.noise.transverse(thermal.landscape, [0.3])
    np.testing.assert_allclose(found, 2e-4, rtol=1e-12)
    with pytest.raises(UserError, match="label noise of a known batch size"):
        with_noise(network, type="Label", strength=0.2, batch_size=None)


def test_the_command_measures_on_the_twin_and_compare_takes_it_for_one(network, tmp_path, capsys):
    out = tmp_path / "twin.nc"
    arguments = ["simulate", "mean-force", "--twin", str(REFERENCE), "--out", str(out)]
    small = {"walkers": 4, "replicas": 2, "duration": 2, "burn-in": 1, "stride": 1, "time-windows": 1}
    assert cli.main([*arguments, *(str(v) for n, value in small.items() for v in (f"--{n}", value))]) == 0
    tree = read_tree(out)
    assert tree.attrs["twin_of"] == config_hash(network["profile"].attrs["config"])
    assert tree["mean_force"].sizes["s"] == 9
    assert json.loads(tree.attrs["config"])["walkers"] == 4
    assert "simulated: twin" in [str(q) for q in compare([("twin", tree)], network)["table"]["quantity"].values]
    capsys.readouterr()
    assert cli.main(["simulate", "mean-force", "--twin", str(out)]) == 2
    assert "--twin: expected the run of a network, found one of entropy_sim" in capsys.readouterr().err
    assert cli.main(["simulate", "mean-force", "--twin", str(REFERENCE), "--config", str(out)]) == 2
    assert "--twin: expected no --config beside it" in capsys.readouterr().err
    assert cli.main(["simulate", "mean-force", "--twin"]) == 2
    assert "--twin: expected a netCDF file, found nothing" in capsys.readouterr().err


def test_files_without_a_profile_or_with_too_short_a_one_are_one_line(network, tmp_path):
    del network["profile"]
    path = write_tree(network, tmp_path / "n.nc")
    with pytest.raises(
        UserError, match="--twin: expected a run with profile, found path, plane, mean_force, relaxation"
    ):
        twin.read(path)
    short = read_tree(REFERENCE)
    short["profile"] = short["profile"].to_dataset().isel(s=[0, 10])
    with pytest.raises(UserError, match="--twin: expected a profile of at least 3 points, found 2 with a loss"):
        twin.measurement(short, "mean_force")
    silent = read_tree(REFERENCE)
    silent.attrs["config"] = "{}"
    for node in silent.children.values():
        node.attrs.pop("config", None)
    with pytest.raises(UserError, match="expected a configuration with a learning rate for escape"):
        twin.measurement(silent, "escape")
