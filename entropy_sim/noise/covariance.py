"""Gaussian gradient noise of a given covariance: constant and full, or read from a measured network's twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, noise_function
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies


@noise_function
def _factor(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    """noise = F xi with a lower-triangular F (d²), or a diagonal one (d)."""
    d, walkers = xi.shape
    if params.size == d:
        for i in range(d):
            for w in range(walkers):
                noise[i, w] = params[i] * xi[i, w]
        return
    for i in range(d):
        for w in range(walkers):
            noise[i, w] = params[i * d] * xi[0, w]
        for j in range(1, i + 1):
            element = params[i * d + j]
            for w in range(walkers):
                noise[i, w] += element * xi[j, w]


@noise_function
def _root(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    for i in range(xi.shape[0]):
        for w in range(xi.shape[1]):
            noise[i, w] = xi[i, w] * np.sqrt(params[0] * max(field[i, w], 0.0))


@dataclass(frozen=True)
class GradientCovariance(Noise):
    """Gradient noise of a constant covariance C, ``g = grad L + xi``, ``Cov xi = C``. Supplies a gradient covariance.

    Example. On ``1/2 k x²`` SGD with learning rate eta leaves the variance ``eta C / (k (2 - eta k))``.
    """

    covariance: tuple[tuple[float, ...], ...] = ((0.1,),)
    """C: one number for c · 1, one row for a diagonal matrix, or as many rows as coordinates; positive semidefinite."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    function: ClassVar[Compiled] = _factor

    def __post_init__(self) -> None:
        rows = len(self.covariance)
        columns = {len(row) for row in self.covariance}
        square = len(columns) == 1 and min(columns) > 0 and (rows == 1 or columns == {rows})
        require(square, "noise.covariance", "one number, one row, or a square matrix", self.covariance)
        c = np.array(self.covariance, dtype=np.float64)
        require(bool(np.isfinite(c).all()), "noise.covariance", "finite numbers", self.covariance)
        if rows == 1:
            require(bool((c >= 0).all()), "noise.covariance", "variances >= 0", self.covariance)
            return
        size = float(np.abs(c).max())
        require(np.allclose(c, c.T, rtol=1e-10, atol=1e-12 * size), "noise.covariance", "a symmetric matrix", size)
        lowest = float(np.linalg.eigvalsh(c).min())
        if lowest < -1e-10 * size:
            raise UserError(f"noise.covariance: expected no negative eigenvalue, found {lowest:g}")

    def check(self, landscape: Landscape) -> None:
        d, found = landscape.dimension, len(self.covariance[0])
        if found not in (1, d):
            raise UserError(f"noise.covariance: expected 1 or {d} columns for this landscape, found {found}")

    @property
    def stiffness_exponent(self) -> float:
        return 0.0

    def _matrix(self, d: int) -> Floats:
        c = np.array(self.covariance, dtype=np.float64)
        return c if len(c) == d and d > 1 else np.diag(np.broadcast_to(c[0], d))

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        d = landscape.dimension
        c = self._matrix(d)
        if len(self.covariance) == 1:
            return np.sqrt(np.diag(c))
        values, vectors = np.linalg.eigh(c)
        # C = R Rᵀ with R = V sqrt(lambda); a QR of Rᵀ makes the factor triangular, also where C is singular.
        triangular: Floats = np.linalg.qr((vectors * np.sqrt(np.maximum(values, 0.0))).T)[1]
        return triangular.T.ravel()

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        modes = landscape.mode_directions(s)
        return np.einsum("nmi,ij,nmj->nm", modes, self._matrix(landscape.dimension), modes, optimize=True)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        t = landscape.tangent(s)
        return np.einsum("ni,ij,nj->n", t, self._matrix(landscape.dimension), t)


# params: number of columns r of the factor, standard deviation of the rest, then the factor column by column.
@noise_function
def _low_rank(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    rank, rest = int(params[0]), params[1]
    for i in range(d):
        for w in range(walkers):
            noise[i, w] = 0.0
        for k in range(rank):
            element = params[2 + k * d + i]
            for w in range(walkers):
                noise[i, w] += element * xi[k, w]
        if rest > 0.0:
            for w in range(walkers):
                noise[i, w] += rest * xi[rank + i, w]


@dataclass(frozen=True)
class LowRankCovariance(Noise):
    """Gradient noise of the constant covariance ``C = sum_k f_k f_kᵀ + variance · 1``. Supplies a gradient covariance.

    The cost of a step grows like d times the number of directions f_k; C is singular where variance is 0.
    """

    factors: tuple[tuple[float, ...], ...] = ((0.3, 0.1),)
    """Directions f_k with their strengths, one row of d numbers each."""
    variance: float = 0.0
    """Variance in every direction beside them (>= 0)."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    function: ClassVar[Compiled] = _low_rank

    def __post_init__(self) -> None:
        good = len({len(row) for row in self.factors}) == 1 and len(self.factors[0]) > 0
        require(good, "noise.factors", "rows of as many numbers each", self.factors)
        require(bool(np.isfinite(self.factors).all()), "noise.factors", "finite numbers", self.factors)
        require(
            bool(np.isfinite(self.variance) and self.variance >= 0), "noise.variance", "a number >= 0", self.variance
        )

    def check(self, landscape: Landscape) -> None:
        d, found = landscape.dimension, len(self.factors[0])
        if found != d:
            raise UserError(f"noise.factors: expected {d} columns for this landscape, found {found}")

    @property
    def stiffness_exponent(self) -> float:
        return 0.0

    def normals(self, landscape: Landscape) -> int:
        return len(self.factors) + (landscape.dimension if self.variance else 0)

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.concatenate([[len(self.factors), np.sqrt(self.variance)], np.ravel(self.factors)])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.variance + ((landscape.mode_directions(s) @ np.array(self.factors).T) ** 2).sum(axis=-1)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.variance + ((landscape.tangent(s) @ np.array(self.factors).T) ** 2).sum(axis=-1)


@dataclass(frozen=True)
class TabulatedCovariance(Noise):
    """Gradient noise ``C_i(y)`` of each mode as a `Tabulated` landscape has it. Supplies a gradient covariance."""

    scale: float = 1.0
    """Factor on all variances (>= 0), e.g. the measured batch size over the wanted one."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    function: ClassVar[Compiled] = _root

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.scale) and self.scale >= 0), "noise.scale", "a number >= 0", self.scale)

    def field_function(self, landscape: Landscape) -> Compiled:
        if landscape.noise_variance is None:
            raise UserError(
                "noise: expected a landscape with tabulated gradient noise (Tabulated) for TabulatedCovariance, "
                f"found {type(landscape).__name__}"
            )
        return landscape.noise_variance

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([self.scale])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.scale * landscape.noise_variance_at(s)[:, 1:]

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.scale * landscape.noise_variance_at(s)[:, 0]
