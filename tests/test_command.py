"""The installed command, run as a subprocess: what a user types and what a user gets wrong."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

from analysis.cli import main
from entropy_sim import schema

ENTROPIC = shutil.which("entropic", path=str(Path(sys.executable).parent)) or "entropic"
QUICK = ("--walkers", "16", "--replicas", "2", "--duration", "2", "--burn-in", "0.5")


def entropic(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENTROPIC, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)


def succeed(*arguments: object, cwd: Path) -> str:
    done = entropic(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # quiet when it is not on a terminal
    return done.stdout


def refused(*arguments: object, cwd: Path) -> str:
    done = entropic(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    return one_line(done.stderr)


def one_line(stderr: str) -> str:
    assert stderr.startswith("entropic: error: ")
    assert stderr.count("\n") == 1
    return stderr


@pytest.fixture(scope="module")
def forces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    begin = time.monotonic()
    succeed("simulate", "mean-force", *QUICK, "--out", "force.nc", cwd=folder)
    (folder / "seconds").write_text(str(time.monotonic() - begin))
    return folder / "force.nc"


def test_simulate_writes_a_valid_run_that_plain_xarray_opens(forces):
    with xr.open_datatree(forces) as tree:
        schema.validate(tree)
        assert tree.attrs["source"] == "entropy_sim"
        assert float(tree["mean_force"]["mean_force"].mean("replica").sel(s=0.3).mean()) < 0


def test_info_and_plot_read_it(forces, tmp_path):
    said = succeed("info", forces, cwd=tmp_path)
    assert "mean_force" in said
    assert said.endswith("valid\n")
    said = succeed("plot", forces, "--out", "figures", cwd=tmp_path)
    figures = list((tmp_path / "figures").glob("*.png"))
    assert figures
    assert all(f.stat().st_size > 5000 and f.name in said for f in figures)


@pytest.mark.parametrize(
    ("arguments", "figures"),
    [
        ("escape --replicas 64 --duration 5 --upper 0.2", {"escape"}),
        ("escape --replicas 64 --duration 5 --scan.parameter temperature --scan.values 0.1 0.2", {"escape_times"}),
        ("barrier --walkers 16 --points 5 --duration 2 --burn-in 1", {"barrier"}),
        ("barrier --walkers 16 --points 5 --duration 2 --scan.parameter none", {"mean_force"}),
    ],
)
def test_escapes_and_barriers_from_the_command_to_the_figure(arguments, figures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *arguments.split(), "--plot", "--out", "run.nc"]) == 0
    assert {p.stem for p in (tmp_path / "run_figures").iterdir()} >= figures
    assert main(["info", "run.nc"]) == 0
    assert capsys.readouterr().out.endswith("valid\n")
    assert main(["simulate", *arguments.split()[:1], "--config", "run.nc", "--out", "again.nc"]) == 0
    name = arguments.split()[0]
    with xr.open_datatree("run.nc") as first, xr.open_datatree("again.nc") as second:
        xr.testing.assert_identical(first[name].to_dataset(), second[name].to_dataset())


@pytest.mark.parametrize("rows", [["2 -0.5; -0.5 1"], ["2", "-0.5;", "-0.5", "1"], ["2,-0.5", ";", "-0.5,1"]])
def test_a_matrix_is_typed_row_by_row(rows, tmp_path):
    from entropy_sim import GradientCovariance, LowRankCovariance, MeanForce, Quadratic
    from entropy_sim.run_files import config_from_file

    matrix, out = ((2.0, -0.5), (-0.5, 1.0)), tmp_path / "run.nc"
    small = ("--walkers", "8", "--duration", "0.1", "--burn-in", "0", "--out", str(out), "--overwrite")
    options = ["mean-force", "landscape:quadratic", "--landscape.hessian", *rows, "dynamics:sgd"]
    full = ["noise:gradient-covariance", "--noise.covariance", *rows]
    assert main(["simulate", *options, *full, *small]) == 0
    config = config_from_file(MeanForce, out)
    assert (config.landscape, config.noise) == (Quadratic(matrix), GradientCovariance(matrix))
    assert main(["simulate", *options, "noise:low-rank-covariance", "--noise.factors", *rows, *small]) == 0
    assert config_from_file(MeanForce, out).noise == LowRankCovariance(matrix)
    again = ["--config", str(out), "--out", str(tmp_path / "again.nc")]
    assert main(["simulate", "mean-force", *again]) == 0  # the rows are a default there
    assert config_from_file(MeanForce, tmp_path / "again.nc") == config_from_file(MeanForce, out)


def test_walkers_that_all_diverge_are_drawn_and_counted(tmp_path, monkeypatch, capsys):
    """Where no mode is stiff, theory has no relaxation to draw beside them either."""
    monkeypatch.chdir(tmp_path)
    hot = ["landscape:muller-brown", "--noise.temperature", "1e6", "--dynamics.step", "1e-4", "--duration", "1"]
    assert main(["simulate", "relaxation", *hot, "--replicas", "8", "--plot", "--out", "run.nc"]) == 0
    said = capsys.readouterr()
    assert "diverged: 40 of 80" in said.out  # without noise they stay
    assert said.err == ""
    assert (tmp_path / "run_figures" / "relaxation.png").exists()


def test_a_finished_run_is_reported_and_another_configuration_refused(forces):
    before = forces.read_bytes()
    assert "already there" in succeed("simulate", "mean-force", *QUICK, "--out", forces, cwd=forces.parent)
    message = refused("simulate", "mean-force", *QUICK, "--seed", "1", "--out", forces, cwd=forces.parent)
    assert "another configuration" in message
    assert "--overwrite" in message
    assert forces.read_bytes() == before


def test_config_takes_the_configuration_back(forces, tmp_path):
    succeed("simulate", "mean-force", "--config", forces, "--out", "again.nc", cwd=tmp_path)
    with xr.open_datatree(forces) as first, xr.open_datatree(tmp_path / "again.nc") as second:
        assert first.attrs["config"] == second.attrs["config"]
        xr.testing.assert_identical(first["mean_force"].to_dataset(), second["mean_force"].to_dataset())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("simulat", "command: expected one of reproduce, simulate"),
        (
            "simulate density",
            "expected one of profile, mean-force, relaxation, stationary, escape, barrier, found 'density'",
        ),
        ("simulate mean-force --speed 3", "Unrecognized options: --speed"),
        ("simulate mean-force --noise.temperature -0.1", "temperature: expected"),
        ("simulate mean-force --noise.temperature nan", "--noise.temperature: expected"),
        ("simulate mean-force --landscape.stiffness.end -3", "--landscape.stiffness.end: expected a positive number"),
        ("simulate mean-force --walkers 2.5", "--walkers: expected a whole number, found '2.5'"),
        ("simulate mean-force --noise.temperature x", "--noise.temperature: expected a number, found 'x'"),
        ("simulate mean-force --positions a b", "--positions: expected numbers, found ['a', 'b']"),
        ("simulate mean-force --threads x", "--threads: expected None or INT, found ['x']"),
        ("simulate mean-force --dynamics.step 0.5", "stability limit"),
        ("simulate mean-force --landscape.length -1", "length: expected"),
        ("simulate relaxation --starts 1.5", "starts: expected"),
        ("simulate escape --start 0.6", "start: expected less than the upper level 0.5, found 0.6"),
        ("simulate escape --upper 1", "upper: expected a level that s can cross"),
        ("simulate escape --scan.parameter temperature", "scan.values: expected one or more values of temperature"),
        ("simulate barrier --scan.values 0.2 0.1", "scan.values: expected positive numbers in rising order"),
        (
            "simulate barrier --scan.parameter learning_rate --scan.values 1",
            "found 'learning_rate', which Overdamped has not",
        ),
        ("simulate barrier --scan.parameter dimension", "--scan.values: expected one or more values of dimension"),
        ("simulate stationary --bins 1" + 30 * "0", "expected sizes that fit into memory, found too large ones"),
        ("simulate escape --replicas 1" + 30 * "0", "expected sizes that fit into memory, found too large ones"),
        (
            "simulate profile noise:state-dependent --noise.along-path.end -1",
            "--noise.along-path.end: expected a positive number, found -1.0",
        ),
        (
            "simulate profile noise:state-dependent --noise.across.size -1",
            "--noise.across.size: expected a number >= 0, found -1.0",
        ),
        ("simulate profile landscape:quadratic --landscape.hessian 2 a", "--landscape.hessian: expected numbers"),
        (
            "simulate profile landscape:quadratic --landscape.hessian 2 0.5 ; 0.4 1",
            "--landscape.hessian: expected a symmetric matrix, found |H - Hᵀ| = 0.1",
        ),
        ("simulate mean-force --threads 0", "--threads: expected a positive number"),
        ("simulate mean-force --out text.nc/x.nc", "--out: expected a writable place"),
        ("simulate mean-force --config absent.json", "--config: expected a JSON or netCDF file"),
        ("info absent.nc", "absent.nc: expected a netCDF file, found no such file"),
        ("info text.nc", "text.nc: expected a netCDF4 file"),
        ("plot text.nc", "text.nc: expected a netCDF4 file"),
        ("plot foreign.nc", "foreign.nc: not a valid run: attribute source: missing"),
        ("compare text.nc", "text.nc: expected a netCDF4 file"),
        ("network learn", "escape, barrier, all, found 'learn'"),
        ("network train --training.epochs 0", "epochs: expected"),
        ("reproduce --preset slow", "'slow'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "text.nc").write_text("a letter")
    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(tmp_path / "foreign.nc")
    before = sorted(p.name for p in tmp_path.iterdir())
    if "network" in arguments or "reproduce" in arguments:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2  # in this process: a start takes seconds
    assert message in one_line(capsys.readouterr().err)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_missing_variables_are_all_listed(forces, tmp_path):
    with xr.open_datatree(forces) as tree:
        broken = tree.load()
    dataset = broken["mean_force"].to_dataset().drop_vars(["mean_force", "time_window"])
    broken["mean_force"] = xr.DataTree(dataset)
    broken.to_netcdf(tmp_path / "broken.nc")
    message = refused("plot", "broken.nc", cwd=tmp_path)
    assert "mean_force/mean_force: missing" in message
    assert "mean_force/time_window: missing" in message


def test_info_counts_what_has_no_value(forces, tmp_path, capsys):
    with xr.open_datatree(forces) as tree:
        broken = xr.DataTree.from_dict({name: node.to_dataset().load() for name, node in tree.children.items()})
        broken.attrs = tree.attrs
    values = broken["mean_force"].to_dataset()
    values["mean_force"][:] = float("nan")
    broken["mean_force"] = xr.DataTree(values)
    broken.to_netcdf(tmp_path / "nan.nc")
    assert main(["info", str(tmp_path / "nan.nc")]) == 0
    assert f"without a value (NaN): mean_force {values['mean_force'].size} of" in capsys.readouterr().out


def test_a_killed_run_leaves_what_was_there(forces, tmp_path):
    out = tmp_path / "kept.nc"
    shutil.copy(forces, out)
    long = ("--duration", "50000", "--walkers", "2048", "--overwrite", "--out", str(out))
    process = subprocess.Popen(
        [ENTROPIC, "simulate", "mean-force", *long],
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(2.0 + float((forces.parent / "seconds").read_text()))  # it is under way by then
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in said
    assert said.count("\n") == 1
    assert out.read_bytes() == forces.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} <= {"kept.nc", "kept.nc.unfinished.npz"}


def test_info_says_what_was_found_and_who_is_not_in_it(tmp_path, capsys):
    """Of three that escaped at t = 1, 2, 3 and one censored at 4: rate 3 / 10, its standard error over sqrt(3)."""
    each = ("replica",)
    values = {
        "replica": (each, range(4)),
        "first_passage_time": (each, [1.0, 2.0, 3.0, float("nan")]),
        "escaped": (each, [1, 1, 1, 0]),
        "rate": ((), 0.3),
        "rate_stderr": ((), 0.1732),
    }
    densities = {"s": (("s",), [0.25, 0.75]), "density": (("s",), [0.5, 1.5]), "density_stderr": (("s",), [0.1, 0.1])}
    groups = {
        "/escape": schema.make("escape", values, {"censored": 1}),
        "/stationary": schema.make("stationary", densities, {"outside": 0.225}),
    }
    xr.DataTree.from_dict(groups).to_netcdf(tmp_path / "found.nc")
    main(["info", str(tmp_path / "found.nc")])
    said = capsys.readouterr().out
    assert "rate 0.30 ± 0.17 loss / parameter^2\n" in said
    assert "censored: 1 of 4\n" in said
    assert "outside 0 < s < 1, not in the density: 22.5 % of the time\n" in said
    assert "±" not in said.replace("0.30 ± 0.17", "")  # a curve is not a single number


@pytest.mark.parametrize("command", ["", "simulate", "network", "simulate relaxation", "compare", "plot", "info"])
def test_help_is_there(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert "usage: entropic" in capsys.readouterr().out


def test_a_scan_of_the_learning_rate_is_summarised(tmp_path, capsys):
    """Its burn-in, in relaxation times, differs from value to value: the shortest counts."""
    out = tmp_path / "barrier.nc"
    small = [
        "--points",
        "3",
        "--walkers",
        "32",
        "--replicas",
        "2",
        "--burn-in",
        "2",
        "--duration",
        "2",
        "--stride",
        "1",
    ]
    scan = ["--scan.parameter", "learning_rate", "--scan.values", "0.02", "0.08"]
    nouns = ["noise:curvature-covariance", "dynamics:sgd"]
    assert main(["simulate", "barrier", *nouns, *small, *scan, "--out", str(out)]) == 0
    assert "note: the burn-in is 2" in capsys.readouterr().out
