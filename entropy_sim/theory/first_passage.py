"""Mean first-passage times of the reduced dynamics dy = -V'(y) dt + sqrt(2 D_y(y)) dW (Itô), by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev

from entropy_sim.errors import require
from entropy_sim.theory._checks import Floats, Values, finite, positive

Profile = Callable[[Floats], npt.ArrayLike] | tuple[npt.ArrayLike, npt.ArrayLike] | float
"""A function of y: a callable on arrays, a table (y increasing, values), or a number."""
Absorbing = Literal["left", "right", "both"]

_ORDER = 12
_MOST_CELLS = 1 << 16


@dataclass(frozen=True)
class PassageTime:
    """Mean first-passage times, one for each start."""

    time: Floats
    """Mean time until absorption, on the common clock (infinite where it exceeds floating point)."""
    log_time: Floats
    """ln(time), finite for any barrier."""
    relative_error: Floats
    """Estimated relative error of the quadrature: the change when the cells were halved last, or rounding."""
    right_probability: Floats
    """Probability to be absorbed at the right end: 0 or 1 unless both ends absorb."""


def mean_first_passage_time(
    start: Values,
    interval: tuple[float, float],
    potential: Profile,
    diffusion: Profile,
    absorbing: Absorbing = "right",
    tolerance: float = 1e-8,
) -> PassageTime:
    """Mean first-passage time from `start` to the absorbing end(s) of the interval, the other end reflecting.

    Right end b absorbing, left end reflecting, with phi = int V'/D_y dy (V / D_y for constant D_y):
    ``tau(a) = int_a^b dy e^phi(y) int_left^y dz e^-phi(z) / D_y(z)``.
    Both absorbing: ``tau = P_left int_left^a S(left, z) m dz + P_right int_a^right S(z, right) m dz`` with S(u, v) =
    int_u^v e^phi, m = e^-phi / D_y and the splitting probability ``P_right = S(left, a) / S(left, right)``; for
    constant D_y and V = 0 they are tau = (a - left)(right - a) / (2 D_y), P_right = (a - left) / (right - left).

    start: inside the interval, (…). interval: (left, right); for a natural boundary put the reflecting end where e^-phi
    is negligible. potential: V, whose slope is minus the drift (for thermal noise V = F, D_y = T). diffusion: D_y > 0.
    Tables are interpolated by a cubic spline (V) and a monotone one (D_y). tolerance: relative, of the quadrature.
    All integrals are kept as logarithms: V / D_y of any height. Discrete steps see an absorbing level shifted,
    `absorbing_level_shift`. Raises UserError for starts or tables that do not cover the interval, D_y <= 0, and NaN.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 5 (first passage times); Pontryagin, Andronov, Vitt,
    Zh. Eksp. Teor. Fiz. 3 (1933) 165."""
    left, right = float(interval[0]), float(interval[1])
    require(
        bool(np.isfinite([left, right]).all()) and left < right, "interval", "finite numbers left < right", interval
    )
    at = finite("start", start)
    require(bool(np.all((at >= left) & (at <= right))), "start", f"positions in {left:g} … {right:g}", at.tolist())
    require(absorbing in get_args(Absorbing), "absorbing", "one of " + ", ".join(get_args(Absorbing)), absorbing)
    require(0.0 < tolerance < 1.0, "tolerance", "a number between 0 and 1", tolerance)
    v = _function("potential", potential, left, right)
    d = _function("diffusion", diffusion, left, right)
    varying = not isinstance(diffusion, int | float)
    breaks, where = np.unique(np.concatenate([[left, right], at.ravel()]), return_inverse=True)
    pick = where[2:].reshape(at.shape)
    cells, previous = 32, None
    while True:
        log_time, probability, height = _solve(breaks, cells, v, d, varying, absorbing)
        if previous is not None:
            with np.errstate(invalid="ignore"):
                change = np.abs(np.expm1(log_time - previous))
            change = np.where(np.isneginf(log_time), 0.0, np.nan_to_num(change, nan=np.inf, posinf=np.inf))
            if np.max(change[pick], initial=0.0) < tolerance or 2 * cells > _MOST_CELLS:
                break
        cells, previous = 2 * cells, log_time
    with np.errstate(over="ignore"):
        time = np.exp(log_time)
    rounding = np.finfo(float).eps * (10.0 + height)
    return PassageTime(time[pick], log_time[pick], np.maximum(change, rounding)[pick], probability[pick])


def kramers_time(well_curvature: Values, top_curvature: Values, barrier: Values, diffusion: Values) -> Floats:
    """Kramers' asymptotic time over a smooth energy barrier, ``2 pi exp(Delta / D) / sqrt(U''(well) |U''(top)|)``,
    Delta >> D, overdamped with mobility 1; its first correction is of relative order D / Delta.

    Mean time from the well to anywhere beyond the top; to the top itself it is half as long.
    well_curvature: U''(well) > 0. top_curvature: |U''(top)| > 0. barrier: Delta. diffusion: D; any shape.
    An entropic barrier has no such law: its V and D scale together.
    Reference: Kramers, Physica 7 (1940) 284; Hänggi, Talkner, Borkovec, Rev. Mod. Phys. 62 (1990) 251."""
    well, top = positive("well_curvature", well_curvature), positive("top_curvature", top_curvature)
    return 2.0 * np.pi / np.sqrt(well * top) * np.exp(finite("barrier", barrier) / positive("diffusion", diffusion))


# Each cell holds the function at Chebyshev points; two matrices integrate from its left end and differentiate.
_NODES = -np.cos(np.pi * np.arange(_ORDER) / (_ORDER - 1))
_COEFFICIENTS = np.linalg.inv(chebyshev.chebvander(_NODES, _ORDER - 1))
_INTEGRATE = np.array([chebyshev.chebval(_NODES, chebyshev.chebint(c, lbnd=-1.0)) for c in _COEFFICIENTS.T])
_DIFFERENTIATE = np.array([chebyshev.chebval(_NODES, chebyshev.chebder(c)) for c in _COEFFICIENTS.T])


def _solve(
    breaks: Floats,
    cells: int,
    v: Callable[[Floats], Floats],
    d: Callable[[Floats], Floats],
    varying: bool,
    absorbing: Absorbing,
) -> tuple[Floats, Floats, float]:
    """ln tau and the right splitting probability at the breaks, with about so many cells in all; and max |phi|."""
    counts = np.maximum(1, np.ceil(cells * np.diff(breaks) / (breaks[-1] - breaks[0])).astype(int))
    pieces = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(breaks[:-1], breaks[1:], counts, strict=True)]
    edges = np.concatenate([*pieces, breaks[-1:]])
    half = 0.5 * np.diff(edges)[:, None]
    y = edges[:-1, None] + half * (_NODES + 1.0)
    potential, diffusion = finite("potential", v(y)), positive("diffusion", d(y))
    if varying:
        inside = half * ((potential @ _DIFFERENTIATE / half / diffusion) @ _INTEGRATE)
        phi = inside + np.concatenate([[0.0], np.cumsum(inside[:-1, -1])])[:, None]
    else:
        phi = potential / diffusion
    mass = -phi - np.log(diffusion)

    def from_left(logarithm: Floats) -> Floats:
        return _log_integral(logarithm, half)

    def from_right(logarithm: Floats) -> Floats:
        return _log_integral(logarithm[::-1, ::-1], half[::-1])[::-1, ::-1]

    if absorbing == "both":
        scale_left, scale_right = from_left(phi), from_right(phi)
        whole = scale_left[-1, -1]
        to_left, to_right = scale_right - whole, scale_left - whole
        log_time = np.logaddexp(to_left + from_left(scale_left + mass), to_right + from_right(scale_right + mass))
        probability = np.exp(to_right)
    else:
        first, second = (from_left, from_right) if absorbing == "right" else (from_right, from_left)
        log_time = second(phi + first(mass))
        probability = np.full(y.shape, float(absorbing == "right"))
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    at_breaks = [np.append(a[firsts, 0], a[-1, -1]) for a in (log_time, probability)]
    return at_breaks[0], at_breaks[1], float(np.max(np.abs(phi)))


def _log_integral(logarithm: Floats, half: Floats) -> Floats:
    """ln of the integral of exp(logarithm) from the left end to every node, (cells, nodes)."""
    top = np.max(logarithm, axis=1, keepdims=True)
    local = half * (np.exp(logarithm - top) @ _INTEGRATE)
    with np.errstate(divide="ignore"):
        # Rounding can make the first, tiny parts of a cell negative.
        inside = top + np.log(np.maximum(local, 0.0))
    before = np.concatenate([[-np.inf], np.logaddexp.accumulate(inside[:-1, -1])])
    return np.logaddexp(before[:, None], inside)


def _function(option: str, profile: Profile, left: float, right: float) -> Callable[[Floats], Floats]:
    if isinstance(profile, tuple):
        y, values = finite(option, profile[0]), finite(option, profile[1])
        require(
            y.ndim == 1 and y.size >= 2 and y.shape == values.shape and bool(np.all(np.diff(y) > 0)),
            option,
            "a table (increasing positions, values) of one length",
            f"shapes {y.shape} and {values.shape}",
        )
        slack = 1e-9 * (right - left)
        require(
            bool(y[0] <= left + slack and y[-1] >= right - slack),
            option,
            f"a table that covers {left:g} … {right:g}",
            f"{y[0]:g} … {y[-1]:g}",
        )
        from scipy.interpolate import CubicSpline, PchipInterpolator  # here: it takes half a second to load

        # A monotone interpolant keeps D_y positive.
        table: Callable[[Floats], Floats] = (CubicSpline if option == "potential" else PchipInterpolator)(y, values)
        return table
    if callable(profile):
        function = profile
        return lambda y: np.broadcast_to(np.asarray(function(y), dtype=np.float64), y.shape)
    number = float(profile)
    return lambda y: np.full(y.shape, number)
