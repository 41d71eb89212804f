"""Fully connected networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from entropy_sim.errors import require
from nn_experiments.networks._layers import (
    PHRASES,
    apart_from_the_global_generator,
    initialise,
    normalization_layer,
    require_normalization,
)

Activation = Literal["relu", "tanh", "gelu", "linear"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "linear": nn.Identity}

#: Gains g of the initial weights, variance g²/fan_in; GELU as ReLU.
_GAINS = {"relu": 2**0.5, "tanh": 5 / 3, "gelu": 2**0.5, "linear": 1.0}


class MLPModule(nn.Module):
    """Flatten, then linear map, norm and activation for each hidden width, then one linear map."""

    def __init__(
        self,
        features: int,
        classes: int,
        widths: tuple[int, ...],
        activation: Activation,
        normalization: Literal["batch", "layer", "none"],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [
                nn.Linear(features, width, bias=normalization == "none"),
                normalization_layer(normalization, width, spatial=False),
                _ACTIVATIONS[activation](),
            ]
            features = width
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.hidden(x.flatten(1)))


@dataclass(frozen=True)
class MLP:
    """A fully connected network on the flattened input; no `widths`: one linear map; linear activation: a deep linear
    network."""

    widths: tuple[int, ...] = (64, 64)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    """Of the hidden layers; tanh, gelu and linear make the loss smooth."""
    normalization: Literal["batch", "layer", "none"] = "none"
    """Before every activation; layer: over all units of the layer."""

    def __post_init__(self) -> None:
        for width in self.widths:
            require(width >= 1, "network.widths", "numbers >= 1", width)
        require(self.activation in _ACTIVATIONS, "network.activation", "relu, tanh, gelu or linear", self.activation)
        require_normalization(self.normalization, "batch", "layer", "none")
        if self.normalization == "layer":  # a single unit minus its mean is always 0
            require(1 not in self.widths, "network.widths", "numbers >= 2 with normalization layer", 1)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        widths = "-".join(map(str, self.widths)) or "no hidden"
        return f"MLP with {widths} {self.activation} units and {PHRASES[self.normalization]}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, *size) and `classes` outputs; `size` is () for inputs of features.

        Hidden weights: normal of variance g²/fan_in, g² = 2 for relu and gelu, 25/9 for tanh, 1 for linear; the last
        map uniform in ±1/√fan_in. All drawn from `generator` (default: a fresh one, seed 0).
        """
        features = channels * math.prod(size)
        with apart_from_the_global_generator():
            module = MLPModule(features, classes, self.widths, self.activation, self.normalization)
        initialise(module, generator, partial(_fan_in_normal, gain=_GAINS[self.activation]))
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on (for ε = 0): normalised hidden weights."""
        if self.normalization == "none":
            return []
        return [f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Linear) and n != "linear"]


def _fan_in_normal(weight: Tensor, generator: torch.Generator, gain: float) -> None:
    weight.normal_(std=gain * weight.shape[1] ** -0.5, generator=generator)
