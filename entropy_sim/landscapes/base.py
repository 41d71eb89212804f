"""What every landscape offers. A landscape is a frozen dataclass that derives from `Landscape` and fills it in."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy_sim._kernels import Compiled, evaluate

Floats = NDArray[np.float64]

#: Points on the path at which stiffness is looked at to judge stability.
STABILITY_POINTS = 1001


class Landscape:
    """A loss L(theta) with a path gamma(s), s = 0…1, along which it is measured.

    Compiled functions on a block, `f(theta, out, params)`, theta (d, walkers), see `_kernels`:
        gradient              out (d, walkers): dL/dtheta.
        locate                out (2, walkers): position s along the path, and squared distance from it.
        folded                out (d, walkers): where theta is unwrapped (see below), where it really is; times -1 in
                              row 0 if that is a mirror image. None where theta is not unwrapped.
        transverse_stiffness  out (d + frame_rows, walkers): k_i(y) in the row of coordinate i (row 0, along the path,
                              is left alone), or of mode i where that is no coordinate, and below them the frame
                              (`_frame`); None where a point off the path has no transverse directions.
        noise_variance        out (d, walkers): the landscape's own gradient-noise variance per coordinate, or None.
        euler_maruyama        a `_kernels.euler_maruyama_function`, gradient and step in one, or None.
        sampled_gradient      a `_kernels.noise_function`: the gradient of really drawn samples minus that of all of
                              them, with the numbers of `sample_params`; None where there are no samples.
    They must survive NaN in theta. Reflecting ends are mirror images: coordinates are unwrapped, forces folded. So is
    a periodic path unwrapped.
    """

    gradient: ClassVar[Compiled]
    locate: ClassVar[Compiled]
    folded: ClassVar[Compiled | None] = None
    transverse_stiffness: ClassVar[Compiled | None] = None
    frame_rows: ClassVar[int] = 0
    noise_variance: ClassVar[Compiled | None] = None
    euler_maruyama: ClassVar[Compiled | None] = None
    sampled_gradient: ClassVar[Compiled | None] = None

    # Written out by each landscape; all of s is (n,), all of theta (..., d).

    @property
    def dimension(self) -> int:
        """Number of coordinates d."""
        raise NotImplementedError

    @property
    def arc_length(self) -> float:
        """Length of the path, parameter units."""
        raise NotImplementedError

    def params(self) -> Floats:
        """The numbers the compiled functions are given."""
        raise NotImplementedError

    def energy(self, theta: ArrayLike) -> Floats:
        """L(theta), (...), in plain numpy."""
        raise NotImplementedError

    def path(self, s: ArrayLike) -> Floats:
        """gamma(s), (n, d)."""
        raise NotImplementedError

    def tangent(self, s: ArrayLike) -> Floats:
        """Unit tangent t(s), (n, d)."""
        raise NotImplementedError

    def curvature(self, s: ArrayLike) -> Floats:
        """Stiffness k_i of the transverse modes on the path, (n, modes)."""
        raise NotImplementedError

    def curvature_slope(self, s: ArrayLike) -> Floats:
        """Diagonal of dH/dy in the basis of the transverse modes, (n, modes); per arc length."""
        raise NotImplementedError

    def mode_directions(self, s: ArrayLike) -> Floats:
        """Unit vectors of the transverse modes, (n, modes, d)."""
        raise NotImplementedError

    @property
    def turning_frame(self) -> bool:
        """Whether d_t H is not diagonal in the basis of the modes, so that `curvature_slope` is not all of it."""
        return False

    def noise_variance_at(self, s: ArrayLike) -> Floats:
        """Gradient-noise variance of each coordinate on the path, (n, d); only with `noise_variance`."""
        raise NotImplementedError

    @property
    def sample_count(self) -> int:
        """Number of samples N; this and the next three only with `sampled_gradient`."""
        raise NotImplementedError

    def sample_params(self) -> Floats:
        """What `sampled_gradient` is given after batch size (0: all), 1 if with replacement, and label noise."""
        raise NotImplementedError

    def sampled_variance(
        self, s: ArrayLike, batch_size: int | None, replacement: bool, label_noise: float
    ) -> tuple[Floats, Floats]:
        """Variance of the sampled gradient on the path, along it (n,) and of the transverse modes (n, modes)."""
        raise NotImplementedError

    def sampled_curvature_variance(self, s: ArrayLike, batch_size: int, replacement: bool) -> Floats:
        """Variance from batch to batch of the stiffness of the transverse modes on the path, (n, modes)."""
        raise NotImplementedError

    def path_curvature(self, s: ArrayLike) -> Floats:
        """gamma'' per arc length squared, (n, d); zero on a straight path."""
        return np.zeros((np.size(s), self.dimension))

    def stationary_obstacle(self, exponent: float | None = 0.0, ratio: float = 1.0) -> str | None:
        """Why no density can be stationary here, or None if one can.

        exponent: b of the noise, D or C ∝ k^b across the path and constant along it: the stiffness then adds ∝ k^b / b
        to the potential, or ∝ ln k for b = 0 (thermal: p ∝ exp(-L/T)). ratio: of that across to that along the path,
        which counts for b = 0. None: of another noise, which may do anything far out."""
        return None

    # The same for all.

    def largest_stiffness(self, along: bool = True) -> float:
        """Largest stiffness on the path that a step must be stable for: of the transverse modes and, for walkers that
        move along the path too, t · H t."""
        s = np.linspace(0.0, 1.0, STABILITY_POINTS)
        across = float(self.curvature(s).max(initial=0.0))
        return max(across, float(self.tangential_curvature(s).max())) if along else across

    def path_energy(self, s: ArrayLike) -> Floats:
        """U(s) = L(gamma(s)), (n,)."""
        return self.energy(self.path(s))

    def path_slope(self, s: ArrayLike) -> Floats:
        """U'(s) = t · grad L on the path, per arc length, (n,)."""
        return np.einsum("nd,nd->n", self.path_gradient(s), self.tangent(s))

    def path_gradient(self, s: ArrayLike) -> Floats:
        """grad L on the path, (n, d), at s in 0…1."""
        return self.gradient_at(self.path(s))

    def tangential_curvature(self, s: ArrayLike) -> Floats:
        """t · H t on the path, (n,): here U'' of a straight path, by differences that stay inside 0…1."""
        at = column(s)
        low, high = np.maximum(at - 1e-5, 0.0), np.minimum(at + 1e-5, 1.0)
        return (self.path_slope(high) - self.path_slope(low)) / ((high - low) * self.arc_length)

    def gradient_at(self, theta: ArrayLike) -> Floats:
        """dL/dtheta at points (..., d), from the compiled gradient."""
        return evaluate(self.gradient, np.asarray(theta, dtype=np.float64), self.params())

    def position(self, theta: ArrayLike) -> Floats:
        """Position s along the path, (...); NaN for a diverged point."""
        return evaluate(self.locate, np.asarray(theta, dtype=np.float64), self.params(), 2)[..., 0]

    def distance(self, theta: ArrayLike) -> Floats:
        """Distance from the path, (...)."""
        located = evaluate(self.locate, np.asarray(theta, dtype=np.float64), self.params(), 2)
        return np.sqrt(located[..., 1])


def column(s: ArrayLike) -> Floats:
    """s as an array (n,)."""
    return np.atleast_1d(np.asarray(s, dtype=np.float64))


def straight(s: ArrayLike, length: float, dimension: int) -> Floats:
    """Points of the path along coordinate 0, (n, d)."""
    out = np.zeros((np.size(s), dimension))
    out[:, 0] = column(s) * length
    return out


def axis_tangent(s: ArrayLike, dimension: int) -> Floats:
    """The unit vector of coordinate 0 at each s, (n, d)."""
    return straight(np.ones(np.size(s)), 1.0, dimension)


def axis_directions(s: ArrayLike, dimension: int) -> Floats:
    """Unit vectors of coordinates 1…d-1 at each s, (n, d - 1, d)."""
    return np.broadcast_to(np.eye(dimension)[1:], (np.size(s), dimension - 1, dimension))
