"""The Müller–Brown surface, the standard two-dimensional test of path finders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, block_function
from entropy_sim._random import fast_exp
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Floats, Landscape
from entropy_sim.landscapes.spline import locate, spline_through

_A = np.array([-200.0, -100.0, -170.0, 15.0])
_a = np.array([-1.0, -1.0, -6.5, 0.7])
_b = np.array([0.0, 0.0, 11.0, 0.6])
_c = np.array([-10.0, -10.0, -6.5, 0.7])
_X = np.array([1.0, 0.0, -0.5, -1.0])
_Y = np.array([0.0, 0.5, 1.5, 1.0])
_TERMS = tuple(zip(_A, _a, _b, _c, _X, _Y, strict=True))

#: The three minima and, between them, the two saddles (energies -40.665 and -72.249), in order along the valley.
MINIMA_AND_SADDLES = (
    (-0.5582236346, 1.4417258418),
    (-0.8220015587, 0.6243128028),
    (-0.0500108229, 0.4666941049),
    (0.2124865820, 0.2929883251),
    (0.6234994049, 0.0280377585),
)


# params: scale, then what `spline.locate` needs.
@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    for w in range(theta.shape[1]):
        out[0, w] = 0.0
        out[1, w] = 0.0
    for m in range(4):
        height, a, b, c, x0, y0 = params[0] * _A[m], _a[m], _b[m], _c[m], _X[m], _Y[m]
        for w in range(theta.shape[1]):
            x, y = theta[0, w] - x0, theta[1, w] - y0
            term = height * fast_exp(a * x * x + b * x * y + c * y * y)
            out[0, w] += term * (2.0 * a * x + b * y)
            out[1, w] += term * (b * x + 2.0 * c * y)


@dataclass(frozen=True)
class MullerBrown(Landscape):
    """``L = scale sum_m A_m exp(a_m (x-X_m)² + b_m (x-X_m)(y-Y_m) + c_m (y-Y_m)²)``, the standard four terms.

    The path is a natural cubic spline through `points`, measured by its arc length; positions are those of the nearest
    of 200 chords; beyond the ends s goes on along the first and the last.
    Reference: Müller, Brown, Theor. Chim. Acta 53 (1979) 75.

    Example. Its saddles have the energies -40.665 and -72.249, its minima -146.700, -80.768 and -108.167.
    """

    points: tuple[tuple[float, float], ...] = MINIMA_AND_SADDLES
    """Points that the path passes through, in order; the minima and saddles along the valley by default."""
    scale: float = 1.0
    """Factor on all energies (> 0)."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = locate

    def __post_init__(self) -> None:
        pairs = len(self.points) >= 2 and all(len(point) == 2 for point in self.points)
        require(pairs, "landscape.points", "two or more points (x, y)", self.points)
        array = np.array(self.points, dtype=np.float64)
        # Far beyond, energies and arc lengths overflow.
        require(bool((np.abs(array) < 1e6).all()), "landscape.points", "numbers between -1e6 and 1e6", self.points)
        distinct = bool((np.linalg.norm(np.diff(array, axis=0), axis=1) > 0).all())
        require(distinct, "landscape.points", "successive points that differ", self.points)
        require(np.isfinite(self.scale) and self.scale > 0, "landscape.scale", "a positive number", self.scale)

    @property
    def dimension(self) -> int:
        return 2

    @property
    def arc_length(self) -> float:
        return spline_through(self.points).length

    def params(self) -> Floats:
        return np.concatenate([[self.scale], spline_through(self.points).numbers()])

    def energy(self, theta: ArrayLike) -> Floats:
        x, y = np.moveaxis(np.asarray(theta, dtype=np.float64), -1, 0)
        return self.scale * sum(
            A * np.exp(a * (x - X) ** 2 + b * (x - X) * (y - Y) + c * (y - Y) ** 2) for A, a, b, c, X, Y in _TERMS
        )

    def hessian(self, theta: ArrayLike) -> Floats:
        """Second derivatives, (..., 2, 2)."""
        x, y = np.moveaxis(np.asarray(theta, dtype=np.float64), -1, 0)
        out = np.zeros((*x.shape, 2, 2))
        for A, a, b, c, X, Y in _TERMS:
            u, v = x - X, y - Y
            p, q = 2 * a * u + b * v, b * u + 2 * c * v
            term = self.scale * A * np.exp(a * u**2 + b * u * v + c * v**2)
            second = [[p * p + 2 * a, p * q + b], [p * q + b, q * q + 2 * c]]
            out += term[..., None, None] * np.moveaxis(np.array(second), (0, 1), (-2, -1))
        return out

    def path(self, s: ArrayLike) -> Floats:
        return spline_through(self.points).point(s)

    def tangent(self, s: ArrayLike) -> Floats:
        return spline_through(self.points).tangent(s)

    def path_curvature(self, s: ArrayLike) -> Floats:
        return spline_through(self.points).curvature(s)

    def mode_directions(self, s: ArrayLike) -> Floats:
        t = self.tangent(s)
        return np.stack([-t[:, 1], t[:, 0]], axis=1)[:, None, :]

    def curvature(self, s: ArrayLike) -> Floats:
        normal = self.mode_directions(s)
        return np.einsum("nmi,nij,nmj->nm", normal, self.hessian(self.path(s)), normal)

    def tangential_curvature(self, s: ArrayLike) -> Floats:
        t = self.tangent(s)
        return np.einsum("ni,nij,nj->n", t, self.hessian(self.path(s)), t)

    def curvature_slope(self, s: ArrayLike) -> Floats:
        # Directional derivative of H along the tangent with the normal held fixed, not of the stiffness along the path.
        normal, shift = self.mode_directions(s), 1e-5 * self.tangent(s)
        change = (self.hessian(self.path(s) + shift) - self.hessian(self.path(s) - shift)) / 2e-5
        return np.einsum("nmi,nij,nmj->nm", normal, change, normal)
