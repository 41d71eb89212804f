"""The units of work of a ladder: where the replicas of a position begin, and one replica at one rung."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nn_experiments.cache import Cache
from nn_experiments.curvature import Estimate, Hutchinson, full_precision, rademacher
from nn_experiments.dynamics import DIVERGED_DISTANCE, Trajectory, sgd
from nn_experiments.experiment import AnyExperiment
from nn_experiments.measurements._frames import Frame
from nn_experiments.measurements.linear_response import LinearisedDynamics, LinearResponse, Residuals, valley_floor
from nn_experiments.noise import Draw, Label, Thermal
from nn_experiments.objective import Objective, generator

if TYPE_CHECKING:
    from nn_experiments.measurements.ladder import Ladder

Floats = npt.NDArray[np.float64]


class Start(NamedTuple):
    """Where the replicas of one position begin; arrays that processes can exchange, in double precision."""

    point: Floats
    tangent: Floats
    response: LinearResponse | None
    floor_distance: float
    floor_alignment: float
    hessian_trace_slope: float
    hessian_trace_slope_stderr: float


class Unit(NamedTuple):
    """One replica at one rung; key: (position, rung, replica), of its random numbers. The replica after the last is
    the full batch's control, at the learning rate of its rung."""

    ladder: Ladder
    experiment: AnyExperiment
    start: Start
    key: tuple[int, int, int]
    rung: dict[str, float]
    device: str
    cache: Cache


def start(unit: tuple[Ladder, AnyExperiment, Frame, int, str, Cache]) -> Start:
    """The valley floor beside a path point, with its linear response; or the path point itself, with probes."""
    ladder, experiment, frame, position, device, cache = unit
    if not ladder.floor:
        slope = Estimate(math.nan, math.nan)
        if ladder.probes:
            objective = experiment.objective(device=device)
            like = objective.theta()
            probes = rademacher(ladder.probes, len(like), generator(ladder.seed, 2), like)  # common to all positions
            point, tangent = (torch.as_tensor(a).to(like) for a in frame[:2])
            with full_precision():
                slope = Hutchinson(objective, probes).slope(point, tangent, ladder.slope_step)
        return Start(frame.point.astype(np.float64), frame.tangent.astype(np.float64), None, 0.0, 1.0, *slope)
    place = cache.path("floor", position)
    found = cache.get(place)
    if found is None:
        residuals = Residuals(experiment.objective(dtype=torch.float64, device=device))
        like = residuals.objective.theta()
        tangent = torch.as_tensor(frame.tangent).to(like)
        floor = valley_floor(residuals, torch.as_tensor(frame.point).to(like), tangent / tangent.norm())
        found = {
            "point": floor.point.cpu().numpy(),
            "tangent": floor.tangent.cpu().numpy(),
            "displacement": floor.displacement,
            "alignment": floor.alignment,
            **vars(LinearResponse.at(residuals, floor, ladder.slope_step)),
        }
        cache.put(place, found)
    names = ("kernel", "slope_kernel", "stiffness", "slopes", "samples", "outputs")
    response = LinearResponse(**{name: found[name] for name in names})
    exact = (response.trace_slope, 0.0)
    return Start(found["point"], found["tangent"], response, found["displacement"], found["alignment"], *exact)


def run_unit(unit: Unit) -> dict[str, Any]:
    """What one replica, or control, leaves; from the cache if it was done before."""
    place = unit.cache.path("replica", *unit.key)
    found = unit.cache.get(place)
    if found is not None:
        return found
    with full_precision():  # forces are differences of gradients that nearly cancel
        return unit.cache.put(place, _Replica(unit).run())


class _Silent:
    """The full batch without noise."""

    adds = False

    def draw(self, objective: Objective, generator: torch.Generator, time_step: float) -> Draw:
        return Draw(None, None)

    def gradient_at(self, objective: Objective, theta: Tensor, draw: Draw, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        return objective.full_value_and_gradient(theta)


class _Replica:
    """One antithetic pair, or single run, its own control if it has one, and the linearised dynamics, step by step."""

    def __init__(self, unit: Unit) -> None:
        ladder, rung = unit.ladder, unit.rung
        self.ladder, self.key = ladder, unit.key
        self.is_control = unit.key[2] == ladder.replicas
        self.objective = unit.experiment.objective(device=unit.device)
        self.rate = rung["learning_rate"]
        self.point, self.tangent = (
            torch.as_tensor(a).to(self.objective.device, self.objective.dtype) for a in unit.start[:2]
        )
        self.noise: Any = _Silent() if self.is_control else ladder.noise_at(rung)
        self.drawn = Draw(None, None)
        self.runs = [self._follow(sign) for sign in ((1.0, -1.0) if self.noise.adds else (1.0,))]
        self.control = self._follow(0.0) if ladder.own_controls and not self.is_control else None
        self.linear = None
        if unit.start.response is not None and isinstance(self.noise, Label) and self.noise.batch_size is None:
            self.linear = LinearisedDynamics(unit.start.response, self.rate, ladder.momentum, self.point)

    def _follow(self, sign: float) -> Trajectory:
        restraint = self.noise.restraint if isinstance(self.noise, Thermal) else 0.0

        def gradient(at: Tensor) -> tuple[Tensor, Tensor]:
            loss, g = self.noise.gradient_at(self.objective, at, self.drawn, sign)
            g = g.clone()  # the objective's own is overwritten before this step is taken
            return loss, g.add_(at - self.point, alpha=restraint) if restraint else g

        momentum = self.ladder.momentum
        return sgd(gradient, self.point.clone(), learning_rate=self.rate, momentum=momentum, tangent=self.tangent)

    def run(self) -> dict[str, Any]:
        """Averages of each window, (windows,)."""
        ladder = self.ladder
        skip, size, stride = ladder.clock(self.rate)
        draws, rows, ends = generator(ladder.seed, *self.key), [], []
        for n in range(skip + size * ladder.time_windows):
            self.drawn = self.noise.draw(self.objective, draws, self.rate / (1 - ladder.momentum))
            now = [next(run) for run in self.runs]
            quiet = None if self.control is None else next(self.control)[2]
            if n >= skip and (n - skip) % size % stride == 0:
                rows.append(self._observe(now, quiet))
            if self.linear is not None and self.drawn.added is not None:
                self.linear.step(self.drawn.added)
            ends = [theta for theta, _, _ in now]
        series = torch.stack(rows).double().cpu().numpy()
        limit = DIVERGED_DISTANCE * max(float(self.point.norm()), 1.0)
        lost = ~(np.isfinite(series).all(1) & (series[:, 4] < limit))
        if lost.any():
            series[lost.argmax() :] = np.nan
        windows = np.moveaxis(series.reshape(ladder.time_windows, -1, 5).mean(1), -1, 0)
        names = ("mean_force", "mean_force_control", "mean_force_linear", "transverse_loss", "distance")
        found: dict[str, Any] = dict(zip(names, windows, strict=True), diverged=bool(lost.any()))
        if self.control is None:
            del found["mean_force_control"]
        if self.linear is None:
            del found["mean_force_linear"]
        if ladder.floor and not self.is_control:
            measured = self.key[2] < ladder.moved and not lost.any()
            slopes = [self._slope(end) for end in ends] if measured else [math.nan]
            found["hessian_trace_slope_moved"] = float(np.mean(slopes))
        return found

    def _observe(self, now: list[tuple[Tensor, Tensor, Tensor]], quiet: Tensor | None) -> Tensor:
        """Force of the noisy runs, with clean labels; of the control; of the linearised dynamics; loss and distance."""
        forces, losses = [], []
        for theta, loss, g in now:
            if self.noise.adds:
                loss, g = self.noise.gradient_at(self.objective, theta, self.drawn, 0.0)
            forces.append(-(self.tangent @ g))
            losses.append(loss)
        none = torch.zeros_like(forces[0])
        return torch.stack(
            [
                torch.stack(forces).mean(),
                none if quiet is None else -(self.tangent @ quiet),
                none if self.linear is None else self.linear.force(),
                torch.stack(losses).mean(),
                torch.stack([(theta - self.point).norm() for theta, _, _ in now]).mean(),
            ]
        )

    def _slope(self, theta: Tensor) -> float:
        """Tr(Q ∂_t H_GN) at theta: central difference of ‖J Q‖²/N."""
        residuals, traces = Residuals(self.objective), []
        for sign in (1, -1):
            at, total = theta + sign * self.ladder.slope_step * self.tangent, 0.0
            for first in range(0, residuals.samples, residuals.chunk):
                rows = residuals.jacobian(at, slice(first, first + residuals.chunk))
                total += float(rows.double().square().sum() - (rows @ self.tangent).double().square().sum())
            traces.append(total / residuals.samples)
        return (traces[0] - traces[1]) / (2 * self.ladder.slope_step)
