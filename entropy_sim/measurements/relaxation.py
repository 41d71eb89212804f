"""Release walkers on the path and follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from entropy_sim import schema
from entropy_sim._ensemble import Ensemble
from entropy_sim._kernels import observe_function
from entropy_sim.errors import require
from entropy_sim.measurements.base import (
    Execution,
    Floats,
    Measurement,
    check_counts,
    check_positions,
    check_seed,
    function_of,
    steps_for,
)
from entropy_sim.statistics import autocorrelation_time

#: Of records that are looked at together, at most: points, coordinates that are kept (16 MB), and what it takes to get
#: from one to the next, in steps of a coordinate of a walker (a fraction of a second).
_POINTS_AT_ONCE, _KEPT_AT_ONCE, _STEPS_AT_ONCE = 2**13, 2**21, 10**8
#: A block keeps as many walkers at least.
_NARROWEST = 32


# out: (records, d, walkers) as rows, of all that are looked at together but the last.
@observe_function
def _keep(theta, gradient, located, frame, index, out, params):  # type: ignore[no-untyped-def]
    d, walkers = theta.shape
    first = index % (out.shape[0] // d + 1) * d
    if first == out.shape[0]:
        return
    for i in range(d):
        for w in range(walkers):
            out[first + i, w] = theta[i, w]


@dataclass(frozen=True)
class Relaxation(Measurement):
    """Position s(t), distance from the path and loss of walkers released on the path at s = starts, at rest.

    With `control`, the same without noise beside it (control = 1; one walker stands for all replicas).
    """

    starts: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    """Positions s at which walkers are released."""
    replicas: int = 256
    """Walkers per start."""
    duration: float = 40.0
    """Time, parameter² / loss (t = h · step, or eta · step / (1 - beta)); cut to a whole number of steps between
    records, which is much where there are few."""
    records: int = 100
    """Times at which the walkers are recorded, after t = 0."""
    control: bool = True
    """Also run without noise."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        check_positions("starts", self.starts, increasing=False)
        check_counts(replicas=self.replicas, records=self.records)
        check_seed(self.seed)
        self.dynamics.check(self.landscape, self.noise)
        require(self._stride() >= 1, "records", "at most one for each step of the duration", self.records)

    def _stride(self) -> int:
        return steps_for("duration", self.duration, self.dynamics.time_step) // self.records

    def _records_at_once(self, walkers: int) -> int:
        """Records that are kept in compiled code and then looked at together."""
        d = self.landscape.dimension
        kept = _KEPT_AT_ONCE // (max(walkers, _NARROWEST) * d)
        steps = _STEPS_AT_ONCE // (walkers * d * self._stride())
        return max(1, min(_POINTS_AT_ONCE // walkers, kept, steps, self.records))

    def _follow(self, replicas: int, how: Execution, noisy: bool) -> dict[str, Floats]:
        """position, distance, loss, each (starts, replicas, times), NaN once diverged."""
        landscape, stride, d = self.landscape, self._stride(), self.landscape.dimension
        start = np.repeat(landscape.path(np.array(self.starts)), replicas, axis=0)
        at_once = self._records_at_once(len(start))
        name = "relaxation" if noisy else "control"
        ensemble = Ensemble(
            landscape,
            self.noise,
            self.dynamics,
            start,
            seed=self.seed,
            threads=how.threads,
            noisy=noisy,
            observer=_keep,
            out_shape=((at_once - 1) * d, -1),
            observe_from=stride,
            observe_every=stride if at_once > 1 else 0,
            watch=False,
            checkpoint=how.checkpoint,
            name=name,
        )
        saved = how.checkpoint.load(name) if how.checkpoint else None
        found = {n: np.empty((self.records + 1, len(start))) for n in ("position", "distance", "loss")}
        done = -1
        if saved is not None:
            done = len(saved["position"]) - 1
            for n, values in found.items():
                values[: done + 1] = saved[n]

        def look(theta: Floats, before: int) -> None:
            lost = np.isnan(theta).any(axis=-1)
            located = landscape.position(theta), landscape.distance(theta), landscape.energy(theta)
            for out, values in zip(found.values(), located, strict=True):
                out[before : before + len(theta)] = np.where(lost, np.nan, values)

        def so_far() -> dict[str, Floats]:
            return {n: values[: done + 1] for n, values in found.items()}

        if done < 0:
            look(ensemble.theta[None], 0)
            done = 0
        silent = None if how.progress and noisy else True
        with tqdm(total=self.records, initial=done, desc=name, unit="record", disable=silent, delay=1) as bar:
            while done < self.records:
                last = min(done + at_once, self.records)
                ensemble.advance_to(last * stride, extra=so_far)
                # Of the last one no step has been taken yet, before which it would have been kept.
                theta = ensemble.theta[None]
                if last > done + 1:
                    kept = ensemble.per_walker[:, : (last - done - 1) * d].reshape(len(start), -1, d).swapaxes(0, 1)
                    theta = np.concatenate([kept, theta])
                look(theta, done + 1)
                bar.update(last - done)
                done = last
        shape = (len(self.starts), replicas, self.records + 1)
        return {name: values.T.reshape(shape) for name, values in found.items()}

    def _correlations(self, distance: Floats) -> dict[str, Any]:
        """Autocorrelation time of the distance from the path in the second half of the run, and sample sizes."""
        late = distance[..., self.records // 2 :]
        late = late[np.isfinite(late).all(axis=-1) & (np.ptp(late, axis=-1) > 0)]
        spacing = self._stride() * self.dynamics.time_step
        tau = float(np.mean(autocorrelation_time(late))) * spacing if late.size and late.shape[-1] > 3 else np.nan
        alive = np.isfinite(distance[..., -1]).sum(axis=1)
        return {
            "autocorrelation_time": tau,
            "autocorrelation_time_of": "the distance from the path, second half, mean over walkers",
            "effective_sample_size": int(alive.min()),
            "effective_sample_size_of": "an average over replicas at one time, for the start with the fewest left",
        }

    def measure(self, how: Execution) -> tuple[dict[str, xr.Dataset], Floats]:
        found = [self._follow(self.replicas, how, True)]
        if self.control:
            still = self._follow(1, how, False)
            found.append({n: np.repeat(v, self.replicas, axis=1) for n, v in still.items()})
        dims = (*(("control",) if self.control else ()), "start", "replica", "time")
        stacked = {n: np.stack([f[n] for f in found]) if self.control else found[0][n] for n in found[0]}
        variables: dict[str, Any] = {n: (dims, v) for n, v in stacked.items()}
        variables |= {
            "diverged": (dims[:-1], np.isnan(stacked["position"][..., -1]).astype(np.int8)),
            "start": (("start",), np.array(self.starts)),
            "replica": (("replica",), np.arange(self.replicas)),
            "time": (("time",), np.arange(self.records + 1) * self._stride() * self.dynamics.time_step),
        }
        if self.control:
            variables["control"] = (("control",), np.arange(2))
        group = schema.make("relaxation", variables, self._correlations(found[0]["distance"]))
        return {"relaxation": group}, np.linspace(0.0, 1.0, 51)


relaxation = function_of(Relaxation)
