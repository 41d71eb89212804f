from __future__ import annotations

import numpy as np
import pytest

from analysis import plots
from entropy_sim.errors import UserError


def test_convergence_of_the_search(network, tmp_path):
    path = network().path()
    path.attrs |= {"highest_loss_per_cycle": [1.4, 0.08, 0.02], "pivots_per_cycle": [7, 9, 9], "converged": 0}
    ax = plots.plot_path_convergence(path)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [1.4, 0.08, 0.02])
    assert [t.get_text() for t in ax.texts] == ["7 points", "9 points", "9 points"]
    assert "its criterion was not met" in ax.get_legend_handles_labels()[1]
    tree = network(groups=("path",)).tree()
    tree["path"] = path
    assert "path_convergence" in {p.stem for p in plots.plot_file(tree, tmp_path)}
    with pytest.raises(UserError, match="path: expected an attribute highest_loss_per_cycle of 2 or more, found 0"):
        plots.plot_path_convergence(network().path())


def test_the_last_step_ends_level(network):
    """Nothing comes after the last point: its own loss, which a finder stores there, is no step down."""
    path = network().path()
    path["loss_between"][:] = np.linspace(0.002, 0.02, 13)
    (line,) = (line for line in plots.plot_path(path).get_lines() if line.get_marker() == "None")
    np.testing.assert_array_equal(line.get_ydata()[-2:], [path["loss_between"].values[-2]] * 2)
