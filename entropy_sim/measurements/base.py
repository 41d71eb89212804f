"""What the simulator's measurements share: the nouns they take, the `path` group and the finished dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from entropy_sim import run_files, schema
from entropy_sim._ensemble import default_threads
from entropy_sim.checkpoint import Checkpoint
from entropy_sim.dynamics.adam import Adam
from entropy_sim.dynamics.overdamped import Overdamped
from entropy_sim.dynamics.preconditioned import Preconditioned
from entropy_sim.dynamics.sgd import SGD
from entropy_sim.dynamics.underdamped import Underdamped
from entropy_sim.errors import UserError, require
from entropy_sim.landscapes.base import Landscape
from entropy_sim.landscapes.channel import Channel
from entropy_sim.landscapes.curved_channel import CurvedChannel
from entropy_sim.landscapes.custom import Custom
from entropy_sim.landscapes.muller_brown import MullerBrown
from entropy_sim.landscapes.quadratic import Quadratic
from entropy_sim.landscapes.tabulated import Tabulated
from entropy_sim.landscapes.two_layer_linear import TwoLayerLinear
from entropy_sim.noise.covariance import GradientCovariance, LowRankCovariance, TabulatedCovariance
from entropy_sim.noise.curvature_power import CurvatureCovariance, CurvaturePower
from entropy_sim.noise.label import Label
from entropy_sim.noise.levy import Levy, LevyGradient
from entropy_sim.noise.minibatch import Minibatch
from entropy_sim.noise.state_dependent import (
    CustomCovariance,
    CustomDiffusion,
    StateDependent,
    StateDependentCovariance,
)
from entropy_sim.noise.thermal import Thermal

Floats = NDArray[np.float64]
AnyLandscape = Channel | CurvedChannel | Tabulated | Quadratic | MullerBrown | TwoLayerLinear | Custom
_GaussianNoise = Thermal | CurvaturePower | CurvatureCovariance | GradientCovariance | TabulatedCovariance
_PlaceDependentNoise = StateDependent | StateDependentCovariance | CustomDiffusion | CustomCovariance
AnyNoise = _GaussianNoise | LowRankCovariance | _PlaceDependentNoise | Label | Minibatch | Levy | LevyGradient
AnyDynamics = Overdamped | Underdamped | SGD | Adam | Preconditioned


def path_group(landscape: Landscape, s: Floats) -> xr.Dataset:
    """The group `path` at the points s (n,)."""
    slope = landscape.path_gradient(s)
    t = landscape.tangent(s)
    normal = slope - np.einsum("nd,nd->n", slope, t)[:, None] * t
    between = landscape.path_energy(np.linspace(s[:-1], s[1:], 51).ravel()).reshape(51, -1).max(axis=0)
    variables = {
        "s": (("s",), s),
        "arc_length": (("s",), s * landscape.arc_length),
        "loss_between": (("s",), np.array([*between, np.nan])),
        "perpendicular_gradient_norm": (("s",), np.linalg.norm(normal, axis=1)),
    }
    return schema.make("path", variables, {"found_by": "given", "length": landscape.arc_length})


@dataclass(frozen=True)
class Execution:
    """How a measurement is run, which changes none of its numbers."""

    threads: int | None = None
    progress: bool = False
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Measurement:
    """What the simulator's measurements have in common."""

    landscape: AnyLandscape = Channel()
    """Loss landscape."""
    noise: AnyNoise = Thermal()
    """Noise."""
    dynamics: AnyDynamics = Overdamped()
    """Update rule."""

    @property
    def recorded_seed(self) -> int:
        """The seed that the dataset names."""
        return int(getattr(self, "seed", 0))

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        """The measured groups, and the path points s (n,) of the group `path`."""
        raise NotImplementedError

    def run(
        self, threads: int | None = None, progress: bool = False, checkpoint: Checkpoint | None = None
    ) -> xr.DataTree:
        """The dataset: the measured groups, the path, and the provenance. Numbers do not depend on the arguments.

        checkpoint: where an interrupted run leaves its state, and from which it goes on.
        """
        require(threads is None or threads >= 1, "threads", "a positive number", threads)
        groups, s = self.measure(Execution(threads, progress, checkpoint))
        scan = getattr(self, "scan", None)
        settings = [self] if scan is None or scan.parameter == "none" else scan.of(self)
        steps = sorted({one.dynamics.time_step for one in settings})
        nodes: dict[str, xr.Dataset] = {"path": path_group(self.landscape, s), **groups}
        tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in nodes.items()})
        tree.attrs.update(
            run_files.provenance(
                source="entropy_sim",
                system=type(self.landscape).__name__,
                config=self,
                noise=type(self.noise).__name__,
                seed=self.recorded_seed,
                threads=threads or default_threads(),
                dynamics=type(self.dynamics).__name__,
                time_step=steps[0] if len(steps) == 1 else steps,
                clock=self.dynamics.clock,
                # The largest that is defined; NaN only where none is.
                timescale_ratio=float(
                    np.fmax.reduce([timescale_ratio(one.landscape, one.noise, one.dynamics) for one in settings])
                ),
            )
        )
        return tree


def function_of(kind: type[Measurement]) -> Callable[..., xr.DataTree]:
    """The measurement as a function: `kind(landscape, noise, dynamics, **options).run(threads, progress)`."""

    def call(
        landscape: AnyLandscape,
        noise: AnyNoise,
        dynamics: AnyDynamics,
        *,
        threads: int | None = None,
        progress: bool = False,
        checkpoint: Checkpoint | None = None,
        **options: Any,
    ) -> xr.DataTree:
        return kind(landscape, noise, dynamics, **options).run(threads, progress, checkpoint)

    call.__doc__ = f"`{kind.__name__}(landscape, noise, dynamics, **options).run(threads, progress, checkpoint)`."
    return call


def timescale_ratio(landscape: AnyLandscape, noise: AnyNoise, dynamics: AnyDynamics) -> float:
    """How adiabatic a run is: the largest of ``D_y (k_i'/k_i)² / k_i`` on the path, the time 1/k_i of a transverse mode
    over the time in which y diffuses the length on which k_i changes; reduced dynamics need it small.

    NaN where no transverse mode is stiff or the noise has no variance. For gradient noise D_y = C_y · time step / 2.
    Update rules with another relaxation rate than k_i, or another D_y, say so (`Dynamics`).
    """
    if not noise.has_finite_variance:
        return float("nan")
    s = np.linspace(0.0, 1.0, 1001)
    k, slope = landscape.curvature(s), landscape.curvature_slope(s)
    diffusion = dynamics.diffusion(noise.along(landscape, s), noise.supplies)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = dynamics.relaxation_rate(k, noise.transverse(landscape, s))
        ratio = np.where(k > 0, diffusion[:, None] * (slope / k) ** 2 / rate, np.nan)
    return float(np.nanmax(ratio)) if np.isfinite(ratio).any() else float("nan")


def steps_for(name: str, duration: float, time_step: float) -> int:
    """Steps that make up a duration. Raises UserError for less than one step or more than 10⁹."""
    require(bool(np.isfinite(duration) and duration > 0), name, "a positive number", duration)
    steps = round(duration / time_step)
    if not 1 <= steps <= 10**9:
        raise UserError(f"{name}: expected 1 to 10⁹ steps of {time_step:g}, found {duration:g}")
    return steps


def check_counts(**values: int) -> None:
    """Raise UserError, naming the option, unless every value is at least 1."""
    for name, value in values.items():
        require(value >= 1, name, "at least 1", value)


def check_seed(seed: int) -> None:
    require(0 <= seed < 2**64, "seed", "0…2^64 - 1", seed)


def check_positions(name: str, s: tuple[float, ...], *, increasing: bool) -> None:
    """Raise UserError unless s holds distinct numbers in 0…1 (and in rising order where a path is integrated along)."""
    array = np.asarray(s, dtype=np.float64)
    require(array.size > 0 and bool(np.all((array >= 0) & (array <= 1))), name, "positions s in 0…1", s)
    steps = np.diff(array if increasing else np.sort(array))
    require(bool(np.all(steps > 0)), name, "increasing positions" if increasing else "distinct positions", s)


def mean_and_stderr(values: Floats, axis: int = 0) -> tuple[Floats, Floats]:
    """Mean over independent walkers, NaN ones left out, and its standard error (NaN with fewer than two)."""
    good = np.isfinite(values)
    n = good.sum(axis=axis)
    filled = np.where(good, values, 0.0)
    mean = np.where(n > 0, filled.sum(axis=axis) / np.maximum(n, 1), np.nan)
    square = np.where(good, (values - np.expand_dims(mean, axis)) ** 2, 0.0).sum(axis=axis)
    stderr = np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1) / np.maximum(n, 1)), np.nan)
    return mean, stderr
