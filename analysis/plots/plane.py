"""Plane: the loss on the plane through both minima and the path."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.patheffects
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require

_LEVELS = 25  # of the filled contours
#: Values further apart than this are not told apart: a loss far out of the plane can be of any size.
_RANGE = 1e4


def plot_plane(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Contours of the loss (logarithmic where it is positive), the straight line between the minima, and the path
    projected on the plane, its points filled with the loss of the path itself: a `plane` group. Both axes have the same
    scale. Raises UserError if no loss is finite."""
    loss = ds["loss"].transpose("plane_y", "plane_x").values
    loss = np.ma.masked_invalid(loss)
    require(loss.count() > 0, "plane", "a finite loss somewhere", "none")
    with _style.style():
        x, y = ds["plane_x"].values, ds["plane_y"].values
        ax = _style.axes(ax, height=float(np.clip(1.4 + 4.8 * np.ptp(y) / np.ptp(x), 2.4, 7.0)))
        own = ds["path_loss"].values if "path_loss" in ds else np.array([])
        everything = np.concatenate([loss.compressed(), own[np.isfinite(own)]])
        low, high = float(everything.min()), float(everything.max())
        high = high if high > low else low + (abs(low) or 1.0)
        norm: mpl.colors.Normalize
        if low > 0:
            low = max(low, high / _RANGE)
            norm, levels = mpl.colors.LogNorm(low, high), np.geomspace(low, high, _LEVELS)
        else:
            norm, levels = mpl.colors.Normalize(low, high), np.linspace(low, high, _LEVELS)
        levels[-1] = np.nextafter(high, np.inf)  # the highest value itself is filled too
        extend = "min" if float(everything.min()) < low else "neither"
        drawn = ax.contourf(x, y, loss, levels=levels, norm=norm, cmap="cividis", extend=extend)
        ax.contour(x, y, loss, levels=levels[::4], norm=norm, colors="white", linewidths=0.5, alpha=0.6)
        outline = [mpl.patheffects.withStroke(linewidth=3.2, foreground="white")]
        along, across = ds["path_x"].values, ds["path_y"].values
        ax.plot(
            [along[0], along[-1]],
            [across[0], across[-1]],
            linestyle=(0, (4, 2)),
            color="black",
            path_effects=outline,
            label="straight line",
        )
        ax.plot(along, across, color=_style.VERMILLION, path_effects=outline)
        points: dict[str, Any] = {"markeredgecolor": _style.VERMILLION, "color": _style.VERMILLION, "markersize": 6.5}
        ax.plot([], [], "-o", **points, markerfacecolor="white", label="path, projected (filled: own loss)")
        for px, py, value in zip(along, across, own if own.size else np.full(along.size, np.nan), strict=True):
            face = mpl.colormaps["cividis"](norm(value)) if np.isfinite(value) else "none"
            ax.plot(px, py, "o", **points, markeredgewidth=1.4, markerfacecolor=face, zorder=4)
        ends = [0, -1]
        options: dict[str, Any] = {"markersize": 9, "markeredgecolor": "white", "markeredgewidth": 1.2, "zorder": 5}
        ax.plot(along[ends], across[ends], "s", color="black", label="minima", **options)
        ax.set_aspect("equal")
        ax.set_xlabel(_style.label(ds["plane_x"]))
        _style.value_axis(ax, ds["plane_y"])
        bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.02, 0.0, 0.025, 1.0)), label=_style.label(ds["loss"]))
        if low > 0:
            bar.set_ticks(_decades(low, high))
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            bar.ax.minorticks_off()
        _style.legend(ax)
    return ax


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in low…high; the powers alone where there are many."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = (1, 2, 5) if high < 300 * low else (1, 3) if high < 3000 * low else (1,)
    ticks = [float(p * m) for p in powers for m in steps]
    return [t for t in ticks if low <= t <= high]
