"""Ideally preconditioned SGD: every transverse mode rescaled by a power of its own present stiffness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from entropy_sim import theory
from entropy_sim._frame import from_modes, to_modes
from entropy_sim._kernels import Compiled, update_function
from entropy_sim._random import fast_exp, fast_log
from entropy_sim.dynamics.base import Dynamics, Floats
from entropy_sim.dynamics.sgd import check_learning_rate, check_momentum, momentum_rate
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import STABILITY_POINTS, Landscape
from entropy_sim.noise.base import Noise, Supplies, required_stiffness


# params: eta, beta, a. field: the stiffness k_i, row 0 (along the path) unused. memory: the velocity, with momentum.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    eta, beta, exponent = params[0], params[1], params[2]
    d, walkers = theta.shape
    for i in range(d):
        for w in range(walkers):
            gradient[i, w] += noise[i, w]
    to_modes(gradient, field)
    for i in range(1, d):
        if exponent == 1.0:
            for w in range(walkers):
                gradient[i, w] /= field[i, w]
        elif exponent == 0.5:
            for w in range(walkers):
                gradient[i, w] /= np.sqrt(field[i, w])
        else:
            for w in range(walkers):
                gradient[i, w] *= fast_exp(-exponent * fast_log(field[i, w]))
    from_modes(gradient, field)
    if memory.shape[0] == 0:
        for i in range(d):
            for w in range(walkers):
                theta[i, w] -= eta * gradient[i, w]
        return
    for i in range(d):
        for w in range(walkers):
            memory[i, w] = beta * memory[i, w] - eta * gradient[i, w]
            theta[i, w] += memory[i, w]


@dataclass(frozen=True)
class Preconditioned(Dynamics):
    """``v <- beta v - eta P (∇L + xi)``, ``θ <- θ + v`` with ``P = k_i^(-a)`` of the present transverse stiffness on
    mode i and 1 along the path, ``Cov xi = C``. Accepts a gradient covariance or sampled gradients.

    a = 1 is the natural gradient (K-FAC, Shampoo with exponent -1/2 per side; Amari, Neural Comput. 10 (1998) 251),
    a = 1/2 what standard Shampoo and Adam tend to, a = 0 is SGD. With ``C = c k^b`` the entropic force is that of
    ``D = T k^(b-a)``, T = eta c / (2 (1-beta)): for a = b the thermal one. Time is eta · step / (1 - beta).

    Example. a = 1, beta = 0: the variance on ``1/2 k x²`` is ``eta C / (k² (2 - eta))``, stable for eta < 2.
    """

    learning_rate: float = 0.05
    """Learning rate eta; stable while eta k^(1 - exponent) < 2 (1 + momentum) for every stiffness k."""
    exponent: float = 1.0
    """a in P = k^(-a), from 0 (SGD) to 1 (natural gradient)."""
    momentum: float = 0.0
    """Heavy-ball momentum beta (0 <= beta < 1) of the preconditioned gradient."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("gradient_covariance", "sampled_gradient")
    function: ClassVar[Compiled] = _step
    clock: ClassVar[str] = "learning rate · step / (1 - momentum), mobility 1 along the path and k^-exponent across"

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        require(0.0 <= self.exponent <= 1.0, "dynamics.exponent", "0 <= exponent <= 1", self.exponent)
        check_momentum(self.momentum)

    @property
    def time_step(self) -> float:
        return self.learning_rate / (1.0 - self.momentum)

    def memory_rows(self, dimension: int) -> int:
        return dimension if self.momentum else 0

    def field_function(self, landscape: Landscape) -> Compiled:
        return required_stiffness(self, landscape, "dynamics")

    def params(self) -> Floats:
        return np.array([self.learning_rate, self.momentum, self.exponent])

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        self.field_function(landscape)
        lowest = float(landscape.curvature(np.linspace(0.0, 1.0, STABILITY_POINTS)).min(initial=np.inf))
        if not lowest > 0.0:
            raise UserError(
                f"landscape: expected every transverse stiffness > 0 on the path for Preconditioned, found {lowest:g}"
            )
        super().check(landscape, noise, held=True)
        if not held:  # along the path, where P is 1
            stiffest = float(landscape.tangential_curvature(np.linspace(0.0, 1.0, STABILITY_POINTS)).max())
            self._check_steepness(stiffest, "k along the path", stiffest)

    def check_stability(self, stiffness: float) -> None:
        # Below exponent 1 the stiffest mode goes first; at 1 all alike.
        self._check_steepness(max(stiffness, 0.0) ** (1.0 - self.exponent), "k^(1 - exponent)", stiffness)

    def _check_steepness(self, steepness: float, formula: str, stiffness: float) -> None:
        if steepness * self.learning_rate >= 2.0 * (1.0 + self.momentum):
            raise UserError(
                f"dynamics.learning_rate: expected less than {2.0 * (1.0 + self.momentum) / steepness:g}, the "
                f"stability limit 2 (1 + momentum)/{formula} at the largest stiffness {stiffness:g}, found "
                f"{self.learning_rate:g}"
            )

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        return theory.variance_preconditioned(curvature, noise, self.learning_rate, self.exponent, self.momentum)

    def far_out(self, exponent: float, ratio: float) -> tuple[float, float]:
        return exponent - self.exponent, ratio

    def relaxation_rate(self, curvature: Floats, noise: Floats) -> Floats:
        steepness = np.where(curvature > 0, curvature, np.nan) ** (1.0 - self.exponent)
        return momentum_rate(steepness, self.learning_rate, self.momentum) / self.time_step
