"""Symmetric alpha-stable noise: heavy tails, the variance infinite, one number alpha between 0 and 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numba import uint64
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, inline, noise_function
from entropy_sim._random import _LOW, fast_exp, fast_log, philox
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies

_HALF_PI = 0.5 * math.pi
_FIRST, _LOWER, _TOP = np.uint64(1 << 31), np.uint64((1 << 31) - 1), np.uint64(31)


@inline
def _sine(x):  # type: ignore[no-untyped-def]
    """sin x for 0 <= x <= pi/2, relative error below 1e-14."""
    q = x * x
    p = 1.0 - q / 342.0 * (1.0 - q / 420.0)
    p = 1.0 - q / 110.0 * (1.0 - q / 156.0 * (1.0 - q / 210.0 * (1.0 - q / 272.0 * p)))
    return x * (1.0 - q / 6.0 * (1.0 - q / 20.0 * (1.0 - q / 42.0 * (1.0 - q / 72.0 * p))))


@inline
def _acute(word):  # type: ignore[no-untyped-def]
    """A uniform angle in (0, pi/2) from the lower 31 bits of a word, and a bit from the uppermost, as 0.0 or 1.0."""
    return (np.float64(np.int64(word & _LOWER)) + 0.5) * (_HALF_PI * 2.0**-31), np.float64(np.int64(word >> _TOP))


@inline
def _exponential(word):  # type: ignore[no-untyped-def]
    """An exponential number of mean 1 from 32 bits."""
    return -fast_log((np.float64(np.int64(word)) + 0.5) * 2.0**-32)


@inline
def _symmetric(alpha, angle_word, exponential_word):  # type: ignore[no-untyped-def]
    """Symmetric alpha-stable, characteristic function exp(-|u|^alpha): Chambers, Mallows, Stuck (1976).

    ``sin(αV)/cos V · (cos((1-α)V) / (W cos V))^((1-α)/α)``, with V = ±(pi/2 - c) so that nothing cancels in the tails.
    """
    c, sign = _acute(angle_word)
    cosine, other = _sine(c), abs(1.0 - alpha)
    ratio = _sine(_HALF_PI * (1.0 - other) + other * c) / (_exponential(exponential_word) * cosine)
    half = 0.5 * alpha * (_HALF_PI - c)
    power = fast_exp((1.0 - alpha) / alpha * fast_log(ratio))
    return (1.0 - 2.0 * sign) * 2.0 * _sine(half) * _sine(_HALF_PI - half) / cosine * power


@inline
def _positive(a, angle_word, exponential_word):  # type: ignore[no-untyped-def]
    """Positive a-stable, 0 < a <= 1, Laplace transform exp(-u^a): Kanter (1975).

    ``sin(aU)/sin U · (sin((1-a)U) / (W sin U))^((1-a)/a)``, U uniform in (0, pi); 1 for a = 1.
    """
    c, side = _acute(angle_word)
    u = c + side * (math.pi - 2.0 * c)  # c, or pi - c
    rest = math.pi - u
    below = a * u
    above = math.pi * (1.0 - a) + a * rest  # pi - a u
    first = _sine(min(below, above))
    small = (1.0 - a) * u
    second = _sine(min(small, math.pi * a + (1.0 - a) * rest))
    sine = _sine(c)
    ratio = max(second, 1e-300) / (_exponential(exponential_word) * sine)
    return first / sine * fast_exp((1.0 - a) / a * fast_log(ratio))


# params: factor on the unit law, alpha.
@noise_function
def _independent(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    d, walkers = noise.shape
    factor, alpha = params[0], params[1]
    k0, k1 = seed & _LOW, seed >> np.uint64(32)
    s0, s1 = uint64(step) & _LOW, uint64(step) >> np.uint64(32)
    for pair in range(d // 2):
        c1 = _FIRST + uint64(pair)
        for w in range(walkers):
            w0, w1, w2, w3 = philox(uint64(first_walker + w), c1, s0, s1, k0, k1)
            noise[2 * pair, w] = factor * _symmetric(alpha, w0, w1)
            noise[2 * pair + 1, w] = factor * _symmetric(alpha, w2, w3)
    if d % 2:
        c1 = _FIRST + uint64(d // 2)
        for w in range(walkers):
            w0, w1 = philox(uint64(first_walker + w), c1, s0, s1, k0, k1)[:2]
            noise[d - 1, w] = factor * _symmetric(alpha, w0, w1)


@noise_function
def _isotropic(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    """sqrt(2 A) times normals, A positive alpha/2-stable: characteristic function exp(-|u|^alpha), |u| the norm."""
    d, walkers = noise.shape
    k0, k1 = seed & _LOW, seed >> np.uint64(32)
    s0, s1 = uint64(step) & _LOW, uint64(step) >> np.uint64(32)
    size = np.empty(walkers)
    for w in range(walkers):
        w0, w1 = philox(uint64(first_walker + w), _FIRST, s0, s1, k0, k1)[:2]
        size[w] = params[0] * np.sqrt(2.0 * _positive(0.5 * params[1], w0, w1))
    for i in range(d):
        for w in range(walkers):
            noise[i, w] = size[w] * xi[i, w]


Components = Literal["independent", "isotropic"]


@dataclass(frozen=True)
class _Stable(Noise):
    """What both share. Per unit of its factor every component has the characteristic function exp(-|u|^alpha)."""

    tail_index: float = 1.5
    """Alpha, 0.1…2: P(|zeta| > x) falls like x^-alpha; 2 is Gaussian, of variance 2 scale²."""
    scale: float = 0.1
    """Scale sigma (>= 0), of the unit law exp(-|u|^alpha)."""
    components: Components = "independent"
    """independent: each coordinate jumps by itself. isotropic: all jump together, in any direction alike."""

    function: ClassVar[Compiled] = _independent

    def __post_init__(self) -> None:
        require(0.1 <= self.tail_index <= 2.0, "noise.tail_index", "0.1…2", self.tail_index)
        require(bool(np.isfinite(self.scale) and self.scale >= 0), "noise.scale", "a number >= 0", self.scale)
        kinds = ("independent", "isotropic")
        require(self.components in kinds, "noise.components", f"one of {', '.join(kinds)}", self.components)

    @property
    def has_finite_variance(self) -> bool:
        return self.tail_index == 2.0 or self.scale == 0.0

    def function_for(self, landscape: Landscape) -> Compiled:
        return _independent if self.components == "independent" else _isotropic

    def normals(self, landscape: Landscape) -> int:
        return 0 if self.components == "independent" else landscape.dimension

    def _strength(self, at_two: float) -> float:
        """D or C: that of the Gaussian for alpha = 2, else infinite."""
        return at_two if self.has_finite_variance else math.inf

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.repeat(self.along(landscape, s)[:, None], landscape.dimension - 1, axis=1)


@dataclass(frozen=True)
class Levy(_Stable):
    """``dθ = -∇L dt + sigma dL``, L a symmetric alpha-stable process of the unit law at t = 1. For `Overdamped`.

    A step of h adds sigma h^(1/alpha) zeta; alpha = 2 is thermal noise of temperature sigma². On ``1/2 k x²`` Euler's
    stationary law is alpha-stable of scale ``sigma (h / (1 - |1 - h k|^alpha))^(1/alpha)`` exactly. Variances are
    infinite below alpha = 2, so there is no effective potential, no timescale ratio, and no mean force; wells are left
    by single jumps, at a rate ∝ sigma^alpha whatever the height. References: Chambers, Mallows, Stuck, J. Am. Stat.
    Assoc. 71 (1976) 340; Imkeller, Pavlyukevich, J. Phys. A 39 (2006) L237.
    """

    supplies: ClassVar[Supplies] = "diffusion"

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        # The dynamics multiplies by sqrt(h).
        return np.array([self.scale * time_step ** (1.0 / self.tail_index - 0.5), self.tail_index])

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full(np.size(s), self._strength(self.scale**2))


@dataclass(frozen=True)
class LevyGradient(_Stable):
    """Gradient noise ``g = ∇L + sigma zeta`` with zeta symmetric alpha-stable, sigma the same at any learning rate.

    The heavy-tailed account of minibatches (Simsekli, Sagun, Gurbuzbalaban, ICML 2019). On ``1/2 k x²`` SGD without
    momentum has the stationary scale ``eta sigma / (1 - |1 - eta k|^alpha)^(1/alpha)`` exactly; alpha = 2 is a
    covariance of 2 sigma². See `Levy` for what does not exist below alpha = 2.
    """

    supplies: ClassVar[Supplies] = "gradient_covariance"

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([self.scale, self.tail_index])

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full(np.size(s), self._strength(2.0 * self.scale**2))
