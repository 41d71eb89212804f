from __future__ import annotations

import pytest
import torch
from torch import nn

from nn_experiments.networks._attention import differentiable_attention


def second_derivative(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(layer(x).pow(3).sum(), parameters, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in gradients), parameters[0])[0]


def test_torchs_own_attention_gets_a_second_derivative():
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, dtype=torch.float64).eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="not implemented"):  # once torch can, `differentiable_attention` can go
        second_derivative(layer, x)
    with differentiable_attention():
        found = second_derivative(layer, x)
    assert found.isfinite().all()
    assert found.abs().max() > 0


@pytest.mark.parametrize("fast", [True, False])
def test_the_settings_are_put_back_also_after_an_error(fast):
    usual = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        before = torch.backends.cuda.flash_sdp_enabled()
        with pytest.raises(KeyError), differentiable_attention():  # noqa: PT012
            assert not torch.backends.mha.get_fastpath_enabled()
            assert not torch.backends.cuda.flash_sdp_enabled()
            raise KeyError
        assert torch.backends.mha.get_fastpath_enabled() == fast
        assert torch.backends.cuda.flash_sdp_enabled() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(usual)
