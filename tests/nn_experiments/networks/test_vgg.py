from __future__ import annotations

import pytest
import torch
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.networks.vgg import STAGES, VGG, VGGModule


def test_parameter_counts():
    # Widely used CIFAR forms have these counts, with a bias in each of the convolutions that BatchNorm makes useless.
    published = {11: 9_231_114, 13: 9_416_010, 16: 14_728_266, 19: 20_040_522}
    for depth, count in published.items():
        with torch.device("meta"):
            module = VGGModule(3, 10, STAGES[depth], 64, "batch")
        biases = sum(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))
        assert sum(p.numel() for p in module.parameters()) + biases == count
        assert sum(isinstance(m, nn.Conv2d) for m in module.modules()) == depth - 3


def pixels(size: int) -> list[int]:
    """Height of the input of each stage, and of what the mean is taken of."""
    module = VGG(11, 4).build(1, 3, size=(size, size)).eval()
    seen: list[int] = []
    for stage in module.stages:
        stage.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[-1]))
    module(torch.randn(1, 1, size, size))
    return seen


def test_poolings_follow_the_size_of_the_images():
    assert pixels(32) == [32, 16, 8, 4, 2]
    assert pixels(64) == [64, 32, 16, 8, 4]
    assert pixels(28) == [28, 14, 7, 3, 3]
    assert pixels(8) == [8, 4, 2, 2, 2]
    assert pixels(1) == [1, 1, 1, 1, 1]


def test_every_weight_of_a_kernel_is_used_on_the_digits():
    module = VGG(11, 4, "batch").build(1, 3, size=(8, 8)).double()
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module(x).square().sum().backward()
    for name, p in module.named_parameters():
        if p.ndim == 4:  # every one of the 3x3 offsets
            assert (p.grad.abs().sum(dim=(0, 1)) > 0).all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 12}, "network.depth: expected 11, 13, 16 or 19, found 12"),
        ({"width": 0}, "network.width: expected a number >= 1, found 0"),
        ({"width": 2, "normalization": "group"}, "network.width: expected a positive multiple of 4, found 2"),
        ({"normalization": "x"}, "network.normalization: expected batch, group, layer or none, found 'x'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        VGG(**options)
