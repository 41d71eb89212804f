from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import agreement
from analysis.compare import compare
from analysis.explanation import why_sizes_differ

PRECISE = {"profile_noise": 0.02, "force_noise": 3e-6, "learning_rate": 0.002, "rise": 3.0}


def run(known, loss=0.02):
    """A network's run whose constrained dynamics sit at this loss (on the path: 0.002) and 2, 3, 4 off the path."""
    tree = known.tree()
    force = tree["mean_force"].to_dataset()
    force["transverse_loss"] = xr.full_like(force["mean_force"], loss)
    force["distance"] = xr.zeros_like(force["mean_force"]) + xr.DataArray([2.0, 3.0, 4.0], dims="time_window")
    tree["mean_force"] = force
    return tree


def words(tree):
    return why_sizes_differ(agreement.rows(compare([], tree)["table"].to_dataset()), tree)


def test_a_disagreement_is_explained_with_the_recorded_numbers(network):
    (text,) = words(run(network(**PRECISE, force_factor=3.0)))
    assert "the loss in the planes is 0.0200, against 0.00200 on the path at the same s, a factor of 10" in text
    assert "is 2.00 in the first window and 4.00 in the last" in text
    assert "if SGD at learning rate 0.002 heats the network out" in text
    (cold,) = words(run(network(**PRECISE, force_factor=3.0), loss=0.0025))
    assert "heats" not in cold


def test_nothing_is_explained_where_theory_agrees_or_the_numbers_are_missing(network):
    assert words(run(network(**PRECISE))) == []
    assert words(network(**PRECISE, force_factor=3.0).tree()) == []


def test_the_path_s_own_gradient_is_told_and_it_is_not_called_converged_beyond_its_criterion(network):
    tree = network(**PRECISE).tree()
    path = tree["path"].to_dataset()
    path["perpendicular_gradient_norm"] = ("s", 0.01 + 0.06 * np.sin(np.pi * path["s"].values))
    tree["path"] = path
    (text,) = words(tree)
    assert "is 0.0700 loss / parameter at the middle and 0.0100 and 0.0100 at the ends" in text
    assert "at most 3.00×10⁻⁷ in the first time window" in text
    assert "criterion was met, which bounds how much its highest loss" in text
    tree["path"].attrs["converged"] = 0
    assert "criterion was not met" in words(tree)[0]
