"""Heights of barriers, quick sample: every row as expected, every wrong law rejected."""

import pytest

from benchmarks.physics import barrier_dimension


@pytest.mark.parametrize(
    "part", [barrier_dimension.dimension, barrier_dimension.stiffness_ratio, barrier_dimension.temperature]
)
def test_heights_grow_as_theory_says(part):
    """Relative standard errors 0.1-1.2 %. Rejected: half the height, T ln k, ∝ √d, ∝ the stiffness, constant in T."""
    for row in part(quick=True):
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()
