"""Underdamped Langevin dynamics by BAOAB, m dv = -grad L dt - gamma m v dt + sqrt(2 gamma m T) dW, on a quadratic."""

from __future__ import annotations

import numpy as np

from entropy_sim.errors import UserError
from entropy_sim.theory._checks import Floats, Values, noise_variance, positive, positive_curvature


def variance_baoab(curvature: Values, temperature: Values, step: Values, mass: Values = 1.0) -> Floats:
    """Stationary variance of the position under BAOAB on a quadratic, ``T / k``, exact for any stable step and
    friction.

    curvature: k > 0. temperature: T >= 0. step: h > 0, time. mass: m > 0; any shape.
    Raises UserError where h² k >= 4 m: the splitting is unstable there.
    Reference: Leimkuhler, Matthews, J. Chem. Phys. 138 (2013) 174102."""
    k, t, h, m = _arguments(curvature, temperature, step, mass)
    return t / k + 0.0 * h * m


def velocity_variance_baoab(curvature: Values, temperature: Values, step: Values, mass: Values = 1.0) -> Floats:
    """Stationary variance of the velocity at the end of a BAOAB step on a quadratic, ``(T / m) (1 - h² k / (4 m))``,
    exact at any friction: the price of the exact positions. Arguments and errors as `variance_baoab`.

    Reference: Leimkuhler, Matthews, J. Chem. Phys. 138 (2013) 174102."""
    k, t, h, m = _arguments(curvature, temperature, step, mass)
    return t / m * (1.0 - 0.25 * h**2 * k / m)


def _arguments(curvature: Values, temperature: Values, step: Values, mass: Values) -> tuple[Floats, ...]:
    k, t = positive_curvature(curvature), noise_variance(temperature, "temperature")
    h, m = positive("step", step), positive("mass", mass)
    bad = ~(h**2 * k < 4.0 * m)
    if np.any(bad):
        found, limit = (float(np.broadcast_to(a, bad.shape)[bad].flat[0]) for a in (h, 2.0 * np.sqrt(m / k)))
        raise UserError(f"step: expected less than {limit:g}, the stability limit of BAOAB, found {found:g}")
    return k, t, h, m
