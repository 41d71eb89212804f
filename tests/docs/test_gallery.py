"""The gallery: its page and its figures belong together, and the script makes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import make_gallery

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


def test_page_and_figures_belong_together():
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", PAGE)
    drawn = [(heading, f"figures/gallery/{d.__name__}.png") for heading, d in make_gallery.PAGE if d is not None]
    assert shown == drawn
    files = sorted((DOCS / "figures" / "gallery").iterdir())
    assert {f"figures/gallery/{f.name}" for f in files} == {path for _, path in shown}
    assert sum(f.stat().st_size for f in files) < 1.5e6
    assert [f.name for f in files if f.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n"] == []


def test_one_figure_is_drawn_again(tmp_path):
    """The caption's number is the exact d (T/2) ln 8 within the step's 2 %; the page is left alone."""
    make_gallery.main(["--out", str(tmp_path), "--only", "extensive_barrier"])
    assert [p.name for p in tmp_path.rglob("*.*")] == ["extensive_barrier.png"]
    measured, exact = re.findall(r"ln 8: ([\d.]+) ± .* at d = 100, exactly ([\d.]+)", PAGE.replace("\n", " "))[0]
    assert float(measured) == pytest.approx(float(exact), rel=0.02)
    assert float(exact) == pytest.approx(100 * 0.025 * 2.0794415, rel=0.02)


@pytest.mark.slow
def test_the_page_is_what_the_script_writes(tmp_path):
    """Up to the last digits, which other processors may round otherwise."""
    make_gallery.main(["--out", str(tmp_path)])
    found = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    pattern = re.compile(r"\d+(?:\.\d+)?")
    assert pattern.sub("#", " ".join(found.split())) == pattern.sub("#", " ".join(PAGE.split()))
    for a, b in zip(pattern.findall(found), pattern.findall(PAGE), strict=True):
        assert float(a) == pytest.approx(float(b), rel=0.05, abs=0.02)
