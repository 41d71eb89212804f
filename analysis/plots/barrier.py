"""Barrier: energetic and entropic height against the scanned parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.plots import _style
from analysis.plots.escape import scanned
from entropy_sim.errors import require

_LOGARITHMIC = 8.0  # heights that span more than this factor, and are positive, get logarithmic axes


def plot_barrier(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """`energy_barrier` and `entropic_barrier` (± 1 s.e.) against the parameter, and the exact entropic one as a line:
    a `barrier` group.
    Raises UserError for a group that was not scanned over one parameter."""
    scan = scanned(ds)
    require(scan is not None, "barrier", "a scan over one parameter", list(map(str, ds.dims)))
    with _style.style():
        ax = _style.axes(ax)
        x = _style.places(ax, ds[scan])
        bars: dict[str, Any] = {"markersize": 5, "capsize": 2.5, "linestyle": "none"}
        if "entropic_barrier_exact" in ds:
            ax.plot(x, ds["entropic_barrier_exact"], color=_style.VERMILLION, label="entropic, exact")
        for name, marker, colour, text in (
            ("entropic_barrier", "o", "black", "entropic (integrated mean force, ± 1 s.e.)"),
            ("energy_barrier", "s", _style.BLUE, "energetic"),
        ):
            stderr = ds[f"{name}_stderr"].values if f"{name}_stderr" in ds else None
            ax.errorbar(x, ds[name].values, stderr, fmt=marker, color=colour, label=text, **bars)
        values = np.concatenate([ds[n].values for n in ("entropic_barrier", "energy_barrier")])
        values = values[np.isfinite(values)]
        wide = values.size > 0 and values.max() > _LOGARITHMIC * values.min() > 0
        if wide:
            ax.set_yscale("log")
        else:
            ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        # An entropic height is linear in the temperature, the dimension, and the logarithm of the stiffness ratio.
        if (wide and np.issubdtype(ds[scan].dtype, np.number)) or scan == "stiffness_ratio":
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(_style.label(ds[scan]))
        _style.value_axis(ax, ds["entropic_barrier"], "height of the barrier")
        _style.legend(ax)
    return ax
