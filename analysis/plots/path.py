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
        if np.isnan(loss[-1]) and len(loss) > 1:
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
