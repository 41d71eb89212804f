"""What the how-tos say is what happens: their Python blocks and quick commands run, in order, in an empty directory; the
longer commands become a configuration, as far as the options go."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from analysis.cli import COMMANDS, MEASUREMENTS, STAGES, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("simulate", "network", "compare", "own_landscape", "own_network", "own_measurement")
#: A block of Python with the name of its file in the line above it, if it is one; or an indented command.
STEP = re.compile(r"(?:`(\w+\.py)`[^\n]*\n+)?```python\n(.*?)```|^ {4,}((?:entropic|python) [^\n]*)$", re.DOTALL | re.MULTILINE)


def steps(page: str) -> list[tuple[str, str]]:
    """("python", code), ("file NAME", code) or ("command", line), as they follow each other on a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [
        ("command", m[3]) if m[3] else (f"file {m[1]}" if m[1] else "python", textwrap.dedent(m[2]))
        for m in STEP.finditer(text)
    ]


def follow(page: str, **replaced: str) -> dict[str, object]:
    """Do what a page says, in the current directory; the names that its blocks leave."""
    names: dict[str, object] = {"__name__": "how_to"}
    for kind, text in steps(page):
        if kind == "python":
            exec(compile(text, f"{page}.md", "exec"), names)
        elif kind == "command":
            words = shlex.split(text)
            assert main(words[1:]) == 0, text
    return names


def test_a_theory_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = follow("simulate")
    shown = capsys.readouterr()
    assert names["force"].sel(s=0.3) < -10 * names["stderr"].sel(s=0.3) < 0  # type: ignore[attr-defined]
    assert "finite step: agrees" in shown.out
    assert "thermal: disagrees" in shown.out
    print(shown.out)
