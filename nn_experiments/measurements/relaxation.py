"""Relaxation: SGD released on the path, followed by its nearest point on the path, beside its noise-free control."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from nn_experiments.cache import Cache
from nn_experiments.curvature import full_precision, subset
from nn_experiments.dynamics import attributes, check_step, full_batch_trajectory
from nn_experiments.experiment import AnyExperiment
from nn_experiments.measurements._follow import Follower, Projection, check_free, released
from nn_experiments.measurements._null import null_positions
from nn_experiments.noise import AnyNoise, Minibatch
from nn_experiments.objective import Objective, generator
from nn_experiments.workers import Workers

Floats = npt.NDArray[np.float64]

#: Tells the null control's random numbers from those of the replicas.
_NULL_STREAM = 1 << 31


#: Steps of the control that nobody can wait for.
_MOST_STEPS = 1e12


@dataclass(frozen=True)
class Relaxation:
    """Heavy-ball SGD released on the path at s = starts, at rest, and followed by its nearest point on the path.

    Some starts are released once more without noise, for the same time. Times are t = η · step / (1 − β). A null
    control says what s would be read off if the displacement had nothing to do with the path: random directions, of the
    length that the replicas' distance has at each time (`_null.null_positions`).
    """

    starts: tuple[float, ...] = (0.2, 0.3, 0.5, 0.7, 0.8)
    """Path points s at which to release the network, in rising order."""
    replicas: int = 3
    """Independent runs per start."""
    learning_rate: float = 0.3
    """Learning rate η, parameter² / loss."""
    momentum: float = 0.0
    """Heavy-ball momentum β (0 <= β < 1)."""
    weight_decay: float = 0.0
    """Weight decay λ of the update."""
    noise: AnyNoise = field(default_factory=Minibatch)
    """Noise."""
    duration: float = 120.0
    """Time, parameter² / loss."""
    records: int = 30
    """Times at which the network is recorded, after t = 0."""
    control_starts: tuple[float, ...] = (0.3, 0.7)
    """Starts that are also released without noise: the full batch, in the objective's groups."""
    control_step: float | None = 15.0
    """The control is the gradient flow, in time steps up to this (Runge-Kutta-Chebyshev), or, if None, SGD's own steps
    with η and β."""
    search: float = 0.15
    """The nearest point is sought within this distance in s of the record before, lest it jump."""
    projection: Projection = "nearest"
    """How s is read off: the nearest point of the polyline, which waits at its corners (the path points), or the plane
    normal to the path on which the network lies."""
    null_draws: int = 16
    """Random displacements per replica in the null control; 0: none."""
    loss_samples: int | None = 512
    """Size of the fixed subset of the training data (whole groups) on which the loss is recorded; None: all."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        s = np.asarray(self.starts, dtype=np.float64)
        ordered = s.size > 0 and bool(np.all((s >= 0) & (s <= 1))) and bool(np.all(np.diff(s) > 0))
        require(ordered, "relaxation.starts", "increasing numbers in 0…1", self.starts)
        require(
            set(self.control_starts) <= set(self.starts),
            "relaxation.control_starts",
            f"some of the starts {self.starts}",
            self.control_starts,
        )
        require(self.replicas >= 1, "relaxation.replicas", "a number >= 1", self.replicas)
        check_step(self.learning_rate, self.momentum, self.weight_decay)
        check_free(self.noise, self.weight_decay)
        require(self.records >= 1, "relaxation.records", "a number >= 1", self.records)
        least = self.records * self.learning_rate / (1 - self.momentum)
        require(
            least * (1 - 1e-9) <= self.duration < math.inf,
            "relaxation.duration",
            f"at least one step a record (a time of {least:g})",
            self.duration,
        )
        least = self.duration / _MOST_STEPS
        require(
            self.control_step is None or least < self.control_step < math.inf,
            "relaxation.control_step",
            f"a number above {least:g} (the duration in {_MOST_STEPS:g} steps)",
            self.control_step,
        )
        require(0 < self.search <= 1, "relaxation.search", "a number in 0…1", self.search)
        require(
            self.loss_samples is None or self.loss_samples >= 1,
            "relaxation.loss_samples",
            "a number >= 1",
            self.loss_samples,
        )
        require(self.projection in ("nearest", "plane"), "relaxation.projection", "nearest or plane", self.projection)
        require(self.null_draws >= 0, "relaxation.null_draws", "a number >= 0", self.null_draws)
        require(self.seed >= 0, "relaxation.seed", "a number >= 0", self.seed)

    @property
    def stride(self) -> int:
        """Steps of SGD from record to record."""
        return max(1, round(self.duration * (1 - self.momentum) / (self.learning_rate * self.records)))

    @property
    def times(self) -> Floats:
        """Times of the records, (records + 1,)."""
        return np.arange(self.records + 1, dtype=np.float64) * (self.stride * self.learning_rate / (1 - self.momentum))

    def run(
        self,
        experiment: AnyExperiment,
        points: Tensor,
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `relaxation` on the path `points` (P, D), dims (control, start, replica, time).

        control 0 is with noise, 1 without; what was not run (most of control 1, one replica of which is all there is)
        is NaN, also in `diverged`. A replica that diverges is flagged and NaN from then on. Every replica draws its own
        random numbers from (seed, start, replica). Raises UserError if the batch size does not fit the data.
        """
        objective = experiment.objective()
        self.noise.check(objective)
        at = path_geometry.interpolate(points, np.array(self.starts)).cpu().numpy()
        path = points.cpu().numpy()
        # The controls take longest: first, so that no process idles at the end.
        keys = [(1, self.starts.index(s), 0) for s in self.control_starts]
        keys += [(0, i, r) for i in range(len(self.starts)) for r in range(self.replicas)]
        units = [(self, experiment, path, at[key[1]], key, device) for key in keys]
        where = Cache.of(cache, {"path": points}, relaxation=self, experiment=experiment)
        results = where.map(workers or Workers(1), _run_unit, units, "relaxation")
        controls = [0, 1] if self.control_starts else [0]
        shape = (len(controls), len(self.starts), self.replicas)
        series = {name: np.full((*shape, self.records + 1), np.nan) for name in _Records._fields}
        diverged = np.full(shape, np.nan)
        for key, result in zip(keys, results, strict=True):
            diverged[key] = result["diverged"]
            for name, values in series.items():
                values[key] = result[name]
        dims = ("control", "start", "replica")
        variables: dict[str, tuple[Any, ...]] = {
            "control": (("control",), np.array(controls)),
            "start": (("start",), np.array(self.starts, dtype=np.float64)),
            "replica": (("replica",), np.arange(self.replicas)),
            "time": (("time",), self.times),
            "diverged": (dims, diverged),
            **{name: ((*dims, "time"), values) for name, values in series.items()},
        }
        if self.null_draws:
            null, stderr = self._null(points, series["distance"][0])
            variables["position_null"] = (("start", "time"), null)
            variables["position_null_stderr"] = (("start", "time"), stderr)
        return schema.make("relaxation", variables, self._attributes(objective, points))

    def _null(self, points: Tensor, distance: Floats) -> tuple[Floats, Floats]:
        """Mean and standard error of the null control's s, (starts, times), for distance (starts, replicas, times)."""
        mean, stderr = np.full((2, len(self.starts), self.records + 1), np.nan)
        for i, start in enumerate(self.starts):
            random = np.random.default_rng((_NULL_STREAM, self.seed, i))
            found = null_positions(points, start, distance[i], self.null_draws, self.projection, self.search, random)
            values = found.reshape(-1, self.records + 1)
            for t in range(self.records + 1):
                kept = values[np.isfinite(values[:, t]), t]  # of replicas that have not diverged
                if kept.size > 1:
                    mean[i, t], stderr[i, t] = kept.mean(), kept.std(ddof=1) / np.sqrt(kept.size)
        return mean, stderr

    def _attributes(self, objective: Objective, points: Tensor) -> dict[str, Any]:
        control = (
            "SGD's own steps"
            if self.control_step is None
            else f"gradient flow in time steps of at most {self.control_step:g}"
        )
        return {
            **attributes(self, objective, control if self.control_starts else None),
            "loss_samples": len(subset(objective, self.loss_samples)),
            "projection": self.projection,
            "null_draws": self.null_draws,
            "arc_length": float(path_geometry.arc_length(points)[-1]),
        }


class _Records(NamedTuple):
    """Series of one run, (records + 1,) each."""

    position: Floats
    distance: Floats
    loss: Floats
    parameter_norm: Floats


@full_precision()
def _run_unit(
    unit: tuple[Relaxation, AnyExperiment, npt.NDArray[np.floating], Any, tuple[int, int, int], str],
) -> dict[str, Any]:
    config, experiment, path, start, (control, position, replica), device = unit
    objective = experiment.objective(device=device)
    points, theta = (torch.as_tensor(a).to(objective.device, objective.dtype).clone() for a in (path, start))
    stride = config.stride
    if control:
        flow_step = None
        if config.control_step is not None:
            interval = float(config.times[1])
            stride = math.ceil(interval / config.control_step)
            flow_step = interval / stride
        trajectory = full_batch_trajectory(
            objective,
            theta,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            flow_step=flow_step,
        )
    else:
        trajectory = released(config, objective, theta, generator(config.seed, position, replica))
    states = (state[0] for state in islice(trajectory, 0, None, stride))
    records, lost = _observe(config, objective, points, states)
    return {**records._asdict(), "diverged": lost}


def _observe(
    config: Relaxation, objective: Objective, points: Tensor, states: Iterator[Tensor]
) -> tuple[_Records, bool]:
    """Records of a trajectory, until it ends or diverges (NaN from then on)."""
    indices = subset(objective, config.loss_samples)
    follower = Follower(points, config.projection, config.search)
    records = _Records(*(np.full(config.records + 1, np.nan) for _ in _Records._fields))
    for n, theta in enumerate(islice(states, config.records + 1)):
        found = follower.look(theta)
        if found is None:
            return records, True
        records.position[n], records.distance[n] = found
        records.loss[n] = _loss(objective, theta, indices)
        records.parameter_norm[n] = float(theta.norm())
    return records, False


@torch.no_grad()
def _loss(objective: Objective, theta: Tensor, indices: Tensor) -> float:
    objective.load(theta)
    return sum(share * float(objective.loss_at(part)) for part, share in objective.chunks(indices))
