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


# --- alignment ------------------------------------------------------------------------------------------------------


def drawn(root: torch.Tensor, count: int, seed: int) -> list[torch.Tensor]:
    """Gradients of covariance root rootᵀ around 3."""
    return list(torch.randn(count, len(root), generator=generator(seed), dtype=DOUBLE) @ root.T + 3.0)


def test_alignment_against_explicit_matrices() -> None:
    """Tr(CH) Tr H/(Tr C Tr H²): 1 for C = c H, Tr(H)²/(D Tr H²) for isotropic noise, within 4 standard errors of a few
    per cent; the uncentred Tr(E[g gᵀ] H) is rejected."""
    dimension = 30
    values = torch.logspace(-2, 0.5, dimension, dtype=DOUBLE)
    frame, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator(30), dtype=DOUBLE))
    hessian = frame @ torch.diag(values) @ frame.T
    root = frame @ torch.diag(values.sqrt()) @ frame.T
    unit = torch.eye(dimension, dtype=DOUBLE)
    probes = curvature.rademacher(400, dimension, generator(31), unit)
    centre, tangent = torch.full((dimension,), 2.9, dtype=DOUBLE), unit[0]
    isotropic = float(values.sum() ** 2 / (dimension * values.square().sum()))
    for c, exact in ((0.3 * root, 1.0), (0.2 * unit, isotropic)):
        noise = curvature.gradient_noise(
            iter(drawn(c, 1000, 32)), centre, tangent, frame.T[-3:], norms=values, hessian=lambda v: hessian @ v
        )
        found = curvature.alignment(noise, lambda v: hessian @ v, probes)
        assert 0 < found.alignment.stderr < 0.1 * exact
        assert abs(found.alignment.value - exact) < 4 * found.alignment.stderr
        assert found.trace.value == pytest.approx(float(values.sum()), abs=4 * found.trace.stderr)
        assert abs(found.square_trace.value - float(values.square().sum())) < 4 * found.square_trace.stderr
        covariance = c @ c.T
        assert noise.hessian is not None
        assert noise.normalized is not None
        form = float((covariance * hessian).sum())
        assert abs(noise.hessian.value - form) < 4 * noise.hessian.stderr
        weighted = float((values * covariance.diagonal()).sum())
        assert abs(noise.normalized.value - weighted) < 4 * noise.normalized.stderr
        share = float(torch.einsum("ki,ij,kj->", frame.T[-3:], covariance, frame.T[-3:]) / covariance.trace())
        assert abs(noise.top_share.value - share) < 4 * noise.top_share.stderr
        assert noise.forms is not None
        uncentred = form + float((centre - 3) @ hessian @ (centre - 3))
        away = curvature.gradient_noise(
            iter(drawn(c, 1000, 32)), centre - 2, tangent, frame.T[-3:], hessian=lambda v: hessian @ v
        )
        assert away.hessian is not None
        assert away.hessian.value == pytest.approx(noise.hessian.value, rel=1e-9)
        assert away.forms is not None
        assert abs(float(away.forms.mean()) - uncentred) > 5 * noise.hessian.stderr


def test_error_of_the_alignment_is_that_of_independent_repeats() -> None:
    dimension = 12
    values = torch.logspace(-1, 0.3, dimension, dtype=DOUBLE)
    found = []
    for i in range(200):
        noise = curvature.gradient_noise(
            iter(drawn(torch.diag(values**0.7), 80, 100 + i)),
            torch.full((dimension,), 3.0, dtype=DOUBLE),
            torch.eye(dimension, dtype=DOUBLE)[0],
            torch.eye(dimension, dtype=DOUBLE)[-2:],
            hessian=lambda v: values * v,
        )
        gaussian = torch.randn(60, dimension, generator=generator(33, i), dtype=DOUBLE)
        found.append((noise.top_share, curvature.alignment(noise, lambda v: values * v, gaussian).alignment))
    for estimates in zip(*found, strict=True):
        scatter = np.std([e.value for e in estimates], ddof=1)
        assert math.sqrt(np.mean([e.stderr**2 for e in estimates])) == pytest.approx(scatter, rel=0.2)


def test_alignment_needs_the_hessian() -> None:
    zero = torch.randn(3, 4, generator=generator(34), dtype=DOUBLE)
    noise = curvature.gradient_noise(iter(zero), zero[0], zero[0], zero[:1])
    with pytest.raises(UserError, match="noise: expected one measured with the Hessian, found one without"):
        curvature.alignment(noise, lambda v: v, zero)
