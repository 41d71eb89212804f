from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from entropy_sim.errors import UserError
from nn_experiments.networks.resnet import ResNet


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("normalization", ["batch", "group", "none"])
def test_shapes(shape, normalization):
    module = ResNet(14, 8, normalization).build(shape[0], 7)
    assert module(torch.randn(4, *shape)).shape == (4, 7)


def test_parameter_counts():
    def count(network: ResNet) -> int:
        return sum(p.numel() for p in network.build(3, 10).parameters())

    assert count(ResNet(20, 16)) == 269_722  # the 0.27 M of He et al., table 6, with option A
    assert count(ResNet(56, 16)) == 853_018  # 0.85 M
    assert count(ResNet(8, 8, "none")) == count(ResNet(8, 8)) - (8 * 3 + 16 * 2 + 32 * 2)  # bias instead of two numbers


def test_a_block_whose_second_convolution_is_zero_is_its_shortcut():
    network = ResNet(8, 4, "none").build(1, 3)
    block = network.stages[1]  # 4 -> 8 channels at half the resolution
    block.conv2.weight.data.zero_()
    x = torch.rand(2, 4, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    torch.testing.assert_close(block(x), expected)


def test_functional_call():
    module = ResNet().build(1, 10).double().train()
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    parameters = {n: p.detach() * 1.1 for n, p in module.named_parameters()}
    functional = torch.func.functional_call(module, parameters, x)
    module.load_state_dict(parameters, strict=False)
    torch.testing.assert_close(functional, module(x))


def test_initialisation_is_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()

    def flat(seed: int) -> torch.Tensor:
        module = ResNet().build(1, 10, torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    torch.testing.assert_close(flat(1), flat(1), rtol=0, atol=0)
    assert (flat(1) - flat(2)).norm() > 1
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("normalization", ["batch", "group", "none"])
def test_scale_invariant_parameters_are_just_those_whose_scale_changes_nothing(normalization):
    network = ResNet(8, 8, normalization)
    g = torch.Generator().manual_seed(2)
    module = network.build(1, 5, g).double().train()
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            p.data.normal_(generator=g)  # at the initial zeros more is invariant
    for m in module.modules():
        if hasattr(m, "eps"):
            m.eps = 1e-30  # exact invariance
    x = torch.randn(8, 1, 8, 8, generator=g, dtype=torch.float64)
    before = module(x).detach()
    found = []
    for name, p in module.named_parameters():
        p.data.mul_(1.7)
        if (module(x) - before).abs().max() < 1e-10:
            found.append(name)
        p.data.div_(1.7)
    assert sorted(network.scale_invariant(module)) == sorted(found)
    assert len(found) == (0 if normalization == "none" else 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 9}, "network.depth: expected 6 n"),
        ({"depth": 2}, "network.depth: expected 6 n"),
        ({"width": 0}, "network.width: expected a positive multiple of 2"),
        ({"width": 6, "normalization": "group"}, "network.width: expected a positive multiple of 4"),
        ({"normalization": "layer"}, "network.normalization: expected batch, group or none"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        ResNet(**options)


def test_gelu_makes_the_gradient_smooth_where_relu_makes_it_jump():
    """Second differences of the outputs along a line: O(h) for a kink in some unit, O(h²) everywhere if smooth."""
    x, h = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1e-4
    largest = {}
    for activation in ("relu", "gelu"):
        module = ResNet(normalization="group", activation=activation).build(1, 3).double()
        theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        along = torch.randn(len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def outputs(shift):
            torch.nn.utils.vector_to_parameters(theta + shift * along, module.parameters())  # noqa: B023
            with torch.no_grad():
                return module(x)  # noqa: B023

        f = torch.stack([outputs(i * h) for i in range(40)])
        largest[activation] = (f[2:] - 2 * f[1:-1] + f[:-2]).abs().max() / h**2
    assert largest["relu"] > 20 * largest["gelu"]
