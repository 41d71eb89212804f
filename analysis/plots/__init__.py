"""Figures, one file per measurement: `plot_<measurement>(dataset, ax=None) -> Axes`, to be composed at will.

`plot_file` draws every group of a run or a comparison.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis import barriers
from analysis.ladder import extrapolate, is_ladder
from analysis.plots._further import further_figures
from analysis.plots._style import save
from analysis.plots.barrier import plot_barrier
from analysis.plots.between import plot_between, plot_escape_between, plot_relaxation_between
from analysis.plots.effective_potential import plot_effective_potential
from analysis.plots.escape import plot_escape, plot_escape_times, scanned
from analysis.plots.ladder import plot_ladder
from analysis.plots.mean_force import (
    plot_force_comparison,
    plot_force_ratio,
    plot_mean_force,
    plot_mean_force_windows,
)
from analysis.plots.overview import OVERVIEW_GROUPS, plot_overview
from analysis.plots.path import plot_path, plot_path_convergence
from analysis.plots.plane import plot_plane
from analysis.plots.profile import panels, plot_profile
from analysis.plots.relaxation import plot_relaxation
from analysis.plots.spectrum import plot_spectrum
from analysis.plots.stability import plot_stability
from analysis.plots.stationary import plot_stationary
from analysis.plots.vanishing import plot_vanishing
from analysis.runs import over_runs
from analysis.stability import edge_of_stability
from entropy_sim.errors import UserError

__all__ = [
    "OVERVIEW_GROUPS",
    "draw_between",
    "further_figures",
    "panels",
    "plot_barrier",
    "plot_between",
    "plot_effective_potential",
    "plot_escape",
    "plot_escape_between",
    "plot_escape_times",
    "plot_file",
    "plot_force_comparison",
    "plot_force_ratio",
    "plot_ladder",
    "plot_mean_force",
    "plot_mean_force_windows",
    "plot_overview",
    "plot_path",
    "plot_path_convergence",
    "plot_plane",
    "plot_profile",
    "plot_relaxation",
    "plot_relaxation_between",
    "plot_spectrum",
    "plot_stability",
    "plot_stationary",
    "plot_vanishing",
    "save",
]


def plot_file(tree: xr.DataTree, directory: Path | str, format: str = "png") -> list[Path]:
    """Draw every group of a run, or of a comparison, into `directory`; the files written.

    format: png, pdf or svg. Raises UserError if there is nothing to draw."""
    directory = Path(directory)
    written = [save(ax.figure, directory / f"{name}.{format}") for name, ax in _figures(tree)]  # type: ignore[arg-type]
    if not written:
        raise UserError(f"{', '.join(tree.children) or 'no group'}: expected a measurement that can be drawn")
    return written


def _figures(tree: xr.DataTree) -> Iterator[tuple[str, Axes]]:
    tree = _with_theory(tree)
    if is_ladder(tree):
        with contextlib.suppress(UserError):
            yield "ladder", plot_ladder(extrapolate(tree["mean_force"].to_dataset()))
    elif tree.attrs.get("source") == "nn_experiments" and set(OVERVIEW_GROUPS) <= set(tree.children):
        yield "overview", plot_overview(tree).axes[0]
    if "mean_force" in tree.children and "learning_rate" in tree["mean_force"].dims:
        with contextlib.suppress(UserError):
            yield "stability", plot_stability(edge_of_stability(tree))
    for name, node in tree.children.items():
        if name == "between":
            for label, pair in node.children.items():
                for what, one in pair.children.items():
                    yield f"between_{what}_{label.replace(' ', '_')}", draw_between(what, one.to_dataset(), label)
        elif node.children:  # a comparison: one dataset per run
            for label, child in node.children.items():
                yield from _group(name, child.to_dataset(), f"_{label.replace(' ', '_')}")
        else:
            yield from _group(name, node.to_dataset(), "")


def _with_theory(tree: xr.DataTree) -> xr.DataTree:
    """A simulation with what theory says of its mean force, density and relaxation beside them, if anything."""
    known = {"mean_force", "stationary", "relaxation"} & set(tree.children)
    if tree.attrs.get("source") != "entropy_sim" or not known:
        return tree
    from analysis import predict_simulation as predict
    from analysis import simulated
    from analysis.comparisons import mean_force, relaxation, stationary

    exact, result = simulated.with_profile(tree), tree.copy()
    for name in known:
        ds = tree[name].to_dataset()
        try:
            if name == "mean_force" and set(ds.dims) <= {"s", "replica", "control_replica", "time_window"}:
                form = predict.predict_simulation(exact, ds["s"].values)
                against = mean_force.against_theory("", ds, form, exact=True, quantity="force")[0]
                result["mean_force_and_theory"] = against
            elif name == "stationary" and set(ds.dims) == {"s"}:
                form = predict.predict_stationary(exact, ds["s"].values)
                result[name] = stationary.against_theory("", ds, form)[0]
            elif name == "relaxation" and set(ds.dims) <= {"control", "start", "replica", "time", "form"}:
                form = predict.predict_relaxation(exact, ds["start"].values, ds["time"].values)
                result[name] = relaxation.against_theory("", ds, predicted=form)[0]
        except UserError:
            pass
    return result


def draw_between(name: str, ds: xr.Dataset, label: str) -> Axes:
    """One comparison of two runs, `label` being "first and second"."""
    first, _, second = label.partition(" and ")
    draw = {"relaxation": plot_relaxation_between, "escape": plot_escape_between}.get(name, plot_between)
    return draw(ds, names=(first, second))


def _group(name: str, ds: xr.Dataset, suffix: str) -> Iterator[tuple[str, Axes]]:
    """The figures of one group; scans (settings of several values) and tables have none."""
    if "run" in ds.dims and name != "path":
        ds = over_runs(name, ds)
    if name == "profile" and set(ds["loss"].dims) == {"path_kind", "s"}:
        for variable in panels(ds):
            yield f"profile_{variable}{suffix}", plot_profile(ds, variable)
    elif name == "mean_force" and set(ds.dims) <= {
        *("s", "s_other", "form"),
        *("replica", "control_replica", "time_window"),
    }:
        yield f"mean_force{suffix}", plot_mean_force(ds)
        if ds.sizes.get("time_window", 0) > 1:
            yield f"mean_force_windows{suffix}", plot_mean_force_windows(ds)
        if "predicted" in ds:
            yield f"mean_force_comparison{suffix}", plot_force_comparison(ds)
            yield f"mean_force_ratio{suffix}", plot_force_ratio(ds)
    elif name == "mean_force_and_theory":
        yield f"{name}{suffix}", plot_force_comparison(ds)
    elif name in ("ladder", "ladder_formula"):
        yield f"{name}{suffix}", plot_ladder(ds)
    elif name == "effective_potential":
        yield f"effective_potential{suffix}", plot_effective_potential(ds)
    elif name == "relaxation" and set(ds.dims) <= {"control", "start", "replica", "time", "form"}:
        yield f"relaxation{suffix}", plot_relaxation(ds)
    elif name == "stationary" and set(ds.dims) <= {"s", "form"}:
        for variable in ("density", "free_energy"):
            if variable in ds:
                yield f"stationary_{variable}{suffix}", plot_stationary(ds, variable)
    elif name == "escape" and "survival" in ds and ds["survival"].ndim <= 2:
        yield f"escape{suffix}", plot_escape(ds)
        if scanned(ds):
            yield f"escape_times{suffix}", plot_escape_times(ds)
    elif name == "barrier" and "first" in ds:  # of a comparison: against the exact heights
        yield f"barrier{suffix}", plot_between(ds, names=("measured", "exact"))
    elif name == "barrier" and scanned(ds):
        yield f"barrier{suffix}", plot_barrier(ds)
        with contextlib.suppress(UserError):
            if scanned(ds) == "shared_iterations":
                yield f"vanishing{suffix}", plot_vanishing(barriers.vanishing(ds))
    elif name == "stability":
        yield f"stability{suffix}", plot_stability(ds)
    elif name == "vanishing" and "height" in ds:
        yield f"vanishing{suffix}", plot_vanishing(ds)
    elif name == "spectrum" and "first" in ds:
        yield f"spectrum{suffix}", plot_between(ds, names=("from the spectrum", "from probes"))
    elif name == "spectrum" and "density" in ds:
        yield f"spectrum{suffix}", plot_spectrum(over_runs("spectrum", ds))
    elif name == "plane":
        yield f"plane{suffix}", plot_plane(ds)
    elif name == "path" and "loss_between" in ds and ds["loss_between"].ndim == 1 and not _given_and_flat(ds):
        yield "path", plot_path(ds)
        if np.size(ds.attrs.get("highest_loss_per_cycle", [])) > 1:
            yield "path_convergence", plot_path_convergence(ds)


def _given_and_flat(path: xr.Dataset) -> bool:
    """Whether there is nothing to see on a path: not found, and the same loss from end to end."""
    loss = path["loss_between"]
    return path.attrs.get("found_by") == "given" and float(loss.max()) == float(loss.min())
