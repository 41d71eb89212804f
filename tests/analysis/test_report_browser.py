"""The report in headless Chromium: as it is read on a screen and on a phone, in light and dark, and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.compare import Compare
from entropy_sim.run_files import read_tree, write_tree
from tests.analysis.browser import Browser, find

REFERENCE = Path(__file__).parents[2] / "data" / "reference"
PROGRAM = find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium on the PATH, and none named by the variable CHROMIUM"
)

#: Ratio of contrast (WCAG 2) of an element's text to what is behind it.
CONTRAST = """(element => {
    const channels = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let behind = element;
    while (behind && (channels(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const ground = behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)';
    const both = [getComputedStyle(element).color, ground];
    const [low, high] = both.map(c => light(channels(c))).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed run, without its simulation: half the time."""
    directory = tmp_path_factory.mktemp("browser")
    Compare(files=(REFERENCE / "quick_network.nc",), out=directory).run()
    return directory / "report.html"


def test_figures_load_with_no_complaint_and_no_request(browser, report):
    browser.open(report)
    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]
    widths = browser.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 13
    assert min(widths) > 500
    assert len(browser.evaluate("[...document.querySelectorAll('figcaption')].map(c => c.innerText)")) == len(widths)


@pytest.mark.parametrize(
    ("faulty", "found"),
    [
        ('<img src="http://127.0.0.1:9/a.png">', "requests"),
        ("<script>console.error('no')</script>", "complaints"),
        ("<script>throw 1</script>", "complaints"),
        ('<img src="gone.png">', "complaints"),
    ],
)
def test_a_faulty_page_is_found_out(browser, tmp_path, faulty, found):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html>{faulty}")
    browser.open(page)
    assert {"requests": len(browser.requests()) > 1, "complaints": browser.complaints() != []}[found]


def test_a_policy_keeps_what_a_dataset_might_say_from_being_fetched(browser, report, tmp_path):
    """Were anything to slip in unescaped, the page would still ask for nothing."""
    page = tmp_path / "report.html"
    text = report.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/a.png"><script>fetch("/")</script></main>'))
    browser.open(page)
    assert "Content Security Policy" in " ".join(browser.complaints())
    assert "Network.responseReceived" not in {
        e["method"] for e in browser.events if "127.0.0.1" in str(e["params"].get("response", ""))
    }


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_no_page_scrolls_sideways(browser, report, width):
    browser.open(report, width)
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    sticking_out = """[...document.querySelectorAll('h1, h2, p, li, td, figcaption, summary')]
        .filter(e => !e.closest('.wide-table') && e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.innerText)"""
    assert browser.evaluate(sticking_out) == []
    # A figure of four panels would be too small to read on a phone: it is as wide as it needs, inside its frame.
    overview = browser.evaluate("document.querySelector('figure[id$=overview] img').getBoundingClientRect().width")
    assert overview > 600


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(browser, report, dark):
    browser.open(report, dark=dark)
    page = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", page)[:3])) < 60) == dark
    every = "a, p, li, td, th, figcaption, summary, dt, dd, pre, .finding, .met, .disagrees"
    found = browser.evaluate(
        f"[...document.querySelectorAll('{every}')].map(e => [{CONTRAST}(e), e.innerText.slice(0, 60)])"
    )
    assert len(found) > 100
    assert [text for contrast, text in found if contrast < 4.5] == []
    # Figures are drawn for a white ground, and have it.
    grounds = browser.evaluate("[...document.querySelectorAll('.frame')].map(e => getComputedStyle(e).backgroundColor)")
    assert set(grounds) == {"rgb(255, 255, 255)"}


def test_every_link_leads_somewhere(browser, report):
    browser.open(report)
    links = browser.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    inside = [link for link in links if link.startswith("#")]
    assert {"#finding", "#run", "#figures", "#table", "#provenance", "#network_plane"} <= set(inside)
    assert browser.evaluate(f"{inside}.filter(l => !document.querySelector(l))") == []
    files = [link for link in links if not link.startswith("#")]
    assert [Path(link).name for link in files] == ["comparison.nc", "quick_network.nc"]
    assert all((report.parent / link).is_file() for link in files)


def test_it_prints_with_all_of_its_provenance(browser, report):
    hidden = "[...document.querySelectorAll('pre, dl')].filter(e => e.checkVisibility({contentVisibilityAuto: true}))"
    browser.open(report)
    assert browser.evaluate(f"{hidden}.length") == 0  # closed on a screen
    browser.open(report, media="print")
    assert browser.evaluate(f"{hidden}.length") == browser.evaluate("document.querySelectorAll('pre, dl').length") >= 4
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 8 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 40


def test_words_from_a_dataset_stay_words(browser, tmp_path):
    tree = read_tree(REFERENCE / "quick_network.nc").filter(lambda node: node.name in (None, "path", "profile"))
    tree.attrs["system"] = "<script>document.title = 'no'</script>"
    write_tree(tree, tmp_path / "network.nc")
    Compare(files=(tmp_path / "network.nc",), out=tmp_path).run()
    browser.open(tmp_path / "report.html")
    assert browser.complaints() == []
    assert browser.evaluate("document.title") == "Entropic forces: theory against network"
