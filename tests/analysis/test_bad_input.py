"""Bad input gives one line or an honest "not determined", never a wrong number."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr

from analysis import agreement, cli, report, summaries
from analysis.compare import compare
from analysis.comparisons import all_between, effective_potential, mean_force, relaxation
from analysis.ladder import extrapolate
from analysis.plots import plot_between, plot_ladder
from analysis.predict import path_profile, predict_network
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree, write_tree
from tests.analysis.test_ladder import made_up

PRECISE = {"profile_noise": 0.02, "force_noise": 3e-6, "learning_rate": 0.002, "rise": 3.0}


def verdicts(first, second):
    _, rows = all_between("a and b", first, second)
    assert all("\n" not in r.statement for r in rows)
    return {r.quantity: r for r in rows}


def changed(tree, group, change):
    dataset = tree[group].to_dataset().copy(deep=True)
    tree[group] = change(dataset)
    return tree


def test_a_path_with_two_points(network):
    """No slope, no barrier: said so, by prediction, potential and comparison alike."""
    tree = network(**PRECISE).tree()
    changed(tree, "profile", lambda p: p.isel(s=[0, -1]))
    changed(tree, "path", lambda p: p.isel(s=[0, -1]))
    changed(tree, "mean_force", lambda p: p.isel(s=[0, -1]))
    table = {r.quantity: r for r in agreement.rows(compare([], tree)["table"].to_dataset())}
    assert table["prediction"].statement.startswith("not determined: profile/s: expected at least 3 points")
    assert table["entropic barrier"].verdict == "not determined"
    found = verdicts(tree, network(**PRECISE, seed=3).tree())
    assert found["effective potential"].statement == (
        "not determined: mean_force: expected at least 3 places where both forces are known, found 2"
    )
    with pytest.raises(UserError, match="at least 3 points along the path, found 2"):
        predict_network(tree["profile"].to_dataset(), arc_length=20.0, learning_rate=0.1)


def test_zero_variance_on_both_sides_is_not_determined(channel):
    """Without errors a difference has no z, however large; with the error of one side it has."""
    one, two = channel(seed=1).tree(), channel(seed=2, force_factor=2.0).tree()
    for tree in (one, two):
        changed(tree, "mean_force", lambda f: f.assign(mean_force_stderr=0 * f["mean_force_stderr"]).isel(replica=[0]))
    found = verdicts(one, two)
    assert found["mean force"].verdict == "not determined"
    assert np.isnan(found["mean force"].p_value)
    whole = channel(seed=2, force_factor=2.0).tree()
    assert verdicts(one, whole)["mean force"].verdict == "disagrees"


def test_all_replicas_diverged(network):
    one, gone = network(**PRECISE).tree(), network(**PRECISE, seed=2).tree()
    changed(gone, "mean_force", lambda f: f.assign(diverged=xr.ones_like(f["diverged"])))
    changed(gone, "relaxation", lambda f: f.assign(diverged=xr.ones_like(f["diverged"])))
    found = verdicts(one, gone)
    for name in ("mean force", "displacement"):
        assert found[name].verdict == "not determined", name
        assert np.isnan(found[name].ratio)
    assert found["effective potential"].verdict == "not determined"


def test_a_nan_in_the_middle_is_left_out_and_never_bridged(network):
    """The place itself has no difference, the others keep theirs; a spline over the gap of the finer grid has none."""
    one, holed = network(**PRECISE).tree(), network(**PRECISE, seed=2).tree()

    def hole(f):
        f["mean_force"][4] = np.nan
        return f

    changed(holed, "mean_force", hole)
    found = mean_force.between(one["mean_force"].to_dataset(), holed["mean_force"].to_dataset())
    np.testing.assert_array_equal(np.isnan(found["difference"]), np.arange(9) == 4)
    assert int(found["degrees_of_freedom"]) == 8
    whole = mean_force.between(one["mean_force"].to_dataset(), network(**PRECISE, seed=2).mean_force())
    keep = np.arange(9) != 4
    np.testing.assert_allclose(found["z"][keep], whole["z"][keep], rtol=0.2)
    potential, _ = effective_potential.between(found, 20.0)
    assert potential.sizes["s"] == 8
    assert plot_between(potential).get_lines()


def test_a_nan_in_the_middle_of_one_replica_s_curve(network):
    one = network(**PRECISE).relaxation()
    one["position"][0, 1, 0, 10] = np.nan
    found = relaxation.between(one, network(**PRECISE, seed=2).relaxation())
    assert np.isfinite(found["difference"]).all()
    summary = summaries.relaxation(one)
    assert np.isnan(summary["position_stderr"][0, 1, 10])  # one replica is left, and says nothing of the spread


def test_mismatched_measurements_are_one_line_each(network, channel):
    found = verdicts(network(**PRECISE).tree(), channel().tree())
    force = found["mean force"].statement
    assert force.startswith("not determined: arc_length: expected paths of the same length, found 20 and 2 ")
    apart = [("a", channel(groups=("stationary", "profile")).tree()), ("b", channel(groups=("mean_force",)).tree())]
    assert "between" not in compare(apart).children
    with pytest.raises(UserError, match="path_kind: expected one of neb, line, found 'spline'"):
        path_profile(network().profile(), "spline")


def test_a_ladder_that_determines_nothing_draws_nothing():
    still = extrapolate(made_up(error=0.0, prediction_error=0.0))
    assert np.isnan(still["limit"])
    with pytest.raises(UserError, match=r"ladder: expected a limit .*, found .*no spread"):
        plot_ladder(still)


# --- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Writes runs, compares their files on the command line without drawing, and gives the exit status, the statements
    of the table by (run, measurement, quantity), and what stands on stderr. Warnings are errors."""
    monkeypatch.setattr(report, "write_figures", lambda *args: [])
    monkeypatch.setattr(report, "write_report", lambda *args, **options: None)

    def command(*trees, files=()):
        paths = [str(write_tree(t, tmp_path / f"{i}" / "run.nc", check=False)) for i, t in enumerate(trees)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status = cli.main(["compare", *paths, *map(str, files), "--out", str(tmp_path / "out"), "--overwrite"])
        captured = capsys.readouterr()
        assert captured.err.count("\n") <= 1
        assert "Traceback" not in captured.err
        lines = {}
        if status == 0:
            table = agreement.rows(read_tree(tmp_path / "out" / "comparison.nc")["table"].to_dataset())
            lines = {(r.run, r.measurement, r.quantity): r.statement for r in table}
            assert all(f"{r.quantity}: {r.statement}" in captured.out for r in table)
        return status, lines, captured.err

    return command


def seeded(tree, seed, **more):
    tree.attrs["config"] = json.dumps({**json.loads(tree.attrs["config"]), "seed": seed, **more})
    return tree


def test_two_points_say_nothing_of_a_middle_a_slope_or_a_barrier(said, network, channel):
    tree = network(**PRECISE).tree()
    for group in ("profile", "path", "mean_force"):
        changed(tree, group, lambda d: d.isel(s=[0, -1]))
    status, lines, _ = said(tree)
    assert status == 0
    rise = next(v for k, v in lines.items() if k[2].startswith("Tr H"))
    assert rise == "not determined: no point in the middle of the path"
    simulation = channel().tree()
    for group in ("profile", "mean_force"):
        changed(simulation, group, lambda d: d.isel(s=[0, -1]))
    _, lines, _ = said(simulation)
    for measurement in ("mean_force", "stationary", "relaxation"):
        assert lines["run", measurement, "prediction"].startswith(
            "not determined: profile/s: expected at least 9 points along the path, found 2"
        )


def test_forces_without_errors_on_the_command_line(said, network):
    tree = network(**PRECISE).tree()
    changed(tree, "mean_force", lambda f: f.assign(mean_force_stderr=0 * f["mean_force_stderr"]).isel(replica=[0]))
    changed(tree, "relaxation", lambda r: r.isel(replica=[0]))
    _, lines, _ = said(tree)
    force = {k[2]: v for k, v in lines.items() if k[1] == "mean_force"}
    assert all(v.startswith("not determined") for v in force.values())
    barrier = lines["network", "effective_potential", "entropic barrier"]
    assert barrier.endswith("the error is the quadrature's alone: the forces state none")


@pytest.mark.parametrize("values", [1.0, np.nan])
def test_all_replicas_diverged_on_the_command_line(said, network, values):
    tree = network(**PRECISE).tree()
    changed(
        tree,
        "mean_force",
        lambda f: f.assign(diverged=xr.ones_like(f["diverged"]), mean_force=f["mean_force"] * values),
    )
    changed(
        tree, "relaxation", lambda r: r.assign(diverged=xr.ones_like(r["diverged"]), position=r["position"] * values)
    )
    _, lines, _ = said(tree)
    for (_, measurement, quantity), statement in lines.items():
        if measurement != "profile":
            assert statement.startswith("not determined"), quantity


def test_nan_and_infinity_in_the_middle(said, network, channel):
    """Each place is left out where it counts; what needs all of them is not determined, each with its reason."""
    tree = network(**PRECISE).tree()

    def hole(p):
        p["hessian_eigenvalue"].values[:, 6] = np.nan
        p["hessian_trace_slope"].values[:, 4] = np.nan
        return p

    changed(tree, "profile", hole)
    changed(tree, "mean_force", lambda f: f.assign(mean_force=f["mean_force"].where(f["s"] < 0.5, np.inf)))
    _, lines, _ = said(tree)
    assert lines["network", "mean_force", "thermal"] == "not determined: no top-k hessian_eigenvalue was measured"
    assert lines["network", "mean_force", "curvature-proportional, Tr H along the path"].endswith("4 points")
    right = next(v for k, v in lines.items() if k[2].startswith("mean force on the right half"))
    assert right.startswith("not determined")
    simulation = channel().tree()

    def empty_bin(d):
        d["density"].values[9] = np.nan
        d["free_energy"].values[9] = np.nan
        return d

    changed(simulation, "stationary", empty_bin)
    _, lines, _ = said(simulation)
    assert "for 18 degrees of freedom" in lines["run", "stationary", "density, thermal"]


def test_what_is_no_density_no_time_and_no_path_of_this_force(said, network, channel):
    tree = channel().tree()
    changed(tree, "stationary", lambda d: d.assign(density=0 * d["density"]))
    assert said(tree)[1]["run", "stationary", "prediction"].startswith(
        "not determined: stationary/density: expected a density over s of mean 1, found 0 … 0"
    )
    back = channel().tree()
    changed(back, "relaxation", lambda r: r.isel(time=slice(None, None, -1)))
    status, _, error = said(back)
    assert status == 2
    assert error.endswith("run.nc: relaxation/time: expected rising times, found others\n")
    line = network(**PRECISE).tree()
    changed(line, "profile", lambda p: p.isel(path_kind=[1]))
    changed(line, "path", lambda p: p.assign_attrs(finder="AutoNEB"))
    assert said(line)[1]["network", "mean_force", "prediction"] == (
        "not determined: the profile is of the straight line alone, the force of another path"
    )


def test_files_of_one_side_the_same_file_and_nothing_in_common(said, channel, tmp_path):
    status, lines, _ = said(
        channel(groups=("mean_force",)).tree(), channel(seed=2, groups=("mean_force", "stationary")).tree()
    )
    assert status == 0
    both = {k[2]: v for k, v in lines.items() if k[1] == "mean_force" and v.startswith("agrees")}
    assert set(both) == {"mean force"}
    status, lines, _ = said(channel(groups=("mean_force",)).tree(), channel(groups=("stationary",)).tree())
    assert status == 0
    assert not [v for v in lines.values() if v.startswith(("agrees", "disagrees"))]
    path = tmp_path / "0" / "run.nc"
    status, _, error = said(channel().tree(), files=[path])
    assert (status, error) == (2, f"entropic: error: files: expected different files, found {path} twice\n")
    status, _, error = said(channel().tree(), channel().tree())
    assert status == 2
    assert "expected runs with different seeds to combine, found the same run twice" in error


def test_one_run_against_many(said, channel):
    """The many are one run; exact curves, equal but for rounding, are not judged by it."""
    many = [seeded(channel(seed=i).tree(), i) for i in range(3)]
    _, lines, _ = said(seeded(channel(seed=9).tree(), 9, other=1), *many)
    both = {k[2]: v for k, v in lines.items() if " and " in k[0]}
    assert both["Hessian trace Tr H"].startswith("not determined: neither side has errors")
    assert all(both[name].startswith("agrees") for name in ("mean force", "displacement", "stationary density of s"))


@pytest.mark.slow
def test_networks_with_different_seeds_are_drawn_together(network, tmp_path):
    """The overview too, which shows all measurements of a run."""
    for i in range(2):
        write_tree(network(**PRECISE, seed=i).tree(), tmp_path / f"{i}" / "network.nc")
    assert cli.main(["compare", f"{tmp_path}/*/network.nc", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "figures" / "network_overview.png").exists()


def test_damaged_files_are_one_line(said, channel, tmp_path):
    for name, content in (("empty.nc", b""), ("half.nc", b"\x89HDF\r\n\x1a\n" + bytes(400)), ("text.nc", b"hello")):
        path = tmp_path / name
        path.write_bytes(content)
        status, _, error = said(files=[path])
        assert status == 2
        assert f"{name}: expected a netCDF4 file" in error
    tree = channel().tree()
    for version, message in (
        (None, "attribute schema_version: missing"),
        ("2", "expected version 1 of the dataset, found"),
    ):
        tree.attrs.pop("schema_version", None)
        tree.attrs |= {} if version is None else {"schema_version": version}
        status, _, error = said(tree)
        assert status == 2
        assert message in error


def with_value(name, value):
    """A change of a dataset: all values of a variable, coordinates too, replaced by one."""

    def change(d):
        new = (d[name].dims, np.full(d[name].shape, value, dtype=object if isinstance(value, str) else float))
        return d.assign({name: (*new, d[name].attrs)})

    return change


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("mean_force", with_value("mean_force", "much"), "mean_force/mean_force: expected numbers, found text"),
        ("mean_force", with_value("time_window", np.nan), "mean_force/time_window: expected finite values, found nan"),
        ("mean_force", with_value("s", np.nan), "mean_force/s: expected finite values, found nan"),
        (
            "mean_force",
            with_value("mean_force_stderr", -0.5),
            "mean_force/mean_force_stderr: expected values of at least 0, found -0.5",
        ),
        ("mean_force", lambda f: f.isel(s=[]), "mean_force: expected at least one s, found none"),
        ("relaxation", lambda r: r.isel(time=[]), "relaxation: expected at least one time, found none"),
        (
            "relaxation",
            lambda r: r.assign_coords(control=("control", [1, 2], r["control"].attrs)),
            "relaxation/control: expected 0 (noise on), or 0 and 1 (noise off), found 1, 2",
        ),
        (
            "relaxation",
            with_value("start", 0.5),
            "relaxation/start: expected different values, found some of them twice",
        ),
        (
            "mean_force",
            lambda f: f.assign_attrs(learning_rate="fast"),
            "mean_force: attribute learning_rate: expected a number, found 'fast'",
        ),
        (
            "path",
            lambda p: p.assign_attrs(highest_loss_per_cycle="low"),
            "path: attribute highest_loss_per_cycle: expected a number, found 'low'",
        ),
    ],
)
def test_what_no_number_can_be_computed_from_is_named(said, network, group, change, message):
    tree = changed(network(**PRECISE).tree(), group, change)
    status, _, error = said(tree)
    assert status == 2
    assert message in error


@pytest.mark.parametrize("length", [np.nan, 0.0, np.inf])
def test_a_path_of_no_length_predicts_nothing(said, network, length):
    tree = changed(network(**PRECISE).tree(), "path", with_value("arc_length", length))
    for node in tree.children.values():
        node.attrs.pop("arc_length", None)
    status, lines, _ = said(tree)
    assert status == 0
    assert lines["network", "mean_force", "prediction"] == "not determined: no prediction without arc_length"


def flat(lines):
    return next(v for k, v in lines.items() if k[2].startswith("path's highest loss"))


@pytest.mark.slow
def test_a_flat_path_needs_its_ends_its_middle_and_what_lies_between(said, network):
    """The ends alone, or a line without its top, would make a barrier of nothing."""
    tree = network(**PRECISE).tree()
    for group in ("profile", "path"):
        changed(tree, group, lambda d: d.isel(s=[0, -1]))
    assert flat(said(tree)[1]) == "not determined: no loss in the middle of the path"
    for at, where in ((slice(None, 3), "at an end"), (slice(3, -3), "in the middle")):
        tree = network(**PRECISE).tree()
        changed(tree, "profile", lambda p, at=at: p.assign(loss=p["loss"].where(~p["s"].isin(p["s"][at]))))
        lines = said(tree)[1]
        assert flat(lines) == f"not determined: no loss {where} of the path"
        rise = next(v for k, v in lines.items() if k[2].startswith("Tr H"))
        assert rise == f"not determined: no point {where} of the path"
    tree = network(**PRECISE).tree()
    changed(tree, "path", with_value("loss_between", np.nan))
    assert "(at the measured points)" in flat(said(tree)[1])
    tree = network(**PRECISE).tree()
    changed(tree, "profile", lambda p: p.assign(parameter_norm=p["parameter_norm"] * np.inf))
    rise = next(v for k, v in said(tree)[1].items() if k[2].startswith("Tr H"))
    assert rise == "not determined: the trace or the norm is not known at the ends or in the middle"


def test_an_error_that_is_stated_but_unknown_is_not_none(said, network):
    """NaN for an error must not make a formula exact, and so reject it."""
    tree = changed(network(**PRECISE).tree(), "profile", with_value("hessian_trace_slope_stderr", np.nan))
    assert said(tree)[1]["network", "mean_force", "curvature-proportional"] == (
        "not determined: hessian_trace_slope was not measured"
    )
    tree = network(**PRECISE).tree()
    for name in ("noise_trace", "noise_trace_transverse"):
        if f"{name}_stderr" in tree["profile"]:
            changed(tree, "profile", with_value(f"{name}_stderr", np.nan))
    assert said(tree)[1]["network", "mean_force", "prediction"] == (
        "not determined: profile: expected a finite noise_trace, with its error, at every point of the path, "
        "found missing values"
    )


def test_replicas_that_are_copies_of_one_another_have_no_spread(channel):
    """Their scatter is rounding's, by which nothing may be divided: z was 7×10¹⁵."""
    copies = channel().relaxation().isel(replica=[0] * 7)
    found = summaries.relaxation(copies)
    assert (found["position_stderr"].values == 0).all()
    assert (found["displacement_stderr"].values == 0).all()
    assert copies["position"].std("replica").max() > 0


def test_a_barrier_says_what_it_was_integrated_across_and_knows_no_unknown_exact_height(said, channel):
    tree = channel().tree()
    middle = tree["mean_force"].sizes["s"] // 2
    changed(tree, "mean_force", lambda f: f.assign(mean_force=f["mean_force"].drop_isel(s=[middle]).reindex(s=f["s"])))
    potential = xr.full_like(tree["profile"]["loss"], np.nan)
    changed(tree, "profile", lambda p: p.assign(effective_potential=potential))
    barrier = said(tree)[1]["run", "effective_potential", "entropic barrier"]
    assert barrier.endswith("; across 1 point without a force")
    assert "unknown" not in barrier


def test_a_profile_without_any_loss(said, channel):
    tree = channel().tree()
    changed(tree, "profile", lambda p: p.assign(effective_potential=p["loss"], loss=p["loss"] * np.nan))
    status, lines, _ = said(tree)
    assert status == 0
    assert lines["run", "mean_force", "prediction"].startswith("not determined: profile/s: expected at least 9 points")


@pytest.mark.parametrize("versions", [7.5, "no JSON {", "[1, 2]"])
def test_info_of_what_is_no_valid_run_is_one_line_too(channel, tmp_path, capsys, versions):
    tree = changed(channel().tree(), "relaxation", with_value("diverged", "often"))
    tree.attrs["versions"] = versions
    path = write_tree(tree, tmp_path / "run.nc", check=False)
    assert cli.main(["info", str(path)]) == 2
    captured = capsys.readouterr()
    assert "relaxation/diverged: expected numbers, found text" in captured.out
    assert f"versions           {versions}" in captured.out
    assert captured.err == f"entropic: error: {path}: 1 fault against the schema\n"


@pytest.mark.parametrize("name", ["hessian_trace_transverse", "loss"])
def test_the_twin_of_a_profile_without_numbers(network, tmp_path, capsys, name):
    tree = changed(network(**PRECISE).tree(), "profile", with_value(name, np.nan))
    path = write_tree(tree, tmp_path / "run.nc")
    out = tmp_path / "twin.nc"
    assert cli.main(["simulate", "mean-force", "--twin", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(("entropic: error: profile/hessian_trace_transverse: expected", "entropic: error: --twin:"))
    assert error.count("\n") == 1
    assert not out.exists()


def test_several_values_of_one_setting_are_not_taken_for_one(said, network):
    tree = changed(network(**PRECISE).tree(), "mean_force", lambda f: f.assign_attrs(momentum=[0.5, 0.9]))
    assert said(tree)[1]["network", "mean_force", "prediction"].startswith(
        "not determined: momentum: expected one value, found "
    )


def test_a_ladder_with_places_where_nobody_survived_or_nothing_varies_warns_of_nothing():
    dataset = made_up()
    dataset["diverged"].values[-1] = 1
    for name in ("mean_force", "mean_force_linear"):  # copies of one replica, of an exact prediction
        dataset[name].values[:2] = dataset["mean_force_predicted"].values[:2, ..., None, :]
    dataset["mean_force_control"].values[:2] = 0.0
    dataset["mean_force_predicted_stderr"].values[:2] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extrapolate(dataset)
    assert found.attrs["left_out"] == f"s = {float(dataset['s'][-1]):.3g}"
    assert np.isfinite(found["limit"])


@pytest.mark.parametrize(
    ("noun", "option", "value"),
    [("noise", "temperature", None), ("dynamics", "step", "small"), ("dynamics", "step", float("nan"))],
)
def test_a_configuration_without_a_number_predicts_nothing(said, channel, noun, option, value):
    tree = channel().tree()
    config = json.loads(tree.attrs["config"])
    config[noun][option] = value
    tree.attrs["config"] = json.dumps(config)
    assert said(tree)[1]["run", "mean_force", "prediction"] == (
        f"not determined: config.{noun}.{option}: expected a number to predict from, found {value!r}"
    )


def test_a_noise_without_a_type_predicts_nothing(said, channel):
    tree = channel().tree()
    config = json.loads(tree.attrs["config"])
    tree.attrs["config"] = json.dumps({**config, "noise": {"temperature": 0.1}})
    assert said(tree)[1]["run", "mean_force", "prediction"] == (
        "not determined: config.noise: expected a noise that is diagonal in the modes, found None"
    )


def test_infinite_losses_and_positions(said, network):
    tree = changed(
        network(**PRECISE).tree(), "profile", lambda p: p.assign(loss=p["loss"].where(p["s"] != 0.5, np.inf))
    )
    assert flat(said(tree)[1]) == "not met: the loss on the path is infinite somewhere"
    tree = network(**PRECISE).tree()
    tree["relaxation"]["position"][0, 0, 0, 3] = np.inf
    assert said(tree)[0] == 0
