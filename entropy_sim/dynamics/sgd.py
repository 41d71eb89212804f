"""Stochastic gradient descent with heavy-ball momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from entropy_sim import theory
from entropy_sim._kernels import Compiled, update_function
from entropy_sim.dynamics.base import Dynamics, Floats
from entropy_sim.errors import UserError, require
from entropy_sim.noise.base import Supplies


# params: eta, beta. memory: the velocity, if there is momentum.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    eta, beta = params[0], params[1]
    if memory.shape[0] == 0:
        for i in range(theta.shape[0]):
            for w in range(theta.shape[1]):
                theta[i, w] -= eta * (gradient[i, w] + noise[i, w])
        return
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            memory[i, w] = beta * memory[i, w] - eta * (gradient[i, w] + noise[i, w])
            theta[i, w] += memory[i, w]


@dataclass(frozen=True)
class SGD(Dynamics):
    """``v <- beta v - eta (∇L + xi)``, ``θ <- θ + v``, ``Cov xi = C``. Accepts a gradient covariance or
    sampled gradients.

    Time is eta · step / (1 - beta). On ``1/2 k x²`` the variance is
    ``eta C (1+beta) / (k (1-beta) (2(1+beta) - eta k))``.
    """

    learning_rate: float = 0.005
    """Learning rate eta, parameter² / loss; stable while eta k < 2 (1 + momentum) for every stiffness k."""
    momentum: float = 0.0
    """Heavy-ball momentum beta (0 <= beta < 1)."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("gradient_covariance", "sampled_gradient")
    function: ClassVar[Compiled] = _step

    def __post_init__(self) -> None:
        positive = bool(np.isfinite(self.learning_rate) and self.learning_rate > 0)
        require(positive, "dynamics.learning_rate", "a positive number", self.learning_rate)
        require(0.0 <= self.momentum < 1.0, "dynamics.momentum", "0 <= momentum < 1", self.momentum)

    @property
    def time_step(self) -> float:
        return self.learning_rate / (1.0 - self.momentum)

    def memory_rows(self, dimension: int) -> int:
        return dimension if self.momentum else 0

    def params(self) -> Floats:
        return np.array([self.learning_rate, self.momentum])

    def check_stability(self, stiffness: float) -> None:
        if stiffness * self.learning_rate >= 2.0 * (1.0 + self.momentum):
            limit = float(theory.stability_limit(stiffness, self.momentum))
            raise UserError(
                f"dynamics.learning_rate: expected less than {limit:g}, the stability limit 2 (1 + momentum)/k at the "
                f"largest stiffness {stiffness:g}, found {self.learning_rate:g}"
            )

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        return theory.variance_sgd(curvature, noise, self.learning_rate, self.momentum)
