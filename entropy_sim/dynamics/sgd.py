"""Stochastic gradient descent with heavy-ball or Nesterov momentum and weight decay."""

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


# params: eta, beta, 1 if Nesterov, weight decay. field: where weight decay sees theta, if elsewhere. memory: the
# velocity v, if there is momentum; PyTorch's buffer is -v / eta.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    eta, beta, nesterov, decay = params[0], params[1], params[2] != 0.0, params[3]
    if field.shape[0] > 0:
        for i in range(theta.shape[0]):
            for w in range(theta.shape[1]):
                gradient[i, w] += decay * field[i, w]
        decay = 0.0
    if memory.shape[0] == 0:
        for i in range(theta.shape[0]):
            for w in range(theta.shape[1]):
                theta[i, w] -= eta * (gradient[i, w] + noise[i, w] + decay * theta[i, w])
        return
    # Heavy ball: theta += v. Nesterov: theta += beta v - eta g, which is PyTorch's -eta (g + beta buffer).
    ahead, kick = (beta, eta) if nesterov else (1.0, 0.0)
    for i in range(theta.shape[0]):
        for w in range(theta.shape[1]):
            g = gradient[i, w] + noise[i, w] + decay * theta[i, w]
            memory[i, w] = beta * memory[i, w] - eta * g
            theta[i, w] += ahead * memory[i, w] - kick * g


@dataclass(frozen=True)
class SGD(Dynamics):
    """``v <- beta v - eta (∇L + xi + lambda θ)``, ``θ <- θ + v``, ``Cov xi = C``, as torch.optim.SGD. Accepts a
    gradient covariance or sampled gradients.

    Nesterov momentum: ``θ <- θ + beta v - eta (∇L + xi + lambda θ)`` with the new v (Sutskever et al., ICML 2013).
    Weight decay lambda moves the parameters only: recorded losses and forces are those of L.

    Time is eta · step / (1 - beta) for either momentum. On ``1/2 k x²``, q = k + lambda, the variance is
    ``eta C (1+beta) / (q (1-beta) (2(1+beta) - eta q))`` (heavy ball; `theory.variance_sgd_nesterov` for the other).
    """

    learning_rate: float = 0.005
    """Learning rate eta, parameter² / loss; stable while eta (k + weight_decay) < 2 (1 + momentum) for every stiffness
    k, with Nesterov momentum 2 (1 + momentum) / (1 + 2 momentum)."""
    momentum: float = 0.0
    """Momentum beta (0 <= beta < 1)."""
    nesterov: bool = False
    """Nesterov's momentum rather than heavy-ball."""
    weight_decay: float = 0.0
    """Weight decay lambda, loss / parameter² (>= 0)."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("gradient_covariance", "sampled_gradient")
    function: ClassVar[Compiled] = _step
    clock: ClassVar[str] = "learning rate · step / (1 - momentum)"

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        check_momentum(self.momentum)
        require(self.momentum > 0 or not self.nesterov, "dynamics.momentum", "above 0 for nesterov", self.momentum)
        check_weight_decay(self.weight_decay)

    @property
    def time_step(self) -> float:
        return self.learning_rate / (1.0 - self.momentum)

    def memory_rows(self, dimension: int) -> int:
        return dimension if self.momentum else 0

    def field_function(self, landscape: Landscape) -> Compiled | None:
        return landscape.folded if self.weight_decay else None

    def params(self) -> Floats:
        return np.array([self.learning_rate, self.momentum, float(self.nesterov), self.weight_decay])

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        super().check(landscape, noise, held)
        check_weight_decay_on(landscape, self.weight_decay)

    def check_stability(self, stiffness: float) -> None:
        most = 2.0 * (1.0 + self.momentum) / (1.0 + 2.0 * self.momentum * self.nesterov)
        if (stiffness + self.weight_decay) * self.learning_rate >= most:
            limit = float(theory.stability_limit(stiffness, self.momentum, self.weight_decay, nesterov=self.nesterov))
            k = "(k + weight_decay)" if self.weight_decay else "k"
            formula = f"((1 + 2 momentum) {k})" if self.nesterov else k
            raise UserError(
                f"dynamics.learning_rate: expected less than {limit:g}, the stability limit 2 (1 + momentum)/{formula} "
                f"at the largest stiffness {stiffness:g}, found {self.learning_rate:g}"
            )

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        formula = theory.variance_sgd_nesterov if self.nesterov else theory.variance_sgd
        return formula(curvature, noise, self.learning_rate, self.momentum, self.weight_decay)

    def has_exact_variance(self, landscape: Landscape) -> bool:
        return self.weight_decay == 0.0 or leads_to_the_path(landscape)

    def relaxation_rate(self, curvature: Floats, noise: Floats) -> Floats:
        rate = momentum_rate(curvature + self.weight_decay, self.learning_rate, self.momentum, self.nesterov)
        return rate / self.time_step


def momentum_rate(curvature: Floats, learning_rate: float, momentum: float, nesterov: bool = False) -> Floats:
    """Rate per step at which the slowest transient of each mode falls, exact: with much momentum modes oscillate, and
    none is faster than -ln(beta) / 2. NaN where k <= 0."""
    good = curvature > 0
    steps = theory.relaxation_steps(np.where(good, curvature, 1e-300), learning_rate, momentum, nesterov=nesterov)
    return np.where(good, 1.0 / steps, np.nan)


def leads_to_the_path(landscape: Landscape) -> bool:
    """Whether weight decay pulls towards the landscape's path, and not across it: the path lies on a line through 0."""
    s = np.linspace(0.0, 1.0, 101)
    gamma, t = landscape.path(s), landscape.tangent(s)
    across = gamma - np.einsum("nd,nd->n", gamma, t)[:, None] * t
    return bool(np.abs(across).max() <= 1e-12 * max(1.0, float(np.abs(gamma).max())))


def check_weight_decay_on(landscape: Landscape, value: float) -> None:
    """Raise UserError for weight decay on a path that is its own beginning: no |theta|² is continuous there."""
    if value and getattr(landscape, "boundary", None) == "periodic":
        raise UserError(f"dynamics.weight_decay: expected 0 with landscape.boundary periodic, found {value:g}")


def check_learning_rate(value: float) -> None:
    require(bool(np.isfinite(value) and value > 0), "dynamics.learning_rate", "a positive number", value)


def check_momentum(value: float, option: str = "momentum") -> None:
    require(0.0 <= value < 1.0, f"dynamics.{option}", f"0 <= {option} < 1", value)


def check_weight_decay(value: float) -> None:
    require(bool(np.isfinite(value) and value >= 0), "dynamics.weight_decay", "a number >= 0", value)
