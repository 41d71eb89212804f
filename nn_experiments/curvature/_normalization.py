"""Batch normalisation, by the statistics of the batch or by given ones, with its first and second derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nn_experiments.curvature._bilinear import Collector, like


def normalize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    eps: float,
    collector: Collector,
) -> Tensor:
    """BatchNorm of x, to be differentiated twice; mean and variance None: those of the batch."""
    return _Normalize.apply(x, weight, bias, mean, variance, eps, collector)


class _Normalize(torch.autograd.Function):
    """y = γ x̂ + β with x̂ = (x − μ) r, r = (σ² + ε)^(−1/2), for each channel; μ and σ² of the batch, or constants."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        eps: float,
        collector: Collector,
    ) -> Tensor:
        ctx.whole, ctx.eps, ctx.collector = mean is None, eps, collector
        y, batch_mean, scale = torch.native_batch_norm(x, weight, bias, mean, variance, ctx.whole, 0.0, eps)
        if mean is not None and variance is not None:
            batch_mean, scale = mean, (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, batch_mean, scale)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g[0] is None:
            return (None,) * 7
        found = _NormalizeGradient.apply(g[0], *ctx.saved_tensors, ctx.whole, ctx.eps, ctx.collector)
        return (*found, None, None, None, None)


class _NormalizeGradient(torch.autograd.Function):
    """(g, x, γ) → g_x = γ r (g − ⟨g⟩ − x̂ ⟨g x̂⟩), g_γ = Σ g x̂, g_β = Σ g; ⟨·⟩ the mean over each channel's n values.

    Its own derivative, for cotangents u of g_x, p of g_γ and q of g_β, with c = ⟨g x̂⟩, a = ⟨u x̂⟩ and
    k = ⟨u g⟩ − ⟨u⟩⟨g⟩:
        to g: γ r (u − ⟨u⟩ − x̂ a) + p x̂ + q
        to γ: n r (k − a c)
        to x: γ r² [(3 a c − k) x̂ − c (u − ⟨u⟩) − a (g − ⟨g⟩)] + p r (g − ⟨g⟩ − c x̂)
    and the share of the quadratic form along (u, p, q), with v = ⟨u²⟩ − ⟨u⟩²:
        n [2 r (p − γ r a) (k − a c) − γ r² (v − a²) c]
    The statistics are functions of x and are differentiated as such; mean and r are passed in only to be used again.
    Where they are constants: g_x = γ r g, to g: γ r u + p x̂ + q, to γ: n r ⟨u g⟩, to x: p r g, form: 2 n r p ⟨u g⟩.
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        whole: bool,
        eps: float,
        collector: Collector,
    ) -> tuple[Tensor, ...]:
        g = like(g, x)
        if whole:
            found = torch.ops.aten.native_batch_norm_backward(
                g, x, weight, None, None, mean, scale, True, eps, [True, True, True]
            )
        else:
            found = (g * _spread(weight * scale, x), *_sums(g, x, mean, scale))
        ctx.save_for_backward(g, x, weight, mean, scale, found[1], found[2])
        ctx.whole, ctx.collector = whole, collector
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, scale, sum_gx, sum_g = ctx.saved_tensors
        u, p, q = cotangents
        number, none = x.numel() // x.shape[1], (None,) * 5
        zero = torch.zeros_like(weight)
        p, q = (zero if t is None else t for t in (p, q))
        u = torch.zeros_like(x) if u is None else like(u, x)
        one = torch.ones_like(scale)
        if not ctx.whole:
            product, _ = _sums(u, g, zero, one)
            to_g = _affine(weight * scale, u, p * scale, x, q - p * scale * mean)
            if ctx.collector.form:
                ctx.collector.add(2.0 * scale * p * product)
                return to_g, None, None, *none
            return to_g, g * _spread(p * scale, x), scale * product, *none
        c, mean_g = sum_gx / number, sum_g / number
        sum_ux, sum_u = _sums(u, x, mean, scale)
        a, mean_u = sum_ux / number, sum_u / number
        k = _sums(u, g, mean_g, one)[0] / number
        factor = weight * scale
        of_x = scale * (p - factor * a)
        to_g = _affine(factor, u, of_x, x, q - factor * mean_u - of_x * mean)
        if ctx.collector.form:
            v = _sums(u, u, mean_u, one)[0] / number
            ctx.collector.add(number * (2 * of_x * (k - a * c) - factor * scale * (v - a * a) * c))
            return to_g, None, None, *none
        # Affine in x, u and g with one coefficient per channel.
        of_xx = scale * (factor * scale * (3 * a * c - k) - p * scale * c)
        of_u = -factor * scale * c
        to_x = _affine(of_u, u, of_xx, x, -of_xx * mean - of_x * mean_g - of_u * mean_u)
        to_x.addcmul_(g, _spread(of_x, x))
        return to_g, to_x, number * scale * (k - a * c), *none


def _sums(u: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Σ u (x − mean) scale and Σ u over each channel, in one pass that writes nothing."""
    return torch.ops.aten.native_batch_norm_backward(
        u, x, scale, None, None, mean, scale, True, 0.0, [False, True, True]
    )[1:]


def _affine(of_u: Tensor, u: Tensor, of_x: Tensor, x: Tensor, constant: Tensor) -> Tensor:
    """of_u u + of_x x + constant with one coefficient per channel."""
    return torch.addcmul(_spread(constant, x), x, _spread(of_x, x)).addcmul_(u, _spread(of_u, x))


def _spread(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))
