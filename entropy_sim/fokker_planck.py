"""Numerical Fokker-Planck solutions with one transverse mode: the oracle between the adiabatic limit and simulation.

    dy = -dL/dy dt + sqrt(2 D_y(y)) dW_y,   dx = -dL/dx dt + sqrt(2 D_x(y)) dW_x   (Itô),
    d_t p = d_y(p dL/dy) + d_y²(D_y p) + d_x(p dL/dx) + D_x d_x² p,

on a rectangle, by finite volumes: the rates between neighbouring cells are exponentially fitted (Scharfetter-Gummel) in
D_y p along y and p along x. They are those of a Markov chain, so densities are positive and probability is conserved;
thermal noise, D_x = D_y = T, gives exp(-L/T) at the cell centres on any grid, and everything else is second order in
the cell size. Mean first-passage times solve the transposed chain. Every answer is computed on two grids.

References: Scharfetter, Gummel, IEEE Trans. Electron Devices 16 (1969) 64; Wang, Peskin, Elston, J. Theor. Biol. 221
(2003) 491; entropy production: Schnakenberg, Rev. Mod. Phys. 48 (1976) 571."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from entropy_sim._finite_volumes import Absorbing, Boundary, Chain, Coefficient, Floats, coefficient
from entropy_sim.errors import require

if TYPE_CHECKING:
    from entropy_sim.landscapes.base import Landscape


@dataclass(frozen=True)
class StationarySolution:
    """The stationary state; arrays run over cells, y first. Time is that of the mobility-1 clock."""

    y: Floats
    """Centres of the cells along the path, (cells_y,), parameter units."""
    x: Floats
    """Centres of the cells across it, (cells_x,), parameter units."""
    density: Floats
    """p(y, x), (cells_y, cells_x), per parameter unit squared; its integral is 1."""
    marginal: Floats
    """p(y) = int p dx, (cells_y,), per parameter unit."""
    marginal_error: Floats
    """Richardson estimate of the error of the marginal, and rounding, which shows with wells more than about 25 D deep,
    (cells_y,), per parameter unit."""
    current_y: Floats
    """Probability current along y through the faces between cells, both ends included, (cells_y + 1, cells_x), per
    parameter unit and time."""
    current_x: Floats
    """Probability current along x, (cells_y, cells_x + 1), per parameter unit and time."""
    stream: Floats
    """Stream function at the corners of the cells, J = (d psi/dx, -d psi/dy), (cells_y + 1, cells_x + 1), per time."""
    circulation: float
    """Probability that circulates, max psi - min psi, per time; 0 in detailed balance."""
    circulation_error: float
    """Richardson estimate of its error, per time."""
    net_current: float
    """Probability that goes round a periodic domain, towards larger y, per time; 0 between reflecting ends."""
    entropy_production: float
    """Entropy produced, sum of J ln(forward / backward) over all faces, per time; 0 in detailed balance."""
    residual: float
    """Largest |probability lost by a cell per time|, over the largest flow through one: 0 but for rounding."""


class EscapeTime(NamedTuple):
    """Mean first-passage times, one for each start."""

    time: Floats
    """Mean time, extrapolated from the two grids."""
    error: Floats
    """Richardson estimate of the error of the finer grid (a bound for the extrapolated one on resolved grids), and
    rounding."""


@dataclass(frozen=True)
class FokkerPlanck:
    """L(y, x) and its noise on a rectangle; `channel` and `of_landscape` make one with a fitting box.

    Example. `FokkerPlanck.channel(lambda y: 1 + y**2, (-1, 1), 0.1, 0.1).stationary().marginal` is proportional to
    (1 + y²)^(-1/2).
    """

    energy: Callable[[Floats, Floats], ArrayLike]
    """L(y, x) on arrays that broadcast."""
    interval: tuple[float, float]
    """Ends of the domain in y, parameter units."""
    box: tuple[float, float]
    """Ends of the domain in x, reflecting; wide enough to hold all the probability."""
    diffusion_y: Coefficient
    """D_y > 0, Itô."""
    diffusion_x: Coefficient
    """D_x > 0."""
    boundary: Boundary = "reflecting"
    """Ends in y."""
    cells: tuple[int, int] = (160, 96)
    """Cells along y and x, even; the coarse grid of the error estimate has half as many."""
    stretch: float = 0.0
    """Crowding of cells towards the middle of the box, x ∝ sinh(stretch u); 0 for a uniform grid."""

    def __post_init__(self) -> None:
        for option, ends in (("interval", self.interval), ("box", self.box)):
            good = len(ends) == 2 and bool(np.isfinite(ends).all()) and ends[0] < ends[1]
            require(good, option, "two finite numbers, the smaller first", ends)
        good = len(self.cells) == 2 and all(isinstance(n, int) and n >= 16 and n % 2 == 0 for n in self.cells)
        require(good, "cells", "two even numbers >= 16", self.cells)
        require(self.boundary in get_args(Boundary), "boundary", "one of reflecting, periodic", self.boundary)
        require(bool(np.isfinite(self.stretch)) and self.stretch >= 0, "stretch", "a number >= 0", self.stretch)
        if self.boundary == "periodic":
            x = np.linspace(*self.box, 9)
            first, last = (np.asarray(self.energy(np.full(9, end), x), dtype=np.float64) for end in self.interval)
            require(
                bool(np.allclose(first, last, rtol=1e-6)), "energy", "the same at both ends of a periodic domain", "not"
            )

    @classmethod
    def channel(
        cls,
        stiffness: Callable[[Floats], ArrayLike],
        interval: tuple[float, float],
        diffusion_y: Coefficient,
        diffusion_x: Coefficient,
        potential: Callable[[Floats], ArrayLike] | None = None,
        boundary: Boundary = "reflecting",
        cells: tuple[int, int] = (160, 96),
        widths: float = 8.0,
    ) -> FokkerPlanck:
        """``L = U(y) + 1/2 k(y) x²`` in a box of so many times the largest sqrt(D_x / k), cells crowded towards the
        path as the narrowest part of the valley needs. stiffness, potential: k > 0 and U, functions of y."""

        def energy(y: Floats, x: Floats) -> Floats:
            along = 0.0 if potential is None else np.asarray(potential(y), dtype=np.float64)
            return along + 0.5 * np.asarray(stiffness(y), dtype=np.float64) * x * x

        y = np.linspace(*interval, 1001)
        k = np.broadcast_to(np.asarray(stiffness(y), dtype=np.float64), y.shape)
        require(bool(np.all(np.isfinite(k) & (k > 0))), "stiffness", "a function k(y) > 0", float(np.min(k)))
        width = np.sqrt(coefficient("diffusion_x", diffusion_x, y) / k)
        half = widths * float(width.max())
        ratio = min(float(width.max() / width.min()), 8.0)
        stretch = brentq(lambda b: np.sinh(b) - ratio * b, 1e-3, 10.0) if ratio > 1.001 else 0.0
        return cls(energy, interval, (-half, half), diffusion_y, diffusion_x, boundary, cells, float(stretch))

    @classmethod
    def of_landscape(
        cls,
        landscape: Landscape,
        interval: tuple[float, float],
        box: tuple[float, float],
        diffusion_y: Coefficient,
        diffusion_x: Coefficient,
        boundary: Boundary = "reflecting",
        cells: tuple[int, int] = (160, 96),
        stretch: float = 0.0,
    ) -> FokkerPlanck:
        """Any landscape of two dimensions, coordinate 0 as y, coordinate 1 as x."""
        require(landscape.dimension == 2, "landscape", "two dimensions", landscape.dimension)

        def energy(y: Floats, x: Floats) -> Floats:
            return landscape.energy(np.stack(np.broadcast_arrays(y, x), axis=-1))

        return cls(energy, interval, box, diffusion_y, diffusion_x, boundary, cells, stretch)

    def stationary(self) -> StationarySolution:
        """Stationary density, its marginal, and the current; with errors from a grid of half as many cells."""
        fine, coarse = Chain(self), Chain(self._coarser())
        p, flow_y, flow_x, rounding = fine.stationary()
        q, coarse_y, _, _ = coarse.stationary()
        marginal = p.sum(1) / fine.cell_y
        # Inside the fine grid's points, so that nothing is extrapolated.
        change = np.abs(CubicSpline(fine.y, marginal)(coarse.y) - q.sum(1) / coarse.cell_y)
        stream = np.concatenate([np.zeros((flow_y.shape[0], 1)), np.cumsum(flow_y, axis=1)], axis=1)
        circulation, less = _range(flow_y), _range(coarse_y)
        through = np.abs(flow_y).max(initial=0.0) + np.abs(flow_x).max(initial=0.0)
        lost = np.diff(flow_y, axis=0) + np.diff(flow_x, axis=1)
        scale = max(float(through), fine.largest_flow(p))
        return StationarySolution(
            y=fine.y,
            x=fine.x,
            density=p / (fine.cell_y * fine.cell_x),
            marginal=marginal,
            marginal_error=np.repeat(change / 3.0, 2) + min(rounding, 1.0) * marginal.max(),
            current_y=flow_y / fine.cell_x,
            current_x=flow_x / fine.cell_y,
            stream=stream,
            circulation=circulation,
            circulation_error=abs(circulation - less) / 3.0,
            net_current=float(flow_y.sum(1).mean()),
            entropy_production=fine.entropy_production(p),
            residual=float(np.abs(lost).max() / scale),
        )

    def escape_time(
        self,
        start: ArrayLike,
        absorbing: Absorbing = "right",
        across: Literal["path", "equilibrium"] = "path",
    ) -> EscapeTime:
        """Mean first-passage time to the absorbing end(s) of the interval, the other one reflecting, from y = start.

        across: x = 0 at the start, or x in the local equilibrium exp(-L(start, x) / D_x). Shapes as start.
        Solves the backward equation, ``-L_y tau_y + D_y tau_yy - L_x tau_x + D_x tau_xx = -1``."""
        at = np.asarray(start, dtype=np.float64)
        inside = np.isfinite(at) & (at >= self.interval[0]) & (at <= self.interval[1])
        require(bool(np.all(inside)), "start", f"positions in {self.interval[0]:g} … {self.interval[1]:g}", at.tolist())
        require(absorbing in get_args(Absorbing), "absorbing", "one of left, right, both", absorbing)
        require(across in ("path", "equilibrium"), "across", "one of path, equilibrium", across)
        require(self.boundary == "reflecting", "boundary", "reflecting, for an escape", self.boundary)
        centred = self.box[0] < 0.0 < self.box[1]
        require(centred or across != "path", "box", "a box around the path, x = 0", self.box)
        fine, rounding = Chain(self).escape_time(at, absorbing, across)
        coarse, _ = Chain(self._coarser()).escape_time(at, absorbing, across)
        return EscapeTime((4.0 * fine - coarse) / 3.0, np.abs(fine - coarse) / 3.0 + rounding * np.abs(fine))

    def _coarser(self) -> FokkerPlanck:
        halves = self.cells[0] // 2, self.cells[1] // 2
        coarse = object.__new__(FokkerPlanck)  # halves may be odd or below the least
        coarse.__dict__.update(vars(self) | {"cells": halves})
        return coarse


def _range(flow_y: Floats) -> float:
    """max psi - min psi, psi = 0 at the lower end of the box."""
    stream = np.cumsum(flow_y, axis=1)
    return float(max(stream.max(), 0.0) - min(stream.min(), 0.0))
