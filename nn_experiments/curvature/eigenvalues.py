"""Ends of a spectrum by the Lanczos method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from entropy_sim.errors import require


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
