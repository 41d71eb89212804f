"""The noise of a network's dynamics: where each step's gradient comes from.

A noise draws one gradient per step: `gradient(objective, theta, generator) -> (loss, gradient)`, independent of the
draws before it. Measurements take any object with that method, so further kinds (label noise on the targets of a
minibatch, thermal noise on a full batch) join here without touching them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.objective import Objective


@dataclass(frozen=True)
class Minibatch:
    """Gradient of a fresh minibatch of B samples, drawn without replacement, independent at every step.

    Its covariance is C = (N − B)/(N − 1) · Cov(per-sample gradient)/B. Under batch-statistics BatchNorm B is a multiple
    of the group size.
    """

    batch_size: int = 16

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "a positive number", self.batch_size)

    def check(self, objective: Objective) -> None:
        """Raises UserError unless such batches can be drawn from the objective's data."""
        require(self.batch_size <= objective.size, "batch_size", f"at most {objective.size} samples", self.batch_size)
        group = objective.group_size
        require(
            group is None or self.batch_size % group == 0,
            "batch_size",
            f"a multiple of the group size {group}",
            self.batch_size,
        )

    def gradient(self, objective: Objective, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss and gradient (D,) of one minibatch at theta; the gradient is overwritten by the next call."""
        return objective.value_and_gradient(theta, objective.draw(self.batch_size, generator))
