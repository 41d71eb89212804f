"""What every noise offers. A noise is a frozen dataclass that derives from `Noise` and fills it in."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy_sim._kernels import Compiled
from entropy_sim.errors import UserError
from entropy_sim.landscapes.base import Landscape

Floats = NDArray[np.float64]
Supplies = Literal["diffusion", "gradient_covariance", "sampled_gradient"]


class Noise:
    """Random forces. supplies: "diffusion" is D(theta) of dθ = -∇L dt + √(2 D) dW; "gradient_covariance" is C(theta)
    of the minibatch gradient; "sampled_gradient" is the gradient of samples really drawn, minus that of all.

    `function` is compiled (`_kernels.noise_function`): it turns fresh standard normals into noise of covariance 2 D
    or C for the present theta.
    """

    supplies: ClassVar[Supplies]
    function: ClassVar[Compiled]
    isotropic: ClassVar[bool] = False  # the normals times one number, √(2 D) or √C, everywhere

    @property
    def has_finite_variance(self) -> bool:
        """Whether averages of squares exist: without them there is no mean force and no effective potential."""
        return True

    def has_exact_covariance(self, landscape: Landscape) -> bool:
        """Whether variances across the path follow from `transverse`: finite, and the same beside the path as on it."""
        return self.has_finite_variance

    @property
    def stiffness_exponent(self) -> float | None:
        """b where D or C is ∝ k^b across the path and constant along it, however far out; None where it is not."""
        return None

    def curvature_variance(self, landscape: Landscape, s: ArrayLike) -> Floats | None:
        """Variance from step to step of the stiffness of each transverse mode on the path, (n, modes); None: none."""
        return None

    def drift(self, landscape: Landscape, s: ArrayLike) -> Floats:
        """Mean drift along the path that the noise brings with it, on the common clock, (n,)."""
        return np.zeros(np.size(s))

    def function_for(self, landscape: Landscape) -> Compiled:
        """The compiled function, where it depends on the landscape."""
        return self.function

    def normals(self, landscape: Landscape) -> int:
        """Standard normals per walker and step."""
        return landscape.dimension

    def field_function(self, landscape: Landscape) -> Compiled | None:
        """The landscape's compiled function that this noise reads, or None. Raises UserError if it has none."""
        return None

    def field_rows(self, landscape: Landscape) -> int:
        """Rows that `field_function` fills."""
        return landscape.dimension + landscape.frame_rows

    def is_diagonal_in_modes(self, landscape: Landscape) -> bool:
        """Whether no two modes of the landscape covary, however its frame turns."""
        return self.isotropic

    def check(self, landscape: Landscape) -> None:
        """Raise UserError unless this noise can act on the landscape."""
        self.field_function(landscape)

    def params(self, landscape: Landscape, time_step: float) -> Floats:
        """The numbers the compiled function is given; time_step is that of the dynamics."""
        raise NotImplementedError

    def transverse(self, landscape: Landscape, s: ArrayLike) -> Floats:
        """D_i or C_i of the transverse modes on the path, (n, modes)."""
        raise NotImplementedError

    def along(self, landscape: Landscape, s: ArrayLike) -> Floats:
        """D_y or C_y along the path, (n,)."""
        raise NotImplementedError


def required_stiffness(reader: object, landscape: Landscape, option: str = "noise") -> Compiled:
    """The landscape's `transverse_stiffness`, for a noise or dynamics; UserError if it has none."""
    if landscape.transverse_stiffness is None:
        raise UserError(
            f"{option}: expected a landscape with a transverse stiffness beside its path too (Channel, CurvedChannel, "
            f"Tabulated) for {type(reader).__name__}, found {type(landscape).__name__}"
        )
    return landscape.transverse_stiffness
