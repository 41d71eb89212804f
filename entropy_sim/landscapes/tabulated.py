"""The analytic twin of a measured network: loss, stiffness and gradient noise interpolated along its path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy  # its parts load when they are used
from numba import int64, njit
from numpy.typing import ArrayLike

from entropy_sim._compiled import FASTMATH
from entropy_sim._kernels import Compiled, block_function, inline
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Floats, Landscape, axis_directions, axis_tangent, column, straight

if TYPE_CHECKING:
    import xarray as xr

# --- compiled --------------------------------------------------------------------------------------------------------

# params: knots n, top modes k, bulk modes, then the n knots, then four rows of n - 1 cubic coefficients per table, in
# the order loss, k stiffnesses, bulk stiffness, k noises, bulk noise, noise along the path.


@inline
def _fold(y, length):  # type: ignore[no-untyped-def]
    r = y / length
    r = r - 2.0 * np.floor(0.5 * r)
    mirrored = r > 1.0 + 1e-12  # the rounding of y = length must not look like a reflection
    return (2.0 - r if mirrored else r) * length, (-1.0 if mirrored else 1.0)


@njit(nogil=True, error_model="numpy", fastmath=set(FASTMATH))
def _find(y, params, interval, offset, sign):  # type: ignore[no-untyped-def]
    """Interval of each y (walkers,), the offset from its left knot, and the sign of the fold."""
    n = int64(params[0])
    length = params[3 + n - 1]
    for w in range(y.size):
        offset[w], sign[w] = _fold(y[w], length)
        interval[w] = 0
    for j in range(1, n - 1):
        knot = params[3 + j]
        for w in range(y.size):
            interval[w] += 1 if offset[w] >= knot else 0  # NaN stays in interval 0
    for w in range(y.size):
        offset[w] -= params[3 + interval[w]]


@inline
def _cubic(params, start, n, interval, offset):  # type: ignore[no-untyped-def]
    """Value and slope of the table that starts at params[start]."""
    a = params[start + interval]
    b = params[start + (n - 1) + interval]
    c = params[start + 2 * (n - 1) + interval]
    e = params[start + 3 * (n - 1) + interval]
    value = ((a * offset + b) * offset + c) * offset + e
    return value, (3.0 * a * offset + 2.0 * b) * offset + c


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    n, k, bulk = int64(params[0]), int64(params[1]), int64(params[2])
    walkers = theta.shape[1]
    interval, offset, sign = np.empty(walkers, dtype=np.int64), np.empty(walkers), np.empty(walkers)
    square = np.zeros(walkers)
    _find(theta[0], params, interval, offset, sign)
    table, size = 3 + n, 4 * (n - 1)
    for w in range(walkers):
        out[0, w] = _cubic(params, table, n, interval[w], offset[w])[1]
    for i in range(1, k + 1):
        for w in range(walkers):
            value, slope = _cubic(params, table + i * size, n, interval[w], offset[w])
            x = theta[i, w]
            out[i, w] = value * x
            out[0, w] += 0.5 * slope * x * x
    for i in range(k + 1, k + 1 + bulk):
        for w in range(walkers):
            square[w] += theta[i, w] * theta[i, w]
    for w in range(walkers):
        value, slope = _cubic(params, table + (k + 1) * size, n, interval[w], offset[w])
        out[0, w] = sign[w] * (out[0, w] + 0.5 * slope * square[w])
        square[w] = value
    for i in range(k + 1, k + 1 + bulk):
        for w in range(walkers):
            out[i, w] = square[w] * theta[i, w]


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    n = int64(params[0])
    length = params[3 + n - 1]
    for w in range(theta.shape[1]):
        out[0, w] = _fold(theta[0, w], length)[0] / length
        out[1, w] = 0.0
    for i in range(1, theta.shape[0]):
        for w in range(theta.shape[1]):
            out[1, w] += theta[i, w] * theta[i, w]


@block_function
def _folded(theta, out, params):  # type: ignore[no-untyped-def]
    length = params[3 + int64(params[0]) - 1]
    for w in range(theta.shape[1]):
        y, sign = _fold(theta[0, w], length)
        out[0, w] = sign * y
    for i in range(1, theta.shape[0]):
        for w in range(theta.shape[1]):
            out[i, w] = theta[i, w]


@njit(nogil=True, error_model="numpy", fastmath=set(FASTMATH))
def _modes_into(theta, out, params, first_table):  # type: ignore[no-untyped-def]
    """Rows 1… of out from the k + 1 tables starting with number `first_table`; the bulk's in all bulk rows."""
    n, k = int64(params[0]), int64(params[1])
    walkers = theta.shape[1]
    interval, offset, sign = np.empty(walkers, dtype=np.int64), np.empty(walkers), np.empty(walkers)
    _find(theta[0], params, interval, offset, sign)
    table, size = 3 + n, 4 * (n - 1)
    for i in range(1, theta.shape[0]):
        t = table + (first_table + min(i - 1, k)) * size
        for w in range(walkers):
            out[i, w] = _cubic(params, t, n, interval[w], offset[w])[0]
    return table, size, interval, offset


@block_function
def _stiffness(theta, out, params):  # type: ignore[no-untyped-def]
    _modes_into(theta, out, params, 1)


@block_function
def _noise(theta, out, params):  # type: ignore[no-untyped-def]
    n, k = int64(params[0]), int64(params[1])
    table, size, interval, offset = _modes_into(theta, out, params, k + 2)
    for w in range(theta.shape[1]):
        out[0, w] = _cubic(params, table + (2 * k + 3) * size, n, interval[w], offset[w])[0]


# --- the landscape ---------------------------------------------------------------------------------------------------

_Table = tuple[tuple[float, ...], ...]

#: Most bulk modes that `Tabulated.from_profile` takes by itself; the cost of a step is proportional to them.
MOST_BULK_MODES = 1000


@dataclass(frozen=True)
class Tabulated(Landscape):
    """A straight valley with tabulated loss and stiffness, ``L(y, x) = U(y) + 1/2 sum_i k_i(y) x_i²``.

    The transverse modes are the k tabulated ones and `bulk_modes` equal ones, which carry the rest of the trace. Tables
    are interpolated in arc length by cubic Hermite polynomials: once continuously differentiable, exact at the knots,
    with the slope there of the parabola through the neighbours (a monotone interpolant would have none at every local
    extremum, and so no force there), limited so that no stiffness falls below `floor` and no variance below zero
    (Schmidt, Hess, BIT 28 (1988) 340). Stiffnesses below `floor` are raised to it: a measured path has tiny and
    negative eigenvalues, on which no walker would stay. The ends reflect. `TabulatedCovariance` reads the
    gradient-noise tables.

    Example. A table that is linear in y, k = 1, 2, 3 at y = 0, 1, 2, is reproduced exactly: k(1.5) = 2.5.
    """

    knots: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    """Arc lengths y of the table, from 0, increasing; parameter units."""
    loss: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    """Loss U on the path at each knot."""
    stiffness: _Table = ((1.0, 1.0), (4.0, 2.0), (16.0, 4.0), (4.0, 2.0), (1.0, 1.0))
    """Stiffness of the top modes at each knot, loss / parameter²."""
    bulk_stiffness: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Stiffness of every bulk mode at each knot, loss / parameter²."""
    bulk_modes: int = 4
    """Number of bulk modes."""
    noise: _Table = ((1.0, 1.0), (4.0, 2.0), (16.0, 4.0), (4.0, 2.0), (1.0, 1.0))
    """Gradient-noise variance C_i of the top modes at each knot, loss² / parameter²."""
    bulk_noise: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Gradient-noise variance of every bulk mode at each knot."""
    noise_along: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1, 0.1)
    """Gradient-noise variance along the path at each knot."""
    floor: float = 0.01
    """Smallest stiffness; smaller and negative ones are raised to it (> 0)."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate
    folded: ClassVar[Compiled] = _folded
    transverse_stiffness: ClassVar[Compiled] = _stiffness
    noise_variance: ClassVar[Compiled] = _noise

    def __post_init__(self) -> None:
        n = len(self.knots)
        knots = np.asarray(self.knots, dtype=np.float64)
        increasing = n >= 2 and knots[0] == 0.0 and np.all(np.diff(knots) > 0) and np.isfinite(knots).all()
        require(bool(increasing), "landscape.knots", "two or more increasing arc lengths, from 0", self.knots)
        require(self.bulk_modes >= 0, "landscape.bulk_modes", "0 or more", self.bulk_modes)
        require(np.isfinite(self.floor) and self.floor > 0, "landscape.floor", "a positive number", self.floor)
        for name in ("stiffness", "noise"):
            rows = len(getattr(self, name))
            require(rows == n, f"landscape.{name}", f"a value for each of {n} knots", rows)
        modes = {len(row) for row in (*self.stiffness, *self.noise)}
        require(len(modes) == 1, "landscape.stiffness", "as many modes at every knot, and in noise", sorted(modes))
        require(self.dimension > 1, "landscape.stiffness", "at least one transverse mode", self.stiffness)
        for name in ("loss", "stiffness", "bulk_stiffness", "noise", "bulk_noise", "noise_along"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            require(len(values) == n, f"landscape.{name}", f"a value for each of {n} knots", len(values))
            require(bool(np.isfinite(values).all()), f"landscape.{name}", "finite numbers", values.tolist())
            if "noise" in name:
                require(bool((values >= 0).all()), f"landscape.{name}", "variances >= 0", values.tolist())

    @classmethod
    def from_profile(
        cls,
        source: xr.DataTree | Path | str,
        path_kind: str = "neb",
        bulk_modes: int | None = None,
        floor: float | None = None,
        run: int = 0,
    ) -> Tabulated:
        """The twin of a measured network, from the groups `profile` and `path` of its dataset (see schema.py).

        The top modes are the profile's hessian_eigenvalue, with noise_eigenvalue for their noise; the bulk modes share
        what is left of hessian_trace_transverse and noise_trace_transverse equally; the noise along the path is
        noise_trace - noise_trace_transverse. Absent noise variables make a twin without gradient noise. floor: None
        for a thousandth of the largest stiffness. run: which one, where the profile holds several.

        bulk_modes: None for the fewest with which no bulk mode is anywhere stiffer than the softest top mode, as befits
        eigenvalues below the top ones: ceil(max over s of rest of the trace / smallest positive top eigenvalue). Where
        a top eigenvalue is nearly zero that number diverges, so there are at most `MOST_BULK_MODES`, each then stiffer
        than that top mode. The trace is kept in any case; but on fewer, stiffer modes the force at a finite learning
        rate is too large, since a mode's variance grows like 1 / (1 - learning rate * stiffness / 2).

        Raises UserError naming what the dataset lacks.
        """
        from entropy_sim.run_files import read_tree

        tree = read_tree(source) if isinstance(source, (str, Path)) else source
        missing = [g for g in ("profile", "path") if g not in tree.children]
        require(
            not missing, "landscape", "a dataset with the groups profile and path", f"no {' and no '.join(missing)}"
        )
        profile, path = tree["profile"].to_dataset(), tree["path"].to_dataset()
        needed = ("loss", "hessian_eigenvalue", "hessian_trace_transverse")
        lacking = [v for v in needed if v not in profile]
        require(not lacking, "landscape", f"a profile with {', '.join(needed)}", f"no {', '.join(lacking)}")
        kinds = [str(k) for k in profile["path_kind"].values]
        require(path_kind in kinds, "path_kind", f"one of {', '.join(kinds)}", path_kind)
        profile = profile.sel(path_kind=path_kind)
        profile, path = (part.isel(run=run) if "run" in part.dims else part for part in (profile, path))
        extra = [d for d in profile["loss"].dims if d != "s"]
        require(not extra, "landscape", "a profile over s alone", f"the further dimensions {extra}")

        def along(name: str) -> Floats:
            return np.asarray(profile[name].transpose("s", ...).values, dtype=np.float64)

        top = along("hessian_eigenvalue")
        known = np.isfinite(top).all(axis=0)
        top = top[:, known]
        zero = np.zeros(len(top))
        has_noise = "noise_eigenvalue" in profile and "noise_trace_transverse" in profile
        noise = np.maximum(along("noise_eigenvalue")[:, known], 0.0) if has_noise else np.zeros_like(top)
        transverse = along("noise_trace_transverse") if has_noise else zero
        tangential = along("noise_trace") - transverse if has_noise and "noise_trace" in profile else zero
        trace = along("hessian_trace_transverse")
        require(
            bool(np.isfinite(trace).all()),
            "profile/hessian_trace_transverse",
            "finite values",
            float(trace[~np.isfinite(trace)].min(initial=np.inf)),
        )
        rest = trace - top.sum(axis=1)
        if bulk_modes is None:
            bulk_modes = _fewest_bulk_modes(rest, top)
        share = max(bulk_modes, 1)
        bulk = rest / share
        bulk_noise = np.maximum(transverse - noise.sum(axis=1), 0.0) / share
        # The profile has an s grid of its own; s is normalised arc length, so only the path's length is needed.
        s = np.asarray(profile["s"].values, dtype=np.float64)
        knots = s * float(path["arc_length"].values[-1] - path["arc_length"].values[0])
        largest = max(float(top.max(initial=0.0)), float(bulk.max()) if bulk_modes else 0.0)
        require(largest > 0, "landscape", "a profile with positive stiffness somewhere", largest)
        return cls(
            knots=_numbers(knots - knots[0]),
            loss=_numbers(along("loss")),
            stiffness=tuple(_numbers(row) for row in top),
            bulk_stiffness=_numbers(bulk),
            bulk_modes=bulk_modes,
            noise=tuple(_numbers(row) for row in noise),
            bulk_noise=_numbers(bulk_noise),
            noise_along=_numbers(np.maximum(tangential, 0.0)),
            floor=1e-3 * largest if floor is None else floor,
        )

    @property
    def dimension(self) -> int:
        return 1 + len(self.stiffness[0]) + self.bulk_modes

    @property
    def arc_length(self) -> float:
        return float(self.knots[-1])

    def _interpolant(self) -> scipy.interpolate.CubicHermiteSpline:
        """All tables in the order of `params`, as one interpolant with values (tables,)."""
        k = len(self.stiffness[0])
        n = len(self.knots)
        stiffness = np.column_stack([np.reshape(self.stiffness, (n, k)), self.bulk_stiffness])
        noise = np.column_stack([np.reshape(self.noise, (n, k)), self.bulk_noise, self.noise_along])
        tables = np.column_stack([self.loss, np.maximum(stiffness, self.floor), noise])
        lowest = np.concatenate([[-np.inf], np.full(k + 1, self.floor), np.zeros(k + 2)])
        knots = np.asarray(self.knots, dtype=np.float64)
        return scipy.interpolate.CubicHermiteSpline(knots, tables, _slopes(knots, tables, lowest), axis=0)

    def params(self) -> Floats:
        coefficients = self._interpolant().c.transpose(2, 0, 1)  # (tables, 4, intervals)
        head = [len(self.knots), len(self.stiffness[0]), self.bulk_modes, *self.knots]
        return np.concatenate([np.array(head, dtype=np.float64), coefficients.ravel()])

    def _tables(self, y: Floats, derivative: int = 0) -> tuple[Floats, Floats, Floats]:
        """Loss (...), stiffness (..., modes) and noise (..., 1 + modes), along the path first, at arc lengths y."""
        k = len(self.stiffness[0])
        values = self._interpolant()(y, derivative)
        spread = [*range(k), *([k] * self.bulk_modes)]
        stiffness, noise = values[..., 1 : k + 2][..., spread], values[..., k + 2 : 2 * k + 3][..., spread]
        return values[..., 0], stiffness, np.concatenate([values[..., -1:], noise], axis=-1)

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        r = np.mod(x[..., 0] / self.arc_length, 2.0)
        loss, stiffness, _ = self._tables(np.where(r > 1.0, 2.0 - r, r) * self.arc_length)
        return loss + 0.5 * (stiffness * x[..., 1:] ** 2).sum(axis=-1)

    def path(self, s: ArrayLike) -> Floats:
        return straight(s, self.arc_length, self.dimension)

    def tangent(self, s: ArrayLike) -> Floats:
        return axis_tangent(s, self.dimension)

    def mode_directions(self, s: ArrayLike) -> Floats:
        return axis_directions(s, self.dimension)

    def curvature(self, s: ArrayLike) -> Floats:
        return self._tables(column(s) * self.arc_length)[1]

    def curvature_slope(self, s: ArrayLike) -> Floats:
        return self._tables(column(s) * self.arc_length, 1)[1]

    def noise_variance_at(self, s: ArrayLike) -> Floats:
        """Gradient-noise variance of each coordinate on the path, (n, d), the path's own direction first."""
        return np.maximum(self._tables(column(s) * self.arc_length)[2], 0.0)


def _slopes(knots: Floats, tables: Floats, lowest: Floats) -> Floats:
    """Slopes at the knots (n, tables), those of parabolas, limited to keep each cubic above its `lowest` (tables,).

    A cubic with end values p, q >= 0 and slopes m, l over a step h stays >= 0 if m >= -3 p/h and l <= 3 q/h."""
    # At an end the parabola may point the wrong way: no slope then, as in the monotone interpolants.
    slopes = np.gradient(tables, knots, axis=0, edge_order=2 if len(knots) > 2 else 1)
    for end, inner in ((0, 1), (-1, -2)):
        secant = (tables[inner] - tables[end]) / (knots[inner] - knots[end])
        slopes[end] = np.where(slopes[end] * secant > 0, slopes[end], 0.0)
    room = 3.0 * (tables - lowest)
    steps = np.diff(knots)[:, None]
    slopes[:-1] = np.maximum(slopes[:-1], -room[:-1] / steps)
    slopes[1:] = np.minimum(slopes[1:], room[1:] / steps)
    return slopes


def _fewest_bulk_modes(rest: Floats, top: Floats) -> int:
    """Fewest bulk modes with rest / modes <= the smallest positive of `top` (n, k) at each knot; 0 without a rest."""
    softest = np.where(top > 0, top, np.inf).min(axis=1, initial=np.inf)
    return min(math.ceil(max(float((rest / softest).max()), 0.0)), MOST_BULK_MODES)


def _numbers(values: Floats) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
