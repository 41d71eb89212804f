from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from entropy_sim.errors import UserError
from nn_experiments.networks.resnet import ResNet


def test_parameter_counts():
    def count(network: ResNet) -> int:
        return sum(p.numel() for p in network.build(3, 10).parameters())

    # He et al., table 6, in millions; with option A, the shortcuts add nothing.
    published = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    for depth, millions in published.items():
        layers = (depth - 2) // 3  # convolutions of a stage; the first of two stages has half as many channels in
        by_hand = 27 * 16 + 9 * layers * (16**2 + 32**2 + 64**2) - 9 * (16 * 32 + 32 * 64)
        by_hand += 2 * (16 + layers * (16 + 32 + 64)) + 65 * 10
        assert count(ResNet(depth, 16)) == by_hand
        assert by_hand / 1e6 == pytest.approx(millions, abs=0.03 if depth == 110 else 0.005)
    assert count(ResNet(20, 16)) == 269_722
    assert count(ResNet(32, 16)) == 464_154
    assert count(ResNet(56, 16)) == 853_018
    assert count(ResNet(8, 8, "group")) == count(ResNet(8, 8, "layer")) == count(ResNet(8, 8))
    assert count(ResNet(8, 8, "none")) == count(ResNet(8, 8)) - (8 * 3 + 16 * 2 + 32 * 2)  # bias instead of two numbers


def test_a_block_whose_second_convolution_is_zero_is_its_shortcut():
    network = ResNet(8, 4, "none").build(1, 3)
    block = network.stages[1]  # 4 -> 8 channels at half the resolution
    block.conv2.weight.data.zero_()
    x = torch.rand(2, 4, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    torch.testing.assert_close(block(x), expected)


def test_odd_widths_have_their_zero_channels_too():
    network = ResNet(8, 3, "none").build(1, 3)
    block = network.stages[1]  # 3 -> 6 channels: one zero channel before, two behind
    block.conv2.weight.data.zero_()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(block(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))
    assert ResNet(8, 1).build(1, 3)(torch.rand(4, 1, 8, 8)).shape == (4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 9}, "network.depth: expected 6 n"),
        ({"depth": 2}, "network.depth: expected 6 n"),
        ({"width": 0}, "network.width: expected a number >= 1"),
        ({"width": 6, "normalization": "group"}, "network.width: expected a positive multiple of 4"),
        ({"normalization": "instance"}, "network.normalization: expected batch, group, layer or none"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        ResNet(**options)
