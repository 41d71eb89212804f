"""Noise that follows the curvature: the alpha-family of state-dependent transverse noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from entropy_sim._frame import from_modes
from entropy_sim._kernels import Compiled, noise_function
from entropy_sim._random import fast_exp, fast_log
from entropy_sim.errors import require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Floats, Noise, Supplies, required_stiffness


# params: amplitude along the path, transverse amplitude at k = 1, half the exponent. Itô: D as it is at theta.
@noise_function
def _power(theta, gradient, field, xi, noise, seed, first_walker, step, params):  # type: ignore[no-untyped-def]
    for w in range(xi.shape[1]):
        noise[0, w] = params[0] * xi[0, w]
    for i in range(1, xi.shape[0]):
        for w in range(xi.shape[1]):
            noise[i, w] = xi[i, w] * params[1] * fast_exp(params[2] * fast_log(field[i, w]))
    from_modes(noise, field)


def _check(**values: float) -> None:
    for name, value in values.items():
        good = np.isfinite(value) and (value >= 0 or name == "exponent")
        require(bool(good), f"noise.{name}", "a finite number" if name == "exponent" else "a number >= 0", value)


@dataclass(frozen=True)
class CurvaturePower(Noise):
    """Diffusion ``D_i = T k_i(y)^alpha`` across the path and a constant D_y along it. Supplies a diffusion.

    alpha = 0 is thermal noise across the path; alpha = 1 noise proportional to the Hessian, with the effective
    potential ``U + (T/2) sum k_i``. T has units that depend on alpha.
    """

    temperature: float = 0.01
    """T, so that D_i = T k_i^exponent (>= 0)."""
    exponent: float = 1.0
    """alpha."""
    along_path: float = 0.01
    """Diffusion D_y along the path (>= 0); with 0 and U = 0 there is no stationary density."""

    supplies: ClassVar[Supplies] = "diffusion"
    function: ClassVar[Compiled] = _power

    def __post_init__(self) -> None:
        _check(temperature=self.temperature, exponent=self.exponent, along_path=self.along_path)

    @property
    def stiffness_exponent(self) -> float:
        return self.exponent

    def field_function(self, landscape: Landscape) -> Compiled:
        return required_stiffness(self, landscape)

    def is_diagonal_in_modes(self, landscape: Landscape) -> bool:
        return True

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([np.sqrt(2.0 * self.along_path), np.sqrt(2.0 * self.temperature), 0.5 * self.exponent])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.temperature * landscape.curvature(s) ** self.exponent

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full(np.size(s), self.along_path)


@dataclass(frozen=True)
class CurvatureCovariance(Noise):
    """Gradient noise ``C_i = c k_i(y)^alpha`` across the path and a constant C_y along it: `CurvaturePower` for SGD.

    alpha = 1 is C = c H, the noise of fresh labels (c = sigma² / batch size). Supplies a gradient covariance.
    """

    scale: float = 0.1
    """c, so that C_i = c k_i^exponent (>= 0)."""
    exponent: float = 1.0
    """alpha."""
    along_path: float = 0.1
    """Variance C_y of the gradient along the path (>= 0)."""

    supplies: ClassVar[Supplies] = "gradient_covariance"
    function: ClassVar[Compiled] = _power

    def __post_init__(self) -> None:
        _check(scale=self.scale, exponent=self.exponent, along_path=self.along_path)

    @property
    def stiffness_exponent(self) -> float:
        return self.exponent

    def field_function(self, landscape: Landscape) -> Compiled:
        return required_stiffness(self, landscape)

    def is_diagonal_in_modes(self, landscape: Landscape) -> bool:
        return True

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        return np.array([np.sqrt(self.along_path), np.sqrt(self.scale), 0.5 * self.exponent])

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return self.scale * landscape.curvature(s) ** self.exponent

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        return np.full(np.size(s), self.along_path)
