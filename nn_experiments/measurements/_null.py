"""The null control of a projection: what s is read off from displacements that have nothing to do with the path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropy_sim import path_geometry
from nn_experiments.measurements._follow import NormalPlanes, Projection

Floats = npt.NDArray[np.float64]

#: Eigenvalues of the Gram matrix below this share of the largest are rounding.
_RANK = 1e-12
_CHUNK = 1 << 20


def null_positions(
    points: Tensor,
    start: float,
    distance: Floats,
    draws: int,
    projection: Projection,
    search: float,
    random: np.random.Generator,
) -> Floats:
    """s of θ = γ(start) + r(t) u for isotropic random directions u, (replicas, draws, times).

    points: (P, D). distance: r(t), (replicas, times), what replicas had at those times; NaN gives NaN. u is uniform on
    the unit sphere, its part along the path included: that alone, on a straight path of length ℓ, scatters s by
    r/(ℓ √D) about the start. Each u is kept while r changes, and s is followed from time to time as for a replica.

    s depends on inner products with the path alone. So only u's components in the span of the P points are drawn,
    normals over the root of the χ² that all D components have together: exact, for any D.
    """
    path = embedded(points)
    z = random.standard_normal((len(distance), draws, path.shape[1]))
    outside = points.shape[1] - path.shape[1]
    square = (z**2).sum(-1) + (random.chisquare(outside, z.shape[:2]) if outside else 0.0)
    u = z / np.sqrt(square)[..., None]
    origin = path_geometry.interpolate(path, start).numpy()
    directions = u.reshape(-1, path.shape[1])
    radii = np.repeat(distance, draws, axis=0)
    planes = NormalPlanes(path) if projection == "plane" else None
    s = np.full(len(directions), start)
    found = np.empty(radii.shape)
    for t in range(radii.shape[1]):
        theta = origin + radii[:, t, None] * directions
        if planes is None:
            s, _ = path_geometry.project(path.numpy(), theta, s, search)
        else:
            s = np.array([planes.position(torch.from_numpy(x), near)[0] for x, near in zip(theta, s, strict=True)])
        found[:, t] = s
    return found.reshape(len(distance), draws, -1)


def embedded(points: Tensor) -> Tensor:
    """The path (P, D) in coordinates of its own span, (P, at most P − 1) float64 on the CPU: all distances the same."""
    gram = torch.zeros(len(points) - 1, len(points) - 1, dtype=torch.float64)
    for part in torch.split(points, _CHUNK, dim=1):
        offsets = (part[1:] - part[0]).cpu().double()
        gram += offsets @ offsets.T
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _RANK * values[-1]
    coordinates = vectors[:, kept] * values[kept].sqrt()
    return torch.cat([torch.zeros_like(coordinates[:1]), coordinates])
