"""Forces of preconditioned updates, quick sample: every row as predicted, every wrong form rejected."""

import pytest

from benchmarks.physics import preconditioned

PARTS = (
    *(preconditioned.thermal_form, preconditioned.invariance, preconditioned.family, preconditioned.density),
    *(preconditioned.adam, preconditioned.adam_outside_its_limit),
)


@pytest.mark.parametrize("part", PARTS)
def test_the_force_is_as_predicted(part):
    """Relative standard errors 0.2-0.5 %. Rejected: plain SGD's form, scaling with the curvature, missing factors."""
    for row in (row for row in part(quick=True) if row.expected is not None):
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()
