from __future__ import annotations

import numpy as np

from analysis import plots


def test_the_null_control_is_drawn(network):
    ds = network().relaxation()
    null = ds["start"].values[:, None] + 0.01 * np.ones(ds.sizes["time"])
    ds["position_null"] = (("start", "time"), null)
    ds["position_null_stderr"] = (("start", "time"), 0.001 + 0 * null)
    ax = plots.plot_relaxation(ds)
    assert "null control" in ax.get_legend_handles_labels()[1]
    dotted = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    np.testing.assert_allclose([line.get_ydata() for line in dotted], null)


def test_a_simulation_s_relaxation_is_drawn_with_its_prediction(channel, tmp_path):
    """Its comparison with theory has a dimension more."""
    written = plots.plot_file(channel(groups=("profile", "relaxation")).tree(), tmp_path)
    assert "relaxation" in {p.stem for p in written}


def test_walkers_that_have_all_diverged_are_said_to_have(network):
    ds = network().relaxation()
    assert not plots.plot_relaxation(ds).texts
    gone = ds.assign(position=ds["position"].where(ds["time"] == 0), diverged=1 + 0 * ds["diverged"])
    assert [t.get_text() for t in plots.plot_relaxation(gone).texts] == ["all walkers have diverged"]
