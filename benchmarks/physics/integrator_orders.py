"""Convergence orders of the integrators: pathwise, in expectation, and in the invariant measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.physics._rows import Row
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import Compiled, block_function, observe_function
from entropy_sim.dynamics import Overdamped, Underdamped
from entropy_sim.dynamics.base import Dynamics
from entropy_sim.landscapes import Channel, Exponential
from entropy_sim.landscapes.base import Floats, Landscape, axis_directions, axis_tangent, column, straight
from entropy_sim.noise import CurvaturePower, Thermal
from entropy_sim.noise.base import Noise

TITLE = "strong and weak orders of the integrators, and the orders of their invariant measures"

#: Independent groups of walkers, for the jackknife.
GROUPS = 32
#: What the next order in h does to a slope at the steps used here; added to the statistical error in z.
NEXT_ORDER = 0.08
_DEPTH, _TEMPERATURE, _FRICTION = 2.0, 1.0, 1.0


def rows(quick: bool) -> list[Row]:
    """All rows of the claim."""
    return [*pathwise_orders(quick), *invariant_orders(quick)]


# --- a smooth landscape with bounded curvature, so that large steps stay stable --------------------------------------


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            x = theta[i, w]
            q = 1.0 / (1.0 + x * x)
            out[i, w] = x - 2.0 * params[0] * x * q * q


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    for w in range(theta.shape[1]):
        out[0, w] = theta[0, w]
        out[1, w] = 0.0


@dataclass(frozen=True)
class DoubleWells(Landscape):
    """``L = sum_i x_i² / 2 + a / (1 + x_i²)``, d independent double wells (a > 1/2), 1 - 2a <= L'' < 1 + a/2."""

    depth: float = _DEPTH
    dimensions: int = 8

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate

    @property
    def dimension(self) -> int:
        return self.dimensions

    @property
    def arc_length(self) -> float:
        return 1.0

    def params(self) -> Floats:
        return np.array([self.depth])

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        return (0.5 * x**2 + self.depth / (1.0 + x**2)).sum(axis=-1)

    def path(self, s: ArrayLike) -> Floats:
        return straight(s, 1.0, self.dimension)

    def tangent(self, s: ArrayLike) -> Floats:
        return axis_tangent(s, self.dimension)

    def mode_directions(self, s: ArrayLike) -> Floats:
        return axis_directions(s, self.dimension)

    def curvature(self, s: ArrayLike) -> Floats:
        return np.full((column(s).size, self.dimension - 1), 1.0 + 0.5 * self.depth)

    def curvature_slope(self, s: ArrayLike) -> Floats:
        return np.zeros((column(s).size, self.dimension - 1))


# --- orders from groups ----------------------------------------------------------------------------------------------


def order(steps: Floats, errors: Floats) -> tuple[float, float]:
    """Slope of ln |mean error| against ln h and its jackknife error; errors (groups, steps), independent groups."""
    mean, n = errors.mean(axis=0), len(errors)
    relative = errors.std(axis=0, ddof=1) / np.sqrt(n) / np.abs(mean)
    weight = 1.0 / (relative**2 + 0.03**2)

    def slope(e: Floats) -> float:
        return float(np.polyfit(np.log(steps), np.log(np.abs(e)), 1, w=np.sqrt(weight))[0])

    left = np.array([slope((mean * n - e) / (n - 1)) for e in errors])
    return slope(mean), float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))


# --- on the same Brownian path ---------------------------------------------------------------------------------------


def coupled_paths(
    landscape: Landscape,
    noise: Noise,
    make: Callable[[float], Dynamics],
    start: Floats,
    duration: float,
    finest: int,
    levels: int,
    rng: np.random.Generator,
    fall: float = 0.0,
) -> list[Floats]:
    """Final coordinates (d, walkers) with steps duration / (finest / 2^j), j = 0 … levels - 1, all driven by the same
    Brownian path: the increment of a coarse step is the sum of the fine ones, weighted by what friction leaves of them
    (`fall` = friction · duration), which is that of the Ornstein-Uhlenbeck integral of BAOAB."""
    shape = start.shape
    field_rows = noise.field_rows(landscape) if noise.field_function(landscape) else 0
    states = []
    for j in range(levels):
        dynamics = make(duration / (finest >> j))
        dynamics.check(landscape, noise)
        memory = np.zeros((dynamics.memory_rows(shape[0]), shape[1]))
        states.append((dynamics, start.copy(), memory, np.zeros(shape)))
    keep = np.exp(-fall / finest)
    gradient, kick, field = np.empty(shape), np.zeros(shape), np.zeros((field_rows, shape[1]))
    for step in range(finest):
        xi = rng.normal(size=shape)
        for j, (dynamics, theta, memory, gathered) in enumerate(states):
            m = 1 << j
            gathered *= keep
            gathered += xi
            if (step + 1) % m:
                continue
            gathered *= 1.0 / np.sqrt((keep ** (2.0 * np.arange(m))).sum())
            landscape.gradient(theta, gradient, landscape.params())
            if field_rows:
                noise.field_function(landscape)(theta, field, landscape.params())  # type: ignore[misc]
            params, normals = noise.params(landscape, dynamics.time_step), gathered.astype(np.float32)
            noise.function_for(landscape)(theta, gradient, field, normals, kick, np.uint64(0), 0, 0, params)
            dynamics.function(theta, gradient, kick, np.zeros((0, shape[1])), memory, dynamics.params())
            gathered[:] = 0.0
    return [theta for _, theta, _, _ in states]


@dataclass(frozen=True)
class _Pathwise:
    """A scheme and where its order shows: start (one walker), duration, number of finest steps, step sizes."""

    name: str
    landscape: Landscape
    noise: Noise
    make: Callable[[float], Dynamics]
    start: tuple[float, ...]
    duration: float
    finest: int
    levels: int
    strong: float | None = None
    weak: float | None = None
    observable: Callable[[Floats], Floats] | None = None

    def errors(self, walkers: int) -> tuple[Floats, Floats, Floats]:
        """Steps h (levels - 1), and of each group the mean of |x_2h - x_h|² and of f(x_2h) - f(x_h)."""
        rng = np.random.default_rng(11)
        fall = _FRICTION * self.duration if isinstance(self.make(1.0), Underdamped) else 0.0
        start = np.repeat(np.array(self.start)[:, None], walkers, axis=1)
        apart, shifted = np.empty((GROUPS, self.levels - 1)), np.zeros((GROUPS, self.levels - 1))
        for g in range(GROUPS):
            paths = self.landscape, self.noise, self.make, start, self.duration, self.finest, self.levels, rng, fall
            found = coupled_paths(*paths)
            for j in range(self.levels - 1):
                apart[g, j] = ((found[j + 1] - found[j]) ** 2).sum(axis=0).mean()
                if self.observable is not None:
                    shifted[g, j] = (self.observable(found[j + 1]) - self.observable(found[j])).mean()
        return self.duration / (self.finest >> np.arange(self.levels - 1)), apart, shifted

    def rows(self, walkers: int) -> list[Row]:
        steps, apart, shifted = self.errors(walkers)
        result = []
        if self.strong is not None:
            p, error = order(steps, apart)
            result.append(_row(f"{self.name}: strong order", 0.5 * p, 0.5 * error, self.strong, 1.5 - self.strong))
        if self.weak is not None:
            q, error = order(steps, shifted)
            result.append(_row(f"{self.name}: weak order", q, error, self.weak, 3.0 - self.weak))
        return result


def _energy(x: Floats) -> Floats:
    return DoubleWells(dimensions=4).energy(x.T[..., None]).sum(axis=-1)


def _squares(x: Floats) -> Floats:
    return (x**2).sum(axis=0)


def pathwise_orders(quick: bool) -> list[Row]:
    """Strong and weak orders from differences between neighbouring steps on one Brownian path: E |x_2h - x_h|² and
    E f(x_2h) - E f(x_h) fall as h^(2 p) and h^q, without a reference that is itself only nearly exact.

    Leimkuhler-Matthews holds half of the last increment back: strong order 1/2, and weak order 1 at finite times."""
    wells, thermal = DoubleWells(dimensions=4), Thermal(_TEMPERATURE)
    # Soft and steep in ln k, so that the noise's dependence on y outweighs the drift; and the other way round.
    soft, stiff = (Channel(Exponential(k, 20.0 * k), transverse_directions=1) for k in (0.01, 1.0))
    follows = CurvaturePower(0.02, 1.0, 0.02)
    near, far = (1.0,) * 4, (2.0,) * 4
    euler, matthews, walkers = "Euler–Maruyama", "Leimkuhler–Matthews", 1024 if quick else 8192
    systems = (
        _Pathwise(f"{euler}, D constant", wells, thermal, Overdamped, near, 1.0, 64, 5, 1.0, 1.0, _energy),
        _Pathwise(f"{euler}, D(θ)", soft, follows, Overdamped, (0.5, 0.05), 0.2, 64, 5, strong=0.5),
        _Pathwise(
            f"{euler}, D(θ)",
            stiff,
            follows,
            Overdamped,
            (0.5, 0.05),
            0.2,
            64,
            5,
            weak=1.0,
            observable=lambda x: x[1] ** 2,
        ),
        _Pathwise(matthews, wells, thermal, _leimkuhler_matthews, near, 1.0, 64, 5, strong=0.5),
        _Pathwise(matthews, wells, thermal, _leimkuhler_matthews, far, 1.0, 32, 5, weak=1.0, observable=_squares),
        _Pathwise("BAOAB", wells, thermal, _baoab, near, 2.0, 64, 5, strong=1.0),
        _Pathwise("BAOAB", wells, thermal, _baoab, far, 1.0, 16, 4, weak=2.0, observable=_squares),
    )
    return [row for system in systems for row in system.rows(walkers)]


def _row(name: str, measured: float, stderr: float, expected: float, rejected: float, note: str = "") -> Row:
    return Row(
        name,
        measured,
        stderr,
        expected,
        bias=NEXT_ORDER,
        rejected=rejected,
        rejected_name="the other order",
        note=note,
    )


def _leimkuhler_matthews(step: float) -> Overdamped:
    return Overdamped(step, "leimkuhler_matthews")


def _baoab(step: float) -> Underdamped:
    return Underdamped(step, _FRICTION)


# --- in the invariant measure ----------------------------------------------------------------------------------------


# params: depth. out, per walker: sums over the coordinates of L and of 1 / (1 + x²).
@observe_function
def _averages(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            x = theta[i, w]
            q = 1.0 / (1.0 + x * x)
            out[0, w] += 0.5 * x * x + params[0] * q
            out[1, w] += q


def exact_averages() -> Floats:
    """<L> and <1 / (1 + x²)> of one coordinate under exp(-L / T), by the trapezoidal rule (exponentially accurate)."""
    x = np.linspace(-12.0, 12.0, 4001)
    energy = DoubleWells().energy(x[:, None])
    weight = np.exp(-(energy - energy.min()) / _TEMPERATURE)
    return np.array([(weight * energy).sum(), (weight / (1.0 + x**2)).sum()]) / weight.sum()


def invariant_errors(dynamics: Dynamics, samples: int, seed: int) -> Floats:
    """Error of both averages, (groups, 2): 8 coordinates of 2048 walkers, `samples` steps each after equilibration."""
    landscape, walkers = DoubleWells(), 2048
    # Started from the exact measure: only its small change has to relax.
    rng, x = np.random.default_rng(seed), np.linspace(-12.0, 12.0, 4001)
    weight = np.exp(-landscape.energy(x[:, None]) / _TEMPERATURE)
    start = rng.choice(x, p=weight / weight.sum(), size=(walkers, landscape.dimension))
    burn_in = round(15.0 / dynamics.time_step)
    ensemble = Ensemble(
        landscape,
        Thermal(_TEMPERATURE),
        dynamics,
        start,
        seed=seed,
        observer=_averages,
        observer_params=landscape.params(),
        out_shape=(2, -1),
        observe_from=burn_in,
        observe_every=1,
    )
    ensemble.advance(burn_in + samples)
    found = ensemble.per_walker.reshape(GROUPS, -1, 2).mean(axis=1) / (samples * landscape.dimension)
    return found - exact_averages()


def invariant_orders(quick: bool) -> list[Row]:
    """Errors against quadrature. For BAOAB of <1/(1+x²)>, whose next order is small; for the others of <L>."""
    systems: tuple[tuple[str, Callable[[float], Dynamics], tuple[float, ...], int, int, float], ...] = (
        ("Euler–Maruyama", Overdamped, (0.05, 0.1, 0.2), 0, 1000, 1.0),
        ("Leimkuhler–Matthews", _leimkuhler_matthews, (0.1, 0.2, 0.3, 0.4), 0, 2500, 2.0),
        ("BAOAB", _baoab, (0.4, 0.55, 0.7, 0.85), 1, 2500, 2.0),
    )
    result = []
    for name, make, steps, which, samples, expected in systems:
        errors = np.stack(
            [
                invariant_errors(make(h), samples if quick else 16 * samples, seed=20 + i)[:, which]
                for i, h in enumerate(steps)
            ],
            axis=1,
        )
        slope, stderr = order(np.array(steps), errors)
        note = f"error {errors[:, -1].mean():.2g} at h = {steps[-1]:g}"
        result.append(_row(f"{name}: order of the invariant measure", slope, stderr, expected, 3.0 - expected, note))
    return result
