"""Training a network by minibatch SGD on the experiment's objective."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from entropy_sim.errors import UserError, require
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.objective import Evaluation, Objective, generator


@dataclass(frozen=True)
class Trained:
    """A minimum: theta (D,), what it scores, and the loss of the minibatches and learning rate of each epoch.

    train, test: in batch-statistics mode, the mode of training; test_inference: standard inference, with the running
    statistics estimated on the training set.
    """

    theta: Tensor
    seed: int
    train: Evaluation
    test: Evaluation
    test_inference: Evaluation
    epoch_loss: np.ndarray
    learning_rates: np.ndarray


@dataclass(frozen=True)
class Training:
    """Heavy-ball SGD, v ← momentum v − lr (∇L_B + weight_decay θ), θ ← θ + v, reshuffled every epoch.

    The learning rate follows a half cosine from `learning_rate` to 0 over the run, or stays "constant". Weight decay
    acts on all parameters. A last incomplete batch of an epoch is left out (its images change with each epoch).

    Weight decay only helps to choose the minima: path finding and measurements are of the loss alone unless their own
    `weight_decay` says otherwise, and the ends of the path are points of small, not of zero, gradient (λ‖θ‖ at most).
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "training.epochs", "a number >= 1", self.epochs)
        require(self.batch_size >= 1, "training.batch_size", "a number >= 1", self.batch_size)
        require(0 < self.learning_rate < math.inf, "training.learning_rate", "a positive number", self.learning_rate)
        require(0 <= self.momentum < 1, "training.momentum", "a number in 0…1, below 1", self.momentum)
        require(0 <= self.weight_decay < math.inf, "training.weight_decay", "a number >= 0", self.weight_decay)
        require(self.schedule in ("cosine", "constant"), "training.schedule", "cosine or constant", self.schedule)

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in 0…1 of the run."""
        if self.schedule == "constant":
            return self.learning_rate
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * progress))

    def run(self, experiment: AnyExperiment, seed: int, progress: bool = True) -> Trained:
        """Train from the initial parameters of `seed`; the same seed gives the same numbers on one CPU thread.

        Raises UserError if the loss stops being finite (saying where) or a batch is not a whole number of groups.
        """
        objective = experiment.objective()
        group = objective.group_size or 1
        require(
            self.batch_size % group == 0,
            "training.batch_size",
            f"a multiple of the group size {group}",
            self.batch_size,
        )
        require(self.batch_size <= objective.size, "training.batch_size", f"at most {objective.size}", self.batch_size)
        theta = experiment.initial(seed).to(objective.device, objective.dtype)
        velocity = torch.zeros_like(theta)
        order = generator(seed, 1)
        epoch_loss = np.empty(self.epochs)
        bar = tqdm(total=self.epochs, desc=f"training, seed {seed}", disable=None if progress else True, leave=False)
        with bar:
            for epoch in range(self.epochs):
                losses = self._epoch(objective, theta, velocity, order, epoch)
                epoch_loss[epoch] = losses.mean()
                if not np.isfinite(epoch_loss[epoch]):
                    step = int(np.flatnonzero(~np.isfinite(losses))[0])
                    raise UserError(
                        f"training.learning_rate: expected a finite loss, found {losses[step]} in epoch {epoch + 1}, "
                        f"step {step + 1} (seed {seed}, learning rate {self.learning_rate:g}, batch {self.batch_size})"
                    )
                bar.set_postfix(loss=f"{epoch_loss[epoch]:.2g}")
                bar.update()
        return Trained(
            theta=theta.cpu(),
            seed=seed,
            train=objective.evaluate(theta),
            test=evaluate(experiment, theta, "test", "batch"),
            test_inference=evaluate(experiment, theta, "test", "evaluation"),
            epoch_loss=epoch_loss,
            learning_rates=np.array([self.rate(epoch / self.epochs) for epoch in range(self.epochs)]),
        )

    def _epoch(
        self, objective: Objective, theta: Tensor, velocity: Tensor, order: torch.Generator, epoch: int
    ) -> np.ndarray:
        losses = []
        batches = list(self._batches(objective, order))
        for i, batch in enumerate(batches):
            rate = self.rate((epoch + i / len(batches)) / self.epochs)
            loss, gradient = objective.value_and_gradient(theta, batch)
            gradient.add_(theta, alpha=self.weight_decay)
            velocity.mul_(self.momentum).sub_(gradient, alpha=rate)
            theta.add_(velocity)
            losses.append(loss)
        return torch.stack(losses).double().cpu().numpy()

    def _batches(self, objective: Objective, order: torch.Generator) -> Iterator[Tensor]:
        shuffled = torch.randperm(objective.size, generator=order).to(objective.device)
        for start in range(0, objective.size - self.batch_size + 1, self.batch_size):
            yield shuffled[start : start + self.batch_size]
