"""Gradient noise against the covariance of all batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments import curvature
from nn_experiments.noise import Minibatch
from nn_experiments.objective import Objective, generator
from tests.nn_experiments.curvature.cases import DOUBLE, mlp_objective


def enumerated(objective: Objective, theta: torch.Tensor, size: int) -> torch.Tensor:
    """The gradient of every batch of `size` samples, (batches, D)."""
    batches = itertools.combinations(range(objective.size), size)
    return torch.stack([objective.value_and_gradient(theta, torch.tensor(b))[1].clone() for b in batches])


def test_noise_is_the_covariance_of_all_batches_with_the_finite_population_factor() -> None:
    objective = mlp_objective(8)
    theta, size, number = objective.theta(), 3, objective.size
    every = enumerated(objective, theta, size)
    covariance = torch.cov(every.T, correction=0)
    per_sample = torch.cov(enumerated(objective, theta, 1).T, correction=0)
    factor = (number - size) / (number - 1)
    torch.testing.assert_close(covariance, factor * per_sample / size)

    tangent = torch.nn.functional.normalize(torch.ones_like(theta), dim=0)
    vectors = torch.linalg.eigh(covariance).eigenvectors.T[-3:]
    centre = objective.full_value_and_gradient(theta)[1].clone()
    everything = curvature.gradient_noise(iter(every), centre + 0.3, tangent, vectors)
    unbiased = len(every) / (len(every) - 1)
    assert everything.trace.value == pytest.approx(unbiased * float(covariance.trace()), rel=1e-9)
    transverse = float(covariance.trace() - tangent @ covariance @ tangent)
    assert everything.transverse.value == pytest.approx(unbiased * transverse, rel=1e-9)
    along = torch.einsum("ki,ij,kj->k", vectors, covariance, vectors)
    torch.testing.assert_close(everything.eigenvalues, unbiased * along)

    draws, noise = generator(12), Minibatch(size)
    drawn = curvature.gradient_noise(
        (noise.gradient(objective, theta, draws)[1] for _ in range(3000)), centre, tangent, vectors
    )
    exact = float(covariance.trace())
    assert abs(drawn.trace.value - exact) < 4 * drawn.trace.stderr
    assert abs(drawn.trace.value - exact / factor) > 5 * drawn.trace.stderr  # mutant: without (N − B)/(N − 1)
    assert abs(drawn.transverse.value - transverse) < 4 * drawn.transverse.stderr
    assert torch.all((drawn.eigenvalues - along).abs() < 4 * drawn.eigenvalue_stderrs)


def test_noise_error_bars_are_those_of_independent_repeats() -> None:
    draws = generator(13)
    scale = torch.tensor([3.0, 1.0, 0.5, 0.1], dtype=DOUBLE)
    tangent, vectors = torch.eye(4, dtype=DOUBLE)[1], torch.eye(4, dtype=DOUBLE)[:1]
    found = []
    for _ in range(300):
        sample = torch.randn(25, 4, generator=draws, dtype=DOUBLE) * scale + 7.0
        found.append(curvature.gradient_noise(iter(sample), torch.full((4,), 6.5).double(), tangent, vectors))
    for values, stderrs, exact in (
        ([n.trace.value for n in found], [n.trace.stderr for n in found], 10.26),
        ([n.transverse.value for n in found], [n.transverse.stderr for n in found], 9.26),
        ([float(n.eigenvalues[0]) for n in found], [float(n.eigenvalue_stderrs[0]) for n in found], 9.0),
    ):
        scatter = np.std(values, ddof=1)
        assert abs(np.mean(values) - exact) < 4 * scatter / math.sqrt(300)
        assert math.sqrt(np.mean(np.square(stderrs))) == pytest.approx(scatter, rel=0.15)


def test_noise_needs_two_batches() -> None:
    zero = torch.zeros(3)
    with pytest.raises(UserError, match="noise_batches: expected at least 2, found 1"):
        curvature.gradient_noise(iter([zero]), zero, zero, zero[None])
