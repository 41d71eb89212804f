"""The one function of the parameters that training, path finding and measuring share.

`Objective` wraps any `nn.Module` with a loss and data into L(theta) of a flat parameter vector theta (D,). Under
batch-statistics BatchNorm the output for one image depends on the others in its batch, so the function is defined by
the *group size* G: data are normalised in groups of G, and

    L_G(theta) = E over groups of G samples [ loss of the group, normalised by its own statistics ].

A minibatch of B = m G samples averages m groups, a full batch averages all groups of one fixed partition of the data:
every batch size then estimates the same function, and "full batch" has one meaning. With group, layer or no
normalisation (or `mode="evaluation"`), the group size plays no role. Buffers are never part of theta.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from entropy_sim.errors import UserError, require

Loss = Callable[[Tensor, Tensor], Tensor]
NormalizationMode = Literal["batch", "evaluation"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether any layer of `module` normalises by batch statistics."""
    return any(isinstance(m, _BATCH_NORMS) for m in module.modules())


class Objective:
    """Mean loss of `module` on `(inputs, targets)` as a function of its flat parameters theta, shape (D,).

    module: taken over (its parameters become views into one flat vector). loss(outputs, targets) is the mean over the
    samples it is given. inputs: (N, ...), targets: (N, ...), on one device. group_size: samples that are normalised
    together in `mode="batch"`; None means no grouping (whole batches), right for networks without BatchNorm.
    In `mode="batch"` running statistics are switched off; in "evaluation" mode they are used as they are.

    Raises UserError if a group would not fit into the data.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        group_size: int | None = None,
        mode: NormalizationMode = "batch",
    ) -> None:
        require(len(inputs) == len(targets) and len(inputs) > 0, "data", "as many inputs as targets", len(inputs))
        self.module, self.loss, self.mode = module, loss, mode
        self.inputs, self.targets = inputs, targets
        self.batch_norm = has_batch_norm(module)
        self.group_size = group_size if self.batch_norm and mode == "batch" else None
        if self.group_size is not None:
            require(1 < self.group_size <= len(inputs), "group_size", f"2…{len(inputs)}", self.group_size)
        self._freeze_normalization()
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.shapes = [p.shape for p in self.parameters]
        self.sizes = [p.numel() for p in self.parameters]
        self.dimension = sum(self.sizes)
        reference = self.parameters[0]
        self.device, self.dtype = reference.device, reference.dtype
        self._theta = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self._gradient = torch.zeros_like(self._theta)
        for p, value, gradient in zip(
            self.parameters, self.unflatten(self._theta), self.unflatten(self._gradient), strict=True
        ):
            p.data = value
            p.grad = gradient

    def _freeze_normalization(self) -> None:
        self.module.train(self.mode == "batch")
        if self.mode == "batch":
            for m in self.module.modules():
                if isinstance(m, _BATCH_NORMS):
                    m.track_running_stats = False
                    m.running_mean = m.running_var = m.num_batches_tracked = None

    # --- parameters -------------------------------------------------------------------------------------------------

    def theta(self) -> Tensor:
        """A copy of the module's present parameters, (D,)."""
        return self._theta.clone()

    def load(self, theta: Tensor) -> None:
        """Put `theta` (D,) into the module."""
        self._theta.copy_(theta)

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (D,) in the shapes of the parameters, in the order of `module.parameters()`."""
        pieces = torch.split(vector, self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    # --- evaluation -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of samples N."""
        return len(self.inputs)

    def full_batch(self) -> Tensor:
        """Indices of the full batch: all samples, or all whole groups of the data's fixed order (a ragged rest is left
        out, since a smaller group is another function; the data sets shuffle once, so it is a random rest)."""
        usable = self.size if self.group_size is None else self.size - self.size % self.group_size
        return torch.arange(usable, device=self.device)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the module at the loaded parameters, normalised in groups."""
        group = self.group_size
        if group is None or len(inputs) == group:
            return self.module(inputs)
        if len(inputs) % group:
            raise UserError(f"batch_size: expected a multiple of the group size {group}, found {len(inputs)}")
        grouped = inputs.view(-1, group, *inputs.shape[1:])
        # vmap folds the groups into the batch for convolutions and keeps them apart for the normalisation.
        outputs = torch.vmap(self.module)(grouped)
        return outputs.reshape(-1, *outputs.shape[2:])

    def loss_at(self, indices: Tensor, targets: Tensor | None = None) -> Tensor:
        """The loss of a batch at the loaded parameters, with its graph; `targets` replaces the data's own."""
        own = self.targets[indices] if targets is None else targets
        return self.loss(self.forward(self.inputs[indices]), own)

    def value_and_gradient(
        self, theta: Tensor, indices: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and gradient (D,) of a batch at `theta`. The gradient is overwritten by the next call."""
        if theta is not self._theta:
            self._theta.copy_(theta)
        self._gradient.zero_()
        loss = self.loss_at(indices, targets)
        loss.backward()
        return loss.detach(), self._gradient

    def full_value_and_gradient(self, theta: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
        """Loss and gradient (D,) of the full batch at `theta`, in chunks of about `chunk` samples."""
        indices = self.full_batch()
        step = chunk if self.group_size is None else max(1, chunk // self.group_size) * self.group_size
        total, gradient = torch.zeros((), device=self.device, dtype=self.dtype), torch.zeros_like(self._theta)
        for part in torch.split(indices, step):
            value, part_gradient = self.value_and_gradient(theta, part)
            weight = len(part) / len(indices)
            total += weight * value
            gradient.add_(part_gradient, alpha=weight)
        return total, gradient

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Indices of an independent batch: without replacement within the batch, fresh at every call.

        (Epoch-wise reshuffling would anticorrelate the noise of successive steps and bias the mean force.)
        """
        return torch.randperm(self.size, generator=generator)[:batch_size].to(self.device)
