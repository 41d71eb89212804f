"""Functions of the position s along a path: transverse stiffnesses k(s) and energies U(s), with their slopes.

Every one is defined and once continuously differentiable on the whole line, as an open valley needs it; a stiffness
is positive there. Those given by numbers or by a user's function are in `interpolated`, the compiled code in `_shapes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from entropy_sim.errors import require
from entropy_sim.landscapes._shapes import BUMP, EXPONENTIAL, FLAT, LINEAR, POWER, QUARTIC, WALL
from entropy_sim.landscapes.base import Floats

#: Towards s = -inf and s = +inf: (p, c) of c |s|^p, or (±inf, r) of exp(r |s|).
Tails = tuple[tuple[float, float], tuple[float, float]]


class Shape:
    """A function of s. code and numbers() (four) tell the compiled `shape_into` which."""

    code: ClassVar[int]

    def numbers(self) -> tuple[float, float, float, float]:
        raise NotImplementedError

    def value(self, s: Floats) -> Floats:
        """The function at s (...)."""
        raise NotImplementedError

    def slope(self, s: Floats) -> Floats:
        """Its derivative with respect to s, (...)."""
        raise NotImplementedError

    def tails(self) -> Tails:
        """How it behaves far from the path."""
        raise NotImplementedError

    def lowest(self, low: float, high: float) -> tuple[float, float] | None:
        """Least value in low…high and its s, where that may be negative; None where the formula is positive."""
        return None

    def record(self) -> Floats:
        """What `shape_into` reads: code, the four numbers, and a table if there is one."""
        return np.array([self.code, *self.numbers()], dtype=np.float64)


# --- stiffnesses -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bump(Shape):
    """Stiffness low at both ends and high in the middle, ``end + (middle - end) max(0, 1 - u²)³``, u = (s - 1/2)/width.

    Twice continuously differentiable; exactly `end` from |s - 1/2| = width outwards and `middle` at s = 1/2.
    """

    end: float = 1.0
    """Stiffness far from the middle, loss / parameter² (> 0)."""
    middle: float = 16.0
    """Stiffness at s = 1/2 (> 0; below `end` it is a dip)."""
    width: float = 0.5
    """Half-width of the bump in s (> 0, at most 1/2)."""

    code: ClassVar[int] = BUMP

    def __post_init__(self) -> None:
        _positive("stiffness.end", self.end)
        _positive("stiffness.middle", self.middle)
        require(0 < self.width <= 0.5, "stiffness.width", "0 < width <= 0.5", self.width)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.end, self.middle - self.end, 1.0 / self.width, 0.0

    def value(self, s: Floats) -> Floats:
        return self.end + (self.middle - self.end) * np.maximum(0.0, 1.0 - ((s - 0.5) / self.width) ** 2) ** 3

    def slope(self, s: Floats) -> Floats:
        inside = np.maximum(0.0, 1.0 - ((s - 0.5) / self.width) ** 2)
        return -6.0 * (self.middle - self.end) * inside**2 * (s - 0.5) / self.width**2

    def tails(self) -> Tails:
        return (0.0, self.end), (0.0, self.end)


@dataclass(frozen=True)
class DoubleWell(Shape):
    """A double well in the curvature alone, ``well + (middle - well) (1 - u²)²``, u = 2 (s - 1/2) / separation.

    Softest at s = 1/2 ± separation/2, stiff in the middle and towards the ends; on an open line it goes on to grow as
    s⁴.
    """

    well: float = 1.0
    """Stiffness at the two soft places, loss / parameter² (> 0)."""
    middle: float = 16.0
    """Stiffness at s = 1/2 (at least `well`)."""
    separation: float = 0.6
    """Distance in s of the two soft places (0.4…1; closer ones would leave very stiff ends)."""

    code: ClassVar[int] = QUARTIC

    def __post_init__(self) -> None:
        _positive("stiffness.well", self.well)
        require(
            np.isfinite(self.middle) and self.middle >= self.well,
            "stiffness.middle",
            f"at least the well's {self.well:g}",
            self.middle,
        )
        require(0.4 <= self.separation <= 1.0, "stiffness.separation", "0.4…1", self.separation)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.well, self.middle - self.well, 2.0 / self.separation, 0.0

    def value(self, s: Floats) -> Floats:
        return _quartic(s, *self.numbers()[:3])

    def slope(self, s: Floats) -> Floats:
        return _quartic_slope(s, *self.numbers()[:3])

    def tails(self) -> Tails:
        tail = (4.0, 1.0) if self.middle > self.well else (0.0, self.well)
        return tail, tail


@dataclass(frozen=True)
class Exponential(Shape):
    """Stiffness ``start (end/start)^s``: its logarithm is linear, so the thermal mean force is the same everywhere."""

    start: float = 1.0
    """Stiffness at s = 0, loss / parameter² (> 0)."""
    end: float = 16.0
    """Stiffness at s = 1 (> 0)."""

    code: ClassVar[int] = EXPONENTIAL

    def __post_init__(self) -> None:
        _positive("stiffness.start", self.start)
        _positive("stiffness.end", self.end)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.start, float(np.log(self.end / self.start)), 0.0, 0.0

    def value(self, s: Floats) -> Floats:
        start, rate = self.numbers()[:2]
        return start * np.exp(np.clip(rate * s, -700.0, 700.0))

    def slope(self, s: Floats) -> Floats:
        return self.numbers()[1] * self.value(s)

    def tails(self) -> Tails:
        rate = self.numbers()[1]
        sign = float(np.sign(rate))
        return ((-sign * np.inf, -rate), (sign * np.inf, rate)) if rate else ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Power(Shape):
    """A power law with a rounded foot, ``floor (1 + ((s - centre) / width)²)^(exponent / 2)``.

    Infinitely differentiable and positive everywhere for every real exponent; ``floor |(s - centre) / width|^exponent``
    far from the centre, where the entropic force of one direction is ``-(T/2) exponent / (y - y_centre)``, whatever
    floor and width. Exponent 2 is ``floor + scale (s - centre)²`` with scale = floor / width².
    """

    floor: float = 1.0
    """Stiffness at the centre, loss / parameter² (> 0)."""
    exponent: float = 2.0
    """Power with which it grows far from the centre (negative: falls)."""
    centre: float = 0.5
    """s of the least stiffness (negative exponent: of the greatest)."""
    width: float = 0.2
    """Distance in s over which it changes near the centre (> 0)."""

    code: ClassVar[int] = POWER

    def __post_init__(self) -> None:
        _positive("stiffness.floor", self.floor)
        _finite("stiffness.exponent", self.exponent)
        _finite("stiffness.centre", self.centre)
        require(bool(np.isfinite(self.width) and self.width >= 1e-6), "stiffness.width", "at least 1e-6", self.width)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.floor, 0.5 * self.exponent, self.centre, 1.0 / self.width

    def value(self, s: Floats) -> Floats:
        return self.floor * (1.0 + ((s - self.centre) / self.width) ** 2) ** (0.5 * self.exponent)

    def slope(self, s: Floats) -> Floats:
        u = (s - self.centre) / self.width
        return self.value(s) * self.exponent * u / ((1.0 + u * u) * self.width)

    def tails(self) -> Tails:
        return (self.exponent, 1.0), (self.exponent, 1.0)


# --- energies along the path -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat(Shape):
    """No energy along the path, U = 0."""

    code: ClassVar[int] = FLAT

    def numbers(self) -> tuple[float, float, float, float]:
        return 0.0, 0.0, 0.0, 0.0

    def value(self, s: Floats) -> Floats:
        return 0.0 * s

    def slope(self, s: Floats) -> Floats:
        return 0.0 * s

    def tails(self) -> Tails:
        return (0.0, 0.0), (0.0, 0.0)


@dataclass(frozen=True)
class Barrier(Shape):
    """A smooth energy barrier between the ends, ``U = height (1 - u²)²``, u = 2 s - 1; minima at s = 0 and 1.

    On an open line it is the quartic double well, which confines.
    """

    height: float = 0.1
    """Energy at s = 1/2, loss (negative: a well)."""

    code: ClassVar[int] = QUARTIC

    def __post_init__(self) -> None:
        _finite("along.height", self.height)

    def numbers(self) -> tuple[float, float, float, float]:
        return 0.0, self.height, 2.0, 0.0

    def value(self, s: Floats) -> Floats:
        return _quartic(s, 0.0, self.height, 2.0)

    def slope(self, s: Floats) -> Floats:
        return _quartic_slope(s, 0.0, self.height, 2.0)

    def tails(self) -> Tails:
        return (4.0, self.height), (4.0, self.height)


@dataclass(frozen=True)
class Confining(Shape):
    """Walls on both sides of a flat piece, ``U = strength max(0, |s - 1/2| - flat/2)^order``: for an open line.

    With flat = 0 and order 2 a harmonic trap of curvature 2 strength / length² about s = 1/2.
    """

    strength: float = 10.0
    """Energy one path length beyond the flat piece, loss (> 0)."""
    flat: float = 1.0
    """Length in s of the flat piece about s = 1/2 (>= 0)."""
    order: Literal[2, 4] = 2
    """Power with which the walls rise."""

    code: ClassVar[int] = WALL

    def __post_init__(self) -> None:
        _positive("along.strength", self.strength)
        require(bool(np.isfinite(self.flat) and self.flat >= 0), "along.flat", "a number >= 0", self.flat)
        require(self.order in (2, 4), "along.order", "2 or 4", self.order)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.strength, 0.5 * self.flat, float(self.order), 0.0

    def value(self, s: Floats) -> Floats:
        return self.strength * np.maximum(0.0, np.abs(s - 0.5) - 0.5 * self.flat) ** self.order

    def slope(self, s: Floats) -> Floats:
        beyond = np.maximum(0.0, np.abs(s - 0.5) - 0.5 * self.flat)
        return self.order * self.strength * beyond ** (self.order - 1) * np.sign(s - 0.5)

    def tails(self) -> Tails:
        return (self.order, self.strength), (self.order, self.strength)


@dataclass(frozen=True)
class Tilted(Shape):
    """A constant force along the path, ``U = -drop s``: drop / length towards s = 1."""

    drop: float = 0.1
    """Energy that is lost from s = 0 to s = 1, loss (negative: gained)."""

    code: ClassVar[int] = LINEAR

    def __post_init__(self) -> None:
        _finite("along.drop", self.drop)

    def numbers(self) -> tuple[float, float, float, float]:
        return 0.0, -self.drop, 0.0, 0.0

    def value(self, s: Floats) -> Floats:
        return 0.0 - self.drop * s

    def slope(self, s: Floats) -> Floats:
        return -self.drop + 0.0 * s

    def tails(self) -> Tails:
        return (1.0, self.drop), (1.0, -self.drop)


def _positive(option: str, value: float) -> None:
    require(bool(np.isfinite(value) and value > 0), option, "a positive number", value)


def _finite(option: str, value: float) -> None:
    require(bool(np.isfinite(value)), option, "a finite number", value)


def _quartic(s: Floats, foot: float, height: float, scale: float) -> Floats:
    return foot + height * (1.0 - (scale * (s - 0.5)) ** 2) ** 2


def _quartic_slope(s: Floats, foot: float, height: float, scale: float) -> Floats:
    u = scale * (s - 0.5)
    return -4.0 * height * scale * u * (1.0 - u**2)
