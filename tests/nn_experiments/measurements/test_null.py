"""The null control against displacements drawn in all dimensions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy_sim import path_geometry
from nn_experiments.measurements._follow import NormalPlanes
from nn_experiments.measurements._null import embedded, null_positions

DRAWS = 1000


def bent(dimension: int, points: int = 5) -> Tensor:
    draws = torch.Generator().manual_seed(4)
    steps = torch.randn(points, dimension, generator=draws, dtype=torch.float64)
    steps[:, 0] += 2.0
    return torch.cumsum(steps, 0)


def slow(points: Tensor, start: float, radii: np.ndarray, projection: str, seed: int = 1) -> np.ndarray:
    """Directions drawn in all D dimensions."""
    random = np.random.default_rng(seed)
    u = random.normal(size=(DRAWS, points.shape[1]))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    planes = NormalPlanes(points)
    s, found = np.full(DRAWS, start), []
    for r in radii:
        theta = path_geometry.interpolate(points, start) + r * torch.from_numpy(u)
        if projection == "nearest":
            s = path_geometry.project(points, theta, s, 0.3)[0]
        else:
            s = np.array([planes.position(x, near)[0] for x, near in zip(theta, s, strict=True)])
        found.append(s)
    return np.stack(found, axis=1)


def test_the_embedding_keeps_all_distances() -> None:
    for dimension in (2, 4, 50):
        points = bent(dimension)
        path = embedded(points.float())
        assert path.shape[1] == min(4, dimension)
        torch.testing.assert_close(torch.cdist(path, path), torch.cdist(points, points), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projection", ["nearest", "plane"])
@pytest.mark.parametrize("dimension", [3, 12])
def test_has_the_distribution_of_draws_in_all_dimensions(
    dimension: int, projection: Literal["nearest", "plane"]
) -> None:
    """Means and mean squares of the shift agree, z of two samples of 1000."""
    points, radii, start = bent(dimension), np.array([0.0, 1.0, 2.0]), 0.4
    found = null_positions(points, start, radii[None], DRAWS, projection, 0.3, np.random.default_rng(0))[0]
    expected = slow(points, start, radii, projection)
    np.testing.assert_allclose(found[:, 0], start, atol=1e-12)
    for power in (1, 2):
        a, b = (found[:, 1:] - start) ** power, (expected[:, 1:] - start) ** power
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / DRAWS)
        assert np.abs(z).max() < 4, z


@pytest.mark.parametrize("projection", ["nearest", "plane"])
def test_a_straight_path_scatters_s_by_the_length_over_the_root_of_the_dimension(
    projection: Literal["nearest", "plane"],
) -> None:
    """Mean 0 and variance r²/(D ℓ²), z; with all of u in the span of the path it would be r²/ℓ², a factor of D."""
    straight = torch.linspace(0, 4, 5, dtype=torch.float64)[:, None] * torch.ones(1, 25, dtype=torch.float64) / 5
    radii = np.array([[1.0, 2.0], [3.0, np.nan]])
    found = null_positions(straight, 0.45, radii, DRAWS, projection, 0.4, np.random.default_rng(0)) - 0.45
    assert found.shape == (2, DRAWS, 2)
    assert np.isnan(found[1, :, 1]).all()
    variance = (radii / 4) ** 2 / 25
    for i, t in ((0, 0), (0, 1), (1, 0)):
        shift = found[i, :, t] / np.sqrt(variance[i, t])
        assert abs(shift.mean()) * np.sqrt(DRAWS) < 4
        assert abs((shift**2).mean() - 1) / ((shift**2).std() / np.sqrt(DRAWS)) < 4
    np.testing.assert_allclose(found[0, :, 1], 2 * found[0, :, 0], atol=1e-12)  # one direction all along


def test_a_bent_path_is_read_with_a_bias() -> None:
    """Near the beginning of three quarters of a circle there is more path ahead than behind."""
    phi = torch.linspace(0, 4.7, 30, dtype=torch.float64)
    circle = torch.stack([phi.cos(), phi.sin()], dim=1)
    found = null_positions(circle, 0.1, np.linspace(0, 2, 11)[None], 200, "plane", 0.3, np.random.default_rng(0))
    shift = found[0, :, -1] - 0.1
    assert shift.mean() / (shift.std() / np.sqrt(200)) > 5
