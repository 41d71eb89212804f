from __future__ import annotations

import numpy as np
import pytest

from analysis.compare import compare
from analysis.comparisons import effective_potential, escape, mean_force, profile, relaxation
from analysis.plots import plot_between, plot_escape_between, plot_file, plot_relaxation_between
from analysis.report import write_figures
from entropy_sim import Channel, Escape, Overdamped, Thermal
from entropy_sim.errors import UserError


def test_both_runs_are_drawn_with_their_values_units_and_names(channel):
    found = mean_force.between(channel(seed=1).mean_force(), channel(seed=2).mean_force())
    ax = plot_between(found, names=("network", "twin"))
    said = sorted(text.get_text() for text in ax.get_legend().get_texts())
    assert said[:2] == ["network", "twin"]
    assert said[2].startswith("χ² = ")
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 9]
    np.testing.assert_allclose(lines[0].get_ydata(), found["first"])
    np.testing.assert_allclose(lines[1].get_ydata(), found["second"])
    assert ax.get_ylabel() == "mean force along +s [loss / parameter]"
    potential, _ = effective_potential.between(found, 2.0)
    assert plot_between(potential, ax=ax) is ax
    assert plot_between(profile.between(channel().profile(), channel(rise=3.0).profile(), "hessian_trace"))
    with pytest.raises(UserError, match="between: expected a comparison of two runs"):
        plot_between(channel().mean_force())


def test_relaxations_and_escapes_are_drawn_for_both(channel):
    one = relaxation.between(channel(seed=1).relaxation(), channel(seed=2).relaxation())
    ax = plot_relaxation_between(one, names=("a", "b"))
    assert len([line for line in ax.get_lines() if len(line.get_xdata()) == 16]) == 8
    runs = [Escape(Channel(), Thermal(0.3), Overdamped(), replicas=32, duration=20.0, seed=i).run() for i in (1, 2)]
    ax = plot_escape_between(escape.between(*(r["escape"].to_dataset() for r in runs)))
    assert ax.get_ylabel() == "share that has not escaped"
    assert any(t.get_text().startswith("rates ") for t in ax.get_legend().get_texts())


def test_a_comparison_s_pairs_are_in_its_figures_and_in_the_report(channel, tmp_path):
    groups = ("mean_force", "relaxation")
    runs = [(name, channel(seed=i, groups=groups).tree()) for i, name in enumerate("ab")]
    tree = compare(runs)
    names = {p.stem for p in plot_file(tree, tmp_path, "svg")}
    assert {"between_relaxation_a_and_b", "between_effective_potential_a_and_b"} <= names
    figures = write_figures(tmp_path, runs, None, tree, formats=("png",))
    captions = {f.path.stem: f.caption for f in figures}
    assert "They agree (z = " in captions["a_relaxation_and_b"]
    assert "a/b = " in captions["a_effective_potential_and_b"]
