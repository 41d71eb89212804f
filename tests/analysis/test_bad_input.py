"""Bad input gives one line or an honest "not determined", never a wrong number."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis import agreement, summaries
from analysis.compare import compare
from analysis.comparisons import all_between, effective_potential, mean_force, relaxation
from analysis.ladder import extrapolate
from analysis.plots import plot_between, plot_ladder
from analysis.predict import path_profile, predict_network
from entropy_sim.errors import UserError
from tests.analysis.test_ladder import made_up

PRECISE = {"profile_noise": 0.02, "force_noise": 3e-6, "learning_rate": 0.002, "rise": 3.0}


def verdicts(first, second):
    _, rows = all_between("a and b", first, second)
    assert all("\n" not in r.statement for r in rows)
    return {r.quantity: r for r in rows}


def changed(tree, group, change):
    dataset = tree[group].to_dataset().copy(deep=True)
    tree[group] = change(dataset)
    return tree


def test_a_path_with_two_points(network):
    """No slope, no barrier: said so, by prediction, potential and comparison alike."""
    tree = network(**PRECISE).tree()
    changed(tree, "profile", lambda p: p.isel(s=[0, -1]))
    changed(tree, "path", lambda p: p.isel(s=[0, -1]))
    changed(tree, "mean_force", lambda p: p.isel(s=[0, -1]))
    table = {r.quantity: r for r in agreement.rows(compare([], tree)["table"].to_dataset())}
    assert table["prediction"].statement.startswith("not determined: profile/s: expected at least 3 points")
    assert table["entropic barrier"].verdict == "not determined"
    found = verdicts(tree, network(**PRECISE, seed=3).tree())
    assert found["effective potential"].statement == (
        "not determined: mean_force: expected at least 3 places where both forces are known, found 2"
    )
    with pytest.raises(UserError, match="at least 3 points along the path, found 2"):
        predict_network(tree["profile"].to_dataset(), arc_length=20.0, learning_rate=0.1)


def test_zero_variance_on_both_sides_is_not_determined(channel):
    """Without errors a difference has no z, however large; with the error of one side it has."""
    one, two = channel(seed=1).tree(), channel(seed=2, force_factor=2.0).tree()
    for tree in (one, two):
        changed(tree, "mean_force", lambda f: f.assign(mean_force_stderr=0 * f["mean_force_stderr"]).isel(replica=[0]))
    found = verdicts(one, two)
    assert found["mean force"].verdict == "not determined"
    assert np.isnan(found["mean force"].p_value)
    whole = channel(seed=2, force_factor=2.0).tree()
    assert verdicts(one, whole)["mean force"].verdict == "disagrees"


def test_all_replicas_diverged(network):
    one, gone = network(**PRECISE).tree(), network(**PRECISE, seed=2).tree()
    changed(gone, "mean_force", lambda f: f.assign(diverged=xr.ones_like(f["diverged"])))
    changed(gone, "relaxation", lambda f: f.assign(diverged=xr.ones_like(f["diverged"])))
    found = verdicts(one, gone)
    for name in ("mean force", "displacement"):
        assert found[name].verdict == "not determined", name
        assert np.isnan(found[name].ratio)
    assert found["effective potential"].verdict == "not determined"


def test_a_nan_in_the_middle_is_left_out_and_never_bridged(network):
    """The place itself has no difference, the others keep theirs; a spline over the gap of the finer grid has none."""
    one, holed = network(**PRECISE).tree(), network(**PRECISE, seed=2).tree()

    def hole(f):
        f["mean_force"][4] = np.nan
        return f

    changed(holed, "mean_force", hole)
    found = mean_force.between(one["mean_force"].to_dataset(), holed["mean_force"].to_dataset())
    np.testing.assert_array_equal(np.isnan(found["difference"]), np.arange(9) == 4)
    assert int(found["degrees_of_freedom"]) == 8
    whole = mean_force.between(one["mean_force"].to_dataset(), network(**PRECISE, seed=2).mean_force())
    keep = np.arange(9) != 4
    np.testing.assert_allclose(found["z"][keep], whole["z"][keep], rtol=0.2)
    potential, _ = effective_potential.between(found, 20.0)
    assert potential.sizes["s"] == 8
    assert plot_between(potential).get_lines()


def test_a_nan_in_the_middle_of_one_replica_s_curve(network):
    one = network(**PRECISE).relaxation()
    one["position"][0, 1, 0, 10] = np.nan
    found = relaxation.between(one, network(**PRECISE, seed=2).relaxation())
    assert np.isfinite(found["difference"]).all()
    summary = summaries.relaxation(one)
    assert np.isnan(summary["position_stderr"][0, 1, 10])  # one replica is left, and says nothing of the spread


def test_mismatched_measurements_are_one_line_each(network, channel):
    found = verdicts(network(**PRECISE).tree(), channel().tree())
    force = found["mean force"].statement
    assert force.startswith("not determined: arc_length: expected paths of the same length, found 20 and 2 ")
    apart = [("a", channel(groups=("stationary", "profile")).tree()), ("b", channel(groups=("mean_force",)).tree())]
    assert "between" not in compare(apart).children
    with pytest.raises(UserError, match="path_kind: expected one of neb, line, found 'spline'"):
        path_profile(network().profile(), "spline")


def test_a_ladder_that_determines_nothing_draws_nothing():
    still = extrapolate(made_up(error=0.0, prediction_error=0.0))
    assert np.isnan(still["limit"])
    with pytest.raises(UserError, match=r"ladder: expected a limit .*, found .*no spread"):
        plot_ladder(still)
