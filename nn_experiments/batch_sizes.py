"""Batch sizes looked at, under the names they were given, before the work that comes before them."""

from __future__ import annotations

from entropy_sim.errors import UserError
from nn_experiments.noise import Minibatch, Noise
from nn_experiments.objective import Objective


def check_batch(batch_size: int, objective: Objective, option: str = "path.batch_size") -> None:
    """Raises UserError, naming the `option`, unless such minibatches can be drawn from the objective's data."""
    check_noise(Minibatch(batch_size), objective, option)


def check_noise(noise: Noise, objective: Objective, option: str) -> None:
    """Raises UserError for whatever the noise refuses, with its batch size under the name of the `option`."""
    try:
        noise.check(objective)
    except UserError as error:
        unnamed = "batch_size:"
        if not str(error).startswith(unnamed):
            raise
        raise UserError(f"{option}:{str(error).removeprefix(unnamed)}") from error
