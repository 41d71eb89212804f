"""Curvature of an `Objective` at one point: Hessian-vector products, traces, extreme eigenvalues.

Everything is matrix-free. Conventions: H is the Hessian of the loss of the full batch (or of one declared subset of
it), t a unit tangent, Q = 1 − t tᵀ. Random probes are drawn once and shared by all points of a path, so that the
curvature of two points is compared with the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.objective import Objective


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    stderr: float


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


def rademacher(count: int, dimension: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """`count` probes of independent signs ±1, (count, dimension), of the type and on the device of `like`."""
    signs = torch.randint(0, 2, (count, dimension), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(like)


# --- extreme eigenvalues --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """Ritz approximation of the ends of a spectrum, from m Lanczos steps.

    eigenvalues (k,), largest first, their unit vectors eigenvectors (k, D) and residuals ‖H v − λ v‖ (k,);
    min_eigenvalue and min_residual likewise. An eigenvalue of H lies within each residual of its Ritz value.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    min_eigenvalue: float
    min_residual: float


def lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, steps: int, top: int) -> Spectrum:
    """Ends of the spectrum of a symmetric `operator` on (D,) by Lanczos with full reorthogonalisation.

    Unlike power iteration, which finds the eigenvalue of largest modulus, it gives λ_max and λ_min with their signs.
    Reference: Golub & Van Loan, Matrix Computations, 4th ed., ch. 10.

    Raises UserError unless 1 <= top <= steps <= D.
    """
    dimension = start.numel()
    require(1 <= steps <= dimension, "lanczos_steps", f"1…{dimension}", steps)
    require(1 <= top <= steps, "eigenvalues", f"1…{steps}", top)
    basis = start.new_zeros(steps, dimension)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    vector, done, rest = start / start.norm(), steps, 0.0
    for j in range(steps):
        basis[j] = vector
        vector = operator(basis[j])
        scale = float(vector.norm())
        for _ in range(2):  # once more removes what rounding left of the first pass
            overlap = basis[: j + 1] @ vector
            vector = vector - overlap @ basis[: j + 1]
            projected[: j + 1, j] += overlap.double().cpu()
        rest = float(vector.norm())
        if rest <= 10 * torch.finfo(start.dtype).eps * scale or j + 1 == dimension:
            done, rest = j + 1, 0.0  # an invariant subspace
            break
        vector = vector / rest
    projected = projected[:done, :done].triu()
    projected = projected + projected.triu(1).T
    values, vectors = torch.linalg.eigh(projected)
    residuals = rest * vectors[-1].abs()
    count = min(top, done)
    return Spectrum(
        eigenvalues=values[-count:].flip(0),
        eigenvectors=vectors[:, -count:].flip(1).T.to(basis) @ basis[:done],
        residuals=residuals[-count:].flip(0),
        min_eigenvalue=float(values[0]),
        min_residual=float(residuals[0]),
    )


# --- traces ---------------------------------------------------------------------------------------------------------


class Traces(NamedTuple):
    """Tr H; Tr(Q H), transverse to the tangent; Σ_l ‖w_l‖² Tr H_ll over the scale-invariant blocks."""

    trace: Estimate
    transverse: Estimate
    normalized: Estimate


def block_norms(objective: Objective, theta: Tensor, names: Sequence[str]) -> Tensor:
    """Diagonal (D,) that holds ‖w_l‖² on every entry of each named parameter w_l and 0 elsewhere.

    Raises UserError for a name that is not one of the module's parameters.
    """
    blocks = objective.blocks()
    unknown = sorted(set(names) - set(blocks))
    require(not unknown, "scale_invariant", f"names among {', '.join(blocks)}", ", ".join(unknown))
    diagonal = torch.zeros_like(theta)
    for name in names:
        diagonal[blocks[name]] = theta[blocks[name]].square().sum()
    return diagonal


class Hutchinson:
    """Traces from a fixed budget of K probes (K, D) with E z zᵀ = 1: Tr(A H) = E zᵀ A H z.

    The full batch is split into `parts` of whole groups, as equal as they can be, and probe k sees part k mod `parts`
    only: at the cost of K/parts products with the full Hessian the estimate is unbiased for the full batch, and its
    standard error contains that of the data. `parts=1` is the plain estimator. K must be a multiple of `parts`.
    A Rademacher probe has the variance 2 Σ_{i≠j} H_ij².
    Reference: Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059.
    """

    def __init__(self, objective: Objective, probes: Tensor, parts: int = 1, *, chunk: int = 512) -> None:
        group = objective.group_size or 1
        groups = len(objective.full_batch()) // group
        require(1 <= parts <= groups, "parts", f"1…{groups}, the number of groups of data", parts)
        require(len(probes) % parts == 0, "probes", f"a multiple of the {parts} parts of the data", len(probes))
        self.objective, self.probes, self.chunk = objective, probes, chunk
        split = torch.tensor_split(objective.full_batch().view(groups, group), parts)
        self.parts = [part.reshape(-1) for part in split]
        shares = torch.tensor([len(part) for part in self.parts], dtype=torch.float64) * (parts / (groups * group))
        self._weights = shares.repeat(len(probes) // parts) / len(probes)

    def traces(self, theta: Tensor, tangent: Tensor, norms: Tensor) -> Traces:
        """Tr H, Tr(Q H) and Tr(S H) at theta for a unit tangent t and a diagonal S = `norms`, all (D,)."""
        forms = self._forms(theta, lambda z: z, _off(tangent), lambda z: norms.double() * z)
        return Traces(*map(self._mean, forms))

    def slope(self, theta: Tensor, tangent: Tensor, step: float) -> Estimate:
        """Tr(Q ∂_t H), ∂_t H ≈ [H(θ + ε t) − H(θ − ε t)] / 2ε with ε = `step`; both sides see the same probes.

        The error of the difference is O(ε²). A finite ε on purpose: with ReLU the Hessian jumps where a unit switches,
        and a third derivative misses the jumps.
        """
        require(step > 0, "slope_step", "a positive number", step)
        (above,), (below,) = (self._forms(theta + sign * step * tangent, _off(tangent)) for sign in (1, -1))
        return self._mean((above - below) / (2 * step))

    def _forms(self, theta: Tensor, *left: Callable[[Tensor], Tensor]) -> Tensor:
        """zᵀ A H z of each probe for each A, given as z → Aᵀ z on rows; H is that of the probe's part. (A, K)."""
        forms = torch.empty(len(left), len(self.probes), dtype=torch.float64)
        for p, part in enumerate(self.parts):
            probes = self.probes[p :: len(self.parts)]
            images = HessianOperator(self.objective, theta, part, chunk=self.chunk)(probes).double()
            for form, a in zip(forms, left, strict=True):
                form[p :: len(self.parts)] = (a(probes.double()) * images).sum(-1).cpu()
        return forms

    def _mean(self, samples: Tensor) -> Estimate:
        mean, number = (self._weights * samples).sum(), len(samples)
        square = (self._weights * (samples - mean)).square().sum()
        stderr = math.sqrt(float(square) * number / (number - 1)) if number > 1 else math.nan
        return Estimate(float(mean), stderr)


def _off(tangent: Tensor) -> Callable[[Tensor], Tensor]:
    """z → Q z on rows."""
    t = tangent.double()
    return lambda z: z - (z @ t)[:, None] * t


# --- gradient noise -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GradientNoise:
    """Covariance C of the minibatch gradient: Tr C, Tr(Q C), and v_iᵀ C v_i of the given vectors with its error."""

    trace: Estimate
    transverse: Estimate
    eigenvalues: Tensor
    eigenvalue_stderrs: Tensor


def gradient_noise(gradients: Iterator[Tensor], centre: Tensor, tangent: Tensor, vectors: Tensor) -> GradientNoise:
    """Unbiased covariance of independent minibatch gradients (each (D,)), in one pass and O(D) memory.

    C = Σ_b (g_b − ḡ)(g_b − ḡ)ᵀ / (n − 1), of the sampling scheme the gradients were drawn by: batches of B of N
    samples without replacement have the factor (N − B)/(N − 1). `centre` (D,), near the mean, keeps the sums accurate;
    `vectors` (k, D) are unit vectors. Standard errors to leading order in 1/n.

    Raises UserError for fewer than two batches.
    """
    total = torch.zeros_like(centre, dtype=torch.float64)
    squares, along, projections = [], [], []
    for gradient in gradients:
        shift = gradient - centre
        total += shift
        squares.append(float(shift.square().sum()))
        along.append(float(shift @ tangent))
        projections.append((vectors @ shift).double().cpu())
    number = len(squares)
    require(number >= 2, "noise_batches", "at least 2", number)
    square, tangential = (torch.tensor(values, dtype=torch.float64) for values in (squares, along))
    drift = float((total / number).square().sum())
    trace = _centred(square, drift)
    transverse = _centred(square - tangential.square(), drift - float(tangential.mean()) ** 2)
    projected = torch.stack(projections)
    centred = (projected - projected.mean(0)).square()
    return GradientNoise(
        trace, transverse, centred.sum(0) / (number - 1), centred.std(0) * (math.sqrt(number) / (number - 1))
    )


def _centred(squares: Tensor, mean_square: float) -> Estimate:
    number = len(squares)
    value = float(squares.mean()) - mean_square
    return Estimate(value * number / (number - 1), float(squares.std()) * math.sqrt(number) / (number - 1))
