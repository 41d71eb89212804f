"""Edge of stability: the entropic force over that of small steps, which diverges where the iteration does."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter

from analysis.plots import _style
from entropy_sim.errors import require


def plot_stability(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The ratio (± 1 s.e.) at every place and learning rate against ηk, on one curve, ``1 / (1 − ηk / 2(1+β))``, up to
    its divergence: the result of `analysis.stability.edge_of_stability`. Raises UserError for any other dataset."""
    require({"eta_k", "ratio", "exact"} <= set(ds.data_vars), "stability", "eta_k, ratio, exact", list(ds.data_vars))
    with _style.style():
        ax = _style.axes(ax)
        limit = float(ds.attrs["stability_limit"])
        ax.plot(ds["eta_k_fine"], ds["exact"], color=_style.VERMILLION, label="exact, 1 / (1 − ηk / 2(1+β))")
        rates = sorted(set(ds["rate"].values.tolist()))
        for colour, marker, rate in zip(_style.sequence(len(rates)), "osD^vPX*" * len(rates), rates, strict=False):
            one = ds.isel(point=(ds["rate"] == rate).values)
            ax.errorbar(
                one["eta_k"],
                one["ratio"],
                one["ratio_stderr"],
                fmt=marker,
                color=colour,
                markersize=4.5,
                capsize=2,
                label=f"η = {rate:.3g}",
            )
        ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        ax.axvline(limit, color="black", linewidth=1, linestyle=":", label=f"edge of stability, ηk = {limit:g}")
        ax.set_xlim(0, 1.03 * limit)
        if float(ds["ratio"].max()) > 5:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(_style.label(ds["eta_k"]))
        ax.set_ylabel("measured / small-step force")
        _style.legend(ax)
    return ax
