"""A quadratic bowl of any shape, with a straight path between two points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, block_function
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Floats, Landscape, column

Matrix = tuple[tuple[float, ...], ...]


# params: d, 1 if dense, centre (d), start (d), end - start (d), then the diagonal (d) or the matrix (d²).
@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    h = 2 + 3 * d
    if params[1] == 0.0:
        for i in range(d):
            for w in range(walkers):
                out[i, w] = params[h + i] * (theta[i, w] - params[2 + i])
        return
    for i in range(d):
        for w in range(walkers):
            out[i, w] = 0.0
        for j in range(d):
            element, centre = params[h + i * d + j], params[2 + j]
            for w in range(walkers):
                out[i, w] += element * (theta[j, w] - centre)


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    square = 0.0
    for i in range(d):
        square += params[2 + 2 * d + i] * params[2 + 2 * d + i]
    for w in range(walkers):
        out[0, w] = 0.0
        out[1, w] = 0.0
    for i in range(d):
        start, along = params[2 + d + i], params[2 + 2 * d + i]
        for w in range(walkers):
            offset = theta[i, w] - start
            out[0, w] += offset * along / square
            out[1, w] += offset * offset
    for w in range(walkers):
        out[1, w] = max(0.0, out[1, w] - out[0, w] * out[0, w] * square)


@dataclass(frozen=True)
class Quadratic(Landscape):
    """``L = 1/2 (theta - centre)ᵀ H (theta - centre)``; the path is the straight line from `start` to `end`.

    Positions s are those of the line, and go beyond 0…1 where the walkers do. H may have null and negative directions.

    Example. `Quadratic(((1.0, 4.0),))` with temperature T has the variances T and T/4.
    """

    hessian: Matrix = ((1.0, 4.0),)
    """H: one row of d numbers for a diagonal matrix, or d rows of d, symmetric; loss / parameter²."""
    centre: tuple[float, ...] = ()
    """The centre; empty for the origin."""
    start: tuple[float, ...] = ()
    """Where the path begins (s = 0); empty for the centre less one unit of the first coordinate."""
    end: tuple[float, ...] = ()
    """Where the path ends (s = 1); empty for the centre plus one unit of the first coordinate."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate

    def __post_init__(self) -> None:
        rows, d = len(self.hessian), self.dimension
        fits = d > 0 and rows in (1, d) and all(len(row) == d for row in self.hessian)
        require(fits, "landscape.hessian", "one row (diagonal) or as many rows as columns", self.hessian)
        h = self._matrix()
        require(bool(np.isfinite(h).all()), "landscape.hessian", "finite numbers", self.hessian)
        if not np.allclose(h, h.T, rtol=1e-10, atol=1e-12 * float(np.abs(h).max())):
            raise UserError(
                f"landscape.hessian: expected a symmetric matrix, found |H - Hᵀ| = {np.abs(h - h.T).max():g}"
            )
        for name in ("centre", "start", "end"):
            values = getattr(self, name)
            good = len(values) in (0, d) and bool(np.isfinite(values).all())
            require(good, f"landscape.{name}", f"{d} finite numbers, or none", values)
        require(self.arc_length > 0, "landscape.end", "a point other than the start", self.end)

    def _matrix(self) -> Floats:
        h = np.array(self.hessian, dtype=np.float64)
        return np.diag(h[0]) if len(h) == 1 else h

    def _point(self, values: tuple[float, ...], shift: float) -> Floats:
        if values:
            return np.array(values, dtype=np.float64)
        point = np.array(self.centre or (0.0,) * self.dimension, dtype=np.float64)
        point[0] += shift
        return point

    def _ends(self) -> tuple[Floats, Floats]:
        return self._point(self.start, -1.0), self._point(self.end, 1.0)

    @property
    def dimension(self) -> int:
        return len(self.hessian[0]) if self.hessian else 0

    @property
    def arc_length(self) -> float:
        start, end = self._ends()
        return float(np.linalg.norm(end - start))

    def params(self) -> Floats:
        start, end = self._ends()
        dense = len(self.hessian) > 1
        h = np.array(self.hessian, dtype=np.float64).ravel()
        return np.concatenate([[self.dimension, float(dense)], self._point(self.centre, 0.0), start, end - start, h])

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64) - self._point(self.centre, 0.0)
        return 0.5 * np.einsum("...i,ij,...j->...", x, self._matrix(), x)

    def path(self, s: ArrayLike) -> Floats:
        start, end = self._ends()
        return start + column(s)[:, None] * (end - start)

    def tangent(self, s: ArrayLike) -> Floats:
        start, end = self._ends()
        return np.broadcast_to((end - start) / self.arc_length, (np.size(s), self.dimension))

    def _modes(self) -> tuple[Floats, Floats]:
        """Eigenvalues and eigenvectors (rows) of H in the space normal to the path."""
        t = self.tangent(0.0)[0]
        normal = np.linalg.svd(t[None, :])[2][1:]
        values, vectors = np.linalg.eigh(normal @ self._matrix() @ normal.T)
        return values[::-1], (vectors.T @ normal)[::-1]

    def mode_directions(self, s: ArrayLike) -> Floats:
        directions = self._modes()[1]
        return np.broadcast_to(directions, (np.size(s), *directions.shape))

    def curvature(self, s: ArrayLike) -> Floats:
        values = self._modes()[0]
        return np.broadcast_to(values, (np.size(s), len(values)))

    def curvature_slope(self, s: ArrayLike) -> Floats:
        return np.zeros((np.size(s), self.dimension - 1))

    def tangential_curvature(self, s: ArrayLike) -> Floats:
        t = self.tangent([0.0])[0]
        return np.full(np.size(s), t @ self._matrix() @ t)

    def largest_stiffness(self, along: bool = True) -> float:
        """That of the transverse modes or, for walkers that move along the path too, the largest eigenvalue of H."""
        return float(np.linalg.eigvalsh(self._matrix()).max()) if along else super().largest_stiffness(False)

    def stationary_obstacle(self, exponent: float | None = 0.0, ratio: float = 1.0) -> str | None:
        lowest = float(np.linalg.eigvalsh(self._matrix()).min())
        return None if lowest > 0 else f"a flat or falling direction without bound (lowest eigenvalue of H {lowest:g})"
