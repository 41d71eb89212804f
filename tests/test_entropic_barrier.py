"""The finding on fresh seeds: everything the quick preset shows, with its settings as they are, on other networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.agreement import rows
from analysis.compare import compare
from nn_experiments.run import NetworkRun


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(6, 7), (8, 9)])
def test_the_force_points_to_the_ends_on_fresh_pairs_of_seeds(seeds: tuple[int, int], tmp_path: Path) -> None:
    tree = NetworkRun(seeds=seeds).run(tmp_path)
    assert tree is not None
    assert np.all(1 - tree.attrs["minima_test_error"] >= 0.97)
    criteria = {r.quantity: r for r in rows(compare([], tree)["table"].to_dataset()) if r.kind == "criterion"}
    for name in ("highest loss", "Tr H", "left half", "right half", "their own end", "control stays"):
        assert any(name in quantity for quantity in criteria), name
    assert {r.statement for r in criteria.values() if r.verdict != "met"} == set()
