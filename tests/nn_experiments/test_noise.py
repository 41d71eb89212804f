from __future__ import annotations

import pytest
import torch
from torch import nn

from entropy_sim.errors import UserError
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective, generator


def objective(group_size: int | None) -> Objective:
    norm = nn.Identity() if group_size is None else nn.BatchNorm1d(2)
    module = nn.Sequential(nn.Linear(1, 2), norm, nn.Linear(2, 1))
    x = torch.linspace(-1, 1, 12)[:, None]
    return Objective(module, nn.functional.mse_loss, x, x**2, group_size=group_size)


def test_gradient_is_that_of_a_fresh_batch_at_each_draw() -> None:
    target, noise = objective(None), Minibatch(4)
    theta, draws, same = target.theta(), generator(0), generator(0)
    found = [noise.gradient(target, theta, draws)[1].clone() for _ in range(3)]
    for gradient in found:
        batch = torch.randperm(12, generator=same)[:4]
        torch.testing.assert_close(gradient, target.value_and_gradient(theta, batch)[1])
    assert not torch.allclose(found[0], found[1])


def test_batches_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(UserError, match="batch_size: expected a positive number, found 0"):
        Minibatch(0)
    with pytest.raises(UserError, match="batch_size: expected at most 12 samples, found 13"):
        Minibatch(13).check(objective(None))
    with pytest.raises(UserError, match="batch_size: expected a multiple of the group size 4, found 6"):
        Minibatch(6).check(objective(4))
    Minibatch(8).check(objective(4))
