"""What the README says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

from entropy_sim.run_files import read_tree

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_and_shows_the_force_back_to_the_ends(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    force = names["force"]
    assert float(force.sel(s=0.3)) < -0.5  # type: ignore[attr-defined]
    assert float(force.sel(s=0.7)) > 0.5  # type: ignore[attr-defined]
    assert "0.3" in capsys.readouterr().out


def test_every_file_the_readme_points_to_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert "CONTRIBUTING.md" in links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_tree_of_the_readme_is_the_tree():
    tree = README.split("## The tree", 1)[1].split("A measurement has", 1)[0]
    for line in filter(None, (x.strip() for x in tree.splitlines())):
        names = [w for w in re.split(r"\s{2,}", line)[0].split() if w.endswith(("/", ".py"))]
        assert names, line
        for name in names:
            assert list(ROOT.glob(name.rstrip("/"))) or list(ROOT.glob(f"*/{name.rstrip('/')}")), name


def test_the_ladder_s_numbers_are_those_of_its_file():
    from analysis import ladder

    dataset = read_tree(ROOT / "data" / "reference" / "ladder_network.nc")["mean_force"].to_dataset()
    limits = [ladder.extrapolate(dataset, ladder.Extrapolation(denominator=d)) for d in ("predicted", "formula")]
    text = " ".join(README.split())
    for found in limits:
        assert f"{found['limit'].item():.3f} ± {(found['limit_high'] - found['limit']).item():.3f}" in text.replace(
            "*", ""
        )
    assert abs(limits[0]["limit"].item() - 1) < 3 * limits[0]["limit_stderr"].item() < 0.1
    assert abs(limits[1]["limit"].item() - 1) > 10 * limits[1]["limit_stderr"].item()
