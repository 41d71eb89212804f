"""Escape: SGD released on the path, and the first time at which it leaves its part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import require
from entropy_sim.survival import CURVE_POINTS, INTERVAL, summary
from nn_experiments.cache import Cache
from nn_experiments.curvature import full_precision
from nn_experiments.dynamics import attributes, check_step
from nn_experiments.experiment import AnyExperiment
from nn_experiments.measurements._follow import Follower, Projection, check_free, released
from nn_experiments.noise import AnyNoise, Minibatch
from nn_experiments.objective import generator
from nn_experiments.workers import Workers


@dataclass(frozen=True)
class Escape:
    """Heavy-ball SGD released on the path at s = start, at rest, until s reaches the level from its own side.

    s is looked at every so many steps; who has not reached the level after `duration` is censored. Recorded: every
    first-passage time, the Kaplan-Meier survival curve, the maximum-likelihood rate with its 95 % χ² interval, a test
    whether the times are exponential, and the mean with and without an exponential tail for the censored. Times are
    t = η · step / (1 − β). Looks at intervals Δt see a level as if it lay 0.5826 √(2 D Δt) further (diffusion D along
    the path, Δt past the memory of the steps).
    """

    start: float = 0.3
    """Path point s at which to release the network."""
    level: float = 0.5
    """Level of s that ends the escape, reached from the side of the start."""
    replicas: int = 8
    """Independent runs."""
    learning_rate: float = 0.3
    """Learning rate η, parameter² / loss."""
    momentum: float = 0.0
    """Heavy-ball momentum β (0 <= β < 1)."""
    weight_decay: float = 0.0
    """Weight decay λ of the update."""
    noise: AnyNoise = field(default_factory=Minibatch)
    """Noise."""
    duration: float = 480.0
    """Longest time followed, parameter² / loss."""
    look_every: int = 10
    """Steps from look to look at s."""
    transient: float = 0.0
    """Time left out of the fit of the rate and of the test for exponential times, in which the network settles."""
    projection: Projection = "plane"
    """How s is read off: the plane normal to the path on which the network lies, or the nearest point of the polyline,
    which waits at its corners."""
    search: float = 0.15
    """A nearest point is sought within this distance in s of the look before, lest it jump."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        require(0 < self.level < 1, "escape.level", "a number between 0 and 1", self.level)
        require(
            0 <= self.start <= 1 and self.start != self.level,
            "escape.start",
            f"a number in 0…1 on one side of the level {self.level:g}",
            self.start,
        )
        require(self.replicas >= 1, "escape.replicas", "a number >= 1", self.replicas)
        check_step(self.learning_rate, self.momentum, self.weight_decay)
        check_free(self.noise, self.weight_decay)
        require(self.look_every >= 1, "escape.look_every", "a number >= 1", self.look_every)
        require(
            self.interval * (1 - 1e-9) <= self.duration < math.inf,
            "escape.duration",
            f"at least the time from look to look, {self.interval:g}",
            self.duration,
        )
        require(
            0 <= self.transient < self.duration,
            "escape.transient",
            f"a number >= 0, less than the duration {self.duration:g}",
            self.transient,
        )
        require(self.projection in ("nearest", "plane"), "escape.projection", "nearest or plane", self.projection)
        require(0 < self.search <= 1, "escape.search", "a number in 0…1", self.search)
        require(self.seed >= 0, "escape.seed", "a number >= 0", self.seed)

    @property
    def interval(self) -> float:
        """Time from look to look."""
        return self.look_every * self.learning_rate / (1 - self.momentum)

    @property
    def looks(self) -> int:
        """Looks at every replica that does not escape, after the one at t = 0."""
        return round(self.duration / self.interval)

    def run(
        self,
        experiment: AnyExperiment,
        points: Tensor,
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `escape` on the path `points` (P, D).

        A replica that diverges is neither escaped nor censored. Every replica draws its own random numbers from
        (seed, replica), so results do not depend on the processes. Raises UserError if the batch size does not fit the
        data.
        """
        objective = experiment.objective()
        self.noise.check(objective)
        path = points.cpu().numpy()
        units = [(self, experiment, path, replica, device) for replica in range(self.replicas)]
        where = Cache.of(cache, {"path": points}, escape=self, experiment=experiment)
        found = [_Passage(**f) for f in where.map(workers or Workers(1), _run_unit, units, "escape")]
        looks = np.array([f.looks for f in found])
        diverged = np.array([f.diverged for f in found])
        escaped, duration = looks > 0, self.looks * self.interval
        times = np.where(escaped, looks * self.interval, np.nan)
        side = 1 if self.start < self.level else -1
        each, curve = ("replica",), ("curve_point",)
        variables: dict[str, Any] = {
            "replica": (each, np.arange(self.replicas)),
            "curve_point": (curve, np.arange(CURVE_POINTS)),
            "first_passage_time": (each, times),
            "escaped": (each, escaped.astype(np.int8)),
            "diverged": (each, diverged.astype(np.int8)),
            "side": (each, (side * escaped).astype(np.int8)),
            "distance": (each, np.array([f.distance for f in found])),
            "duration": ((), duration),
        }
        observed = np.where(escaped, times, duration)[~diverged]
        if observed.size:
            values = summary(observed, escaped[~diverged], self.transient)
            variables |= {n: (curve if np.ndim(v) else (), v) for n, v in values.items()}
        attrs = {
            **attributes(self, objective, None),
            "censored": int((~escaped & ~diverged).sum()),
            "effective_sample_size": int(np.sum(times[escaped] > self.transient)),
            "diverged_are": "left out of the statistics, neither escaped nor censored",
            "interval": f"{INTERVAL:g} confidence (chi-squared)",
            "effective_sample_size_of": "the rate: independent replicas, one per escape after the transient",
            "arc_length": float(path_geometry.arc_length(points)[-1]),
        }
        return schema.make("escape", variables, attrs)


class _Passage(NamedTuple):
    """looks: after how many looks the level was reached, 0 if it was not. distance: from the path, there or at the last
    look, NaN if the replica diverged."""

    looks: int
    distance: float
    diverged: bool


@full_precision()
def _run_unit(unit: tuple[Escape, AnyExperiment, npt.NDArray[np.floating], int, str]) -> dict[str, Any]:
    config, experiment, path, replica, device = unit
    objective = experiment.objective(device=device)
    points = torch.as_tensor(path).to(objective.device, objective.dtype)
    theta = path_geometry.interpolate(points, config.start).clone()
    follower = Follower(points, config.projection, config.search)
    trajectory = released(config, objective, theta, generator(config.seed, replica))
    distance = 0.0
    for n, state in enumerate(islice(trajectory, 0, config.looks * config.look_every + 1, config.look_every)):
        found = follower.look(state[0])
        if found is None:
            return _Passage(0, math.nan, True)._asdict()
        s, distance = found
        if n and (s >= config.level if config.start < config.level else s <= config.level):
            return _Passage(n, distance, False)._asdict()
    return _Passage(0, distance, False)._asdict()
