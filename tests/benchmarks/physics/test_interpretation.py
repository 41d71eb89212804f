"""The three conventions, quick sample: every row as expected, the others rejected."""

import pytest

from benchmarks.physics import interpretation


@pytest.mark.parametrize("part", [interpretation.densities, interpretation.low_rank])
def test_each_convention_is_its_own(part):
    """Standard errors of <s> 0.003, of <x²> 0.005; rejected: the other two conventions."""
    for row in part(quick=True):
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()
