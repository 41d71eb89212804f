from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments import train
from nn_experiments.datasets.augmentation import Augmentation
from nn_experiments.device import OnDevice
from nn_experiments.experiment import Experiment, evaluate
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, generator
from nn_experiments.optimizers import KFAC, SGD, SOAP, Adam, Muon
from nn_experiments.train import Training, TrainingState, _Session


@dataclass(frozen=True)
class Linear:
    """A user's own experiment: a linear classifier on Gaussian data, no normalisation."""

    samples: int = 24
    group_size: int | None = None
    system: str = "linear"

    def objective(self, split="train", *, dtype=torch.float64, mode="batch", device="cpu") -> Objective:
        g = generator(5)
        inputs = torch.randn(self.samples, 3, generator=g, dtype=torch.float64)
        targets = torch.randint(0, 2, (self.samples,), generator=g)
        return Objective(nn.Linear(3, 2).double(), F.cross_entropy, inputs, targets, mode=mode)

    def initial(self, seed: int) -> Tensor:
        return torch.randn(8, generator=generator(seed), dtype=torch.float64)

    def scale_invariant(self) -> list[str]:
        return []


@pytest.mark.parametrize(("schedule", "momentum"), [("constant", 0.8), ("cosine", 0.0)])
def test_training_is_torchs_sgd(schedule, momentum):
    # (With both, torch multiplies old velocities by the new learning rate, heavy ball does not.)
    training = Training(
        epochs=3, batch_size=7, learning_rate=0.3, momentum=momentum, weight_decay=0.02, schedule=schedule
    )
    trained = training.run(Linear(), seed=4, progress=False)

    objective = Linear().objective()
    objective.load(Linear().initial(4))
    optimizer = torch.optim.SGD(objective.parameters, lr=0.3, momentum=momentum, weight_decay=0.02)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    order = generator(4, 1)
    losses = []
    for _ in range(3):
        shuffled = torch.randperm(24, generator=order)
        for i in range(3):  # 3 batches of 7; the last 3 samples of each epoch are left out
            optimizer.zero_grad()
            loss = objective.loss_at(shuffled[7 * i : 7 * i + 7])
            loss.backward()
            optimizer.step()
            if schedule == "cosine":
                cosine.step()
            losses.append(loss.item())
    # theta was a view of the module's parameters, which torch moved in place
    torch.testing.assert_close(trained.theta, objective.theta(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(trained.epoch_loss, np.reshape(losses, (3, 3)).mean(1), rtol=1e-10)
    assert trained.train.loss == pytest.approx(objective.evaluate(trained.theta).loss)


def test_schedules():
    cosine = Training(learning_rate=0.4)
    assert [cosine.rate(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.2, 0.0])
    constant = Training(learning_rate=0.4, schedule="constant")
    assert [constant.rate(p) for p in (0.0, 0.5, 1.0)] == [0.4] * 3


def test_same_seed_same_numbers():
    training = Training(epochs=1)
    runs = [training.run(Experiment(), seed, progress=False) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].theta, runs[1].theta)
    assert runs[0].epoch_loss.tolist() == runs[1].epoch_loss.tolist()
    assert not torch.equal(runs[0].theta, runs[2].theta)


def test_digits_are_learnt():
    experiment = Experiment()
    trained = Training(epochs=3).run(experiment, 0, progress=False)
    assert trained.test_inference.error < 0.1
    assert trained.epoch_loss[-1] < 0.5 * trained.epoch_loss[0]
    assert trained.test == evaluate(experiment, trained.theta, "test", "batch")


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_is_told_with_its_place():
    training = Training(epochs=5, batch_size=8, learning_rate=1e300, momentum=0.0)
    with pytest.raises(UserError, match=r"expected a finite loss, found \w+ in epoch \d, step \d \(seed 2, learning"):
        training.run(Linear(), 2, progress=False)


def test_a_last_step_that_blows_up_is_told_and_not_kept(tmp_path):
    """Its own loss was taken before it, and no other step follows; the parameters are finite still."""
    experiment = Experiment(network=MLP(widths=(8,)))
    size = experiment.objective().size
    training = Training(epochs=1, batch_size=size, learning_rate=1e30, schedule="constant")
    message = r"finite loss, found \w+ after epoch 1, step 1 \(seed 0.*; the state after epoch 0 is kept in"
    with pytest.raises(UserError, match=message):
        training.run(experiment, 0, progress=False, state_path=tmp_path / "state.safetensors")
    kept = TrainingState.load(tmp_path / "state.safetensors", training.owner(experiment, 0))
    assert kept.iteration == 0
    assert torch.equal(kept.content["theta"], experiment.initial(0))


def test_spoilt_parameters_are_never_kept(tmp_path, monkeypatch):
    """A state written in the middle, of a step whose loss was still finite."""
    step = _Session._step
    monkeypatch.setattr(_Session, "_step", lambda self: (step(self), self.theta.mul_(np.nan)))
    training = Training(epochs=2, batch_size=8)
    with pytest.raises(UserError, match="found nan after epoch 1, step 1 .*; the state after epoch 0 is kept in"):
        training.run(Linear(), 0, progress=False, state_path=tmp_path / "state.safetensors", state_every=0.0)
    kept = TrainingState.load(tmp_path / "state.safetensors", training.owner(Linear(), 0))
    assert torch.equal(kept.content["theta"], Linear().initial(0))


def test_minima_are_scored_where_they_are_trained(monkeypatch):
    asked, made = [], Linear.objective

    def objective(self, split="train", **options):
        asked.append((split, options.get("device")))
        return made(self, split, **options)

    monkeypatch.setattr(Linear, "objective", objective)
    Training(epochs=1, batch_size=8).run(OnDevice(Linear(), "cpu:0"), 0, progress=False)
    assert set(asked) == {("train", "cpu:0"), ("test", "cpu:0")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "training.epochs: expected a number >= 1"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"learning_rate": 0.0}, "training.learning_rate: expected a positive number"),
        ({"momentum": 1.0}, "training.momentum"),
        ({"weight_decay": -1.0}, "training.weight_decay"),
        ({"milestones": (0.5, 0.4)}, "training.milestones: expected rising numbers in 0…1"),
        ({"factor": 0.0}, "training.factor"),
        ({"warmup": 30.0}, "training.warmup: expected 0…30 epochs, found 30"),
        ({"label_smoothing": 1.0}, "training.label_smoothing"),
        ({"precision": "float16"}, "training.precision: expected float32 or bfloat16"),
        ({"schedule": "linear"}, "training.schedule: expected cosine, constant or step"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        Training(**options)


def test_batches_that_do_not_fit():
    with pytest.raises(UserError, match="training.batch_size: expected a multiple of the group size 16, found 40"):
        Training(batch_size=40).run(Experiment(group_size=16), 0, progress=False)
    with pytest.raises(UserError, match="training.batch_size: expected at most 24, found 25"):
        Training(batch_size=25).run(Linear(), 0, progress=False)


def test_step_schedule_and_warm_up():
    steps = Training(learning_rate=0.4, schedule="step", milestones=(0.25, 0.5), factor=0.2)
    assert [steps.rate(p) for p in (0.0, 0.24, 0.25, 0.5, 1.0)] == pytest.approx([0.4, 0.4, 0.08, 0.016, 0.016])
    warm = Training(learning_rate=0.4, schedule="constant", epochs=10, warmup=2.0)
    assert [warm.rate(p) for p in (0.0, 0.1, 0.2, 0.9)] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    cosine = Training(learning_rate=0.4, epochs=10, warmup=2.0)
    assert [cosine.rate(p) for p in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.2, 0.4, 0.2, 0.0])


def first_step(training: Training, experiment: object) -> Tensor:
    """The gradient of the first step."""
    theta = experiment.initial(4)
    moved = training.until(experiment, 4, 1).content["theta"]
    return (theta - moved) / training.learning_rate


def test_label_smoothing_is_a_share_of_the_uniform_target():
    options = {"batch_size": 24, "weight_decay": 0.0, "momentum": 0.0}
    objective = Linear().objective()
    theta = Linear().initial(4).requires_grad_()
    weight, bias = theta[:6].view(2, 3), theta[6:]
    logs = (objective.inputs @ weight.T + bias).log_softmax(1)
    own = -logs[torch.arange(24), objective.targets].mean()
    for smoothing in (0.0, 0.3):
        loss = (1 - smoothing) * own - smoothing * logs.mean()
        (expected,) = torch.autograd.grad(loss, theta, retain_graph=True)
        found = first_step(Training(label_smoothing=smoothing, **options), Linear())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    trained = Training(label_smoothing=0.3, epochs=2, **options).run(Linear(), 4, progress=False)
    assert trained.train == objective.evaluate(trained.theta)  # the plain loss


def test_label_smoothing_wants_classes():
    with pytest.raises(UserError, match="training.label_smoothing: expected the loss cross_entropy, found another"):
        Training(label_smoothing=0.1).run(Experiment(loss="squared"), 0, progress=False)


SMALL = Experiment(network=ResNet(8, 4))


def test_augmentation_is_drawn_anew_for_every_batch_and_left_out_of_the_scores():
    augmentation = Augmentation(crop_padding=1, flip=False)
    training = Training(epochs=1, batch_size=256, augmentation=augmentation)
    found = training.until(SMALL, 2, 2).content["theta"]

    objective, order, draws = SMALL.objective(), generator(2, 1), generator(2, 2)
    theta, velocity = SMALL.initial(2), 0.0
    shuffled = torch.randperm(objective.size, generator=order)
    for i in range(2):
        batch = shuffled[i * 256 : (i + 1) * 256]
        images = augmentation(objective.inputs[batch], draws)
        objective.load(theta)
        loss = objective.loss(objective.forward(images), objective.targets[batch])
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, objective.parameters)])
        velocity = 0.9 * velocity - training.rate(i / 5) * (gradient + 1e-3 * theta)
        theta = theta + velocity
    torch.testing.assert_close(found, theta, rtol=1e-5, atol=1e-6)
    trained = training.run(SMALL, 2, progress=False)
    assert trained.train == objective.evaluate(trained.theta)


@dataclass(frozen=True)
class Colours:
    """ResNet-8 on Gaussian images of three channels, normalised in groups of 16."""

    group_size: int = 16
    system: str = "colours"

    def objective(self, split="train", *, dtype=torch.float32, mode="batch", device="cpu") -> Objective:
        g = generator(6)
        inputs, targets = torch.randn(64, 3, 8, 8, generator=g), torch.randint(0, 4, (64,), generator=g)
        module = ResNet(8, 4).build(3, 4, generator(0), (8, 8))
        return Objective(module, F.cross_entropy, inputs, targets, group_size=self.group_size, mode=mode)

    def initial(self, seed: int) -> Tensor:
        return self.objective().theta()


@pytest.mark.parametrize(("option", "bound"), [({"channels_last": True}, 1e-4), ({"precision": "bfloat16"}, 0.2)])
@pytest.mark.parametrize("size", [16, 64])
def test_layout_and_precision_change_the_rounding_alone(option, bound, size):
    """The gradient of one step, normalised in one group and in four; bfloat16 has 8 bits."""
    plain = Training(batch_size=size, weight_decay=0.0)
    expected, found = (first_step(t, Colours()) for t in (plain, replace(plain, **option)))
    assert 0 < float((found - expected).norm() / expected.norm()) < bound
    assert found.dtype == torch.float32
    if size == 64:  # another normalisation is another function, far beyond rounding
        one_group = first_step(plain, Colours(64))
        assert float((found - one_group).norm() / expected.norm()) > 2 * bound
    trained = replace(plain, epochs=1, **option).run(Colours(), 4, progress=False)
    assert trained.train == Colours().objective().evaluate(trained.theta)  # float32, in the plain layout
    assert trained.test_inference == evaluate(Colours(), trained.theta, "test", "evaluation")


def test_bfloat16_is_for_float32():
    with pytest.raises(UserError, match="training.precision: expected float64, the objective's, found 'bfloat16'"):
        Training(precision="bfloat16", batch_size=8).run(Linear(), 0, progress=False)


OPTIMIZERS = [SGD(), SGD(nesterov=True), Adam(), Adam(decoupled=True), Muon(), SOAP(precondition_every=3), KFAC()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("killed_after", [6, 8])
def test_a_killed_training_goes_on_to_the_same_numbers(optimizer, killed_after, tmp_path, monkeypatch):
    """Four steps an epoch; the state is of two steps before: of the end of an epoch, and of the middle of one."""
    if isinstance(optimizer, SOAP | KFAC):
        pytest.importorskip("pytorch_optimizer" if isinstance(optimizer, SOAP) else "curvlinops")
    augmentation = Augmentation(1, False)
    training = Training(epochs=3, batch_size=16, learning_rate=0.02, optimizer=optimizer, augmentation=augmentation)
    whole = training.run(Colours(), 1, progress=False)
    path = tmp_path / "state.safetensors"
    step, states_written = _Session._step, []

    def killed(self):
        if self.iteration == killed_after:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Session, "_step", killed)
        patch.setattr(train, "_save", partial(early, train._save, states_written, killed_after - 2))
        with pytest.raises(KeyboardInterrupt):
            training.run(Colours(), 1, progress=False, state_path=path, state_every=0.0)
    assert states_written[-1] == killed_after - 2
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(_Session, "_step", lambda self: (steps.append(self.iteration), step(self)))
        resumed = training.run(Colours(), 1, progress=False, state_path=path)
        assert steps == list(range(killed_after - 2, 12))
        again = training.run(Colours(), 1, progress=False, state_path=path)  # finished, and not yet deleted
        assert len(steps) == 14 - killed_after
    for other in (resumed, again):
        assert torch.equal(other.theta, whole.theta)
        assert other.epoch_loss.tolist() == whole.epoch_loss.tolist()
        assert other.test == whole.test


def early(save, written, last, path, owner, content):
    """Writes states up to the iteration `last`."""
    if content["iteration"] <= last:
        written.append(content["iteration"])
        save(path, owner, content)
    return path


def test_a_state_is_of_one_training(tmp_path):
    path = tmp_path / "state.safetensors"
    training = Training(epochs=1, batch_size=8)
    training.run(Linear(), 0, progress=False, state_path=path)
    for other, seed, experiment in [
        (replace(training, momentum=0.8), 0, Linear()),
        (training, 1, Linear()),
        (training, 0, Linear(samples=32)),
    ]:
        with pytest.raises(UserError, match=r"expected unfinished work of this configuration.*delete it"):
            other.run(experiment, seed, progress=False, state_path=path)


@pytest.mark.filterwarnings("ignore:overflow")
def test_the_last_finite_state_is_kept(tmp_path):
    """Steps that double theta's exponent overflow after an epoch or more; the state before that epoch stays."""
    training = Training(epochs=50, batch_size=8, learning_rate=1e3, momentum=0.0, weight_decay=1.0, schedule="constant")
    path = tmp_path / "state.safetensors"
    with pytest.raises(UserError, match=r"found \w+ in epoch (\d+), step \d.*; the state after epoch \d+ is kept in"):
        training.run(Linear(), 2, progress=False, state_path=path)
    state = TrainingState.load(path, training.owner(Linear(), 2))
    assert state.iteration > 0
    assert state.iteration % 3 == 0
    assert torch.isfinite(state.content["theta"]).all()


# --- children of a shared state -------------------------------------------------------------------------------------


def batches_of(training: Training, experiment, monkeypatch, seed=0, **options) -> list[list[int]]:
    seen = []
    with monkeypatch.context() as patch:
        value_and_gradient = Objective.value_and_gradient

        def spy(self, theta, indices, *a, **k):
            seen.append(indices.tolist())
            return value_and_gradient(self, theta, indices, *a, **k)

        patch.setattr(Objective, "value_and_gradient", spy)
        training.run(experiment, seed, progress=False, **options)
    return seen


def images(batches: list[list[int]]) -> list[int]:
    return sorted(i for batch in batches for i in batch)


@pytest.mark.parametrize("k", [0, 2, 3, 4])
def test_children_share_everything_but_the_order_after_k(k, monkeypatch):
    """3 steps an epoch: k at the start, in the middle of an epoch, and at its end."""
    training = Training(epochs=3, batch_size=8)
    parent = batches_of(training, Linear(), monkeypatch, 0)
    shared = training.until(Linear(), 0, k)
    children = [batches_of(training, Linear(), monkeypatch, seed, shared=shared) for seed in (1, 2, 1)]
    assert children[0] == children[2]
    assert children[0] != children[1] != parent[k:] != children[0]
    for child in children:
        assert len(child) == 9 - k
        # An epoch that was begun is finished with the images that were left of it.
        left = (-k) % 3
        assert images(child[:left]) == images(parent[k : k + left])
        assert all(images(child[i : i + 3]) == list(range(24)) for i in range(left, 9 - k, 3))


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_child_goes_on_with_the_parents_optimizer_and_schedule(optimizer):
    """With full batches there is no order: the child of any seed is the parent, up to the rounding of sums.

    A velocity or an average that starts anew, or a schedule that does, moves theta by more than 1e-2.
    """
    training = Training(epochs=20, batch_size=24, learning_rate=0.05, optimizer=optimizer)
    parent = training.run(Linear(), 0, progress=False)
    shared = training.until(Linear(), 0, 10)
    child = training.run(Linear(), 1, progress=False, shared=shared)
    torch.testing.assert_close(child.theta, parent.theta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(child.epoch_loss, parent.epoch_loss, rtol=1e-9)
    fresh = copy.deepcopy(shared)
    start = training.until(Linear(), 5, 0).content
    fresh.content["optimizer"] = start["optimizer"]
    assert (training.run(Linear(), 1, progress=False, shared=fresh).theta - parent.theta).norm() > 1e-2
    assert (
        replace(training, schedule="constant").run(Linear(), 0, progress=False, shared=shared).theta - parent.theta
    ).norm() > 1e-2


def test_a_shared_state_is_not_used_up_and_survives_the_disk(tmp_path):
    training = Training(epochs=2, batch_size=256)
    shared = training.until(SMALL, 0, 3)
    first = training.run(SMALL, 1, progress=False, shared=shared)
    shared.save(tmp_path / "shared.safetensors")
    loaded = TrainingState.load(tmp_path / "shared.safetensors", training.owner(SMALL, 0))
    second = training.run(SMALL, 1, progress=False, shared=loaded, state_path=tmp_path / "child.safetensors")
    assert torch.equal(first.theta, second.theta)
    # The parent goes on from it as if nothing had happened.
    whole, on = training.until(SMALL, 0, 7), training.until(SMALL, 0, 7, start=loaded)
    assert torch.equal(whole.content["theta"], on.content["theta"])
    other = training.until(SMALL, 0, 4)
    with pytest.raises(UserError, match="found that of another"):
        training.run(SMALL, 1, progress=False, shared=other, state_path=tmp_path / "child.safetensors")


def test_sharing_more_than_there_is():
    with pytest.raises(UserError, match=r"iteration: expected 0…9 of the training, found 10"):
        Training(epochs=3, batch_size=8).until(Linear(), 0, 10)
