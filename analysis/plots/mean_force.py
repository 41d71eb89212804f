"""Mean force: the force along the path, its control, its plateau in time, and what theory predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis import summaries
from analysis.plots import _style


def plot_mean_force(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The mean force along +s with its noise-free control: a `mean_force` group of a run, or of a comparison."""
    with _style.style():
        ax = _style.axes(ax)
        summary = ds if "force" in ds else summaries.mean_force(ds)
        s = summary["s"].values
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        bars: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "capsize": 2.5, "linestyle": "-", "linewidth": 1.2}
        ax.errorbar(
            s, summary["force"], summary["force_stderr"], color=_style.BLUE, label="with noise (± 1 s.e.)", **bars
        )
        if "control" in summary:
            bars |= {"fmt": "s", "linestyle": "--"}
            ax.errorbar(
                s,
                summary["control"],
                summary["control_stderr"],
                color=_style.VERMILLION,
                label="without noise (control)",
                **bars,
            )
        _style.position_axis(ax)
        _style.value_axis(ax, summary["force"])
        _style.legend(ax)
    return ax


def plot_mean_force_windows(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The force in each time window (replicas averaged, ± 1 s.e.), one line per s: the plateau, or the lack of one."""
    with _style.style():
        ax = _style.axes(ax)
        count = ds.sizes["time_window"]
        each = [summaries.mean_force(ds.isel(time_window=[i])) for i in range(count)]
        value, stderr = (np.stack([one[n].values for one in each]) for n in ("force", "force_stderr"))
        time = ds["time_window"].values.astype(float)
        apart = 0.008 * np.ptp(time)  # side by side, so that no bar hides another
        colours = _style.sequence(ds.sizes["s"])
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        for i, s in enumerate(ds["s"].values):
            at = time + apart * (i - 0.5 * (ds.sizes["s"] - 1))
            bars: dict[str, Any] = {"marker": "o", "markersize": 3.5, "elinewidth": 1.0, "capsize": 2}
            ax.errorbar(at, value[:, i], stderr[:, i], color=colours[i], label=f"s = {s:.2g}", **bars)
        # In two lines: one is wider than the figure.
        ax.set_xlabel(
            _style.label(ds["time_window"], "middle of the time window,\nt = step size × steps / (1 − momentum)")
        )
        _style.value_axis(ax, ds["mean_force"])
        _style.legend(ax)
    return ax


def plot_force_comparison(ds: xr.Dataset, ax: Axes | None = None, forms: tuple[str, ...] | None = None) -> Axes:
    """The force that was compared (attribute `compared`: net of the control, or as it is) with every prediction: a
    comparison's `mean_force/<label>`. forms: which predictions (default: all)."""
    with _style.style():
        chosen = list(forms or (map(str, ds["form"].values) if "form" in ds.dims else ()))
        ax = _style.axes(ax, height=4.2 + 0.18 * max(len(chosen) - 4, 0))  # a line of the legend for each
        s = ds["s"].values
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        compared = str(ds.attrs.get("compared", "net"))
        name = "measured − control" if compared == "net" and "control" in ds else "measured"
        ax.errorbar(
            s,
            ds[compared].values,
            ds[f"{compared}_stderr"].values,
            fmt="o",
            color="black",
            markersize=4.5,
            capsize=2.5,
            label=name,
            zorder=5,
        )
        from analysis.agreement import plus_minus  # scipy, which other figures do without

        for i, form in enumerate(chosen):
            one = ds.sel(form=form)
            good = np.isfinite(one["predicted"].values)
            if not good.any():
                continue
            ratio, low, high = (float(one[f"overall_ratio{e}"]) for e in ("", "_low", "_high"))
            note = f" (measured/predicted {plus_minus(ratio, 0.5 * (high - low))})" if np.isfinite(high - low) else ""
            _style.band(
                ax,
                s,
                one["predicted"].values,
                one["predicted_stderr"].values,
                marker=".",
                color=_style.COLOURS[i % len(_style.COLOURS)],
                linestyle=_style.DASHES[i % len(_style.DASHES)],
                label=f"{form}{note}",
            )
        _style.position_axis(ax)
        _style.value_axis(ax, ds["net"], "mean force along +s")
        _style.legend(ax)
    return ax


def plot_force_ratio(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """measured / predicted at every s and form with 68 % intervals, beyond −3 … 6 on a logarithmic axis: a
    comparison's `mean_force/<label>`. Points whose interval is unbounded are left out."""
    with _style.style():
        forms = list(map(str, ds["form"].values))
        ax = _style.axes(ax, height=3.8 + 0.18 * max(len(forms) - 4, 0))
        ax.axhline(1, color="black", linewidth=1, label="agreement")
        shift, shown = 0.008, [0.0, 1.0]
        for i, form in enumerate(forms):
            one = ds.sel(form=form)
            ratio, low, high = (one[n].values for n in ("ratio", "ratio_low", "ratio_high"))
            good = np.isfinite(ratio) & np.isfinite(low) & np.isfinite(high)
            if not good.any():
                continue
            shown += [low[good].min(), high[good].max()]
            bars = np.abs(np.stack([ratio - low, high - ratio])[:, good])
            at = ds["s"].values[good] + shift * (i - (len(forms) - 1) / 2)
            ax.errorbar(
                at,
                ratio[good],
                bars,
                fmt="osD^vP"[i % 6],
                markersize=4,
                capsize=2,
                color=_style.COLOURS[i % len(_style.COLOURS)],
                label=form,
            )
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        if min(shown) < -3 or max(shown) > 6:
            ax.set_yscale("symlog", linthresh=1.0)
            steps = [m * 10.0**p for p in range(int(np.log10(max(map(abs, shown)))) + 1) for m in (1, 3)]
            ax.set_yticks([*[-v for v in steps if min(shown) < 0][::-1], 0.0, *steps])
            ax.yaxis.set_major_formatter("{x:g}")
            least = float(np.min(shown))
            ax.set_ylim(1.3 * least if least < -1 else least - 0.3, 1.3 * float(np.max(shown)))
        _style.position_axis(ax)
        ax.set_ylabel("measured / predicted")
        _style.legend(ax)
    return ax
