from __future__ import annotations

import pytest
import torch
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.networks.vision_transformer import EncoderBlock, VisionTransformer, VisionTransformerModule


def test_parameter_count_of_vit_b_16():
    """torchvision's 86 567 656, less class token and its position, and the biases of queries, keys and values."""
    with torch.device("meta"):
        module = VisionTransformerModule(3, 1000, (224, 224), VisionTransformer(16, 768, 12, 12, 4.0))
    assert sum(p.numel() for p in module.parameters()) == 86_567_656 - 2 * 768 - 12 * 3 * 768


def test_a_block_is_torchs_own_encoder_layer():
    torch.manual_seed(0)
    ours = EncoderBlock(8, 2, 12, "layer").double()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True).double().train()
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_()
        attention = ours.attention
        parts = [m.weight for m in (attention.query, attention.key, attention.value)]
        theirs.self_attn.in_proj_weight.copy_(torch.cat(parts))
        theirs.self_attn.in_proj_bias.zero_()
        theirs.self_attn.out_proj.load_state_dict(attention.projection.state_dict())
        for name in ("norm1", "norm2", "linear1", "linear2"):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_tokens_are_the_patches_in_their_places():
    module = VisionTransformer(2, 8, 1, 2).build(3, 4, size=(4, 6)).double()
    seen: list[torch.Tensor] = []
    module.patch.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 4, 6)
    before = module(x)
    expected = [x[:, :, i : i + 2, j : j + 2].reshape(2, 12) for i in (0, 2) for j in (0, 2, 4)]
    torch.testing.assert_close(seen[0], torch.stack(expected, dim=1))
    assert module.position.shape == (6, 8)
    # Without positions the order of the patches would not matter.
    exchanged = torch.cat([x[..., 2:], x[..., :2]], dim=-1)
    assert (module(exchanged) - before).abs().max() > 1e-6
    module.position.data.zero_()
    torch.testing.assert_close(module(exchanged), module(x))


@pytest.mark.parametrize("size", [(), (8,), (8, 6), (2, 2), (6, 8)])
def test_images_that_patches_do_not_tile_are_refused(size):
    found = "x".join(map(str, size)) or "no size"
    with pytest.raises(UserError, match=f"network.patch: expected a divisor of .*, found 4 for images of {found}$"):
        VisionTransformer(4).build(1, 3, size=size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "network.patch: expected a number >= 1, found 0"),
        ({"depth": 0}, "network.depth: expected a number >= 1, found 0"),
        ({"heads": 0}, "network.heads: expected a number >= 1, found 0"),
        ({"width": 6}, "network.width: expected a multiple of the 4 heads, >= 2, found 6"),
        ({"mlp_ratio": 0.001}, "network.mlp_ratio: expected a number >= 1/width"),
        ({"mlp_ratio": float("nan")}, "network.mlp_ratio: expected a number >= 1/width"),
        ({"normalization": "group"}, "network.normalization: expected layer, batch or none, found 'group'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        VisionTransformer(**options)
