"""Permutation symmetries found by one forward pass: the outputs do not change, and the groups are the ones known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nn_experiments.experiment import Experiment
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vgg import VGG
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.objective import Objective
from nn_experiments.paths import _symmetries
from nn_experiments.paths._symmetries import permutations
from nn_experiments.paths.alignment import symmetries

#: Group sizes by hand. ResNet-8: the stream's first 4 of stage one, its new channels in stages two and three, and the
#: inside of three blocks; in the wide network the stem's and each stage's stream and insides.
FAMILIES = [
    (MLP(widths=(12, 7)), [7, 12]),
    (MLP(widths=(12, 7), normalization="layer"), [7, 12]),
    (ResNet(width=4), [4, 4, 4, 8, 8, 16]),
    (ResNet(width=4, normalization="layer"), [4, 4, 4, 8, 8, 16]),
    (ResNet(width=4, normalization="none"), [4, 4, 4, 8, 8, 16]),
    (WideResNet(depth=10, width=4, widen_factor=2), [4, 8, 8, 16, 16, 32, 32]),
    (VGG(depth=11, width=4), [4, 8, 16, 16, 32, 32, 32, 32]),
    (VisionTransformer(width=12, depth=2, heads=3), [3, 3, 12, 24, 24]),
    (VisionTransformer(width=12, depth=2, heads=3, normalization="batch"), [3, 3, 12, 24, 24]),
]


def objective_of(module, *shape):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, *shape, generator=generator, dtype=torch.float64)
    made = Objective(module.double(), F.cross_entropy, inputs, torch.zeros(8, dtype=torch.long), group_size=8)
    for p in made.parameters:
        p.data.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made, made.theta()


def change(objective, theta, found, permutation):
    """Largest change of the outputs, in units of the largest output."""
    with torch.no_grad():
        objective.load(theta)
        before = objective.forward(objective.inputs[:16])
        objective.load(found.apply(theta, permutation))
        return float((objective.forward(objective.inputs[:16]) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize(("network", "sizes"), FAMILIES, ids=lambda x: getattr(x, "name", ""))
def test_families(network, sizes):
    experiment = Experiment(network=network)
    found = symmetries(experiment)
    assert sorted(group.size for group in found.groups) == sizes
    assert found.left_out == 0
    assert found.permutable() > 0.98
    objective = experiment.objective(dtype=torch.float64)
    theta = experiment.initial(5).double() + 0.1 * torch.randn(objective.dimension, dtype=torch.float64)
    shuffle = found.random(np.random.default_rng(3))
    assert not torch.equal(found.apply(theta, shuffle), theta)
    assert change(objective, theta, found, shuffle) < 1e-10
    assert torch.equal(found.apply(theta, found.identity()), theta)


def test_channels_stay_within_the_groups_of_a_group_norm(monkeypatch):
    experiment = Experiment(network=ResNet(width=8, normalization="group"))
    found = symmetries(experiment)
    assert found.left_out == 0
    assert sorted(g.size for g in found.groups) == [2] * 8 + [4] * 6 + [8] * 6
    # Without the groups' tags the streams and insides look freely permutable; the outputs then tell, one and all.
    monkeypatch.setattr(_symmetries._Tracer, "_group_norm", _without_tags)
    careless = symmetries(experiment)
    assert careless.left_out == 6
    assert not careless.groups


def _without_tags(self, out, x, groups, weight=None, bias=None, *_, **__):
    return self._affine(x, 1, weight, bias)


def test_unchecked_wrong_groups_would_change_the_outputs(monkeypatch):
    """The check is needed: what it leaves out does change the outputs."""
    monkeypatch.setattr(_symmetries._Tracer, "_group_norm", _without_tags)
    monkeypatch.setattr(_symmetries, "_checked", lambda found, *_: found)
    experiment = Experiment(network=ResNet(width=8, normalization="group"))
    found = symmetries(experiment)
    objective, theta = experiment.objective(dtype=torch.float64), experiment.initial(5).double()
    assert change(objective, theta, found, found.random(np.random.default_rng(3))) > 1e-3


class Residual(nn.Module):
    """A stream on both axes of a square weight, a scale for each feature, one for all, and a mean over features."""

    def __init__(self, last=None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 9), nn.Linear(9, 9), nn.Linear(9, 5)
        self.scale, self.each = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.ones(9))
        self.last = last or (lambda x: x)

    def forward(self, x):
        x = torch.tanh(self.a(x.flatten(1)))
        x = (x + self.scale * torch.tanh(self.b(x))) * self.each
        return self.c(self.last(x - x.mean(1, keepdim=True)))


def test_a_user_s_residual_network():
    objective, theta = objective_of(Residual(), 3, 4)
    found = permutations(objective, theta)
    assert [g.size for g in found.groups] == [9]
    assert change(objective, theta, found, found.random(np.random.default_rng(0))) < 1e-12


@pytest.mark.parametrize(
    "last",
    [
        lambda x: x.cumsum(1),
        lambda x: x * torch.arange(1.0, 10, dtype=x.dtype),
        lambda x: x @ torch.ones(9, 9).tril().to(x),
    ],
    ids=["unknown operation", "a constant for each feature", "a constant matrix"],
)
def test_what_is_not_understood_is_fixed(last):
    objective, theta = objective_of(Residual(last), 3, 4)
    found = permutations(objective, theta)
    assert not found.groups
    assert found.left_out == 0


class Convolutional(nn.Module):
    """Depthwise convolution, flattening of several pixels for each channel, and a bias for each pixel and channel."""

    def __init__(self):
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.offset = nn.BatchNorm2d(6), nn.Parameter(torch.zeros(6, 3, 3))
        self.linear = nn.Linear(54, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.depthwise(self.first(x)))) + self.offset
        return self.linear(F.max_pool2d(x, 2, stride=1, padding=1)[..., 1:, 1:].flatten(1))


def test_pixels_follow_their_channel():
    objective, theta = objective_of(Convolutional(), 2, 5, 5)
    found = permutations(objective, theta)
    assert [g.size for g in found.groups] == [6]
    uses = {(use.parameter, use.axis): use.positions.shape for use in found.groups[0].uses}
    assert uses["linear.weight", 1] == (6, 9)
    assert uses["offset", None] == (6, 9)
    assert change(objective, theta, found, found.random(np.random.default_rng(0))) < 1e-12


class Tokens(nn.Module):
    """Torch's own encoder layer, and a class token joined to the sequence."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Linear(3, 8), nn.Parameter(torch.zeros(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 4, 10, dropout=0.0, activation="gelu", batch_first=True)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], dim=1)
        x = x + self.layer.self_attn(x, x, x, need_weights=False)[0]
        return self.linear(
            self.layer.norm2(x + self.layer.linear2(F.gelu(self.layer.linear1(self.layer.norm1(x)))))[:, 0]
        )


def test_torch_s_own_attention():
    objective, theta = objective_of(Tokens(), 6, 3)
    found = permutations(objective, theta)
    assert sorted(g.size for g in found.groups) == [4, 8, 10]
    assert found.left_out == 0
    assert change(objective, theta, found, found.random(np.random.default_rng(0))) < 1e-12
