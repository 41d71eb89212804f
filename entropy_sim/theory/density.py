"""The marginal of the slow coordinate."""

from __future__ import annotations

import numpy as np

from entropy_sim.errors import require
from entropy_sim.theory._checks import Floats, Values, finite, positive


def stationary_density(position: Values, force: Values, diffusion: Values) -> Floats:
    """Stationary density of dy = f dt + sqrt(2 D_y) dW (Itô), no flux: ``p ∝ exp(int f / D_y dy) / D_y``.

    position: y increasing, (n,). force: f = -dV/dy, (n,), or any drift. diffusion: D_y > 0, (n,) or a number.
    Integrals by the trapezoidal rule on the given points; normalised to 1 over them, per unit of y.
    Reference: Gardiner, Handbook of Stochastic Methods, chapter 5."""
    y, f = finite("position", position), finite("force", force)
    d = np.broadcast_to(positive("diffusion", diffusion), y.shape)
    require(y.ndim == 1 and bool(np.all(np.diff(y) > 0)), "position", "increasing values", y.tolist()[:5])
    require(f.shape == y.shape, "force", f"the shape {y.shape}", f.shape)
    slope = f / d
    exponent = np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * np.diff(y))])
    density = np.exp(exponent - exponent.max()) / d
    return density / np.trapezoid(density, y)
