"""Effective potential: the integral of minus the mean force along the path, with propagated errors."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style


def plot_effective_potential(ds: xr.Dataset, ax: Axes | None = None, predictions: bool = True) -> Axes:
    """The potential with its band and, if there are any, the predicted ones: `effective_potential/<label>` of a
    comparison."""
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        s = ds["s"].values
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        _style.band(
            ax,
            s,
            ds["potential"].values,
            ds["potential_stderr"].values,
            color="black",
            marker="o",
            markersize=4,
            label="measured (integrated mean force, ± 1 s.e.)",
        )
        if predictions and "predicted" in ds:
            for i, form in enumerate(map(str, ds["form"].values)):
                one = ds.sel(form=form)
                _style.band(
                    ax,
                    s,
                    one["predicted"].values,
                    np.asarray(one["predicted_stderr"].values),
                    color=_style.COLOURS[i % len(_style.COLOURS)],
                    linestyle=_style.DASHES[i % len(_style.DASHES)],
                    label=form,
                )
        _style.position_axis(ax)
        _style.value_axis(ax, ds["potential"], f"effective potential above s = {s[0]:.2g}")
        _style.legend(ax)
    return ax
