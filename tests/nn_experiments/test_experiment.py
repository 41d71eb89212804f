from __future__ import annotations

import pickle

import pytest
import torch

from entropy_sim.errors import UserError
from entropy_sim.run_files import from_jsonable, to_jsonable
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment, evaluate, squared
from nn_experiments.networks.resnet import ResNet


def test_objective_and_initial_parameters_belong_together():
    experiment = Experiment()
    theta = experiment.initial(3)
    objective = experiment.objective()
    assert theta.shape == (objective.dimension,)
    assert objective.size == len(experiment.data.load().train_inputs)
    assert experiment.objective("test").size == len(experiment.data.load().test_inputs)
    # A network that has learnt nothing is near the loss of guessing.
    assert objective.evaluate(theta).loss == pytest.approx(2.3, abs=1.0)
    assert objective.evaluate(theta).error == pytest.approx(0.9, abs=0.1)


def test_initial_parameters_are_seeded():
    experiment = Experiment()
    torch.testing.assert_close(experiment.initial(1), experiment.initial(1), rtol=0, atol=0)
    assert (experiment.initial(1) - experiment.initial(2)).norm() > 1


def test_data_are_read_once_for_all_devices(monkeypatch):
    read, real = [], Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, *where: (read.append(where), real(self, *where))[1])
    experiment = Experiment(data=Digits(seed=99))
    experiment.initial(0)
    elsewhere = experiment.objective(device="meta")  # a device that holds no values
    assert elsewhere.inputs.device.type == elsewhere.targets.device.type == elsewhere.theta().device.type == "meta"
    assert elsewhere.inputs.shape == experiment.objective().inputs.shape
    assert len(read) == 1


def test_precision_and_mode():
    experiment = Experiment(group_size=32)
    theta = experiment.initial(0)
    single, double = experiment.objective(), experiment.objective(dtype=torch.float64)
    assert double.dtype == torch.float64
    assert single.evaluate(theta).loss == pytest.approx(double.evaluate(theta.double()).loss, rel=1e-5)
    assert experiment.objective(mode="evaluation").group_size is None
    assert single.group_size == 32


def test_experiments_can_be_sent_to_processes_and_written_to_files():
    experiment = Experiment(Digits(seed=2), ResNet(14, 4, "group"), 20, "squared")
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    assert from_jsonable(Experiment, to_jsonable(experiment)) == experiment
    assert experiment.system == "ResNet-14 of width 4 with GroupNorm on scikit-learn digits, squared loss"


def test_squared_loss():
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([1, 0])
    # ½ [(1 − 0)² + (2 − 1)²] and ½ [(0 − 1)² + (−1 − 0)²], averaged over the two samples
    assert float(squared(outputs, targets)) == pytest.approx(1.0)
    assert float(squared(outputs, torch.tensor([[1.0, 2.0], [0.0, 1.0]]))) == pytest.approx(0.5 * 4 / 2)
    experiment = Experiment(loss="squared")
    objective, theta = experiment.objective(dtype=torch.float64), experiment.initial(0).double()
    objective.load(theta)
    with torch.no_grad():
        indices = torch.arange(16)
        f = objective.forward(objective.inputs[indices])
        one_hot = torch.eye(10, dtype=torch.float64)[objective.targets[indices]]
        expected = (f - one_hot).pow(2).sum() / (2 * 16)
    assert float(objective.value_and_gradient(theta, indices)[0]) == pytest.approx(float(expected), rel=1e-12)


def test_scale_invariant_blocks_do_not_matter_to_the_loss():
    experiment = Experiment()
    objective, theta = experiment.objective(dtype=torch.float64), experiment.initial(0).double()
    before = objective.evaluate(theta).loss
    blocks = objective.blocks()
    scaled, other = theta.clone(), theta.clone()
    for name in experiment.scale_invariant():
        scaled[blocks[name]] *= 3
    other[blocks["linear.weight"]] *= 3
    # BatchNorm's ε = 1e-5 breaks the invariance a little.
    assert objective.evaluate(scaled).loss == pytest.approx(before, rel=1e-3)
    assert abs(objective.evaluate(other).loss - before) > 0.1


def test_standard_inference_uses_statistics_of_the_training_set():
    experiment = Experiment()
    theta = experiment.initial(0)
    inference = evaluate(experiment, theta, "test", "evaluation")
    objective = experiment.objective("test", mode="evaluation")
    assert abs(objective.evaluate(theta).loss - inference.loss) > 1e-3  # mean 0, variance 1 would be another function
    objective.copy_statistics(experiment.objective("train"), theta)
    assert objective.evaluate(theta) == inference
    assert evaluate(experiment, theta, "test", "batch") == experiment.objective("test").evaluate(theta)


def test_bad_options():
    with pytest.raises(UserError, match="loss: expected cross_entropy or squared, found 'hinge'"):
        Experiment(loss="hinge")
    with pytest.raises(UserError, match="group_size: expected a number >= 2, found 1"):
        Experiment(group_size=1)
    with pytest.raises(UserError, match="group_size: expected 2…"):
        Experiment(group_size=5000).objective()
