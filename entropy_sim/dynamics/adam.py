"""Adam, with weight decay in the gradient or decoupled from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from entropy_sim._kernels import Compiled, update_function
from entropy_sim.dynamics.base import Dynamics, Floats
from entropy_sim.dynamics.sgd import (
    check_learning_rate,
    check_momentum,
    check_weight_decay,
    check_weight_decay_on,
)
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Noise, Supplies


# params: eta, beta1, beta2, epsilon, weight decay in the gradient, decoupled weight decay. field: where weight decay
# sees theta, if elsewhere. memory: first moments (d), second moments (d), then 1 - beta1^n and 1 - beta2^n: the same
# running averages of the number 1.
@update_function
def _step(theta, gradient, noise, field, memory, params):  # type: ignore[no-untyped-def]
    eta, beta1, beta2, epsilon, decay, shrink = params[0], params[1], params[2], params[3], params[4], params[5]
    d, walkers = theta.shape
    weight1 = beta1 * memory[2 * d, 0] + (1.0 - beta1)
    weight2 = beta2 * memory[2 * d + 1, 0] + (1.0 - beta2)
    for w in range(walkers):
        memory[2 * d, w] = weight1
        memory[2 * d + 1, w] = weight2
    rate, keep, scale = eta / weight1, 1.0 - eta * shrink, 1.0 / np.sqrt(weight2)
    if field.shape[0] > 0:
        for i in range(d):
            for w in range(walkers):
                gradient[i, w] += decay * field[i, w]
                theta[i, w] -= eta * shrink * field[i, w]
        decay, keep = 0.0, 1.0
    for i in range(d):
        for w in range(walkers):
            g = gradient[i, w] + noise[i, w] + decay * theta[i, w]
            m = beta1 * memory[i, w] + (1.0 - beta1) * g
            v = beta2 * memory[d + i, w] + (1.0 - beta2) * g * g
            theta[i, w] = keep * theta[i, w] - rate * m / (np.sqrt(v) * scale + epsilon)
            memory[i, w] = m
            memory[d + i, w] = v


@dataclass(frozen=True)
class Adam(Dynamics):
    """``m <- β1 m + (1-β1) g``, ``v <- β2 v + (1-β2) g²``, ``θ <- θ - eta m̂ / (√v̂ + epsilon)`` for each coordinate,
    g = ∇L + xi, hats for the division by 1 - β^n (Kingma, Ba, ICLR 2015), as torch.optim.Adam and, with `decoupled`,
    AdamW (Loshchilov, Hutter, ICLR 2019). Accepts a gradient covariance or sampled gradients.

    Time is eta · step: momentum does not rescale it, because m is an average. The mobility is not 1 but
    1 / (√<g²> + epsilon) of each coordinate, the path's included, so t is in units of the parameter, and rates along
    the path are not those of SGD. Averages at a held position, as the mean force, do not depend on the clock.

    No learning rate is unstable on a quadratic: fluctuations grow until √v̂ tames them. No exact variance is known. For
    β2 -> 1 and small epsilon it is `theory.variance_adam`; with C = c k and small eta k / √C that makes
    ``U + (eta √c / 2) sum √k_i`` the effective potential. With weight decay, recorded losses and forces are those of L.
    """

    learning_rate: float = 0.001
    """Learning rate eta, parameter: about the largest step."""
    beta1: float = 0.9
    """Memory of the first moment (0 <= beta1 < 1)."""
    beta2: float = 0.999
    """Memory of the second moment (0 <= beta2 < 1)."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, loss / parameter (> 0)."""
    weight_decay: float = 0.0
    """Weight decay lambda (>= 0): added to the gradient as lambda θ, or decoupled."""
    decoupled: bool = False
    """AdamW: ``θ <- (1 - eta lambda) θ - …`` in place of lambda θ in the gradient."""

    accepts: ClassVar[tuple[Supplies, ...]] = ("gradient_covariance", "sampled_gradient")
    function: ClassVar[Compiled] = _step
    clock: ClassVar[str] = "learning rate · step, parameter units; the mobility is 1 / (√<g²> + epsilon), not 1"

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        check_momentum(self.beta1, "beta1")
        check_momentum(self.beta2, "beta2")
        require(
            bool(np.isfinite(self.epsilon) and self.epsilon > 0), "dynamics.epsilon", "a positive number", self.epsilon
        )
        check_weight_decay(self.weight_decay)
        if self.decoupled and self.learning_rate * self.weight_decay >= 2.0:
            raise UserError(
                f"dynamics.learning_rate: expected less than {2.0 / self.weight_decay:g}, the stability limit "
                f"2/weight_decay of decoupled weight decay, found {self.learning_rate:g}"
            )

    @property
    def time_step(self) -> float:
        return self.learning_rate

    def memory_rows(self, dimension: int) -> int:
        return 2 * dimension + 2

    def field_function(self, landscape: Landscape) -> Compiled | None:
        return landscape.folded if self.weight_decay else None

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        super().check(landscape, noise, held)
        check_weight_decay_on(landscape, self.weight_decay)

    def params(self) -> Floats:
        coupled = 0.0 if self.decoupled else self.weight_decay
        shrink = self.weight_decay if self.decoupled else 0.0
        return np.array([self.learning_rate, self.beta1, self.beta2, self.epsilon, coupled, shrink])

    def check_stability(self, stiffness: float) -> None:
        """Nothing to refuse: a step is never much larger than eta, so no stiffness makes Adam diverge."""

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        raise UserError("dynamics: expected one with an exact variance (Overdamped, Underdamped, SGD), found Adam")

    def far_out(self, exponent: float, ratio: float) -> tuple[float, float]:
        return 0.5 * exponent, np.sqrt(ratio)

    def has_exact_variance(self, landscape: Landscape) -> bool:
        return False

    def _mobility(self, noise: Floats) -> Floats:
        return 1.0 / (np.sqrt(noise) + self.epsilon)

    def relaxation_rate(self, curvature: Floats, noise: Floats) -> Floats:
        return curvature * self._mobility(noise)

    def diffusion(self, noise: Floats, supplies: Supplies) -> Floats:
        return 0.5 * self.learning_rate * noise * self._mobility(noise) ** 2
