"""What the constrained mean force is on a curved path, and its exact values on an annulus.

Constrained to the plane normal to the path at s, with thermal noise, A(s) = -T ln int_plane exp(-L/T) is the free
energy of the plane and F(s) = -T ln p(s) that of the position itself. On a straight path they agree; round a bend the
planes crowd together on one side, by J = 1 - gamma'' · (theta - gamma)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from entropy_sim.errors import require
from entropy_sim.theory._checks import Floats, Values, finite, noise_variance, positive, positive_curvature
from entropy_sim.theory.effective_potential import mean_force_work


def free_energy_of_position(
    position: Values, mean_force_curved: Values, crowding: Values, temperature: Values
) -> Floats:
    """Free energy of the position along a curved path from constrained averages, ``F = A - T ln <J>``,
    ``A = -int f ds``, ``f = -<(t · grad L) J>``, ``J = 1 - gamma'' · (theta - gamma)``; thermal noise, exact.

    position: arc length, increasing, (n,). mean_force_curved: f, (n,). crowding: <J> > 0 on each plane, (n,); 1 on a
    straight path. temperature: T. 0 at the first point; trapezoidal rule. Without crowding the result is A.
    Reference: Ciccotti, Kapral, Vanden-Eijnden, ChemPhysChem 6 (2005) 1809; Maragliano et al., J. Chem. Phys. 125
    (2006) 024106."""
    jacobian, t = positive("crowding", crowding), noise_variance(temperature, "temperature")
    plane = mean_force_work(position, mean_force_curved)
    require(plane.shape == jacobian.shape, "crowding", f"the shape {plane.shape}", jacobian.shape)
    return plane - t * np.log(jacobian / jacobian[..., :1])


class Annulus(NamedTuple):
    """Exact thermal averages on the half plane at one angle of L = 1/2 k(s) (r - R)², s = R · angle."""

    mean_force: Floats
    """-<t · grad L>, the force that constrained dynamics records, loss / parameter."""
    mean_force_curved: Floats
    """-<(t · grad L) J> = -dA/ds = -1/2 k' <(r - R)²>, loss / parameter."""
    crowding: Floats
    """<J> = <r> / R."""
    variance: Floats
    """<(r - R)²>, parameter²."""
    plane_free_energy: Floats
    """A = -T ln int exp(-L/T) dr, loss."""
    free_energy: Floats
    """F = A - T ln <J> = -T ln p(s) but for a constant, loss."""


def annulus(
    curvature: Values, curvature_slope: Values, radius: Values, temperature: Values, inner_radius: Values = 0.0
) -> Annulus:
    """Exact `Annulus` averages by quadrature over r from the inner radius (a reflecting wall) outwards, J = r / R.

    To leading order -mean_force is k' T / (2 k) (1 + 3 T / (k R²)), -mean_force_curved k' T / (2 k), <J> 1; all differ
    by exp(-k R² / (2 T)) besides, the weight of the centre.
    curvature, curvature_slope: k > 0 and dk/ds (per arc length). radius: R. temperature: T > 0; any shape.
    inner_radius: 0 <= r0 < R. <t · grad L> diverges as ln r0 with the weight of the centre, so where that weight is not
    below rounding (r0 < R - 9.5 sqrt(T/k)) a positive r0 is demanded.
    Derivation: grad L · t = (R / r) k' (r - R)² / 2. Reference: Ciccotti, Kapral, Vanden-Eijnden, ChemPhysChem 6 (2005)
    1809, for the averages."""
    k, r0, t = positive_curvature(curvature), positive("radius", radius), positive("temperature", temperature)
    slope, inner = finite("curvature_slope", curvature_slope), finite("inner_radius", inner_radius)
    k, r0, t, slope, inner = np.broadcast_arrays(k, r0, t, slope, inner)
    require(
        bool(np.all((inner >= 0.0) & (inner < r0))), "inner_radius", "0 <= inner_radius < radius", float(inner.max())
    )
    width = np.sqrt(t / k)
    low = np.maximum(inner, r0 - 9.5 * width)
    require(
        bool(np.all(low > 0.0)),
        "inner_radius",
        "a number > 0: this hot, the force diverges at the centre",
        0.0,
    )
    nodes, weights = np.polynomial.legendre.leggauss(240)
    span = 0.5 * (r0 + 9.5 * width - low)
    r = low[..., None] + span[..., None] * (nodes + 1.0)
    x = r - r0[..., None]
    weight = weights * np.exp(-0.5 * (x / width[..., None]) ** 2)
    total = weight.sum(-1)

    def average(values: Floats) -> Floats:
        return (weight * values).sum(-1) / total

    variance, crowding = average(x * x), average(r / r0[..., None])
    plane = -t * np.log(total * span)
    return Annulus(
        mean_force=-0.5 * slope * average(x * x * r0[..., None] / r),
        mean_force_curved=-0.5 * slope * variance,
        crowding=crowding,
        variance=variance,
        plane_free_energy=plane,
        free_energy=plane - t * np.log(crowding),
    )
