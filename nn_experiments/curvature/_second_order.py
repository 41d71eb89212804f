"""Convolution and batch normalisation with short second derivatives.

torch differentiates the gradient of a batch normalisation by some thirty elementwise operations, and that of a
convolution partly by convolutions with kernels as large as the image. Written out by hand both need what their gradient
needs, once more; everything else is left to torch. `second_order()` swaps them in while a graph is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

Pair = Sequence[int]


class _Convolve(torch.autograd.Function):
    """y = x * w (+ b), for any number of spatial dimensions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.settings, ctx.bias = settings, b is not None
        return _convolution(x, w, b, settings)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        return (*_ConvolveGradient.apply(g[0], x, w, ctx.bias, ctx.needs_input_grad[0], ctx.settings), None)


class _ConvolveGradient(torch.autograd.Function):
    """(g, x, w) → ∂/∂x, ∂/∂w, ∂/∂b of g·(x * w + b): bilinear in (g, w), in (g, x), and linear in g."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, bias: bool, inputs: bool, settings: tuple[Any, ...]
    ) -> tuple[Tensor | None, ...]:
        g = _like(g, x)
        ctx.save_for_backward(g, x, w)
        ctx.settings, ctx.inputs = settings, inputs
        ctx.set_materialize_grads(False)
        return _convolution_backward(g, x, w, settings, (inputs, True, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, w = ctx.saved_tensors
        of_x, of_w, of_b = cotangents
        of_x = None if of_x is None else _like(of_x, x)
        to_g = to_x = to_w = None
        if of_x is not None:
            to_g = _convolution(of_x, w, None, ctx.settings)
        if of_w is not None:
            more = _convolution(x, of_w, None, ctx.settings)
            to_g = more if to_g is None else to_g.add_(more)
        if of_b is not None:
            spread = of_b.view(1, -1, *[1] * (g.ndim - 2))
            to_g = spread.expand_as(g) if to_g is None else to_g.add_(spread)
        if ctx.inputs and of_x is not None and of_w is not None:
            to_x, to_w, _ = _convolution_backward(g, of_x, of_w, ctx.settings, (True, True, False))
        elif of_x is not None:
            to_w = _convolution_backward(g, of_x, w, ctx.settings, (False, True, False))[1]
        elif ctx.inputs and of_w is not None:
            to_x = _convolution_backward(g, x, of_w, ctx.settings, (True, False, False))[0]
        return to_g, to_x, to_w, None, None, None


def _convolution(x: Tensor, w: Tensor, b: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
    stride, padding, dilation, groups = settings
    return torch.convolution(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)


def _convolution_backward(
    g: Tensor, x: Tensor, w: Tensor, settings: tuple[Any, ...], mask: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    stride, padding, dilation, groups = settings
    sizes, zero = [w.shape[0]], [0] * len(stride)
    return torch.ops.aten.convolution_backward(g, x, w, sizes, stride, padding, dilation, False, zero, groups, mask)


class _Normalize(torch.autograd.Function):
    """y = γ x̂ + β with x̂ = (x − μ) r, r = (σ² + ε)^(−1/2), by the statistics of each channel over the batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        return (*_NormalizeGradient.apply(g[0], *ctx.saved_tensors, ctx.eps), None)


class _NormalizeGradient(torch.autograd.Function):
    """(g, x, γ) → g_x = γ r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), g_γ = Σ g x̂, g_β = Σ g; ⟨·⟩ the mean over each channel's n values.

    Its own derivative, for cotangents u of g_x, p of g_γ and q of g_β, with c = ⟨g x̂⟩, a = ⟨u x̂⟩:
        to g: γ r (u − ⟨u⟩ − x̂ a) + p x̂ + q
        to γ: n r (⟨u g⟩ − ⟨u⟩⟨g⟩ − a c)
        to x: γ r² [(3 a c − ⟨u g⟩ + ⟨u⟩⟨g⟩) x̂ − c (u − ⟨u⟩) − a (g − ⟨g⟩)] + p r (g − ⟨g⟩ − c x̂)
    The statistics are functions of x and are differentiated as such; mean and r are passed in only to be used again.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        g = _like(g, x)
        found = _normalize_backward(g, x, weight, mean, scale, eps)
        ctx.save_for_backward(g, x, weight, mean, scale, found[1], found[2])
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, scale, sum_gx, sum_g = ctx.saved_tensors
        u, p, q = cotangents
        shape = [1, -1] + [1] * (x.ndim - 2)
        number = x.numel() // x.shape[1]
        c, mean_g = sum_gx / number, sum_g / number
        p = torch.zeros_like(weight) if p is None else p
        q = torch.zeros_like(weight) if q is None else q
        if u is None:
            u = torch.zeros_like(x)
        u = _like(u, x)
        to_g, sum_ux, sum_u = _normalize_backward(u, x, weight, mean, scale, ctx.eps)
        a, mean_u = sum_ux / number, sum_u / number
        product = (u * g).sum([d for d in range(x.ndim) if d != 1]) / number
        covariance = product - mean_u * mean_g
        to_weight = number * scale * (covariance - a * c)
        factor = weight * scale.square()
        # Each is affine in x, u and g with one coefficient per channel.
        of_x = scale * (factor * (3 * a * c - covariance) - p * scale * c)
        of_g, of_u = p * scale - factor * a, -factor * c
        rest = -of_x * mean - of_g * mean_g - of_u * mean_u
        spread = [t.view(shape) for t in (of_x, of_g, of_u, rest, p * scale, q - p * scale * mean)]
        to_x = torch.addcmul(spread[3], x, spread[0]).addcmul_(g, spread[1]).addcmul_(u, spread[2])
        to_g.addcmul_(x, spread[4]).add_(spread[5])
        return to_g, to_x, to_weight, None, None, None


def _like(g: Tensor, x: Tensor) -> Tensor:
    """g in the memory format of x: kernels for mixed formats copy, or are slow."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return g.contiguous(memory_format=torch.channels_last)
    return g.contiguous()


def _normalize_backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.native_batch_norm_backward(
        g, x, weight, None, None, mean, scale, True, eps, [True, True, True]
    )


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or running_mean is not None or running_var is not None:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    bias = x.new_zeros(x.shape[1]) if bias is None else bias
    return _Normalize.apply(x, weight, bias, eps)


def _conv2d(
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
    settings = (*(tuple([v] * 2 if isinstance(v, int) else v) for v in (stride, padding, dilation)), groups)
    return _Convolve.apply(x, weight, bias, settings)


class second_order(TorchFunctionMode):
    """Inside, `F.conv2d` and training-mode `F.batch_norm` without running statistics are the functions above."""

    _ours: dict[Any, Callable[..., Tensor]] = {F.batch_norm: _batch_norm, F.conv2d: _conv2d}  # noqa: RUF012

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._ours.get(function, function)(*args, **(kwargs or {}))
