from __future__ import annotations

import numpy as np
import pytest

from analysis import plots
from analysis.agreement import number
from analysis.barriers import vanishing
from entropy_sim.errors import UserError
from tests.analysis.test_barriers import K, shared


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def drawn(ax, text):
    return next(c for c in ax.containers if c.get_label().startswith(text))


def test_crossings_lie_on_the_threshold_with_their_intervals():
    ds = vanishing(shared(replicas=40))
    ax = plots.plot_vanishing(ds)
    curves = {line.get_label().split(" ")[0]: line for line in ax.get_lines()}
    for kind in ("energetic", "entropic"):
        one = ds.sel(kind=kind)
        np.testing.assert_allclose(curves[kind].get_ydata(), one["height"] / one["height"][0])
        point, _, (bar,) = drawn(ax, f"vanishes at {number(float(one['crossing']))}")
        assert point.get_xdata()[0] == pytest.approx(float(one["crossing"]))
        assert point.get_ydata()[0] == pytest.approx(0.1)
        (ends,) = bar.get_segments()
        np.testing.assert_allclose(ends[:, 0], [float(one["crossing_low"]), float(one["crossing_high"])])
    assert ax.get_ylabel() == "barrier / its first height"


def test_a_barrier_that_stays_or_is_not_there_is_told():
    stays = plots.plot_vanishing(vanishing(shared((80.0, 1e5))))
    assert any(text.startswith("does not vanish in the scan") for text in labels(stays))
    assert stays.get_xlim()[1] < 1.05 * K[-1]
    one = shared(sizes=(1.0, 1e-9)).assign(entropic_barrier_stderr=shared()["energy_barrier_stderr"])
    none = plots.plot_vanishing(vanishing(one))
    assert "no entropic barrier established at the first value" in labels(none)
    assert none.get_ylabel() == "barrier [loss]"
    assert plots.plot_vanishing(vanishing(shared(), threshold=0.05)).get_ylabel() == "barrier [loss]"
    with pytest.raises(UserError, match=r"vanishing: expected a result of barriers\.vanishing"):
        plots.plot_vanishing(shared())


def test_a_run_and_its_comparison_draw_it(network, tmp_path):
    from analysis.compare import compare

    tree = network(groups=("path",)).tree()
    tree["barrier"] = shared()
    assert "vanishing" in {p.stem for p in plots.plot_file(tree, tmp_path / "run")}
    assert "vanishing_network" in {p.stem for p in plots.plot_file(compare([], tree), tmp_path / "both")}
