"""Matrix-free curvature: products of the Hessian with vectors, and what they are taken over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.objective import Objective


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch TensorFloat-32 off for matrix products and convolutions: its 10-bit mantissa ruins curvature."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    try:
        for b in backends:
            b.allow_tf32 = False
        yield
    finally:
        for b, value in zip(backends, before, strict=True):
            b.allow_tf32 = value


def subset(objective: Objective, samples: int | None) -> Tensor:
    """Indices of the first `samples` samples (rounded down to whole groups; None: all) of the full batch.

    The data are in one fixed random order, so this is a random subset, the same at every point.
    """
    indices = objective.full_batch()
    if samples is None or samples >= len(indices):
        return indices
    group = objective.group_size or 1
    require(samples >= group, "samples", f"at least one group of {group}", samples)
    return indices[: samples - samples % group]


class HessianOperator:
    """v → H v at `theta` (D,), by reverse-over-reverse differentiation, H averaged over the samples `indices`.

    The graph of the gradient is kept for up to `kept` samples and used again by every product (Pearlmutter, Neural
    Computation 6, 1994; a product then costs about 1.4 gradients); samples beyond them are differentiated anew at each
    call, in chunks of about `chunk`, so memory stays bounded.

    `gradient` (D,) and `loss` are those of the same samples.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        indices: Tensor | None = None,
        *,
        chunk: int = 512,
        kept: int = 2048,
    ) -> None:
        self.objective, self.theta = objective, theta.detach().clone()
        indices = objective.full_batch() if indices is None else indices
        self._parts = list(objective.chunks(indices, chunk))
        self._graphs: list[Sequence[Tensor]] = []
        self.gradient = torch.zeros_like(self.theta)
        self.loss = 0.0
        objective.load(self.theta)
        seen = 0
        for part, share in self._parts:
            seen += len(part)
            loss, gradients = self._differentiate(part, share, create_graph=seen <= kept)
            if seen <= kept:
                self._graphs.append(gradients)
            self.loss += loss
            self.gradient += self._flatten(gradients)

    def _differentiate(self, part: Tensor, share: float, create_graph: bool = True) -> tuple[float, Sequence[Tensor]]:
        loss = share * self.objective.loss_at(part)
        return float(loss.detach()), torch.autograd.grad(loss, self.objective.parameters, create_graph=create_graph)

    def _flatten(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in pieces])

    def __call__(self, vectors: Tensor) -> Tensor:
        """H v for one vector (D,) or each row of (K, D)."""
        rows = vectors if vectors.ndim == 2 else vectors[None]
        # The graphs hold references to the module's parameters, which others may have moved since.
        self.objective.load(self.theta)
        products = torch.zeros_like(rows)
        for i, (part, share) in enumerate(self._parts):
            gradients = self._graphs[i] if i < len(self._graphs) else self._differentiate(part, share)[1]
            for k, row in enumerate(rows):
                products[k] += self._flatten(
                    torch.autograd.grad(
                        gradients, self.objective.parameters, self.objective.unflatten(row), retain_graph=True
                    )
                )
        return products if vectors.ndim == 2 else products[0]
