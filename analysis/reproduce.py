"""The main job: a network trained and measured, theory simulated, the two compared and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from analysis import twin
from entropy_sim.errors import UserError
from entropy_sim.run_files import (
    merge,
    merged_config,
    output_state,
    read_tree,
    writable,
    write_tree,
)

TWIN = "twin"
Preset = Literal["quick", "ladder", "paper"]
#: The network's stages that each preset needs.
STAGES: dict[Preset, Any] = {"quick": "all", "ladder": "mean-force", "paper": "all"}


@dataclass(frozen=True)
class Reproduce:
    """The main job, end to end: theory simulated, a network trained and measured, compared and reported.

    Writes simulation.nc, simulation_sgd.nc, twin.nc (but for ladder), network.nc, comparison.nc, figures/ and
    report.html into OUT.

    Started again, it goes on from the finished stages.
    """

    preset: Preset = "quick"
    """quick: two ResNet-8 on scikit-learn's digits under minibatch noise, minutes on 2 cores; ladder: a ResNet-8 under
    label noise of twelve strengths, the precise test of theory, under an hour on 2 cores; paper: ResNet-20 on CIFAR-10,
    for a GPU"""
    out: Path | None = None
    """the run's directory (default: runs/PRESET)"""
    overwrite: bool = False
    """replace what another configuration made"""
    processes: int | None = None
    """processes of the network side (default: all cores); the numbers do not depend on it"""
    device: str | None = None
    """where the network runs: cpu, cuda, cuda:N or auto (default: auto for paper, cpu for the others)"""

    def run(self) -> xr.DataTree:
        """Run what is not there yet; the comparison. Raises UserError for results of another configuration."""
        from analysis.compare import Compare
        from nn_experiments import presets
        from nn_experiments.stages import ALL

        start = time.monotonic()
        out = self.out or Path("runs") / self.preset
        writable(out / "network.nc")
        comparison = out / "comparison.nc"
        if comparison.exists() and not self.overwrite and not _is_comparison(comparison):
            raise UserError(f"--out: expected a run of ours, found another file at {comparison} (--overwrite)")
        config, stage = getattr(presets, self.preset)(), STAGES[self.preset]
        say(f"1/3 network: {', '.join(ALL if stage == 'all' else (*ALL[:2], stage))}")
        network = config.run(
            out,
            stage=stage,
            overwrite=self.overwrite,
            processes=self.processes,
            device=self.device or ("auto" if self.preset == "paper" else "cpu"),
            report=lambda line: say(f"    {line}"),
        )
        has_twin = "profile" in network.children
        say("2/3 theory: the channel" + (", and the network's analytic twin" if has_twin else ""))
        for name, measurements in channel().items():
            self._simulate(out / f"{name}.nc", measurements)
        if has_twin:
            self._simulate(out / f"{TWIN}.nc", twin.measurements(network), **twin.attributes(network))
        say("3/3 comparison, figures, report")
        files = tuple(out / f"{name}.nc" for name in (*channel(), *([TWIN] if has_twin else []), "network"))
        tree = Compare(files=files, out=out, overwrite=True).run()
        say(f"wrote {out / 'report.html'} ({time.monotonic() - start:.0f} s)")
        return tree

    def _simulate(self, path: Path, measurements: Mapping[str, Any], **extra: str) -> None:
        config = merged_config(measurements.values())
        try:
            state = output_state(path, config, overwrite=self.overwrite)
        except UserError:
            if not extra:
                raise
            state = "absent"  # made from the network's profile, and so again when that was measured anew
        if state == "same":
            say(f"    {path.stem}: already done")
            return
        trees = {name: measurement.run(progress=True) for name, measurement in measurements.items()}
        write_tree(merge(trees, **extra), path)
        say(f"    {path.stem}: {', '.join(measurements)}")


def _is_comparison(path: Path) -> bool:
    try:
        return read_tree(path, check=False).attrs.get("source") == "analysis"
    except UserError:
        return False


def channel() -> dict[str, dict[str, Any]]:
    """The analytic runs: file -> measurement -> configuration.

    simulation: thermal Langevin dynamics, Leimkuhler-Matthews (unbiased on harmonic directions, so the thermal forms
    hold at any step). simulation_sgd: SGD with noise proportional to the curvature, C = c K, at a learning rate large
    enough (eta k up to 0.8) to tell the finite-learning-rate form from its limit.
    """
    from entropy_sim import (
        SGD,
        Channel,
        CurvatureCovariance,
        MeanForce,
        Overdamped,
        Profile,
        Relaxation,
        Stationary,
        Thermal,
    )

    landscape = Channel()
    thermal = {
        "landscape": landscape,
        "noise": Thermal(),
        "dynamics": Overdamped(scheme="leimkuhler_matthews"),
    }
    noisy = {"landscape": landscape, "noise": CurvatureCovariance(), "dynamics": SGD(learning_rate=0.05)}
    return {
        "simulation": {
            "profile": Profile(**thermal, points=201),
            "mean_force": MeanForce(**thermal, walkers=512),
            "relaxation": Relaxation(**thermal, replicas=64),
            "stationary": Stationary(**thermal),
        },
        "simulation_sgd": {
            "profile": Profile(**noisy, points=201),
            "mean_force": MeanForce(**noisy, walkers=512, stride=1),
        },
    }


say: Callable[[str], None] = print
