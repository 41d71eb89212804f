from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from analysis import agreement, captions, cli
from analysis.compare import Compare, compare
from analysis.predict import FINITE_RATE, PROPORTIONAL, THERMAL
from entropy_sim.errors import UserError
from entropy_sim.run_files import config_hash, read_tree, write_tree

PRECISE = {"profile_noise": 0.02, "force_noise": 3e-6, "learning_rate": 0.002, "rise": 3.0}


def rows(tree, run="network", measurement=None):
    table = agreement.rows(tree["table"].to_dataset())
    return {r.quantity: r for r in table if r.run == run and measurement in (None, r.measurement)}


# --- the network ----------------------------------------------------------------------------------------------------


def test_a_network_that_follows_theory_agrees_and_says_so_with_numbers(network):
    tree = compare([], network(**PRECISE).tree())
    found = rows(tree)
    row = found[PROPORTIONAL]
    assert row.verdict == "agrees"
    assert abs(row.ratio - 1) < 3 * (row.ratio_high - row.ratio_low) / 2 < 0.15
    assert row.statement.startswith("agrees: measured/predicted = ")
    node = tree["mean_force/network"].to_dataset().sel(form=PROPORTIONAL)
    np.testing.assert_allclose(node["difference"], node["net"] - node["predicted"])
    assert float(node["chi_squared"]) == pytest.approx(9, abs=5 * np.sqrt(18))
    criteria = [r for r in found.values() if r.kind == "criterion"]
    assert len(criteria) == 6
    assert {r.verdict for r in criteria} == {"met"}


@pytest.mark.parametrize("factor", [0.21, 2.0, -1.0])
def test_injected_disagreement_is_reported_as_disagreement(network, factor):
    found = rows(compare([], network(**PRECISE, force_factor=factor).tree()))
    for form in (PROPORTIONAL, THERMAL, FINITE_RATE):
        row = found[form]
        assert row.verdict == "disagrees"
        assert row.statement.startswith("disagrees: measured/predicted = ")
        assert row.ratio == pytest.approx(factor, rel=0.1)
        assert abs(row.ratio - 1) > 5 * (row.ratio_high - row.ratio_low) / 2


def test_a_wrong_momentum_factor_is_seen(network):
    """The mutant: a force without 1/(1−beta) at beta = 0.6 gives 0.4."""
    right = network(**PRECISE, momentum=0.6)
    wrong = network(**PRECISE, momentum=0.6, force_factor=0.4)
    assert rows(compare([], right.tree()))[PROPORTIONAL].verdict == "agrees"
    row = rows(compare([], wrong.tree()))[PROPORTIONAL]
    assert (1 - row.ratio) / (row.ratio_high - row.ratio) > 5


def test_the_criteria_can_fail(network):
    weak = network(**PRECISE | {"rise": 1.0, "line_barrier": 0.02}, force_factor=-1.0).tree()
    found = rows(compare([], weak))
    verdicts = {name: r.verdict for name, r in found.items() if r.kind == "criterion"}
    flat, rise, left, right, _, stays = verdicts.values()
    assert (flat, rise, left, right, stays) == ("not met", "not met", "not met", "not met", "met")


def test_a_control_that_moves_along_and_replicas_that_do_not_are_reported(network):
    tree = network(**PRECISE).tree()
    position = tree["relaxation"]["position"]
    position[1, [1, 3], 0] = position[0, [1, 3], 0].values
    found = rows(compare([], tree), measurement="relaxation")
    assert next(r for n, r in found.items() if "control stays" in n).verdict == "not met"
    tree = network(**PRECISE).tree()
    position = tree["relaxation"]["position"]
    position[0] = position[0, :, :, :1].values + 0.001 * np.random.default_rng(0).standard_normal((5, 2, 33))
    found = rows(compare([], tree), measurement="relaxation")
    assert next(r for n, r in found.items() if "released" in n).verdict == "not met"


def test_nan_and_zero_variance_and_all_diverged_are_not_determined(network):
    def verdict(change):
        tree = network(**PRECISE).tree()
        change(tree["mean_force"])
        found = rows(compare([], tree), measurement="mean_force")
        return {found[PROPORTIONAL].verdict, *(r.verdict for n, r in found.items() if "half" in n)}, found

    def nan(node):
        node["mean_force"][:] = np.nan

    def zero(node):
        node["mean_force_stderr"][:] = 0.0

    def diverged(node):
        node["diverged"][:] = 1

    for change in (nan, zero, diverged):
        verdicts, found = verdict(change)
        assert verdicts == {"not determined"}
        assert "no point has a measured value with an error" in found[PROPORTIONAL].statement
    tree = network(**PRECISE).tree()
    tree["relaxation"]["diverged"][:] = 1
    found = rows(compare([], tree), measurement="relaxation")
    assert {r.verdict for r in found.values()} == {"not determined"}


def test_errors_too_large_to_tell_anything_are_not_agreement(network):
    found = rows(compare([], network(**PRECISE | {"force_noise": 3e-3}).tree()))
    assert found[PROPORTIONAL].verdict == "not determined"
    assert "too large to tell agreement from disagreement" in found[PROPORTIONAL].statement


@pytest.mark.parametrize("groups", [("profile",), ("mean_force",), ("relaxation",), ("path", "mean_force")])
def test_any_subset_of_groups_will_do(network, groups, tmp_path):
    tree = compare([], network(**PRECISE, groups=groups).tree())
    write_tree(tree, tmp_path / "c.nc")
    assert rows(tree)
    if "mean_force" in groups:
        assert "no prediction without profile" in rows(tree)["prediction"].statement


def test_the_noise_is_rescaled_to_the_batch_size_of_the_dynamics(network):
    tree = network(**PRECISE).tree()
    tree["profile"].attrs["batch_size"] = 8  # measured on smaller batches: twice the noise
    assert rows(compare([], tree))[PROPORTIONAL].ratio == pytest.approx(2, rel=0.1)


def test_the_potential_s_barrier_is_the_integral(network):
    known = network(**PRECISE)
    node = compare([], known.tree())["effective_potential/network"].to_dataset()
    s = node["s"].values
    rate = known.learning_rate * known.noise_ratio / 4 * known.trace
    exact = rate * (known.g(s) - known.g(s[0]))
    np.testing.assert_allclose(node["potential"], exact, atol=0.02 * exact.max())
    predicted = node.sel(form=PROPORTIONAL)
    error = np.hypot(node["potential_stderr"], predicted["predicted_stderr"])
    assert float(abs((node["potential"] - predicted["predicted"]) / error.where(error > 0)).max()) < 4
    assert float(node["barrier_position"]) == 0.5


def test_the_barrier_s_error_holds_that_of_the_quadrature_and_the_exact_one_stands_beside_it(channel):
    """Nine points with a statistical error of nearly nothing: the error is the quadrature's and covers the exact
    barrier, from which the trapezoidal rule alone is off by more than 5 statistical errors."""
    known = channel(error=1e-7, scale=0.3)
    tree = known.tree()
    fine = np.linspace(0, 1, 2001)
    potential = -np.concatenate([[0], np.cumsum(0.5 * (known.force(fine)[1:] + known.force(fine)[:-1]))])
    potential = np.interp(np.linspace(0, 1, known.points), fine, potential * known.length / 2000)
    profile = tree["profile"].to_dataset()
    profile["effective_potential"] = (("path_kind", "s"), potential[None])
    tree["profile"] = profile
    result = compare([("sim", tree)])
    row = rows(result, "sim")["entropic barrier"]
    exact = np.interp(0.5, fine[::10], potential) - np.interp(0.1, fine[::10], potential)
    assert row.expected == pytest.approx(exact, rel=1e-4)
    assert abs(row.measured - exact) < 2 * row.measured_stderr
    assert "; exact " in row.statement
    assert "by the same rule at these points" in row.statement
    assert abs(row.z) < 4
    wrong = channel(error=1e-7, scale=0.3, force_factor=1.001).tree()
    wrong["profile"] = profile
    assert abs(rows(compare([("sim", wrong)]), "sim")["entropic barrier"].z) > 5
    s = tree["mean_force"]["s"].values
    trapezoid = np.trapezoid(-known.force(s[:5]), s[:5] * known.length)
    assert abs(trapezoid - exact) > 5 * 1e-7
    assert row.measured_stderr > 0.5 * abs(trapezoid - exact)
    assert abs(row.measured - exact) < abs(trapezoid - exact)


# --- simulations ----------------------------------------------------------------------------------------------------


def test_a_simulation_agrees_with_its_exact_forms_only(channel):
    found = rows(compare([("sim", channel().tree())]), "sim")
    assert found["finite step"].verdict == "agrees"
    assert found["thermal"].verdict == "disagrees"  # the step is felt
    assert found["density, thermal"].verdict == "agrees"
    assert found["free energy, thermal"].verdict == "agrees"


@pytest.mark.parametrize("factor", [2.0, -1.0])
def test_a_mutant_simulation_disagrees(channel, factor):
    found = rows(compare([("sim", channel(force_factor=factor).tree())]), "sim")
    for name in ("finite step", "density, thermal", "free energy, thermal"):
        assert found[name].verdict == "disagrees"
        assert found[name].z > 5


def test_a_merged_run_is_read_measurement_by_measurement(channel):
    """The force from Euler–Maruyama, the density from Leimkuhler–Matthews, in one file: each by its own dynamics."""
    whole = channel().tree()
    config = whole.attrs["config"]
    for name in whole.children:
        whole[name].attrs["config"] = config
    whole["stationary"].attrs["config"] = config.replace("euler_maruyama", "leimkuhler_matthews")
    whole.attrs["config"] = json.dumps({"type": "MergedRun", "measurements": []})
    found = rows(compare([("sim", whole)]), "sim")
    assert found["finite step"].verdict == "agrees"
    assert found["density, thermal"].verdict == "agrees"


def test_simulations_share_the_profile_of_the_same_landscape(channel):
    force = channel(groups=("mean_force",)).tree()
    profile = channel(groups=("profile",)).tree()
    found = rows(compare([("force", force), ("profile", profile)]), "force")
    assert found["finite step"].verdict == "agrees"
    assert "no prediction without a profile" in rows(compare([("force", force)]), "force")["prediction"].statement


def test_a_twin_is_compared_with_its_network_and_a_stranger_is_not(network, channel):
    real = network(**PRECISE)
    twin = channel(length=real.length).tree()
    force = real.mean_force().drop_vars(["mean_force_control"])
    force["mean_force"] = 0.5 * (force["mean_force"] - real.control_force)
    twin["mean_force"], twin["relaxation"] = force, real.relaxation()
    stranger = channel(length=3.0).tree()
    tree = compare([("twin", twin), ("stranger", stranger)], real.tree())
    found = rows(tree, measurement="mean_force")
    assert found["simulated: twin"].ratio == pytest.approx(2, rel=0.05)
    assert found["simulated: twin"].verdict == "disagrees"
    assert rows(tree, measurement="relaxation")["simulated: twin"].verdict == "agrees"
    assert "simulated: stranger" not in found
    assert set(tree["mean_force"].children) == {"twin", "stranger", "network"}


def test_a_twin_s_force_is_no_better_known_than_its_profile(network, channel):
    """Its error holds the finite-learning-rate form's, scaled with the force; without it, the ratio's interval would be
    that of the Monte-Carlo error alone."""
    real = network(**PRECISE | {"profile_noise": 0.1})
    twin = channel(length=real.length).tree()
    force = real.mean_force().drop_vars(["mean_force_control"])
    force["mean_force"] = 3 * (force["mean_force"] - real.control_force)
    twin["mean_force"] = force
    node = compare([("twin", twin)], real.tree())["mean_force/network"].to_dataset()
    simulated, finite = node.sel(form="simulated: twin"), node.sel(form=FINITE_RATE)
    assert (simulated["predicted_stderr"] >= finite["predicted_stderr"]).all()
    large = abs(finite["predicted"]) > 3 * finite["predicted_stderr"]
    assert large.sum() >= 4
    relative = [abs(f["predicted_stderr"] / f["predicted"]).where(large) for f in (simulated, finite)]
    assert float((relative[0] / relative[1]).min()) > 0.999
    assert "relative error that the profile gives" in str(simulated["formula"].item())


def test_a_twin_of_another_network_is_none(network, channel):
    real = network(**PRECISE).tree()
    real["profile"].attrs["config"] = '{"one": 1}'
    twin = channel(length=network().length, groups=("profile", "mean_force")).tree()
    for config, taken in (('{"one": 1}', True), ('{"one": 2}', False)):
        twin.attrs["twin_of"] = config_hash(config)
        assert ("simulated: twin" in rows(compare([("twin", twin)], real))) == taken


def test_controls_are_subtracted_on_both_sides(network, channel):
    """A drift that the network's control shares is none of the noise's; the twin has none."""
    real = network(**PRECISE)
    twin, tree = channel(length=real.length).tree(), real.tree()
    twin["relaxation"] = real.relaxation()
    drift = np.where(real.relaxation()["start"] < 0.5, -0.1, 0.1)[:, None, None]
    tree["relaxation"]["position"][:] = tree["relaxation"]["position"] + drift * np.linspace(0, 1, 33)
    row = rows(compare([("twin", twin)], tree), measurement="relaxation")["simulated: twin"]
    assert row.ratio == pytest.approx(1, abs=0.01)
    assert row.degrees_of_freedom == 2
    assert row.statement.endswith("controls subtracted on both sides")
    twin["relaxation"]["position"][1] = np.nan
    row = rows(compare([("twin", twin)], tree), measurement="relaxation")["simulated: twin"]
    assert row.ratio > 1.2
    assert row.statement.endswith("controls not subtracted")


def test_distance_and_vertices_of_a_relaxation_are_told(network):
    tree = network(**PRECISE).tree()
    relaxed = tree["relaxation"].to_dataset()
    relaxed["distance"] = xr.full_like(relaxed["position"], 3.25)
    relaxed["position"][0, 2] = 0.5
    tree["relaxation"] = relaxed
    result = compare([], tree)
    table = agreement.rows(result["table"].to_dataset())
    caption = captions.relaxation_caption(table, "network")
    assert "3.25 parameter units off the path" in caption
    assert "From s = 0.5: s of every replica stays exactly the same" in caption
    untouched = agreement.rows(compare([], network(**PRECISE).tree())["table"].to_dataset())
    assert "vertex" not in captions.relaxation_caption(untouched, "network")


def test_captions_tell_the_ratios_not_shown_and_the_two_stationary_figures_apart(network, channel):
    result = compare([("sim", channel().tree())], network(**PRECISE).tree())
    force = result["mean_force/network"].to_dataset()
    force["ratio_low"].loc[{"form": THERMAL, "s": force["s"][2]}] = -np.inf
    assert f"{THERMAL} at s = {float(force['s'][2]):.2g}" in captions.ratio_caption(force).split("Not shown")[1]
    table = agreement.rows(result["table"].to_dataset())
    density, energy = (captions.stationary_caption(table, "sim", n) for n in ("density", "free_energy"))
    assert density.startswith("Stationary density")
    assert energy.startswith("Free energy")


# --- files and the command --------------------------------------------------------------------------------------------


def test_the_file_opens_in_plain_xarray_with_units(network, channel, tmp_path):
    write_tree(compare([("sim", channel().tree())], network().tree()), tmp_path / "comparison.nc")
    with xr.open_datatree(tmp_path / "comparison.nc") as tree:
        assert tree.attrs["source"] == "analysis"
        assert set(tree.children) == {
            *("table", "profile", "mean_force", "effective_potential", "relaxation", "stationary"),
        }
        for node in tree.subtree:
            for name, variable in node.data_vars.items():
                if np.issubdtype(variable.dtype, np.number) and node.name != "table":
                    assert "units" in variable.attrs, (node.path, name)
    with xr.open_dataset(tmp_path / "comparison.nc", group="mean_force/network") as one:
        assert one["predicted"].dims == ("form", "s")
    again = agreement.rows(read_tree(tmp_path / "comparison.nc")["table"].to_dataset())
    assert again[0].verdict in ("met", "not met", "agrees", "disagrees")


def test_compare_writes_everything_and_refuses_other_runs(network, channel, tmp_path, capsys):
    small = {"groups": ("relaxation",)}
    sim, nn, other = (tmp_path / f"{name}.nc" for name in ("sim", "nn", "other"))
    write_tree(channel(**small).tree(), sim)
    write_tree(network(**small).tree(), nn)
    write_tree(network(**small, seed=5).tree(), other)
    out = tmp_path / "out"
    assert cli.main(["compare", str(sim), str(nn), "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"comparison.nc", "figures", "report.html"}
    assert "released off the middle" in capsys.readouterr().out
    assert cli.main(["compare", str(nn), str(sim), "--out", str(out)]) == 0  # in any order, again
    assert cli.main(["compare", str(sim), str(other), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert json.loads(read_tree(out / "comparison.nc").attrs["config"])["type"] == "Comparison"


def test_mistakes_are_one_line_each(network, channel, tmp_path):
    nn = write_tree(network(groups=("profile",)).tree(), tmp_path / "nn.nc")
    with pytest.raises(UserError, match="files: expected different files, found .*nn.nc twice"):
        Compare((nn, nn), tmp_path / "out").run()
    with pytest.raises(UserError, match="expected a netCDF file, found no such file"):
        Compare((tmp_path / "absent.nc",), tmp_path / "out").run()
    with pytest.raises(UserError, match="files: expected at least one netCDF file"):
        Compare(())
    with pytest.raises(UserError, match="different labels, none of them 'network'"):
        compare([("network", channel().tree())], network().tree())
    comparison = write_tree(compare([], network(groups=("profile",)).tree()), tmp_path / "c.nc")
    with pytest.raises(UserError, match="expected a simulation or a network run, found a comparison"):
        Compare((comparison,), tmp_path / "out").run()
    with pytest.raises(UserError, match="expected profile, mean_force, relaxation or stationary"):
        compare([], network(groups=("path",)).tree())


def test_a_table_with_the_older_names_is_read(network):
    table = compare([], network(**PRECISE).tree())["table"].to_dataset()
    older = table.rename(chi_squared="chi2", p_value="p")
    assert [r.chi_squared for r in agreement.rows(older)] == pytest.approx(
        [r.chi_squared for r in agreement.rows(table)], nan_ok=True
    )
