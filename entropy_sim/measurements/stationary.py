"""The stationary density along the path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from entropy_sim import schema
from entropy_sim._compiled import bits_as
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import observe_function
from entropy_sim.errors import UserError, require
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_counts,
    check_seed,
    function_of,
    mean_and_stderr,
    steps_for,
)
from entropy_sim.noise.thermal import Thermal

#: Walkers are dealt into this many groups, whose spread gives the error bars.
_GROUPS = 32


_TWO52, _LOW = 2.0**52, np.uint64(0xFFFFFFFF)


# params: bins. out: (bins + 2, groups), the last two rows counting walkers off 0…1, and what is not finite. Blocks hold
# multiples of 32 walkers. First, in vectors, where in `out` each walker's row begins, as an integer in the last bits of
# 2^52 + 32 row; only the counting itself goes one by one.
@observe_function
def _count(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    bins, walkers = params[0], theta.shape[1]
    for w in range(walkers):
        s = located[0, w]
        row = np.floor(s * bins) if (s >= 0.0) & (s < 1.0) else (bins - 1.0 if s == 1.0 else bins)
        row = row if 0.0 * s + 0.0 * located[1, w] == 0.0 else bins + 1.0
        located[0, w] = bits_as(bits_as(_GROUPS * row + _TWO52, np.uint64) & _LOW, np.float64)
    flat = out.reshape(out.size)
    for first in range(0, walkers, _GROUPS):
        for group in range(_GROUPS):
            flat[bits_as(located[0, first + group], np.uint64) + np.uint64(group)] += 1.0


@dataclass(frozen=True)
class Stationary(Measurement):
    """Density of s in the stationary state, and its free energy: ``-T ln p`` for thermal noise, ``-ln p`` otherwise.

    Walkers start spread evenly over the path; a histogram is filled as they go. Error bars are the spread of 32 groups
    of walkers: they are honest if burn_in is long enough for the walkers to have forgotten where they started. Where
    walkers diverge, all is repeated without them: what they did before counts neither.

    Example. On a `Channel` with thermal noise ``p ∝ prod k_i^(-1/2) exp(-U/T)``.
    """

    bins: int = 50
    """Bins of s over 0…1."""
    walkers: int = 1024
    """Walkers."""
    burn_in: float = 50.0
    """Time before counting, parameter² / loss (t = h · step, or eta · step / (1 - beta))."""
    duration: float = 100.0
    """Time of counting, parameter² / loss."""
    stride: int = 10
    """Steps between counts."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        check_counts(walkers=self.walkers, stride=self.stride)
        require(self.bins >= 2, "bins", "at least 2", self.bins)
        require(self.walkers >= 2 * _GROUPS, "walkers", f"at least {2 * _GROUPS}", self.walkers)
        check_seed(self.seed)
        self.dynamics.check(self.landscape, self.noise)
        self._schedule()
        obstacle = self._obstacle()
        if obstacle is None and not self.noise.along(self.landscape, np.linspace(0.0, 1.0, 101)).min() > 0:
            obstacle = f"no noise along the path ({type(self.noise).__name__})"
        if obstacle is not None:
            raise UserError(f"landscape: expected one with a stationary density, found {obstacle}")

    def _obstacle(self) -> str | None:
        """Why there is no stationary density, as far as the landscape tells for this noise; None if there is one."""
        landscape, noise = self.landscape, self.noise
        if (exponent := noise.stiffness_exponent) is None:
            return landscape.stationary_obstacle(None)
        middle = np.array([0.5])
        across, along = noise.transverse(landscape, middle), float(noise.along(landscape, middle)[0])
        ratio = 1.0
        if across.size and along > 0:
            ratio = float((across / landscape.curvature(middle) ** exponent).mean()) / along
        return landscape.stationary_obstacle(*self.dynamics.far_out(exponent, ratio))

    def _schedule(self) -> tuple[int, int]:
        """Steps before counting, and number of counts."""
        h = self.dynamics.time_step
        before = 0 if self.burn_in == 0 else steps_for("burn_in", self.burn_in, h)
        steps = steps_for("duration", self.duration, h)
        require(self.stride <= steps, "stride", f"at most the {steps} steps of the duration", self.stride)
        return before, steps // self.stride

    def _correlations(self, inside: Floats) -> dict[str, Any]:
        """Autocorrelation time of s and effective sample size, from the groups: Var of a mean is sigma² / size.

        Samples are those counted, in 0…1: walkers outside or diverged give none."""
        centres = (np.arange(self.bins)[:, None] + 0.5) / self.bins
        number = inside.sum(axis=0)
        whole = number.sum() or np.nan
        spread = mean_and_stderr((centres * inside).sum(axis=0) / number)[1] ** 2
        mean = (centres * inside).sum() / whole
        variance = ((centres - mean) ** 2 * inside).sum() / whole
        size = variance / spread if spread > 0 else np.nan
        return {
            "effective_sample_size": float(size),
            "autocorrelation_time": float(whole / size * self.stride * self.dynamics.time_step),
            "autocorrelation_time_of": f"s, from the spread of {number.size} groups (25 % uncertain)",
        }

    def _follow(self, how: Execution, left_out: NDArray[np.bool_] | None = None) -> Ensemble:
        """The walkers after the run, but for those left out, which keep their random numbers."""
        before, counts = self._schedule()
        start = self.landscape.path((np.arange(self.walkers) + 0.5) / self.walkers)
        if left_out is not None:
            start = np.where(left_out[:, None], np.nan, start)
        ensemble = Ensemble(
            self.landscape,
            self.noise,
            self.dynamics,
            start,
            seed=self.seed,
            threads=how.threads,
            checkpoint=how.checkpoint,
            name="stationary" if left_out is None else "survivors",
            observer=_count,
            observer_params=np.array([self.bins], dtype=np.float64),
            out_shape=(self.bins + 2, _GROUPS),
            observe_from=before,
            observe_every=self.stride,
            locate=True,
            watch=False,
        )
        ensemble.advance_to(before + counts * self.stride, how.progress, "stationary")
        return ensemble

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        ensemble = self._follow(how)
        lost = ensemble.diverged
        if lost.any():
            if how.checkpoint is not None:  # an interruption of the second run goes on from there
                how.checkpoint.save("stationary", ensemble.state())
            ensemble = self._follow(how, lost)
        total = ensemble.per_block.sum(axis=0)[:-1]  # but for what is not finite
        inside = total[:-1, total[:-1].any(axis=0)]  # a group that was never there has no density
        per_group = self.bins * inside / inside.sum(axis=0)
        density = self.bins * inside.sum(axis=1) / (inside.sum() or np.nan)
        stderr = mean_and_stderr(per_group, axis=1)[1]
        thermal = isinstance(self.noise, Thermal)
        unit = self.noise.temperature if isinstance(self.noise, Thermal) else 1.0
        seen = density > 0
        safe = np.where(seen, density, 1.0)
        units = {"units": "loss" if thermal else "1"}
        variables: dict[str, Any] = {
            "s": (("s",), (np.arange(self.bins) + 0.5) / self.bins),
            "density": (("s",), density),
            "density_stderr": (("s",), stderr),
            "free_energy": (("s",), np.where(seen, -unit * np.log(safe), np.nan), units),
            "free_energy_stderr": (("s",), np.where(seen, unit * stderr / safe, np.nan), units),
        }
        attrs = {
            "free_energy_is": "-T ln p" if thermal else "-ln p",
            "outside": float(total[-1].sum() / (total.sum() or np.nan)),
            "diverged": int(lost.sum()),
            "stderr_from": f"{inside.shape[1]} groups of walkers",
            "effective_bins": effective_bins(per_group),
            **self._correlations(inside),
        }
        group = schema.make("stationary", variables, attrs)
        return {"stationary": group}, np.linspace(0.0, 1.0, 51)


def effective_bins(density: Floats) -> float:
    """How many independent bins have the same spread of χ² as these, ``n² / Σ r_ij²``, r_ij the correlations of n bins.

    density: (bins, groups), groups independent. Slow motion along s makes neighbouring bins go together, so that χ²
    over bins, each with its own error, scatters as one of far fewer. Squares of r are freed of the bias of chance,
    1 / (groups − 1). NaN where nothing varies, and from fewer than 3 groups.
    Reference: Satterthwaite, Biometrics Bull. 2 (1946) 110; Brown, Biometrics 31 (1975) 987."""
    if (groups := density.shape[1]) < 3:
        return float("nan")
    varies = density.std(axis=1) > 0
    count = int(varies.sum())
    if count < 2:
        return float("nan")
    square = np.corrcoef(density[varies]) ** 2
    square -= (1.0 - square) / (groups - 2)
    return float(np.clip(count**2 / max(square.sum(), count), 1.0, count))


stationary = function_of(Stationary)
