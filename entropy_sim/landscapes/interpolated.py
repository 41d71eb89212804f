"""Shapes along the path that a user gives: numbers at knots, or a function of s in Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from entropy_sim.errors import UserError, require
from entropy_sim.landscapes._shapes import TABLE
from entropy_sim.landscapes.base import Floats
from entropy_sim.landscapes.shapes import Shape, Tails

Ends = Literal["free", "flat", "periodic"]

#: Largest error of a spline that stands for a function, between its knots, in units of the function's largest size.
TOLERANCE = 1e-6
#: Places between two knots at which that is checked.
_BETWEEN = 4


class Spline(Shape):
    """The cubic spline through values at knots, twice continuously differentiable between the first and the last.

    ends "free": the not-a-knot spline, which is exact for cubics; beyond the knots the parabola of the last value,
    slope and curvature, so that it is twice continuously differentiable everywhere. "flat": no slope at the first and
    last knot, and constant beyond. "periodic": value, slope and curvature of s = 1 are those of s = 0.
    """

    code: ClassVar[int] = TABLE

    def nodes(self) -> tuple[Floats, Floats, Ends]:
        """Knots, values and the kind of ends."""
        raise NotImplementedError

    @functools.cached_property
    def _pieces(self) -> tuple[Floats, Floats, Floats]:
        """Knots (n,), origins (n + 1,) and coefficients (4, n + 1), from the cube on, of the pieces between them."""
        from scipy.interpolate import CubicSpline

        knots, values, ends = self.nodes()
        kinds: dict[Ends, Literal["not-a-knot", "clamped", "periodic"]]
        kinds = {"free": "not-a-knot", "flat": "clamped", "periodic": "periodic"}
        inner = CubicSpline(knots, values, bc_type=kinds[ends])
        outside = np.zeros((4, 2))
        edges = knots[[0, -1]]
        outside[3] = values[[0, -1]]
        if ends != "flat":
            # What rounding leaves of no slope or curvature must not decide what happens at infinity.
            size, span = float(np.abs(values).max()), knots[-1] - knots[0]
            slope, bend = inner(edges, 1), 0.5 * inner(edges, 2)
            outside[2] = np.where(np.abs(slope) * span > 1e-9 * size, slope, 0.0)
            outside[1] = np.where(np.abs(bend) * span**2 > 1e-9 * size, bend, 0.0)
        coefficients = np.column_stack([outside[:, :1], inner.c, outside[:, 1:]])
        return knots, np.concatenate([knots[:1], knots]), coefficients

    def numbers(self) -> tuple[float, float, float, float]:
        knots = self._pieces[0]
        spacing = (knots[-1] - knots[0]) / (len(knots) - 1)
        even = np.allclose(np.diff(knots), spacing, rtol=1e-12, atol=0.0)
        levels = 0 if even else len(knots).bit_length()
        return float(levels), float(len(knots) + 1), float(knots[0]), float(1.0 / spacing)

    def record(self) -> Floats:
        knots, origins, coefficients = self._pieces
        start = super().record()
        filled = np.full((1 << int(start[1])) - 1, np.inf)
        filled[: len(knots)] = knots[: len(filled)]
        return np.concatenate([start, filled, np.vstack([origins, coefficients]).T.ravel()])

    def _at(self, s: Floats) -> tuple[Floats, Floats]:
        """Distance from the origin of its piece (...), and the coefficients of the piece (4, ...)."""
        knots, origins, coefficients = self._pieces
        s = np.asarray(s, dtype=np.float64)
        piece = np.searchsorted(knots, np.where(np.isnan(s), -np.inf, s), side="right")
        return s - origins[piece], coefficients[:, piece]

    def value(self, s: Floats) -> Floats:
        x, (a, b, c, e) = self._at(s)
        return ((a * x + b) * x + c) * x + e

    def slope(self, s: Floats) -> Floats:
        x, (a, b, c, _) = self._at(s)
        return (3.0 * a * x + 2.0 * b) * x + c

    def tails(self) -> Tails:
        coefficients = self._pieces[2]

        def tail(piece: int, outward: float) -> tuple[float, float]:
            _, b, c, e = coefficients[:, piece]
            return (2.0, float(b)) if b else (1.0, outward * float(c)) if c else (0.0, float(e))

        return tail(0, -1.0), tail(-1, 1.0)

    def lowest(self, low: float, high: float) -> tuple[float, float]:
        knots, origins, (a, b, c, _) = self._pieces
        for edge, (power, coefficient) in zip((low, high), self.tails(), strict=True):
            if np.isinf(edge) and power > 0 and coefficient < 0:
                return -np.inf, edge
        with np.errstate(invalid="ignore", divide="ignore"):
            # Where 3 a x² + 2 b x + c = 0, in the form that loses no digits.
            q = -(b + np.copysign(np.sqrt(b * b - 3.0 * a * c), b))
            still = np.concatenate([origins + q / (3.0 * a), origins + c / q])
        s = np.concatenate([[low, high], knots, still])
        s = s[np.isfinite(s) & (s >= low) & (s <= high)]
        values = self.value(s)
        return float(values.min()), float(s[values.argmin()])


@dataclass(frozen=True)
class Interpolated(Spline):
    """A stiffness or an energy through given values: the cubic spline, whose slope is the slope used.

    Between the first and the last knot twice continuously differentiable. Ends "free": not-a-knot, exact for cubics,
    and beyond the knots (open line) the parabola of the last value, slope and curvature. "flat": no slope at the first
    and last knot, constant beyond. "periodic": value, slope and curvature of s = 1 are those of s = 0.

    Example. `Interpolated((0.0, 1.0, 4.0))` is 4 s².
    """

    values: tuple[float, ...]
    """Values at the knots: stiffness, loss / parameter² (positive, also between the knots), or energy, loss."""
    knots: tuple[float, ...] = ()
    """Increasing positions s that include 0…1; empty for equally spaced ones from 0 to 1."""
    ends: Ends = "free"
    """What holds at and beyond the first and last knot."""

    def __post_init__(self) -> None:
        n = len(self.values)
        require(n >= 2, "values", "two or more", n)
        require(bool(np.isfinite(self.values).all()), "values", "finite numbers", self.values)
        require(len(self.knots) in (0, n), "knots", f"one for each of the {n} values, or none", len(self.knots))
        knots = self.nodes()[0]
        good = np.isfinite(knots).all() and (np.diff(knots) > 0).all() and knots[0] <= 0 and knots[-1] >= 1
        require(bool(good), "knots", "increasing positions that include 0…1", self.knots)
        require(self.ends in ("free", "flat", "periodic"), "ends", "free, flat or periodic", self.ends)
        if self.ends == "periodic":
            require(knots[0] == 0 and knots[-1] == 1 and n > 2, "knots", "three or more from 0 to 1", self.knots)
            ends = self.values[0], self.values[-1]
            require(ends[0] == ends[1], "values", "the same first and last value for ends periodic", ends)

    def nodes(self) -> tuple[Floats, Floats, Ends]:
        knots = np.asarray(self.knots, dtype=np.float64) if self.knots else np.linspace(0.0, 1.0, len(self.values))
        return knots, np.asarray(self.values, dtype=np.float64), self.ends

    @classmethod
    def from_function(
        cls,
        function: Callable[[Floats], Floats],
        points: int = 201,
        low: float = 0.0,
        high: float = 1.0,
        ends: Ends = "free",
        tolerance: float = TOLERANCE,
    ) -> Interpolated:
        """The spline through a function of s (an array), at equally spaced points of low…high; numbers are kept.

        Raises UserError unless the function is finite, and everywhere between the points (four places each) within
        tolerance · max|function| of the spline.
        """
        return tabulate("function", function, points, low, high, ends, tolerance)


@dataclass(frozen=True)
class FromFile(Spline):
    """A stiffness or an energy that a Python file defines: a NumPy function of s, tabulated as a spline.

    Equally spaced points of low…high; what is between them is checked to be within 1e-6 of the function's largest size.
    Ends and what lies beyond low…high as in `Interpolated`. The configuration keeps the text of the file.

    Example. `FromFile("shape.py:stiffness")` with `def stiffness(s): return 1 + 15 * np.sin(np.pi * s) ** 2`.
    """

    file: str
    """The Python file and the function in it, `shape.py:stiffness` (without a name: `shape`)."""
    points: int = 201
    """Knots of the spline."""
    low: float = 0.0
    """s of the first knot (at most 0)."""
    high: float = 1.0
    """s of the last knot (at least 1)."""
    ends: Ends = "free"
    """What holds at and beyond the first and last knot: free, flat or periodic, see `Interpolated`."""
    sha256: str = ""
    """SHA-256 of the file; found when it is empty."""
    text: str = ""
    """Text of the file, which a configuration keeps; read when the file is gone."""

    def __post_init__(self) -> None:
        from entropy_sim.user_file import settle

        found, text = settle("file", self.file, self.sha256, self.text)
        object.__setattr__(self, "sha256", found)
        object.__setattr__(self, "text", text)
        _ = self.table  # a mistake in the file is found now

    @functools.cached_property
    def table(self) -> Interpolated:
        """The same in numbers."""
        from entropy_sim.user_code import load
        from entropy_sim.user_file import named

        path, name = named(self.file, "shape")
        module = load("file", path, self.text)
        return tabulate(
            "file", lambda s: module.call(name, s), self.points, self.low, self.high, self.ends, TOLERANCE, self.file
        )

    def nodes(self) -> tuple[Floats, Floats, Ends]:
        return self.table.nodes()


def tabulate(
    option: str,
    function: Callable[[Floats], Floats],
    points: int,
    low: float,
    high: float,
    ends: Ends,
    tolerance: float,
    name: str = "",
) -> Interpolated:
    """`Interpolated.from_function`, with mistakes named after an option."""
    name = name or getattr(function, "__name__", "function")
    require(2 <= points <= 100_001, "points", "2…100001", points)
    require(bool(np.isfinite(low) and low <= 0), "low", "a number <= 0", low)
    require(bool(np.isfinite(high) and high >= 1), "high", "a number >= 1", high)
    knots = np.linspace(low, high, points)

    def evaluate(s: Floats) -> Floats:
        found = function(s)
        try:
            found = np.broadcast_to(np.asarray(found, dtype=np.float64), s.shape)
        except (TypeError, ValueError):
            shape = getattr(found, "shape", type(found).__name__)
            raise UserError(
                f"{option}: expected one number for each s from {name} (s of shape {s.shape}), found {shape}"
            ) from None
        bad = ~np.isfinite(found)
        if bad.any():
            raise UserError(f"{option}: expected finite numbers from {name}, found {found[bad][0]} at s = {s[bad][0]}")
        return found

    values = evaluate(knots)
    if ends == "periodic" and abs(values[-1] - values[0]) <= 1e-12 * np.abs(values).max():
        values = np.append(values[:-1], values[0])  # sin(2π) is not quite 0
    spline = Interpolated(tuple(values.tolist()), () if (low, high) == (0, 1) else tuple(knots.tolist()), ends)
    between = (knots[:-1, None] + np.diff(knots)[:, None] * (np.arange(_BETWEEN) + 0.5) / _BETWEEN).ravel()
    exact = evaluate(between)
    error = np.abs(spline.value(between) - exact)
    limit = tolerance * max(float(np.abs(exact).max()), float(np.abs(values).max()))
    worst = int(error.argmax())
    if error[worst] > limit:
        raise UserError(
            f"points: expected enough for the spline to be within {limit:.3g} of {name}, found {points}, with an error "
            f"of {error[worst]:.3g} at s = {between[worst]:.6g}"
        )
    return spline
