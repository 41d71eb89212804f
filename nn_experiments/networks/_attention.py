"""Attention that can be differentiated twice, also inside torch's own layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

#: torch's settings belong to the process: the first thread in changes them, the last one out puts them back.
_lock, _inside, _settings = threading.Lock(), 0, ExitStack()


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Run a forward pass with attention made of differentiable operations.

    The fused kernels behind `scaled_dot_product_attention` and `nn.MultiheadAttention` have no second derivative, and
    the latter's fast path, taken where no gradient is asked for, rounds differently.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _settings.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            _settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _settings.close()
