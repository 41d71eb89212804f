from __future__ import annotations

import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.networks.mlp import MLP


def test_the_formula():
    module = MLP((5, 4), "tanh").build(2, 3, size=(3,)).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second, last = module.hidden[0], module.hidden[3], module.linear
    h = torch.tanh(x.reshape(7, 6) @ first.weight.T + first.bias)
    h = torch.tanh(h @ second.weight.T + second.bias)
    torch.testing.assert_close(module(x), h @ last.weight.T + last.bias)


def test_a_linear_network_is_the_product_of_its_matrices():
    module = MLP((5, 4), "linear").build(6, 3).double()
    product = module.linear.weight @ module.hidden[3].weight @ module.hidden[0].weight
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x) - module(0 * x), x @ product.T)


def test_no_hidden_layer_is_a_linear_map():
    module = MLP(()).build(6, 3)
    assert [tuple(p.shape) for p in module.parameters()] == [(3, 6), (3,)]
    assert "no hidden" in MLP(()).name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 0)}, "network.widths: expected numbers >= 1, found 0"),
        (
            {"widths": (4, 1), "normalization": "layer"},
            "network.widths: expected numbers >= 2 with normalization layer",
        ),
        ({"activation": "relu6"}, "network.activation: expected relu, tanh, gelu or linear, found 'relu6'"),
        ({"normalization": "group"}, "network.normalization: expected batch, layer or none, found 'group'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        MLP(**options)
