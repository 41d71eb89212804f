"""Lanczos against explicit spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments import curvature
from nn_experiments.objective import generator
from tests.nn_experiments.curvature.cases import DOUBLE, Case


def test_lanczos_finds_both_ends_with_their_signs() -> None:
    """Power iteration would return −5, the eigenvalue of largest modulus, for λ_max."""
    values = torch.cat([torch.tensor([-5.0, 3.0, 2.5]), torch.linspace(-1, 1, 37)]).double()
    frame, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator(5), dtype=DOUBLE))
    matrix = frame @ torch.diag(values) @ frame.T
    start = torch.randn(40, generator=generator(6), dtype=DOUBLE)
    found = curvature.lanczos(lambda v: matrix @ v, start, 25, 2)
    np.testing.assert_allclose(found.eigenvalues, [3.0, 2.5], atol=1e-6)
    assert found.min_eigenvalue == pytest.approx(-5.0, abs=1e-6)
    for value, vector, residual in zip(found.eigenvalues, found.eigenvectors, found.residuals, strict=True):
        assert float((matrix @ vector - value * vector).norm()) == pytest.approx(float(residual), abs=1e-9)
    assert found.residuals.max() < 1e-3


def test_an_early_lanczos_states_its_error() -> None:
    values = torch.linspace(0, 1, 200, dtype=DOUBLE) ** 2
    found = curvature.lanczos(lambda v: values * v, torch.ones(200, dtype=DOUBLE), 8, 3)
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert residual > 1e-4
        assert float((values - value).abs().min()) <= float(residual)


def test_lanczos_ends_at_an_invariant_subspace() -> None:
    values = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0], dtype=DOUBLE)
    found = curvature.lanczos(lambda v: values * v, torch.ones(5, dtype=DOUBLE), 5, 4)
    np.testing.assert_allclose(found.eigenvalues, [2.0, -1.0], atol=1e-12)
    zero = curvature.lanczos(torch.zeros_like, torch.ones(5, dtype=DOUBLE), 3, 1)
    assert zero.eigenvalues.tolist() == [0.0]


def test_lanczos_on_networks(case: Case) -> None:
    exact = torch.linalg.eigvalsh(case.hessian)
    assert exact[0] < -1e-4  # negative curvature, or the sign would not be tested
    operator = curvature.HessianOperator(case.objective, case.theta)
    start = torch.randn(len(case.theta), generator=generator(7), dtype=DOUBLE)
    found = curvature.lanczos(operator, start, min(60, len(case.theta)), 3)
    np.testing.assert_allclose(found.eigenvalues, exact.flip(0)[:3], rtol=1e-6)
    assert found.min_eigenvalue == pytest.approx(float(exact[0]), rel=1e-5)


def test_lanczos_refuses_more_than_there_is() -> None:
    with pytest.raises(UserError, match="lanczos_steps: expected 1…3, found 4"):
        curvature.lanczos(torch.clone, torch.ones(3), 4, 1)
    with pytest.raises(UserError, match="eigenvalues: expected 1…2, found 3"):
        curvature.lanczos(torch.clone, torch.ones(3), 2, 3)
