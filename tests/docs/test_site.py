"""The built site: every internal link and anchor resolves, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Links, what is loaded, and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        target = found.get("href", found.get("src"))
        if target is not None and (tag == "a" or tag in ("script", "img")):
            self.links.append(target)
        if target is not None and tag in ("script", "img", "link") and found.get("rel") != "canonical":
            self.loaded.append(target)


def faults(site: Path) -> list[str]:
    """What is wrong with the pages of a folder."""
    pages = {p: Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html")) if p.name != "404.html"}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        found += [f"{where} loads {x}" for x in page.loaded if urlsplit(x).netloc]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{where}: no {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: no anchor {link}")
    return found


def test_links_resolve_and_nothing_is_loaded_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(site.rglob("*.html"))) > 30
    assert faults(site) == []
    (site / "broken.html").write_text('<a href="nowhere.html"></a><a href="theory.html#none"></a><img src="//a.b/c">')
    assert faults(site) == [
        "broken.html loads //a.b/c",
        "broken.html: no nowhere.html",
        "broken.html: no anchor theory.html#none",
    ]
