from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.compare import compare
from entropy_sim.errors import UserError


@pytest.fixture(scope="module")
def runs(request):
    from tests.analysis import conftest as made

    network = made.MadeUpNetwork(force_noise=3e-6).tree()
    channel = made.MadeUpChannel().tree()
    return network, channel, compare([("sim", channel)], network)


CASES = {
    "path": (lambda n, c, t: plots.plot_path(n["path"].to_dataset()), "[10⁻³ loss]"),
    "loss": (lambda n, c, t: plots.plot_profile(n["profile"].to_dataset()), "[loss]"),
    "trace": (lambda n, c, t: plots.plot_profile(n["profile"].to_dataset(), "hessian_trace"), "[loss / parameter²]"),
    "eigenvalues": (
        lambda n, c, t: plots.plot_profile(n["profile"].to_dataset(), "hessian_eigenvalue"),
        "[loss / parameter²]",
    ),
    "force": (lambda n, c, t: plots.plot_mean_force(n["mean_force"].to_dataset()), "loss / parameter]"),
    "windows": (lambda n, c, t: plots.plot_mean_force_windows(n["mean_force"].to_dataset()), "loss / parameter]"),
    "comparison": (lambda n, c, t: plots.plot_force_comparison(t["mean_force/network"].to_dataset()), "parameter]"),
    "ratio": (lambda n, c, t: plots.plot_force_ratio(t["mean_force/network"].to_dataset()), "measured / predicted"),
    "potential": (
        lambda n, c, t: plots.plot_effective_potential(t["effective_potential/network"].to_dataset()),
        "loss]",
    ),
    "relaxation": (lambda n, c, t: plots.plot_relaxation(n["relaxation"].to_dataset()), "position along the path, s"),
    "simulated relaxation": (
        lambda n, c, t: plots.plot_relaxation(t["relaxation/sim"].to_dataset()),
        "position along the path, s",
    ),
    "density": (lambda n, c, t: plots.plot_stationary(t["stationary/sim"].to_dataset()), "stationary density of s"),
    "free energy": (
        lambda n, c, t: plots.plot_stationary(c["stationary"].to_dataset(), "free_energy"),
        "free energy [loss]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_plot_returns_axes_with_units_and_a_legend_that_is_not_cut_off(runs, name):
    draw, units = CASES[name]
    ax = draw(*runs)
    assert isinstance(ax, Axes)
    assert units in ax.get_ylabel().replace("\n", " ")
    assert ax.get_xlabel()
    figure = ax.figure
    figure.draw_without_rendering()
    legend = ax.get_legend()
    if legend is not None:
        box, page = legend.get_window_extent(), figure.bbox
        assert box.x1 <= page.x1
        assert box.y1 <= page.y1 + 1
        assert box.y0 >= ax.get_window_extent().y1 - 1  # above the data


def test_plots_compose_on_given_axes(runs):
    network = runs[0]
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.plot_mean_force(network["mean_force"].to_dataset(), ax=left) is left
    assert plots.plot_profile(network["profile"].to_dataset(), "hessian_trace", ax=right) is right
    assert len(figure.axes) == 2


def test_the_force_that_was_compared_is_the_one_drawn(runs):
    """The network's net of its control, the simulation's as it is (its predictions contain the energetic part)."""
    _, _, tree = runs
    for label, name, text in (("network", "net", "measured − control"), ("sim", "force", "measured")):
        ds = tree[f"mean_force/{label}"].to_dataset()
        ax = plots.plot_force_comparison(ds)
        drawn = next(c for c in ax.containers if c.get_label() == text)
        np.testing.assert_allclose(drawn[0].get_ydata(), ds[name])


def test_the_drawn_numbers_are_the_data(runs):
    network, _, _ = runs
    ax = plots.plot_profile(network["profile"].to_dataset(), "parameter_norm")
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(drawn["minimum-energy path"], network["profile"]["parameter_norm"].values[0])


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_a_file_is_drawn_group_by_group(runs, format, tmp_path):
    network, channel, _ = runs
    tree = network if format == "png" else channel.filter(lambda node: node.name in (None, "stationary"))
    written = plots.plot_file(tree, tmp_path, format=format)
    names = {p.stem for p in written}
    expected = {"path", "profile_loss", "mean_force", "mean_force_windows", "relaxation"}
    assert names >= (expected if format == "png" else {"stationary_density", "stationary_free_energy"})
    assert all(p.stat().st_size > 1000 and p.suffix == f".{format}" for p in written)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in written}


def test_a_variable_without_a_number_has_no_figure(runs, tmp_path):
    """A loss on real targets has no right answers, so no test error."""
    network, _, _ = runs
    profile = network["profile"].to_dataset()
    assert "test_error" in plots.panels(profile)
    profile["test_error"] = xr.full_like(profile["test_error"], np.nan)
    assert plots.panels(profile, ("loss", "test_error", "no_such_variable")) == ["loss"]
    tree = xr.DataTree.from_dict({"/profile": profile[["loss", "test_error"]]})
    names = {p.stem for p in plots.plot_file(tree, tmp_path)}
    assert names == {"profile_loss"}


@pytest.mark.slow
def test_a_given_valley_without_a_slope_is_not_drawn(runs, tmp_path):
    network, _, _ = runs
    flat = network["path"].to_dataset()  # the same loss from end to end
    hill = flat.assign(loss_between=flat["loss_between"] * (1.0 + flat["s"]))
    for ds, found_by, drawn in ((flat, "given", []), (flat, "autoneb", ["path"]), (hill, "given", ["path"])):
        tree = xr.DataTree.from_dict({"/path": ds.assign_attrs(found_by=found_by), "/profile": network["profile"]})
        names = {p.stem for p in plots.plot_file(tree, tmp_path)}
        assert [name for name in names if name == "path"] == drawn


def test_axis_labels_are_no_wider_than_their_axes(runs):
    network, _, _ = runs
    for draw in (plots.plot_mean_force, plots.plot_mean_force_windows):
        force = network["mean_force"].to_dataset()
        force["time_window"].attrs["units"] = "parameter^2 / loss"
        ax = draw(force)
        ax.figure.canvas.draw()
        assert ax.xaxis.label.get_window_extent().width <= ax.get_window_extent().width


def test_equal_data_give_equal_files(runs, tmp_path):
    network, _, _ = runs
    first, second = (plots.plot_mean_force(network["mean_force"].to_dataset()).figure for _ in range(2))
    one, two = plots.save(first, tmp_path / "a.png"), plots.save(second, tmp_path / "b.png")
    assert one.read_bytes() == two.read_bytes()


def test_a_density_of_nobody_is_drawn_empty(runs):
    density = runs[1]["stationary"].to_dataset()
    ax = plots.plot_stationary(density.assign(density=np.nan * density["density"]))
    assert "density" in ax.get_ylabel()


def test_mistakes_are_named(runs, tmp_path):
    network, channel, tree = runs
    with pytest.raises(UserError, match="variable: expected one of loss"):
        plots.plot_profile(network["profile"].to_dataset(), "los")
    with pytest.raises(UserError, match="density or free_energy"):
        plots.plot_stationary(channel["stationary"].to_dataset(), "p")
    empty = tree.filter(lambda node: node.name in (None, "table"))
    with pytest.raises(UserError, match="expected a measurement that can be drawn"):
        plots.plot_file(empty, tmp_path)


def test_every_window_of_the_force_has_the_error_of_its_replicas(runs):
    ds = runs[0]["mean_force"].to_dataset().drop_vars("mean_force_stderr")
    ax = plots.plot_mean_force_windows(ds)
    values = ds["mean_force"].values
    error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    for i, drawn in enumerate(ax.containers):
        (bars,) = drawn[2]
        heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
        np.testing.assert_allclose(heights, 2 * error[i], rtol=1e-6)
        np.testing.assert_allclose(drawn[0].get_ydata(), values[i].mean(0))


def test_the_ratio_s_axis_holds_every_interval_and_no_empty_half(runs):
    ds = runs[2]["mean_force/network"].to_dataset().copy(deep=True)
    for name, value in (("ratio", 12.0), ("ratio_low", 0.4), ("ratio_high", 45.0)):
        ds[name][:] = value
    low, high = plots.plot_force_ratio(ds).get_ylim()
    assert high > 45
    assert -0.5 < low < 0
    ds["ratio_low"][:] = -20.0
    assert plots.plot_force_ratio(ds).get_ylim()[0] < -20


def test_a_long_label_has_lines_of_even_length(runs):
    ds = runs[0]["profile"].to_dataset()
    ds["hessian_trace"].attrs["long_name"] = "norm-corrected Hessian trace, Σ ‖w‖² Tr H_ww"
    lines = plots.plot_profile(ds, "hessian_trace").get_ylabel().split("\n")
    assert lines[-1] == "[loss / parameter²]"
    assert len(lines) == 3
    assert min(map(len, lines[:2])) > 15
