"""Products with vectors against explicit matrices, in float64."""

from __future__ import annotations

import pytest
import torch

from entropy_sim.errors import UserError
from nn_experiments import curvature
from nn_experiments.objective import generator
from tests.nn_experiments.curvature.cases import DOUBLE, GROUP, Case, plain_loss


@pytest.mark.parametrize(("chunk", "kept"), [(512, 2048), (4, 2048), (8, 8), (4, 0)])
def test_products_equal_those_of_the_explicit_hessian(case: Case, chunk: int, kept: int) -> None:
    vectors = torch.randn(3, len(case.theta), generator=generator(4), dtype=DOUBLE)
    operator = curvature.HessianOperator(case.objective, case.theta, chunk=chunk, kept=kept)
    torch.testing.assert_close(operator(vectors), vectors @ case.hessian, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator(vectors[0]), case.hessian @ vectors[0], rtol=1e-9, atol=1e-11)


def test_gradient_and_loss_come_with_the_operator(case: Case) -> None:
    theta = case.theta.clone().requires_grad_()
    loss = plain_loss(case.objective, theta)
    (gradient,) = torch.autograd.grad(loss, theta)
    operator = curvature.HessianOperator(case.objective, case.theta, chunk=4, kept=8)
    assert operator.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(operator.gradient, gradient, rtol=1e-9, atol=1e-12)


def test_products_survive_a_move_of_the_objective(case: Case) -> None:
    operator = curvature.HessianOperator(case.objective, case.theta)
    case.objective.value_and_gradient(case.theta + 1.0, torch.arange(GROUP))
    torch.testing.assert_close(operator(case.tangent), case.hessian @ case.tangent, rtol=1e-9, atol=1e-11)


def test_subset_is_made_of_whole_groups(resnet: Case, mlp: Case) -> None:
    assert curvature.subset(resnet.objective, 11).tolist() == list(range(8))
    assert curvature.subset(resnet.objective, None).tolist() == list(range(16))
    assert curvature.subset(mlp.objective, 11).tolist() == list(range(11))
    with pytest.raises(UserError, match="samples: expected at least one group of 4, found 3"):
        curvature.subset(resnet.objective, 3)


def test_full_precision_is_switched_on_and_back() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with curvature.full_precision():
            assert not any(b.allow_tf32 for b in backends)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]
    assert [b.allow_tf32 for b in backends] == before
