"""Spectrum: the Hessian's spectral density along the path."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require

_MOST = 5  # places that are drawn
_DECADES = 6.0


def plot_spectrum(ds: xr.Dataset, ax: Axes | None = None, path_kind: str | None = None) -> Axes:
    """Spectral density (± 1 s.e. over the probes) against the eigenvalue at up to 5 places along the path, from one end
    (dark) to the other: a `spectrum` group. path_kind: the kind of path (default: the first that is not the straight
    line). Raises UserError for a kind that the group does not have."""
    require("density" in ds, "spectrum", "a variable density", list(map(str, ds.data_vars)))
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        if "path_kind" in ds.dims:
            kinds = [str(k) for k in ds["path_kind"].values]
            kind = path_kind or next((k for k in kinds if k != "line"), kinds[0])
            require(kind in kinds, "path_kind", f"one of {', '.join(kinds)}", kind)
            ds = ds.isel(path_kind=kinds.index(kind))
        known = np.flatnonzero(np.isfinite(ds["density"].transpose("s", "eigenvalue").values).all(1))
        chosen = known[np.unique(np.linspace(0, len(known) - 1, min(_MOST, len(known))).round().astype(int))]
        x = ds["eigenvalue"].values
        top, shown = 0.0, np.zeros(len(x), dtype=bool)
        for i, colour in zip(chosen, _style.sequence(len(chosen)), strict=True):
            one = ds.isel(s=int(i))
            value = one["density"].values
            top = max(top, float(value.max()))
            least = top * 10.0**-_DECADES
            seen = np.where(value > least, value, np.nan)
            shown |= np.isfinite(seen)
            ax.plot(x, seen, color=colour, linewidth=1.2, label=f"s = {float(one['s']):.2g}")
            if "density_stderr" in one:
                low, high = value - one["density_stderr"].values, value + one["density_stderr"].values
                low = np.where(np.isfinite(seen), np.maximum(low, least), np.nan)
                ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.set_yscale("log")
        if top > 0:
            ax.set_ylim(top * 10.0**-_DECADES, 2 * top)
            ax.set_xlim(x[shown][0], x[shown][-1])
        ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.set_xlabel(_style.label(ds["eigenvalue"]))
        ax.set_ylabel(_style.label(ds["density"]))
        _style.legend(ax)
    return ax
