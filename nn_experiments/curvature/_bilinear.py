"""Convolutions and linear maps: y = x * w + b, bilinear in x and w, with its first and second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = Sequence[int]
Mask = tuple[bool, bool, bool]


class Collector(Protocol):
    """What takes in the shares of a quadratic form, see `second_order`."""

    form: bool

    def add(self, share: Tensor) -> None:
        """Add the sum of these shares."""


class Bilinear(Protocol):
    """An operation x * w."""

    channel: int

    def apply(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """x * w + b."""

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: Mask) -> tuple[Tensor | None, ...]:
        """∂/∂x, ∂/∂w and ∂/∂b of g·(x * w + b), those that `mask` asks for."""


@dataclass(frozen=True)
class Convolution:
    """Of images, or of any number of spatial dimensions."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    channel = 1

    def apply(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        zero = [0] * len(self.stride)
        return torch.convolution(x, w, b, self.stride, self.padding, self.dilation, False, zero, self.groups)

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: Mask) -> tuple[Tensor | None, ...]:
        sizes, zero = [w.shape[0]], [0] * len(self.stride)
        return torch.ops.aten.convolution_backward(
            g, x, w, sizes, self.stride, self.padding, self.dilation, False, zero, self.groups, mask
        )


@dataclass(frozen=True)
class Linear:
    """x wᵀ over the last dimension of x."""

    channel = -1

    def apply(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    def backward(self, g: Tensor, x: Tensor, w: Tensor, mask: Mask) -> tuple[Tensor | None, ...]:
        rows = g.reshape(-1, g.shape[-1])
        return (
            g @ w if mask[0] else None,
            rows.T @ x.reshape(-1, x.shape[-1]) if mask[1] else None,
            rows.sum(0) if mask[2] else None,
        )


def bilinear(x: Tensor, w: Tensor, b: Tensor | None, operation: Bilinear, collector: Collector) -> Tensor:
    """x * w + b, to be differentiated twice."""
    return _Bilinear.apply(x, w, b, operation, collector)


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, operation: Bilinear, collector: Collector) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.operation, ctx.collector, ctx.bias = operation, collector, b is not None
        ctx.set_materialize_grads(False)
        return operation.apply(x, w, b)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g[0] is None:
            return (None,) * 5
        mask = (ctx.needs_input_grad[0], True, ctx.bias)
        return (*_BilinearGradient.apply(g[0], *ctx.saved_tensors, mask, ctx.operation, ctx.collector), None, None)


class _BilinearGradient(torch.autograd.Function):
    """(g, x, w) → ∂/∂x, ∂/∂w, ∂/∂b of g·(x * w + b): bilinear in (g, w), in (g, x), and linear in g.

    The cotangents of its backward pass are the changes of x, w and b along a vector; their share of the form along it
    is 2 g·(change of x * change of w).
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, mask: Mask, operation: Bilinear, collector: Collector
    ) -> tuple[Tensor | None, ...]:
        g = like(g, x)
        ctx.save_for_backward(g, x, w)
        ctx.inputs, ctx.operation, ctx.collector = mask[0], operation, collector
        ctx.set_materialize_grads(False)
        return operation.backward(g, x, w, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, w = ctx.saved_tensors
        of_x, of_w, of_b = cotangents
        operation, none = ctx.operation, (None,) * 3
        of_x = None if of_x is None else like(of_x, x)
        to_g = to_x = to_w = None
        if of_x is not None:
            to_g = operation.apply(of_x, w, None)
        if of_w is not None:
            more = operation.apply(x, of_w, None)
            to_g = more if to_g is None else to_g.add_(more)
        if of_b is not None:
            shape = [1] * g.ndim
            shape[operation.channel] = -1
            spread = of_b.view(shape)
            to_g = spread.expand_as(g) if to_g is None else to_g.add_(spread)
        if ctx.collector.form:
            if of_x is not None and of_w is not None:
                ctx.collector.add(2.0 * operation.backward(g, of_x, w, (False, True, False))[1].double() * of_w)
            return to_g, None, None, *none
        if ctx.inputs and of_x is not None and of_w is not None:
            to_x, to_w, _ = operation.backward(g, of_x, of_w, (True, True, False))
        elif of_x is not None:
            to_w = operation.backward(g, of_x, w, (False, True, False))[1]
        elif ctx.inputs and of_w is not None:
            to_x = operation.backward(g, x, of_w, (True, False, False))[0]
        return to_g, to_x, to_w, *none


def like(g: Tensor, x: Tensor) -> Tensor:
    """g in the memory format of x: kernels for mixed formats copy, or are slow."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return g.contiguous(memory_format=torch.channels_last)
    return g.contiguous()
