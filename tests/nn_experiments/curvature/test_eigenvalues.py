"""Lanczos against explicit spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

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


def test_lanczos_goes_on_from_an_invariant_subspace_as_far_as_it_must() -> None:
    """The start meets two eigenvectors; of a degenerate eigenvalue no more than one could be found from it."""
    values = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0], dtype=DOUBLE)
    for top, expected in ((1, [2.0]), (2, [2.0, -1.0]), (4, [2.0, 2.0, -1.0, -1.0]), (5, values.tolist())):
        found = curvature.lanczos(lambda v: values * v, torch.ones(5, dtype=DOUBLE), 5, top)
        np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)
        np.testing.assert_allclose(found.eigenvectors @ found.eigenvectors.T, np.eye(top), atol=1e-12)
        np.testing.assert_allclose(
            found.eigenvectors * values, found.eigenvalues[:, None] * found.eigenvectors, atol=1e-12
        )
        np.testing.assert_allclose(found.residuals, 0.0, atol=1e-12)
        assert found.min_eigenvalue == pytest.approx(-1.0)
        assert found.steps == max(top, 2)
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


def test_lanczos_goes_on_until_both_ends_have_converged() -> None:
    """A well separated top and a dense bottom: 20 steps leave the bottom unconverged, the tolerance goes on."""
    values = torch.cat([torch.linspace(-1, 1, 398), torch.tensor([30.0, 40.0])]).double()
    start = torch.randn(400, generator=generator(15), dtype=DOUBLE)
    early = curvature.lanczos(lambda v: values * v, start, 12, 2)
    assert early.steps == 12
    assert early.residuals.max() < 0.01 * 30
    assert early.min_residual > 0.05
    late = curvature.lanczos(lambda v: values * v, start, 200, 2, 0.01)
    assert 12 < late.steps < 200
    assert late.min_residual <= 0.01 * abs(late.min_eigenvalue)
    assert late.min_eigenvalue == pytest.approx(-1, abs=late.min_residual)
    # Without a tolerance the first steps are the same.
    again = curvature.lanczos(lambda v: values * v, start, late.steps, 2)
    assert torch.equal(again.eigenvalues, late.eigenvalues)
    with pytest.raises(UserError, match="lanczos_tolerance: expected a number >= 0, found -1"):
        curvature.lanczos(lambda v: v, start, 3, 1, -1.0)


def test_a_long_basis_grows_and_stays_orthonormal() -> None:
    values = torch.linspace(0.5, 3, 150, dtype=DOUBLE)
    found = curvature.lanczos(lambda v: values * v, torch.ones(150, dtype=DOUBLE), 100, 90)
    gram = found.eigenvectors @ found.eigenvectors.T
    torch.testing.assert_close(gram, torch.eye(90, dtype=DOUBLE), atol=1e-10, rtol=0)


def test_largest_is_not_largest_in_modulus(case: Case) -> None:
    """Trap: on −H, where |λ_min| > λ_max, power iteration would return λ_min; and on H, for λ_min, λ_max."""
    exact = -torch.linalg.eigvalsh(case.hessian).flip(0)
    assert -exact[0] > 2 * exact[-1] > 0
    start = torch.randn(len(case.theta), generator=generator(7), dtype=DOUBLE)
    found = curvature.lanczos(lambda v: -(case.hessian @ v), start, min(80, len(start)), 1, 1e-8)
    assert float(found.eigenvalues[0]) == pytest.approx(float(exact[-1]), rel=1e-5)
    assert found.min_eigenvalue == pytest.approx(float(exact[0]), rel=1e-6)
    power = start / start.norm()
    for _ in range(2000):
        power = -(case.hessian @ power)
        power = power / power.norm()
    mutant = float(power @ -(case.hessian @ power))
    assert mutant == pytest.approx(float(exact[0]), rel=1e-2)
    assert abs(mutant - float(exact[-1])) > abs(float(exact[-1]))


def test_norm_corrected_eigenvalues_do_not_feel_the_scale(resnet: Case) -> None:
    """Trap: w → w/4 in all normalised convolutions changes λ_max, not that of S^½ H S^½, which is the explicit one."""
    objective = resnet.objective
    names = [f"{n}.weight" for n, m in objective.module.named_modules() if isinstance(m, nn.Conv2d)]
    start = torch.randn(len(resnet.theta), generator=generator(16), dtype=DOUBLE)
    corrected, raw = [], []
    for scale in (1.0, 0.25):
        theta = resnet.theta.clone()
        for name in names:
            theta[objective.blocks()[name]] *= scale
        norms = curvature.block_norms(objective, theta, names)
        operator = curvature.HessianOperator(objective, theta)
        scaled = curvature.scaled(operator, norms)
        corrected.append(curvature.lanczos(scaled, start * (norms > 0), 60, 1))
        raw.append(curvature.lanczos(operator, start, 60, 1))
    assert corrected[1].eigenvalues[0].item() == pytest.approx(corrected[0].eigenvalues[0].item(), rel=1e-2)
    assert corrected[1].min_eigenvalue == pytest.approx(corrected[0].min_eigenvalue, rel=1e-2)
    assert raw[1].eigenvalues[0].item() > 1.05 * raw[0].eigenvalues[0].item()
    root = curvature.block_norms(objective, resnet.theta, names).sqrt()
    explicit = torch.linalg.eigvalsh(root[:, None] * resnet.hessian * root)
    assert corrected[0].eigenvalues[0].item() == pytest.approx(float(explicit[-1]), rel=1e-6)


# --- spectral density -----------------------------------------------------------------------------------------------


def test_quadrature_has_the_moments_and_the_distribution_of_the_explicit_spectrum(case: Case) -> None:
    """Moments 1…4 and the cumulative distribution, within 4 standard errors over probes; the mutants, equal weights
    of all nodes, and weights τ instead of τ², are off by more than 5 in the second moment."""
    exact = torch.linalg.eigvalsh(case.hessian)
    count = 400
    probes = curvature.rademacher(count, len(case.theta), generator(17), case.theta)
    found = curvature.quadrature(lambda v: case.hessian @ v, probes, 12)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(count, dtype=DOUBLE))
    for power in (1, 2, 3, 4):
        each = (found.weights * found.nodes**power).sum(1)
        assert abs(float(each.mean()) - float((exact**power).mean())) < 4 * float(each.std()) / math.sqrt(count)
    each = (found.weights * found.nodes**2).sum(1)
    error, target = float(each.std()) / math.sqrt(count), float((exact**2).mean())
    weights = found.weights.sqrt() / found.weights.sqrt().sum(1, keepdim=True)
    for mutant in ((found.nodes**2).mean(1), (weights * found.nodes**2).sum(1)):
        assert abs(float(mutant.mean()) - target) > 5 * error
    width = 0.05 * float(exact[-1] - exact[0])
    grid = torch.linspace(float(exact[0]) - 4 * width, float(exact[-1]) + 4 * width, 400, dtype=DOUBLE)
    values, errors = curvature.density(found, grid, width)
    smooth = torch.exp(-0.5 * ((grid[:, None] - exact) / width) ** 2).mean(1) / (width * math.sqrt(2 * math.pi))
    spacing = float(grid[1] - grid[0])
    assert float(values.sum()) * spacing == pytest.approx(1, abs=1e-4)
    difference = (torch.cumsum(values - smooth, 0) * spacing).abs().max()
    assert float(difference) < 0.02
    near = (values - smooth).abs() < 4.5 * errors + 0.02 * smooth.max()
    assert bool(near.all())


def test_errors_of_the_density_are_those_of_independent_repeats(mlp: Case) -> None:
    exact = torch.linalg.eigvalsh(mlp.hessian)
    at, width = exact[[0, -1]], 0.1 * float(exact[-1] - exact[0])
    found = []
    for i in range(60):
        probes = curvature.rademacher(6, len(mlp.theta), generator(18, i), mlp.theta)
        found.append(curvature.density(curvature.quadrature(lambda v: mlp.hessian @ v, probes, 10), at, width))
    scatter = torch.stack([d for d, _ in found]).std(0)
    stated = torch.stack([e for _, e in found]).square().mean(0).sqrt()
    torch.testing.assert_close(stated, scatter, rtol=0.35, atol=0)


def test_quadrature_refuses_more_steps_than_parameters() -> None:
    with pytest.raises(UserError, match="spectrum_steps: expected 1…3, found 4"):
        curvature.quadrature(torch.clone, torch.ones(1, 3), 4)
