"""The built site: every link and anchor leads somewhere, nothing is loaded from elsewhere, equations are MathML.

Built here (needs the extra `docs`), unless the environment variable ENTROPIC_SITE names a directory with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
#: What makes a browser load something: element and attribute.
LOADS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Page(HTMLParser):
    """The anchors of a page, and where it leads: (element, attribute, value)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name in ("href", "src", "data"):
                self.references.append((tag, name, value or ""))


def faults(site: Path) -> list[str]:
    """What is wrong with the links of a site, one line each."""
    pages = {p: Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for tag, name, value in page.references:
            parts = urlsplit(value)
            if parts.scheme or parts.netloc:
                if (tag, name) in LOADS and parts.scheme != "data":
                    found.append(f"{where}: loads {value}")
                continue
            # 404.html is shown at any address, so its links are from the site's root.
            base = site if where.name == "404.html" else path.parent
            relative = unquote(parts.path).lstrip("/") if base == site else unquote(parts.path)
            target = (base / relative).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.is_file():
                found.append(f"{where}: no file for {value}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: no anchor for {value}")
    for sheet in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8")):
            parts = urlsplit(url)
            if (parts.scheme and parts.scheme != "data") or parts.netloc:
                found.append(f"{sheet.relative_to(site)}: loads {url}")
            elif not parts.scheme and not (sheet.parent / unquote(parts.path)).is_file():
                found.append(f"{sheet.relative_to(site)}: no file for {url}")
    return found


def test_faults_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="#top"></a><a href="b.html#there"></a><a href="b.html#gone"></a><a href="c.html">'
        '</a><a href="https://example.org"></a><img src="https://example.org/a.png"><script src="//example.org/a.js">'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="data:image/png;base64,AA=="><a href="."></a>')
    (tmp_path / "a.css").write_text("a { background: url('no.png') } b { src: url(//example.org/f.woff) }")
    assert sorted(faults(tmp_path)) == [
        "a.css: loads //example.org/f.woff",
        "a.css: no file for no.png",
        "a.html: loads //example.org/a.js",
        "a.html: loads https://example.org/a.png",
        "a.html: no anchor for b.html#gone",
        "a.html: no file for c.html",
        "b.html: no file for .",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if "ENTROPIC_SITE" in os.environ:
        return Path(os.environ["ENTROPIC_SITE"])
    for package in ("mkdocs", "mkdocstrings", "ziamath"):
        pytest.importorskip(package)
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(built)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return built


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site):
    assert len(list(site.rglob("*.html"))) > 40
    assert faults(site) == []


@pytest.mark.slow
def test_equations_are_mathml(site):
    text = (site / "theory.html").read_text(encoding="utf-8")
    assert text.count("<math") > 150
    left = [p.name for p in site.rglob("*.html") if "arithmatex" in p.read_text(encoding="utf-8")]
    assert left == []
    assert not re.search(r"\$\$|\\frac|\\\(", re.sub(r"<code.*?</code>", "", text, flags=re.DOTALL))


@pytest.mark.slow
def test_the_reference_has_every_public_module(site):
    text = "".join(p.read_text(encoding="utf-8") for p in (site / "api").glob("*.html"))
    anchors = Page(text).anchors
    modules = [
        p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for package in ("entropy_sim", "nn_experiments", "analysis")
        for p in (ROOT / package).rglob("*.py")
        if not p.name.startswith("_")
    ]
    assert len(modules) > 80
    assert [m for m in modules if m not in anchors] == []
