"""Overdamped Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from entropy_sim import theory
from entropy_sim._kernels import Compiled, noise_function, update_function
from entropy_sim.dynamics.base import Dynamics, Floats
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Noise, Supplies


# params: h, sqrt(h), weight of the previous and of the new noise. memory: the previous noise, if it has a weight.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    h, root = params[0], params[1]
    if memory.shape[0] == 0:
        for i in range(theta.shape[0]):
            for w in range(theta.shape[1]):
                theta[i, w] += root * noise[i, w] - h * gradient[i, w]
        return
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            theta[i, w] += 0.5 * root * (memory[i, w] + noise[i, w]) - h * gradient[i, w]
            memory[i, w] = noise[i, w]


# params: h, sqrt(2 D h). Euler-Maruyama with constant isotropic noise, straight from the normals.
@noise_function
def _whole_step(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    h, size = params[0], params[1]
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            theta[i, w] += size * xi[i, w] - h * gradient[i, w]


@dataclass(frozen=True)
class Overdamped(Dynamics):
    """``dθ = -∇L dt + √(2 D) dW`` (Itô). Accepts a diffusion.

    euler_maruyama: ``θ <- θ - h ∇L + √(2 D h) R_n``; on ``1/2 k x²`` its variance is ``T / (k (1 - h k / 2))``.
    leimkuhler_matthews: ``θ <- θ - h ∇L + √(2 T h) (R_n + R_{n+1}) / 2``, for constant isotropic D only; there T / k
    exactly, and second order in the invariant measure everywhere (Leimkuhler, Matthews, Appl. Math. Res. Express 2013
    (2013) 34). Its first step starts from R_0 = 0.
    """

    step: float = 0.005
    """Time step h, parameter² / loss; stable while h k < 2 for every stiffness k."""
    scheme: Literal["euler_maruyama", "leimkuhler_matthews"] = "euler_maruyama"
    """Integrator."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("diffusion",)
    function: ClassVar[Compiled] = _step

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.step) and self.step > 0), "dynamics.step", "a positive number", self.step)
        schemes = ("euler_maruyama", "leimkuhler_matthews")
        require(self.scheme in schemes, "dynamics.scheme", f"one of {', '.join(schemes)}", self.scheme)

    @property
    def time_step(self) -> float:
        return self.step

    def memory_rows(self, dimension: int) -> int:
        return dimension if self.scheme == "leimkuhler_matthews" else 0

    def params(self) -> Floats:
        return np.array([self.step, np.sqrt(self.step)])

    def whole_step(self, landscape: Landscape, noise: Noise) -> tuple[Compiled, Floats] | None:
        if not (noise.isotropic and self.scheme == "euler_maruyama"):
            return None
        diffusion = float(noise.along(landscape, [0.0])[0])
        return _whole_step, np.array([self.step, np.sqrt(2.0 * diffusion * self.step)])

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        super().check(landscape, noise, held)
        if self.scheme == "leimkuhler_matthews" and not noise.isotropic:
            raise UserError(
                f"dynamics.scheme: expected euler_maruyama for {type(noise).__name__} (leimkuhler_matthews needs "
                f"constant isotropic noise such as Thermal), found 'leimkuhler_matthews'"
            )

    def check_stability(self, stiffness: float) -> None:
        if stiffness * self.step >= 2.0:
            limit = float(theory.stability_limit(stiffness))
            raise UserError(
                f"dynamics.step: expected less than {limit:g}, the stability limit 2/k at the largest stiffness "
                f"{stiffness:g}, found {self.step:g}"
            )

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        euler = self.scheme == "euler_maruyama"
        formula = theory.variance_euler_maruyama if euler else theory.variance_leimkuhler_matthews
        return formula(curvature, noise, self.step)
