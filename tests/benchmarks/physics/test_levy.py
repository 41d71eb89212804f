"""Heavy tails, quick sample: every row as expected, every wrong form rejected."""

import pytest

from benchmarks.physics import levy


@pytest.mark.parametrize("part", [levy.stationary_scales, levy.rates])
def test_scales_and_rates_are_exact(part):
    """Relative standard errors 0.5-3 %. Rejected: increments ∝ √h (or η^(1/α)), Kramers' law, a power law at α = 2."""
    for row in part(quick=True):
        assert abs(row.z) < 4, row.line()
        assert abs(row.z_rejected) > 5, row.line()


def test_the_rate_of_small_noise_is_that_of_single_jumps():
    """The chain's rate over that of jumps beyond the well's edge falls to 1 with the noise."""
    excess = [levy.exact_rate(1.5, sigma, 0.05) / levy.single_jump_rate(1.5, sigma) - 1 for sigma in (0.2, 0.1, 0.05)]
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[2] < 0.1
