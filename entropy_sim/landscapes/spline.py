"""A smooth path through points, measured by its arc length; and the nearest point of it."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import block_function
from entropy_sim.landscapes.base import Floats, column

#: Corners of the polyline on which `locate` looks for the nearest point.
SAMPLES = 201


class SplinePath:
    """Cubic spline through points (n >= 2, d), n distinct ones in order; s is its arc length over the whole.

    natural: no bending at the ends, for a few given points; otherwise not-a-knot, for samples of a smooth curve.
    """

    def __init__(self, points: Floats, natural: bool = True) -> None:
        from scipy.interpolate import CubicSpline  # half a second, which most runs do not need

        chords = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        self._spline = CubicSpline(chords, points, bc_type="natural" if natural else "not-a-knot")
        per_chord = max(5, 1000 // (len(points) - 1)) if not natural else 1000
        u = np.unique(np.concatenate([np.linspace(a, b, per_chord + 1) for a, b in pairwise(chords)]))
        arc = CubicSpline(u, np.linalg.norm(self._spline(u, 1), axis=1)).antiderivative()(u)
        self._parameter = CubicSpline(arc, u)
        self.length = float(arc[-1])

    def _at(self, s: ArrayLike) -> Floats:
        """The spline's own parameter at s."""
        return self._parameter(column(s) * self.length)

    def point(self, s: ArrayLike) -> Floats:
        """gamma(s), (n, d)."""
        return self._spline(self._at(s))

    def tangent(self, s: ArrayLike) -> Floats:
        """Unit tangents, (n, d)."""
        velocity = self._spline(self._at(s), 1)
        return velocity / np.linalg.norm(velocity, axis=1, keepdims=True)

    def curvature(self, s: ArrayLike) -> Floats:
        """gamma'' per arc length squared, (n, d)."""
        u = self._at(s)
        velocity, second = self._spline(u, 1), self._spline(u, 2)
        speed = np.linalg.norm(velocity, axis=1, keepdims=True)
        t = velocity / speed
        return (second - (second * t).sum(axis=1, keepdims=True) * t) / speed**2

    def numbers(self) -> Floats:
        """The end of the params of `locate`: corners of a polyline (coordinate by coordinate), and how many."""
        corners = self.point(np.linspace(0.0, 1.0, SAMPLES))
        ends = corners[[0, -1]]
        line = ends[0] + np.linspace(0.0, 1.0, SAMPLES)[:, None] * (ends[1] - ends[0])
        if np.abs(corners - line).max() < 1e-12 * self.length:
            corners = ends
        return np.concatenate([corners.T.ravel(), [len(corners)]])


@lru_cache(maxsize=64)
def spline_through(points: tuple[tuple[float, ...], ...]) -> SplinePath:
    """Natural spline through a few points."""
    return SplinePath(np.array(points, dtype=np.float64))


# params: anything, then what `SplinePath.numbers` gives.
@block_function
def locate(theta, out, params):  # type: ignore[no-untyped-def]
    """Nearest point of the polyline; beyond its ends s goes on along the first and the last chord."""
    d, walkers = theta.shape
    p = int(params[params.size - 1])
    first = params.size - 1 - p * d
    along, square, nearest = np.empty(walkers), np.empty(walkers), np.full(walkers, np.inf)
    for w in range(walkers):
        out[0, w] = np.nan
        out[1, w] = np.inf
    for j in range(p - 1):
        length = 0.0
        for w in range(walkers):
            along[w] = 0.0
            square[w] = 0.0
        for i in range(d):
            corner = params[first + i * p + j]
            chord = params[first + i * p + j + 1] - corner
            length += chord * chord
            for w in range(walkers):
                offset = theta[i, w] - corner
                along[w] += offset * chord
                square[w] += offset * offset
        low = -np.inf if j == 0 else 0.0
        high = np.inf if j == p - 2 else 1.0
        for w in range(walkers):
            whole = along[w] / length
            inside = min(max(whole, 0.0), 1.0)
            distance = square[w] - inside * (2.0 * along[w] - inside * length)
            u = min(max(whole, low), high)
            closer = distance < nearest[w]
            nearest[w] = distance if closer else nearest[w]
            out[0, w] = (j + u) / (p - 1) if closer else out[0, w]
            out[1, w] = max(0.0, square[w] - u * (2.0 * along[w] - u * length)) if closer else out[1, w]
