"""What every dynamics offers. A dynamics is a frozen dataclass that derives from `Dynamics` and fills it in."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from entropy_sim._kernels import Compiled
from entropy_sim.errors import UserError
from entropy_sim.landscapes.base import Landscape
from entropy_sim.noise.base import Noise, Supplies

Floats = NDArray[np.float64]


class Dynamics:
    """An update rule. `function` is compiled (`_kernels.update_function`): one step of a block in place; noise
    (d, walkers) has covariance 2 D or C, memory (memory_rows(d), walkers) starts as zeros."""

    accepts: ClassVar[tuple[Supplies, ...]]
    function: ClassVar[Compiled]
    clock: ClassVar[str] = "h · step"  # what the time of every dataset is, in words

    @property
    def time_step(self) -> float:
        """Time per step on the common clock (mobility 1 along the path): h, or eta / (1 - beta)."""
        raise NotImplementedError

    def memory_rows(self, dimension: int) -> int:
        """Rows carried from step to step."""
        raise NotImplementedError

    def field_function(self, landscape: Landscape) -> Compiled | None:
        """The landscape's compiled function that this update rule reads, or None. Raises UserError if it has none."""
        return None

    def field_rows(self, landscape: Landscape) -> int:
        """Rows that `field_function` fills."""
        return landscape.dimension + landscape.frame_rows

    def params(self) -> Floats:
        """The numbers the compiled function is given."""
        raise NotImplementedError

    def whole_step(self, landscape: Landscape, noise: Noise) -> tuple[Compiled, Floats] | None:
        """A `_kernels.noise_function` that takes the whole step itself, and its parameters: for a noise that is a
        multiple of the normals, which then need not be written down. None: the noise's function and this one's."""
        return None

    def check(self, landscape: Landscape, noise: Noise, held: bool = False) -> None:
        """Raise UserError for a noise that does not fit or a step that is unstable on the landscape's path.

        held: whether walkers stay where they are along the path, so that no stiffness along it matters."""
        if noise.supplies not in self.accepts:
            wanted = " or ".join(f"a {kind.replace('_', ' ')}" for kind in self.accepts)
            raise UserError(
                f"noise: expected one that supplies {wanted} for {type(self).__name__}, "
                f"found {type(noise).__name__}, which supplies a {noise.supplies.replace('_', ' ')}"
            )
        noise.check(landscape)
        self.check_stability(landscape.largest_stiffness(along=not held))

    def check_stability(self, stiffness: float) -> None:
        """Raise UserError, stating the limit, if the step is unstable at this stiffness."""
        raise NotImplementedError

    def variance(self, curvature: Floats, noise: Floats) -> Floats:
        """Stationary variance of a mode of stiffness k > 0 under the noise D or C, exact for this update rule.

        Raises UserError where no exact form is known."""
        raise NotImplementedError

    def variance_sampled(self, curvature: Floats, noise: Floats, curvature_variance: Floats) -> Floats:
        """The same where samples that are drawn make the stiffness fluctuate too, with variance S: the noise is then
        ``C + S <x²>``, so ``<x²> = V C / (1 - V S)``, V that of unit noise. NaN where that diverges.

        Reference: `theory.variance_sgd_fluctuating_curvature`."""
        unit = self.variance(curvature, np.ones_like(curvature))
        damping = 1.0 - unit * curvature_variance
        return np.where(damping > 0, unit * noise / np.where(damping > 0, damping, 1.0), np.nan)

    def far_out(self, exponent: float, ratio: float) -> tuple[float, float]:
        """Exponent b and ratio of the diffusion ∝ k^b across the path that spreads walkers as this rule does under a
        noise of such exponent and ratio (see `Landscape.stationary_obstacle`)."""
        return exponent, ratio

    def has_exact_variance(self, landscape: Landscape) -> bool:
        """Whether `variance` is that of the displacement from the landscape's path, everywhere on it."""
        return True

    def relaxation_rate(self, curvature: Floats, noise: Floats) -> Floats:
        """Rate at which a mode of stiffness k > 0 relaxes under the noise D or C, on the common clock."""
        return curvature

    def diffusion(self, noise: Floats, supplies: Supplies) -> Floats:
        """Diffusion along the path on the common clock of the noise D or C: D itself, or C · time step / 2."""
        return noise if supplies == "diffusion" else 0.5 * self.time_step * noise
