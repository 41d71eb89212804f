"""What the families of networks share: normalisation layers, initial values, and the words for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import require

#: batch: each channel over the images of a batch. group: over groups of channels of one image. layer: over all channels
#: of one image (in a transformer, of one token). none: no normalisation, and the linear maps have biases.
Normalization = Literal["batch", "group", "layer", "none"]

#: Groups of channels in `normalization="group"`; widths must be multiples of it.
CHANNEL_GROUPS = 4

#: The kinds of normalisation, as reports and figures write them.
PHRASES = {"batch": "BatchNorm", "group": "GroupNorm", "layer": "LayerNorm", "none": "no normalisation"}

#: relu: with kinks, the Hessian jumps wherever a unit switches. gelu: smooth.
Activation = Literal["relu", "gelu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def phrase(normalization: str, activation: str = "relu") -> str:
    """Normalisation and activation as reports and figures write them."""
    return PHRASES[normalization] + ("" if activation == "relu" else f" and {activation.upper()}")


def normalization_layer(kind: Normalization, channels: int, *, spatial: bool = True) -> nn.Module:
    """Normalise `channels` features, dimension 1 of (N, channels, H, W), or of (N, channels) if not `spatial`.

    For convolutions "layer" is GroupNorm of one group (Wu & He, ECCV 2018): mean and variance of a sample over all its
    channels and pixels, scale and shift for each channel.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(CHANNEL_GROUPS if kind == "group" else 1, channels)


def require_normalization(kind: str, *allowed: str) -> None:
    """Raise UserError unless `kind` is one of `allowed`."""
    require(kind in allowed, "network.normalization", f"{', '.join(allowed[:-1])} or {allowed[-1]}", kind)


def require_activation(kind: str) -> None:
    """Raise UserError unless `kind` is one of `ACTIVATIONS`."""
    require(kind in ACTIVATIONS, "network.activation", " or ".join(ACTIVATIONS), kind)


def require_width(option: str, width: int, kind: str) -> None:
    """Raise UserError unless `width` channels can be normalised in the way `kind`."""
    multiple = CHANNEL_GROUPS if kind == "group" else 1
    expected = "a number >= 1" if multiple == 1 else f"a positive multiple of {multiple}"
    require(width >= 1 and width % multiple == 0, option, expected, width)


def convolution(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, *, bias: bool) -> nn.Conv2d:
    """A convolution that keeps height and width, but for its stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias)


@contextmanager
def apart_from_the_global_generator() -> Iterator[None]:
    """Torch's layers draw initial values from the global generator when made; leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


@torch.no_grad()
def initialise(
    module: nn.Module,
    generator: torch.Generator | None,
    hidden: Callable[[Tensor, torch.Generator], None] | None = None,
) -> None:
    """Initial values of convolutions and linear maps, all from `generator` (default: a fresh one, seed 0).

    Convolutions: normal of variance 2/fan_out (He et al., ICCV 2015), biases 0. `module.linear`, the last map:
    uniform in ±1/√fan_in, the bias too. Other linear maps: weights by `hidden`, biases 0. Norms are left as torch
    makes them, weights 1 and biases 0.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    for m in module.modules():
        if m is module.linear and isinstance(m, nn.Linear):
            bound = m.in_features**-0.5
            m.weight.uniform_(-bound, bound, generator=generator)
            m.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(m, (nn.Conv2d, nn.Linear)):
            if isinstance(m, nn.Linear) and hidden is not None:
                hidden(m.weight, generator)
            else:
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if m.bias is not None:
                m.bias.zero_()
