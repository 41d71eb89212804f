"""Geometry of a path given as a polyline of points (P, D), for numpy arrays and torch tensors alike.

Results of shape (…, D) are arrays of the kind, type and device of the input; everything of the size of the path
(lengths, positions s, distances) is a float64 numpy array. Nothing here imports torch.

y is the arc length along the polyline, s = y / (total length) in 0…1. Derivatives are per arc length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from entropy_sim.errors import UserError, require

#: A numpy array or a torch tensor.
Array = Any
Floats = npt.NDArray[np.float64]


def arc_length(points: Array) -> Floats:
    """Arc length y of each point from the first one, (P,), in parameter units. points: (P, D).

    Raises UserError if there are fewer than two points or two successive ones coincide.
    """
    return np.concatenate([[0.0], np.cumsum(_segment_lengths(points, _segments(points)))])


def normalised_arc_length(points: Array) -> Floats:
    """s = y / (total length) of each point, (P,), from exactly 0 to exactly 1."""
    y = arc_length(points)
    return y / y[-1]


def tangents(points: Array) -> Array:
    """Unit tangents t = dγ/dy at the points, (P, D), second order in the spacing also where it is uneven.

    The derivative of the parabola through a point and its two neighbours: with the segment directions u and lengths h,
    t ∝ h₋ u₊ + h₊ u₋ inside, u₀ − (h₀ / 2) γ''(1) at the first point and its mirror image at the last.
    """
    units = _segments(points)
    h = _segment_lengths(points, units)
    units /= _like(h, points)[:, None]
    out = _empty(points, len(points))
    if len(h) == 1:
        out[:] = units
        return out
    before, after = h[:-1], h[1:]
    out[1:-1] = units[:-1]
    out[1:-1] *= _like(after / (before + after), points)[:, None]
    out[1:-1] += units[1:] * _like(before / (before + after), points)[:, None]
    for end, neighbour in ((0, 1), (-1, -2)):
        # Mirroring the neighbour's tangent at the end segment is the parabola's derivative at the end.
        out[end] = 2 * units[end] - out[neighbour]
    out /= _like(np.sqrt(_squared_norms(out)), points)[:, None]
    return out


def second_derivative(points: Array) -> Array:
    """γ'' = d²γ/dy² at the points, (P, D), in 1 / parameter: 2 (u₊ − u₋) / (h₋ + h₊) inside, copied to the ends.

    Its norm is the curvature of the path. Second order in the spacing where it is even, first order where not.
    """
    units = _segments(points)
    h = _segment_lengths(points, units)
    out = _empty(points, len(points))
    if len(h) == 1:
        out[:] = 0.0
        return out
    units /= _like(h, points)[:, None]
    out[1:-1] = units[1:]
    out[1:-1] -= units[:-1]
    out[1:-1] *= _like(2.0 / (h[:-1] + h[1:]), points)[:, None]
    out[0], out[-1] = out[1], out[-2]
    return out


def interpolate(points: Array, s: npt.ArrayLike) -> Array:
    """Points of the polyline at s, (D,) for a number and (n, D) for n of them; the path points themselves exactly.

    Raises UserError for s outside 0…1.
    """
    return interpolate_at(points, normalised_arc_length(points), s)


def interpolate_at(points: Array, knots: Floats, s: npt.ArrayLike) -> Array:
    """`interpolate` with the parameter value of each point given as `knots` (P,), increasing."""
    wanted = np.atleast_1d(np.asarray(s, dtype=np.float64))
    inside = (wanted >= knots[0]) & (wanted <= knots[-1])
    require(bool(np.all(inside)), "s", f"{knots[0]:g}…{knots[-1]:g}", np.asarray(s).tolist())
    segment = np.clip(np.searchsorted(knots, wanted, side="right") - 1, 0, len(knots) - 2)
    weight = (wanted - knots[segment]) / (knots[segment + 1] - knots[segment])
    out = points[segment.tolist()]
    out *= _like(1.0 - weight, points)[:, None]
    upper = points[(segment + 1).tolist()]
    upper *= _like(weight, points)[:, None]
    out += upper
    return out if np.ndim(s) else out[0]


def redistribute(points: Array, count: int | None = None) -> Array:
    """`count` points (P if None) at equal arc length along the same polyline, ends kept exactly. A new array.

    The new points lie on the old polyline; across a corner the new chord is shorter than the arc it spans, so chord
    lengths are equal up to the square of the turning angle.
    """
    number = len(points) if count is None else count
    require(number >= 2, "count", "at least 2 points", number)
    return interpolate(points, np.linspace(0.0, 1.0, number))


def insert(points: Array, segments: npt.ArrayLike, fraction: float = 0.5) -> Array:
    """A new array with one more point, `fraction` along, on each listed segment (i joins points i and i + 1)."""
    chosen = np.unique(np.asarray(segments, dtype=np.int64))
    require(
        chosen.size == 0 or (chosen[0] >= 0 and chosen[-1] < len(points) - 1),
        "segments",
        f"0…{len(points) - 2}",
        chosen.tolist(),
    )
    knots = np.arange(len(points), dtype=np.float64)
    return interpolate_at(points, knots, np.sort(np.concatenate([knots, chosen + fraction])))


def project(
    points: Array, theta: Array, near: npt.ArrayLike | None = None, window: float | None = None
) -> tuple[Any, Any]:
    """Nearest point of the polyline to each theta: its s and its distance, floats for (D,), arrays (n,) for (n, D).

    The nearest point jumps where a path bends back upon itself (and beyond its radius of curvature). With `near`, the
    previous s (a number or (n,)), only |s − near| ≤ window is searched, so s follows the trajectory instead.

    Raises UserError if only one of near and window is given, or window is not positive.
    """
    require((near is None) == (window is None), "window", "near and window together", window)
    require(window is None or window > 0, "window", "a positive number", window)
    many = theta if len(theta.shape) == 2 else theta[None, :]
    knots = normalised_arc_length(points)
    low, high = np.zeros(len(many)), np.ones(len(many))
    if near is not None and window is not None:
        centre = np.clip(np.broadcast_to(np.asarray(near, dtype=np.float64), low.shape), 0.0, 1.0)
        low, high = np.maximum(centre - window, 0.0), np.minimum(centre + window, 1.0)
    best_s, best_square = np.zeros(len(many)), np.full(len(many), np.inf)
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged theta has no nearest point: NaN, no warning
        for i in range(len(points) - 1):
            left, right = knots[i], knots[i + 1]
            reachable = (low <= right) & (high >= left)
            if not reachable.any():
                continue
            segment = points[i + 1] - points[i]
            offset = many - points[i]
            length_square = float((segment * segment).sum(-1))
            weight = _numbers((offset * segment).sum(-1)) / length_square
            weight = np.clip(weight, (low - left) / (right - left), (high - left) / (right - left))
            weight = np.clip(weight, 0.0, 1.0)
            offset -= _like(weight, points)[:, None] * segment
            square = np.where(reachable, _squared_norms(offset), np.inf)
            closer = square < best_square
            best_square[closer] = square[closer]
            best_s[closer] = left + weight[closer] * (right - left)
    best_s[~np.isfinite(best_square)] = np.nan
    best_square[~np.isfinite(best_square)] = np.nan
    distance = np.sqrt(best_square)
    return (best_s, distance) if many is theta else (float(best_s[0]), float(distance[0]))


# --- what numpy and torch do not share ------------------------------------------------------------------------------


def _like(values: Floats, array: Array) -> Array:
    """Float64 numbers as an array of the kind, type and device of `array`."""
    return array.new_tensor(values) if hasattr(array, "new_tensor") else values.astype(array.dtype)


def _empty(array: Array, count: int) -> Array:
    shape = (count, array.shape[1])
    return array.new_empty(shape) if hasattr(array, "new_empty") else np.empty(shape, array.dtype)


def _numbers(array: Array) -> Floats:
    return np.asarray(array.tolist(), dtype=np.float64)


def _squared_norms(array: Array) -> Floats:
    return _numbers((array * array).sum(-1))


def _segments(points: Array) -> Array:
    if len(points.shape) != 2 or len(points) < 2:
        raise UserError(f"points: expected at least two, as an array (P, D), found the shape {tuple(points.shape)}")
    return points[1:] - points[:-1]


def _segment_lengths(points: Array, segments: Array) -> Floats:
    lengths = np.sqrt(_squared_norms(segments))
    degenerate = np.flatnonzero(~(lengths > 0) | ~np.isfinite(lengths))
    if degenerate.size:
        raise UserError(f"points: expected finite, distinct successive points, found a fault after points {degenerate}")
    return lengths
