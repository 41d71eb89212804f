"""CIFAR-style residual networks (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import require

Normalization = Literal["batch", "group", "none"]

#: Groups of channels in `normalization="group"`; the width must be a multiple.
CHANNEL_GROUPS = 4


def _normalization(kind: Normalization, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(CHANNEL_GROUPS, channels)
    return nn.Identity()


def _convolution(channels_in: int, channels_out: int, stride: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A: stride, then zero channels on both sides)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, normalization: Normalization) -> None:
        super().__init__()
        bias = normalization == "none"
        self.conv1 = _convolution(channels_in, channels_out, stride, bias)
        self.norm1 = _normalization(normalization, channels_out)
        self.conv2 = _convolution(channels_out, channels_out, 1, bias)
        self.norm2 = _normalization(normalization, channels_out)
        self.stride, self.padding = stride, (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.padding:
            x = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNetModule(nn.Module):
    """A 3x3 stem, three stages of blocks at full, half and quarter resolution, the mean over pixels, one linear map."""

    def __init__(self, channels: int, classes: int, blocks: int, width: int, normalization: Normalization) -> None:
        super().__init__()
        self.stem = _convolution(channels, width, 1, normalization == "none")
        self.stem_norm = _normalization(normalization, width)
        stages: list[nn.Module] = []
        channels_in = width
        for stage in range(3):
            channels_out = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(Block(channels_in, channels_out, stride, normalization))
                channels_in = channels_out
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        return self.linear(self.stages(x).mean(dim=(-2, -1)))


@dataclass(frozen=True)
class ResNet:
    """ResNet-`depth` with `width`, 2 `width` and 4 `width` channels, depth = 6 n + 2 with n blocks in each stage.

    normalization: "batch", "group" (4 groups of channels) or "none" (then the convolutions have biases).
    """

    depth: int = 8
    width: int = 8
    normalization: Normalization = "batch"

    def __post_init__(self) -> None:
        require(
            self.depth >= 8 and (self.depth - 2) % 6 == 0,
            "network.depth",
            "6 n + 2 (8, 14, 20, …)",
            self.depth,
        )
        require(
            self.normalization in ("batch", "group", "none"),
            "network.normalization",
            "batch, group or none",
            self.normalization,
        )
        multiple = CHANNEL_GROUPS if self.normalization == "group" else 2
        require(
            self.width >= 2 and self.width % multiple == 0,
            "network.width",
            f"a positive multiple of {multiple}",
            self.width,
        )

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        norm = {"batch": "BatchNorm", "group": "GroupNorm", "none": "no normalisation"}[self.normalization]
        return f"ResNet-{self.depth} of width {self.width} with {norm}"

    def build(self, channels: int, classes: int, generator: torch.Generator | None = None) -> nn.Module:
        """The module for inputs (batch, channels, height, width) and `classes` outputs.

        Convolutions: normal of variance 2/fan_out (He et al., ICCV 2015); linear map: uniform in ±1/√fan_in; norms:
        weight 1, bias 0. All drawn from `generator` (default: a fresh one, seed 0), never from the global one.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        with torch.random.fork_rng(devices=[]):
            module = ResNetModule(channels, classes, (self.depth - 2) // 6, self.width, self.normalization)
        with torch.no_grad():
            for m in module.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                    if m.bias is not None:
                        m.bias.zero_()
                elif isinstance(m, nn.Linear):
                    bound = m.in_features**-0.5
                    m.weight.uniform_(-bound, bound, generator=generator)
                    m.bias.uniform_(-bound, bound, generator=generator)
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """Names of the parameters whose scale the output does not depend on: weights of normalised convolutions.

        (Exactly so for ε = 0 in the normalisation.) For each such block H_ww(a w) = H_ww(w)/a², so ‖w‖² Tr H_ww does
        not change when only the norm does.
        """
        if self.normalization == "none":
            return []
        return [f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Conv2d)]
