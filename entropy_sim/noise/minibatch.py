"""Minibatches of samples really drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies


def sampling(noise: Noise, landscape: Landscape) -> Compiled:
    """The landscape's `sampled_gradient`; UserError if it has no samples."""
    if landscape.sampled_gradient is None:
        raise UserError(
            f"noise: expected a landscape with samples (TwoLayerLinear) for {type(noise).__name__}, "
            f"found {type(landscape).__name__}"
        )
    return landscape.sampled_gradient


def check_batch(landscape: Landscape, batch_size: int, replacement: bool) -> None:
    """Raise UserError for a batch that cannot be drawn without replacement."""
    n = landscape.sample_count
    if batch_size > n and not replacement:
        raise UserError(f"noise.batch_size: expected at most the {n} samples without replacement, found {batch_size}")


@dataclass(frozen=True)
class Minibatch(Noise):
    """Gradients of `batch_size` of the landscape's own samples, drawn afresh at every step. Supplies sampled gradients.

    No Gaussian assumption. Batches are independent of each other; within one, samples are drawn with replacement, or
    without, which multiplies the covariance by (N-B)/(N-1). Each of N samples is drawn with probability 1/N to 2^-32.
    """

    batch_size: int = 8
    """Samples B in a batch."""
    replacement: bool = True
    """Whether a batch may hold a sample more than once."""

    supplies: ClassVar[Supplies] = "sampled_gradient"

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "noise.batch_size", "at least 1", self.batch_size)

    def function_for(self, landscape: Landscape) -> Compiled:
        return sampling(self, landscape)

    def normals(self, landscape: Landscape) -> int:
        return 0

    def check(self, landscape: Landscape) -> None:
        sampling(self, landscape)
        check_batch(landscape, self.batch_size, self.replacement)

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.concatenate([[self.batch_size, float(self.replacement), 0.0], landscape.sample_params()])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return landscape.sampled_variance(s, self.batch_size, self.replacement, 0.0)[1]

    def curvature_variance(self, landscape: Landscape, s: ArrayLike) -> Floats | None:
        return landscape.sampled_curvature_variance(s, self.batch_size, self.replacement)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return landscape.sampled_variance(s, self.batch_size, self.replacement, 0.0)[0]
