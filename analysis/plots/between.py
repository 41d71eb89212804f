"""Two runs in one figure: a network and its twin, or any other pair (the datasets of `analysis.comparisons`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.agreement import number
from analysis.plots import _style
from entropy_sim.errors import require


def plot_between(ds: xr.Dataset, ax: Axes | None = None, names: tuple[str, str] = ("first", "second")) -> Axes:
    """Both sides along s, or along the scanned parameter, with bands of one standard error: the dataset of any
    `between` (profile, mean force, effective potential, density, barrier). Raises UserError for any other dataset."""
    require({"first", "second", "difference"} <= set(ds.data_vars), "between", "a comparison of two runs", list(ds))
    (dim,) = map(str, ds["first"].dims)
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        x = _style.places(ax, ds[dim])
        named = not np.issubdtype(ds[dim].dtype, np.number)
        if ds["first"].attrs.get("units") != "1":
            ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        for side, name, colour, marker, line in (
            ("first", names[0], "black", "o", "-"),
            ("second", names[1], _style.VERMILLION, "s", "--"),
        ):
            options: dict[str, Any] = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
            options["markersize"] = 0 if len(x) > 40 else 4
            good = np.isfinite(ds[side].values)
            value, stderr = ds[side].values[good], ds[f"{side}_stderr"].values[good]
            if len(x) == 1 or named:  # a band has no width, and nothing is between names
                options |= {"linestyle": "none"} if named else {}
                ax.errorbar(x[good], value, stderr, capsize=3, label=name, **options)
            else:
                _style.band(ax, x[good], value, stderr, label=name, **options)
        if dim == "s":
            _style.position_axis(ax)
        else:
            ax.set_xlabel(_style.label(ds[dim]))
        text = str(ds["first"].attrs.get("long_name", "")).removesuffix(", first")
        _style.value_axis(ax, ds["first"], text)
        _note(ax, ds)
        _style.legend(ax)
    return ax


def plot_relaxation_between(
    ds: xr.Dataset, ax: Axes | None = None, names: tuple[str, str] = ("first", "second")
) -> Axes:
    """Mean positions s(t) of both runs from the starts they share, with bands of one standard error: the dataset of
    `comparisons.relaxation.between`."""
    require("position_first" in ds, "relaxation", "a comparison of two relaxations", list(map(str, ds.data_vars)))
    with _style.style():
        ax = _style.axes(ax, height=4.2)
        colours = _style.sequence(ds.sizes["start"])
        time = ds["time"].values
        for i, start in enumerate(ds["start"].values):
            for side, line in (("first", "-"), ("second", "--")):
                value = ds[f"position_{side}"].isel(start=i).values
                stderr = ds[f"position_{side}_stderr"].isel(start=i).values
                text = f"s = {start:.2g}" if side == "first" else None
                _style.band(ax, time, value, stderr, color=colours[i], linestyle=line, label=text)
        for name, line in zip(names, ("-", "--"), strict=True):
            ax.plot([], [], color="0.3", linestyle=line, label=name)
        ax.set_xlim(time[0], time[-1])
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel(_style.label(ds["time"], "time t = step size × steps / (1 − momentum)"))
        ax.set_ylabel("position along the path, s")
        _note(ax, ds)
        _style.legend(ax)
    return ax


def plot_escape_between(ds: xr.Dataset, ax: Axes | None = None, names: tuple[str, str] = ("first", "second")) -> Axes:
    """Share that has not escaped, both runs (Kaplan–Meier, ± 1 s.e.), one colour for each value of a scan: the dataset
    of `comparisons.escape.between`."""
    require("survival_first" in ds, "escape", "a comparison of two escapes", list(map(str, ds.data_vars)))
    (dim,) = map(str, ds["rate_ratio"].dims)
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        colours = _style.sequence(ds.sizes[dim])
        for i, colour in enumerate(colours):
            one = ds.isel({dim: i})
            if dim != "point":
                ax.plot([], [], color=colour, label=f"{dim.replace('_', ' ')} {float(one[dim]):.3g}")
            for side, line in (("first", "-"), ("second", "--")):
                time, share = one["survival_time"].values, one[f"survival_{side}"].values
                stderr = one[f"survival_{side}_stderr"].values
                ax.step(time, share, where="post", color=colour, linestyle=line)
                ax.fill_between(time, share - stderr, share + stderr, step="post", color=colour, alpha=0.2, lw=0)
        for name, line in zip(names, ("-", "--"), strict=True):
            ax.plot([], [], color="0.3", linestyle=line, label=name)
        if dim == "point":
            value, low, high = (float(ds[f"rate_ratio{e}"][0]) for e in ("", "_low", "_high"))
            ax.plot([], [], " ", label=f"rates {number(value)} ({number(low)} … {number(high)})")
        ax.set_ylim(0, 1.03)
        ax.set_xlim(left=0)
        ax.set_xlabel(_style.label(ds["survival_time"], "time t"))
        ax.set_ylabel("share that has not escaped")
        _style.legend(ax)
    return ax


def _note(ax: Axes, ds: xr.Dataset) -> None:
    """χ² of the difference, as a line of the legend."""
    z = float(ds["overall_z"])
    if np.isfinite(z):
        text = f"χ² = {float(ds['chi_squared']):.1f} for {int(ds['degrees_of_freedom'])}, z = {max(z, 0.0):.1f}"
        ax.plot([], [], " ", label=text)
