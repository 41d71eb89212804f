"""Escape: who is still there against time, and the mean first-passage time against a scanned parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from analysis.plots import _style
from entropy_sim.errors import require


def scanned(ds: xr.Dataset) -> str | None:
    """The one dimension over which an `escape` or a `barrier` was scanned, if there is one."""
    main = ds["rate" if "rate" in ds else "entropic_barrier"]
    return str(main.dims[0]) if main.ndim == 1 else None


def plot_escape(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Share of replicas that have not escaped (Kaplan-Meier, ± 1 s.e.) against time, on a logarithmic axis, where an
    exponential is straight: an `escape` group, with the maximum-likelihood exponential and the mean first-passage time
    of the reduced dynamics. One curve for each value of a scan. Raises UserError where nothing was observed."""
    require(
        "survival" in ds, "escape", "a variable survival (not every replica diverged)", list(map(str, ds.data_vars))
    )
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        scan = scanned(ds)
        each = [ds] if scan is None else [ds.isel({scan: i}) for i in range(ds.sizes[scan])]
        colours = [_style.BLUE] if scan is None else _style.sequence(len(each))
        unit = _clock(ds, scan)
        for one, colour in zip(each, colours, strict=True):
            scale = 1.0 if unit is None else float(one["diffusion_along_path"])
            time, share = one["survival_time"].values * scale, one["survival"].values
            stderr = one["survival_stderr"].values
            name = "measured (± 1 s.e.)" if scan is None else f"{scan.replace('_', ' ')} {float(one[scan]):.3g}"
            left = np.where(share > 0, share, np.nan)
            ax.step(time, left, where="post", color=colour, label=name, zorder=3)
            band = np.where(share > 0, share - stderr, np.nan), np.where(share > 0, share + stderr, np.nan)
            ax.fill_between(time, *band, step="post", color=colour, alpha=0.2, linewidth=0)
            fitted = np.exp(-float(one["rate"]) * time / scale)
            ax.plot(time, fitted, color=_style.ORANGE if scan is None else colour, linestyle="--", lw=1.2)
        shade = _style.ORANGE if scan is None else "0.3"
        ax.plot([], [], color=shade, linestyle="--", lw=1.2, label="exponential of the maximum-likelihood rate")
        if scan is None:
            _means(ax, ds)
        # Down to the lowest share seen, but at least past 1/e, where the means are: many are censored in a short run.
        shares = ds["survival"].values
        least = 0.5 / ds.sizes["replica"]
        ax.set_yscale("log")
        ax.set_ylim(max(least, min(0.25, 0.5 * float(np.nanmin(shares)))), 1.15)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        if ax.get_ylim()[0] > 0.1:
            ax.yaxis.set_major_locator(FixedLocator([0.2, 0.3, 0.4, 0.5, 0.7, 1.0]))
        ax.set_xlim(left=0.0)
        name = "time t" if unit is None else "time × diffusion along the path, t D"
        units = _style.label(ds["survival_time"], name)
        ax.set_xlabel(units if unit is None else f"{name} [{unit}]")
        ax.set_ylabel("share that has not escaped")
        _style.legend(ax)
    return ax


def _means(ax: Axes, ds: xr.Dataset) -> None:
    """The means at the height 1/e, where an exponential passes through its own, with their values."""
    mean, stderr = float(ds["mean_first_passage_time"]), float(ds["mean_first_passage_time_stderr"])
    if np.isfinite(mean):
        options: dict[str, Any] = {"fmt": "o", "color": "black", "markersize": 5, "capsize": 3, "zorder": 6}
        censored = int((ds["escaped"] == 0).sum()) - int((ds["diverged"] > 0).sum() if "diverged" in ds else 0)
        tail = f" ({censored} censored: exponential tail)" if censored else ""
        from analysis.agreement import plus_minus  # scipy, which other figures do without

        label = f"measured mean {plus_minus(mean, stderr)}{tail}"
        ax.errorbar(mean, np.exp(-1.0), xerr=stderr, label=label, **options)
    if "mean_first_passage_time_reduced" in ds:
        reduced = float(ds["mean_first_passage_time_reduced"])
        ax.axvline(reduced, color=_style.VERMILLION, linestyle=":", label=f"mean, reduced dynamics {reduced:.3g}")


def _clock(ds: xr.Dataset, scan: str | None) -> str | None:
    """The units of time × diffusion, parameter², for a scan of what sets the diffusion; else None: plain time."""
    moved = scan in ("temperature", "along_path", "learning_rate") and "diffusion_along_path" in ds
    return "parameter²" if moved else None


def plot_escape_times(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean first-passage time times the diffusion along the path (± 1 s.e.) against the scanned parameter, beside the
    reduced dynamics': flat against the temperature for an entropic barrier, exponential in 1/T for an energetic one.
    Raises UserError for an `escape` group that was not scanned."""
    scan = scanned(ds)
    require(scan is not None, "escape", "a scan over one parameter", list(map(str, ds.dims)))
    with _style.style():
        ax = _style.axes(ax)
        x = ds[scan].values
        time, stderr = ds["mean_first_passage_time"].values, ds["mean_first_passage_time_stderr"].values
        factor = ds["diffusion_along_path"].values if "diffusion_along_path" in ds else np.ones(x.size)
        shown = (time * factor)[np.isfinite(time)]
        if "mean_first_passage_time_reduced" in ds:
            reduced = ds["mean_first_passage_time_reduced"].values * factor
            shown = np.append(shown, reduced[np.isfinite(reduced)])
            ax.plot(x, reduced, "-D", color=_style.VERMILLION, markerfacecolor="white", label="reduced dynamics")
        ax.errorbar(
            x,
            time * factor,
            stderr * factor,
            fmt="o",
            color="black",
            capsize=2.5,
            label="measured (± 1 s.e.)",
            zorder=5,
        )
        if x.size > 1 and x.max() > 8 * x.min():
            ax.set_xscale("log")
        if shown.size and shown.min() > 0 and shown.max() > 5 * shown.min():
            ax.set_yscale("log")
        else:
            ax.set_ylim(0.0, 1.15 * shown.max(initial=0.0) or None)
        ax.set_xlabel(_style.label(ds[scan]))
        times = "diffusion_along_path" in ds
        ax.set_ylabel(
            "mean first-passage time\n× diffusion [parameter²]"
            if times
            else _style.label(ds["mean_first_passage_time"])
        )
        _style.legend(ax)
    return ax
