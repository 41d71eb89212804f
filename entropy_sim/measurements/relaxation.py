"""Release walkers on the path and follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from entropy_sim import schema
from entropy_sim._kernels import Ensemble
from entropy_sim.dynamics.overdamped import Overdamped
from entropy_sim.errors import require
from entropy_sim.landscapes.channel import Channel
from entropy_sim.measurements.base import (
    AnyDynamics,
    AnyLandscape,
    AnyNoise,
    Floats,
    check_counts,
    check_positions,
    check_seed,
    check_threads,
    finish,
    steps_for,
)
from entropy_sim.noise.thermal import Thermal


@dataclass(frozen=True)
class Relaxation:
    """Position s(t), distance from the path and loss of walkers released on the path at s = starts, at rest.

    With `control`, the same without noise beside it (control = 1; one walker stands for all replicas).
    """

    landscape: AnyLandscape = Channel()
    """Loss landscape."""
    noise: AnyNoise = Thermal()
    """Noise."""
    dynamics: AnyDynamics = Overdamped()
    """Update rule."""
    starts: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    """Positions s at which walkers are released."""
    replicas: int = 256
    """Walkers per start."""
    duration: float = 40.0
    """Time, parameter² / loss (t = h · step, or eta · step / (1 - beta))."""
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

    def _follow(self, replicas: int, threads: int | None, noisy: bool, progress: bool) -> dict[str, Floats]:
        """position, distance, loss, each (starts, replicas, times), NaN once diverged."""
        landscape = self.landscape
        start = np.repeat(landscape.path(np.array(self.starts)), replicas, axis=0)
        ensemble = Ensemble(landscape, self.noise, self.dynamics, start, seed=self.seed, threads=threads, noisy=noisy)
        found: dict[str, list[Floats]] = {"position": [], "distance": [], "loss": []}
        for record in tqdm(range(self.records + 1), desc="relaxation", disable=None if progress else True):
            if record:
                ensemble.advance(self._stride())
            theta = np.where(ensemble.diverged[:, None], np.nan, ensemble.theta)
            located = landscape.position(theta), landscape.distance(theta), landscape.energy(theta)
            for name, values in zip(found, located, strict=True):
                found[name].append(np.where(ensemble.diverged, np.nan, values))
        shape = (len(self.starts), replicas, self.records + 1)
        return {name: np.stack(values, axis=1).reshape(shape) for name, values in found.items()}

    def run(self, threads: int | None = None, progress: bool = False) -> xr.DataTree:
        """The dataset: groups `relaxation` and `path`."""
        check_threads(threads)
        found = [self._follow(self.replicas, threads, True, progress)]
        if self.control:
            still = self._follow(1, threads, False, progress)
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
        group = schema.make("relaxation", variables)
        return finish(self, {"relaxation": group}, np.linspace(0.0, 1.0, 51), threads=threads)


def relaxation(
    landscape: AnyLandscape,
    noise: AnyNoise,
    dynamics: AnyDynamics,
    *,
    threads: int | None = None,
    progress: bool = False,
    **options: Any,
) -> xr.DataTree:
    """`Relaxation(landscape, noise, dynamics, **options).run(threads, progress)`."""
    return Relaxation(landscape, noise, dynamics, **options).run(threads, progress)
