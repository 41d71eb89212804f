"""The loss on the plane: what is drawn is what was measured, both axes alike; its caption."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from analysis import plots
from analysis.plots._further import further_figures
from analysis.runs import concatenated
from entropy_sim import schema
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree

REFERENCE = Path(__file__).parents[3] / "data" / "reference" / "quick_network.nc"


def plane(loss) -> xr.Dataset:
    x, y = np.linspace(-1, 5, 7), np.linspace(-1, 3, 5)
    variables = {
        "plane_x": (("plane_x",), x),
        "plane_y": (("plane_y",), y),
        "s": (("s",), np.array([0.0, 0.5, 1.0])),
        "loss": (("plane_y", "plane_x"), loss(x[None, :], y[:, None])),
        "path_x": (("s",), np.array([0.0, 2.0, 4.0])),
        "path_y": (("s",), np.array([0.0, 2.0, 0.0])),
        "path_distance": (("s",), np.array([0.0, 0.7, 0.0])),
        "path_loss": (("s",), np.array([0.01, 0.05, 0.02])),
        "path_loss_projected": (("s",), np.array([0.01, 0.3, 0.02])),
    }
    return schema.make("plane", variables, {"minima_distance": 4.0, "spanned_by": "the minima and something else"})


def hill(x, y):
    """A ridge between (0, 0) and (4, 0), highest on the line; far outside higher still."""
    return 0.01 + 2.0 * np.exp(-((x - 2.0) ** 2) - y**2) + 5.0 * ((x < 0) | (x > 4))


def test_path_and_line_are_drawn_where_they_are_on_one_scale():
    ds = plane(hill)
    ax = plots.plot_plane(ds)
    assert ax.get_aspect() == 1.0
    assert ax.get_xlabel() == "along the straight line between the minima [parameter]"
    assert "[parameter]" in ax.get_ylabel()
    lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["straight line"], [[0, 0], [4, 0]])
    np.testing.assert_array_equal(lines["minima"], [[0, 0], [4, 0]])
    drawn = [line.get_xydata() for line in ax.get_lines() if len(line.get_xydata()) == 3]
    np.testing.assert_array_equal(drawn[0], [[0, 0], [2, 2], [4, 0]])


def test_points_of_the_path_are_filled_with_their_own_loss_on_the_scale_of_the_contours():
    ds = plane(hill)
    ax = plots.plot_plane(ds)
    (contours,) = [c for c in ax.collections if c.get_array() is not None and len(c.levels) > 20]
    assert isinstance(contours.norm, mpl.colors.LogNorm)
    points = [line for line in ax.get_lines() if line.get_marker() == "o" and len(line.get_xydata()) == 1]
    wanted = [mpl.colormaps["cividis"](contours.norm(v)) for v in ds["path_loss"].values]
    assert [p.get_markerfacecolor() for p in points] == wanted
    # The whole range is filled, the highest value itself too.
    assert contours.levels[0] <= float(ds["loss"].min())
    assert contours.levels[-1] > float(ds["loss"].max())


def test_what_is_not_finite_or_not_positive_is_drawn_all_the_same():
    def diverging(x, y):
        return np.where((x > 4) & (y > 2), np.inf, hill(x, y))

    assert plots.plot_plane(plane(diverging)).collections
    signed = plots.plot_plane(plane(lambda x, y: hill(x, y) - 1.0))
    assert not isinstance(signed.collections[0].norm, mpl.colors.LogNorm)
    assert plots.plot_plane(plane(lambda x, y: 0.3 + 0 * x * y)).collections
    with pytest.raises(UserError, match="plane: expected a finite loss somewhere, found 'none'"):
        plots.plot_plane(plane(lambda x, y: np.nan * x * y))


def test_the_caption_holds_the_line_the_path_and_what_lies_beneath_it():
    tree = xr.DataTree.from_dict({"/plane": plane(hill)})
    ((name, _, caption, alt),) = further_figures("network", tree, xr.DataTree())
    assert name == "plane"
    assert alt
    # 2.01 on the line at x = 2; the 5 beyond the minima is not between them.
    assert caption == (
        "Loss on the plane through the minima and something else: up to 2.01 on the straight line, 0.0500 at the "
        "points of the path. The minima are 4.00 apart; the path leaves the plane by up to 0.700, and beneath it, in "
        "the plane, the loss is up to 0.300."
    )


def test_the_plane_of_the_committed_run_is_that_of_its_path_and_profile():
    """Measured on the same minima: same arc length, and the loss of the ends and of the line's middle."""
    tree = read_tree(REFERENCE)
    found, profile = tree["plane"].to_dataset(), tree["profile"].to_dataset()
    np.testing.assert_array_equal(found["s"], tree["path"]["s"])
    assert found.attrs["arc_length"] == pytest.approx(float(tree["path"]["arc_length"][-1]))
    length = found.attrs["minima_distance"]
    for x, s in ((0.0, 0.0), (0.5 * length, 0.5), (length, 1.0)):
        at = float(found["loss"].sel(plane_x=x, plane_y=0.0, method="nearest"))
        assert at == pytest.approx(float(profile["loss"].sel(path_kind="line", s=s)), rel=1e-4)
    assert found["path_loss"].max() < 0.02 < 0.1 < found["path_loss_projected"].max()


def test_runs_that_are_combined_keep_the_first_plane():
    """Each pair of minima has coordinates of its own."""

    def run(seed: int, factor: float) -> tuple[str, xr.DataTree]:
        ds = plane(hill)
        tree = xr.DataTree.from_dict({"/plane": ds.assign_coords(plane_x=ds["plane_x"] * factor)})
        tree.attrs["config"] = f'{{"seed": {seed}}}'
        return f"run {seed}", tree

    both = concatenated([run(1, 1.0), run(2, 1.1)])
    assert both["plane"].attrs["plane_of"] == "run 1"
    np.testing.assert_array_equal(both["plane"]["plane_x"], np.linspace(-1, 5, 7))
