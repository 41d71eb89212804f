from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analysis import summaries
from analysis.uncertainty import Estimate
from entropy_sim import schema
from entropy_sim.errors import UserError


def force_group(force, stderr=None, stderr_dims=("s", "replica", "time_window"), diverged=None, control=None):
    n, _, w = force.shape
    variables = {
        "s": (("s",), np.linspace(0.1, 0.9, n)),
        "time_window": (("time_window",), np.arange(w) + 1.0),
        "mean_force": (("s", "replica", "time_window"), force),
    }
    if stderr is not None:
        variables["mean_force_stderr"] = (stderr_dims, stderr)
    if diverged is not None:
        variables["diverged"] = (("s", "replica"), diverged)
    if control is not None:
        variables["mean_force_control"] = (("s", "control_replica", "time_window"), control)
    return schema.make("mean_force", variables)


def test_force_and_error_average_over_replicas_and_windows():
    random = np.random.default_rng(0)
    force = np.array([1.0, -2.0, 0.5])[:, None, None] + 0.01 * random.standard_normal((3, 40, 5))
    found = summaries.mean_force(force_group(force, np.full((3, 40, 5), 0.01)))
    np.testing.assert_allclose(found["force"], force.mean((1, 2)))
    # 40 replicas x 3 points say that the stated errors are right, to 1/sqrt(2·117) = 7 %.
    assert float(found["replica_scatter"]) == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(found["force_stderr"], 0.01 / np.sqrt(200) * max(1, float(found["replica_scatter"])))


def test_replicas_that_scatter_more_than_the_stated_errors_enlarge_them():
    random = np.random.default_rng(1)
    force = 0.3 * random.standard_normal((200, 2, 1)) * np.ones((200, 2, 4))
    found = summaries.mean_force(force_group(force, np.full((200, 2, 4), 0.01)))
    assert float(found["force_stderr"].mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.15)


def test_without_stated_errors_the_scatter_between_replicas_counts():
    force = np.array([1.0, 1.2, 1.4])[None, :, None] * np.ones((2, 3, 2))
    found = summaries.mean_force(force_group(force))
    np.testing.assert_allclose(found["force_stderr"], np.std([1.0, 1.2, 1.4], ddof=1) / np.sqrt(3))


def test_control_is_subtracted_with_its_error_and_a_single_one_is_exact():
    force = np.ones((2, 2, 3))
    found = summaries.mean_force(force_group(force, 0.1 * force, control=np.full((2, 1, 3), 0.25)))
    np.testing.assert_allclose(found["net"], 0.75)
    np.testing.assert_allclose(found["net_stderr"], found["force_stderr"])


def test_diverged_replicas_are_left_out_and_all_diverged_is_nan():
    force = np.ones((2, 2, 3))
    force[0, 0] = 99
    diverged = np.array([[1, 0], [1, 1]])
    found = summaries.mean_force(force_group(force, 0.1 * np.ones((2, 2, 3)), diverged=diverged))
    np.testing.assert_allclose(found["force"], [1.0, np.nan])
    np.testing.assert_allclose(found["force_stderr"], [0.1 / np.sqrt(3), np.nan])


def test_integrated_potential_and_its_covariance_agree_with_sampling():
    """V(y) for f = −sin y on a fine grid is 1 − cos y; its covariance is that of 20000 sampled forces."""
    y = np.linspace(0, np.pi, 41)
    error = 0.05 * (1 + np.arange(41) % 3)
    found = summaries.integrate(Estimate.independent(-np.sin(y), error), y)
    np.testing.assert_allclose(found.value, 1 - np.cos(y), atol=2e-3)
    random = np.random.default_rng(2)
    draws = -np.sin(y) + error * random.standard_normal((20_000, 41))
    increments = -0.5 * (draws[:, 1:] + draws[:, :-1]) * np.diff(y)
    sampled = np.cov(np.concatenate([np.zeros((20_000, 1)), increments.cumsum(1)], axis=1).T)
    np.testing.assert_allclose(found.covariance, sampled, atol=0.04 * sampled.max())
    # Errors that add up as if independent between points of the potential would be far too small at the end.
    assert found.stderr[-1] > 3 * error.mean() * np.diff(y)[0]


def test_barrier_uses_the_covariance_with_each_end():
    value = np.array([0.0, 1.0, 3.0, 2.0])
    covariance = np.diag([0.0, 1.0, 2.0, 3.0]) + 0.5 * np.array([[0, 0, 0, 0]] + [[0, 1, 1, 1]] * 3)
    found = summaries.barrier(Estimate(value, covariance), np.array([0.1, 0.4, 0.6, 0.9]))
    assert found is not None
    assert (found.position, found.left, found.right) == (0.6, 3.0, 1.0)
    assert found.left_stderr == pytest.approx(np.sqrt(2.5))
    assert found.right_stderr == pytest.approx(np.sqrt(2.5 + 3.5 - 2 * 0.5))


def test_relaxation_displacement_counts_towards_the_start_s_own_end(network):
    found = summaries.relaxation(network().relaxation())
    moved = found["displacement"].sel(control=0).values
    assert np.all(moved[[0, 1, 3, 4]] > 0.1)
    assert np.isnan(moved[2])  # released in the middle: no own end
    np.testing.assert_allclose(found["displacement"].sel(control=1).values[[1, 3]], 0, atol=1e-12)
    np.testing.assert_allclose(found["displacement_stderr"].sel(control=1).values[[1, 3]], 0)


def test_settings_come_from_the_group_before_the_configuration(network):
    tree = network(learning_rate=0.03).tree()
    tree.attrs["config"] = '{"training": {"learning_rate": 0.1}, "mean_force": {"learning_rate": 0.5}, "alone": 2}'
    assert summaries.setting("learning_rate", tree["mean_force"].to_dataset(), tree.attrs) == 0.03
    assert summaries.setting("learning_rate", None, tree.attrs) is None  # two values: nobody knows which
    assert summaries.setting("alone", None, tree.attrs) == 2


def test_scans_are_refused_but_one_value_is_none(network):
    dataset = network().mean_force()
    one = xr.DataTree.from_dict({"mean_force": dataset.expand_dims(learning_rate=[0.1])})
    found = summaries.measurement(one, "mean_force")
    assert found is not None
    assert "learning_rate" not in found.dims
    two = xr.DataTree.from_dict({"mean_force": xr.concat([dataset, dataset], "label_noise")})
    with pytest.raises(UserError, match="mean_force: expected one value of label_noise, found 2"):
        summaries.measurement(two, "mean_force")


def test_the_length_of_a_path_is_that_of_the_whole_path_where_its_points_do_not_reach_the_ends(channel):
    tree = channel(groups=("profile",)).tree()
    s = np.array([0.1, 0.5, 0.9])
    tree["path"] = schema.make("path", {"s": (("s",), s), "arc_length": (("s",), 3.0 + 20.0 * s)})
    assert summaries.arc_length(tree) == pytest.approx(20.0)
