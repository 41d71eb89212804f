"""The entropic channel: a straight valley whose transverse stiffness changes along it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy_sim._kernels import Compiled
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes import _channel
from entropy_sim.landscapes._shapes import SIMPLE
from entropy_sim.landscapes.base import (
    STABILITY_POINTS,
    Floats,
    Landscape,
    axis_directions,
    axis_tangent,
    column,
    straight,
)
from entropy_sim.landscapes.interpolated import FromFile, Interpolated
from entropy_sim.landscapes.shapes import (
    Barrier,
    Bump,
    Confining,
    DoubleWell,
    Exponential,
    Flat,
    Power,
    Shape,
    Tilted,
)

Stiffness = Bump | DoubleWell | Exponential | Power | Interpolated | FromFile
Energy = Flat | Barrier | Confining | Tilted | Interpolated | FromFile

#: How far beyond the path, in path lengths, an open valley is looked at to judge whether a step is stable.
_BEYOND = 0.5


@dataclass(frozen=True)
class Channel(Landscape):
    """A straight valley, ``L(y, x) = U(y) + 1/2 sum_i k_i(y) x_i²`` with ``k_i(y) = a_i k(y / length)``, or with a
    shape k of each direction's own (`profiles`).

    theta = (y, x_1, …): y runs along the path, x_i across it. With thermal noise the marginal of y is exactly
    ``p ∝ exp(-U/T) prod k_i^(-1/2)`` and the mean force ``-U' - (T/2) sum k_i'/k_i``. The default has the paper's
    picture: no energy along the path, soft ends, a stiff middle.

    Example. On `Channel(stiffness=Exponential(1, e²), transverse_directions=1)` with temperature T the mean force is
    exactly -T everywhere: k'/k = 2.
    """

    stiffness: Stiffness = Bump()
    """How the transverse stiffness changes along the path."""
    along: Energy = Flat()
    """Energy along the path, U."""
    transverse_directions: int = 4
    """Number of transverse coordinates."""
    amplitudes: tuple[float, ...] = ()
    """Factor a_i of each transverse direction's stiffness; empty for 1 each."""
    length: float = 1.0
    """Arc length of the path, parameter units."""
    boundary: Literal["reflecting", "periodic", "open"] = "reflecting"
    """What happens at s = 0 and 1; open: nothing, the valley goes on, and only U or a growing stiffness confines it."""
    profiles: tuple[Stiffness, ...] = ()
    """A stiffness shape for each transverse direction instead of the shared one (in Python or by --config)."""

    locate: ClassVar[Compiled] = _channel.locate
    transverse_stiffness: ClassVar[Compiled] = _channel.stiffness

    def __post_init__(self) -> None:
        n = self.transverse_directions
        long = bool(np.isfinite(self.length) and self.length > 0)
        require(long, "landscape.length", "a positive number", self.length)
        require(n >= 1, "landscape.transverse_directions", "at least 1", n)
        for name, values in (("amplitudes", self.amplitudes), ("profiles", self.profiles)):
            expected = f"one for each of the {n} transverse directions, or none"
            require(len(values) in (0, n), f"landscape.{name}", expected, len(values))
        positive = all(np.isfinite(a) and a > 0 for a in self.amplitudes)
        require(positive, "landscape.amplitudes", "positive numbers", self.amplitudes)
        known = ("reflecting", "periodic", "open")
        require(self.boundary in known, "landscape.boundary", "reflecting, periodic or open", self.boundary)
        self._check_shapes()

    def _check_shapes(self) -> None:
        """Raise UserError for a stiffness that is not positive in the domain, or a seam with a step in it."""
        named: dict[str, Shape] = {f"landscape.profiles[{i}]": shape for i, shape in enumerate(self.profiles)}
        named = named or {"landscape.stiffness": self.stiffness}
        domain = (-np.inf, np.inf) if self.boundary == "open" else (0.0, 1.0)
        for name, shape in named.items():
            least = shape.lowest(*domain)
            if least is not None and not least[0] > 0:
                where = "on the open line" if self.boundary == "open" else "for s in 0…1"
                found = f"{least[0]:.6g} at s = {least[1]:.6g}"
                raise UserError(f"{name}: expected a positive stiffness {where}, found {found}")
        if self.boundary == "periodic":
            for name, shape in (named | {"landscape.along": self.along}).items():
                start, end = shape.value(np.array([0.0, 1.0])).tolist()
                if abs(end - start) > 1e-9 * max(abs(start), abs(end)):
                    raise UserError(
                        f"{name}: expected the same value at s = 0 and 1 for boundary periodic, "
                        f"found {start:.6g} and {end:.6g}"
                    )

    @property
    def _simple(self) -> tuple[int, int, int, bool] | None:
        """Codes of the one stiffness, of U and of the ends, and whether there is one direction; None where that is not
        all there is to say."""
        codes = self._groups[0][0].code, self.along.code
        ends = {"open": _channel.OPEN, "periodic": _channel.PERIODIC, "reflecting": _channel.REFLECTING}
        if len(self._groups) > 1 or not SIMPLE.issuperset(codes):
            return None
        return (*codes, ends[self.boundary], self.transverse_directions == 1)

    @property
    def folded(self) -> Compiled | None:  # type: ignore[override]
        return None if self.boundary == "open" else _channel.folded

    @property
    def gradient(self) -> Compiled:  # type: ignore[override]
        simple = self._simple
        return _channel.any_gradient if simple is None else _channel.simple_gradient(*simple)

    @property
    def euler_maruyama(self) -> Compiled | None:  # type: ignore[override]
        simple = self._simple
        return None if simple is None else _channel.simple_euler_maruyama(*simple)

    @property
    def dimension(self) -> int:
        return self.transverse_directions + 1

    @property
    def arc_length(self) -> float:
        return self.length

    def _amplitudes(self) -> Floats:
        return np.array(self.amplitudes or (1.0,) * self.transverse_directions, dtype=np.float64)

    @functools.cached_property
    def _groups(self) -> list[tuple[Stiffness, slice | NDArray[np.int64]]]:
        """Every different shape, with the directions (from 0) that have it."""
        if not self.profiles:
            return [(self.stiffness, slice(None))]
        directions: dict[Stiffness, list[int]] = {}
        for i, shape in enumerate(self.profiles):
            directions.setdefault(shape, []).append(i)
        return [(shape, np.array(which)) for shape, which in directions.items()]

    def params(self) -> Floats:
        groups, amplitudes = self._groups, self._amplitudes()
        records = [self.along.record(), *(shape.record() for shape, _ in groups)]
        starts = _channel.HEAD + 2 * len(groups) + 2 * len(amplitudes) + np.cumsum([0, *(len(r) for r in records)])
        head = [self.length, *_channel.FOLD[self.boundary], len(groups), starts[0]]
        table = [[start, len(amplitudes[which])] for start, (_, which) in zip(starts[1:], groups, strict=False)]
        row = np.arange(1, self.dimension)
        rows = [np.column_stack([row[which], amplitudes[which]]).ravel() for _, which in groups]
        return np.concatenate([head, np.ravel(table), *rows, *records]).astype(np.float64)

    def fold(self, y: Floats) -> Floats:
        """s of an unwrapped coordinate y: in 0…1, on an open line anywhere."""
        if self.boundary == "open":
            return y / self.length
        r = np.mod(y / self.length, 1.0 if self.boundary == "periodic" else 2.0)
        return np.where(r > 1.0, 2.0 - r, r)

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        s, amplitudes, transverse = self.fold(x[..., 0]), self._amplitudes(), np.zeros(x.shape[:-1])
        for shape, which in self._groups:
            across = x[..., 1:][..., which]
            transverse += shape.value(s) * np.einsum("...i,...i,i->...", across, across, amplitudes[which])
        return self.along.value(s) + 0.5 * transverse

    def path(self, s: ArrayLike) -> Floats:
        return straight(s, self.length, self.dimension)

    def tangent(self, s: ArrayLike) -> Floats:
        return axis_tangent(s, self.dimension)

    def mode_directions(self, s: ArrayLike) -> Floats:
        return axis_directions(s, self.dimension)

    def path_gradient(self, s: ArrayLike) -> Floats:
        # U' along the path and nothing across it: not worth compiling the gradient for, where no walker needs it.
        slope = self.along.slope(self.fold(column(s) * self.length)) / self.length
        return slope[:, None] * self.tangent(s)

    def curvature(self, s: ArrayLike) -> Floats:
        at, amplitudes = column(s), self._amplitudes()
        out = np.empty((at.size, self.transverse_directions))
        for shape, which in self._groups:
            out[:, which] = np.multiply.outer(shape.value(at), amplitudes[which])
        return out

    def curvature_slope(self, s: ArrayLike) -> Floats:
        at, amplitudes = column(s), self._amplitudes() / self.length
        out = np.empty((at.size, self.transverse_directions))
        for shape, which in self._groups:
            out[:, which] = np.multiply.outer(shape.slope(at), amplitudes[which])
        return out

    def largest_stiffness(self, along: bool = True) -> float:
        """Largest of the k_i and of U'' on the path and, on an open line, half its length beyond."""
        margin = _BEYOND if self.boundary == "open" and along else 0.0
        s = np.linspace(-margin, 1.0 + margin, STABILITY_POINTS)
        across = float(self.curvature(s).max())
        bend = np.gradient(self.along.slope(s), s) / self.length**2
        return max(across, float(bend.max())) if along else across

    def stationary_obstacle(self, exponent: float | None = 0.0, ratio: float = 1.0) -> str | None:
        """On an open line exp(-V/D), V = U + the potential of the stiffness, must fall faster than 1/|y| on both sides:
        for thermal noise V = U + (T/2) sum ln k_i."""
        if self.boundary != "open":
            return None
        for side, end in enumerate(("s = -inf", "s = +inf")):
            power, coefficient = self.along.tails()[side]
            power = power if coefficient else 0.0  # a barrier of no height is flat
            tails = [(shape.tails()[side], self._amplitudes()[which].size) for shape, which in self._groups]
            rate = sum(tail[1] * n for tail, n in tails if np.isinf(tail[0]))
            growth = sum(tail[0] * n for tail, n in tails if np.isfinite(tail[0]))
            if power > 0 and coefficient < 0:
                return f"an open valley whose energy falls without bound towards {end} (landscape.along, boundary)"
            if power > 1 or (power == 1 and rate >= 0):
                continue
            if exponent is None or exponent < 0:  # k^b / b rises to 0 and no higher, where k grows
                confined = False
            elif exponent > 0:
                confined = any(tail[0] > 0 for tail, _ in tails)
            else:
                confined = rate > 0 or (rate == 0 and growth * ratio > 2)
            if not confined:
                why = "neither U nor the stiffness grows" if exponent == 0 else "U does not grow, nor what noise adds"
                return (
                    f"an open valley that nothing confines towards {end}: {why} "
                    "(e.g. landscape.along:confining, or boundary reflecting)"
                )
        return None
