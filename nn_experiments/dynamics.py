"""How parameters move in a measurement: (constrained) SGD, and the full-batch gradient flow that controls for noise.

Both are iterators over (theta, loss, gradient) *before* each step; theta is moved in place, the gradient is overwritten
by the next step: copy what is to be kept. One clock: t = η·steps/(1 − β) for SGD, t itself for the flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.curvature import HessianOperator, full_precision, lanczos, subset
from nn_experiments.noise import AnyNoise
from nn_experiments.objective import Objective

#: theta (D,) -> loss (scalar), gradient (D,)
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
Trajectory = Iterator[tuple[Tensor, Tensor, Tensor]]

#: A replica this many times the norm of its path point away from the path has diverged, finite or not.
DIVERGED_DISTANCE = 10.0

#: No step of the flow is divided further.
MOST_STAGES = 128

#: Damping of the Chebyshev stages: a step leaves at most 1/T_s(1 + damping/s²), about 0.46, of a stiff mode.
_DAMPING = 1.0
#: Factor by which the curvature may exceed the one at the start.
_SAFETY = 1.5
#: Relative growth of the loss that rounding may cause; a flow never climbs otherwise.
_CLIMB = 1e-4


def check_step(learning_rate: float, momentum: float, weight_decay: float) -> None:
    """Raises UserError unless η > 0, 0 <= β < 1 and the weight decay is not negative."""
    require(learning_rate > 0 and math.isfinite(learning_rate), "learning_rate", "a positive number", learning_rate)
    require(0 <= momentum < 1, "momentum", "a number in [0, 1)", momentum)
    require(weight_decay >= 0, "weight_decay", "a number >= 0", weight_decay)


class Settings(Protocol):
    """What the dynamics of a measurement are told."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def momentum(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def noise(self) -> AnyNoise: ...


def attributes(settings: Settings, objective: Objective, control: str | None) -> dict[str, Any]:
    """What a measured group says of its dynamics and of its noise-free `control` (how it steps; None: none was run)."""
    samples = len(objective.full_batch())
    return {
        "normalization_mode": objective.mode,
        "group_size": objective.group_size or 0,
        "batch_size": settings.noise.batch_size or samples,
        "learning_rate": settings.learning_rate,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
        "control": "none" if control is None else f"full batch of {samples} samples, {control}",
    }


def sgd(
    gradient: Gradient,
    theta: Tensor,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    tangent: Tensor | None = None,
) -> Trajectory:
    """Heavy ball, v ← β v − η (g + λ θ), θ ← θ + v; with a unit `tangent` t, θ ← θ + (1 − t tᵀ) v.

    The final update is projected, so t·θ never changes; neither the gradient nor v is.
    """
    velocity = torch.zeros_like(theta)
    while True:
        loss, g = gradient(theta)
        yield theta, loss, g
        velocity.mul_(momentum).sub_(g, alpha=learning_rate)
        if weight_decay:
            velocity.sub_(theta, alpha=learning_rate * weight_decay)
        theta.add_(velocity)
        if tangent is not None:
            theta.sub_(tangent * (tangent @ velocity))


def gradient_flow(
    gradient: Gradient,
    theta: Tensor,
    *,
    step: float,
    stages: int,
    weight_decay: float = 0.0,
    tangent: Tensor | None = None,
) -> Trajectory:
    """dθ/dt = −(1 − t tᵀ)(∇L + λ θ) by the first-order Runge–Kutta–Chebyshev method with `stages` gradients a step.

    Stable for step · λ_max up to 1.25 stages² and damping what is stiff, where stages steps of gradient descent bear
    2 stages; one stage is a step of gradient descent. A step after which L + λ‖θ‖²/2 has grown, which no flow does, is
    taken back and done with twice the stages.
    Reference: Verwer, Appl. Numer. Math. 22 (1996), eqs. 2.5–2.9.
    """

    def slope(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, g = gradient(at)
        f = -g if not weight_decay else -(g + weight_decay * at)
        return loss, g, f if tangent is None else f - tangent * (tangent @ f)

    first, rows = _chebyshev(stages)
    start, start_slope, start_energy = theta.clone(), torch.zeros_like(theta), math.inf
    while True:
        loss, g, f = slope(theta)
        energy = float(loss) + 0.5 * weight_decay * float(theta.square().sum())
        if not energy <= start_energy * (1 + _CLIMB) and stages < MOST_STAGES:
            stages *= 2
            first, rows = _chebyshev(stages)
        else:
            yield theta, loss, g
            start.copy_(theta)
            start_slope, start_energy = f, energy
        previous, current = start, start + first * step * start_slope
        for mu, nu, rate in rows:
            f = slope(current)[2]
            previous, current = current, (1 - mu - nu) * start + mu * current + nu * previous + rate * step * f
        theta.copy_(current)


def _chebyshev(stages: int) -> tuple[float, list[tuple[float, float, float]]]:
    """μ̃_1 and (μ_j, ν_j, μ̃_j) for j = 2 … stages."""
    if stages == 1:
        return 1.0, []
    w0, t, derivative = _polynomials(stages)
    w1 = t[stages] / derivative[stages]
    rows = [(2 * w0 * t[j - 1] / t[j], -t[j - 2] / t[j], 2 * w1 * t[j - 1] / t[j]) for j in range(2, stages + 1)]
    return w1 / w0, rows


def _polynomials(stages: int) -> tuple[float, list[float], list[float]]:
    """w_0 = 1 + damping/s², and T_j(w_0) and T_j'(w_0) for j = 0 … s."""
    w0 = 1 + _DAMPING / stages**2
    t, derivative = [1.0, w0], [0.0, 1.0]
    for _ in range(stages - 1):
        derivative.append(2 * t[-1] + 2 * w0 * derivative[-1] - derivative[-2])
        t.append(2 * w0 * t[-1] - t[-2])
    return w0, t, derivative


def stability_limit(stages: int) -> float:
    """The largest step · λ_max with which `gradient_flow` of so many stages is stable, (w_0 + 1) T_s'(w_0)/T_s(w_0)."""
    if stages == 1:
        return 2.0
    w0, t, derivative = _polynomials(stages)
    return (w0 + 1) * derivative[stages] / t[stages]


def stages_for(objective: Objective, theta: Tensor, step: float, samples: int = 512) -> int:
    """Fewest stages with which `gradient_flow` of this step is stable at 1.5 times the largest curvature at theta.

    λ_max: 8 Lanczos steps on a fixed subset of `samples` samples.
    """
    with full_precision():
        operator = HessianOperator(objective, theta, subset(objective, samples))
        start = operator.gradient + torch.finfo(theta.dtype).eps
        largest = float(lanczos(operator, start, min(8, theta.numel()), 1).eigenvalues[0])
    fitting = (s for s in range(1, MOST_STAGES) if stability_limit(s) >= _SAFETY * step * largest)
    return next(fitting, MOST_STAGES)


def full_batch_trajectory(
    objective: Objective,
    theta: Tensor,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    tangent: Tensor | None = None,
    flow_step: float | None = None,
) -> Trajectory:
    """The noise-free control: full-batch steps of SGD itself (`flow_step` None), or gradient flow in larger ones."""
    gradient = objective.full_value_and_gradient
    if flow_step is None:
        return sgd(
            gradient,
            theta,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            tangent=tangent,
        )
    stages = stages_for(objective, theta, flow_step)
    return gradient_flow(gradient, theta, step=flow_step, stages=stages, weight_decay=weight_decay, tangent=tangent)
