"""A network run in a directory: train → path → profile, plane, mean force, relaxation, escape, or else barrier.

    OUT/checkpoints/minimum_0.safetensors, minimum_1.safetensors, path.safetensors (each with a JSON record)
    OUT/network.nc                                                                  grows by a group per stage
    OUT/barrier/                                               what a scan of barriers has done, for a longer one
    OUT/unfinished/                                            states of stages that were interrupted in the middle

A stage is identified by its own configuration and those of the stages before it. Starting again goes on from what is
there; what another configuration made is refused unless `overwrite` says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from entropy_sim.errors import UserError, require
from entropy_sim.run_files import config_json
from nn_experiments.device import resolve
from nn_experiments.experiment import Experiment
from nn_experiments.measurements.barrier import Barrier
from nn_experiments.measurements.escape import Escape
from nn_experiments.measurements.ladder import Ladder
from nn_experiments.measurements.mean_force import MeanForce
from nn_experiments.measurements.plane import Plane
from nn_experiments.measurements.profile import Profile
from nn_experiments.measurements.relaxation import Relaxation
from nn_experiments.own import FileExperiment, ModuleExperiment
from nn_experiments.paths.alignment import WeightMatching
from nn_experiments.paths.autoneb import AutoNEB
from nn_experiments.paths.curves import BezierCurve, PolygonalChain
from nn_experiments.paths.ensemble import PathEnsemble
from nn_experiments.paths.linear import StraightLine
from nn_experiments.run_directory import RunDirectory
from nn_experiments.stages import GROUPS, Stage
from nn_experiments.train import Training

#: What the command line offers; in Python any `PathFinder` will do.
AnyPathFinder = AutoNEB | BezierCurve | PolygonalChain | StraightLine


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
    alignment: WeightMatching | None = None
    """Permute the units of the second minimum to lie nearest to the first, before any path."""
    path: AnyPathFinder = field(default_factory=AutoNEB)
    ensemble: PathEnsemble | None = None
    """Several searches between the same minima; what is measured is measured on the first."""
    profile: Profile = field(default_factory=Profile)
    plane: Plane = field(default_factory=Plane)
    mean_force: MeanForce | Ladder = field(default_factory=MeanForce)
    relaxation: Relaxation = field(default_factory=Relaxation)
    escape: Escape = field(default_factory=Escape)
    barrier: Barrier = field(default_factory=Barrier)

    def __post_init__(self) -> None:
        require(self.seeds[0] != self.seeds[1], "seeds", "two different numbers", self.seeds)
        require(min(self.seeds) >= 0, "seeds", "numbers >= 0", self.seeds)
        require(len(self.checkpoints) in (0, 2), "checkpoints", "two files or none", self.checkpoints)

    def stage_config(self, stage: Stage) -> str:
        """The part of the configuration that a stage's results depend on, as JSON."""
        parts: dict[str, Any] = {"experiment": self.experiment}
        if stage == "barrier":
            return config_json({**parts, "barrier": self.barrier})
        if self.checkpoints:
            parts["minima"] = [_checksum(Path(c)) for c in self.checkpoints]
        else:
            parts |= {"seeds": self.seeds, "training": self.training}
        if stage != "train":
            parts["path"] = self.path
            # What was not there before, and is not asked for, changes nothing.
            parts |= {n: getattr(self, n) for n in ("alignment", "ensemble") if getattr(self, n) is not None}
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
        return RunDirectory(self, Path(out), overwrite, report, found).do(stage, processes)


def _checksum(path: Path) -> str:
    """SHA-256 of a user's checkpoint, which stands for it in a stage's configuration."""
    if not path.is_file():
        raise UserError(f"checkpoints: expected a safetensors file, found no file {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
