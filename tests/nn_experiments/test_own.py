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
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from entropy_sim.errors import UserError
from entropy_sim.run_files import config_json, from_jsonable, to_jsonable
from nn_experiments.curvature import HessianOperator
from nn_experiments.experiment import evaluate
from nn_experiments.networks.wide_resnet import WideResNet
from nn_experiments.own import FileExperiment, ModuleExperiment, tensors
from nn_experiments.run import NetworkRun
from nn_experiments.train import Training

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


def sorted_rows(pair):
    return sorted((*row.tolist(), int(t)) for row, t in zip(*pair, strict=True))


@pytest.mark.parametrize("own_batches", [False, True])
def test_the_shuffling_of_a_loader_does_not_count(own_batches):
    dataset = TensorDataset(INPUTS, TARGETS)

    def loader() -> DataLoader:
        if own_batches:
            return DataLoader(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 7, drop_last=False))
        return DataLoader(dataset, batch_size=7, shuffle=True)

    expected = tensors((INPUTS, TARGETS), "train")
    for _ in range(2):
        found = tensors(loader(), "train")
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_a_loader_keeps_its_subset_and_its_collation():
    def doubled(samples):
        inputs, targets = zip(*samples, strict=True)
        return 2 * torch.stack(inputs), torch.stack(targets)

    chosen = [30, 4, 11, 7, 2, 25]
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), 4, sampler=SubsetRandomSampler(chosen), collate_fn=doubled)
    found, again = tensors(loader, "train"), tensors(loader, "train")
    assert torch.equal(found[0], again[0])
    assert sorted_rows(found) == sorted_rows((2 * INPUTS[chosen], TARGETS[chosen]))


class Noisy(TensorDataset):
    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return inputs + torch.randn(3), targets


def test_what_is_random_in_data_is_drawn_alike_at_every_reading():
    dataset = TensorDataset(INPUTS, TARGETS)
    weighted = DataLoader(dataset, 8, sampler=WeightedRandomSampler([1.0] * 20 + [0.0] * 20, 30))
    assert len(tensors(weighted, "train")[0]) == 30  # as the sampler draws them, not the dataset's own
    for data in (weighted, Noisy(INPUTS, TARGETS), DataLoader(Noisy(INPUTS, TARGETS), shuffle=True)):
        assert torch.equal(tensors(data, "train")[0], tensors(data, "train")[0])


def test_samples_of_different_shapes_are_refused_in_one_line():
    pairs = [(torch.zeros(n), torch.tensor(0)) for n in (2, 3)]
    with pytest.raises(UserError, match="train: expected batches of samples of one shape, found that Sizes of tensors"):
        tensors(DataLoader(pairs, batch_size=1), "train")  # type: ignore[arg-type]


def test_a_run_with_a_shuffled_loader_goes_on(tmp_path):
    training = Training(epochs=1, batch_size=16, learning_rate=0.1)
    said: list[str] = []
    for _ in range(2):
        loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=16, shuffle=True)
        run = NetworkRun(ModuleExperiment(net, F.cross_entropy, loader), training=training)  # type: ignore[arg-type]
        run.run(tmp_path, stage="train", processes=1, report=said.append)
    assert said[-1] == "train: already done"


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
        UserError, match=r"module: expected second derivatives that agree .* found \|H v\| = .* against"
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


class Acting(nn.Module):
    """What it computes is not in its printed form."""

    def __init__(self, function, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function
        self.register_buffer("shift", torch.full((4,), shift))
        with torch.no_grad():
            self.first.weight.mul_(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)) + self.shift)


def frozen(value: float) -> nn.Module:
    module = net()
    module[0].weight.requires_grad_(False).fill_(value)
    return module


def smoothed(by: float):
    return lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=by)


def weighted(by: float) -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.full((2,), by), reduction="mean", label_smoothing=0.1 * by)


def configuration(module=net, loss=F.cross_entropy, data=(INPUTS, TARGETS)) -> str:
    return config_json(ModuleExperiment(module, loss, data))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"module": partial(Acting, torch.tanh)}, {"module": partial(Acting, torch.relu)}),
        ({"module": partial(Acting, torch.tanh, 0.0)}, {"module": partial(Acting, torch.tanh, 1e-6)}),
        ({"module": partial(Acting, torch.tanh)}, {"module": partial(Acting, torch.tanh, scale=1.5)}),
        ({"module": frozen(0.5)}, {"module": frozen(0.5 + 1e-6)}),
        (
            {"loss": partial(F.cross_entropy, label_smoothing=0.1)},
            {"loss": partial(F.cross_entropy, label_smoothing=0.4)},
        ),
        ({"loss": partial(F.cross_entropy, ignore_index=-1)}, {"loss": partial(F.cross_entropy, ignore_index=-2)}),
        ({"loss": smoothed(0.1)}, {"loss": smoothed(0.12)}),
        ({"loss": weighted(1.0)}, {"loss": weighted(2.0)}),
        ({"data": (INPUTS, TARGETS)}, {"data": (INPUTS, 1 - TARGETS)}),
    ],
    ids=["function", "buffer", "initial", "frozen", "partial", "unused", "closure", "loss", "data"],
)
def test_a_change_of_anything_that_is_computed_is_another_configuration(one, other):
    assert configuration(**one) == configuration(**one)
    assert configuration(**one) != configuration(**other)


def test_a_configuration_does_not_depend_on_threads_processes_or_what_theta_replaces():
    wide = partial(nn.Sequential, nn.Linear(3, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, 2))
    data = torch.randn(600, 3, generator=torch.Generator().manual_seed(1)), torch.arange(600) % 2
    threads, found = torch.get_num_threads(), set()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.add(configuration(wide, data=data))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert config_json(pickle.loads(pickle.dumps(ModuleExperiment(wide, F.cross_entropy, data)))) in found
    # Parameters and running statistics of a network that is there are replaced in all that is measured.
    live = wide()
    before = configuration(live)
    live.train()(INPUTS)
    torch.nn.init.normal_(live[0].weight)
    assert configuration(live) == before


class Choosy(nn.Module):
    """Has no outputs, or none that are numbers, at most parameters."""

    def __init__(self, transform, function) -> None:
        super().__init__()
        self.metric, self.transform, self.function = nn.Parameter(torch.eye(3) + 0.1), transform, function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x @ self.transform(self.metric))


@pytest.mark.parametrize("transform", [lambda m: torch.linalg.cholesky(m + m.T), torch.sqrt], ids=["error", "nan"])
def test_networks_that_do_not_run_at_all_parameters_are_told_apart_too(transform):
    one, other = (partial(Choosy, transform, function) for function in (torch.tanh, torch.relu))
    assert configuration(one) == configuration(one)
    assert configuration(one) != configuration(other)


def test_a_network_that_is_changed_in_place_is_seen():
    module = frozen(0.5)
    experiment = ModuleExperiment(module, F.cross_entropy, (INPUTS, TARGETS))
    before = config_json(experiment)
    with torch.no_grad():
        module[0].weight.fill_(0.6)
    assert config_json(experiment) != before


def stretched(outputs: torch.Tensor, targets: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs @ metric, targets)  # no product of two types


class Stretched(nn.Module):
    def __init__(self, metric: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("metric", metric)

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return stretched(outputs, targets, self.metric)


METRIC = torch.tensor([[2.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("loss", [Stretched(METRIC), partial(stretched, metric=METRIC)], ids=["module", "partial"])
def test_a_loss_with_tensors_goes_where_the_network_goes(loss):
    experiment = ModuleExperiment(net, loss, (INPUTS, TARGETS))
    theta = experiment.initial(0)
    values = [experiment.objective(dtype=t).evaluate(theta.to(t)).loss for t in (torch.float32, torch.float64)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    held = loss.metric if isinstance(loss, Stretched) else loss.keywords["metric"]
    assert held.dtype == torch.float32  # a copy went


class Zeros(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(x), 4)
        found[:, :] = torch.tanh(self.first(x))
        return self.last(found)


def test_a_network_of_one_float_type_is_told_of_the_other():
    with pytest.raises(
        UserError, match=r"module: expected .* that work in float64 too, .* such as inputs.new_zeros.*Fl"
    ):
        ModuleExperiment(Zeros, F.cross_entropy, (INPUTS, TARGETS))


RARE = torch.arange(400) % 40 == 17


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (partial(F.cross_entropy, weight=torch.tensor([1.0, 3.0])), RARE.long()),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), RARE.long()),
        (F.cross_entropy, torch.where(RARE, -100, 1)),
        (partial(F.mse_loss, reduction="sum"), torch.randn(400, 2)),
        (lambda f, y: F.mse_loss(f[:, :1], y).sqrt(), torch.randn(400, 1)),
    ],
    ids=["weights", "module", "ignored", "sum", "root"],
)
@pytest.mark.parametrize("last", [nn.Linear, partial(nn.Linear, bias=False)])
def test_a_loss_that_is_no_mean_over_samples_is_refused(loss, targets, last):
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), last(4, 2))
        nn.init.zeros_(module[2].weight)
        return module

    inputs = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match="loss: expected the mean over its samples"):
        ModuleExperiment(build, loss, (inputs, targets))


def test_a_target_that_only_few_samples_have_is_tried():
    targets = torch.where(RARE, 2, 1)  # out of bounds
    with pytest.raises(
        UserError, match="module: expected a network and a loss .* found IndexError: Target 2 is out of"
    ):
        ModuleExperiment(net, F.cross_entropy, (torch.randn(400, 3), targets))


class Single(nn.Module):
    """Computes in single precision, whatever the type of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = torch.sin(self.weight.float()).sum() / 10
        return torch.stack([x[:, 0] * factor.to(x.dtype), x[:, 1]], dim=1)


def test_single_precision_inside_is_not_taken_for_a_missing_derivative():
    assert ModuleExperiment(Single, F.cross_entropy, (INPUTS, TARGETS)).name == "Single"


def test_a_function_that_gives_the_same_network_again_is_as_good_as_a_new_one():
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    experiment = ModuleExperiment(lambda: module, F.cross_entropy, (INPUTS, TARGETS))
    theta = experiment.initial(0)
    experiment.objective(dtype=torch.float64).load(torch.zeros(len(theta), dtype=torch.float64))
    config_json(experiment)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(experiment.initial(0), theta)


def test_the_kinks_of_a_large_network_are_not_taken_for_a_missing_derivative():
    inputs = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    experiment = ModuleExperiment(
        lambda: WideResNet(width=2).build(3, 10), F.cross_entropy, (inputs, torch.arange(8)), group_size=8
    )
    assert experiment.objective().dimension > 40_000


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
