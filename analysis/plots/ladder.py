"""Ladder: measured over predicted force against the strength of the noise, and its limit at zero noise."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from analysis.agreement import plus_minus
from analysis.plots import _style
from entropy_sim.errors import require


def plot_ladder(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The ratio at every position (small) and over all of them (± 1 s.e.) against the noise, the fit with its band, and
    the limit at zero noise: the result of `analysis.ladder.extrapolate`. The fit's band is that of the limit.
    Raises UserError where no limit was determined."""
    require(
        "ratio_mean" in ds, "ladder", "a limit (see analysis.ladder.extrapolate)", ds.attrs.get("statement", "none")
    )
    with _style.style():
        ax = _style.axes(ax, height=4.0)
        x, limit = ds["noise"].values, float(ds["limit"])
        low, high = float(ds["limit_low"]), float(ds["limit_high"])
        colours = _style.sequence(ds.sizes["s"])
        for i, s in enumerate(ds["s"].values):
            ax.plot(x, ds["ratio"].isel(s=i), ".", color=colours[i], markersize=5, alpha=0.7, label=f"s = {s:.2g}")
        ax.errorbar(
            x,
            ds["ratio_mean"],
            ds["ratio_mean_stderr"],
            fmt="o",
            color="black",
            markersize=5,
            capsize=2.5,
            label="mean over s (± 1 s.e.)",
            zorder=5,
        )
        weight = np.nan_to_num(ds["weight"].values)
        fine = np.linspace(0.0, float(x.max()), 101)
        coefficients = (ds["coefficient"].values * weight).sum(-1)
        coefficients[0] = limit
        fit = sum(c * fine**j for j, c in enumerate(coefficients))
        ax.plot(fine, fit, color=_style.VERMILLION, zorder=4)
        ax.fill_between(fine, fit + low - limit, fit + high - limit, color=_style.VERMILLION, alpha=0.2, linewidth=0)
        label = f"limit {plus_minus(limit, 0.5 * (high - low))} (68 %)"
        bar = [[limit - low], [high - limit]]
        ax.errorbar(0.0, limit, bar, fmt="D", color=_style.VERMILLION, capsize=3, label=label, zorder=6, clip_on=False)
        ax.axhline(1, color="black", linewidth=1, linestyle="--", zorder=1)
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.set_xlim(0, 1.04 * float(x.max()))
        means = ds["ratio_mean"].values
        shown = np.concatenate([means, [0.0, 1.0, low, high]])
        inside = ds["ratio"].values[np.isfinite(ds["ratio"].values)]
        spread = np.clip(inside, shown.min() - 0.5, shown.max() + 0.5)
        ax.set_ylim(min(shown.min(), spread.min()) - 0.08, max(shown.max(), spread.max()) + 0.08)
        ax.set_xlabel("strength of the noise, η σ² / (B (1 − β))")
        if x.max() < 1e-2:
            ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=True)
        ax.set_ylabel("measured / predicted force")
        _style.legend(ax)
    return ax
