"""Several files, patterns, runs combined; large files in bounded memory; files read without this package."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from analysis import agreement, cli, runs, summaries
from analysis.compare import compare
from entropy_sim import Channel, Escape, Overdamped, Profile, Relaxation, Thermal, run_files
from entropy_sim.errors import UserError
from entropy_sim.run_files import read_tree, write_tree


def saved(directory, trees):
    for i, tree in enumerate(trees):
        write_tree(tree, directory / f"{i}" / "run.nc")
    return directory


def with_seed(tree, seed):
    config = json.loads(tree.attrs["config"])
    tree.attrs["config"] = json.dumps({**config, "seed": seed})
    return tree


def test_patterns_are_expanded_in_order_and_mistakes_are_one_line(network, tmp_path):
    saved(tmp_path, [network(groups=("profile",), seed=i).tree() for i in range(3)])
    assert [p.parent.name for p in runs.expand([f"{tmp_path}/*/run.nc"])] == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"files: expected files that match .*/\*\.none, found none"):
        runs.expand([f"{tmp_path}/*.none"])
    with pytest.raises(UserError, match=r"files: expected different files, found .*0/run\.nc twice"):
        runs.expand([f"{tmp_path}/*/run.nc", tmp_path / "0" / "run.nc"])


def test_networks_that_differ_in_their_seed_are_one_with_the_error_of_their_scatter(network, tmp_path):
    """8 runs: the standard error is the scatter between runs over √8, of the force and of the profile."""
    one = network(force_noise=3e-6, learning_rate=0.002, control_force=0.0)
    saved(tmp_path, [dataclasses.replace(one, seed=i).tree() for i in range(8)])
    simulations, networks = runs.read([f"{tmp_path}/*/run.nc"])
    assert not simulations
    ((_, tree),) = networks
    assert tree["mean_force"].sizes["run"] == 8
    force = summaries.mean_force(summaries.the_measurement(tree, "mean_force"))
    np.testing.assert_allclose(force["force_stderr"], 3e-6 / np.sqrt(8 * 2 * 3), rtol=0.5)
    exact = one.force(force["s"].values)
    z = (force["force"].values - exact) / force["force_stderr"].values
    assert np.sqrt(np.mean(z**2)) < 2
    profile = summaries.the_measurement(tree, "profile")
    np.testing.assert_allclose(profile["hessian_trace_stderr"] / profile["hessian_trace"], 0.01 / np.sqrt(8), rtol=0.8)
    assert "run" not in profile.dims
    table = {r.quantity: r.verdict for r in agreement.rows(compare([], tree)["table"].to_dataset())}
    assert table["curvature-proportional"] == "agrees"
    other = dataclasses.replace(one, rise=2.0).tree()
    write_tree(other, tmp_path / "other.nc")
    assert len(runs.read([f"{tmp_path}/*/run.nc", tmp_path / "other.nc"])[1]) == 2


def test_simulations_are_combined_and_the_same_run_twice_is_not(channel):
    trees = [with_seed(channel(seed=i).tree(), i) for i in range(3)]
    ((_, one),) = runs.combined([(str(i), t) for i, t in enumerate(trees)])
    assert summaries.the_measurement(one, "relaxation").sizes["replica"] == 600
    assert summaries.the_measurement(one, "mean_force").sizes["replica"] == 12
    with pytest.raises(UserError, match="found the same run twice"):
        runs.combined([("a", trees[0]), ("b", trees[0])])
    shifted = trees[1].copy()
    shifted["stationary"] = shifted["stationary"].to_dataset().isel(s=slice(3, None))
    with pytest.raises(UserError, match="stationary: expected the same coordinates in 0, 1 to combine, found others"):
        runs.combined([("0", trees[0]), ("1", shifted)])


def test_a_few_runs_keep_their_own_errors_where_these_hold(channel):
    """Two runs: their scatter has one degree of freedom, and a χ² with it would be off by orders. With errors that are
    stated and hold, the mean's are theirs over √2; with errors stated ten times too small, ten times as large."""
    trees = [with_seed(channel(seed=i, groups=("stationary",)).tree(), i) for i in range(2)]
    stated = trees[0]["stationary"]["density_stderr"].values

    def combined(factor):
        made = [tree.copy(deep=True) for tree in trees]
        for tree in made:
            ds = tree["stationary"].to_dataset()
            tree["stationary"] = ds.assign(density_stderr=factor * ds["density_stderr"])
        together = runs.concatenated([("a", made[0]), ("b", made[1])])
        return runs.over_runs("stationary", together["stationary"].to_dataset())["density_stderr"].values

    assert np.median(combined(1.0) / (stated / np.sqrt(2))) == pytest.approx(1, abs=0.35)
    assert np.median(combined(0.1) / (stated / np.sqrt(2))) == pytest.approx(1, abs=0.35)
    assert np.ptp(combined(1.0) / stated) < 0.2


def test_escapes_of_several_runs_are_pooled():
    made = [Escape(Channel(), Thermal(0.3), Overdamped(), replicas=32, duration=20.0, seed=i).run() for i in range(2)]
    pooled = runs.over_runs("escape", runs.concatenated([("a", made[0]), ("b", made[1])])["escape"].to_dataset())
    assert pooled.sizes["replica"] == 64
    events = [float(t["escape"]["escaped"].sum()) for t in made]
    exposure = [e / float(t["escape"]["rate"]) for e, t in zip(events, made, strict=True)]
    assert float(pooled["rate"]) == pytest.approx(sum(events) / sum(exposure))


def test_a_pattern_on_the_command_line(network, tmp_path, capsys):
    small = {"groups": ("relaxation",)}
    saved(tmp_path / "runs", [network(**small, seed=i).tree() for i in range(2)])
    out = tmp_path / "out"
    assert cli.main(["compare", f"{tmp_path}/runs/*/run.nc", "--out", str(out)]) == 0
    assert "Δs = " in capsys.readouterr().out
    assert (out / "report.html").exists()


def test_another_version_of_the_schema_is_named(network, tmp_path):
    tree = network(groups=("profile",)).tree()
    tree.attrs["schema_version"] = "7"
    write_tree(tree, tmp_path / "run.nc", check=False)
    with pytest.raises(UserError, match=r"run\.nc: expected version 1 of the dataset, found version 7"):
        runs.read([tmp_path / "run.nc"])


# --- large files ------------------------------------------------------------------------------------------------------


def large(path, replicas, times, starts=4):
    """A relaxation file that is written piece by piece."""
    template = Relaxation(Channel(), Thermal(), Overdamped(), starts=(0.2, 0.4, 0.6, 0.8), replicas=2, records=4).run()
    template["relaxation"] = template["relaxation"].to_dataset().sel(control=0, drop=True).drop_vars("replica")
    random = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for name, value in template.attrs.items():
            file.setncattr(name, value)
        group = file.createGroup("relaxation")
        for name, size in (("start", starts), ("replica", replicas), ("time", times)):
            group.createDimension(name, size)
        source = template["relaxation"].to_dataset()

        def create(name, dims, **options):
            variable = group.createVariable(name, "f8", dims, **options)
            variable.units, variable.long_name = source[name].attrs["units"], source[name].attrs["long_name"]
            return variable

        create("start", ("start",))[:] = source["start"].values
        create("time", ("time",))[:] = np.linspace(0, 1, times)
        create("diverged", ("start", "replica"))[:] = 0
        position = create("position", ("start", "replica", "time"), chunksizes=(1, min(replicas, 200), times))
        for i, start in enumerate(source["start"].values):
            for j in range(0, replicas, 200):
                n = min(200, replicas - j)
                position[i, j : j + n] = start + 0.01 * random.standard_normal((n, times))


def test_a_file_in_pieces_gives_the_same_numbers(tmp_path):
    pytest.importorskip("dask")
    large(tmp_path / "run.nc", 500, 40)
    whole, pieces = runs.open_run(tmp_path / "run.nc"), runs.open_run(tmp_path / "run.nc", large=0)
    assert pieces["relaxation"]["position"].chunks is not None
    assert whole["relaxation"]["position"].chunks is None
    a, b = (summaries.relaxation(summaries.the_measurement(t, "relaxation")) for t in (whole, pieces))
    xr.testing.assert_allclose(a, b, rtol=1e-10)
    one, two = compare([("a", whole)]), compare([("a", pieces)])
    xr.testing.assert_allclose(one["relaxation/a"].to_dataset(), two["relaxation/a"].to_dataset())


def test_info_and_figures_read_a_large_file_in_pieces(tmp_path, monkeypatch, capsys):
    """Neither command may read it whole; a comparison is opened by the same function."""
    pytest.importorskip("dask")
    large(tmp_path / "run.nc", 500, 40)

    def whole(*args, **options):
        raise AssertionError("read whole")

    monkeypatch.setattr(runs, "LARGE", 0)
    monkeypatch.setattr(runs, "read_tree", whole)
    monkeypatch.setattr(run_files, "read_tree", whole)
    assert cli.main(["info", str(tmp_path / "run.nc")]) == 0
    said = capsys.readouterr().out
    assert "diverged: 0 of 2000" in said
    assert said.endswith("valid\n")
    assert cli.main(["plot", str(tmp_path / "run.nc"), "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "relaxation.png").exists()
    write_tree(compare([("a", runs.open_run(tmp_path / "run.nc"))]), tmp_path / "comparison.nc")
    assert "relaxation" in runs.open_run(tmp_path / "comparison.nc").children


_MEASURE = """
import resource, sys
from analysis import comparisons, runs, summaries
import analysis.compare
if sys.argv[2] == "pieces":
    import dask, dask.array
    dask.config.set(scheduler="synchronous")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tree = runs.open_run(sys.argv[1], large=0 if sys.argv[2] == "pieces" else 10**15)
comparisons.relaxation.against_theory("a", summaries.the_measurement(tree, "relaxation"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_a_large_file_is_analysed_in_bounded_memory(tmp_path):
    """A file of 320 MB: in pieces it takes less than half of its size, whole most of it."""
    pytest.importorskip("dask")
    large(tmp_path / "run.nc", 10_000, 1000)
    size = (tmp_path / "run.nc").stat().st_size
    assert size > 3e8

    def peak(how):
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / "run.nc"), how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak("pieces") < 0.5 * size
    assert peak("whole") > 0.7 * size  # its memory before counts what importing took at most


def test_a_large_file_without_dask_says_what_to_install(tmp_path, monkeypatch, network):
    path = write_tree(network(groups=("profile",)).tree(), tmp_path / "run.nc")
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected Dask for a file of 0\.0 GB \(pip install"):
        runs.open_run(path, large=0)


# --- without this package ---------------------------------------------------------------------------------------------

_PLAIN = """
import json, sys
import xarray as xr
with xr.open_datatree(sys.argv[1]) as tree:
    profile = tree["profile"].to_dataset()
    print(json.dumps({
        "loaded": [m for m in ("entropy_sim", "analysis", "nn_experiments") if m in sys.modules],
        "units": {n: v.attrs.get("units") for n, v in profile.variables.items()},
        "names": {n: v.attrs.get("long_name") for n, v in profile.variables.items()},
        "dims": list(profile["hessian_trace"].dims),
        "trace": profile["hessian_trace"].sel(path_kind="path").sel(s=0.5, method="nearest").item(),
        "config": json.loads(tree.attrs["config"])["landscape"]["type"],
        "coords": sorted(profile.coords),
    }))
"""


def test_a_file_means_the_same_in_plain_xarray(tmp_path):
    tree = Profile(Channel(), Thermal(0.2), Overdamped(), points=11).run()
    write_tree(tree, tmp_path / "run.nc")
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(tmp_path / "run.nc")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert found["loaded"] == []
    assert all(found["units"][n] for n in found["units"] if n != "path_kind")
    assert all(found["names"].values())
    assert found["units"]["hessian_trace"] == "loss / parameter^2"
    assert found["dims"] == ["path_kind", "s"]
    assert found["trace"] == pytest.approx(Channel().curvature([0.5]).sum())
    assert found["config"] == "Channel"
    assert {"s", "path_kind"} <= set(found["coords"])
    assert read_tree(tmp_path / "run.nc").attrs == tree.attrs
