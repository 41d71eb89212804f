"""The ladder on a small tanh network and 20 digits, along the ray of its initial parameters: curvature grows there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from entropy_sim.errors import UserError
from nn_experiments.curvature import HessianOperator
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment
from nn_experiments.measurements import _rungs
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.networks.mlp import MLP
from nn_experiments.noise import Label, Minibatch, Thermal
from nn_experiments.workers import Workers

SMALL = Experiment(Digits(test_fraction=0.99), MLP(widths=(24,), activation="tanh"), loss="squared")
RAY = torch.stack([0.8 * SMALL.initial(0), 1.6 * SMALL.initial(0)])
CLIMB = Ladder(
    positions=(0.5,),
    replicas=6,
    learning_rates=(0.05,),
    strengths=(0.05, 0.8),
    burn_in=1.0,
    duration=3.0,
    time_windows=1,
    stride=4,
)
SHORT = replace(CLIMB, replicas=2, learning_rates=(0.025, 0.05), burn_in=0.1, duration=0.4, time_windows=2, moved=0)


@pytest.fixture(scope="module")
def climbed() -> xr.Dataset:
    return CLIMB.run(SMALL, RAY)


def excess(ds: xr.Dataset) -> xr.DataArray:
    return ds["mean_force"] - ds["mean_force_control"].squeeze("control_replica")


def ratio(force: xr.DataArray, predicted: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over replicas and its standard error, at each strength."""
    each = (force / predicted).squeeze(["s", "learning_rate", "time_window"]).transpose("label_noise", "replica")
    return each.values.mean(1), each.values.std(1, ddof=1) / each.shape[1] ** 0.5


def test_the_raw_force_is_the_predicted_one_at_small_noise(climbed: xr.Dataset) -> None:
    """Standard error 4 %. Rejected: twice and half the force, the other sign, the stationary formula (cold start,
    finite η: 14 % away, at 3 standard errors)."""
    found, stderr = ratio(excess(climbed), climbed["mean_force_predicted"])
    assert stderr[0] < 0.06
    assert abs(found[0] - 1) < 3.5 * stderr[0]
    for mutant in (2, 0.5, -1):
        assert abs(found[0] - mutant) > 5 * stderr[0]


def test_the_linearised_dynamics_take_the_noise_out_and_the_rest_vanishes_with_the_noise(climbed: xr.Dataset) -> None:
    """1 + (force − linear)/predicted: within 0.2 % of 1 at σ = 0.05, several standard errors below it at 0.8, where
    the slope at the place the replicas moved to says how far."""
    rest, stderr = ratio(excess(climbed) - climbed["mean_force_linear"], climbed["mean_force_predicted"])
    assert stderr[0] < 1e-3
    assert abs(rest[0]) < 2e-3
    assert rest[1] < -5 * stderr[1] < 0
    moved = (climbed["hessian_trace_slope_moved"] / climbed["hessian_trace_slope"]).values.ravel()
    assert moved[0] == pytest.approx(1, abs=0.01)
    assert 1.5 * rest[1] < moved[1] - 1 < 0.3 * rest[1]


def test_the_linearised_force_has_the_predicted_mean(climbed: xr.Dataset) -> None:
    each = (climbed["mean_force_linear"] / climbed["mean_force_predicted"]).values.ravel()  # 12 independent replicas
    assert abs(each.mean() - 1) < 3.5 * each.std(ddof=1) / each.size**0.5 < 0.15


def test_formula_control_and_floor(climbed: xr.Dataset) -> None:
    slope = float(climbed["hessian_trace_slope"].squeeze())
    formula = climbed["mean_force_formula"].squeeze()
    np.testing.assert_allclose(formula, -0.05 * np.array([0.05, 0.8]) ** 2 / (4 * 20) * slope, rtol=1e-12)
    assert climbed.attrs["batch_size"] == 20
    assert slope > 1
    assert abs(float(climbed["mean_force_control"].squeeze())) < 1e-4 * abs(float(formula[0]))
    assert climbed["mean_force_control"].dims == ("s", "learning_rate", "control_replica", "time_window")
    assert float(climbed["floor_distance"].squeeze()) > 0
    assert 0.5 < float(climbed["floor_alignment"].squeeze()) < 1
    assert not climbed["diverged"].any()


@pytest.fixture(scope="module")
def short() -> xr.Dataset:
    return SHORT.run(SMALL, RAY)


class Backwards:
    """Workers that do the units in the wrong order."""

    def map(self, function: Callable[[Any], Any], units: Iterable[Any], label: str = "") -> list[Any]:
        return [function(u) for u in reversed(list(units))][::-1]


def test_the_order_of_the_units_does_not_matter(short: xr.Dataset) -> None:
    xr.testing.assert_identical(SHORT.run(SMALL, RAY, Backwards()), short)


@pytest.mark.slow  # for the start of the processes
def test_every_process_count_gives_the_same_numbers(short: xr.Dataset) -> None:
    with Workers(2) as workers:
        xr.testing.assert_identical(SHORT.run(SMALL, RAY, workers), short)


def test_an_interrupted_ladder_goes_on_from_its_finished_units(
    short: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    real = _rungs._Replica.run

    def counted(self: Any) -> Any:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(_rungs._Replica, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        SHORT.run(SMALL, RAY, cache=tmp_path)
    xr.testing.assert_identical(SHORT.run(SMALL, RAY, cache=tmp_path), short)
    units = 2 * 2 * 2 + 2  # rates x strengths x replicas, and a control for each rate
    assert done == 4 + units - 3
    SHORT.run(SMALL, RAY, cache=tmp_path)
    assert done == 4 + units - 3
    replace(SHORT, seed=1).run(SMALL, RAY, cache=tmp_path)  # another configuration finds nothing of it
    assert done == 4 + units - 3 + units


def test_rungs_are_dimensions_and_replicas_differ(short: xr.Dataset) -> None:
    assert short["mean_force"].dims == ("s", "learning_rate", "label_noise", "replica", "time_window")
    assert len(np.unique(short["mean_force_linear"])) == short["mean_force_linear"].size
    np.testing.assert_allclose(short["time_window"], [0.2, 0.4])


def test_label_noise_in_batches_has_controls_of_its_own() -> None:
    """The same batches without label noise, from the path point: the difference is that of the labels alone."""
    config = replace(SHORT, batch_sizes=(3, 9), strengths=(1e-4,), floor=False)
    found = config.run(SMALL, RAY)
    assert found["mean_force_control"].dims == (
        *("s", "learning_rate", "label_noise", "batch_size", "control_replica", "time_window"),
    )
    control = found["mean_force_control"].rename(control_replica="replica").drop_vars("replica", errors="ignore")
    force = found["mean_force"].drop_vars("replica")
    scatter = float(control.std())
    assert float(abs(force - control).max()) < 1e-3 * scatter  # antithetic pairs: the first order cancels
    assert len(np.unique(control)) == control.size
    assert "mean_force_predicted" not in found
    assert "batch_size" not in found.attrs
    loud = replace(config, strengths=(0.5,)).run(SMALL, RAY)  # the same draws, which the control does not feel
    np.testing.assert_array_equal(loud["mean_force_control"], found["mean_force_control"])
    assert not np.allclose(loud["mean_force"], found["mean_force"], rtol=0.1)


def test_predictions_are_proportional_to_variance_over_batch_size(short: xr.Dataset) -> None:
    found = replace(SHORT, batch_sizes=(5, 20), strengths=(0.1,)).run(SMALL, RAY)
    assert "mean_force_linear" not in found  # its expectation is known for the full batch alone
    for name in ("mean_force_predicted", "mean_force_formula"):
        predicted = found[name].sel(label_noise=0.1)
        np.testing.assert_allclose(predicted.sel(batch_size=5), 4 * predicted.sel(batch_size=20), rtol=1e-12)
        full = short[name].sel(label_noise=0.05) * 4
        np.testing.assert_allclose(predicted.sel(batch_size=20), full, rtol=1e-12)


def test_thermal_and_minibatch_ladders() -> None:
    thermal = replace(SHORT, noise=Thermal(restraint=0.5), strengths=(1e-7, 1e-5), moved=1).run(SMALL, RAY)
    assert thermal["mean_force"].dims[1:3] == ("learning_rate", "temperature")
    predicted = thermal["mean_force_predicted"].values
    np.testing.assert_allclose(predicted[:, :, 1], 100 * predicted[:, :, 0], rtol=1e-12)
    assert np.all(predicted < 0)
    assert "mean_force_formula" not in thermal
    minibatch = replace(SHORT, noise=Minibatch(), batch_sizes=(3, 6), strengths=(), floor=False).run(SMALL, RAY)
    assert minibatch["mean_force"].dims[1:3] == ("learning_rate", "batch_size")
    assert minibatch.attrs["control"] == "full batch of 20 samples, SGD's own steps"
    assert minibatch["mean_force_control"].dims == ("s", "learning_rate", "control_replica", "time_window")


def test_the_full_batch_control_is_descent_in_the_hyperplane() -> None:
    """−t·∇L before the steps θ ← θ − η (1 − t tᵀ) ∇L from the path point, with the windows and strides of SHORT."""
    config = replace(SHORT, noise=Minibatch(), batch_sizes=(5,), strengths=(), floor=False, learning_rates=(0.02,))
    control = config.run(SMALL, RAY)["mean_force_control"].values.ravel()
    objective = SMALL.objective()
    tangent = (RAY[1] - RAY[0]) / (RAY[1] - RAY[0]).norm()
    theta, forces = RAY.mean(0), []
    for _ in range(25):
        gradient = objective.full_value_and_gradient(theta)[1]
        forces.append(-float(tangent @ gradient))
        theta = theta - 0.02 * (gradient - tangent * (tangent @ gradient))
    expected = [np.mean(forces[5:15:4]), np.mean(forces[15:25:4])]
    np.testing.assert_allclose(control, expected, rtol=1e-4)


def test_without_the_floor_probes_give_the_formula() -> None:
    """The slope at the path point along the path, against the exact one of the explicit Jacobians; H at r != 0."""
    smaller = replace(SMALL, network=MLP(widths=(6,), activation="tanh"))
    ray = torch.stack([0.8 * smaller.initial(0), 1.6 * smaller.initial(0)])
    config = replace(SHORT, floor=False, probes=200, strengths=(0.1, 0.2), slope_step=1e-2)
    found = config.run(smaller, ray)
    slope, stderr = (float(found[f"hessian_trace_slope{kind}"][0]) for kind in ("", "_stderr"))
    objective = smaller.objective(dtype=torch.float64)
    point, tangent = ray.double().mean(0), (ray[1] - ray[0]).double()
    tangent /= tangent.norm()
    traces = []
    for sign in (1, -1):
        hessian = HessianOperator(objective, point + sign * 1e-2 * tangent)
        along = float(tangent @ hessian(tangent))
        eye = torch.eye(len(point), dtype=torch.float64)
        traces.append(float(hessian(eye).diagonal().sum()) - along)
    exact = (traces[0] - traces[1]) / 2e-2
    assert stderr < 0.2 * abs(exact)
    assert abs(slope - exact) < 4 * stderr
    formula = found["mean_force_formula"].sel(learning_rate=0.05, label_noise=0.2).item()
    assert formula == pytest.approx(-0.05 * 0.2**2 / (4 * 20) * slope, rel=1e-12)
    stderr_of_formula = found["mean_force_formula_stderr"].sel(learning_rate=0.05, label_noise=0.2).item()
    assert stderr_of_formula == pytest.approx(-formula * stderr / slope, rel=1e-9)
    assert "mean_force_predicted" not in found


def test_a_diverging_replica_is_flagged_and_masked() -> None:
    config = replace(SHORT, learning_rates=(2.0,), strengths=(0.5,), burn_in=0.0, duration=120.0, moved=1)
    found = config.run(SMALL, RAY)
    assert found["diverged"].all()
    assert found["mean_force"].isnull().any()
    assert found["hessian_trace_slope_moved"].isnull().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": (0.5, 0.4)}, "ladder.positions: expected increasing numbers in 0…1"),
        ({"replicas": 1}, "ladder.replicas: expected at least 2, found 1"),
        ({"learning_rates": (0.1, 0.1)}, "ladder.learning_rates: expected rising positive numbers"),
        ({"learning_rates": ()}, "ladder.learning_rates: expected rising positive numbers"),
        ({"strengths": (0.0, 0.1)}, "ladder.strengths: expected rising positive numbers"),
        ({"strengths": (0.1, float("inf"))}, "ladder.strengths: expected rising positive numbers"),
        ({"momentum": 1.0}, "momentum: expected a number in"),
        ({"noise": Minibatch()}, "ladder.strengths: expected none for minibatch noise"),
        ({"noise": Minibatch(), "strengths": ()}, "ladder.floor: expected False for minibatch noise"),
        ({"noise": Thermal()}, "noise.restraint: expected a positive number"),
        ({"noise": Thermal(restraint=1.0), "batch_sizes": (4,)}, "ladder.batch_sizes: expected none for thermal"),
        ({"batch_sizes": (4, 2)}, "ladder.batch_sizes: expected rising numbers"),
        ({"duration": 0.01}, "ladder.duration: expected at least a step a window"),
        ({"moved": 7}, "ladder.moved: expected 0…6"),
        ({"probes": 1}, "ladder.probes: expected 0, or at least 2"),
        ({"slope_step": 0.0}, "ladder.slope_step: expected a positive number"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CLIMB, **options)


def test_what_the_experiment_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="loss: expected squared"):
        SHORT.run(replace(SMALL, loss="cross_entropy"), RAY)
    with pytest.raises(UserError, match="batch_size: expected at most 20 samples, found 21"):
        replace(SHORT, noise=Label(batch_size=21)).run(SMALL, RAY)


def test_whole_groups_are_what_the_noise_is_divided_among() -> None:
    """20 digits in groups of 16 under BatchNorm: the full batch has 16."""
    grouped = replace(SMALL, network=MLP(widths=(6,), normalization="batch"), group_size=16)
    objective = grouped.objective()
    assert len(objective.full_batch()) == 16
    formula = SHORT._formula(objective, np.array([3.0]))[0, 0, 0]
    assert formula == pytest.approx(-0.025 * 0.05**2 / (4 * 16) * 3.0, rel=1e-12)
