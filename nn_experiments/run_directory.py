"""The directory of a network run: the files of its stages, and the stages that make them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import UserError
from entropy_sim.run_files import provenance, read_tree, writable, write_tree
from nn_experiments import checkpoints
from nn_experiments.batch_sizes import check_batch, check_noise
from nn_experiments.device import OnDevice, describe
from nn_experiments.experiment import AnyExperiment, evaluate
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.measurements.mean_force import MeanForce
from nn_experiments.noise import Thermal
from nn_experiments.objective import Evaluation
from nn_experiments.paths.band import Band
from nn_experiments.paths.base import PathResult
from nn_experiments.paths.ensemble import ensemble_variables
from nn_experiments.paths.linear import StraightLine, linear
from nn_experiments.paths.resume import Resume
from nn_experiments.stage_times import StageTimes
from nn_experiments.stages import ALL, ALONE, GROUPS, STAGES, Stage
from nn_experiments.train import Trained, Training
from nn_experiments.workers import Workers, memory_errors, one_thread

if TYPE_CHECKING:
    from nn_experiments.run import NetworkRun

State = Literal["absent", "same", "other"]
#: Points at which the loss of the straight line is sampled for the message beside the path's.
STRAIGHT_SAMPLES = 27
_SYMBOLS = {"strength": "σ", "temperature": "T", "batch_size": "B"}
#: What to lower where a stage runs out of memory (the profile says it itself).
_LOWER: dict[Stage, str] = {
    "train": "training.batch_size, processes or data.samples",
    "path": "path.batch_size, path.pivots, processes or data.samples",
    "all": "the batch size of its noise, processes or data.samples",
}
#: Groups that the stage of another one writes.
OWNERS = {"spectrum": "profile"}
#: The `path_kind` of each path finder's paths in the profile.
PATH_KINDS = {"AutoNEB": "neb", "BezierCurve": "bezier", "PolygonalChain": "polychain", "StraightLine": "line"}


class RunDirectory:
    """The files of one run, and the stages that make them."""

    def __init__(
        self, config: NetworkRun, out: Path, overwrite: bool, report: Callable[[str], None], device: torch.device
    ) -> None:
        self.config, self.out, self.overwrite, self.report, self.device = config, out, overwrite, report, device
        config.stage_config("train")  # a missing file of the user's is found before anything is made
        self.dataset_path = out / "network.nc"
        self.experiment: AnyExperiment = OnDevice(config.experiment, str(device))
        with memory_errors("data.samples or network.width"):
            self.objective = config.experiment.objective()

    # --- what is there ----------------------------------------------------------------------------------------------

    def checkpoint(self, name: str) -> Path:
        return self.out / "checkpoints" / f"{name}.safetensors"

    def unfinished(self, name: str) -> Path:
        """Where a stage that takes long keeps its state until it is done."""
        return self.out / "unfinished" / f"{name}.safetensors"

    def tree(self) -> xr.DataTree | None:
        """The dataset so far. Raises UserError if it is not a network run."""
        if not self.dataset_path.exists():
            return None
        tree = read_tree(self.dataset_path, check=False)
        if tree.attrs.get("source") != "nn_experiments":
            raise UserError(f"--out: expected a network run, found another file at {self.dataset_path} (--overwrite)")
        return tree

    def state(self, stage: Stage) -> State:
        found: list[str | None] = []
        if stage in ("train", "path"):
            for name in ("minimum_0", "minimum_1") if stage == "train" else ("path",):
                # Tensors are written before their record: without it, the run was killed in between.
                record = self.checkpoint(name).with_suffix(".json")
                found.append(_recorded(record) if record.exists() else None)
        if stage != "train":
            tree = self.tree()
            group = GROUPS[stage]
            found.append(str(tree[group].attrs.get("config")) if tree is not None and group in tree.children else None)
        if all(f == self.config.stage_config(stage) for f in found):
            return "same"
        return "other" if any(f is not None and f != self.config.stage_config(stage) for f in found) else "absent"

    # --- doing ------------------------------------------------------------------------------------------------------

    def do(self, stage: Stage, processes: int | None) -> xr.DataTree | None:
        if stage in ALONE:
            wanted: tuple[Stage, ...] = (stage,)
        else:
            wanted = ALL if stage == "all" else tuple(s for s in STAGES if s in ("train", "path", stage))
        writable(self.dataset_path)
        states: dict[Stage, State] = {}
        for s in wanted:
            try:
                states[s] = self.state(s)
            except UserError:
                if not self.overwrite:
                    raise
                self.dataset_path.unlink(missing_ok=True)
                states[s] = "other"
        if (others := [s for s in wanted if states[s] == "other"]) and not self.overwrite:
            raise UserError(
                f"--out: expected a new directory or a run of this configuration, found another configuration's "
                f"{', '.join(others)} in {self.out} (--overwrite)"
            )
        self._check_batches([s for s in wanted if states[s] != "same"])
        times = StageTimes(self.out / "unfinished" / "times.json", wanted, self.config.stage_config)
        with Workers(processes) as workers:
            if any(states[s] != "same" for s in wanted):
                workers.start()
            for s in wanted:
                if states[s] == "same":
                    self.report(f"{s}: already done")
                    continue
                with times.of(s), memory_errors(_LOWER.get(s, _LOWER["all"])):
                    if s == "train":
                        self._train(workers)
                    elif s == "path":
                        self._path(workers)
                    else:
                        self._measure(s, workers)
        if (took := times.finish(describe(self.device))) is not None:
            self.report(took)
        with contextlib.suppress(OSError):
            (self.out / "unfinished").rmdir()  # unless another stage's state is in it
        return self.tree()

    def _check_batches(self, stages: list[Stage]) -> None:
        """Refuse now what the stages would only refuse after those before them."""
        if "path" in stages and not isinstance(self.config.path, StraightLine):  # which draws none
            check_batch(self.config.path.batch_size, self.objective)
        for name in [GROUPS[s] for s in stages if s not in ALONE]:
            measurement: Any = getattr(self.config, name)
            sizes = getattr(measurement, "batch_sizes", ())
            for size in sizes:
                check_noise(replace(measurement.noise, batch_size=size), self.objective, f"{name}.batch_sizes")
            if not sizes and (noise := getattr(measurement, "noise", None)) is not None:
                check_noise(noise, self.objective, f"{name}.noise.batch_size")

    def _train(self, workers: Workers) -> None:
        if self.config.checkpoints:
            return self._take()
        states = [self.unfinished(f"minimum_{i}") for i in range(len(self.config.seeds))]
        pairs = zip(self.config.seeds, states, strict=True)
        units = [(self.config.training, self.experiment, seed, state) for seed, state in pairs]
        for i, trained in enumerate(workers.map(_train_unit, units, "training")):
            found = (trained.train, trained.test, trained.test_inference)
            self._save_minimum(i, trained.theta, found, seed=trained.seed)
        for state in states:
            state.unlink(missing_ok=True)

    def _take(self) -> None:
        """The minima from the user's checkpoints."""
        for i, path in enumerate(self.config.checkpoints):
            theta = checkpoints.load_parameters(path, self.objective)
            train = evaluate(self.experiment, theta, "train")
            test, inference = (evaluate(self.experiment, theta, "test", mode) for mode in ("batch", "evaluation"))
            self._save_minimum(i, theta, (train, test, inference), taken_from=Path(path).name)

    def _save_minimum(
        self, i: int, theta: Tensor, found: tuple[Evaluation, Evaluation, Evaluation], **origin: Any
    ) -> None:
        train, test, inference = found
        scores = {
            "train_loss": train.loss,
            "train_error": train.error,
            "test_error_batch": test.error,
            "test_error": inference.error,
        }
        record = {"config": self.config.stage_config("train"), **origin, "scores": scores}
        checkpoints.save(self.checkpoint(f"minimum_{i}"), self.objective, theta, record)
        tested = "" if np.isnan(inference.error) else f", test accuracy {100 * (1 - inference.error):.1f} %"
        label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in origin.items())
        self.report(f"train: {label}, training loss {train.loss:.2g}{tested}")

    def _ends(self) -> Tensor:
        return torch.stack([checkpoints.load(self.checkpoint(f"minimum_{i}"), self.objective)[0] for i in (0, 1)])

    def _path(self, workers: Workers) -> None:
        path = self.config.path
        ends, distances = self._ends().to(self.device), None
        if self.config.alignment is not None:
            aligned = self.config.alignment.run(self.experiment, ends)
            ends, distances = aligned.ends, aligned.distances
            self.report(f"path: minima {distances[0]:.3g} apart, after weight matching {distances[-1]:.3g}")
        made = Band(self.experiment, path.batch_size, path.seed, workers.processes, report=self.report)
        with one_thread(), made as band:
            calls: dict[str, Any] = {"evaluate": band.evaluate, "full": band.full}
            if self.config.ensemble is None:
                resume = Resume(self.unfinished("path"), band.generator)
                results = [path.run(band.value_and_gradient, ends, resume=resume, **calls)]
            else:
                results = self.config.ensemble.run(
                    path,
                    band.value_and_gradient,
                    ends,
                    reseed=band.reseed,
                    resume=lambda run: Resume(self.unfinished(f"path_{run}" if run else "path"), band.generator),
                    **calls,
                )
            straight = float(band.evaluate(linear(ends, STRAIGHT_SAMPLES)).max())
        for run, result in enumerate(results):
            name = f"path_{run}" if run else "path"
            record = {"config": self.config.stage_config("path"), "converged": result.converged}
            checkpoints.save(self.checkpoint(name), self.objective, result.points, record)
        group = self._path_group(results[0])
        if self.config.ensemble is not None:
            group = schema.make("path", {**_variables(group), **ensemble_variables(results)}, group.attrs)
        if distances is not None:
            group = group.assign_attrs(alignment_distances=distances)
        self._write("path", {"path": group})
        for run, result in enumerate(results):
            self.unfinished(f"path_{run}" if run else "path").unlink(missing_ok=True)
            self.report(
                f"path{f' {run}' if run else ''}: {len(result.points)} points, highest loss {result.highest_loss:.2g} "
                f"(straight line {straight:.2g}){'' if result.converged else ', not converged'}"
            )

    def _path_group(self, found: PathResult) -> xr.Dataset:
        return schema.make(
            "path",
            {
                "s": (("s",), path_geometry.normalised_arc_length(found.points)),
                "arc_length": (("s",), found.arc_length),
                "loss_between": (("s",), found.loss_between),
                "perpendicular_gradient_norm": (("s",), found.perpendicular_gradient_norm),
            },
            {
                "finder": found.finder,
                "converged": int(found.converged),
                "samples_between": found.samples_between,
                "highest_loss_per_cycle": np.array(found.history.highest_loss),
                "pivots_per_cycle": np.array(found.history.pivots),
            },
        )

    def _measure(self, stage: Stage, workers: Workers) -> None:
        device = str(self.device)
        name = GROUPS[stage]
        measurement: Any = getattr(self.config, name)
        if stage == "barrier":
            # What it keeps in the directory serves a longer scan later.
            found = self.config.barrier.run(self.experiment, self.out, workers, device, self.report)
            return self._write(stage, {name: found})
        points, _ = checkpoints.load(self.checkpoint("path"), self.objective)
        cache = self.out / "unfinished" / name
        if stage == "profile":
            kind = PATH_KINDS.get(type(self.config.path).__name__, "path")
            paths = {kind: points, "line": linear(points[[0, -1]], self.config.profile.points)}
            groups = self.config.profile.measure(self.experiment, paths, workers, device, cache)
        else:
            groups = {name: measurement.run(self.experiment, points, workers, device, cache)}
        self._write(stage, groups)
        shutil.rmtree(self.out / "unfinished" / GROUPS[stage], ignore_errors=True)
        self.report(f"{stage}: done")

    def _write(self, stage: Stage, made: dict[str, xr.Dataset]) -> None:
        """Add the stage's groups to network.nc; groups of another path or training are dropped with it."""
        config = self.config
        old = self.tree()
        groups = {name: group.assign_attrs(config=config.stage_config(stage)) for name, group in made.items()}
        for name, node in old.children.items() if old is not None else ():
            of = next((s for s in STAGES if GROUPS.get(s) == OWNERS.get(name, name)), None)
            if of not in (None, stage) and node.attrs.get("config") == config.stage_config(of):
                groups[name] = node.to_dataset()
        order = ["path", "profile", "spectrum", *(GROUPS[s] for s in STAGES if s not in ("train", "path", "profile"))]
        tree = xr.DataTree.from_dict({f"/{n}": groups[n] for n in order if n in groups})
        # Of what was measured, whose noise and seed stand at the root, where readers look first.
        main = next(
            (n for n in ("mean_force", "relaxation", "escape", "profile", "barrier") if n in groups), "mean_force"
        )
        measured: Any = config.barrier.mean_force if main == "barrier" else getattr(config, main)
        tree.attrs = provenance(
            source="nn_experiments",
            system=config.experiment.system,
            config=config,
            noise=_in_words(measured),
            seed=measured.seed,
            threads=1,
            device=describe(self.device),
            packages=("torch", "torchvision", "scikit-learn"),
            normalization_mode=self.objective.mode,
            group_size=self.objective.group_size or 0,
            parameters=self.objective.dimension,
            training_samples=self.objective.size,
            **self._minima(),
        )
        write_tree(tree, self.dataset_path)

    def _minima(self) -> dict[str, Any]:
        """Where the minima are from, and what they score; nothing if there are none."""
        if not self.checkpoint("minimum_1").with_suffix(".json").exists():
            return {}
        taken = self.config.checkpoints
        origin = {"minima": list(taken)} if taken else {"training_seeds": np.array(self.config.seeds)}
        records = [checkpoints.load(self.checkpoint(f"minimum_{i}"), self.objective)[1]["scores"] for i in (0, 1)]
        return {**origin, **{f"minima_{name}": np.array([r[name] for r in records]) for name in records[0]}}


def _train_unit(unit: tuple[Training, AnyExperiment, int, Path]) -> Trained:
    training, experiment, seed, state = unit
    return training.run(experiment, seed, progress=False, state_path=state)


def _variables(group: xr.Dataset) -> dict[str, tuple[Any, ...]]:
    return {str(name): (v.dims, v.values) for name, v in group.variables.items()}


def _in_words(measurement: MeanForce | Ladder) -> str:
    """The noise of a mean force and its numbers, as the `noise` attribute says it."""
    noise = measurement.noise
    numbers: dict[str, tuple[Any, ...]] = {name: (getattr(noise, name, None),) for name in _SYMBOLS}
    if isinstance(measurement, Ladder):
        scanned: dict[str, tuple[float, ...]] = {"batch_size": measurement.batch_sizes}
        scanned["temperature" if isinstance(noise, Thermal) else "strength"] = measurement.strengths
        numbers |= {name: (values[0], values[-1]) for name, values in scanned.items() if values}
    given = {_SYMBOLS[name]: dict.fromkeys(v for v in values if v is not None) for name, values in numbers.items()}
    words = [f"{symbol} = {'…'.join(f'{v:g}' for v in values)}" for symbol, values in given.items() if values]
    return ", ".join([type(noise).__name__.lower(), *words])


def _recorded(path: Path) -> str | None:
    """The stage configuration in a checkpoint's record; some other text if there is none to be read."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["record"]["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable"
