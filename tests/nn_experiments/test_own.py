"""A network that is not ours as an experiment: from live objects and from a file."""

from __future__ import annotations

import math
import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from entropy_sim.errors import UserError
from entropy_sim.run_files import config_json, from_jsonable, to_jsonable
from nn_experiments.curvature import HessianOperator
from nn_experiments.experiment import evaluate
from nn_experiments.own import FileExperiment, ModuleExperiment, tensors

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 0).long()

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))

def problem():
    inputs = torch.randn(32, 3)
    return CLASS, nn.functional.cross_entropy, (inputs, (inputs.sum(1) > 0).long())

def number():
    return 3

def fails():
    return 1 / 0
"""


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_the_objective_is_the_mean_loss_of_the_module():
    module = net()
    experiment = ModuleExperiment(module, F.cross_entropy, (INPUTS, TARGETS), test=(INPUTS[:10], TARGETS[:10]))
    objective = experiment.objective(dtype=torch.float64)
    theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    expected = F.cross_entropy(module(INPUTS), TARGETS).detach()
    assert objective.evaluate(theta.double()).loss == pytest.approx(float(expected), rel=1e-6)
    expected = F.cross_entropy(module(INPUTS[:10]), TARGETS[:10]).detach()
    assert experiment.objective("test").evaluate(theta).loss == pytest.approx(float(expected), rel=1e-5)
    # The module itself is left alone.
    experiment.objective().load(torch.zeros_like(theta))
    assert all(p.abs().sum() > 0 for p in module.parameters())


def test_without_test_data_nothing_is_made_up():
    experiment = ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS))
    theta = experiment.initial(0)
    assert all(math.isnan(x) for x in evaluate(experiment, theta, "test"))
    assert math.isfinite(evaluate(experiment, theta, "train").loss)
    with pytest.raises(UserError, match="test: expected test data, found 'none'"):
        experiment.objective("test")


@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
def test_data_of_every_kind_give_the_same_samples_in_one_fixed_random_order(kind):
    dataset = TensorDataset(INPUTS, TARGETS)
    data = {"tensors": (INPUTS, TARGETS), "dataset": dataset, "loader": DataLoader(dataset, batch_size=7)}[kind]
    inputs, targets = tensors(data, "train")
    assert not torch.equal(inputs, INPUTS)
    rows = {tuple(row.tolist()): int(t) for row, t in zip(INPUTS, TARGETS, strict=True)}
    assert {tuple(row.tolist()): int(t) for row, t in zip(inputs, targets, strict=True)} == rows
    assert torch.equal(inputs, tensors((INPUTS, TARGETS), "train")[0])


def test_seeds_build_different_networks_and_leave_the_global_generators_alone():
    experiment = ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(experiment.initial(1), experiment.initial(1))
    assert (experiment.initial(1) - experiment.initial(2)).norm() > 0.1
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    with pytest.raises(UserError, match="module: expected a function that builds the network, .* found a network"):
        ModuleExperiment(net(), F.cross_entropy, (INPUTS, TARGETS)).initial(0)


def test_frozen_parameters_are_no_part_of_theta():
    module = net()
    module[0].weight.requires_grad_(False)
    experiment = ModuleExperiment(module, F.cross_entropy, (INPUTS, TARGETS))
    assert experiment.objective().dimension == 4 + 8 + 2
    objective, theta = experiment.objective(), torch.zeros(14)
    objective.load(theta)
    assert torch.equal(objective.module[0].weight, module[0].weight)


def test_scale_invariant_weights_are_found_unless_they_are_named():
    normalised = partial(nn.Sequential, nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    assert ModuleExperiment(normalised, F.cross_entropy, (INPUTS, TARGETS)).scale_invariant() == ["0.weight"]
    assert ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS)).scale_invariant() == []
    named = ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS), scale_invariant_parameters=("0.weight",))
    assert named.scale_invariant() == ["0.weight"]
    with pytest.raises(UserError, match=r"scale_invariant_parameters: expected names of parameters, found 'no.such'"):
        ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS), scale_invariant_parameters=("no.such",))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_torchs_attention_has_curvature():
    inputs = torch.randn(24, 5, 4, generator=torch.Generator().manual_seed(1))
    experiment = ModuleExperiment(Attending, F.cross_entropy, (inputs, (inputs.sum((1, 2)) > 0).long()))
    objective, theta = experiment.objective(dtype=torch.float64), experiment.initial(0).double()
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    product = HessianOperator(objective, theta)(direction)
    ends = [objective.full_value_and_gradient(theta + h * direction)[1].clone() for h in (1e-5, -1e-5)]
    torch.testing.assert_close(product, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


class OnlyOnce(torch.autograd.Function):
    """A square whose derivative cannot be differentiated again."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


def test_a_network_without_a_second_derivative_is_refused():
    class Once(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return OnlyOnce.apply(super().forward(x))

    with pytest.raises(
        UserError, match=r"module: expected second derivatives that agree .* found '\|H v\| = .* against"
    ):
        ModuleExperiment(partial(Once, 3, 2), F.cross_entropy, (INPUTS, TARGETS))


def test_it_can_be_sent_to_a_process_and_described():
    experiment = ModuleExperiment(net, F.cross_entropy, (INPUTS, TARGETS), name="mine")
    experiment.objective()
    again = pickle.loads(pickle.dumps(experiment))
    theta = experiment.initial(0)
    assert again.objective().evaluate(theta) == experiment.objective().evaluate(theta)
    found = to_jsonable(experiment)
    assert found["name"] == "mine"
    assert found["loss"] == "cross_entropy"
    other = ModuleExperiment(net, F.cross_entropy, (INPUTS + 1, TARGETS), name="mine")
    assert config_json(other) != config_json(experiment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((net, F.cross_entropy, (INPUTS, TARGETS[:5])), "train: expected 40 targets, one for each input, found 5"),
        ((net, F.cross_entropy, INPUTS), r"train: expected \(inputs, targets\), .* found Tensor"),
        ((net, F.cross_entropy, (INPUTS[:0], TARGETS[:0])), "train: expected at least one sample, found 0"),
        ((net, partial(F.cross_entropy, reduction="sum"), (INPUTS, TARGETS)), "loss: expected the mean over its sam"),
        ((net, partial(F.cross_entropy, reduction="none"), (INPUTS, TARGETS)), r"loss: expected one number, found"),
        ((net, F.mse_loss, (INPUTS, TARGETS)), r"module: expected a network and a loss that take inputs \(4, 3\), tar"),
        ((lambda: 3, F.cross_entropy, (INPUTS, TARGETS)), "module: expected a function that builds an nn.Module, fou"),
        ((nn.Identity, F.cross_entropy, (INPUTS, TARGETS)), "module: expected at least one parameter that requires"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        ModuleExperiment(*arguments)
    assert "\n" not in str(caught.value)


def test_a_parameter_outside_the_loss_is_refused_by_name():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(UserError, match=r"module: expected that every parameter .* 'spare.weight, spare.bias without"):
        ModuleExperiment(Unused, F.cross_entropy, (INPUTS, TARGETS))


@pytest.mark.parametrize("network", ["Net", "Net()"])
def test_a_file_gives_the_same_experiment_in_every_process(tmp_path, network):
    file = tmp_path / "mine.py"
    file.write_text(FILE.replace("CLASS", network))
    experiment = FileExperiment(f"{file}:problem")
    theta = experiment.initial(3)
    assert experiment.system == "Net of mine.py"
    assert theta.shape == (5 * 3 + 5 + 2 * 5 + 2,)
    assert torch.equal(theta, experiment.initial(3))
    assert (theta - experiment.initial(4)).norm() > 0.1
    # Gone: what the configuration holds is run, to the same data.
    text = to_jsonable(experiment)
    file.unlink()
    again = from_jsonable(FileExperiment, text)
    assert again == experiment
    from nn_experiments import own

    before = experiment.objective().evaluate(theta)
    own._made.cache_clear()
    torch.manual_seed(77)
    assert again.objective().evaluate(theta) == before


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "my_neighbour_of_a_test.py").write_text("WIDTH = 7\n")
    file = tmp_path / "mine.py"
    file.write_text("from my_neighbour_of_a_test import WIDTH\n" + FILE.replace("CLASS", "Net").replace("5", "WIDTH"))
    assert FileExperiment(f"{file}:problem").objective().dimension == 7 * 3 + 7 + 2 * 7 + 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "module: expected a function absent in .*mine.py, found Net, problem, number, fails"),
        ("number", r"module: expected \(module, loss, train\) or .* from number, found int"),
        ("fails", "module: expected fails of .* to work, found ZeroDivisionError in line 21: division by zero"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, function, message):
    file = tmp_path / "mine.py"
    file.write_text(FILE.replace("CLASS", "Net"))
    with pytest.raises(UserError, match=message):
        FileExperiment(f"{file}:{function}").objective()


def test_the_name_of_a_function_is_needed(tmp_path):
    with pytest.raises(UserError, match=r"module: expected FILE\.py:FUNCTION, found 'mine\.py'"):
        FileExperiment("mine.py")
    with pytest.raises(UserError, match="module: expected a Python file, found no file"):
        FileExperiment(str(tmp_path / "none.py:problem"))
