"""A network run in a directory: train → path → profile, mean force, relaxation, escape; each stage done once and kept.

    OUT/checkpoints/minimum_0.safetensors, minimum_1.safetensors, path.safetensors (each with a JSON record)
    OUT/network.nc                                                                  grows by a group per stage
    OUT/unfinished/                                            states of stages that were interrupted in the middle

A stage is identified by its own configuration and those of the stages before it. Starting again goes on from what is
there; what another configuration made is refused unless `overwrite` says otherwise.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from entropy_sim import path_geometry, schema
from entropy_sim.errors import UserError, require
from entropy_sim.run_files import config_json, provenance, read_tree, writable, write_tree
from nn_experiments import checkpoints
from nn_experiments.device import OnDevice, describe, resolve
from nn_experiments.experiment import AnyExperiment, Experiment, evaluate
from nn_experiments.measurements.escape import Escape
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.measurements.mean_force import MeanForce
from nn_experiments.measurements.profile import Profile
from nn_experiments.measurements.relaxation import Relaxation
from nn_experiments.noise import AnyNoise
from nn_experiments.objective import Evaluation
from nn_experiments.own import FileExperiment, ModuleExperiment
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.band import Band
from nn_experiments.paths.base import PathResult
from nn_experiments.paths.curves import BezierCurve, PolygonalChain
from nn_experiments.paths.linear import StraightLine, linear
from nn_experiments.paths.resume import Resume
from nn_experiments.train import Trained, Training
from nn_experiments.workers import Workers, one_thread

Stage = Literal["train", "path", "profile", "mean-force", "relaxation", "escape", "all"]
State = Literal["absent", "same", "other"]
#: What "all" does; the measurements after these are done when asked for by name.
ALL: tuple[Stage, ...] = ("train", "path", "profile", "mean-force", "relaxation")
STAGES: tuple[Stage, ...] = (*ALL, "escape")
#: The group of the dataset, and the field of the configuration, of each stage that has one.
GROUPS: dict[Stage, str] = {s: s.replace("-", "_") for s in STAGES if s != "train"}

#: What the command line offers; in Python any `PathFinder` will do.
AnyPathFinder = AutoNEB | BezierCurve | PolygonalChain | StraightLine
#: Points at which the loss of the straight line is sampled for the message beside the path's.
STRAIGHT_SAMPLES = 27


@dataclass(frozen=True)
class NetworkRun:
    """Two minima of one network, the minimum-energy path between them, and what is measured on it.

    From Python, the experiment may be any `AnyExperiment`, such as a `ModuleExperiment` of live objects.
    """

    experiment: Experiment | FileExperiment = field(default_factory=Experiment)
    seeds: tuple[int, int] = (0, 1)
    """Seeds of the two minima: initial parameters and order of the data."""
    checkpoints: tuple[str, ...] = ()
    """Two safetensors files with the parameters of the minima, instead of training them."""
    training: Training = field(default_factory=Training)
    path: AnyPathFinder = field(default_factory=AutoNEB)
    profile: Profile = field(default_factory=Profile)
    mean_force: MeanForce | Ladder = field(default_factory=MeanForce)
    relaxation: Relaxation = field(default_factory=Relaxation)
    escape: Escape = field(default_factory=Escape)

    def __post_init__(self) -> None:
        require(self.seeds[0] != self.seeds[1], "seeds", "two different numbers", self.seeds)
        require(min(self.seeds) >= 0, "seeds", "numbers >= 0", self.seeds)
        require(len(self.checkpoints) in (0, 2), "checkpoints", "two files or none", self.checkpoints)

    def stage_config(self, stage: Stage) -> str:
        """The part of the configuration that a stage's results depend on, as JSON."""
        parts: dict[str, Any] = {"experiment": self.experiment}
        if self.checkpoints:
            parts["minima"] = [_checksum(Path(c)) for c in self.checkpoints]
        else:
            parts |= {"seeds": self.seeds, "training": self.training}
        if stage != "train":
            parts["path"] = self.path
        if stage not in ("train", "path"):
            parts[GROUPS[stage]] = getattr(self, GROUPS[stage])
        return config_json(parts)

    def run(
        self,
        out: Path | str,
        *,
        stage: Stage = "all",
        overwrite: bool = False,
        processes: int | None = None,
        device: str = "cpu",
        report: Callable[[str], None] = print,
    ) -> xr.DataTree | None:
        """Do `stage` and whatever it needs that is not there yet; the run so far, None after training alone.

        processes: None means one per core on the CPU; an accelerator is used by this process alone. report: told in a
        line about each stage, done or found. Raises UserError for results of another configuration (without
        `overwrite`), for a device that is not there, and for whatever a stage refuses.
        """
        found = resolve(device)
        own: Any = self.experiment
        if found.type != "cpu" or (isinstance(own, ModuleExperiment) and own.only_here):
            processes = 1
        return _Directory(self, Path(out), overwrite, report, found).do(stage, processes)


class _Directory:
    """The files of one run, and the stages that make them."""

    def __init__(
        self, config: NetworkRun, out: Path, overwrite: bool, report: Callable[[str], None], device: torch.device
    ) -> None:
        self.config, self.out, self.overwrite, self.report, self.device = config, out, overwrite, report, device
        config.stage_config("train")  # a missing file of the user's is found before anything is made
        self.dataset_path = out / "network.nc"
        self.experiment: AnyExperiment = OnDevice(config.experiment, str(device))
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
        wanted = ALL if stage == "all" else [s for s in STAGES if s in ("train", "path", stage)]
        if stage == "train":
            wanted = ["train"]
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
        took: dict[Stage, float] = {}
        with Workers(processes) as workers:
            if any(states[s] != "same" for s in wanted):
                workers.start()
            for s in wanted:
                if states[s] == "same":
                    self.report(f"{s}: already done")
                    continue
                began = time.monotonic()
                if s == "train":
                    self._train(workers)
                elif s == "path":
                    self._path(workers)
                else:
                    self._measure(s, workers)
                took[s] = time.monotonic() - began
        if took:
            each = ", ".join(f"{s} {seconds:.0f} s" for s, seconds in took.items())
            self.report(f"time: {each}; together {sum(took.values()):.0f} s on {describe(self.device)}")
        return self.tree()

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
        ends = self._ends().to(self.device)
        with one_thread(), Band(self.experiment, path.batch_size, path.seed, workers.processes) as band:
            state = Resume(self.unfinished("path"), band.generator)
            found = path.run(band.value_and_gradient, ends, evaluate=band.evaluate, full=band.full, resume=state)
            straight = float(band.evaluate(linear(ends, STRAIGHT_SAMPLES)).max())
        record = {"config": self.config.stage_config("path"), "converged": found.converged}
        checkpoints.save(self.checkpoint("path"), self.objective, found.points, record)
        self._write("path", self._path_group(found))
        self.unfinished("path").unlink(missing_ok=True)
        self.report(
            f"path: {len(found.points)} points, highest loss {found.loss_between.max():.2g} "
            f"(straight line {straight:.2g}){'' if found.converged else ', not converged'}"
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
        points, _ = checkpoints.load(self.checkpoint("path"), self.objective)
        device = str(self.device)
        if stage == "profile":
            paths = {"neb": points, "line": linear(points[[0, -1]], self.config.profile.points)}
            group = self.config.profile.run(self.experiment, paths, workers, device)
        elif stage == "mean-force" and isinstance(self.config.mean_force, Ladder):
            cache = self.out / "unfinished" / "mean_force"
            group = self.config.mean_force.run(self.experiment, points, workers, device, cache)
        else:
            group = getattr(self.config, GROUPS[stage]).run(self.experiment, points, workers, device)
        self._write(stage, group)
        shutil.rmtree(self.out / "unfinished" / GROUPS[stage], ignore_errors=True)
        self.report(f"{stage}: done")

    def _write(self, stage: Stage, group: xr.Dataset) -> None:
        """Add the stage's group to network.nc; groups of another path or training are dropped with it."""
        config = self.config
        old = self.tree()
        groups = {GROUPS[stage]: group.assign_attrs(config=config.stage_config(stage))}
        for name, node in old.children.items() if old is not None else ():
            kept = next(s for s in STAGES if GROUPS.get(s) == name)
            if name not in groups and node.attrs.get("config") == config.stage_config(kept):
                groups[name] = node.to_dataset()
        tree = xr.DataTree.from_dict({f"/{n}": groups[n] for n in GROUPS.values() if n in groups})
        tree.attrs = provenance(
            source="nn_experiments",
            system=config.experiment.system,
            config=config,
            noise=_in_words(config.mean_force.noise),
            seed=config.mean_force.seed,
            threads=1,
            device=describe(self.device),
            packages=("torch", "torchvision", "scikit-learn"),
            normalization_mode=self.objective.mode,
            group_size=self.objective.group_size or 0,
            parameters=self.objective.dimension,
            training_samples=self.objective.size,
            **(
                {"minima": list(config.checkpoints)}
                if config.checkpoints
                else {"training_seeds": np.array(config.seeds)}
            ),
            **self._scores(),
        )
        write_tree(tree, self.dataset_path)

    def _scores(self) -> dict[str, Any]:
        records = [checkpoints.load(self.checkpoint(f"minimum_{i}"), self.objective)[1]["scores"] for i in (0, 1)]
        return {f"minima_{name}": np.array([r[name] for r in records]) for name in records[0]}


def _train_unit(unit: tuple[Training, AnyExperiment, int, Path]) -> Trained:
    training, experiment, seed, state = unit
    return training.run(experiment, seed, progress=False, state_path=state)


def _in_words(noise: AnyNoise) -> str:
    """A noise and its numbers, as the `noise` attribute says it."""
    symbols = {"strength": "σ", "temperature": "T", "batch_size": "B"}
    given = ((symbol, getattr(noise, name, None)) for name, symbol in symbols.items())
    return ", ".join([type(noise).__name__.lower(), *(f"{s} = {value:g}" for s, value in given if value is not None)])


def _checksum(path: Path) -> str:
    """SHA-256 of a user's checkpoint, which stands for it in a stage's configuration."""
    if not path.is_file():
        raise UserError(f"checkpoints: expected a safetensors file, found no file {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _recorded(path: Path) -> str | None:
    """The stage configuration in a checkpoint's record; some other text if there is none to be read."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["record"]["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable"
