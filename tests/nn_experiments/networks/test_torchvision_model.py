from __future__ import annotations

import json
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from entropy_sim.errors import UserError
from entropy_sim.run_files import from_jsonable, to_jsonable
from nn_experiments.experiment import Experiment
from nn_experiments.networks.torchvision_model import DifferentiableHardsigmoid, Torchvision
from nn_experiments.objective import Objective

SIZE = (32, 32)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective_of(model: str) -> Objective:
    module = Torchvision(model).build(3, 5, generator(0), SIZE).double()
    x = torch.randn(8, 3, *SIZE, generator=generator(1), dtype=torch.float64)
    return Objective(module, F.cross_entropy, x, torch.arange(8) % 5, group_size=4)


def check_second_derivative(objective: Objective) -> None:
    """A Hessian-vector product against a difference of gradients."""
    theta, indices = objective.theta(), objective.full_batch()
    v = torch.randn(len(theta), generator=generator(2), dtype=torch.float64)
    v /= v.norm()
    objective.load(theta)
    gradients = torch.autograd.grad(objective.loss_at(indices), objective.parameters, create_graph=True)
    slope = torch.cat([g.reshape(-1) for g in gradients]) @ v
    product = torch.cat([h.reshape(-1) for h in torch.autograd.grad(slope, objective.parameters)])
    h = 1e-6
    ahead, behind = (objective.value_and_gradient(theta + s * v, indices)[1].clone() for s in (h, -h))
    assert (product - (ahead - behind) / (2 * h)).norm() < 1e-4 * product.norm()
    assert product.norm() > 1e-6


def test_values_are_torchvisions_own():
    """The same numbers as torchvision makes from the same stream, and published parameter counts."""
    g = generator(3)
    seed = int(torch.randint(2**62, (), generator=g))
    ours = Torchvision("squeezenet1_1").build(3, 1000, generator(3), (64, 64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = torchvision.models.squeezenet1_1(weights=None)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[name])
    assert sum(p.numel() for p in ours.parameters()) == 1_235_496
    assert sum(p.numel() for p in Torchvision().build(3, 1000, None, SIZE).parameters()) == 11_689_512


def test_initial_values_come_from_the_generator_alone():
    def flat(seed: int) -> Tensor:
        module = Torchvision("squeezenet1_1").build(1, 5, generator(seed), SIZE)
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = flat(1)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, flat(1))
    assert (first - flat(2)).norm() > 1


@pytest.mark.parametrize("channels", [1, 5])
def test_the_first_convolution_takes_any_number_of_channels(channels):
    module = Torchvision().build(channels, 4, generator(0), SIZE).eval()
    first = module.model.conv1
    assert (first.in_channels, first.kernel_size, first.stride, first.padding) == (channels, (7, 7), (2, 2), (3, 3))
    assert first.bias is None
    # He's variance for ResNet-18, 2/fan_out with 3 channels in, times 3/channels: outputs vary as they did.
    variance = 2 / (64 * 49) * 3 / channels
    found = float(first.weight.detach().square().mean())
    error = (2 / first.weight.numel() + 2 / 9408) ** 0.5  # the new weights' and, in their width, the original's
    assert abs(found / variance - 1) < 3 * error
    assert abs(found / (variance * channels / 3) - 1) > 5 * error  # not rescaled
    assert module(torch.randn(2, channels, *SIZE)).shape == (2, 4)


def test_batch_statistics_and_sets_of_parameters_side_by_side():
    objective = objective_of("mnasnet0_5")
    together = objective.forward(objective.inputs).detach()
    alone = torch.cat([objective.forward(objective.inputs[i : i + 4]).detach() for i in (0, 4)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)  # a single pixel and four images: ill-conditioned
    theta = objective.theta()
    sets = torch.stack([theta, 1.01 * theta])

    def outputs(theta: Tensor) -> Tensor:
        parameters = dict(zip(objective.names, objective.unflatten(theta), strict=True))
        return torch.func.functional_call(objective.module, parameters, (objective.inputs[:4],))

    found = torch.func.vmap(outputs)(sets)
    torch.testing.assert_close(found, torch.stack([outputs(theta), outputs(1.01 * theta)]), rtol=1e-6, atol=1e-6)


def test_curvature():
    check_second_derivative(objective_of("squeezenet1_1"))


def test_scale_invariant_parameters_of_a_resnet_18():
    """Structure: the stem, first convolutions and, in torchvision's post-activation blocks, all others stand before a
    BatchNorm."""
    network = Torchvision()
    module = network.build(1, 5, generator(0), SIZE)
    expected = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(network.scale_invariant(module)) == expected
    assert len(expected) == 20
    assert Torchvision("squeezenet1_1").scale_invariant(Torchvision("squeezenet1_1").build(3, 5, None, SIZE)) == []


def test_hardsigmoid_is_torchs_with_a_second_derivative():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    ours = DifferentiableHardsigmoid()(x)
    torch.testing.assert_close(ours, F.hardsigmoid(x))
    (gradient,) = torch.autograd.grad(ours.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, torch.where(x.abs() < 3, 2 / 36, 0.0).double())
    model = Torchvision("mobilenet_v3_small").build(3, 2, None, SIZE)
    assert any(isinstance(m, DifferentiableHardsigmoid) for m in model.modules())
    assert not any(isinstance(m, nn.Hardsigmoid) or getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["swin_t", "vit_b_32", "densenet121", "mobilenet_v3_small", "regnet_y_400mf"])
def test_second_derivatives_of_other_families(model):
    check_second_derivative(objective_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["convnext_tiny", "densenet121", "googlenet", "mobilenet_v3_small"])
def test_scale_invariant_parameters_of_other_families(model):
    """Every tenth parameter at generic values: doubling it changes nothing, changing its entries apart does. (A bias
    that only reaches the next BatchNorm has no effect at all, and is not meant.)"""
    network, g = Torchvision(model), generator(1)
    module = network.build(3, 5, generator(0), SIZE).double()
    named = network.scale_invariant(module)
    for m in module.modules():
        if hasattr(m, "eps"):
            m.eps = 1e-14
        m.train(isinstance(m, nn.BatchNorm2d))
    x = torch.randn(8, 3, *SIZE, generator=g, dtype=torch.float64)
    found, looked_at = [], [n for n, _ in module.named_parameters()][::10]
    with torch.no_grad():
        for p in module.parameters():
            scale = float(p.square().mean().sqrt())
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64), alpha=0.3 * scale or 0.1)
        before = module(x)
        for name in looked_at:
            p = module.get_parameter(name)
            own = p.clone()
            changes = []
            for value in (2 * own, own * (1 + 0.1 * torch.rand(p.shape, generator=g, dtype=torch.float64))):
                p.copy_(value)
                changes.append(float((module(x) - before).abs().max() / before.abs().max()))
            p.copy_(own)
            if changes[0] < 1e-8 < changes[1]:
                found.append(name)
    assert found == [n for n in looked_at if n in named]


def test_configuration():
    experiment = Experiment(network=Torchvision("squeezenet1_1"))
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    assert from_jsonable(Experiment, json.loads(json.dumps(to_jsonable(experiment)))) == experiment
    assert "torchvision's squeezenet1_1 on" in experiment.system


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet19", r"^network\.model: expected (resnet\d+ or ){2}resnet\d+, found 'resnet19'$"),
        ("VGG11", "expected vgg11 or"),
        ("fasterrcnn_resnet50_fpn", "network.model: expected "),  # no classification
        ("?", "network.model: expected a classification model of torchvision, found '\\?'$"),
    ],
)
def test_unknown_names(model, message):
    with pytest.raises(UserError, match=message):
        Torchvision(model)


def test_images_of_a_wrong_size_are_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"expected one that takes 1 channels and images of 8x8, found alexnet \(.*small\)$"
    ):
        Torchvision("alexnet").build(1, 10, None, (8, 8))


def test_torchvision_is_imported_only_when_asked_for(monkeypatch):
    def absent():
        raise UserError("no torchvision")

    monkeypatch.setattr("nn_experiments.networks.torchvision_model._models", absent)
    Torchvision()
    with pytest.raises(UserError, match="no torchvision"):
        Torchvision("resnet34")
