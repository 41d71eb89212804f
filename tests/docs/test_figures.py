"""The table of figures: every command writes the files that stand beside it, and every reference file is drawn."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from analysis.cli import main
from docs import make_gallery

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!figure |---)(.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


def commands() -> dict[str, list[str]]:
    """Command -> files that it writes below --out figures."""
    found: dict[str, list[str]] = {}
    last = ""
    for _, command, files in ROWS:
        last = last if command == "the same" else command.strip("`")
        found.setdefault(last, []).extend(re.findall(r"`([^`]+)`", files))
    return found


def test_the_commands_name_what_is_there():
    assert len(ROWS) > 12
    assert all(c.endswith(" --out figures") for c in commands())
    names = {n for c in commands() for n in re.findall(r"data/reference/(\S+)", c)}
    assert names <= {p.name for p in (ROOT / "data" / "reference").iterdir()}
    drawn = {d.__name__ for _, d in make_gallery.PAGE if d is not None}
    (only,) = [c.split("--only ")[1].split(" --out")[0].split() for c in commands() if "--only" in c]
    assert set(only) <= drawn


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_every_command_writes_its_figures(tmp_path, monkeypatch, command):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    if program == "python":
        assert words[:2] == ["-m", "docs.make_gallery"]
        make_gallery.main(words[2:])
    else:
        assert main(words) == 0
    assert [f for f in commands()[command] if not (tmp_path / "figures" / f).is_file()] == []
