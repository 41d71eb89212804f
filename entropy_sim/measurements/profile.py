"""The exact profile along the path: energy, curvature, noise, effective potential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when they are used
import xarray as xr

from entropy_sim import schema
from entropy_sim.dynamics.base import Dynamics
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_seed,
    function_of,
)
from entropy_sim.noise.base import Noise

#: Points of the grid on which the effective potential is integrated.
_FINE = 4001


def exact_mean_force(landscape: Landscape, noise: Noise, dynamics: Dynamics, s: Floats) -> Floats:
    """``-U' - 1/2 sum_i k_i' <x_i²>``, (n,), with the exact variances of this dynamics: fast transverse modes.

    Exact for constrained dynamics on a landscape that is quadratic across a straight path (Channel, Tabulated).
    """
    variance = _variance(landscape, noise, dynamics, s)
    return -landscape.path_slope(s) - 0.5 * (landscape.curvature_slope(s) * variance).sum(axis=1)


def _variance(landscape: Landscape, noise: Noise, dynamics: Dynamics, s: Floats) -> Floats:
    """<x_i²> of the transverse modes, (n, modes); NaN where it diverges."""
    modes = landscape.curvature(s), noise.transverse(landscape, s)
    fluctuation = noise.curvature_variance(landscape, s)
    return dynamics.variance(*modes) if fluctuation is None else dynamics.variance_sampled(*modes, fluctuation)


def exact_effective_potential(landscape: Landscape, noise: Noise, dynamics: Dynamics, s: Floats) -> Floats | None:
    """``U + int dy 1/2 sum_i k_i' <x_i²>`` above s = 0, (n,); None where some transverse mode is not stiff, the
    dynamics or noise has no exact variance about the path, or modes covary in a frame that turns. A drift of the
    noise's own counts as a force."""
    fine = np.linspace(0.0, 1.0, _FINE)
    curvature = landscape.curvature(fine)
    exact = dynamics.has_exact_variance(landscape) and noise.has_exact_covariance(landscape)
    # In a frame that turns, covariances between the modes count too, unless the noise has none.
    exact = exact and (noise.is_diagonal_in_modes(landscape) or not landscape.turning_frame)
    if not ((curvature > 0).all() and exact):
        return None
    variance = _variance(landscape, noise, dynamics, fine)
    if not np.isfinite(variance).all():
        return None
    slope = 0.5 * (landscape.curvature_slope(fine) * variance).sum(axis=1) - noise.drift(landscape, fine)
    slope = slope * landscape.arc_length
    work = np.interp(s, fine, scipy.integrate.cumulative_simpson(slope, x=fine, initial=0.0))
    return landscape.path_energy(s) - landscape.path_energy(0.0) + work


def is_quadratic_across(landscape: Landscape, s: Floats) -> bool:
    """Whether the path is straight and ``L = U + 1/2 sum k_i x_i²`` across it, tried on points off the path."""
    if np.any(landscape.path_curvature(s)):
        return False
    if landscape.transverse_stiffness is not None:  # that energy, by definition
        return True
    path, k, modes = landscape.path(s), landscape.curvature(s), landscape.mode_directions(s)
    for amplitude in (0.3, -1.0):
        x = amplitude * np.cos(np.arange(k.shape[1]) + 1.0)
        expected = landscape.path_energy(s) + 0.5 * (k * x**2).sum(axis=1)
        found = landscape.energy(path + np.einsum("m,nmd->nd", x, modes))
        if not np.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(np.abs(k).max(initial=0.0))):
            return False
    return True


def potential_from(landscape: Landscape) -> str:
    """What `exact_effective_potential` is on this landscape, in words."""
    s = np.linspace(0.0, 1.0, 21)
    if np.any(landscape.path_curvature(s)):
        return "harmonic variances in the planes normal to the curved path"
    exact = is_quadratic_across(landscape, s)
    return "exact variances" if exact else "harmonic variances, though the landscape is not quadratic across the path"


@dataclass(frozen=True)
class Profile(Measurement):
    """Energy, transverse stiffness, gradient noise and effective potential along the path; nothing is simulated.

    The effective potential is U - U(0) plus the work against the entropic force from s = 0, for this noise and
    dynamics: exact where L is quadratic across a straight path, elsewhere harmonic (effective_potential_from says
    which). What belongs to the transverse modes is absent where there are none.
    """

    points: int = 51
    """Points along the path."""
    seed: int = 0
    """Recorded, though nothing here is random."""

    def __post_init__(self) -> None:
        require(self.points >= 2, "points", "at least 2", self.points)
        check_seed(self.seed)
        self.dynamics.check(self.landscape, self.noise, held=True)  # nothing moves

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        landscape, noise = self.landscape, self.noise
        s = np.linspace(0.0, 1.0, self.points)
        along, modes = ("path_kind", "s"), ("path_kind", "s", "eigenvalue_index")
        stiffness, gradient = landscape.curvature(s), landscape.path_gradient(s)
        order = np.argsort(-stiffness, axis=1, kind="stable")
        values: dict[str, Floats] = {
            "loss": landscape.path_energy(s),
            "hessian_trace": stiffness.sum(axis=1) + landscape.tangential_curvature(s),
            "hessian_trace_transverse": stiffness.sum(axis=1),
            "hessian_trace_slope": landscape.curvature_slope(s).sum(axis=1),
            "parameter_norm": np.linalg.norm(landscape.path(s), axis=1),
            "gradient_norm": np.linalg.norm(gradient, axis=1),
        }
        if stiffness.size:
            values["hessian_eigenvalue"] = np.take_along_axis(stiffness, order, axis=1)
            values["hessian_max_eigenvalue"] = stiffness.max(axis=1)
        if (stiffness > 0).all():
            values["log_determinant"] = np.log(stiffness).sum(axis=1)
        if noise.supplies != "diffusion" and noise.has_finite_variance:
            transverse = noise.transverse(landscape, s)
            if stiffness.size:
                values["noise_eigenvalue"] = np.take_along_axis(transverse, order, axis=1)
            values["noise_trace_transverse"] = transverse.sum(axis=1)
            values["noise_trace"] = transverse.sum(axis=1) + noise.along(landscape, s)
        potential = exact_effective_potential(landscape, noise, self.dynamics, s)
        if potential is not None:
            values["effective_potential"] = potential
        variables: dict[str, Any] = {n: (along if v.ndim == 1 else modes, v[None]) for n, v in values.items()}
        variables |= {
            "s": (("s",), s),
            "path_kind": (("path_kind",), np.array(["path"])),
        }
        attrs = {"effective_potential_zero": "s = 0"}
        if stiffness.size:
            variables["eigenvalue_index"] = ("eigenvalue_index",), np.arange(stiffness.shape[1])
            attrs["hessian_max_eigenvalue_of"] = "the transverse Hessian"
        if potential is not None:
            attrs["effective_potential_from"] = potential_from(landscape)
        return {"profile": schema.make("profile", variables, attrs)}, s


profile = function_of(Profile)
