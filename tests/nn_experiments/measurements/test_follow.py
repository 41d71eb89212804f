"""Positions on a path by normal planes, against a dense search, exact circles and the polyline's nearest point."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim import path_geometry
from nn_experiments.measurements._follow import Follower, NormalPlanes, _crossing
from nn_experiments.measurements._frames import frames
from nn_experiments.measurements.escape import Escape
from nn_experiments.measurements.plane import Plane
from nn_experiments.measurements.relaxation import Relaxation
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective, generator

DOUBLE = torch.float64


def arc(points: int = 7, angle: float = 2.0, radius: float = 3.0) -> Tensor:
    phi = torch.linspace(0, angle, points, dtype=DOUBLE)
    return radius * torch.stack([phi.cos(), phi.sin()], dim=1)


def random_path(seed: int, dimension: int = 5, points: int = 6) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.cumsum(
        torch.randn(points, dimension, generator=draws, dtype=DOUBLE) + 1.0 * torch.eye(dimension)[0], 0
    )


def slow_position(points: Tensor, theta: Tensor, near: float, steps: int = 8_001) -> float:
    """Walk downhill from `near` in small steps until t(s)·(θ − γ(s)) changes its sign."""
    s = np.linspace(0, 1, steps)
    knots = path_geometry.normalised_arc_length(points)
    at = [path_geometry.interpolate_at(v, knots, s).numpy() for v in (points, path_geometry.tangents(points))]
    f = ((theta.numpy() - at[0]) * at[1]).sum(1)
    i = int(np.searchsorted(s, near))
    step = 1 if np.interp(near, s, f) > 0 else -1
    i = i if step > 0 else i - 1
    while 0 <= i < steps and f[i] * step > 0:
        i += step
    return float(s[min(max(i, 0), steps - 1)])


@pytest.mark.parametrize("seed", range(4))
def test_is_where_a_dense_search_downhill_ends(seed: int) -> None:
    points, draws = random_path(seed), np.random.default_rng(seed)
    planes, ends = NormalPlanes(points), 0
    for _ in range(15):
        near = float(draws.random())
        theta = path_geometry.interpolate(points, float(draws.random())) + torch.from_numpy(draws.normal(size=5))
        s, distance = planes.position(theta, near)
        assert s == pytest.approx(slow_position(points, theta, near), abs=4e-4)
        assert distance == pytest.approx(float((theta - path_geometry.interpolate(points, s)).norm()), rel=1e-12)
        if 0 < s < 1:
            point, tangent, _ = frames(points, [s])[0]
            assert abs(tangent @ (theta.numpy() - point)) < 1e-12
        ends += s in (0, 1)
    assert ends < 12


def test_crossings_of_a_segment_are_the_first_ones() -> None:
    """Also where f dips through 0 and back within one segment; against a dense scan."""
    random, dips = np.random.default_rng(0), 0
    for _ in range(400):
        roots, scale, w = random.uniform(-0.3, 1.3, 2), random.choice([-1.0, 1.0]), float(random.random())
        a, b, c = scale, -scale * roots.sum(), scale * roots.prod()
        f = (a * w + b) * w + c
        forward = f > 0
        end = a + b + c if forward else c
        found = _crossing(a, b, c, w, forward, end <= 0 if forward else end >= 0)
        x = np.linspace(w, float(forward), 20_001)
        changed = np.flatnonzero(((a * x + b) * x + c) * f < 0)
        assert (found is None) == (changed.size == 0)
        if found is not None:
            assert found == pytest.approx(x[changed[0]], abs=1e-4)
            dips += f * end > 0
    assert dips > 10
    assert _crossing(0.0, -2.0, 1.0, 0.0, True, True) == 0.5
    assert _crossing(0.0, 0.0, 0.0, 0.3, True, True) == 1.0


@pytest.mark.parametrize("near", [0.0, 0.37, 0.5, 1.0])
def test_points_of_the_path_are_at_their_own_place(near: float) -> None:
    """Also exactly at a corner, where rounding decides from which segment it is seen."""
    points = arc()
    planes = NormalPlanes(points)
    for s in [0.0, 1.0, 0.21, *path_geometry.normalised_arc_length(points)]:
        found, distance = planes.position(path_geometry.interpolate(points, s), s if near == 0.37 else near)
        assert found == pytest.approx(s, abs=1e-12)
        assert distance < 1e-12


def test_follows_a_circle_evenly_where_the_nearest_point_waits_at_corners() -> None:
    """Moving along a circle outside the path: the exact position is the angle."""
    points, steps = arc(), np.linspace(0.05, 0.95, 91)
    phi = torch.from_numpy(2.0 * steps)
    outside = 1.5 * 3.0 * torch.stack([phi.cos(), phi.sin()], dim=1)
    found = {}
    for projection in ("plane", "nearest"):
        follower = Follower(points, projection, search=0.2)
        looks = [follower.look(theta) for theta in outside]
        found[projection] = np.array([look[0] for look in looks if look is not None])
    assert np.abs(found["plane"] - steps).max() < 0.004
    # Each of 5 corners turns by 1/3, a third of which is dead at 1.5 radii: 5 of the 90 moves.
    assert (np.diff(found["nearest"]) == 0).sum() > 20
    assert np.diff(found["plane"]).min() > 0.5 * np.diff(found["plane"]).max()


def test_follows_one_arm_of_a_hairpin() -> None:
    hairpin = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 0.4], [0.0, 0.4]], dtype=DOUBLE)
    follower = Follower(hairpin, "plane")
    for y in (0.0, 0.1, 0.2, 0.3, 0.39):
        look = follower.look(torch.tensor([2.0, y], dtype=DOUBLE))
        assert look is not None
    assert look == pytest.approx((2.0 / 20.4, 0.39), abs=0.01)
    assert path_geometry.project(hairpin, torch.tensor([2.0, 0.39], dtype=DOUBLE))[0] > 0.8


@pytest.mark.parametrize("projection", ["plane", "nearest"])
def test_divergence_is_told(projection: str) -> None:
    follower = Follower(arc(), projection)  # type: ignore[arg-type]
    assert follower.look(arc()[2]) is not None
    assert follower.look(torch.tensor([40.0, 0.0], dtype=DOUBLE)) is None
    assert follower.look(torch.tensor([torch.nan, 0.0], dtype=DOUBLE)) is None
    assert follower.look(torch.tensor([torch.inf, 0.0], dtype=DOUBLE)) is None


def test_single_precision_is_enough() -> None:
    points = random_path(1) + 30.0
    theta = path_geometry.interpolate(points, 0.4) + 0.2
    exact = NormalPlanes(points).position(theta, 0.4)
    assert NormalPlanes(points.float()).position(theta.float(), 0.4) == pytest.approx(exact, abs=1e-4)


class Looking(nn.Module):
    """A layer that takes note of the precision allowed."""

    seen: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return x


class Experiment:
    group_size, system = None, "looking"

    def objective(self, split: str = "train", **_: Any) -> Objective:
        inputs = torch.randn(16, 2, generator=generator(1))
        return Objective(nn.Sequential(Looking(), nn.Linear(2, 2)), F.cross_entropy, inputs, (inputs[:, 0] > 0).long())


@pytest.mark.parametrize(
    "measurement",
    [
        Relaxation(starts=(0.5,), control_starts=(0.5,), duration=1.2, records=2, noise=Minibatch(8)),
        Escape(duration=3.0, replicas=1, noise=Minibatch(8)),
        Plane(cells=2),
    ],
    ids=["relaxation", "escape", "plane"],
)
def test_gradients_have_full_precision(measurement: Relaxation | Escape | Plane, reduced_precision: None) -> None:
    Looking.seen.clear()
    points = torch.randn(4, 6, generator=generator(2))
    measurement.run(Experiment(), points)  # type: ignore[arg-type]
    assert Looking.seen == {(False, False)}
    assert torch.backends.cudnn.allow_tf32
