"""Thermal noise: the same in all directions, everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._kernels import Compiled, noise_function
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies


@noise_function
def _scale(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    for i in range(xi.shape[0]):
        for w in range(xi.shape[1]):
            noise[i, w] = params[0] * xi[i, w]


@dataclass(frozen=True)
class Thermal(Noise):
    """``D = T · 1``: the stationary density is exp(-L/T). Supplies a diffusion.

    Example. On ``1/2 k x²`` the variance is T/k.
    """

    temperature: float = 0.01
    """Temperature T, loss (>= 0)."""

    supplies: ClassVar[Supplies] = "diffusion"
    function: ClassVar[Compiled] = _scale
    isotropic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        good = np.isfinite(self.temperature) and self.temperature >= 0
        require(bool(good), "noise.temperature", "a number >= 0", self.temperature)

    @property
    def stiffness_exponent(self) -> float:
        return 0.0

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([np.sqrt(2.0 * self.temperature)])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full((np.size(s), landscape.dimension - 1), self.temperature)

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full(np.size(s), self.temperature)
