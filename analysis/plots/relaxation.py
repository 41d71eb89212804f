"""Relaxation: position along the path against time, for replicas released on it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis import summaries
from analysis.plots import _style

_MOST_REPLICAS = 8  # thin lines of single replicas are drawn up to this many


def plot_relaxation(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean position (± 1 s.e.) from each start, the noise-free control dashed and the null control (what the
    projection alone does to s) dotted: a `relaxation` group of a run, whose single replicas are thin lines, or of a
    comparison."""
    with _style.style():
        ax = _style.axes(ax, height=4.2)
        summary = ds if "displacement" in ds else summaries.relaxation(ds)
        time = summary["time"].values
        colours = _style.sequence(summary.sizes["start"])
        if "displacement" not in ds and ds.sizes.get("replica", 99) <= _MOST_REPLICAS:
            noisy = ds["position"].sel(control=0) if "control" in ds["position"].dims else ds["position"]
            for i in range(ds.sizes["start"]):
                ax.plot(time, noisy.isel(start=i).transpose("time", "replica"), color=colours[i], lw=0.5, alpha=0.5)
        null = ds.get("position_null")
        for i in range(ds.sizes["start"]) if null is not None and null.ndim == 2 else ():
            assert null is not None
            text = "null control" if i == 0 else "_"
            value = null.transpose("start", "time").values[i]
            error = (
                ds["position_null_stderr"].transpose("start", "time").values[i] if "position_null_stderr" in ds else 0
            )
            _style.band(ax, time, value, error + 0 * value, color="0.45", linestyle=":", linewidth=1.4, label=text)
        if "position_predicted" in summary:
            for i in range(summary.sizes["start"]):
                lines = summary["position_predicted"].isel(start=i).transpose("time", "form")
                text = "predicted (reduced dynamics)" if i == 0 else "_"
                ax.plot(time, lines, color=_style.VERMILLION, linestyle=":", linewidth=1.3, label=text, zorder=4)
        for control in summary["control"].values:
            first = True
            for i, start in enumerate(summary["start"].values):
                one = summary.sel(control=control).isel(start=i)
                good = np.isfinite(one["position"].values)
                if not good.any():
                    continue
                name: str | None = f"s = {start:.2g}" if control == 0 else "without noise" if first else None
                _style.band(
                    ax,
                    time[good],
                    one["position"].values[good],
                    one["position_stderr"].values[good],
                    color=colours[i] if control == 0 else "black",
                    linestyle="-" if control == 0 else (0, (4, 2)),
                    linewidth=1.8 if control == 0 else 1.2,
                    label=name,
                )
                first = False
        if not np.isfinite(summary["position"].values[..., 1:]).any():
            ax.text(0.5, 0.5, "all walkers have diverged", transform=ax.transAxes, ha="center", va="center")
        ax.set_xlabel(_style.label(summary["time"], "time t = step size × steps / (1 − momentum)"))
        ax.set_ylabel("position along the path, s")
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlim(time[0], time[-1])
        _style.legend(ax)
    return ax
