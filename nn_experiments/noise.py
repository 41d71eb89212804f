"""The noise of a network's dynamics: where each step's gradient comes from.

A noise draws once per step, `draw(objective, generator, time_step)`, independently of the draws before, and gives the
gradient with that draw, `gradient_at(objective, theta, draw, sign)`. The sign is that of the noise which is *added* to
the sampled gradient: −1 is its mirror image (the antithetic replica), 0 leaves it out (the clean gradient of the same
minibatch, and the control's). `gradient(objective, theta, generator, time_step)` is the two in one. Measurements take
any object with these methods and `check(objective)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from entropy_sim.errors import UserError, require
from nn_experiments.objective import Objective, generator


class Draw(NamedTuple):
    """What one step's noise is made of: the samples (None: all of them), and the noise added, if any."""

    indices: Tensor | None
    added: Tensor | None


class Noise(Protocol):
    """What dynamics and measurements need of a noise."""

    @property
    def adds(self) -> bool:
        """Whether noise is added that can be left out: then replicas are antithetic pairs."""
        ...

    def check(self, objective: Objective) -> None: ...

    def draw(self, objective: Objective, generator: torch.Generator, time_step: float) -> Draw: ...

    def gradient_at(
        self, objective: Objective, theta: Tensor, draw: Draw, sign: float = 1.0
    ) -> tuple[Tensor, Tensor]: ...

    def gradient(
        self, objective: Objective, theta: Tensor, generator: torch.Generator, time_step: float = math.nan
    ) -> tuple[Tensor, Tensor]: ...


class _Drawn:
    """`gradient` of a noise that has `draw` and `gradient_at`."""

    def gradient(
        self: Noise, objective: Objective, theta: Tensor, generator: torch.Generator, time_step: float = math.nan
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient (D,) at theta with a fresh draw; the gradient is overwritten by the next call."""
        return self.gradient_at(objective, theta, self.draw(objective, generator, time_step))


@dataclass(frozen=True)
class Minibatch(_Drawn):
    """Gradient of a fresh minibatch of B samples, drawn without replacement, independent at every step.

    Its covariance is C = (N − B)/(N − 1) · Cov(per-sample gradient)/B. Under batch-statistics BatchNorm B is a multiple
    of the group size.
    """

    batch_size: int = 16

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "a positive number", self.batch_size)

    @property
    def adds(self) -> bool:
        return False

    def check(self, objective: Objective) -> None:
        """Raises UserError unless such batches can be drawn from the objective's data."""
        _check_batch(self.batch_size, objective)

    def draw(self, objective: Objective, generator: torch.Generator, time_step: float = math.nan) -> Draw:
        return Draw(objective.draw(self.batch_size, generator), None)

    def gradient_at(self, objective: Objective, theta: Tensor, draw: Draw, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        """Loss and gradient (D,) of the minibatch at theta; the gradient is overwritten by the next call."""
        assert draw.indices is not None
        return objective.value_and_gradient(theta, draw.indices)


@dataclass(frozen=True)
class Label(_Drawn):
    """Gaussian label noise of standard deviation σ, independent for each output, sample slot and step; squared loss.

    With L = (1/2N) Σ_i Σ_c (f_ic − y_ic)² the gradient gains −(1/B) Σ J_iᵀε_i, of covariance C = (σ²/B) H_GN exactly,
    H_GN = (1/N) Σ J_iᵀJ_i, also for batches drawn without replacement. It does not vanish at zero residual, where the
    minibatch noise does. With `batch_size` None (B = N) it is the only noise. `loss` is that of the clean labels.
    Reference: Blanc, Gupta, Valiant, Valiant, COLT 2020 (arXiv 1904.09080).
    """

    strength: float = 1.0
    """Standard deviation σ of the label noise (>= 0)."""
    batch_size: int | None = None
    """Samples B in a batch, drawn as `Minibatch` does; None: all samples."""

    def __post_init__(self) -> None:
        require(0 <= self.strength < math.inf, "noise.strength", "a number >= 0", self.strength)
        require(self.batch_size is None or self.batch_size >= 1, "noise.batch_size", "at least 1", self.batch_size)

    @property
    def adds(self) -> bool:
        return True

    def check(self, objective: Objective) -> None:
        """Raises UserError unless the loss is the squared one and such batches can be drawn."""
        require_squared(objective)
        if self.batch_size is not None:
            _check_batch(self.batch_size, objective)

    def draw(self, objective: Objective, generator: torch.Generator, time_step: float = math.nan) -> Draw:
        """The samples, and σ times standard normals (B, C)."""
        indices = None if self.batch_size is None else objective.draw(self.batch_size, generator)
        size = len(objective.full_batch()) if indices is None else len(indices)
        normals = torch.randn(size, output_size(objective), generator=generator, dtype=objective.dtype)
        return Draw(indices, self.strength * normals.to(objective.device))

    def gradient_at(self, objective: Objective, theta: Tensor, draw: Draw, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        """Loss of the clean labels and gradient (D,) of the noisy ones at theta."""
        added = None if draw.added is None or sign == 0 else sign * draw.added
        if draw.indices is not None and added is None:
            return objective.value_and_gradient(theta, draw.indices)
        if added is None:
            return objective.full_value_and_gradient(theta)
        indices = objective.full_batch() if draw.indices is None else draw.indices
        total = torch.zeros((), device=objective.device, dtype=objective.dtype)
        gradient = torch.zeros_like(theta)
        start = 0
        objective.load(theta)
        for part, share in objective.chunks(indices):
            outputs = objective.forward(objective.inputs[part])
            loss = objective.loss(outputs, objective.targets[part])
            noise = (added[start : start + len(part)] * outputs).sum() / len(part)
            pieces = torch.autograd.grad(loss - noise, objective.parameters)
            gradient.add_(torch.cat([p.reshape(-1) for p in pieces]), alpha=share)
            total += share * loss.detach()
            start += len(part)
        return total, gradient


@dataclass(frozen=True)
class Thermal(_Drawn):
    """Full-batch gradient plus Gaussian noise of covariance C = 2T(1 − β)/η · 1: 2Tη a step on the update at β = 0.

    It diffuses along directions of zero curvature without bound. Dynamics therefore need a restraint, the force
    −κ (θ − γ) towards where they began, or weight decay (which also pulls towards the origin); with a restraint
    transverse variances are T/(k + κ).
    """

    temperature: float = 1e-6
    """Temperature T, loss (>= 0)."""
    restraint: float = 0.0
    """Stiffness κ of the restraint, loss / parameter² (>= 0)."""

    def __post_init__(self) -> None:
        require(0 <= self.temperature < math.inf, "noise.temperature", "a number >= 0", self.temperature)
        require(0 <= self.restraint < math.inf, "noise.restraint", "a number >= 0", self.restraint)

    @property
    def adds(self) -> bool:
        return True

    @property
    def batch_size(self) -> None:
        """All samples."""
        return None

    def check(self, objective: Objective) -> None:
        """Any objective will do."""

    def draw(self, objective: Objective, generator: torch.Generator, time_step: float) -> Draw:
        """√(2T/h) times standard normals (D,), h = η/(1 − β) the time step."""
        require(time_step > 0, "time_step", "that of the dynamics, for thermal noise", time_step)
        normals = torch.randn(objective.dimension, generator=generator, dtype=objective.dtype)
        return Draw(None, math.sqrt(2 * self.temperature / time_step) * normals.to(objective.device))

    def gradient_at(self, objective: Objective, theta: Tensor, draw: Draw, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        """Loss, and gradient (D,) with the noise added."""
        loss, gradient = objective.full_value_and_gradient(theta)
        if sign and draw.added is not None:
            gradient.add_(draw.added, alpha=sign)
        return loss, gradient


#: What the command line offers; in Python any object with the methods of `Noise` will do.
AnyNoise = Minibatch | Label | Thermal


def check_bounded(noise: Noise, weight_decay: float) -> None:
    """Raises UserError if the noise diffuses along directions of zero curvature and nothing holds it."""
    if isinstance(noise, Thermal) and noise.temperature > 0 and noise.restraint == 0 and weight_decay == 0:
        raise UserError("noise.restraint: expected a positive number (or weight_decay) for thermal noise, found 0")


def _check_batch(batch_size: int, objective: Objective) -> None:
    require(batch_size <= objective.size, "batch_size", f"at most {objective.size} samples", batch_size)
    group = objective.group_size
    require(group is None or batch_size % group == 0, "batch_size", f"a multiple of the group size {group}", batch_size)


_OUTPUT_SIZES: WeakKeyDictionary[Objective, int] = WeakKeyDictionary()


def output_size(objective: Objective) -> int:
    """Outputs C per sample. Raises UserError unless outputs are (batch, C)."""
    if objective not in _OUTPUT_SIZES:
        with torch.no_grad():
            shape = objective.forward(objective.inputs[: objective.group_size or 1]).shape
        if len(shape) != 2:
            raise UserError(f"network: expected outputs (batch, C) for label noise, found shape {tuple(shape)}")
        _OUTPUT_SIZES[objective] = int(shape[1])
    return _OUTPUT_SIZES[objective]


def require_squared(objective: Objective) -> None:
    """Raises UserError unless the loss is ½ Σ_c (f − y)², the mean over samples, whatever it is called."""
    f, y = torch.randn(2, 4, output_size(objective), generator=generator(0), dtype=torch.float64).to(objective.device)
    expected = 0.5 * (f - y).square().sum(1).mean()
    try:
        found = objective.loss(f, y)
    except (RuntimeError, ValueError, TypeError, IndexError):
        found = torch.full_like(expected, torch.nan)
    if not torch.allclose(found, expected):
        name = getattr(objective.loss, "__name__", type(objective.loss).__name__)
        raise UserError(f"loss: expected squared, ½ Σ_c (f − y)², for label noise, found {name.replace('_', ' ')}")
