"""What a report shows beside profile, force, relaxation and density: plane, search, spectrum, escapes, barriers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.agreement import number, plus_minus
from analysis.plots.barrier import plot_barrier
from analysis.plots.escape import plot_escape, plot_escape_times, scanned
from analysis.plots.path import plot_path_convergence
from analysis.plots.plane import plot_plane
from analysis.plots.spectrum import plot_spectrum
from analysis.plots.stability import plot_stability
from analysis.plots.vanishing import plot_vanishing
from analysis.runs import over_runs

Drawn = tuple[str, Axes, str, str]


def further_figures(label: str, tree: xr.DataTree, comparison: xr.DataTree) -> Iterator[Drawn]:
    """(name, axes, caption, text alternative) of one run, as far as it has the groups; captions state the finding."""
    if "plane" in tree.children:
        plane = tree["plane"].to_dataset()
        yield "plane", plot_plane(plane), _plane(plane), "contours of the loss on the plane, with minima and path"
    if "path" in tree.children and np.size(tree["path"].attrs.get("highest_loss_per_cycle", [])) > 1:
        path = over_runs("path", tree["path"].to_dataset())
        each = np.asarray(path.attrs["highest_loss_per_cycle"], float)
        met = path.attrs.get("converged")
        caption = f"Highest loss on the path during its search: {number(each[0])} on the straight line, "
        caption += f"{number(each[-1])} after {each.size - 1} cycles."
        caption += "" if met is None else f" Its own criterion was {'' if int(met) else 'not '}met."
        yield "path_convergence", plot_path_convergence(path), caption, "highest loss after each cycle of the search"
    if "spectrum" in tree.children:
        ds = over_runs("spectrum", tree["spectrum"].to_dataset())
        group = _group(comparison, "spectrum", label)
        caption = "Spectral density of the Hessian along the path."
        caption += "" if group is None else f" {group.attrs['statement']}"
        yield "spectrum", plot_spectrum(ds), caption, "spectral density against the eigenvalue along the path"
    if "escape" in tree.children:
        yield from _escapes(label, over_runs("escape", tree["escape"].to_dataset()), comparison)
    near = _group(comparison, "stability", label)
    if near is not None:
        caption = f"Mean force near the edge of stability. Against theory: {near.attrs['statement']}."
        yield "stability", plot_stability(near), caption, "measured over small-step force against ηk"
    vanishing = _group(comparison, "vanishing", label)
    if vanishing is not None:
        caption = f"{_sentence(vanishing)}."
        yield "vanishing", plot_vanishing(vanishing), caption, "both barriers against the shared training"
    elif "barrier" in tree.children and scanned(tree["barrier"].to_dataset()):
        scaling = _group(comparison, "scaling", label)
        caption = "Energetic and entropic barrier."
        caption += "" if scaling is None else f" Entropic: {scaling.attrs['statement']}."
        alt = "height of both barriers against the parameter varied"
        yield "barrier", plot_barrier(over_runs("barrier", tree["barrier"].to_dataset())), caption, alt


def _plane(ds: xr.Dataset) -> str:
    """What the loss is between the minima, on the path, and in the plane beneath it, and how far the path leaves it."""
    inside = (ds["plane_x"] >= ds["path_x"][0]) & (ds["plane_x"] <= ds["path_x"][-1])
    line = ds["loss"].where(inside, drop=True).sel(plane_y=0.0, method="nearest").max()
    caption = f"Loss on the plane through {ds.attrs['spanned_by']}"
    caption += f": up to {number(float(line))} on the straight line"
    if "path_loss" in ds:
        caption += f", {number(float(ds['path_loss'].max()))} at the points of the path"
    length, away = float(ds.attrs["minima_distance"]), float(ds["path_distance"].max())
    caption += f". The minima are {number(length)} apart; the path leaves the plane by up to {number(away)}"
    if "path_loss_projected" in ds and away > 0:
        caption += f", and beneath it, in the plane, the loss is up to {number(float(ds['path_loss_projected'].max()))}"
    return f"{caption}."


def _escapes(label: str, ds: xr.Dataset, comparison: xr.DataTree) -> Iterator[Drawn]:
    if "survival" not in ds or ds["survival"].ndim > 2:
        return
    total, out = ds["escaped"].size, int((ds["escaped"] > 0).sum())
    caption = f"Share of replicas that have not escaped: {out} of {total} escaped."
    if ds["mean_first_passage_time"].ndim == 0 and np.isfinite(ds["mean_first_passage_time"]):
        mean = plus_minus(float(ds["mean_first_passage_time"]), float(ds["mean_first_passage_time_stderr"]))
        caption += f" Mean first-passage time {mean}."
    yield "escape", plot_escape(ds), caption, "share that has not escaped against time"
    if scanned(ds):
        found = _group(comparison, "arrhenius", label)
        caption = "Mean first-passage times."
        caption += "" if found is None else f" {_sentence(found)}."
        yield "escape_times", plot_escape_times(ds), caption, "mean first-passage time against the parameter varied"


def _group(comparison: xr.DataTree, name: str, label: str) -> xr.Dataset | None:
    found = name in comparison.children and label in comparison[name].children
    return comparison[f"{name}/{label}"].to_dataset() if found else None


def _sentence(found: xr.Dataset) -> str:
    """The statement with a capital at its beginning."""
    text = str(found.attrs["statement"])
    return text[:1].upper() + text[1:]
