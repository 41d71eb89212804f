from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from analysis.compare import compare
from analysis.report import write_figures, write_report
from entropy_sim.run_files import write_tree

VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Every attribute that could fetch something, the images and the text; open tags must be closed in order."""

    def __init__(self, html):
        super().__init__()
        self.references, self.images, self.text, self.open, self.tags = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.references += [values[a] for a in ("src", "href", "srcset", "action", "data", "poster") if a in values]
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def write(directory, simulations, network):
    tree = compare(simulations, network)
    write_tree(tree, directory / "comparison.nc")
    figures = write_figures(directory, simulations, network, tree, formats=("png",))
    return figures, write_report(directory, tree, simulations, network, figures)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    from tests.analysis import conftest as made

    directory = tmp_path_factory.mktemp("report")
    network = made.MadeUpNetwork(force_noise=3e-6, force_factor=0.4).tree()
    figures, path = write(directory, [("sim", made.MadeUpChannel().tree())], network)
    html = path.read_text(encoding="utf-8")
    return figures, html, Page(html)


def test_it_is_self_contained(report):
    _, html, page = report
    for reference in page.references:
        assert reference.startswith(("data:image/", "#")) or reference == "comparison.nc"
    assert "comparison.nc" in page.references
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/[^\"]*", "", html))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.open == []


def test_the_files_that_were_compared_are_linked_from_where_the_report_lies(network, tmp_path):
    tree = network(groups=("profile",)).tree()
    comparison = compare([], tree)
    (tmp_path / "report").mkdir()
    for path in (tmp_path / "a b" / "one.nc", tmp_path / "report" / "two.nc"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    files = [tmp_path / "a b" / "one.nc", tmp_path / "report" / "two.nc"]
    path = write_report(tmp_path / "report", comparison, [], tree, [], files=files)
    links = [r for r in Page(path.read_text(encoding="utf-8")).references if not r.startswith("#")]
    assert links == ["two.nc", "../a%20b/one.nc"]


def test_every_figure_is_in_it_with_caption_and_alternative_text(report):
    figures, _, page = report
    assert len(figures) == len(page.images) >= 12
    text = " ".join(" ".join(page.text).split())
    for figure, image in zip(figures, page.images, strict=True):
        assert base64.b64decode(image["src"].partition("base64,")[2]) == figure.path.read_bytes()
        assert image["alt"] == figure.alt != ""
        assert figure.caption in text


def test_the_finding_and_the_captions_say_what_the_data_say(report):
    figures, _, page = report
    text = " ".join(page.text)
    assert "pushes this network off the middle of the path, towards both ends" in text
    assert "disagrees with" in text
    captions = {f.path.stem: f.caption for f in figures}
    assert "disagrees: measured/predicted = 0.4" in captions["network_mean_force_comparison"]
    assert "agrees: measured/predicted = " in captions["sim_mean_force_comparison"]
    assert "groups of 16" in text
    assert "full batch of 1424 samples" in text


def test_other_data_give_other_words(network, tmp_path):
    """The same program on a network without a force: nothing is claimed."""
    weak = network(force_factor=0.0, control_force=0.0, force_noise=1e-4, groups=("profile", "mean_force"))
    figures, path = write(tmp_path, [], weak.tree())
    html = path.read_text(encoding="utf-8")
    assert "not established on both sides" in html
    assert "pushes this network" not in html
    assert "disagrees" in {f.path.stem: f.caption for f in figures}["network_mean_force_comparison"]


def test_nothing_determined_is_said_so(network, tmp_path):
    tree = network(groups=("mean_force",)).tree()
    tree["mean_force"]["diverged"][:] = 1
    _, path = write(tmp_path, [], tree)
    assert (
        "is not determined" in Page(path.read_text(encoding="utf-8")).text[-1] or "not determined" in path.read_text()
    )


def test_a_variable_without_a_number_has_no_figure(network, tmp_path):
    drawn = []
    for lost in (False, True):
        tree = network(groups=("profile",)).tree()
        if lost:
            tree["profile"]["test_error"][:] = float("nan")
        figures, _ = write(tmp_path / str(lost), [], tree)
        drawn.append({figure.path.stem for figure in figures})
    assert drawn[0] - drawn[1] == {"network_profile_test_error"}


def test_text_from_datasets_is_escaped(network, tmp_path):
    tree = network(groups=("profile",)).tree()
    tree.attrs["system"] = "<script>alert(1)</script>"
    tree.attrs["config"] = '{"name": "</pre><img src=x>"}'
    _, path = write(tmp_path, [], tree)
    html = path.read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;" in html
