"""Escape times, quick sample: every row as expected, every wrong law rejected."""

import pytest

from benchmarks.physics import escape


@pytest.mark.parametrize(
    "part", [escape.entropic, escape.fast_modes, escape.energetic, escape.slow_path, escape.shifted_levels]
)
def test_escape_times_are_those_of_theory(part):
    """Relative standard errors 1-5 %. Rejected: a height that does not scale with T, τ independent of T, no entropic
    force, an entropic law for an energy barrier, levels that are not shifted."""
    found = part(quick=True)
    for row in found:
        assert abs(row.z) < 4, row.line()
        if row.rejected is not None:
            assert abs(row.z_rejected) > 5, row.line()
    assert any(row.rejected is not None for row in found)
