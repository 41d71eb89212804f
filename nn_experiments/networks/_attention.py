"""Attention that can be differentiated twice, also inside torch's own layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Run a forward pass with attention made of differentiable operations.

    The fused kernels behind `scaled_dot_product_attention` and `nn.MultiheadAttention` have no second derivative, and
    the latter's fast path, taken where no gradient is asked for, rounds differently.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
