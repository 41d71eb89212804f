"""Covariance of the minibatch gradient, and how it is aligned with the Hessian."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_sim.errors import UserError, require
from nn_experiments.curvature.estimate import Estimate
from nn_experiments.curvature.operators import Operator


@dataclass(frozen=True)
class GradientNoise:
    """Covariance C of the minibatch gradient: Tr C, Tr(Q C), and v_iᵀ C v_i of the given vectors with its error.

    top_share: Σ_i v_iᵀ C v_i / Tr C, the share of the noise in the span of the (orthonormal) vectors. normalized:
    Tr(S C), and hessian: Tr(C H), if S and H were given. squares, forms (n,): ‖g_b − centre‖² and, if H was given,
    (g_b − centre)ᵀ H (g_b − centre) of each batch.
    """

    trace: Estimate
    transverse: Estimate
    eigenvalues: Tensor
    eigenvalue_stderrs: Tensor
    top_share: Estimate
    normalized: Estimate | None
    hessian: Estimate | None
    squares: Tensor
    forms: Tensor | None


def gradient_noise(
    gradients: Iterator[Tensor],
    centre: Tensor,
    tangent: Tensor,
    vectors: Tensor,
    *,
    norms: Tensor | None = None,
    hessian: Operator | None = None,
) -> GradientNoise:
    """Unbiased covariance of independent minibatch gradients (each (D,)), in one pass and O(D) memory.

    C = Σ_b (g_b − ḡ)(g_b − ḡ)ᵀ / (n − 1), of the sampling scheme the gradients were drawn by: batches of B of N
    samples without replacement have the factor (N − B)/(N − 1). `centre` (D,), near the mean, keeps the sums accurate;
    `vectors` (k, D) are unit vectors; `norms` (D,) a diagonal S, `hessian` v → H v (one product for each batch).
    Standard errors to leading order in 1/n.

    C is not the Fisher matrix (see `GaussNewtonOperator`): it is centred, falls as 1/B, and exists for batches under
    batch-statistics BatchNorm, where gradients of single samples do not.

    Raises UserError for fewer than two batches.
    """
    total = torch.zeros_like(centre, dtype=torch.float64)
    squares, along, projections, scaled, forms = [], [], [], [], []
    for gradient in gradients:
        shift = gradient - centre
        total += shift
        squares.append(float(shift.square().sum()))
        along.append(float(shift @ tangent))
        projections.append((vectors @ shift).double().cpu())
        if norms is not None:
            scaled.append(float(norms @ shift.square()))
        if hessian is not None:
            forms.append(float(shift.double() @ hessian(shift).double()))
    number = len(squares)
    require(number >= 2, "noise_batches", "at least 2", number)
    square, tangential = (torch.tensor(values, dtype=torch.float64) for values in (squares, along))
    mean = total / number
    drift = float(mean.square().sum())
    trace = _centred(square, drift)
    transverse = _centred(square - tangential.square(), drift - float(tangential.mean()) ** 2)
    projected = torch.stack(projections)
    centred = (projected - projected.mean(0)).square()
    eigenvalues = centred.sum(0) / (number - 1)
    form = None if hessian is None else torch.tensor(forms, dtype=torch.float64)
    return GradientNoise(
        trace,
        transverse,
        eigenvalues,
        centred.std(0) * (math.sqrt(number) / (number - 1)),
        _ratio(float(eigenvalues.sum()), trace.value, centred.sum(1), square),
        None if norms is None else _centred(torch.tensor(scaled).double(), float(norms.double() @ mean.square())),
        None
        if hessian is None or form is None
        else _centred(form, float(mean @ hessian(mean.to(centre.dtype)).double())),
        square,
        form,
    )


def _centred(squares: Tensor, mean_square: float) -> Estimate:
    number = len(squares)
    value = float(squares.mean()) - mean_square
    return Estimate(value * number / (number - 1), float(squares.std()) * math.sqrt(number) / (number - 1))


def _ratio(above: float, below: float, each_above: Tensor, each_below: Tensor) -> Estimate:
    """above/below with the error of the ratio of the means of two correlated samples, to first order (delta method)."""
    return Estimate(above / below, abs(above / below) * _relative(each_above, each_below))


def _relative(above: Tensor, below: Tensor) -> float:
    """Relative standard error of mean(above)/mean(below)."""
    return float((above / above.mean() - below / below.mean()).std()) / math.sqrt(len(above))


class Alignment(NamedTuple):
    """alignment = Tr(C H) Tr H / (Tr C · Tr H²), with its ingredients Tr H and Tr H², both of the operator's H."""

    alignment: Estimate
    trace: Estimate
    square_trace: Estimate


def alignment(noise: GradientNoise, hessian: Operator, probes: Tensor) -> Alignment:
    """How far the gradient noise follows the Hessian: Tr(C H) Tr H / (Tr C Tr H²).

    1 for C = c H, the case in which entropic forces have the potential ½ c Tr H; Tr(H)²/(D Tr H²), a small number, for
    isotropic noise; above 1 if the noise prefers the stiffest directions even more than H does. (Tr(C H)/Tr C is the
    mean curvature that the noise sees, Tr H²/Tr H that which noise ∝ H would see.) The four traces are each
    estimated without bias, Tr H and Tr H² = E ‖H z‖² from `probes` (K, D) with E z zᵀ = 1; their ratio has a bias of
    order 1/n + 1/K and the standard error of the delta method, correlations included.

    noise: `gradient_noise` with the same `hessian`. Raises UserError for fewer than two probes.
    """
    if noise.hessian is None or noise.forms is None:
        raise UserError("noise: expected one measured with the Hessian, found one without")
    require(len(probes) >= 2, "probes", "at least 2", len(probes))
    images = [hessian(probe).double() for probe in probes]
    forms = torch.stack([probe.double() @ image for probe, image in zip(probes, images, strict=True)]).cpu()
    squares = torch.stack([image.square().sum() for image in images]).cpu()
    trace, square = _mean(forms), _mean(squares)
    value = noise.hessian.value * trace.value / (noise.trace.value * square.value)
    relative = math.hypot(_relative(noise.forms, noise.squares), _relative(forms, squares))
    return Alignment(Estimate(value, abs(value) * relative), trace, square)


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
