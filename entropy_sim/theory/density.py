"""The marginal of the slow coordinate: its stationary density, free energy, and the convention of its noise."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from entropy_sim.errors import require
from entropy_sim.theory._checks import Floats, Values, finite, positive

Interpretation = Literal["ito", "stratonovich", "anti_ito"]
_WEIGHT = {"ito": 0.0, "stratonovich": 0.5, "anti_ito": 1.0}


def interpretation_drift(diffusion_slope: Values, interpretation: Interpretation) -> Floats:
    """Drift that turns noise of another convention into Itô's, ``lambda dD_i/d theta_i`` for a diagonal D(theta).

    d theta_i = f_i dt + sqrt(2 D_i(theta)) dW_i, with D taken at the beginning (Itô, lambda = 0), the middle
    (Stratonovich, 1/2) or the end (anti-Itô, also Hänggi-Klimontovich or isothermal, 1) of dt, is the Itô equation with
    this added to f_i.
    Derivatives of D_i along other coordinates do not enter. diffusion_slope: dD_i/d theta_i, any shape.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 4; Klimontovich, Physica A 163 (1990) 515."""
    return _weight(interpretation) * finite("diffusion_slope", diffusion_slope)


def stationary_density(
    position: Values, force: Values, diffusion: Values, interpretation: Interpretation = "ito"
) -> Floats:
    """Stationary density of dy = f dt + sqrt(2 D_y) dW without flux: ``p ∝ D_y^-(1-lambda) exp(int f / D_y dy)``,
    lambda = 0 (Itô), 1/2 (Stratonovich), 1 (anti-Itô).

    position: y increasing, (n,). force: f = -dV/dy, (n,), or any drift. diffusion: D_y > 0, (n,) or a number.
    Integrals by the trapezoidal rule on the given points; normalised to 1 over them, per unit of y.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 5."""
    logarithm = -free_energy(position, force, diffusion, interpretation)
    density = np.exp(logarithm - logarithm.max())
    return density / np.trapezoid(density, np.asarray(position, dtype=np.float64))


def free_energy(position: Values, force: Values, diffusion: Values, interpretation: Interpretation = "ito") -> Floats:
    """``-ln p`` of `stationary_density` without its normalisation, ``(1-lambda) ln(D_y / D_y(0)) - int f / D_y dy``,
    0 at the first point; dimensionless: times T for thermal noise, where it is the free energy F.

    The effective potential is the work ``-int f dy`` alone: both agree (in units of D_y) only where D_y is constant.
    position: y increasing, (n,). force: f, (n,). diffusion: D_y > 0, (n,) or a number.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 5."""
    y, f = finite("position", position), finite("force", force)
    d = np.broadcast_to(positive("diffusion", diffusion), y.shape)
    require(y.ndim == 1 and bool(np.all(np.diff(y) > 0)), "position", "increasing values", y.tolist()[:5])
    require(f.shape == y.shape, "force", f"the shape {y.shape}", f.shape)
    from scipy.integrate import cumulative_trapezoid  # here: it takes half a second to load

    work = cumulative_trapezoid(f / d, y, initial=0)
    return (1.0 - _weight(interpretation)) * np.log(d / d[0]) - work


def _weight(interpretation: Interpretation) -> float:
    choices = get_args(Interpretation)
    require(interpretation in choices, "interpretation", "one of " + ", ".join(choices), interpretation)
    return _WEIGHT[interpretation]
