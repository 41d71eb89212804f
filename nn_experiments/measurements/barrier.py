"""The energetic and the entropic barrier between two minima that share their first training iterations.

Two children of one parent training share everything up to iteration k: parameters, optimizer, schedule, order of the
data (normalisation by batch statistics has no state). After k only the order of the data differs (and augmentation).
Both heights are measured on the same path between them.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import schema, statistics
from entropy_sim.errors import require
from entropy_sim.run_files import config_json
from nn_experiments import curvature, states, variants
from nn_experiments.batch_sizes import check_batch, check_noise
from nn_experiments.device import OnDevice
from nn_experiments.experiment import AnyExperiment, Experiment
from nn_experiments.measurements._frames import Frame, frames
from nn_experiments.measurements._heights import above_ends, entropic_barrier
from nn_experiments.measurements.mean_force import MeanForce
from nn_experiments.objective import Objective, generator
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.band import Band
from nn_experiments.paths.linear import linear
from nn_experiments.paths.resume import Resume
from nn_experiments.train import Training, TrainingState
from nn_experiments.workers import Workers, one_thread

Parameter = Literal[
    "shared_iterations",
    "learning_rate",
    "batch_size",
    "training_learning_rate",
    "training_batch_size",
    "optimizer",
    "architecture",
]
#: The dimension of the dataset that a parameter becomes.
_DIMENSIONS = {"training_learning_rate": "learning_rate", "training_batch_size": "batch_size"}
_WHOLE = ("shared_iterations", "batch_size", "training_batch_size")
_NAMED = ("optimizer", "architecture")


@dataclass(frozen=True)
class Barrier:
    """Heights of the energetic and of the entropic barrier between two minima, at each value of one parameter.

    Every height is the maximum along a line minus the mean of its two ends, as in linear mode connectivity (Frankle,
    Dziugaite, Roy & Carbin, ICML 2020; theirs is of the error, these are of the training loss):

    `energy_barrier`, of the loss on the straight line; `energy_barrier_path`, of the loss on the path found;
    `entropic_barrier`, of −∫ (f − f₀) dy on the same path, f the mean force and f₀ its noise-free control, by the
    trapezoidal rule. The top is chosen, for each replica of the mean force, by the other replicas, so that the noise
    that makes a place look high does not enter the height there: without a barrier the expected height is 0, and with a
    noisy one it is too low rather than too high.
    """

    parameter: Parameter = "shared_iterations"
    """What is varied: iterations shared by the two trainings; learning rate or batch size of the measured dynamics, on
    the same path; learning rate, batch size or optimizer of the training; the network."""
    values: tuple[float, ...] | tuple[str, ...] = (0.0, 66.0, 220.0, 440.0)
    """Its values, in rising order; or names of optimizers (sgd adamw muon soap kfac), each at its usual learning rate
    unless it is the training's own, or of networks (resnet wideresnet mlp), with options: adam:learning_rate=0.003."""
    shared_iterations: int = 0
    """Iterations shared where another parameter is varied."""
    parent: int = 0
    """Seed of the parent: initial parameters and order of the data up to the last shared iteration."""
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    """Seeds of the two children, for each pair; heights are means over the pairs."""
    training: Training = field(default_factory=Training)
    path: AutoNEB = field(default_factory=AutoNEB)
    mean_force: MeanForce = field(
        default_factory=lambda: MeanForce(positions=tuple(np.linspace(0, 1, 11).round(3).tolist()))
    )
    line_points: int = 21
    """Points of the straight line at which the loss is taken."""
    probes: int = 16
    """Probes of the Hessian's trace at the ends and in the middle of the path (0: none)."""

    def __post_init__(self) -> None:
        known = get_args(Parameter)
        require(self.parameter in known, "barrier.parameter", f"one of {', '.join(known)}", self.parameter)
        self._check_values()
        require(self.shared_iterations >= 0, "barrier.shared_iterations", "a number >= 0", self.shared_iterations)
        apart = len(self.pairs) > 0 and all(a != b for a, b in self.pairs)
        require(apart, "barrier.pairs", "one or more pairs of different seeds", self.pairs)
        require(min(self.parent, *map(min, self.pairs)) >= 0, "barrier.pairs", "seeds >= 0", self.pairs)
        if self.parameter == "batch_size":
            kind = type(self.mean_force.noise).__name__
            has = getattr(self.mean_force.noise, "batch_size", None) is not None
            require(has, "barrier.mean_force.noise", "one of minibatches, whose batch_size is varied", kind)
        require(self.mean_force.control, "barrier.mean_force.control", "True (it is subtracted)", False)
        number = len(self.mean_force.positions)
        require(number >= 3, "barrier.mean_force.positions", "at least 3 (two ends and a middle)", number)
        require(self.line_points >= 3, "barrier.line_points", "at least 3", self.line_points)
        require(self.probes == 0 or self.probes >= 2, "barrier.probes", "0, or at least 2", self.probes)
        for value in self.values:
            self._at(value)  # what training and mean force refuse is refused now

    def _check_values(self) -> None:
        if self.parameter in _NAMED:
            names = len(self.values) > 0 and all(isinstance(v, str) for v in self.values)
            good = names and len(set(self.values)) == len(self.values)
            expected = {"optimizer": variants.OPTIMIZERS, "architecture": variants.NETWORKS}[self.parameter]
            require(good, "barrier.values", f"different names such as {' '.join(expected)}", self.values)
            return
        whole = "whole numbers" if self.parameter in _WHOLE else "positive numbers"
        good = not any(isinstance(v, str) for v in self.values)
        values = np.asarray(self.values if good else [], dtype=np.float64)
        good = good and values.size > 0 and bool(np.isfinite(values).all() and (np.diff(values) > 0).all())
        least = 0 if self.parameter == "shared_iterations" else np.finfo(float).tiny
        good = good and values[0] >= least and (self.parameter not in _WHOLE or bool(np.all(values % 1 == 0)))
        require(good, "barrier.values", f"{whole} in rising order", self.values)

    def _at(self, value: float | str, experiment: AnyExperiment | None = None) -> _One:
        """What one value consists of. The scan is no part of it: a longer one finds what a shorter one has done."""
        number: Any = int(value) if self.parameter in _WHOLE else value
        one = _One(experiment, self.training, self.path, self.mean_force, self.shared_iterations)
        match self.parameter:
            case "shared_iterations":
                return one._replace(shared_iterations=number)
            case "learning_rate":
                return one._replace(mean_force=replace(self.mean_force, learning_rate=number))
            case "batch_size":
                noise = replace(self.mean_force.noise, batch_size=number)
                return one._replace(mean_force=replace(self.mean_force, noise=noise))
            case "optimizer":
                return one._replace(training=variants.with_optimizer(self.training, number, "barrier.values"))
            case "architecture":
                network, training = variants.with_network(
                    Experiment() if experiment is None else experiment, self.training, number, "barrier.values"
                )
                return one._replace(experiment=network, training=training)
            case name:
                return one._replace(training=replace(self.training, **{name.removeprefix("training_"): number}))

    def run(
        self,
        experiment: AnyExperiment,
        out: Path | str,
        workers: Workers | None = None,
        device: str = "cpu",
        report: Callable[[str], None] | None = None,
    ) -> xr.Dataset:
        """The group `barrier`. What is done is kept under `out`/barrier and not done again, also by other values.

        report: told in a line about each value. Raises UserError if more iterations are to be shared than there are,
        and for what trainings, path finder and mean force refuse; batches that do not fit the data, before any work.
        """
        rows = []
        each = [self._at(value, OnDevice(experiment, device)) for value in self.values]
        objectives = [one.experiment.objective() for one in each]
        for one, objective in zip(each, objectives, strict=True):
            self._check(one, objective)
        for value, one in zip(self.values, each, strict=True):
            work = _Work(self, one.experiment, Path(out) / "barrier", workers or Workers(1), device, report)
            rows.append(work.heights(one))
            if report is not None:
                means = {name: np.mean([r[name] for r in rows[-1]]) for name in ("energy_barrier", "entropic_barrier")}
                report(
                    f"barrier: {self.parameter.replace('_', ' ')} {value if isinstance(value, str) else f'{value:g}'}: "
                    f"energetic {means['energy_barrier']:.3g}, entropic {means['entropic_barrier']:.2g}"
                )
        return self._group(rows, objectives)

    def _check(self, one: _One, objective: Objective) -> None:
        """Refuse what does not fit the data before anything is trained."""

        def option(parameter: Parameter, name: str) -> str:
            return "barrier.values" if self.parameter == parameter else f"barrier.{name}"

        batch = one.training.batch_size
        check_batch(batch, objective, option("training_batch_size", "training.batch_size"))
        check_batch(one.path.batch_size, objective, "barrier.path.batch_size")
        check_noise(one.mean_force.noise, objective, option("batch_size", "mean_force.noise.batch_size"))
        total, shared = one.training.epochs * (objective.size // batch), one.shared_iterations
        expected = f"fewer shared iterations than the {total} of the training"
        require(shared < total, option("shared_iterations", "shared_iterations"), expected, shared)

    def _group(self, rows: list[list[dict[str, Any]]], objectives: list[Objective]) -> xr.Dataset:
        dim = _DIMENSIONS.get(self.parameter, self.parameter)
        kind = np.str_ if self.parameter in _NAMED else np.float64
        variables: dict[str, tuple[Any, ...]] = {dim: ((dim,), np.array(self.values, dtype=kind))}
        number = len(self.pairs)
        for name in [n for n in rows[0][0] if not n.endswith("_stderr")]:
            each = np.array([[row[name] for row in rows_] for rows_ in rows], dtype=np.float64)
            variables[name] = ((dim,), each.mean(1))
            errors = []
            if number > 1:
                errors.append(each.std(1, ddof=1) / math.sqrt(number))
            if f"{name}_stderr" in rows[0][0]:
                # Few pairs may agree by chance: no mean is better known than its parts are.
                own = np.array([[row[f"{name}_stderr"] for row in rows_] for rows_ in rows])
                errors.append(np.sqrt(np.square(own).sum(1)) / number)
            if errors:
                variables[f"{name}_stderr"] = ((dim,), np.fmax.reduce(errors))
            if number > 1 and name in ("energy_barrier", "energy_barrier_path", "entropic_barrier"):
                variables[f"{name}_each"] = ((dim, "replica"), each)
        objective = objectives[0]
        # Networks may differ in their normalisation.
        modes = {(o.mode, o.group_size or 0) for o in objectives}
        names = ("normalization_mode", "group_size")
        normalization = dict(zip(names, modes.pop(), strict=True)) if len(modes) == 1 else {}
        return schema.make(
            "barrier",
            variables,
            {
                "varied": self.parameter,
                "height": "maximum along the line minus the mean of its two ends",
                "error": "scatter of the mean force's replicas"
                + (", or of the pairs where it is larger" if number > 1 else ""),
                "pairs": number,
                **normalization,
                "batch_size": getattr(self.mean_force.noise, "batch_size", None) or objective.size,
                "learning_rate": self.mean_force.learning_rate,
                "momentum": self.mean_force.momentum,
                "iterations": self.training.epochs * (objective.size // self.training.batch_size),
            },
        )


class _One(NamedTuple):
    """One value of a scan."""

    experiment: Any
    training: Training
    path: AutoNEB
    mean_force: MeanForce
    shared_iterations: int


class _Work:
    """What is done of a scan, in files whose names and owners say of which configuration they are."""

    def __init__(
        self,
        config: Barrier,
        experiment: AnyExperiment,
        folder: Path,
        workers: Workers,
        device: str,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.config, self.experiment = config, experiment
        self.folder, self.workers, self.device, self.report = folder, workers, device, report

    def heights(self, one: _One) -> list[dict[str, Any]]:
        """Everything measured at one value, for each pair; from the files that are there."""
        parent = TrainingState(one.shared_iterations, one.training.owner(self.experiment, self.config.parent), None)
        seeds = sorted({seed for pair in self.config.pairs for seed in pair})
        owners = {seed: one.training.owner(self.experiment, seed, parent) for seed in seeds}
        how = {"mean_force": one.mean_force, "line": self.config.line_points, "probes": self.config.probes}
        rows: list[dict[str, Any]] = []
        thetas: dict[int, Tensor] | None = None
        for a, b in self.config.pairs:
            ends = [owners[a], owners[b]]
            identity = config_json([ends, one.path, how])
            path = self._file(f"heights_{one.shared_iterations}_{a}_{b}", identity)
            if not path.exists():
                if thetas is None:
                    thetas = self._children(one, owners)
                unfinished = path.with_suffix(".unfinished")
                pair = torch.stack([thetas[a], thetas[b]])
                states.save(path, self._measure(one, pair, (a, b), ends, unfinished), identity)
                shutil.rmtree(unfinished, ignore_errors=True)
            rows.append(states.load(path, identity))
        return rows

    def _file(self, name: str, identity: str) -> Path:
        return self.folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}.safetensors"

    # --- trainings --------------------------------------------------------------------------------------------------

    def _shared(self, one: _One) -> TrainingState:
        """The parent at the iteration up to which all is shared; goes on from an earlier one that is there."""
        training, k, seed = one.training, one.shared_iterations, self.config.parent
        owner = training.owner(self.experiment, seed)
        path = self._file(f"parent_{seed}_{k}", owner)
        if path.exists():
            return TrainingState.load(path, owner)
        others = self.folder.glob(path.name.replace(f"_{seed}_{k}-", f"_{seed}_*-"))
        before = [n for p in others if (n := int(p.name.split("-")[0].split("_")[2])) < k]
        start = TrainingState.load(self._file(f"parent_{seed}_{max(before)}", owner), owner) if before else None
        with one_thread():
            state = training.until(self.experiment, seed, k, start=start)
        state.save(path)
        return state

    def _children(self, one: _One, owners: dict[int, str]) -> dict[int, Tensor]:
        """theta (D,) of the children by seed, trained as far as they are not there."""
        training, k = one.training, one.shared_iterations
        total = training.epochs * (self.experiment.objective().size // training.batch_size)
        files = {seed: self._file(f"child_{k}_{seed}", owner) for seed, owner in owners.items()}
        thetas: dict[int, Tensor] = {}
        for seed, path in files.items():
            if path.exists() and (state := TrainingState.load(path, owners[seed])).iteration == total:
                thetas[seed] = state.content["theta"]
        missing = [seed for seed in files if seed not in thetas]
        if missing:
            shared = self._shared(one)
            units = [(training, self.experiment, seed, shared, files[seed]) for seed in missing]
            thetas |= dict(zip(missing, self.workers.map(_train_child, units, "training children"), strict=True))
        return thetas

    # --- one pair ---------------------------------------------------------------------------------------------------

    def _measure(
        self, one: _One, ends: Tensor, seeds: tuple[int, int], owners: list[str], unfinished: Path
    ) -> dict[str, Any]:
        found = self._path(one, ends, seeds, owners)
        cache = unfinished if _told_as_json(self.experiment) else None
        forces = one.mean_force.run(self.experiment, found["points"], self.workers, self.device, cache)
        entropic = entropic_barrier(forces, found["arc_length"])
        heights: dict[str, Any] = {
            "energy_barrier": above_ends(found["line"]),
            "energy_barrier_path": above_ends(found["along"]),
            "entropic_barrier": entropic.value,
            "entropic_barrier_stderr": entropic.stderr,
            "top": entropic.top,
            "end_distance": float((ends[1] - ends[0]).norm()),
            "path_converged": float(found["converged"]),
        }
        return heights | (self._rise(found["points"]) if self.config.probes else {})

    def _path(self, one: _One, ends: Tensor, seeds: tuple[int, int], owners: list[str]) -> dict[str, Any]:
        """The path, and the losses on the straight line and along the path (first and last those of the ends)."""
        finder = one.path
        identity = config_json([owners, finder, self.config.line_points])
        path = self._file(f"path_{one.shared_iterations}_{seeds[0]}_{seeds[1]}", identity)
        if path.exists():
            return states.load(path, identity)
        unfinished = path.with_name(f"{path.stem}.unfinished.safetensors")
        ends = ends.to(self.device)
        band = Band(self.experiment, finder.batch_size, finder.seed, self.workers.processes, report=self.report)
        with one_thread(), band:
            line = band.evaluate(linear(ends, self.config.line_points))
            resume = Resume(unfinished, band.generator)
            found = finder.run(band.value_and_gradient, ends, evaluate=band.evaluate, full=band.full, resume=resume)
        kept = {
            "points": found.points,
            "line": line.tolist(),
            "along": [found.losses[0], *found.loss_between[:-1], found.losses[-1]],
            "arc_length": float(found.arc_length[-1]),
            "converged": bool(found.converged),
        }
        states.save(path, kept, identity)
        unfinished.unlink(missing_ok=True)
        return states.load(path, identity)

    def _rise(self, points: Tensor) -> dict[str, float]:
        """Tr H in the middle of the path over the mean of its ends, raw and norm-corrected."""
        units = [(self.experiment, frame, self.config.probes, self.device) for frame in frames(points, (0.0, 0.5, 1.0))]
        left, middle, right = self.workers.map(_traces, units, "curvature")
        found: dict[str, float] = {}
        for i, name in enumerate(("hessian_trace_rise", "hessian_trace_normalized_rise")):
            ends, stderr = 0.5 * (left[i][0] + right[i][0]), 0.5 * math.hypot(left[i][1], right[i][1])
            rise = statistics.ratio(*middle[i], ends, stderr)
            found |= {name: float(rise.value), f"{name}_stderr": float(rise.stderr)}
        return found


def _told_as_json(experiment: AnyExperiment) -> bool:
    """Whether finished units can be told to be of this experiment: not those of a user's own class."""
    try:
        config_json(experiment)
    except TypeError:
        return False
    return True


def _train_child(unit: tuple[Training, AnyExperiment, int, TrainingState, Path]) -> Tensor:
    training, experiment, seed, shared, path = unit
    return training.run(experiment, seed, progress=False, shared=shared, state_path=path).theta


def _traces(unit: tuple[AnyExperiment, Frame, int, str]) -> list[tuple[float, float]]:
    """(value, standard error) of Tr H and of its norm-corrected form at a point of the path."""
    experiment, frame, count, device = unit
    objective = experiment.objective(device=device)
    theta, tangent = (torch.as_tensor(a).to(objective.device, objective.dtype) for a in frame[:2])
    groups = len(objective.full_batch()) // (objective.group_size or 1)
    parts = max(p for p in range(1, count + 1) if count % p == 0 and p <= groups)
    with curvature.full_precision():
        probes = curvature.rademacher(count, len(theta), generator(0), theta)
        norms = curvature.block_norms(objective, theta, experiment.scale_invariant())
        found = curvature.Hutchinson(objective, probes, parts).traces(theta, tangent, norms)
    return [(found.trace.value, found.trace.stderr), (found.normalized.value, found.normalized.stderr)]
