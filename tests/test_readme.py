"""What the README says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

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
