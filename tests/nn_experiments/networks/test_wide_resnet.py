from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from entropy_sim.errors import UserError
from nn_experiments.networks.wide_resnet import WideResNet, WideResNetModule


def test_parameter_counts():
    # Zagoruyko & Komodakis, tables 4 and 5 and their figures, in millions; 28-10 to the last digit.
    published = {(16, 4): 2.75, (40, 1): 0.6, (40, 2): 2.2, (40, 4): 8.9, (16, 8): 11.0, (22, 8): 17.2, (28, 10): 36.5}
    counts = {}
    for (depth, factor), millions in published.items():
        with torch.device("meta"):
            module = WideResNetModule(3, 10, (depth - 4) // 6, 16, factor, "batch")
        counts[depth, factor] = sum(p.numel() for p in module.parameters())
        assert counts[depth, factor] / 1e6 == pytest.approx(millions, abs=0.051)
    assert counts[16, 4] == 2_748_890
    assert counts[28, 10] == 36_479_194
    assert sum(p.numel() for p in WideResNet().build(3, 10).parameters()) == counts[16, 4]


def test_a_block_is_the_papers_formula():
    module = WideResNet(10, 2, 4, "none").build(1, 3, size=(8, 8)).double()
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = module.stages[1]  # 8 -> 16 channels at half the resolution
    o = F.relu(x)
    residual = F.conv2d(F.relu(F.conv2d(o, block.conv1.weight, None, 2, 1)), block.conv2.weight, None, 1, 1)
    projected = torch.einsum("oi,nihw->nohw", block.shortcut.weight[..., 0, 0], o[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), residual + projected)  # the biases are zero
    block = WideResNet(10, 1, 4, "none").build(1, 3).double().stages[0]
    block.conv2.weight.data.zero_()
    torch.testing.assert_close(block(x[:, :4]), x[:, :4])  # the identity, not its activation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, r"network.depth: expected 6 n \+ 4"),
        ({"depth": 4}, r"network.depth: expected 6 n \+ 4"),
        ({"widen_factor": 0}, "network.widen_factor: expected a number >= 1, found 0"),
        ({"width": 6, "normalization": "group"}, "network.width: expected a positive multiple of 4, found 6"),
        ({"normalization": "x"}, "network.normalization: expected batch, group, layer or none, found 'x'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        WideResNet(**options)
