"""One torch thread, as in a worker process: sums over threads would round differently, and tests run side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def reduced_precision() -> Iterator[None]:
    """TensorFloat-32 allowed wherever nobody switches it off."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    for b in backends:
        b.allow_tf32 = True
    yield
    for b, value in zip(backends, before, strict=True):
        b.allow_tf32 = value
