"""CIFAR-style residual networks (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import require
from nn_experiments.networks._layers import (
    ACTIVATIONS,
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


class Block(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A: stride, then zero channels on both sides)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        normalization: Normalization,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        bias = normalization == "none"
        self.conv1 = convolution(channels_in, channels_out, stride=stride, bias=bias)
        self.norm1 = normalization_layer(normalization, channels_out)
        self.conv2 = convolution(channels_out, channels_out, bias=bias)
        self.norm2 = normalization_layer(normalization, channels_out)
        new = channels_out - channels_in
        self.stride, self.padding = stride, (new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if any(self.padding):
            x = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
        return self.activation(out + x)


class ResNetModule(nn.Module):
    """A 3x3 stem, three stages of blocks at full, half and quarter resolution, the mean over pixels, one linear map."""

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: int,
        width: int,
        normalization: Normalization,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.stem = convolution(channels, width, bias=normalization == "none")
        self.stem_norm = normalization_layer(normalization, width)
        stages: list[nn.Module] = []
        channels_in = width
        for stage in range(3):
            channels_out = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(Block(channels_in, channels_out, stride, normalization, activation))
                channels_in = channels_out
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem_norm(self.stem(x)))
        return self.linear(self.stages(x).mean(dim=(-2, -1)))


@dataclass(frozen=True)
class ResNet:
    """ResNet-`depth` of He et al. for small images, e.g. 20, 32, 44 or 56 with width 16 for CIFAR.

    Three stages of n blocks, depth = 6 n + 2, with `width`, 2 `width` and 4 `width` channels; shortcuts without
    parameters (option A).
    """

    depth: int = 8
    """Number of layers with weights, 6 n + 2: 8, 14, 20, …"""
    width: int = 8
    """Channels of the first stage; 16 in the paper."""
    normalization: Normalization = "batch"
    """After every convolution; group: 4 groups of channels; layer: all channels and pixels of an image."""
    activation: Activation = "relu"
    """gelu makes the loss smooth: with relu the Hessian jumps wherever a unit switches, and has no derivative."""

    def __post_init__(self) -> None:
        require(
            self.depth >= 8 and (self.depth - 2) % 6 == 0,
            "network.depth",
            "6 n + 2 (8, 14, 20, …)",
            self.depth,
        )
        require_normalization(self.normalization, "batch", "group", "layer", "none")
        require_width("network.width", self.width, self.normalization)
        require_activation(self.activation)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        return f"ResNet-{self.depth} of width {self.width} with {phrase(self.normalization, self.activation)}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, height, width) of any size and `classes` outputs.

        Convolutions: normal of variance 2/fan_out (He et al., ICCV 2015); linear map: uniform in ±1/√fan_in; norms:
        weight 1, bias 0. All drawn from `generator` (default: a fresh one, seed 0), never from the global one.
        """
        with apart_from_the_global_generator():
            blocks = (self.depth - 2) // 6
            module = ResNetModule(channels, classes, blocks, self.width, self.normalization, self.activation)
        initialise(module, generator)
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on: weights of normalised convolutions.

        (Exactly so for ε = 0 in the normalisation.) For each such block H_ww(a w) = H_ww(w)/a², so ‖w‖² Tr H_ww does
        not change when only the norm does.
        """
        if self.normalization == "none":
            return []
        return [f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Conv2d)]
