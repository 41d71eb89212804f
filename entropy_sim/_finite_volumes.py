"""The Markov chain between finite volumes that `fokker_planck` solves: rates, stationary state, backward equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.interpolate import CubicSpline
from scipy.sparse.linalg import splu

from entropy_sim.errors import require

if TYPE_CHECKING:
    from entropy_sim.fokker_planck import FokkerPlanck

Floats = NDArray[np.float64]
Coefficient = Callable[[Floats], ArrayLike] | float
"""A number, or a function of y on arrays."""
Boundary = Literal["reflecting", "periodic"]
Absorbing = Literal["left", "right", "both"]


class Chain:
    """The Markov chain on one grid: rates (per time) from each cell to its four neighbours."""

    def __init__(self, problem: FokkerPlanck) -> None:
        self.problem, (ny, nx) = problem, problem.cells
        faces_y = np.linspace(*problem.interval, ny + 1)
        self.y, self.cell_y = 0.5 * (faces_y[1:] + faces_y[:-1]), faces_y[1] - faces_y[0]
        faces_x = self._across(np.linspace(-1.0, 1.0, nx + 1))
        self.x, self.cell_x = self._across(np.linspace(-1.0, 1.0, 2 * nx + 1)[1::2]), np.diff(faces_x)
        self.energy = self._energy(self.y)
        self.diffusion_y = coefficient("diffusion_y", problem.diffusion_y, self.y)
        diffusion_x = coefficient("diffusion_x", problem.diffusion_x, self.y)
        self.diffusion_x = diffusion_x
        periodic = problem.boundary == "periodic"
        # Along y: cell i to i + 1 (`up`) and back (`down`), for the faces 1 … ny (the last only if periodic).
        inner = faces_y[1:] if periodic else faces_y[1:-1]
        after = np.roll(self.energy, -1, 0) if periodic else self.energy[1:]
        before = self.energy if periodic else self.energy[:-1]
        d_after = np.roll(self.diffusion_y, -1) if periodic else self.diffusion_y[1:]
        d_before = self.diffusion_y if periodic else self.diffusion_y[:-1]
        climb = (after - before) / coefficient("diffusion_y", problem.diffusion_y, inner)[:, None]
        self.up = d_before[:, None] / self.cell_y**2 * bernoulli(climb)
        self.down = d_after[:, None] / self.cell_y**2 * bernoulli(-climb)
        # Along x: cell j to j + 1 (`out`) and back (`back`).
        climb = np.diff(self.energy, axis=1) / diffusion_x[:, None]
        speed = diffusion_x[:, None] / np.diff(self.x)
        self.out = speed * bernoulli(climb) / self.cell_x[:-1]
        self.back = speed * bernoulli(-climb) / self.cell_x[1:]

    def _across(self, u: Floats) -> Floats:
        low, high = self.problem.box
        b = self.problem.stretch
        shape = np.sinh(b * u) / np.sinh(b) if b > 0.0 else u
        return 0.5 * (low + high) + 0.5 * (high - low) * shape

    def _energy(self, y: Floats) -> Floats:
        values = np.asarray(self.problem.energy(y[:, None], self.x[None, :]), dtype=np.float64)
        values = np.broadcast_to(values, (len(y), len(self.x)))
        require(bool(np.isfinite(values).all()), "energy", "finite values on the rectangle", "others")
        return values

    def _generator(self, loss: Floats | None = None) -> sparse.csc_array:
        """Matrix G of d(probability)/dt = G · probability; `loss` is the rate at which each cell is absorbed."""
        index = np.arange(self.energy.size).reshape(self.energy.shape)
        low, high = index[: len(self.up)], np.roll(index, -1, 0)[: len(self.up)]
        pairs = [
            (low, high, self.up),
            (high, low, self.down),
            (index[:, :-1], index[:, 1:], self.out),
            (index[:, 1:], index[:, :-1], self.back),
        ]
        source = np.concatenate([a.ravel() for a, _, _ in pairs])
        target = np.concatenate([b.ravel() for _, b, _ in pairs])
        rate = np.concatenate([np.ascontiguousarray(r).ravel() for _, _, r in pairs])
        leaving: Floats = np.bincount(source, rate, minlength=index.size).astype(np.float64)
        if loss is not None:
            leaving = leaving + loss.ravel()
        cells = index.ravel()
        return sparse.csc_array(
            (np.concatenate([rate, -leaving]), (np.concatenate([target, cells]), np.concatenate([source, cells])))
        )

    def stationary(self) -> tuple[Floats, Floats, Floats, float]:
        """Probability of each cell, the flows through all faces along y and x, ends included, and an estimate of the
        relative rounding error: it grows with the time to get from one well to the other."""
        g = self._generator()
        # One cell's probability is set to 1 and its equation, a sum of the others', left out.
        reference = int(np.argmin(self.energy - self.diffusion_x[:, None] * np.log(self.cell_x)))
        others = np.delete(np.arange(self.energy.size), reference)
        p = np.ones(self.energy.size)
        factors = _lu(g[others][:, others])
        p[others] = factors.solve(-g[others][:, [reference]].toarray()[:, 0])
        rounding = _rounding(g, factors.solve(-np.ones(len(others)), trans="T"))
        p = (p / p.sum()).reshape(self.energy.shape)
        along = self.up * p[: len(self.up)] - self.down * np.roll(p, -1, 0)[: len(self.up)]
        wall = along[-1:] if self.problem.boundary == "periodic" else np.zeros((1, p.shape[1]))
        along = np.concatenate([wall, along] if self.problem.boundary == "periodic" else [wall, along, wall])
        across = self.out * p[:, :-1] - self.back * p[:, 1:]
        zero = np.zeros((p.shape[0], 1))
        return p, along, np.concatenate([zero, across, zero], axis=1), rounding

    def largest_flow(self, p: Floats) -> float:
        """Largest one-way flow between two cells, against which rounding is measured."""
        return max(float((self.up * p[: len(self.up)]).max()), float((self.out * p[:, :-1]).max()))

    def entropy_production(self, p: Floats) -> float:
        total = 0.0
        for there, back in (
            (self.up * p[: len(self.up)], self.down * np.roll(p, -1, 0)[: len(self.up)]),
            (self.out * p[:, :-1], self.back * p[:, 1:]),
        ):
            seen = (there > 1e-290) & (back > 1e-290)
            total += float(np.sum((there[seen] - back[seen]) * np.log(there[seen] / back[seen])))
        return total

    def escape_time(self, start: Floats, absorbing: Absorbing, across: str) -> tuple[Floats, float]:
        """Mean first-passage times, and an estimate of their relative rounding error."""
        loss = np.zeros(self.energy.shape)
        for end, row, name in zip(self.problem.interval, (0, -1), ("left", "right"), strict=True):
            if absorbing in (name, "both"):
                # The level is half a cell away, and D p = 0 there.
                wall = self._energy(np.array([end]))[0]
                middle = 0.5 * (end + self.y[row])
                between = coefficient("diffusion_y", self.problem.diffusion_y, np.array([middle]))
                climb = (wall - self.energy[row]) / between
                loss[row] = 2.0 * self.diffusion_y[row] / self.cell_y**2 * bernoulli(climb)
        tau, rounding = self._backward(loss, start)
        # Ghost cells beyond the ends: mirrored where reflecting, mirrored with the other sign where absorbing.
        left, right = (-1.0 if absorbing in (name, "both") else 1.0 for name in ("left", "right"))
        padded = np.concatenate([left * tau[1::-1], tau, right * tau[:-3:-1]])
        y = self.y[0] + self.cell_y * np.arange(-2, len(self.y) + 2)
        at = CubicSpline(y, padded, axis=0)(start)
        if across == "path":
            return np.asarray(CubicSpline(self.x, at, axis=-1)(0.0)), rounding
        flat = start.reshape(-1)
        width = coefficient("diffusion_x", self.problem.diffusion_x, flat)[:, None]
        energy = self._energy(flat) / width
        weight = self.cell_x * np.exp(energy.min(1, keepdims=True) - energy)
        weight = (weight / weight.sum(1, keepdims=True)).reshape(at.shape)
        return np.sum(weight * at, axis=-1), rounding

    def _backward(self, loss: Floats, start: Floats) -> tuple[Floats, float]:
        """Mean time to absorption from every cell, and its relative rounding error.

        A high barrier makes the generator singular to rounding. So one cell, the bottom of the well, is taken out:
        tau = (time to reach it or the end) + (probability to reach it first) · (time from it), where the last is the
        population per flow out of a system refilled there; all three are sums of positive terms."""
        g = self._generator(loss)
        near = int(np.argmin(np.abs(self.y - start.flat[0]))) if start.size else 0
        lowest = int(np.argmin(self.energy)), near * len(self.x) + int(np.argmin(self.energy[near]))
        best: tuple[Floats, float] | None = None
        for reference in dict.fromkeys(lowest):
            others = np.delete(np.arange(loss.size), reference)
            factors = _lu(g[others][:, others])
            hit = factors.solve(-np.ones(len(others)), trans="T")
            first = factors.solve(-g[[reference]][:, others].toarray()[0], trans="T")
            population = factors.solve(-g[others][:, [reference]].toarray()[:, 0])
            flow = float(loss.flat[reference] + population @ loss.ravel()[others])
            if not flow > 1e-300 * population.sum():
                continue
            there = (1.0 + population.sum()) / flow
            tau = np.empty(loss.size)
            tau[reference], tau[others] = there, hit + first * there
            rounding = _rounding(g, hit)
            if best is None or rounding < best[1]:
                best = tau.reshape(loss.shape), rounding
            if rounding < 1e-9:
                break
        require(best is not None, "energy", "barriers below 650 D, whose times are floating-point numbers", "higher")
        return cast(tuple[Floats, float], best)


def _rounding(generator: sparse.csc_array, hit: Floats) -> float:
    """Relative rounding error of solving with a generator of which one cell is taken out: longest time to hit that cell
    over the shortest stay in one, times epsilon."""
    return float(np.finfo(float).eps * -generator.diagonal().min() * np.abs(hit).max())


def bernoulli(z: Floats) -> Floats:
    """z / (exp(z) - 1), the exponentially fitted weight."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.where(np.abs(z) < 1e-8, 1.0 - 0.5 * z, z / np.expm1(z))


def _lu(matrix: sparse.csc_array):  # type: ignore[no-untyped-def]
    return splu(sparse.csc_matrix(matrix), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0)


def coefficient(option: str, value: Coefficient, y: Floats) -> Floats:
    found = np.broadcast_to(np.asarray(value(y) if callable(value) else value, dtype=np.float64), y.shape)
    good = bool(np.all(np.isfinite(found) & (found > 0.0)))
    require(good, option, "a number > 0 everywhere", float(np.min(found)) if found.size else 0.0)
    return found
