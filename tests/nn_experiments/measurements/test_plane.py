"""The plane of a path against a quadratic that is known everywhere, and a small network against its own evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from entropy_sim import path_geometry
from entropy_sim.errors import UserError
from entropy_sim.schema import group_faults
from nn_experiments.experiment import evaluate
from nn_experiments.measurements import Plane, Profile
from nn_experiments.measurements.plane import span
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective, generator
from nn_experiments.workers import Workers
from tests.nn_experiments.measurements.test_profile import SmallExperiment

STIFFNESS = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])


class _Parameters(nn.Module):
    """Outputs are the parameters themselves, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(STIFFNESS)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.theta.expand(len(inputs), -1)


def _quadratic(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (STIFFNESS.to(outputs) * outputs**2).sum(-1).mean()


@dataclass(frozen=True)
class Quadratic:
    """L = 1/2 Σ k_i θ_i², exactly."""

    group_size: int | None = None
    system: str = "a quadratic"
    splits: tuple[str, ...] = ("train",)

    def objective(
        self, split: str = "train", *, dtype: torch.dtype = torch.float32, mode: str = "batch", device: str = "cpu"
    ) -> Objective:
        return Objective(_Parameters().to(dtype), _quadratic, torch.zeros(6, 1), torch.zeros(6))

    def scale_invariant(self) -> list[str]:
        return []


#: From one end over a corner far off the line, and back past a second, smaller one in another direction.
PATH = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 1.0],
        [1.5, 0.3, 0.0, 0.2, 1.0],
        [2.0, 1.0, 0.5, 0.0, 1.0],
        [3.0, 0.0, -0.4, 0.3, 1.0],
        [4.0, 0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.fixture(scope="module", params=["farthest", "principal"])
def quadratic(request):
    return Plane(direction=request.param, cells=4).run(Quadratic(), PATH)


def test_the_loss_is_that_of_the_quadratic_everywhere(quadratic):
    frame = span(PATH, quadratic.attrs["direction"])
    along = (PATH[-1] - PATH[0]).double() / 3.0
    for i, y in enumerate(quadratic["plane_y"].values):
        for j, x in enumerate(quadratic["plane_x"].values):
            theta = PATH[0].double() + x * along + y * frame.direction
            expected = 0.5 * float((STIFFNESS * theta**2).sum())
            assert quadratic["loss"].values[i, j] == pytest.approx(expected, rel=1e-5)
    own = 0.5 * (STIFFNESS * PATH**2).sum(1)
    np.testing.assert_allclose(quadratic["path_loss"], own, rtol=1e-6)


def test_the_group_keeps_the_contract_and_the_grid_has_the_line_and_both_minima(quadratic):
    assert group_faults("plane", quadratic) == []
    x, y = quadratic["plane_x"].values, quadratic["plane_y"].values
    assert 0.0 in x
    assert 0.0 in y
    assert np.isclose(x, quadratic.attrs["minima_distance"], rtol=1e-12).sum() == 1
    np.testing.assert_allclose(np.diff(x), 0.75)
    np.testing.assert_allclose(np.diff(y), 0.75)  # square cells
    path_y = quadratic["path_y"].values
    assert x[0] == -0.75
    assert np.isclose(x[-1], 3.75)
    # A margin of a quarter of the distance on either side, rounded up to whole cells.
    assert 0.75 - 1e-9 <= path_y.min() - y[0] < 1.5
    assert 0.75 - 1e-9 <= y[-1] - path_y.max() < 1.5


@pytest.mark.parametrize("direction", ["farthest", "principal"])
def test_the_plane_is_orthonormal_and_the_path_comes_back_from_it(direction):
    frame = span(PATH, direction)
    along = (PATH[-1] - PATH[0]).double() / frame.length
    assert float(frame.direction.norm()) == pytest.approx(1, abs=1e-14)
    assert float(along @ frame.direction) == pytest.approx(0, abs=1e-14)
    offset = PATH.double() - PATH[0].double()
    np.testing.assert_allclose(frame.x, offset @ along, atol=1e-6)
    np.testing.assert_allclose(frame.y, offset @ frame.direction, atol=1e-6)
    rest = offset.square().sum(1).numpy() - frame.x**2 - frame.y**2
    np.testing.assert_allclose(frame.distance**2, rest, atol=1e-6)
    # The ends are the minima, exactly.
    assert (frame.x[0], frame.y[0], frame.distance[0]) == (0.0, 0.0, 0.0)
    assert (frame.x[-1], frame.y[-1], frame.distance[-1]) == (frame.length, 0.0, 0.0)
    weights = torch.as_tensor(frame.weights(frame.x[[0, -1]], frame.y[[0, -1]]))
    ends = weights @ torch.stack([PATH[0], PATH[-1], frame.direction.to(PATH)]).double()
    assert torch.equal(ends.to(PATH), PATH[[0, -1]])
    assert frame.y[np.abs(frame.y).argmax()] > 0


def test_the_farthest_point_lies_in_its_plane_and_the_principal_one_holds_most_of_the_path():
    farthest, principal = span(PATH, "farthest"), span(PATH, "principal")
    assert farthest.distance[2] == pytest.approx(0, abs=1e-12)
    assert farthest.y[2] == pytest.approx(math.hypot(1.0, 0.5))
    assert farthest.distance[1] > 0.1
    assert principal.share > farthest.share > 0.5
    off = PATH.double() - PATH[0].double()
    off[:, 0] = 0.0  # the line lies along the first axis
    singular = torch.linalg.svdvals(off)
    assert principal.share == pytest.approx(float(singular[0] ** 2 / singular.square().sum()))


def test_a_straight_path_gets_a_random_direction_that_the_seed_decides():
    line = torch.stack([PATH[0] + w * (PATH[-1] - PATH[0]) for w in (0.0, 0.3, 1.0)])
    found = Plane(cells=2, seed=3).run(Quadratic(), line)
    assert found.attrs["direction"] == "random"
    assert np.abs(found["path_distance"]).max() < 1e-5
    assert found["plane_y"].values.min() < 0 < found["plane_y"].values.max()
    again, other = (Plane(cells=2, seed=s).run(Quadratic(), line) for s in (3, 4))
    np.testing.assert_array_equal(found["loss"], again["loss"])
    assert not np.allclose(found["loss"], other["loss"])


@pytest.fixture(scope="module")
def bent() -> Tensor:
    ends = torch.randn(2, SmallExperiment().objective().dimension, generator=generator(2)) * 0.5 + 0.5
    middle = ends.mean(0) + 0.3 * torch.randn(ends.shape[1], generator=generator(5))
    return torch.stack([ends[0], middle, ends[1]])


def test_the_loss_at_the_minima_is_that_of_the_profile(bent):
    """BatchNorm in groups and all: one objective throughout."""
    plane = Plane(cells=2, margin=0.5, test=True).run(SmallExperiment(), bent)
    small = Profile(points=3, probes=2, parts=2, eigenvalues=1, lanczos_steps=2, noise=Minibatch(8), noise_batches=2)
    profile = small.run(SmallExperiment(), {"neb": bent, "line": bent[[0, -1]]})
    length = plane.attrs["minima_distance"]
    for x, s in ((0.0, 0), (0.5 * length, 1), (length, 2)):
        at = plane.sel(plane_x=x, plane_y=0.0, method="nearest")
        for name in ("loss", "train_error", "test_loss", "test_error"):
            assert float(at[name]) == pytest.approx(float(profile[name].sel(path_kind="line")[s]), rel=1e-6), name
    own = [SmallExperiment().objective().evaluate(theta).loss for theta in bent]
    np.testing.assert_allclose(plane["path_loss"], own, rtol=1e-6)
    # A path of three points lies in its plane.
    np.testing.assert_allclose(plane["path_loss"], plane["path_loss_projected"], rtol=1e-4)
    np.testing.assert_allclose(plane["path_distance"], 0, atol=1e-5)
    assert (
        float(plane["test_error"].sel(plane_x=0, plane_y=0))
        == evaluate(SmallExperiment(), bent[0], "test", "evaluation").error
    )


def test_a_subset_is_the_first_whole_groups(bent):
    experiment = SmallExperiment()
    found = Plane(cells=1, margin=0.0, loss_samples=11).run(experiment, bent)
    assert found.attrs["loss_samples"] == 8
    objective = experiment.objective()
    expected = objective.evaluate(bent[0], torch.arange(8)).loss
    assert float(found["loss"].sel(plane_x=0, plane_y=0)) == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(objective.evaluate(bent[0]).loss, rel=1e-3)


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_processes(bent):
    config = Plane(cells=2, margin=0.0)
    with Workers(2) as workers:
        both = config.run(SmallExperiment(), bent, workers)
    assert both.identical(config.run(SmallExperiment(), bent))


def test_arc_length_and_s_are_those_of_the_path(quadratic):
    np.testing.assert_allclose(quadratic["s"], path_geometry.normalised_arc_length(PATH))
    assert quadratic.attrs["arc_length"] == pytest.approx(float(path_geometry.arc_length(PATH)[-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "plane.direction: expected farthest or principal, found 'up'"),
        ({"cells": 0}, "plane.cells: expected a number >= 1, found 0"),
        ({"margin": -0.1}, "plane.margin: expected a number >= 0"),
        ({"margin": math.inf}, "plane.margin: expected a number >= 0"),
        ({"loss_samples": 0}, "plane.loss_samples: expected a number >= 1"),
        ({"seed": -1}, "plane.seed: expected a number >= 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        replace(Plane(), **options)


def test_a_path_that_is_none_is_refused():
    with pytest.raises(UserError, match="points: expected at least two"):
        Plane().run(Quadratic(), PATH[:1])
    with pytest.raises(UserError, match="path: expected two ends a distance > 0 apart, found 0"):
        Plane().run(Quadratic(), torch.stack([PATH[0], PATH[2], PATH[0]]))
    with pytest.raises(UserError, match="samples: expected at least one group of 4"):
        Plane(loss_samples=3).run(SmallExperiment(), torch.randn(2, 28))
