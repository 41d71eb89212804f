"""Statistics of initial values, as z-scores that reject the other usual formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nn_experiments.networks._layers import CHANNEL_GROUPS, normalization_layer
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet

#: Kurtosis of what is drawn.
NORMAL, UNIFORM = 3.0, 1.8


def z(weight: Tensor, variance: float, kurtosis: float) -> float:
    """(sample variance/variance − 1) in standard errors, √((kurtosis − 1)/n), about the known mean of zero."""
    x = weight.detach().double().reshape(-1)
    return float((x.square().mean() / variance - 1) / ((kurtosis - 1) / len(x)) ** 0.5)


def is_drawn_from(weight: Tensor, variance: float, kurtosis: float) -> bool:
    x = weight.detach().double().reshape(-1)
    mean = float(x.mean() / (variance / len(x)) ** 0.5)
    fourth = float(x.pow(4).mean() / x.square().mean().square())
    other = UNIFORM if kurtosis == NORMAL else NORMAL
    assert abs(fourth - kurtosis) < abs(fourth - other)
    return abs(z(weight, variance, kurtosis)) < 3.5 and abs(mean) < 3.5


@pytest.mark.parametrize("network", [ResNet(20, 16), WideResNet(10, 2), VGG(11, 16), ResNet(8, 16, "none")], ids=str)
def test_convolutions_are_normal_of_variance_two_over_fan_out(network):
    module = network.build(3, 10, torch.Generator().manual_seed(1))
    told_apart = 0
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            taps = m.kernel_size[0] ** 2
            assert is_drawn_from(m.weight, 2 / (m.out_channels * taps), NORMAL)
            if m.in_channels != m.out_channels:  # He's other choice, fan_in, and the variance without the 2
                assert abs(z(m.weight, 2 / (m.in_channels * taps), NORMAL)) > 5
                told_apart += 1
            assert abs(z(m.weight, 1 / (m.out_channels * taps), NORMAL)) > 5
            assert m.bias is None or not m.bias.any()
    assert told_apart >= 3


def test_the_last_map_is_uniform_within_one_over_root_fan_in():
    weights = [ResNet(8, 16).build(3, 200).linear, MLP((64,)).build(3, 200).linear]
    weights.append(VisionTransformer().build(3, 200, size=(8, 8)).linear)
    for linear in weights:
        assert linear.in_features == 64
        assert is_drawn_from(linear.weight, 1 / (3 * 64), UNIFORM)
        assert abs(z(linear.weight, 2 / (64 + 200), UNIFORM)) > 5  # Glorot
        assert 0.124 < linear.weight.abs().max() <= 0.125
        assert 0.11 < linear.bias.abs().max() <= 0.125


@pytest.mark.parametrize(("activation", "gain2"), [("relu", 2), ("gelu", 2), ("tanh", 25 / 9), ("linear", 1)])
def test_hidden_weights_of_an_mlp(activation, gain2):
    module = MLP((300, 100), activation).build(50, 10, torch.Generator().manual_seed(1))
    for m, fan_in in ((module.hidden[0], 50), (module.hidden[3], 300)):
        assert is_drawn_from(m.weight, gain2 / fan_in, NORMAL)
        assert not m.bias.any()
        for wrong in {1.0, 2.0, 25 / 9} - {float(gain2)}:
            assert abs(z(m.weight, wrong / fan_in, NORMAL)) > 5
        assert abs(z(m.weight, gain2 / m.out_features, NORMAL)) > 5


def test_hidden_weights_and_positions_of_a_transformer():
    module = VisionTransformer(4, 64, 2, 4, 3.0).build(3, 10, torch.Generator().manual_seed(1), (32, 32))
    for name, m in module.named_modules():
        if isinstance(m, nn.Linear) and name != "linear":
            assert is_drawn_from(m.weight, 2 / (m.in_features + m.out_features), UNIFORM), name
            if m.in_features != m.out_features:
                assert abs(z(m.weight, 1 / m.in_features, UNIFORM)) > 5
            assert m.bias is None or not m.bias.any()
    assert is_drawn_from(module.position, 0.02**2, NORMAL)


def test_layer_is_the_same_for_convolutions_and_units():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, 3, 3, generator=g, dtype=torch.float64)
    layer = normalization_layer("layer", 8).double()
    moments = x.var(dim=(1, 2, 3), correction=0, keepdim=True), x.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(layer(x), (x - moments[1]) / (moments[0] + layer.eps).sqrt())
    flat = normalization_layer("layer", 8, spatial=False).double()
    torch.testing.assert_close(flat(x[..., 0, 0]), nn.functional.layer_norm(x[..., 0, 0], (8,)))
    group = normalization_layer("group", 8).double()
    grouped = x.reshape(5, CHANNEL_GROUPS, -1)
    expected = (grouped - grouped.mean(-1, keepdim=True)) / (
        grouped.var(-1, correction=0, keepdim=True) + group.eps
    ).sqrt()
    torch.testing.assert_close(group(x).reshape(grouped.shape), expected)
