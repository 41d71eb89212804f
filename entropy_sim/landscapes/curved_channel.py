"""The entropic channel bent round a circle: the planes normal to the path rotate with it, and the eigenframe may too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, block_function, inline
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Floats, Landscape, column
from entropy_sim.landscapes.channel import Barrier, Bump, DoubleWell, Exponential, Flat, _fold, _shape_into

# --- compiled --------------------------------------------------------------------------------------------------------

# params: radius, angle, 1 if closed, shape code, three numbers of the shape, height of U, twist and its start (radians),
# amplitudes a_1…

_AMPLITUDES = 10
_TINY = 1e-300  # the centre itself, where the angle has no meaning, pulls nowhere


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
def _frame_into(theta, params, s, cosine, sine):  # type: ignore[no-untyped-def]
    """Cosine and sine of the eigenframe's angle at s, where there is a frame to turn."""
    if theta.shape[0] == 2 or (params[8] == 0.0 and params[9] == 0.0):
        cosine[:] = 1.0
        sine[:] = 0.0
        return
    for w in range(s.size):
        cosine[w] = np.cos(params[9] + params[8] * s[w])
        sine[w] = np.sin(params[9] + params[8] * s[w])


@block_function
def _gradient(theta, out, params):  # type: ignore[no-untyped-def]
    radius, angle, closed, height = params[0], params[1], params[2] != 0.0, params[7]
    d, walkers = theta.shape
    first = params[_AMPLITUDES]
    s, sign, value, slope = np.empty(walkers), np.empty(walkers), np.empty(walkers), np.empty(walkers)
    cosine, sine, rho, turn = np.empty(walkers), np.empty(walkers), np.empty(walkers), np.zeros(walkers)
    square = np.zeros(walkers)
    for w in range(walkers):
        s[w], sign[w] = _fold(_angle(theta[0, w], theta[1, w]), angle, closed)
        rho[w] = np.sqrt(theta[0, w] * theta[0, w] + theta[1, w] * theta[1, w]) - radius
    _shape_into(params[3], params[4], params[5], params[6], s, value, slope)
    if d == 2:
        for w in range(walkers):
            square[w] = first * rho[w] * rho[w]
            out[0, w] = first * value[w] * rho[w]
    else:
        _frame_into(theta, params, s, cosine, sine)
        second = params[_AMPLITUDES + 1]
        for w in range(walkers):
            p = cosine[w] * rho[w] + sine[w] * theta[2, w]
            q = cosine[w] * theta[2, w] - sine[w] * rho[w]
            square[w] = first * p * p + second * q * q
            turn[w] = params[8] * (first - second) * p * q * value[w]
            out[0, w] = value[w] * (first * p * cosine[w] - second * q * sine[w])
            out[2, w] = value[w] * (first * p * sine[w] + second * q * cosine[w])
        for i in range(3, d):
            amplitude = params[_AMPLITUDES + i - 1]
            for w in range(walkers):
                square[w] += amplitude * theta[i, w] * theta[i, w]
                out[i, w] = amplitude * value[w] * theta[i, w]
    for w in range(walkers):
        u = 2.0 * s[w] - 1.0
        inverse = 1.0 / max(rho[w] + radius, _TINY)
        east, north = theta[0, w] * inverse, theta[1, w] * inverse
        along = sign[w] / angle * (0.5 * slope[w] * square[w] + turn[w] - 8.0 * height * u * (1.0 - u * u)) * inverse
        outwards = out[0, w]
        out[0, w] = outwards * east - along * north
        out[1, w] = outwards * north + along * east


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


# --- the landscape ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurvedChannel(Landscape):
    """A valley bent round a circle, ``L = U(s) + 1/2 xᵀ H(s) x``, ``H(s) = k(s) R(psi) diag(a) R(psi)ᵀ``.

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

    stiffness: Bump | DoubleWell | Exponential = Bump()
    """How the transverse stiffness changes along the path; the same at both ends on a closed circle."""
    along: Flat | Barrier = Flat()
    """Energy along the path, U."""
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

    gradient: ClassVar[Compiled] = _gradient
    locate: ClassVar[Compiled] = _locate

    def __post_init__(self) -> None:
        modes = self.transverse_directions
        require(
            bool(np.isfinite(self.radius) and self.radius > 0), "landscape.radius", "a positive number", self.radius
        )
        require(modes >= 1, "landscape.transverse_directions", "at least 1", modes)
        require(
            len(self.amplitudes) in (0, modes),
            "landscape.amplitudes",
            f"one for each of the {modes} transverse directions, or none",
            self.amplitudes,
        )
        positive = all(np.isfinite(a) and a > 0 for a in self.amplitudes)
        require(positive, "landscape.amplitudes", "positive numbers", self.amplitudes)
        mirrors = 180.0 / self.angle if self.angle > 0 else 0.0
        tiles = mirrors > 0.9 and abs(mirrors - round(mirrors)) < 1e-9
        require(self._closed or tiles, "landscape.angle", "360, or 180/n (180, 90, 60, …)", self.angle)
        for name in ("twist", "twist_start"):
            value = getattr(self, name)
            require(bool(np.isfinite(value)), f"landscape.{name}", "a finite number", value)
            require(modes > 1 or value == 0, f"landscape.{name}", "0 with one transverse direction", value)
        if self._closed:
            whole = abs(2.0 * self.twist - round(2.0 * self.twist)) < 1e-9
            require(whole, "landscape.twist", "whole half turns on a closed circle (angle 360)", self.twist)
            start, end = self.stiffness.value(np.array([0.0, 1.0]))
            require(
                bool(np.isclose(start, end, rtol=1e-9)),
                "landscape.stiffness",
                "the same stiffness at both ends of a closed circle (angle 360)",
                (float(start), float(end)),
            )

    @property
    def _closed(self) -> bool:
        return self.angle == 360.0

    @property
    def _radians(self) -> float:
        return math.radians(self.angle)

    @property
    def dimension(self) -> int:
        return self.transverse_directions + 1

    @property
    def arc_length(self) -> float:
        return self.radius * self._radians

    def _amplitudes(self) -> Floats:
        return np.array(self.amplitudes or (1.0,) * self.transverse_directions, dtype=np.float64)

    def params(self) -> Floats:
        turns = 2.0 * np.pi * np.array([self.twist, self.twist_start])
        shape = [self.stiffness.code, *self.stiffness.numbers(), self.along.height_along_path()]
        head = [self.radius, self._radians, float(self._closed), *shape]
        return np.concatenate([np.array(head, dtype=np.float64), turns, self._amplitudes()])

    def _fold(self, theta: Floats) -> Floats:
        r = np.mod(np.arctan2(theta[..., 1], theta[..., 0]) / self._radians, 1.0 if self._closed else 2.0)
        return np.where(r > 1.0, 2.0 - r, r)

    def energy(self, theta: ArrayLike) -> Floats:
        x = np.asarray(theta, dtype=np.float64)
        s = self._fold(x)
        offset = x[..., 1:].copy()
        offset[..., 0] = np.hypot(x[..., 0], x[..., 1]) - self.radius
        modes = np.einsum("...ij,...j->...i", self._turned(s), offset)
        energy = self.along.height_along_path() * (1.0 - (2.0 * s - 1.0) ** 2) ** 2
        return energy + 0.5 * self.stiffness.value(s) * (self._amplitudes() * modes**2).sum(axis=-1)

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
        phi = column(s) * self._radians
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
        return self.stiffness.value(column(s))[:, None] * self._amplitudes()

    def curvature_slope(self, s: ArrayLike) -> Floats:
        """Diagonal of d_t H in the basis of the modes, (n, modes): all of the mean force only where the noise's
        covariance is diagonal there too; `transverse_hessian_slope` has the rest."""
        return np.diagonal(self._slope_in_modes(column(s)), axis1=1, axis2=2)

    def _slope_in_modes(self, s: Floats) -> Floats:
        """Transverse block of d_t H in the basis of the modes, (n, modes, modes)."""
        m = self.transverse_directions
        out = np.zeros((len(s), m, m))
        out[:, range(m), range(m)] = self.stiffness.slope(s)[:, None] * self._amplitudes()
        if m > 1:
            k = self.curvature(s)
            out[:, 0, 1] = out[:, 1, 0] = 2.0 * np.pi * self.twist * (k[:, 0] - k[:, 1])
        out /= self.arc_length
        # Further out the same angle is a longer way: the slope of U there is U' R / r, with second r-derivative 2 U'/R².
        radial = self._turned(s)[:, :, 0]
        u = 2.0 * s - 1.0
        slope = -8.0 * self.along.height_along_path() * u * (1.0 - u * u) / self.arc_length
        return out + (2.0 * slope / self.radius**2)[:, None, None] * radial[:, :, None] * radial[:, None, :]

    def transverse_hessian(self, s: ArrayLike) -> Floats:
        """H⊥ = Q H Q on the path, (n, d, d)."""
        modes = self.mode_directions(s)
        return np.einsum("nmi,nm,nmj->nij", modes, self.curvature(s), modes)

    def transverse_hessian_slope(self, s: ArrayLike) -> Floats:
        """Q (d_t H) Q on the path, the directional derivative of H along the fixed tangent, (n, d, d); with
        `transverse_hessian` what `theory.mean_force_lyapunov` takes."""
        modes = self.mode_directions(s)
        return np.einsum("nmi,nml,nlj->nij", modes, self._slope_in_modes(column(s)), modes)
