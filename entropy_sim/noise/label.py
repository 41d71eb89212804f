"""Fresh label noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies
from entropy_sim.noise.curvature_power import CurvatureCovariance
from entropy_sim.noise.minibatch import check_batch


@dataclass(frozen=True)
class Label(Noise):
    """Gaussian noise of standard deviation `strength` on every label of a batch, fresh at every step (squared loss).

    On a landscape with samples they are really drawn: batches as `Minibatch` draws them, or all samples, and the labels
    of each drawn slot perturbed. On one that has a transverse stiffness beside its path instead (Channel,
    CurvedChannel, Tabulated) it is what label noise is at zero residual, gradient noise of covariance
    ``C = (strength² / batch_size) H``: none along a flat path. Blanc, Gupta, Valiant, Valiant, COLT 2020 (arXiv
    1904.09080).
    """

    strength: float = 1.0
    """Standard deviation sigma of the label noise (>= 0)."""
    batch_size: int | None = 8
    """Samples B in a batch; None for all samples of a landscape that has some."""
    replacement: bool = True
    """Whether a batch may hold a sample more than once (it then has a perturbation of its own each time)."""

    supplies: ClassVar[Supplies] = "sampled_gradient"

    def __post_init__(self) -> None:
        good = bool(np.isfinite(self.strength) and self.strength >= 0)
        require(good, "noise.strength", "a number >= 0", self.strength)
        require(self.batch_size is None or self.batch_size >= 1, "noise.batch_size", "at least 1", self.batch_size)

    def _covariance(self, landscape: Landscape) -> CurvatureCovariance:
        """C = c H on a landscape without samples. Raises UserError where that has no meaning either."""
        if landscape.transverse_stiffness is None:
            raise UserError(
                "noise: expected a landscape with samples (TwoLayerLinear) or with a transverse stiffness beside its "
                f"path too (Channel, CurvedChannel, Tabulated) for Label, found {type(landscape).__name__}"
            )
        if self.batch_size is None:
            raise UserError(
                f"noise.batch_size: expected a number of samples on {type(landscape).__name__}, which has none of its "
                "own, found None"
            )
        return CurvatureCovariance(self.strength**2 / self.batch_size, 1.0, 0.0)

    def function_for(self, landscape: Landscape) -> Compiled:
        return landscape.sampled_gradient or self._covariance(landscape).function

    def normals(self, landscape: Landscape) -> int:
        if landscape.sampled_gradient is None:
            return landscape.dimension
        return 1 if self.strength else 0

    def field_function(self, landscape: Landscape) -> Compiled | None:
        return None if landscape.sampled_gradient else self._covariance(landscape).field_function(landscape)

    def is_diagonal_in_modes(self, landscape: Landscape) -> bool:
        return landscape.sampled_gradient is None

    def check(self, landscape: Landscape) -> None:
        if landscape.sampled_gradient is None:
            self._covariance(landscape)
        elif self.batch_size is not None:
            check_batch(landscape, self.batch_size, self.replacement)

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        if landscape.sampled_gradient is None:
            return self._covariance(landscape).params(landscape, time_step)
        head = [self.batch_size or 0, float(self.replacement), self.strength]
        return np.concatenate([head, landscape.sample_params()])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        if landscape.sampled_gradient is None:
            return self._covariance(landscape).transverse(landscape, s)
        return landscape.sampled_variance(s, self.batch_size, self.replacement, self.strength)[1]

    def curvature_variance(self, landscape: Landscape, s: ArrayLike) -> Floats | None:
        if landscape.sampled_gradient is None or self.batch_size is None:
            return None
        return landscape.sampled_curvature_variance(s, self.batch_size, self.replacement)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        if landscape.sampled_gradient is None:
            return self._covariance(landscape).along(landscape, s)
        return landscape.sampled_variance(s, self.batch_size, self.replacement, self.strength)[0]
