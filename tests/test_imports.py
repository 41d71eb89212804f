"""Imports point one way, entropy_sim <- nn_experiments <- analysis, and the base stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
import entropy_sim

ROOT = Path(__file__).parents[1]
BASE = ("errors", "schema", "run_files", "theory", "statistics", "path_geometry")
FORBIDDEN = {
    "entropy_sim": {"nn_experiments", "analysis", "torch"},
    "nn_experiments": {"analysis", "numba"},
    "analysis": {"numba", "torch"},
}
# These start the other two packages, inside functions only.
STARTERS = {"cli.py", "network_command.py", "reproduce.py"}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported(f) & FORBIDDEN[package])}
    assert not wrong
    if package == "analysis":
        networks = {f.name for f in files if "nn_experiments" in imported(f)}
        assert networks <= STARTERS


def loads(statement: str, modules: tuple[str, ...]) -> set[str]:
    code = f"{statement}; import sys; print(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_base_needs_neither_numba_nor_torch():
    statement = "import " + ", ".join(f"entropy_sim.{name}" for name in BASE)
    assert loads(statement, ("numba", "torch", "matplotlib", "nn_experiments", "analysis", "xarray")) == {"xarray"}


def test_the_command_and_the_analysis_start_without_numba_and_torch():
    modules = ("numba", "torch", "nn_experiments.run")
    assert loads("import analysis.cli, analysis.compare, analysis.report, analysis.plots", modules) == set()


def test_ours_is_the_analysis_package_that_is_imported():
    assert Path(analysis.__file__).parents[1] == Path(entropy_sim.__file__).parents[1] == ROOT
