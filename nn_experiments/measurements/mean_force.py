"""Mean force: SGD held on the hyperplane through a path point normal to the path; minus the mean gradient along it.

This is thermodynamic integration (the blue-moon ensemble of chemical physics) with the noise of real minibatches.
"""

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

from entropy_sim import path_geometry, schema, statistics
from entropy_sim.errors import require
from nn_experiments.cache import Cache
from nn_experiments.curvature import full_precision
from nn_experiments.dynamics import DIVERGED_DISTANCE, Trajectory, attributes, check_step, full_batch_trajectory, sgd
from nn_experiments.experiment import AnyExperiment
from nn_experiments.measurements._frames import Frame, frames
from nn_experiments.noise import AnyNoise, Draw, Label, Minibatch, Thermal, check_bounded
from nn_experiments.objective import Objective, generator
from nn_experiments.workers import Workers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeanForce:
    """Heavy-ball SGD held on the hyperplane through each path point: minus the averaged tangential gradient, −⟨t·∇L⟩.

    The final update, momentum and weight decay included, is projected off the tangent; the recorded force is that of
    the loss alone, and with label or thermal noise that of the clean loss. A replica is then an antithetic pair, the
    same draws with both signs: the force's fluctuations of first order in the noise cancel. Beside it runs a noise-free
    control over the same time, from the same point; for label noise in minibatches, one for each replica, with the same
    minibatches and steps. Times are t = η · step / (1 − β).
    """

    positions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Path points s at which to hold the network, in rising order."""
    replicas: int = 3
    """Independent runs per position, at least 2."""
    learning_rate: float = 0.3
    """Learning rate η, parameter² / loss."""
    momentum: float = 0.0
    """Heavy-ball momentum β (0 <= β < 1)."""
    weight_decay: float = 0.0
    """Weight decay λ of the update."""
    noise: AnyNoise = field(default_factory=Minibatch)
    """Noise."""
    burn_in: float = 10.0
    """Time before averaging, parameter² / loss."""
    duration: float = 40.0
    """Time of averaging, parameter² / loss."""
    time_windows: int = 2
    """Windows into which the averaging time is divided, each of at least 8 steps."""
    control: bool = True
    """Also run without noise: the full batch, in the objective's groups."""
    control_step: float | None = 10.0
    """The control is the gradient flow, in time steps up to this (Runge-Kutta-Chebyshev; at most half a window), or, if
    None, SGD's own steps with η and β."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        s = np.asarray(self.positions, dtype=np.float64)
        ordered = s.size > 0 and bool(np.all((s >= 0) & (s <= 1))) and bool(np.all(np.diff(s) > 0))
        require(ordered, "mean_force.positions", "increasing numbers in 0…1", self.positions)
        require(self.replicas >= 2, "mean_force.replicas", "at least 2", self.replicas)
        check_step(self.learning_rate, self.momentum, self.weight_decay)
        require(0 <= self.burn_in < math.inf, "mean_force.burn_in", "a number >= 0", self.burn_in)
        require(self.time_windows >= 1, "mean_force.time_windows", "a number >= 1", self.time_windows)
        least = 8 * self.time_step * self.time_windows
        require(
            least * (1 - 1e-9) <= self.duration < math.inf,
            "mean_force.duration",
            f"at least 8 steps a window (a time of {least:g}), for a standard error",
            self.duration,
        )
        require(
            self.control_step is None or 0 < self.control_step <= self.window / 2,
            "mean_force.control_step",
            f"a positive number up to {self.window / 2:g} (half a window)",
            self.control_step,
        )
        require(self.seed >= 0, "mean_force.seed", "a number >= 0", self.seed)
        check_bounded(self.noise, self.weight_decay)

    @property
    def own_controls(self) -> bool:
        """Whether each replica has a control of its own, on its minibatches."""
        return self.control and isinstance(self.noise, Label) and self.noise.batch_size is not None

    @property
    def window(self) -> float:
        """Time of one window."""
        return self.duration / self.time_windows

    @property
    def time_step(self) -> float:
        """Time per step of SGD, η/(1 − β)."""
        return self.learning_rate / (1 - self.momentum)

    @property
    def flow_step(self) -> float | None:
        """Time per step of the control's gradient flow: the largest up to `control_step` that divides a window."""
        return None if self.control_step is None else self.window / math.ceil(self.window / self.control_step)

    def run(
        self,
        experiment: AnyExperiment,
        points: Tensor,
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `mean_force` on the path `points` (P, D).

        `mean_force_stderr` is that of the average within one window, from block averages. A replica that diverges is
        flagged and NaN from that window on. Every replica draws its own random numbers from (seed, position, replica),
        so results do not depend on the processes. Raises UserError if the batch size does not fit the data.
        """
        objective = experiment.objective()
        self.noise.check(objective)
        kinds = range(self.replicas + (self.control and not self.own_controls))  # the last one may be the control
        units = [
            (self, experiment, frame, i, r, device)
            for i, frame in enumerate(frames(points, self.positions))
            for r in kinds
        ]
        # The controls take longest: first, so that no process idles at the end.
        order = sorted(range(len(units)), key=lambda u: units[u][4] != self.replicas)
        where = Cache.of(cache, {"path": points}, mean_force=self, experiment=experiment)
        found = where.map(workers or Workers(1), _run_unit, [units[u] for u in order], "mean force")
        results: list[Any] = [None] * len(units)
        for u, result in zip(order, found, strict=True):
            results[u] = _Windows(**result)
        rows = [results[i * len(kinds) : (i + 1) * len(kinds)] for i in range(len(self.positions))]
        return schema.make("mean_force", self._variables(rows), self._attributes(objective, points))

    def _variables(self, rows: list[list[_Windows]]) -> dict[str, tuple[Any, ...]]:
        noisy = [row[: self.replicas] for row in rows]

        def stacked(name: str) -> Floats:
            return np.array([[getattr(result, name) for result in row] for row in noisy])

        windows = ("s", "replica", "time_window")
        variables: dict[str, tuple[Any, ...]] = {
            "s": (("s",), np.array(self.positions, dtype=np.float64)),
            "replica": (("replica",), np.arange(self.replicas)),
            "time_window": (("time_window",), self.burn_in + (np.arange(self.time_windows) + 0.5) * self.window),
            "mean_force": (windows, stacked("force")),
            "mean_force_stderr": (windows, stacked("force_stderr")),
            "mean_force_curved": (windows, stacked("curved")),
            "mean_force_curved_stderr": (windows, stacked("curved_stderr")),
            "transverse_loss": (windows, stacked("loss")),
            "distance": (windows, stacked("distance")),
            "diverged": (("s", "replica"), stacked("diverged").astype(np.int8)),
        }
        times, sizes = stacked("autocorrelation_time"), stacked("effective_sample_size")
        kept = np.isfinite(times)
        mean = np.where(kept, times, 0).sum(1) / np.maximum(kept.sum(1), 1)
        variables["position_autocorrelation_time"] = (("s",), np.where(kept.any(1), mean, np.nan))
        variables["effective_sample_size"] = (("s",), np.where(kept, sizes, 0).sum(1))
        if self.momentum == 0 and self.weight_decay == 0:
            variables["heating_left"] = (("s", "replica"), stacked("heating_left"))
            variables["heating_right"] = (("s", "replica"), stacked("heating_right"))
        if self.control:
            own = self.own_controls
            control = stacked("control_force") if own else np.array([[row[-1].force] for row in rows])
            variables["mean_force_control"] = (("s", "control_replica", "time_window"), control)
        return variables

    def _attributes(self, objective: Any, points: Tensor) -> dict[str, Any]:
        control = (
            "SGD's own steps" if self.control_step is None else f"gradient flow in time steps of {self.flow_step:g}"
        )
        return {
            **attributes(self, objective, control if self.control else None),
            **({"control": "the same minibatches without label noise"} if self.own_controls else {}),
            "arc_length": float(path_geometry.arc_length(points)[-1]),
        }


class _Windows(NamedTuple):
    """What one run leaves: averages of each window (windows,), and of all windows together."""

    force: Floats
    force_stderr: Floats
    curved: Floats
    curved_stderr: Floats
    loss: Floats
    distance: Floats
    heating_left: float
    heating_right: float
    autocorrelation_time: float
    effective_sample_size: float
    diverged: bool
    control_force: Floats


@full_precision()  # the force is what is left of gradients that nearly cancel
def _run_unit(unit: tuple[MeanForce, AnyExperiment, Frame, int, int, str]) -> dict[str, Any]:
    config, experiment, frame, position, replica, device = unit
    objective = experiment.objective(device=device)
    point, tangent, bend = (torch.as_tensor(a).to(objective.device, objective.dtype) for a in frame)
    options: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        "tangent": tangent,
    }
    runs: Iterator[list[_State]]
    restraint = config.noise.restraint if isinstance(config.noise, Thermal) else 0.0
    before = config.burn_in
    if replica < config.replicas:
        dt = config.time_step
        runs = _noisy(config, objective, point, generator(config.seed, position, replica), options)
    else:
        flow_step = config.flow_step
        dt = config.time_step if flow_step is None else flow_step
        start = point.clone()
        if flow_step is not None and config.control_step is not None and not _divides(flow_step, before):
            start, before = _flown(objective, start, before, config.control_step, options), 0.0
        quiet = full_batch_trajectory(objective, start, flow_step=flow_step, **options)
        runs = ([_State(theta, loss, gradient, gradient)] for theta, loss, gradient in quiet)
    skip, size = round(before / dt), round(config.window / dt)
    total = skip + size * config.time_windows + 1
    limit = DIVERGED_DISTANCE * max(float(point.norm()), 1.0)
    rows = []
    for states in islice(runs, total):
        row = []
        for theta, loss, clean, gradient in states:
            offset = theta - point
            along, square, distance = tangent @ gradient, gradient @ gradient, offset.norm()
            pull = offset @ clean + restraint * distance**2
            values = [loss, -(tangent @ clean), bend @ offset, pull, square - along**2, distance]
            row.append(torch.stack(values))
        rows.append(torch.stack(row))
        if len(rows) % 50 == 0 and not float(distance) < limit:
            break
    series = np.full((total, len(rows[0]), 6), np.nan)
    series[: len(rows)] = torch.stack(rows).double().cpu().numpy()
    lost = ~(np.isfinite(series).all(2) & (series[..., 5] < limit)).all(1)
    if lost.any():
        series[lost.argmax() :] = np.nan
    if replica == config.replicas and config.control_step is not None:
        # The few large steps of the flow: the trapezoidal rule over each window.
        series = (series[1:] + series[:-1]) / 2
    kept = series[skip : total - 1].reshape(config.time_windows, size, -1, 6)
    return _summarise(kept, dt, config.learning_rate, bool(lost.any()), config.own_controls)._asdict()


def _divides(step: float, time: float) -> bool:
    return abs(round(time / step) * step - time) <= 1e-9 * time


def _flown(objective: Objective, theta: Tensor, time: float, longest: float, options: dict[str, Any]) -> Tensor:
    """Where the gradient flow is after this time, in equal steps up to `longest`."""
    steps = math.ceil(time / longest)
    states = full_batch_trajectory(objective, theta, flow_step=time / steps, **options)
    return next(islice(states, steps, None))[0].clone()


class _State(NamedTuple):
    """Before a step: theta, loss and gradient without the noise that is added, and the gradient of the step itself."""

    theta: Tensor
    loss: Tensor
    clean: Tensor
    gradient: Tensor


def _noisy(
    config: MeanForce, objective: Objective, point: Tensor, draws: torch.Generator, options: dict[str, Any]
) -> Iterator[list[_State]]:
    """SGD with the noise; where noise is added, both signs of it with the same draws, and its own control if asked."""
    noise, drawn = config.noise, [Draw(None, None)]
    if not noise.adds:
        single = sgd(lambda at: noise.gradient(objective, at, draws), point.clone(), **options)
        yield from ([_State(theta, loss, gradient, gradient)] for theta, loss, gradient in single)
    restraint = noise.restraint if isinstance(noise, Thermal) else 0.0

    def follow(sign: float) -> Trajectory:
        def gradient(at: Tensor) -> tuple[Tensor, Tensor]:
            loss, g = noise.gradient_at(objective, at, drawn[0], sign)
            g = g.clone()  # the objective's own is overwritten before this step is taken
            return loss, g.add_(at - point, alpha=restraint) if restraint else g

        return sgd(gradient, point.clone(), **options)

    runs = [follow(sign) for sign in ((1.0, -1.0, 0.0) if config.own_controls else (1.0, -1.0))]
    while True:
        drawn[0] = noise.draw(objective, draws, config.time_step)
        states = []
        for theta, _, gradient in map(next, runs):
            loss, clean = noise.gradient_at(objective, theta, drawn[0], 0.0)
            states.append(_State(theta, loss, clean.clone(), gradient))
        yield states


def _summarise(kept: Floats, dt: float, learning_rate: float, diverged: bool, own_control: bool) -> _Windows:
    """kept: (windows, samples, runs, 6), NaN from where a run diverged; the last run may be the control."""
    control = kept[:, :, -1, 1].mean(1) if own_control else np.full(len(kept), np.nan)
    kept = kept[:, :, :-1] if own_control else kept
    curved = (kept[..., 1] * (1 - kept[..., 2])).mean(2)
    loss, force, _, left, right, distance = np.moveaxis(kept.mean(2), -1, 0)
    averages = [_block_average(x) for x in (force, curved)]
    whole = np.isfinite(force).all(1)
    times = [float(statistics.autocorrelation_time(x)) for x in force[whole]] if kept.shape[1] >= 8 else []
    time = float(np.mean(times)) if times else math.nan
    return _Windows(
        force=averages[0][0],
        force_stderr=averages[0][1],
        curved=averages[1][0],
        curved_stderr=averages[1][1],
        loss=loss.mean(1),
        distance=distance.mean(1),
        heating_left=float(2 * left.mean()),
        heating_right=float(learning_rate * right.mean()),
        autocorrelation_time=time * dt,
        effective_sample_size=float(whole.sum()) * kept.shape[1] / time,
        diverged=diverged,
        control_force=control,
    )


def _block_average(series: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error of each row (windows, samples)."""
    if series.shape[1] < statistics.MINIMUM_BLOCKS:
        return series.mean(1), np.full(len(series), np.nan)
    average = statistics.block_average(series)
    return average.mean, average.stderr
