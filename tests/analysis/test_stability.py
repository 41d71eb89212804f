from __future__ import annotations

import numpy as np
import pytest

from analysis.plots import plot_file, plot_stability
from analysis.stability import edge_of_stability
from entropy_sim import SGD, BarrierHeights, Channel, CurvatureCovariance, Thermal
from entropy_sim.errors import UserError
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
