from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest

from analysis import plots
from entropy_sim import schema
from entropy_sim.errors import UserError
from entropy_sim.survival import exponential_rate, kaplan_meier, mean_time


def escapes(seed=0, mean=2.0, end=5.0, n=200):
    """An `escape` group of made-up exponential times, some censored."""
    waited = np.random.default_rng(seed).exponential(mean, n)
    time, event = np.minimum(waited, end), waited < end
    at = np.linspace(0.0, end, 201)
    share, stderr = kaplan_meier(time, event).at(at)
    found = mean_time(time, event)
    variables = {
        "replica": (("replica",), np.arange(n)),
        "first_passage_time": (("replica",), np.where(event, time, np.nan)),
        "escaped": (("replica",), event.astype(np.int8)),
        "rate": ((), exponential_rate(time, event).rate),
        "mean_first_passage_time": ((), found.mean),
        "mean_first_passage_time_stderr": ((), found.mean_stderr),
        "mean_first_passage_time_reduced": ((), mean),
        "diffusion_along_path": ((), 1.0 / mean),
        "survival_time": (("curve_point",), at),
        "survival": (("curve_point",), share),
        "survival_stderr": (("curve_point",), stderr),
    }
    return schema.make("escape", variables)


def scan(means=(1.0, 2.0, 4.0), parameter="temperature"):
    """The same at several values of a parameter; the diffusion is 1 / mean, so time × diffusion is 1."""
    import xarray as xr

    each = [escapes(i, mean, 5.0 * mean) for i, mean in enumerate(means)]
    values = xr.DataArray([1 / m for m in reversed(means)], dims=parameter, name=parameter)
    joined = xr.concat(each[::-1], values, data_vars="all", coords="minimal", compat="override")
    joined[parameter].attrs = {"units": "loss", "long_name": "temperature"}
    return joined


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_the_drawn_numbers_are_the_data():
    ds = escapes()
    ax = plots.plot_escape(ds)
    drawn = lines(ax)
    share = ds["survival"].values
    np.testing.assert_array_equal(drawn["measured (± 1 s.e.)"].get_ydata(), np.where(share > 0, share, np.nan))
    fitted = drawn["mean, reduced dynamics 2"]
    assert list(fitted.get_xdata()) == [2.0, 2.0]
    dashed = next(line for line in ax.get_lines() if line.get_linestyle() == "--" and len(line.get_xdata()) > 1)
    np.testing.assert_allclose(dashed.get_ydata(), np.exp(-float(ds["rate"]) * ds["survival_time"]))
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "time t [parameter² / loss]"
    mean = float(ds["mean_first_passage_time"])
    assert any(f"measured mean {mean:.1f}" in label for label in ax.get_legend_handles_labels()[1])


def test_a_short_run_fills_its_axis_and_says_that_its_mean_is_extrapolated():
    ds = escapes(mean=2.0, end=0.8)
    ax = plots.plot_escape(ds)
    bottom = ax.get_ylim()[0]
    assert 0.2 < bottom < min(np.exp(-1.0), float(ds["survival"].min()))
    ax.figure.canvas.draw()
    shown = [t.get_text() for t in ax.get_yticklabels() if bottom < t.get_position()[1] < 1.15]
    assert len(shown) >= 3
    assert "0.5" in shown
    censored = int((ds["escaped"] == 0).sum())
    assert any(f"({censored} censored: exponential tail)" in name for name in ax.get_legend_handles_labels()[1])
    everybody = plots.plot_escape(escapes(end=100.0))
    assert everybody.get_ylim()[0] == 0.5 / 200
    assert not any("censored" in name for name in everybody.get_legend_handles_labels()[1])


def test_curves_of_a_scan_are_drawn_against_time_times_diffusion():
    ds = scan()
    ax = plots.plot_escape(ds)
    assert "t D [parameter²]" in ax.get_xlabel()
    drawn = lines(ax)
    assert {"temperature 0.25", "temperature 0.5", "temperature 1"} <= set(drawn)
    np.testing.assert_allclose(drawn["temperature 0.25"].get_xdata()[-1], 20.0 / 4.0)
    colours = {matplotlib.colors.to_hex(drawn[f"temperature {t}"].get_color()) for t in ("0.25", "0.5", "1")}
    assert len(colours) == 3


def test_times_of_a_scan_beside_the_reduced_ones():
    ds = scan()
    ax = plots.plot_escape_times(ds)
    np.testing.assert_allclose(lines(ax)["reduced dynamics"].get_ydata(), 1.0)
    points = next(c for c in ax.containers if c.get_label().startswith("measured"))
    np.testing.assert_allclose(points[0].get_ydata(), ds["mean_first_passage_time"] * ds["diffusion_along_path"])
    assert ax.get_ylabel() == "mean first-passage time\n× diffusion [parameter²]"
    assert ax.get_xlabel() == "temperature [loss]"
    low, high = ax.get_ylim()
    assert low == 0.0
    assert high > points[0].get_ydata().max()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="escape: expected a scan over one parameter"):
        plots.plot_escape_times(escapes())
    with pytest.raises(UserError, match="escape: expected a variable survival"):
        plots.plot_escape(escapes().drop_vars("survival"))
