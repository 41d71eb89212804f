"""Underdamped Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from entropy_sim import theory
from entropy_sim._kernels import Compiled, update_function
from entropy_sim.dynamics.base import Dynamics, Floats
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Noise, Supplies


# params: h, c = exp(-gamma h), sqrt((1 - c²) / 2). memory: the velocity after the last O, before the last B; then one
# row that is 0 before the first step and 1 after it.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    h, keep, strength = params[0], params[1], params[2]
    d, walkers = theta.shape
    for i in range(d):
        for w in range(walkers):
            # The last B of the step before and the first of this one, at the same place; the first step has only one.
            v = memory[i, w] - 0.5 * h * (1.0 + memory[d, w]) * gradient[i, w]
            u = keep * v + strength * noise[i, w]
            theta[i, w] += 0.5 * h * (v + u)
            memory[i, w] = u
    for w in range(walkers):
        memory[d, w] = 1.0


@dataclass(frozen=True)
class Underdamped(Dynamics):
    """``dθ = v dτ``, ``dv = -∇L dτ - gamma v dτ + √(2 gamma T) dW``, mass 1, by BAOAB from rest. Accepts a diffusion
    that is the same in all directions and everywhere.

    One step is half a kick (B), half a drift (A), the exact Ornstein-Uhlenbeck step of v (O), A, B; the two kicks
    between steps are one, so that a step costs one gradient (the first step has its own half kick). Positions are those
    at the end of whole steps. Second order in the invariant measure (Leimkuhler, Matthews, J. Chem. Phys. 138 (2013)
    174102); on ``1/2 k x²`` the variance is T / k for any stable step, that of the velocity ``T (1 - h² k / 4)``.

    Time per step is ``(h²/2) coth(gamma h / 2)``, close to h / gamma: then drift under a constant force has exactly
    mobility 1 and free diffusion exactly D = T, at any h and gamma (for large gamma h the scheme is Leimkuhler-Matthews
    with the step h²/2). Constrained walkers: the component of v along the tangent moves nothing, because the update is
    linear and the same in all directions; what remains is BAOAB on the hyperplane, and friction keeps that component
    bounded.
    """

    step: float = 0.1
    """Time step h in τ, parameter / √loss; stable while h² k < 4 for every stiffness k."""
    friction: float = 4.0
    """Friction gamma, 1/τ (> 0)."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("diffusion",)
    function: ClassVar[Compiled] = _step
    clock: ClassVar[str] = "(h²/2) coth(friction h / 2) · step, close to h · step / friction: mobility 1"

    def __post_init__(self) -> None:
        for name in ("step", "friction"):
            value = getattr(self, name)
            require(bool(np.isfinite(value) and value > 0), f"dynamics.{name}", "a positive number", value)

    @property
    def time_step(self) -> float:
        return float(0.5 * self.step**2 / np.tanh(0.5 * self.friction * self.step))

    def memory_rows(self, dimension: int) -> int:
        return dimension + 1

    def params(self) -> Floats:
        fall = self.friction * self.step
        return np.array([self.step, np.exp(-fall), np.sqrt(-0.5 * np.expm1(-2.0 * fall))])

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        super().check(landscape, noise, held)
        if not noise.isotropic:
            raise UserError(
                "noise: expected constant isotropic noise such as Thermal for Underdamped, "
                f"found {type(noise).__name__}"
            )

    def check_stability(self, stiffness: float) -> None:
        if stiffness * self.step**2 >= 4.0:
            raise UserError(
                f"dynamics.step: expected less than {2.0 / np.sqrt(stiffness):g}, the stability limit 2/√k at the "
                f"largest stiffness {stiffness:g}, found {self.step:g}"
            )

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        return theory.variance_baoab(curvature, noise, self.step)

    def relaxation_rate(self, curvature: Floats, noise: Floats) -> Floats:
        # The slower root of z² - gamma z + k = 0, per t: k where overdamped, gamma²/2 where it oscillates.
        half = 0.5 * self.friction
        return self.step / self.time_step * (curvature / (half + np.sqrt(half**2 - curvature + 0j))).real
