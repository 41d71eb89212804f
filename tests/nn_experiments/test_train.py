from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments.experiment import Experiment, evaluate
from nn_experiments.objective import Objective, generator
from nn_experiments.train import Training


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "training.epochs: expected a number >= 1"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"learning_rate": 0.0}, "training.learning_rate: expected a positive number"),
        ({"momentum": 1.0}, "training.momentum"),
        ({"weight_decay": -1.0}, "training.weight_decay"),
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
