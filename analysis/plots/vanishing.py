"""Vanishing: energetic and entropic height against shared training, with the places where they vanish."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require

_STYLES: dict[str, dict[str, Any]] = {
    "energetic": {"color": _style.BLUE, "marker": "s", "linestyle": "-"},
    "entropic": {"color": _style.VERMILLION, "marker": "o", "linestyle": "--"},
}


def plot_vanishing(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Both heights over their own first ones (± 1 s.e.) against the scanned parameter; on the line of the threshold, a
    diamond where each falls to it, with its 68 % interval (an arrow where that has no end in the scan): the result of
    `analysis.barriers.vanishing`. Raises UserError for any other dataset."""
    require("crossing" in ds and "height" in ds, "vanishing", "a result of barriers.vanishing", list(ds.data_vars))
    from analysis.agreement import number, plus_minus  # scipy, which other figures do without

    scan = str(ds.attrs["parameter"])
    there = ~np.isnan(ds["crossing"].values)
    relative = bool(there.all()) and not bool(ds.attrs.get("same_threshold", 0))
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        x = ds[scan].values.astype(float)
        last = float(x[-1]) + 0.03 * float(np.ptp(x))
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        for kind, look in _STYLES.items():
            one = ds.sel(kind=kind)
            unit = float(one["height"][0]) if relative else 1.0
            value, stderr = one["height"].values / unit, one["height_stderr"].values / unit
            first = f" (first: {plus_minus(float(one['height'][0]), float(one['height_stderr'][0]))} loss)"
            _style.band(ax, x, value, stderr, markersize=4.5, label=f"{kind}{first if relative else ''}", **look)
            at, low, high = (float(one[n]) for n in ("crossing", "crossing_low", "crossing_high"))
            if np.isnan(at):
                ax.plot([], [], " ", label=f"no {kind} barrier established at the first value")
                continue
            level = float(one["threshold"]) / unit
            shown, top = min(at, last), min(high, last)
            words = f"vanishes at {number(at)}" if np.isfinite(at) else "does not vanish in the scan"
            words += f" ({number(low)} … {number(high) if np.isfinite(high) else 'beyond'})" if low < high else ""
            options: dict[str, Any] = {"color": look["color"], "markersize": 6.5, "zorder": 6, "clip_on": False}
            bar = [[max(shown - low, 0.0)], [max(top - shown, 0.0)]]
            marker = "D" if np.isfinite(at) else ">"
            ax.errorbar(shown, level, xerr=bar, fmt=marker, capsize=4, markeredgecolor="white", label=words, **options)
            if np.isinf(high) and np.isfinite(at):
                ax.plot(last, level, ">", **options)
        limits = np.unique((ds["threshold"] / (ds["height"].isel({scan: 0}) if relative else 1.0)).values.round(9))
        for level in limits[np.isfinite(limits)]:
            ax.axhline(level, color="0.4", linewidth=0.8, linestyle=":", zorder=1)
        ax.set_xlim(x[0] - 0.03 * float(np.ptp(x)), last)
        ax.set_xlabel(_style.label(ds[scan], scan.replace("_", " ")))
        ax.set_ylabel("barrier / its first height" if relative else "barrier [loss]")
        _style.legend(ax, most=2)
    return ax
