"""A landscape from a user's own Python file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim import user_code, user_file
from entropy_sim._kernels import Compiled, evaluate
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Floats, Landscape, column
from entropy_sim.landscapes.spline import SplinePath, locate

#: Step of all differences of the gradient, in arc lengths.
_STEP = 1e-3
#: Points at which a user's `path(s)` is sampled; a spline goes through them.
_PATH_SAMPLES = 401
#: Random points near the path at which the gradient is checked, and how far from it they lie, in arc lengths.
_CHECKED, _SPREAD = 24, 0.02
#: Relative error of the gradient that is let through: far above that of the differences, far below a wrong term.
_TOLERANCE = 1e-4
_CHUNK = 1 << 22  # numbers in a temporary array


@dataclass(frozen=True)
class Custom(Landscape):
    """A landscape from your own Python file, which defines `energy` and `gradient` (see docs/own_landscape.md).

    ``energy(x, p)`` gives L at a point x (d,), ``gradient(x, p)`` the d derivatives as a tuple or array; p are the
    `parameters`, and may be left out of both. `gradient(theta, out, p)` is handed whole blocks (d, walkers) instead.
    The path is ``path(s)``, s = 0…1, of the file, or a smooth curve through start, waypoints and end; s is measured by
    arc length whatever the file's own parameter. The gradient is compared with differences of the energy when the file
    is loaded. Curvatures are sixth-order differences of the gradient, with all d directions: d up to about a hundred.

    Far away is looked at only straight beyond the ends: where the valley goes on there without rising or getting
    stiffer, no stationary density exists. Walkers beyond the ends are counted in `outside`. The text of the file is
    part of the configuration, so a dataset can be run again when the file is gone.
    Raises UserError for a file that does not load, compile or fit, or whose gradient is wrong.
    """

    file: str
    """The Python file."""
    parameters: tuple[float, ...] = ()
    """Numbers p handed to its functions."""
    start: tuple[float, ...] = ()
    """Where the path begins, d numbers; empty to take `path(s)` from the file."""
    end: tuple[float, ...] = ()
    """Where the path ends, d numbers."""
    waypoints: tuple[float, ...] = ()
    """Points in between, in order, d numbers each."""
    sha256: str = ""
    """SHA-256 of the file, filled in from it; a file that has changed since is refused (empty: take it as it is)."""
    text: str = ""
    """Text of the file, filled in from it; what is run if the file is gone."""

    locate: ClassVar[Compiled] = locate

    def __post_init__(self) -> None:
        digest, text = user_file.settle("landscape.file", self.file, self.sha256, self.text)
        object.__setattr__(self, "sha256", digest)
        object.__setattr__(self, "text", text)
        require(bool(np.isfinite(self.parameters).all()), "landscape.parameters", "finite numbers", self.parameters)
        _check_ends(self.start, self.end, self.waypoints)
        _check(self)

    @cached_property
    def _module(self) -> user_code.UserModule:
        return user_code.load("landscape.file", self.file, self.text)

    @cached_property
    def gradient(self) -> Compiled:  # type: ignore[override]
        return self._module.block("gradient", self.dimension, len(self.parameters))

    @cached_property
    def _energy(self) -> Compiled:
        return self._module.block("energy", 1, len(self.parameters))

    @cached_property
    def _path(self) -> SplinePath:
        d = len(self.start)
        if d:
            points = np.array([*self.start, *self.waypoints, *self.end], dtype=np.float64).reshape(-1, d)
            return SplinePath(points)
        return SplinePath(_path_of_file(self._module, np.array(self.parameters, dtype=np.float64)), natural=False)

    @cached_property
    def dimension(self) -> int:
        return len(self.start) or int(self._path.point(0.0).shape[1])

    @property
    def arc_length(self) -> float:
        return self._path.length

    @cached_property
    def _params(self) -> Floats:
        return np.concatenate([np.array(self.parameters, dtype=np.float64), self._path.numbers()])

    def params(self) -> Floats:
        return self._params

    def energy(self, theta: ArrayLike) -> Floats:
        return evaluate(self._energy, np.asarray(theta, dtype=np.float64), self._params, 1)[..., 0]

    def path(self, s: ArrayLike) -> Floats:
        return self._path.point(s)

    def tangent(self, s: ArrayLike) -> Floats:
        return self._path.tangent(s)

    def path_curvature(self, s: ArrayLike) -> Floats:
        return self._path.curvature(s)

    def hessian(self, theta: ArrayLike) -> Floats:
        """Second derivatives, (n, d, d), at points (n, d), by differences of the gradient."""
        x, h = np.asarray(theta, dtype=np.float64), _STEP * self.arc_length
        shifts = h * np.eye(self.dimension)
        out = _derivative(lambda j: self.gradient_at(x[:, None, :] + j * shifts), h)
        return 0.5 * (out + np.swapaxes(out, -1, -2))

    def _along(self, s: Floats, directions: Floats) -> Floats:
        """d/dy (m · H m) with m held fixed, (n, modes), for directions m (n, modes, d)."""
        base, t, h = self.path(s)[:, None, :], self.tangent(s)[:, None, :], _STEP * self.arc_length

        def stiffness(along: int) -> Floats:
            at = base + along * h * t
            change = _derivative(lambda j: self.gradient_at(at + j * h * directions), h)
            return (change * directions).sum(axis=-1)

        return _derivative(stiffness, h)

    def tangential_curvature(self, s: ArrayLike) -> Floats:
        x, t, h = self.path(s), self.tangent(s), _STEP * self.arc_length
        return (_derivative(lambda j: self.gradient_at(x + j * h * t), h) * t).sum(axis=-1)

    def stationary_obstacle(self, exponent: float | None = 0.0, ratio: float = 1.0) -> str | None:
        """A valley that goes straight on beyond an end of the path and neither rises nor gets stiffer there.

        As for an open `Channel`, for thermal noise sum ln k must grow faster than 2 ln r where the energy does not
        rise. Images of the path, the way to have walls or a ring, are let through: walkers on them do as those on it.
        """
        if self._has_images():
            return None
        length, ends = self.arc_length, np.array([0.0, 1.0])
        scale = 1e-9 * max(self.largest_stiffness(), 0.0) * length**2
        for s, point, outward in zip(ends, self.path(ends), self.tangent(ends) * [[-1.0], [1.0]], strict=True):
            beyond = point + length * np.array([1.0, 10.0, 100.0, 1000.0])[:, None] * outward
            with np.errstate(all="ignore"):
                energy, here = self.energy(beyond), float(self.energy(point))
                if not (energy - here <= scale + 1e-12 * abs(here)).all():
                    continue
                if (np.diff(energy) < -scale).all():
                    return f"a valley whose energy falls beyond s = {s:g} (landscape.file)"
                normal = np.linalg.svd(outward[None])[2][1:]
                hessian = self.hessian(beyond[2:])
                if not np.isfinite(hessian).all():
                    continue
                stiffness = np.linalg.eigvalsh(normal @ hessian @ normal.T)
                valley = bool((stiffness > 0).all())
                growth = np.diff(np.log(stiffness), axis=0)[0] / np.log(10.0)
            confined = growth.sum() * ratio > 2.0 + 1e-3
            if exponent is None or exponent != 0.0:
                confined = exponent is not None and exponent > 0.0 and bool((growth > 1e-3).any())
            if valley and not confined:
                return f"a valley that neither rises nor gets stiffer beyond s = {s:g} (landscape.file)"
        return None

    def _has_images(self) -> bool:
        """Whether the path is straight and the energy repeats with its length, or twice that, but not with any."""
        if np.abs(self.path_curvature(np.linspace(0.0, 1.0, 11))).max() * self.arc_length > 1e-6:
            return False
        rng, d = np.random.default_rng(1), self.dimension
        s = rng.uniform(0.0, 1.0, _CHECKED)
        x = self.path(s) + _SPREAD * self.arc_length / np.sqrt(d) * rng.standard_normal((_CHECKED, d))
        here, along = self.energy(x), self.arc_length * self.tangent(s)
        once, twice, part = (np.allclose(self.energy(x + a * along), here, rtol=1e-6, atol=0) for a in (1.0, 2.0, 0.37))
        return (once or twice) and not part

    def _modes(self, s: ArrayLike) -> tuple[Floats, Floats, Floats]:
        return _modes(self, tuple(column(s).tolist()))

    def curvature(self, s: ArrayLike) -> Floats:
        return self._modes(s)[0]

    def curvature_slope(self, s: ArrayLike) -> Floats:
        return self._modes(s)[1]

    def mode_directions(self, s: ArrayLike) -> Floats:
        return self._modes(s)[2]


def _derivative(value: Callable[[int], Floats], step: float) -> Floats:
    """Sixth-order central derivative from the values at -3…3 steps."""
    one, two, three = (value(j) - value(-j) for j in (1, 2, 3))
    return (0.75 * one - 0.15 * two + three / 60.0) / step


@lru_cache(maxsize=16)
def _modes(landscape: Custom, s: tuple[float, ...]) -> tuple[Floats, Floats, Floats]:
    """Stiffness of the transverse modes, largest first, its slope, and the modes (n, modes, d): kept for a few s."""
    every, d = np.array(s), landscape.dimension
    parts = []
    for at in np.array_split(every, max(1, len(every) * d * d // _CHUNK + 1)):
        t = landscape.tangent(at)
        normal = np.linalg.svd(t[:, None, :])[2][:, 1:]  # rows span the plane normal to the path
        inside = normal @ landscape.hessian(landscape.path(at)) @ np.swapaxes(normal, -1, -2)
        values, vectors = np.linalg.eigh(inside)
        directions = (np.swapaxes(vectors, -1, -2) @ normal)[:, ::-1]
        parts.append((values[:, ::-1], landscape._along(at, directions), directions))
    stiffness, slope, directions = (np.concatenate(p) for p in zip(*parts, strict=True))
    for array in (stiffness, slope, directions):
        array.flags.writeable = False
    return stiffness, slope, directions


def _check_ends(start: tuple[float, ...], end: tuple[float, ...], waypoints: tuple[float, ...]) -> None:
    """Raise UserError unless start, waypoints and end are points of one dimension, or none is given."""
    d = len(start)
    if d == 0:
        require(not end and not waypoints, "landscape.start", "a start where an end or waypoints are given", start)
        return
    require(d >= 2, "landscape.start", "2 or more numbers, one for each coordinate", start)
    require(len(end) == d, "landscape.end", f"{d} numbers, as many as the start has", end)
    require(len(waypoints) % d == 0, "landscape.waypoints", f"a multiple of {d} numbers", waypoints)
    points = np.array([*start, *waypoints, *end], dtype=np.float64).reshape(-1, d)
    require(bool(np.isfinite(points).all()), "landscape.start", "finite numbers", points.tolist())
    distinct = bool((np.abs(np.diff(points, axis=0)).max(axis=1) > 0).all())
    require(distinct, "landscape.end", "successive points of the path that differ", points.tolist())


def _path_of_file(module: user_code.UserModule, parameters: Floats) -> Floats:
    """Points of the file's `path(s)` or `path(s, p)`, (samples, d)."""
    if not module.has("path"):
        raise UserError(
            f"landscape.file: expected a function path(s) in {module.file}, or landscape.start and landscape.end, "
            "found neither"
        )
    found: list[Any] = [module.call("path", float(s), parameters) for s in np.linspace(0.0, 1.0, _PATH_SAMPLES)]
    try:
        points = np.array([np.asarray(p, dtype=np.float64) for p in found])
    except (TypeError, ValueError):
        points = np.zeros(0)
    good = points.ndim == 2 and points.shape[1] >= 2 and bool(np.isfinite(points).all())
    require(good, "landscape.file", f"2 or more finite numbers from path(s) of {module.file}", found[0])
    distinct = bool((np.abs(np.diff(points, axis=0)).max(axis=1) > 0).all())
    require(distinct, "landscape.file", f"path(s) of {module.file} to move on with s", found[0])
    return points


@lru_cache(maxsize=64)
def _check(landscape: Custom) -> None:
    """Raise UserError where the gradient is not that of the energy, at random points near the path."""
    file, d, reach = landscape.file, landscape.dimension, landscape.arc_length
    rng = np.random.default_rng(0)
    s = rng.uniform(0.03, 0.97, _CHECKED)
    x = landscape.path(s) + _SPREAD * reach / np.sqrt(d) * rng.standard_normal((_CHECKED, d))
    energy, found = landscape.energy(x), landscape.gradient_at(x)
    for name, values in (("energy", energy[:, None]), ("gradient", found)):
        bad = ~np.isfinite(values)
        if bad.any():
            n, i = np.argwhere(bad)[0]
            what = f"component {i} = " if name == "gradient" else ""
            raise UserError(
                f"landscape.file: expected a finite {name} from {file} near the path, found {what}{values[n, i]} at "
                f"x = {_point(x[n])} (or too few numbers given)"
            )
    h = 1e-2 * _SPREAD * reach
    shifts = h * np.eye(d)
    expected = _derivative(lambda j: landscape.energy(x[:, None, :] + j * shifts), h)
    rounding = 1e3 * np.finfo(np.float64).eps * np.abs(energy).max() / h
    allowed = _TOLERANCE * np.abs(found).max(axis=1, keepdims=True) + rounding
    off = np.abs(found - expected) - allowed
    if not (off <= 0).all():
        n, i = np.unravel_index(int(np.nan_to_num(off, nan=np.inf).argmax()), off.shape)
        raise UserError(
            f"landscape.file: expected the gradient of {file} to be that of its energy, found component {i} = "
            f"{found[n, i]:.6g} where differences of the energy give {expected[n, i]:.6g}, at x = {_point(x[n])}"
        )


def _point(x: Floats) -> str:
    text = ", ".join(f"{v:.4g}" for v in x[:6])
    return f"({text}{', …' if len(x) > 6 else ''})"
