"""Following a network that was released on a path: its trajectory, its position s and its distance."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from entropy_sim import path_geometry
from entropy_sim.errors import require
from nn_experiments.dynamics import DIVERGED_DISTANCE, Settings, Trajectory, sgd
from nn_experiments.noise import AnyNoise, Thermal
from nn_experiments.objective import Objective

Floats = npt.NDArray[np.float64]

#: How s is read off; see `Follower`.
Projection = Literal["nearest", "plane"]


def released(settings: Settings, objective: Objective, theta: Tensor, draws: torch.Generator) -> Trajectory:
    """SGD with the settings' noise from `theta` (D,), which moves in place, at rest at first."""
    noise, time_step = settings.noise, settings.learning_rate / (1 - settings.momentum)
    return sgd(
        lambda at: noise.gradient(objective, at, draws, time_step),
        theta,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def check_free(noise: AnyNoise, weight_decay: float) -> None:
    """Raises UserError for thermal noise with a restraint, which would hold a network where it is released, or without
    weight decay: it diffuses along directions of zero curvature, and nothing else bounds it."""
    if isinstance(noise, Thermal) and noise.temperature > 0:
        require(noise.restraint == 0, "noise.restraint", "0 where a network is released on the path", noise.restraint)
        require(weight_decay > 0, "weight_decay", "a positive number for thermal noise", weight_decay)


class Follower:
    """Position s and distance of a moving theta (D,) on the path `points` (P, D), from look to look.

    "nearest": the nearest point of the polyline within `search` in s of the look before. It stays at a corner of the
    polyline while theta moves along its outside: at distance r and a turn by the angle φ, over a length r φ.
    "plane": the normal plane on which theta lies, see `NormalPlanes`, without such a dead zone.
    The first look takes the nearest point of the whole path.
    """

    def __init__(self, points: Tensor, projection: Projection, search: float = 1.0) -> None:
        self.points, self.search = points, search
        self.planes = NormalPlanes(points) if projection == "plane" else None
        self.limit = DIVERGED_DISTANCE * max(float(points.norm(dim=1).max()), 1.0)
        self.s: float | None = None

    def look(self, theta: Tensor) -> tuple[float, float] | None:
        """s and distance; None if theta has diverged: it is not finite, or far from the path."""
        if self.planes is None or self.s is None:
            window = None if self.s is None else self.search
            s, distance = path_geometry.project(self.points, theta, self.s, window)
        if self.planes is not None:
            s, distance = self.planes.position(theta, s if self.s is None else self.s)
        if not distance < self.limit:
            return None
        self.s = s
        return s, distance


class NormalPlanes:
    """s by the planes normal to a path: where ``f(s) = t(s)·(θ − γ(s))`` falls through 0.

    Between the points (P, D) of the path γ and t are interpolated linearly, t from `path_geometry.tangents`. These are
    the planes on which `mean_force` holds a network. On a smooth path −2 f is the slope of ‖θ − γ‖² along it: s belongs
    to the nearest point of such a path, where the nearest point of the polyline waits at its corners.
    """

    def __init__(self, points: Tensor) -> None:
        self.points, self.knots = points, path_geometry.normalised_arc_length(points)
        self.tangents = path_geometry.tangents(points)
        segments = points[1:] - points[:-1]
        # t_i·(γ_i − γ_0); and of each segment d_i: t_i·d_i, t_{i+1}·d_i.
        self.offsets = _numbers((self.tangents * (points - points[0])).sum(1))
        self.before = _numbers((self.tangents[:-1] * segments).sum(1))
        self.after = _numbers((self.tangents[1:] * segments).sum(1))

    def position(self, theta: Tensor, near: float) -> tuple[float, float]:
        """s and distance ‖θ − γ(s)‖: the first such s downhill from `near`, or an end; NaN if theta is not finite."""
        if not bool(torch.isfinite(theta).all()):
            return np.nan, np.nan
        f = _numbers(self.tangents @ (theta - self.points[0])) - self.offsets
        last = len(self.knots) - 2
        i = int(np.clip(np.searchsorted(self.knots, near, side="right") - 1, 0, last))
        w = float((near - self.knots[i]) / (self.knots[i + 1] - self.knots[i]))
        a, b, c = self._quadratic(f, i)
        forward = (a * w + b) * w + c > 0
        while True:
            found = _crossing(*self._quadratic(f, i), w, forward, (f[i + 1] <= 0) if forward else (f[i] >= 0))
            if found is not None or i == (last if forward else 0):
                w = float(forward) if found is None else found
                break
            i, w = (i + 1, 0.0) if forward else (i - 1, 1.0)
        foot = torch.lerp(self.points[i], self.points[i + 1], w)
        s = float(self.knots[i] + w * (self.knots[i + 1] - self.knots[i]))
        return s, float((theta - foot).norm())

    def _quadratic(self, f: Floats, i: int) -> tuple[float, float, float]:
        """a, b, c of f = a w² + b w + c on segment i, from f at the points: (1 − w)(f_i − w p) + w (f_{i+1} + q − w q),
        p and q the tangents' components along the segment."""
        p, q = self.before[i], self.after[i]
        return float(p - q), float(f[i + 1] + q - f[i] - p), float(f[i])


def _crossing(a: float, b: float, c: float, w: float, forward: bool, crossed: bool) -> float | None:
    """Where a w² + b w + c first changes its sign between w and 1 (forward) or 0.

    crossed: whether it has another sign there, which rounding at a common point of two segments must not hide.
    """
    low, high = (w, 1.0) if forward else (0.0, w)
    discriminant = b * b - 4 * a * c
    roots = []
    if discriminant >= 0:
        # The sum that does not cancel, and the other root from their product c / a.
        large = -0.5 * (b + math.copysign(math.sqrt(discriminant), b))
        roots = [large / a] if a else []
        roots += [c / large] if large else []
    if crossed:
        nearest = min(roots, key=lambda x: max(low - x, x - high), default=high if forward else low)
        return min(max(nearest, low), high)
    inside = [x for x in roots if low < x < high]
    if len(inside) < 2:
        return None
    return min(inside) if forward else max(inside)


def _numbers(values: Tensor) -> Floats:
    return values.cpu().double().numpy()
