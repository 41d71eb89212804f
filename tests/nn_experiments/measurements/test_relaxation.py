"""Relaxation on quadratics, whose every step is known, and on a network for what is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments.measurements import Relaxation
from nn_experiments.measurements._follow import NormalPlanes, Projection
from nn_experiments.noise import Minibatch, Thermal
from nn_experiments.objective import Objective

DOUBLE = torch.float64
CURVATURE = (0.8, 3.0)
PATH = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=DOUBLE)


@dataclass(frozen=True)
class BowlExperiment:
    """½ Σ k_i (θ_i − c_i)², c = (1, 1): two samples, a linear map and their mean square."""

    curvature: tuple[float, float] = CURVATURE
    group_size: int | None = None
    system: str = "a bowl"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        x = torch.diag(torch.tensor(self.curvature, dtype=DOUBLE).mul(2).sqrt())
        module = nn.Linear(2, 1, bias=False).double()
        return Objective(module, lambda f, y: 0.5 * (f - y).square().sum(-1).mean(), x, x.sum(1, keepdim=True))

    def scale_invariant(self) -> list[str]:
        return []


class Backwards:
    """Workers that do the units in the wrong order."""

    def map(self, function: Callable[[Any], Any], units: Iterable[Any], label: str = "") -> list[Any]:
        return [function(u) for u in reversed(list(units))][::-1]


PROJECTIONS: tuple[Projection, Projection] = ("nearest", "plane")
FULL = Relaxation(
    starts=(0.0, 0.2, 0.5),
    replicas=2,
    learning_rate=0.1,
    noise=Minibatch(2),
    duration=4.0,
    records=8,
    control_starts=(0.2,),
    control_step=None,
    search=1.0,
)


def run(config: Relaxation, experiment: Any = None, points: Tensor = PATH, workers: Any = None) -> xr.Dataset:
    return config.run(experiment or BowlExperiment(), points, workers)


def gradient_descent(start: float, steps: int, rate: float = 0.1) -> np.ndarray:
    """θ after so many steps, with the stiff coordinate off the path."""
    offset = np.array([2 * start - 1, -1.0]) * (1 - rate * np.array(CURVATURE)) ** steps
    return 1 + offset


def test_full_batches_descend_exactly() -> None:
    found = run(FULL)
    assert found["position"].dims == ("control", "start", "replica", "time")
    np.testing.assert_allclose(found["time"], np.arange(9) * 0.5)
    for i, start in enumerate(FULL.starts):
        theta = np.array([gradient_descent(start, 5 * n) for n in range(9)])
        for name, expected in {
            "position": theta[:, 0] / 2,
            "distance": np.abs(theta[:, 1]),
            "loss": 0.5 * ((theta - 1) ** 2 @ CURVATURE),
            "parameter_norm": np.linalg.norm(theta, axis=1),
        }.items():
            for replica in range(2):
                np.testing.assert_allclose(found[name][0, i, replica], expected, rtol=1e-10, atol=1e-12)


def test_control_runs_once_and_the_rest_of_it_is_absent() -> None:
    found = run(FULL)
    np.testing.assert_allclose(found["position"][1, 1, 0], found["position"][0, 1, 0], rtol=1e-12)
    ran = np.zeros((3, 2), dtype=bool)
    ran[1, 0] = True
    for name in ("position", "distance", "loss", "parameter_norm"):
        np.testing.assert_array_equal(np.isfinite(found[name][1]).all("time"), ran)
    np.testing.assert_array_equal(found["diverged"][1] == 0, ran)
    assert np.isnan(found["diverged"].values[1][~ran]).all()
    assert found["diverged"].values[0].tolist() == [[0, 0]] * 3


def test_control_flows_over_the_same_time() -> None:
    found = run(replace(FULL, control_step=0.01))
    exact = 1 + (2 * 0.2 - 1) * np.exp(-CURVATURE[0] * found["time"].values)
    np.testing.assert_allclose(found["position"][1, 1, 0], exact / 2, rtol=0.01)


def test_without_control_starts_there_is_no_control() -> None:
    found = run(replace(FULL, control_starts=()))
    assert found.sizes["control"] == 1
    assert found.attrs["control"] == "none"


def test_heavy_ball_and_weight_decay_on_the_common_clock() -> None:
    """Over t = η · steps/(1 − β) the slow coordinate relaxes at the same rate with momentum, towards k c/(k + λ)."""
    slow = BowlExperiment(curvature=(0.1, 0.5))
    config = replace(FULL, starts=(0.0,), replicas=1, control_starts=(), duration=20.0, weight_decay=0.1)
    plain = run(replace(config, learning_rate=0.02), slow)["position"].values[0, 0, 0]
    heavy = run(replace(config, learning_rate=0.002, momentum=0.9), slow)["position"].values[0, 0, 0]
    exact = 0.5 * 0.5 * (1 - np.exp(-0.2 * np.linspace(0, 20, 9)))
    np.testing.assert_allclose(plain, exact, atol=0.005)
    np.testing.assert_allclose(heavy, exact, atol=0.005)


def test_minibatches_scatter_and_every_replica_by_itself() -> None:
    config = replace(FULL, noise=Minibatch(1), control_starts=())
    found, other = run(config), run(replace(config, seed=1))
    xr.testing.assert_identical(found, run(config, workers=Backwards()))
    # What is left of the offset from the minimum depends on the draws alone.
    left = [((r["position"][0, i] - 0.5) / (FULL.starts[i] - 0.5)).values for r in (found, other) for i in (0, 1)]
    series = np.concatenate(left)
    assert len(np.unique(series.round(9), axis=0)) == len(series) == 8


def test_thermal_noise_on_the_common_clock() -> None:
    """Variance of y after n heavy-ball steps, exact by its impulse response; 1 s.e. is 12 %, without 1/(1 − β) in the
    noise it would be half."""
    rate, momentum, decay, temperature, steps, replicas = 0.1, 0.5, 0.05, 1e-3, 8, 150
    noise = Thermal(temperature)
    config = Relaxation((0.5,), replicas, rate, momentum, decay, noise, steps * 0.2, 1, (), null_draws=0)
    found = run(config)["position"].values[0, 0, :, 1] * 2
    y, v, response = 1.0, 1.0, []
    for _ in range(steps):
        response.append(y)
        v = momentum * v - rate * (CURVATURE[0] + decay) * y
        y += v
    expected = rate**2 * 2 * temperature / (rate / (1 - momentum)) * np.sum(np.square(response))
    stderr = math.sqrt(2 / (replicas - 1))
    assert abs(found.var(ddof=1) / expected - 1) / stderr < 3
    assert (found.var(ddof=1) / (expected / 2) - 1) / stderr > 5


def test_a_path_that_bends_back_is_followed_without_jumps() -> None:
    """A hairpin: walking out of the start of one arm past the other. A global search jumps to it; a local one stays."""
    hairpin = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 0.4], [0.0, 0.4]], dtype=DOUBLE)
    config = replace(FULL, starts=(0.1,), control_starts=(), duration=3.0)
    local, anywhere = (run(replace(config, search=w), points=hairpin)["position"].values[0, 0, 0] for w in (0.1, 1.0))
    assert local.max() < 0.15
    assert anywhere.max() > 0.8


def test_a_diverging_replica_is_flagged_and_masked() -> None:
    found = run(replace(FULL, learning_rate=1.0, duration=80.0, starts=(0.2,), control_starts=()))  # η k = 3
    assert found["diverged"].values.tolist() == [[[1.0, 1.0]]]
    assert np.isfinite(found["position"].values[..., 0]).all()
    assert np.isnan(found["position"].values[..., 1:]).all()


def test_loss_is_that_of_a_fixed_subset_of_whole_groups() -> None:
    found = run(replace(FULL, loss_samples=1, control_starts=()))
    theta = np.array([gradient_descent(0.2, 5 * n) for n in range(9)])
    np.testing.assert_allclose(found["loss"][0, 1, 0], CURVATURE[0] * (theta[:, 0] - 1) ** 2, rtol=1e-10)
    assert found.attrs["loss_samples"] == 1
    assert run(FULL).attrs["loss_samples"] == 2
    assert found.attrs["arc_length"] == 2.0


def test_null_control_has_the_lengths_of_the_replicas_and_changes_nothing_else() -> None:
    """On a straight path in 2 dimensions s scatters by r/√2 in units of the path's length, 2, about the start (z)."""
    config = replace(FULL, starts=(0.4, 0.6), replicas=3, control_starts=(0.4,), null_draws=200)
    found, without = run(config), run(replace(config, null_draws=0))
    xr.testing.assert_identical(
        found.drop_vars(["position_null", "position_null_stderr"]).drop_attrs(), without.drop_attrs()
    )
    assert found["position_null"].dims == ("start", "time")
    assert (found.attrs["null_draws"], found.attrs["projection"]) == (200, "nearest")
    null, stderr = found["position_null"].values, found["position_null_stderr"].values
    np.testing.assert_allclose(null[:, 0], config.starts, atol=1e-12)
    distance = np.abs(gradient_descent(0.4, 5)[1])
    assert stderr[0, 1] == pytest.approx(distance / math.sqrt(2) / 2 / math.sqrt(600), rel=0.1)
    assert np.abs((null[:, 1] - config.starts) / stderr[:, 1]).max() < 4
    assert not np.allclose(null[0, 1:] - 0.4, null[1, 1:] - 0.6, atol=1e-6)
    xr.testing.assert_identical(found, run(config, workers=Backwards()))


def test_null_control_leaves_out_what_has_diverged() -> None:
    found = run(replace(FULL, learning_rate=1.0, duration=80.0, starts=(0.2,), control_starts=()))
    assert np.isfinite(found["position_null"].values[0, 0])
    assert np.isnan(found["position_null"].values[0, 1:]).all()


def test_planes_follow_where_the_nearest_point_waits_at_a_corner() -> None:
    """Released beside a corner, θ moves away to its outside first and then slowly past it."""
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 0.0]], dtype=DOUBLE)
    config = replace(FULL, starts=(0.45,), replicas=1, control_starts=(), duration=4.0)
    nearest, plane = (
        run(replace(config, projection=p), points=corner)["position"].values[0, 0, 0] for p in PROJECTIONS
    )
    theta = [torch.tensor(1 + np.array([-0.1, -0.55]) * (1 - 0.1 * np.array(CURVATURE)) ** (5 * n)) for n in range(9)]
    s = 0.45
    for n, at in enumerate(theta):
        s = NormalPlanes(corner).position(at, s)[0]
        assert plane[n] == pytest.approx(s, abs=1e-9)
    assert (nearest[2:] == 0.5).all()
    assert (np.diff(plane[2:]) > 0).all()
    assert plane[-1] < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": (0.5, 0.3)}, "starts: expected increasing numbers"),
        ({"starts": (-0.1,), "control_starts": ()}, "starts: expected increasing numbers"),
        ({"control_starts": (0.4,)}, "control_starts: expected some of the starts"),
        ({"replicas": 0}, "replicas: expected a number >= 1"),
        ({"momentum": 1.0}, "momentum: expected"),
        ({"records": 0}, "records: expected a number >= 1"),
        ({"duration": 0.7}, r"duration: expected at least one step a record \(a time of 0.8\)"),
        ({"duration": 1e32, "control_step": 10.0}, "control_step: expected a number above 1e.20"),
        ({"control_step": 0.0}, "control_step: expected a number above"),
        ({"search": 0.0}, "search: expected a number in"),
        ({"noise": Thermal(1e-3)}, "weight_decay: expected a positive number for thermal noise, found 0.0"),
        ({"noise": Thermal(1e-3, 1.0)}, "noise.restraint: expected 0 where a network is released on the path"),
        ({"projection": "spline"}, "projection: expected nearest or plane"),
        ({"null_draws": -1}, "null_draws: expected a number >= 0"),
        ({"loss_samples": 0}, "loss_samples: expected a number >= 1"),
        ({"seed": -1}, "seed: expected a number >= 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(FULL, **options)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size: expected at most 2 samples, found 3"):
        run(replace(FULL, noise=Minibatch(3)))
    assert math.isclose(FULL.times[-1], FULL.duration)
