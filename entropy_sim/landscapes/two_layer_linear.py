"""The smallest network with a valley of minima, f(x) = u w x, on actual samples: minibatches are really drawn."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import int64, uint64
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, block_function, inline, noise_function
from entropy_sim._random import philox
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Floats, Landscape, column
from entropy_sim.landscapes.samples import GeneratedSamples, SampleFile, Samples
from entropy_sim.theory.minibatch import batch_mean_factor

# --- arc length of the hyperbola -------------------------------------------------------------------------------------

# The valley is u = sqrt|a| e^tau, w = ± sqrt|a| e^-tau, its arc length sqrt(2 |a|) G(tau), G = int_0^tau sqrt(cosh 2 x)
# dx (an elliptic integral). Up to tau = 1, G / tau is a Chebyshev series in tau²; beyond, sqrt(1 + e^-4x) is expanded.
_BINOMIAL = np.cumprod([1.0, *((0.5 - n) / (n + 1.0) for n in range(11))])
_POWERS = 1.0 - 4.0 * np.arange(12)
_FAR = _BINOMIAL / _POWERS / np.sqrt(2.0)


def _near_series() -> Floats:
    nodes, weights = np.polynomial.legendre.leggauss(40)
    mean = lambda tau: (np.sqrt(np.cosh(tau[:, None] * (1.0 + nodes))) * weights).sum(axis=1) / 2.0  # noqa: E731
    return chebyshev.chebinterpolate(lambda x: mean(np.sqrt(np.maximum(0.5 * (x + 1.0), 0.0))), 26)


_NEAR = _near_series()
_FAR_CONSTANT = float(chebyshev.chebval(1.0, _NEAR) - (_FAR * np.exp(_POWERS)).sum())


def _arc(tau: Floats) -> Floats:
    """G(tau), (n,), to 1e-14."""
    size = np.abs(tau)
    near = size * chebyshev.chebval(2.0 * np.minimum(size, 1.0) ** 2 - 1.0, _NEAR)
    far = _FAR_CONSTANT + (_FAR * np.exp(np.maximum(size, 1.0)[:, None] * _POWERS)).sum(axis=1)
    return np.sign(tau) * np.where(size <= 1.0, near, far)


def _arc_inverse(arc: Floats) -> Floats:
    """tau of G, by Newton's method: G is convex for tau > 0, so that it converges from above."""
    size = np.abs(arc)
    tau = np.minimum(size, np.log1p(np.sqrt(2.0) * size))
    for _ in range(60):
        step = (_arc(tau) - size) / np.sqrt(np.cosh(2.0 * tau))
        tau = tau - step
        if np.all(np.abs(step) <= 1e-15 * (1.0 + tau)):
            break
    return np.sign(arc) * tau


# --- compiled --------------------------------------------------------------------------------------------------------

# params: E x², E x y, sqrt|a|, sign of a, G at the end of the path.


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    for w in range(theta.shape[1]):
        residual = params[0] * theta[0, w] * theta[1, w] - params[1]
        out[0, w] = residual * theta[1, w]
        out[1, w] = residual * theta[0, w]


@inline
def _arc_of_exponential(x):  # type: ignore[no-untyped-def]
    """G(ln x), x >= 1."""
    tau = np.log(x)
    if tau > 1.0:
        inverse = 1.0 / (x * x)
        fourth, power, total = inverse * inverse, x, 0.0
        for n in range(_FAR.size):
            total += _FAR[n] * power
            power *= fourth
        return _FAR_CONSTANT + total
    z = 2.0 * (2.0 * tau * tau - 1.0)
    later, last = 0.0, 0.0
    for n in range(_NEAR.size - 1, 0, -1):
        later, last = _NEAR[n] + z * later - last, later
    return tau * (_NEAR[0] + 0.5 * z * later - last)


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    """Nearest point (x, 1/x) of the hyperbola to (p, q), all over sqrt|a|, p >= q by symmetry: the root x >= 1 of
    h = x⁴ - p x³ + q x - 1. It is the only one from max(1, p/2) on, where h is convex: Newton's method converges from
    every start there with h' > 0."""
    for w in range(theta.shape[1]):
        u, v = theta[0, w] / params[2], theta[1, w] / params[2] * params[3]
        p, q = (u, v) if u >= v else (v, u)
        x = max(p, 1.0) if q >= 0.0 else max(p, 0.0) + 1.0 + np.sqrt(-q)
        for _ in range(100):
            step = (((x - p) * x * x + q) * x - 1.0) / ((4.0 * x - 3.0 * p) * x * x + q)
            x = max(x - step, 1.0)
            if not abs(step) > 1e-15 * x:  # also for NaN
                break
        arc = _arc_of_exponential(x) + 0.0 * (u + v)  # NaN stays NaN
        out[0, w] = 0.5 + 0.5 * (arc if u >= v else -arc) / params[4]
        out[1, w] = ((p - x) * (p - x) + (q - 1.0 / x) * (q - 1.0 / x)) * params[2] * params[2]


_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_APART = 1 << 31  # counters of draws that are no normals begin here
_HEAD = 6


@inline
def _draw(first_walker, w, j, step, seed):  # type: ignore[no-untyped-def]
    """Four random 32-bit words."""
    t = uint64(step)
    return philox(uint64(first_walker + w), uint64(_APART + j), t & _LOW, t >> _32, seed & _LOW, seed >> _32)


# params: batch size (0: all), 1 if with replacement, strength of label noise, number of samples N, E x², E x y, then x²
# and x y of every sample.


@noise_function
def _sampled(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    batch, n, label = int64(params[0]), int64(params[3]), params[2]
    second, product = params[4], params[5]
    walkers, number = theta.shape[1], uint64(n)
    x2, xy = np.zeros(walkers), np.zeros(walkers)
    size = batch if batch > 0 else n
    if batch > 0 and params[1] != 0.0:
        words = np.empty((4, walkers), dtype=np.uint64)
        for j in range((batch + 3) // 4):
            for w in range(walkers):  # words in a loop of their own, which is vectorised
                words[0, w], words[1, w], words[2, w], words[3, w] = _draw(first_walker, w, j, step, seed)
            for m in range(min(4, batch - 4 * j)):
                for w in range(walkers):
                    i = _HEAD + 2 * int64((words[m, w] * number) >> _32)
                    x2[w] += params[i]
                    xy[w] += params[i + 1]
        for w in range(walkers):
            x2[w] = x2[w] / size - second
            xy[w] = xy[w] / size - product
    elif 0 < batch < n:
        # The fewer of those in the batch and those left out are drawn, by swaps that are undone for the next walker.
        drawn = min(batch, n - batch)
        scale = 1.0 / batch if batch == drawn else -1.0 / batch
        order, swapped = np.arange(n), np.empty(drawn, dtype=np.int64)
        words = np.empty((4 * ((drawn + 3) // 4), walkers), dtype=np.uint64)
        for j in range((drawn + 3) // 4):
            for w in range(walkers):
                row = 4 * j
                some = _draw(first_walker, w, j, step, seed)
                words[row, w], words[row + 1, w], words[row + 2, w], words[row + 3, w] = some
        for w in range(walkers):
            for m in range(drawn):
                k = m + int64((words[m, w] * uint64(n - m)) >> _32)
                swapped[m] = k
                order[m], order[k] = order[k], order[m]
                # Deviations from the mean over all samples, whose sum is zero: those left out count with a minus.
                x2[w] += params[_HEAD + 2 * order[m]] - second
                xy[w] += params[_HEAD + 2 * order[m] + 1] - product
            for m in range(drawn - 1, -1, -1):
                k = swapped[m]
                order[m], order[k] = order[k], order[m]
            x2[w] *= scale
            xy[w] *= scale
    for w in range(walkers):
        noise[0, w] = x2[w] * theta[0, w] * theta[1, w] - xy[w]
    if label > 0.0:
        # The batch mean of x_b times independent normals is one normal of variance (batch mean of x²) / batch size.
        for w in range(walkers):
            noise[0, w] -= label * np.sqrt(max(x2[w] + second, 0.0) / size) * xi[0, w]
    for w in range(walkers):
        shift = noise[0, w]
        noise[0, w] = shift * theta[1, w]
        noise[1, w] = shift * theta[0, w]


# --- the landscape ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoLayerLinear(Landscape):
    """``L = 1/2 mean_i (u w x_i - y_i)²``, theta = (u, w): minima on the hyperbola ``u w = a = E xy / E x²``.

    The path is its branch u > 0 from balance ``u² - w² = -balance`` to +balance; its loss is that of the irreducible
    residuals, its stiffness ``Tr H = (u² + w²) E x²``, least in the middle. Gradient flow conserves the balance; one
    step of SGD multiplies it by exactly ``1 - eta² g²``, g the batch mean of x (u w x - y): only noise that is there at
    the minimum, of labels or residuals, moves it, towards 0 (which no walker reaches or crosses: b falls for ever, and
    no density of it but a delta function is stationary). s is that of the nearest point of the branch, and goes on
    beyond 0…1. `Minibatch` and `Label` draw samples really; nothing is taken to be Gaussian.

    The law of balance: Ziyin, Li, Mori, Ueda, arXiv 2202.04825 (2022). Gradient flow: Saxe, McClelland, Ganguli, ICLR
    2014 (arXiv 1312.6120).
    """

    data: GeneratedSamples | Samples | SampleFile = GeneratedSamples()
    """The samples."""
    balance: float = 3.0
    """Where the path ends: u² - w² there, parameter² (> 0)."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate
    sampled_gradient: ClassVar[Compiled] = _sampled

    def __post_init__(self) -> None:
        good = bool(np.isfinite(self.balance) and self.balance > 0)
        require(good, "landscape.balance", "a positive number", self.balance)
        x, y = self._samples
        require(bool(np.any(x != 0)), "landscape.data", "an input other than 0", "none")
        cosine = float(x @ y) / max(float(np.sqrt((x @ x) * (y @ y))), 1e-300)
        require(
            abs(cosine) > 1e-9, "landscape.data", "inputs and targets that correlate (a valley u w = 0 forks)", cosine
        )

    @functools.cached_property
    def _samples(self) -> tuple[Floats, Floats]:
        return self.data.numbers()

    @functools.cached_property
    def _moments(self) -> tuple[float, float]:
        """E x² and E x y."""
        x, y = self._samples
        return float((x * x).mean()), float((x * y).mean())

    @property
    def product(self) -> float:
        """a = u w at the minima."""
        return self._moments[1] / self._moments[0]

    @property
    def second_moment(self) -> float:
        """E x²."""
        return self._moments[0]

    @property
    def _end(self) -> float:
        """tau at s = 1: u² - w² = 2 |a| sinh 2 tau."""
        return 0.5 * float(np.arcsinh(0.5 * self.balance / abs(self.product)))

    @functools.cached_property
    def _end_arc(self) -> float:
        return float(_arc(np.array([self._end]))[0])

    @property
    def dimension(self) -> int:
        return 2

    @property
    def arc_length(self) -> float:
        return float(2.0 * np.sqrt(2.0 * abs(self.product)) * self._end_arc)

    def params(self) -> Floats:
        a = self.product
        return np.array([*self._moments, np.sqrt(abs(a)), np.sign(a), self._end_arc])

    def energy(self, theta: ArrayLike) -> Floats:
        t = np.asarray(theta, dtype=np.float64)
        x, y = self._samples
        irreducible = float(((self.product * x - y) ** 2).mean())
        return 0.5 * self._moments[0] * (t[..., 0] * t[..., 1] - self.product) ** 2 + 0.5 * irreducible

    def path(self, s: ArrayLike) -> Floats:
        tau, a = _arc_inverse((2.0 * column(s) - 1.0) * self._end_arc), self.product
        return np.sqrt(abs(a)) * np.stack([np.exp(tau), np.sign(a) * np.exp(-tau)], axis=1)

    def tangent(self, s: ArrayLike) -> Floats:
        point = self.path(s)
        return point * [1.0, -1.0] / np.linalg.norm(point, axis=1, keepdims=True)

    def mode_directions(self, s: ArrayLike) -> Floats:
        point = self.path(s)
        return (point[:, ::-1] / np.linalg.norm(point, axis=1, keepdims=True))[:, None, :]

    def path_curvature(self, s: ArrayLike) -> Floats:
        norm = np.linalg.norm(self.path(s), axis=1, keepdims=True)
        return 2.0 * self.product * self.mode_directions(s)[:, 0] / norm**3

    def curvature(self, s: ArrayLike) -> Floats:
        return self._moments[0] * (self.path(s) ** 2).sum(axis=1, keepdims=True)

    def curvature_slope(self, s: ArrayLike) -> Floats:
        square = self.path(s) ** 2
        return 2.0 * self._moments[0] * (square[:, :1] - square[:, 1:]) / np.sqrt(square.sum(axis=1, keepdims=True))

    def tangential_curvature(self, s: ArrayLike) -> Floats:
        return np.zeros(np.size(s))

    def path_slope(self, s: ArrayLike) -> Floats:
        return np.zeros(np.size(s))

    @property
    def sample_count(self) -> int:
        return len(self._samples[0])

    def sample_params(self) -> Floats:
        x, y = self._samples
        return np.concatenate([[len(x), *self._moments], np.column_stack([x * x, x * y]).ravel()])

    def _share(self, batch_size: int, replacement: bool) -> float:
        """Variance of the mean of a batch over that of one sample."""
        return float(batch_mean_factor(batch_size, None if replacement else self.sample_count))

    def batch_gradient_variance(self, batch_size: int | None, replacement: bool, label_noise: float) -> float:
        """Variance of g, the batch mean of x (u w x - y), on the valley, where it is the same everywhere:
        ``f Var(x r) + label_noise² E x² / B``, f = 1/B or, without replacement, (N-B)/(B (N-1)); None: all samples."""
        x, y = self._samples
        size = self.sample_count if batch_size is None else batch_size
        share = 0.0 if batch_size is None else self._share(batch_size, replacement)
        residual = x * (self.product * x - y)
        return share * float(residual.var()) + label_noise**2 * self._moments[0] / size

    def sampled_variance(
        self, s: ArrayLike, batch_size: int | None, replacement: bool, label_noise: float
    ) -> tuple[Floats, Floats]:
        """Along the path nothing: the gradient of every sample is g (w, u) there."""
        g = self.batch_gradient_variance(batch_size, replacement, label_noise)
        return np.zeros(np.size(s)), g * (self.path(s) ** 2).sum(axis=1, keepdims=True)

    def sampled_curvature_variance(self, s: ArrayLike, batch_size: int, replacement: bool) -> Floats:
        spread = self._share(batch_size, replacement) * float((self._samples[0] ** 2).var())
        return spread * (self.path(s) ** 2).sum(axis=1, keepdims=True) ** 2

    def stationary_obstacle(self, exponent: float | None = 0.0, ratio: float = 1.0) -> str | None:
        return "a flat valley without end: u w = a goes on beyond the path, and its weight does not fall off"
