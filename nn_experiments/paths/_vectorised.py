"""Losses and gradients at several parameter vectors in one forward and backward pass.

One small network does not fill a GPU: the points of a path are mapped over (`torch.func.vmap`), a matrix product of one
network becoming a batched one of all, a convolution a grouped one. Memory beyond the points and their gradients,
O(P D): the activations and two to three parameter vectors for each of `chunk` points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from entropy_sim.errors import UserError
from nn_experiments.objective import Objective
from nn_experiments.workers import out_of_memory


class _Forward(nn.Module):
    """The objective's forward pass with its module in reach of `functional_call`."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.module = objective.module
        self._pass = objective.forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._pass(inputs)


class Vectorised:
    """An objective at points (P, D) at once. chunk: most points in one pass, None for all.

    Where a pass does not fit into the GPU's memory, the chunk is halved for this and all later passes, and where one
    point does not, so are the samples (in whole groups)."""

    def __init__(self, objective: Objective, chunk: int | None = None) -> None:
        self.objective, self.chunk = objective, chunk
        self.samples: int | None = None
        self._forward = _Forward(objective)

    def value_and_gradient(self, points: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of one batch. Raises UserError if one point and one group do not fit."""
        values, gradients = points.new_empty(len(points)), torch.empty_like(points)
        self._add(points, indices, 1.0, values.zero_(), gradients.zero_())
        return values, gradients

    def full(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (P,) and gradient (P, D) of the full batch."""
        values, gradients = points.new_zeros(len(points)), torch.zeros_like(points)
        for part, share in self.objective.chunks(self.objective.full_batch()):
            self._add(points, part, share, values, gradients)
        return values, gradients

    def evaluate(self, points: Tensor) -> Tensor:
        """Loss (P,) of the full batch."""
        values = points.new_zeros(len(points))
        for part, share in self.objective.chunks(self.objective.full_batch()):
            self._add(points, part, share, values, None)
        return values

    def _add(self, points: Tensor, indices: Tensor, share: float, values: Tensor, gradients: Tensor | None) -> None:
        """Add `share` of a batch's losses and gradients, chunk by chunk, to what is there."""
        if self.samples is not None and len(indices) > self.samples:
            for part, fraction in self.objective.chunks(indices, self.samples):
                self._add(points, part, share * fraction, values, gradients)
            return
        inputs, targets = self.objective.inputs[indices], self.objective.targets[indices]

        def loss(theta: Tensor) -> Tensor:
            named = zip(self.objective.names, self.objective.unflatten(theta), strict=True)
            outputs = functional_call(self._forward, {f"module.{name}": p for name, p in named}, (inputs,))
            return self.objective.loss(outputs, targets)

        start = 0
        while start < len(points):
            chosen = slice(start, start + (self.chunk or len(points)))
            try:
                if gradients is None:
                    with torch.no_grad():
                        values[chosen] += share * vmap(loss)(points[chosen])
                else:
                    slopes, losses = vmap(grad_and_value(loss))(points[chosen])
                    values[chosen] += share * losses
                    gradients[chosen].add_(slopes, alpha=share)
                    del slopes
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._smaller(len(points[chosen]), len(indices), error)
            else:
                start += len(points[chosen])
                continue
            if self.samples is not None and len(indices) > self.samples:
                rest = slice(start, None)
                slopes_left = None if gradients is None else gradients[rest]
                return self._add(points[rest], indices, share, values[rest], slopes_left)

    def _smaller(self, points: int, samples: int, error: BaseException) -> None:
        """Choose smaller passes than one of so many points and samples, which did not fit."""
        group = self.objective.group_size or 1
        if points > 1:
            self.chunk = (points + 1) // 2
        elif samples > group:
            self.samples = max(samples // (2 * group), 1) * group
        else:
            raise UserError(
                f"memory: expected enough of it on the GPU, found too little for a single point and {samples} samples; "
                "lower group_size or the size of the network"
            ) from error
        error.__traceback__ = None  # its frames hold what is to be freed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
