"""VGG networks for small images (Simonyan & Zisserman, ICLR 2015; one linear map, as is usual for CIFAR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import require
from nn_experiments.networks._layers import (
    Activation,
    Normalization,
    apart_from_the_global_generator,
    convolution,
    initialise,
    normalization_layer,
    phrase,
    require_activation,
    require_normalization,
    require_width,
)

#: Convolutions in each of the five stages (configurations A, B, D and E of the paper).
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

#: Channels of the five stages, in units of the width.
CHANNELS = (1, 2, 4, 8, 8)


class VGGModule(nn.Module):
    """Five stages of 3x3 convolutions, each ended by 2x2 max pooling (see `VGG`); the mean over pixels; linear."""

    def __init__(
        self,
        channels: int,
        classes: int,
        stages: tuple[int, ...],
        width: int,
        normalization: Normalization,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for convolutions, factor in zip(stages, CHANNELS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                layers += [
                    convolution(channels, width * factor, bias=normalization == "none"),
                    normalization_layer(normalization, width * factor),
                    nn.ReLU() if activation == "relu" else nn.GELU(),
                ]
                channels = width * factor
            self.stages.append(nn.Sequential(*layers))
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            x = stage(x)
            last = i == len(self.stages) - 1
            if min(x.shape[-2:]) >= (2 if last else 4):  # on a single pixel a kernel would use its middle weight only
                x = F.max_pool2d(x, 2)
        return self.linear(x.mean(dim=(-2, -1)))


@dataclass(frozen=True)
class VGG:
    """VGG-`depth` (11, 13, 16 or 19) with one linear map instead of three, as is usual for CIFAR.

    Five stages with 1, 2, 4, 8 and 8 times `width` channels, each ended by 2x2 max pooling. Smaller images than
    32x32 leave out the poolings that would leave a single pixel to the convolutions after them (8x8: two of the five).
    """

    depth: Literal[11, 13, 16, 19] = 16
    """Number of layers with weights in the paper (the CIFAR form has two linear maps fewer)."""
    width: int = 64
    """Channels of the first stage; 64 in the paper."""
    normalization: Normalization = "batch"
    """After every convolution; group: 4 groups of channels; layer: all channels and pixels of an image."""
    activation: Activation = "relu"
    """Of all convolutions; gelu leaves only the kinks of the max pooling."""

    def __post_init__(self) -> None:
        require(self.depth in STAGES, "network.depth", "11, 13, 16 or 19", self.depth)
        require_normalization(self.normalization, "batch", "group", "layer", "none")
        require_width("network.width", self.width, self.normalization)
        require_activation(self.activation)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        return f"VGG-{self.depth} of width {self.width} with {phrase(self.normalization, self.activation)}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, height, width) of any size and `classes` outputs.

        Initial values as in `ResNet.build`, from `generator` alone.
        """
        with apart_from_the_global_generator():
            stages = STAGES[self.depth]
            module = VGGModule(channels, classes, stages, self.width, self.normalization, self.activation)
        initialise(module, generator)
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on (for ε = 0): normalised convolutions."""
        if self.normalization == "none":
            return []
        return [f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Conv2d)]
