"""Linear response on the valley floor against explicit D x D matrices, on a small tanh network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy_sim.errors import UserError
from entropy_sim.theory import mean_force_curvature_proportional
from nn_experiments.curvature import HessianOperator
from nn_experiments.datasets import Digits
from nn_experiments.experiment import Experiment, squared
from nn_experiments.measurements import linear_response
from nn_experiments.measurements.linear_response import (
    LinearisedDynamics,
    LinearResponse,
    OnFloor,
    Residuals,
    valley_floor,
)
from nn_experiments.networks.mlp import MLP
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import Objective, generator

DATA = Digits(test_fraction=0.99)
SAMPLES, OUTPUTS = 8, 2


def small(hidden: int = 6) -> Objective:
    """8 samples of 3 numbers and 2 targets, in double precision; 38 parameters."""
    module = MLP(widths=(hidden,), activation="tanh").build(3, OUTPUTS, generator(0)).double()
    inputs, targets = (torch.randn(SAMPLES, n, generator=generator(n), dtype=torch.float64) for n in (3, OUTPUTS))
    return Objective(module, squared, inputs, targets)


class Case(NamedTuple):
    """Everything in the space of parameters: H, A = ∂_t H and Q as matrices."""

    objective: Objective
    begin: Tensor
    path_tangent: Tensor
    floor: OnFloor
    response: LinearResponse
    hessian: Tensor
    derivative: Tensor
    projector: Tensor


def explicit_hessian(objective: Objective, theta: Tensor) -> Tensor:
    return HessianOperator(objective, theta)(torch.eye(len(theta), dtype=theta.dtype))


@pytest.fixture(scope="module")
def case() -> Case:
    objective = small()
    begin = objective.theta()
    along = torch.randn(len(begin), generator=generator(1), dtype=torch.float64)
    along /= along.norm()
    residuals = Residuals(objective)
    floor = valley_floor(residuals, begin, along, loss=1e-20)
    t, step = floor.tangent, 1e-4
    above, below = (explicit_hessian(objective, floor.point + sign * step * t) for sign in (1, -1))
    return Case(
        objective=objective,
        begin=begin,
        path_tangent=along,
        floor=floor,
        response=LinearResponse.at(residuals, floor, step),
        hessian=explicit_hessian(objective, floor.point),
        derivative=(above - below) / (2 * step),
        projector=torch.eye(len(t), dtype=t.dtype) - torch.outer(t, t),
    )


def test_the_floor_is_a_zero_of_the_loss_in_the_plane_and_its_tangent_is_flat(case: Case) -> None:
    floor, objective = case.floor, case.objective
    assert objective.evaluate(floor.point).loss < 1e-20 < 1e-2 < objective.evaluate(case.begin).loss
    assert abs(float((floor.point - case.begin) @ case.path_tangent)) < 1e-10
    assert floor.displacement == pytest.approx(float((floor.point - case.begin).norm()))
    assert float(floor.tangent.norm()) == pytest.approx(1)
    assert float((case.hessian @ floor.tangent).norm()) < 1e-8
    assert floor.alignment == pytest.approx(float(floor.tangent @ case.path_tangent))
    # The nearest tangent of the floor: what is missing lies in the range of H.
    missing = case.path_tangent - floor.alignment * floor.tangent
    values, vectors = torch.linalg.eigh(case.hessian)
    assert float((vectors[:, values < 1e-7].T @ missing).norm()) < 1e-4 < float(missing.norm())


def test_the_jacobian_is_that_of_the_outputs(case: Case) -> None:
    residuals = Residuals(case.objective, chunk=5)
    theta, h = case.begin, 1e-6
    direction = torch.randn(len(theta), generator=generator(5), dtype=theta.dtype)
    expected = (residuals.at(theta + h * direction) - residuals.at(theta - h * direction)) / (2 * h)
    torch.testing.assert_close(residuals.jacobian(theta) @ direction, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(residuals.jacobian(theta, slice(3, 7)), residuals.jacobian(theta)[6:14])


def test_stiffness_and_slope_are_those_of_the_hessian(case: Case) -> None:
    q, response = case.projector, case.response
    values = torch.linalg.eigvalsh(case.hessian)[-response.stiffness.size :].numpy()
    np.testing.assert_allclose(np.sort(response.stiffness), values, atol=1e-9)
    expected = float(torch.trace(q @ case.derivative @ q))
    assert response.trace_slope == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 0.1


def forces_by_matrices(case: Case, covariance: Tensor, rate: float, momentum: float, steps: int) -> np.ndarray:
    """−½ Tr(A Σ_n) of (δ, v) with v ← β v − η Q (H δ + ξ), δ ← δ + v and Cov ξ given, Σ_n a 2D x 2D recursion."""
    d, q = len(case.begin), case.projector
    one = torch.eye(d, dtype=torch.float64)
    pull = -rate * q @ case.hessian
    move = torch.cat([torch.cat([one + pull, momentum * one], 1), torch.cat([pull, momentum * one], 1)])
    kick = rate**2 * q @ covariance @ q
    source = torch.cat([torch.cat([kick, kick], 1), torch.cat([kick, kick], 1)])
    sigma, found = torch.zeros(2 * d, 2 * d, dtype=torch.float64), []
    for _ in range(steps):
        found.append(float(-0.5 * (case.derivative * sigma[:d, :d]).sum()))
        sigma = move @ sigma @ move.T + source
    return np.array(found)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_label_noise_force_is_half_the_trace_of_slope_and_covariance(case: Case, momentum: float) -> None:
    rate, strength, n = 0.05 * (1 - momentum), 0.3, case.objective.size
    found = case.response.label_noise(strength, rate, momentum, 6)
    expected = forces_by_matrices(case, strength**2 / n * case.hessian, rate, momentum, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0] == 0 != found[5]


def test_without_momentum_the_sum_is_closed_and_tends_to_the_formula(case: Case) -> None:
    response, rate = case.response, 0.05
    found = response.label_noise(0.3, rate, 0.0, 400)
    shrink = (1 - rate * response.stiffness) ** (2 * 399)
    closed = -rate * 0.09 / response.samples * ((1 - shrink) / (2 - rate * response.stiffness)) @ response.slopes
    assert found[399] == pytest.approx(closed, rel=1e-9)
    # Slowly and for long, with and without momentum; the softest modes are made stiffer, or they would take for ever.
    stiff = replace(response, stiffness=response.stiffness.clip(0.3))
    for momentum in (0.0, 0.8):
        late = stiff.label_noise(0.3, 0.002 * (1 - momentum), momentum, 12000)[-1]
        expected = mean_force_curvature_proportional(response.trace_slope, 0.09 / SAMPLES, 0.002)
        assert late == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_thermal_force(case: Case, momentum: float) -> None:
    """C = 2T(1 − β)/η · 1 on the gradient; the restraint κ adds κ to every curvature but not to ∂_t H."""
    rate, restraint = 0.05, 0.7
    found = case.response.thermal(1e-3, rate, momentum, 6, restraint)
    one = torch.eye(len(case.begin), dtype=torch.float64)
    held = case._replace(hessian=case.hessian + restraint * one)
    expected = forces_by_matrices(held, 2e-3 * (1 - momentum) / rate * one, rate, momentum, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_linearised_dynamics_are_those_of_the_parameters(case: Case, batch: int | None, momentum: float) -> None:
    """δ ← δ + v, v ← β v − η Q (H_b δ − J_bᵀ ε/B) with explicit Jacobians; the force is −½ δᵀ(∂_t H)δ."""
    residuals, rate = Residuals(case.objective), 0.05
    jacobian = residuals.jacobian(case.floor.point)
    dynamics = LinearisedDynamics(case.response, rate, momentum, case.begin)
    delta, velocity, draws = torch.zeros_like(case.begin), torch.zeros_like(case.begin), generator(3)
    for _ in range(8):
        indices = None if batch is None else torch.randperm(residuals.samples, generator=draws)[:batch]
        some = torch.arange(residuals.samples) if indices is None else indices
        noise = torch.randn(len(some), OUTPUTS, generator=draws, dtype=torch.float64)
        rows = jacobian.view(SAMPLES, OUTPUTS, -1)[some].flatten(0, 1)
        gradient = rows.T @ (rows @ delta - noise.reshape(-1)) / len(some)
        velocity = momentum * velocity - rate * case.projector @ gradient
        delta = delta + velocity
        dynamics.step(noise, indices)
        expected = -0.5 * delta @ case.derivative @ delta
        torch.testing.assert_close(dynamics.force(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (Experiment(DATA, ResNet(), loss="squared"), "normalization: expected group, layer or none"),
        (Experiment(DATA, MLP(widths=(8,))), "loss: expected squared, .* found cross entropy"),
    ],
)
def test_what_has_no_explicit_jacobian_is_refused(experiment: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Residuals(experiment.objective())


def test_too_large_a_jacobian_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_response, "MOST_ENTRIES", 500)
    with pytest.raises(UserError, match="data: expected samples x outputs x parameters up to 500"):
        Residuals(small())


def test_a_network_that_cannot_fit_has_no_floor() -> None:
    objective = small(hidden=1)
    theta = objective.theta()
    tangent = torch.zeros_like(theta)
    tangent[0] = 1
    with pytest.raises(UserError, match="expected a loss below 1e-10 on the valley floor"):
        valley_floor(Residuals(objective), theta, tangent)
