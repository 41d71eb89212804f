"""First-passage times: how long walkers stay on their part of the path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from entropy_sim import schema, theory
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import observe_function
from entropy_sim.dynamics.overdamped import Overdamped
from entropy_sim.dynamics.sgd import SGD
from entropy_sim.errors import UserError, require
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_counts,
    check_seed,
    function_of,
    steps_for,
    timescale_ratio,
)
from entropy_sim.measurements.profile import exact_effective_potential, potential_from
from entropy_sim.scan import Scan, derived_seed, run_each
from entropy_sim.survival import CURVE_POINTS, INTERVAL, summary

#: Points of the table of the potential.
_TABLE = 2001
#: How far beyond a level s must be seen to go, to know that it can be crossed.
_BEYOND = 1e-3


# params: lower level, upper level, 1 on a periodic path, start. out: the step at which s left them, negative for the
# lower level, or 0; and on a periodic path how far s has come from the start: each step goes the shorter way round.
@observe_function
def _first_passage(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    lower, upper, periodic, start, step = params[0], params[1], params[2] != 0.0, params[3], float(index)
    for w in range(theta.shape[1]):
        s = located[0, w]
        if periodic:
            further = s - start - out[1, w]
            out[1, w] += further - np.floor(further + 0.5)
            s = start + out[1, w]
        left = -step if s <= lower else step if s >= upper else 0.0
        out[0, w] = left if out[0, w] == 0.0 else out[0, w]


@dataclass(frozen=True)
class Escape(Measurement):
    """First time at which s leaves the interval between the levels, for walkers released on the path at s = start.

    Looked at after every step; on a periodic path each step goes the shorter way round. Who has not left after
    `duration` is censored. Recorded: every first-passage time, the Kaplan-Meier survival curve, the maximum-likelihood
    rate with its 95 % χ² interval, a test whether the times are exponential, the mean with and without an exponential
    tail for the censored, and beside them the mean of the reduced (adiabatic) dynamics: ``D⁻¹ ∫ dy e^(V/D) ∫ dz
    e^(-V/D)`` with the effective potential V and each level shifted outwards by 0.5826 √(2 D h), as discrete steps see
    it.

    Example. On a flat, uniform channel, from the reflecting end s = 0 to the level u: ``(u + shift)² / (2 D)``.
    """

    start: float = 0.0
    """Position s at which walkers are released."""
    lower: float | None = None
    """Lower level of s; none: only the upper one counts."""
    upper: float | None = 0.5
    """Upper level of s; none: only the lower one counts."""
    replicas: int = 512
    """Walkers, independent of each other."""
    duration: float = 2000.0
    """Longest time followed, parameter² / loss (t = h · step, or eta · step / (1 - beta)); the run ends earlier when
    all have escaped."""
    thermalise: float = 0.0
    """Time for which walkers are first held on the plane through their start, to spread across it (0: start on the
    path)."""
    transient: float = 0.0
    """Time left out of the fit of the rate and of the test for exponential times, in which walkers settle."""
    scan: Scan = Scan()
    """Repeat at several values of one parameter."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        check_counts(replicas=self.replicas)
        check_seed(self.seed)
        for name in ("thermalise", "transient"):
            value = getattr(self, name)
            require(bool(np.isfinite(value) and value >= 0), name, "a number >= 0", value)
        self._check_levels()
        if self.scan.parameter == "none":
            self.dynamics.check(self.landscape, self.noise)
            self._steps()
            end = f"less than the duration {self.duration:g}"
            require(self.transient < self.duration, "transient", end, self.transient)
        else:
            self.scan.of(self)

    def _steps(self) -> tuple[int, int]:
        """Steps on the plane, and steps followed."""
        h = self.dynamics.time_step
        held = 0 if self.thermalise == 0 else steps_for("thermalise", self.thermalise, h)
        return held, steps_for("duration", self.duration, h)

    def _check_levels(self) -> None:
        for name in ("lower", "upper"):
            level = getattr(self, name)
            require(level is None or bool(np.isfinite(level)), name, "a finite level of s, or none", level)
        found = self.landscape.position(self.landscape.path([self.start]))[0]
        inside = np.isfinite(found) and abs(found - self.start) < 1e-6
        joined = self._end(0.0) == "joined"
        expected = "0 <= s < 1 (s = 1 of a periodic path is s = 0)" if joined else "a position s of the path"
        require(bool(inside), "start", expected, self.start)
        if self.lower is None and self.upper is None:
            raise UserError("upper: expected a level to leave by, found neither lower nor upper")
        if self.upper is not None:
            require(self.start < self.upper, "start", f"less than the upper level {self.upper:g}", self.start)
            reached = self.landscape.position(self.landscape.path([self.upper + _BEYOND]))[0] > self.upper
            require(bool(reached), "upper", "a level that s can cross", self.upper)
        if self.lower is not None:
            require(self.start > self.lower, "start", f"more than the lower level {self.lower:g}", self.start)
            reached = self.landscape.position(self.landscape.path([self.lower - _BEYOND]))[0] < self.lower
            require(bool(reached), "lower", "a level that s can cross", self.lower)
        if joined:
            for name, level in (("lower", self.lower), ("upper", self.upper)):
                require(level is not None, name, "a level (an interval of a periodic path has two ends)", level)

    def _end(self, s: float) -> str:
        """What lies beyond an end of the path: "reflecting", "joined" to the other end, or "open"."""
        beyond = self.landscape.position(self.landscape.path([s - _BEYOND if s == 0.0 else s + _BEYOND]))[0]
        if abs(beyond - s) > 0.5:
            return "joined"
        return "reflecting" if abs(abs(beyond - s) - _BEYOND) < 1e-9 and 0.0 <= beyond <= 1.0 else "open"

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        s = np.linspace(0.0, 1.0, 51)
        if self.scan.parameter == "none":
            return {"escape": self._one(how)}, s
        runs = [partial(_run_one, one, how) for one in self.scan.of(self)]
        return run_each(self.scan, runs, how.checkpoint), s

    def _released(self, how: Execution) -> Floats:
        """Where the walkers start, (replicas, d)."""
        landscape = self.landscape
        on_path = np.repeat(landscape.path([self.start]), self.replicas, axis=0)
        steps, _ = self._steps()
        if steps == 0 or (how.checkpoint is not None and how.checkpoint.load("escape") is not None):
            return on_path  # of no account where the run goes on from its saved state
        at = np.array([self.start])
        frame = np.stack([landscape.tangent(at), landscape.path(at), landscape.path_curvature(at)], axis=1)
        ensemble = Ensemble(
            landscape,
            self.noise,
            self.dynamics,
            on_path,
            frame=np.repeat(frame, self.replicas, axis=0),
            seed=derived_seed(self.seed, "thermalise"),
            threads=how.threads,
            checkpoint=how.checkpoint,
            name="thermalise",
        )
        ensemble.advance_to(steps, how.progress, "thermalise")
        return ensemble.theta

    def _follow(self, how: Execution) -> tuple[Floats, NDArray[np.bool_]]:
        """Step of each first passage, negative through the lower level, 0 for none; and whether the walker diverged."""
        _, steps = self._steps()
        ensemble = Ensemble(
            self.landscape,
            self.noise,
            self.dynamics,
            self._released(how),
            seed=self.seed,
            threads=how.threads,
            checkpoint=how.checkpoint,
            name="escape",
            observer=_first_passage,
            observer_params=np.array(
                [
                    -np.inf if self.lower is None else self.lower,
                    np.inf if self.upper is None else self.upper,
                    self._end(0.0) == "joined",
                    self.start,
                ]
            ),
            out_shape=(2, -1),
            observe_every=1,
            locate=True,
            watch=False,
        )

        def finished() -> bool:
            return bool(np.all((ensemble.per_walker[:, 0] != 0.0) | ensemble.diverged))

        # A step is looked at before the next one is taken: one more, for the last to be seen.
        ensemble.advance_to(steps + 1, how.progress, "escape", finished=finished)
        passage = ensemble.per_walker[:, 0]
        return passage, (passage == 0.0) & ensemble.diverged

    def _one(self, how: Execution) -> xr.Dataset:
        """The group at one setting."""
        passage, diverged = self._follow(how)
        h, escaped = self.dynamics.time_step, passage != 0.0
        duration = self._steps()[1] * h
        times = np.where(escaped, np.abs(passage) * h, np.nan)
        each, curve = ("replica",), ("curve_point",)
        variables: dict[str, Any] = {
            "replica": (each, np.arange(self.replicas)),
            "curve_point": (curve, np.arange(CURVE_POINTS)),
            "first_passage_time": (each, times),
            "escaped": (each, escaped.astype(np.int8)),
            "diverged": (each, diverged.astype(np.int8)),
            "side": (each, np.sign(passage).astype(np.int8)),
            "duration": ((), duration),
            "timescale_ratio": ((), timescale_ratio(self.landscape, self.noise, self.dynamics)),
        }
        observed = np.where(escaped, times, duration)[~diverged]
        if observed.size:
            values = summary(observed, escaped[~diverged], self.transient)
            variables |= {n: (curve if np.ndim(v) else (), v) for n, v in values.items()}
        reduced = self.reduced()
        attrs = {
            "censored": int((~escaped & ~diverged).sum()),
            "effective_sample_size": int(np.sum(times[escaped] > self.transient)),
            "diverged_are": "left out of the statistics, neither escaped nor censored",
            "interval": f"{INTERVAL:g} confidence (chi-squared)",
            "effective_sample_size_of": "the rate: independent replicas, one per escape after the transient",
            "autocorrelation_time_of": "none: one time from each replica, independent of the others",
            "reduced": reduced
            if isinstance(reduced, str)
            else f"quadrature, effective potential ({potential_from(self.landscape)}), levels shifted",
        }
        if not isinstance(reduced, str):
            time, diffusion = reduced
            variables |= {"mean_first_passage_time_reduced": ((), time), "diffusion_along_path": ((), diffusion)}
        return schema.make("escape", variables, attrs)

    def reduced(self, *, shifted: bool = True) -> tuple[float, float] | str:
        """Mean first-passage time of the reduced dynamics from start to the levels, and D_y at the start; or, in words,
        why theory has none here. shifted=False leaves out what discrete steps do to the levels."""
        landscape, noise, dynamics = self.landscape, self.noise, self.dynamics
        gaussian = noise.has_finite_variance and noise.supplies != "sampled_gradient"
        if isinstance(dynamics, Overdamped):
            independent = dynamics.scheme == "euler_maruyama"
        else:
            independent = isinstance(dynamics, SGD) and dynamics.weight_decay == dynamics.momentum == 0.0
        if not (gaussian and independent):
            return "none: the shift of the levels is known for independent Gaussian steps (Euler-Maruyama, plain SGD)"
        s, length = np.linspace(0.0, 1.0, _TABLE), landscape.arc_length
        if np.any(landscape.path_curvature(s)):
            return "none: the path is curved"
        potential = exact_effective_potential(landscape, noise, dynamics, s)
        diffusion = dynamics.diffusion(noise.along(landscape, s), noise.supplies)
        if potential is None or not np.isfinite(potential).all():
            return "none: no effective potential (a transverse mode that is not stiff, or has no exact variance)"
        if not (np.isfinite(diffusion).all() and diffusion.min() > 0.0):
            return "none: no noise along the path"
        ends = []
        for level, end, outward in ((self.lower, 0.0, -1.0), (self.upper, 1.0, 1.0)):
            if level is None:
                if self._end(end) != "reflecting":
                    return "none: an open end without a level"
                ends.append(end)
            else:
                d = float(np.interp(level, s, diffusion))
                shift = float(theory.absorbing_level_shift(d, dynamics.time_step)) if shifted else 0.0
                ends.append(level + outward * shift / length)
        if ends[0] < 0.0 or ends[1] > 1.0:
            return "none: a level, shifted, lies off the path"
        passage = theory.mean_first_passage_time(
            self.start * length,
            (ends[0] * length, ends[1] * length),
            (s * length, potential),
            float(diffusion[0]) if np.ptp(diffusion) <= 1e-12 * diffusion[0] else (s * length, diffusion),
            "right" if self.lower is None else "left" if self.upper is None else "both",
        )
        return float(passage.time), float(np.interp(self.start, s, diffusion))


def _run_one(one: Escape, how: Execution, checkpoint: Any) -> dict[str, xr.Dataset]:
    return {"escape": one._one(dataclasses.replace(how, checkpoint=checkpoint))}


escape = function_of(Escape)
