from __future__ import annotations

import json

import numpy as np
import pytest

from analysis import agreement, cli
from analysis.compare import compare
from analysis.plots import plot_file, plot_stability
from analysis.stability import edge_of_stability
from entropy_sim import SGD, BarrierHeights, Channel, CurvatureCovariance, Thermal
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree, write_tree
from entropy_sim.scan import Scan


def scanned(momentum=0.0, noise=None):
    limit = 2 * (1 + momentum) / 16  # over the largest stiffness of the channel
    return BarrierHeights(
        Channel(),
        noise or CurvatureCovariance(scale=0.01),
        SGD(momentum=momentum),
        points=5,
        walkers=32,
        burn_in=60,
        duration=100,
        stride=1,
        scan=Scan("learning_rate", tuple(limit * x for x in (0.2, 0.6, 0.9))),
    ).run(threads=1)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_every_place_and_rate_lies_on_one_curve_that_diverges(momentum):
    """z of all points is standard normal; the curve without 1 + β in its limit is off by more than 5 errors."""
    ds = edge_of_stability(scanned(momentum))
    x, limit = ds["eta_k"].values, 2 * (1 + momentum)
    z = (ds["ratio"].values - 1 / (1 - x / limit)) / ds["ratio_stderr"].values
    assert np.sqrt(np.mean(z**2)) < 1 + 4 / np.sqrt(2 * len(z))
    wrong = 1 / (1 - x / (2.0 if momentum else 4.0))
    assert abs((ds["ratio"].values - wrong) / ds["ratio_stderr"].values).max() > 5
    assert ds.attrs["stability_limit"] == limit


def test_it_is_drawn_from_a_file_and_other_runs_are_refused(tmp_path):
    run = scanned()
    assert "stability" in {p.stem for p in plot_file(run, tmp_path)}
    ax = plot_stability(edge_of_stability(run))
    assert ax.get_xlabel() == "learning rate × stiffness, ηk"
    with pytest.raises(UserError, match="expected SGD with C = c K"):
        edge_of_stability(BarrierHeights(Channel(), Thermal(), points=3, walkers=4, scan=Scan()).run())


def test_where_all_diverged_there_is_no_edge():
    run = scanned()
    run["mean_force"] = run["mean_force"].to_dataset().map(lambda v: v if v.name != "diverged" else v * 0 + 1)
    with pytest.raises(UserError, match="mean_force: expected a force somewhere, found 'none"):
        edge_of_stability(run)


def test_a_comparison_says_whether_the_divergence_is_the_exact_one(tmp_path):
    """On the command line, with its figure and report; a noise 5 % too small is rejected by more than 5 errors."""
    run = scanned(0.5)
    assert cli.main(["compare", str(write_tree(run, tmp_path / "run.nc")), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "run_stability.png").exists()
    table = agreement.rows(read_tree(tmp_path / "comparison.nc")["table"].to_dataset())
    line = next(r for r in table if r.quantity.startswith("over the small-step force"))
    assert line.verdict == "agrees"
    assert "up to ηk = " in line.statement
    wrong = run.copy()
    config = json.loads(run.attrs["config"])
    config["noise"]["scale"] *= 1.05
    wrong.attrs["config"] = json.dumps(config)
    rows = agreement.rows(compare([("a", wrong)])["table"].to_dataset())
    assert next(r for r in rows if r.quantity.startswith("over the small-step")).z > 5
