"""Noise whose strength depends on where one is: given along the path, or by a user's file anywhere.

Itô throughout. The other named conventions of a diffusion add their drift: with D = B Bᵀ,

    stratonovich  sum_jk B_jk d_j B_ik     (1/2 d_i D_i for a diagonal D)
    anti_ito      sum_j d_j D_ij           (d_i D_i), also isothermal, or Hänggi-Klimontovich

References: Gardiner, Handbook of Stochastic Methods, chapter 4; Klimontovich, Physica A 163 (1990) 515.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, get_args

import numpy as np
from numba import int64, njit
from numpy.typing import ArrayLike

from entropy_sim import user_code, user_file
from entropy_sim._compiled import OPTIONS
from entropy_sim._kernels import _NOISE, Compiled, evaluate, noise_function
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes._shapes import FLAT, shape_into
from entropy_sim.landscapes.base import Landscape, column
from entropy_sim.landscapes.interpolated import FromFile, Interpolated
from entropy_sim.landscapes.shapes import Bump, DoubleWell, Exponential, Power, Shape, Tails
from entropy_sim.noise.base import Floats, Noise, Supplies
from entropy_sim.theory.density import Interpretation, interpretation_drift

#: Half the distance over which a user's function is differenced, in arc lengths.
_STEP = 1e-4
_WEIGHT = {name: float(interpretation_drift(1.0, name)) for name in get_args(Interpretation)}


# --- along the path --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant(Shape):
    """The same everywhere."""

    size: float = 0.01
    """Its value (>= 0)."""

    code: ClassVar[int] = FLAT

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.size) and self.size >= 0), "noise.size", "a number >= 0", self.size)

    def numbers(self) -> tuple[float, float, float, float]:
        return self.size, 0.0, 0.0, 0.0

    def value(self, s: Floats) -> Floats:
        return self.size + 0.0 * s

    def slope(self, s: Floats) -> Floats:
        return 0.0 * s

    def tails(self) -> Tails:
        return (0.0, self.size), (0.0, self.size)


Strength = Constant | Bump | DoubleWell | Exponential | Power | Interpolated | FromFile


# params: factor on D or C, weight of the drift, length; period of the fold in s, its inverse, s above which it mirrors
# (as in Channel); where the second record begins; then the records of the strength along and across the path.
@noise_function
def _profiled(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    factor, weight, length = params[0], params[1], params[2]
    period, inverse, mirror = params[3], params[4], params[5]
    s, sign, value, slope = np.empty(walkers), np.empty(walkers), np.empty(walkers), np.empty(walkers)
    for w in range(walkers):
        r = theta[0, w] / length
        r = r - period * np.floor(r * inverse)
        mirrored = r > mirror
        s[w] = 2.0 - r if mirrored else r
        sign[w] = -1.0 if mirrored else 1.0
    shape_into(params, 7, s, value, slope)
    for w in range(walkers):
        noise[0, w] = np.sqrt(factor * max(value[w], 0.0)) * xi[0, w]
        # A mirror image has the same D and the opposite slope.
        gradient[0, w] -= weight * sign[w] / length * slope[w]
    shape_into(params, int64(params[6]), s, value, slope)
    for w in range(walkers):
        value[w] = np.sqrt(factor * max(value[w], 0.0))
    for i in range(1, d):
        for w in range(walkers):
            noise[i, w] = value[w] * xi[i, w]


_FOLDS = {"reflecting": (2.0, 0.5, 1.0 + 1e-12), "periodic": (1.0, 1.0, np.inf), "open": (0.0, 0.0, np.inf)}


class _Profiled(Noise):
    """Strengths given along the path, for landscapes whose first coordinate runs along it."""

    along_path: Strength
    across: Strength
    function: ClassVar[Compiled] = _profiled
    _factor: ClassVar[float]
    _weight: float = 0.0

    def check(self, landscape: Landscape) -> None:
        if landscape.transverse_stiffness is None or landscape.frame_rows:
            raise UserError(
                f"noise: expected a straight channel (Channel, Tabulated) for {type(self).__name__}, found "
                f"{type(landscape).__name__}"
            )
        boundary = _boundary(landscape)
        domain = (-np.inf, np.inf) if boundary == "open" else (0.0, 1.0)
        for name in ("along_path", "across"):
            shape: Shape = getattr(self, name)
            least = shape.lowest(*domain)
            if least is not None and not least[0] >= 0:
                raise UserError(f"noise.{name}: expected a strength >= 0, found {least[0]:.6g} at s = {least[1]:.6g}")
            start, end = shape.value(np.array([0.0, 1.0])).tolist()
            if boundary == "periodic" and abs(end - start) > 1e-9 * max(abs(start), abs(end)):
                raise UserError(
                    f"noise.{name}: expected the same value at s = 0 and 1 for boundary periodic, "
                    f"found {start:.6g} and {end:.6g}"
                )

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        first, second = self.along_path.record(), self.across.record()
        head = [self._factor, self._weight, landscape.arc_length, *_FOLDS[_boundary(landscape)], 7.0 + len(first)]
        return np.concatenate([head, first, second])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.repeat(self.across.value(column(s))[:, None], landscape.dimension - 1, axis=1)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.along_path.value(column(s))

    def drift(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self._weight * self.along_path.slope(column(s)) / landscape.arc_length


def _boundary(landscape: Landscape) -> str:
    return str(getattr(landscape, "boundary", "reflecting"))


@dataclass(frozen=True)
class StateDependent(_Profiled):
    """Diffusion ``D_y(s)`` along the path and ``D_x(s)`` in every direction across it. Supplies a diffusion.

    With force f along the path its density is ``p ∝ D_y^-(1-lambda) exp(int f / D_y dy)``, lambda = 0 (Itô), 1/2
    (Stratonovich), 1 (anti-Itô); the entropic force uses ``<x²> = D_x(s) / k(s)``.
    """

    along_path: Strength = Bump(0.01, 0.04)
    """D_y along the path, parameter² / time."""
    across: Strength = Constant()
    """D_x across it."""
    interpretation: Interpretation = "ito"
    """Which product sqrt(2 D) dW means: ito, stratonovich (drift dD/2) or anti_ito (drift dD)."""

    supplies: ClassVar[Supplies] = "diffusion"
    _factor: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        _check_interpretation(self.interpretation)

    @property
    def _weight(self) -> float:  # type: ignore[override]
        return _WEIGHT[self.interpretation]


@dataclass(frozen=True)
class StateDependentCovariance(_Profiled):
    """Gradient noise of variance ``C_y(s)`` along the path and ``C_x(s)`` across it: `StateDependent` for SGD.

    A discrete update takes C where it starts from: no convention is left to choose.
    """

    along_path: Strength = Bump(0.1, 0.4)
    """C_y along the path, (loss / parameter)²."""
    across: Strength = Constant(0.1)
    """C_x across it."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    _factor: ClassVar[float] = 1.0


def _check_interpretation(value: str) -> None:
    require(value in _WEIGHT, "noise.interpretation", f"one of {', '.join(_WEIGHT)}", value)


# --- from a user's file ----------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _nothing(x, params, out):  # type: ignore[no-untyped-def]
    """Stands for a function the file does not define."""


# params: the user's numbers, factor on D or C, 0 (Itô), 1/2 or 1, half the distance of the differences. field: theta as
# the landscape folds it, where it does.
def _matrix_noise(diagonal: Any, factor: Any, numbers: int, rank: int, first: int) -> Compiled:
    """The noise function for compiled point functions; xi: `first` normals for the diagonal, then `rank`."""

    def function(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
        d, walkers = theta.shape
        root, weight, shift = np.sqrt(params[numbers]), params[numbers + 1], params[numbers + 2]
        x, own, low, high, drift = np.empty(d), np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
        f, f_low, f_high = np.zeros(d * rank), np.zeros(d * rank), np.zeros(d * rank)
        for w in range(walkers):
            for i in range(d):
                x[i] = theta[i, w]
            mirror = 1.0  # noise and drift of a mirror image point the other way along the path
            if field.shape[0] > 0:
                mirror = -1.0 if field[0, w] < 0.0 else 1.0
                x[0] = mirror * field[0, w]
            here = x[0]
            diagonal(x, params, own)
            factor(x, params, f)
            for i in range(d):
                total = np.sqrt(own[i]) * xi[i, w] if first > 0 else 0.0
                for k in range(rank):
                    total += f[i * rank + k] * xi[first + k, w]
                noise[i, w] = root * total
            noise[0, w] *= mirror
            if weight > 0.0:
                for j in range(d):
                    drift[j] = 0.0
                for j in range(d):
                    at = here if j == 0 else theta[j, w]
                    x[j] = at + shift
                    diagonal(x, params, high)
                    factor(x, params, f_high)
                    x[j] = at - shift
                    diagonal(x, params, low)
                    factor(x, params, f_low)
                    x[j] = at
                    drift[j] += weight * (high[j] - low[j]) / (2.0 * shift)
                    for k in range(rank):
                        spread = (f_high[j * rank + k] - f_low[j * rank + k]) / (2.0 * shift)
                        for i in range(d):
                            change = (f_high[i * rank + k] - f_low[i * rank + k]) / (2.0 * shift)
                            drift[i] += f[j * rank + k] * change
                            if weight == 1.0:
                                drift[i] += f[i * rank + k] * spread
                gradient[0, w] -= mirror * drift[0]
                for i in range(1, d):
                    gradient[i, w] -= drift[i]

    return user_code.Ready(njit(_NOISE, **OPTIONS)(function))


class _FromFile(Noise):
    """D or C from a user's file: diag(diagonal) + factor factorᵀ."""

    file: str
    parameters: tuple[float, ...]
    sha256: str
    text: str
    _factor: ClassVar[float]
    _weight: float = 0.0

    def __post_init__(self) -> None:
        digest, text = user_file.settle("noise.file", self.file, self.sha256, self.text)
        object.__setattr__(self, "sha256", digest)
        object.__setattr__(self, "text", text)
        require(bool(np.isfinite(self.parameters).all()), "noise.parameters", "finite numbers", self.parameters)
        if not (self._module.has("diagonal") or self._module.has("factor")):
            self._module.python("diagonal")  # says what was found instead

    @cached_property
    def _module(self) -> user_code.UserModule:
        return user_code.load("noise.file", self.file, self.text)

    @property
    def _numbers(self) -> Floats:
        return np.array(self.parameters, dtype=np.float64)

    def _rank(self, landscape: Landscape) -> int:
        """Columns of the factor, from its value on the path."""
        if not self._module.has("factor"):
            return 0
        d = landscape.dimension
        try:
            shape = np.shape(self._module.call("factor", landscape.path(0.5)[0], self._numbers))
        except ValueError:  # rows of different lengths
            shape = (0,)
        if len(shape) != 2 or shape[0] != d or shape[1] < 1:
            raise UserError(
                f"noise.file: expected {d} rows of as many numbers each from factor of {self.file}, found "
                f"{' x '.join(map(str, shape)) or 'one number'}"
            )
        return int(shape[1])

    def normals(self, landscape: Landscape) -> int:
        return self._rank(landscape) + (landscape.dimension if self._module.has("diagonal") else 0)

    def field_function(self, landscape: Landscape) -> Compiled | None:
        return landscape.folded

    def function_for(self, landscape: Landscape) -> Compiled:
        return _compiled_noise(self._module, landscape.dimension, self._rank(landscape), len(self.parameters))

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([*self.parameters, self._factor, self._weight, _STEP * landscape.arc_length])

    def _matrix(self, landscape: Landscape, theta: Floats) -> Floats:
        """D or C at points (n, d), (n, d, d)."""
        d, n, rank = landscape.dimension, len(self.parameters), self._rank(landscape)
        out = np.zeros((len(theta), d, d))
        if self._module.has("diagonal"):
            out[:, range(d), range(d)] = evaluate(self._module.block("diagonal", d, n), theta, self._numbers)
        if rank:
            f = evaluate(self._module.block("factor", d, n, rank), theta, self._numbers, d * rank)
            f = f.reshape(-1, d, rank)
            out += f @ np.swapaxes(f, 1, 2)
        return out

    def check(self, landscape: Landscape) -> None:
        s = np.linspace(0.0, 1.0, 101)
        theta = landscape.path(s)
        d, n = landscape.dimension, len(self.parameters)
        if self._module.has("diagonal"):
            own = evaluate(self._module.block("diagonal", d, n), theta, self._numbers)
            bad = ~(np.isfinite(own) & (own >= 0))
            if bad.any():
                where, i = np.argwhere(bad)[0]
                raise UserError(
                    f"noise.file: expected diagonal of {self.file} >= 0 on the path, found component {i} = "
                    f"{own[where, i]:.6g} at s = {s[where]:.6g}"
                )
        if not np.isfinite(self._matrix(landscape, theta)).all():
            raise UserError(f"noise.file: expected finite numbers from factor of {self.file} on the path, found others")

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        modes = landscape.mode_directions(s)
        return np.einsum("nmi,nij,nmj->nm", modes, self._matrix(landscape, landscape.path(s)), modes, optimize=True)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        t = landscape.tangent(s)
        return np.einsum("ni,nij,nj->n", t, self._matrix(landscape, landscape.path(s)), t)

    def _drifts(self, landscape: Landscape, s: ArrayLike) -> Floats:
        """The drift of the interpretation on the path, (n, d), from the compiled function itself."""
        theta = np.ascontiguousarray(landscape.path(s).T)
        d, n = theta.shape
        gradient, noise, empty = np.zeros((d, n)), np.zeros((d, n)), np.zeros((0, n))
        xi = np.zeros((self.normals(landscape), n), dtype=np.float32)
        numbers = np.uint64(0), 0, 0, self.params(landscape, 1.0)
        self.function_for(landscape)(theta, gradient, empty, xi, noise, *numbers)
        return -gradient.T

    def drift(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.einsum("nd,nd->n", self._drifts(landscape, s), landscape.tangent(s))

    def has_exact_covariance(self, landscape: Landscape) -> bool:
        """Whether, on points tried beside a straight path, D is what it is on it, and no drift leads off the path."""
        s = np.linspace(0.05, 0.95, 19)
        path, modes = landscape.path(s), landscape.mode_directions(s)
        if np.any(landscape.path_curvature(s)):
            return False
        on, drift = self._matrix(landscape, path), self._drifts(landscape, s)
        across = np.einsum("nd,nmd->nm", drift, modes)
        same = [
            np.allclose(self._matrix(landscape, path + np.einsum("m,nmd->nd", x, modes)), on, rtol=1e-9)
            for x in (np.cos(np.arange(modes.shape[1]) + a) * landscape.arc_length for a in (1.0, 2.5))
        ]
        return all(same) and bool(np.abs(across).max(initial=0.0) <= 1e-7 * max(1e-300, np.abs(drift).max()))


@lru_cache(maxsize=64)
def _compiled_noise(module: user_code.UserModule, d: int, rank: int, numbers: int) -> Compiled:
    with_diagonal = module.has("diagonal")
    diagonal = module.point("diagonal", d, numbers) if with_diagonal else _nothing
    factor = module.point("factor", d, numbers, rank) if rank else _nothing
    return _matrix_noise(diagonal, factor, numbers, rank, d if with_diagonal else 0)


@dataclass(frozen=True)
class CustomDiffusion(_FromFile):
    """A diffusion ``D(θ) = diag(diagonal) + factor factorᵀ`` from your own Python file. Supplies a diffusion.

    The file defines ``diagonal(x, p)``, d numbers >= 0, or ``factor(x, p)``, d rows of r numbers (tuples or an array),
    or both, for one point x (d,), in what numba compiles; p are the `parameters`, and may be left out. D may be
    singular. Derivatives for the other interpretations are central differences. See docs/own_landscape.md.
    """

    file: str
    """The Python file."""
    parameters: tuple[float, ...] = ()
    """Numbers p handed to its functions."""
    interpretation: Interpretation = "ito"
    """Which product sqrt(2) B dW, D = B Bᵀ, means: ito, stratonovich or anti_ito; the drift is added."""
    sha256: str = ""
    """SHA-256 of the file, filled in from it; a file that has changed since is refused (empty: take it as it is)."""
    text: str = ""
    """Text of the file, filled in from it; what is run if the file is gone."""

    supplies: ClassVar[Supplies] = "diffusion"
    _factor: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        _check_interpretation(self.interpretation)
        super().__post_init__()

    @property
    def _weight(self) -> float:  # type: ignore[override]
        return _WEIGHT[self.interpretation]


@dataclass(frozen=True)
class CustomCovariance(_FromFile):
    """Gradient noise of covariance ``C(θ) = diag(diagonal) + factor factorᵀ`` from your own Python file, for SGD.

    The functions are those of `CustomDiffusion`; a discrete update takes C where it starts from.
    """

    file: str
    """The Python file."""
    parameters: tuple[float, ...] = ()
    """Numbers p handed to its functions."""
    sha256: str = ""
    """SHA-256 of the file, filled in from it; a file that has changed since is refused (empty: take it as it is)."""
    text: str = ""
    """Text of the file, filled in from it; what is run if the file is gone."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    _factor: ClassVar[float] = 1.0
