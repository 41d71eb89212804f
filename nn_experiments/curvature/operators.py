"""Matrix-free curvature: products of the Hessian or the Gauss–Newton matrix with vectors, and over which samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from entropy_sim.errors import require
from nn_experiments.curvature._second_order import second_order
from nn_experiments.objective import Objective

Operator = Callable[[Tensor], Tensor]


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


class Products:
    """Products with a symmetric matrix that is a mean over samples: each chunk of them adds its share.

    The graphs of up to `kept` samples are built once and used again by every product; samples beyond them are
    differentiated anew at each call, in chunks of about `chunk`, so memory stays bounded.
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
        self._graphs: list[Any] = []
        objective.load(self.theta)
        seen = 0
        for part, share in self._parts:
            seen += len(part)
            self._begin(part, share, seen <= kept)

    def _begin(self, part: Tensor, share: float, keep: bool) -> None:
        if keep:
            self._graphs.append(self._graph(part, share))

    def _graph(self, part: Tensor, share: float) -> Any:
        """All that products with the matrix of these samples have in common."""
        raise NotImplementedError

    def _product(self, graph: Any, vector: Sequence[Tensor]) -> Sequence[Tensor]:
        raise NotImplementedError

    def _form(self, graph: Any, vector: Sequence[Tensor]) -> float:
        raise NotImplementedError

    def _flatten(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in pieces])

    def __call__(self, vectors: Tensor) -> Tensor:
        """The product with one vector (D,) or with each row of (K, D)."""
        rows = vectors if vectors.ndim == 2 else vectors[None]
        # The graphs hold references to the module's parameters, which others may have moved since.
        self.objective.load(self.theta)
        products = torch.zeros_like(rows)
        for i, (part, share) in enumerate(self._parts):
            graph = self._graphs[i] if i < len(self._graphs) else self._graph(part, share)
            for k, row in enumerate(rows):
                products[k] += self._flatten(self._product(graph, self.objective.unflatten(row)))
        return products if vectors.ndim == 2 else products[0]

    def forms(self, vectors: Tensor) -> Tensor:
        """vᵀ A v of each row of (K, D), without the products: (K,), float64, on the CPU."""
        self.objective.load(self.theta)
        found = torch.zeros(len(vectors), dtype=torch.float64)
        for i, (part, share) in enumerate(self._parts):
            graph = self._graphs[i] if i < len(self._graphs) else self._graph(part, share)
            for k, row in enumerate(vectors):
                found[k] += self._form(graph, self.objective.unflatten(row))
        return found


class HessianOperator(Products):
    """v → H v at `theta` (D,), by reverse-over-reverse differentiation, H averaged over the samples `indices`.

    The graph of the gradient is kept for up to `kept` samples and used again by every product (Pearlmutter, Neural
    Computation 6, 1994); samples beyond them are differentiated anew at each call, in chunks of about `chunk`.
    `forms` costs half of a product where convolutions and BatchNorm cost most: see `_second_order`.

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
        self.gradient = torch.zeros_like(theta)
        self.loss = 0.0
        self._mode = second_order()
        super().__init__(objective, theta, indices, chunk=chunk, kept=kept)

    def _begin(self, part: Tensor, share: float, keep: bool) -> None:
        loss, gradients = self._differentiate(part, share, create_graph=keep)
        if keep:
            self._graphs.append(gradients)
        self.loss += loss
        self.gradient += self._flatten(gradients)

    def _graph(self, part: Tensor, share: float) -> Sequence[Tensor]:
        return self._differentiate(part, share, create_graph=True)[1]

    def _differentiate(self, part: Tensor, share: float, create_graph: bool) -> tuple[float, Sequence[Tensor]]:
        objective = self.objective
        # Fused attention has no second derivative.
        with self._mode, sdpa_kernel(SDPBackend.MATH):
            outputs = self._mode.tap(objective.forward(self._inputs(part)))
            loss = share * objective.loss(outputs, objective.targets[part])
        return float(loss.detach()), torch.autograd.grad(loss, objective.parameters, create_graph=create_graph)

    def _inputs(self, part: Tensor) -> Tensor:
        """The inputs, with channels last in memory where that is faster: on CPUs, if BatchNorm sees one group."""
        inputs = self.objective.inputs[part]
        whole = self.objective.group_size in (None, len(part))
        if whole and inputs.ndim == 4 and inputs.device.type == "cpu":
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _product(self, graph: Sequence[Tensor], vector: Sequence[Tensor]) -> Sequence[Tensor]:
        return torch.autograd.grad(graph, self.objective.parameters, vector, retain_graph=True)

    def _form(self, graph: Sequence[Tensor], vector: Sequence[Tensor]) -> float:
        with self._mode.forms():
            rest = torch.autograd.grad(graph, self.objective.parameters, vector, retain_graph=True, allow_unused=True)
        dots = [(v.double() * r).sum() for v, r in zip(vector, rest, strict=True) if r is not None]
        return float(sum(dots, start=torch.as_tensor(self._mode.total)))


class GaussNewtonOperator(Products):
    """v → G v at `theta` (D,) with the generalised Gauss–Newton matrix G = Σ_ij J_iᵀ (∂²ℓ/∂f_i ∂f_j) J_j.

    J_i = ∂f_i/∂θ is the Jacobian of the outputs for sample i, in batch-statistics mode with its group's statistics
    moving along; ℓ is the mean loss as a function of all outputs. H = G + Σ_i ∇_f ℓ · ∂²f, so G = H where the outputs
    are linear in θ or the residuals vanish. Positive semidefinite if the loss is convex in the outputs.

    For cross-entropy and for ½(f − y)² it is the **Fisher matrix** of the model whose negative log-likelihood the loss
    is, F = (1/N) Σ_i E_{y ~ p(y|f_i)} ∇ℓ(f_i, y) ∇ℓ(f_i, y)ᵀ, with labels drawn from the *model*. It is neither the
    "empirical Fisher" (the same with the data's labels, not centred, which vanishes where the model interpolates) nor
    the covariance of the minibatch gradient (`gradient_noise`: centred, ∝ 1/B, of the sampling scheme).
    Reference: Schraudolph, Neural Computation 14 (2002) 1723; Martens, JMLR 21 (2020) 146; Kunstner, Balles & Hennig,
    NeurIPS 2019.
    """

    def _graph(self, part: Tensor, share: float) -> tuple[Tensor, ...]:
        objective = self.objective
        with sdpa_kernel(SDPBackend.MATH):
            outputs = objective.forward(objective.inputs[part])
        # Jᵀu is linear in u: its derivative with respect to u, applied to v, is J v.
        dual = torch.zeros_like(outputs, requires_grad=True)
        transposed = torch.autograd.grad(outputs, objective.parameters, dual, create_graph=True)
        values = outputs.detach().requires_grad_()
        loss = share * objective.loss(values, objective.targets[part])
        (slope,) = torch.autograd.grad(loss, values, create_graph=True)
        return outputs, dual, transposed, values, slope  # type: ignore[return-value]

    def _product(self, graph: Any, vector: Sequence[Tensor]) -> Sequence[Tensor]:
        _, force = self._forces(graph, vector)
        return torch.autograd.grad(graph[0], self.objective.parameters, force, retain_graph=True)

    def _form(self, graph: Any, vector: Sequence[Tensor]) -> float:
        change, force = self._forces(graph, vector)
        return float((change.double() * force).sum())

    def _forces(self, graph: Any, vector: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """J v, and its product with the second derivative of the loss."""
        _, dual, transposed, values, slope = graph
        (change,) = torch.autograd.grad(transposed, dual, vector, retain_graph=True)
        (force,) = torch.autograd.grad(slope, values, change, retain_graph=True)
        return change, force


def scaled(operator: Operator, diagonal: Tensor) -> Operator:
    """v → S^½ A S^½ v for an operator A and the diagonal (D,) of S >= 0."""
    root = diagonal.sqrt()
    return lambda v: root * operator(root * v)
