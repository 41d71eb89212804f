"""Spectra by the Lanczos method: both ends with their errors, and the whole density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_sim.errors import require

#: Rows by which the stored basis grows.
_ROWS = 32


@dataclass(frozen=True)
class Spectrum:
    """Ritz approximation of the ends of a spectrum, from m = `steps` Lanczos steps.

    eigenvalues (k,), largest first, their unit vectors eigenvectors (k, D) and residuals ‖H v − λ v‖ (k,);
    min_eigenvalue and min_residual likewise. An eigenvalue of H lies within each residual of its Ritz value.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    min_eigenvalue: float
    min_residual: float
    steps: int


class _Krylov(NamedTuple):
    """Orthonormal basis (m, D) of the Krylov space; eigenvalues (m,), ascending, and eigenvectors (m, m) of the
    operator projected on it; residual of each."""

    basis: Tensor
    values: Tensor
    vectors: Tensor
    residuals: Tensor


def lanczos(
    operator: Callable[[Tensor], Tensor], start: Tensor, steps: int, top: int, tolerance: float = 0.0
) -> Spectrum:
    """Ends of the spectrum of a symmetric `operator` on (D,) by Lanczos with full reorthogonalisation.

    Ends after `steps` steps, or as soon as the `top` largest and the smallest Ritz value each have a residual of at
    most `tolerance` of their own modulus (0: never). Memory: (steps, D). Unlike power iteration, which finds the
    eigenvalue of largest modulus, it gives λ_max and λ_min with their signs. Of a degenerate eigenvalue it finds one,
    unless the start meets fewer than `top` eigenvectors: then it goes on from other vectors, normal to all so far.
    Reference: Golub & Van Loan, Matrix Computations, 4th ed., ch. 10.

    Raises UserError unless 1 <= top <= steps <= D and tolerance >= 0.
    """
    dimension = start.numel()
    require(1 <= steps <= dimension, "lanczos_steps", f"1…{dimension}", steps)
    require(1 <= top <= steps, "eigenvalues", f"1…{steps}", top)
    require(tolerance >= 0, "lanczos_tolerance", "a number >= 0", tolerance)

    def enough(values: Tensor, residuals: Tensor) -> bool:
        if len(values) <= top:
            return False
        asked = [0, *range(len(values) - top, len(values))]
        return bool((residuals[asked] <= tolerance * values[asked].abs()).all())

    found = _krylov(operator, start, steps, enough if tolerance > 0 else None, least=top)
    return Spectrum(
        eigenvalues=found.values[-top:].flip(0),
        eigenvectors=found.vectors[:, -top:].flip(1).T.to(found.basis) @ found.basis,
        residuals=found.residuals[-top:].flip(0),
        min_eigenvalue=float(found.values[0]),
        min_residual=float(found.residuals[0]),
        steps=len(found.values),
    )


def _krylov(
    operator: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    enough: Callable[[Tensor, Tensor], bool] | None = None,
    least: int = 1,
) -> _Krylov:
    """least: vectors to find even if the space of the start is invariant before."""
    dimension = start.numel()
    basis = start.new_empty(min(steps, _ROWS), dimension)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    vector = start / start.norm()
    for j in range(steps):
        if j == len(basis):
            basis = torch.cat([basis, basis.new_empty(min(_ROWS, steps - j), dimension)])
        basis[j] = vector
        vector = operator(basis[j])
        scale = float(vector.norm())
        for _ in range(2):  # once more removes what rounding left of the first pass
            overlap = basis[: j + 1] @ vector
            vector = vector - overlap @ basis[: j + 1]
            projected[: j + 1, j] += overlap.double().cpu()
        rest = float(vector.norm())
        invariant = rest <= 10 * torch.finfo(start.dtype).eps * scale or j + 1 == dimension
        if invariant and j + 1 < least:
            fresh = torch.randn(dimension, generator=torch.Generator().manual_seed(j)).to(start)
            for _ in range(2):
                fresh = fresh - (basis[: j + 1] @ fresh) @ basis[: j + 1]
            vector = fresh / fresh.norm()
            continue
        if invariant or j + 1 == steps or enough is not None:
            values, vectors = _eigen(projected[: j + 1, : j + 1])
            residuals = (0.0 if invariant else rest) * vectors[-1].abs()
            if invariant or j + 1 == steps or (enough is not None and enough(values, residuals)):
                break
        vector = vector / rest
    return _Krylov(basis[: j + 1], values, vectors, residuals)


def _eigen(projected: Tensor) -> tuple[Tensor, Tensor]:
    upper = projected.triu()
    values, vectors = torch.linalg.eigh(upper + upper.triu(1).T)
    return values, vectors


# --- spectral density -----------------------------------------------------------------------------------------------


class Quadrature(NamedTuple):
    """Gauss quadrature of the spectral density, one row for each probe: nodes (K, m) and weights (K, m) of sum 1."""

    nodes: Tensor
    weights: Tensor


def quadrature(operator: Callable[[Tensor], Tensor], probes: Tensor, steps: int) -> Quadrature:
    """Stochastic Lanczos quadrature: ∫ f(λ) φ(λ) dλ = (1/D) Tr f(H) ≈ mean over probes of Σ_i w_i f(λ_i).

    probes (K, D) with E z zᵀ = 1 and equal norms. Each probe's rule is exact for polynomials of degree 2m − 1 in the
    measure it sees, Σ_j (u_j·z)²/‖z‖² δ(λ − λ_j); the mean over probes makes that the spectral density.
    Reference: Golub & Welsch, Math. Comp. 23 (1969) 221; Ubaru, Chen & Saad, SIAM J. Matrix Anal. 38 (2017) 1075.

    Raises UserError unless 1 <= steps <= D.
    """
    dimension = probes.shape[-1]
    require(1 <= steps <= dimension, "spectrum_steps", f"1…{dimension}", steps)
    nodes, weights = torch.zeros(2, len(probes), steps, dtype=torch.float64)
    for k, probe in enumerate(probes):
        found = _krylov(operator, probe, steps)
        nodes[k, : len(found.values)] = found.values
        weights[k, : len(found.values)] = found.vectors[0].square()
    return Quadrature(nodes, weights)


def density(found: Quadrature, eigenvalues: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Spectral density φ (n,) at `eigenvalues` (n,), each node a Gaussian of standard deviation `width`, and its error.

    ∫ φ dλ = 1. The error is that of the mean over probes (nan for one); that of the broadening is not in it.
    """
    distance = (eigenvalues.double()[:, None, None] - found.nodes) / width
    each = (found.weights * torch.exp(-0.5 * distance.square())).sum(-1) / (width * math.sqrt(2 * math.pi))
    return each.mean(1), each.std(1) / math.sqrt(each.shape[1])
