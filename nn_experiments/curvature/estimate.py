"""What an estimator returns, and the random probes it uses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A mean and its standard error."""

    value: float
    stderr: float


def rademacher(count: int, dimension: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """`count` probes of independent signs ±1, (count, dimension), of the type and on the device of `like`."""
    signs = torch.randint(0, 2, (count, dimension), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(like)
