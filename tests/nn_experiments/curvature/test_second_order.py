"""Hand-written second derivatives against torch's own, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nn_experiments.curvature._second_order import second_order
from nn_experiments.objective import generator

DOUBLE = torch.float64
Function = Callable[..., Tensor]


def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)


CASES: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, 1, 1), [(3, 2, 5, 4), (4, 2, 3, 3), (4,)]),
    "no bias, strides": (lambda x, w: F.conv2d(x, w, None, (2, 1), 1), [(3, 2, 5, 4), (4, 2, 3, 3)]),
    "groups, dilation": (lambda x, w: F.conv2d(x, w, None, 1, 2, 2, 2), [(2, 4, 6, 6), (6, 2, 3, 3)]),
    "named padding": (lambda x, w: F.conv2d(x, w, padding="same"), [(2, 2, 4, 4), (3, 2, 3, 3)]),
    "BatchNorm of images": (normalize, [(4, 3, 3, 2), (3,), (3,)]),
    "BatchNorm of vectors": (normalize, [(6, 3), (3,), (3,)]),
    "BatchNorm, not affine": (lambda x: F.batch_norm(x, None, None, training=True), [(4, 3, 3, 2)]),
    "both": (lambda x, w, g, b: torch.relu(normalize(F.conv2d(x, w), g, b)), [(4, 2, 4, 4), (3, 2, 3, 3), (3,), (3,)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_products_with_the_second_derivative(name: str, layout: torch.memory_format) -> None:
    """Σ tanh(y c): its Hessian, over all inputs at once, times a vector that touches all of them or only one."""
    function, shapes = CASES[name]
    draws = generator(1)
    inputs = [torch.randn(s, generator=draws, dtype=DOUBLE) for s in shapes]
    if inputs[0].ndim == 4:
        inputs[0] = inputs[0].contiguous(memory_format=layout)
    inputs = [i.requires_grad_() for i in inputs]
    vectors = [torch.randn(s, generator=draws, dtype=DOUBLE) for s in shapes]
    weight = torch.randn(function(*inputs).shape, generator=draws, dtype=DOUBLE)

    def products(touched: list[int]) -> list[Tensor]:
        gradients = torch.autograd.grad(torch.tanh(function(*inputs) * weight).sum(), inputs, create_graph=True)
        return list(
            torch.autograd.grad(
                [gradients[i] for i in touched], inputs, [vectors[i] for i in touched], allow_unused=True
            )
        )

    for touched in ([*range(len(inputs))], *([i] for i in range(len(inputs)))):
        exact = products(touched)
        with second_order():
            found = products(touched)
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-10)


def test_finite_differences_agree() -> None:
    """Independent of torch's formulas."""
    inputs = [torch.randn(s, generator=generator(2), dtype=DOUBLE).requires_grad_() for s in CASES["both"][1]]
    with second_order():
        assert torch.autograd.gradgradcheck(lambda *i: torch.tanh(CASES["both"][0](*i)), inputs)


def test_other_uses_are_left_alone() -> None:
    """Running statistics are updated and used as ever; unbatched images pass."""
    x = torch.randn(4, 3, 2, 2, generator=generator(3))
    mean, variance = torch.zeros(3), torch.ones(3)
    with second_order():
        F.batch_norm(x, mean, variance, training=True)
        used = F.batch_norm(x, mean, variance, training=False)
        one = F.conv2d(x[0], torch.ones(1, 3, 1, 1))
    assert float(mean.abs().min()) > 0
    torch.testing.assert_close(used, F.batch_norm(x, mean, variance, training=False))
    torch.testing.assert_close(one[0], x[0].sum(0))
