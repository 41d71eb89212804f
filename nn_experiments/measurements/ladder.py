"""The mean force on a ladder of noise strengths, learning rates and batch sizes, beside what theory says without a free
parameter: measured/predicted → 1 as η σ² → 0 (docs/ladder.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import require
from entropy_sim.theory import mean_force_curvature_proportional
from nn_experiments.dynamics import check_step
from nn_experiments.experiment import AnyExperiment
from nn_experiments.measurements._frames import frames
from nn_experiments.measurements._rungs import Cache, Start, Unit, run_unit, start
from nn_experiments.noise import AnyNoise, Label, Minibatch, Thermal, check_bounded
from nn_experiments.objective import Objective
from nn_experiments.workers import Workers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ladder:
    """Constrained SGD from the valley floor beside each path point, at every combination of the rungs.

    The mean force is −⟨t·∇L⟩ with clean labels, averaged over antithetic pairs where noise is added. Beside it run a
    control without that noise, and the linearised dynamics with the same draws, whose expectation is known.
    Times are t = η · step / (1 − β). A full batch has one control for all replicas and strengths; with label noise in
    batches each replica has its own, on the same batches. The control of minibatch noise is the full batch.
    """

    positions: tuple[float, ...] = (0.2, 0.35, 0.65, 0.8)
    """Path points s, in rising order."""
    replicas: int = 8
    """Antithetic pairs (minibatch noise: runs) per position and rung, at least 2."""
    learning_rates: tuple[float, ...] = (0.01, 0.02, 0.04)
    """Learning rates η, parameter² / loss, in rising order."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Strengths σ of label noise, or temperatures T of thermal noise, in rising order; none for minibatch noise."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes B of minibatch or label noise, in rising order; empty: the noise's own."""
    momentum: float = 0.0
    """Heavy-ball momentum β (0 <= β < 1)."""
    noise: AnyNoise = field(default_factory=Label)
    """Noise; its strength and batch size are those of the rungs."""
    floor: bool = True
    """Begin where the outputs fit the targets exactly, nearest to the path point in its plane, with the floor's own
    tangent: there theory is exact and the control zero. No: begin at the path point, with the path's tangent."""
    probes: int = 0
    """Hutchinson probes of the slope of the trace, from which the stationary formula, without the floor; 0: none."""
    burn_in: float = 1.0
    """Time before averaging, parameter² / loss."""
    duration: float = 3.0
    """Time of averaging, parameter² / loss."""
    time_windows: int = 3
    """Windows into which the averaging time is divided."""
    stride: int = 5
    """Steps between two measurements of the force, the first being the first step of each window."""
    moved: int = 1
    """Replicas at whose ends the slope of the trace is measured again: theory's next order in the noise."""
    slope_step: float = 0.01
    """Step of the central difference ∂_t J, parameter."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        good = _rising(self.positions) and self.positions[0] >= 0 and self.positions[-1] <= 1
        require(good, "ladder.positions", "increasing numbers in 0…1", self.positions)
        require(self.replicas >= 2, "ladder.replicas", "at least 2", self.replicas)
        good = _rising(self.learning_rates) and self.learning_rates[0] > 0
        require(good, "ladder.learning_rates", "rising positive numbers", self.learning_rates)
        check_step(self.learning_rates[0], self.momentum, 0.0)
        if isinstance(self.noise, Minibatch):
            require(not self.strengths, "ladder.strengths", "none for minibatch noise", self.strengths)
            require(not self.floor, "ladder.floor", "False for minibatch noise (the floor has none)", self.floor)
        else:
            good = _rising(self.strengths) and self.strengths[0] > 0
            require(good, "ladder.strengths", "rising positive numbers", self.strengths)
        if isinstance(self.noise, Thermal):
            require(not self.batch_sizes, "ladder.batch_sizes", "none for thermal noise", self.batch_sizes)
            check_bounded(self.noise, 0.0)
        good = not self.batch_sizes or (_rising(self.batch_sizes) and self.batch_sizes[0] >= 1)
        require(good, "ladder.batch_sizes", "rising numbers >= 1", self.batch_sizes)
        require(0 <= self.burn_in < math.inf, "ladder.burn_in", "a number >= 0", self.burn_in)
        require(self.time_windows >= 1, "ladder.time_windows", "a number >= 1", self.time_windows)
        least = self.learning_rates[-1] / (1 - self.momentum) * self.time_windows
        good = least * (1 - 1e-9) <= self.duration < math.inf
        require(good, "ladder.duration", f"at least a step a window (a time of {least:g})", self.duration)
        require(self.stride >= 1, "ladder.stride", "a number >= 1", self.stride)
        require(self.probes == 0 or self.probes >= 2, "ladder.probes", "0, or at least 2", self.probes)
        require(0 <= self.moved <= self.replicas, "ladder.moved", f"0…{self.replicas}", self.moved)
        require(0 < self.slope_step < math.inf, "ladder.slope_step", "a positive number", self.slope_step)
        require(self.seed >= 0, "ladder.seed", "a number >= 0", self.seed)

    # --- rungs ------------------------------------------------------------------------------------------------------

    def rungs(self) -> dict[str, tuple[float, ...]]:
        """Dimension -> values of every rung, in the order of the dataset's dimensions."""
        found: dict[str, tuple[float, ...]] = {"learning_rate": self.learning_rates}
        if not isinstance(self.noise, Minibatch):
            found["temperature" if isinstance(self.noise, Thermal) else "label_noise"] = self.strengths
        if self.batch_sizes:
            found["batch_size"] = self.batch_sizes
        return found

    def noise_at(self, rung: dict[str, float]) -> AnyNoise:
        """The noise of one rung."""
        noise = self.noise
        if isinstance(noise, Thermal):
            return replace(noise, temperature=rung["temperature"])
        if "batch_size" in rung:
            noise = replace(noise, batch_size=int(rung["batch_size"]))
        return replace(noise, strength=rung["label_noise"]) if isinstance(noise, Label) else noise

    @property
    def own_controls(self) -> bool:
        """Whether each replica has a control of its own, on its batches."""
        return isinstance(self.noise, Label) and (bool(self.batch_sizes) or self.noise.batch_size is not None)

    def clock(self, learning_rate: float) -> tuple[int, int, int]:
        """Steps before averaging, steps of one window, and steps between measurements, at one learning rate."""
        h = learning_rate / (1 - self.momentum)
        size = max(1, round(self.duration / self.time_windows / h))
        return round(self.burn_in / h), size, min(self.stride, size)

    # --- running ----------------------------------------------------------------------------------------------------

    def run(
        self,
        experiment: AnyExperiment,
        points: Tensor,
        workers: Workers | None = None,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> xr.Dataset:
        """The group `mean_force` of docs/ladder.md on the path `points` (P, D).

        Every replica at every rung is a unit of work with its own random numbers, so results do not depend on the
        processes. cache: a folder that keeps every finished unit, so that an interrupted run goes on from there.

        Raises UserError for another loss than the squared one under label noise; with `floor`, also for BatchNorm, for
        data too large for an explicit Jacobian and where the loss cannot be brought to zero.
        """
        objective = experiment.objective()
        workers = workers or Workers(1)
        rungs = self.rungs()
        combinations = [dict(zip(rungs, values, strict=True)) for values in itertools.product(*rungs.values())]
        for rung in combinations:
            self.noise_at(rung).check(objective)
        where = Cache.of(cache, {"path": points}, ladder=self, experiment=experiment)
        places = [(self, experiment, f, i, device, where) for i, f in enumerate(frames(points, self.positions))]
        starts: list[Start] = workers.map(start, places, "valley floor")
        replicas = [
            Unit(self, experiment, begin, (i, c, r), rung, device, where)
            for i, begin in enumerate(starts)
            for c, rung in enumerate(combinations)
            for r in range(self.replicas)
        ]
        controls = [
            Unit(self, experiment, begin, (i, c, self.replicas), {"learning_rate": rate}, device, where)
            for i, begin in enumerate(starts if not self.own_controls else [])
            for c, rate in enumerate(self.learning_rates)
        ]
        units = replicas + controls
        # The longest first, so that no process idles at the end.
        order = sorted(range(len(units)), key=lambda u: units[u].rung["learning_rate"])
        results: list[Any] = [None] * len(units)
        for u, result in zip(order, workers.map(run_unit, [units[u] for u in order], "ladder"), strict=True):
            results[u] = result
        shape = (len(starts), *(len(v) for v in rungs.values()), self.replicas)
        found = _stack(results[: len(replicas)], shape)
        if controls:
            shape = (len(starts), len(self.learning_rates), 1)
            found["mean_force_control"] = _stack(results[len(replicas) :], shape)["mean_force"]
        return schema.make("mean_force", self._variables(found, starts, objective), self._attributes(objective, points))

    # --- the dataset ------------------------------------------------------------------------------------------------

    def _variables(
        self, found: dict[str, Floats], starts: list[Start], objective: Objective
    ) -> dict[str, tuple[Any, ...]]:
        rungs = self.rungs()
        along = ("s", *rungs)
        times = self.burn_in + (np.arange(self.time_windows) + 0.5) * self.duration / self.time_windows
        variables: dict[str, tuple[Any, ...]] = {
            "s": (("s",), np.array(self.positions, dtype=np.float64)),
            "replica": (("replica",), np.arange(self.replicas)),
            "time_window": (("time_window",), times),
            **{name: ((name,), np.array(values)) for name, values in rungs.items()},
            "diverged": ((*along, "replica"), found["diverged"].astype(np.int8)),
        }
        for name in ("mean_force", "mean_force_linear", "transverse_loss", "distance"):
            if name in found:
                variables[name] = ((*along, "replica", "time_window"), found[name])
        control_dims = (*(along if self.own_controls else ("s", "learning_rate")), "control_replica", "time_window")
        variables["mean_force_control"] = (control_dims, found["mean_force_control"])
        if self.floor or self.probes:
            for name in ("hessian_trace_slope", "hessian_trace_slope_stderr"):
                variables[name] = (("s",), np.array([getattr(begin, name) for begin in starts]))
            if isinstance(self.noise, Label):
                for name in ("", "_stderr"):
                    formula = self._formula(objective, variables[f"hessian_trace_slope{name}"][1])
                    variables[f"mean_force_formula{name}"] = (along, abs(formula) if name else formula)
        if not self.floor:
            return variables
        predicted = self._predictions(starts, objective)
        variables["mean_force_predicted"] = ((*along, "time_window"), predicted)
        variables["mean_force_predicted_stderr"] = ((*along, "time_window"), np.zeros_like(predicted))
        for name in ("floor_distance", "floor_alignment"):
            variables[name] = (("s",), np.array([getattr(begin, name) for begin in starts]))
        if self.moved:
            moved = found["hessian_trace_slope_moved"][..., : self.moved]
            variables["hessian_trace_slope_moved"] = (along, moved.mean(-1))
            if self.moved > 1:
                stderr = moved.std(-1, ddof=1) / math.sqrt(self.moved)
                variables["hessian_trace_slope_moved_stderr"] = (along, stderr)
        return variables

    def _at_each_rung(self, function: Callable[[dict[str, float]], float]) -> Floats:
        """`function` of every rung, in the shape of the rungs."""
        rungs = self.rungs()
        values = [function(dict(zip(rungs, at, strict=True))) for at in itertools.product(*rungs.values())]
        return np.array(values).reshape([len(v) for v in rungs.values()])

    def _formula(self, objective: Objective, slopes: Floats) -> Floats:
        """−(η σ²/(4 B (1 − β))) Tr(Q ∂_t H) at each rung of label noise, for the slopes at each position."""

        def of_unit_slope(rung: dict[str, float]) -> float:
            noise = self.noise_at(rung)
            assert isinstance(noise, Label)
            c = noise.strength**2 / (noise.batch_size or len(objective.full_batch()))
            return float(mean_force_curvature_proportional(1.0, c, rung["learning_rate"], self.momentum))

        return np.multiply.outer(slopes, self._at_each_rung(of_unit_slope))

    def _predictions(self, starts: list[Start], objective: Objective) -> Floats:
        """Linear response, averaged over the measurements of each window: (s, rungs, windows)."""

        def scale(rung: dict[str, float]) -> float:  # the force is proportional to T, and to σ²/B
            noise = self.noise_at(rung)
            if isinstance(noise, Thermal):
                return noise.temperature
            assert isinstance(noise, Label)
            size = len(objective.full_batch())
            return noise.strength**2 * size / (noise.batch_size or size)

        scales = self._at_each_rung(scale)[..., None]
        found = []
        for begin in starts:
            of_unit_noise = np.array([self._linear_response(begin, rate) for rate in self.learning_rates])
            found.append(scales * of_unit_noise.reshape(len(of_unit_noise), *(1 for _ in scales.shape[2:]), -1))
        return np.array(found)

    def _linear_response(self, begin: Start, rate: float) -> Floats:
        """Expected force of T = 1, or of σ = 1 and the full batch, in each window."""
        assert begin.response is not None
        skip, size, stride = self.clock(rate)
        steps = skip + size * self.time_windows
        if isinstance(self.noise, Thermal):
            force = begin.response.thermal(1.0, rate, self.momentum, steps, self.noise.restraint)
        else:
            force = begin.response.label_noise(1.0, rate, self.momentum, steps)
        return force[skip:].reshape(self.time_windows, size)[:, ::stride].mean(1)

    def _attributes(self, objective: Objective, points: Tensor) -> dict[str, Any]:
        samples = len(objective.full_batch())
        own = "the same steps and samples without added noise"
        return {
            "normalization_mode": objective.mode,
            "group_size": objective.group_size or 0,
            **({} if self.batch_sizes else {"batch_size": self.noise.batch_size or samples}),
            "momentum": self.momentum,
            "weight_decay": 0.0,
            "noise": type(self.noise).__name__.lower(),
            "start": "the valley floor, with its own tangent" if self.floor else "the path point",
            "control": own if self.noise.adds else f"full batch of {samples} samples, SGD's own steps",
            "arc_length": float(path_geometry.arc_length(points)[-1]),
        }


def _rising(values: tuple[float, ...]) -> bool:
    """Whether there are values, finite and each above the one before."""
    found = np.asarray(values, dtype=np.float64)
    return found.size > 0 and bool(np.isfinite(found).all() and np.all(np.diff(found) > 0))


def _stack(results: list[dict[str, Any]], shape: tuple[int, ...]) -> dict[str, Floats]:
    """Every unit's results, in the shape of the rungs."""
    stacked = {name: np.array([np.asarray(r[name], dtype=np.float64) for r in results]) for name in results[0]}
    return {name: values.reshape(*shape, *values.shape[1:]) for name, values in stacked.items()}
