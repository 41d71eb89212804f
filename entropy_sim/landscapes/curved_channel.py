"""The entropic channel bent round a circle: the planes normal to the path rotate with it, the eigenframe may too."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from entropy_sim import _frame
from entropy_sim._compiled import OPTIONS
from entropy_sim._kernels import Compiled, block_function, inline
from entropy_sim.errors import require
from entropy_sim.landscapes._channel import any_gradient, stiffness
from entropy_sim.landscapes.base import Floats, Landscape, column
from entropy_sim.landscapes.channel import Channel, Energy, Stiffness
from entropy_sim.landscapes.shapes import Bump, Flat

# --- compiled --------------------------------------------------------------------------------------------------------

# params: radius, angle, 1 if closed, twist and its start (radians), then those of the straight channel that is bent.
_STRAIGHT = 5
_TINY = 1e-300  # the centre itself, where the angle has no meaning, pulls nowhere

_straight_gradient = njit(**OPTIONS)(any_gradient._function)
_straight_stiffness = njit(**OPTIONS)(stiffness._function)


@inline
def _angle(x, y):  # type: ignore[no-untyped-def]
    """atan2(y, x) to 1e-15 without branches (rational approximation of S. L. Moshier, Cephes, 1984); 0 at 0."""
    a, b = abs(x), abs(y)
    ratio = min(a, b) / max(max(a, b), _TINY)
    far = ratio > 0.66
    z = (ratio - 1.0) / (ratio + 1.0) if far else ratio
    q = z * z
    p = -6.485021904942025371773e1 + q * (
        -1.228866684490136173410e2
        + q * (-7.500855792314704667340e1 + q * (-1.615753718733365076637e1 + q * -8.750608600031904122785e-1))
    )
    r = 1.945506571482613964425e2 + q * (
        4.853903996359136964868e2
        + q * (4.328810604912902668951e2 + q * (1.650270098316988542046e2 + q * (2.485846490142306297962e1 + q)))
    )
    out = z + z * q * p / r
    out = out + 0.25 * math.pi if far else out
    out = 0.5 * math.pi - out if b > a else out
    out = math.pi - out if x < 0.0 else out
    return (-out if y < 0.0 else out) + 0.0 * (x + y)  # NaN stays NaN


@inline
def _fold(phi, angle, closed):  # type: ignore[no-untyped-def]
    """Position s in 0…1 and the sign of ds/dphi."""
    r = phi / angle
    turns = 1.0 if closed else 2.0
    r = r - turns * np.floor(r / turns)
    mirrored = r > 1.0 + 1e-12  # the rounding of phi = angle must not look like a reflection
    return (2.0 - r if mirrored else r), (-1.0 if mirrored else 1.0)


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    """The straight channel's gradient at (radius · angle, its modes), brought back."""
    radius, angle, closed, twist, begin = params[0], params[1], params[2] != 0.0, params[3], params[4]
    straight = params[_STRAIGHT:]
    d, walkers = theta.shape
    unrolled, force = np.empty((d, walkers)), np.empty((d, walkers))
    for w in range(walkers):
        unrolled[0, w] = radius * _angle(theta[0, w], theta[1, w])
        unrolled[1, w] = np.sqrt(theta[0, w] * theta[0, w] + theta[1, w] * theta[1, w]) - radius
    for i in range(2, d):
        for w in range(walkers):
            unrolled[i, w] = theta[i, w]
    turned = d > 2 and (twist != 0.0 or begin != 0.0)
    if turned:
        frame = np.empty((3, walkers))
        for w in range(walkers):
            s, sign = _fold(unrolled[0, w] / radius, angle, closed)
            frame[0, w], frame[1, w], frame[2, w] = np.cos(begin + twist * s), np.sin(begin + twist * s), sign
            p, q = unrolled[1, w], unrolled[2, w]
            unrolled[1, w] = frame[0, w] * p + frame[1, w] * q
            unrolled[2, w] = frame[0, w] * q - frame[1, w] * p
    _straight_gradient(unrolled, force, straight)
    if turned:
        for w in range(walkers):
            f, g = force[1, w], force[2, w]
            force[0, w] += twist * frame[2, w] / (radius * angle) * (f * unrolled[2, w] - g * unrolled[1, w])
            force[1, w] = frame[0, w] * f - frame[1, w] * g
            force[2, w] = frame[0, w] * g + frame[1, w] * f
    for w in range(walkers):
        closeness = 1.0 / max(np.sqrt(theta[0, w] * theta[0, w] + theta[1, w] * theta[1, w]), _TINY)
        east, north = theta[0, w] * closeness, theta[1, w] * closeness
        along = radius * closeness * force[0, w]
        out[0, w] = force[1, w] * east - along * north
        out[1, w] = force[1, w] * north + along * east
    for i in range(2, d):
        for w in range(walkers):
            out[i, w] = force[i, w]


@block_function
def _locate(theta, out, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    for w in range(walkers):
        out[0, w] = _fold(_angle(theta[0, w], theta[1, w]), params[1], params[2] != 0.0)[0]
        rho = np.sqrt(theta[0, w] * theta[0, w] + theta[1, w] * theta[1, w]) - params[0]
        out[1, w] = rho * rho
    for i in range(2, d):
        for w in range(walkers):
            out[1, w] += theta[i, w] * theta[i, w]


@block_function
def _stiffness(theta, out, params):  # type: ignore[no-untyped-def]
    """The straight channel's at the same s, and the frame of `_frame` there."""
    radius, angle, closed, twist, begin = params[0], params[1], params[2] != 0.0, params[3], params[4]
    d, walkers = theta.shape
    unrolled = np.empty((1, walkers))
    for w in range(walkers):
        s = _fold(_angle(theta[0, w], theta[1, w]), angle, closed)[0]
        unrolled[0, w] = radius * angle * s
        out[d + 2, w], out[d + 3, w] = np.cos(begin + twist * s), np.sin(begin + twist * s)
        closeness = 1.0 / max(np.sqrt(theta[0, w] * theta[0, w] + theta[1, w] * theta[1, w]), _TINY)
        out[d, w], out[d + 1, w] = theta[0, w] * closeness, theta[1, w] * closeness
    _straight_stiffness(unrolled, out, params[_STRAIGHT:])


# --- the landscape ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurvedChannel(Landscape):
    """A `Channel` bent round a circle, ``L = U(s) + 1/2 xᵀ H(s) x``, ``H(s) = R(psi) diag(k_i(s)) R(psi)ᵀ``.

    theta = (X, Y, z_1, …); s is the polar angle of (X, Y) over `angle`, x = (r - radius, z_1, …) the offset from the
    circle, outwards and out of its plane. R turns the first two transverse directions by psi(s) about the tangent, so
    that H is diagonal in no fixed frame: `twist` turns from s = 0 to 1.

    An angle of 360 is the closed circle; 180/n makes an arc between mirrors, whose 2 n images fill the circle (no other
    arc's images fit). In the plane normal to the path the gradient is linear in x, so with C the covariance of the
    gradient noise `mean_force_curved` is exactly ``-U' - 1/2 Tr(H' Sigma)`` and thermal noise has ``p(s) ∝ exp(-U/T)
    det H^(-1/2)``, but for the weight of the centre, exp(-k radius² / 2T): there the angle has no meaning, L is
    discontinuous, and the force along the circle grows like 1/r (walkers that it throws out are flagged as diverged;
    the centre point itself has no force along the circle).

    Example. `CurvedChannel(Exponential(1, e), angle=180, radius=1/pi)` has the length 1 and, at temperature T, the
    curved mean force -T/2 everywhere: k'/k = 1.
    """

    stiffness: Stiffness = Bump()
    """How the transverse stiffness changes along the path; the same at both ends on a closed circle."""
    along: Energy = Flat()
    """Energy along the path, U; the same at both ends on a closed circle."""
    transverse_directions: int = 1
    """Number of transverse directions: the radial one, and those out of the circle's plane."""
    amplitudes: tuple[float, ...] = ()
    """Factor a_i of each transverse mode's stiffness; empty for 1 each."""
    radius: float = 1.0
    """Radius of the circle, parameter units."""
    angle: float = 360.0
    """Angle from s = 0 to 1, degrees: 360, or 180, 90, 60, 45, … (180/n) for an arc between mirrors."""
    twist: float = 0.0
    """Turns of the first two modes about the tangent from s = 0 to 1 (whole half turns on a closed circle)."""
    twist_start: float = 0.0
    """Turn of the first mode at s = 0, from the outward direction towards z_1."""
    profiles: tuple[Stiffness, ...] = ()
    """A stiffness shape for each transverse mode instead of the shared one (in Python or by --config)."""

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate
    transverse_stiffness: ClassVar[Compiled] = _stiffness
    frame_rows: ClassVar[int] = _frame.ROWS

    def __post_init__(self) -> None:
        bent = bool(np.isfinite(self.radius) and self.radius > 0)
        require(bent, "landscape.radius", "a positive number", self.radius)
        mirrors = 180.0 / self.angle if self.angle > 0 else 0.0
        tiles = mirrors > 0.9 and abs(mirrors - round(mirrors)) < 1e-9
        require(self._closed or tiles, "landscape.angle", "360, or 180/n (180, 90, 60, …)", self.angle)
        for name in ("twist", "twist_start"):
            value, several = getattr(self, name), self.transverse_directions > 1
            require(bool(np.isfinite(value)), f"landscape.{name}", "a finite number", value)
            require(several or value == 0, f"landscape.{name}", "0 with fewer than two transverse directions", value)
        whole = abs(2.0 * self.twist - round(2.0 * self.twist)) < 1e-9
        require(whole or not self._closed, "landscape.twist", "whole half turns on a closed circle", self.twist)
        _ = self._straight  # it checks the other options

    @property
    def _closed(self) -> bool:
        return self.angle == 360.0

    @functools.cached_property
    def _straight(self) -> Channel:
        """The channel that is bent."""
        boundary: Literal["periodic", "reflecting"] = "periodic" if self._closed else "reflecting"
        shapes = self.stiffness, self.along, self.transverse_directions, self.amplitudes
        return Channel(*shapes, self.arc_length, boundary, self.profiles)

    @property
    def dimension(self) -> int:
        return self.transverse_directions + 1

    @property
    def arc_length(self) -> float:
        return self.radius * math.radians(self.angle)

    def params(self) -> Floats:
        turns = 2.0 * np.pi * np.array([self.twist, self.twist_start])
        head = [self.radius, math.radians(self.angle), float(self._closed)]
        return np.concatenate([head, turns, self._straight.params()])

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        unrolled = x.copy()
        unrolled[..., 0] = np.arctan2(x[..., 1], x[..., 0]) * self.radius
        unrolled[..., 1] = np.hypot(x[..., 0], x[..., 1]) - self.radius
        turned = self._turned(self._straight.fold(unrolled[..., 0]))
        unrolled[..., 1:] = np.einsum("...ij,...j->...i", turned, unrolled[..., 1:])
        return self._straight.energy(unrolled)

    def _turned(self, s: Floats) -> Floats:
        """Components of the modes (rows) on the radial direction and those out of the plane, (..., modes, modes)."""
        out = np.zeros((*s.shape, self.transverse_directions, self.transverse_directions))
        out[..., range(self.transverse_directions), range(self.transverse_directions)] = 1.0
        if self.transverse_directions > 1:
            psi = 2.0 * np.pi * (self.twist_start + self.twist * s)
            out[..., 0, 0], out[..., 0, 1] = np.cos(psi), np.sin(psi)
            out[..., 1, 0], out[..., 1, 1] = -np.sin(psi), np.cos(psi)
        return out

    def _outwards(self, s: ArrayLike) -> Floats:
        out = np.zeros((np.size(s), self.dimension))
        phi = column(s) * math.radians(self.angle)
        out[:, 0], out[:, 1] = np.cos(phi), np.sin(phi)
        return out

    def path(self, s: ArrayLike) -> Floats:
        return self.radius * self._outwards(s)

    def tangent(self, s: ArrayLike) -> Floats:
        outwards = self._outwards(s)
        out = np.zeros_like(outwards)
        out[:, 0], out[:, 1] = -outwards[:, 1], outwards[:, 0]
        return out

    def path_curvature(self, s: ArrayLike) -> Floats:
        return -self._outwards(s) / self.radius

    def mode_directions(self, s: ArrayLike) -> Floats:
        out = np.zeros((np.size(s), self.transverse_directions, self.dimension))
        turned = self._turned(column(s))
        out[:, :, 2:] = turned[:, :, 1:]
        return out + turned[:, :, :1] * self._outwards(s)[:, None, :]

    def curvature(self, s: ArrayLike) -> Floats:
        return self._straight.curvature(s)

    def curvature_slope(self, s: ArrayLike) -> Floats:
        """Diagonal of d_t H in the basis of the modes, (n, modes): all of the mean force only where the noise's
        covariance is diagonal there too; `transverse_hessian_slope` has the rest."""
        return np.diagonal(self._slope_in_modes(column(s)), axis1=1, axis2=2)

    def _slope_in_modes(self, s: Floats) -> Floats:
        """Transverse block of d_t H in the basis of the modes, (n, modes, modes)."""
        m = self.transverse_directions
        out = np.zeros((len(s), m, m))
        out[:, range(m), range(m)] = self._straight.curvature_slope(s)
        if m > 1:
            k = self.curvature(s)
            out[:, 0, 1] = out[:, 1, 0] = 2.0 * np.pi * self.twist / self.arc_length * (k[:, 0] - k[:, 1])
        # Further out the same angle is a longer way: the slope of U there is U' R / r, its second r-derivative 2 U'/R².
        radial, bend = self._turned(s)[:, :, 0], 2.0 * self.along.slope(s) / self.arc_length / self.radius**2
        return out + bend[:, None, None] * radial[:, :, None] * radial[:, None, :]

    @property
    def turning_frame(self) -> bool:
        return self.twist != 0.0 or self.twist_start != 0.0

    def transverse_hessian(self, s: ArrayLike) -> Floats:
        """H⊥ = Q H Q on the path, (n, d, d)."""
        modes = self.mode_directions(s)
        return np.einsum("nmi,nm,nmj->nij", modes, self.curvature(s), modes)

    def transverse_hessian_slope(self, s: ArrayLike) -> Floats:
        """Q (d_t H) Q on the path, the directional derivative of H along the fixed tangent, (n, d, d); with
        `transverse_hessian` what `theory.mean_force_lyapunov` takes."""
        modes = self.mode_directions(s)
        return np.einsum("nmi,nml,nlj->nij", modes, self._slope_in_modes(column(s)), modes)
