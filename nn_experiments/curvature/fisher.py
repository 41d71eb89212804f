"""Fisher trace by labels drawn from the model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from entropy_sim.errors import require
from nn_experiments.curvature.estimate import Estimate
from nn_experiments.objective import Objective

#: (outputs (n, classes), generator) -> targets drawn from the model's p(y | outputs).
Sampler = Callable[[Tensor, torch.Generator], Tensor]


def categorical(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Class numbers (n,) with probabilities softmax(outputs): the model of cross-entropy."""
    probabilities = F.softmax(outputs.double(), dim=-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(outputs.device)


def gaussian(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Values (n, classes) with mean `outputs` and variance 1: the model of ½ Σ (f − y)²."""
    return outputs + torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)


def fisher_trace(
    objective: Objective,
    theta: Tensor,
    sampler: Sampler,
    draws: int,
    generator: torch.Generator,
    indices: Tensor | None = None,
    *,
    chunk: int = 512,
) -> Estimate:
    """Tr F = (1/N) Σ_i E_{y ~ p(y|f_i)} ‖∇_θ ℓ(f_i, y)‖² from `draws` (>= 2) sets of labels drawn from the model.

    One gradient per draw: with labels drawn independently for n samples the cross terms vanish on average, so
    n E‖(1/n) Σ_i ∇ℓ_i‖² is the mean of E‖∇ℓ_i‖². (With the data's own labels it would be n‖∇L‖², and their empirical
    Fisher another matrix.) In batch-statistics mode f_i depends on its group, as in `GaussNewtonOperator`.
    Reference: Martens, JMLR 21 (2020) 146, section 5.
    """
    require(draws >= 2, "draws", "at least 2 (for a standard error)", draws)
    indices = objective.full_batch() if indices is None else indices
    objective.load(theta)
    total = torch.zeros(draws, dtype=torch.float64)
    for part, share in objective.chunks(indices, chunk):
        with sdpa_kernel(SDPBackend.MATH):
            outputs = objective.forward(objective.inputs[part])
        for k in range(draws):
            loss = objective.loss(outputs, sampler(outputs.detach(), generator))
            gradients = torch.autograd.grad(loss, objective.parameters, retain_graph=True)
            square = torch.stack([g.double().square().sum() for g in gradients]).sum()
            total[k] += share * len(part) * square.cpu()
    return Estimate(float(total.mean()), float(total.std()) / math.sqrt(draws))
