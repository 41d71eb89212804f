"""What every family of networks must do, with every normalisation."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.run_files import from_jsonable, to_jsonable
from nn_experiments.datasets import Digits
from nn_experiments.experiment import AnyNetwork, Experiment
from nn_experiments.networks._scale_invariance import scale_invariant_parameters
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.objective import Objective, batch_norms
from nn_experiments.train import Training

KINDS = ("batch", "group", "layer", "none")
FAMILIES: list[AnyNetwork] = [
    *(ResNet(8, 4, kind) for kind in KINDS),
    *(WideResNet(10, 2, 4, kind) for kind in KINDS),
    WideResNet(10, 1, 4, "group"),
    ResNet(8, 4, "group", "gelu"),
    WideResNet(10, 2, 4, "group", "gelu"),
    VGG(11, 4, "group", "gelu"),
    *(VGG(11, 4, kind) for kind in KINDS),
    *(VisionTransformer(4, 8, 2, 2, 1.5, kind) for kind in ("layer", "batch", "none")),
    *(MLP((8, 6), activation, "none") for activation in ("relu", "tanh", "gelu", "linear")),
    *(MLP((8, 6), "gelu", kind) for kind in ("batch", "layer")),
]
SIZE, CLASSES = (8, 8), 5


def ids(network: AnyNetwork) -> str:
    kind = getattr(network, "normalization", "")
    return f"{type(network).__name__}-{kind}-{getattr(network, 'activation', '')}".strip("-")


every_family = pytest.mark.parametrize("network", FAMILIES, ids=ids)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int = 9) -> Tensor:
    return torch.randn(count, 1, *SIZE, generator=generator(seed), dtype=torch.float64)


def generic(network: AnyNetwork, seed: int = 0) -> nn.Module:
    """In float64, with parameters that have no special values: at zero biases more is invariant than elsewhere."""
    module = network.build(1, CLASSES, generator(seed), SIZE).double()
    g = generator(seed + 1)
    for p in module.parameters():
        p.data.add_(torch.randn(p.shape, generator=g, dtype=torch.float64), alpha=0.1)
    return module


def objective_of(network: AnyNetwork, samples: int = 8) -> Objective:
    targets = torch.randint(CLASSES, (samples,), generator=generator(4))
    return Objective(generic(network), F.cross_entropy, images(samples), targets, group_size=4)


@every_family
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_shapes(network, shape):
    module = network.build(shape[0], 7, generator(0), shape[1:]).eval()
    with torch.no_grad():
        outputs = module(torch.randn(2, *shape, generator=generator(1)))
    assert outputs.shape == (2, 7)
    assert outputs.isfinite().all()
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4  # the image matters


@every_family
def test_initial_values_come_from_the_generator_alone(network):
    def flat(seed: int) -> Tensor:
        module = network.build(1, CLASSES, generator(seed), SIZE)
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = flat(1)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first, flat(1))
    assert (first - flat(2)).norm() > 1
    default = torch.cat([p.detach().reshape(-1) for p in network.build(1, CLASSES, size=SIZE).parameters()])
    assert torch.equal(default, flat(0))


@every_family
def test_configurations_go_to_files_and_processes(network):
    experiment = Experiment(network=network)
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    assert from_jsonable(Experiment, json.loads(json.dumps(to_jsonable(experiment)))) == experiment
    assert network.name in experiment.system


def test_names_tell_networks_apart():
    assert len({network.name for network in FAMILIES}) == len(FAMILIES)


@every_family
def test_parameter_sets_side_by_side_are_those_one_after_the_other(network):
    """functional_call under vmap, with batch statistics in groups, against plain calls of a loaded module."""
    objective = objective_of(network)
    sets = torch.stack([objective.theta(), objective.theta() * 1.1])
    expected = []
    for theta in sets:
        objective.load(theta)
        expected.append(objective.module(objective.inputs[:4]).detach())

    def outputs(theta: Tensor) -> Tensor:
        parameters = dict(zip(objective.names, objective.unflatten(theta), strict=True))
        return torch.func.functional_call(objective.module, parameters, (objective.inputs[:4],))

    found = torch.func.vmap(outputs)(sets)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    assert (found[0] - found[1]).abs().max() > 1e-3


@every_family
def test_samples_normalised_in_groups_are_as_each_group_alone(network):
    objective = objective_of(network, 12)
    together = objective.forward(objective.inputs)
    alone = torch.cat([objective.forward(objective.inputs[i : i + 4]) for i in (0, 4, 8)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    if batch_norms(objective.module):  # groups of other members are another function
        assert (objective.forward(objective.inputs.roll(1, 0)).roll(-1, 0) - together).abs().max() > 1e-3


@every_family
def test_hessian_vector_products_are_differences_of_gradients(network):
    objective = objective_of(network)
    theta, indices = objective.theta(), objective.full_batch()
    direction = torch.randn(len(theta), generator=generator(3), dtype=torch.float64)
    direction /= direction.norm()
    objective.load(theta)
    gradients = torch.autograd.grad(objective.loss_at(indices), objective.parameters, create_graph=True)
    slope = torch.cat([g.reshape(-1) for g in gradients]) @ direction
    product = torch.cat([h.reshape(-1) for h in torch.autograd.grad(slope, objective.parameters)])
    step = 1e-6
    ahead, behind = (objective.value_and_gradient(theta + s * direction, indices)[1].clone() for s in (step, -step))
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5 * float(product.norm()))
    assert product.norm() > 1e-3


def invariant_by_scaling(module: nn.Module, x: Tensor) -> list[str]:
    """Names of the parameters that, doubled, leave the outputs as they are, but not when their entries change apart."""
    module.train()
    for m in module.modules():
        if hasattr(m, "eps"):
            m.eps = 1e-14
    with torch.no_grad():
        before, found = module(x), []
        for name, p in module.named_parameters():
            own = p.detach().clone()
            change = (module_at(module, x, p, 2 * own) - before).abs().max()
            apart = (module_at(module, x, p, own * (1 + 0.1 * torch.rand_like(own))) - before).abs().max()
            assert apart > 1e-6, f"{name} has no effect"
            assert change < 1e-9 or change > 1e-5, f"{name}: neither invariant nor not, {change:.1e}"
            if change < 1e-9:
                found.append(name)
            p.copy_(own)
    return found


def module_at(module: nn.Module, x: Tensor, parameter: nn.Parameter, value: Tensor) -> Tensor:
    parameter.copy_(value)
    return module(x)


@every_family
def test_scale_invariant_parameters_are_just_those_whose_scale_changes_nothing(network):
    module, x = generic(network), images(16)
    named = network.scale_invariant(module)
    assert sorted(named) == sorted(scale_invariant_parameters(module, x))
    assert sorted(named) == sorted(invariant_by_scaling(module, x))
    # The stem of a Wide ResNet counts only where no shortcut passes it by; VGG-11 has 8 convolutions, VGG-16 has 13.
    if network.normalization == "none" or isinstance(network, VisionTransformer):
        count = 0
    elif isinstance(network, WideResNet):
        count = (network.depth - 4) // 2 + (network.widen_factor > 1)
    else:
        count = (
            len(network.widths)
            if isinstance(network, MLP)
            else network.depth - (1 if isinstance(network, ResNet) else 3)
        )
    assert len(named) == count


@pytest.mark.parametrize(
    "network",
    [
        ResNet(8, 4, "batch"),
        WideResNet(10, 2, 4, "group"),
        VGG(11, 4, "layer"),
        VGG(11, 4, "none"),
        VisionTransformer(4, 8, 2, 2, 1.5, "layer"),
        VisionTransformer(4, 8, 2, 2, 1.5, "none"),
        MLP((8, 6), "tanh", "none"),
        MLP((8, 6), "gelu", "batch"),
    ],
    ids=ids,
)
def test_a_few_steps_of_training_lower_the_loss(network):
    # From 2.3, the loss of guessing. Convolutions without norms begin with small outputs and gradients.
    rate = 0.02 if network.normalization != "none" else 0.2 if isinstance(network, VGG) else 0.05
    trained = Training(epochs=2, batch_size=32, learning_rate=rate).run(
        Experiment(Digits(test_fraction=0.6), network), seed=0, progress=False
    )
    assert trained.epoch_loss[-1] < trained.epoch_loss[0]
    assert trained.train.loss < 2.15
    assert trained.train.error < 0.8


@pytest.mark.parametrize(
    ("kinked", "smooth"),
    [
        (ResNet(normalization="group"), ResNet(normalization="group", activation="gelu")),
        (WideResNet(10, 2, 4, "group"), WideResNet(10, 2, 4, "group", "gelu")),
        (MLP(activation="relu"), MLP(activation="gelu")),
        (MLP(activation="relu"), MLP(activation="tanh")),
    ],
    ids=ids,
)
def test_gelu_and_tanh_make_the_gradient_smooth_where_relu_makes_it_jump(kinked, smooth):
    """Second differences of the outputs along a line: O(h) for a kink in some unit, O(h²) everywhere if smooth."""
    x, h, largest = images(16, 0), 1e-4, []
    for network in (kinked, smooth):
        module = network.build(1, 3, size=SIZE).double()
        theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        along = torch.randn(len(theta), generator=generator(1), dtype=torch.float64)
        f = []
        for i in range(40):
            torch.nn.utils.vector_to_parameters(theta + i * h * along, module.parameters())
            f.append(module(x).detach())
        differences = torch.stack(f)
        largest.append((differences[2:] - 2 * differences[1:-1] + differences[:-2]).abs().max() / h**2)
    assert largest[0] > 20 * largest[1]
