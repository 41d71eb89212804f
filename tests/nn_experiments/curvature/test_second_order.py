"""Hand-written second derivatives against torch's own, and against finite differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nn_experiments.curvature import HessianOperator
from nn_experiments.curvature._second_order import second_order
from nn_experiments.networks.resnet import ResNet
from nn_experiments.objective import NormalizationMode, Objective, generator

DOUBLE = torch.float64
Function = Callable[..., Tensor]


def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3)


def evaluate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """BatchNorm with given statistics."""
    mean, variance = (torch.linspace(a, 2, len(weight), dtype=DOUBLE) for a in (-1, 0.5))
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=1e-3)


CASES: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, 1, 1), [(3, 2, 5, 4), (4, 2, 3, 3), (4,)]),
    "no bias, strides": (lambda x, w: F.conv2d(x, w, None, (2, 1), 1), [(3, 2, 5, 4), (4, 2, 3, 3)]),
    "groups, dilation": (lambda x, w: F.conv2d(x, w, None, 1, 2, 2, 2), [(2, 4, 6, 6), (6, 2, 3, 3)]),
    "named padding": (lambda x, w: F.conv2d(x, w, padding="same"), [(2, 2, 4, 4), (3, 2, 3, 3)]),
    "BatchNorm of images": (normalize, [(4, 3, 3, 2), (3,), (3,)]),
    "BatchNorm of vectors": (normalize, [(6, 3), (3,), (3,)]),
    "BatchNorm, not affine": (lambda x: F.batch_norm(x, None, None, training=True), [(4, 3, 3, 2)]),
    "BatchNorm, given statistics": (evaluate, [(4, 3, 3, 2), (3,), (3,)]),
    "linear map": (F.linear, [(5, 3), (4, 3), (4,)]),
    "linear map of tokens, no bias": (F.linear, [(2, 5, 3), (4, 3)]),
    "ReLU": (lambda x: F.relu(x**2 - 0.3), [(4, 3)]),
    "a weight that is computed": (lambda x, v: F.conv2d(x, v**2), [(3, 2, 4, 4), (3, 2, 3, 3)]),
    "an input used twice": (lambda x, w: F.linear(x, w) * torch.relu(F.linear(x, w)), [(5, 3), (3, 3)]),
    "both": (lambda x, w, g, b: torch.relu(normalize(F.conv2d(x, w), g, b)), [(4, 2, 4, 4), (3, 2, 3, 3), (3,), (3,)]),
}


def drawn(name: str, layout: torch.memory_format, seed: int) -> tuple[Function, list[Tensor], list[Tensor], Tensor]:
    """A case's function, random inputs of it and a vector of their shapes, and the weights c of its outputs."""
    function, shapes = CASES[name]
    draws = generator(seed)
    inputs = [torch.randn(s, generator=draws, dtype=DOUBLE) for s in shapes]
    if inputs[0].ndim == 4:
        inputs[0] = inputs[0].contiguous(memory_format=layout)
    inputs = [i.requires_grad_() for i in inputs]
    vectors = [torch.randn(s, generator=draws, dtype=DOUBLE) for s in shapes]
    return function, inputs, vectors, torch.randn(function(*inputs).shape, generator=draws, dtype=DOUBLE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_products_with_the_second_derivative(name: str, layout: torch.memory_format) -> None:
    """Σ tanh(y c): its Hessian, over all inputs at once, times a vector that touches all of them or only one."""
    function, inputs, vectors, weight = drawn(name, layout, 1)

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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_forms(name: str, layout: torch.memory_format) -> None:
    """vᵀHv of the same function, of all inputs and of each alone, the loss behind a tap and without one."""
    function, inputs, vectors, weight = drawn(name, layout, 4)
    mode = second_order()
    for tap in (mode.tap, lambda outputs: outputs):
        with mode:
            outputs = tap(function(*inputs))
            gradients = torch.autograd.grad(torch.tanh(outputs * weight).sum(), inputs, create_graph=True)
        exact = torch.autograd.grad(torch.tanh(function(*inputs) * weight).sum(), inputs, create_graph=True)
        for touched in ([*range(len(inputs))], *([i] for i in range(len(inputs)))):
            given = [vectors[i] for i in touched]
            products = torch.autograd.grad(
                [exact[i] for i in touched], inputs, given, retain_graph=True, allow_unused=True
            )
            with mode.forms():
                rest = torch.autograd.grad(
                    [gradients[i] for i in touched], inputs, given, retain_graph=True, allow_unused=True
                )
            form = float(mode.total) + sum(float((vectors[i] * rest[i]).sum()) for i in touched if rest[i] is not None)
            assert form == pytest.approx(
                sum(float((vectors[i] * products[i]).sum()) for i in touched if products[i] is not None), rel=1e-9
            )


class _Convolutions(TorchDispatchMode):
    """Counts convolutions forwards, and with respect to inputs and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.found["forwards"] += 1
        elif function is torch.ops.aten.convolution_backward.default:
            self.found.update(what for what, asked in zip(("inputs", "weights"), args[-1], strict=False) if asked)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["batch", "evaluation"])
def test_a_form_takes_three_convolutions_and_a_product_six(mode: NormalizationMode) -> None:
    """Of each of the 7 layers; the images do not change, which saves one, or three in a product. With ReLU, tap and
    linear map nothing is sent back through the network."""
    module = ResNet(8, 4).build(3, 5, generator(5))
    x, y = torch.randn(6, 3, 8, 8, generator=generator(6)), torch.arange(6) % 5
    operator = HessianOperator(Objective(module, F.cross_entropy, x, y, group_size=6, mode=mode), theta_of(module))
    vector = torch.randn(1, len(operator.theta), generator=generator(7))
    with _Convolutions() as form:
        operator.forms(vector)
    assert form.found == {"forwards": 13, "weights": 6}
    with _Convolutions() as product:
        operator(vector)
    assert product.found == {"forwards": 13, "inputs": 12, "weights": 13}


def theta_of(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


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
