"""Profile: one variable of the profile along each kind of path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.plots import _style
from entropy_sim.errors import require

#: What `plot_file` and reports show, in this order, as far as measured.
PANELS = (
    "loss",
    "test_error",
    "hessian_trace",
    "hessian_trace_normalized",
    "hessian_max_eigenvalue",
    "hessian_eigenvalue",
    "hessian_min_eigenvalue",
    "noise_trace",
    "parameter_norm",
    "log_determinant",
    "effective_potential",
)
_KINDS = {"neb": "minimum-energy path", "line": "straight line", "path": "path"}
_LOGARITHMIC = 30.0  # variables that span more than this factor, and are positive, get a logarithmic axis


def panels(ds: xr.Dataset, wanted: Iterable[str] = PANELS) -> list[str]:
    """Those of the wanted variables that the profile has a number of: a loss without right answers has no error."""
    return [name for name in wanted if name in ds and bool(ds[name].notnull().any())]


def plot_profile(ds: xr.Dataset, variable: str = "loss", ax: Axes | None = None) -> Axes:
    """`variable` (path_kind, s) of a profile against s, with a band of one standard error.

    Several eigenvalues (eigenvalue_index) are drawn as lines of one colour. Raises UserError for a variable that the
    profile does not have.
    """
    require(variable in ds.data_vars, "variable", f"one of {', '.join(map(str, ds.data_vars))}", variable)
    with _style.style():
        ax = _style.axes(ax)
        data = ds[variable]
        shown = []
        for i, kind in enumerate(map(str, ds["path_kind"].values)):
            one = data.isel(path_kind=i)
            finite = np.isfinite(one.values).reshape(one.sizes["s"], -1).all(-1)
            if not finite.any():
                continue
            one = one.isel(s=np.flatnonzero(finite))
            dense = one.sizes["s"] > 40
            options: dict[str, Any] = {
                "color": _style.VERMILLION if kind == "line" else _style.BLUE,
                "linestyle": "--" if kind == "line" else "-",
                "marker": None if dense else "s" if kind == "line" else "o",
                "markersize": 4,
                "zorder": 2 if kind == "line" else 3,
            }
            if one.ndim > 1:
                options |= {"marker": None, "linewidth": 1.1}
                lines = ax.plot(one["s"], one.transpose("s", ...).values, **options)
                lines[0].set_label(f"{_KINDS.get(kind, kind)}, {len(lines)} largest")
            else:
                stderr = np.zeros(one.sizes["s"])
                if f"{variable}_stderr" in ds:
                    stderr = ds[f"{variable}_stderr"].isel(path_kind=i).values[finite]
                _style.band(ax, one["s"].values, one.values, stderr, label=_KINDS.get(kind, kind), **options)
            shown.append(one.values)
        values = np.concatenate([v.ravel() for v in shown]) if shown else np.array([])
        if values.size and values.min() > 0 and values.max() > _LOGARITHMIC * values.min():
            ax.set_yscale("log")
        elif values.size and values.min() >= 0:
            ax.set_ylim(bottom=0)
        _style.position_axis(ax)
        _style.value_axis(ax, data)
        _style.legend(ax)
    return ax
