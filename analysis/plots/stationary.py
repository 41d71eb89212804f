"""Stationary: the density of the position along the path, or its free energy."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require


def plot_stationary(ds: xr.Dataset, variable: str = "density", ax: Axes | None = None) -> Axes:
    """`density` or `free_energy` against s with errors, and the predicted one where a comparison added it.

    Raises UserError for another variable, or one that the run lacks."""
    require(variable in ("density", "free_energy") and variable in ds, "variable", "density or free_energy", variable)
    with _style.style():
        ax = _style.axes(ax)
        s, value = ds["s"].values, ds[variable].values
        stderr = ds[f"{variable}_stderr"].values if f"{variable}_stderr" in ds else None
        ax.errorbar(
            s, value, stderr, fmt="o", color="black", markersize=3.5, capsize=2, label="measured (± 1 s.e.)", zorder=5
        )
        if f"{variable}_predicted" in ds:
            for i, form in enumerate(map(str, ds["form"].values)):
                ax.plot(
                    s,
                    ds[f"{variable}_predicted"].sel(form=form),
                    color=_style.COLOURS[i % len(_style.COLOURS)],
                    linestyle=_style.DASHES[i % len(_style.DASHES)],
                    label=form,
                )
        _style.position_axis(ax)
        _style.value_axis(ax, ds[variable])
        if variable == "density" and not np.any(value < 0):
            ax.set_ylim(bottom=0)
        _style.legend(ax)
    return ax
