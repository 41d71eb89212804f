"""Training a network on the experiment's objective, resumable at any step to the same numbers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from entropy_sim.errors import UserError, require
from entropy_sim.run_files import config_hash, config_json
from nn_experiments import checkpoints, states
from nn_experiments.datasets.augmentation import Augmentation
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.objective import Evaluation, Loss, generator
from nn_experiments.optimizers import SGD, AnyOptimizer, Start

#: Seconds between two writings of the state of an unfinished training.
STATE_EVERY = 30.0


@dataclass(frozen=True)
class Trained:
    """A minimum: theta (D,), what it scores, and the loss of the minibatches and learning rate of each epoch.

    train, test: in batch-statistics mode, the mode of training; test_inference: standard inference, with the running
    statistics estimated on the training set. All of the images as they are, in float32, whatever the training did.
    """

    theta: Tensor
    seed: int
    train: Evaluation
    test: Evaluation
    test_inference: Evaluation
    epoch_loss: np.ndarray
    learning_rates: np.ndarray


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands after `iteration` steps, to go on from or to branch off from.

    content: parameters, optimizer, what is left of the epoch's order of the data, random generators, losses so far.
    (Normalisation by batch statistics has no state.) owner: what it belongs to, as JSON.
    """

    iteration: int
    owner: str
    content: Any

    def save(self, path: Path | str) -> None:
        """Write to `path`, whole or not at all."""
        states.save(path, {"iteration": self.iteration, "content": self.content}, self.owner)

    @classmethod
    def load(cls, path: Path | str, owner: str) -> TrainingState:
        """Raises UserError for a damaged file, or one of another owner, and says how to go on."""
        found = states.load(path, owner)
        return cls(found["iteration"], owner, found["content"])


@dataclass(frozen=True)
class Training:
    """Minibatch training, reshuffled every epoch; by default heavy-ball SGD, v ← β v − lr (∇L_B + λ θ), θ ← θ + v.

    Weight decay acts on all parameters. A last incomplete batch of an epoch is left out (its images change with each
    epoch).

    Weight decay only helps to choose the minima: path finding and measurements are of the loss alone unless their own
    `weight_decay` says otherwise, and the ends of the path are points of small, not of zero, gradient (λ‖θ‖ at most).
    The same holds for label smoothing and augmentation: what is measured is the plain loss of the images as they are.
    """

    epochs: int = 30
    """Passes through the training data."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 0.3
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum β of SGD (other optimizers have their own)."""
    weight_decay: float = 1e-3
    """Weight decay λ."""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """Learning rate over the run: half a cosine down to 0, constant, or lowered in steps at the milestones."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of the run at which the step schedule lowers the learning rate."""
    factor: float = 0.1
    """Factor by which it does."""
    warmup: float = 0.0
    """Epochs over which the learning rate first rises linearly from 0."""
    optimizer: AnyOptimizer = field(default_factory=SGD)
    """Update rule."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes (cross-entropy only)."""
    augmentation: Augmentation | None = None
    """Random crops and mirroring of the training images; none unless asked for."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: matrix products and convolutions of the training alone, parameters and sums stay float32."""
    channels_last: bool = False
    """Keep images and activations with their channels last in memory, which many processors prefer."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "training.epochs", "a number >= 1", self.epochs)
        require(self.batch_size >= 1, "training.batch_size", "a number >= 1", self.batch_size)
        require(0 < self.learning_rate < math.inf, "training.learning_rate", "a positive number", self.learning_rate)
        require(0 <= self.momentum < 1, "training.momentum", "a number in 0…1, below 1", self.momentum)
        require(0 <= self.weight_decay < math.inf, "training.weight_decay", "a number >= 0", self.weight_decay)
        known = ("cosine", "constant", "step")
        require(self.schedule in known, "training.schedule", "cosine, constant or step", self.schedule)
        rising = all(0 < a < b for a, b in zip(self.milestones, (*self.milestones[1:], 1.0), strict=True))
        require(rising, "training.milestones", "rising numbers in 0…1", self.milestones)
        require(0 < self.factor <= 1, "training.factor", "a number in 0…1, above 0", self.factor)
        require(0 <= self.warmup < self.epochs, "training.warmup", f"0…{self.epochs} epochs", self.warmup)
        require(0 <= self.label_smoothing < 1, "training.label_smoothing", "in 0…1, below 1", self.label_smoothing)
        require(self.precision in _AUTOCAST, "training.precision", " or ".join(_AUTOCAST), self.precision)

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in 0…1 of the run."""
        warmup = self.warmup / self.epochs
        scale = self.learning_rate if progress >= warmup else self.learning_rate * progress / warmup
        if self.schedule == "constant":
            return scale
        if self.schedule == "step":
            return scale * self.factor ** sum(progress >= m for m in self.milestones)
        return 0.5 * scale * (1 + math.cos(math.pi * max(0.0, (progress - warmup) / (1 - warmup))))

    def run(
        self,
        experiment: AnyExperiment,
        seed: int,
        progress: bool = True,
        *,
        state_path: Path | str | None = None,
        shared: TrainingState | None = None,
        state_every: float = STATE_EVERY,
    ) -> Trained:
        """Train from the initial parameters of `seed`; the same seed gives the same numbers on one CPU thread.

        state_path: where the state is kept every `state_every` seconds and at the end, and gone on from if it is there
        (a name ending in .safetensors); the caller deletes it once the result is safe.
        shared: a state of `until`, of which this training is a child: it goes on from there with everything, schedule
        included, and only the randomness from there on is that of `seed`: the order of what is left of the epoch and of
        the epochs after it, and the augmentation.

        Raises UserError if the loss stops being finite (saying where; the last finite state stays at `state_path`), if
        a batch is not a whole number of groups, or if the state is damaged or of another training.
        """
        session = _Session(self, experiment, seed)
        owner = self.owner(experiment, seed, shared)
        path = None if state_path is None else Path(state_path)
        if path is not None and path.exists():
            session.restore(TrainingState.load(path, owner).content)
        elif shared is not None:
            session.branch(shared)
        bar = tqdm(
            total=self.epochs,
            initial=session.iteration // session.steps,
            desc=f"training, seed {seed}",
            disable=None if progress else True,
            leave=False,
        )
        with bar:
            session.advance(session.total, bar, None if path is None else partial(_save, path, owner), state_every)
        objective = experiment.objective()
        theta = session.theta
        return Trained(
            theta=theta.cpu(),
            seed=seed,
            train=objective.evaluate(theta),
            test=evaluate(experiment, theta, "test", "batch"),
            test_inference=evaluate(experiment, theta, "test", "evaluation"),
            epoch_loss=np.array(session.epoch_loss),
            learning_rates=np.array([self.rate(epoch / self.epochs) for epoch in range(self.epochs)]),
        )

    def until(
        self,
        experiment: AnyExperiment,
        seed: int,
        iteration: int,
        *,
        start: TrainingState | None = None,
    ) -> TrainingState:
        """The state after `iteration` steps of the training of `seed`; `start`: an earlier one, to go on from."""
        session = _Session(self, experiment, seed)
        require(0 <= iteration <= session.total, "iteration", f"0…{session.total} of the training", iteration)
        if start is not None:
            session.restore(start.content)
        session.advance(iteration)
        return TrainingState(iteration, self.owner(experiment, seed), copy.deepcopy(session.state()))

    def owner(self, experiment: AnyExperiment, seed: int, shared: TrainingState | None = None) -> str:
        """What a state belongs to, as JSON: this training, the experiment, the seed, and the parent's state."""
        try:
            what: Any = config_json(experiment)
        except TypeError:  # a user's own class: what can be told of it
            what = [experiment.system, checkpoints.architecture(experiment.objective())]
        parent = None if shared is None else [config_hash(shared.owner), shared.iteration]
        return config_json({"training": self, "experiment": what, "seed": seed, "shared": parent})


_AUTOCAST: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


def _save(path: Path, owner: str, content: Any) -> Path:
    TrainingState(content["iteration"], owner, content).save(path)
    return path


class _Session:
    """A training under way."""

    def __init__(self, training: Training, experiment: AnyExperiment, seed: int) -> None:
        self.training, self.seed = training, seed
        self.objective = objective = experiment.objective()
        group = objective.group_size or 1
        batch = training.batch_size
        require(batch % group == 0, "training.batch_size", f"a multiple of the group size {group}", batch)
        require(batch <= objective.size, "training.batch_size", f"at most {objective.size}", batch)
        self.steps = objective.size // batch
        self.total = self.steps * training.epochs
        self.theta = experiment.initial(seed).to(objective.device, objective.dtype, copy=True)
        loss = objective.loss
        self._prepare()
        self.update = training.optimizer.start(
            Start(
                objective=objective,
                theta=self.theta,
                gradient=objective.gradient_buffer,
                loss=loss,
                learning_rate=training.learning_rate,
                momentum=training.momentum,
                weight_decay=training.weight_decay,
                seed=seed,
            )
        )
        self.order, self.draws = generator(seed, 1), generator(seed, 2)
        self.iteration = 0
        self.rest = torch.empty(0, dtype=torch.int64, device=objective.device)
        self.losses: list[Tensor] = []
        self.epoch_loss: list[float] = []

    def _prepare(self) -> None:
        """Give the objective what only training has: layout, precision, smoothed labels."""
        training, objective = self.training, self.objective
        if training.channels_last and objective.inputs.dim() == 4:
            objective.inputs = objective.inputs.contiguous(memory_format=torch.channels_last)
        if training.label_smoothing:
            if objective.loss is not F.cross_entropy:
                raise UserError("training.label_smoothing: expected the loss cross_entropy, found another")
            objective.loss = partial(F.cross_entropy, label_smoothing=training.label_smoothing)
        self.reduced = _AUTOCAST[training.precision]
        if self.reduced is not None:
            found = str(objective.dtype).removeprefix("torch.")
            require(objective.dtype == torch.float32, "training.precision", f"{found}, the objective's", "bfloat16")
            objective.loss = partial(_in_full, objective.loss)

    # --- state ------------------------------------------------------------------------------------------------------

    def state(self) -> Any:
        """Everything the following steps depend on; the tensors are those in use."""
        return {
            "iteration": self.iteration,
            "theta": self.theta,
            "optimizer": self.update.state(),
            "rest": self.rest,
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "losses": torch.stack(self.losses) if self.losses else torch.empty(0),
            "epoch_loss": list(self.epoch_loss),
        }

    def restore(self, state: Any) -> None:
        state = copy.deepcopy(state)  # nobody else's tensors
        device = self.objective.device
        self.iteration = state["iteration"]
        self.theta.copy_(state["theta"])
        self.update.load(state["optimizer"])
        self.rest = state["rest"].to(device)
        self.order.set_state(state["order"].cpu())
        self.draws.set_state(state["draws"].cpu())
        self.losses = list(state["losses"].to(device).unbind())
        self.epoch_loss = list(state["epoch_loss"])

    def branch(self, shared: TrainingState) -> None:
        """Go on from a parent's state with this seed's own randomness."""
        self.restore(shared.content)
        self.order = generator(self.seed, 1, shared.iteration)
        self.draws = generator(self.seed, 2, shared.iteration)
        self.rest = self.rest[torch.randperm(len(self.rest), generator=self.order).to(self.rest.device)]

    # --- steps ------------------------------------------------------------------------------------------------------

    def advance(
        self,
        until: int,
        bar: tqdm | None = None,
        save: Callable[[Any], Path] | None = None,
        save_every: float = STATE_EVERY,
    ) -> None:
        """Steps up to iteration `until`. The losses are read once an epoch, so that a GPU need not wait for us."""
        good: Any = None
        written = time.monotonic()
        while self.iteration < until:
            if self.iteration % self.steps == 0:
                if save is not None:
                    good = copy.deepcopy(self.state())
                order = torch.randperm(self.objective.size, generator=self.order)
                self.rest = order.to(self.objective.device)
            self._step()
            ended = self.iteration % self.steps == 0
            due = save is not None and time.monotonic() - written >= save_every
            if ended or due or self.iteration == until:
                self._check(good, save)
            if ended:
                self.epoch_loss.append(float(_numbers(self.losses).mean()))
                self.losses = []
                if bar is not None:
                    bar.set_postfix(loss=f"{self.epoch_loss[-1]:.2g}")
                    bar.update()
            if save is not None and (due or self.iteration == until):
                save(self.state())
                written = time.monotonic()

    def _step(self) -> None:
        training, objective = self.training, self.objective
        epoch, i = divmod(self.iteration, self.steps)
        rate = training.rate((epoch + i / self.steps) / training.epochs)
        batch, self.rest = self.rest[: training.batch_size], self.rest[training.batch_size :]
        inputs = objective.inputs[batch]
        if training.augmentation is not None:
            inputs = training.augmentation(inputs, self.draws)
        with self._arithmetic():
            loss, gradient = objective.value_and_gradient(self.theta, batch, inputs=inputs)
        self.update.step(self.theta, gradient, rate, lambda: (inputs, objective.targets[batch]))
        self.losses.append(loss)
        self.iteration += 1

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.reduced is None else torch.autocast(self.objective.device.type, self.reduced)

    def _check(self, good: Any, save: Callable[[Any], Path] | None) -> None:
        """Raise UserError if a loss of this epoch is not finite; the state at the epoch's start is kept."""
        losses = _numbers(self.losses)
        lost = np.flatnonzero(~np.isfinite(losses))
        epoch, step = divmod(self.iteration - 1, self.steps)
        if lost.size:
            found, where = float(losses[lost[0]]), f"in epoch {epoch + 1}, step {lost[0] + 1}"
        else:
            found, where = self._loss_after(), f"after epoch {epoch + 1}, step {step + 1}"
            if math.isfinite(found):
                return
        training = self.training
        kept = ""
        if save is not None and good is not None:
            kept = f"; the state after epoch {epoch} is kept in {save(good)}"
        raise UserError(
            f"training.learning_rate: expected a finite loss, found {found} {where} (seed {self.seed}, "
            f"learning rate {training.learning_rate:g}, batch {training.batch_size}){kept}"
        )

    def _loss_after(self) -> float:
        """What the losses, each taken before its step, cannot tell: nan if the last step spoilt the parameters, and the
        loss of all samples once no step follows; 0 otherwise."""
        if not bool(torch.isfinite(self.theta).all()):
            return math.nan
        return self.objective.evaluate(self.theta).loss if self.iteration == self.total else 0.0


def _numbers(losses: list[Tensor]) -> np.ndarray:
    return torch.stack(losses).double().cpu().numpy()


def _in_full(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss itself in single precision."""
    return loss(outputs.float(), targets)
