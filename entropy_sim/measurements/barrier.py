"""The energetic and the entropic barrier between two places on the path, against one parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from entropy_sim import schema
from entropy_sim.errors import require
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_seed,
    function_of,
    timescale_ratio,
)
from entropy_sim.measurements.mean_force import MeanForce
from entropy_sim.measurements.profile import exact_effective_potential, exact_mean_force, is_quadratic_across
from entropy_sim.scan import Scan, run_each
from entropy_sim.statistics import cumulative_integral


@dataclass(frozen=True)
class BarrierHeights(Measurement):
    """Heights of the energetic and of the entropic barrier above the first of two wells, at each value of a scan.

    Energetic: ``max U - U(well)`` on the path between the wells. Entropic: the integral of minus the mean force
    (`mean_force`, with constrained walkers), less that without noise, from the well to the top; the top is the highest
    of the exact potential (of the measured one, which is biased upwards, where there is none). The integral is
    trapezoidal; how far that rule is off is recorded where the exact force is known.

    Example. With thermal noise the entropic one is exactly ``T/2 sum ln(k_i(top) / k_i(well))``: extensive in d.
    """

    wells: tuple[float, float] = (0.0, 1.0)
    """Two places s, in rising order; heights are above the first."""
    points: int = 41
    """Places from one well to the other, evenly spaced, at which the mean force is measured."""
    replicas: int = 4
    """Independent ensembles per place."""
    walkers: int = 64
    """Walkers per replica."""
    burn_in: float = 5.0
    """Time before averaging, parameter² / loss (t = h · step, or eta · step / (1 - beta))."""
    duration: float = 20.0
    """Time of averaging, parameter² / loss."""
    stride: int = 5
    """Steps between observations."""
    scan: Scan = Scan("temperature", (0.005, 0.01, 0.02))
    """The parameter that is varied (none: one height)."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        good = len(self.wells) == 2 and 0.0 <= self.wells[0] < self.wells[1] <= 1.0
        require(good, "wells", "two positions s in 0…1 in rising order", self.wells)
        require(self.points >= 3, "points", "at least 3", self.points)
        check_seed(self.seed)
        if self.scan.parameter == "none":
            self._mean_force()
        else:
            self.scan.of(self)

    def _mean_force(self) -> MeanForce:
        """The measurement of the forces, which checks what it is given."""
        return MeanForce(
            self.landscape,
            self.noise,
            self.dynamics,
            positions=tuple(np.linspace(*self.wells, self.points)),
            replicas=self.replicas,
            walkers=self.walkers,
            burn_in=self.burn_in,
            duration=self.duration,
            time_windows=1,
            stride=self.stride,
            seed=self.seed,
        )

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        s = np.linspace(*self.wells, self.points)
        if self.scan.parameter == "none":
            return _run_one(self, how, how.checkpoint), s
        return run_each(self.scan, [partial(_run_one, one, how) for one in self.scan.of(self)], how.checkpoint), s

    def _heights(self, forces: xr.Dataset) -> xr.Dataset:
        """The group `barrier` from the group `mean_force`."""
        landscape, s = self.landscape, forces["s"].values
        y = s * landscape.arc_length
        fine = np.linspace(*self.wells, 10 * self.points)
        energy = landscape.path_energy(fine)
        # Minus the integral of minus the control's force: what the walkers feel without any noise.
        still = cumulative_integral(y, -forces["mean_force_control"].values.mean(axis=(1, 2))).value
        whole = forces.get("effective_potential")  # absent where every walker of a place has diverged
        measured = np.full(s.size, np.nan) if whole is None else whole.values - still
        stderr = np.full(s.size, np.nan) if whole is None else forces["effective_potential_stderr"].values
        exact = self._exact(s)
        towards = measured if exact is None else exact
        top = int(np.argmax(towards)) if np.isfinite(towards).all() else 0
        variables: dict[str, Any] = {
            "energy_barrier": ((), float(energy.max() - landscape.path_energy(s[:1])[0])),
            "entropic_barrier": ((), measured[top]),
            "entropic_barrier_stderr": ((), stderr[top]),
            "top": ((), s[top]),
            "timescale_ratio": ((), timescale_ratio(landscape, self.noise, self.dynamics)),
        }
        if exact is not None:
            force = exact_mean_force(landscape, self.noise, self.dynamics, s) + landscape.path_slope(s)
            force = force + self.noise.drift(landscape, s)
            quadrature = cumulative_integral(y, -force).value
            variables |= {
                "entropic_barrier_exact": ((), exact[top]),
                "quadrature_error": ((), quadrature[top] - exact[top]),
            }
        attrs = {
            "well": s[0],
            "top_from": "the measured potential" if exact is None else "the exact potential",
            # NaN: no force, nothing fluctuates.
            "effective_sample_size": float(forces["effective_sample_size"].min()),
            "effective_sample_size_of": "the mean force, at the place with the smallest",
            "autocorrelation_time": float(forces["position_autocorrelation_time"].max()),
            "autocorrelation_time_of": "the force, at the place with the longest",
        }
        return schema.make("barrier", variables, attrs)

    def _exact(self, s: Floats) -> Floats | None:
        """Entropic part of the effective potential above s[0]; None unless it is exact for the constrained walkers."""
        landscape = self.landscape
        if not is_quadratic_across(landscape, s):
            return None
        whole = exact_effective_potential(landscape, self.noise, self.dynamics, s)
        if whole is None or not np.isfinite(whole).all():
            return None
        entropic = whole - landscape.path_energy(s)
        return entropic - entropic[0]


def _run_one(one: BarrierHeights, how: Execution, checkpoint: Any) -> dict[str, xr.Dataset]:
    groups, _ = one._mean_force().measure(replace(how, checkpoint=checkpoint))
    return {"barrier": one._heights(groups["mean_force"]), **groups}


barrier = function_of(BarrierHeights)
