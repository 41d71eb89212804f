"""The entropic channel: a straight valley whose transverse stiffness changes along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, block_function, inline
from entropy_sim._random import fast_exp
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Floats, Landscape, axis_directions, axis_tangent, column, straight

# --- shapes along the path -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bump:
    """Stiffness low at both ends and high in the middle, ``end + (middle - end) max(0, 1 - u²)³``, u = (s - 1/2)/width.

    Twice continuously differentiable; exactly `end` from |s - 1/2| = width outwards and `middle` at s = 1/2.
    """

    end: float = 1.0
    """Stiffness far from the middle, loss / parameter² (> 0)."""
    middle: float = 16.0
    """Stiffness at s = 1/2 (> 0; below `end` it is a dip)."""
    width: float = 0.5
    """Half-width of the bump in s (> 0, at most 1/2)."""

    code: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _positive("stiffness.end", self.end)
        _positive("stiffness.middle", self.middle)
        require(0 < self.width <= 0.5, "stiffness.width", "0 < width <= 0.5", self.width)

    def numbers(self) -> tuple[float, float, float]:
        return self.end, self.middle - self.end, 1.0 / self.width

    def value(self, s: Floats) -> Floats:
        return self.end + (self.middle - self.end) * np.maximum(0.0, 1.0 - ((s - 0.5) / self.width) ** 2) ** 3

    def slope(self, s: Floats) -> Floats:
        inside = np.maximum(0.0, 1.0 - ((s - 0.5) / self.width) ** 2)
        return -6.0 * (self.middle - self.end) * inside**2 * (s - 0.5) / self.width**2


@dataclass(frozen=True)
class DoubleWell:
    """A double well in the curvature alone, ``well + (middle - well) (1 - u²)²``, u = 2 (s - 1/2) / separation.

    Softest at s = 1/2 ± separation/2, stiff in the middle and towards the ends.
    """

    well: float = 1.0
    """Stiffness at the two soft places, loss / parameter² (> 0)."""
    middle: float = 16.0
    """Stiffness at s = 1/2 (at least `well`)."""
    separation: float = 0.6
    """Distance in s of the two soft places (0.4…1; closer ones would leave very stiff ends)."""

    code: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _positive("stiffness.well", self.well)
        require(
            np.isfinite(self.middle) and self.middle >= self.well,
            "stiffness.middle",
            f"at least the well's {self.well:g}",
            self.middle,
        )
        require(0.4 <= self.separation <= 1.0, "stiffness.separation", "0.4…1", self.separation)

    def numbers(self) -> tuple[float, float, float]:
        return self.well, self.middle - self.well, 2.0 / self.separation

    def value(self, s: Floats) -> Floats:
        return self.well + (self.middle - self.well) * (1.0 - (2.0 * (s - 0.5) / self.separation) ** 2) ** 2

    def slope(self, s: Floats) -> Floats:
        u = 2.0 * (s - 0.5) / self.separation
        return -4.0 * (self.middle - self.well) * u * (1.0 - u**2) * 2.0 / self.separation


@dataclass(frozen=True)
class Exponential:
    """Stiffness ``start (end/start)^s``: its logarithm is linear, so the thermal mean force is the same everywhere."""

    start: float = 1.0
    """Stiffness at s = 0, loss / parameter² (> 0)."""
    end: float = 16.0
    """Stiffness at s = 1 (> 0)."""

    code: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _positive("stiffness.start", self.start)
        _positive("stiffness.end", self.end)

    def numbers(self) -> tuple[float, float, float]:
        return self.start, float(np.log(self.end / self.start)), 0.0

    def value(self, s: Floats) -> Floats:
        return self.start * (self.end / self.start) ** s

    def slope(self, s: Floats) -> Floats:
        return np.log(self.end / self.start) * self.value(s)


@dataclass(frozen=True)
class Flat:
    """No energy along the path, U = 0."""

    def height_along_path(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Barrier:
    """A smooth energy barrier between the ends, ``U = height (1 - u²)²``, u = 2 s - 1; minima at s = 0 and 1."""

    height: float = 0.1
    """Energy at s = 1/2, loss (negative: a well)."""

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.height)), "along.height", "a finite number", self.height)

    def height_along_path(self) -> float:
        return self.height


def _positive(option: str, value: float) -> None:
    require(bool(np.isfinite(value) and value > 0), option, "a positive number", value)


# --- compiled --------------------------------------------------------------------------------------------------------

# params: length, 1 if periodic, shape code, three numbers of the shape, height of U, amplitudes a_1…


@inline
def _fold(y, length, periodic):  # type: ignore[no-untyped-def]
    """Position s in 0…1 and the sign of ds/dy, for a coordinate y on the whole line."""
    r = y / length
    turns = 1.0 if periodic else 2.0
    r = r - turns * np.floor(r / turns)
    mirrored = r > 1.0 + 1e-12  # the rounding of y = length must not look like a reflection
    return (2.0 - r if mirrored else r), (-1.0 if mirrored else 1.0)


@inline
def _shape_into(code, a, b, c, s, value, slope):  # type: ignore[no-untyped-def]
    """Stiffness shape and its slope per s at s (walkers,)."""
    if code == 0.0:
        for w in range(s.size):
            u = (s[w] - 0.5) * c
            inside = max(0.0, 1.0 - u * u)
            value[w] = a + b * inside * inside * inside
            slope[w] = -6.0 * b * c * u * inside * inside
    elif code == 1.0:
        for w in range(s.size):
            u = (s[w] - 0.5) * c
            inside = 1.0 - u * u
            value[w] = a + b * inside * inside
            slope[w] = -4.0 * b * c * u * inside
    else:
        for w in range(s.size):
            value[w] = a * fast_exp(b * s[w])
            slope[w] = b * value[w]


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    length, periodic, height = params[0], params[1] != 0.0, params[6]
    d, walkers = theta.shape
    s, value, slope = np.empty(walkers), np.empty(walkers), np.empty(walkers)
    sign, square = np.empty(walkers), np.zeros(walkers)
    for w in range(walkers):
        s[w], sign[w] = _fold(theta[0, w], length, periodic)
    _shape_into(params[2], params[3], params[4], params[5], s, value, slope)
    for i in range(1, d):
        amplitude = params[6 + i]
        for w in range(walkers):
            pull = amplitude * theta[i, w]
            out[i, w] = pull * value[w]
            square[w] += pull * theta[i, w]
    for w in range(walkers):
        u = 2.0 * s[w] - 1.0
        out[0, w] = sign[w] / length * (0.5 * slope[w] * square[w] - 8.0 * height * u * (1.0 - u * u))


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    length, periodic = params[0], params[1] != 0.0
    d, walkers = theta.shape
    for w in range(walkers):
        out[0, w] = _fold(theta[0, w], length, periodic)[0]
        out[1, w] = 0.0
    for i in range(1, d):
        for w in range(walkers):
            out[1, w] += theta[i, w] * theta[i, w]


@block_function
def _stiffness(theta, out, params):  # type: ignore[no-untyped-def]
    length, periodic = params[0], params[1] != 0.0
    d, walkers = theta.shape
    s, value, slope = np.empty(walkers), np.empty(walkers), np.empty(walkers)
    for w in range(walkers):
        s[w] = _fold(theta[0, w], length, periodic)[0]
    _shape_into(params[2], params[3], params[4], params[5], s, value, slope)
    for i in range(1, d):
        for w in range(walkers):
            out[i, w] = params[6 + i] * value[w]


# --- the landscape ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channel(Landscape):
    """A straight valley, ``L(y, x) = U(y) + 1/2 sum_i k_i(y) x_i²`` with ``k_i(y) = a_i k(y / length)``.

    theta = (y, x_1, …): y runs along the path, x_i across it. With thermal noise the marginal of y is exactly
    ``p ∝ exp(-U/T) prod k_i^(-1/2)`` and the mean force ``-U' - (T/2) sum k_i'/k_i``. The default has the paper's
    picture: no energy along the path, soft ends, a stiff middle.

    Example. On `Channel(stiffness=Exponential(1, e²), transverse_directions=1)` with temperature T the mean force is
    exactly -T everywhere: k'/k = 2.
    """

    stiffness: Bump | DoubleWell | Exponential = Bump()
    """How the transverse stiffness changes along the path."""
    along: Flat | Barrier = Flat()
    """Energy along the path, U."""
    transverse_directions: int = 4
    """Number of transverse coordinates."""
    amplitudes: tuple[float, ...] = ()
    """Factor a_i of each transverse direction's stiffness; empty for 1 each."""
    length: float = 1.0
    """Arc length of the path, parameter units."""
    boundary: Literal["reflecting", "periodic"] = "reflecting"
    """What happens at s = 0 and 1."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate
    transverse_stiffness: ClassVar[Compiled] = _stiffness

    def __post_init__(self) -> None:
        _positive("landscape.length", self.length)
        require(
            self.transverse_directions >= 1,
            "landscape.transverse_directions",
            "at least 1",
            self.transverse_directions,
        )
        require(
            len(self.amplitudes) in (0, self.transverse_directions),
            "landscape.amplitudes",
            f"one for each of the {self.transverse_directions} transverse directions, or none",
            self.amplitudes,
        )
        require(
            all(np.isfinite(a) and a > 0 for a in self.amplitudes),
            "landscape.amplitudes",
            "positive numbers",
            self.amplitudes,
        )
        require(
            self.boundary in ("reflecting", "periodic"), "landscape.boundary", "reflecting or periodic", self.boundary
        )

    @property
    def dimension(self) -> int:
        return self.transverse_directions + 1

    @property
    def arc_length(self) -> float:
        return self.length

    def _amplitudes(self) -> Floats:
        return np.array(self.amplitudes or (1.0,) * self.transverse_directions, dtype=np.float64)

    def params(self) -> Floats:
        head = [self.length, float(self.boundary == "periodic"), self.stiffness.code, *self.stiffness.numbers()]
        return np.array([*head, self.along.height_along_path(), *self._amplitudes()], dtype=np.float64)

    def fold(self, y: Floats) -> Floats:
        """s in 0…1 of an unwrapped coordinate y."""
        r = np.mod(y / self.length, 1.0 if self.boundary == "periodic" else 2.0)
        return np.where(r > 1.0, 2.0 - r, r)

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        s = self.fold(x[..., 0])
        energy = self.along.height_along_path() * (1.0 - (2.0 * s - 1.0) ** 2) ** 2
        return energy + 0.5 * self.stiffness.value(s) * (self._amplitudes() * x[..., 1:] ** 2).sum(axis=-1)

    def path(self, s: ArrayLike) -> Floats:
        return straight(s, self.length, self.dimension)

    def tangent(self, s: ArrayLike) -> Floats:
        return axis_tangent(s, self.dimension)

    def mode_directions(self, s: ArrayLike) -> Floats:
        return axis_directions(s, self.dimension)

    def curvature(self, s: ArrayLike) -> Floats:
        return self.stiffness.value(column(s))[:, None] * self._amplitudes()

    def curvature_slope(self, s: ArrayLike) -> Floats:
        return self.stiffness.slope(column(s))[:, None] * self._amplitudes() / self.length
