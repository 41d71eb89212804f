"""Splits with too few samples: found before anything is trained, or not scored."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment, evaluate
from nn_experiments.own import ModuleExperiment
from nn_experiments.train import Training

INPUTS = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 0).long()


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_less_test_data_than_a_group_are_scored_at_inference_only():
    experiment = ModuleExperiment(normalised, F.cross_entropy, (INPUTS, TARGETS), test=(INPUTS[:8], TARGETS[:8]))
    trained = Training(epochs=1, batch_size=16, learning_rate=0.1).run(experiment, 0, progress=False)
    assert all(map(math.isnan, trained.test))
    assert all(map(math.isfinite, (*trained.train, *trained.test_inference)))


@pytest.mark.parametrize(("build", "samples"), [(normalised, 16), (plain, 8)])
def test_a_whole_group_or_no_groups_are_scored(build, samples):
    test = INPUTS[:samples], TARGETS[:samples]
    experiment = ModuleExperiment(build, F.cross_entropy, (INPUTS, TARGETS), test=test)
    assert all(map(math.isfinite, evaluate(experiment, experiment.initial(0), "test", "batch")))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_digits_without_one_of_the_splits_are_refused_by_name(fraction):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"data\.test_fraction: expected images in both splits, found 0\.(001|999)"):
            Experiment(Digits(test_fraction=fraction)).objective()
