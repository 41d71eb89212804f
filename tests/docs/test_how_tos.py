"""What the how-tos say is what happens: their files, Python blocks and quick commands run, in order, in an empty
directory. own_landscape.md and own_network.md are followed by the tests of what they describe."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from analysis import report
from analysis.cli import STAGES, main
from analysis.reproduce import Reproduce
from entropy_sim.run_files import read_tree
from nn_experiments.run import NetworkRun

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: A Python block, with the name of its file in the line above it, if it is one, or the line of a file that it follows;
#: an indented command; a row of a table that says where a line goes.
STEP = re.compile(
    r"(?:`(?P<file>[\w/]+\.py)`(?:, after the line `(?P<after>[^`]+)`)?:\n\n)?```python\n(?P<code>.*?)```"
    r"|^ {4,}(?P<command>(?:entropic|python) [^\n]*)$"
    r"|^\| `(?P<to>[\w/]+\.py)` \| `(?P<line>[^`]+)` \| `(?P<new>[^`]+)` \|$",
    re.DOTALL | re.MULTILINE,
)


class Step(NamedTuple):
    """What a page says to do next."""

    kind: str  # python, file, insert, command
    text: str
    file: str = ""
    after: str = ""


def steps(page: str) -> list[Step]:
    found = []
    for m in STEP.finditer((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        if m["command"]:
            found.append(Step("command", m["command"]))
        elif m["to"]:
            found.append(Step("insert", f"{m['new']}\n", m["to"], m["line"]))
        else:
            kind = "insert" if m["after"] else "file" if m["file"] else "python"
            found.append(Step(kind, textwrap.dedent(m["code"]), m["file"] or "", m["after"] or ""))
    return found


def follow(page: str, skip: str = "never") -> dict[str, object]:
    """Do what a page says in the current directory, but for commands that match `skip`; the names that its blocks
    leave."""
    names: dict[str, object] = {"__name__": "how_to"}
    for step in steps(page):
        if step.kind == "python":
            exec(compile(step.text, f"{page}.md", "exec"), names)
        elif step.kind == "command" and not re.search(skip, step.text):
            program, *words = shlex.split(step.text)
            if program == "python":
                assert words[:2] == ["-m", "analysis.compare"]
                words = ["compare", *words[2:]]
            assert main(words) == 0, step.text
    return names


def test_a_theory_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = follow("simulate")
    shown = capsys.readouterr().out
    assert names["force"].sel(s=0.3) < -10 * names["stderr"].sel(s=0.3) < 0  # type: ignore[attr-defined]
    assert re.search(r"finite step: agrees", shown)
    assert re.search(r"thermal: disagrees", shown)


@pytest.fixture
def beside_the_data(tmp_path, monkeypatch):
    """An empty directory but for the reference data."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_comparing(beside_the_data, capsys, monkeypatch):
    draw = report.write_figures  # takes longest: once will do
    monkeypatch.setattr(report, "write_figures", lambda out, *a: draw(out, *a, ("png",)) if out.name == "twin" else [])
    names = follow("compare")
    shown = capsys.readouterr().out
    assert "{'run': 3," in shown
    assert float(names["found"]["limit"]) == pytest.approx(1.010, abs=5e-4)  # type: ignore[index]
    assert str(names["force"]["verdict"].sel(form="thermal").item()) == "disagrees"  # type: ignore[index]
    assert "quick_simulation and powers mean_force" in shown
    for directory in ("compared", "alone", "twin", "three", "between", "units", "ladder", "edge"):
        assert (beside_the_data / directory / "report.html").stat().st_size > 5_000
    assert (beside_the_data / "twin" / "figures" / "network_relaxation_and_twin_relaxation.png").is_file()


def test_a_network_run(beside_the_data, monkeypatch):
    """Its commands are understood, and its Python works on the reference run; network_command's tests run stages."""
    done = []
    monkeypatch.setattr(NetworkRun, "run", lambda self, out, *, stage, **options: done.append((self, out, stage)))
    monkeypatch.setattr(Reproduce, "run", lambda self: done.append(self))
    (beside_the_data / "runs" / "digits").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "reference" / "quick_network.nc", "runs/digits/network.nc")
    commands = [s.text for s in steps("network") if s.kind == "command"]
    names = follow("network", skip="entropic plot")
    assert {c.split()[2] for c in commands if "entropic network" in c} == set(STAGES) - {"plane"}
    assert len(done) == len([c for c in commands if re.match("entropic (network|reproduce)", c)])
    last = done[-1][0]
    assert (last.seeds, last.training) == ((2, 3), NetworkRun().training)
    (barrier,) = [d[0].barrier for d in done if isinstance(d, tuple) and len(d[0].barrier.pairs) > 1]
    assert barrier.pairs == ((1, 2), (3, 4))
    assert float(names["force"].sel(s=0.2)) < 0 < float(names["force"].sel(s=0.8))  # type: ignore[attr-defined]
    assert 0 < float(names["heating"].mean()) < 1 < float(names["hot"].max())  # type: ignore[attr-defined,arg-type]


def inserted(text: str, step: Step) -> str:
    """`step.text` as new lines after the line `step.after`, indented as what stands there."""
    (indent,) = re.findall(rf"^( *){re.escape(step.after)}$", text, re.MULTILINE)
    deeper = indent + 4 * " " * step.after.endswith(("{", "("))
    before, line, rest = text.partition(f"\n{indent}{step.after}\n")
    return before + line + textwrap.indent(step.text, deeper) + rest


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the packages in which own_measurement.md has been followed."""
    copy = tmp_path_factory.mktemp("copy")
    for package in ("entropy_sim", "nn_experiments", "analysis"):  # with what is compiled: times of files are kept
        shutil.copytree(ROOT / package, copy / package)
    for step in steps("own_measurement"):
        file = copy / step.file
        if step.kind == "file":
            assert not file.exists()
            file.write_text(step.text, encoding="utf-8")
        elif step.kind == "insert":
            file.write_text(inserted(file.read_text(encoding="utf-8"), step), encoding="utf-8")
    stages = copy / "nn_experiments" / "stages.py"
    text = stages.read_text(encoding="utf-8")
    for opening in ("Stage = Literal[", "STAGES: tuple[Stage, ...] = (*ALL, "):
        assert text.count(opening) == 1
        text = text.replace(opening, f'{opening}"virial", ')
    stages.write_text(text, encoding="utf-8")
    return copy


def entropic(copy: Path, directory: Path, command: str, options: str = "") -> str:
    """A command of own_measurement.md with the extended packages; what it prints."""
    (line,) = [s.text for s in steps("own_measurement") if s.kind == "command" and s.text.startswith(command)]
    words = [*shlex.split(line)[1:], *options.split()]
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", *words],
        cwd=directory, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_look_from_python():
    for step in steps("own_measurement"):
        if step.kind == "python":
            names: dict[str, object] = {}
            exec(step.text, names)
    assert names["across"].shape == (512, 4)  # type: ignore[attr-defined]
    assert all(3.2 < x < 6 for x in names["kurtosis"])  # type: ignore[attr-defined]


def test_a_measurement_of_the_simulator_is_added(extended, tmp_path):
    """Against the sum over steps of the exact k<x²> = T (1 - (1 - hk)^2n) / (1 - hk/2), in each window."""
    entropic(extended, tmp_path, "entropic simulate virial")
    assert "virial, virial_stderr (s 3, time 8)" in entropic(extended, tmp_path, "entropic info")
    tree = read_tree(tmp_path / "virial.nc", check=False)
    group = tree["virial"].to_dataset()
    h, T, modes = 0.005, 0.02, 4
    n = np.arange(800).reshape(8, 100)
    np.testing.assert_allclose(group["time"], n.mean(1) * h)
    from entropy_sim import Channel

    k = Channel().curvature(group["s"].values)[:, 0, None, None]
    exact = (modes * T * (1 - (1 - h * k) ** (2 * n)) / (1 - h * k / 2)).mean(-1)
    z = (group["virial"].values - exact) / group["virial_stderr"].values
    assert abs(z).max() < 4
    assert group["virial_stderr"].max() < 0.05 * modes * T
    assert group["virial"].attrs["units"] == "loss"


@pytest.mark.slow
def test_a_measurement_of_networks_is_added(extended, tmp_path, monkeypatch):
    """Against the heating of a mean force with the same draws, which is twice the same averages."""
    monkeypatch.chdir(tmp_path)
    small = "network:mlp --training.epochs 2 --path.pivots 3 --path.cycles 0.02 3 --processes 1"
    assert "virial done" in entropic(extended, tmp_path, "entropic network virial", small)
    group = read_tree(Path("runs/mine/network.nc"), check=False)["virial"].to_dataset()
    assert group["virial"].dims == ("s", "time")
    same = "--mean-force.positions 0.1 0.3 0.5 --mean-force.replicas 4 --mean-force.burn-in 0 --mean-force.duration 30"
    command = f"network mean-force {small} {same} --mean-force.time-windows 1 --mean-force.no-control --out runs/mine"
    assert main(command.split()) == 0
    force = read_tree(Path("runs/mine/network.nc"))["mean_force"].to_dataset()
    for mine, theirs in (("virial", "heating_left"), ("virial_stationary", "heating_right")):
        np.testing.assert_allclose(2 * group[mine].mean("time"), force[theirs].mean("replica"), rtol=1e-4)
