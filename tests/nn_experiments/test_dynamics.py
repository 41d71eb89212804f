"""SGD, its constraint and the gradient flow on quadratics, where every step is known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from entropy_sim.errors import UserError
from nn_experiments.dynamics import (
    Trajectory,
    check_step,
    full_batch_trajectory,
    gradient_flow,
    sgd,
    stability_limit,
    stages_for,
)
from nn_experiments.objective import Objective

DOUBLE = torch.float64
HESSIAN = torch.diag(torch.tensor([5.0, 1.0, 0.2], dtype=DOUBLE)) + 0.1
START = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
TANGENT = torch.tensor([2.0, 1.0, -2.0], dtype=DOUBLE) / 3


def quadratic(theta: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * theta @ HESSIAN @ theta, HESSIAN @ theta


def after(trajectory: Trajectory, steps: int) -> Tensor:
    return next(islice(trajectory, steps, None))[0].clone()


def test_heavy_ball_with_weight_decay_follows_its_recursion() -> None:
    found = after(sgd(quadratic, START.clone(), learning_rate=0.1, momentum=0.8, weight_decay=0.3), 7)
    theta, velocity = START.clone(), torch.zeros(3, dtype=DOUBLE)
    for _ in range(7):
        velocity = 0.8 * velocity - 0.1 * (HESSIAN @ theta + 0.3 * theta)
        theta = theta + velocity
    torch.testing.assert_close(found, theta)


def test_the_update_is_projected_after_momentum() -> None:
    found = after(sgd(quadratic, START.clone(), learning_rate=0.1, momentum=0.8, tangent=TANGENT), 7)
    theta, velocity = START.clone(), torch.zeros(3, dtype=DOUBLE)
    project = torch.eye(3, dtype=DOUBLE) - torch.outer(TANGENT, TANGENT)
    for _ in range(7):
        velocity = 0.8 * velocity - 0.1 * HESSIAN @ theta
        theta = theta + project @ velocity
    torch.testing.assert_close(found, theta)


def test_the_hyperplane_is_never_left() -> None:
    for trajectory in (
        sgd(quadratic, START.clone(), learning_rate=0.2, momentum=0.5, weight_decay=0.1, tangent=TANGENT),
        gradient_flow(quadratic, START.clone(), step=3.0, stages=5, weight_decay=0.1, tangent=TANGENT),
    ):
        assert float((after(trajectory, 40) - START) @ TANGENT) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("stages", [1, 2, 5, 9])
def test_flow_step_is_the_damped_chebyshev_polynomial(stages: int) -> None:
    """One step multiplies a mode by T_s(w0 − w1 h λ)/T_s(w0); for one stage by 1 − h λ, a step of gradient descent."""
    step = 0.3
    found = after(gradient_flow(quadratic, START.clone(), step=step, stages=stages), 1)
    chebyshev = np.polynomial.Chebyshev.basis(stages)
    w0 = 1 + 1 / stages**2
    w1 = chebyshev(w0) / chebyshev.deriv()(w0)
    values, frame = torch.linalg.eigh(HESSIAN)
    factors = 1 - step * values if stages == 1 else torch.as_tensor(chebyshev(w0 - w1 * step * values.numpy()))
    expected = frame @ ((factors / (1 if stages == 1 else chebyshev(w0))) * (frame.T @ START))
    torch.testing.assert_close(found, expected)


def test_flow_converges_to_the_exact_flow_at_first_order() -> None:
    exact = torch.linalg.matrix_exp(-2.0 * HESSIAN) @ START
    errors = [
        float((after(gradient_flow(quadratic, START.clone(), step=2.0 / n, stages=4), n) - exact).norm())
        for n in (16, 32, 64)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 1) < 0.2)


@pytest.mark.parametrize("stages", [2, 4, 9])
def test_flow_is_stable_and_damped_up_to_its_limit(stages: int) -> None:
    """Beyond 1.25 stages² every stiff mode keeps less than half of itself; just beyond the limit it grows."""
    limit = stability_limit(stages)
    assert limit / stages**2 == pytest.approx(1.25, abs=0.25)
    chebyshev = np.polynomial.Chebyshev.basis(stages)
    w0 = 1 + 1 / stages**2
    w1 = chebyshev(w0) / chebyshev.deriv()(w0)
    factor = np.abs(chebyshev(w0 - w1 * np.linspace(0.6, 1, 300) * limit) / chebyshev(w0))
    assert factor.max() < 0.5
    assert abs(chebyshev(w0 - w1 * 1.2 * limit) / chebyshev(w0)) > 0.5
    assert stability_limit(1) == 2.0


def test_flow_relaxes_stiff_modes_in_few_large_steps() -> None:
    """step · λ_max = 52, 26 times the limit of gradient descent."""
    step, stages = 10.0, 7
    stiffness = step * float(torch.linalg.eigvalsh(HESSIAN)[-1])
    assert 50 < stiffness < stability_limit(stages)
    assert float(after(gradient_flow(quadratic, START.clone(), step=step, stages=stages), 12).norm()) < 1e-3


def test_a_step_that_climbs_is_done_again_with_more_stages() -> None:
    """One stage of step 10 would multiply the stiff mode by −51."""
    careless = gradient_flow(quadratic, START.clone(), step=10.0, stages=1)
    losses = [float(loss) for _, loss, _ in islice(careless, 12)]
    assert np.all(np.diff(losses) < 0)
    careful = after(gradient_flow(quadratic, START.clone(), step=10.0, stages=8), 5)
    again = after(gradient_flow(quadratic, START.clone(), step=10.0, stages=1), 5)
    torch.testing.assert_close(again, careful)


def linear_objective(scale: float) -> Objective:
    """½ of the mean square of w·x: Hessian scale² · 1 in two dimensions, for x = scale·√2 (1, 0) and (0, 1)."""
    module = nn.Linear(2, 1, bias=False).double()
    x = torch.eye(2, dtype=DOUBLE) * scale * 2**0.5
    return Objective(module, lambda f, y: 0.5 * (f - y).square().sum(-1).mean(), x, torch.zeros(2, 1, dtype=DOUBLE))


def test_stages_follow_the_curvature() -> None:
    """At 1.5 λ_max = 13.5: 13.5 h <= 2 for one stage, else about 1.25 stages² >= 13.5 h."""
    objective = linear_objective(3.0)
    theta = torch.ones(2, dtype=DOUBLE)
    assert stages_for(objective, theta, 0.148) == 1
    assert stages_for(objective, theta, 0.149) == 2
    assert stages_for(objective, theta, 5.0) == 8  # √(67.5/1.25) = 7.3


def test_full_batch_trajectory_is_sgd_or_flow() -> None:
    objective = linear_objective(1.0)
    options = {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.0}
    start = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    plain = after(full_batch_trajectory(objective, start.clone(), **options), 5)
    torch.testing.assert_close(plain, after(sgd(objective.full_value_and_gradient, start.clone(), **options), 5))
    flow = after(full_batch_trajectory(objective, start.clone(), flow_step=0.01, **options), 100)
    torch.testing.assert_close(flow, start * (1 - 0.01) ** 100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 0.0, 0.0), "learning_rate: expected a positive number, found 0.0"),
        ((float("nan"), 0.0, 0.0), "learning_rate: expected a positive number, found nan"),
        ((0.1, 1.0, 0.0), r"momentum: expected a number in \[0, 1\), found 1.0"),
        ((0.1, 0.0, -1.0), "weight_decay: expected a number >= 0, found -1.0"),
    ],
)
def test_impossible_steps_are_refused(values: tuple[float, float, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_step(*values)


def test_gradient_is_seen_before_the_step() -> None:
    trajectory = islice(sgd(quadratic, START.clone(), learning_rate=0.1), 2)
    states = [(theta.clone(), float(loss), g.clone()) for theta, loss, g in trajectory]
    torch.testing.assert_close(states[0][0], START)
    torch.testing.assert_close(states[1][0], START - 0.1 * states[0][2])
    assert states[0][1] == pytest.approx(float(quadratic(START)[0]))
