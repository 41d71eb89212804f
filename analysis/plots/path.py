"""Path: the highest loss between neighbouring points of a path."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require


def plot_path(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """`loss_between` as steps from each point to the next: a `path` group. Raises UserError if it was not sampled."""
    require("loss_between" in ds, "path", "a variable loss_between", list(map(str, ds.data_vars)))
    with _style.style():
        ax = _style.axes(ax)
        s, loss = ds["s"].values, ds["loss_between"].values
        if len(loss) > 1:  # nothing comes after the last point, whatever stands there
            loss = np.append(loss[:-1], loss[-2])
        ax.step(s, loss, where="post", color=_style.BLUE, label="highest loss up to the next point")
        ax.plot(
            s,
            np.full_like(s, min(0.0, np.nanmin(loss))),
            "|",
            color="black",
            markersize=8,
            label="points of the path",
            clip_on=False,
        )
        if np.nanmin(loss) >= 0:
            ax.set_ylim(bottom=0)
        _style.position_axis(ax)
        _style.value_axis(ax, ds["loss_between"])
        _style.legend(ax)
    return ax


def plot_path_convergence(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Highest loss on the path (between its points too) after each cycle of the search, from the straight line on, with
    the number of points: a `path` group whose finder tells it. Paths of an ensemble are drawn beside the last.
    Raises UserError where the finder does not tell."""
    highest = np.atleast_1d(np.asarray(ds.attrs.get("highest_loss_per_cycle", []), float))
    require(highest.size > 1, "path", "an attribute highest_loss_per_cycle of 2 or more", highest.size)
    with _style.style():
        ax = _style.axes(ax)
        cycle = np.arange(highest.size)
        ax.plot(cycle, highest, "-o", color=_style.BLUE, markersize=5, label="highest loss on the path")
        points = np.atleast_1d(ds.attrs.get("pivots_per_cycle", []))
        for x, y, n in zip(cycle, highest, points, strict=False):
            ax.annotate(f"{int(n)} points", (x, y), (5, 5), textcoords="offset points", fontsize=8)
        if "run_highest_loss" in ds:
            other = ds["run_highest_loss"].values
            at = np.full(other.size, cycle[-1] + 0.25)
            ax.plot(at, other, "D", color=_style.ORANGE, markersize=5, label=f"{other.size} searches")
        if (highest > 0).all() and highest.max() > 5 * highest.min():
            ax.set_yscale("log")
        found = ds.attrs.get("converged")
        if found is not None:
            text = "its criterion was met" if int(found) else "its criterion was not met"
            ax.plot([], [], " ", label=text)
        ax.set_xticks(cycle)
        ax.set_xlim(-0.3, cycle[-1] + 0.7)
        ax.margins(y=0.15)
        ax.set_xlabel("cycle of the search (0: the straight line)")
        ax.set_ylabel("highest loss [loss]")
        _style.legend(ax)
    return ax
