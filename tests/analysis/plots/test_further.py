"""What the report shows of groups that only some runs have."""

from __future__ import annotations

from analysis import plots
from analysis.compare import compare
from entropy_sim import Channel, Escape, Overdamped, Thermal
from entropy_sim.scan import Scan
from tests.analysis.test_barriers import shared


def test_escapes_and_barriers_have_captions_with_their_finding(network):
    escapes = Escape(
        Channel(), Thermal(), Overdamped(step=5e-3), replicas=64, duration=60.0, scan=Scan("temperature", (0.1, 0.3))
    ).run(threads=1)
    tree = network(groups=("path", "profile")).tree()
    tree["barrier"] = shared()
    comparison = compare([("sim", escapes)], tree)
    of_network = {name: caption for name, _, caption, _ in plots.further_figures("network", tree, comparison)}
    assert of_network["vanishing"].startswith("Energetic barrier falls to 0.1 of the first height")
    of_sim = {name: caption for name, _, caption, _ in plots.further_figures("sim", escapes, comparison)}
    assert set(of_sim) == {"escape", "escape_times"}
    assert "of 128 escaped" in of_sim["escape"]
    assert "ln(τ d) has slope" in of_sim["escape_times"].lower()
