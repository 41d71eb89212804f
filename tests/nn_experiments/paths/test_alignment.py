"""Weight matching: planted permutations come back exactly, the distance never rises, trained minima come nearer."""

import itertools

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments.experiment import Experiment
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.networks.vision_transformer import VisionTransformer
from nn_experiments.paths import alignment
from nn_experiments.paths._symmetries import permutations
from nn_experiments.paths.alignment import WeightMatching, symmetries
from nn_experiments.paths.linear import linear
from nn_experiments.paths.permutations import Group, Permutations, Use
from nn_experiments.train import Training
from tests.nn_experiments.paths.test_symmetries import Residual, objective_of


@pytest.mark.parametrize(
    "network", [MLP(), ResNet(), VisionTransformer(width=16, depth=2)], ids=lambda network: network.name
)
def test_a_planted_permutation_is_recovered(network):
    experiment = Experiment(network=network)
    found = symmetries(experiment)
    theta = experiment.initial(3).double() + 0.1 * torch.randn(len(experiment.initial(3)), dtype=torch.float64)
    planted = found.random(np.random.default_rng(1))
    result = WeightMatching().match(found, torch.stack([theta, found.apply(theta, planted)]))
    assert torch.equal(result.ends[0], result.ends[1])
    assert result.distances[-1] == 0
    assert result.distances[0] > 1
    for there, back in zip(planted, result.permutation, strict=True):
        assert np.array_equal(there[back], np.arange(len(there)))


@pytest.mark.parametrize("network", [MLP(), ResNet()], ids=lambda network: network.name)
def test_the_distance_never_rises_and_is_that_of_the_ends(network):
    experiment = Experiment(network=network)
    ends = torch.stack([experiment.initial(0), experiment.initial(1)])
    result = WeightMatching().run(experiment, ends)
    assert np.all(np.diff(result.distances) <= 0)
    assert result.distances[0] == pytest.approx(float((ends[0] - ends[1]).norm()), rel=1e-5)
    assert result.distances[-1] == pytest.approx(float((result.ends[0] - result.ends[1]).norm()), rel=1e-5)
    assert result.distances[-1] < 0.97 * result.distances[0]
    assert result.ends.dtype == ends.dtype
    assert torch.equal(result.ends[0], ends[0])
    assert torch.equal(result.ends[1].sort().values, ends[1].sort().values)
    objective = experiment.objective()
    losses = [objective.evaluate(theta).loss for theta in (ends[1], result.ends[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_group_on_both_axes_of_a_weight_never_makes_it_worse():
    """There the assignment is only a linearisation, which alone does raise the distance for some of these."""
    objective, _ = objective_of(Residual(), 3, 4)
    found = permutations(objective, objective.theta())
    generator = torch.Generator().manual_seed(0)
    refused = 0
    original = alignment._overlap
    seen = []

    def watched(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    for _ in range(60):
        ends = torch.randn(2, objective.dimension, generator=generator, dtype=torch.float64)
        for name, at in objective.blocks().items():
            if name != "b.weight":
                ends[:, at] *= 0.01  # the quadratic part decides
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(alignment, "_overlap", watched)
            distances = WeightMatching().match(found, ends).distances
        refused += any(after < before for before, after in itertools.pairwise(seen))
        assert np.all(np.diff(distances) <= 1e-12)
    assert refused > 0


def test_one_group_gets_the_best_of_all_permutations():
    """Against trying all 5! of them."""
    shapes = {"rows": (5, 3), "columns": (2, 5)}
    uses = (Use("rows", 0, np.arange(5)[:, None]), Use("columns", 1, np.arange(5)[:, None]))
    found = Permutations(shapes, (Group(5, uses),))
    ends = torch.randn(2, 25, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    best = min(
        float((ends[0] - found.apply(ends[1], [np.array(order)])).norm()) for order in itertools.permutations(range(5))
    )
    result = WeightMatching().match(found, ends)
    assert result.distances[-1] == pytest.approx(best, rel=1e-12)
    assert result.distances[-1] < result.distances[0]


def test_two_trained_minima_of_digits_come_nearer_in_loss():
    experiment = Experiment(network=MLP(widths=(64, 64)))
    training = Training(epochs=6, learning_rate=0.1)
    ends = torch.stack([training.run(experiment, seed, progress=False).theta for seed in (0, 1)])
    objective = experiment.objective()

    def barrier(pair):
        losses = [objective.evaluate(theta).loss for theta in linear(pair, 11)]
        return max(losses) - max(losses[0], losses[-1])

    aligned = WeightMatching().run(experiment, ends).ends
    assert barrier(aligned) < 0.25 * barrier(ends)
    scores = [objective.evaluate(theta) for theta in (ends[1], aligned[1])]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-4)


def test_refusals():
    with pytest.raises(UserError, match=r"alignment.sweeps: expected a number >= 1, found 0"):
        WeightMatching(sweeps=0)
    with pytest.raises(UserError, match=r"alignment.seed: expected a number >= 0, found -1"):
        WeightMatching(seed=-1)
    with pytest.raises(UserError, match=r"ends: expected two points \(2, D\), found \(3, 4\)"):
        WeightMatching().run(Experiment(), torch.zeros(3, 4))
    with pytest.raises(UserError, match=r"permutation: expected one for each of 0 groups, found 1"):
        Permutations({"w": (2,)}, ()).apply(torch.zeros(2), [np.arange(2)])
