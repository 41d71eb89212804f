"""Which parameters of any module are scale-invariant, found numerically."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nn_experiments.networks._attention import differentiable_attention
from nn_experiments.objective import batch_norms

#: Replaces ε of the normalisation layers: far below their variances, far above the rounding of a constant channel.
_EPSILON = 1e-14

#: Σ w g counts as zero below this fraction of Σ |w g|: ε and rounding leave about 1e-12.
_TOLERANCE = 1e-7


def scale_invariant_parameters(module: nn.Module, inputs: Tensor, points: int = 2) -> list[str]:
    """Names of the parameters w for which the outputs f(a w) = f(w) for all a > 0, the others held fixed.

    By Euler's theorem f is homogeneous of degree 0 in w exactly if w·∂f/∂w = 0 everywhere. Tested, for all parameters
    in one backward pass, at `points` random points near the module's own, with ε → 0, in float64, BatchNorm using the
    statistics of the batch and everything else as at inference. Parameters without any effect are not named. For such a
    block H_ww(a w) = H_ww(w)/a², so ‖w‖² Tr H_ww does not change when only the norm does.

    inputs: a batch (N >= 2, ...) the module accepts; 8 or more where a BatchNorm sees a single pixel. The module is
    copied, not changed; its parameters may have any values, zeros too. A norm that hides its ε (not in `eps`) may be
    missed. Deterministic; the global random generator is untouched.
    """
    probe = copy.deepcopy(module).double().eval()
    for layer in batch_norms(probe):
        layer.train()
    for m in probe.modules():
        if isinstance(getattr(m, "eps", None), float):
            m.eps = _EPSILON  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    named = [(name, p) for name, p in probe.named_parameters() if p.requires_grad]
    own = [p.detach().clone() for _, p in named]
    invariant = torch.ones(len(named), dtype=torch.bool)
    for _ in range(points):
        with torch.no_grad():
            for (_, p), value in zip(named, own, strict=True):
                p.copy_(_generic(value, generator))
        with torch.enable_grad(), differentiable_attention():
            outputs = probe(inputs)
            weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
            gradients = torch.autograd.grad((weights * outputs).sum(), [p for _, p in named], allow_unused=True)
        for i, ((_, p), gradient) in enumerate(zip(named, gradients, strict=True)):
            terms = torch.zeros_like(p) if gradient is None else p.detach() * gradient
            size = terms.abs().sum()
            invariant[i] &= bool((size > 0) & (terms.sum().abs() <= _TOLERANCE * size))
    return [name for (name, _), yes in zip(named, invariant.tolist(), strict=True) if yes]


def _generic(value: Tensor, generator: torch.Generator) -> Tensor:
    """`value` with 30 % noise. Zeros, where more would be invariant than elsewhere, become values of about 0.1."""
    scale = float(value.square().mean().sqrt()) if value.numel() else 0.0
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
    return value + (0.3 * scale or 0.1) * noise
