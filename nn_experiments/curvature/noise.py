"""Covariance of the minibatch gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from entropy_sim.errors import require
from nn_experiments.curvature.estimate import Estimate


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
