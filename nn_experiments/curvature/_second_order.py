"""Convolution, linear map, batch normalisation and ReLU with short second derivatives.

torch differentiates the gradient of a batch normalisation by some thirty elementwise operations, that of a convolution
partly by convolutions with kernels as large as the image, and sends zeros through the whole network for each ReLU.
Written out by hand they need what their gradient needs, once more; everything else is left to torch. `second_order()`
swaps them in while a graph is built.

**Quadratic forms.** vᵀHv needs no product Hv. With the first derivatives along v of all values, u = dx/dε for an
operation's inputs x, and the gradient g with respect to its output y, both of which the first half of a product has,

    vᵀHv = Σ over operations of  g · ∂²y/∂x² [u, u],

since the change of y that is linear in d²x/dε² has gone into the next operation's share. While `form` is on, each of
the operations here adds its share to `total` and sends nothing back: a convolution costs three convolutions, as in a
gradient, where a product takes six. What torch's own operations send back ends in a vector r with their share vᵀr.
(The Hessian of a function of several steps: Faà di Bruno; Griewank & Walther, Evaluating Derivatives, 2008, ch. 5.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from nn_experiments.curvature._bilinear import Convolution, Linear, Pair, bilinear
from nn_experiments.curvature._normalization import normalize


class _Rectify(torch.autograd.Function):
    """y = max(x, 0): its second derivative is none, where torch's is a tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.clamp_min(x, 0)
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> Tensor | None:
        return None if g[0] is None else _RectifyGradient.apply(g[0], ctx.saved_tensors[0])


class _RectifyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        return torch.ops.aten.threshold_backward(g, y, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *u: Tensor | None) -> tuple[Tensor | None, None]:
        return None if u[0] is None else torch.ops.aten.threshold_backward(u[0], ctx.saved_tensors[0], 0), None


class _Tap(torch.autograd.Function):
    """The network's outputs f, on their way to the loss: takes in the loss's share of a form, fᵤ · ∂²ℓ/∂f² fᵤ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mode: second_order) -> Tensor:
        ctx.mode, ctx.change = mode, []
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, None]:
        if g[0] is None:
            return None, None
        if ctx.mode.form:
            # Its gradient has been differentiated before: `change` is that of the outputs.
            ctx.mode.add(g[0].double() * ctx.change.pop())
            return None, None
        return _TapGradient.apply(g[0], ctx.mode, ctx.change), None


class _TapGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, mode: second_order, change: list[Tensor]) -> Tensor:
        ctx.mode, ctx.change = mode, change
        ctx.set_materialize_grads(False)
        return g.view_as(g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *u: Tensor | None) -> tuple[Tensor | None, None, None]:
        if ctx.mode.form and u[0] is not None:
            ctx.change[:] = [u[0]]
        return u[0], None, None


class second_order(TorchFunctionMode):
    """Inside, `F.conv2d`, `F.linear`, `F.batch_norm` (unless it updates statistics) and `F.relu` are those above.

    The same object is asked for forms: inside `forms()`, differentiating the gradient of a graph built in it collects
    the shares of the operations above in `total`, float64, and gives the remainder r.
    """

    def __init__(self) -> None:
        super().__init__()
        self.form = False
        self.total: Tensor | float = 0.0
        self._ours: dict[Any, Callable[..., Tensor]] = {
            F.batch_norm: self._batch_norm,
            F.conv2d: self._conv2d,
            F.linear: self._linear,
            F.relu: _relu,
            torch.relu: _relu,
            Tensor.relu: _relu,
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._ours.get(function, function)(*args, **(kwargs or {}))

    @contextmanager
    def forms(self) -> Iterator[None]:
        """Inside, the derivative of a gradient along v adds vᵀHv − vᵀr to `total`, which begins at 0."""
        self.form, self.total = True, 0.0
        try:
            yield
        finally:
            self.form = False

    def add(self, share: Tensor) -> None:
        """Add the sum of these shares."""
        self.total = self.total + share.sum(dtype=torch.float64)

    def tap(self, outputs: Any) -> Any:
        """The network's outputs, to be given to the loss."""
        return _Tap.apply(outputs, self) if isinstance(outputs, Tensor) else outputs

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return bilinear(x, weight, bias, Linear(), self)

    def _conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or x.ndim != 4:
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        by, around, apart = ((v, v) if isinstance(v, int) else (v[0], v[1]) for v in (stride, padding, dilation))
        return bilinear(x, weight, bias, Convolution(by, around, apart, groups), self)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        given = running_mean is not None or running_var is not None
        if given if training else running_mean is None or running_var is None:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        weight = x.new_ones(x.shape[1]) if weight is None else weight
        bias = x.new_zeros(x.shape[1]) if bias is None else bias
        return normalize(x, weight, bias, running_mean, running_var, eps, self)


def _relu(x: Tensor, inplace: bool = False) -> Tensor:
    return F.relu(x, inplace=True) if inplace else _Rectify.apply(x)
