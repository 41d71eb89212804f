"""A small vision transformer (Dosovitskiy et al., ICLR 2021; mean over tokens as in Beyer et al., arXiv:2205.01580)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError, require
from nn_experiments.networks._layers import (
    PHRASES,
    apart_from_the_global_generator,
    initialise,
    require_normalization,
)

TokenNormalization = Literal["layer", "batch", "none"]


class BatchNormTokens(nn.Module):
    """BatchNorm of each of C features over all tokens and images, on (N, T, C)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def _normalization(kind: TokenNormalization, features: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(features) if kind == "layer" else BatchNormTokens(features)


class Attention(nn.Module):
    """softmax(Q Kᵀ/√d) V in each head, written out: torch's fused kernels have no second derivative.

    Queries, keys and values have no biases (a bias of the keys would change nothing: an exact null direction).
    """

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.projection = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return self.projection((weights @ v).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with GELU: pre-normalised.

    Under BatchNorm what adds the same to all tokens, as a bias does, is taken out again by every norm that follows:
    there are none.
    """

    def __init__(self, width: int, heads: int, hidden: int, normalization: TokenNormalization) -> None:
        super().__init__()
        self.norm1 = _normalization(normalization, width)
        bias = normalization != "batch"
        self.attention = Attention(width, heads, bias)
        self.norm2 = _normalization(normalization, width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class VisionTransformerModule(nn.Module):
    """Linear map of each patch plus its learned position, encoder blocks, norm, mean over tokens, one linear map."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int], network: VisionTransformer) -> None:
        super().__init__()
        self.patch_size, width = network.patch, network.width
        tokens = (size[0] // self.patch_size) * (size[1] // self.patch_size)
        self.patch = nn.Linear(channels * self.patch_size**2, width, bias=network.normalization != "batch")
        self.position = nn.Parameter(torch.zeros(tokens, width))
        hidden = round(network.mlp_ratio * width)
        self.blocks = nn.Sequential(
            *(EncoderBlock(width, network.heads, hidden, network.normalization) for _ in range(network.depth))
        )
        self.norm = _normalization(network.normalization, width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        p = self.patch_size
        patches = x.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        tokens = self.patch(patches.reshape(batch, -1, channels * p * p)) + self.position
        return self.linear(self.norm(self.blocks(tokens)).mean(dim=1))


@dataclass(frozen=True)
class VisionTransformer:
    """A pre-normalised vision transformer with learned positions and the mean over tokens (no class token)."""

    patch: int = 4
    """Height and width of a patch, pixels; must divide those of the images."""
    width: int = 64
    """Features of a token."""
    depth: int = 4
    """Number of encoder blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    mlp_ratio: float = 2.0
    """Hidden units of a block's MLP, in units of the width."""
    normalization: TokenNormalization = "layer"
    """Before attention, MLP and the last map; layer: over the features of each token; batch: over tokens and images."""

    def __post_init__(self) -> None:
        require(self.patch >= 1, "network.patch", "a number >= 1", self.patch)
        require(self.depth >= 1, "network.depth", "a number >= 1", self.depth)
        require(self.heads >= 1, "network.heads", "a number >= 1", self.heads)
        require(
            self.width >= 2 and self.width % self.heads == 0,
            "network.width",
            f"a multiple of the {self.heads} heads, >= 2",
            self.width,
        )
        require(
            1 <= self.mlp_ratio * self.width < 2**31,
            "network.mlp_ratio",
            f"a number >= 1/width = {1 / self.width:.2g}",
            self.mlp_ratio,
        )
        require_normalization(self.normalization, "layer", "batch", "none")

    @property
    def name(self) -> str:
        """One phrase for reports and figures."""
        shape = f"depth {self.depth}, width {self.width}, {self.heads} heads, patch {self.patch}"
        return f"vision transformer ({shape}) with {PHRASES[self.normalization]}"

    def build(
        self, channels: int, classes: int, generator: torch.Generator | None = None, size: tuple[int, ...] = ()
    ) -> nn.Module:
        """The module for inputs (batch, channels, *size), size = (height, width), and `classes` outputs.

        Hidden weights: uniform of variance 2/(fan_in + fan_out) (Glorot & Bengio, AISTATS 2010); positions: normal of
        variance 0.02²; last map: uniform in ±1/√fan_in; all drawn from `generator` (default: a fresh one, seed 0).
        Raises UserError if the patches do not tile the images.
        """
        if len(size) != 2 or any(n < self.patch or n % self.patch for n in size):
            found = f"{self.patch} for images of {'x'.join(map(str, size)) or 'no size'}"
            raise UserError(f"network.patch: expected a divisor of the images' height and width, found {found}")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        with apart_from_the_global_generator():
            module = VisionTransformerModule(channels, classes, (size[0], size[1]), self)
        initialise(module, generator, _glorot)
        with torch.no_grad():
            module.position.normal_(std=0.02, generator=generator)
        return module

    def scale_invariant(self, module: nn.Module) -> list[str]:
        """None: no weight stands directly before a norm, all add to a residual stream or enter a softmax."""
        return []


def _glorot(weight: Tensor, generator: torch.Generator) -> None:
    bound = (6 / sum(weight.shape)) ** 0.5
    weight.uniform_(-bound, bound, generator=generator)
