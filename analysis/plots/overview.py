"""Overview: a network's run in four panels, loss and curvature along the path, the force, and what SGD does."""

from __future__ import annotations

from collections.abc import Callable

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots._style import HEIGHT, WIDTH, style
from analysis.plots.mean_force import plot_mean_force
from analysis.plots.profile import plot_profile
from analysis.plots.relaxation import plot_relaxation
from analysis.runs import over_runs

_PANELS: tuple[tuple[str, str, Callable[[xr.Dataset, Axes], Axes]], ...] = (
    ("profile", "loss", lambda ds, ax: plot_profile(ds, "loss", ax)),
    ("profile", "curvature", lambda ds, ax: plot_profile(ds, "hessian_trace", ax)),
    ("mean_force", "mean force", plot_mean_force),
    ("relaxation", "relaxation", plot_relaxation),
)

#: What a run must hold to be drawn.
OVERVIEW_GROUPS = ("profile", "mean_force", "relaxation")


def plot_overview(tree: xr.DataTree) -> Figure:
    """Four panels of a run with `OVERVIEW_GROUPS`; raises KeyError if one is missing."""
    with style():
        figure = Figure(figsize=(1.9 * WIDTH, 2.3 * HEIGHT), layout="constrained")
        for letter, ax, (group, title, draw) in zip("abcd", figure.subplots(2, 2).flat, _PANELS, strict=True):
            draw(over_runs(group, tree[group].to_dataset()), ax)
            ax.set_title(f"({letter}) {title}", loc="left", pad=42)  # above a legend of two lines
    return figure
