"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016): pre-activation, no dropout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


class PreActivationBlock(nn.Module):
    """Norm, activation and 3x3 convolution, twice, and a shortcut.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the *activated* input, as in the authors'
    code; else it is the input itself.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, normalization: Normalization, activation: Activation
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        bias = normalization == "none"
        self.norm1 = normalization_layer(normalization, channels_in)
        self.conv1 = convolution(channels_in, channels_out, stride=stride, bias=bias)
        self.norm2 = normalization_layer(normalization, channels_out)
        self.conv2 = convolution(channels_out, channels_out, bias=bias)
        self.shortcut = (
            None if channels_in == channels_out else convolution(channels_in, channels_out, 1, stride, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(self.norm1(x))
        out = self.conv2(self.activation(self.norm2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNetModule(nn.Module):
    """A 3x3 stem, three stages at full, half and quarter resolution, norm and activation, mean over pixels, linear."""

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: int,
        width: int,
        factor: int,
        normalization: Normalization,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.stem = convolution(channels, width, bias=normalization == "none")
        stages: list[nn.Module] = []
        channels_in = width
        for stage in range(3):
            channels_out = width * factor * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(PreActivationBlock(channels_in, channels_out, stride, normalization, activation))
                channels_in = channels_out
        self.stages = nn.Sequential(*stages)
        self.norm = normalization_layer(normalization, channels_in)
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.stages(self.stem(x))))
        return self.linear(x.mean(dim=(-2, -1)))


@dataclass(frozen=True)
class WideResNet:
    """WRN-`depth`-`widen_factor` of Zagoruyko & Komodakis, e.g. 16-4 (2.7 million parameters) or 28-10.

    Three stages of n blocks, depth = 6 n + 4, with k, 2 k and 4 k times `width` channels, k the widening factor.
    """

    depth: int = 16
    """Number of layers with weights, 6 n + 4: 10, 16, 22, 28, …"""
    widen_factor: int = 4
    """Channels of the first stage, in units of those of the stem."""
    width: int = 16
    """Channels of the stem; 16 in the paper."""
    normalization: Normalization = "batch"
    """Before every activation; group: 4 groups of channels; layer: all channels and pixels of an image."""
    activation: Activation = "relu"
    """gelu makes the loss smooth: with relu the Hessian jumps wherever a unit switches, and has no derivative."""

    def __post_init__(self) -> None:
        require(self.depth >= 10 and (self.depth - 4) % 6 == 0, "network.depth", "6 n + 4 (10, 16, 22, …)", self.depth)
        require(self.widen_factor >= 1, "network.widen_factor", "a number >= 1", self.widen_factor)
        require_normalization(self.normalization, "batch", "group", "layer", "none")
        require_width("network.width", self.width, self.normalization)
        require_activation(self.activation)

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        kind = phrase(self.normalization, self.activation)
        return f"WRN-{self.depth}-{self.widen_factor} of width {self.width} with {kind}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, height, width) of any size and `classes` outputs.

        Initial values as in `ResNet.build`, from `generator` alone.
        """
        blocks = (self.depth - 4) // 6
        with apart_from_the_global_generator():
            module = WideResNetModule(
                channels, classes, blocks, self.width, self.widen_factor, self.normalization, self.activation
            )
        initialise(module, generator)
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on (for ε = 0 in the normalisation).

        The first convolution of each block, and the stem where everything after it starts with the first block's norm,
        that is where that block's shortcut is a convolution. Second convolutions and shortcuts add up to a residual
        stream: scaling one of them alone changes their proportion.
        """
        if self.normalization == "none":
            return []
        blocks = [(name, m) for name, m in module.named_modules() if isinstance(m, PreActivationBlock)]
        stem = [] if blocks[0][1].shortcut is None else ["stem.weight"]
        return stem + [f"{name}.conv1.weight" for name, _ in blocks]
