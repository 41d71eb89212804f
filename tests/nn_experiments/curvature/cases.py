"""Small networks with explicitly built Hessians, in float64."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call

from nn_experiments.objective import Objective, generator

DOUBLE = torch.float64
GROUP = 4


def mlp_objective(samples: int = 12) -> Objective:
    draws = generator(1)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=draws, dtype=DOUBLE) * 0.7)
    x = torch.randn(samples, 3, generator=draws, dtype=DOUBLE)
    y = torch.randint(0, 2, (samples,), generator=draws)
    return Objective(module, nn.functional.cross_entropy, x, y)


class Residual(nn.Module):
    """One residual block with BatchNorm between a stem and a linear map: 111 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.conv1, self.conv2 = (nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.linear(x.mean(dim=(-2, -1)))


def resnet_objective() -> Objective:
    """18 samples of 4 x 4 pixels: four groups of 4 and a ragged rest."""
    draws = generator(2)
    module = Residual().double()
    with torch.no_grad():
        for p in module.parameters():
            scale = 0.4 if p.ndim > 1 else 0.2
            p.copy_(torch.randn(p.shape, generator=draws, dtype=DOUBLE) * scale + (p.ndim == 1))
    x = torch.randn(18, 1, 4, 4, generator=draws, dtype=DOUBLE)
    y = torch.randint(0, 3, (18,), generator=draws)
    return Objective(module, nn.functional.cross_entropy, x, y, group_size=GROUP)


def plain_loss(objective: Objective, theta: torch.Tensor) -> torch.Tensor:
    """The same loss, group after group through torch's own BatchNorm: nothing of `Objective`'s machinery."""
    if objective.group_size is None:
        module, size = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), len(objective.inputs)
    else:
        module, size = Residual(), GROUP
    module.double().train()
    parameters = dict(zip(objective.names, objective.unflatten(theta), strict=True))
    groups = [slice(i, i + size) for i in range(0, len(objective.inputs) - size + 1, size)]
    losses = [
        nn.functional.cross_entropy(functional_call(module, parameters, (objective.inputs[g],)), objective.targets[g])
        for g in groups
    ]
    return torch.stack(losses).mean()


def explicit_hessian(objective: Objective, theta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.hessian(lambda p: plain_loss(objective, p), theta)


class Case:
    def __init__(self, objective: Objective) -> None:
        self.objective, self.theta = objective, objective.theta()
        self.hessian = explicit_hessian(objective, self.theta)
        direction = torch.randn(len(self.theta), generator=generator(3), dtype=DOUBLE)
        self.tangent = direction / direction.norm()

    @property
    def identity_probes(self) -> torch.Tensor:
        """√D e_i: their mean of z zᵀ is exactly 1, so that estimates are exact."""
        return math.sqrt(len(self.theta)) * torch.eye(len(self.theta), dtype=DOUBLE)
