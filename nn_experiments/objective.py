"""The one function of the parameters that training, path finding and measuring share.

`Objective` wraps any `nn.Module` with a loss and data into L(theta) of a flat parameter vector theta (D,). Under
batch-statistics BatchNorm the output for one image depends on the others in its batch, so the function is defined by
the *group size* G: data are normalised in groups of G ("ghost batches", Hoffer, Hubara & Soudry, NeurIPS 2017), and

    L_G(theta) = E over groups of G samples [ loss of the group, normalised by its own statistics ].

A minibatch of B = m G samples averages m groups, a full batch averages all groups of one fixed partition of the data:
every batch size then estimates the same function, and "full batch" has one meaning. With group, layer or no
normalisation (or `mode="evaluation"`), the group size plays no role. Buffers are never part of theta.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from entropy_sim.errors import UserError, require
from nn_experiments.workers import out_of_memory

Loss = Callable[[Tensor, Tensor], Tensor]
NormalizationMode = Literal["batch", "evaluation"]


class Evaluation(NamedTuple):
    """Mean loss and fraction of wrong answers (nan where `wrong` does not know them)."""

    loss: float
    error: float


def generator(*key: int) -> torch.Generator:
    """A CPU generator for one stream of random numbers; different keys (seed, purpose, …) give independent streams."""
    # SeedSequence pads with zeros: without the length, (0,) and (0, 0) would be the same stream.
    state = np.random.SeedSequence((len(key), *key)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers of `module` that normalise by batch statistics, in the order of `module.modules()`."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def wrong(outputs: Tensor, targets: Tensor) -> float:
    """Fraction of wrong answers: outputs (N, classes, …) have their maximum elsewhere than at the class in targets.

    nan unless targets are class numbers of the shape (N, …): of a single output, or of classes on another axis, the
    answer is not known.
    """
    if targets.is_floating_point() or outputs.ndim < 2 or outputs.shape[1] < 2:
        return math.nan
    if (outputs.shape[0], *outputs.shape[2:]) != targets.shape:
        return math.nan
    return float((outputs.argmax(1) != targets).double().mean())


class Objective:
    """Mean loss of `module` on `(inputs, targets)` as a function of its flat parameters theta, shape (D,).

    module: taken over (its parameters become views into one flat vector; do not move or cast it afterwards).
    loss(outputs, targets) is the mean over the samples it is given. inputs: (N, ...), targets: (N, ...), on one device.
    group_size: samples normalised together in `mode="batch"`; None means whole batches, right for networks without
    BatchNorm. In "batch" mode running statistics are dropped; in "evaluation" mode they are used as they are (see
    `copy_statistics`). Everything else, dropout included, runs as at inference: L is a deterministic function.

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
        require(len(inputs) > 0, "data", "at least one sample", len(inputs))
        require(len(inputs) == len(targets), "data", f"{len(inputs)} targets, one for each input", len(targets))
        require(mode in ("batch", "evaluation"), "normalization_mode", "batch or evaluation", mode)
        self.module, self.loss, self.mode = module, loss, mode
        self.inputs, self.targets = inputs, targets
        self.group_size = group_size if batch_norms(module) and mode == "batch" else None
        if self.group_size is not None:
            require(1 < self.group_size <= len(inputs), "group_size", f"2…{len(inputs)}", self.group_size)
        self._groups, self._interleaved = 1, True
        self._fits = sys.maxsize  # samples that go through at once, as far as is known
        self._prepare_normalization()
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        self.shapes = [p.shape for p in self.parameters]
        self.sizes = [p.numel() for p in self.parameters]
        self.dimension = sum(self.sizes)
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self._theta = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self._gradient = torch.zeros_like(self._theta)
        views = zip(self.parameters, self.unflatten(self._theta), self.unflatten(self._gradient), strict=True)
        for p, value, gradient in views:
            p.data = value
            p.grad = gradient

    def _prepare_normalization(self) -> None:
        self.module.eval()
        if self.mode == "batch":
            for layer in batch_norms(self.module):
                layer.track_running_stats = False
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
                layer.forward = partial(self._normalize, layer)  # type: ignore[method-assign]

    def _normalize(self, layer: _BatchNorm, x: Tensor) -> Tensor:
        """BatchNorm of m interleaved groups (sample j belongs to group j mod m), each by its own statistics.

        The groups become channels by a mere view, so this costs no more than BatchNorm of one group. Where the channels
        come last in memory they cannot, and the groups lie one after the other.
        """
        groups = self._groups
        weight: Tensor | None = layer.weight
        bias: Tensor | None = layer.bias
        if groups > 1 and len(x) != groups * (self.group_size or 0):
            raise UserError(f"network: expected BatchNorm over whole samples, found an input of shape {tuple(x.shape)}")
        if groups > 1 and not self._interleaved:
            parts = x.split(len(x) // groups)
            return torch.cat([F.batch_norm(p, None, None, weight, bias, training=True, eps=layer.eps) for p in parts])
        if groups > 1 and weight is not None and bias is not None:
            weight, bias = weight.repeat(groups), bias.repeat(groups)
        wide = x.reshape(len(x) // groups, -1, *x.shape[2:])
        return F.batch_norm(wide, None, None, weight, bias, training=True, eps=layer.eps).reshape(x.shape)

    # --- parameters -------------------------------------------------------------------------------------------------

    def theta(self) -> Tensor:
        """A copy of the module's present parameters, (D,)."""
        return self._theta.clone()

    @property
    def gradient_buffer(self) -> Tensor:
        """The vector (D,) that every call of `value_and_gradient` fills anew."""
        return self._gradient

    def load(self, theta: Tensor) -> None:
        """Put `theta` (D,) into the module. A graph built before at another theta is no longer valid."""
        self._theta.copy_(theta)

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (D,) in the shapes of the parameters, in the order of `names`."""
        pieces = torch.split(vector, self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def blocks(self) -> dict[str, slice]:
        """Where each named parameter lies in theta."""
        ends = np.cumsum([0, *self.sizes])
        return {name: slice(int(a), int(b)) for name, a, b in zip(self.names, ends[:-1], ends[1:], strict=True)}

    # --- batches ----------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of samples N."""
        return len(self.inputs)

    def full_batch(self) -> Tensor:
        """Indices of the full batch: all samples, or all whole groups of the data's fixed order (a ragged rest is left
        out, since a smaller group is another function; the data sets shuffle once, so it is a random rest)."""
        usable = self.size if self.group_size is None else self.size - self.size % self.group_size
        return torch.arange(usable, device=self.device)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Indices of an independent batch: without replacement within the batch, fresh at every call.

        (Epoch-wise reshuffling would anticorrelate the noise of successive steps and bias the mean force.)
        """
        return torch.randperm(self.size, generator=generator)[:batch_size].to(self.device)

    def chunks(self, indices: Tensor, chunk: int = 512) -> Iterator[tuple[Tensor, float]]:
        """Parts of `indices` of about `chunk` samples (whole groups), each with its share of the total."""
        for part in torch.split(indices, self._step(chunk)):
            yield part, len(part) / len(indices)

    def _step(self, chunk: int) -> int:
        group = self.group_size or 1
        return max(1, min(chunk, self._fits) // group) * group

    def _in_chunks(self, indices: Tensor, chunk: int, do: Callable[[Tensor, float], None]) -> None:
        """`do(part, share)` for the parts of `indices`; what does not fit into the GPU's memory is done by halves, now
        and in all later calls. `do` must not leave anything behind where it fails."""
        start = 0
        while start < len(indices):
            part = indices[start : start + self._step(chunk)]
            try:
                do(part, len(part) / len(indices))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._fits = len(part) // 2
                if self._step(chunk) >= len(part):  # a single group, or a single sample
                    raise
                error.__traceback__ = None  # its frames hold what is to be freed
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            start += len(part)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the module at the loaded parameters, normalised in groups of consecutive samples.

        Raises UserError unless `inputs` are whole groups.
        """
        group = self.group_size
        self._groups = 1 if group is None else len(inputs) // group
        if group is None or len(inputs) == group:
            return self.module(inputs)
        if self._groups == 0 or len(inputs) % group:
            raise UserError(f"batch_size: expected a multiple of the group size {group}, found {len(inputs)}")
        self._interleaved = inputs.is_contiguous() or not inputs.is_contiguous(memory_format=torch.channels_last)
        if not self._interleaved:
            return self.module(inputs)
        interleaved = inputs.reshape(self._groups, group, *inputs.shape[1:]).transpose(0, 1).reshape(inputs.shape)
        outputs = self.module(interleaved)
        return outputs.view(group, self._groups, *outputs.shape[1:]).transpose(0, 1).reshape(outputs.shape)

    def loss_at(self, indices: Tensor, targets: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """The loss of a batch at the loaded parameters, with its graph; `targets`, `inputs` replace the data's own."""
        own = self.targets[indices] if targets is None else targets
        return self.loss(self.forward(self.inputs[indices] if inputs is None else inputs), own)

    def value_and_gradient(
        self, theta: Tensor, indices: Tensor, targets: Tensor | None = None, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and gradient (D,) of a batch at `theta`. The gradient is overwritten by the next call."""
        self._theta.copy_(theta)
        self._gradient.zero_()
        loss = self.loss_at(indices, targets, inputs)
        loss.backward()
        return loss.detach(), self._gradient

    def full_value_and_gradient(self, theta: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
        """Loss and gradient (D,) of the full batch at `theta`, in chunks of about `chunk` samples."""
        total, gradient = torch.zeros((), device=self.device, dtype=self.dtype), torch.zeros_like(self._theta)

        def add(part: Tensor, share: float) -> None:
            value, part_gradient = self.value_and_gradient(theta, part)
            total.add_(value, alpha=share)
            gradient.add_(part_gradient, alpha=share)

        self._in_chunks(self.full_batch(), chunk, add)
        return total, gradient

    @torch.no_grad()
    def evaluate(self, theta: Tensor, indices: Tensor | None = None) -> Evaluation:
        """Loss and error of a batch of whole groups (None: the full batch) at `theta` (D,)."""
        self._theta.copy_(theta)
        found: list[tuple[float, float]] = []

        def add(part: Tensor, share: float) -> None:
            outputs, targets = self.forward(self.inputs[part]), self.targets[part]
            found.append((share * float(self.loss(outputs, targets)), share * wrong(outputs, targets)))

        self._in_chunks(self.full_batch() if indices is None else indices, 512, add)
        return Evaluation(*map(sum, zip(*found, strict=True)))

    @torch.no_grad()
    def copy_statistics(self, training: Objective, theta: Tensor) -> None:
        """Set the running statistics of this "evaluation"-mode objective from a "batch"-mode one at `theta`.

        Mean and variance of each BatchNorm's input over the full batch of `training`, the layers before normalised in
        groups as in training.
        """
        layers, sources = batch_norms(self.module), batch_norms(training.module)
        moments = {m: torch.zeros(2, m.num_features, dtype=torch.float64, device=self.device) for m in sources}
        seen: list[tuple[_BatchNorm, Tensor]] = []  # of one part, which may turn out not to fit

        def observe(layer: _BatchNorm, arguments: tuple[Tensor, ...]) -> None:
            values = arguments[0].double().transpose(0, 1).flatten(1)
            seen.append((layer, torch.stack([values.mean(1), values.square().mean(1)])))

        def add(part: Tensor, share: float) -> None:
            seen.clear()
            training.forward(training.inputs[part])
            for layer, found in seen:
                moments[layer] += share * found

        training.load(theta)
        handles = [m.register_forward_pre_hook(observe) for m in sources]
        try:
            training._in_chunks(training.full_batch(), 512, add)
        finally:
            for handle in handles:
                handle.remove()
        for layer, source in zip(layers, sources, strict=True):
            mean, square = moments[source]
            if layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(square - mean.square())
