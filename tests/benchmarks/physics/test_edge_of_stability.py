"""The divergence of SGD's entropic force, quick sample: every row as predicted, every wrong form rejected."""

import pytest

from benchmarks.physics import edge_of_stability


@pytest.mark.parametrize("name", edge_of_stability.RULES)
def test_the_force_diverges_as_predicted(name):
    """Relative standard errors 0.1-0.3 %. Rejected: the small-step form, the exponent 1/2, another rule's limit."""
    rows = edge_of_stability._rule(name, quick=True)
    assert len(rows) == len(edge_of_stability.SHARES) + 2
    for row in rows:
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()
